//! A partition loses a majority of its replicas, and goes on from what is left when somebody says so.

use super::*;
use crate::cluster::{
    metadata,
    recovery::{Found, Plan, ReplicaReport, ReplicaState, Subject, plan},
};

/// A partition on five nodes, with a record that all of its three replicas have, and one that the survivor has not.
struct Loss {
    world: World,
    place: TopicPartition,
    survivor: NodeId,
    gone: Vec<NodeId>,
}

fn five() -> World {
    let mut world = World::new(3);
    for node in [4, 5] {
        world.admit(NodeId(node), false);
        world.join(NodeId(node));
    }
    world.until(|world| world.metadata_voters().len() == 5);
    world
}

fn loss() -> Loss {
    let mut world = five();
    let place = world.create_topic(1, &[])[0];
    let nodes: Vec<NodeId> = world.placed(place).unwrap().into_iter().map(NodeId).collect();
    assert_eq!(world.produce(place, batch(&["kept"], 0)), appended(0, false));
    world.until(|world| nodes.iter().all(|node| world.values(*node, place) == ["kept"]));
    let leader = world.leader(place).unwrap();
    let survivor = *nodes.iter().rfind(|node| **node != leader).unwrap();
    world.cut.insert(survivor);
    assert_eq!(world.produce(place, batch(&["gone"], 1)), appended(1, false));
    let gone: Vec<NodeId> = nodes.into_iter().filter(|node| *node != survivor).collect();
    gone.iter().for_each(|node| world.crash(*node));
    world.cut.clear();
    (0..40).for_each(|_| world.step());
    assert_eq!(world.leader(place), None);
    Loss { world, place, survivor, gone }
}

impl Loss {
    fn partition(&self) -> metadata::Partition {
        let controller = self.world.controller().expect("three of five are left");
        let metadata = self.world.nodes[&controller].controller.metadata();
        metadata.topic_by_id(self.place.topic).unwrap().partition(self.place.partition).unwrap().clone()
    }

    fn found(&mut self) -> Vec<Found> {
        let partition = self.partition();
        let replicas = partition.everybody().into_iter();
        let find = |(id, node): (ReplicaId, NodeId)| {
            let is_up = self.world.nodes.contains_key(&node);
            let report = is_up.then(|| {
                let answer = self.world.ask(node, Request::DescribeReplica { group: partition.group });
                let Ok(Answer::Replica(report)) = answer else { panic!("{answer:?}") };
                *report
            });
            Found { replica: metadata::Replica { id, node }, report }
        };
        replicas.map(find).collect()
    }

    fn recover(&mut self, plan: &Plan) -> Result<Answer, Error> {
        let (group, survivor, targets_given) = (self.partition().group, plan.survivor.id, 0);
        let forgiven_to = plan.forgiven_to;
        self.world.ask_controller(Request::RecoverPartition { group, survivor, targets_given, forgiven_to })
    }

    /// The survivor leads, and has what it had.
    fn goes_on(&mut self) {
        let (place, survivor) = (self.place, self.survivor);
        self.world.until(|world| world.leader(place) == Some(survivor));
        assert_eq!(self.world.values(survivor, place), ["kept"]);
        assert_eq!(self.world.produce(place, batch(&["new"], 1)), appended(1, false));
    }

    /// Those that were given up come back: as other replicas, with what the survivor has.
    fn come_back(&mut self) {
        let (place, gone) = (self.place, self.gone.clone());
        gone.iter().for_each(|node| self.world.restart(*node));
        self.world.until(|world| {
            let placed = world.placed(place);
            placed.is_some_and(|nodes| nodes.iter().all(|node| world.values(NodeId(*node), place) == ["kept", "new"]))
        });
        let partition = self.partition();
        assert_eq!((partition.recovery, partition.lost.len()), (None, 0));
        assert_eq!(self.world.produce(place, batch(&["newer"], 2)), appended(2, false));
    }
}

#[test]
fn a_partition_goes_on_from_what_is_left() {
    let mut loss = loss();
    let found = loss.found();
    assert_eq!(found.iter().filter(|found| found.report.is_none()).count(), 2);
    let plan = plan(Subject::Partition, &found).unwrap();
    assert_eq!((plan.survivor.node, plan.end, plan.known_end), (loss.survivor, Offset(1), Offset(1)));
    loss.recover(&plan).unwrap();
    let again = loss.recover(&plan).unwrap_err();
    assert!(again.message.contains("look again"), "{again}");
    loss.goes_on();
    loss.come_back();
}

/// However far it got: it is done once, and the survivor does not forget it.
#[test]
fn a_survivor_that_restarts_on_the_way_does_not_forget_that_it_is_one() {
    for steps in [0, 4, 10, 11, 12] {
        let mut loss = loss();
        let plan = plan(Subject::Partition, &loss.found()).unwrap();
        let term = |loss: &Loss| {
            let node = &loss.world.nodes[&loss.survivor];
            node.partitions[&node.places[&loss.place]].group.term().get()
        };
        let before = term(&loss);
        loss.recover(&plan).unwrap();
        (0..steps).for_each(|_| loss.world.step());
        loss.world.crash(loss.survivor);
        loss.world.restart(loss.survivor);
        loss.goes_on();
        assert!(term(&loss) > before + 1_000, "no term that somebody else may have had");
        loss.world.crash(loss.survivor);
        loss.world.restart(loss.survivor);
        loss.come_back();
    }
}

/// A replica that hears of nobody asks for votes again and again, always after the same time. That must not keep it from going on,
/// though the nodes look for survivors in the very ticks in which it asks.
#[test]
fn a_survivor_that_asks_for_votes_whenever_somebody_looks_goes_on() {
    let mut loss = loss();
    let plan = plan(Subject::Partition, &loss.found()).unwrap();
    let node = loss.world.nodes.get_mut(&loss.survivor).unwrap();
    let id = node.places[&loss.place];
    let group = &mut node.partitions.get_mut(&id).unwrap().group;
    // The term in which it is going to wait for its checkpoint.
    let unlucky = unlucky_term(id, group.replica(), group.term().get() + 3_000);
    group.skip_terms(unlucky - 2_000 - group.term().get());
    assert_eq!(group.term().get() + 1_000, unlucky);
    loss.recover(&plan).unwrap();
    loss.goes_on();
    loss.come_back();
}

/// As when the answer got lost, or somebody did not wait for it: those that learn from the survivor by then are given up, too.
#[test]
fn a_survivor_that_is_told_again_lets_others_learn_from_it() {
    let mut loss = loss();
    let plan = plan(Subject::Partition, &loss.found()).unwrap();
    loss.recover(&plan).unwrap();
    let partition = loss.partition();
    let (group, survivor, at) = (partition.group, plan.survivor.id, loss.survivor);
    loss.world.until(|world| !world.nodes[&at].partitions[&group].group.conf().learners.is_empty());
    let again =
        Request::RecoverPartition { group, survivor, targets_given: partition.targets_given, forgiven_to: None };
    loss.world.ask_controller(again).unwrap();
    assert_ne!(loss.partition().recovery, partition.recovery, "others come now");
    loss.goes_on();
    loss.come_back();
}

/// Those that are given up come back before the survivor leads: they may lead for a moment, and nothing comes apart.
#[test]
fn all_that_was_given_up_comes_back_too_early() {
    let mut loss = loss();
    let plan = plan(Subject::Partition, &loss.found()).unwrap();
    loss.recover(&plan).unwrap();
    let (place, gone) = (loss.place, loss.gone.clone());
    gone.iter().for_each(|node| loss.world.restart(*node));
    loss.world.until(|world| world.placed(place).is_some() && world.leader(place).is_some());
    let nodes = loss.world.placed(place).unwrap();
    let values = loss.world.values(loss.world.leader(place).unwrap(), place);
    loss.world.until(|world| nodes.iter().all(|node| world.values(NodeId(*node), place) == values));
    assert_eq!(values[0], "kept");
}

#[test]
fn a_replica_that_is_being_copied_or_not_there_is_no_survivor() {
    let mut loss = loss();
    let group = loss.partition().group;
    let other =
        [1, 2, 3, 4, 5].map(NodeId).into_iter().find(|node| *node != loss.survivor && !loss.gone.contains(node));
    let answer = loss.world.ask(other.unwrap(), Request::DescribeReplica { group }).unwrap();
    assert_eq!(answer, Answer::Replica(Box::default()));
    let mut found = loss.found();
    found.retain(|found| found.report.is_none());
    let report = ReplicaReport { state: ReplicaState::Arriving, ..ReplicaReport::default() };
    found[0].report = Some(report);
    assert_eq!(plan(Subject::Partition, &found).unwrap_err().code, ErrorCode::InvalidRequest);
}

/// It never asks for votes, and goes on believing in the leader that it heard of last.
#[test]
fn a_survivor_without_a_vote_goes_on_too() {
    let mut world = five();
    let place = world.create_topic(1, &[])[0];
    let nodes: Vec<NodeId> = world.placed(place).unwrap().into_iter().map(NodeId).collect();
    assert_eq!(world.produce(place, batch(&["kept"], 0)), appended(0, false));
    world.ask_controller(Request::SetReplicas { name: "orders".into(), replicas: 4 }).unwrap();
    let learner = |world: &World| {
        let learns = |node: &Node| {
            node.partitions
                .values()
                .any(|partition| partition.group.conf().learners.contains(&partition.group.replica()))
        };
        world.nodes.iter().find(|(_, node)| learns(node)).map(|(id, _)| *id)
    };
    world.until(|world| learner(world).is_some_and(|node| world.values(node, place) == ["kept"]));
    let survivor = learner(&world).unwrap();
    let leader = world.leader(place).unwrap();
    let other = *nodes.iter().find(|node| **node != leader).unwrap();
    let mut loss = Loss { world, place, survivor, gone: vec![leader, other] };
    loss.gone.iter().for_each(|node| loss.world.crash(*node));
    loss.world.until(|world| world.controller().is_some());
    let partition = loss.partition();
    let replica = partition.on(survivor).unwrap();
    let (group, targets_given) = (partition.group, partition.targets_given);
    let recover = Request::RecoverPartition { group, survivor: replica.id, targets_given, forgiven_to: None };
    loss.world.ask_controller(recover).unwrap();
    loss.goes_on();
    assert!(
        loss.world.nodes[&survivor].partitions[&group].group.term().get() > 1_000,
        "nobody believes an older leader"
    );
}
