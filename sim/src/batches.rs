//! Batches whose records are numbers that nobody else sends, so that each can be recognised wherever it turns up.

use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, BatchError, BatchProducer, NewRecord, Rows, RowsBuilder},
    ids::{ProducerEpoch, ProducerId},
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

/// What a value takes, without its filling.
const VALUE_BYTES: usize = 8;

/// A batch of `count` values from `first` on, each followed by `filling` bytes.
///
/// # Panics
/// When the batch would be larger than any may be.
#[must_use]
pub fn encode(producer: ProducerId, first: Value, count: u32, filling: usize, timestamp_ms: i64) -> Bytes {
    let mut builder = RowsBuilder::new();
    let mut value = Vec::with_capacity(VALUE_BYTES + filling);
    for number in first.number..first.number + count {
        value.clear();
        value.extend_from_slice(&first.stream.to_be_bytes());
        value.extend_from_slice(&number.to_be_bytes());
        value.resize(VALUE_BYTES + filling, number.to_be_bytes()[3]);
        let record = NewRecord { timestamp_ms, value: Some(&value), ..NewRecord::default() };
        builder.push(&record).expect("a batch is small");
    }
    let base_sequence = i32::try_from(first.number).expect("streams are short");
    let idempotent = BatchProducer { id: producer, epoch: ProducerEpoch(0), base_sequence };
    let producer = if producer.get() < 0 { BatchProducer::NONE } else { idempotent };
    builder.finish(Attributes::default(), producer).expect("a batch holds records")
}

/// The values of a batch whose checksum is right.
///
/// # Errors
/// The batch is not one of these.
pub fn decode(bytes: &Bytes) -> Result<Vec<Value>, BatchError> {
    let rows = Rows::open(bytes)?;
    let values = rows.iter().map(|record| {
        let value = record?.value.unwrap_or_default();
        let field = |at: usize| value.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let short = BatchError::Truncated { needed: VALUE_BYTES, available: value.len() };
        let (stream, number) = field(0).zip(field(4)).ok_or(short)?;
        Ok(Value { stream, number })
    });
    values.collect()
}

#[cfg(test)]
mod tests {
    use levada_protocol::batch::{self, BatchHeader};

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
            assert!(decode(&batch.slice(..batch.len() - 1)).is_err());
        }
    }
}
