//! Power cuts, at every operation of a story.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Offset};

use super::{
    model::{Appended, GroupModel},
    world::{World, open},
};
use crate::{
    disk::{Disk, DiskOp, FileName},
    journal::Doubt,
    sim_disk::{CrashPlan, SimDisk},
    store::Recovered,
};

/// The sealed segments of a disk, by name.
fn sealed(world: &World) -> BTreeMap<FileName, Bytes> {
    let mut files = BTreeMap::new();
    for group in world.groups.keys() {
        for segment in world.store.log(*group).unwrap().segments().iter().filter(|segment| segment.sealed) {
            let file = crate::segment::file_name(*group, segment.first_index);
            let bytes = world.disk.read(&file, 0, usize::MAX / 2).unwrap();
            files.insert(file, bytes);
        }
    }
    files
}

/// Opens a disk and proves that what it holds is what may be there; goes on as a broker would.
pub(super) fn recover(
    disk: Arc<SimDisk>,
    groups: &BTreeMap<GroupId, GroupModel>,
    removed: &BTreeMap<GroupId, GroupModel>,
) -> World {
    let Recovered { mut store, groups: found, doubt } = open(&disk).unwrap();
    assert_eq!(doubt, Doubt::None, "a power cut is no damage");
    let ids: BTreeSet<GroupId> = found.iter().map(|group| group.group).collect();
    for (group, model) in groups {
        assert!(ids.contains(group) || model.durable == 0, "group {group} is gone");
    }
    let mut models = BTreeMap::new();
    for group in &found {
        let Some(model) = groups.get(&group.group) else {
            let model = &removed[&group.group];
            model.check(group, false);
            store.remove_group(group.group);
            continue;
        };
        let moment = model.check(group, false);
        let mut model = model.recovered(group, moment);
        let commit = group.hard_state.commit.get();
        let found_start = group.log.log_start().get();
        for index in group.applied.get() + 1..=commit {
            store.commit(group.group, LogIndex(index));
            if model.rolls.contains(&index) {
                store.roll(group.group, LogIndex(index));
            }
            if let Some(offset) = model.log_starts.get(&index) {
                store.set_log_start(group.group, Offset(*offset));
            }
        }
        model.rolls.retain(|index| *index <= commit);
        model.log_starts.retain(|index, _| *index <= commit);
        // Segments may have gone by a command that is to be applied again.
        model.log_starts.insert(0, found_start);
        model.committed = commit;
        models.insert(group.group, model);
    }
    World::with(disk, store, models, 77)
}

/// Proves that a recovered store works: it takes more, commits, rolls, checkpoints, and has all of it when opened again.
fn go_on(world: &mut World, reference: &BTreeMap<FileName, Bytes>) {
    let ids: Vec<GroupId> = world.groups.keys().copied().collect();
    for group in &ids {
        let last = world.groups[group].now.last();
        world.append(*group, last, &[3, 101, 52], true);
    }
    world.settle();
    for (file, bytes) in sealed(world) {
        assert!(reference.get(&file).is_none_or(|same| *same == bytes), "{file} is not as without the crash");
    }
    for group in &ids {
        let last = world.groups[group].now.last();
        assert_eq!(world.groups[group].persisted, last);
        world.commit(*group, last, true, None);
    }
    world.begin_checkpoint(|_| true);
    world.settle();
    assert!(!world.store.is_checkpointing());
    let reopened = recover(Arc::clone(&world.disk), &world.groups, &BTreeMap::new());
    for group in &ids {
        let (before, after) = (&world.groups[group], &reopened.groups[group]);
        assert_eq!((after.committed, after.now.last()), (before.now.last(), before.now.last()));
    }
}

/// Cuts the power before, and in, every operation of a story.
fn cut_everywhere(seed: u64, steps: u64, images: u64) -> usize {
    let mut operations = Vec::new();
    let whole = World::story(seed, steps, &mut |_, op: &DiskOp| operations.push(op.clone()));
    let reference = sealed(&whole);
    let mut cut = 0;
    World::story(seed, steps, &mut |world, op| {
        assert_eq!(op, &operations[cut], "the same seed tells the same story");
        cut += 1;
        let plans = [CrashPlan::LOSE_ALL, CrashPlan::KEEP_ALL];
        let seeded = (0..images).map(|image| CrashPlan::seeded(seed ^ (cut as u64 * 100 + image)));
        for plan in plans.into_iter().chain(seeded) {
            let disk = world.disk.fork();
            disk.perform_interrupted(op).unwrap();
            disk.crash(&plan);
            let mut recovered = recover(Arc::new(disk), &world.groups, &world.removed);
            go_on(&mut recovered, &reference);
        }
    });
    assert_eq!(cut, operations.len());
    cut
}

#[test]
fn nothing_is_lost_by_a_power_cut_anywhere() {
    assert!(cut_everywhere(1, 200, 2) > 250);
}

#[test]
fn nor_in_another_story() {
    assert!(cut_everywhere(7, 200, 2) > 250);
}

/// Only the process ends: what the next one finds may be in the page cache alone, and the power may go while it builds on
/// that.
#[test]
fn what_a_killed_process_left_is_durable_before_anything_is_built_on_it() {
    let mut killed = 0;
    World::story(3, 200, &mut |world, op| {
        killed += 1;
        let done = world.disk.fork();
        done.perform(op).unwrap();
        for disk in [world.disk.fork(), done] {
            let mut next = recover(Arc::new(disk), &world.groups, &world.removed);
            for group in next.groups.keys().copied().collect::<Vec<_>>() {
                let last = next.groups[&group].now.last();
                next.append(group, last, &[3, 101, 52], true);
            }
            next.settle();
            let image = next.disk.crash_image(&CrashPlan::LOSE_ALL);
            recover(Arc::new(image), &next.groups, &world.removed);
        }
    });
    assert!(killed > 250);
}

#[test]
fn a_moment_is_found_only_if_it_was() {
    let mut world = World::new(5);
    world.create(GroupId(1));
    world.append(GroupId(1), 0, &[1, 2, 3], true);
    world.settle();
    let mut groups = world.groups.clone();
    recover(Arc::new(world.disk.fork()), &groups, &BTreeMap::new());
    // A model that was told of more is not content.
    let model = groups.get_mut(&GroupId(1)).unwrap();
    let more = Appended { entries: model.make(3, 1, &[1]), hard_state: None };
    model.append(more);
    model.durable = 2;
    let disk = Arc::new(world.disk.fork());
    let caught = std::panic::catch_unwind(|| recover(disk, &groups, &BTreeMap::new()));
    assert!(caught.is_err());
}
