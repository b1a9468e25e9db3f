//! What the cluster agrees on about itself: group 0's state machine, and where replicas go.

pub mod addresses;
pub mod balance;
pub mod feature;
pub mod health;
pub mod metadata;
pub(crate) mod newcomers;
pub mod placement;
pub mod recovery;
pub(crate) mod topics;
pub mod view;
