//! What can go wrong with bytes that storage holds: an enum for each operation.

use std::ops::Range;

use levada_protocol::{
    batch::BatchError,
    ids::{LogIndex, Offset},
};

use crate::{
    disk::{DiskError, FileName},
    identity::DirIdentity,
    journal::ReplayError,
    poison::Poisoned,
};

/// Why bytes on disk cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DamageCause {
    /// The file ends before what it must hold, or a field points beyond its container.
    #[error("{0} is cut short")]
    Short(&'static str),
    /// The bytes are not the start of what must stand there.
    #[error("no {0} stands there")]
    Magic(&'static str),
    /// The format version is not known to this build.
    #[error("{what} is in format {version}, which this build does not know")]
    Version {
        /// Of what.
        what: &'static str,
        /// The version found.
        version: u8,
    },
    /// A field has a value that it cannot have.
    #[error("{field} is {value}, which cannot be")]
    Field {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The bytes are sound but belong elsewhere: misdirected, stale or swapped.
    #[error("{field} is {found} where {expected} belongs: the bytes are of another place or time")]
    Foreign {
        /// The field that says so.
        field: &'static str,
        /// What belongs there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A checksum does not match.
    #[error("{what} has checksum {computed:#010x}, not {stored:#010x} as it says")]
    Checksum {
        /// Of what.
        what: &'static str,
        /// What is written beside it.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The file of a segment is sound in itself, and of the same entries, but it is not the one that this replica has: its
    /// index frames differ, or those of a segment before it do, and with them the chain of CRCs.
    #[error("the segment's file is sound in itself, but another one than this replica's")]
    Diverged,
    /// A record batch is not sound.
    #[error("a batch is damaged: {0}")]
    Batch(#[from] BatchError),
    /// The disk does not give the bytes back.
    #[error("it cannot be read: {0}")]
    Disk(String),
    /// No damage: there was no memory, map or descriptor to look with.
    #[error("it cannot be read now: {0}")]
    Want(String),
}

impl DamageCause {
    /// Whether nothing is known of the bytes, since they could not be looked at.
    #[must_use]
    pub const fn is_want(&self) -> bool {
        matches!(self, Self::Want(_))
    }
}

impl From<DiskError> for DamageCause {
    fn from(error: DiskError) -> Self {
        if error.is_want() { Self::Want(error.to_string()) } else { Self::Disk(error.to_string()) }
    }
}

impl From<AppendError> for DamageCause {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Malformed { cause, .. } => Self::Batch(cause),
            AppendError::Offsets { expected, found, .. } => Self::Foreign {
                field: "a batch's base offset",
                expected: expected.to_string(),
                found: found.to_string(),
            },
            AppendError::TooLarge { bytes, .. } => Self::Field { field: "an entry's length", value: bytes as u64 },
        }
    }
}

/// A range of a segment that cannot be served from this disk; a healthy replica has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {position} ({}): {cause}", in_words(offsets))]
pub struct Damage {
    /// The file.
    pub file: FileName,
    /// Where in the file the damage was met.
    pub position: u64,
    /// The first raft index that cannot be served.
    pub index: LogIndex,
    /// The offsets that may be affected.
    pub offsets: Range<Offset>,
    /// What is wrong.
    pub cause: DamageCause,
}

/// Offsets as a person reads them, the last one included.
fn in_words(offsets: &Range<Offset>) -> String {
    match offsets.end.get().checked_sub(1) {
        Some(last) if last >= offsets.start.get() => format!("offsets {} to {last}", offsets.start),
        _ => "no offsets".to_owned(),
    }
}

/// Why a read gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such offset (any more).
    #[error("offset is out of range: the log goes from {log_start} to {end}")]
    OffsetOutOfRange {
        /// The first offset that can be read.
        log_start: Offset,
        /// The offset after the last.
        end: Offset,
    },
    /// The bytes are damaged. Nothing of them was served.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// They could not be looked at for want of memory or descriptors. That may pass.
    #[error("{file}: {cause}", file = .0.file, cause = .0.cause)]
    NotNow(Box<Damage>),
}

impl From<Box<Damage>> for ReadError {
    fn from(damage: Box<Damage>) -> Self {
        if damage.cause.is_want() { Self::NotNow(damage) } else { Self::Damaged(damage) }
    }
}

/// Why entries could not be given to raft.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntriesError {
    /// They were removed.
    #[error("entries start at index {first_index}")]
    Compacted {
        /// The first that is there.
        first_index: LogIndex,
    },
    /// They are not there yet.
    #[error("entries end at index {last_index}")]
    Unavailable {
        /// The last that is there.
        last_index: LogIndex,
    },
    /// The bytes are damaged.
    #[error(transparent)]
    Damaged(Box<Damage>),
    /// They could not be looked at for want of memory or descriptors. That may pass.
    #[error("{file}: {cause}", file = .0.file, cause = .0.cause)]
    NotNow(Box<Damage>),
}

impl From<Box<Damage>> for EntriesError {
    fn from(damage: Box<Damage>) -> Self {
        if damage.cause.is_want() { Self::NotNow(damage) } else { Self::Damaged(damage) }
    }
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It was never formatted.
    #[error("the data directory was never formatted")]
    NotFormatted,
    /// It holds something, and nothing says whose it is.
    #[error(
        "the data directory is not empty, and has no file `{missing}`, which says whose it is. Nothing was changed: bring \
         that file back, or move everything away, or give the node another directory"
    )]
    NotEmpty {
        /// The file.
        missing: &'static str,
    },
    /// It belongs to somebody else.
    #[error("the data directory is that of {found:?}, not of {expected:?}")]
    OtherDirectory {
        /// Who opens it.
        expected: Box<DirIdentity>,
        /// Whose it is.
        found: Box<DirIdentity>,
    },
    /// A file is of a release that has another format.
    #[error(
        "{cause} ({file}). Nothing was changed: start a build that reads it, such as the release that wrote this directory \
         or a later one"
    )]
    OtherFormat {
        /// The file.
        file: FileName,
        /// Which format it has.
        cause: DamageCause,
    },
    /// A file without which nothing can be known is damaged.
    #[error(
        "{file} is damaged: {cause}. What this directory holds cannot be known. Nothing was changed: keep it for whoever looks into it, \
         and let an empty one take its place, which gets all replicas from the other nodes (`levada cluster replace N`). \
         In a cluster of one node, bring the directory back from a copy"
    )]
    Damaged {
        /// The file.
        file: FileName,
        /// What is wrong.
        cause: DamageCause,
    },
    /// The journal cannot be replayed.
    #[error(transparent)]
    Journal(#[from] ReplayError),
    /// The disk failed while the journal's end was made durable.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// Why an entry was not taken. Nothing of the append was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A payload of batches that are not such.
    #[error("entry {index} does not hold record batches: {cause}")]
    Malformed {
        /// The entry.
        index: LogIndex,
        /// What is wrong.
        cause: BatchError,
    },
    /// A batch that does not continue the offsets of the log.
    #[error("entry {index} has a batch at offset {found} where {expected} follows")]
    Offsets {
        /// The entry.
        index: LogIndex,
        /// The offset that follows.
        expected: Offset,
        /// The offset it has.
        found: Offset,
    },
    /// A payload larger than any may be.
    #[error("entry {index} has {bytes} bytes of payload, more than {max}")]
    TooLarge {
        /// The entry.
        index: LogIndex,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}
