//! Levada's words: everything two processes, or two crates of one process, must agree on.
//!
//! This crate fixes the bytes (record batches, frames, messages, tickets), the numbers (ids, limits, error codes)
//! and the seams (traits) that the other crates meet at. It does no I/O, starts no runtime, and knows no Arrow:
//! a columns batch is opaque here, and is validated and converted through an injected [`codec::PayloadCodec`].
//!
//! Reading order: [`ids`] and [`limits`], then [`batch`] (what a record looks like), [`frame`] and [`messages`]
//! (what crosses a socket), [`error`] (what can go wrong, with stable codes), [`topic`] (names and settings),
//! [`source`], [`codec`] and [`context`] (the seams), [`ticket`] (what a Flight reader asks for), [`metric`] (what the other
//! crates' numbers are described with), [`trace`] (which requests are followed across processes).

pub mod batch;
pub mod codec;
pub mod context;
pub mod error;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod ids;
pub mod limits;
pub mod messages;
pub mod metric;
pub mod partitioner;
pub mod source;
pub mod ticket;
pub mod topic;
pub mod trace;
