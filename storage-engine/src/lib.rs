//! Levada's disk: the shared journal, segments, indexes, checkpoint, recovery and retention.
//!
//! Cores are synchronous and deterministic. They read through [`disk::Disk`], but never write: they hand out
//! [`disk::DiskOp`]s, which a driver performs in order and reports back. Time passes between a write, its sync and
//! its completion, in the simulator as on a machine, so acknowledging before the sync shows as what it is.

pub mod disk;
pub mod driver;
pub mod entry;
pub mod journal;
mod lru;
pub mod metrics;
mod mmap;
pub mod poison;
pub mod sim_disk;
pub mod std_disk;
