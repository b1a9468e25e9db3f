//! Levada's compute: columns as Arrow, and the Flight service.

pub mod codec;
mod convert;
pub mod ipc;
pub mod schema;
