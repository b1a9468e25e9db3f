//! The broker behind `protocol`'s seams: what the Flight service and everything above it are written against.
//!
//! Unlike the native door, which redirects, a seam finds the node that can answer: reads come from the replica here, and
//! what only a leader or the controller can do goes there.

mod catalog;
mod sink;
mod source;
