//! From a message and its body to arrays, all of it checked.
#![deny(clippy::indexing_slicing)]

use arrow_array::{ArrayRef, make_array};
use arrow_buffer::{BooleanBuffer, Buffer};
use arrow_data::{ArrayData, ArrayDataBuilder};
use arrow_schema::{DataType, Field, Fields};
use bytes::Bytes;
use levada_protocol::limits::BATCH_DECOMPRESSED_BYTES_MAX;

use super::{
    compression,
    error::IpcError,
    layout,
    message::{BatchMessage, Node},
};

/// The columns of a batch, in the order of `fields`; those that `wanted` refuses are left out, unread.
///
/// Buffers that are not compressed and lie well in memory are shared with `body`, not copied.
///
/// # Errors
/// The message does not fit the fields, or the data is not sound.
pub(crate) fn read(
    fields: &Fields,
    message: &BatchMessage,
    body: &Bytes,
    wanted: impl Fn(usize) -> bool,
) -> Result<Vec<ArrayRef>, IpcError> {
    check_shape(fields, message)?;
    let mut reader = Reader { message, body, node: 0, buffer: 0, budget: BATCH_DECOMPRESSED_BYTES_MAX };
    let mut arrays = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        if wanted(index) {
            arrays.push(reader.column(field)?);
        } else {
            reader.skip(field.data_type());
        }
    }
    Ok(arrays)
}

/// Whether the message has as many nodes and buffers as the fields take, and each column as many rows as the batch.
pub(crate) fn check_shape(fields: &Fields, message: &BatchMessage) -> Result<(), IpcError> {
    let total = layout::total(fields).ok_or_else(|| IpcError::message("a column's type is not supported"))?;
    if (message.nodes.len(), message.buffers.len()) != (total.nodes, total.buffers) {
        return Err(IpcError::message(format!(
            "{} nodes and {} buffers; {} columns of this schema take {} and {}",
            message.nodes.len(),
            message.buffers.len(),
            fields.len(),
            total.nodes,
            total.buffers
        )));
    }
    let mut node = 0;
    for field in fields {
        let length = message.nodes.get(node).map(|node| node.length);
        if length != Some(message.rows) {
            let why = format!("{} rows where the batch has {}", length.unwrap_or(0), message.rows);
            return Err(IpcError::field(field.name(), why));
        }
        node += layout::share(field.data_type()).unwrap_or_default().nodes;
    }
    Ok(())
}

struct Reader<'a> {
    message: &'a BatchMessage,
    body: &'a Bytes,
    node: usize,
    buffer: usize,
    /// What compressed buffers may still unfold to.
    budget: usize,
}

impl Reader<'_> {
    fn column(&mut self, field: &Field) -> Result<ArrayRef, IpcError> {
        let data = self.array(field.data_type()).map_err(|why| IpcError::field(field.name(), why))?;
        if !field.is_nullable()
            && let Some(nulls) = data.nulls()
            && let Some(row) = (0..nulls.len()).find(|row| nulls.is_null(*row))
        {
            return Err(IpcError::Null { field: field.name().clone(), row });
        }
        Ok(make_array(data))
    }

    fn array(&mut self, data_type: &DataType) -> Result<ArrayData, String> {
        let node = self.next_node()?;
        let mut builder = ArrayData::builder(data_type.clone()).len(node.length).align_buffers(true);
        builder = self.validity(builder, node)?;
        match data_type {
            DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => {
                builder = builder.add_buffer(self.offsets(data_type, node)?).add_buffer(self.next_buffer()?);
            }
            DataType::List(item) | DataType::LargeList(item) => {
                let offsets = self.offsets(data_type, node)?;
                builder = builder.add_buffer(offsets).add_child_data(self.array(item.data_type())?);
            }
            DataType::FixedSizeList(item, size) => {
                let length = usize::try_from(*size).ok().and_then(|size| node.length.checked_mul(size));
                builder = builder.add_child_data(self.child(item, length)?);
            }
            DataType::Struct(fields) => {
                for field in fields {
                    builder = builder.add_child_data(self.child(field, Some(node.length))?);
                }
            }
            _ => builder = builder.add_buffer(self.next_buffer()?),
        }
        builder.build().map_err(|error| error.to_string())
    }

    /// A child whose length its parent fixes.
    fn child(&mut self, field: &Field, length: Option<usize>) -> Result<ArrayData, String> {
        let data = self.array(field.data_type()).map_err(|why| format!("`{}`: {why}", field.name()))?;
        if Some(data.len()) == length {
            Ok(data)
        } else {
            Err(format!("`{}` has {} elements and not what its parent takes", field.name(), data.len()))
        }
    }

    fn validity(&mut self, builder: ArrayDataBuilder, node: Node) -> Result<ArrayDataBuilder, String> {
        let bits = self.next_buffer()?;
        if bits.is_empty() && node.nulls == 0 {
            return Ok(builder);
        }
        if bits.len() < node.length.div_ceil(8) {
            return Err(format!("{} bytes of validity for {} elements", bits.len(), node.length));
        }
        let nulls = node.length - BooleanBuffer::new(bits.clone(), 0, node.length).count_set_bits();
        if nulls != node.nulls {
            return Err(format!("{nulls} nulls where the message says {}", node.nulls));
        }
        Ok(if nulls == 0 { builder } else { builder.null_count(nulls).null_bit_buffer(Some(bits)) })
    }

    /// As many offsets as there should be: arrow panics over a buffer that ends in the middle of one.
    fn offsets(&mut self, data_type: &DataType, node: Node) -> Result<Buffer, String> {
        let wide = matches!(data_type, DataType::LargeUtf8 | DataType::LargeBinary | DataType::LargeList(_));
        let width = if wide { size_of::<i64>() } else { size_of::<i32>() };
        let offsets = self.next_buffer()?;
        let needed = (node.length + 1) * width;
        match offsets.len() {
            length if length >= needed => Ok(offsets.slice_with_length(0, needed)),
            _ if node.length == 0 => Ok(Buffer::default()),
            length => Err(format!("{length} bytes of offsets for {} elements", node.length)),
        }
    }

    fn next_node(&mut self) -> Result<Node, String> {
        let node = self.message.nodes.get(self.node).copied().ok_or("a node is missing")?;
        self.node += 1;
        Ok(node)
    }

    fn next_buffer(&mut self) -> Result<Buffer, String> {
        let range = self.message.buffers.get(self.buffer).cloned().ok_or("a buffer is missing")?;
        self.buffer += 1;
        if range.end > self.body.len() {
            return Err("a buffer lies outside the body".to_owned());
        }
        let bytes = self.body.slice(range);
        let bytes = match self.message.codec {
            None => bytes,
            Some(codec) => compression::decompress(codec, &bytes, &mut self.budget)?,
        };
        Ok(Buffer::from(bytes))
    }

    fn skip(&mut self, data_type: &DataType) {
        let share = layout::share(data_type).unwrap_or_default();
        self.node += share.nodes;
        self.buffer += share.buffers;
    }
}
