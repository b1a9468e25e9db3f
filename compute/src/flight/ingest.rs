//! `DoPut`: a stream of record batches into a topic.
//!
//! Each message is checked as a whole before any of it is appended, divided among partitions (by key, like Kafka's
//! clients, or in turn where there is none), and cut into batches of the log. A bounded number of those is under way
//! at a time, in order within a partition; the stream is not read while there is no room. Every appended batch is
//! answered with partition and base offset once it is durable.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arrow_array::{Array, UInt32Array, cast::AsArray};
use arrow_flight::{FlightData, PutResult};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use levada_protocol::{
    batch::{BatchProducer, sequence_plus},
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    ids::{PartitionId, TopicPartition},
    limits::{MIB, PRODUCER_BATCHES_REMEMBERED},
    partitioner::partition_of_key,
    source::{Appended, ProducerIdentity, TopicDescription},
};
use metrics::counter;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::{
    append::{Append, Cutter, Settled},
    incoming::{Incoming, Records},
    options::{WriteOptions, to_json},
    server::Shared,
    status::{counted, status_of},
};
use crate::{
    ipc::schema,
    metrics::{FLIGHT_WRITTEN_BYTES_TOTAL, FLIGHT_WRITTEN_RECORDS_TOTAL},
    schema::TypedSchema,
};

/// The most bytes of one stream on their way into the log.
const IN_FLIGHT_BYTES_MAX: usize = 32 * MIB;

/// Takes a stream to its end; what happens on the way goes to `results`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    ctx: RequestContext,
    mut stream: Streaming<FlightData>,
    results: mpsc::Sender<std::result::Result<PutResult, Status>>,
) {
    let ended = match Ingest::begin(&shared, ctx, &mut stream).await {
        Ok(mut ingest) => ingest.run(&mut stream, &results).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        // A client that is gone needs no answer.
        let _ = results.send(Err(status_of(&counted(error)))).await;
    }
}

/// A partition that is written to.
#[derive(Default)]
struct Lane {
    next_sequence: i32,
    in_flight: usize,
    last: Option<Settled>,
}

/// A batch that is durable.
struct Acked {
    partition: PartitionId,
    message: u64,
    rows: u32,
    bytes: usize,
    result: Result<Appended>,
}

/// Records of one message for one partition, not all of them appended yet.
struct Pending {
    partition: PartitionId,
    message: u64,
    cutter: Cutter,
}

struct Ingest {
    shared: Arc<Shared>,
    ctx: RequestContext,
    topic: TopicDescription,
    schema: Option<Arc<TypedSchema>>,
    partition: Option<PartitionId>,
    incoming: Incoming,
    identity: ProducerIdentity,
    lanes: BTreeMap<PartitionId, Lane>,
    pending: VecDeque<Pending>,
    in_flight: FuturesOrdered<BoxFuture<'static, Acked>>,
    in_flight_bytes: usize,
    messages: u64,
}

impl Ingest {
    /// Reads the descriptor and the schema, which begin a stream.
    async fn begin(shared: &Arc<Shared>, ctx: RequestContext, stream: &mut Streaming<FlightData>) -> Result<Self> {
        let Some(first) = message(stream).await? else {
            return Err(Error::new(ErrorCode::InvalidRequest, "the stream is empty; it begins with a descriptor"));
        };
        let options = WriteOptions::parse(first.flight_descriptor.as_ref())?;
        let deps = &shared.deps;
        let topic = deps.catalog.topic(&ctx, &options.topic).await?;
        deps.authorizer.authorize(&ctx, Action::Write, Resource::Topic(&topic.name))?;
        let partition = match options.partition {
            Some(partition) if !topic.partitions.iter().any(|known| known.partition == partition) => {
                let why = format!("{} has no partition {partition}; it has {}", topic.name, topic.partitions.len());
                return Err(Error::new(ErrorCode::UnknownPartition, why));
            }
            None if topic.partitions.len() == 1 => topic.partitions.first().map(|only| only.partition),
            partition => partition,
        };
        let schema = topic.schema.as_ref().map(|schema| deps.codec.schema(schema)).transpose()?;
        let incoming = Incoming::new(schema.as_deref(), schema::parse(&first.data_header)?)?;
        let mut lanes = BTreeMap::new();
        let identity = match (options.producer, partition) {
            (Some((identity, sequence)), Some(partition)) => {
                lanes.insert(partition, Lane { next_sequence: sequence, ..Lane::default() });
                identity
            }
            _ => deps.sink.init_producer(&ctx).await?,
        };
        Ok(Self {
            shared: Arc::clone(shared),
            ctx,
            topic,
            schema,
            partition,
            incoming,
            identity,
            lanes,
            pending: VecDeque::new(),
            in_flight: FuturesOrdered::new(),
            in_flight_bytes: 0,
            messages: 0,
        })
    }

    async fn run(
        &mut self,
        stream: &mut Streaming<FlightData>,
        results: &mpsc::Sender<std::result::Result<PutResult, Status>>,
    ) -> Result<()> {
        let shutdown = self.shared.shutdown.clone();
        let mut ended = None;
        loop {
            if let Err(error) = self.launch() {
                self.end(&mut ended, Err(error));
            }
            if self.in_flight.is_empty()
                && let Some(ended) = ended.take()
            {
                return ended;
            }
            let room = self.pending.is_empty() && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
            tokio::select! {
                biased;
                Some(acked) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    match self.settle(acked) {
                        Ok(result) => {
                            // A writer that is gone gets no answers; what is under way is finished.
                            if results.send(Ok(result)).await.is_err() {
                                self.end(&mut ended, Ok(()));
                            }
                        }
                        // What else is under way may be durable already, and is answered before the error.
                        Err(error) => self.end(&mut ended, Err(error)),
                    }
                }
                () = shutdown.cancelled(), if ended.is_none() => {
                    ended = Some(Err(Error::new(ErrorCode::ShuttingDown, "the server goes down; write to another")));
                }
                next = message(stream), if ended.is_none() && room => match next {
                    Ok(None) => ended = Some(Ok(())),
                    Ok(Some(data)) => {
                        if let Err(error) = self.accept(&data) {
                            ended = Some(Err(error));
                        }
                    }
                    Err(error) => ended = Some(Err(error)),
                }
            }
        }
    }

    /// Nothing new is appended from here on; the first error is the one that is told.
    fn end(&mut self, ended: &mut Option<Result<()>>, how: Result<()>) {
        self.pending.clear();
        if !matches!(ended, Some(Err(_))) {
            *ended = Some(how);
        }
    }

    /// Checks a message and divides it among partitions.
    fn accept(&mut self, data: &FlightData) -> Result<()> {
        if data.data_header.is_empty() {
            // Metadata alone means nothing here.
            return Ok(());
        }
        let records = self.incoming.records(data, now_ms())?;
        let message = self.messages;
        self.messages += 1;
        if records.rows() == 0 {
            return Ok(());
        }
        for (partition, records) in self.divide(records, message)? {
            let cutter = Cutter::new(self.schema.clone(), records, self.topic.config.max_message_bytes);
            self.pending.push_back(Pending { partition, message, cutter });
        }
        Ok(())
    }

    fn divide(&self, records: Records, message: u64) -> Result<Vec<(PartitionId, Records)>> {
        if let Some(partition) = self.partition {
            return Ok(vec![(partition, records)]);
        }
        let count = u32::try_from(self.topic.partitions.len()).unwrap_or(u32::MAX).max(1);
        let turn = self.identity.id.get().unsigned_abs().wrapping_add(message) % u64::from(count);
        let turn = PartitionId(u32::try_from(turn).unwrap_or(0));
        let keys = records.hidden.keys.as_binary::<i32>();
        if keys.null_count() == keys.len() {
            return Ok(vec![(turn, records)]);
        }
        let mut rows: BTreeMap<PartitionId, Vec<u32>> = BTreeMap::new();
        for (row, key) in (0..).zip(keys) {
            rows.entry(key.map_or(turn, |key| partition_of_key(key, count))).or_default().push(row);
        }
        rows.into_iter().map(|(partition, rows)| Ok((partition, records.take(&UInt32Array::from(rows))?))).collect()
    }

    /// Sends what there is room for.
    fn launch(&mut self) -> Result<()> {
        while let Some(pending) = self.pending.front_mut() {
            let lane = self.lanes.entry(pending.partition).or_default();
            if lane.in_flight >= PRODUCER_BATCHES_REMEMBERED || self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX {
                return Ok(());
            }
            let ProducerIdentity { id, epoch } = self.identity;
            let producer = BatchProducer { id, epoch, base_sequence: lane.next_sequence };
            let Some((batch, rows)) = pending.cutter.next(producer)? else {
                self.pending.pop_front();
                continue;
            };
            let (settled, receiver) = oneshot::channel();
            let (partition, message, bytes) = (pending.partition, pending.message, batch.len());
            let append = Append {
                sink: Arc::clone(&self.shared.deps.sink),
                ctx: self.ctx.clone(),
                partition: TopicPartition { topic: self.topic.id, partition },
                batch,
                before: lane.last.replace(receiver.shared()).filter(|_| lane.in_flight > 0),
                settled,
                timeout: self.shared.config.borrow().append_timeout,
            };
            lane.next_sequence = sequence_plus(lane.next_sequence, rows);
            lane.in_flight += 1;
            self.in_flight_bytes += bytes;
            let acked = append.run().map(move |result| Acked { partition, message, rows, bytes, result });
            self.in_flight.push_back(acked.boxed());
        }
        Ok(())
    }

    fn settle(&mut self, acked: Acked) -> Result<PutResult> {
        let Acked { partition, message, rows, bytes, result } = acked;
        self.in_flight_bytes -= bytes;
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.in_flight -= 1;
        }
        let appended = result?;
        counter!(FLIGHT_WRITTEN_BYTES_TOTAL.name).increment(bytes as u64);
        counter!(FLIGHT_WRITTEN_RECORDS_TOTAL.name).increment(rows.into());
        let app_metadata = to_json(&json!({
            "message": message,
            "partition": partition.get(),
            "base_offset": appended.base_offset.get(),
            "records": rows,
            "duplicate": appended.duplicate,
        }));
        Ok(PutResult { app_metadata })
    }
}

async fn message(stream: &mut Streaming<FlightData>) -> Result<Option<FlightData>> {
    stream.message().await.map_err(|status| {
        let code = match status.code() {
            tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => ErrorCode::RecordTooLarge,
            _ => ErrorCode::InvalidRequest,
        };
        Error::new(code, format!("the stream broke off: {}", status.message()))
    })
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
