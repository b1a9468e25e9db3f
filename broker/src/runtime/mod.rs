//! The drivers: the only clock, the only source of randomness, the only place that starts tasks and threads.
//!
//! Around the node core ([`crate::node`]), which is synchronous and owns no resource, stand:
//!
//! - [`worker`]: the core behind a lock, one queue of events, and a thread for its ticks. A round takes many events, lets
//!   the core work once, and performs what comes out; whoever brings an event does it, if nobody else is at it;
//! - the disk lanes (threads of `storage_engine::driver`), which report to the worker's queue;
//! - [`peers`]: a task for each other node, which carries messages to it;
//! - [`tasks`]: everything else that runs beside, and ends together;
//! - [`budget`]: what bounds the memory of all of them.
//!
//! The rest of the crate gets time, ids and tasks from here. `clippy.toml` sees to it.

pub mod budget;
pub mod clock;
mod lanes;
pub mod peers;
mod random;
mod reads;
pub(crate) mod strangers;
pub mod tasks;
mod ticks;
pub mod worker;

pub(crate) use random::{random_seed, random_uuid};
