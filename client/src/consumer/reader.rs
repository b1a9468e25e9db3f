//! Reads one partition to its end, from whichever node leads it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use arrow_array::{Array, Int64Array, RecordBatch};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_schema::SchemaRef;
use futures::TryStreamExt;
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode, Result},
    ids::{Offset, TopicPartition},
    messages::native::MetadataRequest,
    ticket::Ticket,
    trace::{SpanKind, TraceContext},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    PartitionBatch,
    flight::{Channels, error_of},
    leaderless::Leaderless,
    position::{End, Position, Start},
};
use crate::{
    cluster::Cluster,
    retry::{Backoff, Rng},
    topology::Topic,
};

/// After so long without a row, it is asked whether another node leads: one that is cut off from the others does not know
/// it, and has nothing new to send.
const QUIET: Duration = Duration::from_secs(3);

/// Which columns are asked for, and which of them are handed over.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    /// What the ticket says.
    columns: Vec<String>,
    /// The offset's name; always asked for, as it is what a reader goes on by.
    offset_column: &'static str,
    /// The offset is there for the reader alone, as the last column.
    hide_offset: bool,
}

impl Projection {
    pub(super) fn new(topic: &Topic, mut columns: Vec<String>) -> Self {
        let offset_column = if topic.schema.is_some() { "_offset" } else { "offset" };
        let hide_offset = !columns.is_empty() && !columns.iter().any(|column| column == offset_column);
        if hide_offset {
            columns.push(offset_column.to_owned());
        }
        Self { columns, offset_column, hide_offset }
    }

    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        if !self.hide_offset {
            return Ok(batch.clone());
        }
        let kept: Vec<usize> = (0..batch.num_columns().saturating_sub(1)).collect();
        batch.project(&kept).map_err(|error| senseless(&error))
    }

    fn apply_to_schema(&self, schema: &SchemaRef) -> Result<SchemaRef> {
        if !self.hide_offset {
            return Ok(Arc::clone(schema));
        }
        let kept: Vec<usize> = (0..schema.fields().len().saturating_sub(1)).collect();
        schema.project(&kept).map(Arc::new).map_err(|error| senseless(&error))
    }

    /// The rows' offsets.
    fn offsets<'a>(&self, batch: &'a RecordBatch) -> Result<&'a [i64]> {
        let column = batch.column_by_name(self.offset_column).and_then(|column| column.as_any().downcast_ref());
        let column: &Int64Array =
            column.ok_or_else(|| senseless(&format!("there is no column {:?} of int64", self.offset_column)))?;
        let offsets = column.values();
        let ascending = offsets.is_sorted_by(|a, b| a < b) && offsets.first().is_none_or(|first| *first >= 0);
        if column.null_count() > 0 || !ascending {
            return Err(senseless(&"offsets do not ascend"));
        }
        Ok(offsets)
    }
}

fn senseless(why: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorCode::BadFrame, format!("the server sends rows that make no sense: {why}"))
}

/// How a stream ended well.
enum Ended {
    /// The server had no more.
    Clean,
    /// Nobody wants the rest.
    Unwanted,
}

/// One partition's reader.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) cluster: Arc<Cluster>,
    pub(super) channels: Arc<Channels>,
    pub(super) topic: String,
    pub(super) partition: TopicPartition,
    pub(super) position: Position,
    /// Begins wherever the log begins.
    pub(super) from_earliest: bool,
    pub(super) projection: Projection,
    pub(super) batch_rows_max: u32,
    pub(super) schema: Arc<OnceLock<SchemaRef>>,
    pub(super) leaderless: Arc<Leaderless>,
    pub(super) batches: mpsc::Sender<Result<PartitionBatch>>,
}

impl Reader {
    /// Reads until the end, an error that no other try helps against, or the consumer's end.
    pub(super) async fn run(mut self, to_resolve: Option<(Start, End)>) {
        let read = async {
            if let Some((start, end)) = to_resolve {
                self.resolve(start, end).await?;
            }
            self.read().await
        };
        if let Err(mut error) = read.await {
            let (partition, topic) = (self.partition.partition, &self.topic);
            error.message = format!("partition {partition} of {topic} cannot be read on: {}", error.message);
            let _ = self.batches.send(Err(error)).await;
        }
    }

    /// Finds out where to begin and to end, once there is a leader who can say so.
    async fn resolve(&mut self, start: Start, end: End) -> Result<()> {
        loop {
            match Position::resolve(&self.cluster, &self.topic, self.partition.partition, start, end).await {
                Ok(position) => {
                    self.leaderless.set(self.partition.partition, false);
                    self.position = position;
                    return Ok(());
                }
                Err(error) if !self.position.follows() || !is_worth_another_try(&error) => return Err(error),
                Err(error) => tracing::debug!(partition = %self.partition, %error, "consumer.leaderless"),
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        let mut rng = Rng::from_entropy();
        let mut failures = 0;
        let mut progress = Instant::now();
        // Asked once even when the range is empty: the answer tells the columns.
        loop {
            let before = self.position;
            let ended = self.read_stream().await;
            let is_leaderless = ended.is_err() && self.cluster.leader(&self.topic, self.partition).is_none();
            self.leaderless.set(self.partition.partition, is_leaderless);
            let error = match ended {
                Ok(Ended::Unwanted) => return Ok(()),
                Ok(Ended::Clean) if self.position.is_at_end() => return Ok(()),
                Ok(Ended::Clean) if self.position.follows() => {
                    Error::new(ErrorCode::Disconnected, "the server ended a stream that has no end")
                }
                // A server that goes down may end a stream early and politely: only an end that comes again is one.
                Ok(Ended::Clean) if self.position == before => return Ok(()),
                Ok(Ended::Clean) => continue,
                Err(error) => error,
            };
            if self.position != before {
                (failures, progress) = (0, Instant::now());
                if self.position.is_at_end() {
                    return Ok(());
                }
            }
            if error.code == ErrorCode::OffsetOutOfRange && self.from_earliest && !self.position.has_begun() {
                self.restart().await?;
            } else if !is_worth_another_try(&error) {
                return Err(error);
            }
            let patience = self.cluster.config().operation_timeout;
            if !self.position.follows() && progress.elapsed() > patience {
                return Err(error);
            }
            failures += 1;
            tracing::debug!(partition = %self.partition, %error, failures, "consumer.moved");
            if failures > 1 {
                sleep(Backoff::ELECTION.pause(1, &mut rng)).await;
            }
            self.refresh().await;
        }
    }

    /// The log's start has moved past where it was when the consumer was built.
    async fn restart(&mut self) -> Result<()> {
        let offsets = self.cluster.list_offsets(&self.topic, self.partition.partition, None).await?;
        self.position.restart_at(offsets.log_start);
        Ok(())
    }

    async fn refresh(&self) {
        let request = MetadataRequest { topics: vec![self.topic.clone()], ..MetadataRequest::default() };
        if let Err(error) = self.cluster.refresh(request).await {
            tracing::debug!(%error, "consumer.metadata.failed");
        }
    }

    /// Where the leader serves Flight.
    fn address(&self) -> Result<String> {
        let unknown = |what: &str| Error::new(ErrorCode::NotReady, format!("{}: {what}", self.partition));
        let leader = self.cluster.leader(&self.topic, self.partition).ok_or_else(|| unknown("no leader is known"))?;
        let node = self.cluster.node(leader).ok_or_else(|| unknown("the leader's address is not known"))?;
        if node.flight.is_empty() {
            return Err(unknown("the leader serves no Flight"));
        }
        Ok(node.flight)
    }

    /// Waits until another node is known to lead.
    async fn moved_from(&self, address: &str) {
        loop {
            sleep(QUIET).await;
            self.refresh().await;
            if self.address().is_ok_and(|leader| leader != address) {
                return;
            }
        }
    }

    /// Hands over what one server sends.
    async fn read_stream(&mut self) -> Result<Ended> {
        let address = self.address()?;
        let ticket = Ticket {
            partition: self.partition,
            start: self.position.ticket_start(),
            end: self.position.ticket_end(),
            columns: self.projection.columns.clone(),
            max_batch_rows: self.batch_rows_max,
        };
        let (followed, context) = self.channels.tracing.follow();
        let begun = std::time::Instant::now();
        let ended = self.read_ticket(&address, &ticket, context).await;
        if let Some(followed) = followed {
            let about = vec![("levada.partition", u64::from(self.partition.partition.get()).into())];
            let error = ended.as_ref().err().map(ToString::to_string);
            followed.end(("read", SpanKind::Client), begun, std::time::Instant::now(), about, error);
        }
        ended
    }

    async fn read_ticket(&mut self, address: &str, ticket: &Ticket, context: Option<TraceContext>) -> Result<Ended> {
        let mut stream = self.channels.do_get(address, ticket, context).await?;
        self.leaderless.set(self.partition.partition, false);
        loop {
            let next = self.next_batch(&mut stream);
            let batch = tokio::select! {
                batch = next => batch.map_err(|error| error_of(address, &error))?,
                () = self.moved_from(address) => {
                    return Err(Error::new(ErrorCode::NotLeader, format!("{address} does not lead {} any more", self.partition)));
                }
                () = self.batches.closed() => return Ok(Ended::Unwanted),
            };
            let Some((records, progress)) = batch else { return Ok(Ended::Clean) };
            if let Some(batch) = self.take(&records, progress)?
                && self.batches.send(Ok(batch)).await.is_err()
            {
                return Ok(Ended::Unwanted);
            }
        }
    }

    async fn next_batch(
        &self,
        stream: &mut FlightDataDecoder,
    ) -> std::result::Result<Option<(RecordBatch, Progress)>, arrow_flight::error::FlightError> {
        while let Some(message) = stream.try_next().await? {
            match message.payload {
                DecodedPayload::RecordBatch(batch) => {
                    return Ok(Some((batch, Progress::parse(&message.inner.app_metadata))));
                }
                DecodedPayload::Schema(schema) => {
                    if let Ok(schema) = self.projection.apply_to_schema(&schema) {
                        self.schema.get_or_init(|| schema);
                    }
                }
                DecodedPayload::None => {}
            }
        }
        Ok(None)
    }

    /// Moves the position past a batch; what of it is new.
    fn take(&mut self, records: &RecordBatch, progress: Progress) -> Result<Option<PartitionBatch>> {
        let expected = i64::try_from(self.position.expected().get()).unwrap_or(i64::MAX);
        let offsets = self.projection.offsets(records)?;
        let known = offsets.partition_point(|offset| *offset < expected);
        let (Some(first), Some(last)) = (offsets.get(known), offsets.last()) else {
            progress.next_offset.into_iter().for_each(|next| self.position.advance(next));
            return Ok(None);
        };
        let offset = |offset: i64| Offset(offset.unsigned_abs());
        self.position.advance(offset(*last).plus(1));
        progress.next_offset.into_iter().for_each(|next| self.position.advance(next));
        let fresh = records.slice(known, records.num_rows() - known);
        Ok(Some(PartitionBatch {
            partition: self.partition.partition,
            first_offset: offset(*first),
            next_offset: self.position.expected(),
            high_watermark: progress.high_watermark,
            records: self.projection.apply(&fresh)?,
        }))
    }
}

/// What a server says beside a batch, if it is one of Levada's: `{"next_offset":5,"high_watermark":7}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    next_offset: Option<Offset>,
    high_watermark: Option<Offset>,
}

impl Progress {
    fn parse(app_metadata: &[u8]) -> Self {
        let text = std::str::from_utf8(app_metadata).unwrap_or_default();
        let number = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
            let digits = rest.trim_start();
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            digits.get(..end)?.parse().ok().map(Offset)
        };
        Self { next_offset: number("next_offset"), high_watermark: number("high_watermark") }
    }
}

/// Whether the rest can be had from another node, or from the same one later.
const fn is_worth_another_try(error: &Error) -> bool {
    match error.code.class() {
        ErrorClass::Retry | ErrorClass::Redirect => true,
        ErrorClass::Stop => matches!(error.code, ErrorCode::StorageFailed | ErrorCode::Damaged),
        ErrorClass::Fence | ErrorClass::FixRequest => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_the_metadata() {
        let both = Progress { next_offset: Some(Offset(5)), high_watermark: Some(Offset(7)) };
        assert_eq!(Progress::parse(br#"{"next_offset":5,"high_watermark":7}"#), both);
        assert_eq!(Progress::parse(br#"{ "high_watermark" : 1, "next_offset": 5 }"#).next_offset, Some(Offset(5)));
        for other in [&b""[..], b"\xff", b"{}", br#"{"next_offset":"5"}"#, br#"{"next_offset":99999999999999999999}"#] {
            assert_eq!(Progress::parse(other), Progress::default());
        }
    }
}
