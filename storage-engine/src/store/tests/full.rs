//! Disks without space: the store waits, loses nothing, and goes on by itself when there is some.

use std::{io, sync::Arc};

use levada_protocol::ids::GroupId;

use super::{
    crash::recover,
    world::{CONFIG, World},
};
use crate::{
    disk::Disk as _,
    sim_disk::{CrashPlan, Fault, FaultEffect},
    store::reserve_file,
};

/// Whatever crash comes, what was reported is there. The power may come back while the disk is full.
fn check_crashes(world: &World, seed: u64) {
    for plan in [CrashPlan::KEEP_ALL, CrashPlan::LOSE_ALL, CrashPlan::seeded(seed)] {
        let disk = world.disk.crash_image(&plan);
        disk.set_capacity(None);
        recover(Arc::new(disk), &world.groups, &world.removed);
    }
}

/// Ticks until nothing waits.
fn until_it_goes_on(world: &mut World) {
    for _ in 0..200 {
        world.store.tick();
        world.rest();
        if !world.store.lacks_space() && !world.store.is_checkpointing() {
            return;
        }
    }
    panic!("{} writes still wait though there is space", world.store.waiting_for_space());
}

#[test]
fn a_full_disk_stops_nothing_for_good_and_loses_nothing() {
    let mut waited = 0;
    for seed in 0..60 {
        let mut world = World::new(seed);
        (1..=3).for_each(|group| world.create(GroupId(group)));
        (0..seed).for_each(|_| world.step(&mut |_, _| {}).unwrap());
        world.disk.set_capacity(Some(world.disk.used() + seed * 700));
        for step in 0..120 {
            world.step(&mut |_, _| {}).unwrap();
            if step % 30 == 7 && world.store.lacks_space() {
                waited += 1;
                check_crashes(&world, seed);
            }
        }
        world.remove(GroupId(2));
        (0..10).for_each(|_| world.step(&mut |_, _| {}).unwrap());
        check_crashes(&world, seed + 1);
        world.disk.set_capacity(None);
        until_it_goes_on(&mut world);
        world.commit(GroupId(1), world.groups[&GroupId(1)].persisted, false, None);
        world.begin_checkpoint(|_| true);
        world.settle();
        assert!(world.groups.values().all(|model| model.persisted == model.now.last()), "seed {seed}");
        check_crashes(&world, seed + 2);
    }
    assert!(waited > 30, "only {waited} times anything had to wait");
}

/// Every kind of write that can find no space, at its every place.
#[test]
fn every_write_that_finds_no_space_is_done_later() {
    for (call, least) in [("create", 8), ("write", 20), ("truncate", 0)] {
        let mut struck = 0;
        for attempt in 0..30 {
            let mut world = World::new(500 + attempt);
            (1..=3).for_each(|group| world.create(GroupId(group)));
            let no_space = FaultEffect::Fail(io::ErrorKind::StorageFull);
            for prefix in ["segments/", "checkpoint", "journal/"] {
                world.disk.inject(Fault { effect: no_space, ..Fault::fail(call).on(prefix).after(attempt % 5) });
            }
            for _ in 0..150 {
                world.step(&mut |_, _| {}).unwrap();
                struck += u64::from(world.store.lacks_space());
            }
            world.disk.heal();
            until_it_goes_on(&mut world);
            check_crashes(&world, attempt);
        }
        assert!(struck >= least, "{call} had to wait only {struck} times");
    }
}

/// A sync that says that there was no space has dropped what it should have written.
#[test]
fn a_sync_that_finds_no_space_stops_the_store() {
    for call in ["fdatasync", "syncfs"] {
        let stop = |seed| {
            let mut world = World::new(seed);
            (1..=3).for_each(|group| world.create(GroupId(group)));
            let effect = FaultEffect::Fail(io::ErrorKind::StorageFull);
            world.disk.inject(Fault { effect, ..Fault::fail(call) });
            (0..300).find_map(|_| world.step(&mut |_, _| {}).err())
        };
        let poisoned = (0..20).find_map(stop).expect("it was met");
        assert_eq!((poisoned.cause.op, poisoned.cause.kind), (call, io::ErrorKind::StorageFull));
    }
}

/// The journal of a store whose disk is full to the last byte goes on for as long as anybody writes small things: the
/// reserve pays for the checkpoint that frees its files, and the one after that has the blocks of the one before.
#[test]
fn with_the_reserve_the_journal_never_ends_on_a_full_disk() {
    let run = |has_reserve: bool| {
        let mut world = World::new(3);
        world.create(GroupId(1));
        world.store.set_plenty(has_reserve);
        world.append(GroupId(1), 0, &[3, 5, 8], true);
        world.settle();
        assert_eq!(world.disk.len(&reserve_file()).unwrap().is_some(), has_reserve);
        world.store.set_plenty(false);
        world.disk.set_capacity(Some(world.disk.used()));
        for round in 0..60 {
            let last = world.groups[&GroupId(1)].now.last();
            world.append(GroupId(1), last, &[], true);
            world.append(GroupId(1), last, &[0], true);
            world.commit(GroupId(1), world.groups[&GroupId(1)].persisted, false, None);
            if world.store.checkpoint_due() {
                world.begin_checkpoint(|_| true);
            }
            for _ in 0..30 {
                world.store.tick();
                world.rest();
            }
            if round % 20 == 19 {
                check_crashes(&world, round);
            }
        }
        let model = &world.groups[&GroupId(1)];
        (model.persisted == model.now.last(), world)
    };
    let (goes_on, world) = run(true);
    assert!(goes_on, "it stands still");
    assert!(world.disk.len(&reserve_file()).unwrap().is_none(), "it was needed");
    let (goes_on, _) = run(false);
    assert!(!goes_on, "what is shown here would be so without a reserve");
}

#[test]
fn the_reserve_comes_back_when_there_is_plenty_and_survives_a_restart() {
    let mut world = World::new(4);
    world.create(GroupId(1));
    world.store.set_plenty(true);
    world.settle();
    let kept = world.disk.used();
    let (disk, groups) = (Arc::clone(&world.disk), world.groups.clone());
    drop(world);
    let mut world = recover(disk, &groups, &Default::default());
    world.store.set_plenty(false);
    world.disk.set_capacity(Some(kept));
    world.append(GroupId(1), world.groups[&GroupId(1)].now.last(), &[3_000, 3_000, 3_000], true);
    world.settle();
    world.commit(GroupId(1), world.groups[&GroupId(1)].persisted, false, None);
    world.settle();
    (0..40).for_each(|_| {
        world.store.tick();
        world.rest();
    });
    assert!(world.disk.len(&reserve_file()).unwrap().is_none(), "one that an earlier process made is known");
    world.disk.set_capacity(None);
    until_it_goes_on(&mut world);
    assert!(world.disk.len(&reserve_file()).unwrap().is_none(), "not before it is said");
    world.store.set_plenty(true);
    world.settle();
    assert!(world.disk.len(&reserve_file()).unwrap().is_some());
}

/// A disk that fails for good while something waits for space is a failed disk.
#[test]
fn what_waits_for_space_does_not_hide_a_failure() {
    let mut world = World::new(8);
    (1..=3).for_each(|group| world.create(GroupId(group)));
    let effect = FaultEffect::Fail(io::ErrorKind::StorageFull);
    world.disk.inject(Fault { effect, ..Fault::fail("write").on("segments/") });
    while !world.store.lacks_space() {
        world.step(&mut |_, _| {}).unwrap();
    }
    world.disk.inject(Fault::fail("fdatasync"));
    let poisoned = (0..300).find_map(|_| world.step(&mut |_, _| {}).err()).expect("it was met");
    assert_eq!(poisoned.cause.op, "fdatasync");
    check_crashes(&world, 1);
}

/// Each start takes another file of the journal, however little is written between two.
#[test]
fn one_start_after_the_other_does_not_fill_the_disk() {
    const GROUP: GroupId = GroupId(1);
    let mut world = World::new(34);
    world.create(GROUP);
    let (mut checkpoints, mut has_freed) = (0, false);
    for start in 0..30 {
        let last = world.groups[&GROUP].now.last();
        world.append(GROUP, last, &[1], false);
        world.settle();
        world.commit(GROUP, last + 1, false, None);
        world.settle();
        let files = world.disk.list("journal").unwrap().len();
        assert!(files <= CONFIG.journal.files_keep + 2, "{files} files after {start} starts");
        // Where there is little space, a checkpoint need not wait for so many.
        has_freed |= world.store.checkpoint_frees() && !world.store.checkpoint_due();
        if world.store.checkpoint_due() {
            world.begin_checkpoint(|_| true);
            world.settle();
            assert!(!world.store.checkpoint_due() && !world.store.checkpoint_frees(), "it has freed what it can");
            checkpoints += 1;
        }
        let disk = Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL));
        world = recover(disk, &world.groups, &world.removed);
    }
    assert!(has_freed && checkpoints > 3, "{checkpoints} checkpoints");
}
