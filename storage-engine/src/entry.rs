//! What storage keeps for a raft group: entries and the hard state.

use bytes::Bytes;
use levada_protocol::ids::{LogIndex, Term};

/// What an entry's payload is. The numbers stand on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing: the first entry of a leader's term.
    Empty = 0,
    /// Record batches, each starting at a multiple of 64 within the payload. The only kind that occupies offsets.
    Batches = 1,
    /// A command to the group's state machine (metadata, segment roll, log start).
    Command = 2,
    /// A change of the group's membership.
    ConfChange = 3,
}

impl EntryKind {
    /// From the number on disk.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Empty),
            1 => Some(Self::Batches),
            2 => Some(Self::Command),
            3 => Some(Self::ConfChange),
            _ => None,
        }
    }
}

/// One raft log entry. Never changes once made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position in the group's log.
    pub index: LogIndex,
    /// The term of the leader that made it.
    pub term: Term,
    /// What the payload is.
    pub kind: EntryKind,
    /// The content.
    pub payload: Bytes,
}

/// What raft must not forget of a group besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// The replica voted for in that term; 0 for none.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: LogIndex,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they stand on disk. A new kind has no arm here.
    fn number(kind: EntryKind) -> u8 {
        match kind {
            EntryKind::Empty => 0,
            EntryKind::Batches => 1,
            EntryKind::Command => 2,
            EntryKind::ConfChange => 3,
        }
    }

    #[test]
    fn the_numbers_are_pinned() {
        let known: Vec<_> = (0..=u8::MAX).filter_map(|value| Some((value, EntryKind::from_u8(value)?))).collect();
        assert_eq!(known.iter().map(|(value, _)| *value).collect::<Vec<_>>(), [0, 1, 2, 3]);
        for (value, kind) in known {
            assert_eq!((number(kind), kind as u8), (value, value), "{kind:?}");
        }
    }
}
