//! Values as records, and records as values.

use anyhow::{Context as _, Result, ensure};
use arrow_array::{Array as _, RecordBatch, cast::AsArray as _, types::Int64Type};
use bytes::Bytes;
use levada_checkers::history::{Offset, Process, Value};
use levada_protocol::batch::{BatchIter, Rows};

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
pub(super) fn decode(record: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(record).context("a record that is no text")?;
    let value = text.split(' ').next().and_then(|number| number.parse().ok()).context("a record without a value")?;
    ensure!(text == encode(value), "the record of {value} is damaged: {text:?}");
    Ok(value)
}

/// Records of batches as they are stored, from an offset on.
///
/// # Errors
/// A batch is damaged.
pub(super) fn of_batches(batches: &Bytes, from: Offset) -> Result<Vec<(Offset, Value)>> {
    let mut records = Vec::new();
    for batch in BatchIter::adjacent(batches) {
        let batch = batch?;
        let rows = Rows::open(&batches.slice_ref(batch.bytes))?;
        for record in rows.iter() {
            let record = record?;
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
pub(super) fn of_columns(batch: &RecordBatch) -> Result<Vec<(Offset, Value)>> {
    let offsets = batch.column_by_name("offset").context("no column offset")?;
    let offsets = offsets.as_primitive_opt::<Int64Type>().context("offset is no int64")?;
    let values = batch.column_by_name("value").context("no column value")?;
    let values = values.as_binary_opt::<i32>().context("value is no binary")?;
    ensure!(offsets.len() == values.len(), "columns of different lengths");
    let record = |(offset, value): (&i64, Option<&[u8]>)| {
        Ok((u64::try_from(*offset)?, decode(value.context("a record without a value")?)?))
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
