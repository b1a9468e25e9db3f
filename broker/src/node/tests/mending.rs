//! Damage to segments: found, and mended from other nodes, while everything goes on.

use super::*;
use crate::raft::wire::CatchUp;

const VALUE_BYTES: usize = 100_000;

/// A partition of several segments, all in checkpoints, on three nodes that scrub all the time.
fn cluster() -> (World, TopicPartition) {
    let mut world = World::new(3);
    world.scrub = ScrubConfig { bytes_per_s: 20 << 20, interval_ms: 1_000 };
    let place = world.create_topic(1, &[("segment.bytes", "1048576")])[0];
    for sequence in 0..35 {
        world.produce(place, batch(&[&value(sequence)], sequence)).unwrap();
        world.step();
    }
    checkpoint(&mut world);
    for node in (1..=3).map(NodeId) {
        world.crash(node);
        world.restart(node);
    }
    world.until(|world| {
        world.leader(place).is_some() && (1..=3).all(|node| world.values(NodeId(node), place).len() == 35)
    });
    (world, place)
}

fn checkpoint(world: &mut World) {
    for _ in 0..30 {
        world.step();
    }
    world.nodes.values_mut().for_each(Node::begin_checkpoint);
    for _ in 0..5 {
        world.step();
    }
}

fn value(sequence: i32) -> String {
    format!("{sequence:03}.").repeat(VALUE_BYTES / 4)
}

fn expected(count: i32) -> Vec<String> {
    (0..count).map(value).collect()
}

fn damaged(world: &World, node: NodeId) -> usize {
    world.nodes[&node].mends.len()
}

fn segments(world: &World, node: NodeId) -> Vec<(FileName, Bytes)> {
    let disk = &world.disks[&node];
    // Those of the metadata come first.
    let names = disk.list("segments").unwrap().into_iter().filter(|name| !name.starts_with("00000000000000000000-"));
    let names = names.map(|name| FileName::new(format!("segments/{name}")));
    let bytes =
        |file: &FileName| disk.read(file, 0, usize::try_from(disk.len(file).unwrap().unwrap()).unwrap()).unwrap();
    names.map(|file| (file.clone(), bytes(&file))).collect()
}

#[test]
fn what_nobody_reads_is_found_and_mended() {
    let (mut world, place) = cluster();
    let before = segments(&world, NodeId(2));
    assert!(before.len() >= 3);
    let sealed = before[1].0.clone();
    world.disks[&NodeId(2)].flip_bit(&sealed, 300_000, 3);
    world.until(|world| world.nodes[&NodeId(2)].mends.mended() == 1);
    assert_eq!(damaged(&world, NodeId(2)), 0);
    let after = segments(&world, NodeId(2));
    assert_eq!(after[1], before[1], "byte for byte what it was");
    assert_eq!(world.values(NodeId(2), place), expected(35));
    assert_eq!(world.nodes[&NodeId(2)].scrub.found(), 1);

    // A file that is gone, one that is cut, and one that is another's.
    let disk = Arc::clone(&world.disks[&NodeId(3)]);
    let files: Vec<FileName> = segments(&world, NodeId(3)).into_iter().map(|(file, _)| file).collect();
    disk.perform(&DiskOp::Remove { file: files[0].clone() }).unwrap();
    disk.perform(&DiskOp::Truncate { file: files[1].clone(), len: 70_000 }).unwrap();
    world.until(|world| world.nodes[&NodeId(3)].mends.mended() == 2);
    disk.perform(&DiskOp::Create { file: files[0].clone() }).unwrap();
    disk.perform(&DiskOp::Write { file: files[0].clone(), pos: 0, bufs: vec![before[1].1.clone()] }).unwrap();
    world.until(|world| world.nodes[&NodeId(3)].mends.mended() == 3);
    assert_eq!(world.values(NodeId(3), place), expected(35));
    world.crash(NodeId(3));
    world.restart(NodeId(3));
    world.until(|world| world.values(NodeId(3), place) == expected(35));
}

#[test]
fn what_cannot_be_looked_at_is_looked_at_again_in_the_next_pass() {
    let (mut world, _) = cluster();
    let passes = |world: &World| world.nodes[&NodeId(2)].scrub.passes();
    let before = passes(&world);
    world.disks[&NodeId(2)].set_want(true);
    world.until(|world| passes(world) >= before + 2);
    world.disks[&NodeId(2)].set_want(false);
    assert_eq!((world.nodes[&NodeId(2)].scrub.found(), damaged(&world, NodeId(2))), (0, 0));
    let file = segments(&world, NodeId(2))[1].0.clone();
    world.disks[&NodeId(2)].flip_bit(&file, 300_000, 3);
    world.until(|world| world.nodes[&NodeId(2)].scrub.found() == 1);
}

#[test]
fn two_damaged_replicas_are_mended_from_the_third() {
    let (mut world, place) = cluster();
    let file = segments(&world, NodeId(1))[0].0.clone();
    for node in [1, 2] {
        world.disks[&NodeId(node)].flip_bit(&file, 200_000, 1);
    }
    world.until(|world| [1, 2].iter().all(|node| world.nodes[&NodeId(*node)].mends.mended() == 1));
    for node in (1..=3).map(NodeId) {
        assert_eq!(world.values(node, place), expected(35));
    }
}

/// A segment that is still written ends first, whoever leads.
#[test]
fn the_segment_that_is_written_is_mended_too() {
    for follows in [false, true] {
        let (mut world, place) = cluster();
        let leader = world.leader(place).unwrap();
        let node = if follows { NodeId(leader.get() % 3 + 1) } else { leader };
        let (file, _) = segments(&world, node).pop().unwrap();
        let log = world.nodes[&node].view.partition(place).unwrap().log.clone();
        assert!(!log.segments().last().unwrap().sealed);
        world.disks[&node].flip_bit(&file, 150_000, 5);
        // Writes go on all the while.
        for sequence in 35..45 {
            world.produce(place, batch(&[&value(sequence)], sequence)).unwrap();
            world.step();
        }
        world.until(|world| world.nodes[&node].mends.mended() == 1);
        world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == expected(45)));
        world.crash(node);
        world.restart(node);
        world.until(|world| world.values(node, place) == expected(45));
    }
}

/// Entries that new leaders begin with are worth no segment. One that had something to write behind them, which never came to
/// be, has begun one nevertheless, and alone.
#[test]
fn a_segment_that_its_leader_has_not_begun_is_mended_too() {
    let (mut world, place) = cluster();
    let leader = world.leader(place).unwrap();
    let group = group(&world, leader, place);
    world.nodes.get_mut(&leader).unwrap().on_roll_wanted(group);
    checkpoint(&mut world);
    let node = NodeId(leader.get() % 3 + 1);
    world.ask(leader, Request::TransferLeader { group, to: node }).unwrap();
    world.until(|world| world.leader(place) == Some(node));
    world.cut.insert(node);
    world.send(node, Request::Produce { partition: place, batch: batch(&[&value(35)], 35) });
    world.settle();
    world.nodes.get_mut(&node).unwrap().begin_checkpoint();
    world.until(|world| world.leader(place).is_some());
    world.cut.clear();
    let other = NodeId(node.get() % 3 + 1);
    world.until(|world| segments(world, node).len() == segments(world, other).len() + 1);
    let (file, _) = segments(&world, node).pop().unwrap();
    world.disks[&node].flip_bit(&file, 70, 5);
    world.until(|world| world.nodes[&node].mends.mended() == 1);
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == expected(35)));
}

#[test]
fn without_a_sound_copy_it_stays_damaged_and_the_rest_is_served() {
    let (mut world, place) = cluster();
    let file = segments(&world, NodeId(1))[0].0.clone();
    for node in (1..=3).map(NodeId) {
        world.disks[&node].flip_bit(&file, 200_000, 1);
    }
    world.until(|world| (1..=3).all(|node| damaged(world, NodeId(node)) == 1));
    for _ in 0..400 {
        world.step();
    }
    assert!((1..=3).all(|node| damaged(&world, NodeId(node)) == 1));
    assert_eq!(world.produce(place, batch(&[&value(35)], 35)), appended(35, false));
    let log = &world.nodes[&NodeId(1)].view.partition(place).unwrap().log;
    assert!(log.read(Offset(1), 1, Offset(36)).is_err());
    assert_eq!(log.read(Offset(0), 1, Offset(36)).unwrap().next_offset, Offset(1));
    assert!(log.read(Offset(30), 1, Offset(36)).is_ok());
}

/// The preferred leader has written on in a segment whose index was lost, as nobody gave it a sound file. Its files are its own
/// from there on; that one is damaged.
fn diverged() -> (World, TopicPartition, NodeId) {
    let (mut world, place) = cluster();
    world.until(|world| world.placed(place).is_some());
    let node = NodeId(world.placed(place).unwrap()[0]);
    world.crash(node);
    let (file, _) = segments(&world, node).pop().unwrap();
    world.disks[&node].flip_bit(&file, 64 + 64 + 30, 2);
    world.drops = Some(|_, message| matches!(message, PeerMessage::CatchUp { what: CatchUp::Segment { .. }, .. }));
    world.restart(node);
    for sequence in 35..65 {
        world.produce(place, batch(&[&value(sequence)], sequence)).unwrap();
        world.step();
    }
    let group = group(&world, node, place);
    world.until(|world| world.nodes[&node].store.awaits_repair(group));
    world.until(|world| !world.nodes[&node].store.awaits_repair(group));
    checkpoint(&mut world);
    world.until(|world| world.leader(place) == Some(node));
    let (own, others) = (segments(&world, node), segments(&world, NodeId(node.get() % 3 + 1)));
    let differ = own.iter().zip(&others).filter(|(own, other)| own != other).count();
    assert!(own.len() == others.len() && differ >= 3, "{differ} of {} differ", own.len());
    (world, place, node)
}

fn group(world: &World, node: NodeId, place: TopicPartition) -> GroupId {
    world.nodes[&node].places[&place]
}

fn replicas(world: &World, place: TopicPartition) -> Vec<ReplicaId> {
    let node = world.controller().unwrap_or(*world.nodes.keys().next().unwrap());
    let placed = world.nodes[&node].controller.metadata();
    let placed = placed.topic_by_id(place.topic).unwrap().partition(place.partition).cloned().unwrap();
    placed.replicas.iter().map(|replica| replica.id).collect()
}

#[test]
fn a_replica_whose_damage_nobody_can_mend_is_replaced() {
    let (mut world, place, node) = diverged();
    let (group, before) = (group(&world, node, place), replicas(&world, place));
    // As long as a replica does not answer, the others cannot do without this one.
    let silent = NodeId(node.get() % 3 + 1);
    world.drops = None;
    world.until(|world| world.nodes[&node].mends.groups().get(&group) == Some(&true));
    world.crash(silent);
    let led = |world: &World| world.leader(place).is_some_and(|leader| leader != node);
    world.until(led);
    for _ in 0..200 {
        world.step();
        assert!(led(&world), "leadership does not come back");
    }
    assert_eq!((replicas(&world, place), world.placed(place).is_some()), (before.clone(), true));
    assert_eq!(world.produce(place, batch(&[&value(65)], 65)), appended(65, false), "it votes");
    world.restart(silent);
    world.until(|world| world.placed(place).is_some() && replicas(world, place) != before);
    let now = replicas(&world, place);
    assert_eq!((now.len(), &now[1..]), (3, &before[1..]), "nobody else is replaced");
    world.until(|world| world.leader(place) == Some(node));
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == expected(66)));
    checkpoint(&mut world);
    let own = segments(&world, node);
    assert!((1..=3).all(|node| segments(&world, NodeId(node)) == own));
    assert_eq!(damaged(&world, node), 0);
}

/// The group may sleep when that turns out.
#[test]
fn who_follows_in_a_group_that_sleeps_is_replaced_too() {
    let (mut world, place, node) = diverged();
    let (group, before) = (group(&world, node, place), replicas(&world, place));
    let to = NodeId(node.get() % 3 + 1);
    world.ask(node, Request::TransferLeader { group, to }).unwrap();
    world.until(|world| world.leader(place) == Some(to) && world.nodes[&to].sleepers.is_asleep(group));
    world.drops = None;
    world.until(|world| world.placed(place).is_some() && replicas(world, place) != before);
    world.until(|world| (1..=3).all(|node| world.values(NodeId(node), place) == expected(65)));
    world.until(|world| (1..=3).all(|node| world.nodes[&NodeId(node)].sleepers.is_asleep(group)));
}

#[test]
fn nobody_is_replaced_when_everybody_is_damaged() {
    let (mut world, place, node) = diverged();
    let (group, before) = (group(&world, node, place), replicas(&world, place));
    let others = || (1..=3).map(NodeId).filter(|other| *other != node);
    // Each has what the others lack.
    let sound_here = segments(&world, node)[4].0.clone();
    others().for_each(|other| world.disks[&other].flip_bit(&sound_here, 200_000, 1));
    world.until(|world| others().all(|other| damaged(world, other) == 1));
    world.drops = None;
    for _ in 0..3 {
        world.until(|world| (1..=3).all(|node| world.nodes[&NodeId(node)].mends.groups().get(&group) == Some(&true)));
    }
    let leader = world.leader(place);
    for _ in 0..400 {
        world.step();
        assert_eq!(world.leader(place), leader, "it does not wander about");
    }
    assert_eq!((replicas(&world, place), world.placed(place).is_some()), (before, true));
    assert_eq!(world.produce(place, batch(&[&value(65)], 65)), appended(65, false));
}

/// A directory for segments is gone: whoever had it goes on, without a scrub or a reader to find out what it had.
#[test]
fn segments_that_are_gone_at_a_start_are_fetched_from_the_others() {
    let (mut world, place) = cluster();
    let before = segments(&world, NodeId(2));
    world.scrub = ScrubConfig { bytes_per_s: 0, interval_ms: 0 };
    world.crash(NodeId(2));
    for (file, _) in &before {
        world.disks[&NodeId(2)].perform(&DiskOp::Remove { file: file.clone() }).unwrap();
    }
    world.disks[&NodeId(2)].perform(&DiskOp::SyncDir { dir: "segments".to_owned() }).unwrap();
    world.restart(NodeId(2));
    assert_eq!(world.nodes[&NodeId(2)].store.missing(), before.len());
    let replica = world.nodes[&NodeId(2)].partitions.values().next().unwrap().group.replica();
    for sequence in 35..40 {
        world.produce(place, batch(&[&value(sequence)], sequence)).unwrap();
    }
    let sealed = before.len() as u64 - 1;
    world.until(|world| world.nodes[&NodeId(2)].mends.mended() >= sealed && damaged(world, NodeId(2)) == 0);
    assert_eq!(world.nodes[&NodeId(2)].partitions.values().next().unwrap().group.replica(), replica, "it goes on");
    world.until(|world| world.values(NodeId(2), place) == expected(40));
    let after = segments(&world, NodeId(2));
    assert_eq!(after[..before.len() - 1], before[..before.len() - 1], "byte for byte what they were");
}
