//! Rows of stored batches, several or a part of one, as one column: buffer by buffer, without making arrays.
//!
//! Only for what was checked before it was stored: lengths are checked again, so that nothing is read where it is not,
//! the values are taken as they are.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use arrow_buffer::{BooleanBufferBuilder, Buffer};
use arrow_schema::DataType;
use bytes::Bytes;
use levada_protocol::limits::BATCH_DECOMPRESSED_BYTES_MAX;

use super::{
    compression,
    layout::Share,
    message::{BatchMessage, Node},
    parts::{Parts, bytes_of},
    pieces::{Pieces, Validity},
};

/// A stored batch that columns are taken from.
pub(crate) struct Source<'a> {
    message: &'a BatchMessage,
    body: &'a Bytes,
    /// What compressed buffers may still unfold to.
    budget: usize,
}

impl<'a> Source<'a> {
    pub(crate) const fn new(message: &'a BatchMessage, body: &'a Bytes) -> Self {
        Self { message, body, budget: BATCH_DECOMPRESSED_BYTES_MAX }
    }

    fn node(&self, at: &mut Share) -> Result<Node, String> {
        let node = self.message.nodes.get(at.nodes).copied().ok_or("a node is missing")?;
        at.nodes += 1;
        Ok(node)
    }

    fn buffer(&mut self, at: &mut Share) -> Result<Bytes, String> {
        let range = self.message.buffers.get(at.buffers).cloned().ok_or("a buffer is missing")?;
        at.buffers += 1;
        if range.end > self.body.len() {
            return Err("a buffer lies outside the body".to_owned());
        }
        let bytes = self.body.slice(range);
        match self.message.codec {
            None => Ok(bytes),
            Some(codec) => compression::decompress(codec, &bytes, &mut self.budget),
        }
    }
}

/// A column under construction.
pub(crate) struct JoinedColumn {
    validity: Validity,
    values: Values,
}

enum Values {
    Bits(BooleanBufferBuilder),
    Fixed { width: usize, data: Pieces },
    Bytes { ends: Vec<i32>, data: Pieces },
    List { ends: Vec<i32>, item: Box<JoinedColumn> },
    FixedList { size: usize, item: Box<JoinedColumn> },
    Struct(Vec<JoinedColumn>),
}

impl JoinedColumn {
    /// A column of a type that topics may have, about so large.
    pub(crate) fn new(data_type: &DataType, rows_expected: usize, bytes_expected: usize) -> Self {
        let item = |data_type| Box::new(Self::new(data_type, 0, 0));
        let ends = || {
            let mut ends = Vec::with_capacity(rows_expected + 1);
            ends.push(0);
            ends
        };
        let fixed = |width| Values::Fixed { width, data: Pieces::with_expected(width * rows_expected) };
        let values = match data_type {
            DataType::Boolean => Values::Bits(BooleanBufferBuilder::new(rows_expected)),
            DataType::Utf8 | DataType::Binary => {
                Values::Bytes { ends: ends(), data: Pieces::with_expected(bytes_expected) }
            }
            DataType::List(of) => Values::List { ends: ends(), item: item(of.data_type()) },
            DataType::FixedSizeList(of, size) => {
                Values::FixedList { size: usize::try_from(*size).unwrap_or(0), item: item(of.data_type()) }
            }
            DataType::Struct(fields) => {
                Values::Struct(fields.iter().map(|field| Self::new(field.data_type(), rows_expected, 0)).collect())
            }
            DataType::FixedSizeBinary(width) => fixed(usize::try_from(*width).unwrap_or(0)),
            other => fixed(other.primitive_width().unwrap_or(0)),
        };
        Self { validity: Validity::default(), values }
    }

    /// Appends rows of the column whose nodes and buffers begin at `at`, and moves `at` behind them.
    ///
    /// # Errors
    /// The source is shorter than it says.
    pub(crate) fn append(&mut self, source: &mut Source<'_>, at: &mut Share, rows: Range<usize>) -> Result<(), String> {
        let node = source.node(at)?;
        let bits = source.buffer(at)?;
        if rows.end > node.length {
            return Err(format!("{} elements, where {} are expected", node.length, rows.end));
        }
        if node.nulls == 0 {
            self.validity.extend_valid(rows.len());
        } else {
            let bits = bits.get(..rows.end.div_ceil(8)).ok_or("the validity is too short")?;
            self.validity.extend(bits, rows.clone());
        }
        match &mut self.values {
            Values::Bits(out) => {
                let bits = source.buffer(at)?;
                let bits = bits.get(..rows.end.div_ceil(8)).ok_or("the values are too short")?;
                out.append_packed_range(rows, bits);
            }
            Values::Fixed { width, data } => {
                let values = source.buffer(at)?;
                let part = values.get(rows.start * *width..rows.end * *width).ok_or("the values are too short")?;
                data.push(part, |part| values.slice_ref(part));
            }
            Values::Bytes { ends, data } => {
                let part = extend_ends(ends, &source.buffer(at)?, rows)?;
                let values = source.buffer(at)?;
                let part = values.get(part).ok_or("the values are too short")?;
                data.push(part, |part| values.slice_ref(part));
            }
            Values::List { ends, item } => {
                let part = extend_ends(ends, &source.buffer(at)?, rows)?;
                item.append(source, at, part)?;
            }
            Values::FixedList { size, item } => {
                item.append(source, at, rows.start * *size..rows.end * *size)?;
            }
            Values::Struct(columns) => {
                for column in columns {
                    column.append(source, at, rows.clone())?;
                }
            }
        }
        Ok(())
    }

    /// The column, as the next of a message.
    pub(crate) fn finish(self, parts: &mut Parts) {
        parts.node(self.validity.len(), self.validity.nulls());
        parts.buffer(self.validity.finish());
        match self.values {
            Values::Bits(mut bits) => parts.buffer(bytes_of(bits.finish().into_inner())),
            Values::Fixed { data, .. } => parts.buffer_of(data.finish()),
            Values::Bytes { ends, data } => {
                parts.buffer(bytes_of(Buffer::from_vec(ends)));
                parts.buffer_of(data.finish());
            }
            Values::List { ends, item } => {
                parts.buffer(bytes_of(Buffer::from_vec(ends)));
                item.finish(parts);
            }
            Values::FixedList { item, .. } => item.finish(parts),
            Values::Struct(columns) => columns.into_iter().for_each(|column| column.finish(parts)),
        }
    }
}

/// Goes on with the ends of elements, and answers where in the source's values they lie.
fn extend_ends(ends: &mut Vec<i32>, offsets: &[u8], rows: Range<usize>) -> Result<Range<usize>, String> {
    const WIDTH: usize = size_of::<i32>();
    if rows.start == rows.end {
        return Ok(0..0);
    }
    let part = offsets.get(rows.start * WIDTH..(rows.end + 1) * WIDTH).ok_or("the offsets are too short")?;
    let mut part = part.chunks_exact(WIDTH).filter_map(|offset| offset.first_chunk().copied().map(i32::from_le_bytes));
    let first = part.next().unwrap_or(0);
    let before = ends.last().copied().unwrap_or(0);
    ends.extend(part.map(|end| before.wrapping_add(end.wrapping_sub(first))));
    let length = ends.last().map_or(0, |last| last.wrapping_sub(before));
    let range =
        usize::try_from(first).ok().zip(usize::try_from(length).ok()).map(|(first, length)| first..first + length);
    range.filter(|_| before.checked_add(length).is_some()).ok_or_else(|| "the offsets go backwards".to_owned())
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, ArrayRef};
    use arrow_schema::Field;

    use super::*;
    use crate::ipc::{layout, parts::tests::columns, read};

    fn encoded(columns: &[ArrayRef]) -> (BatchMessage, Bytes) {
        let mut parts = Parts::new(columns[0].len(), None);
        columns.iter().for_each(|column| parts.array(column));
        let encoded = parts.finish();
        (BatchMessage::parse(&encoded.metadata, encoded.body_bytes).unwrap(), encoded.body.concat().into())
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "lists of ranges, some of one")]
    fn joined_columns_are_what_arrow_makes_of_them() {
        let columns = columns();
        let (message, body) = encoded(&columns);
        for ranges in [&[0..4][..], &[1..3], &[2..4, 0..4, 0..1], &[3..4, 3..4], &[0..0], &[1..1, 0..2]] {
            let mut at = Share::default();
            for column in &columns {
                let share = layout::share(column.data_type()).unwrap();
                let mut joined = JoinedColumn::new(column.data_type(), 1, 1);
                for range in ranges {
                    let mut from = at;
                    joined.append(&mut Source::new(&message, &body), &mut from, range.clone()).unwrap();
                    assert_eq!(from, at.plus(share));
                }
                at = at.plus(share);
                let rows = ranges.iter().map(ExactSizeIterator::len).sum();
                let mut parts = Parts::new(rows, None);
                joined.finish(&mut parts);
                let encoded = parts.finish();
                let message = BatchMessage::parse(&encoded.metadata, encoded.body_bytes).unwrap();
                let fields = vec![Field::new("c", column.data_type().clone(), true)].into();
                let read = read::read(&fields, &message, &encoded.body.concat().into(), |_| true).unwrap();
                let slices: Vec<_> = ranges.iter().map(|range| column.slice(range.start, range.len())).collect();
                let slices: Vec<_> = slices.iter().map(AsRef::as_ref).collect();
                assert_eq!(read[0].as_ref(), arrow_select::concat::concat(&slices).unwrap().as_ref(), "{ranges:?}");
            }
        }
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error() {
        let columns = columns();
        let (message, body) = encoded(&columns);
        let append_all = |message: &BatchMessage, body: &Bytes| {
            let mut at = Share::default();
            columns.iter().all(|column| {
                let mut joined = JoinedColumn::new(column.data_type(), 0, 0);
                joined.append(&mut Source::new(message, body), &mut at, 0..4).is_ok()
            })
        };
        assert!(append_all(&message, &body));
        for buffer in 0..message.buffers.len() {
            if message.buffers[buffer].start < message.buffers[buffer].end {
                let mut shorter = message.clone();
                shorter.buffers[buffer].end -= 1;
                assert!(!append_all(&shorter, &body), "buffer {buffer}");
            }
        }
        for node in 0..message.nodes.len() {
            let mut shorter = message.clone();
            shorter.nodes[node].length = 1;
            assert!(!append_all(&shorter, &body), "node {node}");
        }
        for cut in [0, 100, body.len() - 64] {
            assert!(!append_all(&message, &body.slice(..cut)));
        }
    }
}
