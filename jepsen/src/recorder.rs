//! Writes the history while it happens.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use levada_checkers::{
    history::{Event, Index, Key, Op, Phase, Process, file},
    verdict::Check,
};

/// What is under way is on disk at most this much later.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// A history that grows. All clients share one: its lock is what puts events in order.
pub struct Recorder {
    began: Instant,
    processes: AtomicU32,
    inner: Mutex<Inner>,
    /// What clients were shown that no history can hold.
    shown: Mutex<Check>,
}

struct Inner {
    writer: Option<file::Writer>,
    /// What went wrong with the file. Told once, at the end.
    failed: Option<file::Error>,
    next: Index,
    flushed: Instant,
    /// Operations under way, by process.
    open: BTreeMap<Process, BTreeMap<Index, Op>>,
    /// How many were acknowledged, for whoever looks on.
    acknowledged: u64,
}

impl Recorder {
    /// Begins a history.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let now = Instant::now();
        let inner = Inner {
            writer: Some(file::Writer::create(path)?),
            failed: None,
            next: 0,
            flushed: now,
            open: BTreeMap::new(),
            acknowledged: 0,
        };
        Ok(Self {
            began: now,
            processes: AtomicU32::new(0),
            inner: Mutex::new(inner),
            shown: Mutex::new(Check::new("shown")),
        })
    }

    /// A number for a process that does nothing yet.
    pub fn process(&self) -> Process {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// Nanoseconds since it began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Changes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    /// A process begins an operation. The invocation's index is what completes it.
    pub fn invoke(&self, process: Process, node: Option<u64>, op: Op) -> Index {
        let mut inner = self.lock();
        let index = inner.next;
        inner.open.entry(process).or_default().insert(index, op.clone());
        let time_ns = self.now_ns();
        inner.append(Event { index, time_ns, process, node, phase: Phase::Invoke, invocation: index, op, error: None });
        index
    }

    /// It was done, with what the client was told.
    pub fn ok(&self, process: Process, node: Option<u64>, invocation: Index, op: Op) {
        self.complete(process, node, invocation, Phase::Ok, op, None);
    }

    /// It was certainly not done, and that is no error: what it compared with was another value.
    pub fn refused(&self, process: Process, invocation: Index, op: Op) {
        self.complete(process, None, invocation, Phase::Fail, op, None);
    }

    /// It ended otherwise; the operation is as it was invoked.
    pub fn ended(&self, process: Process, invocation: Index, phase: Phase, op: Op, error: String) {
        self.complete(process, None, invocation, phase, op, Some(error));
    }

    fn complete(
        &self,
        process: Process,
        node: Option<u64>,
        invocation: Index,
        phase: Phase,
        op: Op,
        error: Option<String>,
    ) {
        let mut inner = self.lock();
        let open = inner.open.get_mut(&process).and_then(|open| open.remove(&invocation));
        if open.is_none() {
            // The process was retired meanwhile: nobody listens to it any more.
            return;
        }
        inner.acknowledged += u64::from(phase == Phase::Ok && op.changes());
        let (index, time_ns) = (inner.next, self.now_ns());
        inner.append(Event { index, time_ns, process, node, phase, invocation, op, error });
    }

    /// A client was shown something that cannot be, and that no history can hold: bytes that are damaged, a replica that is not there.
    pub fn wrong(&self, kind: &str, key: impl Into<Option<Key>>, invocation: Option<Index>, what: String) {
        let events = invocation.into_iter().collect();
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).found(kind, key.into(), events, what);
    }

    /// What clients were shown that cannot be.
    #[must_use]
    pub fn shown(&self) -> Check {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A process does nothing any more. Nobody will ever know what became of what it had under way.
    pub fn retire(&self, process: Process, why: &str) {
        let open = self.lock().open.get(&process).cloned().unwrap_or_default();
        for (invocation, op) in open {
            self.ended(process, invocation, Phase::Info, op, why.to_owned());
        }
        self.lock().open.remove(&process);
    }

    /// Ends the history.
    ///
    /// # Errors
    /// It could not be written as a whole.
    pub fn finish(&self) -> Result<()> {
        let mut inner = self.lock();
        if let Some(error) = inner.failed.take() {
            return Err(error.into());
        }
        if let Some(writer) = inner.writer.take() {
            writer.finish()?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, event: Event) {
        self.next += 1;
        let Some(writer) = &mut self.writer else { return };
        let mut result = writer.append(&event);
        if result.is_ok() && self.flushed.elapsed() > FLUSH_INTERVAL {
            result = writer.flush();
            self.flushed = Instant::now();
        }
        if let Err(error) = result {
            self.failed = Some(error);
            self.writer = None;
        }
    }
}
