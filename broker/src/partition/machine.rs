//! A partition's state machine: what applying its log gives, the same on every replica.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use levada_protocol::{
    batch::BatchIter,
    ids::{LogIndex, NodeId, Offset, ReplicaId},
    messages::metadata as wire,
};
use levada_storage_engine::{
    entry::EntryKind,
    log::LogStats,
    planted::{self, Planted},
    store::Store,
};
use prost::Message as _;

use super::{
    coordinating::{self, Coordinating, GROUPS_TOPIC_ID},
    leading::Leading,
    producers::Producers,
};
use crate::{
    cluster::{
        metadata::{self, Topic},
        view::PartitionView,
    },
    raft::group::Group,
};

/// What a checkpoint kept of a partition does not parse.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The partition's own.
    #[error(transparent)]
    Partition(#[from] prost::DecodeError),
    /// Its groups.
    #[error(transparent)]
    Groups(#[from] levada_groups::wire::Malformed),
}

/// A partition with a replica on this node.
///
/// Invariants: `next_offset`, `log_start`, `producers`, `groups` and `segment_ends_ms` are what the entries up to `applied` give;
/// `leading` is there only while raft leads in its term and the first entry of that term is applied.
#[derive(Debug)]
pub struct Partition {
    /// Its raft group.
    pub group: Group,
    /// The topic it belongs to, with its settings.
    pub topic: Arc<Topic>,
    /// What readers see.
    pub view: Arc<PartitionView>,
    /// As leader.
    pub leading: Option<Leading>,
    /// A segment roll is proposed and not applied yet.
    pub roll_pending: bool,
    /// A log start is proposed and not applied yet.
    pub log_start_pending: bool,
    /// Its group consists of the replicas that it is to have; unset whenever either changes.
    pub settled: bool,
    /// As leader: since which tick a replica has not answered.
    pub absent: BTreeMap<ReplicaId, u64>,
    /// As leader: since which tick a replica answers and needs what no log has any more.
    pub stranded: BTreeMap<ReplicaId, u64>,
    /// As leader of a coordinator partition.
    pub(super) coordinating: Coordinating,
    /// Of a coordinator partition: the groups.
    pub(super) groups: Option<levada_groups::state::State>,
    applied: LogIndex,
    next_offset: Offset,
    log_start: Offset,
    producers: Producers,
    /// When the segment that ends at an offset was rolled, by its leader's clock: those above the log start, and the last.
    segment_ends_ms: BTreeMap<Offset, i64>,
}

impl Partition {
    /// At `applied`, with the state a checkpoint kept of it (empty for a new partition).
    ///
    /// # Errors
    /// The state does not parse.
    pub fn new(
        group: Group,
        topic: Arc<Topic>,
        view: Arc<PartitionView>,
        applied: LogIndex,
        state: Bytes,
    ) -> Result<Self, StateError> {
        let state = wire::PartitionState::decode(state)?;
        let coordinates = topic.id == *GROUPS_TOPIC_ID;
        let groups = coordinates.then(|| levada_groups::wire::decode_state(state.groups)).transpose()?;
        let partition = Self {
            group,
            topic,
            view,
            leading: None,
            roll_pending: false,
            log_start_pending: false,
            settled: false,
            absent: BTreeMap::new(),
            stranded: BTreeMap::new(),
            coordinating: Coordinating::default(),
            groups,
            applied,
            next_offset: Offset(state.next_offset),
            log_start: Offset(state.log_start_offset),
            producers: Producers::from_wire(state.producers),
            segment_ends_ms: state.segment_ends.iter().map(|end| (Offset(end.offset), end.time_ms)).collect(),
        };
        partition.view.state.send_modify(|view| {
            view.high_watermark = partition.next_offset;
            view.log_start = partition.log_start;
        });
        Ok(partition)
    }

    /// Applied up to here.
    #[must_use]
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// What its log can tell about itself.
    #[must_use]
    pub fn log_stats(&self) -> LogStats {
        self.view.log.stats()
    }

    /// When the segment that ends at an offset was rolled, by its leader's clock: not before its records were appended.
    #[must_use]
    pub const fn segment_ends_ms(&self) -> &BTreeMap<Offset, i64> {
        &self.segment_ends_ms
    }

    /// What the metadata says of it.
    #[must_use]
    pub fn placed(&self) -> Option<&metadata::Partition> {
        self.topic.partition(self.view.partition.partition)
    }

    /// The node that should lead it: the first of the replicas that it is to have.
    #[must_use]
    pub fn preferred(&self) -> Option<NodeId> {
        self.placed()?.wanted().first().map(|replica| replica.node)
    }

    /// Its topic is another now, or its replicas are to be. Answers whether that is something new for this partition.
    pub fn set_topic(&mut self, topic: Arc<Topic>) -> bool {
        let before = std::mem::replace(&mut self.topic, topic);
        let number = self.view.partition.partition;
        if before.config == self.topic.config && before.partition(number) == self.placed() {
            return false;
        }
        self.settled = false;
        if let Some(placed) = self.placed() {
            let replicas = placed.everybody();
            self.group.set_replicas(replicas);
        }
        true
    }

    /// The state at [`Partition::applied`], as a checkpoint keeps it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let state = wire::PartitionState {
            next_offset: self.next_offset.get(),
            log_start_offset: self.log_start.get(),
            producers: if planted::is(Planted::ProducersNotCheckpointed) {
                Vec::new()
            } else {
                self.producers.to_wire()
            },
            segment_ends: self
                .segment_ends_ms
                .iter()
                .map(|(offset, &time_ms)| wire::SegmentEnd { offset: offset.get(), time_ms })
                .collect(),
            groups: self.groups.as_ref().map(levada_groups::wire::encode_state).unwrap_or_default(),
        };
        state.encode_to_vec().into()
    }

    /// Applies one committed entry.
    ///
    /// # Panics
    /// When the entry does not follow the last one, or does not parse: replicas must not differ, so this is the end.
    pub fn apply(&mut self, index: LogIndex, kind: EntryKind, payload: &Bytes, store: &mut Store) {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
        match kind {
            EntryKind::Empty => {}
            EntryKind::Batches => self.apply_batches(index, payload),
            EntryKind::Command => {
                let command = wire::PartitionCommand::decode(payload.clone()).expect("the leader made this command");
                self.apply_command(index, command, store);
            }
            EntryKind::ConfChange => {
                self.group.apply_change(payload);
                self.settled = false;
            }
        }
    }

    fn apply_batches(&mut self, index: LogIndex, payload: &Bytes) {
        for batch in BatchIter::packed(payload) {
            let batch = batch.expect("the leader packed whole batches");
            let header = batch.header;
            assert_eq!(header.base_offset, self.next_offset, "offsets have no gaps");
            self.producers.record(&header, header.base_offset, index);
            self.next_offset = header.base_offset.plus(u64::from(header.last_offset_delta) + 1);
            if let Some(groups) = &mut self.groups {
                coordinating::apply(groups, &payload.slice_ref(batch.bytes));
            }
        }
    }

    fn apply_command(&mut self, index: LogIndex, command: wire::PartitionCommand, store: &mut Store) {
        match command.kind.expect("a command has content") {
            wire::partition_command::Kind::Roll(roll) => {
                self.roll_pending = false;
                if let Some(time_ms) = roll.time_ms {
                    self.segment_ends_ms.insert(self.next_offset, time_ms);
                }
                store.roll(self.group.id(), index);
            }
            wire::partition_command::Kind::LogStart(start) => {
                self.log_start_pending = false;
                self.log_start = self.log_start.max(Offset(start.offset)).min(self.next_offset);
                while self.segment_ends_ms.len() > 1
                    && let Some(first) = self.segment_ends_ms.first_entry()
                    && *first.key() <= self.log_start
                {
                    first.remove();
                }
                store.set_log_start(self.group.id(), self.log_start);
            }
        }
    }

    /// Makes applied state visible to readers, and begins to lead when the first entry of the term is applied.
    pub fn publish(&mut self, first_of_term_applied: bool) {
        if self.leading.is_none() && first_of_term_applied {
            let forgets = planted::is(Planted::ProducersForgotten);
            let producers = if forgets { Producers::default() } else { self.producers.clone() };
            let leading = Leading::new(self.group.term(), self.next_offset, producers);
            self.leading = Some(leading);
        }
        let (high_watermark, log_start) = (self.next_offset, self.log_start);
        let (leading, term) = (self.leading.is_some(), self.group.term());
        self.view.state.send_if_modified(|view| {
            let before = *view;
            let falls = planted::is(Planted::HighWatermarkFalls);
            view.high_watermark = if falls { high_watermark } else { view.high_watermark.max(high_watermark) };
            view.log_start = log_start;
            view.leading = leading;
            view.term = term;
            *view != before
        });
    }

    /// It leads no more; what it had proposed may never be applied.
    pub fn step_down(&mut self) -> Option<Leading> {
        self.roll_pending = false;
        self.log_start_pending = false;
        self.settled = false;
        self.absent.clear();
        self.stranded.clear();
        self.coordinating.end();
        self.leading.take()
    }

    /// As leader: more is committed than is applied here.
    pub fn raise_high_watermark(&self, high_watermark: Offset) {
        self.view.state.send_if_modified(|view| {
            let raised = view.high_watermark < high_watermark;
            view.high_watermark = view.high_watermark.max(high_watermark);
            raised
        });
    }
}
