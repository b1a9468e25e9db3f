//! The protobuf messages, generated from `src/proto/*.proto`.
//!
//! A reader of a socket decodes them from at most [`crate::limits::FRAME_HEADER_BYTES_MAX`] bytes.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated; the .proto files are the documentation")]

/// What clients and nodes say to each other.
pub mod native {
    include!(concat!(env!("OUT_DIR"), "/levada.native.v1.rs"));
}
/// What nodes of a cluster say to each other.
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/levada.peer.v1.rs"));
}
/// The state of the metadata group and of partitions, as logs and checkpoints keep it.
pub mod metadata {
    include!(concat!(env!("OUT_DIR"), "/levada.metadata.v1.rs"));
}
/// What a Flight ticket says.
pub mod ticket {
    include!(concat!(env!("OUT_DIR"), "/levada.ticket.v1.rs"));
}
/// What coordinators of consumer groups keep: their records, and the state that follows from them.
pub mod groups {
    include!(concat!(env!("OUT_DIR"), "/levada.groups.v1.rs"));
}
