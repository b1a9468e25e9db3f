//! Levada's compute: columns as Arrow, and the Flight service.

mod convert;
pub mod ipc;
pub mod schema;
