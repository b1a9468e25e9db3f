//! What the `raft` crate reads of a group: the log's tail and segments, behind its `Storage` trait.

use std::cell::Cell;

use levada_protocol::ids::LogIndex;
use levada_storage_engine::{entry::HardState, error::EntriesError, log::Log};
use raft::{
    GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{self, ConfState},
};

use super::wire::raft_entry;

/// A group's log as raft sees it, with the state it starts from.
#[derive(Debug)]
pub struct GroupStorage {
    log: Log,
    initial: RaftState,
    /// The first entry of the damage that was met last.
    damaged: Cell<Option<LogIndex>>,
}

impl GroupStorage {
    /// Over a log, with the hard state and membership that were recovered (or are the first).
    #[must_use]
    pub fn new(log: Log, hard_state: HardState, conf_state: ConfState) -> Self {
        Self { log, initial: RaftState::new(hard_state_to_raft(hard_state), conf_state), damaged: Cell::new(None) }
    }
}

/// A hard state as raft has it.
#[must_use]
pub fn hard_state_to_raft(ours: HardState) -> eraftpb::HardState {
    let mut hard_state = eraftpb::HardState::default();
    hard_state.set_term(ours.term.get());
    hard_state.set_vote(ours.vote);
    hard_state.set_commit(ours.commit.get());
    hard_state
}

/// A hard state as storage has it.
#[must_use]
pub fn hard_state_from_raft(theirs: &eraftpb::HardState) -> HardState {
    HardState { term: theirs.get_term().into(), vote: theirs.get_vote(), commit: theirs.get_commit().into() }
}

impl GroupStorage {
    /// The first entry that raft asked for in vain, because its segment is damaged.
    pub(super) const fn damaged(&self) -> Option<LogIndex> {
        self.damaged.get()
    }

    fn error(&self, error: EntriesError) -> raft::Error {
        raft::Error::Store(match error {
            EntriesError::Compacted { .. } => StorageError::Compacted,
            EntriesError::Unavailable { .. } => StorageError::Unavailable,
            // Raft ends the process on any other error. With this one it sends nothing and asks again later: the follower
            // waits, or gets the entries from a leader whose segment is sound.
            EntriesError::Damaged(damage) => {
                if self.damaged.replace(Some(damage.index)) != Some(damage.index) {
                    tracing::error!(%damage, "segment.damaged: entries cannot be sent to a follower");
                }
                StorageError::LogTemporarilyUnavailable
            }
        })
    }
}

impl Storage for GroupStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let max_bytes = max_size.into().map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let entries = self.log.entries(low.into(), high.into(), max_bytes).map_err(|error| self.error(error))?;
        Ok(entries.into_iter().map(|e| raft_entry(e.index.get(), e.term.get(), e.kind, e.payload)).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.log.term(index.into()).map(|term| term.get()).map_err(|error| self.error(error))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.first_index().get())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index().get())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        // A replica that needs what no log has any more is replaced by another, which copies segments (node/copying.rs).
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
