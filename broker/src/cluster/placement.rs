//! Which nodes get the replicas of a new topic.

use std::collections::BTreeMap;

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::NodeId,
};

use super::metadata::Metadata;

/// Chooses `replicas` nodes for each of `partitions`; the first of each is its preferred leader.
///
/// Each replica goes to the node that has the fewest so far, on a rack that the partition does not use yet while
/// there is one; preferred leaders are spread the same way.
///
/// # Errors
/// [`ErrorCode::NotEnoughNodes`].
pub fn place(metadata: &Metadata, partitions: u32, replicas: usize) -> Result<Vec<Vec<NodeId>>> {
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
                    (rack_used(**node), leads, load.replicas, **node)
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
        let places = place(&cluster(&["", "", ""]), 6, 2).unwrap();
        for node in 1..=3 {
            let node = NodeId(node);
            assert_eq!(places.iter().filter(|p| p[0] == node).count(), 2, "{places:?}");
            assert_eq!(places.iter().filter(|p| p.contains(&node)).count(), 4, "{places:?}");
        }
    }

    #[test]
    fn a_partition_stands_on_different_racks() {
        let places = place(&cluster(&["a", "a", "b", "b"]), 8, 2).unwrap();
        for nodes in places {
            assert_ne!(nodes[0].get() <= 2, nodes[1].get() <= 2, "{nodes:?}");
        }
    }

    #[test]
    fn too_few_nodes_say_so() {
        assert_eq!(place(&cluster(&["", ""]), 1, 3).unwrap_err().code, ErrorCode::NotEnoughNodes);
    }
}
