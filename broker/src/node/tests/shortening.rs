//! The metadata's log is short, and who needs more of it begins anew.

use super::*;

/// Changes of the metadata that take about 30 KiB, twice as much as is kept, in several segments.
fn change(world: &mut World) {
    for round in 0..100 {
        let name = format!("{round}{}", "x".repeat(200));
        let new =
            NewTopic { name: name.clone(), partitions: 1, replicas: 3, config: BTreeMap::new(), schema_json: None };
        world.ask_controller(Request::CreateTopic { new, dry_run: false, id: None }).unwrap();
        world.ask_controller(Request::DeleteTopic { name, id: None }).unwrap();
        // What is committed is written when time passes.
        for _ in 0..3 {
            world.step();
        }
        if round % 10 == 9 {
            world.nodes.values_mut().for_each(Node::begin_checkpoint);
        }
    }
}

fn log(world: &World, node: NodeId) -> &levada_storage_engine::log::Log {
    world.nodes[&node].controller.group.log()
}

#[test]
fn a_log_does_not_grow_for_ever_and_who_was_away_for_too_long_begins_anew() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    let away = (1..=3).map(NodeId).find(|node| Some(*node) != world.controller()).unwrap();
    world.crash(away);
    change(&mut world);
    for node in world.nodes.keys() {
        let bytes = log(&world, *node).stats().segment_bytes;
        assert!(log(&world, *node).first_index() > LogIndex(50) && bytes < 24 << 10, "{bytes} bytes are kept");
    }
    world.produce(place, batch(&["b"], 1)).unwrap();
    world.restart(away);
    world.may_end.insert(away);
    world.until(|world| !world.nodes.contains_key(&away));
    let replica = world.renew(away);
    world.may_end.clear();
    world.until(|world| world.values(away, place) == ["a", "b"] && world.nodes.values().all(Node::is_settled));
    let group = &world.nodes[&away].controller.group;
    assert!(group.replica() == replica && group.conf().voters.contains(&replica), "{:?}", group.conf());
    // It counts.
    let other = (1..=3).map(NodeId).find(|node| *node != away && Some(*node) != world.controller()).unwrap();
    world.crash(other);
    world.ask_controller(Request::InitProducer).unwrap();
}

#[test]
fn a_damaged_segment_goes_and_the_metadata_stays() {
    let mut world = World::new(3);
    world.scrub = ScrubConfig { bytes_per_s: 20 << 20, interval_ms: 1_000 };
    for node in (1..=3).map(NodeId) {
        world.crash(node);
        world.restart(node);
    }
    let place = world.create_topic(1, &[])[0];
    change(&mut world);
    // In the first segment, and in the one that is written; at the controller, and elsewhere.
    let controller = world.controller().unwrap();
    let other = (1..=3).map(NodeId).find(|node| *node != controller).unwrap();
    for (node, at_end) in [(controller, false), (other, false), (controller, true), (other, true)] {
        // As far as a checkpoint has it, the scrub reads what is written, too.
        world.nodes.values_mut().for_each(Node::begin_checkpoint);
        (0..5).for_each(|_| world.step());
        let first = log(&world, node).first_index();
        let segments = log(&world, node).segments();
        let segment = if at_end { segments.last() } else { segments.first() }.unwrap();
        let file = levada_storage_engine::store::segment_file(GroupId::METADATA, segment.first_index);
        world.disks[&node].flip_bit(&file, 300, 2);
        let gone = world.nodes[&node].shortening.let_go();
        world.until(|world| {
            let shown = world.nodes[&node].view.upkeep();
            world.nodes[&node].shortening.let_go() > gone && shown.damaged_segments == 0
        });
        assert!(log(&world, node).first_index() > first);
    }
    for node in [controller, other] {
        world.crash(node);
        world.restart(node);
    }
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == ["a"]));
    let found = |node: &Node| node.shortening.let_go() + node.shortening.damaged() as u64;
    assert!(world.nodes.values().all(|node| found(node) == 0), "what is damaged is not there any more");
}

#[test]
fn only_the_controller_says_that_a_replica_is_lost() {
    let mut world = World::new(3);
    let controller = world.controller().unwrap();
    let mut others = (1..=3).map(NodeId).filter(|node| *node != controller);
    let (told, other) = (others.next().unwrap(), others.next().unwrap());
    let term = world.nodes[&controller].controller.group.term();
    let lost = |node: NodeId| {
        let (replica, loss) = (ReplicaId(node.get()), MemberLoss::Behind { first: LogIndex(1) });
        PeerMessage::MemberLost { replica, loss, term }
    };
    let earlier = match lost(controller) {
        PeerMessage::MemberLost { replica, loss, .. } => PeerMessage::MemberLost { replica, loss, term: Term(0) },
        other => other,
    };
    for (from, to, message) in
        [(other, told, lost(told)), (other, controller, earlier), (controller, told, lost(other))]
    {
        world.events.push_back((to, Event::Peer { from, message }));
    }
    world.settle();
    world.may_end.insert(told);
    world.events.push_back((told, Event::Peer { from: controller, message: lost(told) }));
    world.settle();
    assert!(!world.nodes.contains_key(&told));
}

/// Of three voters one is behind what the second has kept, and the third has lost everything: nothing is committed any more, and
/// nobody could be given another replica. The first goes on as the one that it is.
#[test]
fn a_voter_that_is_behind_is_brought_up_to_date_without_a_majority() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let controller = world.controller().unwrap();
    let mut others = (1..=3).map(NodeId).filter(|node| *node != controller);
    let (behind, lost) = (others.next().unwrap(), others.next().unwrap());
    world.crash(behind);
    change(&mut world);
    world.crash(lost);
    world.restart(behind);
    world.may_end.insert(behind);
    world.until(|world| !world.nodes.contains_key(&behind));
    assert!(matches!(world.losses[&behind], MemberLoss::Behind { first } if first > LogIndex(50)));
    world.renew(behind);
    world.may_end.clear();
    world.ask_controller(Request::InitProducer).unwrap();
    assert_eq!(world.renew(lost), ReplicaId(lost.get()), "now it can be given another");
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == ["a"]));
    world.until(|world| world.metadata_voters().len() == 3 && world.nodes.values().all(Node::is_settled));
}

#[test]
fn nobody_gets_a_state_that_is_older_than_its_own_or_not_its() {
    let mut world = World::new(3);
    let controller = world.controller().unwrap();
    let applied = world.nodes[&controller].controller.applied();
    let incarnation = config(NodeId(2), 3).incarnation;
    let right = (NodeId(2), incarnation, ReplicaId(2), applied);
    let ask = |world: &mut World, (node, incarnation, replica, last)| {
        let term = world.nodes[&controller].controller.group.term();
        let need = Need { sound_to: Some((term, last)), ..Need::default() };
        world.ask(controller, Request::CatchUpMember { node, incarnation, replica, need })
    };
    assert!(matches!(ask(&mut world, right), Ok(Answer::Joined(state)) if state.applied == applied));
    for wrong in [
        (NodeId(3), incarnation, ReplicaId(2), applied),
        (NodeId(2), config(NodeId(3), 3).incarnation, ReplicaId(2), applied),
        (NodeId(2), incarnation, ReplicaId(3), applied),
        (NodeId(2), incarnation, ReplicaId(2), applied.next()),
    ] {
        assert_eq!(ask(&mut world, wrong).unwrap_err().code, ErrorCode::NotReady);
    }
    let nobody = (NodeId(9), incarnation, ReplicaId(2), applied);
    assert_eq!(ask(&mut world, nobody).unwrap_err().code, ErrorCode::UnknownNode);
}
