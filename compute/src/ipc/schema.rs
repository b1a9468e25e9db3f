//! The schema message at the head of a stream.
#![deny(clippy::indexing_slicing)]

use std::sync::Arc;

use arrow_ipc::{
    DateUnit, Precision, Type,
    writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions},
};
use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use levada_protocol::limits::SCHEMA_FIELDS_MAX;

use super::error::IpcError;

/// The schema as a message, without the length before it.
pub(crate) fn write(schema: &Schema) -> Vec<u8> {
    let mut tracker = DictionaryTracker::new(true);
    IpcDataGenerator::default()
        .schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &IpcWriteOptions::default())
        .ipc_message
}

/// Reads the schema of what a client sends. arrow-ipc's own reading panics where a schema contradicts itself.
pub(crate) fn parse(metadata: &[u8]) -> Result<Schema, IpcError> {
    let message = arrow_ipc::root_as_message(metadata)
        .map_err(|error| IpcError::message(format!("the schema's metadata: {error}")))?;
    let schema = message
        .header_as_schema()
        .ok_or_else(|| IpcError::message(format!("a schema is expected, not a {:?}", message.header_type())))?;
    if schema.endianness() != arrow_ipc::Endianness::Little {
        return Err(IpcError::message("big-endian data is not supported"));
    }
    let fields = fields(schema.fields(), &mut SCHEMA_FIELDS_MAX.saturating_add(16))?;
    Ok(Schema::new(fields))
}

type WireFields<'a> = flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<arrow_ipc::Field<'a>>>;

fn fields(wire: Option<WireFields<'_>>, budget: &mut usize) -> Result<Fields, IpcError> {
    wire.into_iter().flatten().map(|wire| field(wire, budget)).collect()
}

fn field(wire: arrow_ipc::Field<'_>, budget: &mut usize) -> Result<Field, IpcError> {
    let name = wire.name().unwrap_or_default();
    *budget = budget.checked_sub(1).ok_or_else(|| IpcError::message("the schema has too many fields"))?;
    if wire.dictionary().is_some() {
        let why = "dictionaries are not taken; cast the column to the type of its values first";
        return Err(IpcError::field(name, why));
    }
    let data_type = data_type(wire, budget)?
        .ok_or_else(|| IpcError::field(name, format!("type {:?} is not supported", wire.type_type())))?;
    Ok(Field::new(name, data_type, wire.nullable()))
}

/// `None` for a type that is not known here or contradicts itself.
fn data_type(wire: arrow_ipc::Field<'_>, budget: &mut usize) -> Result<Option<DataType>, IpcError> {
    let only_child = |budget: &mut usize| -> Result<Option<Arc<Field>>, IpcError> {
        let children = wire.children().filter(|children| children.len() == 1);
        children.map(|children| field(children.get(0), budget).map(Arc::new)).transpose()
    };
    Ok(match wire.type_type() {
        Type::Bool => Some(DataType::Boolean),
        Type::Int => wire.type_as_int().and_then(|int| match (int.bitWidth(), int.is_signed()) {
            (8, true) => Some(DataType::Int8),
            (16, true) => Some(DataType::Int16),
            (32, true) => Some(DataType::Int32),
            (64, true) => Some(DataType::Int64),
            (8, false) => Some(DataType::UInt8),
            (16, false) => Some(DataType::UInt16),
            (32, false) => Some(DataType::UInt32),
            (64, false) => Some(DataType::UInt64),
            _ => None,
        }),
        Type::FloatingPoint => wire.type_as_floating_point().and_then(|float| match float.precision() {
            Precision::SINGLE => Some(DataType::Float32),
            Precision::DOUBLE => Some(DataType::Float64),
            _ => None,
        }),
        Type::Utf8 => Some(DataType::Utf8),
        Type::LargeUtf8 => Some(DataType::LargeUtf8),
        Type::Binary => Some(DataType::Binary),
        Type::LargeBinary => Some(DataType::LargeBinary),
        Type::FixedSizeBinary => wire
            .type_as_fixed_size_binary()
            .map(|binary| binary.byteWidth())
            .filter(|width| *width > 0)
            .map(DataType::FixedSizeBinary),
        Type::Date => wire.type_as_date().filter(|date| date.unit() == DateUnit::DAY).map(|_| DataType::Date32),
        Type::Time => wire.type_as_time().and_then(|time| match (time.bitWidth(), unit(time.unit())?) {
            (32, unit @ (TimeUnit::Second | TimeUnit::Millisecond)) => Some(DataType::Time32(unit)),
            (64, unit @ (TimeUnit::Microsecond | TimeUnit::Nanosecond)) => Some(DataType::Time64(unit)),
            _ => None,
        }),
        Type::Timestamp => wire
            .type_as_timestamp()
            // An empty zone is none: arrow-ipc writes neither.
            .map(|time| (time.unit(), time.timezone().filter(|zone| !zone.is_empty())))
            .and_then(|(wire, zone)| Some(DataType::Timestamp(unit(wire)?, zone.map(Into::into)))),
        Type::Decimal => wire.type_as_decimal().filter(|decimal| decimal.bitWidth() == 128).and_then(|decimal| {
            let precision = u8::try_from(decimal.precision()).ok().filter(|precision| (1..=38).contains(precision))?;
            let scale = i8::try_from(decimal.scale()).ok().filter(|scale| scale.unsigned_abs() <= precision)?;
            Some(DataType::Decimal128(precision, scale))
        }),
        Type::List => only_child(budget)?.map(DataType::List),
        Type::LargeList => only_child(budget)?.map(DataType::LargeList),
        Type::FixedSizeList => {
            let size = wire.type_as_fixed_size_list().map(|list| list.listSize()).filter(|size| *size > 0);
            only_child(budget)?.zip(size).map(|(item, size)| DataType::FixedSizeList(item, size))
        }
        Type::Struct_ => {
            let fields = fields(wire.children(), budget)?;
            (!fields.is_empty()).then_some(DataType::Struct(fields))
        }
        _ => None,
    })
}

const fn unit(unit: arrow_ipc::TimeUnit) -> Option<TimeUnit> {
    match unit {
        arrow_ipc::TimeUnit::SECOND => Some(TimeUnit::Second),
        arrow_ipc::TimeUnit::MILLISECOND => Some(TimeUnit::Millisecond),
        arrow_ipc::TimeUnit::MICROSECOND => Some(TimeUnit::Microsecond),
        arrow_ipc::TimeUnit::NANOSECOND => Some(TimeUnit::Nanosecond),
        _ => None,
    }
}

/// The bytes in which `FlightInfo` and `SchemaResult` carry a schema: a message with its length before it.
pub(crate) fn write_framed(schema: &Schema) -> Vec<u8> {
    let metadata = write(schema);
    let padded = metadata.len().next_multiple_of(8);
    let mut framed = Vec::with_capacity(padded + 8);
    framed.extend_from_slice(&[0xFF; 4]);
    framed.extend_from_slice(&u32::try_from(padded).unwrap_or(u32::MAX).to_le_bytes());
    framed.extend_from_slice(&metadata);
    framed.resize(padded + 8, 0);
    framed
}
