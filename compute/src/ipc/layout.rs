//! How many nodes and buffers a column takes in a message.

use arrow_schema::{DataType, Fields};

/// A column's share of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Field nodes.
    pub(crate) nodes: usize,
    /// Buffers.
    pub(crate) buffers: usize,
}

impl Share {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self { nodes: self.nodes + other.nodes, buffers: self.buffers + other.buffers }
    }
}

/// The share of one column. `None` for a type whose share depends on the batch, or that is not known here.
pub(crate) fn share(data_type: &DataType) -> Option<Share> {
    let buffers = match data_type {
        DataType::Boolean
        | DataType::FixedSizeBinary(_)
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
        | DataType::Date32
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Decimal128(..) => 2,
        DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => 3,
        DataType::List(item) | DataType::LargeList(item) => {
            return share(item.data_type()).map(|item| item.plus(Share { nodes: 1, buffers: 2 }));
        }
        DataType::FixedSizeList(item, _) => {
            return share(item.data_type()).map(|item| item.plus(Share { nodes: 1, buffers: 1 }));
        }
        DataType::Struct(fields) => {
            return fields.iter().try_fold(Share { nodes: 1, buffers: 1 }, |sum, field| {
                share(field.data_type()).map(|field| sum.plus(field))
            });
        }
        _ => return None,
    };
    Some(Share { nodes: 1, buffers })
}

/// The shares of several columns together.
pub(crate) fn total(fields: &Fields) -> Option<Share> {
    fields.iter().try_fold(Share::default(), |sum, field| share(field.data_type()).map(|field| sum.plus(field)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{UNTYPED, headers_type};

    #[test]
    fn shares_of_nested_columns() {
        assert_eq!(share(&headers_type()), Some(Share { nodes: 4, buffers: 9 }));
        assert_eq!(total(UNTYPED.fields()), Some(Share { nodes: 9, buffers: 21 }));
        assert_eq!(share(&DataType::Utf8View), None);
    }
}
