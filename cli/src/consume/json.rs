//! Record batches as JSON, line by line or cell by cell.
//!
//! arrow-json does the work, but for bytes. Keys, values and header values become a string if they are UTF-8, and else
//! `{"base64": "…"}`, so that a reader can tell one from the other. A typed topic's own binary columns are always base64
//! text: as `levada produce` takes them. Times with a zone are RFC 3339 in UTC.

use std::{io::Write, sync::Arc};

use arrow_array::{
    Array, RecordBatch,
    cast::AsArray,
    types::{
        Float32Type, Float64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType,
    },
};
use arrow_cast::base64::{BASE64_STANDARD, Engine};
use arrow_json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use arrow_schema::{ArrowError, DataType, FieldRef, TimeUnit};
use jiff::Timestamp;
use serde::Serialize;

/// How the bytes of a topic's columns are shown.
#[derive(Debug)]
pub(super) struct Style {
    is_typed: bool,
    text: EncoderOptions,
    base64: EncoderOptions,
}

impl Style {
    pub(super) fn new(is_typed: bool) -> Self {
        let options =
            |bytes| EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(BytesAs(bytes)));
        Self { is_typed, text: options(Shown::Text), base64: options(Shown::Base64) }
    }

    fn options(&self, column: &str) -> &EncoderOptions {
        // What every typed topic has besides its own columns begins with `_`.
        if self.is_typed && !column.starts_with('_') { &self.base64 } else { &self.text }
    }
}

/// One record batch, ready to be shown row by row.
pub(super) struct Rows<'a>(Vec<(&'a str, NullableEncoder<'a>)>);

impl<'a> Rows<'a> {
    pub(super) fn new(batch: &'a RecordBatch, style: &'a Style) -> Result<Self, ArrowError> {
        let columns = batch.schema_ref().fields().iter().zip(batch.columns());
        let encoder = |(field, column): (&'a FieldRef, &'a Arc<dyn Array>)| {
            let name = field.name().as_str();
            Ok((name, make_encoder(field, column, style.options(name))?))
        };
        columns.map(encoder).collect::<Result<_, _>>().map(Self)
    }

    /// A row as a JSON object, on a line of its own.
    pub(super) fn line(&mut self, row: usize, out: &mut Vec<u8>) -> std::io::Result<()> {
        for (number, (name, encoder)) in self.0.iter_mut().enumerate() {
            out.push(if number == 0 { b'{' } else { b',' });
            serde_json::to_writer(&mut *out, name)?;
            out.push(b':');
            encode(encoder, row, out);
        }
        out.write_all(b"}\n")
    }

    /// A row's cells as text: what JSON says, strings without their quotes, null as nothing.
    pub(super) fn cells(&mut self, row: usize) -> impl Iterator<Item = String> {
        self.0.iter_mut().map(move |(_, encoder)| {
            if encoder.is_null(row) {
                return String::new();
            }
            let mut json = Vec::new();
            encode(encoder, row, &mut json);
            serde_json::from_slice::<String>(&json).unwrap_or_else(|_| String::from_utf8_lossy(&json).into_owned())
        })
    }
}

fn encode(encoder: &mut NullableEncoder<'_>, row: usize, out: &mut Vec<u8>) {
    if encoder.is_null(row) {
        out.extend_from_slice(b"null");
    } else {
        encoder.encode(row, out);
    }
}

/// What bytes are shown as.
#[derive(Clone, Copy, Debug)]
enum Shown {
    /// Text if it is UTF-8, else an object that says base64.
    Text,
    /// Base64 text.
    Base64,
}

/// Encodes what arrow-json does not encode, or not as we want it.
#[derive(Debug)]
struct BytesAs(Shown);

impl EncoderFactory for BytesAs {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => self.bytes(|row| array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => self.bytes(|row| array.as_binary::<i64>().value(row)),
            DataType::BinaryView => self.bytes(|row| array.as_binary_view().value(row)),
            DataType::FixedSizeBinary(_) => self.bytes(|row| array.as_fixed_size_binary().value(row)),
            DataType::Float32 => Box::new(Floats(|row| array.as_primitive::<Float32Type>().value(row))),
            DataType::Float64 => Box::new(Floats(|row| array.as_primitive::<Float64Type>().value(row))),
            DataType::Timestamp(unit, Some(_)) => Box::new(Instants { array, unit: *unit }),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

impl BytesAs {
    fn bytes<'a>(&self, value: impl Fn(usize) -> &'a [u8] + 'a) -> Box<dyn Encoder + 'a> {
        Box::new(Bytes { value, shown: self.0 })
    }
}

/// A column of points in time, shown in UTC whatever its zone, with as many digits as its unit has.
struct Instants<'a> {
    array: &'a dyn Array,
    unit: TimeUnit,
}

impl Encoder for Instants<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let array = self.array;
        let (time, digits) = match self.unit {
            TimeUnit::Second => (Timestamp::from_second(array.as_primitive::<TimestampSecondType>().value(row)), 0),
            TimeUnit::Millisecond => {
                (Timestamp::from_millisecond(array.as_primitive::<TimestampMillisecondType>().value(row)), 3)
            }
            TimeUnit::Microsecond => {
                (Timestamp::from_microsecond(array.as_primitive::<TimestampMicrosecondType>().value(row)), 6)
            }
            TimeUnit::Nanosecond => {
                let nanoseconds = array.as_primitive::<TimestampNanosecondType>().value(row);
                (Timestamp::from_nanosecond(nanoseconds.into()), 9)
            }
        };
        let written = match time {
            Ok(time) => write!(out, "\"{time:.digits$}\""),
            // Beyond the years that can be written down.
            Err(_) => out.write_all(b"null"),
        };
        debug_assert!(written.is_ok(), "text goes into memory");
    }
}

/// A column of floats; those that JSON lacks are text, as `produce` takes them and as the server writes them.
struct Floats<F>(F);

impl<T: Copy + Into<f64> + Serialize, F: Fn(usize) -> T> Encoder for Floats<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = (self.0)(row);
        let written = match value.into() {
            float if float.is_finite() => serde_json::to_writer(out, &value),
            float if float.is_nan() => serde_json::to_writer(out, "NaN"),
            float => serde_json::to_writer(out, if float > 0.0 { "Infinity" } else { "-Infinity" }),
        };
        debug_assert!(written.is_ok(), "text goes into memory");
    }
}

/// A column of bytes.
struct Bytes<F> {
    value: F,
    shown: Shown,
}

impl<'a, F: Fn(usize) -> &'a [u8]> Encoder for Bytes<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let bytes = (self.value)(row);
        let base64 = || BASE64_STANDARD.encode(bytes);
        let written = match (self.shown, std::str::from_utf8(bytes)) {
            (Shown::Text, Ok(text)) => serde_json::to_writer(out, text),
            (Shown::Text, Err(_)) => serde_json::to_writer(out, &serde_json::json!({"base64": base64()})),
            (Shown::Base64, _) => serde_json::to_writer(out, &base64()),
        };
        debug_assert!(written.is_ok(), "text goes into memory");
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        ArrayRef, BinaryArray, Float64Array, ListArray, RecordBatch, StringArray, TimestampMillisecondArray,
        types::Int32Type,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        let columns: [(&str, ArrayRef); 5] = [
            ("at", Arc::new(TimestampMillisecondArray::from(vec![0, 1_500]).with_timezone("UTC"))),
            ("value", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"a\"\n"), Some(b"\xff\x00")]))),
            ("key", Arc::new(BinaryArray::from_opt_vec(vec![None, Some(b"k")]))),
            ("price", Arc::new(Float64Array::from(vec![Some(2.5), Some(f64::NAN)]))),
            ("tags", Arc::new(list)),
        ];
        let text: ArrayRef = Arc::new(StringArray::from(vec!["12", ""]));
        RecordBatch::try_from_iter(columns.into_iter().chain([("text", text)])).unwrap()
    }

    fn lines(batch: &RecordBatch, is_typed: bool) -> Vec<String> {
        let style = Style::new(is_typed);
        let mut rows = Rows::new(batch, &style).unwrap();
        let line = |row| {
            let mut out = Vec::new();
            rows.line(row, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        (0..batch.num_rows()).map(line).collect()
    }

    #[test]
    fn lines_say_every_value() {
        let first =
            r#"{"at":"1970-01-01T00:00:00.000Z","value":"a\"\n","key":null,"price":2.5,"tags":[1,null],"text":"12"}"#;
        let second = concat!(
            r#"{"at":"1970-01-01T00:00:01.500Z","value":{"base64":"/wA="},"key":"k","price":"NaN","#,
            r#""tags":null,"text":""}"#
        );
        assert_eq!(lines(&batch(), false), [format!("{first}\n"), format!("{second}\n")]);
    }

    #[test]
    fn a_typed_topics_own_bytes_are_base64_as_they_are_written() {
        let columns: [(&str, ArrayRef); 2] = [
            ("payload", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"text")]))),
            ("_key", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"text")]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        assert_eq!(lines(&batch, true), ["{\"payload\":\"dGV4dA==\",\"_key\":\"text\"}\n"]);
    }

    #[test]
    fn cells_are_what_json_says_without_quotes() {
        let (batch, style) = (batch(), Style::new(false));
        let mut rows = Rows::new(&batch, &style).unwrap();
        let cells: Vec<String> = rows.cells(0).collect();
        assert_eq!(cells, ["1970-01-01T00:00:00.000Z", "a\"\n", "", "2.5", "[1,null]", "12"]);
        let cells: Vec<String> = rows.cells(1).collect();
        assert_eq!(cells, ["1970-01-01T00:00:01.500Z", "{\"base64\":\"/wA=\"}", "k", "NaN", "", ""]);
    }
}
