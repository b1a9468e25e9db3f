//! Reading: committed batches, log bounds, and waiting for more. Any replica serves what it knows to be committed.

use std::{sync::Arc, time::Duration};

use levada_protocol::{
    context::{Action, RequestContext},
    error::{Error, ErrorCode, Result},
    ids::{Offset, TopicPartition},
    limits::MIB,
    messages::native::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse},
    source::{LogBounds, LogChunk},
};
use levada_storage_engine::error::ReadError;
use metrics::counter;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    connection::Session,
    produce::{place, unexpected},
    responder::Responder,
    told::Told,
};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::view::{PartitionState, PartitionView},
    metrics as names,
    node::event::{Answer, Request},
    runtime::{budget::Charge, clock},
};

/// The most that one fetch gives (and one batch, if that is larger).
const FETCH_BYTES_MAX: usize = 8 * MIB;
/// The longest that a fetch waits for something new.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(30);

impl Broker {
    /// Committed batches from the one that holds `offset`, from the replica here.
    pub(crate) async fn read_here(
        &self,
        ctx: &RequestContext,
        place: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<LogChunk> {
        let topic = self.topic(ctx, Action::Read, place.topic)?;
        let view = self.replica(&topic, place)?;
        let state = *view.state.borrow();
        check_offset(place, offset, state)?;
        let end = LogChunk {
            batches: Vec::new(),
            next_offset: offset,
            high_watermark: state.high_watermark,
            log_start: state.log_start,
        };
        if offset == state.high_watermark {
            return Ok(end);
        }
        let read = blocking(move || view.log.read(offset, max_bytes, state.high_watermark)).await?;
        let read = read.map_err(|error| read_failed(&self.told, place, &error))?;
        counter!(names::READ_BYTES.name).increment(read.batches.iter().map(|batch| batch.len() as u64).sum());
        Ok(LogChunk { batches: read.batches, next_offset: read.next_offset, ..end })
    }

    /// Waits until the replica here knows more than `offset` to be committed; answers its high watermark.
    pub(crate) async fn wait_here(
        &self,
        ctx: &RequestContext,
        place: TopicPartition,
        offset: Offset,
        wait: Duration,
    ) -> Result<Offset> {
        let topic = self.topic(ctx, Action::Read, place.topic)?;
        let view = self.replica(&topic, place)?;
        let mut states = view.state.subscribe();
        let wait = clock::left(clock::deadline(ctx, wait));
        let more = states.wait_for(|state| state.removed || state.high_watermark > offset);
        let _ = timeout(wait, more).await;
        let state = *states.borrow();
        if state.removed {
            return Err(Error::new(ErrorCode::UnknownTopic, format!("{place} was deleted")));
        }
        Ok(state.high_watermark)
    }

    /// Waits until the replica here knows everything before `end` to be committed.
    pub(crate) async fn catch_up(&self, ctx: &RequestContext, place: TopicPartition, end: Offset) -> Result<()> {
        // An offset is waited for by the one before it.
        let Some(last) = end.get().checked_sub(1) else { return Ok(()) };
        let here = self.wait_here(ctx, place, Offset(last), DEFAULT_WAIT).await?;
        if here < end {
            let why = format!("this replica of {place} is at offset {here}, and {end} is committed; try again");
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        Ok(())
    }

    /// The first offset whose batch holds a record not older than `timestamp_ms`, from the replica here.
    pub(crate) async fn offset_for_time_here(
        &self,
        ctx: &RequestContext,
        place: TopicPartition,
        timestamp_ms: i64,
    ) -> Result<Offset> {
        let topic = self.topic(ctx, Action::Read, place.topic)?;
        let view = self.replica(&topic, place)?;
        find_time(&self.told, view, place, timestamp_ms).await
    }

    /// Log start and high watermark, no older than this call, if the partition is led here.
    pub(crate) async fn bounds_here(&self, ctx: &RequestContext, place: TopicPartition) -> Result<LogBounds> {
        self.topic(ctx, Action::Read, place.topic)?;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        match self.worker.ask(Request::Bounds { partition: place }, deadline, Charge::default()).await? {
            Answer::Bounds(bounds) => Ok(bounds),
            _ => Err(unexpected()),
        }
    }

    /// Both ends of a partition that is led here, and an offset for a time if one is asked for.
    pub(crate) async fn bounds_and_time_here(
        &self,
        ctx: &RequestContext,
        place: TopicPartition,
        timestamp_ms: Option<i64>,
    ) -> Result<(LogBounds, Option<Offset>)> {
        let bounds = self.bounds_here(ctx, place).await?;
        let offset = match timestamp_ms {
            Some(time) => Some(self.offset_for_time_here(ctx, place, time).await?),
            None => None,
        };
        Ok((bounds, offset))
    }
}

async fn find_time(told: &Told, view: Arc<PartitionView>, place: TopicPartition, timestamp_ms: i64) -> Result<Offset> {
    let high_watermark = view.state.borrow().high_watermark;
    let found = blocking(move || view.log.offset_for_time(timestamp_ms, high_watermark)).await?;
    let found = found.map_err(|error| read_failed(told, place, &error))?;
    Ok(found.unwrap_or(high_watermark))
}

/// Maps may have to be read from the disk first.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    spawn_blocking(read).await.map_err(|_| Error::new(ErrorCode::Internal, "reading the log failed; the log says more"))
}

/// Whether an offset is one that can be read here, or may become one.
fn check_offset(place: TopicPartition, offset: Offset, state: PartitionState) -> Result<()> {
    let (start, end) = (state.log_start, state.high_watermark);
    if offset >= start && offset <= end {
        return Ok(());
    }
    if offset > end && !state.leading {
        // It may be committed: another replica may have shown it to the caller.
        let why = format!("this replica of {place} is at offset {end}, {offset} is not known here yet");
        return Err(Error::new(ErrorCode::NotReady, why));
    }
    let why = format!("offset {offset} of {place} is out of range: the log goes from {start} to {end}");
    Err(Error::new(ErrorCode::OffsetOutOfRange, why))
}

fn read_failed(told: &Told, place: TopicPartition, error: &ReadError) -> Error {
    let code = match error {
        ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        ReadError::NotNow(_) => {
            tracing::warn!(%place, %error, "log.unread");
            ErrorCode::Busy
        }
        ReadError::Damaged(_) => {
            // Whoever reads tries again several times in a second.
            if told.is_due(&format!("{place} {error}"), clock::instant()) {
                tracing::error!(%place, %error, "log.damaged");
            }
            ErrorCode::Damaged
        }
    };
    Error::new(code, format!("{place}: {error}"))
}

/// Batches, on the native door.
pub(crate) async fn fetch(broker: Arc<Broker>, session: Arc<Session>, request: FetchRequest, mut responder: Responder) {
    let ctx = session.context();
    let read = async {
        let place = place(&request.topic_id, request.partition)?;
        let offset = Offset(request.offset);
        let wait = Duration::from_millis(request.wait_ms.into()).min(FETCH_WAIT_MAX);
        if !wait.is_zero() {
            broker.wait_here(&ctx, place, offset, wait).await?;
        }
        let max_bytes = (request.max_bytes as usize).clamp(1, FETCH_BYTES_MAX);
        // The answer is paid for before it is read: what was asked for, or one batch if that is larger.
        let topic = broker.topic(&ctx, Action::Read, place.topic)?;
        let bytes = max_bytes.max(topic.config.max_message_bytes);
        let charge = session.answers.take(bytes).await.and(broker.answers.take(bytes).await);
        Ok((broker.read_here(&ctx, place, offset, max_bytes).await?, charge))
    };
    let result: Result<(LogChunk, Charge)> = read.await;
    let result = result.map(|(chunk, charge)| {
        responder.hold(charge);
        let response =
            FetchResponse { high_watermark: chunk.high_watermark.get(), log_start_offset: chunk.log_start.get() };
        (response, chunk.batches)
    });
    responder.answer_with(result);
}

/// Both ends of a partition, and an offset for a time, on the native door.
pub(crate) async fn list_offsets(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: ListOffsetsRequest,
    responder: Responder,
) {
    let ctx = session.context();
    let list = async {
        let place = place(&request.topic_id, request.partition)?;
        let (bounds, offset) = broker.bounds_and_time_here(&ctx, place, request.timestamp_ms).await?;
        Ok(ListOffsetsResponse {
            log_start_offset: bounds.log_start.get(),
            high_watermark: bounds.high_watermark.get(),
            offset_for_time: offset.map(Offset::get),
            leader_epoch: bounds.leader_epoch.get(),
            bytes: bounds.bytes,
        })
    };
    responder.answer(list.await);
}
