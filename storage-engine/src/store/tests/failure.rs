//! Disks that fail: the store stops at once, and what it had reported is there afterwards.

use std::sync::Arc;

use levada_protocol::ids::{GroupId, LogIndex};

use super::{
    crash::recover,
    world::{CONFIG, IDENTITY, JOURNAL, World, open},
};
use crate::{
    error::{AppendError, OpenError},
    identity::DirIdentity,
    journal::Doubt,
    poison::Poisoned,
    sim_disk::{CrashPlan, Fault, SimDisk},
    store::Store,
};

/// Tells a story until the disk fails.
fn until_failure(world: &mut World) -> Option<Poisoned> {
    (1..=3).for_each(|group| world.create(GroupId(group)));
    (0..150).find_map(|_| world.step(&mut |_, _| {}).err())
}

/// The store says no to everything, and a restart finds all that was reported.
fn check_stopped(mut world: World, poisoned: &Poisoned) {
    let mut effects = Vec::new();
    world.store.poll(&mut effects);
    assert!(effects.is_empty(), "nothing more is written after {poisoned}");
    for plan in [CrashPlan::KEEP_ALL, CrashPlan::LOSE_ALL, CrashPlan::seeded(3)] {
        let disk = world.disk.crash_image(&plan);
        recover(Arc::new(disk), &world.groups, &world.removed);
    }
}

#[test]
fn every_failed_operation_stops_the_store_and_loses_nothing() {
    let calls = [
        "create",
        "fallocate",
        "fdatasync",
        "fsync directory",
        "remove",
        "rename",
        "sync_file_range",
        "syncfs",
        "truncate",
        "write",
        "zero-fill",
    ];
    for (seed, call) in (20..).zip(calls) {
        let mut struck = 0;
        for attempt in 0..40 {
            let mut world = World::new(seed + 100 * (attempt / 4));
            world.disk.inject(Fault::fail(call).after(attempt % 4 * 2));
            let Some(poisoned) = until_failure(&mut world) else { continue };
            assert_eq!(poisoned.cause.op, call);
            check_stopped(world, &poisoned);
            struck += 1;
            if struck == 4 {
                break;
            }
        }
        assert!(struck > 0, "{call} was never met");
    }
}

/// Entries that are never committed keep the journal from being recycled; they are written again.
#[test]
fn a_stuck_group_does_not_hold_back_the_journal() {
    let mut operations = 0;
    let mut world = stuck(&mut |_| operations += 1);
    let again = world.groups[&GroupId(3)].clone();
    assert!(world.store.journal.used_bytes() < CONFIG.journal_held_bytes_max + (CONFIG.journal.file_bytes * 4));
    let recovered = recover(Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL)), &world.groups, &world.removed);
    assert_eq!(recovered.groups[&GroupId(3)].now.entries, again.now.entries);
    // It is no loss when the quorum comes back.
    world.commit(GroupId(3), 3, false, None);
    world.begin_checkpoint(|_| true);
    world.settle();
    recover(Arc::clone(&world.disk), &world.groups, &world.removed);

    // Nor is it when the power is cut at any moment of it.
    let mut cut = 0;
    stuck(&mut |world| {
        cut += 1;
        if cut % 3 == 0 {
            let plan = CrashPlan::seeded(cut);
            recover(Arc::new(world.disk.crash_image(&plan)), &world.groups, &world.removed);
        }
    });
}

fn stuck(watch: &mut dyn FnMut(&World)) -> World {
    let mut world = World::new(30);
    [1, 3].into_iter().for_each(|group| world.create(GroupId(group)));
    world.append(GroupId(3), 0, &[4, 9, 14], true);
    let mut written_again = false;
    while !written_again || world.checkpoints < 9 {
        let last = world.groups[&GroupId(1)].now.last();
        world.append(GroupId(1), last, &[1_004, 2_009, 3_014], false);
        while world.store.is_checkpointing() || world.groups[&GroupId(1)].persisted < last + 3 {
            world.drive_one(&mut |world, _| watch(world)).unwrap();
            written_again |= world.store.groups[&GroupId(3)].is_submitted_again();
        }
        world.commit(GroupId(1), last + 3, false, None);
        if world.store.checkpoint_due() {
            world.begin_checkpoint(|_| true);
        }
    }
    world
}

/// Up to the moment when the journal is given the entries again; they do not fit one block.
fn stuck_until_written_again(seed: u64) -> World {
    let mut world = World::new(seed);
    [1, 3].into_iter().for_each(|group| world.create(GroupId(group)));
    world.append(GroupId(3), 0, &[2_999, 2_999, 2_999, 2_999, 2_999], true);
    loop {
        let last = world.groups[&GroupId(1)].now.last();
        world.append(GroupId(1), last, &[1_004, 2_009, 3_014], false);
        while world.store.is_checkpointing() || world.groups[&GroupId(1)].persisted < last + 3 {
            world.drive_one(&mut |_, _| {}).unwrap();
            if world.store.groups[&GroupId(3)].is_submitted_again() {
                return world;
            }
        }
        world.commit(GroupId(1), last + 3, false, None);
        if world.store.checkpoint_due() {
            world.begin_checkpoint(|_| true);
        }
    }
}

/// Opens a crash image and names the groups in it.
fn groups_after_crash(world: &World) -> Vec<u64> {
    let recovered = open(&Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL))).unwrap();
    recovered.groups.iter().map(|group| group.group.get()).collect()
}

#[test]
fn a_group_is_there_from_its_first_append_until_the_checkpoint_after_its_removal() {
    let mut world = World::new(33);
    [1, 2].into_iter().for_each(|group| world.create(GroupId(group)));
    world.append(GroupId(1), 0, &[3], true);
    world.settle();
    assert_eq!(groups_after_crash(&world), [1, 2]);
    world.append(GroupId(2), 0, &[3, 8], true);
    world.settle();
    world.commit(GroupId(2), 2, false, None);
    world.settle();
    world.remove(GroupId(2));
    assert_eq!(groups_after_crash(&world), [1, 2], "to be removed again");
    world.begin_checkpoint(|_| true);
    world.settle();
    // The journal still has all of it: the uncommitted entry of group 1 stands there.
    assert_eq!(groups_after_crash(&world), [1]);
    assert!(crate::disk::Disk::list(&*world.disk, "segments").unwrap().is_empty());
}

/// The checkpoint under way still has it: then the journal must have what that lacks.
#[test]
fn a_group_that_is_removed_during_a_checkpoint_lacks_nothing_after_a_crash() {
    let mut world = World::new(34);
    [1, 2].into_iter().for_each(|group| world.create(GroupId(group)));
    world.append(GroupId(2), 0, &[3, 8], true);
    world.settle();
    for last in 0..20 {
        world.append(GroupId(1), last, &[3], true);
        world.settle();
    }
    world.append(GroupId(2), 2, &[3], false);
    world.settle();
    world.commit(GroupId(1), 20, false, None);
    world.begin_checkpoint(|group| group == GroupId(1));
    world.remove(GroupId(2));
    world.settle();
    let recovered = open(&Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL))).unwrap();
    assert_eq!(recovered.doubt, Doubt::None);
    let found = recovered.groups.iter().find(|group| group.group == GroupId(2)).unwrap();
    assert_eq!(found.log.last_index(), LogIndex(3));
}

/// A group's entries are being written again, in several blocks, when its quorum comes back: no checkpoint is written
/// that would leave some of them in neither place.
#[test]
fn no_checkpoint_comes_between_entries_that_are_written_again() {
    let mut images = 0;
    for seed in 0..12 {
        let mut world = stuck_until_written_again(seed);
        let group = GroupId(3);
        world.commit(group, 1, false, None);
        world.begin_checkpoint(|_| true);
        // The journal is slow, the segments are not.
        let mut blocks = seed % 4;
        while world.store.groups[&group].is_submitted_again() {
            world.journal_pauses = blocks == 0;
            let before = world.store.journal.synced_lsn();
            let is_stalled = !world.drive_one(&mut |_, _| {}).unwrap();
            blocks -= u64::from(world.store.journal.synced_lsn() > before);
            let image = world.disk.crash_image(&CrashPlan::seeded(images));
            recover(Arc::new(image), &world.groups, &world.removed);
            images += 1;
            if is_stalled {
                break;
            }
        }
        assert!(!world.store.groups[&group].is_submitted_again() || world.store.is_checkpointing());
    }
}

/// The power goes while a group's entries are being written again: the journal has all of them at the old place, and the first once
/// more. Then the quorum is back, and a checkpoint leaves the old place behind, all of it or its beginning. What the new place has
/// of the beginning replaces nothing, and what it lacks is no gap.
#[test]
fn entries_that_were_written_again_in_part_harm_nothing() {
    let group = GroupId(3);
    let mut cut_within = 0;
    for (seed, committed) in (0..4).flat_map(|seed| (1..=5).map(move |committed| (seed, committed))) {
        let mut world = stuck_until_written_again(seed);
        let blocks = 1 + seed % 3;
        let begun = world.store.journal.synced_lsn();
        while world.store.journal.synced_lsn().get() < begun.get() + blocks && world.drive_one(&mut |_, _| {}).unwrap()
        {
        }
        cut_within += u64::from(world.store.groups[&group].is_submitted_again());
        let image = Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL));
        let mut world = recover(image, &world.groups, &world.removed);
        world.commit(group, committed, false, None);
        world.settle();
        world.begin_checkpoint(|_| true);
        world.settle();
        let again = recover(Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL)), &world.groups, &world.removed);
        assert_eq!(again.groups[&group].now.last(), 5, "seed {seed}, {committed} committed");

        let last = world.groups[&group].now.last();
        world.append(group, last, &[9, 9], true);
        world.settle();
        let again = recover(Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL)), &world.groups, &world.removed);
        assert_eq!(again.groups[&group].now.last(), 7, "seed {seed}, {committed} committed");
    }
    assert!(cut_within > 0, "it was never cut in the middle");
}

#[test]
fn a_directory_that_is_not_ours_is_refused() {
    let disk = Arc::new(SimDisk::new(1));
    assert!(matches!(open(&disk), Err(OpenError::NotFormatted)));
    let other = DirIdentity { node: levada_protocol::ids::NodeId(9), ..IDENTITY };
    other.format(&*disk, JOURNAL).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::OtherDirectory { .. }), "{error}");
    drop(Store::open(disk, CONFIG, &other).unwrap());
}

#[test]
fn the_tail_is_counted_and_given_back() {
    let mut world = World::new(31);
    world.create(GroupId(1));
    assert_eq!(world.store.tail_bytes(), 0);
    for _ in 0..40 {
        let last = world.groups[&GroupId(1)].now.last();
        world.append(GroupId(1), last, &[2_004], false);
    }
    let full = world.store.tail_bytes();
    assert!(full > 80_000 && world.store.room_bytes() == CONFIG.tail_bytes_max / 2);
    world.settle();
    assert_eq!(world.store.backlog_bytes(), 0, "nothing is committed");
    world.commit(GroupId(1), 40, false, None);
    assert_eq!(world.store.backlog_bytes(), full);
    world.store.set_led(GroupId(1), true);
    assert_eq!(world.store.backlog_bytes(), 0, "a backlog of its own is no reason to refuse others' entries");
    assert_eq!(world.store.room_bytes(), CONFIG.tail_bytes_max / 2 - full);
    world.store.set_led(GroupId(1), false);
    assert_eq!((world.store.backlog_bytes(), world.store.tail_bytes()), (full, full));
    world.settle();
    assert_eq!(world.store.backlog_bytes(), 0);
    assert!(world.store.tail_bytes() <= CONFIG.tail_keep_bytes, "{}", world.store.tail_bytes());
    let log = world.store.log(GroupId(1)).unwrap();
    assert_eq!(log.entries(LogIndex(40), LogIndex(41), 1).unwrap().len(), 1);
    world.remove(GroupId(1));
    assert_eq!(world.store.tail_bytes(), 0, "nobody reads it");
}

#[test]
fn an_entry_that_no_journal_file_holds_is_refused() {
    let mut world = World::new(32);
    world.create(GroupId(1));
    let payload = vec![0; CONFIG.journal.entry_bytes_max() + 1].into();
    let entry = crate::entry::Entry {
        index: LogIndex(1),
        term: levada_protocol::ids::Term(1),
        kind: crate::entry::EntryKind::Command,
        payload,
    };
    let refused = world.store.append(GroupId(1), vec![entry], None);
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
}

/// A block takes a page however little is in it: what counts for the next checkpoint is what a restart reads.
#[test]
fn small_records_make_a_checkpoint_due_as_soon_as_their_blocks_do() {
    let mut world = World::new(33);
    world.create(GroupId(1));
    world.settle();
    let mut appends = 0;
    while !world.store.checkpoint_due() {
        world.append(GroupId(1), appends, &[1], false);
        world.settle();
        appends += 1;
        assert!(world.store.journal.used_bytes() <= 2 * CONFIG.journal.file_bytes, "after {appends} appends");
    }
    world.commit(GroupId(1), 2, false, None);
    assert!(world.store.has_moved(GroupId(1), LogIndex(2)));
    world.begin_checkpoint(|_| true);
    world.settle();
    assert!(!world.store.has_moved(GroupId(1), LogIndex(2)) && !world.store.checkpoint_due());
}

/// A checkpoint holds a group's segment where it stands; what is committed meanwhile is written when it lets go, though
/// nothing else happens to the group.
#[test]
fn what_is_committed_while_a_checkpoint_holds_the_group_is_written_afterwards() {
    let mut world = World::new(34);
    world.create(GroupId(1));
    world.append(GroupId(1), 0, &[3, 8, 5], true);
    world.settle();
    world.commit(GroupId(1), 2, false, None);
    world.begin_checkpoint(|_| true);
    world.commit(GroupId(1), 3, false, None);
    world.settle();
    assert_eq!(world.store.backlog_bytes(), 0);
}
