//! Batches of the log out of records, and one batch into the log however often it takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow_array::{Array, cast::AsArray};
use bytes::Bytes;
use futures::future::Shared;
use levada_protocol::{
    batch::{Attributes, BatchError, BatchProducer, NewRecord, RowsBuilder},
    context::RequestContext,
    error::{Error, ErrorClass, ErrorCode, Result},
    ids::TopicPartition,
    limits::{BATCH_RECORDS_MAX, MIB},
    source::{Appended, LogSink},
};
use metrics::counter;
use tokio::sync::oneshot;

use super::incoming::Records;
use crate::{convert::hidden::columns_batch, metrics::FLIGHT_WRITE_RETRIES_TOTAL, schema::TypedSchema};

/// Batches of the log are made about this large: large enough to be sent to readers as they are.
const BATCH_BYTES_TARGET: usize = 2 * MIB;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Cuts records into batches of the log. The same records are always cut the same way, so that a client that sends
/// them again, with the same sequence, doubles nothing.
#[derive(Debug)]
pub(crate) struct Cutter {
    schema: Option<Arc<TypedSchema>>,
    records: Records,
    at: usize,
    bytes_max: usize,
}

impl Cutter {
    pub(crate) const fn new(schema: Option<Arc<TypedSchema>>, records: Records, bytes_max: usize) -> Self {
        Self { schema, records, at: 0, bytes_max }
    }

    /// The next batch, signed, and how many records it has; `None` when all are cut.
    ///
    /// # Errors
    /// A record alone is larger than the topic allows.
    pub(crate) fn next(&mut self, producer: BatchProducer) -> Result<Option<(Bytes, u32)>> {
        let left = self.records.rows() - self.at;
        if left == 0 {
            return Ok(None);
        }
        let (batch, rows) = match &self.schema {
            Some(schema) => columns(schema, &self.records.slice(self.at, left), self.bytes_max, producer),
            None => rows(&self.records.slice(self.at, left), self.bytes_max, producer),
        }
        .map_err(|error| match error {
            BatchError::TooLarge { bytes, .. } => Error::new(
                ErrorCode::RecordTooLarge,
                format!(
                    "row {} takes {bytes} bytes, and the topic allows {} (max.message.bytes)",
                    self.at, self.bytes_max
                ),
            ),
            error => error.into(),
        })?;
        self.at += rows as usize;
        Ok(Some((batch, rows)))
    }
}

fn columns(
    schema: &TypedSchema,
    records: &Records,
    bytes_max: usize,
    producer: BatchProducer,
) -> std::result::Result<(Bytes, u32), BatchError> {
    let sizes = records.own.iter().chain([&records.hidden.keys, &records.hidden.headers]);
    let sizes = sizes.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    let per_row = sizes.sum::<usize>() / records.rows() + size_of::<i64>();
    let mut count = (BATCH_BYTES_TARGET.min(bytes_max) / per_row).clamp(1, records.rows().min(BATCH_RECORDS_MAX));
    loop {
        let part = records.slice(0, count);
        let batch = columns_batch(schema, &part.own, &part.hidden, producer, false)?;
        if batch.len() <= bytes_max {
            return Ok((batch, u32::try_from(count).unwrap_or(u32::MAX)));
        }
        if count == 1 {
            return Err(BatchError::TooLarge { bytes: batch.len(), max: bytes_max });
        }
        count = count.div_ceil(2);
    }
}

fn rows(records: &Records, bytes_max: usize, producer: BatchProducer) -> std::result::Result<(Bytes, u32), BatchError> {
    let target = BATCH_BYTES_TARGET.min(bytes_max);
    let values = records.own.first().map(|values| values.as_binary::<i32>());
    let keys = records.hidden.keys.as_binary::<i32>();
    let lists = records.hidden.headers.as_list::<i32>();
    let mut builder = RowsBuilder::new();
    for row in 0..records.rows() {
        let of_row = lists.value(row);
        let of_row = of_row.as_struct();
        let names = of_row.column(0).as_string::<i32>().iter().map(Option::unwrap_or_default);
        let headers: Vec<_> = names.zip(of_row.column(1).as_binary::<i32>().iter()).collect();
        let record = NewRecord {
            timestamp_ms: records.hidden.timestamps.value(row),
            key: keys.is_valid(row).then(|| keys.value(row)),
            value: values.filter(|values| values.is_valid(row)).map(|values| values.value(row)),
            headers: &headers,
        };
        let bytes = builder.bytes_with(&record);
        let full = bytes > target || builder.record_count() as usize >= BATCH_RECORDS_MAX;
        if full && !builder.is_empty() {
            break;
        }
        if bytes > bytes_max {
            return Err(BatchError::TooLarge { bytes, max: bytes_max });
        }
        builder.push(&record)?;
    }
    let count = builder.record_count();
    Ok((builder.finish(Attributes::default(), producer)?, count))
}

/// Tells who comes next in a partition how its predecessor ended: `true` for well.
pub(crate) type Settled = Shared<oneshot::Receiver<bool>>;

/// One batch on its way.
pub(crate) struct Append {
    pub(crate) sink: Arc<dyn LogSink>,
    pub(crate) ctx: RequestContext,
    pub(crate) partition: TopicPartition,
    pub(crate) batch: Bytes,
    /// The batch before it in its partition, if it is still on its way.
    pub(crate) before: Option<Settled>,
    pub(crate) settled: oneshot::Sender<bool>,
    pub(crate) timeout: Duration,
}

impl Append {
    /// Appends, and tries again what may be tried again: the log knows a batch by its sequence. A batch that found its
    /// predecessor missing waits for it.
    ///
    /// # Errors
    /// What the log answers last.
    pub(crate) async fn run(mut self) -> Result<Appended> {
        let result = self.try_until_settled().await;
        // Nobody listens behind the last one.
        let _ = self.settled.send(result.is_ok());
        result
    }

    async fn try_until_settled(&mut self) -> Result<Appended> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = PAUSE_MIN;
        loop {
            let error = match self.sink.append(&self.ctx, self.partition, self.batch.clone()).await {
                Ok(appended) => return Ok(appended),
                Err(error) => error,
            };
            let again = match error.class() {
                ErrorClass::Retry | ErrorClass::Redirect => true,
                ErrorClass::Fence => error.code == ErrorCode::OutOfOrderSequence && self.before.is_some(),
                ErrorClass::FixRequest | ErrorClass::Stop => false,
            };
            if !again || Instant::now() + pause > deadline {
                return Err(error);
            }
            counter!(FLIGHT_WRITE_RETRIES_TOTAL.name).increment(1);
            tracing::debug!(%error, partition = %self.partition, "flight.append.retried");
            match self.before.take() {
                Some(before) => {
                    if !before.await.unwrap_or(false) {
                        return Err(error);
                    }
                }
                None => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}
