//! The metadata goes on from what one node has, when an operator says so.

use super::*;

/// Three nodes with a topic, two of which are down: the survivor, which leads nothing, and they.
fn loss() -> (World, TopicPartition, NodeId, [NodeId; 2]) {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    let controller = world.controller().unwrap();
    let survivor = (1..=3).map(NodeId).find(|node| *node != controller).unwrap();
    let other = (1..=3).map(NodeId).find(|node| ![controller, survivor].contains(node)).unwrap();
    world.until(|world| world.values(survivor, place) == ["a"]);
    for node in [controller, other] {
        world.crash(node);
    }
    world.until(|world| world.nodes[&survivor].controller.group.is_leaderless());
    (world, place, survivor, [controller, other])
}

fn create(world: &mut World, name: &str) {
    let new = NewTopic { name: name.into(), partitions: 1, replicas: 1, config: BTreeMap::new(), schema_json: None };
    world.ask_controller(Request::CreateTopic { new, dry_run: false, id: None }).unwrap();
}

fn recover(world: &mut World, node: NodeId) -> Result<Answer, Error> {
    let id = world.send(node, Request::RecoverMetadata);
    world.until(|world| world.replies.contains_key(&id));
    world.replies[&id].clone()
}

/// A node that has heard that its replica is lost gets another.
fn comes_back(world: &mut World, node: NodeId) {
    world.may_end.insert(node);
    world.until(|world| !world.nodes.contains_key(&node));
    world.may_end.remove(&node);
    world.renew(node);
}

/// All know the same, everybody has a place in group 0, and the partition has its records.
fn is_whole(world: &mut World, place: TopicPartition) {
    world.until(|world| {
        let known = |node: &Node| node.controller.metadata();
        let all_know = world.nodes.values().all(|node| known(node) == known(&world.nodes[&NodeId(1)]));
        all_know && world.metadata_voters().len() == 3 && world.nodes.values().all(Node::is_settled)
    });
    world.produce(place, batch(&["b"], 1)).unwrap();
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == ["a", "b"]));
}

#[test]
fn the_metadata_goes_on_and_who_comes_back_follows() {
    let (mut world, place, survivor, others) = loss();
    let term = world.nodes[&survivor].controller.group.term();
    recover(&mut world, survivor).unwrap();
    create(&mut world, "new");
    let after = &world.nodes[&survivor].controller;
    assert!(after.is_leading() && after.group.term().get() > term.get() + 1_000, "{}", after.group.term());
    for node in others {
        world.restart(node);
        comes_back(&mut world, node);
    }
    is_whole(&mut world, place);
    assert!(world.nodes.values().all(|node| node.controller.current().topic("new").is_some()));
}

/// Whoever was a majority goes on as one, and does not know that it was given up; until it meets the survivor.
#[test]
fn a_majority_that_comes_back_without_knowing_it_gives_way() {
    let (mut world, place, survivor, others) = loss();
    recover(&mut world, survivor).unwrap();
    create(&mut world, "new");
    world.cut.insert(survivor);
    for node in others {
        world.restart(node);
    }
    world.until(|world| others.iter().any(|node| world.nodes[node].controller.is_leading()));
    let old = others.into_iter().find(|node| world.nodes[node].controller.is_leading()).unwrap();
    let new = NewTopic { name: "old".into(), partitions: 1, replicas: 1, config: BTreeMap::new(), schema_json: None };
    world.ask(old, Request::CreateTopic { new, dry_run: false, id: None }).unwrap();
    world.cut.remove(&survivor);
    world.may_end.extend(others);
    world.until(|world| world.nodes.len() == 1);
    world.may_end.clear();
    for node in others {
        world.renew(node);
    }
    is_whole(&mut world, place);
    let topics = |node: &Node| ["new", "old"].map(|name| node.controller.current().topic(name).is_some());
    assert!(world.nodes.values().all(|node| topics(node) == [true, false]));
}

/// It is alone for good, or nothing has happened yet and can be asked for again.
#[test]
fn a_survivor_that_crashes_on_the_way_can_be_asked_again() {
    let mut was_alone = 0;
    for rounds in 0..32 {
        let (mut world, _, survivor, _) = loss();
        let term = world.nodes[&survivor].controller.group.term();
        world.send(survivor, Request::RecoverMetadata);
        for round in 0..rounds / 2 {
            world.events.push_back((survivor, Event::Tick));
            world.round();
            // Something else may begin a checkpoint at any moment.
            if round == 1 && rounds % 2 == 0 {
                world.nodes.get_mut(&survivor).unwrap().begin_checkpoint();
            }
        }
        world.crash(survivor);
        world.restart(survivor);
        let is_alone = world.nodes[&survivor].controller.group.conf().everybody().len() == 1;
        was_alone += u32::from(is_alone);
        world.step();
        if !is_alone {
            recover(&mut world, survivor).unwrap();
        }
        create(&mut world, "new");
        assert!(world.nodes[&survivor].controller.group.term().get() > term.get() + 1_000, "after {rounds} rounds");
    }
    assert!((1..32).contains(&was_alone), "{was_alone}");
}

/// As a partition does (`recovery.rs`), whenever it is asked to.
#[test]
fn a_survivor_that_asks_for_votes_whenever_it_looks_goes_on() {
    for steps in 0..10 {
        let (mut world, _, survivor, _) = loss();
        let node = world.nodes.get_mut(&survivor).unwrap();
        let ordinal = node.controller.ordinal();
        let group = &mut node.controller.group;
        let unlucky = unlucky_term(GroupId::METADATA, group.replica(), group.term().get() + 3_000 + ordinal);
        group.skip_terms(unlucky - ordinal - 2_000 - group.term().get());
        (0..steps).for_each(|_| world.step());
        recover(&mut world, survivor).unwrap();
        create(&mut world, "new");
    }
}

#[test]
fn nothing_is_recovered_where_somebody_leads() {
    let mut world = World::new(3);
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    for node in (1..=3).map(NodeId) {
        let error = recover(&mut world, node).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotNeeded, "{error}");
    }
    assert_eq!(world.metadata_voters(), [1, 2, 3]);
}

/// It was recovered elsewhere, or a majority came back: what was asked for is void.
#[test]
fn a_leader_that_comes_up_on_the_way_stays() {
    let (mut world, place, survivor, others) = loss();
    let id = world.send(survivor, Request::RecoverMetadata);
    world.nodes.get_mut(&survivor).unwrap().begin_checkpoint();
    world.may_end.extend(others);
    for node in others {
        world.restart(node);
    }
    world.until(|world| world.replies.contains_key(&id));
    let is_done = world.replies[&id].is_ok();
    for _ in 0..200 {
        world.step();
        for node in others {
            if !world.nodes.contains_key(&node) {
                world.renew(node);
            }
        }
    }
    is_whole(&mut world, place);
    let is_given_up = |node: &NodeId| world.nodes[node].controller.group.replica() != ReplicaId(node.get());
    assert_eq!(others.iter().all(is_given_up), is_done, "it was done, or it was not");
}

/// Two that do not see each other each go on alone: when they meet, one gives way, and so does whoever followed it.
#[test]
fn two_that_went_on_alone_become_one() {
    let (mut world, place, one, others) = loss();
    let other = others[0];
    world.cut.insert(one);
    world.restart(other);
    world.until(|world| world.nodes[&other].controller.group.is_leaderless());
    for node in [one, other] {
        recover(&mut world, node).unwrap();
        let new = NewTopic {
            name: format!("of-{node}"),
            partitions: 1,
            replicas: 1,
            config: BTreeMap::new(),
            schema_json: None,
        };
        world.until(|world| world.nodes[&node].controller.is_leading());
        world.ask(node, Request::CreateTopic { new, dry_run: false, id: None }).unwrap();
    }
    // The third follows the second for a while.
    world.restart(others[1]);
    comes_back(&mut world, others[1]);
    world.until(|world| world.nodes[&other].controller.group.conf().everybody().len() > 1);
    world.cut.clear();
    world.may_end.extend([one, other, others[1]]);
    for _ in 0..600 {
        world.step();
        for node in [one, other, others[1]] {
            if !world.nodes.contains_key(&node) && world.controller().is_some() {
                world.renew(node);
            }
        }
    }
    is_whole(&mut world, place);
    let kept = [one, other].into_iter().filter(|node| {
        let name = format!("of-{node}");
        world.nodes.values().all(|node| node.controller.current().topic(&name).is_some())
    });
    assert_eq!(kept.count(), 1);
}

/// It has no vote, and asks nobody for any: whoever leads has to speak to it.
#[test]
fn a_member_without_a_vote_is_told_too() {
    let mut world = World::new(3);
    world.admit(NodeId(4), false);
    world.join(NodeId(4));
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.until(|world| world.nodes.values().all(Node::is_settled) && world.metadata_voters().len() == 3);
    let learner = (1..=4).find(|node| !world.metadata_voters().contains(node)).map(NodeId).unwrap();
    let gone = (1..=4).map(NodeId).filter(|node| *node != learner).take(2).collect::<Vec<_>>();
    let survivor = (1..=4).map(NodeId).find(|node| *node != learner && !gone.contains(node)).unwrap();
    gone.iter().for_each(|node| world.crash(*node));
    world.until(|world| world.nodes[&survivor].controller.group.is_leaderless());
    recover(&mut world, survivor).unwrap();
    comes_back(&mut world, learner);
    world.until(|world| {
        let known = |node: NodeId| world.nodes[&node].controller.metadata();
        known(learner) == known(survivor) && world.nodes[&learner].controller.group.leader() == Some(survivor)
    });
}

/// What the survivor has and nobody knows to be committed, a change of the membership among it, is applied as it would have been.
#[test]
fn what_is_left_of_the_log_is_applied_before_anything_else() {
    let mut world = World::new(3);
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    let survivor = world.controller().unwrap();
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != survivor).collect();
    world.create_topic(1, &[]);
    world.cut.insert(survivor);
    let new = NewTopic { name: "tail".into(), partitions: 2, replicas: 3, config: BTreeMap::new(), schema_json: None };
    world.send(survivor, Request::CreateTopic { new, dry_run: false, id: None });
    world.settle();
    let node = world.nodes.get_mut(&survivor).unwrap();
    let target = crate::raft::membership::Target { voters: [ReplicaId(survivor.get())].into(), learners: [].into() };
    node.controller.group.approach(&target, true);
    node.dirty.insert(GroupId::METADATA);
    world.step();
    others.iter().for_each(|node| world.crash(*node));
    world.until(|world| world.nodes[&survivor].controller.group.is_leaderless());
    let next = world.nodes[&survivor].controller.current().next_group();
    recover(&mut world, survivor).unwrap();
    create(&mut world, "new");
    let metadata = world.nodes[&survivor].controller.metadata();
    let group = |name: &str| metadata.topic(name).unwrap().partitions[0].group;
    assert_eq!(group("tail"), next, "as others may have applied it");
    assert!(group("new").get() > next.get() + 1_000_000, "{}", group("new"));
    assert_eq!(world.nodes[&survivor].controller.members()[&ReplicaId(survivor.get())], survivor);
}

/// In a change that is lost the topic was deleted. It is there again, and two of its three replicas are not: if these began as if
/// they had just been made, they would be a majority that has nothing.
#[test]
fn a_replica_that_may_have_been_removed_does_not_begin_anew() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == ["a"]));
    let survivor = (1..=3).map(NodeId).find(|node| Some(*node) != world.controller()).unwrap();
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != survivor).collect();
    let group = world.nodes[&survivor].places[&place];
    world.cut.insert(survivor);
    let controller = world.controller().unwrap();
    world.ask(controller, Request::DeleteTopic { name: "orders".into(), id: None }).unwrap();
    for _ in 0..20 {
        world.step();
        others.iter().for_each(|node| world.nodes.get_mut(node).unwrap().begin_checkpoint());
    }
    others.iter().for_each(|node| world.crash(*node));
    world.cut.clear();
    world.until(|world| world.nodes[&survivor].controller.group.is_leaderless());
    recover(&mut world, survivor).unwrap();
    for node in others.iter().copied() {
        world.restart(node);
        comes_back(&mut world, node);
    }
    world.until(|world| world.metadata_voters().len() == 3);
    (0..100).for_each(|_| world.step());
    for node in &others {
        let Answer::Replica(report) = world.ask(*node, Request::DescribeReplica { group }).unwrap() else { panic!() };
        assert_eq!(report.state, crate::cluster::recovery::ReplicaState::Lost);
    }
    assert_eq!(world.leader(place), None);
    let own = world.nodes[&survivor].partitions[&group].group.replica();
    let recover = Request::RecoverPartition { group, survivor: own, targets_given: 0, forgiven_to: None };
    world.ask_controller(recover).unwrap();
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == ["a"]));
    world.produce(place, batch(&["b"], 1)).unwrap();
}
