//! A journal writer, a disk and a model, moved on one operation at a time so that the power can fail in between.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Term};
use levada_storage_engine::{
    disk::{Disk, DiskError, DiskOp},
    entry::{Entry, EntryKind, HardState},
    journal::{Append, JournalConfig, JournalId, JournalIo, JournalWriter},
    sim_disk::{CrashPlan, SimDisk},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::model::{Model, Replayed};

pub(crate) const JOURNAL: JournalId = JournalId::from_bytes([7; 16]);
pub(crate) const CONFIG: JournalConfig =
    JournalConfig { file_bytes: 48 * 1024, files_keep: 4, gather_bytes: 12 * 1024 };

/// What a broken driver, writer or recovery would do. The tests must find each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    None,
    /// The driver does not sync.
    SkipSync,
    /// Acknowledges when the block is written.
    AckBeforeSync,
    /// Does not make the names of new files durable.
    SkipSyncDir,
    /// Recovery takes what it reads for durable.
    TrustTail,
}

/// One lane: the operations still to be performed, and the token they are answered under.
#[derive(Default)]
struct LaneQueue {
    token: u64,
    ops: VecDeque<DiskOp>,
    busy: bool,
}

impl LaneQueue {
    fn take(&mut self, io: JournalIo) {
        *self = Self { token: io.token, ops: io.ops.into(), busy: true };
    }
}

pub(crate) struct World {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) writer: JournalWriter,
    pub(crate) model: Model,
    pub(crate) rng: StdRng,
    mutation: Mutation,
    journal: LaneQueue,
    upkeep: LaneQueue,
    next_index: [u64; 5],
    term: u64,
    commits: u64,
    images: u64,
    pub(crate) images_checked: u64,
    pub(crate) tails_found: u64,
    pub(crate) failures: u64,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Mutation) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        let model = Model::default();
        let end = model.check(&*disk).unwrap().end;
        Self {
            disk,
            writer: JournalWriter::resume(&CONFIG, end),
            model,
            rng: StdRng::seed_from_u64(seed),
            mutation,
            journal: LaneQueue::default(),
            upkeep: LaneQueue::default(),
            next_index: [1; 5],
            term: 1,
            commits: 0,
            images: 0,
            images_checked: 0,
            tails_found: 0,
            failures: 0,
        }
    }

    /// Submits some entries of some group, now and then in place of older ones, now and then with a hard state.
    pub(crate) fn submit(&mut self) {
        let group = self.rng.random_range(0..self.next_index.len());
        let next = &mut self.next_index[group];
        if self.rng.random_ratio(1, 12) {
            self.term += 1;
            *next = next.saturating_sub(self.rng.random_range(0..3)).max(1);
        }
        let mut append = Append { group: GroupId(group as u64), entries: Vec::new(), hard_state: None };
        for _ in 0..self.rng.random_range(0..4) {
            let len = *[0, 10, 100, 1500, 5000].get(self.rng.random_range(0..5)).unwrap();
            let payload: Vec<u8> = (0..len).map(|_| self.rng.random()).collect();
            append.entries.push(Entry {
                index: LogIndex(*next),
                term: Term(self.term),
                kind: EntryKind::Command,
                payload: Bytes::from(payload),
            });
            *next += 1;
        }
        if append.entries.is_empty() || self.rng.random_ratio(1, 4) {
            self.commits += 1;
            append.hard_state = Some(HardState { term: Term(self.term), vote: 1, commit: LogIndex(self.commits) });
        }
        self.model.submit(&append);
        self.writer.submit(append);
    }

    /// Performs one operation of one lane, with the power failing before, in the middle and after. False when there is
    /// none.
    pub(crate) fn step(&mut self) -> Result<bool, String> {
        if !self.journal.busy
            && let Some(io) = self.writer.poll()
        {
            self.journal.take(io);
        }
        if !self.upkeep.busy
            && let Some(io) = self.writer.poll_upkeep()
        {
            self.upkeep.take(io);
        }
        let on_journal = self.journal.busy && (!self.upkeep.busy || self.rng.random_ratio(2, 3));
        let lane = if on_journal { &mut self.journal } else { &mut self.upkeep };
        if !lane.busy {
            return Ok(false);
        }
        let token = lane.token;
        if let Some(op) = lane.ops.pop_front() {
            if let Err(error) = self.perform(&op)? {
                return self.fail(on_journal, token, error).map(|()| true);
            }
            let acked_early = self.mutation == Mutation::AckBeforeSync && matches!(op, DiskOp::Write { .. });
            let lane = if on_journal { &mut self.journal } else { &mut self.upkeep };
            if acked_early {
                lane.ops.clear();
            }
            if !lane.ops.is_empty() {
                return Ok(true);
            }
        }
        if on_journal {
            self.journal.busy = false;
            let completed = self.writer.complete(token, Ok(())).map_err(|error| error.to_string())?;
            self.model.complete(&completed.expect("it did not lack space"));
        } else {
            self.upkeep.busy = false;
            self.writer.complete_upkeep(token, Ok(())).map_err(|error| error.to_string())?;
        }
        Ok(true)
    }

    /// The disk fails: the writer gives up, and the process starts again.
    fn fail(&mut self, on_journal: bool, token: u64, error: DiskError) -> Result<(), String> {
        let poisoned = if on_journal {
            self.writer.complete(token, Err(error)).is_err()
        } else {
            self.writer.complete_upkeep(token, Err(error)).is_err()
        };
        if !poisoned || self.writer.poll().is_some() {
            return Err("a failure of the disk goes unnoticed".to_owned());
        }
        self.failures += 1;
        self.restart(None)
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Result<(), DiskError>, String> {
        let skipped = match op {
            DiskOp::Sync { .. } => self.mutation == Mutation::SkipSync,
            DiskOp::SyncDir { .. } => self.mutation == Mutation::SkipSyncDir,
            _ => false,
        };
        if skipped {
            return Ok(Ok(()));
        }
        self.crash_images(&self.disk.fork(), 2)?;
        let interrupted = self.disk.fork();
        interrupted.perform_interrupted(op).unwrap();
        self.crash_images(&interrupted, 3)?;
        let result = self.disk.perform(op);
        self.crash_images(&self.disk.fork(), 2)?;
        Ok(result)
    }

    /// Whatever the power cut leaves: replay gives what was acknowledged, and does so again after a recovery.
    pub(crate) fn crash_images(&mut self, disk: &SimDisk, count: u64) -> Result<(), String> {
        for _ in 0..count {
            self.images += 1;
            let plan = match self.images % 16 {
                0 => CrashPlan::LOSE_ALL,
                1 => CrashPlan::KEEP_ALL,
                _ => CrashPlan::seeded(self.rng.random()),
            };
            let image = disk.crash_image(&plan);
            image.heal();
            let replayed = self.model.check(&image).map_err(|violation| format!("{plan:?}: {violation}"))?;
            self.images_checked += 1;
            if self.images.is_multiple_of(7) {
                self.recover_twice(&image, replayed)?;
            }
        }
        Ok(())
    }

    /// A recovery that succeeds makes everything it found durable.
    fn recover_twice(&self, image: &SimDisk, replayed: Replayed) -> Result<(), String> {
        let Replayed { entries, states, end } = replayed;
        JournalWriter::resume(&CONFIG, end).settle(image).map_err(|error| error.to_string())?;
        let again = self.model.check(&image.crash_image(&CrashPlan::LOSE_ALL))?;
        if again.entries != entries || again.states != states {
            return Err(format!("a second recovery finds {} entries, not {}", again.entries.len(), entries.len()));
        }
        Ok(())
    }

    /// Performs what there is to do.
    pub(crate) fn run_dry(&mut self) -> Result<(), String> {
        while self.step()? {}
        Ok(())
    }

    /// The process dies, or the whole machine when there is a plan, and starts again.
    pub(crate) fn restart(&mut self, plan: Option<CrashPlan>) -> Result<(), String> {
        if let Some(plan) = plan {
            self.disk.crash(&plan);
        }
        let replayed = self.model.check(&*self.disk)?;
        self.model.restart(&replayed);
        self.tails_found += u64::from(self.model.has_unacked());
        if self.mutation == Mutation::TrustTail {
            self.model.trust_everything();
        }
        self.writer = JournalWriter::resume(&CONFIG, replayed.end);
        self.journal = LaneQueue::default();
        self.upkeep = LaneQueue::default();
        self.term += 1;
        Ok(())
    }

    /// A checkpoint covers everything that is durable, or all but the last few blocks.
    pub(crate) fn checkpoint(&mut self) {
        let synced = self.writer.synced_lsn();
        let lsn = Lsn((synced.get() + 1).saturating_sub(self.rng.random_range(0..4))).max(self.model.start.lsn);
        let known = if self.rng.random_bool(0.5) { synced } else { Lsn(0) };
        self.model.checkpoint(lsn, known);
        self.writer.recycle(lsn);
    }
}
