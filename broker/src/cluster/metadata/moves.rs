//! Commands about replicas: they are moved, and replaced.
//!
//! A partition has the replicas it has, and, while it is to have others, a target. Its leader brings the raft group from one
//! to the other (`raft/membership.rs`) and reports when it is there; then the target becomes what it has. A replica on a node
//! that is in both keeps its number; every other one gets a number that was never given before.
//!
//! A target may be given up for another while the group is anywhere on its way, so the replicas of all targets since the group
//! last arrived stay known, and stay on their nodes, until it has arrived again: one of them may be all that there is. A
//! replica that has lost what it had is not one of them any more, and its number is never used again.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, NodeId, PartitionId, ReplicaId, TopicId},
    limits::TOPIC_PARTITIONS_MAX,
    messages::metadata as messages,
};

use crate::cluster::feature::LEVEL_ONCE;

use super::{Applied, Metadata, Partition, Replica, Topic, malformed, unknown_node, wire::partition_from_wire};

/// A partition is to have other replicas, or another order of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The topic.
    pub topic: Arc<Topic>,
    /// The partition.
    pub partition: PartitionId,
    /// The nodes that it is to have replicas on; the first is the preferred leader.
    pub to: Vec<NodeId>,
}

impl Metadata {
    /// Whether a replica has had this number, by now.
    #[must_use]
    pub const fn has_given(&self, replica: ReplicaId) -> bool {
        replica.get() < self.next_replica
    }

    pub(super) fn draw_replica(&mut self, node: NodeId) -> Replica {
        let id = ReplicaId(self.next_replica);
        self.next_replica += 1;
        Replica { id, node }
    }

    /// The replica of that number has lost what it had, and is to be replaced by a new one on the same node if it is wanted.
    pub(super) fn renew(&mut self, partition: &mut Partition, lost: ReplicaId) {
        let wanted = partition.wanted().to_vec();
        partition.lost.push(lost);
        if !wanted.iter().any(|replica| replica.id == lost) {
            return;
        }
        let renewed = |replica: &Replica| {
            if replica.id == lost { self.draw_replica(replica.node) } else { *replica }
        };
        let target: Vec<Replica> = wanted.iter().map(renewed).collect();
        partition.set_target(target);
    }

    pub(super) fn move_replicas(&mut self, command: messages::MoveReplicas) -> Result<Applied> {
        let mut moves: BTreeMap<TopicId, Vec<messages::Move>> = BTreeMap::new();
        for wanted in command.moves {
            let nodes: Vec<NodeId> = wanted.nodes.iter().copied().map(NodeId).collect();
            if nodes.is_empty() {
                return Err(malformed("a partition without replicas"));
            }
            if let Some(unknown) = nodes.iter().find(|node| !self.nodes.contains_key(*node)) {
                return Err(unknown_node(*unknown));
            }
            let topic = TopicId::from_slice(&wanted.topic_id).ok_or_else(|| malformed("topic id"))?;
            moves.entry(topic).or_default().push(wanted);
        }
        let mut topics = Vec::new();
        for (topic, moves) in moves {
            // It may be gone since the command was made.
            let Some(topic) = self.topics.get(&topic).cloned() else { continue };
            let mut moved = (*topic).clone();
            for wanted in moves {
                let number = PartitionId(wanted.partition);
                let partition = moved.partitions.iter_mut().find(|partition| partition.partition == number);
                // What was planned on another target knows nothing of this one.
                let is_meant =
                    |partition: &&mut Partition| wanted.targets_given.is_none_or(|on| on == partition.targets_given);
                if let Some(partition) = partition.filter(is_meant) {
                    let nodes: Vec<NodeId> = wanted.nodes.iter().copied().map(NodeId).collect();
                    self.retarget(partition, &nodes);
                }
            }
            topics.push(self.insert(moved));
        }
        Ok(Applied::Topics(topics))
    }

    fn retarget(&mut self, partition: &mut Partition, nodes: &[NodeId]) {
        let replica = |node: &NodeId| partition.on(*node).unwrap_or_else(|| self.draw_replica(*node));
        let target: Vec<Replica> = nodes.iter().map(replica).collect();
        // While a move is under way the group may have gone some of the way already.
        if !partition.target.is_empty() || target != partition.replicas {
            partition.set_target(target);
        }
    }

    pub(super) fn finish_move(&mut self, finish: &messages::FinishMove) -> Result<Applied> {
        let mut voters: Vec<ReplicaId> = finish.voters.iter().copied().map(ReplicaId).collect();
        voters.sort_unstable();
        self.change_partition(GroupId(finish.group), |_, partition| {
            let mut wanted: Vec<ReplicaId> = partition.target.iter().map(|replica| replica.id).collect();
            wanted.sort_unstable();
            if wanted == voters && partition.targets_given == finish.targets_given {
                partition.replicas = std::mem::take(&mut partition.target);
                partition.leaving.clear();
                partition.lost.clear();
                partition.recovery = None;
            }
        })
    }

    pub(super) fn replace_replica(&mut self, replace: &messages::ReplaceReplica) -> Result<Applied> {
        let lost = ReplicaId(replace.replica_id);
        self.change_partition(GroupId(replace.group), |metadata, partition| {
            if partition.everybody().contains_key(&lost) {
                metadata.renew(partition, lost);
            }
        })
    }

    pub(super) fn change_partition(
        &mut self,
        group: GroupId,
        change: impl FnOnce(&mut Self, &mut Partition),
    ) -> Result<Applied> {
        let place = self.partition_of(group).ok_or_else(|| {
            Error::new(ErrorCode::UnknownPartition, format!("raft group {group} is not one of a partition (any more)"))
        })?;
        let topic = self.topics.get(&place.topic).ok_or_else(|| malformed("a group without a topic"))?;
        let mut changed: Topic = (**topic).clone();
        if let Some(partition) = changed.partitions.iter_mut().find(|partition| partition.group == group) {
            change(self, partition);
        }
        Ok(Applied::Topics(vec![self.insert(changed)]))
    }

    pub(super) fn add_partitions(&mut self, add: messages::AddPartitions) -> Result<Applied> {
        let topic = self.known(&add.topic_id)?;
        let mut grown = (*topic).clone();
        for wire in add.partitions {
            let mut partition = partition_from_wire(wire);
            if partition.partition.get() as usize != grown.partitions.len()
                || grown.partitions.len() >= TOPIC_PARTITIONS_MAX as usize
            {
                let why = format!(
                    "topic {} has {} partitions by now; look, and try again",
                    topic.name,
                    topic.partitions.len()
                );
                return Err(Error::new(ErrorCode::InvalidRequest, why));
            }
            self.number(&mut partition);
            grown.partitions.push(partition);
        }
        Ok(Applied::Topic(self.insert(grown)))
    }

    /// Gives a new partition its group, and its replicas their numbers.
    pub(super) fn number(&mut self, partition: &mut Partition) {
        partition.group = GroupId(self.next_group);
        self.next_group += 1;
        for replica in &mut partition.replicas {
            *replica = self.draw_replica(replica.node);
        }
    }
}

impl Partition {
    /// The replicas that it is to have.
    #[must_use]
    pub fn wanted(&self) -> &[Replica] {
        if self.target.is_empty() { &self.replicas } else { &self.target }
    }

    /// All of them that are worth something.
    pub(crate) fn known(&self) -> impl Iterator<Item = Replica> {
        let all = self.target.iter().chain(&self.replicas).chain(&self.leaving);
        all.copied().filter(|replica| !self.lost.contains(&replica.id))
    }

    /// Every replica that may belong to its group, or is to, and where.
    #[must_use]
    pub fn everybody(&self) -> BTreeMap<ReplicaId, NodeId> {
        self.known().map(|replica| (replica.id, replica.node)).collect()
    }

    /// The replica on a node, if there is one or is to be.
    #[must_use]
    pub fn on(&self, node: NodeId) -> Option<Replica> {
        self.known().find(|replica| replica.node == node)
    }

    pub(super) fn set_target(&mut self, target: Vec<Replica>) {
        if self.first.is_empty() {
            self.first = self.replicas.clone();
        }
        self.targets_given += 1;
        let given_up = std::mem::replace(&mut self.target, target);
        for replica in given_up {
            let is_known = self.target.contains(&replica) || self.replicas.contains(&replica);
            if !is_known && !self.leaving.contains(&replica) && !self.lost.contains(&replica.id) {
                self.leaving.push(replica);
            }
        }
    }

    /// The replicas that it was made with: what its raft group began with.
    #[must_use]
    pub fn first(&self) -> &[Replica] {
        if self.first.is_empty() { &self.replicas } else { &self.first }
    }
}

/// A command that moves partitions, whatever has become of them meanwhile.
#[must_use]
pub fn move_command(moves: &[Move]) -> messages::Command {
    moves_as(moves, |_| None)
}

/// A command that moves those partitions which nobody has given another target since this was planned: what the cluster does by
/// itself does not undo what somebody has asked for meanwhile.
#[must_use]
pub fn spread_command(moves: &[Move], metadata: &Metadata) -> messages::Command {
    if metadata.feature_level() < LEVEL_ONCE {
        return move_command(moves);
    }
    moves_as(moves, |planned| Some(planned.topic.partition(planned.partition)?.targets_given))
}

fn moves_as(moves: &[Move], planned_on: impl Fn(&Move) -> Option<u64>) -> messages::Command {
    let moves = moves.iter().map(|planned| messages::Move {
        topic_id: Bytes::copy_from_slice(&planned.topic.id.to_bytes()),
        partition: planned.partition.get(),
        nodes: planned.to.iter().map(|node| node.get()).collect(),
        targets_given: planned_on(planned),
    });
    super::command(messages::command::Kind::MoveReplicas(messages::MoveReplicas { moves: moves.collect() }))
}
