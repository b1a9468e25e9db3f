//! The log of one raft group: its segments, and the tail in memory.
//!
//! **One log for raft and for readers.** Entries have an index, and batches within them have offsets; both only ever grow,
//! so the same segments answer raft's questions by index and the readers' by offset or time.
//!
//! **The two parts.** New entries go to the tail (`tail.rs`) and to the journal at once. What is committed *and* durable in
//! the journal goes into the active segment; once it is written there, the tail may let go of it (it keeps a little for
//! followers that are slightly behind, see [`crate::store`]). So everything that raft may still take back is in the tail,
//! and a segment is never cut.
//!
//! **The two sides.** [`Log`] is the handle for reading: cheap to clone, used by raft and by readers on any thread.
//! `LogWriter` (`writer.rs`) is its one writer and belongs to the store. A reader holds the lock only to find out where to
//! look; bytes are looked at outside of it, and checked, on every read.
//!
//! **Removal.** The log start moves up; segments wholly below it leave the log at once, and their files go when a
//! checkpoint that does not name them is durable. Readers that hold mapped bytes of them keep these.
//! Raft's first index is that of the first segment that is left, so it follows the log start in steps.

mod read;
pub(crate) mod suspects;
mod tail;
mod terms;
pub(crate) mod writer;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Offset, Term, TopicPartition};
use suspects::Suspects;
use tail::Tail;
pub(crate) use tail::entry_bytes;
use terms::TermRuns;

use crate::{
    disk::Disk,
    error::EntriesError,
    segment::{Mark, reader::Segment},
    store::SegmentSpec,
};

/// A log, for reading. Clones are handles to the same log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    group: GroupId,
    topic_partition: TopicPartition,
    suspects: Arc<Suspects>,
    state: Mutex<State>,
}

/// Invariants:
/// - segments continue each other, and only the last may be unsealed;
/// - the tail starts at or below where the last segment is written up to: nothing lies between;
/// - `terms` covers every entry of segments and tail;
/// - `log_start` is not below the first segment's base offset, nor above the next offset.
#[derive(Debug)]
struct State {
    segments: VecDeque<Arc<Segment>>,
    tail: Tail,
    terms: TermRuns,
    log_start: Offset,
}

/// What a read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// Whole batches. The first may begin below the offset that was asked for.
    pub batches: Vec<Bytes>,
    /// Where to read on.
    pub next_offset: Offset,
}

/// A log in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStats {
    /// The first entry that raft can read.
    pub first_index: LogIndex,
    /// The last entry.
    pub last_index: LogIndex,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The offset after the last, committed or not.
    pub next_offset: Offset,
    /// Segments.
    pub segments: usize,
    /// Bytes of all segments.
    pub segment_bytes: u64,
    /// Bytes of the segment that is written, 0 when there is none: a leader rolls it by this.
    pub active_bytes: u64,
}

/// A segment in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentStats {
    /// Its first entry.
    pub first_index: LogIndex,
    /// The entry after its last.
    pub next_index: LogIndex,
    /// The offset it starts at.
    pub base_offset: Offset,
    /// The offset after its last.
    pub next_offset: Offset,
    /// Its length, without the footer.
    pub bytes: u64,
    /// The highest timestamp of its batches; `None` without batches.
    pub max_timestamp_ms: Option<i64>,
    /// Whether it is complete.
    pub sealed: bool,
}

impl Log {
    /// The raft group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.shared.group
    }

    /// Whose log it is.
    #[must_use]
    pub fn topic_partition(&self) -> TopicPartition {
        self.shared.topic_partition
    }

    /// The first entry that raft can read.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.state().terms.before().0.next()
    }

    /// The last entry; one below the first index when there is none.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.state().terms.last()
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.state().log_start
    }

    /// The offset after the last, committed or not.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.state().tail.next_offset()
    }

    /// The term of an entry, or of the one before the first.
    ///
    /// # Errors
    /// If the entry was removed or is not there yet.
    pub fn term(&self, index: LogIndex) -> Result<Term, EntriesError> {
        let state = self.state();
        state.terms.get(index).ok_or_else(|| {
            if index < state.terms.before().0 {
                EntriesError::Compacted { first_index: state.terms.before().0.next() }
            } else {
                EntriesError::Unavailable { last_index: state.terms.last() }
            }
        })
    }

    /// The offset that follows an entry, if the entry is in memory or ends a segment (as the one does that a checkpoint
    /// calls applied).
    #[must_use]
    pub fn offset_after(&self, index: LogIndex) -> Option<Offset> {
        let state = self.state();
        if let Some(entry) = state.tail.get(index) {
            return Some(entry.summary.next_offset);
        }
        if index.next() == state.tail.first_index() {
            return Some(state.tail.base_offset());
        }
        let ends = state.segments.iter().rev().map(|segment| segment.end());
        ends.into_iter().find(|end| end.index == index.next()).map(|end| end.offset)
    }

    /// The log in numbers.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let state = self.state();
        let ends = state.segments.iter().map(|segment| (segment.end().position, segment.is_sealed()));
        let (segment_bytes, active_bytes) =
            ends.fold((0, 0), |(all, _), (bytes, sealed)| (all + bytes, if sealed { 0 } else { bytes }));
        LogStats {
            first_index: state.terms.before().0.next(),
            last_index: state.terms.last(),
            log_start: state.log_start,
            next_offset: state.tail.next_offset(),
            segments: state.segments.len(),
            segment_bytes,
            active_bytes,
        }
    }

    /// The segments in numbers, from the oldest.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentStats> {
        let state = self.state();
        let stats = state.segments.iter().map(|segment| {
            let (header, end) = (segment.header(), segment.end());
            SegmentStats {
                first_index: header.first_index,
                next_index: end.index,
                base_offset: header.base_offset,
                next_offset: end.offset,
                bytes: end.position,
                max_timestamp_ms: (end.max_timestamp_ms > i64::MIN).then_some(end.max_timestamp_ms),
                sealed: segment.is_sealed(),
            }
        });
        stats.collect()
    }

    /// A segment by its first entry.
    pub(crate) fn segment(&self, first_index: LogIndex) -> Option<SegmentSpec> {
        let state = self.state();
        let at = state.segments.binary_search_by_key(&first_index, |segment| segment.header().first_index).ok()?;
        state.segments.get(at).map(|segment| SegmentSpec::of(segment))
    }

    /// The first segment that begins at `from` or behind; one that is not sealed as far as `end`.
    pub(crate) fn next_segment(&self, from: LogIndex, end: Option<Mark>) -> Option<SegmentSpec> {
        let state = self.state();
        let at = state.segments.partition_point(|segment| segment.header().first_index < from);
        let spec = SegmentSpec::of(state.segments.get(at)?);
        spec.up_to(end)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
