//! The native door: frames over TCP, many requests of one connection under way at once.
//!
//! ```text
//! listener ─> connection ┬ reads: head ─> budget ─> body ─> dispatch ┬ in order: produce ─> worker
//!                        │                                           └ beside: everything else
//!                        └ writes: outbox <─ answers, in the order in which they are ready
//! ```
//! A connection is one task, and ends as a whole. What bounds it: a frame is read only when its bytes fit the
//! connection's budget and everybody's; a request under way holds a place until its answer is written; so who does not
//! read answers is not read from. A frame that breaks the rules is answered with an error and the connection is closed.
//!
//! Who does nothing makes room for others: the oldest of those that have not shaken hands (`listener`), the one that has been
//! idle longest when there is no place for another (`connection`), and whoever sends no more of its frame, or takes no more of
//! its answers, when others wait for the bytes that it holds (`patience`).
//!
//! Connections of other nodes are the same, but for raft frames, which are paid from a budget of the connection alone:
//! requests of clients complete only if raft goes on.

pub(crate) mod admin;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod dial;
pub(crate) mod dispatch;
pub(crate) mod door;
pub(crate) mod fetch;
pub(crate) mod frames;
mod group_wire;
pub(crate) mod groups;
pub(crate) mod listener;
pub(crate) mod metadata;
pub(crate) mod nodes;
pub(crate) mod outbox;
pub(crate) mod patience;
pub(crate) mod produce;
pub(crate) mod recovery;
pub(crate) mod responder;
pub(crate) mod room;
pub(crate) mod status;
#[cfg(test)]
mod tests;
pub(crate) mod told;
pub(crate) mod way;
pub(crate) mod write;
