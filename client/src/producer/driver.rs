//! The task that does what the producer's core wants done, and brings back what came of it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, BatchProducer, Compression, RowsBuilder},
    error::{Error, ErrorCode, Result},
    frame::{Api, Frame},
    ids::{NodeId, Offset, ProducerEpoch, ProducerId, TopicPartition},
    messages::native::{InitProducerRequest, InitProducerResponse, MetadataRequest, ProduceRequest, ProduceResponse},
    source::ProducerIdentity,
    trace::SpanKind,
};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    core::{AttemptId, BatchId, Core, Effect, Time},
    delivery::Outcome,
};
use crate::{
    call::Target,
    cluster::{Cluster, Metadata},
    error::{CallError, disconnected},
    pool::Pool,
};

/// Batches up to this are only checksummed, which takes microseconds, where the driver is.
const SEALED_INLINE_BYTES_MAX: usize = 16 << 10;

/// What handles and driver share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) cluster: Arc<Cluster>,
    state: Mutex<State>,
    /// The driver should look at the core.
    pub(super) wake: Notify,
    /// The free bytes of the buffer.
    pub(super) buffer: Semaphore,
    started: Instant,
    pub(super) counters: Counters,
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct State {
    pub(super) core: Core<Arc<Outcome>>,
    /// No record is taken any more.
    pub(super) closed: Option<Error>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) batches: AtomicU64,
}

impl Shared {
    pub(super) fn new(cluster: Arc<Cluster>, core: Core<Arc<Outcome>>, buffer_bytes: usize) -> Self {
        Self {
            cluster,
            state: Mutex::new(State { core, closed: None }),
            wake: Notify::new(),
            buffer: Semaphore::new(buffer_bytes),
            started: Instant::now(),
            counters: Counters::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Time {
        self.started.elapsed()
    }

    /// Tells the senders of a batch, and frees its bytes.
    fn deliver(&self, effect: Effect<Arc<Outcome>>) {
        if let Effect::Deliver { delivery, partition, records, reserved, result } = effect {
            let counter = if result.is_ok() { &self.counters.delivered } else { &self.counters.failed };
            counter.fetch_add(records.into(), Ordering::Relaxed);
            self.counters.batches.fetch_add(1, Ordering::Relaxed);
            self.buffer.add_permits(reserved);
            delivery.resolve(result.map(|base_offset| (partition, base_offset)));
        }
    }

    /// Fails whatever has no outcome; nothing is taken any more.
    fn abort(&self, error: &Error) {
        let mut effects = Vec::new();
        {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| error.clone());
            state.core.abort(error);
            state.core.poll(self.now(), &mut effects);
        }
        effects.into_iter().for_each(|effect| self.deliver(effect));
        self.buffer.close();
    }
}

/// What came of an effect.
enum Event {
    Sealed(BatchId, Result<Bytes>),
    Answer(AttemptId, std::result::Result<Offset, CallError>),
    Identity(Result<ProducerIdentity>),
    Metadata(Metadata),
}

/// The task.
pub(super) struct Driver {
    shared: Arc<Shared>,
    /// Connections for produce alone.
    pool: Pool,
    compression: Compression,
    events: mpsc::UnboundedSender<Event>,
}

/// However the driver ends, nobody waits for ever.
struct AbortOnDrop(Arc<Shared>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort(&Error::new(
            ErrorCode::ShuttingDown,
            "the producer was dropped before the record was acknowledged; call close() first",
        ));
    }
}

impl Driver {
    /// Runs until `stop`.
    pub(super) async fn run(shared: Arc<Shared>, compression: Compression, stop: CancellationToken) {
        let _abort = AbortOnDrop(Arc::clone(&shared));
        let (events, mut inbox) = mpsc::unbounded_channel();
        let pool = Pool::new(shared.cluster.config().clone(), shared.cluster.id());
        let driver = Self { shared, pool, compression, events };
        let mut effects = Vec::new();
        let mut arrived = Vec::new();
        loop {
            let deadline = {
                let mut state = driver.shared.state();
                let now = driver.shared.now();
                for event in arrived.drain(..) {
                    driver.on_event(&mut state.core, now, event);
                }
                state.core.poll(now, &mut effects);
                state.core.next_deadline()
            };
            effects.drain(..).for_each(|effect| driver.perform(effect));
            let deadline = driver.shared.started + deadline.unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                count = inbox.recv_many(&mut arrived, 256) => debug_assert!(count > 0, "the driver holds a sender"),
                () = driver.shared.wake.notified() => {}
                () = sleep_until(deadline) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn on_event(&self, core: &mut Core<Arc<Outcome>>, now: Time, event: Event) {
        match event {
            Event::Sealed(batch, sealed) => core.on_sealed(now, batch, sealed),
            Event::Answer(attempt, answer) => {
                if let Err(CallError { error: Error { leader: Some(leader), .. }, .. }) = &answer {
                    self.shared.cluster.learn(leader);
                }
                core.on_answer(now, attempt, answer);
            }
            Event::Identity(answer) => core.on_identity(now, answer),
            Event::Metadata(metadata) => core.on_metadata(now, &metadata.topics, &metadata.unknown),
        }
    }

    fn perform(&self, effect: Effect<Arc<Outcome>>) {
        match effect {
            Effect::Seal { batch, rows } => self.seal(batch, rows),
            Effect::Send { attempt, node, partition, bytes } => self.send(attempt, node, partition, bytes),
            Effect::InitProducer => self.init_producer(),
            Effect::Refresh { topics } => self.refresh(topics),
            deliver @ Effect::Deliver { .. } => self.shared.deliver(deliver),
        }
    }

    /// Compresses beside the runtime's workers: a large batch takes milliseconds. What takes less time than to wake up
    /// another thread is done at once.
    fn seal(&self, batch: BatchId, rows: RowsBuilder) {
        let events = self.events.clone();
        let compression = self.compression;
        let inline_bytes_max = if compression == Compression::None { SEALED_INLINE_BYTES_MAX } else { 0 };
        let is_little = rows.bytes() <= inline_bytes_max;
        let seal = move || {
            let attributes = Attributes::default().with_compression(compression);
            let sealed = rows
                .finish(attributes, BatchProducer::NONE)
                .map_err(|error| Error::new(ErrorCode::Internal, format!("a batch could not be made: {error}")));
            let _ = events.send(Event::Sealed(batch, sealed));
        };
        if is_little {
            seal();
        } else {
            tokio::task::spawn_blocking(seal);
        }
    }

    fn send(&self, attempt: AttemptId, node: NodeId, partition: TopicPartition, bytes: Bytes) {
        let events = self.events.clone();
        let answer = move |answer| drop(events.send(Event::Answer(attempt, answer)));
        let Some(addresses) = self.shared.cluster.node(node) else {
            let error = disconnected(&format!("node {node}"), "its address is not known");
            return answer(Err(CallError::unsent(error)));
        };
        let config = self.shared.cluster.config();
        let timeout = config.request_timeout;
        let (followed, context) = config.tracing.follow();
        let (begun, batch_bytes) = (std::time::Instant::now(), bytes.len());
        let request = ProduceRequest {
            topic_id: Bytes::copy_from_slice(&partition.topic.to_bytes()),
            partition: partition.partition.get(),
            // The server gives up before we do, so that a slow one is not taken for a dead one.
            timeout_ms: u32::try_from((timeout * 3 / 4).as_millis()).unwrap_or(u32::MAX),
            traceparent: context.map(|context| context.to_string()).unwrap_or_default(),
        };
        let on_answer = Box::new(move |frame: std::result::Result<Frame, CallError>| {
            let offset = |frame: Frame| frame.message().map(|response: ProduceResponse| Offset(response.base_offset));
            let offset = frame.and_then(|frame| offset(frame).map_err(CallError::sent));
            if let Some(followed) = followed {
                let about = vec![
                    ("levada.node", node.get().into()),
                    ("levada.partition", u64::from(partition.partition.get()).into()),
                    ("levada.bytes", batch_bytes.into()),
                ];
                let error = offset.as_ref().err().map(|failed| failed.error.to_string());
                followed.end(("produce", SpanKind::Client), begun, std::time::Instant::now(), about, error);
            }
            answer(offset);
        });
        self.pool.get(&addresses.native).enqueue(Api::Produce, &request, bytes, timeout, on_answer);
    }

    fn init_producer(&self) {
        let (events, shared) = (self.events.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let call =
                shared.cluster.call(Target::Controller, Api::InitProducer, &InitProducerRequest {}, Duration::ZERO);
            let identity = match call.await {
                Ok(frame) => frame.message().and_then(identity_of),
                Err(failed) => Err(failed.error),
            };
            let _ = events.send(Event::Identity(identity));
        });
    }

    fn refresh(&self, topics: Vec<String>) {
        let (events, shared) = (self.events.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let request = MetadataRequest { topics, ..MetadataRequest::default() };
            let metadata = shared.cluster.refresh(request).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "producer.metadata.failed");
                Metadata::default()
            });
            let _ = events.send(Event::Metadata(metadata));
        });
    }
}

fn identity_of(response: InitProducerResponse) -> Result<ProducerIdentity> {
    let epoch = i16::try_from(response.producer_epoch)
        .map_err(|_| Error::new(ErrorCode::BadFrame, "the server gave a producer epoch that is none"))?;
    Ok(ProducerIdentity { id: ProducerId(response.producer_id), epoch: ProducerEpoch(epoch) })
}
