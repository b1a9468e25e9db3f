//! Full disks: of one node, of a majority, of all. Nobody dies, nothing is lost, and it goes on by itself.

use levada_storage_engine::disk::{Disk as _, DiskSpace};

use super::*;
use crate::cluster::health::Fullness;

const MIB: u64 = 1 << 20;

/// The driver of a node says what its disk has left: of 1000 MiB, of which 100 are the reserve.
fn say(world: &mut World, node: NodeId, free_mib: u64) {
    let space = DiskSpace { total_bytes: 1_000 * MIB, free_bytes: free_mib * MIB };
    world.events.push_back((node, Event::Space(Some(space))));
    world.settle();
}

fn ticks(world: &mut World, count: usize) {
    (0..count).for_each(|_| world.step());
}

#[test]
fn a_full_leader_hands_over_and_gets_leadership_back_when_there_is_space() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    assert_eq!(world.produce(place, batch(&["a"], 0)), appended(0, false));
    let preferred = world.leader(place).unwrap();
    say(&mut world, preferred, 20);
    world.until(|world| world.leader(place).is_some_and(|leader| leader != preferred));
    world.until(|world| world.controller().is_some_and(|controller| controller != preferred));
    assert!(world.nodes[&preferred].handed_over() > 0);
    assert_eq!(world.produce(place, batch(&["b"], 1)), appended(1, false));
    // It does not come back while it is full, though it has everything that it takes.
    say(&mut world, preferred, 60);
    ticks(&mut world, 300);
    assert_ne!(world.leader(place), Some(preferred));
    say(&mut world, preferred, 900);
    world.until(|world| world.leader(place) == Some(preferred));
    assert_eq!(world.values(preferred, place), ["a", "b"]);
}

#[test]
fn a_full_follower_takes_no_records_but_votes_and_catches_up_later() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let leader = world.leader(place).unwrap();
    let full = [1, 2, 3].map(NodeId).into_iter().find(|node| *node != leader).unwrap();
    say(&mut world, full, 20);
    ticks(&mut world, 5);
    for number in 0..5 {
        assert_eq!(world.produce(place, batch(&["x"], number)), appended(u64::try_from(number).unwrap(), false));
    }
    ticks(&mut world, 100);
    assert_eq!(world.values(full, place).len(), 0, "it takes none");
    // Topics can be made and deleted meanwhile, there too: that is a way out.
    world.ask_controller(Request::DeleteTopic { name: "orders".into(), id: None }).unwrap();
    world.until(|world| world.nodes[&full].view.partition(place).is_none());
    let place = world.create_topic(1, &[])[0];
    world.until(|world| world.leader(place).is_some_and(|leader| leader != full));
    let leader = world.leader(place).unwrap();
    assert_eq!(world.produce(place, batch(&["y"], 0)), appended(0, false));
    // Its vote counts: without the third node there is still a leader.
    let other = NodeId(6 - leader.get() - full.get());
    world.crash(other);
    ticks(&mut world, 100);
    assert!(world.leader(place).is_some());
    say(&mut world, full, 900);
    world.until(|world| world.values(full, place).len() == 1);
    assert_eq!(world.produce(place, batch(&["z"], 1)), appended(1, false));
}

#[test]
fn when_all_are_full_leaders_stay_and_say_so_and_it_goes_on_by_itself() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    assert_eq!(world.produce(place, batch(&["a"], 0)), appended(0, false));
    let leader = world.leader(place).unwrap();
    for node in [1, 2, 3].map(NodeId) {
        say(&mut world, node, 60);
    }
    ticks(&mut world, 60);
    let error = world.produce(place, batch(&["b"], 1)).unwrap_err();
    assert_eq!(error.code, ErrorCode::DiskFull);
    assert!(error.message.contains("60.0 MiB of 1000.0 MiB"), "{error}");
    let before = world.leader(place);
    ticks(&mut world, 200);
    assert_eq!(world.leader(place), before, "nobody would be better");
    // Reads go on.
    assert!(matches!(world.ask(before.unwrap(), Request::Bounds { partition: place }), Ok(Answer::Bounds(_))));
    for node in [1, 2, 3].map(NodeId) {
        say(&mut world, node, 150);
    }
    ticks(&mut world, 25);
    assert_eq!(world.produce(place, batch(&["b"], 1)), appended(1, false), "slowly, but it goes on");
    assert_eq!(world.nodes[&leader].health().fullness, Fullness::Tight);
}

#[test]
fn a_leader_whose_followers_are_full_refuses_at_once() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    let leader = world.leader(place).unwrap();
    for node in [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != leader) {
        say(&mut world, node, 20);
    }
    ticks(&mut world, 25);
    let error = world.produce(place, batch(&["b"], 1)).unwrap_err();
    assert_eq!(error.code, ErrorCode::DiskFull);
    assert!(error.message.contains("no majority"), "{error}");
    for node in [1, 2, 3].map(NodeId) {
        say(&mut world, node, 900);
    }
    ticks(&mut world, 25);
    assert_eq!(world.produce(place, batch(&["b"], 1)), appended(1, false));
}

/// Without the checkpoint that frees them, files that retention removed would lie there for ever: nothing is written any
/// more that would make one due.
#[test]
fn retention_makes_space_on_disks_that_are_full() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[("segment.bytes", "1048576")])[0];
    let value = "x".repeat(700_000);
    for number in 0..4 {
        world.produce(place, batch(&[&value], number)).unwrap();
        ticks(&mut world, 15);
    }
    let set = BTreeMap::from([("retention.bytes".to_owned(), "1".to_owned())]);
    world.ask_controller(Request::AlterTopic { name: "orders".into(), set, unset: Vec::new(), request: None }).unwrap();
    for node in [1, 2, 3].map(NodeId) {
        say(&mut world, node, 60);
    }
    let files = |world: &World, node: NodeId| {
        let files = world.disks[&node].list("segments").unwrap();
        files.iter().filter(|file| file.starts_with("00000000000000000001-")).count()
    };
    assert!(files(&world, NodeId(1)) >= 2);
    ticks(&mut world, 400);
    for node in [1, 2, 3].map(NodeId) {
        assert!(files(&world, node) <= 1, "node {node} has {}", files(&world, node));
    }
}

/// Each start takes another file of the journal. Full, a node takes no records, and so nothing makes a checkpoint due.
#[test]
fn a_full_disk_gets_back_what_starts_took_for_the_journal() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let node = NodeId(3);
    for number in 0..3 {
        world.produce(place, batch(&["a"], number)).unwrap();
        world.crash(node);
        world.restart(node);
        ticks(&mut world, 60);
    }
    let is_held = |world: &World| world.nodes[&node].store().checkpoint_frees();
    assert!(is_held(&world), "as long as there is space, a checkpoint waits for more");
    say(&mut world, node, 60);
    world.until(|world| !is_held(world));
}

#[test]
fn a_node_that_finds_no_space_survives_and_loses_nothing() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let leader = world.leader(place).unwrap();
    let disk = Arc::clone(&world.disks[&leader]);
    disk.set_capacity(Some(disk.used()));
    for number in 0..40 {
        // It may be refused, or come from the next leader; it is asked again until it is taken.
        for _ in 0..200 {
            if world.produce(place, batch(&["x".repeat(50_000).as_str()], number)).is_ok() {
                break;
            }
            world.step();
        }
    }
    ticks(&mut world, 200);
    assert!(world.nodes[&leader].store().lacks_space() && world.leader(place) != Some(leader));
    disk.set_capacity(None);
    say(&mut world, leader, 900);
    world.until(|world| world.values(leader, place).len() == 40);
    assert!(!world.nodes[&leader].store().lacks_space());
    assert_eq!(world.leader(place).map(|node| world.values(node, place).len()), Some(40));
}
