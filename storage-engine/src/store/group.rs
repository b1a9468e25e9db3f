//! One group of a store: its log, its hard state, and which journal blocks it needs.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};
use levada_protocol::ids::{GroupId, LogIndex, Lsn, PartitionId, Term, TopicId, TopicPartition};

use super::StoreEvent;
use crate::{
    codec::Decoder,
    disk::FileName,
    entry::{Entry, EntryKind, HardState},
    error::AppendError,
    journal::{Append, Durable, JournalWriter},
    log::writer::{LogRecord, LogWriter},
    segment,
};

/// Entries of a group up to `last` (and above the run before) are in no block below `lsn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    last: LogIndex,
    lsn: Lsn,
}

/// What was given to the journal and is not durable yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Submitted {
    /// The entry that says whose log it is.
    Creation,
    /// An append of the group's owner.
    Append,
    /// Everything above the checkpoint up to this entry, once more; in no block below this.
    Again(Run),
}

/// Where a group stood when a checkpoint captured it.
#[derive(Clone, Debug)]
pub(super) struct Captured {
    pub(super) applied: LogIndex,
    pub(super) log: LogRecord,
    pub(super) conf_state: Bytes,
    pub(super) app_state: Bytes,
}

/// One raft group.
///
/// Invariant: `runs` rise in both `last` and `lsn`, and cover every entry above `captured.applied` that is durable.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) log: LogWriter,
    /// Whether this node is its leader.
    pub(super) led: bool,
    /// Since which tick it waits for more to be written with it, if it does.
    pub(super) waits_since: Option<u64>,
    /// The last hard state that is durable.
    pub(super) hard_state: HardState,
    /// What blocks up to this one have of a group of its number is an earlier replica's.
    pub(super) born: Lsn,
    /// The first checkpoint that may have it: what its owner said of other groups for an earlier one does not know it yet.
    pub(super) first_checkpoint: u64,
    /// What the next checkpoint says of it.
    pub(super) captured: Captured,
    /// It is not to say that any more, though nothing has been appended.
    pub(super) is_outdated: bool,
    /// The blocks that hold what no checkpoint has.
    runs: VecDeque<Run>,
    submitted: VecDeque<Submitted>,
    appends_durable: u64,
}

/// A run spans at most this many blocks; finer, the runs of a busy group would be too many.
const RUN_BLOCKS: u64 = 8;

impl Group {
    pub(super) const fn new(log: LogWriter) -> Self {
        let captured =
            Captured { applied: LogIndex(0), log: LogRecord::EMPTY, conf_state: Bytes::new(), app_state: Bytes::new() };
        Self {
            log,
            led: false,
            waits_since: None,
            hard_state: HardState { term: Term(0), vote: 0, commit: LogIndex(0) },
            born: Lsn(0),
            first_checkpoint: 0,
            captured,
            is_outdated: false,
            runs: VecDeque::new(),
            submitted: VecDeque::new(),
            appends_durable: 0,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.log.log().group()
    }

    pub(super) fn submit_creation(&mut self, journal: &mut JournalWriter) {
        let entry = creation_entry(self.log.log().topic_partition());
        journal.submit(Append { group: self.id(), entries: vec![entry], hard_state: None });
        self.submitted.push_back(Submitted::Creation);
    }

    pub(super) fn append(
        &mut self,
        journal: &mut JournalWriter,
        entries: Vec<Entry>,
        hard_state: Option<HardState>,
    ) -> Result<(), AppendError> {
        if entries.is_empty() && hard_state.is_none() {
            return Ok(());
        }
        self.log.append(&entries)?;
        journal.submit(Append { group: self.id(), entries, hard_state });
        self.submitted.push_back(Submitted::Append);
        Ok(())
    }

    /// A block with something of this group is durable.
    pub(super) fn durable(&mut self, lsn: Lsn, durable: &Durable) -> Option<StoreEvent> {
        if let Some((index, term)) = durable.last {
            self.log.persist(index, term);
            self.in_block(index, lsn);
        }
        if let Some(hard_state) = durable.hard_state {
            self.hard_state = hard_state;
        }
        let appends_before = self.appends_durable;
        for submitted in self.submitted.drain(..durable.appends) {
            match submitted {
                Submitted::Creation => {}
                Submitted::Append => self.appends_durable += 1,
                Submitted::Again(again) => {
                    // Runs that began before may have been extended since; what they cover beyond is not older.
                    let (old, new): (Vec<_>, _) = self.runs.drain(..).partition(|run| run.lsn < again.lsn);
                    let last = old.iter().map(|run| run.last).fold(again.last, LogIndex::max);
                    self.runs = std::iter::once(Run { last, ..again }).chain(new).collect();
                }
            }
        }
        let index = self.log.persisted();
        let has_news =
            durable.last.is_some_and(|(last, _)| last > LogIndex(0)) || appends_before < self.appends_durable;
        has_news.then(|| {
            let term = self.log.log().term(index).unwrap_or_default();
            StoreEvent::Persisted { group: self.id(), index, term, appends: self.appends_durable }
        })
    }

    /// Entries up to `last`, or what is left of them, are in block `lsn`.
    pub(super) fn in_block(&mut self, last: LogIndex, lsn: Lsn) {
        match self.runs.back_mut() {
            Some(run) if lsn.get() - run.lsn.get() < RUN_BLOCKS => run.last = run.last.max(last),
            _ => self.runs.push_back(Run { last, lsn }),
        }
    }

    /// Whether the checkpoint has everything but a few empty entries: it needs not have these.
    pub(super) fn rests(&self) -> bool {
        !self.is_outdated && self.captured.applied == self.log.written_to() && self.log.rests()
    }

    /// The first block that a recovery from `captured` needs, if it needs one.
    pub(super) fn needed_lsn(&mut self) -> Option<Lsn> {
        let applied = self.captured.applied;
        if self.log.log().last_index() == applied && self.submitted.is_empty() {
            self.runs.clear();
        }
        while self.runs.pop_front_if(|run| run.last <= applied).is_some() {}
        self.runs.front().map(|run| run.lsn)
    }

    /// Whether the checkpoint names this segment.
    pub(super) fn names(&self, file: &FileName) -> bool {
        let mut segments = self.captured.log.segments.iter();
        segments.any(|record| segment::file_name(self.id(), record.start.index) == *file)
    }

    /// Gives the journal everything above the checkpoint once more, so that the blocks that hold it are needed no longer.
    /// Not while something of the group is under way, nor if a part has left memory: then a checkpoint helps.
    pub(super) fn submit_again(&mut self, journal: &mut JournalWriter) -> bool {
        let (last, _) = self.log.last();
        let Some(entries) = self.log.in_memory(self.captured.applied.next()) else { return false };
        if entries.is_empty() || !self.submitted.is_empty() || self.log.persisted() != last {
            return false;
        }
        let run = Run { last, lsn: journal.next_lsn() };
        let creation = creation_entry(self.log.log().topic_partition());
        let entries = std::iter::once(creation).chain(entries).collect();
        journal.submit(Append { group: self.id(), entries, hard_state: None });
        self.submitted.push_back(Submitted::Again(run));
        true
    }

    /// How many appends the journal has not made durable.
    pub(super) fn submitted(&self) -> usize {
        self.submitted.len()
    }

    /// Whether entries are on their way into the journal once more.
    pub(super) fn is_submitted_again(&self) -> bool {
        self.submitted.iter().any(|submitted| matches!(submitted, Submitted::Again(_)))
    }
}

/// The entry before the first: whose log it is.
fn creation_entry(topic_partition: TopicPartition) -> Entry {
    let mut payload = Vec::with_capacity(20);
    payload.put_slice(&topic_partition.topic.to_bytes());
    payload.put_u32_le(topic_partition.partition.get());
    Entry { index: LogIndex(0), term: Term(0), kind: EntryKind::Command, payload: payload.into() }
}

/// Reads what [`creation_entry`] wrote.
pub(super) fn created(entry: &Entry) -> Option<TopicPartition> {
    let mut fields = Decoder::new(&entry.payload);
    let topic = TopicId::from_bytes(fields.array()?);
    Some(TopicPartition { topic, partition: PartitionId(fields.u32()?) })
}
