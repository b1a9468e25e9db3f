//! What the tests of several modules share.

use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, BatchHeader, HEADER_BYTES, MAGIC_ROWS, padded_bytes, seal},
    ids::{LogIndex, Offset, PartitionId, ProducerEpoch, ProducerId, Term, TopicId, TopicPartition},
};
use uuid::Uuid;

use crate::entry::{Entry, EntryKind};

/// The partition that tests write.
pub(crate) const TOPIC_PARTITION: TopicPartition = TopicPartition {
    topic: TopicId(Uuid::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])),
    partition: PartitionId(4),
};

/// A sound batch of `records` offsets; its timestamp is ten times its base offset.
pub(crate) fn batch(base_offset: u64, records: u32, payload_bytes: usize) -> Vec<u8> {
    let timestamp_ms = i64::try_from(base_offset).unwrap() * 10;
    let header = BatchHeader {
        base_offset: Offset(base_offset),
        batch_length: 49 + u32::try_from(payload_bytes).unwrap(),
        leader_epoch: 1,
        magic: MAGIC_ROWS,
        crc: 0,
        attributes: Attributes::default(),
        last_offset_delta: records - 1,
        base_timestamp_ms: timestamp_ms,
        max_timestamp_ms: timestamp_ms,
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: -1,
        record_count: records,
    };
    let mut bytes = header.to_bytes().to_vec();
    let fill = (0..payload_bytes).map(|at| u8::try_from((at as u64 + base_offset * 7) % 251).unwrap());
    bytes.extend(fill);
    debug_assert_eq!(bytes.len(), HEADER_BYTES + payload_bytes);
    seal(&mut bytes);
    bytes
}

/// Batches as the payload of an entry.
pub(crate) fn pack(batches: &[Vec<u8>]) -> Bytes {
    let mut payload = Vec::new();
    for batch in batches {
        payload.resize(padded_bytes(payload.len()), 0);
        payload.extend_from_slice(batch);
    }
    payload.into()
}

/// An entry of batches.
pub(crate) fn batches(index: u64, term: u64, batches: &[Vec<u8>]) -> Entry {
    Entry { index: LogIndex(index), term: Term(term), kind: EntryKind::Batches, payload: pack(batches) }
}

/// An entry without offsets.
pub(crate) fn control(index: u64, term: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
    Entry { index: LogIndex(index), term: Term(term), kind, payload: Bytes::from_static(payload) }
}
