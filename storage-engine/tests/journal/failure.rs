//! A disk that refuses: poisoned after a failed write or sync, patient when it is full.

use std::io::ErrorKind;

use levada_protocol::ids::Lsn;
use levada_storage_engine::{
    disk::{Disk, DiskOp, FileName},
    journal::{JournalWriter, Replay},
    sim_disk::{CrashPlan, Fault, FaultEffect, SimDisk},
};

use crate::{
    lockstep::{Journal, append, found, from, open},
    world::{CONFIG, JOURNAL},
};

#[test]
fn after_a_failed_write_or_sync_nothing_is_tried_again_and_a_restart_keeps_what_was_acknowledged() {
    for seed in 0..40 {
        let mut journal = Journal::new(seed);
        let call = if seed % 2 == 0 { "fdatasync" } else { "write" };
        journal.disk.inject(Fault::fail(call).on("journal/").after(seed / 4));
        let mut acked = Vec::new();
        let poisoned = loop {
            let index = acked.len() as u64 + 1;
            journal.writer.submit(append(1, index, vec![1; 3000]));
            match journal.write().unwrap() {
                Ok(completed) => acked.push(completed.lsn.get()),
                Err(poisoned) => break poisoned,
            }
        };
        assert_eq!((poisoned.cause.op, acked.len() as u64), (call, seed / 4));

        let performed = journal.disk.performed();
        journal.writer.submit(append(1, 99, "more"));
        journal.writer.tick();
        assert_eq!((journal.writer.poll(), journal.writer.poll_upkeep()), (None, None));
        assert!(journal.writer.complete(0, Ok(())).is_err(), "once poisoned, always poisoned");
        assert_eq!(journal.disk.performed(), performed);

        // The process starts again. What it still sees of the failed block it makes durable anew, or does not use.
        let (mut journal, seen) = open(journal.disk, from(0, 0));
        assert!(seen.lsns().starts_with(&acked), "{:?} without {acked:?}", seen.lsns());
        assert_eq!(found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0)), seen);
        assert_eq!(journal.commit([append(1, 100, "on")]).lsn.get(), seen.blocks.len() as u64 + 1);
    }
}

#[test]
fn a_file_that_cannot_be_made_ready_is_fatal_unless_space_is_lacking() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "a")]);
    journal.disk.inject(Fault::fail("zero-fill"));
    let io = loop {
        journal.writer.submit(append(1, 2, vec![0; 30_000]));
        let io = journal.writer.poll_upkeep();
        if let Some(io) = io {
            break io;
        }
        journal.write().unwrap().unwrap();
    };
    let result = io.ops.iter().try_for_each(|op| journal.disk.perform(op));
    assert_eq!(journal.writer.complete_upkeep(io.token, result).unwrap_err().cause.op, "zero-fill");
    assert_eq!(journal.writer.poll(), None);
}

#[test]
fn on_a_full_disk_it_goes_on_in_the_files_it_has_and_waits_for_space() {
    let mut journal = Journal::new(1);
    journal.disk.set_capacity(Some(2 * CONFIG.file_bytes));
    let mut acked = 0;
    while !journal.writer.is_stalled() {
        journal.writer.submit(append(1, acked + 1, vec![1; 9000]));
        if let Some(completed) = journal.write() {
            acked = completed.unwrap().lsn.get();
        }
    }
    assert_eq!(acked, 8, "four blocks of 12 KiB in each of two files");
    assert!(journal.writer.poll_upkeep().is_none(), "no second attempt without a reason");
    assert!(journal.writer.lacks_space());
    assert_eq!(found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0)).lsns().len(), 8);

    // A checkpoint frees a file.
    let mut by_recycling = Journal { disk: journal.disk.fork(), writer: journal.writer };
    by_recycling.writer.recycle(Lsn(5));
    assert_eq!(by_recycling.write().unwrap().unwrap().lsn, Lsn(9));
    assert!(!by_recycling.writer.is_stalled());
}

#[test]
fn space_that_comes_back_is_found_at_the_next_tick() {
    let mut journal = Journal::new(1);
    journal.disk.set_capacity(Some(1000));
    journal.writer.submit(append(1, 1, "a"));
    assert!(journal.write().is_none());
    assert!(journal.writer.is_stalled());
    journal.disk.set_capacity(None);
    journal.writer.tick();
    assert_eq!(journal.write().unwrap().unwrap().lsn, Lsn(1));
    assert!(!journal.writer.lacks_space());
    assert_eq!(found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0)).lsns(), [1]);
}

/// On a file system that copies what it overwrites, a block may find no space in a file that is there.
#[test]
fn a_block_that_finds_no_space_is_written_again_and_is_not_durable_before() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "a")]);
    let no_space = FaultEffect::Fail(ErrorKind::StorageFull);
    journal.disk.inject(Fault { effect: no_space, ..Fault::fail("write").on("journal/") });
    journal.writer.submit(append(1, 2, vec![7; 9000]));
    assert!(journal.write().is_none());
    assert!(journal.writer.lacks_space());
    assert_eq!(found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0)).lsns(), [1]);
    journal.writer.submit(append(1, 3, "b"));
    assert!(journal.write().is_none(), "not before a tick, and nothing overtakes it");
    journal.writer.tick();
    assert_eq!(journal.write().unwrap().unwrap().lsn, Lsn(2));
    assert!(!journal.writer.lacks_space());
    assert_eq!(journal.write().unwrap().unwrap().lsn, Lsn(3));
    assert_eq!(found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0)).lsns(), [1, 2, 3]);
    // But a sync that finds none has dropped what it should have written.
    journal.disk.inject(Fault { effect: no_space, ..Fault::fail("fdatasync").on("journal/") });
    journal.writer.submit(append(1, 4, "c"));
    assert_eq!(journal.write().unwrap().unwrap_err().cause.op, "fdatasync");
}

#[test]
fn a_tail_that_finds_no_space_to_be_written_again_keeps_the_directory_closed() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, vec![1; 40_000])]);
    let disk = journal.disk;
    for name in disk.list("journal").unwrap().iter().skip(1) {
        disk.perform(&DiskOp::Remove { file: FileName::new(format!("journal/{name}")) }).unwrap();
    }
    disk.set_capacity(Some(CONFIG.file_bytes));
    let settle = |disk: &SimDisk| {
        let replay = Replay::open(disk, JOURNAL, from(0, 0)).unwrap();
        JournalWriter::resume(&CONFIG, replay.finish()).settle(disk).map(|completed| completed.unwrap().lsn)
    };
    assert_eq!(settle(&disk).unwrap_err().cause.kind, ErrorKind::StorageFull);
    disk.set_capacity(None);
    // There is a file, and its file system copies what is overwritten.
    let no_space = FaultEffect::Fail(ErrorKind::StorageFull);
    disk.inject(Fault { effect: no_space, ..Fault::fail("write").on("journal/") });
    assert_eq!(settle(&disk).unwrap_err().cause.kind, ErrorKind::StorageFull);
    disk.heal();
    assert_eq!(settle(&disk).unwrap(), Lsn(1));
}

#[test]
fn a_disk_that_lies_about_a_sync_loses_at_most_what_it_lied_about() {
    let mut journal = Journal::new(1);
    journal.commit([append(1, 1, "a")]);
    journal.disk.inject(Fault { effect: FaultEffect::Lie, ..Fault::fail("fdatasync") });
    journal.commit([append(1, 2, "lied about")]);
    assert_eq!(found(&journal.disk.crash_image(&CrashPlan::LOSE_ALL), from(0, 0)).lsns(), [1]);
}
