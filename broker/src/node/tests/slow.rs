//! A slow disk: leadership goes away from it, and comes back some time after it is quick again.

use super::*;

/// So many seconds of one small batch in each, to whoever leads.
fn write_for(world: &mut World, place: TopicPartition, seconds: usize, sequence: &mut i32) {
    for _ in 0..seconds * 5 {
        if world.produce(place, batch(&["x"], *sequence)).is_ok() {
            *sequence += 1;
        }
        (0..3).for_each(|_| world.step());
    }
}

#[test]
fn leadership_leaves_a_slow_disk_and_stays_away_for_a_while() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let (preferred, mut sequence) = (world.leader(place).unwrap(), 0);
    write_for(&mut world, place, 12, &mut sequence);
    assert_eq!(world.leader(place), Some(preferred));
    world.slow.insert(preferred, 3);
    write_for(&mut world, place, 15, &mut sequence);
    assert_ne!(world.leader(place), Some(preferred));
    assert!(world.controller().is_some_and(|controller| controller != preferred));
    assert!(world.nodes[&preferred].health().slow_disk);
    for node in world.nodes.values() {
        assert!(node.view.health(preferred).slow_disk, "all have heard of it");
    }
    write_for(&mut world, place, 60, &mut sequence);
    assert_ne!(world.leader(place), Some(preferred), "as long as it is slow");
    world.slow.clear();
    write_for(&mut world, place, 30, &mut sequence);
    assert_eq!(world.leader(place), Some(preferred), "and then it comes back");
}

/// Nothing is written any more when it is quick again: it finds out by itself.
#[test]
fn a_slow_disk_of_an_idle_cluster_proves_that_it_is_quick_again() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let (preferred, mut sequence) = (world.leader(place).unwrap(), 0);
    write_for(&mut world, place, 12, &mut sequence);
    world.slow.insert(preferred, 3);
    write_for(&mut world, place, 15, &mut sequence);
    assert_ne!(world.leader(place), Some(preferred));
    world.slow.clear();
    (0..60 * 20).for_each(|_| world.step());
    assert_eq!(world.leader(place), Some(preferred));
}

#[test]
fn where_all_disks_are_slow_everything_stays() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let (preferred, mut sequence) = (world.leader(place).unwrap(), 0);
    write_for(&mut world, place, 12, &mut sequence);
    for node in [1, 2, 3].map(NodeId) {
        world.slow.insert(node, 2);
    }
    write_for(&mut world, place, 30, &mut sequence);
    assert_eq!(world.leader(place), Some(preferred));
    assert!(world.nodes.values().all(|node| !node.health().slow_disk));
}
