//! The thread of a lane: performs what the cores hand out, in order, and reports back.
//!
//! A job is a token and its operations; the first operation that fails ends it. After a failure that is
//! [fatal](DiskError::is_fatal) the lane reports it once, under the token of the job that met it, drops what is queued
//! and refuses everything from then on. Other failures (no space) are reported and the lane goes on with the next job.
//!
//! Dropping a [`LaneDriver`] performs what is queued first, then waits for the thread.
#![allow(clippy::disallowed_methods, reason = "a driver: it spawns its thread and measures with the clock")]

use std::{
    io,
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use metrics::{Histogram, histogram};

use crate::{
    disk::{Disk, DiskError, DiskOp, Lane},
    metrics::{
        JOURNAL_BLOCK_BYTES, JOURNAL_SYNC_SECONDS, JOURNAL_WRITE_SECONDS, SEGMENT_SYNC_SECONDS, SEGMENT_WRITE_SECONDS,
    },
    poison::Poisoned,
};

/// What a lane has to do: operations, and the token under which the outcome is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Names the outcome.
    pub token: u64,
    /// Performed in order, up to the first that fails.
    pub ops: Vec<DiskOp>,
}

/// Why a lane did not take a job.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The queue is full; here is the job, for another try.
    #[error("the lane's queue is full")]
    Full(Job),
    /// The disk failed before.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// A lane's thread.
#[derive(Debug)]
pub struct LaneDriver {
    queue: Option<SyncSender<Job>>,
    poisoned: Arc<OnceLock<Poisoned>>,
    thread: Option<JoinHandle<()>>,
}

impl LaneDriver {
    /// Starts the thread. `done` is called on it, with the token and the outcome of each job; it must
    /// not wait for anything. At most `queue_max` jobs wait.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        lane: Lane,
        disk: Arc<dyn Disk>,
        queue_max: usize,
        done: impl FnMut(u64, Result<(), DiskError>) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(queue_max);
        let poisoned = Arc::new(OnceLock::new());
        let worker = Worker { disk, poisoned: Arc::clone(&poisoned), meter: Meter::new(lane) };
        let name = match lane {
            Lane::Journal => "disk-journal",
            Lane::Segments => "disk-segments",
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || worker.run(&jobs, done))?;
        Ok(Self { queue: Some(queue), poisoned, thread: Some(thread) })
    }

    /// Queues a job, waiting while the queue is full.
    ///
    /// # Errors
    /// When the disk failed before.
    pub fn submit(&self, job: Job) -> Result<(), Poisoned> {
        self.check()?;
        match self.queue().send(job) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.gone()),
        }
    }

    /// Queues a job without waiting.
    ///
    /// # Errors
    /// When the queue is full, or the disk failed before.
    pub fn try_submit(&self, job: Job) -> Result<(), Refused> {
        self.check()?;
        match self.queue().try_send(job) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(job)) => Err(Refused::Full(job)),
            Err(TrySendError::Disconnected(_)) => Err(self.gone().into()),
        }
    }

    fn queue(&self) -> &SyncSender<Job> {
        self.queue.as_ref().expect("the queue is taken only by drop")
    }

    /// Why the thread has ended: it says so, unless it panicked.
    fn gone(&self) -> Poisoned {
        let panicked = || Poisoned::new(DiskError::new("perform", "", &io::Error::other("the disk lane panicked")));
        self.poisoned.get().cloned().unwrap_or_else(panicked)
    }

    fn check(&self) -> Result<(), Poisoned> {
        self.poisoned.get().map_or(Ok(()), |poisoned| Err(poisoned.clone()))
    }
}

impl Drop for LaneDriver {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("disk.lane.panicked");
        }
    }
}

struct Worker {
    disk: Arc<dyn Disk>,
    poisoned: Arc<OnceLock<Poisoned>>,
    meter: Meter,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>, mut done: impl FnMut(u64, Result<(), DiskError>)) {
        while let Ok(Job { token, ops }) = jobs.recv() {
            let result = ops.iter().try_for_each(|op| self.meter.measure(op, || self.disk.perform(op)));
            // The buffers go back before anyone is told.
            drop(ops);
            let fatal = result.as_ref().err().filter(|error| error.is_fatal()).cloned();
            if let Some(cause) = fatal {
                let poisoned = Poisoned::new(cause);
                tracing::error!(%poisoned, "disk.lane.stopped");
                let _ = self.poisoned.set(poisoned);
                done(token, result);
                return;
            }
            done(token, result);
        }
    }
}

/// An operation that takes longer than this is told in the log.
const SLOW: Duration = Duration::from_millis(250);
/// At most one of them in this time, with the number of the others.
const SLOW_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Measures a lane's operations.
struct Meter {
    lane: Lane,
    write_seconds: Histogram,
    sync_seconds: Histogram,
    block_bytes: Option<Histogram>,
    slow_told: Option<Instant>,
    slow_untold: u64,
}

impl Meter {
    fn new(lane: Lane) -> Self {
        let (write_seconds, sync_seconds, block_bytes) = match lane {
            Lane::Journal => (JOURNAL_WRITE_SECONDS, JOURNAL_SYNC_SECONDS, Some(histogram!(JOURNAL_BLOCK_BYTES.name))),
            Lane::Segments => (SEGMENT_WRITE_SECONDS, SEGMENT_SYNC_SECONDS, None),
        };
        Self {
            lane,
            write_seconds: histogram!(write_seconds.name),
            sync_seconds: histogram!(sync_seconds.name),
            block_bytes,
            slow_told: None,
            slow_untold: 0,
        }
    }

    fn measure<T>(&mut self, op: &DiskOp, perform: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = perform();
        let took = start.elapsed();
        match op {
            DiskOp::Write { bufs, .. } => {
                self.write_seconds.record(took);
                if let Some(block_bytes) = &self.block_bytes {
                    let bytes: usize = bufs.iter().map(Bytes::len).sum();
                    #[allow(clippy::cast_precision_loss, reason = "a block's length is far below 2^52")]
                    block_bytes.record(bytes as f64);
                }
            }
            DiskOp::Sync { .. } | DiskOp::SyncAll => self.sync_seconds.record(took),
            _ => {}
        }
        if took >= SLOW {
            self.tell_slow(op, took);
        }
        result
    }

    fn tell_slow(&mut self, op: &DiskOp, took: Duration) {
        if self.slow_told.is_some_and(|told| told.elapsed() < SLOW_TOLD_EVERY) {
            self.slow_untold += 1;
            return;
        }
        let others = std::mem::take(&mut self.slow_untold);
        tracing::warn!(lane = ?self.lane, call = op.call(), file = op.subject(), ?took, others, "disk.slow");
        self.slow_told = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc::channel};

    use super::*;
    use crate::{
        disk::FileName,
        sim_disk::{Fault, SimDisk},
    };

    type Outcomes = Arc<Mutex<Vec<(u64, Result<(), String>)>>>;

    fn lane(disk: &Arc<SimDisk>) -> (LaneDriver, Outcomes) {
        let outcomes = Outcomes::default();
        let reported = Arc::clone(&outcomes);
        let done = move |token, result: Result<(), DiskError>| {
            reported.lock().unwrap().push((token, result.map_err(|error| error.op.to_owned())));
        };
        (LaneDriver::start(Lane::Journal, Arc::clone(disk) as Arc<dyn Disk>, 4, done).unwrap(), outcomes)
    }

    fn create(token: u64) -> Job {
        Job { token, ops: vec![DiskOp::Create { file: FileName::new(format!("f{token}")) }] }
    }

    fn sync(token: u64, file: u64) -> Job {
        Job { token, ops: vec![DiskOp::Sync { file: FileName::new(format!("f{file}")) }] }
    }

    #[test]
    fn jobs_are_done_in_order_and_all_of_them_before_it_stops() {
        let disk = Arc::new(SimDisk::new(1));
        let (driver, outcomes) = lane(&disk);
        (0..100).for_each(|token| driver.submit(create(token)).unwrap());
        drop(driver);
        let tokens: Vec<u64> = outcomes.lock().unwrap().iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, (0..100).collect::<Vec<_>>());
        assert_eq!(disk.list("").unwrap().len(), 100);
    }

    #[test]
    fn a_failure_is_reported_once_and_then_everything_is_refused() {
        let disk = Arc::new(SimDisk::new(1));
        let (driver, outcomes) = lane(&disk);
        disk.inject(Fault::fail("fdatasync"));
        driver.submit(create(1)).unwrap();
        let _ = driver.submit(Job { token: 2, ops: [sync(2, 1).ops, create(2).ops].concat() });
        // Whether these still get into the queue is a race; they are not performed.
        (3..10).for_each(|token| drop(driver.submit(create(token))));
        let refused = loop {
            match driver.try_submit(create(99)) {
                Err(Refused::Poisoned(poisoned)) => break poisoned,
                _ => thread::yield_now(),
            }
        };
        assert_eq!(refused.cause.op, "fdatasync");
        drop(driver);
        assert_eq!(*outcomes.lock().unwrap(), [(1, Ok(())), (2, Err("fdatasync".to_owned()))]);
        assert_eq!(disk.list("").unwrap(), ["f1"]);
    }

    #[test]
    fn a_full_disk_does_not_stop_the_lane_and_a_full_queue_gives_the_job_back() {
        let disk = Arc::new(SimDisk::new(1));
        disk.set_capacity(Some(0));
        let (release, gate) = channel::<()>();
        let (told, outcomes) = channel();
        let done = move |token, result: Result<(), DiskError>| {
            told.send((token, result.map_err(|error| error.kind))).unwrap();
            gate.recv().unwrap();
        };
        let driver = LaneDriver::start(Lane::Segments, Arc::clone(&disk) as Arc<dyn Disk>, 1, done).unwrap();
        let write = DiskOp::Write { file: FileName::new("f1"), pos: 0, bufs: vec![Bytes::from_static(b"x")] };
        driver.submit(Job { token: 1, ops: [create(1).ops, vec![write]].concat() }).unwrap();
        assert_eq!(outcomes.recv().unwrap(), (1, Err(io::ErrorKind::StorageFull)));
        driver.submit(create(2)).unwrap();
        assert!(matches!(driver.try_submit(create(3)), Err(Refused::Full(job)) if job == create(3)));
        release.send(()).unwrap();
        release.send(()).unwrap();
        assert_eq!(outcomes.recv().unwrap(), (2, Ok(())));
    }
}
