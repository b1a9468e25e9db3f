//! Which nodes get the replicas of a new topic.

use std::collections::BTreeMap;

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::NodeId,
};

use super::metadata::Metadata;

/// How well a node can take replicas at the moment; the better comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is there, and its disk has room.
    #[default]
    Good,
    /// Its disk has little room, or is slow.
    Strained,
    /// Its disk is full.
    Full,
    /// Nothing is heard of it.
    Absent,
}

/// Where nodes stand that do not stand well.
pub type Standings = BTreeMap<NodeId, Standing>;

/// Chooses `replicas` nodes for each of `partitions`; the first of each is its preferred leader.
///
/// Each replica goes to the node that has the fewest so far, on a rack that the partition does not use yet while
/// there is one; preferred leaders are spread the same way. Nodes that do not stand well get some only where there are not
/// enough others.
///
/// # Errors
/// [`ErrorCode::NotEnoughNodes`].
pub fn place(metadata: &Metadata, standings: &Standings, partitions: u32, replicas: usize) -> Result<Vec<Vec<NodeId>>> {
    let nodes = metadata.nodes();
    let stays = nodes.iter().filter(|(_, node)| !node.draining);
    let mut load: BTreeMap<NodeId, Load> = stays.map(|(&node, _)| (node, Load::default())).collect();
    if load.len() < replicas {
        return Err(Error::new(
            ErrorCode::NotEnoughNodes,
            format!("{replicas} replicas need as many nodes, the cluster has {}; ask for fewer replicas", load.len()),
        ));
    }
    for partition in metadata.topics().flat_map(|topic| &topic.partitions) {
        for (place, replica) in partition.wanted().iter().enumerate() {
            if let Some(load) = load.get_mut(&replica.node) {
                load.add(place == 0);
            }
        }
    }
    let mut chosen = Vec::new();
    for _ in 0..partitions {
        let mut places: Vec<NodeId> = Vec::with_capacity(replicas);
        for place in 0..replicas {
            let rack_used = |node: NodeId| {
                let rack = nodes.get(&node).map_or("", |node| node.rack.as_str());
                !rack.is_empty() && places.iter().any(|used| nodes.get(used).is_some_and(|used| used.rack == rack))
            };
            let best = load
                .iter()
                .filter(|(node, _)| !places.contains(node))
                .min_by_key(|(node, load)| {
                    let leads = if place == 0 { load.leads } else { 0 };
                    let standing = standings.get(node).copied().unwrap_or_default();
                    (standing, rack_used(**node), leads, load.replicas, **node)
                })
                .map(|(&node, _)| node);
            let Some(node) = best else { break };
            if let Some(load) = load.get_mut(&node) {
                load.add(place == 0);
            }
            places.push(node);
        }
        chosen.push(places);
    }
    Ok(chosen)
}

#[derive(Default)]
struct Load {
    leads: usize,
    replicas: usize,
}

impl Load {
    const fn add(&mut self, leads: bool) {
        self.replicas += 1;
        self.leads += leads as usize;
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::{error::NodeAddresses, ids::IncarnationId};

    use super::*;
    use crate::cluster::metadata::{Node, register_command};

    fn cluster(racks: &[&str]) -> Metadata {
        let mut metadata = Metadata::default();
        for (id, rack) in (1..).zip(racks) {
            let addresses = NodeAddresses { node: NodeId(id), ..NodeAddresses::default() };
            let node = Node::new(addresses, IncarnationId::default(), (*rack).to_owned());
            metadata.apply(register_command(&node)).unwrap();
        }
        metadata
    }

    #[test]
    fn leaders_and_replicas_are_spread() {
        let places = place(&cluster(&["", "", ""]), &Standings::new(), 6, 2).unwrap();
        for node in 1..=3 {
            let node = NodeId(node);
            assert_eq!(places.iter().filter(|p| p[0] == node).count(), 2, "{places:?}");
            assert_eq!(places.iter().filter(|p| p.contains(&node)).count(), 4, "{places:?}");
        }
    }

    #[test]
    fn a_partition_stands_on_different_racks() {
        let places = place(&cluster(&["a", "a", "b", "b"]), &Standings::new(), 8, 2).unwrap();
        for nodes in places {
            assert_ne!(nodes[0].get() <= 2, nodes[1].get() <= 2, "{nodes:?}");
        }
    }

    #[test]
    fn nodes_that_do_not_stand_well_get_what_others_cannot_take() {
        let metadata = cluster(&["a", "a", "b", "b", "b"]);
        let standings = [(3, Standing::Strained), (4, Standing::Absent), (5, Standing::Full)];
        let standings: Standings = standings.map(|(node, standing)| (NodeId(node), standing)).into();
        let chosen = |replicas| {
            let mut nodes = place(&metadata, &standings, 1, replicas).unwrap().remove(0);
            nodes.sort_unstable();
            nodes.into_iter().map(NodeId::get).collect::<Vec<_>>()
        };
        assert_eq!(chosen(2), [1, 2], "rather two on one rack than one on a disk that fills up");
        assert_eq!(chosen(3), [1, 2, 3]);
        assert_eq!(chosen(4), [1, 2, 3, 5]);
        assert_eq!(chosen(5), [1, 2, 3, 4, 5], "it may come back");
    }

    #[test]
    fn too_few_nodes_say_so() {
        assert_eq!(place(&cluster(&["", ""]), &Standings::new(), 1, 3).unwrap_err().code, ErrorCode::NotEnoughNodes);
    }
}
