//! A record batch put together from buffers that stay where they are.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use arrow_array::Array;
use arrow_buffer::{BooleanBuffer, Buffer};
use arrow_data::{ArrayData, transform::MutableArrayData};
use arrow_schema::DataType;
use bytes::Bytes;

use super::{
    ALIGN,
    compression::{AS_IT_IS, Codec},
    layout::Share,
    message::{BatchMessage, Node},
};

static ZEROS: [u8; ALIGN] = [0; ALIGN];

/// A finished record batch message.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// The flatbuffer that says where everything is.
    pub(crate) metadata: Vec<u8>,
    /// The body, in pieces.
    pub(crate) body: Vec<Bytes>,
    /// The length of all pieces together: a multiple of [`ALIGN`].
    pub(crate) body_bytes: usize,
}

/// A record batch message in the making: columns are added in the order of the schema.
#[derive(Debug)]
pub(crate) struct Parts {
    message: BatchMessage,
    body: Vec<Bytes>,
    body_bytes: usize,
    run: Option<Run>,
}

/// Neighbouring buffers of a stored body, given on as one piece.
#[derive(Debug)]
struct Run {
    stored: Bytes,
    range: Range<usize>,
    at: usize,
}

impl Parts {
    /// A batch of so many rows. With a codec, shared buffers are compressed with it, and new ones marked as not.
    pub(crate) const fn new(rows: usize, codec: Option<Codec>) -> Self {
        let message = BatchMessage { rows, nodes: Vec::new(), buffers: Vec::new(), codec };
        Self { message, body: Vec::new(), body_bytes: 0, run: None }
    }

    /// The next array's length and nulls.
    pub(crate) fn node(&mut self, length: usize, nulls: usize) {
        self.message.nodes.push(Node { length, nulls });
    }

    /// The next buffer, in one piece.
    pub(crate) fn buffer(&mut self, bytes: Bytes) {
        self.buffer_of(std::iter::once(bytes));
    }

    /// The next buffer, in several pieces.
    pub(crate) fn buffer_of(&mut self, pieces: impl IntoIterator<Item = Bytes>) {
        self.close_run();
        let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).peekable();
        let start = self.body_bytes;
        if self.message.codec.is_some() && pieces.peek().is_some() {
            self.push(Bytes::from_static(&AS_IT_IS));
        }
        pieces.for_each(|piece| self.push(piece));
        self.message.buffers.push(start..self.body_bytes);
        self.pad();
    }

    /// A buffer that marks nothing as null.
    pub(crate) fn no_nulls(&mut self) {
        self.buffer(Bytes::new());
    }

    /// A column of a stored batch as it is: the nodes and buffers from `at` on.
    pub(crate) fn shared(&mut self, stored: &BatchMessage, body: &Bytes, at: Share, share: Share) {
        self.message.nodes.extend(stored.nodes.iter().skip(at.nodes).take(share.nodes));
        for range in stored.buffers.iter().skip(at.buffers).take(share.buffers) {
            self.shared_buffer(body, range.clone());
        }
    }

    fn shared_buffer(&mut self, stored: &Bytes, range: Range<usize>) {
        if range.is_empty() || range.end > stored.len() {
            let at = self.run.as_ref().map_or(self.body_bytes, |run| run.at);
            self.message.buffers.push(at..at);
            return;
        }
        let length = range.len();
        let follows = |run: &&mut Run| range.start.checked_sub(run.range.end).is_some_and(|gap| gap < ALIGN);
        let at = if let Some(run) = self.run.as_mut().filter(follows) {
            run.range.end = range.end;
            run.at + (range.start - run.range.start)
        } else {
            self.close_run();
            self.run = Some(Run { stored: stored.clone(), range, at: self.body_bytes });
            self.body_bytes
        };
        self.message.buffers.push(at..at + length);
    }

    fn close_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.push(run.stored.slice(run.range));
            self.pad();
        }
    }

    /// A column of fresh arrays.
    pub(crate) fn array(&mut self, array: &dyn Array) {
        self.array_data(&array.to_data());
    }

    /// A column. Data that begins in the middle of its buffers is copied to where it begins at their front.
    pub(crate) fn array_data(&mut self, data: &ArrayData) {
        if begins_at_front(data) {
            self.plain(data);
        } else {
            self.plain(&joined(&[(data, 0..data.len())]));
        }
    }

    fn plain(&mut self, data: &ArrayData) {
        self.node(data.len(), data.null_count());
        match data.nulls().filter(|nulls| nulls.null_count() > 0) {
            Some(nulls) => self.buffer(shared(nulls.inner().sliced(), nulls.len().div_ceil(8))),
            None => self.no_nulls(),
        }
        let buffer = |index: usize| data.buffers().get(index).cloned().unwrap_or_default();
        match data.data_type() {
            DataType::Boolean => {
                let bits = BooleanBuffer::new(buffer(0), data.offset(), data.len()).sliced();
                self.buffer(shared(bits, data.len().div_ceil(8)));
            }
            DataType::Utf8 | DataType::Binary => {
                let (offsets, end) = offsets::<4>(&buffer(0), data.len());
                self.buffer(offsets);
                self.buffer(shared(buffer(1), end));
            }
            DataType::List(_) => {
                let (offsets, _) = offsets::<4>(&buffer(0), data.len());
                self.buffer(offsets);
            }
            DataType::FixedSizeList(..) | DataType::Struct(_) => {}
            other => {
                let width = match other {
                    DataType::FixedSizeBinary(width) => usize::try_from(*width).unwrap_or(0),
                    other => other.primitive_width().unwrap_or(0),
                };
                self.buffer(shared(buffer(0), width * data.len()));
            }
        }
        data.child_data().iter().for_each(|child| self.plain(child));
    }

    /// The message.
    pub(crate) fn finish(mut self) -> Encoded {
        self.close_run();
        let metadata = self.message.write(self.body_bytes);
        Encoded { metadata, body: self.body, body_bytes: self.body_bytes }
    }

    fn push(&mut self, piece: Bytes) {
        self.body_bytes += piece.len();
        self.body.push(piece);
    }

    fn pad(&mut self) {
        let missing = self.body_bytes.next_multiple_of(ALIGN) - self.body_bytes;
        if missing > 0 {
            self.push(Bytes::from_static(&ZEROS).slice(..missing));
        }
    }
}

/// An Arrow buffer, shared.
pub(crate) fn bytes_of(buffer: Buffer) -> Bytes {
    struct Owner(Buffer);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Bytes::from_owner(Owner(buffer))
}

/// The front of an Arrow buffer, shared.
fn shared(buffer: Buffer, length: usize) -> Bytes {
    let bytes = bytes_of(buffer);
    let length = length.min(bytes.len());
    bytes.slice(..length)
}

/// An offsets buffer of so many elements, and the last offset in it.
fn offsets<const WIDTH: usize>(buffer: &Buffer, length: usize) -> (Bytes, usize) {
    if length == 0 {
        return (Bytes::from_static(&ZEROS).slice(..WIDTH), 0);
    }
    let bytes = shared(buffer.clone(), (length + 1) * WIDTH);
    let mut last = [0; 8];
    if let Some((tail, place)) = bytes.last_chunk::<WIDTH>().zip(last.first_chunk_mut()) {
        *place = *tail;
    }
    (bytes, usize::try_from(u64::from_le_bytes(last)).unwrap_or(0))
}

/// Whether all offsets, of buffers and in them, begin at zero.
fn begins_at_front(data: &ArrayData) -> bool {
    let zero_first = match data.data_type() {
        DataType::Utf8 | DataType::Binary | DataType::List(_) => {
            data.buffers().first().and_then(|offsets| offsets.first_chunk::<4>()).is_none_or(|first| *first == [0; 4])
        }
        _ => true,
    };
    data.offset() == 0 && zero_first && data.child_data().iter().all(begins_at_front)
}

/// Pieces of arrays of one type, one after the other, in buffers of their own.
fn joined(pieces: &[(&ArrayData, Range<usize>)]) -> ArrayData {
    let arrays = pieces.iter().map(|(data, _)| *data).collect();
    let rows = pieces.iter().map(|(_, range)| range.len()).sum();
    let mut grown = MutableArrayData::new(arrays, false, rows);
    for (index, (_, range)) in pieces.iter().enumerate() {
        grown.extend(index, range.start, range.end);
    }
    grown.freeze()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, FixedSizeListArray, Int64Array,
        ListArray, StringArray, StructArray,
        types::{Float32Type, Int32Type},
    };
    use arrow_schema::{Field, Fields};

    use super::*;
    use crate::ipc::{layout, read};

    /// Four rows of every kind of column.
    pub(in crate::ipc) fn columns() -> Vec<ArrayRef> {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
            Some(vec![Some(4), Some(5), Some(6)]),
        ]);
        let fixed = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
            [Some(vec![Some(1.0), Some(2.0)]), Some(vec![Some(3.0), None]), None, Some(vec![Some(7.0), Some(8.0)])],
            2,
        );
        let number = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)])) as ArrayRef;
        let nested = StructArray::from(vec![
            (Arc::new(Field::new("n", DataType::Int64, true)), Arc::clone(&number)),
            (Arc::new(Field::new("l", list.data_type().clone(), true)), Arc::new(list.clone()) as ArrayRef),
        ]);
        vec![
            number,
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])),
            Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("água")])),
            Arc::new(BinaryArray::from(vec![&b"xyz"[..], b"", b"\0", b"\xff"])),
            Arc::new(Decimal128Array::from(vec![1, -2, 3, 4])),
            Arc::new(FixedSizeBinaryArray::try_from_iter([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]].iter()).unwrap()),
            Arc::new(list),
            Arc::new(fixed),
            Arc::new(nested),
        ]
    }

    fn fields(columns: &[ArrayRef]) -> Fields {
        columns
            .iter()
            .enumerate()
            .map(|(index, column)| Field::new(format!("c{index}"), column.data_type().clone(), true))
            .collect()
    }

    fn read_again(fields: &Fields, encoded: &Encoded) -> (BatchMessage, Bytes, Vec<ArrayRef>) {
        let body = Bytes::from(encoded.body.concat());
        assert_eq!(body.len(), encoded.body_bytes);
        let message = BatchMessage::parse(&encoded.metadata, body.len()).unwrap();
        assert!(message.buffers.iter().all(|range| range.start.is_multiple_of(ALIGN)));
        let arrays = read::read(fields, &message, &body, |_| true).unwrap();
        (message, body, arrays)
    }

    #[test]
    fn whole_and_sliced_arrays_survive() {
        for (start, length) in [(0, 4), (1, 3), (1, 2), (2, 1), (3, 1), (0, 0), (2, 0)] {
            let columns: Vec<_> = columns().iter().map(|column| column.slice(start, length)).collect();
            let mut parts = Parts::new(length, None);
            columns.iter().for_each(|column| parts.array(column));
            let (_, _, read) = read_again(&fields(&columns), &parts.finish());
            assert_eq!(read, columns, "{start} {length}");
        }
    }

    #[test]
    fn stored_columns_are_given_on_in_any_choice_and_neighbours_in_one_piece() {
        let columns = columns();
        let all = fields(&columns);
        let mut parts = Parts::new(4, None);
        columns.iter().for_each(|column| parts.array(column));
        let (stored, body, _) = read_again(&all, &parts.finish());
        let mut starts = vec![Share::default()];
        for field in &all {
            let (at, share) = (starts[starts.len() - 1], layout::share(field.data_type()).unwrap());
            starts.push(Share { nodes: at.nodes + share.nodes, buffers: at.buffers + share.buffers });
        }
        for (picks, pieces) in [(vec![0, 1, 2, 3, 4, 5, 6, 7, 8], 1), (vec![2, 3, 7], 2), (vec![8, 0], 2), (vec![], 0)]
        {
            let mut parts = Parts::new(4, None);
            for &pick in &picks {
                parts.shared(&stored, &body, starts[pick], layout::share(all[pick].data_type()).unwrap());
            }
            let encoded = parts.finish();
            let sharing = encoded.body.iter().filter(|piece| body.as_ptr_range().contains(&piece.as_ptr())).count();
            assert_eq!(sharing, pieces, "{picks:?}");
            let picked: Fields = picks.iter().map(|pick| Arc::clone(&all[*pick])).collect();
            let (_, _, read) = read_again(&picked, &encoded);
            assert_eq!(read, picks.iter().map(|pick| Arc::clone(&columns[*pick])).collect::<Vec<_>>());
        }
    }

    #[test]
    fn joining_takes_pieces_of_several() {
        for column in columns() {
            let data = column.to_data();
            let joined = joined(&[(&data, 2..4), (&data, 0..1)]);
            let expected = arrow_select::concat::concat(&[&column.slice(2, 2), &column.slice(0, 1)]).unwrap();
            assert_eq!(arrow_array::make_array(joined).as_ref(), expected.as_ref());
        }
    }
}
