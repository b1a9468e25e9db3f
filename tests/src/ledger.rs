//! Writers that keep a ledger of what was acknowledged, and an independent judge (pyarrow) that reads everything back.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    ops::Range,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use levada_client::{Delivered, PartitionId, Producer, Record};
use tokio::task::JoinHandle;

use crate::waiting::until;

/// Records that one writer keeps under way.
pub const IN_FLIGHT: usize = 200;

/// Everything that was acknowledged, and how long writes paused.
#[derive(Debug, Default)]
pub struct Ledger {
    /// `partition offset writer sequence`, one line an acknowledged record.
    lines: Mutex<String>,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    /// By partition: a pause of one does not hide behind the others' acknowledgements.
    partitions: Mutex<BTreeMap<u32, Acknowledgements>>,
}

#[derive(Debug)]
struct Acknowledgements {
    count: u64,
    last: Instant,
    pause: Duration,
}

impl Ledger {
    /// Records acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Records that nobody knows about: the producer gave up on them.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Acknowledged so far, by partition.
    #[must_use]
    pub fn by_partition(&self) -> BTreeMap<u32, u64> {
        lock(&self.partitions).iter().map(|(&number, partition)| (number, partition.count)).collect()
    }

    /// Waits until this many more records are acknowledged in every one of that many partitions.
    ///
    /// # Errors
    /// They are not within two minutes.
    pub async fn progress(&self, partitions: u32, more: u64) -> Result<()> {
        let before = self.by_partition();
        until("writes go on in every partition", async || {
            let now = self.by_partition();
            Ok((0..partitions).all(|number| now.get(&number) >= Some(&(before.get(&number).unwrap_or(&0) + more))))
        })
        .await
    }

    /// The longest time without an acknowledgement in any one partition since the last call.
    pub fn take_pause(&self) -> Duration {
        let mut partitions = lock(&self.partitions);
        partitions.values_mut().map(|partition| std::mem::take(&mut partition.pause)).max().unwrap_or_default()
    }

    fn note(&self, writer: u64, sequence: u64, delivered: &Delivered) {
        let mut lines = lock(&self.lines);
        let _ = writeln!(lines, "{} {} {writer} {sequence}", delivered.partition, delivered.offset);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut partitions = lock(&self.partitions);
        let first = Acknowledgements { count: 0, last: now, pause: Duration::ZERO };
        let partition = partitions.entry(delivered.partition.get()).or_insert(first);
        partition.pause = partition.pause.max(now - partition.last);
        partition.last = now;
        partition.count += 1;
    }

    /// Lets pyarrow read the whole topic over Flight and compare: every acknowledged record stands at its offset, no
    /// record stands twice, and in each partition each writer's records stand in the order in which they were sent.
    ///
    /// # Errors
    /// With the judge's words when they do not.
    pub fn judge(&self, python: &Path, flight: &str, topic: &str, dir: &Path) -> Result<String> {
        let acks = dir.join("acknowledged.txt");
        std::fs::write(&acks, lock(&self.lines).as_bytes())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/judge.py");
        // Where something was lost there may be no leader to read from.
        let output = Command::new("timeout")
            .arg("120")
            .arg(python)
            .arg(script)
            .args([flight, topic])
            .arg(&acks)
            .output()
            .with_context(|| format!("cannot run {}", python.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!("{said}\n{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(said)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts `writers` tasks that send numbered records, each to all partitions in turn.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub async fn start(
        bootstrap: &str,
        topic: &str,
        partitions: u32,
        writers: u64,
        ledger: &Arc<Ledger>,
    ) -> Result<Self> {
        Self::start_as(bootstrap, topic, partitions, 0..writers, ledger).await
    }

    /// The same under other names than those of writers before: whoever writes into a ledger later needs his own.
    ///
    /// # Errors
    /// When the cluster cannot be reached.
    pub async fn start_as(
        bootstrap: &str,
        topic: &str,
        partitions: u32,
        writers: Range<u64>,
        ledger: &Arc<Ledger>,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let producer = Arc::new(Producer::builder(bootstrap).build().await?);
        let tasks = writers.map(|writer| {
            let (stop, producer) = (Arc::clone(&stop), Arc::clone(&producer));
            tokio::spawn(write(producer, topic.to_owned(), partitions, writer, Arc::clone(ledger), stop))
        });
        Ok(Self { writers: tasks.collect(), stop })
    }

    /// Ends the load without waiting for anything.
    pub fn abort(self) {
        self.writers.iter().for_each(JoinHandle::abort);
    }

    /// Ends the load; every record under way is waited for.
    ///
    /// # Errors
    /// When a writer failed.
    pub async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await??;
        }
        Ok(())
    }
}

async fn write(
    producer: Arc<Producer>,
    topic: String,
    partitions: u32,
    writer: u64,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let mut under_way = VecDeque::new();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) || !under_way.is_empty() {
        if !stop.load(Ordering::Relaxed) && under_way.len() < IN_FLIGHT {
            let value = format!("{writer} {sequence} {}", "x".repeat(usize::try_from(sequence % 900)?));
            let partition = PartitionId(u32::try_from(sequence % u64::from(partitions))?);
            let delivery = producer.send(&topic, Record::new(&value).with_partition(partition)).await?;
            under_way.push_back((sequence, delivery));
            sequence += 1;
            if sequence % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            continue;
        }
        if let Some((sequence, delivery)) = under_way.pop_front() {
            match delivery.await {
                Ok(delivered) => ledger.note(writer, sequence, &delivered),
                Err(_) => drop(ledger.unknown.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
    Ok(())
}
