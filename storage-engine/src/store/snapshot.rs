//! Where a group stands, to be told to another node: what the last checkpoint says of it.
//!
//! It holds the state machine and the membership as of an entry, and names the segments that hold the entries before it.
//! Segments are equal on all replicas, byte for byte, so they are not part of it: whoever wants to become a replica copies
//! their files from any node that has them (`incoming.rs`), and checks them against what is said here.

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Offset, Term, TopicPartition};

use super::{
    SegmentSpec, Store,
    recovery::{RecoveredGroup, recovered_group},
};
use crate::{
    checkpoint::{Checkpoint, GroupRecord},
    codec::Decoder,
    disk::Disk,
    entry::HardState,
    error::{DamageCause, OpenError},
    identity::DirIdentity,
    journal::JournalId,
    log::writer::{LogRecord, Seam, SegmentRecord},
};

const WHAT: &str = "a group's snapshot";

/// Where a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(super) record: GroupRecord,
}

/// A state machine of which no entries are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// Whose log it is.
    pub topic_partition: TopicPartition,
    /// The last entry applied.
    pub applied: LogIndex,
    /// Its term.
    pub term: Term,
    /// The membership as of that entry.
    pub conf_state: Bytes,
    /// The state machine as of that entry.
    pub app_state: Bytes,
}

impl GroupState {
    /// A replica that begins with it, behind this block.
    pub(super) fn record(self, born: Lsn) -> GroupRecord {
        let start = Seam { index: self.applied.next(), offset: Offset(0), previous_crc: 0, generation: 0 };
        GroupRecord {
            group: self.group,
            topic_partition: self.topic_partition,
            hard_state: HardState { term: self.term, vote: 0, commit: self.applied },
            applied: self.applied,
            born,
            log: LogRecord { log_start: Offset(0), start, term_before: self.term, ..LogRecord::EMPTY },
            conf_state: self.conf_state,
            app_state: self.app_state,
        }
    }
}

impl Snapshot {
    pub(super) const fn new(record: GroupRecord) -> Self {
        Self { record }
    }

    /// The group.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.record.group
    }

    /// Whose log it is.
    #[must_use]
    pub const fn topic_partition(&self) -> TopicPartition {
        self.record.topic_partition
    }

    /// The last entry that its states are as of, and its segments end with.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.record.applied
    }

    /// The membership as of that entry.
    #[must_use]
    pub const fn conf_state(&self) -> &Bytes {
        &self.record.conf_state
    }

    /// The same with another membership.
    #[must_use]
    pub fn with_conf_state(mut self, conf_state: Bytes) -> Self {
        self.record.conf_state = conf_state;
        self
    }

    /// The first entry that its segments hold.
    #[must_use]
    pub const fn first_index(&self) -> LogIndex {
        self.record.log.start.index
    }

    /// The offset that follows it.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.record.log.end().offset
    }

    /// The state machine as of that entry.
    #[must_use]
    pub const fn app_state(&self) -> &Bytes {
        &self.record.app_state
    }

    /// Its segments, from the oldest.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentSpec> {
        let record = &self.record;
        let segment = |segment: &SegmentRecord| {
            let header = segment.start.header(record.group, record.topic_partition);
            SegmentSpec { header, end: segment.end, sealed: segment.sealed }
        };
        record.log.segments.iter().map(segment).collect()
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.record.encode_newest(&mut out);
        out.into()
    }

    /// From bytes.
    ///
    /// # Errors
    /// They are none, or contradict themselves.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamageCause> {
        let mut fields = Decoder::new(bytes);
        let record = GroupRecord::decode(&mut fields).filter(|_| fields.remaining() == 0);
        let record = record.ok_or(DamageCause::Short(WHAT))?;
        let (start, terms) = (record.log.start.index, &record.log.terms);
        let rise = terms.windows(2).all(|pair| matches!(pair, [a, b] if a.0 < b.0 && a.1 < b.1));
        let follow = terms.first().is_none_or(|(index, term)| *index >= start && *term >= record.log.term_before);
        if start < LogIndex(1) || !rise || !follow || terms.last().is_some_and(|(index, _)| *index > record.applied) {
            return Err(DamageCause::Field { field: "a term in a snapshot", value: start.get() });
        }
        let ends = record.log.segments.iter().map(|segment| (segment.start, segment.end));
        if ends.clone().any(|(start, end)| end.index < start.index || end.offset < start.offset) {
            return Err(DamageCause::Field { field: "a segment in a snapshot", value: record.applied.get() });
        }
        if record.log.end().index.get().checked_sub(1) != Some(record.applied.get()) {
            return Err(DamageCause::Field { field: "a snapshot's last entry", value: record.applied.get() });
        }
        Ok(Self { record })
    }

    /// The hard state of a replica that knows nothing beyond it, and has voted for nobody.
    pub(super) fn first_hard_state(&self) -> HardState {
        let log = &self.record.log;
        let term = log.terms.last().map_or(log.term_before, |(_, term)| *term);
        HardState { term, vote: 0, commit: self.record.applied }
    }
}

impl Store {
    /// Where a group stood when the last checkpoint captured it.
    #[must_use]
    pub fn snapshot(&self, group: GroupId) -> Option<Snapshot> {
        self.groups.get(&group).map(|group| Snapshot::new(super::checkpointing::record(group)))
    }

    /// A group as a restart would find it, if the last checkpoint were all there is.
    #[must_use]
    pub fn as_recovered(&self, group: GroupId) -> Option<RecoveredGroup> {
        self.groups.get(&group).map(|group| recovered_group(group, &self.doubt))
    }

    /// Formats an empty directory as that of a node that joins: one group stands where somebody else says, without its
    /// entries.
    ///
    /// # Errors
    /// It is not empty, or the disk refuses.
    pub fn format_joining(
        disk: &dyn Disk,
        identity: &DirIdentity,
        journal: JournalId,
        state: GroupState,
    ) -> Result<(), OpenError> {
        let checkpoint = Checkpoint { groups: vec![state.record(Lsn(0))], ..Checkpoint::empty(identity.incarnation) };
        identity.format_with(disk, journal, &checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With these of its numbers (where the log starts, the generation before, what is applied), as its bytes.
    fn bytes(start: u64, generation: u32, applied: u64) -> Bytes {
        let start = Seam { index: LogIndex(start), generation, ..Seam::START };
        let record = GroupRecord {
            group: GroupId(9),
            topic_partition: crate::testing::TOPIC_PARTITION,
            hard_state: HardState::default(),
            applied: LogIndex(applied),
            born: Lsn(0),
            log: LogRecord { start, ..LogRecord::EMPTY },
            conf_state: Bytes::new(),
            app_state: Bytes::new(),
        };
        Snapshot::new(record).encode()
    }

    #[test]
    fn numbers_that_nothing_can_follow_are_refused() {
        Snapshot::decode(&bytes(11, 3, 10)).unwrap();
        for (start, generation, applied) in [(11, u32::MAX, 10), (u64::MAX, 3, u64::MAX), (1, 3, u64::MAX)] {
            assert!(Snapshot::decode(&bytes(start, generation, applied)).is_err());
        }
    }
}
