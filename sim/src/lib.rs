//! A whole cluster on one thread: real cores, simulated disks, network, clock and clients.
//!
//! A [`world::World`] holds as many nodes as one likes. Each is the very [`levada_broker::node::Node`] that runs in
//! production, over a [`levada_storage_engine::sim_disk::SimDisk`] instead of a real one. The node is a synchronous
//! state machine: events go in, effects come out. Here the effects are not performed by threads but become
//! happenings in a queue that is ordered by virtual time, so that hours pass in seconds, every interleaving can be
//! had, and a run follows from its seed: the same seed tells the same [`story`], to the last byte ([`twice`]).
//!
//! **What goes wrong** ([`faults`], [`network`], [`disks`]): power cuts of one, some or all machines, at any moment
//! and also aimed at single disk operations, with what was not synced kept, lost or garbled; killed, restarted and
//! paused processes; failing and slow disks; messages late, lost, doubled and out of order; partitions, also one-way
//! ones; clocks that differ. Clients give up, ask the wrong node, and forget who they were.
//!
//! **What must hold** ([`checker`]): everything that a client was ever told stays true. In the end all faults cease
//! and everything that was begun must come to its end in bounded time; then the power goes once more for all, and the
//! replicas are compared with each other and with all that was said.
//!
//! **Why it can be believed**: the checker is tested with histories made by hand, and a world can be told to lie
//! ([`options::Lie`]) about syncs, completions, reads and bounds; the tests demand that each lie is found out. And with the
//! feature `planted` the product itself has bugs, one at a time, each of which must be found (`selftest`).
//!
//! **What it does not forgive**: that a cluster mends itself. Where nothing harmed a disk, nothing on it may be damaged or in
//! doubt, however soon other nodes make up for it.
//!
//! Reading order: [`world`], [`process`], [`disks`], [`network`], [`clients`], [`faults`], [`checker`],
//! [`scenarios`].

pub mod batches;
pub mod checker;
pub mod clients;
pub mod dice;
pub mod disks;
pub mod faults;
pub mod journal;
pub mod network;
pub mod options;
pub mod process;
pub mod queue;
pub mod scenarios;
#[cfg(feature = "planted")]
pub mod selftest;
pub mod story;
pub mod twice;
pub mod world;
