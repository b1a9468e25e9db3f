//! The 61 bytes in front of every batch: Kafka's record batch v2, for rows and for columns.
//!
//! ```text
//!  0          8        12       16     17    21           23                 27
//! +----------+--------+--------+------+-----+------------+------------------+--------------
//! | base     | length | leader | magic| crc | attributes | last offset delta| base
//! | offset   |        | epoch  |      |     |            |                  | timestamp ...
//! +----------+--------+--------+------+-----+------------+------------------+--------------
//!  27         35        43       51       53         57       61
//! --+--------+---------+--------+--------+----------+--------+--------
//!   | base ts| max ts  | prod.id| prod.  | base     | record | payload
//!   |        |         |        | epoch  | sequence | count  |
//! --+--------+---------+--------+--------+----------+--------+--------
//! ```
//! All numbers are big-endian. `length` counts what follows it. The CRC-32C covers everything from the attributes on,
//! so that the leader can [`stamp`] base offset and leader epoch without computing it again; whoever stores a batch
//! covers the [`UNCRCED_BYTES`] in front by a checksum of its own.

#![deny(clippy::indexing_slicing)]

use super::{Attributes, BatchError, BatchProducer, sequence_plus};
use crate::{
    ids::{Offset, ProducerEpoch, ProducerId},
    limits::BATCH_BYTES_MAX,
};

/// The header's length.
pub const HEADER_BYTES: usize = 61;
/// The bytes at the front of a batch that its own CRC does not cover (the CRC is the last four of them).
pub const UNCRCED_BYTES: usize = 21;
/// The magic of a rows batch: Kafka's record batch v2.
pub const MAGIC_ROWS: i8 = 2;
/// The magic of a columns batch: `L`, far from any that Kafka has or will have soon, so that its tools fail cleanly.
pub const MAGIC_COLUMNS: i8 = 0x4C;
/// The leader epoch of a batch that no leader has stamped.
pub const NO_LEADER_EPOCH: i32 = -1;

/// Base offset and length field: what it takes to know a batch's size.
const PREFIX_BYTES: usize = 12;
/// The length field of a batch without payload.
const LENGTH_MIN: i32 = 49;
const CRC_START: usize = 17;
const LEADER_EPOCH_START: usize = 12;
const MAGIC_START: usize = 16;

const _: () = assert!(PREFIX_BYTES + LENGTH_MIN as usize == HEADER_BYTES);
const _: () = assert!(CRC_START + 4 == UNCRCED_BYTES);

/// A batch's header, checked in itself.
///
/// Invariants:
/// - the size is at least [`HEADER_BYTES`] and at most [`BATCH_BYTES_MAX`];
/// - the magic is that of rows or columns, attribute bit 7 agrees, and no bit is set that the format does not have;
/// - base offset and last offset are offsets (not negative, no overflow);
/// - `0 <= record_count <= last_offset_delta + 1` (compaction leaves fewer records than offsets).
///
/// It says nothing about the payload: [`verify_crc`] and [`super::validate`] do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// The length field: what follows it, that is all but the first twelve bytes.
    pub batch_length: u32,
    /// The term of the leader that stamped the batch; [`NO_LEADER_EPOCH`] before.
    pub leader_epoch: i32,
    /// [`MAGIC_ROWS`] or [`MAGIC_COLUMNS`].
    pub magic: i8,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, clock, and what the records are.
    pub attributes: Attributes,
    /// The last offset minus the base offset.
    pub last_offset_delta: u32,
    /// What the records' timestamps count from.
    pub base_timestamp_ms: i64,
    /// The highest timestamp.
    pub max_timestamp_ms: i64,
    /// The idempotent producer; negative for none.
    pub producer_id: ProducerId,
    /// Its incarnation; negative for none.
    pub producer_epoch: ProducerEpoch,
    /// The sequence number of the first record; negative for none.
    pub base_sequence: i32,
    /// How many records there are.
    pub record_count: u32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, which need not hold the payload.
    ///
    /// # Errors
    /// If there are fewer than [`HEADER_BYTES`], or an invariant of the type does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut fields = Fields(bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| truncated(bytes))?);
        let base_offset = i64::from_be_bytes(fields.take()?);
        let batch_length = i32::from_be_bytes(fields.take()?);
        let leader_epoch = i32::from_be_bytes(fields.take()?);
        let magic = i8::from_be_bytes(fields.take()?);
        let crc = u32::from_be_bytes(fields.take()?);
        let bits = u16::from_be_bytes(fields.take()?);
        let last_offset_delta = i32::from_be_bytes(fields.take()?);
        let base_timestamp_ms = i64::from_be_bytes(fields.take()?);
        let max_timestamp_ms = i64::from_be_bytes(fields.take()?);
        let producer_id = ProducerId(i64::from_be_bytes(fields.take()?));
        let producer_epoch = ProducerEpoch(i16::from_be_bytes(fields.take()?));
        let base_sequence = i32::from_be_bytes(fields.take()?);
        let record_count = i32::from_be_bytes(fields.take()?);

        check_length(batch_length)?;
        let columns = match magic {
            MAGIC_ROWS => false,
            MAGIC_COLUMNS => true,
            _ => return Err(BatchError::Magic(magic)),
        };
        let attributes = Attributes::from_bits(bits)?;
        if !attributes.fit(columns) {
            return Err(BatchError::Attributes(bits));
        }
        let header = Self {
            base_offset: Offset(unsigned("base offset", base_offset)?),
            batch_length: unsigned("batch length", batch_length)?,
            leader_epoch,
            magic,
            crc,
            attributes,
            last_offset_delta: unsigned("last offset delta", last_offset_delta)?,
            base_timestamp_ms,
            max_timestamp_ms,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count: unsigned("record count", record_count)?,
        };
        if base_offset.checked_add(i64::from(last_offset_delta)).is_none_or(|last| last == i64::MAX) {
            return Err(BatchError::Field { field: "base offset", value: base_offset });
        }
        if header.record_count > header.last_offset_delta + 1 {
            return Err(BatchError::Field { field: "record count", value: i64::from(record_count) });
        }
        Ok(header)
    }

    /// The whole batch's size, header included.
    #[must_use]
    pub const fn batch_bytes(&self) -> usize {
        PREFIX_BYTES + self.batch_length as usize
    }

    /// The payload's size: what follows the header.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.batch_bytes() - HEADER_BYTES
    }

    /// The offset of the last record (or where it was before compaction).
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta as u64)
    }

    /// The offset that follows the batch.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Whether the payload is columns.
    #[must_use]
    pub const fn is_columns(&self) -> bool {
        self.magic == MAGIC_COLUMNS
    }

    /// Who made it.
    #[must_use]
    pub const fn producer(&self) -> BatchProducer {
        BatchProducer { id: self.producer_id, epoch: self.producer_epoch, base_sequence: self.base_sequence }
    }

    /// Whether an idempotent producer made it.
    #[must_use]
    pub const fn has_producer(&self) -> bool {
        self.producer().is_some()
    }

    /// The sequence number of the last record. Sequences wrap from `i32::MAX` to 0.
    #[must_use]
    pub const fn last_sequence(&self) -> i32 {
        sequence_plus(self.base_sequence, self.last_offset_delta)
    }

    /// The bytes of the header, as [`BatchHeader::parse`] reads them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = Out(&mut bytes);
        out.put(self.base_offset.get().to_be_bytes());
        out.put(self.batch_length.to_be_bytes());
        out.put(self.leader_epoch.to_be_bytes());
        out.put(self.magic.to_be_bytes());
        out.put(self.crc.to_be_bytes());
        out.put(self.attributes.bits().to_be_bytes());
        out.put(self.last_offset_delta.to_be_bytes());
        out.put(self.base_timestamp_ms.to_be_bytes());
        out.put(self.max_timestamp_ms.to_be_bytes());
        out.put(self.producer_id.get().to_be_bytes());
        out.put(self.producer_epoch.get().to_be_bytes());
        out.put(self.base_sequence.to_be_bytes());
        out.put(self.record_count.to_be_bytes());
        debug_assert!(out.0.is_empty());
        bytes
    }
}

/// The size of the batch that starts at the front of `bytes`, which need not hold it all.
///
/// # Errors
/// If there are fewer than twelve bytes, or the size is below [`HEADER_BYTES`] or above [`BATCH_BYTES_MAX`].
pub fn batch_bytes(bytes: &[u8]) -> Result<usize, BatchError> {
    let mut fields = Fields(bytes.first_chunk::<PREFIX_BYTES>().ok_or_else(|| truncated(bytes))?);
    fields.take::<8>()?;
    check_length(i32::from_be_bytes(fields.take()?))
}

/// Checks the CRC-32C of the batch at the front of `bytes`.
///
/// # Errors
/// [`BatchError::Crc`] if it does not match; [`BatchError::Truncated`] if the bytes end before the batch does.
pub fn verify_crc(bytes: &[u8]) -> Result<(), BatchError> {
    let size = batch_bytes(bytes)?;
    let batch = bytes.get(..size).ok_or(BatchError::Truncated { needed: size, available: bytes.len() })?;
    let (front, covered) = batch.split_at_checked(UNCRCED_BYTES).ok_or_else(|| truncated(bytes))?;
    let stored = u32::from_be_bytes(*front.last_chunk::<4>().ok_or_else(|| truncated(bytes))?);
    let computed = crc_fast::crc32_iscsi(covered);
    if stored == computed { Ok(()) } else { Err(BatchError::Crc { stored, computed }) }
}

/// Writes base offset and leader epoch into the batch at the front of `bytes`. The CRC stays valid.
///
/// # Errors
/// [`BatchError::Truncated`] if there is no whole header, [`BatchError::Magic`] if it is not that of a batch: nothing
/// is written then.
pub fn stamp(bytes: &mut [u8], base_offset: Offset, leader_epoch: i32) -> Result<(), BatchError> {
    let available = bytes.len();
    let header =
        bytes.first_chunk_mut::<HEADER_BYTES>().ok_or(BatchError::Truncated { needed: HEADER_BYTES, available })?;
    let magic = i8::from_be_bytes([header[MAGIC_START]]);
    if magic != MAGIC_ROWS && magic != MAGIC_COLUMNS {
        return Err(BatchError::Magic(magic));
    }
    header[..8].copy_from_slice(&base_offset.get().to_be_bytes());
    header[LEADER_EPOCH_START..MAGIC_START].copy_from_slice(&leader_epoch.to_be_bytes());
    Ok(())
}

/// Writes the CRC of a batch that is otherwise complete. Shorter than a header, it is left as it is.
pub fn seal(batch: &mut [u8]) {
    if let Some((front, covered)) = batch.split_at_mut_checked(UNCRCED_BYTES)
        && let Some(crc) = front.last_chunk_mut::<4>()
    {
        *crc = crc_fast::crc32_iscsi(covered).to_be_bytes();
    }
}

/// Writes the header, and then the CRC, in front of a payload that is there already.
pub(super) fn write(header: &BatchHeader, batch: &mut [u8]) {
    debug_assert_eq!(batch.len(), header.batch_bytes());
    if let Some(place) = batch.first_chunk_mut::<HEADER_BYTES>() {
        *place = header.to_bytes();
    }
    seal(batch);
}

/// The length field of a batch of this size.
pub(super) fn length_field(batch_bytes: usize) -> Result<u32, BatchError> {
    let too_large = BatchError::TooLarge { bytes: batch_bytes, max: BATCH_BYTES_MAX };
    if batch_bytes > BATCH_BYTES_MAX {
        return Err(too_large);
    }
    u32::try_from(batch_bytes.saturating_sub(PREFIX_BYTES)).map_err(|_| too_large)
}

/// The batch's size from its length field.
fn check_length(length: i32) -> Result<usize, BatchError> {
    let size = usize::try_from(length)
        .ok()
        .filter(|_| length >= LENGTH_MIN)
        .and_then(|length| length.checked_add(PREFIX_BYTES))
        .ok_or(BatchError::Length(length))?;
    if size > BATCH_BYTES_MAX { Err(BatchError::TooLarge { bytes: size, max: BATCH_BYTES_MAX }) } else { Ok(size) }
}

fn unsigned<S: Copy + Into<i64>, U: TryFrom<S>>(field: &'static str, value: S) -> Result<U, BatchError> {
    U::try_from(value).map_err(|_| BatchError::Field { field, value: value.into() })
}

const fn truncated(bytes: &[u8]) -> BatchError {
    BatchError::Truncated { needed: HEADER_BYTES, available: bytes.len() }
}

/// The fields not yet read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let (field, rest) = self.0.split_first_chunk().ok_or_else(|| truncated(self.0))?;
        self.0 = rest;
        Ok(*field)
    }
}

/// Where the next field goes.
struct Out<'a>(&'a mut [u8]);

impl Out<'_> {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        if let Some((place, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut() {
            *place = field;
            self.0 = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Compression, TimestampType};

    fn sample() -> BatchHeader {
        BatchHeader {
            base_offset: Offset(0x0102_0304_0506_0708),
            batch_length: 49 + 7,
            leader_epoch: 9,
            magic: MAGIC_ROWS,
            crc: 0,
            attributes: Attributes::default().with_compression(Compression::Lz4).with_transactional(true),
            last_offset_delta: 4,
            base_timestamp_ms: -1,
            max_timestamp_ms: 0x1122_3344_5566_7788,
            producer_id: ProducerId(77),
            producer_epoch: ProducerEpoch(3),
            base_sequence: i32::MAX - 1,
            record_count: 5,
        }
    }

    fn sealed(header: &BatchHeader) -> Vec<u8> {
        let mut batch = header.to_bytes().to_vec();
        batch.extend_from_slice(b"payload");
        seal(&mut batch);
        batch
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().to_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "0102030405060708",
            "00000038",
            "00000009",
            "02",
            "00000000",
            "0013",
            "00000004",
            "ffffffffffffffff",
            "1122334455667788",
            "000000000000004d",
            "0003",
            "7ffffffe",
            "00000005",
        );
        assert_eq!(hex, expected);
        assert_eq!(BatchHeader::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn derived_values() {
        let header = sample();
        assert_eq!(header.batch_bytes(), 68);
        assert_eq!(header.last_offset(), Offset(0x0102_0304_0506_070C));
        assert_eq!(header.next_offset(), Offset(0x0102_0304_0506_070D));
        assert_eq!(header.last_sequence(), 2, "MAX-1, MAX, 0, 1, 2");
        assert!(header.has_producer() && !header.is_columns());
        assert_eq!(header.attributes.timestamp_type(), TimestampType::CreateTime);
    }

    #[test]
    fn stamping_leaves_the_crc_valid() {
        let mut batch = sealed(&sample());
        verify_crc(&batch).unwrap();
        stamp(&mut batch, Offset(42), 7).unwrap();
        verify_crc(&batch).unwrap();
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch), (Offset(42), 7));
        assert_eq!(BatchHeader { crc: 0, base_offset: sample().base_offset, leader_epoch: 9, ..header }, sample());
        assert!(batch.ends_with(b"payload"));

        let mut foreign = batch.clone();
        foreign[16] = 1;
        let before = foreign.clone();
        assert_eq!(stamp(&mut foreign, Offset(1), 1), Err(BatchError::Magic(1)));
        assert_eq!(foreign, before);
    }

    #[test]
    fn the_crc_covers_exactly_what_follows_it() {
        let batch = sealed(&sample());
        for position in 0..batch.len() {
            let mut damaged = batch.clone();
            damaged[position] ^= 0x01;
            let covered = position >= CRC_START || (8..PREFIX_BYTES).contains(&position);
            assert_eq!(verify_crc(&damaged).is_err(), covered, "byte {position}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let batch = sealed(&sample());
        for length in 0..batch.len() {
            assert!(verify_crc(&batch[..length]).is_err());
            assert_eq!(BatchHeader::parse(&batch[..length]).is_ok(), length >= HEADER_BYTES);
            assert_eq!(batch_bytes(&batch[..length]).is_ok(), length >= PREFIX_BYTES);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let broken = |change: fn(&mut [u8; HEADER_BYTES])| {
            let mut bytes = sample().to_bytes();
            change(&mut bytes);
            BatchHeader::parse(&bytes).unwrap_err()
        };
        assert_eq!(broken(|b| b[8..12].copy_from_slice(&48_i32.to_be_bytes())), BatchError::Length(48));
        assert_eq!(broken(|b| b[8..12].copy_from_slice(&i32::MIN.to_be_bytes())), BatchError::Length(i32::MIN));
        assert!(matches!(broken(|b| b[8] = 0x7F), BatchError::TooLarge { .. }));
        for magic in [0, 1, 3, -1] {
            let mut bytes = sample().to_bytes();
            bytes[16] = magic as u8;
            assert_eq!(BatchHeader::parse(&bytes), Err(BatchError::Magic(magic)));
        }
        assert_eq!(broken(|b| b[22] = 0x15), BatchError::Codec(5));
        assert_eq!(broken(|b| b[22] |= 0x80), BatchError::Attributes(0x93), "rows with the columns bit");
        assert_eq!(broken(|b| b[21] = 0x01), BatchError::Attributes(0x113), "a bit that nobody has");
        assert_eq!(
            broken(|b| b[16] = 0x4C),
            BatchError::Attributes(0x13),
            "columns without their bit, compressed as a whole"
        );
        assert!(matches!(broken(|b| b[0] = 0x80), BatchError::Field { field: "base offset", .. }));
        assert!(matches!(broken(|b| b[..8].copy_from_slice(&i64::MAX.to_be_bytes())), BatchError::Field { .. }));
        assert!(matches!(broken(|b| b[23] = 0x80), BatchError::Field { field: "last offset delta", .. }));
        assert!(matches!(broken(|b| b[57] = 0x80), BatchError::Field { field: "record count", .. }));
        assert!(matches!(broken(|b| b[60] = 6), BatchError::Field { field: "record count", value: 6 }));
    }
}
