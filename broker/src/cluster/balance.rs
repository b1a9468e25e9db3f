//! Which replicas should go elsewhere: off nodes that are drained, and from full nodes to empty ones.
//!
//! Plans are made from what partitions are *to have*, so that what is under way counts as done and is not planned twice.

use std::{collections::BTreeMap, sync::Arc};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{NodeId, TopicPartition},
};

pub use super::metadata::Move;
use super::{
    metadata::{Metadata, Partition, Topic},
    placement::{Standing, Standings},
};

/// What nodes carry, if all went as planned.
struct Load<'m> {
    metadata: &'m Metadata,
    standings: &'m Standings,
    replicas: BTreeMap<NodeId, usize>,
    leads: BTreeMap<NodeId, usize>,
    wanted: BTreeMap<TopicPartition, Vec<NodeId>>,
}

impl<'m> Load<'m> {
    /// Nodes that stand worse than `worst` get nothing, nor do those that are drained.
    fn of(metadata: &'m Metadata, standings: &'m Standings, worst: Standing) -> Self {
        let may = |id: &NodeId| standings.get(id).is_none_or(|standing| *standing <= worst);
        let stays = metadata.nodes().iter().filter(|(id, node)| !node.draining && may(id));
        let stays = stays.map(|(id, _)| (*id, 0));
        let nodes: BTreeMap<NodeId, usize> = stays.collect();
        let mut load = Self { metadata, standings, replicas: nodes.clone(), leads: nodes, wanted: BTreeMap::new() };
        for (topic, partition) in partitions(metadata) {
            let place = TopicPartition { topic: topic.id, partition: partition.partition };
            load.put(place, partition.wanted().iter().map(|replica| replica.node).collect());
        }
        load
    }

    fn put(&mut self, place: TopicPartition, nodes: Vec<NodeId>) {
        let before = self.wanted.insert(place, nodes.clone());
        let counts = |nodes: &[NodeId], load: &mut Self, by: isize| {
            for (at, node) in nodes.iter().enumerate() {
                if let Some(count) = load.replicas.get_mut(node) {
                    *count = count.saturating_add_signed(by);
                }
                if at == 0
                    && let Some(count) = load.leads.get_mut(node)
                {
                    *count = count.saturating_add_signed(by);
                }
            }
        };
        counts(&before.unwrap_or_default(), self, -1);
        counts(&nodes, self, 1);
    }

    fn rack(&self, node: NodeId) -> &str {
        self.metadata.nodes().get(&node).map_or("", |node| node.rack.as_str())
    }

    /// How many of these nodes stand on the rack of a node.
    fn on_rack(&self, nodes: &[NodeId], node: NodeId) -> usize {
        let rack = self.rack(node);
        if rack.is_empty() { 0 } else { nodes.iter().filter(|other| self.rack(**other) == rack).count() }
    }

    /// The node that should take a replica besides those on `nodes`: one that stands well, of a rack that has none if there
    /// is one, with the fewest replicas.
    fn best_besides(&self, nodes: &[NodeId]) -> Option<NodeId> {
        let free = self.replicas.iter().filter(|(node, _)| !nodes.contains(node));
        let standing = |node: &NodeId| self.standings.get(node).copied().unwrap_or_default();
        let best = free.min_by_key(|(node, count)| (standing(node), self.on_rack(nodes, **node), **count, **node));
        best.map(|(node, _)| *node)
    }
}

fn partitions(metadata: &Metadata) -> impl Iterator<Item = (&Arc<Topic>, &Partition)> {
    metadata.topics().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)))
}

/// How many partitions are on their way.
#[must_use]
pub fn moving(metadata: &Metadata) -> usize {
    partitions(metadata).filter(|(_, partition)| !partition.target.is_empty()).count()
}

/// Takes replicas off nodes that are drained, of up to `max` partitions, and of those that are on their way there. Nodes that
/// are not there get none.
///
/// # Errors
/// [`ErrorCode::NotEnoughNodes`]: there is no node to take a replica.
pub fn drain(metadata: &Metadata, standings: &Standings, max: usize) -> Result<Vec<Move>> {
    let is_drained = |node: &NodeId| metadata.nodes().get(node).is_some_and(|node| node.draining);
    let mut load = Load::of(metadata, standings, Standing::Full);
    let (mut moves, mut new) = (Vec::new(), 0);
    for (topic, partition) in partitions(metadata) {
        let mut nodes: Vec<NodeId> = partition.wanted().iter().map(|replica| replica.node).collect();
        // What moves already is not one more: it may never arrive where it goes.
        let is_new = partition.target.is_empty();
        if !nodes.iter().any(is_drained) || (is_new && new == max) {
            continue;
        }
        new += usize::from(is_new);
        for at in 0..nodes.len() {
            if nodes.get(at).is_some_and(is_drained) {
                let others: Vec<NodeId> = nodes.iter().copied().filter(|node| !is_drained(node)).collect();
                let best = load.best_besides(&others).ok_or_else(|| too_few(topic, nodes.len()))?;
                nodes.splice(at..=at, [best]);
            }
        }
        load.put(TopicPartition { topic: topic.id, partition: partition.partition }, nodes.clone());
        moves.push(Move { topic: Arc::clone(topic), partition: partition.partition, to: nodes });
    }
    Ok(moves)
}

fn too_few(topic: &Topic, replicas: usize) -> Error {
    let why = format!(
        "no node is left that could take a replica of topic {:?}, which has {replicas} on as many nodes (of nodes \
         that are down or leave none can); add a node, or let the topic have fewer replicas",
        topic.name
    );
    Error::new(ErrorCode::NotEnoughNodes, why)
}

/// Gives every partition of a topic so many replicas: more go where there are few, and the last ones go. Nodes that are
/// not there get none.
///
/// # Errors
/// [`ErrorCode::NotEnoughNodes`]
pub fn set_replicas(
    metadata: &Metadata,
    standings: &Standings,
    topic: &Arc<Topic>,
    replicas: usize,
) -> Result<Vec<Move>> {
    let mut load = Load::of(metadata, standings, Standing::Full);
    let mut moves = Vec::new();
    for partition in &topic.partitions {
        let before: Vec<NodeId> = partition.wanted().iter().map(|replica| replica.node).collect();
        let mut nodes: Vec<NodeId> = before.iter().copied().take(replicas).collect();
        while nodes.len() < replicas {
            nodes.push(load.best_besides(&nodes).ok_or_else(|| too_few(topic, replicas))?);
        }
        if nodes != before {
            load.put(TopicPartition { topic: topic.id, partition: partition.partition }, nodes.clone());
            moves.push(Move { topic: Arc::clone(topic), partition: partition.partition, to: nodes });
        }
    }
    Ok(moves)
}

/// Evens out how many replicas nodes hold, then how many they are the preferred leader of, by up to `max` moves. Nodes
/// that do not stand well are left as they are.
#[must_use]
pub fn balance(metadata: &Metadata, standings: &Standings, max: usize) -> Vec<Move> {
    let mut load = Load::of(metadata, standings, Standing::Good);
    let topics: BTreeMap<_, _> = metadata.topics().map(|topic| (topic.id, topic)).collect();
    let mut moves: BTreeMap<TopicPartition, Vec<NodeId>> = BTreeMap::new();
    while moves.len() < max {
        let better = better_replicas(&load).or_else(|| better_leaders(&load));
        let Some((place, nodes)) = better else { break };
        load.put(place, nodes.clone());
        moves.insert(place, nodes);
    }
    let moves = moves.into_iter();
    let of_topic = |(place, to): (TopicPartition, _)| {
        Some(Move { topic: Arc::clone(topics.get(&place.topic)?), partition: place.partition, to })
    };
    moves.filter_map(of_topic).collect()
}

/// Pairs of nodes of which the first has at least two more, the most uneven first.
fn uneven(counts: &BTreeMap<NodeId, usize>) -> Vec<(NodeId, NodeId)> {
    let pairs = counts.iter().flat_map(|(more, a)| counts.iter().map(move |(less, b)| (a, b, *more, *less)));
    let mut pairs: Vec<_> = pairs.filter(|(a, b, ..)| **a >= **b + 2).map(|(a, b, m, l)| (a - b, m, l)).collect();
    pairs.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)).then(one.2.cmp(&other.2)));
    pairs.into_iter().map(|(_, more, less)| (more, less)).collect()
}

fn better_replicas(load: &Load<'_>) -> Option<(TopicPartition, Vec<NodeId>)> {
    uneven(&load.replicas).into_iter().find_map(|(more, less)| {
        load.wanted.iter().find_map(|(place, nodes)| {
            let at = nodes.iter().position(|node| *node == more)?;
            let others: Vec<NodeId> = nodes.iter().copied().filter(|node| *node != more).collect();
            // Not at the price of two replicas on one rack.
            let is_good = !nodes.contains(&less) && load.on_rack(&others, less) <= load.on_rack(&others, more);
            let mut nodes = nodes.clone();
            nodes.splice(at..=at, [less]);
            is_good.then_some((*place, nodes))
        })
    })
}

fn better_leaders(load: &Load<'_>) -> Option<(TopicPartition, Vec<NodeId>)> {
    uneven(&load.leads).into_iter().find_map(|(more, less)| {
        load.wanted.iter().find_map(|(place, nodes)| {
            let at = nodes.iter().position(|node| *node == less).filter(|_| nodes.first() == Some(&more))?;
            let mut nodes = nodes.clone();
            nodes.swap(0, at);
            Some((*place, nodes))
        })
    })
}

#[cfg(test)]
mod tests {
    use levada_protocol::{
        error::NodeAddresses,
        ids::{IncarnationId, PartitionId, ReplicaId},
        messages::metadata as wire,
    };

    use super::*;
    use crate::cluster::{
        feature::LEVEL_ONCE,
        metadata::{Node, command, move_command, register_command, spread_command},
    };

    /// Nodes by their racks, and partitions by their nodes.
    fn cluster(racks: &[&str], partitions: &[&[u64]]) -> Metadata {
        let mut metadata = Metadata::default();
        for (id, rack) in (1..).zip(racks) {
            let addresses = NodeAddresses { node: NodeId(id), ..NodeAddresses::default() };
            let node = Node::new(addresses, IncarnationId::default(), (*rack).to_owned());
            metadata.apply(register_command(&node)).unwrap();
        }
        let replicas = |nodes: &[u64]| nodes.iter().map(|&node_id| wire::Replica { replica_id: 0, node_id }).collect();
        let partitions = (0..).zip(partitions).map(|(partition, nodes)| wire::Partition {
            partition,
            replicas: replicas(nodes),
            ..Default::default()
        });
        let topic = wire::Topic {
            name: "t".into(),
            topic_id: vec![1; 16].into(),
            partitions: partitions.collect(),
            ..Default::default()
        };
        metadata.apply(command(wire::command::Kind::CreateTopic(wire::CreateTopic { topic: Some(topic) }))).unwrap();
        metadata
    }

    fn drained(metadata: &mut Metadata, node_id: u64) {
        let drain = wire::DrainNode { node_id, drain: true };
        metadata.apply(command(wire::command::Kind::DrainNode(drain))).unwrap();
    }

    /// Carries a plan out, and lets all moves finish.
    fn carry_out(metadata: &mut Metadata, moves: Vec<Move>) -> Vec<Vec<u64>> {
        metadata.apply(move_command(&moves)).unwrap();
        let topic = Arc::clone(metadata.topic("t").unwrap());
        for partition in topic.partitions.iter().filter(|partition| !partition.target.is_empty()) {
            let voters = partition.target.iter().map(|replica| replica.id.get()).collect();
            let finish =
                wire::FinishMove { group: partition.group.get(), voters, targets_given: partition.targets_given };
            metadata.apply(command(wire::command::Kind::FinishMove(finish))).unwrap();
        }
        let topic = metadata.topic("t").unwrap();
        let nodes = |partition: &Partition| partition.replicas.iter().map(|replica| replica.node.get()).collect();
        topic.partitions.iter().map(nodes).collect()
    }

    fn counts(placed: &[Vec<u64>], node: u64) -> (usize, usize) {
        let holds = placed.iter().filter(|nodes| nodes.contains(&node)).count();
        (holds, placed.iter().filter(|nodes| nodes.first() == Some(&node)).count())
    }

    #[test]
    fn a_new_node_gets_its_share() {
        let mut metadata = cluster(&[""; 4], &[[1, 2, 3].as_slice(); 8]);
        let moves = balance(&metadata, &Standings::new(), usize::MAX);
        let placed = carry_out(&mut metadata, moves);
        for node in 1..=4 {
            assert_eq!(counts(&placed, node), (6, 2), "node {node}: {placed:?}");
        }
        assert_eq!(balance(&metadata, &Standings::new(), usize::MAX), []);
        assert_eq!(moving(&metadata), 0);
    }

    /// The cluster evened out replicas, by a plan from a moment before, and took back that there should be three of each.
    #[test]
    fn what_was_planned_before_undoes_nothing() {
        let mut metadata = cluster(&[""; 3], &[[1].as_slice(), &[1]]);
        let set = wire::SetFeatureLevel { level: LEVEL_ONCE };
        metadata.apply(command(wire::command::Kind::SetFeatureLevel(set))).unwrap();
        let spread = balance(&metadata, &Standings::new(), usize::MAX);
        assert!(!spread.is_empty());
        let spread = spread_command(&spread, &metadata);
        let topic = Arc::clone(metadata.topic("t").unwrap());
        let three = set_replicas(&metadata, &Standings::new(), &topic, 3).unwrap();
        metadata.apply(move_command(&three)).unwrap();
        metadata.apply(spread.clone()).unwrap();
        let wanted = |metadata: &Metadata| -> Vec<usize> {
            let topic = metadata.topic("t").unwrap();
            topic.partitions.iter().map(|partition| partition.wanted().len()).collect()
        };
        assert_eq!(wanted(&metadata), [3, 3]);
        carry_out(&mut metadata, Vec::new());
        metadata.apply(spread).unwrap();
        assert_eq!(wanted(&metadata), [3, 3], "nor when it has come about");
    }

    #[test]
    fn a_plan_is_bounded_and_goes_on_where_it_stopped() {
        let mut metadata = cluster(&[""; 4], &[[1, 2, 3].as_slice(); 8]);
        let mut rounds = 0;
        loop {
            let moves = balance(&metadata, &Standings::new(), 2);
            assert!(moves.len() <= 2 && rounds < 20);
            if moves.is_empty() {
                break;
            }
            rounds += 1;
            carry_out(&mut metadata, moves);
        }
        assert!(rounds >= 3, "{rounds}");
    }

    #[test]
    fn a_drained_node_gives_up_everything_and_racks_are_kept_apart() {
        let mut metadata = cluster(&["a", "a", "b", "b"], &[&[1, 3], &[3, 1], &[2, 4], &[4, 2]]);
        drained(&mut metadata, 1);
        let moves = drain(&metadata, &Standings::new(), usize::MAX).unwrap();
        let placed = carry_out(&mut metadata, moves);
        assert_eq!(placed, [[2, 3], [3, 2], [2, 4], [4, 2]]);
        assert!(!metadata.holds_replicas(NodeId(1)));
        assert!(
            balance(&metadata, &Standings::new(), usize::MAX).iter().all(|planned| !planned.to.contains(&NodeId(1)))
        );
    }

    #[test]
    fn what_is_stuck_on_its_way_to_a_drained_node_goes_elsewhere_though_much_is_under_way() {
        let mut metadata = cluster(&[""; 4], &[&[1, 2, 3]]);
        let topic = Arc::clone(metadata.topic("t").unwrap());
        let moves = [Move { topic, partition: PartitionId(0), to: [1, 2, 4].map(NodeId).into() }];
        metadata.apply(move_command(&moves)).unwrap();
        drained(&mut metadata, 4);
        let moves = drain(&metadata, &Standings::new(), 0).unwrap();
        assert_eq!(moves[0].to, [1, 2, 3].map(NodeId));
    }

    #[test]
    fn a_node_that_is_not_heard_of_gets_nothing() {
        let mut metadata = cluster(&[""; 5], &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
        let absent = Standings::from([(NodeId(5), Standing::Absent)]);
        drained(&mut metadata, 1);
        let moves = drain(&metadata, &absent, usize::MAX).unwrap();
        let placed = carry_out(&mut metadata, moves);
        assert!(placed.iter().all(|nodes| nodes.contains(&4) && !nodes.contains(&5)), "{placed:?}");
        assert!(balance(&metadata, &absent, usize::MAX).iter().all(|planned| !planned.to.contains(&NodeId(5))));
        let topic = Arc::clone(metadata.topic("t").unwrap());
        assert_eq!(set_replicas(&metadata, &absent, &topic, 4).unwrap_err().code, ErrorCode::NotEnoughNodes);
    }

    #[test]
    fn a_disk_that_fills_up_gets_what_no_other_can_take() {
        let mut metadata = cluster(&[""; 5], &[&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
        let full = Standings::from([(NodeId(4), Standing::Full), (NodeId(5), Standing::Strained)]);
        let is_spared = |planned: &Move| planned.to.iter().all(|node| node.get() <= 3);
        assert!(balance(&metadata, &full, usize::MAX).iter().all(is_spared), "to spread is no reason");
        let topic = Arc::clone(metadata.topic("t").unwrap());
        let more = set_replicas(&metadata, &full, &topic, 4).unwrap();
        assert!(more.iter().all(|planned| planned.to.contains(&NodeId(5)) && !planned.to.contains(&NodeId(4))));
        drained(&mut metadata, 5);
        drained(&mut metadata, 1);
        let moves = drain(&metadata, &full, usize::MAX).unwrap();
        assert!(
            !moves.is_empty() && moves.iter().all(|planned| planned.to.contains(&NodeId(4))),
            "nobody else is left"
        );
    }

    #[test]
    fn a_move_ends_with_the_target_that_it_was_reported_for() {
        let mut metadata = cluster(&[""; 4], &[&[1, 2, 3]]);
        let topic = Arc::clone(metadata.topic("t").unwrap());
        let retarget = |metadata: &mut Metadata, nodes: [u64; 3]| {
            let moves = [Move { topic: Arc::clone(&topic), partition: PartitionId(0), to: nodes.map(NodeId).into() }];
            metadata.apply(move_command(&moves)).unwrap();
            metadata.topic("t").unwrap().partitions[0].clone()
        };
        let reported = retarget(&mut metadata, [1, 2, 4]);
        retarget(&mut metadata, [1, 2, 3]);
        let again = retarget(&mut metadata, [1, 2, 4]);
        assert_eq!(again.target, reported.target);
        // The group may have gone towards the other one since it was reported.
        for (partition, is_done) in [(reported, false), (again, true)] {
            let voters = partition.target.iter().map(|replica| replica.id.get()).collect();
            let finish =
                wire::FinishMove { group: partition.group.get(), voters, targets_given: partition.targets_given };
            metadata.apply(command(wire::command::Kind::FinishMove(finish))).unwrap();
            assert_eq!(metadata.topic("t").unwrap().partitions[0].target.is_empty(), is_done);
        }
    }

    #[test]
    fn without_a_node_to_go_to_it_says_so() {
        let mut metadata = cluster(&[""; 3], &[&[1, 2, 3]]);
        drained(&mut metadata, 2);
        assert_eq!(drain(&metadata, &Standings::new(), 9).unwrap_err().code, ErrorCode::NotEnoughNodes);
    }

    #[test]
    fn replicas_keep_their_numbers_and_new_ones_get_others() {
        let mut metadata = cluster(&[""; 4], &[&[1, 2, 3]]);
        let topic = Arc::clone(metadata.topic("t").unwrap());
        let to = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
        let target = |metadata: &Metadata| {
            let target = &metadata.topic("t").unwrap().partitions[0].target;
            target.iter().map(|replica| (replica.id.get(), replica.node.get())).collect::<Vec<_>>()
        };
        let retarget = |metadata: &mut Metadata, nodes: &[u64]| {
            let moves = [Move { topic: Arc::clone(&topic), partition: PartitionId(0), to: to(nodes) }];
            metadata.apply(move_command(&moves)).unwrap();
        };
        retarget(&mut metadata, &[1, 2, 4]);
        assert_eq!(target(&metadata), [(1, 1), (2, 2), (4, 4)]);
        retarget(&mut metadata, &[4, 2, 3]);
        assert_eq!(target(&metadata), [(4, 4), (2, 2), (3, 3)], "the way back is short");
        retarget(&mut metadata, &[1, 2, 3]);
        assert_eq!(target(&metadata), [(1, 1), (2, 2), (3, 3)], "the group may have gone some of the way");
        retarget(&mut metadata, &[1, 2, 4]);
        assert_eq!(target(&metadata), [(1, 1), (2, 2), (4, 4)], "the group may consist of what was given up");
        let lost = wire::ReplaceReplica { group: 1, replica_id: 4 };
        metadata.apply(command(wire::command::Kind::ReplaceReplica(lost))).unwrap();
        assert_eq!(target(&metadata), [(1, 1), (2, 2), (5, 4)]);
        retarget(&mut metadata, &[1, 2, 3]);
        assert!(metadata.holds_replicas(NodeId(4)), "it is kept until the group has arrived");
        let lost = wire::ReplaceReplica { group: 1, replica_id: 5 };
        metadata.apply(command(wire::command::Kind::ReplaceReplica(lost))).unwrap();
        assert!(!metadata.holds_replicas(NodeId(4)));
        retarget(&mut metadata, &[1, 2, 4]);
        assert_eq!(target(&metadata), [(1, 1), (2, 2), (6, 4)], "a lost number is never given again");
        let first: Vec<ReplicaId> =
            metadata.topic("t").unwrap().partitions[0].first().iter().map(|replica| replica.id).collect();
        assert_eq!(first, [ReplicaId(1), ReplicaId(2), ReplicaId(3)]);
        assert_eq!(Metadata::decode(metadata.encode()).unwrap(), metadata);
    }
}
