//! End-to-end tests over the built binary and the public clients.

pub mod disks;
