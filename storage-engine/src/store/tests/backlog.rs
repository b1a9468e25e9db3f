//! When what is committed is written to segments.

use levada_protocol::ids::GroupId;

use super::world::{CONFIG, World};

fn segment_bytes(world: &World, group: u64) -> u64 {
    world.store.log(GroupId(group)).unwrap().stats().segment_bytes
}

/// Appends an entry and commits it.
fn add(world: &mut World, group: u64, shape: u64) {
    let group = GroupId(group);
    let last = world.groups[&group].now.last();
    world.append(group, last, &[shape], false);
    world.rest();
    world.commit(group, last + 1, false, None);
    world.rest();
}

#[test]
fn a_little_waits_in_memory_until_it_is_enough_for_a_write() {
    let mut world = World::new(50);
    world.create(GroupId(1));
    let mut entries = 0;
    while segment_bytes(&world, 1) == 0 {
        assert!(entries == 0 || (1..CONFIG.segment.write_bytes_min).contains(&world.store.backlog_bytes()));
        add(&mut world, 1, 1);
        entries += 1;
    }
    assert!(entries > 1, "the first one waited");
    assert_eq!(world.store.backlog_bytes(), 0);
}

#[test]
fn nothing_waits_for_ever() {
    let mut world = World::new(51);
    world.create(GroupId(1));
    add(&mut world, 1, 1);
    for _ in 1..CONFIG.unwritten_ticks_max {
        world.store.tick();
        world.rest();
        assert_eq!(segment_bytes(&world, 1), 0);
    }
    world.store.tick();
    world.rest();
    assert!(segment_bytes(&world, 1) > 0 && world.store.backlog_bytes() == 0);
}

#[test]
fn when_all_wait_too_much_who_waits_longest_is_written() {
    let mut world = World::new(52);
    let groups = 400;
    (1..=groups).for_each(|group| world.create(GroupId(group)));
    // What is led and what is followed is too much together.
    (1..=groups).for_each(|group| world.store.set_led(GroupId(group), group % 2 == 0));
    world.settle();
    let mut group = 0;
    while (1..=groups).all(|group| segment_bytes(&world, group) == 0) {
        group += 1;
        assert!(group <= groups, "all of them wait");
        add(&mut world, group, 503);
    }
    let followed = world.store.backlog_bytes();
    assert!((CONFIG.unwritten_bytes_max() / 3..CONFIG.unwritten_bytes_max() * 2 / 3).contains(&followed), "{followed}");
    let written: Vec<u64> = (1..=groups).filter(|group| segment_bytes(&world, *group) > 0).collect();
    assert_eq!(written, [1]);
}

/// A checkpoint says how far segments go: it has everything written first.
#[test]
fn a_checkpoint_waits_for_nobody() {
    let mut world = World::new(53);
    (1..=3).for_each(|group| world.create(GroupId(group)));
    (1..=3).for_each(|group| add(&mut world, group, 503));
    assert!((1..=3).all(|group| segment_bytes(&world, group) == 0));
    world.begin_checkpoint(|group| group < GroupId(3));
    world.rest();
    assert!(!world.store.is_checkpointing());
    let written: Vec<u64> = (1..=3).filter(|group| segment_bytes(&world, *group) > 0).collect();
    assert_eq!(written, [1, 2]);
}
