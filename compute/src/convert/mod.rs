//! From what is stored to what readers see, and back.
//!
//! [`view`]: what one message to a reader holds. [`rows`]: records to the columns of an untyped topic. [`columns`]: stored columns to a reader's. [`json`] and
//! [`hidden`]: JSON objects to stored columns, and back.

use arrow_schema::DataType;

pub(crate) mod columns;
pub(crate) mod hidden;
pub(crate) mod json;
pub(crate) mod rows;
pub(crate) mod view;

/// What an element of a column takes if it is null, and so at least.
pub(crate) fn null_bytes(data_type: &DataType) -> usize {
    match data_type {
        DataType::Boolean => 1,
        DataType::Utf8 | DataType::Binary | DataType::List(_) => size_of::<i32>(),
        DataType::LargeUtf8 | DataType::LargeBinary | DataType::LargeList(_) => size_of::<i64>(),
        DataType::FixedSizeBinary(width) => usize::try_from(*width).unwrap_or(0),
        DataType::FixedSizeList(item, size) => {
            usize::try_from(*size).unwrap_or(0).saturating_mul(null_bytes(item.data_type()))
        }
        DataType::Struct(fields) => {
            fields.iter().fold(1, |sum, field| null_bytes(field.data_type()).saturating_add(sum))
        }
        other => other.primitive_width().unwrap_or(0),
    }
}
