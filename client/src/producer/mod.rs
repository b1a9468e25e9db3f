//! The producer: records in, places in the log out.
//!
//! A record is copied into its partition's open batch; a batch is sent when it is full or has waited for `linger`, and
//! acknowledged when it is durable on a quorum of replicas. What happens in between, whatever fails, is decided by a
//! core without I/O (`core`); a task per producer performs it (`driver`).

mod config;
mod core;
mod delivery;
mod driver;
mod record;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use levada_protocol::{
    batch::Compression,
    error::{Error, ErrorCode, Result},
};
use tokio::sync::{SemaphorePermit, TryAcquireError};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    core::{Core, Settings},
    delivery::Outcome,
    driver::{Driver, Shared},
};
use crate::{cluster::Cluster, error::DeliveryError, retry::Rng};

pub use self::{
    config::{ProducerBuilder, ProducerConfig},
    delivery::{Callback, Delivery},
    record::{Delivered, Record},
};

/// Writes records, idempotently: a retry never doubles one. Cheap to clone; clones share everything.
///
/// ```no_run
/// # async fn run() -> levada_client::Result<()> {
/// use levada_client::{Producer, Record};
///
/// let producer = Producer::builder("localhost:9170").build().await?;
/// let delivery = producer.send("orders", Record::new("a value").with_key("a key")).await?;
/// println!("durable at offset {}", delivery.await?.offset);
/// producer.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    buffer_bytes: usize,
    stop: CancellationToken,
    /// Ends the driver with the last clone.
    _stop: DropGuard,
}

/// What a producer has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records acknowledged.
    pub records_delivered: u64,
    /// Records that failed.
    pub records_failed: u64,
    /// Batches that were acknowledged or failed.
    pub batches: u64,
    /// Bytes of records that wait for their outcome.
    pub buffered_bytes: usize,
}

impl Producer {
    /// A producer for the cluster of these nodes: `host:port`, several separated by commas.
    pub fn builder(bootstrap: &str) -> ProducerBuilder {
        ProducerBuilder::new(bootstrap)
    }

    /// The same from a whole configuration.
    ///
    /// # Errors
    /// A setting is wrong; no node answers.
    pub async fn with_config(config: ProducerConfig) -> Result<Self> {
        config.check()?;
        let cluster = Cluster::connect(config.client).await?;
        let settings = Settings {
            batch_bytes: config.batch_bytes,
            linger: config.linger,
            delivery_timeout: config.delivery_timeout,
            slow_after: config.slow_after,
            compress: config.compression != Compression::None,
        };
        let core = Core::new(settings, Rng::from_entropy().next());
        let shared = Arc::new(Shared::new(cluster, core, config.buffer_bytes));
        let stop = CancellationToken::new();
        tokio::spawn(Driver::run(Arc::clone(&shared), config.compression, stop.clone()));
        let handle = Handle { shared, buffer_bytes: config.buffer_bytes, _stop: stop.clone().drop_guard(), stop };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Takes a record. Waits while the buffer is full, and for the topic's metadata when it is first used. The record
    /// is durable when the [`Delivery`] resolves; records of one task to one partition keep their order.
    ///
    /// # Errors
    /// No such topic or partition; the record is too large; the producer is closed. The record was not taken then.
    pub async fn send(&self, topic: &str, record: Record<'_>) -> Result<Delivery> {
        let (outcome, index) = self.take(topic, &record).await?;
        Ok(Delivery::new(outcome, index))
    }

    /// Takes a record as [`Producer::send`] does, and calls back when its outcome is known. The callback runs on the
    /// producer's task: it must be quick, and must not block.
    ///
    /// # Errors
    /// As [`Producer::send`]; `callback` is not called then.
    pub async fn send_with_callback(
        &self,
        topic: &str,
        record: Record<'_>,
        callback: impl FnOnce(std::result::Result<Delivered, DeliveryError>) + Send + 'static,
    ) -> Result<()> {
        let (outcome, index) = self.take(topic, &record).await?;
        outcome.on_resolved(index, Box::new(callback));
        Ok(())
    }

    /// Takes a record if that is possible without waiting.
    ///
    /// # Errors
    /// As [`Producer::send`]; `Busy` when the buffer is full, `NotReady` when the topic was never used before.
    pub fn try_send(&self, topic: &str, record: Record<'_>) -> Result<Delivery> {
        let bytes = self.bytes_of(&record)?;
        let permit = match self.handle.shared.buffer.try_acquire_many(bytes) {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => {
                return Err(Error::new(ErrorCode::Busy, "the producer's buffer is full; wait for deliveries"));
            }
            Err(TryAcquireError::Closed) => return Err(self.closed()),
        };
        match self.append(topic, &record, permit)? {
            Ok((outcome, index)) => Ok(Delivery::new(outcome, index)),
            Err(_) => Err(Error::new(ErrorCode::NotReady, format!("topic {topic:?} is not known yet; use send first"))),
        }
    }

    async fn take(&self, topic: &str, record: &Record<'_>) -> Result<(Arc<Outcome>, u32)> {
        let shared = &self.handle.shared;
        let bytes = self.bytes_of(record)?;
        let mut permit = match shared.buffer.try_acquire_many(bytes) {
            Ok(permit) => permit,
            Err(_) => {
                // What waits for more records holds the bytes that we wait for.
                shared.state().core.hurry();
                shared.wake.notify_one();
                shared.buffer.acquire_many(bytes).await.map_err(|_| self.closed())?
            }
        };
        loop {
            permit = match self.append(topic, record, permit)? {
                Ok(taken) => return Ok(taken),
                Err(permit) => permit,
            };
            let described = shared.cluster.fresh_topic(topic).await?;
            shared.state().core.add_topic(shared.now(), &described);
        }
    }

    /// Appends a record to its batch; gives the permit back if the topic is not known.
    fn append<'a>(
        &'a self,
        topic: &str,
        record: &Record<'_>,
        permit: SemaphorePermit<'a>,
    ) -> Result<std::result::Result<(Arc<Outcome>, u32), SemaphorePermit<'a>>> {
        let shared = &self.handle.shared;
        let now_ms = record.timestamp_ms.unwrap_or_else(now_ms);
        let (appended, wake) = {
            let mut state = shared.state();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            let Some(topic) = state.core.topic(topic) else { return Ok(Err(permit)) };
            let appended = state.core.append(shared.now(), topic, record, now_ms, permit.num_permits());
            (appended, state.core.wants_poll())
        };
        if wake {
            shared.wake.notify_one();
        }
        let appended = appended?;
        // The batch gives the bytes back when it has its outcome.
        permit.forget();
        Ok(Ok((appended.delivery, appended.index)))
    }

    fn bytes_of(&self, record: &Record<'_>) -> Result<u32> {
        let bytes = record.buffered_bytes();
        u32::try_from(bytes).ok().filter(|_| bytes <= self.handle.buffer_bytes).ok_or_else(|| {
            Error::new(
                ErrorCode::RecordTooLarge,
                format!("a record takes {bytes} bytes; the producer's buffer has {}", self.handle.buffer_bytes),
            )
        })
    }

    fn closed(&self) -> Error {
        let closed = self.handle.shared.state().closed.clone();
        closed.unwrap_or_else(|| Error::new(ErrorCode::ShuttingDown, "the producer is closed"))
    }

    /// Sends what waits for more records, and waits until everything taken so far has its outcome.
    ///
    /// # Errors
    /// The first failure among those records. The outcome of each is in its own [`Delivery`].
    pub async fn flush(&self) -> std::result::Result<(), DeliveryError> {
        let outcomes = self.handle.shared.state().core.flush();
        self.handle.shared.wake.notify_one();
        let mut result = Ok(());
        for outcome in outcomes {
            let delivered = Delivery::new(outcome, 0).await;
            result = result.and(delivered.map(drop));
        }
        result
    }

    /// Takes no more records, and waits until all have their outcome.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(&self) -> std::result::Result<(), DeliveryError> {
        let closed = || Error::new(ErrorCode::ShuttingDown, "the producer is closed");
        self.handle.shared.state().closed.get_or_insert_with(closed);
        let result = self.flush().await;
        self.handle.stop.cancel();
        result
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        let counters = &self.handle.shared.counters;
        let free = self.handle.shared.buffer.available_permits();
        ProducerStats {
            records_delivered: counters.delivered.load(Ordering::Relaxed),
            records_failed: counters.failed.load(Ordering::Relaxed),
            batches: counters.batches.load(Ordering::Relaxed),
            buffered_bytes: self.handle.buffer_bytes.saturating_sub(free),
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
