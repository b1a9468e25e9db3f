//! Bits that flip, and files that are exchanged: noticed, and never served.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Offset};

use super::world::{STUCK, World, open};
use crate::{
    disk::{Disk, DiskOp, FileName},
    error::{DamageCause, OpenError, ReadError},
    identity::DirIdentity,
    journal::{Doubt, Replay, ReplayError, ReplayStart},
    sim_disk::{CrashPlan, SimDisk, rng::Rng},
    store::{Recovered, SegmentSpec, segment_file},
};

/// A store at rest, with everything proven: several groups, sealed and open segments, some entries in the journal only.
fn at_rest(seed: u64) -> World {
    let mut world = World::story(seed, 120, &mut |_, _| {});
    let groups: Vec<GroupId> = world.groups.keys().copied().collect();
    for round in 0..3 {
        for group in &groups {
            let last = world.groups[group].now.last();
            world.append(*group, last, &[103, 502, 3], true);
        }
        world.settle();
        for group in groups.iter().filter(|group| round < 2 && **group != STUCK) {
            let last = world.groups[group].now.last();
            world.commit(*group, last - round, true, None);
        }
        world.begin_checkpoint(|_| round < 2);
        world.settle();
    }
    // The journal proves its last block, and then that one.
    (0..3).for_each(|_| {
        world.store.tick();
        world.settle();
    });
    world
}

fn files(disk: &SimDisk) -> Vec<(FileName, u64)> {
    let names = ["", "journal", "segments"].into_iter().flat_map(|dir| {
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        disk.list(dir).unwrap().into_iter().map(move |name| FileName::new(format!("{prefix}{name}")))
    });
    names.map(|file| (file.clone(), disk.len(&file).unwrap().unwrap())).collect()
}

/// What is said of a file that comes in pieces.
fn look(spec: &SegmentSpec, file: &[u8], piece: usize) -> Result<(), DamageCause> {
    let mut check = spec.check();
    file.chunks(piece).try_for_each(|bytes| check.update(bytes))?;
    check.finish()
}

/// A file that is another one, and not sound in itself either, is damaged and nothing else.
fn assert_is_damaged(spec: &SegmentSpec, file: &[u8]) {
    let is_damaged = |file: &[u8]| look(spec, file, 1 << 20).is_err_and(|cause| cause != DamageCause::Diverged);
    for at in 0..file.len() {
        let mut flipped = file.to_vec();
        flipped[at] ^= 4;
        assert!(is_damaged(&flipped), "byte {at}");
        assert!(is_damaged(&file[..at]), "cut to {at} bytes");
    }
    assert!(is_damaged(&[file, &[0]].concat()));
    let mut elsewhere = spec.clone();
    elsewhere.header.first_index = elsewhere.header.first_index.next();
    let found = look(&elsewhere, file, 1 << 20);
    assert!(found.is_err_and(|cause| cause != DamageCause::Diverged), "of other entries");
}

/// What came of damage.
#[derive(Debug, Default)]
struct Outcome {
    refused: u32,
    doubted: u32,
    unread: u32,
    harmless: u32,
}

/// Opens a damaged disk and proves that whatever it serves is right, and that what it lost it says.
fn open_damaged(world: &World, disk: SimDisk, what: &str, outcome: &mut Outcome) {
    let Recovered { groups: found, doubt, .. } = match open(&Arc::new(disk)) {
        Ok(recovered) => recovered,
        Err(OpenError::Damaged { .. }) => {
            outcome.refused += 1;
            return;
        }
        Err(other) => panic!("{what}: {other}"),
    };
    let mut has_unread = false;
    for (id, model) in &world.groups {
        let group = found.iter().find(|group| group.group == *id);
        let Some(group) = group.filter(|group| !group.damaged) else {
            assert_ne!(doubt, Doubt::None, "{what}: group {id} is gone, and nobody says so");
            continue;
        };
        // As sound as it says it is: every acknowledged entry is there, and what cannot be read is named.
        model.check(group, true);
        let end = group.log.offset_after(group.hard_state.commit).unwrap_or_default();
        let mut offset = group.log.log_start();
        while offset < end {
            match group.log.read(offset, 1 << 20, end) {
                Ok(read) => offset = read.next_offset,
                Err(ReadError::Damaged(_)) => {
                    has_unread = true;
                    break;
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        let low = group.log.first_index();
        has_unread |= (low.get()..=group.log.last_index().get())
            .any(|index| group.log.entries(LogIndex(index), LogIndex(index + 1), 1).is_err());
    }
    match (doubt != Doubt::None, has_unread) {
        (true, _) => outcome.doubted += 1,
        (false, true) => outcome.unread += 1,
        (false, false) => outcome.harmless += 1,
    }
}

#[test]
fn flipped_bits_are_noticed_wherever_they_matter() {
    let world = at_rest(11);
    let mut rng = Rng::new(5);
    let mut outcome = Outcome::default();
    for (file, len) in files(&world.disk) {
        for _ in 0..25 {
            let (pos, bit) = (rng.below(len), rng.byte() % 8);
            let disk = world.disk.fork();
            disk.flip_bit(&file, pos, bit);
            open_damaged(&world, disk, &format!("bit {bit} of byte {pos} of {file}"), &mut outcome);
        }
    }
    // Most of a journal of recycled files, and all padding, is not needed; the rest must have been noticed. Of
    // checkpoint and identity there is a second copy.
    let Outcome { refused, doubted, unread, .. } = outcome;
    assert!(refused == 0 && doubted > 0 && unread > 50, "{outcome:?}");
}

/// What the scrub looks at: header, entries, index frames and footer of a sealed segment, from the first bit to the last.
#[test]
fn every_flipped_bit_of_a_sealed_segment_is_noticed() {
    let world = at_rest(17);
    let mut at = (GroupId(0), LogIndex(0));
    let sealed = std::iter::from_fn(|| {
        let (group, spec) = world.store.next_segment(at)?;
        at = (group, spec.first_index());
        let file = world.disk.read(&segment_file(group, spec.first_index()), 0, usize::MAX / 2).unwrap();
        Some((spec, file.to_vec()))
    });
    let longest = sealed.filter(|(spec, _)| spec.is_sealed()).max_by_key(|(_, file)| file.len());
    let (spec, mut file) = longest.unwrap();
    let is_index = |frame: &[u8]| frame.starts_with(b"LVDF\x01\x80");
    let frames = &file[..usize::try_from(spec.bytes()).unwrap()];
    assert!(frames.chunks(64).any(is_index) && frames.len() < file.len() && file.len() > 4 << 10, "{}", file.len());
    assert_eq!(look(&spec, &file, 1 << 20), Ok(()));
    for bit in 0..8 * file.len() {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(look(&spec, &file, 1 << 20).is_err(), "bit {bit} of {} bytes", file.len());
        file[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn unreadable_sectors_are_noticed_wherever_they_matter() {
    let world = at_rest(12);
    let mut rng = Rng::new(6);
    let mut outcome = Outcome::default();
    for (file, len) in files(&world.disk) {
        for _ in 0..6 {
            let pos = rng.below(len);
            let disk = world.disk.fork();
            disk.make_unreadable(&file, pos, 1);
            open_damaged(&world, disk, &format!("sector at byte {pos} of {file}"), &mut outcome);
        }
    }
    assert!(outcome.unread > 10 && outcome.doubted > 0, "{outcome:?}");
}

#[test]
fn exchanged_and_stale_segments_are_noticed() {
    let world = at_rest(13);
    let segments: Vec<FileName> =
        files(&world.disk).into_iter().map(|(file, _)| file).filter(|file| file.dir() == "segments").collect();
    assert!(segments.len() > 5);
    let mut outcome = Outcome::default();
    for (one, other) in segments.iter().zip(segments.iter().skip(1)) {
        let disk = world.disk.fork();
        let bytes = [one, other].map(|file| disk.read(file, 0, usize::MAX / 2).unwrap());
        for (file, bytes) in [(one, &bytes[1]), (other, &bytes[0])] {
            disk.perform(&DiskOp::Create { file: file.clone() }).unwrap();
            disk.perform(&DiskOp::Write { file: file.clone(), pos: 0, bufs: vec![bytes.clone()] }).unwrap();
        }
        open_damaged(&world, disk, &format!("{one} and {other} exchanged"), &mut outcome);
    }
    assert_eq!(outcome.unread as usize, segments.len() - 1, "{outcome:?}");

    for file in &segments {
        let disk = world.disk.fork();
        disk.perform(&DiskOp::Remove { file: file.clone() }).unwrap();
        open_damaged(&world, disk, &format!("{file} lost"), &mut outcome);
    }
    assert_eq!(outcome.unread as usize, 2 * segments.len() - 1, "{outcome:?}");
}

/// A journal file that is lost takes entries with it that nobody else here has.
#[test]
fn doubt_outlives_restarts_until_the_group_is_gone() {
    let world = at_rest(14);
    let disk = world.disk.fork();
    for (file, len) in files(&disk).into_iter().filter(|(file, _)| file.dir() == "journal") {
        let zeros = vec![bytes::Bytes::from(vec![0; usize::try_from(len).unwrap()])];
        disk.perform(&DiskOp::Write { file, pos: 0, bufs: zeros }).unwrap();
    }
    let disk = Arc::new(disk);
    let Recovered { store, groups, doubt } = open(&disk).unwrap();
    assert!(doubt == Doubt::All && groups.iter().all(|group| group.damaged));
    // The node goes on for a while: a checkpoint later, the journal knows nothing of the loss.
    let mut world = World::with(Arc::clone(&disk), store, BTreeMap::new(), 1);
    world.begin_checkpoint(|_| true);
    world.settle();
    world.begin_checkpoint(|_| true);
    world.settle();
    drop(world);
    assert_eq!(open(&disk).unwrap().doubt, Doubt::All);
}

#[test]
fn what_cannot_be_looked_at_at_a_start_is_not_damaged() {
    let mut world = World::new(15);
    world.create(GroupId(1));
    world.append(GroupId(1), 0, &[3, 8], true);
    world.settle();
    let disk = Arc::clone(&world.disk);
    drop(world);
    let (_, journal) = DirIdentity::read_with_journal(&*disk).unwrap().unwrap();
    disk.set_want(true);
    let error = open(&disk).unwrap_err();
    assert!(matches!(&error, OpenError::Disk(error) if error.is_want()), "{error}");
    let start = ReplayStart { lsn: Lsn(1), synced: Lsn(0) };
    let error = Replay::open(&*disk, journal, start).unwrap_err();
    assert!(matches!(&error, ReplayError::Disk(error) if error.is_want()), "{error}");
    disk.set_want(false);
    assert_eq!(open(&disk).unwrap().doubt, Doubt::None);
}

/// What is to be written behind a segment that could not be looked at is written when it can be, though nothing else happens.
#[test]
fn a_write_that_could_not_be_is_done_later() {
    let mut world = World::new(15);
    world.create(GroupId(1));
    world.append(GroupId(1), 0, &[3, 8], true);
    world.settle();
    world.commit(GroupId(1), 2, false, None);
    world.begin_checkpoint(|_| true);
    world.settle();
    let Recovered { store, .. } = open(&world.disk).unwrap();
    let mut world = World::with(Arc::clone(&world.disk), store, world.groups.clone(), 2);
    world.groups.get_mut(&GroupId(1)).unwrap().taken_before = 1;
    world.append(GroupId(1), 2, &[3], true);
    world.settle();
    world.commit(GroupId(1), 3, false, None);
    world.disk.set_want(true);
    world.begin_checkpoint(|_| true);
    world.settle();
    for _ in 0..3 {
        world.store.tick();
        world.settle();
    }
    assert!(world.store.is_checkpointing());
    world.disk.set_want(false);
    world.store.tick();
    world.settle();
    assert!(!world.store.is_checkpointing());
}

#[test]
fn a_damaged_segment_takes_more_and_serves_the_rest() {
    let mut world = World::new(15);
    world.create(GroupId(1));
    world.append(GroupId(1), 0, &[3, 8, 13, 18], true);
    world.settle();
    world.commit(GroupId(1), 4, false, None);
    world.begin_checkpoint(|_| true);
    world.settle();
    let file = crate::segment::file_name(GroupId(1), LogIndex(1));
    world.disk.flip_bit(&file, 64 + 64 + 30, 2);
    let mut world = {
        let Recovered { store, groups, doubt } = open(&world.disk).unwrap();
        assert_eq!(doubt, Doubt::None, "the journal is sound: the replica goes on voting");
        let log = &groups[0].log;
        let read = log.read(Offset(0), 1, Offset(20)).unwrap_err();
        assert!(matches!(&read, ReadError::Damaged(damage) if damage.offsets == (Offset(0)..Offset(5))), "{read}");
        assert_eq!(log.read(Offset(5), 1, Offset(20)).unwrap().next_offset, Offset(10));
        World::with(Arc::clone(&world.disk), store, world.groups.clone(), 2)
    };
    world.groups.get_mut(&GroupId(1)).unwrap().taken_before = 1;
    world.append(GroupId(1), 4, &[3], true);
    world.settle();
    world.commit(GroupId(1), 5, true, None);
    world.settle();
    world.store.accept_damage(GroupId(1));
    world.begin_checkpoint(|_| true);
    world.settle();
    let log = world.store.log(GroupId(1)).unwrap();
    assert!(log.segments()[0].sealed);
    assert!(log.read(Offset(0), 1, Offset(25)).is_err());
    assert_eq!(log.read(Offset(20), 1, Offset(25)).unwrap().next_offset, Offset(25));
}

/// Reads all of a group, by offset and by index; whether anything was damaged.
fn has_damage(world: &World, group: GroupId) -> bool {
    let log = world.store.log(group).unwrap();
    let (end, mut offset, mut damaged) = (log.next_offset(), log.log_start(), false);
    while offset < end && !damaged {
        match log.read(offset, 1 << 20, end) {
            Ok(read) => offset = read.next_offset,
            Err(_) => damaged = true,
        }
    }
    let indexes = log.first_index().get()..=log.last_index().get();
    indexes.fold(damaged, |damaged, index| log.entries(LogIndex(index), LogIndex(index + 1), 1).is_err() || damaged)
}

/// The spec of a segment finds every damage there can be, and the file of another replica mends it.
#[test]
fn a_damaged_segment_gets_the_file_of_another_replica() {
    let sound = at_rest(21);
    let mut rng = Rng::new(9);
    let mut segments = Vec::new();
    let mut at = (GroupId(0), LogIndex(0));
    while let Some((group, spec)) = sound.store.next_segment(at) {
        at = (group, spec.first_index());
        if spec.is_sealed() {
            segments.push((group, spec));
        }
    }
    assert!(segments.len() > 5, "{}", segments.len());
    let (mut suspected, mut damages) = (0, 0);
    for (group, spec) in &segments {
        let file = segment_file(*group, spec.first_index());
        let len = sound.disk.len(&file).unwrap().unwrap();
        for way in 0..5 {
            let disk = Arc::new(sound.disk.fork());
            match way {
                0 => disk.flip_bit(&file, rng.below(len), rng.byte() % 8),
                1 => disk.flip_bit(&file, len - 1 - rng.below(len / 4), rng.byte() % 8),
                2 => disk.make_unreadable(&file, rng.below(len), 1),
                3 => disk.perform(&DiskOp::Truncate { file: file.clone(), len: rng.below(len) }).unwrap(),
                _ => disk.perform(&DiskOp::Remove { file: file.clone() }).unwrap(),
            }
            let Recovered { store, .. } = open(&disk).unwrap();
            let mut world = World::with(Arc::clone(&disk), store, sound.groups.clone(), 3);
            damages += 1;
            let is_sound = disk.read_from_disk(&file, 0, 1 << 24).is_ok_and(|bytes| {
                let mut check = spec.check();
                check.update(&bytes).and_then(|()| check.finish()).is_ok()
            });
            assert!(!is_sound, "way {way} of {file}");
            has_damage(&world, *group);
            suspected += u32::from(world.store.take_suspects(9, |_| true).contains(&(*group, spec.first_index())));

            let bytes = sound.disk.read(&file, 0, 1 << 24).unwrap();
            for piece in bytes.chunks(500) {
                world.store.write_incoming(*group, spec.first_index(), bytes::Bytes::copy_from_slice(piece));
            }
            world.store.finish_incoming(*group, spec.first_index());
            world.settle();
            world.store.replace_segment(*group, spec.first_index());
            world.settle();
            assert!(!has_damage(&world, *group), "way {way} of {file}");
            assert_eq!(world.store.take_suspects(9, |_| true), BTreeSet::new());
            disk.crash(&CrashPlan::LOSE_ALL);
            let Recovered { store, doubt, .. } = open(&disk).unwrap();
            assert_eq!(doubt, Doubt::None);
            let world = World::with(disk, store, sound.groups.clone(), 4);
            assert!(!has_damage(&world, *group), "way {way} of {file}, after the power went");
        }
    }
    assert!(suspected * 10 > damages * 9, "readers notice most of it: {suspected} of {damages}");
}

/// What is written behind damage after a restart is what other replicas write, or waits.
#[test]
fn a_segment_whose_index_is_lost_waits_for_a_sound_file() {
    const GROUP: GroupId = GroupId(1);
    let file = segment_file(GROUP, LogIndex(1));
    let start = || {
        let mut world = World::new(16);
        world.create(GROUP);
        world.append(GROUP, 0, &[3, 8, 13, 18], true);
        world.settle();
        world.commit(GROUP, 4, false, None);
        world.begin_checkpoint(|_| true);
        world.settle();
        world
    };
    // With what another node has of the segment, or with what is there.
    let go_on = |before: &World, disk: &SimDisk, theirs: Option<&Bytes>| {
        let disk = Arc::new(disk.fork());
        let Recovered { store, .. } = open(&disk).unwrap();
        let mut world = World::with(disk, store, before.groups.clone(), 2);
        world.groups.get_mut(&GROUP).unwrap().taken_before = 1;
        world.append(GROUP, 4, &[3], true);
        world.settle();
        world.commit(GROUP, 5, true, None);
        world.settle();
        if world.store.awaits_repair(GROUP) {
            assert!(!world.store.log(GROUP).unwrap().segments()[0].sealed);
            assert!(world.store.take_suspects(9, |_| true).contains(&(GROUP, LogIndex(1))));
            if let Some(theirs) = theirs {
                let spec = world.store.segment(GROUP, LogIndex(1)).unwrap();
                let bytes = theirs.slice(..usize::try_from(spec.bytes()).unwrap());
                let mut check = spec.check();
                check.update(&bytes).unwrap();
                check.finish().unwrap();
                world.store.write_incoming(GROUP, LogIndex(1), bytes);
                world.store.finish_incoming(GROUP, LogIndex(1));
                world.settle();
                world.store.replace_segment(GROUP, LogIndex(1));
            } else {
                world.store.accept_damage(GROUP);
            }
            world.settle();
        }
        assert!(world.store.log(GROUP).unwrap().segments()[0].sealed);
        let damaged = has_damage(&world, GROUP);
        let spec = world.store.segment(GROUP, LogIndex(1)).unwrap();
        (world.disk.read(&file, 0, 1 << 20).unwrap(), damaged, spec)
    };
    let sound = start();
    let expected = go_on(&sound, &sound.disk, None);
    assert!(!expected.1);
    let rotten = sound.disk.fork();
    // In the header of a batch, and in its records: who writes on after a restart reads the headers alone.
    for at in [64 + 64 + 30, 64 + 64 + 100, 64 + 64 + 200] {
        let rotten = sound.disk.fork();
        rotten.flip_bit(&file, at, 2);
        assert_eq!(go_on(&sound, &rotten, Some(&expected.0)), expected, "at {at}");
    }
    rotten.flip_bit(&file, 64 + 64 + 30, 2);
    let (own, damaged, own_spec) = go_on(&sound, &rotten, None);
    assert!(damaged && own != expected.0, "without a sound file it goes on alone");
    let (others, _, spec) = &expected;
    assert_eq!(look(spec, others, 1000), Ok(()));
    assert_eq!(look(&own_spec, others, 1000), Err(DamageCause::Diverged));
    // The next segment continues another chain then.
    let mut behind = spec.clone();
    behind.header.previous_crc ^= 1;
    for piece in [1, 63, 64, 65, 1 << 20] {
        assert_eq!(look(&behind, others, piece), Err(DamageCause::Diverged), "in pieces of {piece}");
    }
    assert_is_damaged(&behind, others);
    let gone = sound.disk.fork();
    gone.perform(&DiskOp::Remove { file: file.clone() }).unwrap();
    assert_eq!(go_on(&sound, &gone, Some(&expected.0)), expected);
}

/// As when the directory that had them is gone.
#[test]
fn segments_whose_files_are_not_there_are_known_from_the_start() {
    let sound = at_rest(21);
    let disk = Arc::new(sound.disk.fork());
    let mut gone = BTreeSet::new();
    let mut at = (GroupId(0), LogIndex(0));
    while let Some((group, spec)) = sound.store.next_segment(at) {
        at = (group, spec.first_index());
        if at.1.get() % 2 == 1 {
            disk.perform(&DiskOp::Remove { file: segment_file(group, at.1) }).unwrap();
            gone.insert(at);
        }
    }
    assert!(gone.len() > 2, "{gone:?}");
    let Recovered { mut store, doubt, .. } = open(&disk).unwrap();
    assert_eq!((doubt, store.missing()), (Doubt::None, gone.len()));
    assert!(store.take_suspects(2, |_| false).is_empty(), "nobody could help these");
    let mut found = store.take_suspects(2, |_| true);
    assert_eq!((found.len(), store.missing()), (2, gone.len() - 2), "only as many as there is room for");
    found.extend(store.take_suspects(1_000, |_| true));
    assert_eq!((found, store.missing()), (gone.clone(), 0));
    assert!(store.take_suspects(1_000, |_| true).is_empty());

    let Recovered { mut store, .. } = open(&disk).unwrap();
    gone.iter().for_each(|(group, _)| store.remove_group(*group));
    assert!(store.take_suspects(1_000, |_| true).is_empty() && store.missing() == 0, "they are gone with their groups");
}
