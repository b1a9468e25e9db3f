//! End-to-end tests over the built binary and the public clients.

pub mod clock;
pub mod crowd;
pub mod debian;
pub mod dev;
pub mod disks;
pub mod flips;
pub mod groups;
pub mod http;
pub mod injection;
pub mod ledger;
pub mod nodes;
pub mod prometheus;
pub mod rot;
pub mod tools;
pub mod waiting;
