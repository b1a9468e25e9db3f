//! The types a column may have, as people write them: `int64`, `timestamp(ms, UTC)`, `decimal128(12, 2)`.
//!
//! Only types that every reader of Arrow understands, that have one way to be written, and whose buffers can be cut and
//! joined without looking at other batches. So no dictionaries (their values would stand outside the batch), no views
//! (their buffers vary in number) and no 64-bit offsets (a batch never holds 2 GiB): the last two fold into the plain
//! type that holds the same values.

use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};

/// What a column may hold, for messages.
pub(crate) const KNOWN: &str = "bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64, utf8, \
     binary, fixed_size_binary(n), date32, time32(s|ms), time64(us|ns), timestamp(s|ms|us|ns[, zone]), \
     decimal128(precision, scale), list, fixed_size_list(n), struct";

/// The longest time zone name.
const ZONE_BYTES_MAX: usize = 64;
/// The most elements of a fixed-size list, and bytes of a fixed-size binary.
const FIXED_SIZE_MAX: i32 = 1 << 20;

/// A type without its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// A type that is complete.
    Whole(DataType),
    /// A list: its items are described beside it.
    List,
    /// A list of this many items in each row.
    FixedSizeList(i32),
    /// A struct: its fields are described beside it.
    Struct,
}

/// Reads a type's name and parameters.
///
/// # Errors
/// Words that go on after "field `x`: ".
pub(crate) fn parse(text: &str) -> Result<Written, String> {
    let text = text.trim();
    let (name, parameters) = match text.split_once('(') {
        None => (text, Vec::new()),
        Some((name, rest)) => {
            let inner = rest.strip_suffix(')').ok_or_else(|| format!("type `{text}` has no closing parenthesis"))?;
            (name.trim(), inner.split(',').map(str::trim).collect())
        }
    };
    let name = name.to_ascii_lowercase();
    let whole = |data_type| Ok(Written::Whole(data_type));
    match (name.as_str(), parameters.as_slice()) {
        ("bool" | "boolean", []) => whole(DataType::Boolean),
        ("int8", []) => whole(DataType::Int8),
        ("int16", []) => whole(DataType::Int16),
        ("int32", []) => whole(DataType::Int32),
        ("int64", []) => whole(DataType::Int64),
        ("uint8", []) => whole(DataType::UInt8),
        ("uint16", []) => whole(DataType::UInt16),
        ("uint32", []) => whole(DataType::UInt32),
        ("uint64", []) => whole(DataType::UInt64),
        ("float32" | "float", []) => whole(DataType::Float32),
        ("float64" | "double", []) => whole(DataType::Float64),
        ("utf8" | "string" | "large_utf8" | "large_string", []) => whole(DataType::Utf8),
        ("binary" | "large_binary", []) => whole(DataType::Binary),
        ("fixed_size_binary", [size]) => whole(DataType::FixedSizeBinary(fixed_size(size)?)),
        ("date32" | "date", []) => whole(DataType::Date32),
        ("time32", [unit]) => whole(DataType::Time32(one_of(unit, &[TimeUnit::Second, TimeUnit::Millisecond])?)),
        ("time64", [unit]) => whole(DataType::Time64(one_of(unit, &[TimeUnit::Microsecond, TimeUnit::Nanosecond])?)),
        ("timestamp", [unit]) => whole(DataType::Timestamp(one_of(unit, &UNITS)?, None)),
        ("timestamp", [unit, zone]) => {
            let zone = zone.strip_prefix("tz=").unwrap_or(zone);
            whole(DataType::Timestamp(one_of(unit, &UNITS)?, Some(check_zone(zone)?.into())))
        }
        ("decimal128" | "decimal", [precision, scale]) => whole(decimal(precision, scale)?),
        ("list", []) => Ok(Written::List),
        ("fixed_size_list", [size]) => Ok(Written::FixedSizeList(fixed_size(size)?)),
        ("struct", []) => Ok(Written::Struct),
        ("dictionary", _) => Err("dictionaries are not stored; use the type of its values, such as utf8".to_owned()),
        ("timestamp", []) => Err("a timestamp needs its unit, such as timestamp(ms, UTC)".to_owned()),
        _ => Err(format!("unknown type `{text}`; known are {KNOWN}")),
    }
}

/// A type's name and parameters, as [`parse`] reads them.
pub(crate) fn write(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::FixedSizeBinary(size) => format!("fixed_size_binary({size})"),
        DataType::Time32(unit) => format!("time32({})", unit_name(*unit)),
        DataType::Time64(unit) => format!("time64({})", unit_name(*unit)),
        DataType::Timestamp(unit, None) => format!("timestamp({})", unit_name(*unit)),
        DataType::Timestamp(unit, Some(zone)) => format!("timestamp({}, {zone})", unit_name(*unit)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::List(_) => "list".to_owned(),
        DataType::FixedSizeList(_, size) => format!("fixed_size_list({size})"),
        DataType::Struct(_) => "struct".to_owned(),
        DataType::Dictionary(_, values) => format!("dictionary of {}", write(values)),
        other => format!("{other:?}").to_ascii_lowercase(),
    }
}

/// The type that is stored for one that Arrow knows: itself, or the plain one that holds the same values.
///
/// # Errors
/// Words that go on after "field `x`: ".
pub(crate) fn fold(data_type: &DataType) -> Result<DataType, String> {
    let child = |field: &Arc<Field>| -> Result<Arc<Field>, String> {
        let folded = fold(field.data_type())?;
        Ok(Arc::new(field.as_ref().clone().with_data_type(folded)))
    };
    match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Time32(TimeUnit::Second | TimeUnit::Millisecond)
        | DataType::Time64(TimeUnit::Microsecond | TimeUnit::Nanosecond)
        | DataType::Timestamp(_, None) => Ok(data_type.clone()),
        DataType::LargeUtf8 | DataType::Utf8View => Ok(DataType::Utf8),
        DataType::LargeBinary | DataType::BinaryView => Ok(DataType::Binary),
        DataType::Timestamp(_, Some(zone)) => check_zone(zone).map(|_| data_type.clone()),
        DataType::FixedSizeBinary(size) => check_size(*size).map(|_| data_type.clone()),
        DataType::Decimal128(precision, scale) => check_decimal(*precision, *scale).map(|()| data_type.clone()),
        DataType::List(item) | DataType::LargeList(item) => Ok(DataType::List(child(item)?)),
        DataType::FixedSizeList(item, size) => Ok(DataType::FixedSizeList(child(item)?, check_size(*size)?)),
        DataType::Struct(fields) => {
            fields.iter().map(child).collect::<Result<Vec<_>, _>>().map(|fields| DataType::Struct(fields.into()))
        }
        DataType::Dictionary(..) => {
            Err("dictionaries are not stored; use the type of its values, such as utf8".to_owned())
        }
        DataType::Map(..) => Err("maps are not stored; use a list of structs with key and value".to_owned()),
        other => Err(format!("type {other} is not supported; known are {KNOWN}")),
    }
}

const UNITS: [TimeUnit; 4] = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];

const fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

fn one_of(text: &str, units: &[TimeUnit]) -> Result<TimeUnit, String> {
    units.iter().copied().find(|unit| unit_name(*unit) == text).ok_or_else(|| {
        let names: Vec<_> = units.iter().map(|unit| unit_name(*unit)).collect();
        format!("`{text}` is not a unit here; use {}", names.join(", "))
    })
}

/// Whether the zone exists is for readers to find out: databases of zones differ from machine to machine.
fn check_zone(zone: &str) -> Result<&str, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'+' | b'-' | b':');
    if !zone.is_empty() && zone.len() <= ZONE_BYTES_MAX && zone.bytes().all(legal) {
        Ok(zone)
    } else {
        Err(format!("`{}` is not a time zone; use UTC, +01:00 or Europe/Lisbon", zone.escape_default()))
    }
}

fn fixed_size(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a size")).and_then(check_size)
}

fn check_size(size: i32) -> Result<i32, String> {
    if (1..=FIXED_SIZE_MAX).contains(&size) {
        Ok(size)
    } else {
        Err(format!("a fixed size is 1 to {FIXED_SIZE_MAX}, not {size}"))
    }
}

fn decimal(precision: &str, scale: &str) -> Result<DataType, String> {
    let (Ok(precision), Ok(scale)) = (precision.parse(), scale.parse()) else {
        return Err(format!("decimal128({precision}, {scale}) needs two numbers"));
    };
    check_decimal(precision, scale)?;
    Ok(DataType::Decimal128(precision, scale))
}

fn check_decimal(precision: u8, scale: i8) -> Result<(), String> {
    if (1..=38).contains(&precision) && u8::try_from(scale).is_ok_and(|scale| scale <= precision) {
        Ok(())
    } else {
        Err(format!("decimal128({precision}, {scale}): precision is 1 to 38, scale 0 to the precision"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "bool",
            "int8",
            "uint64",
            "float32",
            "float64",
            "utf8",
            "binary",
            "fixed_size_binary(16)",
            "date32",
            "time32(ms)",
            "time64(ns)",
            "timestamp(s)",
            "timestamp(us, Europe/Lisbon)",
            "timestamp(ms, +01:00)",
            "decimal128(12, 2)",
        ] {
            let Ok(Written::Whole(data_type)) = parse(text) else { panic!("{text}") };
            assert_eq!(write(&data_type), text);
            assert_eq!(fold(&data_type), Ok(data_type));
        }
        assert_eq!(parse("Timestamp( ms ,tz=UTC )"), parse("timestamp(ms, UTC)"));
        assert_eq!(parse("string"), Ok(Written::Whole(DataType::Utf8)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("flaot64", "unknown type `flaot64`"),
            ("int64(3)", "unknown type `int64(3)`"),
            ("timestamp", "needs its unit"),
            ("timestamp(h)", "`h` is not a unit"),
            ("time32(ns)", "use s, ms"),
            ("timestamp(ms, )", "not a time zone"),
            ("timestamp(ms, a\"b)", "not a time zone"),
            ("timestamp(ms", "no closing parenthesis"),
            ("decimal128(39, 2)", "precision is 1 to 38"),
            ("decimal128(3, 4)", "scale 0 to the precision"),
            ("decimal128(3)", "unknown type"),
            ("fixed_size_binary(0)", "a fixed size is 1"),
            ("fixed_size_list(-1)", "a fixed size is 1"),
            ("dictionary", "dictionaries are not stored"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn other_ways_to_hold_the_same_fold() {
        let item = |data_type| Arc::new(Field::new_list_field(data_type, true));
        assert_eq!(fold(&DataType::LargeUtf8), Ok(DataType::Utf8));
        assert_eq!(fold(&DataType::LargeList(item(DataType::BinaryView))), Ok(DataType::List(item(DataType::Binary))));
        assert!(fold(&DataType::Float16).unwrap_err().contains("not supported"));
        assert!(fold(&DataType::List(item(DataType::Null))).is_err());
    }
}
