//! The container of a columns batch.
//!
//! ```text
//!  0        61          64          68           72          72+m        b               end
//! +--------+-----------+-----------+------------+-----------+-----------+----------------+
//! | header | zero      | schema id | metadata   | metadata  | zero      | body           |
//! |        |           | u32       | length m   | (Arrow)   |           | (Arrow buffers)|
//! +--------+-----------+-----------+------------+-----------+-----------+----------------+
//! ```
//! `b` is the next multiple of [`BATCH_ALIGN`]. Metadata and body are the two halves of an Arrow IPC record-batch
//! message (Flight's `data_header` and `data_body`), opaque here; the schema is the topic's, by its id. A batch starts at
//! a multiple of 64 in its segment, so a mapped body, and with it every buffer, is aligned. Integers are big-endian.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::{
    Attributes, BatchError, BatchHeader, BatchProducer, HEADER_BYTES, MAGIC_COLUMNS, NO_LEADER_EPOCH, header,
    iter::padded_bytes,
};
use crate::{ids::Offset, limits::BATCH_ALIGN};

/// Where the schema id stands; the zeros in front of it align what follows.
const SCHEMA_ID_START: usize = 64;
/// Where the metadata starts.
const METADATA_START: usize = SCHEMA_ID_START + 8;

const _: () = assert!(SCHEMA_ID_START >= HEADER_BYTES && METADATA_START.is_multiple_of(8));

/// The payload of a columns batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnsPayload {
    /// The schema's number within the topic.
    pub schema_id: u32,
    /// The message's flatbuffer, without the length and padding that a stream has around it.
    pub metadata: Bytes,
    /// The message's buffers.
    pub body: Bytes,
}

/// What the header of a columns batch says of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnsInfo {
    /// How many there are: the rows of the Arrow message.
    pub record_count: u32,
    /// The first one's timestamp.
    pub base_timestamp_ms: i64,
    /// The highest timestamp.
    pub max_timestamp_ms: i64,
    /// Who made them.
    pub producer: BatchProducer,
    /// Whether they are part of a transaction.
    pub transactional: bool,
}

impl ColumnsPayload {
    /// Takes the columns batch at the front of `batch` apart; the parts share its memory. The CRC is not checked.
    ///
    /// # Errors
    /// If the header is unsound, the batch is not columns or not all there, or the container is malformed.
    pub fn parse(batch: &Bytes) -> Result<Self, BatchError> {
        let parts = Parts::find(&BatchHeader::parse(batch)?, batch)?;
        Ok(Self {
            schema_id: parts.schema_id,
            metadata: batch.slice_ref(parts.metadata),
            body: batch.slice_ref(parts.body),
        })
    }

    /// Makes the batch. Copies metadata and body once.
    ///
    /// # Errors
    /// If there is no record or no metadata, or the batch would be larger than a batch may be.
    pub fn build(&self, info: &ColumnsInfo) -> Result<Bytes, BatchError> {
        let Some(last_offset_delta) = info.record_count.checked_sub(1) else {
            return Err(BatchError::Field { field: "record count", value: 0 });
        };
        if self.metadata.is_empty() {
            return Err(BatchError::Columns("there is no metadata"));
        }
        let body_start = padded_bytes(METADATA_START.saturating_add(self.metadata.len()));
        let size = body_start.saturating_add(self.body.len());
        let header = BatchHeader {
            base_offset: Offset(0),
            batch_length: header::length_field(size)?,
            leader_epoch: NO_LEADER_EPOCH,
            magic: MAGIC_COLUMNS,
            crc: 0,
            attributes: Attributes::default().with_columns(true).with_transactional(info.transactional),
            last_offset_delta,
            base_timestamp_ms: info.base_timestamp_ms,
            max_timestamp_ms: info.max_timestamp_ms,
            producer_id: info.producer.id,
            producer_epoch: info.producer.epoch,
            base_sequence: info.producer.base_sequence,
            record_count: info.record_count,
        };
        let metadata_bytes =
            u32::try_from(self.metadata.len()).map_err(|_| BatchError::Columns("the metadata is too long"))?;
        let mut batch = Vec::with_capacity(size);
        batch.resize(SCHEMA_ID_START, 0);
        batch.extend_from_slice(&self.schema_id.to_be_bytes());
        batch.extend_from_slice(&metadata_bytes.to_be_bytes());
        batch.extend_from_slice(&self.metadata);
        batch.resize(body_start, 0);
        batch.extend_from_slice(&self.body);
        header::write(&header, &mut batch);
        Ok(batch.into())
    }
}

/// Checks the container.
pub(super) fn check(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    Parts::find(header, batch).map(|_| ())
}

struct Parts<'a> {
    schema_id: u32,
    metadata: &'a [u8],
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn find(header: &BatchHeader, batch: &'a [u8]) -> Result<Self, BatchError> {
        if !header.is_columns() {
            return Err(BatchError::Magic(header.magic));
        }
        let needed = header.batch_bytes();
        let batch = batch.get(..needed).ok_or(BatchError::Truncated { needed, available: batch.len() })?;
        let cut = || BatchError::Columns("the batch ends before its metadata does");

        let rest = batch.get(SCHEMA_ID_START..).ok_or_else(cut)?;
        let (schema_id, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let (metadata_bytes, rest) = rest.split_first_chunk().ok_or_else(cut)?;
        let metadata_bytes = usize::try_from(u32::from_be_bytes(*metadata_bytes)).map_err(|_| cut())?;
        let metadata = rest.get(..metadata_bytes).ok_or_else(cut)?;
        if metadata.is_empty() {
            return Err(BatchError::Columns("there is no metadata"));
        }
        let metadata_end = METADATA_START + metadata_bytes;
        let body_start = padded_bytes(metadata_end);
        let body = batch.get(body_start..).ok_or(BatchError::Columns("the batch ends before its body starts"))?;
        check_zero(batch, HEADER_BYTES, SCHEMA_ID_START)?;
        check_zero(batch, metadata_end, body_start)?;
        debug_assert!(body_start.is_multiple_of(BATCH_ALIGN));
        Ok(Self { schema_id: u32::from_be_bytes(*schema_id), metadata, body })
    }
}

fn check_zero(batch: &[u8], start: usize, end: usize) -> Result<(), BatchError> {
    let padding = batch.get(start..end).unwrap_or_default();
    match padding.iter().position(|&byte| byte != 0) {
        Some(at) => Err(BatchError::Padding(start + at)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{seal, validate_produced, verify_crc},
        ids::{ProducerEpoch, ProducerId},
        limits::BATCH_BYTES_MAX,
    };

    fn info() -> ColumnsInfo {
        ColumnsInfo {
            record_count: 3,
            base_timestamp_ms: 1_700_000_000_000,
            max_timestamp_ms: 1_700_000_000_005,
            producer: BatchProducer { id: ProducerId(4000), epoch: ProducerEpoch(3), base_sequence: 17 },
            transactional: false,
        }
    }

    fn payload(metadata_bytes: usize, body_bytes: usize) -> ColumnsPayload {
        ColumnsPayload {
            schema_id: 7,
            metadata: vec![0xAA; metadata_bytes].into(),
            body: vec![0xBB; body_bytes].into(),
        }
    }

    #[test]
    fn golden_bytes() {
        let batch = payload(4, 2).build(&info()).unwrap();
        let hex: String = batch.iter().map(|byte| format!("{byte:02x}")).collect();
        // The CRC was computed by kafka-python.
        let front = concat!("0000000000000000", "00000076", "ffffffff", "4c", "07c4610b", "0080", "00000002");
        let times = concat!("0000018bcfe56800", "0000018bcfe56805");
        let rest =
            concat!("0000000000000fa0", "0003", "00000011", "00000003", "000000", "00000007", "00000004", "aaaaaaaa");
        assert_eq!(hex, format!("{front}{times}{rest}{}bbbb", "00".repeat(52)));
    }

    #[test]
    fn the_body_is_aligned_whatever_the_metadata() {
        for metadata_bytes in [1, 7, 8, 55, 56, 57, 120, 1000] {
            for body_bytes in [0, 1, 64, 1000] {
                let payload = payload(metadata_bytes, body_bytes);
                let batch = payload.build(&info()).unwrap();
                assert_eq!((batch.len() - body_bytes) % BATCH_ALIGN, 0);
                assert!(batch.len() - body_bytes - METADATA_START - metadata_bytes < BATCH_ALIGN);
                assert_eq!(ColumnsPayload::parse(&batch), Ok(payload));
                let header = validate_produced(&batch, BATCH_BYTES_MAX).unwrap();
                assert!(header.is_columns());
                assert_eq!((header.record_count, header.producer()), (3, info().producer));
            }
        }
    }

    #[test]
    fn every_truncation_and_every_length_is_safe() {
        let batch = payload(60, 40).build(&info()).unwrap();
        for length in 0..batch.len() {
            assert!(ColumnsPayload::parse(&batch.slice(..length)).is_err());
        }
        for length in 49..u32::try_from(batch.len()).unwrap() - 12 {
            let mut shorter = batch[..length as usize + 12].to_vec();
            shorter[8..12].copy_from_slice(&length.to_be_bytes());
            seal(&mut shorter);
            let parsed = ColumnsPayload::parse(&shorter.into());
            assert_eq!(parsed.is_ok(), length + 12 >= 192, "{length}: {parsed:?}");
        }
    }

    #[test]
    fn hostile_lengths_and_padding() {
        let batch = payload(60, 40).build(&info()).unwrap();
        let changed = |change: fn(&mut [u8])| {
            let mut bytes = batch.to_vec();
            change(&mut bytes);
            seal(&mut bytes);
            verify_crc(&bytes).unwrap();
            ColumnsPayload::parse(&bytes.into()).unwrap_err()
        };
        assert!(matches!(changed(|b| b[68..72].copy_from_slice(&u32::MAX.to_be_bytes())), BatchError::Columns(_)));
        assert!(matches!(changed(|b| b[68..72].copy_from_slice(&0_u32.to_be_bytes())), BatchError::Columns(_)));
        assert!(matches!(changed(|b| b[68..72].copy_from_slice(&150_u32.to_be_bytes())), BatchError::Columns(_)));
        assert_eq!(changed(|b| b[61] = 1), BatchError::Padding(61));
        assert_eq!(changed(|b| b[191] = 1), BatchError::Padding(191));
    }

    #[test]
    fn what_cannot_be_built() {
        assert!(payload(0, 1).build(&info()).is_err());
        assert!(payload(1, 1).build(&ColumnsInfo { record_count: 0, ..info() }).is_err());
        assert!(matches!(payload(1, BATCH_BYTES_MAX).build(&info()), Err(BatchError::TooLarge { .. })));
    }
}
