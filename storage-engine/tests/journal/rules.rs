//! The rules of replay, one by one.

use levada_protocol::ids::{GroupId, LogIndex, Lsn, Term};
use levada_storage_engine::{
    disk::{Disk, DiskOp, FileName},
    entry::HardState,
    journal::{Append, Doubt, Durable, JournalConfig, JournalId, JournalWriter, Replay, ReplayError},
    sim_disk::{CrashPlan, SimDisk},
};

use crate::{
    lockstep::{Journal, append, entry, found, from, open, open_as, perform, vote},
    world::{CONFIG, JOURNAL},
};

fn file(number: u32) -> FileName {
    FileName::new(format!("journal/{number:08}.lj"))
}

#[test]
fn everything_that_waits_goes_into_one_block() {
    let mut journal = Journal::new(1);
    let state = HardState { term: Term(4), vote: 1, commit: LogIndex(6) };
    let both = Append { group: GroupId(1), entries: vec![entry(7, "a"), entry(8, "b")], hard_state: Some(state) };
    let completed = journal.commit([both, append(2, 1, "c"), vote(3, 9), append(1, 9, "d")]);
    let durable = |group, last: Option<u64>, hard_state, appends| Durable {
        group: GroupId(group),
        last: last.map(|index| (LogIndex(index), Term(1))),
        hard_state,
        appends,
    };
    let voted = HardState { term: Term(9), vote: 3, commit: LogIndex(0) };
    let expected =
        [durable(1, Some(9), Some(state), 2), durable(2, Some(1), None, 1), durable(3, None, Some(voted), 1)];
    assert_eq!((completed.lsn, completed.durable.as_slice()), (Lsn(1), expected.as_slice()));

    let found = found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0));
    let order: Vec<(u64, u64)> =
        found.blocks[0].entries.iter().map(|(group, entry)| (group.get(), entry.index.get())).collect();
    assert_eq!(order, [(1, 7), (1, 8), (2, 1), (1, 9)]);
    assert_eq!(found.blocks[0].hard_states, [(GroupId(1), state), (GroupId(3), voted)]);
}

#[test]
fn one_block_is_in_flight_and_the_next_one_gathers() {
    let mut journal = Journal::new(1);
    journal.upkeep();
    journal.writer.submit(append(1, 1, "a"));
    let first = journal.writer.poll().unwrap();
    journal.writer.submit(append(1, 2, "b"));
    journal.writer.submit(append(2, 1, "c"));
    assert_eq!(journal.writer.poll(), None);
    assert_eq!((journal.writer.synced_lsn(), journal.writer.next_lsn()), (Lsn(0), Lsn(2)));
    let result = perform(&journal.disk, &first);
    journal.writer.complete(first.token, result).unwrap();
    assert_eq!(journal.write().unwrap().unwrap().durable.len(), 2);
    assert_eq!((journal.writer.poll(), journal.writer.written_bytes()), (None, 2 * 4096));
}

#[test]
fn a_large_append_takes_several_blocks_and_its_hard_state_comes_last() {
    let mut journal = Journal::new(1);
    let state = HardState { term: Term(1), vote: 1, commit: LogIndex(1) };
    let entries = (1..=9).map(|index| entry(index, vec![1; 4000])).collect();
    let first = journal.commit([Append { group: GroupId(1), entries, hard_state: Some(state) }]);
    assert_eq!((first.durable[0].hard_state, first.durable[0].appends), (None, 0));
    let mut last = first;
    while let Some(next) = journal.write() {
        assert_eq!((last.durable[0].hard_state, last.durable[0].appends), (None, 0));
        last = next.unwrap();
    }
    assert_eq!(last.durable[0].appends, 1);
    assert_eq!((last.durable[0].last, last.durable[0].hard_state), (Some((LogIndex(9), Term(1))), Some(state)));
    assert!(last.lsn > Lsn(2));

    // The largest there may be: a block, and a file, of its own.
    let largest = vec![2; CONFIG.entry_bytes_max()];
    let lsn = journal.commit([append(1, 10, largest.clone()), append(1, 11, "x")]).lsn;
    assert_eq!(journal.write().unwrap().unwrap().lsn, Lsn(lsn.get() + 1));
    let found = found(&journal.disk, from(lsn.get(), 0));
    assert_eq!(found.blocks[0].entries[0].1.payload, largest);
}

#[test]
#[should_panic(expected = "does not fit a journal block")]
fn an_entry_beyond_the_limit_is_a_mistake() {
    Journal::new(1).commit([append(1, 1, vec![0; CONFIG.entry_bytes_max() + 1])]);
}

#[test]
fn files_are_used_again_and_what_they_held_before_stays_away() {
    let mut journal = Journal::new(1);
    let mut lsn = Lsn(0);
    for index in 1..=200 {
        lsn = journal.commit([append(1, index, vec![3; 7000])]).lsn;
        journal.writer.recycle(lsn);
    }
    journal.upkeep();
    assert!(journal.disk.list("journal").unwrap().len() <= CONFIG.files_keep);
    for start in [lsn.get() - 1, lsn.get(), lsn.get() + 1] {
        let found = found(&journal.disk, from(start, 0));
        assert_eq!((found.lsns(), found.doubt), ((start..=lsn.get()).collect(), Doubt::None));
    }
}

#[test]
fn a_torn_tail_is_cut_and_its_lsn_is_used_again_elsewhere() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "kept")]);
    journal.writer.submit(append(1, 2, vec![5; 6000]));
    let (torn_file, pos) = journal.write_unsynced();
    let whole = journal.disk.read(&torn_file, pos, 8192).unwrap();
    let disk = journal.disk.crash_image(&CrashPlan::LOSE_ALL);
    // The header reached the disk, the second page did not.
    let header = whole.slice(..4096);
    disk.perform(&DiskOp::Write { file: torn_file.clone(), pos, bufs: vec![header] }).unwrap();

    let (mut journal, found_first) = open(disk, from(0, 0));
    assert_eq!((found_first.lsns(), found_first.doubt), (vec![1], Doubt::None));
    let again = journal.commit([append(1, 2, "other")]);
    assert_eq!(again.lsn, Lsn(2));

    // Should the torn block ever turn up whole, it is void: block 2 is the one of the later generation, as the tail and
    // when it is proven.
    journal.disk.perform(&DiskOp::Write { file: torn_file, pos, bufs: vec![whole] }).unwrap();
    let tail = found(&journal.disk, from(0, 0));
    journal.commit([append(1, 3, "more")]);
    let proven = found(&journal.disk, from(0, 0));
    for (found, lsns) in [(tail, vec![1, 2]), (proven, vec![1, 2, 3])] {
        assert_eq!((found.lsns(), &found.doubt), (lsns, &Doubt::None));
        assert_eq!(found.blocks[1].entries[0].1.payload, "other");
    }
}

#[test]
fn a_tail_that_stands_in_the_page_cache_is_made_durable_before_anyone_builds_on_it() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "durable")]);
    journal.writer.submit(append(1, 2, "in the page cache"));
    journal.writer.submit(vote(1, 8));
    journal.write_unsynced();
    // The process dies, the machine does not.
    let (mut journal, seen) = open(journal.disk, from(0, 0));
    assert_eq!(seen.lsns(), [1, 2]);
    let lost = found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0));
    assert_eq!(lost, seen);
    assert_eq!(journal.commit([append(1, 3, "next")]).lsn, Lsn(3));
    assert_eq!(found(&journal.disk, from(0, 0)).lsns(), [1, 2, 3]);
}

#[test]
fn until_the_tail_is_written_again_the_old_one_counts() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "first")]);
    journal.commit([append(1, 2, vec![7; 9000])]);
    let mut disk = journal.disk;
    for seed in 0..50 {
        // Recovery begins to write block 2 again; the power fails; over and over.
        let replay = Replay::open(&disk, JOURNAL, from(0, 0)).unwrap();
        let mut writer = JournalWriter::resume(&CONFIG, replay.finish());
        while let Some(io) = writer.poll_upkeep() {
            let result = perform(&disk, &io);
            writer.complete_upkeep(io.token, result).unwrap();
        }
        let io = writer.poll().unwrap();
        io.ops.iter().filter(|op| !op.is_sync()).for_each(|op| disk.perform(op).unwrap());
        disk = disk.crash_image(&CrashPlan::seeded(seed));
        let found = found(&disk, from(0, 0));
        assert_eq!((found.lsns(), found.doubt), (vec![1, 2], Doubt::None));
        assert_eq!(found.blocks[1].entries[0].1.payload, vec![7; 9000]);
    }
}

#[test]
fn going_idle_writes_one_empty_block() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "a")]);
    journal.writer.tick();
    assert_eq!(journal.writer.poll(), None, "it was busy since the last tick");
    journal.writer.tick();
    let empty = journal.write().unwrap().unwrap();
    assert_eq!((empty.lsn, empty.durable), (Lsn(2), vec![]));
    for _ in 0..5 {
        journal.writer.tick();
        assert_eq!(journal.writer.poll(), None, "once is enough");
    }
    // A restart has nothing to write again, and the empty block's number is free.
    let performed = journal.disk.performed();
    let (mut journal, found) = open(journal.disk, from(0, 0));
    assert_eq!((found.lsns(), journal.disk.performed()), (vec![1, 2], performed));
    assert_eq!(journal.commit([append(1, 2, "b")]).lsn, Lsn(2));
}

#[test]
fn a_fresh_start_writes_nothing_before_there_is_something_to_write() {
    let (journal, found) = open(SimDisk::new(1), from(0, 0));
    assert_eq!((found.lsns(), journal.disk.performed()), (vec![], 0));
    assert_eq!(journal.writer.synced_lsn(), Lsn(0));
}

#[test]
fn blocks_of_another_directory_are_nothing() {
    let foreign = open_as(SimDisk::new(1), JournalId::from_bytes([9; 16]), from(0, 0));
    let mut foreign = foreign.0;
    foreign.commit([append(1, 1, "theirs")]);
    foreign.commit([append(1, 2, "theirs")]);
    let (mut journal, seen) = open(foreign.disk, from(0, 0));
    assert_eq!((seen.lsns(), seen.doubt), (vec![], Doubt::None));
    journal.commit([append(1, 1, "ours")]);
    assert_eq!(found(&journal.disk, from(0, 0)).blocks[0].entries[0].1.payload, "ours");
}

/// What replay makes of a client's record that looks like blocks, once a newer block ends before it in the same file.
fn with_a_forged_record(known: JournalId) -> Doubt {
    let (mut theirs, _) = open_as(SimDisk::new(2), known, from(0, 0));
    let forged = (1..=30).map(|index| theirs.commit([append(1, index, "forged")])).last().unwrap();
    assert_eq!(forged.lsn, Lsn(30));
    let files = theirs.disk.list("journal").unwrap().into_iter().map(|name| FileName::new(format!("journal/{name}")));
    let pages = files.flat_map(|file| (0..12).map(move |page| (file.clone(), page * 4096)));
    let pages = pages.map(|(file, pos)| theirs.disk.read(&file, pos, 4096).unwrap());
    let page = pages.filter(|page| page[4..8] == *b"LVJB");
    let page = page.max_by_key(|page| page[40]).unwrap();
    assert_eq!(page[40], 30);

    let mut journal = Journal::new(1);
    let mut record = vec![0; CONFIG.entry_bytes_max()];
    let last_page = record.len() - 4096;
    record[last_page..].copy_from_slice(&page);
    for index in 1..=10 {
        let payload = if index == 1 { record.clone() } else { vec![1; 30_000] };
        let lsn = journal.commit([append(1, index, payload)]).lsn;
        journal.writer.recycle(lsn);
    }
    found(&journal.disk, from(9, 9)).doubt
}

#[test]
fn a_record_that_looks_like_blocks_deceives_nobody_who_keeps_the_secret() {
    assert_eq!(with_a_forged_record(JournalId::from_bytes([9; 16])), Doubt::None);
    assert_eq!(with_a_forged_record(JOURNAL), Doubt::All, "this is what the secret is for");
}

#[test]
fn a_later_format_is_refused() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "a")]);
    // Its header: fixed part and one table entry. Only the version and the checksum change.
    let mut header = journal.disk.read(&file(0), 0, 96 + 56).unwrap().to_vec();
    header[8] = 9;
    let crc = crc32fast::hash(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());
    journal.disk.perform(&DiskOp::Write { file: file(0), pos: 0, bufs: vec![header.into()] }).unwrap();
    let refused = Replay::open(&journal.disk, JOURNAL, from(0, 0)).unwrap_err();
    assert!(matches!(refused, ReplayError::LaterVersion { version: 9, .. }), "{refused}");
}

#[test]
fn a_configuration_may_change_between_starts() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, vec![1; 40_000])]);
    let disk = journal.disk;
    for (i, file_bytes) in [16 * 1024, 128 * 1024, 16 * 1024].into_iter().enumerate() {
        let config = JournalConfig { file_bytes, ..CONFIG };
        let replay = Replay::open(&disk, JOURNAL, from(0, 0)).unwrap();
        let mut writer = JournalWriter::resume(&config, replay.finish());
        // The tail may be larger than the files are now to be.
        writer.settle(&disk).unwrap();
        writer.submit(append(1, i as u64 + 2, vec![2; 10_000]));
        let mut journal = Journal { disk: disk.fork(), writer };
        journal.write().unwrap().unwrap();
        assert_eq!(found(&journal.disk, from(0, 0)).lsns(), [1, 2]);
        journal.writer.recycle(Lsn(3));
        journal.upkeep();
        assert_eq!(found(&journal.disk, from(3, 2)).doubt, Doubt::None);
    }
}

#[test]
fn a_journal_that_is_gone_is_noticed_when_the_checkpoint_knows_of_it() {
    let mut journal = Journal::new(1);
    for index in 1..=5 {
        journal.commit([append(1, index, vec![1; 9000])]);
    }
    for name in journal.disk.list("journal").unwrap() {
        journal.disk.perform(&DiskOp::Remove { file: FileName::new(format!("journal/{name}")) }).unwrap();
    }
    let found = found(&journal.disk, from(3, 5));
    assert_eq!((found.lsns(), found.doubt), (vec![], Doubt::All));
    assert_eq!(found.damaged[0].lsn, Lsn(3));
}
