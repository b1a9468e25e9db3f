//! Commands about nodes: they register, are admitted and join, are drained and removed.

use std::{collections::BTreeMap, sync::Arc};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{NodeId, ReplicaId},
    messages::metadata as messages,
};
use levada_storage_engine::planted::{self, Planted};

use super::{Applied, Metadata, Node, Topic, malformed, wire::node_from_wire};
use crate::cluster::feature::LEVEL_FIRST;

/// Replicas of group 0 have the number of their node, if that founded the cluster; those of nodes that join have numbers
/// from here on. (A wiped node gets another number than before.)
pub const MEMBERS_FIRST: u64 = 1 << 48;

impl Metadata {
    /// Which replicas of group 0 there are, and where, if the cluster was founded by these nodes.
    #[must_use]
    pub fn members(&self, founders: impl IntoIterator<Item = NodeId>) -> BTreeMap<ReplicaId, NodeId> {
        let of_node = |id: NodeId| match self.nodes.get(&id) {
            Some(node) => Some((node.member.unwrap_or(ReplicaId(id.get())), id)),
            None => (!self.removed.contains(&id)).then_some((ReplicaId(id.get()), id)),
        };
        let joined = self.nodes.iter().filter_map(|(id, node)| Some((node.member?, *id)));
        founders.into_iter().filter_map(of_node).chain(joined).collect()
    }

    /// Whether this number was given to a replica of group 0, now or before.
    #[must_use]
    pub fn has_given_member(&self, replica: ReplicaId) -> bool {
        let node = NodeId(replica.get());
        if replica.get() < MEMBERS_FIRST {
            return self.removed.contains(&node) || self.nodes.get(&node).is_some_and(|known| known.member.is_some());
        }
        replica.get() - MEMBERS_FIRST < self.members_given
    }

    /// The number that the next node to join gives its replica of group 0.
    #[must_use]
    pub const fn next_member(&self) -> ReplicaId {
        ReplicaId(MEMBERS_FIRST + self.members_given)
    }

    /// Whether a node that calls may be one of the cluster, by what is known here. `member` is the replica of group 0 that it has if it
    /// joined. If that was not given yet, its joining is still to come here: whatever is known of its id is from before.
    ///
    /// # Errors
    /// `NodeRemoved`; `NotReady`: too little is known yet.
    pub fn check_caller(&self, id: NodeId, member: ReplicaId) -> Result<()> {
        if member.get() >= MEMBERS_FIRST && !self.has_given_member(member) {
            let why = format!("node {id} has joined, of which this node has not heard yet; try again");
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        if self.removed.contains(&id) { Err(removed(id)) } else { Ok(()) }
    }

    pub(super) fn register_node(&mut self, register: messages::RegisterNode) -> Result<Applied> {
        let mut node = node_from_wire(register.node.ok_or_else(|| malformed("node"))?)?;
        let id = node.addresses.node;
        if self.removed.contains(&id) {
            return Err(removed(id));
        }
        if node.feature_level_max < self.feature_level {
            return Err(Error::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "the cluster is at feature level {}, the build of node {id} knows up to {}; run a newer one there",
                    self.feature_level, node.feature_level_max
                ),
            ));
        }
        if let Some(known) = self.nodes.get(&id) {
            if known.incarnation != node.incarnation {
                return Err(wrong_incarnation(known, &node));
            }
            node.member = known.member;
            node.draining = known.draining;
        }
        self.nodes.insert(id, node);
        Ok(Applied::NodesChanged)
    }

    pub(super) fn admit_node(&mut self, admit: messages::AdmitNode) -> Result<Applied> {
        let id = NodeId(admit.node_id);
        if !(1..MEMBERS_FIRST).contains(&admit.node_id) {
            let why = format!("a node's id is a number from 1 to {}, not {id}", MEMBERS_FIRST - 1);
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        if self.nodes.contains_key(&id) && !admit.replace {
            let why = format!(
                "node {id} is in the cluster already; if its data directory is lost, `levada cluster replace {id}` lets it \
                 come back with an empty one"
            );
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        if admit.replace && !self.nodes.contains_key(&id) {
            return Err(unknown_node(id));
        }
        self.admitted.insert(id, admit.replace);
        Ok(Applied::NodesChanged)
    }

    pub(super) fn join_node(&mut self, join: messages::JoinNode) -> Result<Applied> {
        let mut node = node_from_wire(join.node.ok_or_else(|| malformed("node"))?)?;
        let id = node.addresses.node;
        let before = self.nodes.get(&id);
        if let Some(known) = before.filter(|known| known.incarnation == node.incarnation) {
            // Its answer got lost.
            node.member = known.member;
            node.draining = known.draining;
            self.nodes.insert(id, node);
            return Ok(Applied::NodeJoined { node: id, topics: Vec::new() });
        }
        if !self.admitted.contains_key(&id) {
            return Err(match before {
                Some(known) => wrong_incarnation(known, &node),
                None => not_admitted(id),
            });
        }
        if node.feature_level_max < self.feature_level {
            let why = format!("node {id} runs a build that is older than the cluster; run a newer one there");
            return Err(Error::new(ErrorCode::UnsupportedVersion, why));
        }
        // A node that is to leave is to leave with an empty directory, too.
        let was_draining = before.is_some_and(|known| known.draining);
        self.admitted.remove(&id);
        self.removed.remove(&id);
        node.draining = was_draining;
        if let (Some(before), true) = (before, planted::is(Planted::ReplicasNotRenewed)) {
            node.member = Some(before.member.unwrap_or(ReplicaId(id.get())));
            self.nodes.insert(id, node);
            return Ok(Applied::NodeJoined { node: id, topics: Vec::new() });
        }
        node.member = Some(self.next_member());
        self.members_given += 1;
        self.nodes.insert(id, node);
        Ok(Applied::NodeJoined { node: id, topics: self.renew_replicas(id) })
    }

    pub(super) fn renew_member(&mut self, renew: &messages::RenewMember) -> Result<Applied> {
        let id = NodeId(renew.node_id);
        let is_removed = self.removed.contains(&id);
        let unknown = || if is_removed { removed(id) } else { unknown_node(id) };
        let node = self.nodes.get_mut(&id).ok_or_else(unknown)?;
        if node.incarnation.to_bytes() != renew.incarnation[..] {
            let why = format!("node {id} is known with another data directory by now");
            return Err(Error::new(ErrorCode::WrongIncarnation, why));
        }
        // Otherwise it has another already: its answer got lost.
        if node.member.unwrap_or(ReplicaId(id.get())) == ReplicaId(renew.member_id) {
            node.member = Some(ReplicaId(MEMBERS_FIRST + self.members_given));
            self.members_given += 1;
        }
        Ok(Applied::NodeJoined { node: id, topics: Vec::new() })
    }

    /// Each replica on a node is to be replaced by a new one there. Answers the topics that this concerns.
    fn renew_replicas(&mut self, node: NodeId) -> Vec<Arc<Topic>> {
        let topics: Vec<Arc<Topic>> = self.topics.values().cloned().collect();
        let mut changed = Vec::new();
        for topic in topics {
            let mut renewed = (*topic).clone();
            for partition in &mut renewed.partitions {
                let lost = partition.known().filter(|replica| replica.node == node).map(|replica| replica.id);
                for replica in lost.collect::<Vec<_>>() {
                    self.renew(partition, replica);
                }
            }
            if renewed != *topic {
                changed.push(self.insert(renewed));
            }
        }
        changed
    }

    pub(super) fn drain_node(&mut self, drain: messages::DrainNode) -> Result<Applied> {
        let id = NodeId(drain.node_id);
        if drain.drain && !self.nodes.contains_key(&id) && self.admitted.remove(&id).is_some() {
            // It has never come.
            return Ok(Applied::NodesChanged);
        }
        let is_removed = self.removed.contains(&id);
        let unknown = || if is_removed { removed(id) } else { unknown_node(id) };
        let node = self.nodes.get_mut(&id).ok_or_else(unknown)?;
        node.draining = drain.drain;
        Ok(Applied::NodesChanged)
    }

    pub(super) fn remove_node(&mut self, remove: messages::RemoveNode) -> Result<Applied> {
        let id = NodeId(remove.node_id);
        let node = self.nodes.get(&id).ok_or_else(|| unknown_node(id))?;
        if !node.draining {
            let why = format!("node {id} is not being decommissioned (any more)");
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        if self.holds_replicas(id) {
            let why = format!("node {id} holds replicas; they must be moved first");
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        self.nodes.remove(&id);
        self.admitted.remove(&id);
        self.removed.insert(id);
        Ok(Applied::NodesChanged)
    }

    /// Whether a node has replicas, or is to have some.
    #[must_use]
    pub fn holds_replicas(&self, node: NodeId) -> bool {
        let mut partitions = self.topics.values().flat_map(|topic| &topic.partitions);
        partitions.any(|partition| partition.everybody().values().any(|there| *there == node))
    }

    pub(super) fn set_feature_level(&mut self, set: messages::SetFeatureLevel) -> Result<Applied> {
        let known = self.nodes.values().map(|node| node.feature_level_max).min().unwrap_or(LEVEL_FIRST);
        if !(self.feature_level..=known).contains(&set.level) {
            let why = format!("feature level {} is not between {} and {known}", set.level, self.feature_level);
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        self.feature_level = set.level;
        Ok(Applied::NodesChanged)
    }
}

fn wrong_incarnation(known: &Node, found: &Node) -> Error {
    let id = known.addresses.node;
    Error::new(
        ErrorCode::WrongIncarnation,
        format!(
            "node {id} is known with data directory {}, this one is {}; bring that one back, or, if it is lost, let this \
             one take its place: `levada cluster replace {id}`",
            known.incarnation, found.incarnation
        ),
    )
}

/// The error for a node that nobody has let in.
fn not_admitted(id: NodeId) -> Error {
    let why = format!("node {id} is not of this cluster; `levada cluster add {id}` lets it join");
    Error::new(ErrorCode::NotAdmitted, why)
}

/// The error for a node that was decommissioned.
#[must_use]
pub fn removed(id: NodeId) -> Error {
    let why = format!(
        "node {id} was decommissioned; it may join again with an empty data directory after `levada cluster add {id}`"
    );
    Error::new(ErrorCode::NodeRemoved, why)
}

/// The error for a node that is not there.
#[must_use]
pub fn unknown_node(id: NodeId) -> Error {
    let why = format!("the cluster has no node {id}; `levada cluster status` shows those there are");
    Error::new(ErrorCode::UnknownNode, why)
}

#[cfg(test)]
mod tests {
    use levada_protocol::{
        error::NodeAddresses,
        ids::IncarnationId,
        messages::metadata::{AdmitNode, DrainNode, JoinNode, RemoveNode},
    };

    use super::*;
    use crate::cluster::metadata::wire::node_to_wire;

    const NODE: NodeId = NodeId(2);

    fn join(metadata: &mut Metadata, directory: u8) -> ReplicaId {
        let addresses = NodeAddresses { node: NODE, ..NodeAddresses::default() };
        let node = Node::new(addresses, IncarnationId::from_bytes([directory; 16]), String::new());
        metadata.admit_node(AdmitNode { node_id: NODE.get(), replace: false }).unwrap();
        metadata.join_node(JoinNode { node: Some(node_to_wire(&node)) }).unwrap();
        metadata.nodes[&NODE].member.unwrap()
    }

    fn leave(metadata: &mut Metadata) {
        metadata.drain_node(DrainNode { node_id: NODE.get(), drain: true }).unwrap();
        metadata.remove_node(RemoveNode { node_id: NODE.get() }).unwrap();
    }

    /// A node that was decommissioned and joined anew ended whenever one that had not heard of it yet took it for who it had been.
    #[test]
    fn a_node_that_joined_again_is_not_taken_for_the_one_that_left() {
        let mut metadata = Metadata::default();
        let first = join(&mut metadata, 1);
        leave(&mut metadata);
        let before = metadata.clone();
        let second = join(&mut metadata, 2);
        let code = |metadata: &Metadata, member| metadata.check_caller(NODE, member).map_err(|error| error.code);
        assert_eq!(code(&metadata, second), Ok(()));
        assert_eq!(code(&before, second), Err(ErrorCode::NotReady), "it has not heard of it yet");
        for founder_or_first in [ReplicaId(0), ReplicaId(NODE.get()), first] {
            assert_eq!(code(&before, founder_or_first), Err(ErrorCode::NodeRemoved));
        }
        leave(&mut metadata);
        assert_eq!(code(&metadata, second), Err(ErrorCode::NodeRemoved));
    }
}
