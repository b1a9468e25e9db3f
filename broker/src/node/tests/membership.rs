//! Nodes come and go, replicas move, and what was written stays.

use super::*;

/// A cluster of three with records in every partition.
fn cluster(partitions: u32) -> (World, Vec<TopicPartition>) {
    let mut world = World::new(3);
    let places = world.create_topic(partitions, &[("segment.bytes", "1048576")]);
    for (at, place) in places.iter().enumerate() {
        for sequence in 0..3 {
            let value = format!("{at}.{sequence}");
            world.produce(*place, batch(&[&value], sequence)).unwrap();
        }
    }
    (world, places)
}

fn expected(at: usize, count: usize) -> Vec<String> {
    (0..count).map(|sequence| format!("{at}.{sequence}")).collect()
}

/// Every replica has every record, and more can be written.
fn check(world: &mut World, places: &[TopicPartition]) {
    for (at, place) in places.iter().enumerate() {
        let nodes = world.placed(*place).expect("nothing moves");
        for node in nodes {
            world.until(|world| world.values(NodeId(node), *place) == expected(at, 3));
        }
        assert_eq!(world.produce(*place, batch(&[&format!("{at}.2")], 2)), appended(2, true), "the producer is known");
    }
}

fn held(world: &World, places: &[TopicPartition], node: u64) -> usize {
    places.iter().filter(|place| world.placed(**place).is_some_and(|nodes| nodes.contains(&node))).count()
}

#[test]
fn a_node_joins_and_gets_its_share() {
    let (mut world, places) = cluster(8);
    let refused = world.ask_to_join(NodeId(4)).unwrap_err();
    assert!(matches!(refused.code, ErrorCode::NotAdmitted | ErrorCode::FeatureLevel), "{refused}");
    world.admit(NodeId(4), false);
    world.join(NodeId(4));
    world.until(|world| held(world, &places, 4) == 6 && places.iter().all(|place| world.placed(*place).is_some()));
    for node in 1..=4 {
        assert_eq!(held(&world, &places, node), 6, "node {node}");
    }
    check(&mut world, &places);
    assert_eq!(world.metadata_voters(), [1, 2, 3], "four voters are no better than three");
    // It starts again like any other.
    world.crash(NodeId(4));
    world.restart(NodeId(4));
    check(&mut world, &places);

    world.admit(NodeId(5), false);
    world.join(NodeId(5));
    world.until(|world| world.metadata_voters().len() == 5);
    world.until(|world| held(world, &places, 5) >= 4 && places.iter().all(|place| world.placed(*place).is_some()));
    check(&mut world, &places);
}

#[test]
fn a_node_is_drained_and_goes() {
    let (mut world, places) = cluster(4);
    let drain = |dry_run| Request::DrainNode { node: NodeId(2), drain: true, dry_run };
    world.admit(NodeId(4), false);
    world.join(NodeId(4));
    let Answer::Moves(moves) = world.ask_controller(drain(true)).unwrap() else { panic!() };
    assert!(!moves.is_empty());
    world.ask_controller(drain(false)).unwrap();
    world.until(|world| {
        let controller = world.controller();
        controller.is_some_and(|id| world.nodes[&id].controller.current().removed().contains(&NodeId(2)))
    });
    assert_eq!(held(&world, &places, 2), 0);
    world.until(|world| world.metadata_voters() == [1, 3, 4] || world.metadata_voters() == [4, 1, 3]);
    world.until(|world| world.nodes[&NodeId(2)].partitions.is_empty());
    world.crash(NodeId(2));
    check(&mut world, &places);
    // Its number may be used again, by a node that knows nothing of the one before.
    assert_eq!(world.ask_to_join(NodeId(2)).unwrap_err().code, ErrorCode::NotAdmitted);
    world.wiped.insert(NodeId(2));
    world.admit(NodeId(2), false);
    world.join(NodeId(2));
    world.until(|world| held(world, &places, 2) > 0 && places.iter().all(|place| world.placed(*place).is_some()));
    check(&mut world, &places);
}

#[test]
fn the_last_node_that_could_hold_a_replica_is_not_drained() {
    let (mut world, _) = cluster(1);
    world.until(|world| {
        let controller = world.controller().unwrap();
        world.nodes[&controller].controller.current().feature_level() == crate::cluster::feature::LEVEL_MAX
    });
    let drain = Request::DrainNode { node: NodeId(2), drain: true, dry_run: false };
    assert_eq!(world.ask_controller(drain).unwrap_err().code, ErrorCode::NotEnoughNodes);
    let unknown = Request::DrainNode { node: NodeId(9), drain: true, dry_run: false };
    assert_eq!(world.ask_controller(unknown).unwrap_err().code, ErrorCode::UnknownNode);
}

#[test]
fn a_wiped_node_comes_back_as_somebody_new() {
    let (mut world, places) = cluster(3);
    let replica = |world: &World, node: u64| {
        let node = &world.nodes[&NodeId(node)];
        places.iter().filter_map(|place| Some(node.partitions.get(node.places.get(place)?)?.group.replica())).max()
    };
    let before = replica(&world, 3);
    for gone in [3, 1] {
        world.crash(NodeId(gone));
        world.wiped.insert(NodeId(gone));
        assert_eq!(world.ask_to_join(NodeId(gone)).unwrap_err().code, ErrorCode::WrongIncarnation);
        world.admit(NodeId(gone), true);
        world.join(NodeId(gone));
        world.until(|world| places.iter().all(|place| world.placed(*place).is_some_and(|nodes| nodes.len() == 3)));
        check(&mut world, &places);
    }
    assert!(replica(&world, 3) > before);
    // Only the two that were wiped are left, and have everything.
    world.crash(NodeId(2));
    for (at, place) in places.iter().enumerate() {
        assert_eq!(world.produce(*place, batch(&[&format!("{at}.3")], 3)), appended(3, false));
        assert_eq!(world.values(world.leader(*place).unwrap(), *place), expected(at, 4));
    }
}

#[test]
fn replicas_are_added_and_taken_away() {
    let (mut world, places) = cluster(3);
    world.admit(NodeId(4), false);
    for replicas in [1, 3, 2] {
        world.ask_controller(Request::SetReplicas { name: "orders".into(), replicas }).unwrap();
        let count = replicas as usize;
        world.until(|world| places.iter().all(|place| world.placed(*place).is_some_and(|nodes| nodes.len() == count)));
        check(&mut world, &places);
        for place in &places {
            world.until(|world| {
                let open = world.nodes.values().filter(|node| node.places.contains_key(place)).count();
                open == count && world.leader(*place).is_some()
            });
        }
    }
    let grow = |partitions| Request::SetPartitions { name: "orders".into(), partitions };
    assert_eq!(world.ask_controller(grow(2)).unwrap_err().code, ErrorCode::InvalidRequest);
    let Answer::Topic(topic) = world.ask_controller(grow(5)).unwrap() else { panic!() };
    let more = TopicPartition { topic: topic.id, partition: levada_protocol::ids::PartitionId(4) };
    assert_eq!(world.produce(more, batch(&["new"], 0)), appended(0, false));
    check(&mut world, &places);
}

/// A partition of ten segments with replicas on two nodes, and the third node, which copies slowly.
fn about_to_copy() -> (World, TopicPartition, NodeId) {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[("segment.bytes", "1048576")])[0];
    let value = "v".repeat(100_000);
    for sequence in 0..100 {
        world.produce(place, batch(&[&value], sequence)).unwrap();
        world.step();
    }
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() > 1));
    world.ask_controller(Request::SetReplicas { name: "orders".into(), replicas: 2 }).unwrap();
    world.until(|world| world.placed(place).is_some_and(|nodes| nodes.len() == 2));
    let away = (1..=3).find(|node| !world.placed(place).unwrap().contains(node)).map(NodeId).unwrap();
    world.until(|world| world.nodes[&away].partitions.is_empty());
    world.copy_bytes_per_s = 4 << 20;
    world.crash(away);
    world.restart(away);
    world.until(|world| world.controller().is_some());
    (world, place, away)
}

/// A copy that was cut off goes on with what is there, whatever the crash has made of it.
#[test]
fn a_copy_goes_on_after_a_crash() {
    let (mut world, place, away) = about_to_copy();
    let lender = world.leader(place).unwrap();
    let group = world.nodes[&lender].places[&place];
    world.ask_controller(Request::SetReplicas { name: "orders".into(), replicas: 3 }).unwrap();
    let (mut crashes, mut copied) = (0, 0);
    for tick in 0.. {
        assert!(tick < 2_000, "it does not come to an end");
        world.step();
        if world.values(away, place).len() == 100 {
            break;
        }
        let there: u64 = world.nodes[&away].store.incoming(group).values().sum();
        if there > 2_000_000 * (crashes + 1) {
            copied += world.nodes[&away].copies.copied_bytes();
            crashes += 1;
            world.crash(away);
            world.restart(away);
        }
    }
    copied += world.nodes[&away].copies.copied_bytes();
    assert!(crashes >= 2, "{crashes}");
    assert!(copied < 14_000_000, "what was there was not copied again: {copied} bytes for 10 MB");
    world.until(|world| world.placed(place).is_some_and(|nodes| nodes.len() == 3));
}

/// A file that is not what it should be is refused, and another node asked.
#[test]
fn damage_is_not_copied() {
    let (mut world, place, away) = about_to_copy();
    let nodes = world.placed(place).unwrap();
    // The last is asked first.
    damage(&world.disks[&NodeId(nodes[1])], "segments", b"vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv");
    world.ask_controller(Request::SetReplicas { name: "orders".into(), replicas: 3 }).unwrap();
    world.until(|world| world.values(away, place).len() == 100);
}

/// The node that was there before may have been cut off only, and hear of it later.
#[test]
#[should_panic(expected = "another data directory has taken the place of this one as node 3")]
fn a_node_whose_place_was_taken_ends() {
    let (mut world, _) = cluster(1);
    world.admit(NodeId(3), true);
    world.wiped.insert(NodeId(3));
    world.ask_to_join(NodeId(3)).unwrap();
    world.until(|_| false);
}

/// Four copies go on at once; those of which nothing can come must not be all that ever go on.
#[test]
fn copies_that_come_from_nowhere_let_others_go_first() {
    let mut world = World::new(3);
    let places = world.create_topic(6, &[]);
    for place in &places {
        world.produce(*place, batch(&["a"], 0)).unwrap();
    }
    let (mut copies, mut budget) = (copying::Copies::default(), fetching::Budget::new(1 << 30));
    let mut store = world.nodes.remove(&NodeId(3)).unwrap().store;
    let groups = |out: &[Effect]| -> BTreeSet<GroupId> {
        let asked = out.iter().filter_map(|effect| match effect {
            Effect::Send { message: PeerMessage::CatchUp { group, .. }, .. } => Some(*group),
            _ => None,
        });
        asked.collect()
    };
    let nowhere = copying::Source { nodes: vec![NodeId(1), NodeId(2)], replica: ReplicaId(99) };
    for group in 101..=105 {
        copies.begin(GroupId(group), nowhere.clone(), &mut store);
    }
    let mut out = Vec::new();
    copies.tick(&mut budget, &mut store, &mut out);
    assert_eq!(groups(&out).len(), 4);
    for _ in 0..400 {
        copies.tick(&mut budget, &mut store, &mut out);
    }
    assert_eq!(groups(&out).len(), 5, "the fifth had its turn");
    let asked = out.iter().filter_map(|effect| match effect {
        Effect::Send { to, message: PeerMessage::CatchUp { .. } } => Some(*to),
        _ => None,
    });
    assert_eq!(asked.collect::<BTreeSet<NodeId>>(), BTreeSet::from([NodeId(1), NodeId(2)]));
}

/// The bandwidth of copies is what the configuration says by now, also for a copy that is under way.
#[test]
fn a_copy_goes_as_fast_as_it_may_by_now() {
    let ticks = |copy_bytes_per_s| {
        let (mut world, place, away) = about_to_copy();
        world.ask_controller(Request::SetReplicas { name: "orders".into(), replicas: 3 }).unwrap();
        let config = &world.nodes[&away].config;
        let settings = Settings { default_replicas: 3, copy_bytes_per_s, scrub: config.scrub };
        world.events.push_back((away, Event::Settings(settings)));
        (0..2_000).find(|_| {
            world.step();
            world.values(away, place).len() == 100
        })
    };
    let (slow, fast) = (ticks(2 << 20).unwrap(), ticks(64 << 20).unwrap());
    assert!(slow > 90 && fast < 60, "10 MB took {slow} and {fast} ticks of 50 ms");
}

/// They would have no leader, though there are nodes enough.
#[test]
fn new_partitions_do_not_go_to_nodes_that_are_down_or_full() {
    let mut world = World::new(5);
    let controller = world.controller().unwrap();
    let mut others = (1..=5).map(NodeId).filter(|node| *node != controller);
    let (down, full) = (others.next().unwrap(), others.next().unwrap());
    world.crash(down);
    let space = levada_storage_engine::disk::DiskSpace { total_bytes: 100 << 30, free_bytes: 0 };
    world.events.push_back((full, Event::Space(Some(space))));
    for _ in 0..100 {
        world.step();
    }
    let places = world.create_topic(6, &[]);
    for place in places {
        let nodes = world.placed(place).unwrap();
        assert!(nodes.len() == 3 && !nodes.contains(&down.get()) && !nodes.contains(&full.get()), "{nodes:?}");
    }
}

/// It would keep everything for a replica that may never come back; when it does, it is behind the log's start.
#[test]
fn who_is_away_for_too_long_holds_back_no_retention_and_is_replaced_when_it_is_back() {
    let mut world = World::new(3);
    let settings = [("segment.bytes", "1048576"), ("retention.bytes", "2097152")];
    let place = world.create_topic(1, &settings)[0];
    let leader = world.leader(place).unwrap();
    let away = (1..=3).map(NodeId).find(|node| *node != leader && Some(*node) != world.controller()).unwrap();
    let replica = |world: &World| {
        let node = &world.nodes[&away];
        let group = node.places.get(&place)?;
        node.partitions.get(group).map(|partition| partition.group.replica())
    };
    let before = replica(&world).unwrap();
    world.crash(away);
    let value = "x".repeat(300_000);
    let start = |world: &World| {
        let view = world.nodes[&leader].view.partition(place).unwrap();
        view.log.log_start()
    };
    for sequence in 0..20 {
        world.produce(place, batch(&[&value], sequence)).unwrap();
        world.step();
    }
    assert_eq!(start(&world), Offset(0), "it may be back at any moment");
    world.until(|world| start(world) > Offset(0));
    for node in (1..=3).map(NodeId).filter(|node| *node != away) {
        world.nodes.get_mut(&node).unwrap().begin_checkpoint();
    }
    for sequence in 20..23 {
        world.produce(place, batch(&[&value], sequence)).unwrap();
        world.step();
    }
    world.restart(away);
    let behind = |world: &World| 23 - start(world).get();
    world.until(|world| {
        let read = world.values(away, place).len() as u64;
        replica(world).is_some_and(|replica| replica > before) && read == behind(world)
    });
    world.until(|world| world.nodes.values().all(Node::is_settled));
    world.crash(leader);
    world.produce(place, batch(&["y"], 23)).unwrap();
    world.until(|world| world.values(away, place).last().is_some_and(|last| last == "y"));
}

#[test]
fn what_would_move_is_said_and_nothing_changes() {
    let (mut world, _) = cluster(8);
    let plan = |world: &mut World, node: u64, replace: bool| {
        let answer = world.ask_controller(Request::AdmitNode { node: NodeId(node), replace, dry_run: true });
        answer.map(|answer| match answer {
            Answer::Moves(moves) => moves,
            other => panic!("{other:?}"),
        })
    };
    world.until(|world| {
        let controller = world.controller();
        controller.is_some_and(|id| world.nodes[&id].controller.current().feature_level() == LEVEL_MAX)
    });
    let joins = plan(&mut world, 4, false).unwrap();
    let gets = joins.iter().filter(|planned| planned.to.contains(&NodeId(4))).count();
    assert_eq!(gets, 6, "its share of 24 replicas");
    let anew = plan(&mut world, 3, true).unwrap();
    assert!(anew.len() == 8 && anew.iter().all(|planned| planned.to.contains(&NodeId(3))));
    assert_eq!(plan(&mut world, 9, true).unwrap_err().code, ErrorCode::UnknownNode);
    assert_eq!(plan(&mut world, 3, false).unwrap_err().code, ErrorCode::InvalidRequest);
    let controller = world.controller().unwrap();
    assert!(world.nodes[&controller].controller.current().admitted().is_empty());
}

/// A controller that stood still while another took its place denied topics that this one had made, as soon as it went on. Without
/// a quorum's word that it still is the controller it says nothing.
#[test]
fn a_controller_that_may_be_deposed_denies_nothing() {
    let mut world = World::new(3);
    world.until(|world| world.controller().is_some());
    let old = world.controller().unwrap();
    world.cut.insert(old);
    let requests = [
        Request::AlterTopic { name: "orders".into(), set: BTreeMap::new(), unset: Vec::new(), request: None },
        Request::DeleteTopic { name: "orders".into(), id: None },
        Request::SetPartitions { name: "orders".into(), partitions: 5 },
    ];
    let ids = requests.map(|request| world.send(old, request));
    world.until(|world| ids.iter().all(|id| world.replies.contains_key(id)));
    for id in ids {
        let error = world.replies[&id].clone().unwrap_err();
        assert_eq!(error.code, ErrorCode::NotController, "{error}");
    }
}
