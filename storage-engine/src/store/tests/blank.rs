//! Groups without a record: no file, and nothing of them is lost.

use std::{collections::BTreeMap, sync::Arc};

use levada_protocol::ids::{GroupId, LogIndex};

use super::{
    crash::recover,
    model::Appended,
    world::{CONFIG, World},
};
use crate::{disk::Disk, entry::EntryKind, sim_disk::CrashPlan, testing::control};

const BUSY: GroupId = GroupId(1);
const BLANK: GroupId = GroupId(2);

fn files_of(world: &World, group: GroupId) -> usize {
    let number = format!("{:020}-", group.get());
    let names = world.disk.list("segments").unwrap();
    assert!(names.iter().all(|name| name.len() > number.len()), "{names:?}");
    names.iter().filter(|name| name.starts_with(&number)).count()
}

/// A leader's first entry, which is all that there is.
fn begin(world: &mut World, group: GroupId, term: u64) {
    let model = world.groups.get_mut(&group).unwrap();
    let entry = control(model.now.last() + 1, term, EntryKind::Empty, b"");
    let hard_state = model.hard_state(term, 1);
    let index = entry.index.get();
    world.store.append(group, vec![entry.clone()], Some(hard_state)).unwrap();
    model.append(Appended { entries: vec![entry], hard_state: Some(hard_state) });
    world.rest();
    world.commit(group, index, false, None);
}

/// So much is written to another group that the journal goes round several times.
fn work(world: &mut World, watch: &mut dyn FnMut(&World)) {
    let until = world.checkpointed + 12;
    while world.checkpointed < until {
        let last = world.groups[&BUSY].now.last();
        world.append(BUSY, last, &[1_004, 2_009, 3_014], false);
        while world.store.is_checkpointing() || world.groups[&BUSY].persisted < last + 3 {
            world.drive_one(&mut |world, _| watch(world)).unwrap();
        }
        world.commit(BUSY, last + 3, false, None);
        if world.store.checkpoint_due() {
            world.begin_checkpoint(|_| true);
        }
    }
    world.settle();
}

fn blank() -> World {
    let mut world = World::new(5);
    [BUSY, BLANK].into_iter().for_each(|group| world.create(group));
    begin(&mut world, BLANK, 1);
    begin(&mut world, BLANK, 3);
    world
}

#[test]
fn a_group_without_a_record_has_no_file_and_does_not_hold_back_the_journal() {
    let mut world = blank();
    let mut cut = 0;
    work(&mut world, &mut |world| {
        cut += 1;
        if cut % 4 == 0 {
            recover(Arc::new(world.disk.crash_image(&CrashPlan::seeded(cut))), &world.groups, &BTreeMap::new());
        }
    });
    assert!(cut > 100, "{cut}");
    assert_eq!(files_of(&world, BLANK), 0);
    assert!(files_of(&world, BUSY) > 0);
    let (written, used) = (world.store.journal.written_bytes(), world.store.journal.used_bytes());
    assert!(
        written > 10 * CONFIG.checkpoint_bytes && used < 5 * CONFIG.checkpoint_bytes,
        "{used} of {written} are used"
    );
    assert!(!world.store.has_moved(BLANK, LogIndex(2)), "no checkpoint needs to name it");

    let mut world = recover(Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL)), &world.groups, &BTreeMap::new());
    assert_eq!(world.groups[&BLANK].now.last(), 2);
    begin(&mut world, BLANK, 4);
    work(&mut world, &mut |_| {});
    assert_eq!(files_of(&world, BLANK), 0);
    recover(Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL)), &world.groups, &BTreeMap::new());
}

#[test]
fn its_first_record_makes_the_file_with_everything_before() {
    let mut world = blank();
    work(&mut world, &mut |_| {});
    world.append(BLANK, 2, &[7], false);
    world.rest();
    world.commit(BLANK, 3, false, None);
    world.settle();
    assert_eq!(files_of(&world, BLANK), 1);
    world.begin_checkpoint(|_| true);
    world.settle();
    let world = recover(Arc::new(world.disk.crash_image(&CrashPlan::LOSE_ALL)), &world.groups, &BTreeMap::new());
    assert_eq!(world.groups[&BLANK].committed, 3, "the checkpoint has it");
    let log = world.store.log(BLANK).unwrap();
    assert_eq!(log.entries(LogIndex(1), LogIndex(4), usize::MAX).unwrap().len(), 3);
}

/// A group whose leader changes again and again would fill memory.
#[test]
fn many_empty_entries_get_a_file_after_all() {
    let mut world = blank();
    (4..40).for_each(|term| begin(&mut world, BLANK, term));
    world.settle();
    assert_eq!(files_of(&world, BLANK), 1);
}
