//! Records that are produced all the time, and what every replica shows of them: byte for byte what was produced.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use arrow_array::{Array as _, RecordBatch, cast::AsArray as _, types::Int64Type};
use arrow_flight::{FlightClient, Ticket as FlightTicket};
use bytes::Bytes;
use futures::TryStreamExt as _;
use levada_client::{Delivery, Offset, PartitionId, Producer, Record};
use levada_protocol::{
    ids::{TopicId, TopicPartition},
    ticket::{End, Start, Ticket},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

/// Records under way in a partition.
const IN_FLIGHT: usize = 64;
/// The longest value.
const VALUE_BYTES_MAX: usize = 1_500;

/// Everything that was produced to a partition, by offset: one producer sends, in order, and nothing is refused.
#[derive(Debug, Default)]
struct Produced {
    values: Mutex<Vec<Bytes>>,
    acknowledged: AtomicUsize,
}

impl Produced {
    fn push(&self, value: Bytes) -> usize {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.push(value);
        values.len() - 1
    }

    /// Whether this record stands at this offset.
    fn is(&self, offset: usize, key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let produced = values.get(offset);
        produced.is_some_and(|produced| value == Some(produced) && key == Some(offset.to_string().as_bytes()))
    }
}

/// What a replica shows.
pub(super) enum Shown {
    /// All that was acknowledged, as it was produced.
    All,
    /// Nothing wrong, but not all.
    NotYet(String),
}

/// Writers at work.
#[derive(Debug)]
pub(super) struct Stream {
    partitions: Vec<Arc<Produced>>,
    writers: Vec<JoinHandle<Result<()>>>,
    pause_ms: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Stream {
    /// Begins to write to all partitions of a topic, as fast as it goes.
    pub(super) async fn start(bootstrap: &str, topic: &str, partitions: u32, seed: u64) -> Result<Self> {
        let producer = Arc::new(Producer::builder(bootstrap).build().await?);
        let mut stream =
            Self { partitions: Vec::new(), writers: Vec::new(), pause_ms: Arc::default(), stop: Arc::default() };
        for number in 0..partitions {
            let produced = Arc::new(Produced::default());
            let writer = Writer {
                producer: Arc::clone(&producer),
                topic: topic.to_owned(),
                partition: PartitionId(number),
                produced: Arc::clone(&produced),
                pause_ms: Arc::clone(&stream.pause_ms),
                stop: Arc::clone(&stream.stop),
                dice: StdRng::seed_from_u64(seed ^ u64::from(number) << 32),
            };
            stream.partitions.push(produced);
            stream.writers.push(tokio::spawn(writer.write()));
        }
        Ok(stream)
    }

    /// From now on so long between two records of a partition.
    pub(super) fn pace(&self, pause_ms: u32) {
        self.pause_ms.store(pause_ms, Ordering::Relaxed);
    }

    /// Records acknowledged so far, by partition.
    pub(super) fn acknowledged(&self) -> Vec<usize> {
        self.partitions.iter().map(|produced| produced.acknowledged.load(Ordering::Acquire)).collect()
    }

    /// Ends it; everything under way is waited for.
    pub(super) async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await??;
        }
        Ok(())
    }

    /// Whether a replica shows all that is acknowledged of a partition, and at every offset what was produced; why not yet, if it does
    /// not answer or ends too early.
    pub(super) async fn show(&self, flight: &str, topic: TopicId, number: u32) -> Result<Shown> {
        ensure!(!self.writers.iter().any(JoinHandle::is_finished), "a writer has ended: a write failed");
        let produced = self.partitions.get(number as usize).context("there is such a partition")?;
        let end = produced.acknowledged.load(Ordering::Acquire);
        let partition = TopicPartition { topic, partition: PartitionId(number) };
        let ticket = Ticket::new(partition, Start::Offset(Offset(0)), End::Offset(Offset(end as u64)));
        let ticket = FlightTicket { ticket: ticket.encode() };
        let endpoint = Endpoint::from_shared(format!("http://{flight}"))?;
        let asked = async { anyhow::Ok(FlightClient::new(endpoint.connect().await?).do_get(ticket).await?) };
        let mut batches = match asked.await {
            Ok(batches) => batches,
            Err(error) => return Ok(Shown::NotYet(format!("{error:#}"))),
        };
        let mut shown = 0;
        loop {
            match batches.try_next().await {
                Ok(Some(batch)) => shown = compare(&batch, shown, produced)?,
                Ok(None) if shown >= end => return Ok(Shown::All),
                Ok(None) => return Ok(Shown::NotYet(format!("it ends at {shown}, and {end} are acknowledged"))),
                Err(error) => return Ok(Shown::NotYet(error.to_string())),
            }
        }
    }
}

/// The offset behind a batch whose every record was produced, the first at this offset.
fn compare(batch: &RecordBatch, from: usize, produced: &Produced) -> Result<usize> {
    let column = |name| batch.column_by_name(name).with_context(|| format!("no column {name}: {}", batch.schema()));
    let offsets = column("offset")?.as_primitive_opt::<Int64Type>().context("offsets are int64")?;
    let keys = column("key")?.as_binary_opt::<i32>().context("keys are binary")?;
    let values = column("value")?.as_binary_opt::<i32>().context("values are binary")?;
    for (row, expected) in (0..batch.num_rows()).zip(from..) {
        let offset = offsets.value(row);
        let is_next = usize::try_from(offset).is_ok_and(|offset| offset == expected);
        ensure!(is_next, "offset {offset} is shown where {expected} follows");
        let [key, value] = [keys, values].map(|column| column.is_valid(row).then(|| column.value(row)));
        if !produced.is(expected, key, value) {
            bail!("at offset {offset} another record is shown than was produced");
        }
    }
    Ok(from + batch.num_rows())
}

struct Writer {
    producer: Arc<Producer>,
    topic: String,
    partition: PartitionId,
    produced: Arc<Produced>,
    pause_ms: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    dice: StdRng,
}

impl Writer {
    async fn write(mut self) -> Result<()> {
        let mut under_way = VecDeque::new();
        while !self.stop.load(Ordering::Relaxed) {
            let mut value = vec![0; self.dice.random_range(0..VALUE_BYTES_MAX)];
            self.dice.fill(&mut value[..]);
            let value = Bytes::from(value);
            let offset = self.produced.push(value.clone());
            let key = offset.to_string();
            let record = Record::new(&value).with_key(&key).with_partition(self.partition);
            under_way.push_back((offset, self.producer.send(&self.topic, record).await?));
            if under_way.len() >= IN_FLIGHT {
                self.wait_for_first(&mut under_way).await?;
            }
            match self.pause_ms.load(Ordering::Relaxed) {
                0 => {}
                pause => {
                    self.wait_for_first(&mut under_way).await?;
                    tokio::time::sleep(Duration::from_millis(pause.into())).await;
                }
            }
        }
        while !under_way.is_empty() {
            self.wait_for_first(&mut under_way).await?;
        }
        Ok(())
    }

    async fn wait_for_first(&self, under_way: &mut VecDeque<(usize, Delivery)>) -> Result<()> {
        let Some((offset, delivery)) = under_way.pop_front() else { return Ok(()) };
        let delivered = delivery.await?.offset.get();
        ensure!(delivered == offset as u64, "record {offset} of {} stands at offset {delivered}", self.partition);
        self.produced.acknowledged.store(offset + 1, Ordering::Release);
        Ok(())
    }
}
