//! The partitions of a node: opening them, driving their groups, produce and bounds.

use std::sync::Arc;

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{GroupId, LogIndex, NodeId, ReplicaId, Term, TopicPartition},
    source::LogBounds,
};
use levada_storage_engine::{
    entry::HardState,
    planted::{self, Planted},
    store::{GroupInit, RecoveredGroup},
};
use tokio::sync::watch;

use super::{
    Node, NodeOpenError,
    copying::{Arrived, Source},
    event::{Answer, Effect, RequestId},
    reads::Read,
    recovered_applied,
    sleeping::Wake,
};
use crate::{
    cluster::{
        metadata::{self, Topic},
        topics::KnownTopics,
        view::{Leadership, PartitionView},
    },
    partition::{coordinating::GROUPS_TOPIC, machine::Partition},
    raft::{
        group::{Group, GroupStart},
        membership::{Conf, Membership},
        wire::{PeerMessage, kind_of},
    },
};

/// Ticks after which a new group's preferred leader asks for votes: time for the others to hear of the group.
const CAMPAIGN_TICKS: u64 = 3;

impl Node {
    /// Makes true what the metadata says of a topic's partitions: opens those that have a replica here, or begins to
    /// copy it, and closes those that have none any more.
    pub(super) fn open_topic(&mut self, topic: &Arc<Topic>, out: &mut Vec<Effect>) -> Result<(), NodeOpenError> {
        for partition in &topic.partitions {
            let place = TopicPartition { topic: topic.id, partition: partition.partition };
            let Some(own) = partition.on(self.config.node) else {
                let moved = Error::new(ErrorCode::NotLeader, format!("the replica of {place} here has moved away"));
                self.close(place, partition.group, &moved, out);
                continue;
            };
            self.open_replica(topic, partition, own.id, out)?;
        }
        Ok(())
    }

    fn open_replica(
        &mut self,
        topic: &Arc<Topic>,
        partition: &metadata::Partition,
        own: ReplicaId,
        out: &mut Vec<Effect>,
    ) -> Result<(), NodeOpenError> {
        let group = partition.group;
        let place = TopicPartition { topic: topic.id, partition: partition.partition };
        if let Some(open) = self.partitions.get_mut(&group).filter(|open| open.group.replica() == own) {
            if open.set_topic(Arc::clone(topic)) {
                self.wake(group, Wake::Upkeep);
            }
            return Ok(());
        }
        if self.lost.get(&group) == Some(&own) {
            return Ok(());
        }
        // As it was made. A replica that was added later has come by a copy, and says so itself.
        let first = |replica| {
            let voters = partition.first().iter().map(|replica| replica.id);
            Membership { replica, conf: Conf::of(voters) }
        };
        let first_here = partition.first().iter().find(|replica| replica.node == self.config.node);
        let first_here = first_here.map(|replica| first(replica.id));
        let recovered = self.dormant.remove(&group);
        let found = match &recovered {
            Some(found) => {
                let known = Membership::decode(&found.conf_state);
                known.map_err(|error| NodeOpenError::State { group, why: error.to_string() })?.or(first_here)
            }
            // It has stored nothing yet, or nothing that could be recovered.
            None if self.partitions.contains_key(&group) || self.copies.replica(group).is_some() => None,
            None => first_here.filter(|_| !self.store.is_leaving(group)),
        };
        match found {
            Some(found)
                if found.replica == own
                    && recovered.is_none()
                    && self.controller.current().may_have_been_removed(group) =>
            {
                tracing::error!(group = group.get(), %place, "partition.damaged: nothing of this replica is here, and nobody knows whether it was");
                self.lost.insert(group, own);
                Ok(())
            }
            Some(found) if found.replica == own && self.store.doubts(group) && !planted::is(Planted::DoubtIgnored) => {
                // Whatever is left of it: it may have voted, or acknowledged what is gone.
                tracing::error!(group = group.get(), %place, "partition.damaged: this replica takes no part any more");
                self.lost.insert(group, own);
                Ok(())
            }
            Some(found) if found.replica == own => self.open_group(topic, partition, found, recovered.as_ref()),
            _ => {
                self.copy_replica(partition, place, own, out);
                Ok(())
            }
        }
    }

    /// Another replica than the one that was here, if there was one, comes into being.
    fn copy_replica(
        &mut self,
        partition: &metadata::Partition,
        place: TopicPartition,
        own: ReplicaId,
        out: &mut Vec<Effect>,
    ) {
        let group = partition.group;
        if self.store.kept_to(group).is_some() {
            // It stays until the new one has what it has. Nobody has opened it.
            self.lost.remove(&group);
        } else if self.copies.replica(group).is_none() {
            let why = format!("the replica of {place} here is replaced by another");
            self.close(place, group, &Error::new(ErrorCode::NotReady, why), out);
        }
        // Not the preferred leader first. Replicas that are only to be may have everything already.
        let mut nodes: Vec<NodeId> = partition.replicas.iter().rev().map(|replica| replica.node).collect();
        nodes.extend(
            partition.everybody().into_values().filter(|node| !partition.replicas.iter().any(|r| r.node == *node)),
        );
        nodes.retain(|node| *node != self.config.node);
        let source = Source { nodes, replica: own };
        self.copies.begin(group, source, &mut self.store);
    }

    /// A replica has come into being: from now on it is one like any other.
    pub(super) fn open_arrived(&mut self, arrived: Arrived) -> Result<(), NodeOpenError> {
        let Arrived { group, snapshot } = arrived;
        if let Some(replica) = self.open_as_stored(group)? {
            tracing::info!(group = group.get(), %replica, applied = %snapshot.applied(), "copy.complete");
        }
        Ok(())
    }

    /// A replica begins that only the store has so far; which one that is, if the metadata has a place for it.
    pub(super) fn open_as_stored(&mut self, group: GroupId) -> Result<Option<ReplicaId>, NodeOpenError> {
        let metadata = self.controller.metadata();
        let place = metadata.partition_of(group);
        let topic = place.and_then(|place| metadata.topic_by_id(place.topic)).cloned();
        let (Some(place), Some(topic), Some(stored)) = (place, topic, self.store.as_recovered(group)) else {
            return Ok(None);
        };
        let membership = Membership::decode(&stored.conf_state);
        let membership = membership.map_err(|error| NodeOpenError::State { group, why: error.to_string() })?;
        let (Some(partition), Some(membership)) = (topic.partition(place.partition), membership) else {
            return Ok(None);
        };
        let replica = membership.replica;
        self.open_group(&topic, partition, membership, Some(&stored))?;
        Ok(Some(replica))
    }

    fn open_group(
        &mut self,
        topic: &Arc<Topic>,
        partition: &metadata::Partition,
        membership: Membership,
        recovered: Option<&RecoveredGroup>,
    ) -> Result<(), NodeOpenError> {
        let group = partition.group;
        let place = TopicPartition { topic: topic.id, partition: partition.partition };
        let applied = recovered_applied(recovered);
        let log = self.store.create_group(GroupInit { group, topic: topic.id, partition: partition.partition });
        let (hard_state, state) =
            recovered.map_or_else(Default::default, |found| (found.hard_state, found.app_state.clone()));
        let fresh = hard_state == HardState::default() && log.last_index() == LogIndex(0);
        let start = GroupStart {
            group,
            replica: membership.replica,
            conf: membership.conf,
            replicas: partition.everybody(),
            log: log.clone(),
            hard_state,
            applied,
        };
        let raft =
            Group::start(start, &self.logger).map_err(|error| NodeOpenError::Raft { group, why: error.to_string() })?;
        let view = Arc::new(PartitionView {
            partition: place,
            group,
            replica: membership.replica,
            log,
            state: watch::Sender::default(),
            behind: std::sync::RwLock::default(),
        });
        let machine = Partition::new(raft, Arc::clone(topic), Arc::clone(&view), applied, state)
            .map_err(|error| NodeOpenError::State { group, why: error.to_string() })?;
        if fresh && partition.replicas.first().is_some_and(|first| first.node == self.config.node) {
            self.campaigns.insert(group, self.ticks + CAMPAIGN_TICKS);
        }
        self.view.insert(view);
        self.places.insert(place, group);
        self.partitions.insert(group, machine);
        self.sleepers.open(group, self.ticks);
        self.dirty.insert(group);
        Ok(())
    }

    /// Closes the partitions of a topic that is gone and removes their files.
    pub(super) fn remove_topic(&mut self, topic: &Topic, out: &mut Vec<Effect>) {
        let gone = Error::new(ErrorCode::UnknownTopic, format!("topic {} was deleted", topic.name));
        for partition in &topic.partitions {
            let place = TopicPartition { topic: topic.id, partition: partition.partition };
            self.close(place, partition.group, &gone, out);
            self.view.forget(partition.group);
        }
    }

    /// There is no replica of a partition here any more.
    fn close(&mut self, place: TopicPartition, group: GroupId, why: &Error, out: &mut Vec<Effect>) {
        // Of what is lost there may be nothing else, but for the doubt.
        self.lost.remove(&group);
        let is_here = self.places.contains_key(&place) || self.store.knows(group) || self.store.doubts(group);
        if !is_here && self.copies.replica(group).is_none() {
            return;
        }
        self.places.remove(&place);
        self.view.remove(place);
        self.campaigns.remove(&group);
        self.sleepers.close(group);
        self.dormant.remove(&group);
        self.copies.give_up(group, &mut self.store);
        self.mends.give_up(group, &mut self.store);
        self.reads.fail(group, why, out);
        if let Some(mut machine) = self.partitions.remove(&group) {
            machine.refuse_group_requests(why, out);
            if let Some(leading) = machine.leading {
                leading.fail(why, why, out);
            }
        }
        self.store.remove_group(group);
    }

    /// Gives a batch to its partition's leader, which proposes it when it is driven.
    pub(super) fn produce(&mut self, id: RequestId, place: TopicPartition, batch: Bytes, out: &mut Vec<Effect>) {
        match self.leading_partition(place) {
            Ok(group) => {
                if self.partitions.get(&group).is_some_and(|p| self.fitness.is_quorum_full(&p.group)) {
                    return out.push(Effect::Reply { id, result: Err(self.fitness.quorum_refusal()) });
                }
                if self.partitions.get(&group).is_some_and(Partition::is_coordinator) {
                    return out.push(Effect::Reply { id, result: Err(internal_topic()) });
                }
                self.wake(group, Wake::Request);
                if let Some(leading) = self.partitions.get_mut(&group).and_then(|p| p.leading.as_mut()) {
                    leading.enqueue(id, batch);
                    self.dirty.insert(group);
                }
            }
            Err(error) => out.push(Effect::Reply { id, result: Err(error) }),
        }
    }

    /// Begins a linearizable read of a partition's ends.
    pub(super) fn bounds(&mut self, id: RequestId, place: TopicPartition, out: &mut Vec<Effect>) {
        match self.leading_partition(place) {
            Ok(group) => {
                self.wake(group, Wake::Request);
                if let (Some(partition), true) = (self.partitions.get(&group), planted::is(Planted::StaleBounds)) {
                    return out.push(Effect::Reply { id, result: Ok(Answer::Bounds(bounds_of(partition))) });
                }
                let context = self.reads.begin(Read { id, group, decided: None });
                if let Some(partition) = self.partitions.get_mut(&group) {
                    partition.group.read_index(context);
                    self.dirty.insert(group);
                }
            }
            Err(error) => out.push(Effect::Reply { id, result: Err(error) }),
        }
    }

    /// The group of a partition that this node leads, ready to serve.
    pub(super) fn leading_partition(&self, place: TopicPartition) -> Result<GroupId, Error> {
        let Some(partition) = self.places.get(&place).and_then(|group| self.partitions.get(group)) else {
            return Err(self.not_here(place));
        };
        if partition.leading.is_some() {
            return Ok(partition.group.id());
        }
        if partition.group.is_leader() {
            return Err(Error::new(ErrorCode::NotReady, format!("the new leader of {place} is not ready yet")));
        }
        let leader = self.addresses(partition.group.leader());
        Err(Error::new(ErrorCode::NotLeader, format!("node {} does not lead {place}", self.config.node))
            .redirect(leader))
    }

    /// What to say of a partition without a replica here.
    fn not_here(&self, place: TopicPartition) -> Error {
        let metadata = self.view.metadata.borrow();
        let Some(topic) = metadata.topic_by_id(place.topic) else {
            return crate::cluster::metadata::unknown_topic(&place.topic.to_string());
        };
        let Some(partition) = topic.partition(place.partition) else {
            return Error::new(
                ErrorCode::UnknownPartition,
                format!(
                    "topic {} has {} partitions, not number {}",
                    topic.name,
                    topic.partitions.len(),
                    place.partition
                ),
            );
        };
        let leader = self.view.leader(partition.group).and_then(|known| known.node);
        Error::new(ErrorCode::NotLeader, format!("node {} has no replica of {place}", self.config.node))
            .redirect(self.addresses(leader))
    }

    pub(super) fn transfer_leader(&mut self, id: RequestId, group: GroupId, to: NodeId, out: &mut Vec<Effect>) {
        self.wake(group, Wake::Request);
        let raft = if group == GroupId::METADATA {
            Some(&mut self.controller.group)
        } else {
            self.partitions.get_mut(&group).map(|partition| &mut partition.group)
        };
        let result = match raft {
            Some(raft) if !raft.is_leader() => {
                let leader = raft.leader();
                let error = Error::new(ErrorCode::NotLeader, format!("node {} does not lead it", self.config.node));
                Err(error.redirect(self.addresses(leader)))
            }
            Some(raft) => raft.transfer_leader(to, true).then_some(Answer::Done).ok_or_else(|| {
                Error::new(ErrorCode::InvalidRequest, format!("group {group} has no replica on node {to}"))
            }),
            None => Err(Error::new(ErrorCode::NotLeader, format!("node {} has no replica of it", self.config.node))),
        };
        self.dirty.insert(group);
        out.push(Effect::Reply { id, result });
    }

    /// Lets a partition's group work, applies what is committed, and answers what that decides.
    pub(super) fn drive_partition(&mut self, group: GroupId, out: &mut Vec<Effect>) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let metadata = self.controller.metadata();
        let topics = KnownTopics { metadata: &metadata, applied: self.controller.applied() };
        partition.coordinate(self.now, &topics, out);
        let led = partition.leading.as_ref().map(|leading| leading.term());
        if let Some(leading) = &mut partition.leading {
            // A leader that was deposed and has not heard of it judges by an old log: the client would take its no for
            // the loss of a batch.
            for (id, result) in leading.flush(&mut partition.group, out) {
                if planted::is(Planted::RefusesAlone) {
                    out.push(Effect::Reply { id, result });
                    continue;
                }
                let context = self.reads.begin(Read { id, group, decided: Some(result) });
                partition.group.read_index(context);
            }
            self.followed.proposed(group, leading, out);
        }
        let driven = partition.group.drive(&mut self.store, out);
        self.followed.durable(group, partition.group.persisted(), out);
        if let Some(last) = driven.committed.last() {
            let last = LogIndex(last.get_index());
            for entry in driven.committed {
                let kind = kind_of(&entry, &entry.data);
                let index = LogIndex(entry.get_index());
                partition.apply(index, kind, &entry.data, &mut self.store);
            }
            self.store.commit(group, last);
            partition.group.applied(last);
        }
        let leads = partition.group.is_leader();
        let term = partition.group.term();
        self.store.set_led(group, leads);
        let lost = led.is_some_and(|led| !leads || led != term);
        let lost = if lost { partition.step_down() } else { None };
        let first_of_term_applied = leads
            && (partition.group.log().term(partition.applied()) == Ok(term) || planted::is(Planted::LeadsTooSoon));
        partition.publish(first_of_term_applied);
        if let Some(leading) = &mut partition.leading
            && let Some(high_watermark) = leading.on_committed(safe(&partition.group), out)
        {
            partition.raise_high_watermark(high_watermark);
        }
        self.followed.answered(group, partition.leading.as_ref());
        let leader = partition.group.leader();
        let bounds = bounds_of(partition);
        for read in driven.reads {
            if let Some((Read { id, decided, .. }, _)) = self.reads.confirmed(&read) {
                out.push(Effect::Reply { id, result: decided.unwrap_or(Ok(Answer::Bounds(bounds))) });
            }
        }
        if let Some(lost) = lost.filter(|_| !planted::is(Planted::WaitersForgotten)) {
            let unknown = Error::new(
                ErrorCode::OutcomeUnknown,
                "leadership was lost before the batch was committed; send it again with the same sequence",
            );
            let moved = Error::new(ErrorCode::NotLeader, "this node does not lead the partition any more")
                .redirect(self.addresses(leader));
            lost.fail(&unknown.redirect(self.addresses(leader)), &moved, out);
            self.reads.fail(group, &moved, out);
        }
        self.show_leader(group, Leadership { term, node: leader }, out);
    }

    /// Shows who leads a group, and tells nodes that do not hear it from a replica when it is this one.
    pub(super) fn show_leader(&mut self, group: GroupId, leadership: Leadership, out: &mut Vec<Effect>) {
        if self.view.leader(group) == Some(leadership) {
            return;
        }
        self.view.set_leader(group, leadership);
        if leadership.node == Some(self.config.node) {
            self.announce(group, leadership, out);
        }
    }

    pub(super) fn announce(&self, group: GroupId, leadership: Leadership, out: &mut Vec<Effect>) {
        let hears = |to| {
            let raft = self.partitions.get(&group).map(|partition| &partition.group);
            // A replica that does not answer may be damaged: its node takes no part in the group.
            raft.is_some_and(|raft| raft.replicas().iter().any(|(id, node)| *node == to && raft.is_active(*id)))
        };
        for to in self.controller.nodes() {
            if to != self.config.node && !hears(to) {
                let message = PeerMessage::Leadership { group, term: leadership.term };
                out.push(Effect::Send { to, message });
            }
        }
    }

    /// Another node says that it leads a group. A replica of it here would know better.
    pub(super) fn on_leadership(&self, from: NodeId, group: GroupId, term: Term) {
        if !self.partitions.contains_key(&group) {
            self.view.lead(group, Leadership { term, node: Some(from) });
        }
    }
}

/// Nobody but coordinators writes to their partitions.
pub(super) fn internal_topic() -> Error {
    let why = format!(
        "topic {GROUPS_TOPIC} belongs to the coordinators of consumer groups; use another topic, or the requests for groups"
    );
    Error::new(ErrorCode::InvalidRequest, why)
}

/// Up to where a leader's entries are safe.
fn safe(group: &Group) -> LogIndex {
    if planted::is(Planted::LeaderAloneAcknowledges) { group.persisted() } else { group.committed() }
}

fn bounds_of(partition: &Partition) -> LogBounds {
    let state = *partition.view.state.borrow();
    LogBounds {
        log_start: state.log_start,
        high_watermark: state.high_watermark,
        bytes: partition.view.log.stats().segment_bytes,
        leader_epoch: state.term,
    }
}
