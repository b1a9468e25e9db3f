//! Bytes that change after they were durable.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::ids::{GroupId, Lsn};
use levada_storage_engine::{
    disk::{Disk, DiskOp, FileName},
    journal::{Doubt, ReplayedBlock},
    sim_disk::SimDisk,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::lockstep::{Found, Journal, append, found, from, open, vote};

/// A journal of 14 blocks in four files that were used before, the last block unproven. Group 9 is in every fourth.
fn journal() -> Journal {
    let mut journal = Journal::new(1);
    for index in 1..=10 {
        journal.commit([append(1, index, vec![0xAA; 15_000])]);
        journal.writer.recycle(Lsn(index));
    }
    for lsn in 11..=24_u64 {
        let mut appends = vec![append(lsn % 3, lsn, vec![lsn.to_le_bytes()[0]; 9000]), vote(lsn % 3, lsn)];
        if lsn % 4 == 0 {
            appends.push(append(9, lsn, "nine"));
        }
        assert_eq!(journal.commit(appends).lsn, Lsn(lsn));
    }
    journal
}

const START: u64 = 11;
const TAIL: u64 = 24;

fn groups(block: &ReplayedBlock) -> BTreeSet<GroupId> {
    let states = block.hard_states.iter().map(|(group, _)| *group);
    block.entries.iter().map(|(group, _)| *group).chain(states).collect()
}

/// What a replay may do about damage: notice it and keep what is not in doubt, or lose the unproven tail.
fn assert_nothing_is_lost_in_silence(sound: &Found, found: &Found, what: &str) {
    assert_eq!(sound.doubt, Doubt::None);
    let doubted = |group: &GroupId| match &found.doubt {
        Doubt::None => false,
        Doubt::Groups(groups) => groups.contains(group),
        Doubt::All => true,
    };
    let by_lsn: BTreeMap<Lsn, &ReplayedBlock> = found.blocks.iter().map(|block| (block.lsn, block)).collect();
    for block in &sound.blocks {
        let there = by_lsn.get(&block.lsn);
        for (group, entry) in &block.entries {
            let kept = there.is_some_and(|there| there.entries.contains(&(*group, entry.clone())));
            assert!(kept || doubted(group) || block.lsn == Lsn(TAIL), "{what}: block {} lost {group}", block.lsn);
        }
        for state in &block.hard_states {
            let kept = there.is_some_and(|there| there.hard_states.contains(state));
            assert!(kept || doubted(&state.0) || block.lsn == Lsn(TAIL), "{what}: block {} lost a vote", block.lsn);
        }
    }
    for block in &found.blocks {
        let original = sound.blocks.iter().find(|sound| sound.lsn == block.lsn).unwrap();
        assert!(block.entries.iter().all(|entry| original.entries.contains(entry)), "{what}: invented");
        assert!(block.hard_states.iter().all(|state| original.hard_states.contains(state)), "{what}: invented");
    }
    // A damaged block puts its own groups in doubt and no others.
    for damaged in &found.damaged {
        if let Some(named) = &damaged.groups {
            let original = sound.blocks.iter().find(|sound| sound.lsn == damaged.lsn).unwrap();
            assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), groups(original), "{what}");
        }
    }
}

#[test]
fn a_flipped_bit_is_harmless_or_noticed_or_in_the_unproven_tail() {
    let journal = journal();
    let sound = found(&journal.disk, from(START, 0));
    assert_eq!(sound.lsns(), (START..=TAIL).collect::<Vec<_>>());
    let mut rng = StdRng::seed_from_u64(1);
    let mut verdicts = BTreeMap::new();
    for name in journal.disk.list("journal").unwrap() {
        let file = FileName::new(format!("journal/{name}"));
        let bytes = journal.disk.len(&file).unwrap().unwrap();
        for pos in 0..bytes {
            // Every bit of the headers and tables, else one bit of every 41st byte.
            let in_header = pos % 4096 < 260;
            if !in_header && !pos.is_multiple_of(41) {
                continue;
            }
            let some_bit = rng.random_range(0..8);
            for bit in if in_header && pos % 24_576 < 260 { 0..8 } else { some_bit..some_bit + 1 } {
                journal.disk.flip_bit(&file, pos, bit);
                let found = found(&journal.disk, from(START, 0));
                assert_nothing_is_lost_in_silence(&sound, &found, &format!("{file} bit {bit} of byte {pos}"));
                let verdict = match found.doubt {
                    Doubt::None if found.blocks.len() == sound.blocks.len() => "harmless",
                    Doubt::None => "tail",
                    Doubt::Groups(_) => "groups",
                    Doubt::All => "all",
                };
                *verdicts.entry(verdict).or_insert(0) += 1;
                journal.disk.flip_bit(&file, pos, bit);
            }
        }
    }
    println!("{verdicts:?}");
    assert!(verdicts.values().all(|count| *count > 100) && verdicts.len() == 4, "{verdicts:?}");
}

#[test]
fn an_idle_journal_has_no_tail_to_lose() {
    let mut journal = journal();
    journal.idle();
    let sound = found(&journal.disk, from(START, 0));
    for name in journal.disk.list("journal").unwrap() {
        let file = FileName::new(format!("journal/{name}"));
        for pos in (0..journal.disk.len(&file).unwrap().unwrap()).step_by(101) {
            journal.disk.flip_bit(&file, pos, 3);
            let found = found(&journal.disk, from(START, 0));
            let entries = |found: &Found| found.blocks.iter().map(|block| block.entries.len()).sum::<usize>();
            assert!(found.doubt != Doubt::None || entries(&found) == entries(&sound), "{file} byte {pos}");
            journal.disk.flip_bit(&file, pos, 3);
        }
    }
}

#[test]
fn what_is_in_doubt_stays_in_doubt_until_a_checkpoint_passes_it() {
    let mut journal = journal();
    let (file, pos) = place_of(&journal.disk, 16);
    journal.disk.flip_bit(&file, pos + 5000, 0);
    let damaged = |disk: &SimDisk| found(disk, from(START, 0)).doubt;
    let doubt = damaged(&journal.disk);
    assert_eq!(doubt, Doubt::Groups([GroupId(1), GroupId(9)].into()));
    // Other groups go on, over restarts.
    for index in 100..110 {
        let (next, again) = open(journal.disk, from(START, 0));
        assert_eq!(again.doubt, doubt);
        assert!(again.blocks.iter().all(|block| block.lsn < Lsn(16) || !groups(block).contains(&GroupId(1))));
        journal = next;
        journal.commit([append(2, index, "sound")]);
    }
    assert_eq!(found(&journal.disk, from(17, 0)).doubt, Doubt::None);
    // With the header gone nobody knows whose block it was.
    journal.disk.flip_bit(&file, pos + 40, 0);
    let all = found(&journal.disk, from(START, 0));
    assert_eq!((all.lsns(), all.doubt), (vec![11, 12, 13, 14, 15], Doubt::All));
    let (mut journal, _) = open(journal.disk, from(START, 0));
    journal.commit([append(3, 1, "a replica under a new id")]);
    assert_eq!(damaged(&journal.disk), Doubt::All);
}

/// Where a block stands, found by damaging it.
fn place_of(disk: &SimDisk, lsn: u64) -> (FileName, u64) {
    for name in disk.list("journal").unwrap() {
        let file = FileName::new(format!("journal/{name}"));
        for pos in (0..disk.len(&file).unwrap().unwrap()).step_by(4096) {
            let copy = disk.fork();
            copy.flip_bit(&file, pos + 300, 0);
            let damaged = found(&copy, from(START, 0)).damaged;
            if damaged.len() == 1 && damaged[0].lsn == Lsn(lsn) && damaged[0].place == Some((file.clone(), pos)) {
                return (file, pos);
            }
        }
    }
    panic!("block {lsn} is nowhere");
}

#[test]
fn an_unreadable_sector_is_damage_even_behind_the_last_block() {
    let mut journal = journal();
    let (body, pos) = place_of(&journal.disk, 13);
    let in_a_body = journal.disk.fork();
    in_a_body.make_unreadable(&body, pos + 8192, 512);
    assert_eq!(found(&in_a_body, from(START, 0)).doubt, Doubt::Groups([GroupId(1)].into()));

    // The last block, wherever it stands in its file: then the one before it is the last that is seen.
    for index in 100..108 {
        let lsn = journal.commit([append(2, index, vec![4; 9000])]).lsn.get();
        // With no tail to write again, it stands at the start of a file.
        let idle = u64::from(index % 4 < 2);
        if idle == 1 {
            journal.idle();
        }
        let copy = journal.disk.fork();
        copy.record_trace(true);
        let (mut next, _) = open(copy, from(START, 0));
        next.commit([append(3, index, vec![5; 9000])]);
        let (file, pos) = last_write(&next.disk);
        // Its header, or only its frames: then it still says whose they are.
        let header = index % 2 == 0;
        next.disk.make_unreadable(&file, pos + if header { 0 } else { 4096 }, 512);
        let doubt = if header { Doubt::All } else { Doubt::Groups([GroupId(3)].into()) };
        for restarts in 0..3 {
            let found = found(&next.disk, from(START, 0));
            let last = found.blocks.iter().rfind(|block| !block.entries.is_empty()).unwrap().lsn;
            assert_eq!(
                (last, &found.doubt),
                (Lsn(if header || restarts == 0 { lsn } else { lsn + 1 + restarts }), &doubt)
            );
            // The next replay says the same, after other blocks as well.
            (next, _) = open(next.disk, from(START, 0));
            next.commit([append(4, index, "of a replica under a new id")]);
        }
    }

    // A checkpoint that covers all but it makes no difference.
    let copy = journal.disk.fork();
    copy.record_trace(true);
    let (mut next, _) = open(copy, from(START, 0));
    let lsn = next.commit([append(3, 1, "the last")]).lsn.get();
    let (file, pos) = last_write(&next.disk);
    next.disk.make_unreadable(&file, pos, 512);
    assert_eq!(found(&next.disk, from(lsn, 0)).doubt, Doubt::All);

    // Elsewhere in what is free it says nothing.
    let (file, pos) = {
        let mut copy = Journal { disk: journal.disk.fork(), writer: journal.writer };
        copy.disk.record_trace(true);
        copy.commit([append(1, 200, "x")]);
        last_write(&copy.disk)
    };
    journal.disk.make_unreadable(&file, pos + 4096, 4096);
    assert_eq!(found(&journal.disk, from(START, 0)).doubt, Doubt::None);
}

fn last_write(disk: &SimDisk) -> (FileName, u64) {
    let place = |op: DiskOp| if let DiskOp::Write { file, pos, .. } = op { Some((file, pos)) } else { None };
    disk.trace().into_iter().rev().find_map(place).unwrap()
}

#[test]
fn a_lost_write_is_noticed_though_an_old_block_stands_in_its_place() {
    let mut journal = Journal::new(1);
    for index in 1..=10 {
        journal.commit([append(1, index, vec![0xAA; 40_000])]);
        journal.writer.recycle(Lsn(index));
    }
    for index in 11..=20 {
        journal.disk.record_trace(true);
        journal.upkeep();
        let before = journal.disk.fork();
        journal.commit([append(1, index, vec![0xBB; 9000])]);
        let (file, pos) = last_write(&journal.disk);
        journal.commit([append(1, index, vec![0xCC; 9000])]);
        let lost = journal.disk.fork();
        let old = before.read(&file, pos, 12 * 1024).unwrap();
        lost.perform(&DiskOp::Write { file, pos, bufs: vec![old] }).unwrap();
        assert_eq!(found(&lost, from(11, 0)).doubt, Doubt::All);
    }
}

#[test]
fn a_missing_swapped_or_restored_file_is_noticed() {
    let before = journal();
    let sound = found(&before.disk, from(START, 0));
    let names: Vec<FileName> =
        before.disk.list("journal").unwrap().iter().map(|n| FileName::new(format!("journal/{n}"))).collect();
    let tail_file = place_of_tail(&before.disk, &names);
    for name in &names {
        let disk = before.disk.fork();
        disk.perform(&DiskOp::Remove { file: name.clone() }).unwrap();
        // All evidence of the last blocks is in the last file; a checkpoint that knows of them makes up for it.
        let found = found(&disk, from(START, if *name == tail_file { TAIL } else { 0 }));
        assert_nothing_is_lost_in_silence(&sound, &found, &format!("without {name}"));
        assert!(found.doubt == Doubt::All || found == sound, "without {name}");
    }
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        let disk = before.disk.fork();
        let rename = |from: &FileName, to: &FileName| {
            disk.perform(&DiskOp::Rename { from: from.clone(), to: to.clone() }).unwrap();
        };
        let aside = FileName::new("journal/aside");
        rename(&names[one], &aside);
        rename(&names[other], &names[one]);
        rename(&aside, &names[other]);
        let swapped = found(&disk, from(START, 0));
        assert_eq!(swapped.doubt, Doubt::All, "{one} and {other} swapped");
        assert_nothing_is_lost_in_silence(&sound, &swapped, "swapped");
    }
    // A file from an older copy of the directory: its newer blocks are missing.
    let mut after = Journal { disk: before.disk.fork(), writer: before.writer };
    for index in 25..40 {
        after.commit([append(1, index, vec![1; 9000])]);
    }
    let old = before.disk.read(&tail_file, 0, 1 << 20).unwrap();
    after.disk.perform(&DiskOp::Write { file: tail_file, pos: 0, bufs: vec![old] }).unwrap();
    let restored = found(&after.disk, from(START, 0));
    assert!(restored.doubt == Doubt::All || restored.lsns().len() == 39 - 10, "{:?}", restored.lsns());
}

#[test]
fn a_file_that_is_cut_is_noticed_wherever_it_is() {
    let journal = journal();
    let sound = found(&journal.disk, from(START, 0));
    let names: Vec<FileName> =
        journal.disk.list("journal").unwrap().iter().map(|n| FileName::new(format!("journal/{n}"))).collect();
    let tail_file = place_of_tail(&journal.disk, &names);
    for name in &names {
        let bytes = journal.disk.len(name).unwrap().unwrap();
        // At every page, and within every page.
        for len in (0..bytes).step_by(2048) {
            let disk = journal.disk.fork();
            disk.perform(&DiskOp::Truncate { file: name.clone(), len }).unwrap();
            // All evidence of the last blocks is in the last file, and goes with its first block; a checkpoint that knows of
            // them makes up for it.
            let known = if *name == tail_file && len < 4096 { TAIL - 1 } else { 0 };
            let read = found(&disk, from(START, known));
            let what = format!("{name} cut at {len}");
            assert_nothing_is_lost_in_silence(&sound, &read, &what);
            let are_there = (START..TAIL).all(|lsn| read.lsns().contains(&lsn));
            assert!(read.doubt != Doubt::None || are_there, "{what}");
            // The start after this one says the same.
            let (mut next, _) = open(disk, from(START, known));
            next.commit([append(4, 1, "of a replica under a new id")]);
            assert_eq!(found(&next.disk, from(START, known)).doubt, read.doubt, "{what}");
        }
    }
}

fn place_of_tail(disk: &SimDisk, names: &[FileName]) -> FileName {
    let loses_the_tail_only = |name: &&FileName| {
        let disk = disk.fork();
        disk.perform(&DiskOp::Remove { file: (*name).clone() }).unwrap();
        let found = found(&disk, from(START, 0));
        found.doubt == Doubt::None && found.lsns().last() != Some(&TAIL)
    };
    names.iter().find(loses_the_tail_only).unwrap().clone()
}
