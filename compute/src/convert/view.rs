//! What a reader of one partition gets: which columns, and how much of the log in one message.
//!
//! Small batches are put together until a message is worth sending, large ones go out alone, too large ones in parts.
//! How batches are cut into messages depends on nothing but the log and the offset a message begins at and ends before:
//! a message that had to be let go of can be made again, byte for byte ([`View::build`] with [`Limits::exactly`]).
#![deny(clippy::indexing_slicing)]

use std::{collections::VecDeque, sync::Arc};

use arrow_schema::SchemaRef;
use bytes::Bytes;
use levada_protocol::{
    batch::{BatchHeader, Rows},
    codec::PayloadCodec,
    error::{Error, ErrorCode},
    ids::{Offset, PartitionId},
    limits::{KIB, MIB},
    source::{TopicDescription, TopicSchema},
};

use super::{
    columns::{StoredColumns, TypedView, choose},
    rows::{Bounds, Taken, UntypedColumn, UntypedRows},
};
use crate::{codec::ArrowCodec, ipc::parts::Encoded, schema::UNTYPED};

/// A message is closed once it has this many bytes.
const MESSAGE_BYTES_TARGET: usize = MIB;
/// A columns batch from this size on is sent alone, as it is stored.
const ALONE_BYTES_MIN: usize = 256 * KIB;
/// A columns batch above this is sent in parts: many clients take messages of up to 4 MiB only.
const MESSAGE_BYTES_MAX: usize = 4 * MIB - 256 * KIB;

/// How much a message may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    end: Offset,
    rows_max: usize,
    bytes_target: usize,
    bytes_max: usize,
}

impl Limits {
    /// For a message of at most so many rows (0: no limit) that ends before `end`.
    pub(crate) fn new(end: Offset, rows_max: usize) -> Self {
        let rows_max = if rows_max == 0 { usize::MAX } else { rows_max };
        Self { end, rows_max, bytes_target: MESSAGE_BYTES_TARGET, bytes_max: MESSAGE_BYTES_MAX }
    }

    /// For a message that was made before: everything before `end`.
    pub(crate) const fn exactly(end: Offset) -> Self {
        Self { end, rows_max: usize::MAX, bytes_target: usize::MAX, bytes_max: usize::MAX }
    }
}

/// Batches that were read and not yet sent, in order.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    batches: VecDeque<Bytes>,
    /// The first of them, opened: decompressing it once is enough.
    open: Option<Rows>,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// What they take as they are stored.
    pub(crate) fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }

    pub(crate) fn extend(&mut self, batches: Vec<Bytes>) {
        self.batches.extend(batches);
    }

    /// The offset after the last one.
    pub(crate) fn next_offset(&self) -> Result<Option<Offset>, Error> {
        let last = self.batches.back().map(|batch| BatchHeader::parse(batch)).transpose()?;
        Ok(last.map(|header| header.next_offset()))
    }

    /// The first batch that holds a record at `from` or later for a reader; what comes before is dropped.
    fn front(&mut self, from: Offset) -> Result<Option<(BatchHeader, Bytes)>, Error> {
        while let Some(batch) = self.batches.front() {
            let header = BatchHeader::parse(batch)?;
            if header.last_offset() >= from && !header.attributes.is_control() && header.record_count > 0 {
                return Ok(Some((header, batch.clone())));
            }
            self.pop();
        }
        Ok(None)
    }

    fn pop(&mut self) {
        self.batches.pop_front();
        self.open = None;
    }
}

/// A message for a reader, or none, and where to go on.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) message: Option<Encoded>,
    pub(crate) rows: usize,
    pub(crate) next: Offset,
}

/// The columns that a reader asked for.
#[derive(Debug)]
pub(crate) enum View {
    Untyped { columns: Vec<UntypedColumn>, output: SchemaRef },
    Typed { view: TypedView, codec: Arc<ArrowCodec>, schema: TopicSchema },
}

impl View {
    /// # Errors
    /// A column that the topic does not have.
    pub(crate) fn new(topic: &TopicDescription, names: &[String], codec: &Arc<ArrowCodec>) -> Result<Self, Error> {
        if let Some(schema) = &topic.schema {
            let view = TypedView::new(codec.schema(schema)?, names)?;
            return Ok(Self::Typed { view, codec: Arc::clone(codec), schema: schema.clone() });
        }
        let output = choose(&UNTYPED, names)?;
        let chosen = |(field, column): (_, &UntypedColumn)| Some((output.fields().find(field)?.0, *column));
        let mut columns: Vec<_> = UNTYPED
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .zip(&UntypedColumn::ALL)
            .filter_map(chosen)
            .collect();
        columns.sort_by_key(|(position, _)| *position);
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        Ok(Self::Untyped { columns, output })
    }

    /// The schema of what the reader gets.
    pub(crate) const fn output(&self) -> &SchemaRef {
        match self {
            Self::Untyped { output, .. } => output,
            Self::Typed { view, .. } => view.output(),
        }
    }

    /// The first record of a batch that is not older than `time_ms`.
    ///
    /// # Errors
    /// A batch that is not what it should be.
    pub(crate) fn first_not_older(&self, batch: &Bytes, time_ms: i64) -> Result<Option<Offset>, Error> {
        match self {
            Self::Typed { view, .. } if BatchHeader::parse(batch)?.is_columns() => {
                let stored = StoredColumns::parse(view.schema(), batch)?;
                let row = stored.timestamps(view.schema())?.iter().position(|time| *time >= time_ms);
                Ok(row.map(|row| stored.header.base_offset.plus(row as u64)))
            }
            _ => {
                let rows = Rows::open(batch)?;
                let found = rows.iter().find(|record| record.as_ref().map_or(true, |r| r.timestamp_ms >= time_ms));
                Ok(found.transpose()?.map(|record| record.offset))
            }
        }
    }

    /// Makes the message that begins at `from`, of as much of what waits as the limits allow.
    ///
    /// # Errors
    /// A batch that is not what it should be.
    pub(crate) fn build(
        &self,
        partition: PartitionId,
        waiting: &mut Waiting,
        from: Offset,
        limits: &Limits,
    ) -> Result<Built, Error> {
        let last = waiting.next_offset()?.unwrap_or(from);
        let built = match self {
            Self::Untyped { columns, .. } => untyped(columns, partition, waiting, from, limits)?,
            Self::Typed { view, codec, schema } => typed(view, codec, schema, partition, waiting, from, limits)?,
        };
        // Whatever came behind the last record sent (markers, gaps) is done with as well.
        let next = if waiting.is_empty() { built.next.max(last) } else { built.next };
        Ok(Built { next, ..built })
    }
}

fn untyped(
    columns: &[UntypedColumn],
    partition: PartitionId,
    waiting: &mut Waiting,
    from: Offset,
    limits: &Limits,
) -> Result<Built, Error> {
    let mut next = from;
    let (mut rows_expected, mut bytes_expected) = (0, 0);
    for batch in &waiting.batches {
        rows_expected += BatchHeader::parse(batch)?.record_count as usize;
        bytes_expected += batch.len();
    }
    let rows_expected = rows_expected.min(limits.rows_max).min(bytes_expected / 8);
    let mut rows = UntypedRows::new(columns, partition, rows_expected, bytes_expected);
    let bounds = Bounds { end: limits.end, rows_max: limits.rows_max, bytes_target: limits.bytes_target };
    while let Some((header, batch)) = waiting.front(next)? {
        if header.base_offset >= limits.end || rows.rows() >= bounds.rows_max || rows.bytes() >= bounds.bytes_target {
            break;
        }
        if header.is_columns() {
            let why = format!("offset {} of an untyped topic holds columns", header.base_offset);
            return Err(Error::new(ErrorCode::CorruptBatch, why));
        }
        let open = match waiting.open.take() {
            Some(open) => open,
            None => Rows::open(&batch)?,
        };
        match rows.take(&open, next, &bounds)? {
            Taken::All => {
                next = header.next_offset();
                waiting.pop();
            }
            Taken::UpTo(offset) => {
                next = offset;
                waiting.open = Some(open);
                break;
            }
        }
    }
    let count = rows.rows();
    Ok(Built { message: (count > 0).then(|| rows.finish()), rows: count, next })
}

fn typed(
    view: &TypedView,
    codec: &ArrowCodec,
    schema: &TopicSchema,
    partition: PartitionId,
    waiting: &mut Waiting,
    from: Offset,
    limits: &Limits,
) -> Result<Built, Error> {
    let mut next = from;
    let mut pieces = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    let mut whole = false;
    while let Some((header, batch)) = waiting.front(next)? {
        let full = rows >= limits.rows_max || bytes >= limits.bytes_target;
        if header.base_offset >= limits.end || full || (rows > 0 && batch.len() >= ALONE_BYTES_MIN) {
            break;
        }
        let stored = if header.is_columns() {
            StoredColumns::parse(view.schema(), &batch)?
        } else {
            let mut columns = codec.to_columns(schema, &batch)?.to_vec();
            levada_protocol::batch::stamp(&mut columns, header.base_offset, header.leader_epoch)?;
            StoredColumns::parse(view.schema(), &columns.into())?
        };
        let row_of = |offset: Offset| {
            let row = offset.get().saturating_sub(header.base_offset.get());
            usize::try_from(row).unwrap_or(usize::MAX).min(stored.message.rows)
        };
        let (start, end) = (row_of(next), row_of(limits.end));
        let fit = if batch.len() > limits.bytes_max {
            (stored.message.rows.saturating_mul(limits.bytes_target) / batch.len()).max(1)
        } else {
            usize::MAX
        };
        let end = end.min(start.saturating_add(fit.min(limits.rows_max - rows)));
        whole = pieces.is_empty() && (start..end) == stored.rows();
        let share = batch.len() / stored.message.rows.max(1) * (end - start);
        if rows > 0 && bytes.saturating_add(share) > limits.bytes_target {
            break;
        }
        (rows, bytes) = (rows + (end - start), bytes.saturating_add(share));
        let done = end == stored.message.rows;
        next = if done { header.next_offset() } else { header.base_offset.plus(end as u64) };
        pieces.push((stored, start..end));
        if !done || (whole && batch.len() >= ALONE_BYTES_MIN) {
            if done {
                waiting.pop();
            }
            break;
        }
        waiting.pop();
    }
    let message = match pieces.as_slice() {
        [] => None,
        [(stored, _)] if whole => Some(view.whole(stored, partition)),
        pieces => Some(view.copied(pieces, partition)?),
    };
    Ok(Built { message, rows, next })
}
