//! A group in doubt goes on with what is left of it, and is as sound as any other from then on.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Offset, Term};

use super::world::{World, open};
use crate::{
    disk::{Disk, FileName},
    entry::{Entry, HardState},
    journal::Doubt,
    sim_disk::{CrashPlan, SimDisk},
    store::{GroupInit, Recovered, RecoveredGroup},
};

/// Has a segment.
const OLD: GroupId = GroupId(1);
/// Of this one, nothing is in the checkpoint.
const YOUNG: GroupId = GroupId(2);
const PAGE: u64 = 4096;
/// Where a block's frames are in its first page.
const FRAMES: [u64; 4] = [160, 200, 300, 400];
const LATER: Term = Term(1_005);
const ALONE: Bytes = Bytes::from_static(b"alone");

fn append(world: &mut World, group: GroupId) {
    let last = world.groups[&group].now.last();
    world.append(group, last, &[3], true);
    world.settle();
}

/// Two groups with entries that only the journal has, in blocks of their own.
fn world() -> World {
    let mut world = World::new(6);
    world.create(OLD);
    (0..3).for_each(|_| append(&mut world, OLD));
    world.commit(OLD, 2, false, None);
    world.begin_checkpoint(|_| true);
    world.settle();
    world.create(YOUNG);
    for group in [YOUNG, OLD, YOUNG, OLD, OLD, YOUNG, YOUNG] {
        append(&mut world, group);
    }
    world
}

/// Each page of the journal with a bit of a frame flipped, where that puts groups in doubt by name.
fn damaged(disk: &SimDisk) -> Vec<Arc<SimDisk>> {
    let names = disk.list("journal").unwrap();
    let mut found = Vec::new();
    for file in names.iter().map(|name| FileName::new(format!("journal/{name}"))) {
        for page in 0..disk.len(&file).unwrap().unwrap() / PAGE {
            found.extend(FRAMES.into_iter().find_map(|at| {
                let damaged = Arc::new(disk.fork());
                damaged.flip_bit(&file, page * PAGE + at, 3);
                matches!(open(&damaged).unwrap().doubt, Doubt::Groups(_)).then_some(damaged)
            }));
        }
    }
    assert!(found.len() > 5, "{}", found.len());
    found
}

fn found(recovered: &Recovered, group: GroupId) -> Option<&RecoveredGroup> {
    recovered.groups.iter().find(|found| found.group == group)
}

fn entries(recovered: &Recovered, group: GroupId) -> Vec<Entry> {
    let Some(found) = found(recovered, group) else { return Vec::new() };
    let (mut entries, end) = (Vec::new(), found.log.last_index().next());
    let next = |entries: &[Entry]| entries.last().map_or(found.log.first_index(), |last: &Entry| last.index.next());
    while next(&entries) < end {
        entries.extend(found.log.entries(next(&entries), end, usize::MAX).unwrap());
    }
    entries
}

fn init(group: GroupId) -> GroupInit {
    let place = world().groups[&group].topic_partition;
    GroupInit { group, topic: place.topic, partition: place.partition }
}

fn image(disk: &SimDisk) -> Arc<SimDisk> {
    Arc::new(disk.crash_image(&CrashPlan::LOSE_ALL))
}

/// Reclaims all that is in doubt; the checkpoint that says so has begun.
fn reclaim(disk: &Arc<SimDisk>) -> (World, u64) {
    let recovered = open(disk).unwrap();
    let doubted = recovered.store.doubted();
    let mut world = World::with(Arc::clone(disk), recovered.store, BTreeMap::new(), 3);
    let numbers: Vec<u64> = doubted
        .iter()
        .map(|group| world.store.reclaim(init(*group), LATER, ALONE).expect("nothing is under way"))
        .collect();
    assert!(doubted.iter().all(|group| !world.store.doubts(*group)));
    world.begin_checkpoint(|_| false);
    (world, numbers[0])
}

#[test]
fn what_is_left_in_front_of_a_hole_goes_on_and_the_damage_is_forgotten() {
    let original = world();
    let (mut had_tail, mut had_seen) = (0, 0);
    for disk in damaged(&original.disk) {
        let before = open(&disk).unwrap();
        let doubted = before.store.doubted();
        let (mut world, number) = reclaim(&disk);
        world.settle();
        assert!(world.checkpointed >= number);
        let after = open(&image(&disk)).unwrap();
        assert_eq!(after.doubt, Doubt::None);
        for group in doubted {
            let left = entries(&before, group);
            let all = &original.groups[&group].now;
            assert_eq!(left, all.entries[..left.len()], "in front of the hole, and nothing behind it");
            assert_eq!(entries(&after, group), left);
            let (was, is) = (found(&before, group), found(&after, group).unwrap());
            assert_eq!((is.conf_state.clone(), is.damaged), (ALONE, false));
            assert_eq!(is.hard_state, HardState { term: LATER, vote: 0, commit: is.hard_state.commit });
            assert_eq!(was.map_or(LogIndex(0), |was| was.applied), is.applied);
            assert_eq!(was.map(|was| was.app_state.clone()).unwrap_or_default(), is.app_state);
            had_tail += u32::from(is.log.last_index() > is.applied);
            if let Some(seen) = before.store.seen_end(group) {
                assert_eq!(seen, Offset(all.next_offset(all.last())), "what stands behind the hole is known");
                assert!(seen > is.log.next_offset());
                had_seen += 1;
            }
            assert_eq!(after.store.seen_end(group), None);

            // It takes more, commits it, and has all of it at every start from now on.
            let next = crate::testing::batches(
                is.log.last_index().next().get(),
                LATER.get(),
                &[crate::testing::batch(is.log.next_offset().get(), 2, 30)],
            );
            let mut expected = left;
            expected.push(next.clone());
            world.store.append(group, vec![next.clone()], None).unwrap();
            world.settle();
            assert_eq!(entries(&open(&image(&disk)).unwrap(), group), expected);
            world.store.commit(group, next.index);
            world.settle();
            world.begin_checkpoint(|_| false);
            world.settle();
            let again = open(&image(&disk)).unwrap();
            assert_eq!((again.doubt.clone(), entries(&again, group)), (Doubt::None, expected));
        }
    }
    assert!(had_tail > 1 && had_seen > 3, "{had_tail} {had_seen}");
}

/// Either nothing has happened, or all of it; and what is left is the same.
#[test]
fn the_power_goes_while_a_group_is_reclaimed() {
    let (mut before, mut after) = (0, 0);
    for disk in damaged(&world().disk).into_iter().step_by(2) {
        let was = open(&disk).unwrap();
        let doubted = was.store.doubted();
        let (mut world, _) = reclaim(&disk);
        let mut images = Vec::new();
        for seed in 0..200 {
            images.push(Arc::new(world.disk.crash_image(&CrashPlan::seeded(seed))));
            if !world.drive_one(&mut |_, _| {}).unwrap() {
                break;
            }
        }
        for disk in images {
            let is = open(&disk).unwrap();
            for group in &doubted {
                assert_eq!(entries(&is, *group), entries(&was, *group));
                if is.doubt.covers(*group) {
                    let (was, is) = (found(&was, *group), found(&is, *group));
                    assert_eq!(was.map(|was| was.hard_state), is.map(|is| is.hard_state), "as it was");
                    before += 1;
                } else {
                    let is = found(&is, *group).unwrap();
                    assert_eq!((is.hard_state.term, is.hard_state.vote, is.conf_state.clone()), (LATER, 0, ALONE));
                    after += 1;
                }
            }
            if is.doubt != Doubt::None {
                // It is done again.
                let (mut world, _) = reclaim(&disk);
                world.settle();
                assert_eq!(open(&image(&disk)).unwrap().doubt, Doubt::None);
            }
        }
    }
    assert!(before > 10 && after > 0, "{before} {after}");
}

/// It was reclaimed from one damage, not from all that is to come.
#[test]
fn what_is_damaged_later_is_in_doubt_again_and_in_the_later_term() {
    let disk = damaged(&world().disk).into_iter().find(|disk| open(disk).unwrap().store.doubts(OLD)).unwrap();
    let (mut world, _) = reclaim(&disk);
    world.settle();
    for _ in 0..3 {
        let log = world.store.log(OLD).unwrap();
        let batch = crate::testing::batch(log.next_offset().get(), 2, 30);
        let entry = crate::testing::batches(log.last_index().next().get(), LATER.get(), &[batch]);
        world.store.append(OLD, vec![entry], None).unwrap();
        world.settle();
    }
    let again = damaged(&disk).into_iter().map(|disk| open(&disk).unwrap()).filter(|found| found.store.doubts(OLD));
    let again: Vec<Recovered> = again.collect();
    assert!(again.len() >= 2);
    for recovered in &again {
        let found = found(recovered, OLD).unwrap();
        assert_eq!((found.hard_state.term, found.conf_state.clone()), (LATER, ALONE));
    }
}

#[test]
fn a_checkpoint_that_is_found_out_does_not_say_half_of_it() {
    let disk = damaged(&world().disk).into_iter().find(|disk| open(disk).unwrap().store.doubts(OLD)).unwrap();
    let recovered = open(&disk).unwrap();
    let mut world = World::with(Arc::clone(&disk), recovered.store, BTreeMap::new(), 3);
    world.begin_checkpoint(|_| false);
    assert_eq!(world.store.reclaim(init(OLD), LATER, ALONE), None);
    world.settle();
    assert!(world.store.doubts(OLD) && open(&image(&disk)).unwrap().doubt.covers(OLD));
    assert!(world.store.reclaim(init(OLD), LATER, ALONE).is_some());
}
