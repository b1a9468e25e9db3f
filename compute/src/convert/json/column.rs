//! A column that grows value by value.

use std::collections::HashMap;

use arrow_array::{ArrayRef, make_array};
use arrow_buffer::{BooleanBufferBuilder, Buffer};
use arrow_data::ArrayData;
use arrow_schema::{DataType, FieldRef, Fields};

use crate::convert::null_bytes;

/// A column under construction. All children of a struct have as many elements as the struct itself, save while a row
/// is being read.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) field: FieldRef,
    pub(crate) values: Values,
    /// What an element takes if it is null.
    pub(crate) null_bytes: usize,
    validity: BooleanBufferBuilder,
    nulls: usize,
}

/// What the elements are.
#[derive(Debug)]
pub(crate) enum Values {
    Bool(BooleanBufferBuilder),
    /// Little-endian, this many bytes each.
    Fixed {
        width: usize,
        bytes: Vec<u8>,
    },
    /// Text or binary.
    Bytes {
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
    List {
        ends: Vec<i32>,
        item: Box<Column>,
    },
    FixedList {
        size: usize,
        item: Box<Column>,
    },
    Struct(Columns),
}

/// The columns of a struct, or of a whole row.
#[derive(Debug)]
pub(crate) struct Columns {
    pub(crate) all: Vec<Column>,
    index: HashMap<String, usize>,
}

impl Columns {
    pub(crate) fn new(fields: &Fields) -> Self {
        let index = fields.iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        Self { all: fields.iter().map(Column::new).collect(), index }
    }

    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

impl Column {
    pub(crate) fn new(field: &FieldRef) -> Self {
        let item = |item: &FieldRef| Box::new(Self::new(item));
        let values = match field.data_type() {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Utf8 | DataType::Binary => Values::Bytes { ends: vec![0], bytes: Vec::new() },
            DataType::List(of) => Values::List { ends: vec![0], item: item(of) },
            DataType::FixedSizeList(of, size) => {
                Values::FixedList { size: usize::try_from(*size).unwrap_or(0), item: item(of) }
            }
            DataType::Struct(fields) => Values::Struct(Columns::new(fields)),
            DataType::FixedSizeBinary(width) => {
                Values::Fixed { width: usize::try_from(*width).unwrap_or(0), bytes: Vec::new() }
            }
            other => Values::Fixed { width: other.primitive_width().unwrap_or(0), bytes: Vec::new() },
        };
        let null_bytes = null_bytes(field.data_type());
        Self { field: field.clone(), values, null_bytes, validity: BooleanBufferBuilder::new(0), nulls: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.validity.len()
    }

    /// Counts the element that was just put.
    pub(crate) fn valid(&mut self) {
        self.validity.append(true);
    }

    /// Puts an element that is null, or stands where the parent is.
    pub(crate) fn put_null(&mut self) {
        match &mut self.values {
            Values::Bool(bits) => bits.append(false),
            Values::Fixed { width, bytes } => bytes.resize(bytes.len() + *width, 0),
            Values::Bytes { ends, .. } | Values::List { ends, .. } => {
                ends.push(ends.last().copied().unwrap_or(0));
            }
            Values::FixedList { size, item } => (0..*size).for_each(|_| item.put_null()),
            Values::Struct(columns) => columns.all.iter_mut().for_each(Self::put_null),
        }
        self.validity.append(false);
        self.nulls += 1;
    }

    /// Puts text or binary. False if the column cannot hold more.
    pub(crate) fn put_bytes(&mut self, value: &[u8]) -> bool {
        let Values::Bytes { ends, bytes } = &mut self.values else { return false };
        let Ok(end) = i32::try_from(bytes.len() + value.len()) else { return false };
        bytes.extend_from_slice(value);
        ends.push(end);
        self.validity.append(true);
        true
    }

    /// The finished column.
    pub(crate) fn finish(self) -> Result<ArrayRef, String> {
        self.data().map(make_array)
    }

    fn data(mut self) -> Result<ArrayData, String> {
        let mut data = ArrayData::builder(self.field.data_type().clone()).len(self.validity.len()).align_buffers(true);
        if self.nulls > 0 {
            data = data.null_count(self.nulls).null_bit_buffer(Some(self.validity.finish().into_inner()));
        }
        data = match self.values {
            Values::Bool(mut bits) => data.add_buffer(bits.finish().into_inner()),
            Values::Fixed { bytes, .. } => data.add_buffer(Buffer::from_vec(bytes)),
            Values::Bytes { ends, bytes } => {
                data.add_buffer(Buffer::from_vec(ends)).add_buffer(Buffer::from_vec(bytes))
            }
            Values::List { ends, item } => data.add_buffer(Buffer::from_vec(ends)).add_child_data(item.data()?),
            Values::FixedList { item, .. } => data.add_child_data(item.data()?),
            Values::Struct(columns) => columns
                .all
                .into_iter()
                .try_fold(data, |data, child| Ok::<_, String>(data.add_child_data(child.data()?)))?,
        };
        data.build().map_err(|error| error.to_string())
    }
}
