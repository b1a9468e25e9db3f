//! A partition without a majority goes on from one replica, when an operator has said so (`cluster/recovery.rs`).
//!
//! The metadata names the survivor. On its node the group's membership becomes the survivor alone, which stands in no log.
//! Two leaders that know of different memberships would be the end of everything, so:
//!
//! - It is **durable first**: a checkpoint has the new membership before raft does. Whatever is applied again after a restart
//!   is applied to it.
//! - It is done **once**: when nobody in the group is left who is given up, it was done ([`Recovery::is_due`]).
//! - A survivor that **leads** once more with those that are given up, before their nodes have heard of it, brings nobody
//!   new into the group: those would begin from what it was.
//! - Whoever **follows** begins from a state that has it: a snapshot of the group as it was is refused.
//! - **Those that are given up** are not listened to: their numbers are not known to the metadata any more.
//!
//! Where no sound replica is left, one in doubt does the same in another way (`reclaiming.rs`).
//!
//! [`Recovery::is_due`]: crate::cluster::metadata::Recovery::is_due

use std::{collections::BTreeSet, ops::Range};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, Offset, ReplicaId},
};

use levada_storage_engine::log::Log;

use super::Node;
use crate::{
    cluster::{
        metadata,
        recovery::{ReplicaReport, ReplicaState},
    },
    partition::machine::Partition,
    raft::group::Group,
};

/// Groups here that are about to go on alone.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// No checkpoint has their new membership.
    waiting: BTreeSet<GroupId>,
    /// The one under way has it.
    captured: BTreeSet<GroupId>,
}

impl Alone {
    /// Whether the checkpoint that begins is to have the group with its new membership.
    pub(super) fn capture(&mut self, partition: &Partition) -> bool {
        let group = partition.group.id();
        is_ready(partition) && self.waiting.remove(&group) && self.captured.insert(group)
    }
}

impl Node {
    /// Looks which groups are to go on alone, and begins: the rest follows as soon as they are ready.
    pub(super) fn look_for_survivors(&mut self) {
        for id in self.sleepers.awake() {
            let Some(partition) = self.partitions.get_mut(&id).filter(|partition| is_left_alone(partition)) else {
                continue;
            };
            if !self.alone.captured.contains(&id) && self.alone.waiting.insert(id) {
                // Durable before the membership is: whoever starts with that goes on in a later term, too.
                partition.group.skip_terms(0);
                self.dirty.insert(id);
            }
        }
        let partitions = &self.partitions;
        self.alone.waiting.retain(|id| partitions.get(id).is_some_and(is_left_alone));
    }

    /// At the end of a round: whether the next checkpoint can have one of them with its new membership. Only then raft has nothing to
    /// hand out: a group that hears of nobody asks for votes again and again, and may do so in every tick in which it is looked at.
    pub(super) fn survivors_are_ready(&mut self) -> bool {
        let is_ready = |id: &&GroupId| self.partitions.get(*id).is_some_and(is_ready);
        let ready: Vec<GroupId> = self.alone.waiting.iter().filter(is_ready).copied().collect();
        // The last checkpoint captured it as it was.
        ready.iter().for_each(|id| self.store.recapture(*id));
        !ready.is_empty()
    }

    /// The checkpoint under way is durable.
    pub(super) fn go_alone(&mut self) {
        for id in std::mem::take(&mut self.alone.captured) {
            let Some(partition) = self.partitions.get_mut(&id).filter(|partition| is_left_alone(partition)) else {
                // Somebody leads it again: the next checkpoint is to say what is so.
                self.store.recapture(id);
                continue;
            };
            tracing::warn!(
                group = id.get(),
                replica = %partition.group.replica(),
                conf = ?partition.group.conf(),
                last = %partition.group.last_index(),
                "partition.recovered: this replica goes on alone, the others are given up"
            );
            partition.group.go_alone();
            if let Some(placed) = partition.placed() {
                let replicas = placed.everybody();
                partition.group.set_replicas(replicas);
            }
            self.dirty.insert(id);
        }
    }

    /// What this node has of a partition.
    ///
    /// # Errors
    /// `NotReady`: it has started, and does not know yet to which partition what it has belongs.
    pub(super) fn describe_replica(&self, group: GroupId) -> Result<ReplicaReport> {
        if group == GroupId::METADATA {
            return Ok(report(&self.controller.group));
        }
        if self.dormant.contains_key(&group) {
            let why = format!("node {} has something of raft group {group}, and is starting", self.config.node);
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        let open = self.partitions.get(&group);
        let (state, replica) = match (open, self.lost.get(&group), self.copies.replica(group)) {
            (Some(open), ..) => (ReplicaState::Sound, open.group.replica()),
            (None, Some(lost), _) => (ReplicaState::Lost, *lost),
            (None, None, Some(arriving)) => (ReplicaState::Arriving, arriving),
            (None, None, None) => return Ok(ReplicaReport::default()),
        };
        // What is kept of the one before an arriving one is not its own.
        let log = self.store.log(group).filter(|_| state != ReplicaState::Arriving);
        let doubt = if state == ReplicaState::Lost { self.doubt_about(group) } else { None };
        let committed = open.map(|open| open.view.state.borrow().high_watermark);
        let last_index = log.map(Log::last_index).unwrap_or_default();
        let last_term = log.and_then(|log| log.term(last_index).ok()).unwrap_or_default();
        Ok(ReplicaReport {
            state,
            replica,
            last: (last_term, last_index),
            log_start: log.map(Log::log_start).unwrap_or_default(),
            high_watermark: committed
                .or_else(|| doubt.and_then(|_| self.committed_in_doubt(group)))
                .unwrap_or_default(),
            end: log.map(Log::next_offset).unwrap_or_default(),
            damaged: log.map(|log| self.damaged_offsets(group, log)).unwrap_or_default(),
            doubt,
            ..open.map(|open| report(&open.group)).unwrap_or_default()
        })
    }

    /// What is in segments of a group that are known to be damaged.
    fn damaged_offsets(&self, group: GroupId, log: &Log) -> Vec<Range<Offset>> {
        let segments = log.segments().into_iter().filter(|segment| self.mends.is_damaged(group, segment.first_index));
        segments.map(|segment| segment.base_offset..segment.next_offset).collect()
    }

    /// Whether a replica is gone for good, whatever it says: the metadata gave it its number and does not know it any more.
    pub(super) fn is_gone(&self, group: GroupId, replica: ReplicaId) -> bool {
        let Some(partition) = self.partitions.get(&group) else { return false };
        let is_known = |placed: &metadata::Partition| placed.everybody().contains_key(&replica);
        !partition.group.has_member(replica)
            && self.controller.current().has_given(replica)
            && !partition.placed().is_some_and(is_known)
    }
}

/// What a sound replica says of itself, but for its records.
fn report(group: &Group) -> ReplicaReport {
    let last_index = group.last_index();
    ReplicaReport {
        state: ReplicaState::Sound,
        replica: group.replica(),
        leads: group.is_leader(),
        conf: group.conf().clone(),
        last: (group.log().term(last_index).unwrap_or_default(), last_index),
        ..ReplicaReport::default()
    }
}

/// Whether the group is to go on with this replica alone, and has nobody else who leads it.
fn is_left_alone(partition: &Partition) -> bool {
    let recovery = partition.placed().and_then(|placed| placed.recovery);
    recovery.is_some_and(|recovery| {
        recovery.survivor == partition.group.replica() && recovery.is_due(partition.group.conf())
    }) && partition.group.is_leaderless()
}

/// Whether it may do so now: a checkpoint can say it.
fn is_ready(partition: &Partition) -> bool {
    is_left_alone(partition) && partition.group.is_durable()
}
