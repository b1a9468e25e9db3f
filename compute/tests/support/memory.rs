//! The log: batches in memory, numbered, checked and remembered like those of a real one.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use levada_compute::codec::ArrowCodec;
use levada_protocol::{
    batch::{Attributes, BatchHeader, BatchProducer, NewRecord, RowsBuilder, stamp, validate_produced},
    codec::PayloadCodec,
    context::RequestContext,
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{ClusterId, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Term, TopicId, TopicPartition},
    source::{
        Appended, BoxFuture, Catalog, LogBounds, LogChunk, LogSink, LogSource, NewTopic, PartitionDescription,
        ProducerIdentity, TopicDescription, TopicSchema,
    },
    topic::{TopicConfig, check_topic_name},
};
use tokio::sync::Notify;

/// What happens to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is refused, and not done.
    Refused(ErrorCode),
    /// It is done, and an error reported.
    DoneBut(ErrorCode),
}

#[derive(Default)]
pub struct Partition {
    pub batches: Vec<Bytes>,
    pub log_start: u64,
    pub high_watermark: u64,
    /// The last batches of each producer: first and last sequence, base offset.
    producers: BTreeMap<i64, VecDeque<(i32, i32, u64)>>,
}

struct Topic {
    description: TopicDescription,
    partitions: Vec<Partition>,
}

pub struct MemoryLog {
    codec: Arc<ArrowCodec>,
    flight: SocketAddr,
    topics: Mutex<BTreeMap<String, Topic>>,
    grown: Notify,
    producers: AtomicI64,
    /// What happens to the next appends.
    pub faults: Mutex<VecDeque<Option<Fault>>>,
    /// How often it was read.
    pub reads: AtomicUsize,
    /// Partitions whose bounds are known elsewhere.
    pub elsewhere: Mutex<Vec<PartitionId>>,
    /// How long an append takes.
    pub append_delay: Mutex<Duration>,
}

impl MemoryLog {
    pub fn new(codec: Arc<ArrowCodec>, flight: SocketAddr) -> Self {
        Self {
            codec,
            flight,
            topics: Mutex::default(),
            grown: Notify::new(),
            producers: AtomicI64::new(100),
            faults: Mutex::default(),
            reads: AtomicUsize::new(0),
            elsewhere: Mutex::default(),
            append_delay: Mutex::default(),
        }
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Topic>> {
        self.topics.lock().unwrap()
    }

    /// Puts a batch at the end, as a leader would.
    pub fn push(&self, topic: &str, partition: usize, batch: &Bytes) -> u64 {
        let mut topics = self.topics();
        let offset = push(&mut topics.get_mut(topic).unwrap().partitions[partition], batch);
        drop(topics);
        self.grown.notify_waiters();
        offset
    }

    /// Puts rows with these values, one batch for each list.
    pub fn push_values(&self, topic: &str, partition: usize, values: &[&[u8]]) {
        let mut builder = RowsBuilder::new();
        for (time, value) in (1000..).zip(values) {
            builder.push(&NewRecord { timestamp_ms: time, value: Some(value), ..NewRecord::default() }).unwrap();
        }
        let batch = builder.finish(Attributes::default(), BatchProducer::NONE).unwrap();
        self.push(topic, partition, &batch);
    }

    /// Puts JSON objects into a typed topic.
    pub fn push_json(&self, topic: &str, partition: usize, rows: &[(i64, &str)]) {
        let mut builder = RowsBuilder::new();
        for (timestamp_ms, row) in rows {
            let record = NewRecord { timestamp_ms: *timestamp_ms, value: Some(row.as_bytes()), ..NewRecord::default() };
            builder.push(&record).unwrap();
        }
        let batch = builder.finish(Attributes::default(), BatchProducer::NONE).unwrap();
        let schema = self.topics()[topic].description.schema.clone().unwrap();
        let batch = self.codec.to_columns(&schema, &batch).unwrap();
        self.codec.validate(&schema, &batch).unwrap();
        self.push(topic, partition, &batch);
    }

    /// Looks at or changes a partition.
    pub fn with<T>(&self, topic: &str, partition: usize, change: impl FnOnce(&mut Partition) -> T) -> T {
        change(&mut self.topics().get_mut(topic).unwrap().partitions[partition])
    }

    fn find<T>(&self, id: TopicPartition, find: impl FnOnce(&mut Partition) -> Result<T>) -> Result<T> {
        let mut topics = self.topics();
        let topic = topics
            .values_mut()
            .find(|topic| topic.description.id == id.topic)
            .ok_or_else(|| Error::new(ErrorCode::UnknownTopic, "no such topic"))?;
        let partition = topic
            .partitions
            .get_mut(id.partition.get() as usize)
            .ok_or_else(|| Error::new(ErrorCode::UnknownPartition, "no such partition"))?;
        find(partition)
    }

    fn append_now(&self, id: TopicPartition, batch: &Bytes) -> Result<Appended> {
        let (config, schema) = {
            let topics = self.topics();
            let topic = topics.values().find(|topic| topic.description.id == id.topic);
            let topic = topic.ok_or_else(|| Error::new(ErrorCode::UnknownTopic, "no such topic"))?;
            (topic.description.config.clone(), topic.description.schema.clone())
        };
        let header = validate_produced(batch, config.max_message_bytes)?;
        match (&schema, header.is_columns()) {
            (Some(schema), true) => self.codec.validate(schema, batch)?,
            (None, false) => {}
            _ => return Err(Error::new(ErrorCode::SchemaMismatch, "rows and columns do not mix")),
        }
        self.find(id, |partition| {
            let (first, last) = (header.base_sequence, header.last_sequence());
            let remembered = partition.producers.entry(header.producer_id.get()).or_default();
            if let Some(known) = remembered.iter().find(|known| (known.0, known.1) == (first, last)) {
                return Ok(Appended { base_offset: Offset(known.2), duplicate: true });
            }
            let expected = remembered.back().map_or(0, |known| known.1 + 1);
            if first != expected {
                let why = format!("sequence {first}, where {expected} is expected");
                return Err(Error::new(ErrorCode::OutOfOrderSequence, why));
            }
            let offset = push(partition, batch);
            let remembered = partition.producers.entry(header.producer_id.get()).or_default();
            remembered.push_back((first, last, offset));
            if remembered.len() > 5 {
                remembered.pop_front();
            }
            Ok(Appended { base_offset: Offset(offset), duplicate: false })
        })
    }
}

fn push(partition: &mut Partition, batch: &Bytes) -> u64 {
    let offset = partition.high_watermark;
    let mut stamped = batch.to_vec();
    stamp(&mut stamped, Offset(offset), 1).unwrap();
    partition.high_watermark = BatchHeader::parse(&stamped).unwrap().next_offset().get();
    partition.batches.push(stamped.into());
    offset
}

impl LogSource for MemoryLog {
    fn bounds<'a>(&'a self, _: &'a RequestContext, partition: TopicPartition) -> BoxFuture<'a, Result<LogBounds>> {
        let elsewhere = self.elsewhere.lock().unwrap().contains(&partition.partition);
        let bounds = self.find(partition, |partition| {
            Ok(LogBounds {
                log_start: Offset(partition.log_start),
                high_watermark: Offset(partition.high_watermark),
                bytes: partition.batches.iter().map(|batch| batch.len() as u64).sum(),
                leader_epoch: Term(1),
            })
        });
        let bounds = if elsewhere { Err(Error::new(ErrorCode::NotLeader, "led elsewhere")) } else { bounds };
        Box::pin(async { bounds })
    }

    fn offset_for_time<'a>(
        &'a self,
        _: &'a RequestContext,
        partition: TopicPartition,
        timestamp_ms: i64,
    ) -> BoxFuture<'a, Result<Offset>> {
        let offset = self.find(partition, |partition| {
            let headers = partition.batches.iter().map(|batch| BatchHeader::parse(batch).unwrap());
            let found = headers.into_iter().find(|header| header.max_timestamp_ms >= timestamp_ms);
            Ok(found.map_or(Offset(partition.high_watermark), |header| header.base_offset))
        });
        Box::pin(async { offset })
    }

    fn read<'a>(
        &'a self,
        _: &'a RequestContext,
        partition: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<LogChunk>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let chunk = self.find(partition, |partition| {
            if offset.get() < partition.log_start || offset.get() > partition.high_watermark {
                return Err(Error::new(ErrorCode::OffsetOutOfRange, format!("offset {offset} is not there")));
            }
            let mut batches = Vec::new();
            let (mut bytes, mut next_offset) = (0, offset);
            let first =
                partition.batches.partition_point(|batch| BatchHeader::parse(batch).unwrap().last_offset() < offset);
            for batch in &partition.batches[first..] {
                if !batches.is_empty() && bytes + batch.len() > max_bytes {
                    break;
                }
                bytes += batch.len();
                next_offset = BatchHeader::parse(batch).unwrap().next_offset();
                batches.push(batch.clone());
            }
            let (high_watermark, log_start) = (Offset(partition.high_watermark), Offset(partition.log_start));
            Ok(LogChunk { batches, next_offset, high_watermark, log_start })
        });
        Box::pin(async { chunk })
    }

    fn wait_above<'a>(
        &'a self,
        _: &'a RequestContext,
        partition: TopicPartition,
        offset: Offset,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Offset>> {
        Box::pin(async move {
            let above = async {
                loop {
                    let grown = self.grown.notified();
                    let end = self.find(partition, |partition| Ok(Offset(partition.high_watermark)))?;
                    if end > offset {
                        return Ok(end);
                    }
                    grown.await;
                }
            };
            match tokio::time::timeout(wait, above).await {
                Ok(end) => end,
                Err(_) => self.find(partition, |partition| Ok(Offset(partition.high_watermark))),
            }
        })
    }
}

impl LogSink for MemoryLog {
    fn init_producer<'a>(&'a self, _: &'a RequestContext) -> BoxFuture<'a, Result<ProducerIdentity>> {
        let id = ProducerId(self.producers.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move { Ok(ProducerIdentity { id, epoch: ProducerEpoch(0) }) })
    }

    fn append<'a>(
        &'a self,
        _: &'a RequestContext,
        partition: TopicPartition,
        batch: Bytes,
    ) -> BoxFuture<'a, Result<Appended>> {
        Box::pin(async move {
            let fault = self.faults.lock().unwrap().pop_front().flatten();
            let delay = *self.append_delay.lock().unwrap();
            tokio::time::sleep(delay).await;
            let result = match fault {
                Some(Fault::Refused(code)) => Err(Error::new(code, "refused by the test")),
                Some(Fault::DoneBut(code)) => {
                    self.append_now(partition, &batch)?;
                    Err(Error::new(code, "lost by the test"))
                }
                None => self.append_now(partition, &batch),
            };
            self.grown.notify_waiters();
            result
        })
    }
}

impl Catalog for MemoryLog {
    fn cluster_id(&self) -> ClusterId {
        ClusterId::from_bytes([7; 16])
    }

    fn topics<'a>(&'a self, _: &'a RequestContext) -> BoxFuture<'a, Result<Vec<TopicDescription>>> {
        let topics = self.topics().values().map(|topic| topic.description.clone()).collect();
        Box::pin(async { Ok(topics) })
    }

    fn topic<'a>(&'a self, _: &'a RequestContext, name: &'a str) -> BoxFuture<'a, Result<TopicDescription>> {
        let found = self.topics().get(name).map(|topic| topic.description.clone());
        let found = found.ok_or_else(|| Error::new(ErrorCode::UnknownTopic, format!("there is no topic {name:?}")));
        Box::pin(async { found })
    }

    fn topic_by_id<'a>(&'a self, _: &'a RequestContext, id: TopicId) -> BoxFuture<'a, Result<TopicDescription>> {
        let found =
            self.topics().values().find(|topic| topic.description.id == id).map(|topic| topic.description.clone());
        let found = found.ok_or_else(|| Error::new(ErrorCode::UnknownTopic, format!("there is no topic {id}")));
        Box::pin(async { found })
    }

    fn create_topic<'a>(&'a self, _: &'a RequestContext, new: NewTopic) -> BoxFuture<'a, Result<TopicDescription>> {
        let create = || {
            check_topic_name(&new.name)?;
            let config = TopicConfig::from_map(&new.config)?;
            let schema = new.schema_json.as_deref().map(|json| self.codec.check_schema(json)).transpose()?;
            let mut topics = self.topics();
            if topics.contains_key(&new.name) {
                return Err(Error::new(ErrorCode::TopicExists, format!("{} exists", new.name)));
            }
            let node = NodeAddresses { node: NodeId(1), flight: self.flight.to_string(), ..NodeAddresses::default() };
            let partition = |partition| PartitionDescription {
                partition: PartitionId(partition),
                leader: Some(node.clone()),
                replicas: vec![node.clone()],
            };
            let mut id = [9; 16];
            id[0] = u8::try_from(topics.len()).unwrap();
            let description = TopicDescription {
                name: new.name.clone(),
                id: TopicId::from_bytes(id),
                config,
                schema: schema.map(|json| TopicSchema { id: 1, json }),
                partitions: (0..new.partitions).map(partition).collect(),
            };
            let partitions = (0..new.partitions).map(|_| Partition::default()).collect();
            topics.insert(new.name.clone(), Topic { description: description.clone(), partitions });
            Ok(description)
        };
        let created = create();
        Box::pin(async { created })
    }

    fn delete_topic<'a>(&'a self, _: &'a RequestContext, name: &'a str) -> BoxFuture<'a, Result<()>> {
        let removed = self.topics().remove(name).map(|_| ());
        let removed = removed.ok_or_else(|| Error::new(ErrorCode::UnknownTopic, format!("there is no topic {name:?}")));
        self.grown.notify_waiters();
        Box::pin(async { removed })
    }
}

/// The memory of this process that is its own.
pub fn rss_anon_bytes() -> usize {
    of_this_process("RssAnon:")
}

/// The most memory that this process had so far.
pub fn peak_bytes() -> usize {
    of_this_process("VmHWM:")
}

fn of_this_process(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}
