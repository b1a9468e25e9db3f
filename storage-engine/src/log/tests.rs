//! A log against the simplest thing that behaves like one: a vector of entries.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use levada_protocol::{
    batch::BatchIter,
    ids::{GroupId, LogIndex, Offset, Term},
};
use proptest::prelude::*;

use super::writer::{LogRecord, LogWriter};
use crate::{
    config::SegmentConfig,
    disk::{Disk, DiskOp, FileName},
    entry::{Entry, EntryKind},
    error::{EntriesError, ReadError},
    sim_disk::SimDisk,
    testing::{TOPIC_PARTITION, batch, batches, control},
};

const CONFIG: SegmentConfig = SegmentConfig {
    index_interval_bytes: 200,
    write_bytes_min: 0,
    write_bytes_max: 1500,
    writeback_bytes: 1000,
    preallocate_bytes_min: 512,
    preallocate_bytes_max: 2048,
};
const GROUP: GroupId = GroupId(3);

/// Something that happens to a log. Numbers are taken modulo what is possible.
#[derive(Clone, Debug)]
enum Step {
    /// Entries of these shapes follow, after so many uncommitted ones were taken back.
    Append {
        taken_back: u64,
        new_term: bool,
        shapes: Vec<u8>,
    },
    Persist(u64),
    Commit(u64),
    Roll,
    LogStart(u64),
    IssueWrite,
    CompleteWrite,
    Release(u64),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (0..4_u64, any::<bool>(), prop::collection::vec(any::<u8>(), 1..6))
        .prop_map(|(taken_back, new_term, shapes)| Step::Append { taken_back, new_term, shapes });
    let step = prop_oneof![
        4 => append,
        3 => any::<u64>().prop_map(Step::Persist),
        3 => any::<u64>().prop_map(Step::Commit),
        1 => Just(Step::Roll),
        1 => any::<u64>().prop_map(Step::LogStart),
        4 => Just(Step::IssueWrite),
        4 => Just(Step::CompleteWrite),
        2 => any::<u64>().prop_map(Step::Release),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

struct Model {
    disk: Arc<SimDisk>,
    log: LogWriter,
    entries: Vec<Entry>,
    committed: u64,
    persisted: u64,
    log_start: u64,
    /// The last entry known to be written.
    written: u64,
    in_flight: bool,
    rolls: BTreeSet<u64>,
    tail_bytes: Arc<AtomicU64>,
}

impl Model {
    fn new() -> Self {
        let disk = Arc::new(SimDisk::new(1));
        disk.perform(&DiskOp::CreateDir { dir: "segments".into() }).unwrap();
        let tail_bytes = Arc::<AtomicU64>::default();
        let log = LogWriter::open(
            Arc::<SimDisk>::clone(&disk),
            GROUP,
            TOPIC_PARTITION,
            &LogRecord::EMPTY,
            CONFIG,
            Arc::clone(&tail_bytes),
            Arc::default(),
        );
        Self {
            disk,
            log,
            entries: Vec::new(),
            committed: 0,
            persisted: 0,
            log_start: 0,
            written: 0,
            in_flight: false,
            rolls: BTreeSet::new(),
            tail_bytes,
        }
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn entry(&self, index: u64) -> &Entry {
        &self.entries[usize::try_from(index - 1).unwrap()]
    }

    /// The batches of the entries up to `last`.
    fn batches(&self, last: u64) -> Vec<(Offset, Offset, Bytes)> {
        let entries = self.entries.iter().filter(|e| e.index.get() <= last && e.kind == EntryKind::Batches);
        let batches = entries.flat_map(|entry| {
            BatchIter::packed(&entry.payload).map(|batch| {
                let batch = batch.unwrap();
                (batch.header.base_offset, batch.header.next_offset(), entry.payload.slice_ref(batch.bytes))
            })
        });
        batches.collect()
    }

    fn next_offset(&self, last: u64) -> u64 {
        self.batches(last).last().map_or(0, |(_, next, _)| next.get())
    }

    fn complete_write(&mut self) {
        if std::mem::take(&mut self.in_flight) {
            let (written, removed) = self.log.written();
            self.written = self.written.max(written.last_index.get());
            self.remove(removed);
        }
    }

    fn remove(&self, files: Vec<crate::disk::FileName>) {
        files.into_iter().for_each(|file| self.disk.perform(&DiskOp::Remove { file }).unwrap());
    }

    fn issue_write(&mut self) -> bool {
        let Some(ops) = self.log.next_write(false) else { return false };
        assert!(!self.in_flight, "one write at a time");
        ops.iter().for_each(|op| self.disk.perform(op).unwrap());
        self.in_flight = true;
        true
    }

    fn append(&mut self, taken_back: u64, new_term: bool, shapes: &[u8]) {
        let keep = self.committed.max(self.last().saturating_sub(taken_back));
        let is_cut = keep < self.last();
        self.entries.truncate(usize::try_from(keep).unwrap());
        self.persisted = self.persisted.min(keep);
        let last_term = self.log.last().1.get().max(1);
        let term = last_term + u64::from(new_term || is_cut);
        let mut offset = self.next_offset(keep);
        let mut made = Vec::new();
        for (index, shape) in (keep + 1..).zip(shapes) {
            let mut next = |records: u32, bytes: usize| {
                offset += u64::from(records);
                batch(offset - u64::from(records), records, bytes)
            };
            made.push(match shape % 4 {
                0 => control(index, term, EntryKind::Command, b"command"),
                1 => batches(index, term, &[next(1 + u32::from(*shape), usize::from(*shape))]),
                2 => batches(index, term, &[next(1, 5), next(2, usize::from(*shape)), next(1, 0)]),
                _ => batches(index, term, &[next(3, usize::from(*shape) * 8)]),
            });
        }
        self.log.append(&made).unwrap();
        self.entries.extend(made);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { taken_back, new_term, shapes } => self.append(*taken_back, *new_term, shapes),
            Step::Persist(to) => {
                self.persisted += to % (self.last() - self.persisted + 1);
                let term = self.log.log().term(LogIndex(self.persisted)).unwrap();
                self.log.persist(LogIndex(self.persisted), Term(term.get() + 1));
                self.log.persist(LogIndex(self.persisted), term);
                assert_eq!(self.log.persisted().get(), self.persisted);
            }
            Step::Commit(to) => {
                self.committed += to % (self.last() - self.committed + 1);
                self.log.commit_to(LogIndex(self.committed));
            }
            Step::Roll => {
                self.log.roll(LogIndex(self.committed));
                self.rolls.insert(self.committed);
            }
            Step::LogStart(to) => {
                let end = self.next_offset(self.committed);
                self.log_start += to % (end - self.log_start + 1);
                let removed = self.log.set_log_start(Offset(self.log_start));
                self.remove(removed);
            }
            Step::IssueWrite => {
                self.issue_write();
            }
            Step::CompleteWrite => self.complete_write(),
            Step::Release(to) => self.log.release(LogIndex(to % (self.written + 1))),
            Step::Reopen => self.reopen(),
        }
        self.log_start = self.log_start.max(self.log.log().log_start().get());
    }

    /// Captures the log as a checkpoint does, and goes on with it and what the journal would have.
    fn reopen(&mut self) {
        let applied = self.committed.min(self.persisted);
        if applied < self.written || applied < self.committed {
            return; // the broker applies no entry before it is persisted
        }
        self.log.hold(LogIndex(applied));
        self.complete_write();
        let record = loop {
            if let Some(record) = self.log.capture() {
                break record;
            }
            assert!(self.issue_write(), "the capture will come: {:?}", self.log);
            self.complete_write();
        };
        assert_eq!(record.end().index.get(), applied + 1);
        self.issue_write(); // lost, as far as the checkpoint knows
        self.in_flight = false;
        self.log = LogWriter::open(
            Arc::<SimDisk>::clone(&self.disk),
            GROUP,
            TOPIC_PARTITION,
            &record,
            CONFIG,
            Arc::clone(&self.tail_bytes),
            Arc::default(),
        );
        self.written = applied;
        let rolled = self.log.log().segments().last().is_none_or(|last| last.sealed);
        assert_eq!(rolled, applied == 0 || self.rolls.contains(&applied), "a roll that is told is captured");
        self.log.append(&self.entries[usize::try_from(applied).unwrap()..]).unwrap();
        let (last, term) = self.log.last();
        self.log.persist(last, term);
        self.persisted = self.last();
    }

    fn check(&self, pick: u64) {
        let log = self.log.log();
        let first = log.first_index().get();
        assert_eq!(log.last_index().get(), self.last());
        for index in first..=self.last() {
            assert_eq!(log.term(LogIndex(index)), Ok(self.entry(index).term));
        }
        if first > 1 {
            assert_eq!(log.term(LogIndex(first - 1)), Ok(self.entry(first - 1).term));
            let compacted = Err(EntriesError::Compacted { first_index: LogIndex(first) });
            assert_eq!(log.entries(LogIndex(first - 1), LogIndex(first), 100), compacted);
        }
        assert!(log.entries(LogIndex(self.last() + 1), LogIndex(self.last() + 2), 100).is_err());
        let mut low = first + pick % (self.last() + 2 - first);
        while low <= self.last() {
            let entries = log.entries(LogIndex(low), LogIndex(self.last() + 1), 700).unwrap();
            assert!(!entries.is_empty());
            for entry in entries {
                assert_eq!(entry, *self.entry(low));
                low += 1;
            }
        }

        for segment in log.segments() {
            let (first, next) = (segment.first_index.get(), segment.next_index.get());
            assert!(first == 1 || self.rolls.contains(&(first - 1)), "segments start behind rolls");
            assert!(
                self.rolls.range(first..first.max(next - 1)).next().is_none(),
                "segments end where they are told to"
            );
            assert!(!segment.sealed || self.rolls.contains(&(next - 1)));
        }

        let (start, high_watermark) = (self.log_start, self.next_offset(self.committed));
        assert_eq!((log.log_start().get(), log.next_offset().get()), (start, self.next_offset(self.last())));
        let expected = self.batches(self.committed);
        if start > 0 {
            let error = log.read(Offset(start - 1), 100, Offset(high_watermark)).unwrap_err();
            assert!(matches!(error, ReadError::OffsetOutOfRange { log_start, .. } if log_start.get() == start));
        }
        assert!(log.read(Offset(log.next_offset().get() + 1), 100, Offset(high_watermark)).is_err());
        let mut offset = start + pick % (high_watermark - start + 1);
        while offset < high_watermark {
            let read = log.read(Offset(offset), 700, Offset(high_watermark)).unwrap();
            let at = expected.iter().position(|(_, next, _)| next.get() > offset).unwrap();
            assert!(!read.batches.is_empty());
            assert!(read.batches.iter().eq(expected[at..at + read.batches.len()].iter().map(|(_, _, bytes)| bytes)));
            offset = read.next_offset.get();
            assert_eq!(offset, expected[at + read.batches.len() - 1].1.get());
        }
        assert!(log.read(Offset(high_watermark), 700, Offset(high_watermark)).unwrap().batches.is_empty());

        let timestamp_ms = i64::try_from(start + pick % (high_watermark - start + 1)).unwrap() * 10;
        let found = log.offset_for_time(timestamp_ms, Offset(high_watermark)).unwrap();
        let late = expected
            .iter()
            .find(|(base, next, _)| next.get() > start && i64::try_from(base.get()).unwrap() * 10 >= timestamp_ms);
        assert_eq!(found, late.map(|(base, _, _)| *base), "at {timestamp_ms} ms");
        let committed = LogIndex(self.committed);
        if let Some(offset) = log.offset_after(committed) {
            assert_eq!(offset.get(), high_watermark);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_behaves_like_a_vector(steps in steps(), picks in prop::collection::vec(any::<u64>(), 60)) {
        let mut model = Model::new();
        for (step, pick) in steps.iter().zip(picks) {
            model.step(step);
            model.check(pick);
        }
        let used = Arc::clone(&model.tail_bytes);
        drop(model);
        prop_assert_eq!(used.load(Ordering::Relaxed), 0, "the budget gets everything back");
    }
}

/// A log with committed, persisted entries, all written.
fn written(entries: &[Entry]) -> Model {
    let mut model = Model::new();
    model.log.append(entries).unwrap();
    model.entries = entries.to_vec();
    model.committed = model.last();
    model.persisted = model.last();
    model.log.persist(entries.last().unwrap().index, entries.last().unwrap().term);
    model.log.commit_to(entries.last().unwrap().index);
    while model.issue_write() {
        model.complete_write();
    }
    model
}

#[test]
fn entries_that_do_not_continue_the_log_are_refused() {
    let mut model = written(&[batches(1, 1, &[batch(0, 2, 10)])]);
    let gap = batches(2, 1, &[batch(3, 1, 10)]);
    assert!(model.log.append(&[control(2, 1, EntryKind::Empty, b""), Entry { index: LogIndex(3), ..gap }]).is_err());
    let garbage = control(2, 1, EntryKind::Batches, b"not a batch, though it says so");
    assert!(model.log.append(&[garbage]).is_err());
    assert_eq!(model.log.log().last_index(), LogIndex(1), "nothing was taken");
}

#[test]
fn only_what_is_committed_and_persisted_is_written() {
    let mut model = Model::new();
    model.append(0, false, &[1, 1, 1, 1]);
    model.log.commit_to(LogIndex(2));
    assert!(!model.issue_write(), "committed, but not in the journal");
    model.log.persist(LogIndex(1), Term(1));
    assert!(model.issue_write());
    model.complete_write();
    assert_eq!(model.written, 1);
    model.log.persist(LogIndex(4), Term(1));
    assert!(model.issue_write());
    model.complete_write();
    assert_eq!(model.written, 2, "in the journal, but not committed");
    assert!(!model.issue_write());
}

#[test]
#[should_panic(expected = "committed entry 1 must not be replaced")]
fn a_committed_entry_is_never_replaced() {
    let mut model = written(&[batches(1, 1, &[batch(0, 2, 10)])]);
    drop(model.log.append(&[control(1, 2, EntryKind::Empty, b"")]));
}

/// Time does not rise with offsets: the clocks of producers differ.
#[test]
fn a_time_is_looked_for_behind_the_log_start() {
    let mut late_first = vec![batch(0, 2, 10), batch(2, 3, 10), batch(5, 5, 10), batch(10, 2, 10)];
    for (bytes, timestamp_ms) in late_first.iter_mut().zip([900_i64, 100, 500, 950]) {
        bytes[35..43].copy_from_slice(&timestamp_ms.to_be_bytes());
        levada_protocol::batch::seal(bytes);
    }
    let entries: Vec<Entry> =
        (1..).zip(&late_first).map(|(index, bytes)| batches(index, 1, std::slice::from_ref(bytes))).collect();
    for in_segment in [true, false] {
        let mut model = if in_segment { written(&entries) } else { Model::new() };
        if !in_segment {
            model.log.append(&entries).unwrap();
        }
        if in_segment {
            model.log.release(LogIndex(4));
        }
        let find = |log: &LogWriter, timestamp_ms| log.log().offset_for_time(timestamp_ms, Offset(12)).unwrap();
        assert_eq!(find(&model.log, 400), Some(Offset(0)));
        model.log.set_log_start(Offset(1));
        assert_eq!(find(&model.log, 400), Some(Offset(1)), "within the batch");
        model.log.set_log_start(Offset(3));
        assert_eq!(find(&model.log, 400), Some(Offset(5)));
        assert_eq!(find(&model.log, 901), Some(Offset(10)));
        assert_eq!(find(&model.log, 951), None);
        assert_eq!(model.log.log().offset_for_time(901, Offset(11)), Ok(None), "not committed");
    }
}

#[test]
fn a_damaged_segment_that_the_log_start_lies_in_is_damaged_for_times_too() {
    let mut model = written(&[batches(1, 1, &[batch(0, 2, 10)]), batches(2, 1, &[batch(2, 1, 300)])]);
    model.log.roll(LogIndex(2));
    assert!(model.issue_write());
    model.complete_write();
    model.log.release(LogIndex(2));
    model.log.set_log_start(Offset(1));
    let file = model.disk.list("segments").unwrap().pop().unwrap();
    model.disk.make_unreadable(&FileName::new(format!("segments/{file}")), 0, 4096);
    let found = model.log.log().offset_for_time(1, Offset(3));
    assert!(matches!(found, Err(ReadError::Damaged(_))), "{found:?}");
}

#[test]
fn a_handle_outlives_its_log() {
    let model = written(&[batches(1, 1, &[batch(0, 2, 10)]), control(2, 1, EntryKind::Empty, b"")]);
    let log = model.log.log().clone();
    let (disk, files) = (model.disk, model.log.close());
    files.into_iter().for_each(|file| disk.perform(&DiskOp::Remove { file }).unwrap());
    assert!(matches!(log.read(Offset(0), 1, Offset(2)), Err(ReadError::OffsetOutOfRange { .. })));
    assert_eq!(log.read(Offset(2), 1, Offset(2)).unwrap().batches.len(), 0);
    assert!(log.entries(LogIndex(1), LogIndex(2), 1).is_err());
    assert_eq!(model.tail_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_reader_keeps_what_it_mapped_and_is_told_when_the_rest_is_gone() {
    let mut model = written(&[batches(1, 1, &[batch(0, 2, 10)]), batches(2, 1, &[batch(2, 1, 300)])]);
    model.log.roll(LogIndex(2));
    assert!(model.issue_write());
    model.complete_write();
    model.log.release(LogIndex(2));
    let log = model.log.log().clone();
    let read = log.read(Offset(2), 1, Offset(3)).unwrap();
    let removed = model.log.set_log_start(Offset(3));
    assert_eq!(removed.len(), 1);
    model.remove(removed);
    assert_eq!(read.batches, [batch(2, 1, 300)]);
    assert!(matches!(log.read(Offset(2), 1, Offset(3)), Err(ReadError::OffsetOutOfRange { .. })));
    assert_eq!((log.first_index(), log.last_index(), log.term(LogIndex(2))), (LogIndex(3), LogIndex(2), Ok(Term(1))));
    model.entries.push(batches(3, 2, &[batch(3, 1, 1)]));
    model.log.append(&model.entries[2..]).unwrap();
    assert_eq!(log.read(Offset(3), 1, Offset(4)).unwrap().batches, [batch(3, 1, 1)]);
}
