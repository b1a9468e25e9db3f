//! The disk lanes of a node: two threads, and queues before them that never make the worker wait.

use std::{collections::VecDeque, io, sync::Arc};

use levada_storage_engine::{
    disk::{Disk, DiskError, DiskOp, Lane},
    driver::{Job, LaneDriver, Refused},
    poison::Poisoned,
};

/// Jobs that a lane's own queue takes.
const LANE_JOBS_MAX: usize = 1024;

/// Both lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    journal: Queue,
    segments: Queue,
}

#[derive(Debug)]
struct Queue {
    driver: LaneDriver,
    /// Jobs that the lane had no room for.
    waiting: VecDeque<Job>,
}

impl Lanes {
    /// Starts the threads. `done` is told each outcome, from any of them.
    pub(super) fn start(
        disk: &Arc<dyn Disk>,
        done: impl Fn(u64, Result<(), DiskError>) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let start = |lane| -> io::Result<Queue> {
            let driver = LaneDriver::start(lane, Arc::clone(disk), LANE_JOBS_MAX, done.clone())?;
            Ok(Queue { driver, waiting: VecDeque::new() })
        };
        Ok(Self { journal: start(Lane::Journal)?, segments: start(Lane::Segments)? })
    }

    /// Queues a job; [`Lanes::pump`] hands it on.
    pub(super) fn queue(&mut self, lane: Lane, token: u64, ops: Vec<DiskOp>) {
        let queue = match lane {
            Lane::Journal => &mut self.journal,
            Lane::Segments => &mut self.segments,
        };
        queue.waiting.push_back(Job { token, ops });
    }

    /// Hands on what waits, as much as the lanes take; never waits for them.
    pub(super) fn pump(&mut self) -> Result<(), Poisoned> {
        self.journal.pump()?;
        self.segments.pump()
    }
}

impl Queue {
    fn pump(&mut self) -> Result<(), Poisoned> {
        while let Some(job) = self.waiting.pop_front() {
            match self.driver.try_submit(job) {
                Ok(()) => {}
                Err(Refused::Full(job)) => {
                    self.waiting.push_front(job);
                    break;
                }
                Err(Refused::Poisoned(poisoned)) => return Err(poisoned),
            }
        }
        Ok(())
    }
}
