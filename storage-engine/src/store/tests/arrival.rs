//! A group's files go from one store to another, which makes the group from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use levada_protocol::ids::{GroupId, LogIndex, Term};

use super::world::{World, open};
use crate::{
    disk::Disk,
    entry::{Entry, EntryKind, HardState},
    sim_disk::{CrashPlan, SimDisk},
    store::{Recovered, Snapshot, segment_file},
};

const GROUP: GroupId = GroupId(1);

/// A store that has a group with a history in it, and where that stands.
fn origin(seed: u64) -> (World, Snapshot) {
    let mut world = World::story(seed, 150, &mut |_, _| {});
    world.settle();
    world.begin_checkpoint(|_| true);
    world.settle();
    let snapshot = world.store.snapshot(GROUP).unwrap();
    (world, Snapshot::decode(&snapshot.encode()).unwrap())
}

/// Copies what a snapshot names, as a node would.
fn fetch(from: &SimDisk, to: &mut World, snapshot: &Snapshot) {
    let there = to.store.incoming(GROUP);
    for segment in snapshot.segments() {
        let first = segment.first_index();
        let file = segment_file(GROUP, first);
        let mut bytes = from.read(&file, 0, 1 << 24).unwrap();
        if !segment.is_sealed() {
            bytes.truncate(usize::try_from(segment.bytes()).unwrap());
        }
        let mut check = segment.check();
        bytes.chunks(100).for_each(|piece| check.update(piece).unwrap());
        check.finish().unwrap();
        if there.contains_key(&first) {
            continue;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(700));
            to.store.write_incoming(GROUP, first, piece);
        }
        to.store.finish_incoming(GROUP, first);
    }
}

fn entries(log: &crate::log::Log, from: LogIndex, to: LogIndex) -> Vec<Entry> {
    let (mut at, mut all) = (from, Vec::new());
    while at <= to {
        let more = log.entries(at, to.next(), usize::MAX).unwrap();
        at = more.last().unwrap().index.next();
        all.extend(more);
    }
    all
}

fn checkpointed(world: &mut World, number: u64) {
    while world.checkpointed < number {
        world.begin_checkpoint(|_| true);
        world.settle();
    }
}

#[test]
fn a_group_goes_on_in_another_store() {
    for seed in 0..20 {
        let (from, snapshot) = origin(seed);
        let mut to = World::new(seed + 1000);
        fetch(&from.disk, &mut to, &snapshot);
        to.rest();
        assert!(to.store.incoming(GROUP).len() as u64 <= to.arrived);
        let (log, number) = to.store.install(snapshot.clone(), &BTreeSet::new());
        let original = from.store.log(GROUP).unwrap();
        assert_eq!(log.last_index(), snapshot.applied());
        let scrubbed = |to: &World| to.store.next_segment((GroupId(0), LogIndex(0))).map(|(group, _)| group);
        assert_eq!(scrubbed(&to), None, "its files have not their names yet");
        checkpointed(&mut to, number);
        assert_eq!(scrubbed(&to), Some(GROUP));
        let first = log.first_index();
        assert!(first >= original.first_index());
        let expected = entries(original, first, snapshot.applied());
        assert_eq!(entries(&log, first, snapshot.applied()), expected);

        // It takes what follows, and all of it is there after the power went.
        let term = Term(1000);
        let next = Entry {
            index: snapshot.applied().next(),
            term,
            kind: EntryKind::Command,
            payload: b"next".to_vec().into(),
        };
        let hard_state = HardState { term, vote: 7, commit: snapshot.applied() };
        to.store.append(GROUP, vec![next.clone()], Some(hard_state)).unwrap();
        to.settle();
        to.disk.crash(&CrashPlan::LOSE_ALL);
        let Recovered { groups, .. } = open(&to.disk).unwrap();
        let [group] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!((group.applied, group.hard_state, group.damaged), (snapshot.applied(), hard_state, false));
        assert_eq!((&group.conf_state, &group.app_state), (snapshot.conf_state(), snapshot.app_state()));
        let found = entries(&group.log, first, next.index);
        assert_eq!((&found[..expected.len()], found.last()), (&expected[..], Some(&next)));
    }
}

/// Cut at every operation: the group is there as a whole or not at all, and then what had arrived may be used again.
#[test]
fn the_power_may_go_at_any_moment() {
    let (from, snapshot) = origin(3);
    let (mut whole, mut resumed) = (0, 0);
    for cut in 0.. {
        let mut to = World::new(17);
        to.disk.halt_after(cut);
        fetch(&from.disk, &mut to, &snapshot);
        let mut halted = false;
        let mut installed = false;
        for _ in 0..3_000 {
            match to.drive_one(&mut |_, _| {}) {
                Ok(true) => {}
                Ok(false) if !installed => {
                    to.store.install(snapshot.clone(), &BTreeSet::new());
                    installed = true;
                    to.begin_checkpoint(|_| true);
                }
                Ok(false) => break,
                Err(_) => {
                    halted = true;
                    break;
                }
            }
        }
        if !halted {
            assert!(to.checkpointed > 0 && whole > 0 && resumed > 0, "{whole} {resumed}");
            return;
        }
        for seed in 0..8 {
            let disk = Arc::new(to.disk.crash_image(&CrashPlan::seeded(8 * cut + seed)));
            let Recovered { store, groups, .. } = open(&disk).unwrap();
            if let [group] = &groups[..] {
                assert_eq!(group.applied, snapshot.applied());
                entries(&group.log, group.log.first_index(), snapshot.applied());
                whole += 1;
            } else {
                resumed += usize::from(!store.incoming(GROUP).is_empty());
                begin_again(&from, World::with(disk, store, BTreeMap::new(), 5), &snapshot);
            }
        }
    }
}

/// Copies that are there are sound; of what is not complete nothing is left.
fn begin_again(from: &World, mut to: World, snapshot: &Snapshot) {
    for (first, len) in to.store.incoming(GROUP) {
        let segments = snapshot.segments();
        let segment = segments.iter().find(|segment| segment.first_index() == first).unwrap();
        let mut check = segment.check();
        let bytes = to.disk.read(&to.store.incoming_file(GROUP, first), 0, usize::try_from(len).unwrap()).unwrap();
        check.update(&bytes).unwrap();
        check.finish().unwrap();
    }
    to.settle();
    assert!(to.store.is_gone(GROUP));
    assert!(!to.disk.list("segments").unwrap().iter().any(|name| name.ends_with(".part")));
    fetch(&from.disk, &mut to, snapshot);
    to.settle();
    let (_, number) = to.store.install(snapshot.clone(), &BTreeSet::new());
    checkpointed(&mut to, number);
}

/// Of a replica that a node had before, the journal holds entries that the new one must not take for its own.
#[test]
fn what_is_left_of_an_earlier_replica_is_not_its_own() {
    let (from, snapshot) = origin(5);
    let mut to = World::new(8);
    to.create(GROUP);
    to.create(super::world::STUCK);
    // Never committed, so that the journal keeps its oldest file.
    to.append(super::world::STUCK, 0, &[1], true);
    for round in 0..snapshot.applied().get() + 20 {
        to.append(GROUP, round, &[round], round == 0);
    }
    to.settle();
    assert!(!to.store.is_gone(GROUP));
    to.remove(GROUP);
    assert!(!to.store.is_gone(GROUP), "the checkpoint may still bring it back");
    to.groups.remove(&GROUP);
    to.begin_checkpoint(|_| true);
    to.settle();
    assert!(to.store.is_gone(GROUP));
    fetch(&from.disk, &mut to, &snapshot);
    to.settle();
    let (log, number) = to.store.install(snapshot.clone(), &BTreeSet::new());
    checkpointed(&mut to, number);
    assert_eq!(log.last_index(), snapshot.applied());
    to.disk.crash(&CrashPlan::LOSE_ALL);
    let Recovered { groups, .. } = open(&to.disk).unwrap();
    let group = groups.iter().find(|group| group.group == GROUP).unwrap();
    assert_eq!((group.log.last_index(), group.damaged), (snapshot.applied(), false));
    let first = group.log.first_index();
    assert_eq!(
        entries(&group.log, first, snapshot.applied()),
        entries(from.store.log(GROUP).unwrap(), first, snapshot.applied())
    );
}

#[test]
fn every_bit_of_a_file_that_arrives_is_checked() {
    let has_both = |snapshot: &Snapshot| {
        let mut kinds = snapshot.segments().into_iter().map(|segment| segment.is_sealed());
        kinds.next() == Some(true) && kinds.next_back() == Some(false)
    };
    let (from, snapshot) = (0..).map(origin).find(|(_, snapshot)| has_both(snapshot)).unwrap();
    let segments = snapshot.segments();
    for segment in [&segments[0], &segments[segments.len() - 1]] {
        let mut bytes = from.disk.read(&segment_file(GROUP, segment.first_index()), 0, 1 << 24).unwrap().to_vec();
        if !segment.is_sealed() {
            bytes.truncate(usize::try_from(segment.bytes()).unwrap());
        }
        let verdict = |bytes: &[u8]| {
            let mut check = segment.check();
            check.update(bytes)?;
            check.finish()
        };
        verdict(&bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(verdict(&bytes).is_err(), "bit {bit} of {}", bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for cut in 0..bytes.len() {
            assert!(verdict(&bytes[..cut]).is_err(), "cut to {cut}");
        }
        bytes.push(0);
        assert!(verdict(&bytes).is_err(), "too long");
    }
}
