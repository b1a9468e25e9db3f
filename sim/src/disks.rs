//! The disk lanes of a process: operations are performed one after the other, and each takes its time.
//!
//! A node hands out lists of operations. Each becomes true on the disk only when its own time is over, so the power
//! can go between a write and its sync, in the middle of either, or between the last one and the moment the node
//! hears of it.

use std::{collections::VecDeque, sync::Arc};

use levada_storage_engine::{
    disk::{Disk as _, DiskError, DiskOp, Lane},
    sim_disk::SimDisk,
};

use crate::{dice::Dice, options::Lie};

/// No sync takes longer, however slow the disk is: a world must come to rest in bounded time.
const SYNC_US_MAX: u64 = 3_000_000;

/// How fast a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// What any operation takes at least.
    pub base_us: u64,
    /// What a sync takes on average.
    pub sync_us: u64,
    /// How long 64 KiB take.
    pub chunk_us: u64,
    /// How many of a thousand syncs take fifty times as long.
    pub stall_per_mille: u32,
}

impl Speed {
    /// A disk as quick as any, for the time in which everything is well.
    pub const QUICK: Self = Self { base_us: 10, sync_us: 300, chunk_us: 40, stall_per_mille: 0 };

    /// Some disk.
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Self {
        Self {
            base_us: dice.between(5..=50),
            sync_us: dice.pick(&[100, 500, 2_000, 6_000]).unwrap_or(500),
            chunk_us: dice.between(30..=400),
            stall_per_mille: dice.pick(&[0, 1, 10]).unwrap_or(0),
        }
    }

    fn duration_us(&self, op: &DiskOp, dice: &mut Dice) -> u64 {
        let bytes = match op {
            DiskOp::Write { bufs, .. } => bufs.iter().map(|buf| buf.len() as u64).sum(),
            DiskOp::ZeroFill { len, .. } => *len,
            _ => 0,
        };
        let mut us = self.base_us + bytes * self.chunk_us / (64 << 10);
        if op.is_sync() {
            let stall = dice.chance_ppm(self.stall_per_mille * 1_000);
            us += (dice.around(self.sync_us) * if stall { 50 } else { 1 }).min(SYNC_US_MAX);
        }
        us + dice.between(0..=self.base_us)
    }
}

/// A list of operations that is done, or failed.
#[derive(Debug)]
pub struct Done {
    /// As the node named it.
    pub token: u64,
    /// How it went.
    pub result: Result<(), DiskError>,
}

#[derive(Debug)]
struct Job {
    token: u64,
    ops: VecDeque<DiskOp>,
    /// The node was told that it is done before it was: the world lies.
    told: bool,
}

/// One lane.
#[derive(Debug)]
struct Queue {
    lane: Lane,
    jobs: VecDeque<Job>,
    /// The first operation of the first job is under way.
    busy: bool,
}

impl Queue {
    const fn new(lane: Lane) -> Self {
        Self { lane, jobs: VecDeque::new(), busy: false }
    }
}

/// The lanes of one process.
#[derive(Debug)]
pub struct Lanes {
    disk: Arc<SimDisk>,
    dice: Dice,
    /// How fast the disk is.
    pub speed: Speed,
    lie: Option<Lie>,
    queues: [Queue; 2],
}

impl Lanes {
    /// The lanes of a process that begins.
    #[must_use]
    pub const fn new(disk: Arc<SimDisk>, dice: Dice, speed: Speed, lie: Option<Lie>) -> Self {
        Self { disk, dice, speed, lie, queues: [Queue::new(Lane::Journal), Queue::new(Lane::Segments)] }
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        let [journal, segments] = &mut self.queues;
        match lane {
            Lane::Journal => journal,
            Lane::Segments => segments,
        }
    }

    /// Takes a list of operations. Answers at once only when the world lies.
    pub fn submit(&mut self, lane: Lane, token: u64, ops: Vec<DiskOp>) -> Option<Done> {
        let told = lane == Lane::Journal && self.lie == Some(Lie::EarlyCompletion);
        self.queue(lane).jobs.push_back(Job { token, ops: ops.into(), told });
        told.then_some(Done { token, result: Ok(()) })
    }

    /// Begins the next operation if the lane is idle and has one; answers when it will be over. [`Lanes::finish`] is
    /// to be called then.
    pub fn begin(&mut self, lane: Lane) -> Option<u64> {
        let Self { dice, speed, queues: [journal, segments], .. } = self;
        let queue = if lane == Lane::Journal { journal } else { segments };
        if queue.busy {
            return None;
        }
        let job = queue.jobs.front()?;
        queue.busy = true;
        Some(job.ops.front().map_or(0, |op| speed.duration_us(op, dice)))
    }

    /// The operation under way in a lane.
    #[must_use]
    pub fn current(&self, lane: Lane) -> Option<&DiskOp> {
        let queue = self.queues.iter().find(|queue| queue.lane == lane && queue.busy)?;
        queue.jobs.front()?.ops.front()
    }

    /// The time of the operation under way is over: it becomes true. Answers when that was the last of its list.
    pub fn finish(&mut self, lane: Lane) -> Option<Done> {
        let (disk, lie) = (Arc::clone(&self.disk), self.lie);
        let queue = self.queue(lane);
        queue.busy = false;
        let job = queue.jobs.front_mut()?;
        let mut result = Ok(());
        if let Some(op) = job.ops.pop_front() {
            let skipped = lie == Some(Lie::SkipJournalSync) && lane == Lane::Journal && op.is_sync();
            if !skipped {
                result = disk.perform(&op);
            }
        }
        if result.is_ok() && !job.ops.is_empty() {
            return None;
        }
        let Job { token, told, .. } = queue.jobs.pop_front()?;
        (!told).then_some(Done { token, result })
    }

    /// The power goes while operations are under way: each has happened in part, without being durable, or not at all.
    pub fn interrupt(&mut self) {
        let Self { disk, dice, queues, .. } = self;
        for queue in queues.iter().filter(|queue| queue.busy) {
            if let Some(op) = queue.jobs.front().and_then(|job| job.ops.front())
                && dice.chance(50)
            {
                // An operation that cannot be begun has changed nothing.
                let _ = disk.perform_interrupted(op);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levada_storage_engine::{
        disk::FileName,
        sim_disk::{CrashPlan, Fault},
    };

    use super::*;

    fn ops() -> Vec<DiskOp> {
        let file = FileName::new("f");
        vec![
            DiskOp::Create { file: file.clone() },
            DiskOp::SyncDir { dir: String::new() },
            DiskOp::Write { file: file.clone(), pos: 0, bufs: vec![Bytes::from_static(b"x")] },
            DiskOp::Sync { file },
        ]
    }

    fn lanes(lie: Option<Lie>) -> (Arc<SimDisk>, Lanes) {
        let disk = Arc::new(SimDisk::new(1));
        (Arc::clone(&disk), Lanes::new(disk, Dice::new(1, "disk"), Speed::QUICK, lie))
    }

    fn durable(disk: &SimDisk) -> usize {
        disk.crash_image(&CrashPlan::LOSE_ALL).read(&FileName::new("f"), 0, 9).map_or(0, |bytes| bytes.len())
    }

    #[test]
    fn every_operation_takes_its_time_and_the_last_one_answers() {
        let (disk, mut lanes) = lanes(None);
        assert!(lanes.submit(Lane::Journal, 7, ops()).is_none());
        for _ in 0..3 {
            assert!(lanes.begin(Lane::Journal).unwrap() > 0);
            assert_eq!(lanes.begin(Lane::Journal), None, "one at a time");
            assert!(lanes.finish(Lane::Journal).is_none());
        }
        lanes.begin(Lane::Journal).unwrap();
        assert_eq!(lanes.current(Lane::Journal).unwrap().call(), "fdatasync");
        assert_eq!(durable(&disk), 0, "written, not synced");
        let done = lanes.finish(Lane::Journal).unwrap();
        assert!(done.token == 7 && done.result.is_ok());
        assert_eq!(durable(&disk), 1);
        assert_eq!(lanes.begin(Lane::Journal), None);
        assert_eq!(lanes.begin(Lane::Segments), None);
    }

    #[test]
    fn a_failure_ends_its_list() {
        let (disk, mut lanes) = lanes(None);
        disk.inject(Fault::fail("write"));
        lanes.submit(Lane::Segments, 1, ops());
        lanes.submit(Lane::Segments, 2, vec![]);
        let mut done = Vec::new();
        while lanes.begin(Lane::Segments).is_some() {
            done.extend(lanes.finish(Lane::Segments));
        }
        assert_eq!(
            done.iter().map(|done| (done.token, done.result.is_ok())).collect::<Vec<_>>(),
            [(1, false), (2, true)]
        );
    }

    #[test]
    fn the_lies_are_lies() {
        let (disk, mut lanes_) = lanes(Some(Lie::EarlyCompletion));
        assert_eq!(lanes_.submit(Lane::Journal, 1, ops()).unwrap().token, 1);
        assert_eq!(disk.performed(), 0);

        let (disk, mut lanes_) = lanes(Some(Lie::SkipJournalSync));
        lanes_.submit(Lane::Journal, 1, ops());
        let done = (0..4).find_map(|_| lanes_.begin(Lane::Journal).and_then(|_| lanes_.finish(Lane::Journal)));
        assert!(done.unwrap().result.is_ok());
        assert_eq!(durable(&disk), 0);
    }
}
