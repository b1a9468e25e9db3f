//! Reading a log: by offset and time for consumers, by index for raft.

use std::sync::Arc;

use bytes::Bytes;
use levada_protocol::ids::{LogIndex, Offset};

use super::{Log, LogRead, State, tail};
use crate::{
    entry::Entry,
    error::{Damage, EntriesError, ReadError},
    segment::reader::Segment,
};

/// Where the bytes are.
enum Source {
    Segment(Arc<Segment>),
    Tail(Vec<Bytes>),
}

impl Log {
    /// Batches from the one that contains `offset`, up to `max_bytes` but at least one, of those that end before
    /// `max_offset` (the high watermark, as the caller knows it). Empty when there is none. A read does not go beyond the
    /// end of a segment: read on at `next_offset`.
    ///
    /// Blocks while the disk reads. Every checksum of what comes from a segment was verified.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn read(&self, offset: Offset, max_bytes: usize, max_offset: Offset) -> Result<LogRead, ReadError> {
        let nothing = LogRead { batches: Vec::new(), next_offset: offset };
        let source = {
            let state = self.state();
            state.check(offset)?;
            if offset >= max_offset.min(state.tail.next_offset()) {
                return Ok(nothing);
            }
            if offset >= state.tail.base_offset() {
                Source::Tail(state.tail.payloads(offset, max_bytes))
            } else {
                Source::Segment(state.segment_of(offset)?)
            }
        };
        let read = match source {
            Source::Tail(payloads) => tail::pick(&payloads, offset, max_bytes, max_offset),
            Source::Segment(segment) => {
                let read = segment.read(&*self.shared.disk, offset, max_bytes, max_offset);
                self.note_damage(&segment);
                read.map_err(|damage| self.read_error(offset, damage))?
            }
        };
        Ok(LogRead { batches: read.batches, next_offset: read.next_offset })
    }

    /// The base offset of the first batch that has a timestamp of at least `timestamp_ms`, among those that end before
    /// `max_offset` and not before the log start.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if the place where it may be cannot be read.
    pub fn offset_for_time(&self, timestamp_ms: i64, max_offset: Offset) -> Result<Option<Offset>, ReadError> {
        let (segments, in_tail, log_start) = {
            let state = self.state();
            let late = |segment: &&Arc<Segment>| segment.end().max_timestamp_ms >= timestamp_ms;
            let segments: Vec<_> = state.segments.iter().filter(late).cloned().collect();
            (segments, state.tail.offset_for_time(timestamp_ms, state.log_start, max_offset), state.log_start)
        };
        for segment in segments {
            let found = segment.offset_for_time(&*self.shared.disk, timestamp_ms, log_start, max_offset);
            self.note_damage(&segment);
            match found {
                Ok(Some(offset)) => return Ok(Some(offset.max(self.state().log_start))),
                Ok(None) => {}
                // Its file was removed meanwhile: what was in it is no answer any more, and what follows is.
                Err(_) if !self.state().segments.iter().any(|there| Arc::ptr_eq(there, &segment)) => {}
                Err(damage) => return Err(ReadError::Damaged(damage)),
            }
        }
        Ok(in_tail.map(|offset| offset.max(self.state().log_start)))
    }

    /// Entries from `low` up to but not including `high`, up to `max_bytes` of payload but at least one. May give fewer:
    /// a read does not go beyond the end of a segment.
    ///
    /// # Errors
    /// If `low` was removed, an entry below `high` is not there yet, or the bytes are damaged.
    pub fn entries(&self, low: LogIndex, high: LogIndex, max_bytes: usize) -> Result<Vec<Entry>, EntriesError> {
        let segment = {
            let state = self.state();
            let (first_index, last_index) = (state.terms.before().0.next(), state.terms.last());
            if low < first_index {
                return Err(EntriesError::Compacted { first_index });
            }
            if high > last_index.next() {
                return Err(EntriesError::Unavailable { last_index });
            }
            if low >= state.tail.first_index() {
                let mut bytes = 0;
                let entries = state.tail.from(low).map(|entry| &entry.entry).take_while(|entry| {
                    bytes += entry.payload.len();
                    entry.index < high && (entry.index == low || bytes <= max_bytes)
                });
                return Ok(entries.cloned().collect());
            }
            let at = state.segments.partition_point(|segment| segment.header().first_index <= low);
            at.checked_sub(1).and_then(|at| state.segments.get(at)).cloned()
        };
        let segment = segment.ok_or_else(|| EntriesError::Compacted { first_index: self.first_index() })?;
        let entries = segment.entries(&*self.shared.disk, low, high, max_bytes);
        self.note_damage(&segment);
        entries.map_err(|damage| {
            let first_index = self.first_index();
            if low < first_index { EntriesError::Compacted { first_index } } else { EntriesError::Damaged(damage) }
        })
    }

    /// If a segment turned out to be damaged, that is written down for whoever repairs it.
    pub(super) fn note_damage(&self, segment: &Arc<Segment>) {
        if segment.take_suspicion() && self.state().segments.iter().any(|there| Arc::ptr_eq(there, segment)) {
            self.shared.suspects.add(self.group(), segment.header().first_index);
        }
    }

    /// A file may have been removed while it was read: then the offset is out of range, and nothing is damaged.
    fn read_error(&self, offset: Offset, damage: Box<Damage>) -> ReadError {
        self.state().segment_of(offset).err().unwrap_or(ReadError::Damaged(damage))
    }
}

impl State {
    /// Whether there is, or will be next, a record at `offset`.
    fn check(&self, offset: Offset) -> Result<(), ReadError> {
        let (log_start, end) = (self.log_start, self.tail.next_offset());
        if offset < log_start || offset > end { Err(ReadError::OffsetOutOfRange { log_start, end }) } else { Ok(()) }
    }

    fn segment_of(&self, offset: Offset) -> Result<Arc<Segment>, ReadError> {
        self.check(offset)?;
        let at = self.segments.partition_point(|segment| segment.header().base_offset <= offset);
        let segment = at.checked_sub(1).and_then(|at| self.segments.get(at)).cloned();
        segment.ok_or(ReadError::OffsetOutOfRange { log_start: self.log_start, end: self.tail.next_offset() })
    }
}
