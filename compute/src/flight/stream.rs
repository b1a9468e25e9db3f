//! A reader of one partition: from a ticket to messages, one at a time, each when it is asked for.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    ids::{Offset, TopicPartition},
    limits::MIB,
    source::LogSource,
    ticket::{End, Start, Ticket},
};
use tokio_util::sync::CancellationToken;

use super::{message::batch_frames, progress::Progress, server::FlightDeps};
use crate::convert::view::{Limits, View, Waiting};

/// How much is read from the log at once.
const READ_BYTES: usize = MIB;
/// How long one wait for new records takes, before the reader looks around.
const WAIT: Duration = Duration::from_secs(10);
/// How long a read with an end waits for records that were committed when it began: a new leader may need a moment.
const COMMITTED_WAIT: Duration = Duration::from_secs(30);

/// A message, and the part of the log it was made of.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) made_of: MadeOf,
    pub(crate) rows: usize,
}

/// What it takes to make a message again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MadeOf {
    from: Offset,
    end: Offset,
    high_watermark: Offset,
}

/// A reader of one partition.
pub(crate) struct PartitionReader {
    source: Arc<dyn LogSource>,
    ctx: RequestContext,
    partition: TopicPartition,
    view: View,
    rows_max: usize,
    next: Offset,
    /// `None` follows.
    end: Option<Offset>,
    high_watermark: Offset,
    shutdown: CancellationToken,
    progress: Arc<Progress>,
}

impl PartitionReader {
    /// Checks a ticket and finds where it begins and ends.
    ///
    /// # Errors
    /// The topic or partition is gone, the reader may not read it, or the offsets are not there.
    pub(crate) async fn open(
        deps: &FlightDeps,
        ctx: RequestContext,
        ticket: &Ticket,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        let topic = deps.catalog.topic_by_id(&ctx, ticket.partition.topic).await?;
        deps.authorizer.authorize(&ctx, Action::Read, Resource::Topic(&topic.name))?;
        let view = View::new(&topic, &ticket.columns, &deps.codec)?;
        let partition = ticket.partition;
        let bounds = deps.source.bounds(&ctx, partition).await?;
        let (log_start, high_watermark) = (bounds.log_start, bounds.high_watermark);
        let source = Arc::clone(&deps.source);
        let at_time =
            async |time| offset_at(source.as_ref(), &ctx, partition, &view, time, log_start..high_watermark).await;
        let next = match ticket.start {
            Start::Offset(offset) => offset,
            Start::Latest => high_watermark,
            Start::Time(time) => at_time(time).await?,
        };
        let end = match ticket.end {
            End::Offset(offset) => Some(offset.min(high_watermark)),
            End::Time(time) => Some(at_time(time).await?),
            End::Follow => None,
        };
        if next < log_start || next > high_watermark {
            return Err(Error::new(
                ErrorCode::OffsetOutOfRange,
                format!(
                    "offset {next} of {}/{} is not there: the log has {log_start} up to before {high_watermark}",
                    topic.name, partition.partition
                ),
            ));
        }
        let rows_max = ticket.max_batch_rows as usize;
        let progress = Arc::new(Progress::new(end.is_none()));
        Ok(Self { source, ctx, partition, view, rows_max, next, end, high_watermark, shutdown, progress })
    }

    /// The columns that the reader gets.
    pub(crate) const fn view(&self) -> &View {
        &self.view
    }

    /// How far it has come.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The next message; `None` at the end. Waits for new records if the reader follows.
    ///
    /// # Errors
    /// What the log answers; the server goes down.
    pub(crate) async fn next(&mut self, waiting: &mut Waiting) -> Result<Option<Chunk>> {
        loop {
            if self.shutdown.is_cancelled() {
                return Err(going_down());
            }
            let end = match self.end {
                Some(end) if self.next >= end => return Ok(None),
                Some(end) => end,
                None => Offset(i64::MAX.unsigned_abs()),
            };
            if waiting.is_empty() {
                if !self.fill(waiting).await? {
                    self.wait().await?;
                }
                continue;
            }
            let from = self.next;
            let built = self.view.build(self.partition.partition, waiting, from, &Limits::new(end, self.rows_max))?;
            debug_assert!(built.next > from || !waiting.is_empty(), "every pass goes on");
            self.next = built.next.max(from);
            if let Some(encoded) = built.message {
                let made_of = MadeOf { from, end: built.next, high_watermark: self.high_watermark };
                let frames = batch_frames(encoded, built.next, self.high_watermark);
                return Ok(Some(Chunk { frames, made_of, rows: built.rows }));
            }
        }
    }

    /// The same message again.
    ///
    /// # Errors
    /// What the log answers; the records may be gone by now.
    pub(crate) async fn again(&self, made_of: MadeOf) -> Result<Vec<Bytes>> {
        let mut waiting = Waiting::default();
        let mut next = made_of.from;
        while next < made_of.end {
            let chunk = self.source.read(&self.ctx, self.partition, next, READ_BYTES).await?;
            if chunk.batches.is_empty() {
                break;
            }
            waiting.extend(chunk.batches);
            next = waiting.next_offset()?.unwrap_or(made_of.end);
        }
        let limits = Limits::exactly(made_of.end);
        let built = self.view.build(self.partition.partition, &mut waiting, made_of.from, &limits)?;
        let encoded = built.message.ok_or_else(|| Error::new(ErrorCode::OffsetOutOfRange, "the records are gone"))?;
        Ok(batch_frames(encoded, made_of.end, made_of.high_watermark))
    }

    /// Reads from the log; false if there is nothing yet.
    async fn fill(&mut self, waiting: &mut Waiting) -> Result<bool> {
        let chunk = self.source.read(&self.ctx, self.partition, self.next, READ_BYTES).await?;
        self.high_watermark = self.high_watermark.max(chunk.high_watermark);
        if chunk.batches.is_empty() {
            let skipped = chunk.next_offset > self.next;
            self.next = self.next.max(chunk.next_offset);
            return Ok(skipped);
        }
        waiting.extend(chunk.batches);
        Ok(true)
    }

    async fn wait(&mut self) -> Result<()> {
        let wait = if self.end.is_some() { COMMITTED_WAIT } else { WAIT };
        let above = self.source.wait_above(&self.ctx, self.partition, self.next, wait);
        self.progress.set_waits(true);
        let high_watermark = tokio::select! {
            high_watermark = above => high_watermark?,
            () = self.shutdown.cancelled() => return Err(going_down()),
        };
        self.progress.set_waits(false);
        if high_watermark <= self.next && self.end.is_some() {
            let why = format!("records from offset {} on were committed and are not served yet", self.next);
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        Ok(())
    }
}

fn going_down() -> Error {
    Error::new(ErrorCode::ShuttingDown, "the server goes down; read on at another node, by offset")
}

/// The first record not older than `time_ms`: exactly, where the log knows only its batch.
async fn offset_at(
    source: &dyn LogSource,
    ctx: &RequestContext,
    partition: TopicPartition,
    view: &View,
    time_ms: i64,
    log: Range<Offset>,
) -> Result<Offset> {
    // The ends of time stand for the ends of the log, without a search.
    match time_ms {
        i64::MIN => return Ok(log.start),
        i64::MAX => return Ok(log.end),
        _ => {}
    }
    let offset = source.offset_for_time(ctx, partition, time_ms).await?.max(log.start);
    if offset >= log.end {
        return Ok(log.end);
    }
    let chunk = source.read(ctx, partition, offset, 1).await?;
    let Some(batch) = chunk.batches.first() else { return Ok(offset) };
    let within = view.first_not_older(batch, time_ms)?;
    Ok(within.unwrap_or(offset).clamp(offset, log.end))
}
