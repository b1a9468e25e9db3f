//! One partition's log under Kafka's rule for sequences.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use levada_client::ErrorCode;
use levada_protocol::{
    batch::{BatchHeader, Rows, sequence_plus, stamp, validate_produced, verify_crc},
    ids::Offset,
    limits::BATCH_BYTES_MAX,
};

/// How many batches of a producer are remembered.
const REMEMBERED: usize = 5;

#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) base_offset: u64,
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Default)]
struct Producer {
    next_sequence: i32,
    batches: VecDeque<(i32, u64)>,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) leader: u64,
    pub(crate) epoch: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) batches: Vec<Stored>,
    pub(crate) duplicates: usize,
    producers: BTreeMap<i64, Producer>,
}

impl Log {
    pub(crate) fn led_by(leader: u64) -> Self {
        Self { leader, epoch: 1, start: 0, end: 0, batches: Vec::new(), duplicates: 0, producers: BTreeMap::new() }
    }

    /// A producer that wrote nothing for long is forgotten.
    pub(crate) fn forget_producers(&mut self) {
        self.producers.clear();
    }

    pub(crate) fn producer_ids(&self) -> Vec<i64> {
        self.producers.keys().copied().collect()
    }

    /// What follows is taken, what is remembered is acknowledged again, the rest is refused.
    pub(crate) fn produce(&mut self, bytes: &Bytes) -> Result<(u64, bool), ErrorCode> {
        let header = BatchHeader::parse(bytes).map_err(|_| ErrorCode::CorruptBatch)?;
        verify_crc(bytes).map_err(|_| ErrorCode::CorruptBatch)?;
        validate_produced(bytes, BATCH_BYTES_MAX).map_err(|_| ErrorCode::CorruptBatch)?;
        if Rows::open(bytes).unwrap().iter().any(|record| record.unwrap().value == Some(b"poison")) {
            return Err(ErrorCode::SchemaMismatch);
        }
        let producer = self.producers.entry(header.producer_id.get()).or_default();
        if let Some(&(_, offset)) = producer.batches.iter().find(|(sequence, _)| *sequence == header.base_sequence) {
            self.duplicates += 1;
            return Ok((offset, true));
        }
        if header.base_sequence != producer.next_sequence {
            return Err(ErrorCode::OutOfOrderSequence);
        }
        producer.next_sequence = sequence_plus(header.base_sequence, header.record_count);
        let base_offset = self.end;
        producer.batches.push_back((header.base_sequence, base_offset));
        if producer.batches.len() > REMEMBERED {
            producer.batches.pop_front();
        }
        self.end += u64::from(header.record_count);
        let mut stamped = bytes.to_vec();
        stamp(&mut stamped, Offset(base_offset), 1).unwrap();
        self.batches.push(Stored { base_offset, bytes: stamped.into() });
        Ok((base_offset, false))
    }

    pub(crate) fn values(&self) -> Vec<Vec<u8>> {
        let of = |batch: &Stored| -> Vec<Vec<u8>> {
            let rows = Rows::open(&batch.bytes).unwrap();
            rows.iter().map(|record| record.unwrap().value.unwrap_or_default().to_vec()).collect()
        };
        self.batches.iter().flat_map(of).collect()
    }
}
