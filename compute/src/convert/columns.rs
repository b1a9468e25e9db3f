//! Columns batches as they are stored, and the message that readers get of them.
//!
//! A whole batch is not decoded: the message of a reader has the stored buffers that he wants, where they lie, and two
//! columns that are made for him (`_partition`, `_offset`). Parts of a batch, and small batches that go out together,
//! are joined buffer by buffer.
#![deny(clippy::indexing_slicing)]

use std::{ops::Range, sync::Arc};

use arrow_array::{cast::AsArray, types::TimestampMillisecondType};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use levada_protocol::{
    batch::{BatchHeader, ColumnsPayload},
    error::{Error, ErrorCode},
    ids::PartitionId,
};

use super::rows::numbers;
use crate::{
    ipc::{
        IpcError,
        join::{JoinedColumn, Source},
        layout::{self, Share},
        message::BatchMessage,
        parts::{Encoded, Parts},
        read,
    },
    schema::{OFFSET, PARTITION, TypedSchema},
};

/// A columns batch, taken apart. Shape and lengths are known to be sound, the data is not.
#[derive(Clone, Debug)]
pub(crate) struct StoredColumns {
    pub(crate) header: BatchHeader,
    pub(crate) message: BatchMessage,
    pub(crate) body: Bytes,
}

impl StoredColumns {
    /// # Errors
    /// `CorruptBatch`, or `SchemaMismatch` if the batch is of another schema.
    pub(crate) fn parse(schema: &TypedSchema, batch: &Bytes) -> Result<Self, Error> {
        let header = BatchHeader::parse(batch)?;
        let payload = ColumnsPayload::parse(batch)?;
        if payload.schema_id != schema.id() {
            return Err(Error::new(
                ErrorCode::SchemaMismatch,
                format!("the batch has schema {}, the topic has {}", payload.schema_id, schema.id()),
            ));
        }
        let message = BatchMessage::parse(&payload.metadata, payload.body.len())?;
        if u32::try_from(message.rows) != Ok(header.record_count) {
            let why = format!("{} rows, and the batch's header says {}", message.rows, header.record_count);
            return Err(IpcError::message(why).into());
        }
        read::check_shape(schema.stored().fields(), &message)?;
        Ok(Self { header, message, body: payload.body })
    }

    /// The records' times.
    ///
    /// # Errors
    /// `CorruptBatch`.
    pub(crate) fn timestamps(&self, schema: &TypedSchema) -> Result<ScalarBuffer<i64>, Error> {
        let wanted = |column| column == schema.own_count();
        let read = read::read(schema.stored().fields(), &self.message, &self.body, wanted)?;
        let times = read.first().and_then(|column| column.as_primitive_opt::<TimestampMillisecondType>());
        times.map(|times| times.values().clone()).ok_or_else(|| IpcError::message("there are no timestamps").into())
    }

    /// All rows.
    pub(crate) const fn rows(&self) -> Range<usize> {
        0..self.message.rows
    }
}

/// A column of what readers get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    /// The stored column of this number.
    Stored(usize),
    Partition,
    Offset,
}

/// The columns that a reader of a typed topic asked for.
#[derive(Debug)]
pub(crate) struct TypedView {
    schema: Arc<TypedSchema>,
    output: SchemaRef,
    picks: Vec<Pick>,
    /// Where each stored column's nodes and buffers begin, and how many there are.
    shares: Vec<(Share, Share)>,
}

impl TypedView {
    /// All columns if none is named.
    ///
    /// # Errors
    /// A name that the topic does not have.
    pub(crate) fn new(schema: Arc<TypedSchema>, names: &[String]) -> Result<Self, Error> {
        let output = choose(schema.served(), names)?;
        let stored = schema.stored();
        let picks = output.fields().iter().map(|field| match field.name().as_str() {
            PARTITION => Ok(Pick::Partition),
            OFFSET => Ok(Pick::Offset),
            name => stored.index_of(name).map(Pick::Stored),
        });
        let picks =
            picks.collect::<Result<_, _>>().map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?;
        let mut at = Share::default();
        let mut shares = Vec::with_capacity(stored.fields().len());
        for field in stored.fields() {
            let share = layout::share(field.data_type()).unwrap_or_default();
            shares.push((at, share));
            at = at.plus(share);
        }
        Ok(Self { schema, output, picks, shares })
    }

    pub(crate) const fn schema(&self) -> &Arc<TypedSchema> {
        &self.schema
    }

    /// The schema of what readers get.
    pub(crate) const fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// A whole batch, sharing the stored buffers.
    pub(crate) fn whole(&self, batch: &StoredColumns, partition: PartitionId) -> Encoded {
        let rows = batch.message.rows;
        let mut parts = Parts::new(rows, batch.message.codec);
        for pick in &self.picks {
            match pick {
                Pick::Partition => numbers(&mut parts, vec![partition.get().cast_signed(); rows]),
                Pick::Offset => numbers(&mut parts, offsets(batch, batch.rows()).collect()),
                Pick::Stored(column) => {
                    let (at, share) = self.shares.get(*column).copied().unwrap_or_default();
                    parts.shared(&batch.message, &batch.body, at, share);
                }
            }
        }
        parts.finish()
    }

    /// Rows of one batch or several, in buffers of their own.
    ///
    /// # Errors
    /// `CorruptBatch`.
    pub(crate) fn copied(
        &self,
        pieces: &[(StoredColumns, Range<usize>)],
        partition: PartitionId,
    ) -> Result<Encoded, Error> {
        let rows = pieces.iter().map(|(_, range)| range.len()).sum();
        let bytes =
            pieces.iter().map(|(batch, range)| batch.body.len() / batch.message.rows.max(1) * range.len()).sum();
        let mut sources: Vec<_> = pieces.iter().map(|(batch, _)| Source::new(&batch.message, &batch.body)).collect();
        let mut parts = Parts::new(rows, None);
        for pick in &self.picks {
            match pick {
                Pick::Partition => numbers(&mut parts, vec![partition.get().cast_signed(); rows]),
                Pick::Offset => {
                    let all = pieces.iter().flat_map(|(batch, range)| offsets(batch, range.clone()));
                    numbers(&mut parts, all.collect());
                }
                Pick::Stored(column) => {
                    let field = self.schema.stored().field(*column);
                    let at = self.shares.get(*column).map(|(at, _)| *at).unwrap_or_default();
                    let mut joined = JoinedColumn::new(field.data_type(), rows, bytes);
                    for (source, (_, range)) in sources.iter_mut().zip(pieces) {
                        let appended = joined.append(source, &mut at.clone(), range.clone());
                        appended.map_err(|why| IpcError::field(field.name(), why))?;
                    }
                    joined.finish(&mut parts);
                }
            }
        }
        Ok(parts.finish())
    }
}

fn offsets(batch: &StoredColumns, rows: Range<usize>) -> impl Iterator<Item = i64> {
    let base = batch.header.base_offset.get().cast_signed();
    rows.map(move |row| base + i64::try_from(row).unwrap_or(i64::MAX))
}

/// The columns of `schema` with these names, in this order; all of them if none is named.
///
/// # Errors
/// `InvalidRequest` naming the column that is not there, or there twice.
pub(crate) fn choose(schema: &SchemaRef, names: &[String]) -> Result<SchemaRef, Error> {
    if names.is_empty() {
        return Ok(Arc::clone(schema));
    }
    let invalid = |why: String| Error::new(ErrorCode::InvalidRequest, why);
    let mut picks = Vec::with_capacity(names.len());
    for name in names {
        let position = schema.index_of(name).map_err(|_| {
            let known: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            invalid(format!("there is no column {name:?}; there are {}", known.join(", ")))
        })?;
        if picks.contains(&position) {
            return Err(invalid(format!("column {name:?} is asked for twice")));
        }
        picks.push(position);
    }
    let fields = picks.iter().filter_map(|position| schema.fields().get(*position).cloned()).collect::<Vec<_>>();
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}
