//! Levada's compute: columns as Arrow, and the Flight service.
//!
//! It is written against `protocol`'s seams alone: whatever is a log, a catalog and an authorizer can be served.
//!
//! - [`schema`]: a topic's columns, as a person writes them and as Arrow has them.
//! - `ipc`: Arrow's messages, read without trust and written without copies.
//! - `convert`: records, JSON and stored columns, each into what the other side wants.
//! - [`codec`]: all of that for the broker, which knows no Arrow.
//! - [`flight`]: the service. [`metrics`]: what it counts.

pub mod codec;
mod convert;
pub mod flight;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ipc;
pub mod metrics;
pub mod schema;
