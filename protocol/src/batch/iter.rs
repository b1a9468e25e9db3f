//! Several batches in one buffer.

#![deny(clippy::indexing_slicing)]

use super::{BatchError, BatchHeader};
use crate::limits::BATCH_ALIGN;

/// How many bytes `len` takes once padded to where the next batch may start ([`BATCH_ALIGN`]).
#[must_use]
pub const fn padded_bytes(len: usize) -> usize {
    len.next_multiple_of(BATCH_ALIGN)
}

/// One batch of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRef<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Where it starts in the buffer.
    pub position: usize,
    /// All of it, header included. With a `Bytes` as the buffer, `buffer.slice_ref(batch.bytes)` shares it.
    pub bytes: &'a [u8],
}

/// The batches of a buffer, in order. Headers are checked, payloads and CRCs are not. Ends after the first error.
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    buffer: &'a [u8],
    position: usize,
    align: usize,
}

impl<'a> BatchIter<'a> {
    /// Batches that each start at a multiple of [`BATCH_ALIGN`] within the buffer, with zeros between them: the payload
    /// of a raft entry. The last one may be padded or not.
    #[must_use]
    pub const fn packed(buffer: &'a [u8]) -> Self {
        Self { buffer, position: 0, align: BATCH_ALIGN }
    }

    /// Batches that directly follow each other: a Kafka record set.
    #[must_use]
    pub const fn adjacent(buffer: &'a [u8]) -> Self {
        Self { buffer, position: 0, align: 1 }
    }

    fn read(&mut self) -> Result<BatchRef<'a>, BatchError> {
        let position = self.position;
        let rest = self.buffer.get(position..).unwrap_or_default();
        let header = BatchHeader::parse(rest)?;
        let size = header.batch_bytes();
        let bytes = rest.get(..size).ok_or(BatchError::Truncated { needed: size, available: rest.len() })?;
        let end = position + size;
        let next = end.next_multiple_of(self.align).min(self.buffer.len());
        let padding = self.buffer.get(end..next).unwrap_or_default();
        if let Some(at) = padding.iter().position(|&byte| byte != 0) {
            return Err(BatchError::Padding(end + at));
        }
        self.position = next;
        Ok(BatchRef { header, position, bytes })
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<BatchRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.buffer.len() {
            return None;
        }
        let batch = self.read();
        if batch.is_err() {
            self.position = self.buffer.len();
        }
        Some(batch)
    }
}

impl std::iter::FusedIterator for BatchIter<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{Attributes, HEADER_BYTES, MAGIC_ROWS, NO_LEADER_EPOCH},
        ids::{Offset, ProducerEpoch, ProducerId},
    };

    fn batch(base_offset: u64, payload_bytes: u32) -> Vec<u8> {
        let header = BatchHeader {
            base_offset: Offset(base_offset),
            batch_length: 49 + payload_bytes,
            leader_epoch: NO_LEADER_EPOCH,
            magic: MAGIC_ROWS,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: 0,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            record_count: 1,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(HEADER_BYTES + payload_bytes as usize, 0xEE);
        bytes
    }

    fn pack(batches: &[Vec<u8>]) -> Vec<u8> {
        let mut buffer = Vec::new();
        for batch in batches {
            buffer.resize(padded_bytes(buffer.len()), 0);
            buffer.extend_from_slice(batch);
        }
        buffer
    }

    #[test]
    fn both_packings_give_the_same_batches() {
        let batches = [batch(10, 3), batch(11, 0), batch(12, 130), batch(13, 60)];
        let mut packed = pack(&batches);
        for _ in 0..2 {
            let read: Vec<_> = BatchIter::packed(&packed).map(Result::unwrap).collect();
            assert_eq!(read.iter().map(|batch| batch.position).collect::<Vec<_>>(), [0, 64, 128, 320]);
            assert!(read.iter().map(|batch| batch.bytes).eq(&batches));
            packed.resize(padded_bytes(packed.len()), 0); // the last may be padded as well
        }
        let adjacent = batches.concat();
        let read: Vec<_> = BatchIter::adjacent(&adjacent).map(|batch| batch.unwrap().header.base_offset).collect();
        assert_eq!(read, [10, 11, 12, 13].map(Offset));
    }

    #[test]
    fn a_cut_buffer_ends_in_an_error() {
        let batches = [batch(0, 3), batch(1, 20)];
        let (packed, adjacent) = (pack(&batches), batches.concat());
        for length in 65..packed.len() {
            let read: Vec<_> = BatchIter::packed(&packed[..length]).collect();
            assert!(matches!(read[..], [Ok(_), Err(BatchError::Truncated { .. })]), "{length}: {read:?}");
        }
        for length in 65..adjacent.len() {
            let read: Vec<_> = BatchIter::adjacent(&adjacent[..length]).collect();
            assert!(matches!(read[..], [Ok(_), Err(BatchError::Truncated { .. })]), "{length}: {read:?}");
        }
    }

    #[test]
    fn padding_is_zero() {
        let batches = [batch(0, 4), batch(1, 0)];
        let mut packed = pack(&batches);
        packed[127] = 1;
        let read: Vec<_> = BatchIter::packed(&packed).collect();
        assert_eq!(read, [Err(BatchError::Padding(127))]);
    }
}
