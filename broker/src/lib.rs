//! Levada's broker: raft groups, replication, the controller, and the doors that producers and operators come through.
//!
//! The heart is [`node::Node`], a synchronous core that owns every raft group of a node and its storage. Around it
//! stand thin drivers. The broker never compiles Arrow: columns are opaque bytes, checked and converted through an
//! injected [`levada_protocol::codec::PayloadCodec`].
//!
//! Reading order: [`raft`], [`partition`], [`cluster`], [`node`]: the core. Then what drives it: [`runtime`], `net` (the
//! native door), `seams` (the broker behind `protocol`'s traits), [`bootstrap`] and [`server`], which puts all together.

pub mod bootstrap;
mod broker;
pub mod cluster;
pub mod config;
mod follow;
mod forward;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
pub mod logging;
pub mod metrics;
mod net;
pub mod node;
pub mod partition;
pub mod raft;
mod random;
pub mod runtime;
mod seams;
pub mod server;
