//! From columns to JSON objects.

use arrow_array::{Array, ArrayRef, cast::AsArray, types::*};
use arrow_cast::base64::{BASE64_STANDARD, Engine};
use arrow_schema::{DataType, Fields, TimeUnit};

use super::scalar::{date_text, decimal_text, time_text, timestamp_text};

/// Writes rows of some columns as JSON objects.
#[derive(Debug)]
pub(crate) struct JsonWriter<'a> {
    columns: &'a [ArrayRef],
    /// `"name":` of each.
    keys: Vec<String>,
}

impl<'a> JsonWriter<'a> {
    /// For these columns, which have these names.
    pub(crate) fn new(fields: &Fields, columns: &'a [ArrayRef]) -> Self {
        Self { columns, keys: keys(fields) }
    }

    /// Appends the object of one row.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) {
        object(&self.keys, self.columns, row, out);
    }
}

fn keys(fields: &Fields) -> Vec<String> {
    fields.iter().map(|field| format!("{}:", quoted(field.name()))).collect()
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn object(keys: &[String], columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (key, column)) in keys.iter().zip(columns).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        value(column, row, out);
    }
    out.push(b'}');
}

fn value(array: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    macro_rules! number {
        ($kind:ty) => {
            out.extend_from_slice(array.as_primitive::<$kind>().value(row).to_string().as_bytes())
        };
    }
    macro_rules! integer {
        ($kind:ty) => {
            i64::from(array.as_primitive::<$kind>().value(row))
        };
    }
    if array.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match array.data_type() {
        DataType::Boolean => out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" }),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row), out),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row), out),
        DataType::Utf8 => text(array.as_string::<i32>().value(row), out),
        DataType::Binary => text(&BASE64_STANDARD.encode(array.as_binary::<i32>().value(row)), out),
        DataType::FixedSizeBinary(_) => {
            text(&BASE64_STANDARD.encode(array.as_fixed_size_binary().value(row)), out);
        }
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(row);
            text_or_number(date_text(days), days.into(), out);
        }
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let value = match unit {
                TimeUnit::Second => integer!(Time32SecondType),
                TimeUnit::Millisecond => integer!(Time32MillisecondType),
                TimeUnit::Microsecond => integer!(Time64MicrosecondType),
                TimeUnit::Nanosecond => integer!(Time64NanosecondType),
            };
            text_or_number(time_text(value, *unit), value, out);
        }
        DataType::Timestamp(unit, zone) => {
            let value = match unit {
                TimeUnit::Second => integer!(TimestampSecondType),
                TimeUnit::Millisecond => integer!(TimestampMillisecondType),
                TimeUnit::Microsecond => integer!(TimestampMicrosecondType),
                TimeUnit::Nanosecond => integer!(TimestampNanosecondType),
            };
            text_or_number(timestamp_text(value, *unit, zone.is_some()), value, out);
        }
        DataType::Decimal128(_, scale) => {
            text(&decimal_text(array.as_primitive::<Decimal128Type>().value(row), *scale), out);
        }
        DataType::List(_) => list(&array.as_list::<i32>().value(row), out),
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row), out),
        DataType::Struct(fields) => object(&keys(fields), array.as_struct().columns(), row, out),
        // No topic's schema has other types.
        _ => out.extend_from_slice(b"null"),
    }
}

fn list(items: &ArrayRef, out: &mut Vec<u8>) {
    out.push(b'[');
    for row in 0..items.len() {
        if row > 0 {
            out.push(b',');
        }
        value(items, row, out);
    }
    out.push(b']');
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(quoted(text).as_bytes());
}

fn text_or_number(as_text: Option<String>, number: i64, out: &mut Vec<u8>) {
    match as_text {
        Some(as_text) => text(&as_text, out),
        None => out.extend_from_slice(number.to_string().as_bytes()),
    }
}

/// The shortest digits that read back as the same float.
fn float<F: Copy + Into<f64> + serde::Serialize>(value: F, out: &mut Vec<u8>) {
    match value.into() {
        float if float.is_finite() => {
            let digits = serde_json::to_string(&value).unwrap_or_default();
            out.extend_from_slice(digits.as_bytes());
        }
        float if float.is_nan() => out.extend_from_slice(b"\"NaN\""),
        float if float > 0.0 => out.extend_from_slice(b"\"Infinity\""),
        _ => out.extend_from_slice(b"\"-Infinity\""),
    }
}
