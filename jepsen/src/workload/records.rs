//! Values as records, and records as values.

use arrow_array::{RecordBatch, cast::AsArray as _, types::Int64Type};
use bytes::Bytes;
use levada_checkers::history::{Offset, Process, Value};
use levada_protocol::batch::{BatchError, BatchIter, Rows};

/// What was shown is no record that anybody wrote, or not whole.
#[derive(Debug)]
pub(super) struct Damaged(String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Damaged {}

/// A value that no other process writes: who, and how many it wrote before.
#[must_use]
pub(super) fn value(process: Process, number: u32) -> Value {
    u64::from(process) << 32 | u64::from(number)
}

/// What a record of a value says: the value, and a filling that follows from it, so that a record that was cut or mixed with
/// another one is noticed.
#[must_use]
pub(super) fn encode(value: Value) -> String {
    let filling = usize::try_from(value % 97).unwrap_or(0);
    let letter = char::from(b'a' + u8::try_from(value % 26).unwrap_or(0));
    format!("{value} {}", letter.to_string().repeat(filling))
}

/// The value of a record.
///
/// # Errors
/// It is none that [`encode`] makes.
pub(super) fn decode(record: &[u8]) -> Result<Value, Damaged> {
    let text = String::from_utf8_lossy(record);
    let value = text.split(' ').next().and_then(|number| number.parse().ok());
    value.filter(|&value| text == encode(value)).ok_or_else(|| Damaged(format!("nobody wrote the record {text:?}")))
}

/// Records of batches as they are stored, from an offset on.
///
/// # Errors
/// A batch is damaged.
pub(super) fn of_batches(batches: &Bytes, from: Offset) -> Result<Vec<(Offset, Value)>, Damaged> {
    let damaged = |error: BatchError| Damaged(format!("a batch is damaged: {error}"));
    let mut records = Vec::new();
    for batch in BatchIter::adjacent(batches) {
        let batch = batch.map_err(damaged)?;
        let rows = Rows::open(&batches.slice_ref(batch.bytes)).map_err(damaged)?;
        for record in rows.iter() {
            let record = record.map_err(damaged)?;
            if record.offset.get() >= from {
                records.push((record.offset.get(), decode(record.value.unwrap_or_default())?));
            }
        }
    }
    Ok(records)
}

/// Records of an Arrow batch of an untyped topic.
///
/// # Errors
/// It has not the columns that it should have, or a record is damaged.
pub(super) fn of_columns(batch: &RecordBatch) -> Result<Vec<(Offset, Value)>, Damaged> {
    let offsets = batch.column_by_name("offset").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let values = batch.column_by_name("value").and_then(|column| column.as_binary_opt::<i32>());
    let (Some(offsets), Some(values)) = (offsets, values) else {
        return Err(Damaged(format!("a batch without an int64 offset and a binary value: {}", batch.schema())));
    };
    let record = |(offset, value): (&i64, Option<&[u8]>)| {
        let offset = u64::try_from(*offset).map_err(|_| Damaged(format!("a record at offset {offset}")))?;
        Ok((offset, decode(value.unwrap_or_default())?))
    };
    offsets.values().iter().zip(values).map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_a_damaged_one_is_noticed() {
        for of in [value(0, 0), value(7, 123), value(u32::MAX, u32::MAX)] {
            let mut record = encode(of).into_bytes();
            assert_eq!(decode(&record).unwrap(), of);
            record.push(b'x');
            assert!(decode(&record).is_err());
        }
        assert!(decode(b"").is_err());
    }
}
