//! Consumer groups: who reads what, and how far they have come.
//!
//! Each group belongs to one of 16 *coordinator partitions* ([`coordinator_of`]). Their state ([`state`]) is what their records
//! ([`record`]) say, the same on every replica; their leader decides ([`coordinator`]), by assignors ([`assign`]) that are pure
//! functions. Nothing here reads a clock, draws a number, or knows where records are kept: see ADR 13.

pub mod assign;
pub mod command;
pub mod coordinator;
pub mod limits;
pub mod record;
pub mod state;
pub mod topics;
mod weight;
pub mod wire;

use uuid::Uuid;

/// The coordinator partition that a group belongs to: its name's UUID (version 5, RFC 9562, in the namespace of object
/// identifiers), modulo their number. Whoever asks gets the same, for ever.
#[must_use]
pub fn coordinator_of(group: &str) -> u32 {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, group.as_bytes()).as_u128();
    u32::try_from(id % u128::from(limits::COORDINATORS)).expect("less than their number")
}
