//! What a client writes, as records of the topic: its columns found by name, brought to the topic's types, checked.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, ListArray, TimestampMillisecondArray, cast::AsArray, new_empty_array, new_null_array,
    types::TimestampMillisecondType,
};
use arrow_buffer::OffsetBuffer;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_flight::FlightData;
use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    limits::{BATCH_DECOMPRESSED_BYTES_MAX, MIB, TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN},
};

use crate::{
    codec::check_digits,
    convert::{hidden::Hidden, null_bytes},
    ipc::{IpcError, message::BatchMessage, read},
    schema::{HEADERS, KEY, OFFSET, PARTITION, RESERVED, TIMESTAMP, TypedSchema, fold_type, headers_type, write_type},
};

/// The most rows taken in one message: what is charged for a row (see `Incoming::row_bytes`) bounds them further.
const ROWS_MAX: usize = 1 << 24;

/// Records to append, as columns.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    /// A typed topic's own columns; of an untyped one the values.
    pub(crate) own: Vec<ArrayRef>,
    pub(crate) hidden: Hidden,
}

impl Records {
    pub(crate) fn rows(&self) -> usize {
        self.hidden.timestamps.len()
    }

    /// Some of the rows, in this order.
    pub(crate) fn take(&self, rows: &arrow_array::UInt32Array) -> Result<Self> {
        let take = |column: &dyn Array| arrow_select::take::take(column, rows, None).map_err(internal);
        Ok(Self {
            own: self.own.iter().map(|column| take(column)).collect::<Result<_>>()?,
            hidden: Hidden {
                timestamps: take(&self.hidden.timestamps)?.as_primitive::<TimestampMillisecondType>().clone(),
                keys: take(&self.hidden.keys)?,
                headers: take(&self.hidden.headers)?,
            },
        })
    }

    pub(crate) fn slice(&self, start: usize, length: usize) -> Self {
        Self {
            own: self.own.iter().map(|column| column.slice(start, length)).collect(),
            hidden: Hidden {
                timestamps: self.hidden.timestamps.slice(start, length),
                keys: self.hidden.keys.slice(start, length),
                headers: self.hidden.headers.slice(start, length),
            },
        }
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Internal, error.to_string())
}

fn mismatch(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("field `{field}`: {why}"))
}

/// Where a client's columns belong.
#[derive(Debug)]
pub(crate) struct Incoming {
    client: Schema,
    /// The topic's columns, each with the client's column for it.
    own: Vec<(FieldRef, Option<usize>)>,
    timestamp: Option<usize>,
    key: Option<usize>,
    headers: Option<usize>,
    /// What each row takes besides the client's own bytes: a few bytes can announce millions of rows.
    row_bytes: usize,
}

impl Incoming {
    /// Finds the columns of a client's schema. Without a topic's schema they are key, value, timestamp and headers.
    ///
    /// # Errors
    /// `SchemaMismatch` naming the column that is missing, unknown or of another type.
    pub(crate) fn new(topic: Option<&TypedSchema>, client: Schema) -> Result<Self> {
        let (fields, names) = match topic {
            Some(topic) => (topic.own().fields().to_vec(), [TIMESTAMP, KEY, HEADERS]),
            None => (vec![Arc::new(Field::new("value", DataType::Binary, true))], ["timestamp", "key", "headers"]),
        };
        for field in client.fields() {
            let name = field.name();
            if !fields.iter().any(|own| own.name() == name) && !names.contains(&name.as_str()) {
                return Err(unknown(name, &fields, names));
            }
            if client.fields().iter().filter(|other| other.name() == name).count() > 1 {
                return Err(mismatch(name, "is there twice"));
            }
        }
        let find = |name: &str, wanted: &DataType, text_as_bytes: bool| {
            let found = client.fields().find(name);
            match found {
                Some((_, field)) if !fits(field.data_type(), wanted, text_as_bytes) => {
                    let is = write_type(field.data_type());
                    Err(mismatch(name, format!("{is}, where {} is expected; cast it", write_type(wanted))))
                }
                found => Ok(found.map(|(position, _)| position)),
            }
        };
        let mut own = Vec::with_capacity(fields.len());
        for field in &fields {
            let position = find(field.name(), field.data_type(), topic.is_none())?;
            if position.is_none() && (topic.is_none() || !field.is_nullable()) {
                return Err(mismatch(field.name(), "is missing"));
            }
            own.push((Arc::clone(field), position));
        }
        let timestamp = client.fields().find(names[0]);
        if let Some((_, field)) = timestamp.filter(|(_, field)| !is_time(field.data_type())) {
            let is = write_type(field.data_type());
            return Err(mismatch(names[0], format!("{is}, where a timestamp or int64 milliseconds are expected")));
        }
        let timestamp = timestamp.map(|(position, _)| position);
        let key = find(names[1], &DataType::Binary, true)?;
        let headers = find(names[2], &headers_type(), true)?;
        let made = |to: &DataType, from: Option<usize>| {
            let there = from.and_then(|position| client.fields().get(position));
            null_bytes(to).saturating_sub(there.map_or(0, |field| null_bytes(field.data_type())))
        };
        let hidden = [(DataType::Int64, timestamp), (DataType::Binary, key), (headers_type(), headers)];
        let row_bytes = own.iter().map(|(field, position)| made(field.data_type(), *position));
        let row_bytes = row_bytes.chain(hidden.iter().map(|(to, position)| made(to, *position)));
        let row_bytes = row_bytes.fold(0, usize::saturating_add);
        Ok(Self { client, own, timestamp, key, headers, row_bytes })
    }

    /// The records of a message.
    ///
    /// # Errors
    /// It is not sound, or a value does not fit, which the error names.
    pub(crate) fn records(&self, data: &FlightData, now_ms: i64) -> Result<Records> {
        let message = BatchMessage::parse_rows(&data.data_header, data.data_body.len(), ROWS_MAX)?;
        if message.rows.saturating_mul(self.row_bytes) > BATCH_DECOMPRESSED_BYTES_MAX {
            let why = format!(
                "a message of {} rows unfolds to more than {} MiB in the columns that it leaves out or that are wider in \
                 the topic; send at most {} rows in one",
                message.rows,
                BATCH_DECOMPRESSED_BYTES_MAX / MIB,
                BATCH_DECOMPRESSED_BYTES_MAX / self.row_bytes
            );
            return Err(Error::new(ErrorCode::RecordTooLarge, why));
        }
        // Nulls are judged by the topic's schema and not by the client's.
        let columns = read::read(self.client.fields(), &message, &data.data_body, |_| true)?;
        let rows = message.rows;
        let column = |position: Option<usize>| position.and_then(|position| columns.get(position));
        let own = self.own.iter().map(|(field, position)| own_column(field, column(*position), rows));
        let own = own.collect::<Result<_>>()?;
        let hidden = Hidden {
            timestamps: timestamps(column(self.timestamp), rows, now_ms)?,
            keys: match column(self.key) {
                Some(keys) => cast(KEY, keys, &DataType::Binary)?,
                None => new_null_array(&DataType::Binary, rows),
            },
            headers: headers(column(self.headers), rows)?,
        };
        Ok(Records { own, hidden })
    }
}

fn unknown(name: &str, fields: &[FieldRef], hidden: [&str; 3]) -> Error {
    if [PARTITION, OFFSET].contains(&name)
        || [PARTITION, OFFSET].map(|own| own.trim_start_matches(RESERVED)).contains(&name)
    {
        return mismatch(name, "is made by the log; leave it out of what is written");
    }
    let mut known: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
    known.extend(hidden);
    mismatch(name, format!("the topic has no such column; it has {}", known.join(", ")))
}

/// Whether every value of one type is a value of the other.
fn fits(from: &DataType, to: &DataType, text_as_bytes: bool) -> bool {
    use DataType::{
        Binary, Decimal128, FixedSizeBinary, FixedSizeList, Float32, Float64, Int8, Int16, Int32, Int64, LargeList,
        LargeUtf8, List, Struct, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8,
    };
    let folded = fold_type(from).ok();
    match (from, to) {
        (_, to) if folded.as_ref() == Some(to) => true,
        (Int8, Int16 | Int32 | Int64) | (Int16, Int32 | Int64) | (Int32, Int64) => true,
        (UInt8, UInt16 | UInt32 | UInt64) | (UInt16, UInt32 | UInt64) | (UInt32, UInt64) | (Float32, Float64) => true,
        (Utf8 | LargeUtf8 | FixedSizeBinary(_), Binary) => text_as_bytes,
        (Timestamp(from, from_zone), Timestamp(to, to_zone)) => from == to && from_zone.is_some() == to_zone.is_some(),
        (Decimal128(from, from_scale), Decimal128(to, to_scale)) => from <= to && from_scale == to_scale,
        (List(from) | LargeList(from), List(to)) => fits(from.data_type(), to.data_type(), text_as_bytes),
        (FixedSizeList(from, from_size), FixedSizeList(to, to_size)) => {
            from_size == to_size && fits(from.data_type(), to.data_type(), text_as_bytes)
        }
        (Struct(from), Struct(to)) => {
            let fits = |to: &FieldRef| {
                from.find(to.name()).is_some_and(|(_, from)| fits(from.data_type(), to.data_type(), text_as_bytes))
            };
            from.len() == to.len() && to.iter().all(fits)
        }
        _ => false,
    }
}

const fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..) | DataType::Int64)
}

fn cast(field: &str, column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, to, &exact).map_err(|error| mismatch(field, error))
}

fn own_column(field: &FieldRef, column: Option<&ArrayRef>, rows: usize) -> Result<ArrayRef> {
    let Some(column) = column else { return Ok(new_null_array(field.data_type(), rows)) };
    let column = cast(field.name(), column, field.data_type())?;
    if !field.is_nullable()
        && let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0)
    {
        let row = (0..nulls.len()).find(|row| nulls.is_null(*row)).unwrap_or(0);
        return Err(IpcError::Null { field: field.name().clone(), row }.into());
    }
    check_digits(field.name(), &column)?;
    Ok(column)
}

fn timestamps(column: Option<&ArrayRef>, rows: usize, now_ms: i64) -> Result<TimestampMillisecondArray> {
    let Some(column) = column else { return Ok(TimestampMillisecondArray::from_value(now_ms, rows)) };
    // A time without zone is taken for UTC, as the numbers are.
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let times = cast(TIMESTAMP, column, &DataType::Timestamp(TimeUnit::Millisecond, zone))?;
    let times = times.as_primitive::<TimestampMillisecondType>();
    let times: Vec<i64> = times.iter().map(|time| time.unwrap_or(now_ms)).collect();
    if let Some(row) = times.iter().position(|time| !(TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX).contains(time)) {
        let why = format!("row {row} is not between 1970 and the year 9999");
        return Err(mismatch(TIMESTAMP, why));
    }
    Ok(times.into())
}

fn headers(column: Option<&ArrayRef>, rows: usize) -> Result<ArrayRef> {
    let DataType::List(item) = headers_type() else { return Err(internal("headers are a list")) };
    let Some(column) = column else {
        let none = new_empty_array(item.data_type());
        let lists = ListArray::try_new(item, OffsetBuffer::new_zeroed(rows), none, None).map_err(internal)?;
        return Ok(Arc::new(lists));
    };
    let lists = cast(HEADERS, column, &headers_type())?;
    let lists = lists.as_list::<i32>();
    if lists.null_count() == 0 {
        return Ok(Arc::new(lists.clone()));
    }
    // No list and an empty list are the same here.
    let length = |row| if lists.is_valid(row) { lists.value_length(row).unsigned_abs() as usize } else { 0 };
    let kept: Vec<ArrayRef> = (0..rows).filter(|row| length(*row) > 0).map(|row| lists.value(row)).collect();
    let kept: Vec<&dyn Array> = kept.iter().map(AsRef::as_ref).collect();
    let values = if kept.is_empty() {
        new_empty_array(item.data_type())
    } else {
        arrow_select::concat::concat(&kept).map_err(internal)?
    };
    let offsets = OffsetBuffer::from_lengths((0..rows).map(length));
    Ok(Arc::new(ListArray::try_new(item, offsets, values, None).map_err(internal)?))
}

#[cfg(test)]
mod tests {
    use levada_protocol::source::TopicSchema;

    use super::*;

    #[test]
    fn rows_that_nobody_sent_are_paid_for_before_they_are_made() {
        let json = r#"{"fields":[{"name":"v","type":"fixed_size_list(768)","items":"float32"}]}"#;
        let topic = TypedSchema::new(&TopicSchema { id: 1, json: json.into() }).unwrap();
        let incoming = Incoming::new(Some(&topic), Schema::empty()).unwrap();
        let message = |rows| {
            let message = BatchMessage { rows, nodes: Vec::new(), buffers: Vec::new(), codec: None };
            FlightData { data_header: message.write(0).into(), ..FlightData::default() }
        };
        for rows in [ROWS_MAX, BATCH_DECOMPRESSED_BYTES_MAX / (768 * 4)] {
            let error = incoming.records(&message(rows), 0).unwrap_err();
            assert_eq!(error.code, ErrorCode::RecordTooLarge);
            assert!(error.message.contains("send at most 21"), "{error}");
        }
        assert_eq!(incoming.records(&message(1000), 0).unwrap().rows(), 1000);
    }
}
