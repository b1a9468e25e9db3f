//! Levada's disk: the shared journal, segments, indexes, checkpoint, recovery and retention.
//!
//! Cores are synchronous and deterministic. They read through [`disk::Disk`], but never write: they hand out
//! [`disk::DiskOp`]s, which a driver performs in order and reports back. Time passes between a write, its sync and
//! its completion, in the simulator as on a machine, so acknowledging before the sync shows as what it is.

pub mod atomic_file;
mod checkpoint;
mod codec;
pub mod config;
pub mod disk;
pub mod driver;
pub mod entry;
pub mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod identity;
pub mod journal;
pub mod log;
mod lru;
pub mod metrics;
mod mmap;
mod payload;
pub mod planted;
pub mod poison;
pub mod retention;
mod segment;
pub mod sim_disk;
pub mod std_disk;
pub mod store;
#[cfg(test)]
mod testing;
pub mod volumes;
