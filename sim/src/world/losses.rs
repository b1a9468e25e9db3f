//! Majorities that are gone for good: when that may be, and of which groups they were.
//!
//! What is left of a group must go on with everything that anybody was told, or the checker could not say whether something is
//! missing. So disks are lost at a moment in which each replica that will be the only one has all that is committed, durably. From then
//! on nothing else is committed, as there is no majority, until the group goes on.

use std::collections::{BTreeMap, BTreeSet};

use levada_broker::{node::footing::Footing, raft::membership::Conf};
use levada_protocol::ids::{GroupId, IncarnationId, NodeId, ReplicaId};

use super::World;
use crate::clients::recoverer::Bereft;

/// Where replicas were seen: on a node with this data directory.
#[derive(Debug, Default)]
pub(super) struct Homes(BTreeMap<(GroupId, ReplicaId), (NodeId, IncarnationId)>);

impl World {
    /// All groups that some node knows, and of which topic they are.
    fn groups(&self) -> BTreeMap<GroupId, String> {
        let mut groups = BTreeMap::from([(GroupId::METADATA, String::new())]);
        for running in self.processes.values().filter_map(|process| process.running.as_ref()) {
            let metadata = running.node.view().metadata.borrow().clone();
            for topic in metadata.topics() {
                groups.extend(topic.partitions.iter().map(|partition| (partition.group, topic.name.clone())));
            }
        }
        groups
    }

    /// Where a group stands on all nodes that have a replica of it and are up.
    fn footings(&self, group: GroupId) -> Vec<(NodeId, Footing)> {
        let running = self.processes.iter().filter_map(|(node, process)| Some((*node, process.running.as_ref()?)));
        running.filter_map(|(node, running)| Some((node, running.node.footing(group)?))).collect()
    }

    pub(super) fn note_homes(&mut self) {
        for group in self.groups().into_keys() {
            for (node, footing) in self.footings(group) {
                let Some(process) = self.processes.get(&node) else { continue };
                self.homes.0.insert((group, footing.replica), (node, process.incarnation()));
            }
        }
    }

    /// Whether nobody will ever see a replica again.
    fn is_gone(&self, group: GroupId, replica: ReplicaId) -> bool {
        match self.homes.0.get(&(group, replica)) {
            Some((node, home)) => self.processes.get(node).is_none_or(|process| process.incarnation() != *home),
            // It was never seen: its node is gone, or another has taken its place.
            None => {
                let mut running = self.processes.values().filter_map(|process| process.running.as_ref());
                running.any(|running| {
                    let metadata = running.node.view().metadata.borrow().clone();
                    let place = metadata.partition_of(group);
                    let topic = place.and_then(|place| metadata.topic_by_id(place.topic));
                    let placed = topic.zip(place).and_then(|(topic, place)| topic.partition(place.partition));
                    placed.is_some_and(|placed| {
                        placed.everybody().get(&replica).is_none_or(|node| !self.processes.contains_key(node))
                    })
                })
            }
        }
    }

    /// Groups that cannot go on by themselves.
    pub(super) fn bereft(&self) -> Vec<Bereft> {
        let before = |group| self.sight.bereft.iter().find(move |bereft| bereft.group == group).cloned();
        let bereft = |(group, topic): (GroupId, String)| {
            // Who has just come knows what was so when it was copied, and belongs to nothing.
            let mut footings = self.footings(group);
            footings.retain(|(_, footing)| footing.conf.everybody().contains(&footing.replica));
            if footings.is_empty() {
                return before(group);
            }
            let lacks = |of: &BTreeSet<ReplicaId>| {
                !of.is_empty() && 2 * of.iter().filter(|replica| !self.is_gone(group, **replica)).count() <= of.len()
            };
            let lacks_majority = |conf: &Conf| lacks(&conf.voters) || lacks(&conf.outgoing);
            if !footings.iter().all(|(_, footing)| lacks_majority(&footing.conf)) {
                return None;
            }
            let members: BTreeSet<ReplicaId> =
                footings.iter().flat_map(|(_, footing)| footing.conf.everybody()).collect();
            let (gone, left): (Vec<_>, Vec<_>) = members
                .into_iter()
                .map(|replica| (replica, self.homes.0.get(&(group, replica)).map(|(node, _)| *node)))
                .partition(|(replica, _)| self.is_gone(group, *replica));
            let place = |(replica, node): (ReplicaId, Option<NodeId>)| (replica, node.unwrap_or_default());
            Some(Bereft {
                group,
                topic,
                gone: gone.into_iter().map(place).collect(),
                left: left.into_iter().map(place).collect(),
            })
        };
        self.groups().into_iter().filter_map(bereft).collect()
    }

    /// Whether nothing that anybody was told is gone with these nodes.
    pub(super) fn may_lose(&mut self, nodes: &BTreeSet<NodeId>) -> bool {
        let sight = self.see();
        // Whoever changes the metadata now might be told so by nobody.
        let is_at_work = self.clients.first().is_some_and(|(admin, _)| admin.unfinished().is_some());
        if !sight.is_calm || is_at_work {
            return false;
        }
        self.groups().into_keys().all(|group| {
            let footings = self.footings(group);
            let Some((_, most)) = footings.iter().max_by_key(|(_, footing)| footing.committed.1) else { return false };
            let (gone, left): (Vec<_>, Vec<_>) = footings.iter().partition(|(node, _)| nodes.contains(node));
            let votes = |(_, footing): &&(NodeId, Footing)| most.conf.voters.contains(&footing.replica);
            let keeps_majority = 2 * left.iter().filter(|left| votes(left)).count() > most.conf.voters.len();
            let holds = |node: &NodeId| {
                let running = self.processes.get(node).and_then(|process| process.running.as_ref());
                running.is_some_and(|running| running.node.holds(group, most.committed))
            };
            let is_led = footings.iter().any(|(_, footing)| footing.leads);
            let all_are_there = gone.len() + left.len() >= most.conf.voters.len();
            is_led && all_are_there && !left.is_empty() && (keeps_majority || left.iter().all(|(node, _)| holds(node)))
        })
    }
}
