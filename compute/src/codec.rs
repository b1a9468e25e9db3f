//! What the broker needs of Arrow, behind [`PayloadCodec`]: schemas checked, columns checked, rows and columns turned
//! into each other.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use arrow_array::{
    Array, ArrayRef,
    cast::AsArray,
    types::{Decimal128Type, DecimalType, TimestampMillisecondType},
};
use arrow_schema::DataType;
use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, NewRecord, Rows, RowsBuilder, stamp},
    codec::PayloadCodec,
    error::{Error, ErrorCode, Result},
    limits::{TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN},
    source::TopicSchema,
};

use crate::{
    convert::{
        columns::StoredColumns,
        hidden::{HiddenRows, columns_batch},
        json::{JsonRows, JsonWriter, RowFault},
    },
    ipc::{ALIGN, IpcError, read},
    schema::{HEADERS, TIMESTAMP, TypedSchema, parse_json, write_json},
};

/// The most schemas kept parsed; past it all are dropped and parsed anew when they are used.
const SCHEMAS_KEPT: usize = 1024;

/// [`PayloadCodec`] for Arrow.
#[derive(Debug, Default)]
pub struct ArrowCodec {
    schemas: Mutex<HashMap<(u32, String), Arc<TypedSchema>>>,
}

impl ArrowCodec {
    /// The codec.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The schema, parsed once.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidConfig`] with words that name the field.
    pub fn schema(&self, schema: &TopicSchema) -> Result<Arc<TypedSchema>> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (schema.id, schema.json.clone());
        if let Some(known) = schemas.get(&key) {
            return Ok(Arc::clone(known));
        }
        let parsed = Arc::new(TypedSchema::new(schema)?);
        if schemas.len() >= SCHEMAS_KEPT {
            schemas.clear();
        }
        schemas.insert(key, Arc::clone(&parsed));
        Ok(parsed)
    }
}

impl PayloadCodec for ArrowCodec {
    fn check_schema(&self, json: &str) -> Result<String> {
        let schema = parse_json(json).map_err(|error| Error::new(ErrorCode::InvalidConfig, error.to_string()))?;
        Ok(write_json(&schema))
    }

    fn validate(&self, schema: &TopicSchema, batch: &Bytes) -> Result<()> {
        let schema = self.schema(schema)?;
        let stored = StoredColumns::parse(&schema, batch)?;
        let unaligned = |range: &std::ops::Range<usize>| !range.is_empty() && !range.start.is_multiple_of(ALIGN);
        if let Some(range) = stored.message.buffers.iter().find(|range| unaligned(range)) {
            let why = format!("a buffer starts at {} of the body, which is no multiple of {ALIGN}", range.start);
            return Err(IpcError::message(why).into());
        }
        let columns = read::read(schema.stored().fields(), &stored.message, &stored.body, |_| true)?;
        for (field, column) in schema.stored().fields().iter().zip(&columns) {
            check_digits(field.name(), column)?;
        }
        check_timestamps(&stored, columns.get(schema.own_count()))
    }

    fn to_columns(&self, schema: &TopicSchema, batch: &Bytes) -> Result<Bytes> {
        let schema = self.schema(schema)?;
        let rows = Rows::open(batch)?;
        let mut json = JsonRows::new(schema.own().fields());
        let mut hidden = HiddenRows::with_capacity(rows.records().len() / 64);
        for (row, record) in rows.iter().enumerate() {
            let record = record?;
            let Some(value) = record.value else {
                return Err(mismatch("", row, "there is no value; a typed topic takes JSON objects"));
            };
            json.push(value).map_err(|RowFault { field, why }| mismatch(&field, row, &why))?;
            let headers = record.headers.map(|(key, value)| Ok((std::str::from_utf8(key)?, value)));
            let headers = headers.collect::<std::result::Result<Vec<_>, std::str::Utf8Error>>();
            let headers = headers.map_err(|_| mismatch(HEADERS, row, "a header's key is not text"))?;
            hidden.push(record.timestamp_ms, record.key, headers);
        }
        let own = json.finish().map_err(|RowFault { field, why }| IpcError::field(&field, why))?;
        let (producer, attributes) = (rows.header().producer(), rows.header().attributes);
        Ok(columns_batch(&schema, &own, &hidden.finish(), producer, attributes.is_transactional())?)
    }

    fn to_rows(&self, schema: &TopicSchema, batch: &Bytes) -> Result<Bytes> {
        let schema = self.schema(schema)?;
        let stored = StoredColumns::parse(&schema, batch)?;
        let mut own = read::read(schema.stored().fields(), &stored.message, &stored.body, |_| true)?;
        let hidden = own.split_off(schema.own_count());
        let [timestamps, keys, headers] = hidden.as_slice() else {
            return Err(IpcError::message("hidden columns are missing").into());
        };
        let timestamps = timestamps.as_primitive::<TimestampMillisecondType>();
        let (keys, headers) = (keys.as_binary::<i32>(), headers.as_list::<i32>());
        let writer = JsonWriter::new(schema.own().fields(), &own);
        let mut builder = RowsBuilder::with_capacity(batch.len() * 2);
        let mut value = Vec::new();
        for row in stored.rows() {
            value.clear();
            writer.write(row, &mut value);
            let headers = headers.value(row);
            let headers = headers.as_struct();
            let names = headers.column(0).as_string::<i32>().iter().map(Option::unwrap_or_default);
            let headers: Vec<_> = names.zip(headers.column(1).as_binary::<i32>().iter()).collect();
            builder.push(&NewRecord {
                timestamp_ms: timestamps.value(row),
                key: keys.is_valid(row).then(|| keys.value(row)),
                value: Some(&value),
                headers: &headers,
            })?;
        }
        let header = &stored.header;
        let attributes = Attributes::default().with_transactional(header.attributes.is_transactional());
        let rows = builder.finish(attributes, header.producer())?;
        let mut rows = rows.try_into_mut().unwrap_or_else(|rows| rows.as_ref().into());
        stamp(&mut rows, header.base_offset, header.leader_epoch)?;
        Ok(rows.freeze())
    }
}

fn mismatch(field: &str, row: usize, why: &str) -> Error {
    let mut message = String::new();
    if !field.is_empty() {
        let _ = write!(message, "field `{field}`, ");
    }
    let _ = write!(message, "row {row}: {why}");
    Error::new(ErrorCode::SchemaMismatch, message)
}

/// Arrow itself lets a decimal have more digits than its type says.
pub(crate) fn check_digits(field: &str, column: &ArrayRef) -> Result<()> {
    match first_too_long(field, column) {
        Some((field, row, why)) => Err(mismatch(&field, row, &why)),
        None => Ok(()),
    }
}

/// The first decimal with too many digits: its field, its row, what Arrow says.
fn first_too_long(field: &str, column: &ArrayRef) -> Option<(String, usize, String)> {
    let within = |item: &str, column: &ArrayRef| first_too_long(&format!("{field}.{item}"), column);
    match column.data_type() {
        DataType::Decimal128(precision, _) => {
            let decimals = column.as_primitive::<Decimal128Type>();
            decimals.validate_decimal_precision(*precision).err()?;
            let is_too_long = |row: &usize| {
                let fits = || Decimal128Type::is_valid_decimal_precision(decimals.value(*row), *precision);
                decimals.is_valid(*row) && !fits()
            };
            let row = (0..decimals.len()).find(is_too_long)?;
            let why = format!("a decimal of more than {precision} digits");
            Some((field.to_owned(), row, why))
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let (field, at, why) = within(item.name(), list.values())?;
            let ends_before = |offset: &i32| usize::try_from(*offset).is_ok_and(|offset| offset <= at);
            let row = list.value_offsets().partition_point(ends_before).saturating_sub(1);
            Some((field, row, why))
        }
        DataType::FixedSizeList(item, size) => {
            let (field, at, why) = within(item.name(), column.as_fixed_size_list().values())?;
            let size = usize::try_from(*size).unwrap_or(1).max(1);
            Some((field, at / size, why))
        }
        DataType::Struct(fields) => {
            let children = fields.iter().zip(column.as_struct().columns());
            children.filter_map(|(child, column)| within(child.name(), column)).min_by_key(|(_, row, _)| *row)
        }
        _ => None,
    }
}

/// The time index is built from headers alone, so that they must not lie.
fn check_timestamps(stored: &StoredColumns, column: Option<&ArrayRef>) -> Result<()> {
    let Some(times) = column.and_then(|column| column.as_primitive_opt::<TimestampMillisecondType>()) else {
        return Err(IpcError::message("there are no timestamps").into());
    };
    let times = times.values();
    if let Some(row) = times.iter().position(|time| !(TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX).contains(time)) {
        return Err(mismatch(TIMESTAMP, row, "out of range: milliseconds from 1970 to the year 9999 are expected"));
    }
    let header = &stored.header;
    let says = (Some(header.base_timestamp_ms), Some(header.max_timestamp_ms));
    if says != (times.first().copied(), times.iter().max().copied()) {
        return Err(IpcError::field(TIMESTAMP, "the batch's header has other times than its rows").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
