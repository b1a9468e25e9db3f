//! The one writer of a log: takes entries into the tail, and moves them on into segments.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use levada_protocol::ids::{GroupId, LogIndex, Offset, Term, TopicPartition};

use super::{Log, Shared, State, Suspects, Tail, TermRuns, entry_bytes};
use crate::{
    config::SegmentConfig,
    disk::{Disk, DiskOp, FileName},
    entry::{Entry, EntryKind},
    error::AppendError,
    payload::Summary,
    planted::{self, Planted},
    segment::{Mark, format::SegmentHeader, reader::Segment, writer::SegmentWriter},
};

/// Where a segment starts, or would: what it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seam {
    /// The first entry behind it.
    pub(crate) index: LogIndex,
    /// The first offset behind it.
    pub(crate) offset: Offset,
    /// The CRC of the last frame before it.
    pub(crate) previous_crc: u32,
    /// The generation of the segment before it.
    pub(crate) generation: u32,
}

impl Seam {
    /// Where a log begins.
    pub(crate) const START: Self = Self { index: LogIndex(1), offset: Offset(0), previous_crc: 0, generation: 0 };

    /// The header of the segment that starts here.
    pub(crate) const fn header(&self, group: GroupId, topic_partition: TopicPartition) -> SegmentHeader {
        SegmentHeader {
            topic_partition,
            generation: self.generation + 1,
            group,
            first_index: self.index,
            base_offset: self.offset,
            previous_crc: self.previous_crc,
        }
    }

    const fn behind(header: &SegmentHeader, end: &Mark) -> Self {
        Self { index: end.index, offset: end.offset, previous_crc: end.previous_crc, generation: header.generation }
    }
}

/// A segment as the checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRecord {
    /// What it continues.
    pub(crate) start: Seam,
    /// How far it is written.
    pub(crate) end: Mark,
    pub(crate) sealed: bool,
}

/// A log's segments as the checkpoint keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(crate) log_start: Offset,
    /// What the first segment continues, or the next if there is none.
    pub(crate) start: Seam,
    /// The term of the entry before it.
    pub(crate) term_before: Term,
    /// Where each term starts.
    pub(crate) terms: Vec<(LogIndex, Term)>,
    pub(crate) segments: Vec<SegmentRecord>,
}

impl LogRecord {
    /// Of a log that has nothing in segments.
    pub(crate) const EMPTY: Self = Self {
        log_start: Offset(0),
        start: Seam::START,
        term_before: Term(0),
        terms: Vec::new(),
        segments: Vec::new(),
    };

    /// Up to where the segments go.
    pub(crate) fn end(&self) -> Seam {
        self.segments.last().map_or(self.start, |last| {
            let generation = last.start.generation + 1;
            Seam { index: last.end.index, offset: last.end.offset, previous_crc: last.end.previous_crc, generation }
        })
    }
}

/// A write of a log that the disk has not answered yet.
#[derive(Debug)]
struct InFlight {
    seals: bool,
    last_index: LogIndex,
    bytes: u64,
}

/// Entries whose segment write completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The last of them.
    pub(crate) last_index: LogIndex,
    /// What they take in the tail.
    pub(crate) bytes: u64,
}

/// More empty entries than this are written to a segment after all.
const RESTING_ENTRIES_MAX: u64 = 32;

/// Writes a log.
///
/// Invariants:
/// - at most one write is in flight;
/// - an entry goes into a segment once it is committed and persisted, in order, and none behind a roll or a hold that is
///   pending;
/// - only entries above `committed` are ever truncated.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Log,
    config: SegmentConfig,
    /// What the first segment continues.
    start: Seam,
    /// Sealed segments that end below this entry go, whatever is in them.
    needed_from: LogIndex,
    /// Writes the last segment, unless that is sealed or nothing was written to it since the restart.
    active: Option<SegmentWriter>,
    in_flight: Option<InFlight>,
    committed: LogIndex,
    persisted: LogIndex,
    /// What entries take that are committed and in no segment yet.
    backlog_bytes: u64,
    /// Segments end behind these entries.
    rolls: VecDeque<LogIndex>,
    /// Nothing behind this entry is written before a checkpoint has captured the log; and the log start as of the entry.
    hold: Option<(LogIndex, Offset)>,
    damaged_end: DamagedEnd,
    /// A write was refused, as there was no memory or descriptor to look at the segment with.
    in_want: bool,
}

/// After a restart: whether the segment that is to be written on can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DamagedEnd {
    /// It can, as far as is known.
    None,
    /// Its index is lost. With what would be written now it would not be what other replicas have, nor would any behind it.
    Awaits,
    /// It is written on nevertheless.
    Accepted,
}

impl LogWriter {
    /// The log of a group as the checkpoint has it; `tail_bytes` counts what tails take in memory, `suspects` are segments
    /// that cannot be read.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        group: GroupId,
        topic_partition: TopicPartition,
        record: &LogRecord,
        config: SegmentConfig,
        tail_bytes: Arc<AtomicU64>,
        suspects: Arc<Suspects>,
    ) -> Self {
        let segments = record.segments.iter().map(|segment| {
            let header = segment.start.header(group, topic_partition);
            Arc::new(Segment::recovered(header, segment.end, segment.sealed, config.index_interval_bytes))
        });
        let end = record.end();
        let last = LogIndex(end.index.get() - 1);
        let before = (LogIndex(record.start.index.get() - 1), record.term_before);
        let state = State {
            segments: segments.collect(),
            tail: Tail::new((end.index, end.offset), tail_bytes),
            terms: TermRuns::new(before, record.terms.clone(), last),
            log_start: record.log_start,
        };
        Self {
            log: Log { shared: Arc::new(Shared { disk, group, topic_partition, suspects, state: Mutex::new(state) }) },
            config,
            start: record.start,
            needed_from: LogIndex(0),
            active: None,
            in_flight: None,
            committed: last,
            persisted: last,
            backlog_bytes: 0,
            rolls: VecDeque::new(),
            hold: None,
            damaged_end: DamagedEnd::None,
            in_want: false,
        }
    }

    pub(crate) const fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) const fn committed(&self) -> LogIndex {
        self.committed
    }

    pub(crate) const fn persisted(&self) -> LogIndex {
        self.persisted
    }

    /// What entries take in memory that are committed and in no segment yet.
    pub(crate) const fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes
    }

    /// How much of that is on its way.
    pub(crate) fn writing_bytes(&self) -> u64 {
        self.in_flight.as_ref().map_or(0, |write| write.bytes)
    }

    /// The last entry, and its term.
    pub(crate) fn last(&self) -> (LogIndex, Term) {
        let state = self.log.state();
        (state.terms.last(), state.terms.last_term())
    }

    /// Takes entries that continue the log, or replace its uncommitted end.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was taken.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), AppendError> {
        let new = |last: LogIndex| entries.iter().position(|entry| entry.index > last).unwrap_or(entries.len());
        let entries = if planted::is(Planted::ConflictKept) { &entries[new(self.log.last_index())..] } else { entries };
        let Some(first) = entries.first() else { return Ok(()) };
        let mut state = self.log.state();
        let next_index = state.terms.last().next();
        assert!(
            first.index <= next_index,
            "entry {} would leave a gap behind the log's last {next_index}",
            first.index
        );
        assert!(first.index > self.committed, "committed entry {} must not be replaced", first.index);
        let mut offset = state.tail.get(first.index).map_or(state.tail.next_offset(), |entry| entry.base_offset);
        let mut summaries = Vec::with_capacity(entries.len());
        for entry in entries {
            let summary = Summary::of(entry, offset)?;
            offset = summary.next_offset;
            summaries.push(summary);
        }
        if first.index < next_index {
            state.terms.truncate_from(first.index);
            state.tail.truncate_from(first.index);
            self.persisted = self.persisted.min(LogIndex(first.index.get() - 1));
        }
        for (entry, summary) in entries.iter().zip(summaries) {
            state.terms.push(entry.index, entry.term);
            state.tail.push(entry.clone(), summary);
        }
        Ok(())
    }

    /// The journal has the entry of this index and term, and so all before it. Without effect if it was replaced.
    pub(crate) fn persist(&mut self, index: LogIndex, term: Term) {
        if index > self.persisted && self.log.state().terms.get(index) == Some(term) {
            self.persisted = index;
        }
    }

    /// Entries up to `index` are final, and every roll among them was told.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last_index(), "entry {index} cannot be committed before it is there");
        if index > self.committed {
            let state = self.log.state();
            let more = state.tail.from(self.committed.next()).take_while(|entry| entry.entry.index <= index);
            self.backlog_bytes += more.map(|entry| entry_bytes(&entry.entry)).sum::<u64>();
            drop(state);
            self.committed = index;
        }
    }

    /// Ends the segment behind entry `at`.
    pub(crate) fn roll(&mut self, at: LogIndex) {
        assert!(self.end().index <= at.next(), "entries behind {at} are in the segment already");
        if self.rolls.back().is_none_or(|&last| last < at) {
            self.rolls.push_back(at);
        }
    }

    /// Records below `offset` are not read any more. The files of segments that are wholly below it leave the log.
    pub(crate) fn set_log_start(&mut self, offset: Offset) -> Vec<FileName> {
        {
            let mut state = self.log.state();
            let end = state.tail.next_offset();
            assert!(offset <= end, "a log that ends at {end} cannot start at {offset}");
            state.log_start = state.log_start.max(offset);
        }
        self.remove_front()
    }

    /// Entries below `index` are needed by nobody. The files of segments that are wholly below it leave the log, when they are
    /// sealed.
    pub(crate) fn set_needed_from(&mut self, index: LogIndex) -> Vec<FileName> {
        assert!(index <= self.committed.next(), "entry {index} is not committed");
        self.needed_from = self.needed_from.max(index);
        self.remove_front()
    }

    /// The group is gone: whoever still has a handle finds an empty log. Names the files of all segments.
    pub(crate) fn close(self) -> Vec<FileName> {
        let mut state = self.log.state();
        let last = state.terms.last();
        state.tail.release(last);
        state.log_start = state.tail.next_offset();
        state.segments.drain(..).map(|segment| segment.file().clone()).collect()
    }

    /// Whether nothing but a few empty entries, which new leaders begin with, is in no segment. They are worth no write, and
    /// no file if there is none yet: the journal keeps them.
    pub(crate) fn rests(&self) -> bool {
        if self.in_flight.is_some() || !self.rolls.is_empty() {
            return false;
        }
        let end = self.end().index;
        let state = self.log.state();
        let unwritten = state.terms.last().next().get() - end.get();
        unwritten <= RESTING_ENTRIES_MAX && state.tail.from(end).all(|entry| entry.entry.kind == EntryKind::Empty)
    }

    /// The last entry in a segment, or on its way there.
    pub(crate) fn written_to(&self) -> LogIndex {
        LogIndex(self.end().index.get() - 1)
    }

    /// What must be done to the segments next, if something can be now and is enough to be worth a write; with `urgent`,
    /// however little it is. [`LogWriter::written`] follows.
    pub(crate) fn next_write(&mut self, urgent: bool) -> Option<Vec<DiskOp>> {
        if self.in_flight.is_some() || self.hold.is_none() && self.rests() {
            return None;
        }
        let end = self.end();
        let last_written = LogIndex(end.index.get() - 1);
        if self.roll_is_due() {
            if self.awaits_repair() {
                return None;
            }
            if !self.is_verified(end, 0, true) {
                return None;
            }
            self.rolls.pop_front();
            let ops = self.writer(end).seal();
            self.in_flight = Some(InFlight { seals: true, last_index: last_written, bytes: 0 });
            return Some(ops);
        }
        let mut stop =
            if planted::is(Planted::UncommittedWritten) { self.persisted } else { self.committed.min(self.persisted) };
        let hold = self.hold.as_ref().map(|(applied, _)| applied);
        stop = self.rolls.front().into_iter().chain(hold).fold(stop, |stop, at| stop.min(*at));
        // Whoever rolls or holds waits for the write.
        let is_awaited = urgent || self.hold.is_some() || !self.rolls.is_empty();
        if last_written >= stop || !is_awaited && self.backlog_bytes < self.config.write_bytes_min {
            return None;
        }
        if self.awaits_repair() {
            return None;
        }
        let log = self.log.clone();
        let bytes_max = self.config.write_bytes_max;
        if !self.is_verified(end, bytes_max, false) {
            return None;
        }
        let writer = self.writer(end);
        let mut bytes = 0;
        {
            let state = log.state();
            for entry in state.tail.from(end.index).take_while(|entry| entry.entry.index <= stop) {
                writer.push(&entry.entry, &entry.summary);
                bytes += entry_bytes(&entry.entry);
                if writer.pending_bytes() >= bytes_max {
                    break;
                }
            }
        }
        let last_index = LogIndex(writer.at().index.get() - 1);
        let ops = writer.take();
        self.in_flight = Some(InFlight { seals: false, last_index, bytes });
        Some(ops)
    }

    /// The write in flight is done. Also names the files of segments that leave the log now that they are complete.
    pub(crate) fn written(&mut self) -> (Written, Vec<FileName>) {
        let write = self.in_flight.take().expect("a write was in flight");
        let writer = self.active.as_ref().expect("a write has a writer");
        writer.publish(write.seals);
        self.backlog_bytes -= write.bytes;
        let mut removed = Vec::new();
        if write.seals {
            self.active = None;
            removed = self.remove_front();
        }
        (Written { last_index: write.last_index, bytes: write.bytes }, removed)
    }

    /// The tail lets go of entries up to `index`, which are in segments.
    pub(crate) fn release(&mut self, index: LogIndex) {
        let written = self.end().index;
        debug_assert!(index < written, "the tail alone has entry {index}");
        self.log.state().tail.release(index);
    }

    /// The tail counts in this budget from now on.
    pub(crate) fn count_in(&self, tail_bytes: &Arc<AtomicU64>) {
        self.log.state().tail.count_in(tail_bytes);
    }

    /// The entries from `index` on, if all of them are in the tail.
    pub(crate) fn in_memory(&self, index: LogIndex) -> Option<Vec<Entry>> {
        let state = self.log.state();
        let entries = || state.tail.from(index).map(|entry| entry.entry.clone()).collect();
        (index >= state.tail.first_index()).then(entries)
    }

    /// Whether the last segment waits for a sound file before anything is written to it.
    pub(crate) const fn is_waiting_for_repair(&self) -> bool {
        matches!(self.damaged_end, DamagedEnd::Awaits)
    }

    /// Whether the last write was refused for want of memory or descriptors: it is to be tried again.
    pub(crate) const fn take_want(&mut self) -> bool {
        std::mem::replace(&mut self.in_want, false)
    }

    /// Goes on with a damaged segment: nobody has a sound file of it.
    pub(crate) const fn accept_damage(&mut self) {
        self.damaged_end = DamagedEnd::Accepted;
    }

    /// Whether the segment that is to be written on is damaged so that it cannot be; then it is a suspect.
    fn awaits_repair(&mut self) -> bool {
        if self.active.is_none() && self.damaged_end == DamagedEnd::None {
            let last = self.log.state().segments.back().filter(|last| !last.is_sealed()).cloned();
            if let Some(last) = last {
                let Some(index) = last.outline(&*self.log.shared.disk) else {
                    self.in_want = true;
                    return true;
                };
                if index.is_lost() {
                    self.log.note_damage(&last);
                    self.damaged_end = DamagedEnd::Awaits;
                }
            }
        }
        self.damaged_end == DamagedEnd::Awaits
    }

    /// Whether what the segment's next index frame says is verified, if one comes with so many bytes more, or with its end. If
    /// it is not true, the segment is a suspect, and waits.
    fn is_verified(&mut self, end: Seam, bytes: u64, seals: bool) -> bool {
        let disk = Arc::clone(&self.log.shared.disk);
        let Err(cause) = self.writer(end).verify(&*disk, bytes, seals) else { return true };
        if cause.is_want() {
            self.in_want = true;
            return false;
        }
        if let Some(writer) = self.active.take() {
            let segment = writer.segment();
            tracing::error!(file = %segment.file(), %cause, "segment.tail.damaged: in what no index frame covers yet; it waits for a sound file");
            segment.lose_index();
        }
        !self.awaits_repair()
    }

    /// The file of a segment is another by now: what was found out about the one before counts no more.
    pub(crate) fn reopen(&mut self, first_index: LogIndex) {
        let mut state = self.log.state();
        let found = state.segments.iter_mut().find(|segment| segment.header().first_index == first_index);
        if let Some(segment) = found.filter(|segment| segment.is_sealed() || self.damaged_end == DamagedEnd::Awaits) {
            let (interval, sealed) = (self.config.index_interval_bytes, segment.is_sealed());
            *segment = Arc::new(Segment::recovered(*segment.header(), segment.end(), sealed, interval));
            if !sealed {
                self.damaged_end = DamagedEnd::None;
            }
        }
    }

    /// Until [`LogWriter::capture`], nothing behind `applied` goes into a segment.
    pub(crate) fn hold(&mut self, applied: LogIndex) {
        assert!(self.end().index <= applied.next(), "entries behind {applied} are in segments already");
        self.hold = Some((applied, self.log.log_start()));
    }

    /// The log as it is written, once that is up to the hold and every roll up to there is done. Ends the hold.
    pub(crate) fn capture(&mut self) -> Option<LogRecord> {
        let (applied, log_start) = self.hold?;
        if self.in_flight.is_some() || self.roll_is_due() || self.end().index != applied.next() {
            return None;
        }
        self.hold = None;
        let state = self.log.state();
        let mut start = self.start;
        let segments = state.segments.iter().map(|segment| {
            let record = SegmentRecord { start, end: segment.end(), sealed: segment.is_sealed() };
            start = Seam::behind(segment.header(), &record.end);
            record
        });
        Some(LogRecord {
            log_start: log_start.max(self.start.offset),
            start: self.start,
            term_before: state.terms.before().1,
            segments: segments.collect(),
            terms: state.terms.up_to(applied).to_vec(),
        })
    }

    /// Up to where segments are written, or will be by the write in flight.
    fn end(&self) -> Seam {
        if let Some(writer) = &self.active {
            return Seam::behind(writer.segment().header(), writer.at());
        }
        let state = self.log.state();
        state.segments.back().map_or(self.start, |last| Seam::behind(last.header(), &last.end()))
    }

    /// Whether the last segment must be sealed now. A roll where no segment was begun has no effect.
    fn roll_is_due(&mut self) -> bool {
        let next_index = self.end().index;
        let has_active = self.log.state().segments.back().is_some_and(|last| !last.is_sealed());
        if !has_active {
            self.rolls.pop_front_if(|at| at.next() == next_index);
        }
        self.rolls.front().is_some_and(|at| at.next() == next_index)
    }

    /// The writer of the last segment, or of a new one if that is sealed.
    fn writer(&mut self, end: Seam) -> &mut SegmentWriter {
        let (log, config) = (&self.log, self.config);
        self.active.get_or_insert_with(|| {
            let last = log.state().segments.back().filter(|last| !last.is_sealed()).cloned();
            if let Some(segment) = last {
                let writer = SegmentWriter::resume(segment, &*log.shared.disk, config);
                log.note_damage(writer.segment());
                return writer;
            }
            let writer = SegmentWriter::create(end.header(log.group(), log.topic_partition()), config);
            log.state().segments.push_back(Arc::clone(writer.segment()));
            writer
        })
    }

    /// Takes out the sealed segments below the log start, and those that nobody needs.
    fn remove_front(&mut self) -> Vec<FileName> {
        let mut state = self.log.state();
        let (log_start, needed_from) = (state.log_start, self.needed_from);
        let is_below = |segment: &mut Arc<Segment>| {
            let end = segment.end();
            let end_offset =
                if planted::is(Planted::RetentionTooFar) { segment.header().base_offset } else { end.offset };
            segment.is_sealed() && (log_start > Offset(0) && end_offset <= log_start || end.index <= needed_from)
        };
        let mut removed = Vec::new();
        while let Some(segment) = state.segments.pop_front_if(is_below) {
            self.start = Seam::behind(segment.header(), &segment.end());
            removed.push(segment.file().clone());
        }
        if !removed.is_empty() {
            let before = LogIndex(self.start.index.get() - 1);
            state.log_start = state.log_start.max(self.start.offset);
            state.terms.remove_below(self.start.index);
            state.tail.release(before);
        }
        removed
    }
}
