//! What a store was told and what it reported, per group; and what a recovery may find of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use levada_protocol::{
    batch::BatchIter,
    ids::{GroupId, LogIndex, Offset, Term, TopicPartition},
};

use crate::{
    entry::{Entry, EntryKind, HardState},
    error::ReadError,
    log::Log,
    store::RecoveredGroup,
};

/// One call of append.
#[derive(Clone, Debug)]
pub(super) struct Appended {
    pub(super) entries: Vec<Entry>,
    pub(super) hard_state: Option<HardState>,
}

/// A log and a hard state, as they were at some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    pub(super) entries: Vec<Entry>,
    pub(super) hard_state: HardState,
}

impl Moment {
    fn append(&mut self, entry: &Entry) {
        self.entries.truncate(usize::try_from(entry.index.get() - 1).unwrap());
        self.entries.push(entry.clone());
    }

    pub(super) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn last_term(&self) -> u64 {
        self.entries.last().map_or(0, |entry| entry.term.get())
    }

    /// The batches of the entries up to `last`.
    pub(super) fn batches(&self, last: u64) -> Vec<(Offset, Offset, Bytes)> {
        let entries = self.entries.iter().filter(|e| e.index.get() <= last && e.kind == EntryKind::Batches);
        let batches = entries.flat_map(|entry| {
            BatchIter::packed(&entry.payload).map(|batch| {
                let batch = batch.unwrap();
                (batch.header.base_offset, batch.header.next_offset(), entry.payload.slice_ref(batch.bytes))
            })
        });
        batches.collect()
    }

    pub(super) fn next_offset(&self, last: u64) -> u64 {
        self.batches(last).last().map_or(0, |(_, next, _)| next.get())
    }
}

/// A group as its owner knows it.
#[derive(Clone, Debug)]
pub(super) struct GroupModel {
    pub(super) topic_partition: TopicPartition,
    pub(super) history: Vec<Appended>,
    /// How many of them were reported durable.
    pub(super) durable: usize,
    /// How many were not appended to the store that is open.
    pub(super) taken_before: usize,
    /// The end of the history.
    pub(super) now: Moment,
    /// What was reported persisted.
    pub(super) persisted: u64,
    pub(super) committed: u64,
    /// The commands among the committed entries.
    pub(super) rolls: BTreeSet<u64>,
    pub(super) log_starts: BTreeMap<u64, u64>,
}

impl GroupModel {
    pub(super) fn new(topic_partition: TopicPartition) -> Self {
        Self {
            topic_partition,
            history: Vec::new(),
            durable: 0,
            taken_before: 0,
            now: Moment::default(),
            persisted: 0,
            committed: 0,
            rolls: BTreeSet::new(),
            log_starts: BTreeMap::new(),
        }
    }

    /// One that goes on from what a recovery found.
    pub(super) fn recovered(&self, found: &RecoveredGroup, moment: Moment) -> Self {
        Self {
            history: vec![Appended { entries: moment.entries.clone(), hard_state: Some(moment.hard_state) }],
            durable: 1,
            taken_before: 1,
            persisted: moment.last(),
            committed: found.applied.get(),
            now: moment,
            ..self.clone()
        }
    }

    pub(super) fn append(&mut self, appended: Appended) {
        appended.entries.iter().for_each(|entry| self.now.append(entry));
        self.now.hard_state = appended.hard_state.unwrap_or(self.now.hard_state);
        if let Some(first) = appended.entries.first() {
            self.persisted = self.persisted.min(first.index.get() - 1);
        }
        self.history.push(appended);
    }

    /// Everything that a crash now may leave: the log after any number of appends, all that were reported durable and
    /// perhaps more, the last of them perhaps in part.
    fn moments(&self) -> Vec<Moment> {
        let mut moments = Vec::new();
        let mut moment = Moment::default();
        for (number, append) in (1..).zip(&self.history) {
            for entry in &append.entries {
                if number > self.durable {
                    moments.push(moment.clone());
                }
                moment.append(entry);
            }
            if number > self.durable {
                moments.push(moment.clone());
            }
            moment.hard_state = append.hard_state.unwrap_or(moment.hard_state);
            if number == self.durable {
                moments.clear();
            }
        }
        moments.push(moment);
        moments
    }

    /// Proves that a recovered group is as it may be; the moment that it is at. With `damage_allowed`, reads may report
    /// damage, but nothing else may differ.
    pub(super) fn check(&self, found: &RecoveredGroup, damage_allowed: bool) -> Moment {
        let log = &found.log;
        let context = || {
            format!(
                "group {}: {:?}, {:?}, applied {}; model: {} of {} appends durable, last {} of term {}, {:?}",
                found.group,
                log.stats(),
                found.hard_state,
                found.applied,
                self.durable,
                self.history.len(),
                self.now.last(),
                self.now.last_term(),
                self.now.hard_state,
            )
        };
        assert_eq!(found.topic_partition, self.topic_partition);
        assert!(found.applied.get() <= self.committed, "applied more than was: {}", context());
        assert_eq!(found.app_state, app_state(found.group, found.applied.get()), "{}", context());

        let (first, last) = (log.first_index().get(), log.last_index().get());
        let terms = |moment: &Moment| {
            moment.last() == last
                && (first..=last).all(|index| {
                    let expected = moment.entries[usize::try_from(index - 1).unwrap()].term;
                    log.term(LogIndex(index)).unwrap() == expected
                })
        };
        let hard_state = |moment: &Moment| {
            let commit = moment.hard_state.commit.max(found.applied).min(LogIndex(last));
            found.hard_state == HardState { commit, ..moment.hard_state }
        };
        let moments = self.moments();
        assert!(moments.iter().any(terms), "the log is as it never was: {}", context());
        let moment = moments.into_iter().rev().find(|moment| terms(moment) && hard_state(moment));
        let mut moment = moment.unwrap_or_else(|| panic!("the hard state is as it never was: {}", context()));
        assert!(last >= self.persisted, "what was reported persisted is gone: {}", context());
        moment.hard_state = found.hard_state;
        self.check_log(log, &moment, found.hard_state.commit.get(), damage_allowed);

        let start_of = |applied: u64| self.log_starts.range(..=applied).map(|(_, start)| *start).max().unwrap_or(0);
        let log_start = log.log_start().get();
        assert!((start_of(found.applied.get())..=start_of(self.committed)).contains(&log_start), "{}", context());
        moment
    }

    /// Proves that a log has these entries, and serves the batches of those up to `committed`.
    pub(super) fn check_log(&self, log: &Log, moment: &Moment, committed: u64, damage_allowed: bool) {
        assert_eq!(log.last_index().get(), moment.last());
        let mut low = log.first_index().get();
        assert!(low <= moment.last() + 1);
        if low > 1 {
            let before = &moment.entries[usize::try_from(low - 2).unwrap()];
            assert_eq!(log.term(LogIndex(low - 1)).unwrap(), before.term);
        }
        while low <= moment.last() {
            let Ok(entries) = log.entries(LogIndex(low), LogIndex(moment.last() + 1), 4000) else {
                assert!(damage_allowed, "{:?}", log.entries(LogIndex(low), LogIndex(low + 1), 1));
                low += 1;
                continue;
            };
            assert!(!entries.is_empty());
            for entry in entries {
                assert_eq!(entry, moment.entries[usize::try_from(low - 1).unwrap()]);
                low += 1;
            }
        }
        let high_watermark = moment.next_offset(committed);
        let expected = moment.batches(committed);
        let mut offset = log.log_start().get();
        while offset < high_watermark {
            match log.read(Offset(offset), 3000, Offset(high_watermark)) {
                Ok(read) => {
                    let at = expected.iter().position(|(_, next, _)| next.get() > offset).unwrap();
                    let same = expected[at..at + read.batches.len()].iter().map(|(_, _, bytes)| bytes);
                    assert!(!read.batches.is_empty() && read.batches.iter().eq(same), "offset {offset}");
                    offset = read.next_offset.get();
                }
                Err(ReadError::Damaged(damage)) if damage_allowed => {
                    assert!(damage.offsets.start.get() <= offset, "{damage}");
                    offset += 1;
                }
                Err(error) => panic!("offset {offset}: {error}"),
            }
        }
    }

    /// The next entries of the log, of these shapes, in a term.
    pub(super) fn make(&self, keep: u64, term: u64, shapes: &[u64]) -> Vec<Entry> {
        let mut offset = self.now.next_offset(keep);
        let mut made = Vec::new();
        for (index, shape) in (keep + 1..).zip(shapes) {
            let mut next = |records: u32, bytes: u64| {
                offset += u64::from(records);
                crate::testing::batch(offset - u64::from(records), records, usize::try_from(bytes).unwrap())
            };
            // As new leaders begin; of shapes that are drawn, not of those that a test names.
            let drawn = shape >> 40;
            let begins = drawn > 0 && if index <= 2 { drawn % 2 == 0 } else { drawn % 5 == 0 };
            made.push(match shape % 5 {
                _ if begins => crate::testing::control(index, term, EntryKind::Empty, b""),
                0 => crate::testing::control(index, term, EntryKind::Command, b"command"),
                1 => crate::testing::batches(index, term, &[next(1, shape % 100)]),
                2 => crate::testing::batches(index, term, &[next(1, 5), next(2, shape % 400), next(1, 0)]),
                3 => crate::testing::batches(index, term, &[next(5, shape % 900)]),
                _ => crate::testing::batches(index, term, &[next(3, 1000 + shape % 3000)]),
            });
        }
        made
    }

    pub(super) fn hard_state(&self, term: u64, vote: u64) -> HardState {
        HardState { term: Term(term), vote, commit: LogIndex(self.committed) }
    }
}

/// The state machine of a group, as of an entry.
pub(super) fn app_state(group: GroupId, applied: u64) -> Bytes {
    if applied == 0 { Bytes::new() } else { Bytes::from(format!("{group} after {applied}")) }
}
