//! Levada's words: everything two processes, or two crates of one process, must agree on.
//!
//! This crate fixes the bytes (record batches, frames, messages, tickets), the numbers (ids, limits, error codes)
//! and the seams (traits) that the other crates meet at. It does no I/O, starts no runtime, and knows no Arrow:
//! a columns batch is opaque here, and is validated and converted through an injected [`codec::PayloadCodec`].
//!
//! Reading order: [`ids`] and [`limits`], then [`batch`] (what a record looks like), [`frame`] and [`messages`]
//! (what crosses a socket), [`error`] (what can go wrong, with stable codes), [`source`] and [`codec`] (the seams).

pub mod ids;
pub mod limits;
