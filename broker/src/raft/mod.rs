//! Raft: how the replicas of one partition agree on its log.
//!
//! The consensus algorithm itself is the `raft` crate (tikv/raft-rs 0.7); this module makes it fit a log engine with
//! one shared journal, and guards what that crate leaves to its user.
//!
//! **The raft log is the data log.** An entry carries record batches that already have their offsets: the leader
//! stamps base offset and leader epoch in the same synchronous call that proposes them, while it is leader. So an
//! entry never changes, replicas write the same bytes, and a follower needs no translation to serve readers.
//!
//! **Order of things.** [`group::Group`] takes what raft makes ready and keeps this order:
//!
//! 1. a leader's messages leave at once: followers write while the leader writes (Raft thesis §10.2.1);
//! 2. new entries become readable in the log's tail and go to the journal with the hard state;
//! 3. a follower's messages (its acknowledgements, its votes) leave only when the journal says that all up to them
//!    is durable;
//! 4. entries are applied when they are committed *and* durable here; produce is acknowledged when they are
//!    committed, because the leader counts itself only once it has persisted.
//!
//! **What is switched on**: pre-vote and check-quorum, so that a replica that was away cannot depose a good leader
//! and a leader without a quorum steps down; ReadIndex for linearizable reads. **What is guarded**: followers never
//! forward proposals (a proposal from a peer is dropped, clients are redirected); election timeouts come from
//! [`timeout`], not from ambient randomness, so that a simulated run can be repeated; messages of peers are decoded
//! by [`wire`] from our own format, never by the protobuf crate that raft links, and looked at by `guard` before raft
//! trusts them.
//!
//! **What is idle sleeps**: see [`hibernation`].

pub(crate) mod alone;
mod answers;
mod config;
pub mod group;
mod guard;
pub mod hibernation;
pub mod membership;
pub mod storage;
pub mod timeout;
pub mod wire;

/// Length of a raft tick in milliseconds.
pub const TICK_MS: u64 = 50;
/// Ticks without a leader before an election: drawn from this up to twice this, so 0.5 to 1 s.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between two heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one append message.
pub const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Append messages under way to one follower.
pub const APPENDS_IN_FLIGHT_MAX: usize = 32;
