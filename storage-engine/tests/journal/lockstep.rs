//! A journal that is written one block at a time, each durable before the next.

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Term};
use levada_storage_engine::{
    disk::{Disk, DiskError, DiskOp, FileName},
    entry::{Entry, EntryKind, HardState},
    journal::{
        Append, Completed, DamagedBlock, Doubt, JournalConfig, JournalId, JournalIo, JournalWriter, Replay,
        ReplayStart, ReplayedBlock,
    },
    poison::Poisoned,
    sim_disk::SimDisk,
};

use crate::world::{CONFIG, JOURNAL};

pub(crate) struct Journal {
    pub(crate) disk: SimDisk,
    pub(crate) writer: JournalWriter,
}

/// What was read back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) blocks: Vec<ReplayedBlock>,
    pub(crate) doubt: Doubt,
    pub(crate) damaged: Vec<DamagedBlock>,
}

impl Found {
    pub(crate) fn lsns(&self) -> Vec<u64> {
        self.blocks.iter().map(|block| block.lsn.get()).collect()
    }
}

pub(crate) fn from(lsn: u64, synced: u64) -> ReplayStart {
    ReplayStart { lsn: Lsn(lsn), synced: Lsn(synced) }
}

fn replay(disk: &SimDisk, journal: JournalId, start: ReplayStart) -> (Found, JournalWriter, JournalConfig) {
    let mut replay = Replay::open(disk, journal, start).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = replay.next_block().unwrap() {
        blocks.push(block);
    }
    let found = Found { blocks, doubt: replay.doubt(), damaged: replay.damaged().to_vec() };
    (found, JournalWriter::resume(&CONFIG, replay.finish()), CONFIG)
}

/// What a replay of the disk as it is finds. Changes nothing.
pub(crate) fn found(disk: &SimDisk, start: ReplayStart) -> Found {
    replay(disk, JOURNAL, start).0
}

/// Starts on the disk as it is.
pub(crate) fn open(disk: SimDisk, start: ReplayStart) -> (Journal, Found) {
    open_as(disk, JOURNAL, start)
}

pub(crate) fn open_as(disk: SimDisk, journal: JournalId, start: ReplayStart) -> (Journal, Found) {
    let (found, mut writer, _) = replay(&disk, journal, start);
    writer.settle(&disk).unwrap();
    (Journal { disk, writer }, found)
}

pub(crate) fn entry(index: u64, payload: impl Into<Bytes>) -> Entry {
    Entry { index: LogIndex(index), term: Term(1), kind: EntryKind::Command, payload: payload.into() }
}

pub(crate) fn append(group: u64, index: u64, payload: impl Into<Bytes>) -> Append {
    Append { group: GroupId(group), entries: vec![entry(index, payload)], hard_state: None }
}

pub(crate) fn vote(group: u64, term: u64) -> Append {
    let hard_state = HardState { term: Term(term), vote: 3, commit: LogIndex(0) };
    Append { group: GroupId(group), entries: Vec::new(), hard_state: Some(hard_state) }
}

pub(crate) fn perform(disk: &SimDisk, io: &JournalIo) -> Result<(), DiskError> {
    io.ops.iter().try_for_each(|op| disk.perform(op))
}

impl Journal {
    pub(crate) fn new(seed: u64) -> Self {
        open(SimDisk::new(seed), from(0, 0)).0
    }

    pub(crate) fn upkeep(&mut self) {
        while let Some(io) = self.writer.poll_upkeep() {
            let result = perform(&self.disk, &io);
            self.writer.complete_upkeep(io.token, result).unwrap();
        }
    }

    /// Writes the next block, if there is one.
    pub(crate) fn write(&mut self) -> Option<Result<Completed, Poisoned>> {
        self.upkeep();
        let io = self.writer.poll()?;
        let result = perform(&self.disk, &io);
        self.writer.complete(io.token, result).transpose()
    }

    /// Makes one block of these.
    pub(crate) fn commit(&mut self, appends: impl IntoIterator<Item = Append>) -> Completed {
        appends.into_iter().for_each(|append| self.writer.submit(append));
        self.write().unwrap().unwrap()
    }

    /// Writes the empty block of an idle writer.
    pub(crate) fn idle(&mut self) {
        self.writer.tick();
        self.writer.tick();
        if let Some(completed) = self.write() {
            assert_eq!(completed.unwrap().durable, []);
        }
    }

    /// Hands out the next block and performs only its write.
    pub(crate) fn write_unsynced(&mut self) -> (FileName, u64) {
        self.upkeep();
        let io = self.writer.poll().unwrap();
        let write = io.ops.iter().find(|op| matches!(op, DiskOp::Write { .. })).unwrap();
        self.disk.perform(write).unwrap();
        let DiskOp::Write { file, pos, .. } = write else { unreachable!() };
        (file.clone(), *pos)
    }
}
