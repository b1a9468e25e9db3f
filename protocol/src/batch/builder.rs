//! Builds a rows batch, byte for byte as Kafka's Java client does.

use bytes::Bytes;

use super::{
    Attributes, BatchError, BatchHeader, BatchProducer, Compression, HEADER_BYTES, MAGIC_ROWS, NO_LEADER_EPOCH,
    compression, header, varint,
};
use crate::{
    ids::Offset,
    limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_HEADERS_MAX, TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN},
};

/// A record to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// Its time, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers; a key may occur more than once.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Gathers records and makes a batch of them.
///
/// Invariants: `bytes` begins with room for the header; never more than [`BATCH_RECORDS_MAX`] records or
/// [`BATCH_BYTES_MAX`] bytes, compressed or not.
#[derive(Clone, Debug)]
pub struct RowsBuilder {
    bytes: Vec<u8>,
    record_count: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl Default for RowsBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl RowsBuilder {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(HEADER_BYTES)
    }

    /// An empty one that takes this many bytes, [`RowsBuilder::bytes`] like, before it allocates again.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(bytes.max(HEADER_BYTES));
        buffer.resize(HEADER_BYTES, 0);
        Self { bytes: buffer, record_count: 0, base_timestamp_ms: 0, max_timestamp_ms: 0 }
    }

    /// How many records there are.
    #[must_use]
    pub const fn record_count(&self) -> u32 {
        self.record_count
    }

    /// Whether there is no record yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// The size of the batch without compression; with it, it is this or less.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What [`RowsBuilder::bytes`] would be with this record too.
    #[must_use]
    pub fn bytes_with(&self, record: &NewRecord<'_>) -> usize {
        let body = self.body_bytes(record);
        self.bytes.len() + varint::size(signed(body)) + body
    }

    /// Appends a record and answers its offset delta.
    ///
    /// # Errors
    /// If the record has too many headers or a timestamp out of range, or the batch would become too large; it is
    /// unchanged then.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<u32, BatchError> {
        if !(TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX).contains(&record.timestamp_ms) {
            return Err(BatchError::Field { field: "timestamp", value: record.timestamp_ms });
        }
        if record.headers.len() > RECORD_HEADERS_MAX {
            return Err(BatchError::Field { field: "header count", value: signed(record.headers.len()) });
        }
        let offset_delta = self.record_count;
        if offset_delta as usize >= BATCH_RECORDS_MAX {
            return Err(BatchError::Field { field: "record count", value: i64::from(offset_delta) + 1 });
        }
        let body = self.body_bytes(record);
        let bytes = self.bytes.len() + varint::size(signed(body)) + body;
        if bytes > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { bytes, max: BATCH_BYTES_MAX });
        }

        if self.is_empty() {
            self.base_timestamp_ms = record.timestamp_ms;
            self.max_timestamp_ms = record.timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(record.timestamp_ms);
        let timestamp_delta = record.timestamp_ms - self.base_timestamp_ms;
        let out = &mut self.bytes;
        varint::put(out, signed(body));
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, i64::from(offset_delta));
        put_nullable(out, record.key);
        put_nullable(out, record.value);
        varint::put(out, signed(record.headers.len()));
        for (key, value) in record.headers {
            put_nullable(out, Some(key.as_bytes()));
            put_nullable(out, *value);
        }
        debug_assert_eq!(out.len(), bytes);
        self.record_count += 1;
        Ok(offset_delta)
    }

    /// Makes the batch. The attributes say how to compress it, and whether it is part of a transaction; what does not
    /// become smaller, or would unfold to more than readers accept, is left uncompressed.
    ///
    /// # Errors
    /// If there is no record, or the attributes are those of columns.
    pub fn finish(self, attributes: Attributes, producer: BatchProducer) -> Result<Bytes, BatchError> {
        if self.is_empty() {
            return Err(BatchError::Field { field: "record count", value: 0 });
        }
        if !attributes.fit(false) {
            return Err(BatchError::Attributes(attributes.bits()));
        }
        let Self { mut bytes, record_count, base_timestamp_ms, max_timestamp_ms } = self;
        let mut attributes = attributes;
        match compress(attributes.compression(), &bytes) {
            Some(compressed) => bytes = compressed,
            None => attributes = attributes.with_compression(Compression::None),
        }
        let header = BatchHeader {
            base_offset: Offset(0),
            batch_length: header::length_field(bytes.len())?,
            leader_epoch: NO_LEADER_EPOCH,
            magic: MAGIC_ROWS,
            crc: 0,
            attributes,
            last_offset_delta: record_count - 1,
            base_timestamp_ms,
            max_timestamp_ms,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            record_count,
        };
        header::write(&header, &mut bytes);
        Ok(bytes.into())
    }

    /// What the record takes behind its length.
    fn body_bytes(&self, record: &NewRecord<'_>) -> usize {
        let base = if self.is_empty() { record.timestamp_ms } else { self.base_timestamp_ms };
        let headers =
            record.headers.iter().map(|(key, value)| nullable_bytes(Some(key.as_bytes())) + nullable_bytes(*value));
        1 + varint::size(record.timestamp_ms.wrapping_sub(base))
            + varint::size(i64::from(self.record_count))
            + nullable_bytes(record.key)
            + nullable_bytes(record.value)
            + varint::size(signed(record.headers.len()))
            + headers.sum::<usize>()
    }
}

/// The batch with everything behind the header compressed, if that is of use.
fn compress(codec: Compression, batch: &[u8]) -> Option<Vec<u8>> {
    if codec == Compression::None {
        return None;
    }
    let (header, records) = batch.split_at_checked(HEADER_BYTES)?;
    let mut out = compression::compress(codec, records, header.to_vec()).ok()?;
    let max = compression::decompressed_bytes_max(out.len() - HEADER_BYTES);
    (out.len() < batch.len() && records.len() <= max).then(|| {
        out.shrink_to_fit();
        out
    })
}

fn put_nullable(out: &mut Vec<u8>, part: Option<&[u8]>) {
    varint::put(out, part.map_or(-1, |part| signed(part.len())));
    out.extend_from_slice(part.unwrap_or_default());
}

fn nullable_bytes(part: Option<&[u8]>) -> usize {
    part.map_or(1, |part| varint::size(signed(part.len())) + part.len())
}

/// A length in memory, which never has the top bit.
const fn signed(length: usize) -> i64 {
    length as i64
}
