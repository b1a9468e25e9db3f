//! Every replica that is left of a partition is in doubt: it goes on from the newest when somebody says so, once.

use super::*;
use crate::cluster::{
    metadata,
    recovery::{Found, Plan, ReplicaState, Subject, plan},
};

/// A partition of a cluster of three, whose journals are to be damaged.
struct Doubt {
    world: World,
    place: TopicPartition,
}

/// With so many replicas. The first record is in segments, if it is checkpointed; the others in the journal only.
fn four_records(replicas: u32, is_checkpointed: bool) -> Doubt {
    let mut world = World::new(3);
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    let new = NewTopic { name: "orders".into(), partitions: 1, replicas, config: BTreeMap::new(), schema_json: None };
    let answer = world.ask_controller(Request::CreateTopic { new, dry_run: false, id: None }).unwrap();
    let Answer::Topic(topic) = answer else { panic!("{answer:?}") };
    let place = TopicPartition { topic: topic.id, partition: levada_protocol::ids::PartitionId(0) };
    for (sequence, value) in ["-first", "-second", "-third", "-fourth"].into_iter().enumerate() {
        let sequence = i32::try_from(sequence).unwrap();
        world.produce(place, batch(&[value], sequence)).unwrap();
        (0..20).for_each(|_| world.step());
        if sequence == 0 && is_checkpointed {
            world.nodes.values_mut().for_each(Node::begin_checkpoint);
            (0..5).for_each(|_| world.step());
        }
    }
    Doubt { world, place }
}

impl Doubt {
    fn partition(&self) -> metadata::Partition {
        let metadata = self.world.nodes[&self.world.controller().unwrap()].controller.metadata();
        metadata.topic_by_id(self.place.topic).unwrap().partition(self.place.partition).unwrap().clone()
    }

    /// Nodes lose what of their journals has this record, all at the same time.
    fn lose(&mut self, losses: &[(NodeId, &str)]) {
        losses.iter().for_each(|(node, _)| self.world.crash(*node));
        for (node, value) in losses {
            damage_journal(&self.world.disks[node], value.as_bytes());
            self.world.restart(*node);
        }
        self.world.until(|world| world.controller().is_some());
        (0..60).for_each(|_| self.world.step());
        assert_eq!(self.world.leader(self.place), None);
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.partition().everybody().into_values().collect()
    }

    fn found(&mut self) -> Vec<Found> {
        let partition = self.partition();
        let find = |(id, node): (ReplicaId, NodeId)| {
            let answer = self.world.ask(node, Request::DescribeReplica { group: partition.group });
            let Ok(Answer::Replica(report)) = answer else { panic!("{answer:?}") };
            Found { replica: metadata::Replica { id, node }, report: Some(*report) }
        };
        partition.everybody().into_iter().map(find).collect()
    }

    fn plan(&mut self) -> Plan {
        let found = self.found();
        assert!(found.iter().all(|found| found.report.as_ref().unwrap().state == ReplicaState::Lost), "{found:?}");
        plan(Subject::Partition, &found).unwrap()
    }

    fn recover(&mut self, plan: &Plan) {
        let (partition, forgiven_to) = (self.partition(), plan.forgiven_to);
        let (group, targets_given) = (partition.group, partition.targets_given);
        let recover = Request::RecoverPartition { group, survivor: plan.survivor.id, targets_given, forgiven_to };
        self.world.ask_controller(recover).unwrap();
    }

    /// The partition has these records on all nodes, and takes another.
    fn is_whole(&mut self, left: &[&str], next: &str) {
        let (place, sequence) = (self.place, i32::try_from(left.len()).unwrap());
        self.world.until(|world| world.leader(place).is_some());
        let all: Vec<&str> = left.iter().copied().chain([next]).collect();
        assert_eq!(self.world.produce(place, batch(&[next], sequence)), appended(left.len() as u64, false));
        self.world.until(|world| {
            let placed = world.placed(place);
            placed.is_some_and(|nodes| nodes.iter().all(|node| world.values(NodeId(*node), place) == all))
        });
        let partition = self.partition();
        assert_eq!((partition.recovery, partition.lost.len()), (None, 0));
        assert!(self.world.nodes.values().all(|node| node.lost.is_empty() && node.reclaimed.is_empty()));
    }

    fn term(&self, node: NodeId) -> u64 {
        let node = &self.world.nodes[&node];
        node.partitions[&node.places[&self.place]].group.term().get()
    }
}

#[test]
fn of_three_replicas_in_doubt_the_one_that_has_most_goes_on() {
    for is_checkpointed in [false, true] {
        let mut doubt = four_records(3, is_checkpointed);
        let nodes = doubt.nodes();
        doubt.lose(&[(nodes[0], "-second"), (nodes[1], "-third"), (nodes[2], "-second")]);
        let plan = doubt.plan();
        assert_eq!((plan.survivor.node, plan.end, plan.known_end), (nodes[1], Offset(2), Offset(4)), "{plan:?}");
        doubt.recover(&plan);
        doubt.is_whole(&["-first", "-second"], "-new");
        assert!(doubt.term(nodes[1]) > 1_000, "no term that somebody else may have had");
        // Every one of them has it, and nobody is in doubt any more.
        let all: Vec<NodeId> = doubt.world.nodes.keys().copied().collect();
        for node in all {
            doubt.world.crash(node);
            doubt.world.restart(node);
            doubt.world.until(|world| world.leader(doubt.place).is_some());
            let place = doubt.place;
            doubt.world.until(|world| world.values(node, place) == ["-first", "-second", "-new"]);
        }
    }
}

#[test]
fn the_only_replica_goes_on_with_what_is_in_front_of_the_hole() {
    for (hole, left) in
        [("-fourth", &["-first", "-second", "-third"][..]), ("-second", &["-first"][..]), ("-first", &[][..])]
    {
        let mut doubt = four_records(1, false);
        let own = doubt.nodes()[0];
        doubt.lose(&[(own, hole)]);
        let plan = doubt.plan();
        assert_eq!((plan.survivor.node, plan.end), (own, Offset(left.len() as u64)));
        // Of a hole at the end, nobody knows what was in it.
        let known = if hole == "-fourth" { 3 } else { 4 };
        assert_eq!(plan.known_end, Offset(known), "{hole}");
        doubt.recover(&plan);
        doubt.is_whole(left, "-new");
        doubt.world.crash(own);
        doubt.world.restart(own);
        let (place, expected) = (doubt.place, [left, &["-new"]].concat());
        doubt.world.until(|world| world.leader(place) == Some(own) && world.values(own, place) == expected);
    }
}

#[test]
fn nothing_is_done_that_nobody_has_said() {
    let mut doubt = four_records(3, true);
    let nodes = doubt.nodes();
    doubt.lose(&nodes.iter().map(|node| (*node, "-third")).collect::<Vec<_>>());
    let of_doubt = doubt.plan();
    // As from somebody who takes it for sound.
    doubt.recover(&Plan { forgiven_to: None, ..of_doubt.clone() });
    (0..60).for_each(|_| doubt.world.step());
    assert_eq!(doubt.world.leader(doubt.place), None);
    let again = plan(Subject::Partition, &doubt.found()).unwrap();
    assert_eq!(again, of_doubt);
    doubt.recover(&again);
    doubt.is_whole(&["-first", "-second"], "-new");
}

/// However far it got: it is done once, and as a whole.
#[test]
fn a_replica_in_doubt_that_restarts_on_the_way_goes_on_all_the_same() {
    for steps in [0, 5, 10, 12] {
        let mut doubt = four_records(3, true);
        let nodes = doubt.nodes();
        doubt.lose(&nodes.iter().map(|node| (*node, "-third")).collect::<Vec<_>>());
        let plan = doubt.plan();
        doubt.recover(&plan);
        (0..steps).for_each(|_| doubt.world.step());
        doubt.world.crash(plan.survivor.node);
        doubt.world.restart(plan.survivor.node);
        doubt.is_whole(&["-first", "-second"], "-new");
    }
}

/// What was accepted was one loss. The next one is another, even while the metadata still says that the first was.
#[test]
fn who_is_in_doubt_again_waits_again() {
    let mut doubt = four_records(1, true);
    let own = doubt.nodes()[0];
    doubt.lose(&[(own, "-third")]);
    let plan = doubt.plan();
    // Nobody hears that it has arrived.
    doubt.world.drops = Some(|_, message| matches!(message, PeerMessage::Placed { .. }));
    doubt.recover(&plan);
    let place = doubt.place;
    doubt.world.until(|world| world.leader(place).is_some());
    for (sequence, value) in [(2, "-fifth"), (3, "-sixth")] {
        doubt.world.produce(place, batch(&[value], sequence)).unwrap();
        (0..20).for_each(|_| doubt.world.step());
    }
    doubt.lose(&[(own, "-fifth")]);
    let later = doubt.plan();
    assert_eq!((later.end, later.known_end), (Offset(2), Offset(4)));
    assert!(later.forgiven_to.unwrap() > plan.forgiven_to.unwrap());
    doubt.world.drops = None;
    doubt.recover(&later);
    doubt.is_whole(&["-first", "-second"], "-new");
    assert!(doubt.term(own) > 2_000);
}

/// The topic is deleted, and the replica is replaced, in the middle of it.
#[test]
fn what_is_gone_meanwhile_does_not_go_on() {
    for steps in [0, 9, 10] {
        let mut doubt = four_records(3, true);
        let nodes = doubt.nodes();
        doubt.lose(&nodes.iter().map(|node| (*node, "-third")).collect::<Vec<_>>());
        let plan = doubt.plan();
        doubt.recover(&plan);
        (0..steps).for_each(|_| doubt.world.step());
        doubt.world.ask_controller(Request::DeleteTopic { name: "orders".into(), id: None }).unwrap();
        (0..60).for_each(|_| doubt.world.step());
        for node in doubt.world.nodes.values() {
            assert!(node.partitions.is_empty() && node.lost.is_empty() && node.reclaimed.is_empty());
            assert!(node.store.doubted().is_empty());
        }
    }
}

/// A node may not know about which groups it is in doubt: then about all, by name.
#[test]
fn a_replica_that_is_in_doubt_with_all_others_of_its_node_goes_on_too() {
    let mut doubt = four_records(1, true);
    let (own, place) = (doubt.nodes()[0], doubt.place);
    (0..20).for_each(|_| doubt.world.step());
    doubt.world.crash(own);
    damage_header(&doubt.world.disks[&own], b"-third");
    doubt.world.until(|world| world.controller().is_some());
    doubt.world.renew(own);
    (0..60).for_each(|_| doubt.world.step());
    assert_eq!(doubt.world.leader(place), None);
    let plan = doubt.plan();
    assert_eq!((plan.survivor.node, plan.end), (own, Offset(2)));
    doubt.recover(&plan);
    doubt.is_whole(&["-first", "-second"], "-new");
    doubt.world.crash(own);
    doubt.world.restart(own);
    doubt.world.until(|world| world.values(own, place) == ["-first", "-second", "-new"]);
}
