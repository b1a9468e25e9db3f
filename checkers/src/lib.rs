//! What clients did and were told, and what must be true of it.
//!
//! A [`history`] is a list of events in the order of real time: a client process begins an operation, and later hears that it was
//! done (`ok`), that it certainly was not (`fail`), or nothing certain (`info`). The harness records one from real processes;
//! a test writes one by hand. A checker reads it and says what cannot be ([`verdict`]):
//!
//! - [`log`]: nothing that was told of a log is taken back;
//! - [`register`]: every operation on a register takes effect at one moment;
//! - [`liveness`]: without faults, everything goes on in time and every operation ends;
//! - [`stats`]: how much happened, how fast, and whether that is enough to say anything.
//!
//! [`shrink`] leaves of a history what a person must read to see an anomaly.
//!
//! The names of anomalies are those of Jepsen's Kafka workload where it has one. Nothing here knows Levada, does I/O but for the
//! [`history::file`], or reads a clock.

pub mod history;
pub mod liveness;
pub mod log;
pub mod register;
pub mod shrink;
pub mod stats;
#[cfg(test)]
mod testing;
pub mod verdict;
