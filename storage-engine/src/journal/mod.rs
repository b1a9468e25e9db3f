//! The journal: the one log of a data directory that every raft group shares, and the only thing an acknowledgement
//! waits for.
//!
//! # What it promises
//!
//! What [`JournalWriter::complete`] reports as durable is replayed after any crash, in order, unless a disk loses bytes
//! that it called durable; and then [`Replay`] says so ([`Doubt`]) instead of leaving it out in silence. What it did not
//! report may be there or not: a block is replayed whole or not at all, and never without the blocks before it.
//!
//! # Blocks
//!
//! One group commit is one *block* (`format` draws it): the entries and hard states that all groups submitted since the
//! last one, gathered into one write and one sync. A block starts on a page of its own, so a block that is durable is
//! never touched again. Blocks are numbered: the *lsn* rises by one over all files. Every header says up to which lsn the
//! journal was durable when the block was written (`synced_lsn`).
//!
//! **One block is in flight at a time.** While it is synced, the next one gathers: group commit without a timer, and
//! without waiting when there is nothing to wait for. It also is what makes replay simple: a block that exists proves
//! that the one before it was durable, so whatever happened, at most one block, the last, is unproven.
//!
//! # Files
//!
//! Files have a fixed size, are written with zeros once and then used again and again, because overwriting written
//! blocks is what disks do best. Each use of a file has a *generation*, one higher than any before; a header names
//! it, the file and the position, so nothing stale or misplaced passes for a block. A block lies within one file. The
//! file for the next use is made ready ahead of time ([`JournalWriter::poll_upkeep`]), by another lane.
//!
//! # Replay
//!
//! Replay looks at every page of every file for sound headers, and takes `proven`, the highest `synced_lsn` among them
//! (or what the checkpoint knows). Then for every lsn from the checkpoint on:
//!
//! * up to `proven`, a block must be there. One that is missing or damaged was durable once: its groups are in doubt,
//!   or all groups when its header is gone too.
//! * The block `proven + 1` is the *tail*. If it is whole it counts, acknowledged or not. If it is torn it never was
//!   acknowledged (or the disk lost the very last write, which nobody can tell from a torn one) and is cut.
//! * There is no block beyond.
//!
//! The writer goes on with lsn `proven + 1`, always in a fresh file under a fresh generation, never behind what it found.
//! A tail that is whole may stand in the page cache only (the process was killed, or its sync had failed and the
//! kernel called the pages clean), so **the tail is written again**, under its own lsn, before anyone builds on it
//! ([`JournalWriter::settle`]). Until that is durable the old one counts.
//!
//! Several blocks may thus carry one lsn. Every header names the first lsn of its generation (`first_lsn`), and for an
//! lsn that is proven only the highest generation that started at or before it counts: what it replaced is void, even
//! where the replacement is damaged. For the tail the highest generation that has it whole counts.
//!
//! What could deceive this, and does not:
//!
//! * *Old blocks in a file used again*: their lsns lie below the checkpoint or below a later generation's first.
//! * *Old frames under a new header* (only the header of a block reached the disk): the header carries a checksum of
//!   all frame headers, and they of their payloads.
//! * *A crash while a file is made ready, or before its first block*: it has no block that counts, and is used afresh.
//!   A file counts as ready only when its name is durable.
//! * *Misplaced blocks*: the header names file and position. What it proves still holds.
//! * *Blocks of another directory*: the header names the journal, see [`JournalId`].
//! * *Records that look like blocks*, where a newer block ends within what a file held before: the journal's id is a
//!   secret, so nobody can make one.
//! * *A write that a disk lost*, later ones being there: every page is looked at, so the later ones are seen.
//! * *The file that was written last is cut*: the headers say how long it was, and it was made as long before its first
//!   block. All groups are in doubt, whether or not the end held anything. When no block of it is left, or the file is gone,
//!   nothing tells; other replicas have what it held.
//! * *A sector that cannot be read* where the next block might stand is no torn write: all groups are in doubt.
//!
//! A writer that goes idle writes one empty block ([`JournalWriter::tick`]), so that the last one that carries something
//! is proven. What a disk loses of the last block before that tick goes unnoticed; other replicas have it.
//!
//! # Failure
//!
//! A failed write or sync ends the journal ([`Poisoned`](crate::poison::Poisoned)): nothing is tried again, nothing more
//! is reported durable. A full disk only keeps new files from being made ready; the ones there go on being used.

mod block;
mod files;
mod format;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod plan;
mod replay;
mod survey;
mod writer;

use std::fmt;

use levada_protocol::{
    ids::{GroupId, LogIndex, Lsn, Term},
    limits::{ENTRY_BYTES_MAX, JOURNAL_BLOCK_BYTES_MAX, MIB},
};

pub(crate) use self::{format::PAGE_BYTES, survey::lacking};
pub use self::{
    replay::{DamagedBlock, Doubt, JournalEnd, Replay, ReplayError, ReplayStart, ReplayedBlock},
    writer::JournalWriter,
};
use crate::{
    disk::DiskOp,
    entry::{Entry, HardState},
};

/// Where the files stand, below the data directory.
pub const JOURNAL_DIR: &str = "journal";

/// Which journal a block belongs to: a secret of the data directory, drawn when it is formatted.
///
/// Payloads stand in journal files as clients sent them, and every page is looked at for blocks. Who knew the id could
/// send a record that replay takes for blocks, on every replica. So it stands in the file `identity` and in block headers
/// only; it is never sent, shown or logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JournalId([u8; 16]);

impl JournalId {
    /// From what a random source gave.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JournalId(secret)")
    }
}

/// Sizes of the journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalConfig {
    /// The length of a file. Files of another length are replayed, then made anew.
    pub file_bytes: u64,
    /// How many files are kept, used or free; more are made when needed, and removed when free again.
    pub files_keep: usize,
    /// A block gathers up to this much; a larger entry gets a block of its own.
    pub gather_bytes: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self { file_bytes: 64 * MIB as u64, files_keep: 8, gather_bytes: 8 * MIB }
    }
}

impl JournalConfig {
    /// The largest payload of an entry that a block can hold.
    #[must_use]
    pub fn entry_bytes_max(&self) -> usize {
        let block_bytes = usize::try_from(self.file_bytes).unwrap_or(usize::MAX).min(JOURNAL_BLOCK_BYTES_MAX);
        block_bytes.saturating_sub(format::block_bytes(1, 1, 0)).min(ENTRY_BYTES_MAX)
    }
}

/// What a group wants to be made durable: entries, a hard state, or both.
///
/// The hard state becomes durable with the last of the entries, never before them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The group.
    pub group: GroupId,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// Its hard state, when it changed.
    pub hard_state: Option<HardState>,
}

/// Operations for the driver, to be answered under their token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalIo {
    /// Names the answer.
    pub token: u64,
    /// To be performed in order, up to the first that fails.
    pub ops: Vec<DiskOp>,
}

/// What a block made durable for one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The group.
    pub group: GroupId,
    /// Index and term of its last entry in the block, if it has any.
    pub last: Option<(LogIndex, Term)>,
    /// The hard state that the block holds.
    pub hard_state: Option<HardState>,
    /// How many appends of the group are durable as a whole with this block, in the order they were submitted.
    pub appends: usize,
}

/// A block that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Its number.
    pub lsn: Lsn,
    /// What it holds, by group.
    pub durable: Vec<Durable>,
}

const _: () = assert!(64 * MIB >= JOURNAL_BLOCK_BYTES_MAX, "the default file holds the largest block");
