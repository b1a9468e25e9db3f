//! The metadata begins anew where the journal has lost what it had promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use levada_protocol::ids::{GroupId, LogIndex, Term};

use super::world::{World, open};
use crate::{
    disk::{Disk, DiskOp, FileName},
    entry::{Entry, EntryKind},
    journal::Doubt,
    sim_disk::{CrashPlan, SimDisk},
    store::{GroupState, Recovered},
    testing::control,
};

const METADATA: GroupId = GroupId::METADATA;
const OTHER: GroupId = GroupId(1);
/// Of this one, nothing is in the checkpoint.
const YOUNG: GroupId = GroupId(2);
/// A block's page.
const PAGE: u64 = 4096;

fn append(world: &mut World, group: GroupId) {
    let last = world.groups[&group].now.last();
    world.append(group, last, &[3], true);
    world.settle();
}

/// The metadata and two others, with entries that only the journal has, in blocks of their own.
fn world() -> World {
    let mut world = World::new(5);
    for group in [METADATA, OTHER] {
        world.create(group);
        append(&mut world, group);
        world.commit(group, 1, false, None);
    }
    world.begin_checkpoint(|_| true);
    world.settle();
    world.create(YOUNG);
    for group in [YOUNG, OTHER, METADATA, OTHER, METADATA, YOUNG, OTHER] {
        append(&mut world, group);
    }
    world
}

/// Where a block's header is in its first page, and where its frames are.
const HEADER: u64 = 20;
const FRAMES: [u64; 3] = [120, 160, 200];

/// Each page of the journal damaged at this place.
fn damages(disk: &SimDisk, at: u64) -> Vec<Arc<SimDisk>> {
    let names = disk.list("journal").unwrap();
    let files = names.iter().map(|name| FileName::new(format!("journal/{name}")));
    let pages =
        files.flat_map(|file| (0..disk.len(&file).unwrap().unwrap() / PAGE).map(move |page| (file.clone(), page)));
    let damage = |(file, page)| {
        let damaged = disk.fork();
        damaged.flip_bit(&file, page * PAGE + at, 3);
        Arc::new(damaged)
    };
    pages.map(damage).collect()
}

/// Damaged so that nobody knows which groups it is about.
fn all_in_doubt() -> Arc<SimDisk> {
    let damages = damages(&world().disk, HEADER);
    damages.into_iter().find(|disk| open(disk).unwrap().doubt == Doubt::All).unwrap()
}

fn state(applied: u64) -> GroupState {
    GroupState {
        group: METADATA,
        topic_partition: world().groups[&METADATA].topic_partition,
        applied: LogIndex(applied),
        term: Term(7),
        conf_state: "another replica".into(),
        app_state: "what was told".into(),
    }
}

fn commands(indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes.map(|index| control(index, 7, EntryKind::Command, b"command")).collect()
}

fn metadata(recovered: &Recovered) -> (LogIndex, LogIndex, bool) {
    let found = recovered.groups.iter().find(|found| found.group == METADATA).unwrap();
    assert_eq!(found.conf_state, "another replica");
    (found.applied, found.log.last_index(), found.damaged)
}

/// What a node does that has got its metadata back, until the groups in doubt are gone.
fn go_on(disk: Arc<SimDisk>, doubted: &BTreeSet<GroupId>) {
    const LATER: GroupId = GroupId(8);
    let image = |disk: &SimDisk| Arc::new(disk.crash_image(&CrashPlan::LOSE_ALL));
    let recovered = open(&disk).unwrap();
    assert_eq!(recovered.doubt, Doubt::Groups(doubted.clone()));
    assert_eq!(metadata(&recovered), (LogIndex(30), LogIndex(30), false), "and nothing of the earlier one");
    let mut world = World::with(Arc::clone(&disk), recovered.store, BTreeMap::new(), 3);
    world.store.append(METADATA, commands(31..33), None).unwrap();
    world.create(LATER);
    append(&mut world, LATER);
    world.settle();

    // The journal still has the damage: it was accounted for.
    let disk = image(&disk);
    let recovered = open(&disk).unwrap();
    assert_eq!(recovered.doubt, Doubt::Groups(doubted.clone()));
    assert_eq!(metadata(&recovered), (LogIndex(30), LogIndex(32), false));
    let later = recovered.groups.iter().find(|found| found.group == LATER).unwrap();
    assert!(later.log.last_index() == LogIndex(1) && !later.damaged);
    let mut world = World::with(Arc::clone(&disk), recovered.store, BTreeMap::new(), 4);
    doubted.iter().for_each(|group| world.store.remove_group(*group));
    world.begin_checkpoint(|_| true);
    world.settle();
    let recovered = open(&image(&disk)).unwrap();
    assert_eq!((recovered.doubt.clone(), metadata(&recovered).1), (Doubt::None, LogIndex(32)));
}

#[test]
fn where_the_table_is_lost_all_groups_are_in_doubt_by_name_and_the_metadata_begins_anew() {
    let disk = world().disk;
    let (mut all, mut some) = (0, 0);
    for at in FRAMES.into_iter().chain([HEADER]) {
        for disk in damages(&disk, at) {
            let Recovered { store, doubt, .. } = open(&disk).unwrap();
            if !doubt.covers(METADATA) {
                continue;
            }
            let replicated = BTreeSet::from([OTHER, YOUNG, GroupId(5)]);
            let expected: BTreeSet<GroupId> = match &doubt {
                Doubt::All => replicated.clone(),
                Doubt::Groups(groups) => groups.iter().copied().filter(|group| *group != METADATA).collect(),
                Doubt::None => unreachable!("it covers the metadata"),
            };
            all += u32::from(doubt == Doubt::All);
            some += u32::from(doubt != Doubt::All);
            store.renew_metadata(state(30), replicated).unwrap();
            if expected.is_empty() {
                let recovered = open(&disk).unwrap();
                assert_eq!((recovered.doubt.clone(), metadata(&recovered).0), (Doubt::None, LogIndex(30)));
                continue;
            }
            go_on(disk, &expected);
        }
    }
    assert!(all > 3 && some > 0, "{all} {some}");
}

#[test]
fn what_is_damaged_later_is_in_doubt_again() {
    let disk = all_in_doubt();
    open(&disk).unwrap().store.renew_metadata(state(30), BTreeSet::from([OTHER])).unwrap();
    let mut world = World::with(Arc::clone(&disk), open(&disk).unwrap().store, BTreeMap::new(), 3);
    for index in 31..36 {
        world.store.append(METADATA, commands(index..index + 1), None).unwrap();
        world.settle();
    }
    let mut found = BTreeSet::new();
    for disk in damages(&disk, HEADER) {
        match open(&disk).unwrap().doubt {
            Doubt::All => found.insert("all"),
            Doubt::Groups(groups) => found.insert(if groups.contains(&METADATA) { "the metadata" } else { "others" }),
            Doubt::None => panic!("what was in doubt is"),
        };
    }
    assert!(found.contains("all") && found.contains("others"), "{found:?}");
}

#[test]
fn the_power_goes_while_the_metadata_begins_anew() {
    let disk = all_in_doubt();
    drop(open(&disk).unwrap());
    let (mut before, mut after) = (0, 0);
    for operations in 0..8 {
        for seed in 0..20 {
            let disk = Arc::new(disk.fork());
            let store = open(&disk).unwrap().store;
            disk.halt_after(operations);
            let is_done = store.renew_metadata(state(30), BTreeSet::from([OTHER])).is_ok();
            disk.crash(&CrashPlan::seeded(seed));
            match open(&disk).unwrap().doubt {
                Doubt::All => before += 1,
                Doubt::Groups(_) => after += 1,
                Doubt::None => panic!("nothing is mended by this"),
            }
            assert!(!is_done || matches!(open(&disk).unwrap().doubt, Doubt::Groups(_)));
        }
    }
    assert!(before > 0 && after > 0, "{before} {after}");
}

/// The first does not concern the replica that is here, the second does.
#[test]
fn damage_before_and_after_it_began_anew() {
    let named = FRAMES.into_iter().flat_map(|at| damages(&world().disk, at));
    let is_about_it =
        |disk: &Arc<SimDisk>| matches!(open(disk).unwrap().doubt, Doubt::Groups(groups) if groups.contains(&METADATA));
    let disk = named.into_iter().find(is_about_it).unwrap();
    open(&disk).unwrap().store.renew_metadata(state(30), BTreeSet::new()).unwrap();
    assert!(!is_about_it(&disk));
    let mut world = World::with(Arc::clone(&disk), open(&disk).unwrap().store, BTreeMap::new(), 3);
    // Its last entry: that it is missing shows in nothing else. And one behind it, which proves the block.
    world.store.append(METADATA, commands(31..32), None).unwrap();
    world.settle();
    world.create(GroupId(8));
    append(&mut world, GroupId(8));
    let again = FRAMES.into_iter().flat_map(|at| damages(&disk, at)).filter(is_about_it).count();
    assert!(again > 0);
}

/// Blocks behind the first renewal are nobody's but those of the groups that wrote them.
#[test]
fn a_second_renewal_takes_nothing_from_groups_that_are_not_in_doubt() {
    const LATER: GroupId = GroupId(8);
    let disk = all_in_doubt();
    open(&disk).unwrap().store.renew_metadata(state(30), BTreeSet::from([OTHER, YOUNG])).unwrap();
    let mut world = World::with(Arc::clone(&disk), open(&disk).unwrap().store, BTreeMap::new(), 3);
    world.create(LATER);
    append(&mut world, LATER);
    world.store.append(METADATA, commands(31..32), None).unwrap();
    world.settle();
    append(&mut world, LATER);
    append(&mut world, LATER);
    let named = FRAMES.into_iter().flat_map(|at| damages(&disk, at));
    let is_about_it =
        |disk: &Arc<SimDisk>| matches!(open(disk).unwrap().doubt, Doubt::Groups(groups) if groups.contains(&METADATA));
    let disk = named.into_iter().find(is_about_it).unwrap();
    open(&disk).unwrap().store.renew_metadata(state(40), BTreeSet::from([LATER])).unwrap();
    let recovered = open(&disk).unwrap();
    assert_eq!(recovered.doubt, Doubt::Groups([OTHER, YOUNG].into()));
    let later = recovered.groups.iter().find(|found| found.group == LATER).unwrap();
    assert_eq!((later.log.last_index(), later.damaged), (LogIndex(3), false));
}

/// The first damage was in one block, of which it is known which groups it was about. No other is excused by that.
#[test]
fn damage_that_nobody_has_seen_before_is_in_doubt_however_old_the_block() {
    let is_about_it =
        |disk: &Arc<SimDisk>| matches!(open(disk).unwrap().doubt, Doubt::Groups(groups) if groups.contains(&METADATA));
    let named = FRAMES.into_iter().flat_map(|at| damages(&world().disk, at));
    let disk = named.into_iter().find(is_about_it).unwrap();
    open(&disk).unwrap().store.renew_metadata(state(30), BTreeSet::new()).unwrap();
    let all = damages(&disk, HEADER).iter().filter(|disk| open(disk).unwrap().doubt == Doubt::All).count();
    assert!(all > 3, "{all}");
}

/// Two blocks in a row are gone: the one was accounted for, the other was written since.
#[test]
fn of_a_gap_only_what_was_accounted_for_is_excused() {
    let headers = |disk: &SimDisk| damages(disk, HEADER);
    let mut seen = BTreeSet::new();
    for disk in headers(&world().disk).into_iter().filter(|disk| open(disk).unwrap().doubt == Doubt::All) {
        open(&disk).unwrap().store.renew_metadata(state(30), BTreeSet::from([OTHER, YOUNG])).unwrap();
        let mut world = World::with(Arc::clone(&disk), open(&disk).unwrap().store, BTreeMap::new(), 3);
        world.store.append(METADATA, commands(31..32), None).unwrap();
        world.settle();
        world.create(GroupId(8));
        append(&mut world, GroupId(8));
        for again in headers(&disk) {
            let Recovered { doubt, groups, .. } = open(&again).unwrap();
            let metadata = groups.iter().find(|found| found.group == METADATA).unwrap();
            let is_whole = metadata.log.last_index() == LogIndex(31);
            assert!(is_whole || doubt.covers(METADATA), "it lost what it had acknowledged: {doubt:?}");
            seen.insert((is_whole, doubt.covers(METADATA)));
        }
    }
    assert!(seen.is_superset(&BTreeSet::from([(true, false), (false, true)])), "{seen:?}");
}

/// Harms the journal in several places, each in a copy, and says in how many of them all was in doubt: once, for after the
/// metadata has begun anew it is by name, at every start.
fn in_doubt_once(harm: impl Fn(&SimDisk, &FileName, u64)) -> usize {
    let (mut all, disk) = (0, world().disk);
    let names = disk.list("journal").unwrap();
    let files = names.iter().map(|name| FileName::new(format!("journal/{name}")));
    for (file, page) in files.flat_map(|file| (0..8).map(move |page| (file.clone(), page))) {
        let disk = Arc::new(disk.fork());
        harm(&disk, &file, page * PAGE);
        let Recovered { store, doubt, .. } = open(&disk).unwrap();
        if doubt != Doubt::All {
            continue;
        }
        all += 1;
        store.renew_metadata(state(30), BTreeSet::from([OTHER, YOUNG])).unwrap();
        for _ in 0..2 {
            let recovered = open(&disk).unwrap();
            assert_eq!(
                (recovered.doubt.clone(), metadata(&recovered).2),
                (Doubt::Groups([OTHER, YOUNG].into()), false)
            );
        }
    }
    all
}

/// A page that cannot be read may hide a block, and would at every start.
#[test]
fn what_cannot_be_read_is_in_doubt_once() {
    let all = in_doubt_once(|disk, file, pos| disk.make_unreadable(file, pos, PAGE));
    assert!(all > 2, "{all}");
}

/// So would a file without its end.
#[test]
fn what_stood_at_the_end_of_a_file_that_is_cut_is_in_doubt_once() {
    let cut = |disk: &SimDisk, file: &FileName, pos| {
        disk.perform(&DiskOp::Truncate { file: file.clone(), len: pos + PAGE }).unwrap();
    };
    let all = in_doubt_once(cut);
    assert!(all > 2, "{all}");
}

/// The same replica, from a later state on: it is who it was, and has voted as it had.
#[test]
fn a_replica_goes_on_from_a_later_state_with_all_that_it_has_promised() {
    let world = world();
    let before = world.groups[&METADATA].now.clone();
    let (last, promised) = (LogIndex(before.last()), before.hard_state);
    assert!(promised.vote > 0, "{promised:?}");
    let later = |applied, term| GroupState { term: Term(term), ..state(applied) };
    for operations in 0..8 {
        for (applied, term) in [(last.get(), 1), (30, 1), (30, 7)] {
            let disk = Arc::new(world.disk.fork());
            let store = open(&disk).unwrap().store;
            disk.halt_after(operations);
            let is_done = store.catch_up_metadata(later(applied, term)).is_ok();
            disk.crash(&CrashPlan::seeded(operations));
            let recovered = open(&disk).unwrap();
            let found = recovered.groups.iter().find(|found| found.group == METADATA).unwrap();
            let (hard_state, end) = (found.hard_state, found.log.last_index());
            let has_caught_up = found.conf_state == "another replica";
            assert!(has_caught_up || !is_done);
            if has_caught_up {
                assert_eq!(
                    (found.applied, end, hard_state.commit),
                    (LogIndex(applied), LogIndex(applied), found.applied)
                );
                assert_eq!(found.log.term(found.applied), Ok(Term(term)));
            } else {
                assert_eq!(end, last);
            }
            let (is_newer, votes) = (has_caught_up && Term(term) > promised.term, hard_state.vote);
            assert_eq!(
                (hard_state.term, votes),
                if is_newer { (Term(term), 0) } else { (promised.term, promised.vote) }
            );
            assert!(recovered.doubt == Doubt::None && recovered.groups.len() == 3, "the others are as they were");
        }
    }
}

#[test]
#[should_panic(expected = "nothing of its log is thrown away that may be committed")]
fn no_entry_is_thrown_away_for_an_earlier_state() {
    let world = world();
    let last = world.groups[&METADATA].now.last();
    let earlier = GroupState { term: Term(world.groups[&METADATA].now.last_term()), ..state(last - 1) };
    open(&world.disk).unwrap().store.catch_up_metadata(earlier).unwrap();
}
