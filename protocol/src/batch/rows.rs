//! The records of a rows batch, read in place.
//!
//! ```text
//! record  = length varint, attributes i8 (unused), timestamp delta varlong, offset delta varint,
//!           key length varint (-1: null), key, value length varint (-1: null), value,
//!           header count varint, headers
//! header  = key length varint, key, value length varint (-1: null), value
//! ```
//! Records follow each other without padding, as they are or compressed as a whole. [`Rows::open`] decompresses at most
//! once and copies nothing otherwise; [`Records`] hands out slices.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::{BatchError, BatchHeader, Compression, HEADER_BYTES, TimestampType, compression, varint};
use crate::ids::Offset;

/// The least bytes of a record: seven one-byte fields.
pub(super) const RECORD_BYTES_MIN: usize = 7;
/// The least bytes of a record's header: two lengths.
const RECORD_HEADER_BYTES_MIN: usize = 2;

/// A rows batch, ready to be iterated.
#[derive(Clone, Debug)]
pub struct Rows {
    header: BatchHeader,
    records: Bytes,
}

impl Rows {
    /// Opens the rows batch at the front of `batch`, decompressing it if need be. The CRC is not checked.
    ///
    /// # Errors
    /// If the header is unsound, the batch is not rows or not all there, or the records do not decompress within
    /// bounds.
    pub fn open(batch: &Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(batch)?;
        let payload = payload(&header, batch)?;
        let records = match header.attributes.compression() {
            Compression::None => batch.slice_ref(payload),
            codec => compression::decompress(codec, payload)?.into(),
        };
        Ok(Self { header, records })
    }

    /// The batch's header.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records' bytes, decompressed.
    #[must_use]
    pub const fn records(&self) -> &Bytes {
        &self.records
    }

    /// The records in order.
    #[must_use]
    pub fn iter(&self) -> Records<'_> {
        Records::new(&self.header, &self.records)
    }

    /// A key, value or header of one of these records as a buffer of its own, which shares their memory.
    ///
    /// # Panics
    /// If `part` is not from here.
    #[must_use]
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.records.slice_ref(part)
    }
}

impl<'a> IntoIterator for &'a Rows {
    type Item = Result<Record<'a>, BatchError>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

/// What follows the header of a rows batch.
pub(super) fn payload<'a>(header: &BatchHeader, batch: &'a [u8]) -> Result<&'a [u8], BatchError> {
    if header.is_columns() {
        return Err(BatchError::Magic(header.magic));
    }
    let needed = header.batch_bytes();
    batch.get(HEADER_BYTES..needed).ok_or(BatchError::Truncated { needed, available: batch.len() })
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its time, by the clock that the batch's attributes name.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: RecordHeaders<'a>,
}

/// The headers of a record, in order; a key may occur more than once. Known to be well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeaders<'a> {
    remaining: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for RecordHeaders<'a> {
    /// Key (text, by agreement) and value.
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        take_header(&mut self.bytes).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}

/// The records of a batch, in order. Ends after the first error; bytes behind the last record are one.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
    read: u32,
    /// The least that the next record's offset delta may be.
    offset_delta_min: u32,
    done: bool,
}

/// What is wrong with a record.
type Fault = &'static str;

impl<'a> Records<'a> {
    pub(super) const fn new(header: &BatchHeader, bytes: &'a [u8]) -> Self {
        Self { header: *header, bytes, read: 0, offset_delta_min: 0, done: false }
    }

    fn take(&mut self) -> Result<Record<'a>, Fault> {
        let length = varint::take_i32(&mut self.bytes).ok_or("its length is cut")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let (mut body, rest) = self.bytes.split_at_checked(length).ok_or("it is longer than the rest of the batch")?;

        let (_attributes, after) = body.split_first().ok_or("it is empty")?;
        body = after;
        let timestamp_delta = varint::take_i64(&mut body).ok_or("its timestamp is cut")?;
        let offset_delta = varint::take_i32(&mut body).ok_or("its offset is cut")?;
        let key = take_nullable(&mut body).ok_or("its key does not fit in it")?;
        let value = take_nullable(&mut body).ok_or("its value does not fit in it")?;
        let headers = take_headers(&mut body)?;
        if !body.is_empty() {
            return Err("it is longer than its content");
        }

        let offset_delta = u32::try_from(offset_delta).map_err(|_| "its offset is below the batch's")?;
        if offset_delta < self.offset_delta_min || offset_delta > self.header.last_offset_delta {
            return Err("its offset is out of order or beyond the batch's last");
        }
        let timestamp_ms = match self.header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp_ms,
            TimestampType::CreateTime => {
                self.header.base_timestamp_ms.checked_add(timestamp_delta).ok_or("its timestamp is out of range")?
            }
        };
        self.bytes = rest;
        self.offset_delta_min = offset_delta + 1;
        let offset = self.header.base_offset.plus(u64::from(offset_delta));
        Ok(Record { offset, timestamp_ms, key, value, headers })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.read == self.header.record_count {
            self.done = true;
            let surplus = self.bytes.len();
            return (surplus > 0).then_some(Err(BatchError::Surplus(surplus)));
        }
        let number = self.read;
        let record = self.take().map_err(|fault| BatchError::Record { number, fault });
        self.read += 1;
        self.done = record.is_err();
        Some(record)
    }
}

impl std::iter::FusedIterator for Records<'_> {}

/// A length and as many bytes; a negative length is null.
#[inline]
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take_i32(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let (part, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(Some(part))
}

fn take_headers<'a>(bytes: &mut &'a [u8]) -> Result<RecordHeaders<'a>, Fault> {
    let count = varint::take_i32(bytes).ok_or("its header count is cut")?;
    let count = usize::try_from(count).map_err(|_| "its header count is negative")?;
    if count > bytes.len() / RECORD_HEADER_BYTES_MIN {
        return Err("it has fewer bytes than headers need");
    }
    let headers = RecordHeaders { remaining: count, bytes };
    for _ in 0..count {
        take_header(bytes)?;
    }
    Ok(headers)
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), Fault> {
    let key = take_nullable(bytes).ok_or("the key of a header does not fit in it")?.ok_or("a header has no key")?;
    let value = take_nullable(bytes).ok_or("the value of a header does not fit in it")?;
    Ok((key, value))
}
