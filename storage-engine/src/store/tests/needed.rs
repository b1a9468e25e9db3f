//! A group whose segments are its own affair ends them and lets them go when it likes, and no crash minds.

use std::{collections::BTreeMap, sync::Arc};

use levada_protocol::ids::{GroupId, LogIndex};

use super::{crash::recover, world::World};
use crate::{
    disk::{Disk, DiskOp},
    sim_disk::CrashPlan,
    store::segment_file,
};

const GROUP: GroupId = GroupId::METADATA;

/// Entries without records, committed and written.
fn write(world: &mut World, count: usize) -> u64 {
    let last = world.groups[&GROUP].now.last();
    world.append(GROUP, last, &vec![5; count], true);
    world.settle();
    let last = world.groups[&GROUP].now.last();
    world.commit(GROUP, last, false, None);
    world.settle();
    last
}

/// Ends the segment behind all that is committed. What recovery does not tell again is nobody else's business.
fn roll(world: &mut World) -> LogIndex {
    let at = LogIndex(world.groups[&GROUP].committed);
    world.store.roll(GROUP, at);
    world.settle();
    at
}

fn checkpoint(world: &mut World) {
    world.begin_checkpoint(|_| true);
    world.settle();
}

fn first(world: &World) -> LogIndex {
    world.store.log(GROUP).unwrap().first_index()
}

fn begun() -> World {
    let mut world = World::new(3);
    world.create(GROUP);
    write(&mut world, 20);
    checkpoint(&mut world);
    world
}

#[test]
fn segments_go_when_they_are_sealed_and_a_checkpoint_does_not_name_them() {
    let mut world = begun();
    let file = segment_file(GROUP, LogIndex(1));
    world.store.set_needed_from(GROUP, LogIndex(21));
    assert_eq!(first(&world), LogIndex(1), "it is still written");
    roll(&mut world);
    assert_eq!(first(&world), LogIndex(21));
    assert!(world.disk.len(&file).unwrap().is_some(), "the checkpoint names it");
    write(&mut world, 3);
    checkpoint(&mut world);
    assert!(world.disk.len(&file).unwrap().is_none());
    let after = recover(Arc::clone(&world.disk), &world.groups, &BTreeMap::new());
    assert_eq!((first(&after), after.groups[&GROUP].now.last()), (LogIndex(21), 23));
}

/// The segment's end is not in the checkpoint, and nobody tells the store of it again: it is written on over what is there.
#[test]
fn an_end_that_is_forgotten_is_written_over() {
    let mut world = begun();
    write(&mut world, 7);
    roll(&mut world);
    write(&mut world, 2);
    for plan in [CrashPlan::KEEP_ALL, CrashPlan::LOSE_ALL] {
        let mut after = recover(Arc::new(world.disk.crash_image(&plan)), &world.groups, &BTreeMap::new());
        write(&mut after, 30);
        checkpoint(&mut after);
        let again = recover(Arc::clone(&after.disk), &after.groups, &BTreeMap::new());
        assert_eq!((first(&again), again.groups[&GROUP].now.last()), (LogIndex(1), 59));
    }
}

#[test]
fn no_power_cut_on_the_way_loses_anything() {
    let story = |watch: &mut dyn FnMut(&World, &DiskOp)| {
        let mut world = begun();
        for round in 0..4 {
            let last = world.groups[&GROUP].now.last();
            world.append(GROUP, last, &[5; 9], true);
            while world.drive_one(watch).unwrap() {}
            let last = world.groups[&GROUP].persisted;
            world.commit(GROUP, last, false, None);
            world.store.roll(GROUP, LogIndex(last));
            world.store.set_needed_from(GROUP, LogIndex(if round % 2 == 0 { last + 1 } else { last - 5 }));
            world.begin_checkpoint(|_| true);
            while world.drive_one(watch).unwrap() {}
        }
    };
    let mut cuts = 0;
    story(&mut |world, op| {
        cuts += 1;
        for plan in [CrashPlan::LOSE_ALL, CrashPlan::KEEP_ALL, CrashPlan::seeded(cuts)] {
            let disk = world.disk.fork();
            disk.perform_interrupted(op).unwrap();
            disk.crash(&plan);
            let mut after = recover(Arc::new(disk), &world.groups, &BTreeMap::new());
            write(&mut after, 4);
            checkpoint(&mut after);
            recover(Arc::clone(&after.disk), &after.groups, &BTreeMap::new());
        }
    });
    assert!(cuts > 60, "{cuts}");
}
