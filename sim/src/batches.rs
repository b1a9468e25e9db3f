//! Batches whose records are numbers that nobody else sends, so that each can be recognised wherever it turns up.

use bytes::Bytes;
use levada_protocol::{
    batch::{self, Attributes, BatchError, BatchHeader, HEADER_BYTES, MAGIC_ROWS, NO_LEADER_EPOCH},
    ids::{Offset, ProducerEpoch, ProducerId},
};

/// What one record says. Unique in a world, and rising within a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    /// Everything that one identity of one producer sends to one partition.
    pub stream: u32,
    /// Its place there, from 0; this is also its sequence number.
    pub number: u32,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.stream, self.number)
    }
}

/// What a record takes besides its filling.
const RECORD_BYTES: usize = 12;

/// A batch of `count` values from `first` on, each followed by `filling` bytes.
///
/// # Panics
/// When the batch would be larger than any may be.
#[must_use]
pub fn encode(producer: ProducerId, first: Value, count: u32, filling: usize, timestamp_ms: i64) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.reserve(count as usize * (RECORD_BYTES + filling));
    for number in first.number..first.number + count {
        bytes.extend_from_slice(&first.stream.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(filling).expect("a filling is small").to_be_bytes());
        bytes.resize(bytes.len() + filling, number.to_be_bytes()[3]);
    }
    let header = BatchHeader {
        base_offset: Offset(0),
        batch_length: u32::try_from(bytes.len() - 12).expect("a batch is small"),
        leader_epoch: NO_LEADER_EPOCH,
        magic: MAGIC_ROWS,
        crc: 0,
        attributes: Attributes::default(),
        last_offset_delta: count - 1,
        base_timestamp_ms: timestamp_ms,
        max_timestamp_ms: timestamp_ms,
        producer_id: producer,
        producer_epoch: ProducerEpoch(0),
        base_sequence: i32::try_from(first.number).expect("streams are short"),
        record_count: count,
    };
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    batch::seal(&mut bytes);
    bytes.into()
}

/// The values of a batch whose checksum is right.
///
/// # Errors
/// The batch is damaged.
pub fn decode(bytes: &[u8]) -> Result<Vec<Value>, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let mut values = Vec::with_capacity(header.record_count as usize);
    let mut rest = bytes.get(HEADER_BYTES..header.batch_bytes()).unwrap_or_default();
    for _ in 0..header.record_count {
        let record = field(rest, 0).zip(field(rest, 4)).zip(field(rest, 8));
        let truncated = BatchError::Truncated { needed: RECORD_BYTES, available: rest.len() };
        let ((stream, number), filling) = record.ok_or_else(|| truncated.clone())?;
        values.push(Value { stream, number });
        rest = rest.get(RECORD_BYTES + filling as usize..).ok_or(truncated)?;
    }
    Ok(values)
}

fn field(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let first = Value { stream: 3, number: 10 };
        for filling in [0, 1, 1000] {
            let batch = encode(ProducerId(5), first, 4, filling, 77);
            let header = BatchHeader::parse(&batch).unwrap();
            assert_eq!((header.producer_id, header.base_sequence, header.record_count), (ProducerId(5), 10, 4));
            let values: Vec<String> = decode(&batch).unwrap().iter().map(Value::to_string).collect();
            assert_eq!(values, ["3:10", "3:11", "3:12", "3:13"]);
            batch::verify_crc(&batch).unwrap();
            assert!(decode(&batch[..batch.len() - 1]).is_err());
        }
    }
}
