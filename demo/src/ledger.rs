//! What was acknowledged, row by row, and how long writes paused.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use levada_client::Delivered;
use tokio::sync::Notify;

/// Where each row of a data set was acknowledged to stand.
pub(crate) struct Ledger {
    /// By row: its place, see [`pack`]; 0 while it is not acknowledged.
    places: Vec<AtomicU64>,
    acknowledged: AtomicU64,
    partitions: Mutex<Vec<Partition>>,
    progress: Notify,
}

#[derive(Clone, Copy, Default)]
struct Partition {
    last: Option<Instant>,
    /// Its leader was killed: gaps count.
    is_watched: bool,
    pause: Duration,
}

/// A place as one number that is not 0.
pub(crate) const fn pack(partition: u32, offset: u64) -> u64 {
    1 + ((partition as u64) << 48 | offset)
}

impl Ledger {
    pub(crate) fn new(rows: u64, partitions: u32) -> Self {
        Self {
            places: (0..rows).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: AtomicU64::new(0),
            partitions: Mutex::new(vec![Partition::default(); partitions as usize]),
            progress: Notify::new(),
        }
    }

    fn partitions(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn acknowledge(&self, row: usize, delivered: &Delivered) {
        if let Some(place) = self.places.get(row) {
            place.store(pack(delivered.partition.get(), delivered.offset.get()), Ordering::Relaxed);
        }
        let now = Instant::now();
        if let Some(partition) = self.partitions().get_mut(delivered.partition.get() as usize) {
            if let (true, Some(last)) = (partition.is_watched, partition.last) {
                partition.pause = partition.pause.max(now - last);
            }
            partition.last = Some(now);
        }
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.progress.notify_waiters();
    }

    /// The place where a row was acknowledged; 0 if it was not.
    pub(crate) fn place(&self, row: usize) -> u64 {
        self.places.get(row).map_or(0, |place| place.load(Ordering::Relaxed))
    }

    pub(crate) fn rows(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this part of the rows is acknowledged.
    pub(crate) async fn wait_for(&self, part: f64) {
        #[allow(clippy::cast_precision_loss, reason = "a part of some millions")]
        let is_there = || self.acknowledged() as f64 >= part * self.rows() as f64;
        loop {
            let progress = self.progress.notified();
            if is_there() {
                return;
            }
            progress.await;
        }
    }

    /// From now on the gaps between acknowledgements of these partitions count.
    pub(crate) fn watch_pauses(&self, led: &[u32]) {
        let now = Instant::now();
        let mut partitions = self.partitions();
        for &number in led {
            if let Some(partition) = partitions.get_mut(number as usize) {
                partition.is_watched = true;
                partition.last = Some(now);
            }
        }
    }

    /// The longest gap.
    pub(crate) fn pause(&self) -> Duration {
        self.partitions().iter().map(|partition| partition.pause).max().unwrap_or_default()
    }
}
