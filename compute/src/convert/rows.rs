//! Rows batches as the columns that every untyped topic has: one pass over the records, no allocation for any of them.
#![deny(clippy::indexing_slicing)]

use arrow_buffer::Buffer;
use bytes::Bytes;
use levada_protocol::{
    batch::{BatchError, RecordHeaders, Rows},
    ids::{Offset, PartitionId},
};

use crate::ipc::{
    parts::{Encoded, Parts, bytes_of},
    pieces::{Pieces, Validity},
};

/// A column of an untyped topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UntypedColumn {
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

impl UntypedColumn {
    /// All of them, in the order of [`crate::schema::UNTYPED`].
    pub(crate) const ALL: [Self; 6] =
        [Self::Partition, Self::Offset, Self::Timestamp, Self::Key, Self::Value, Self::Headers];
}

/// Where a batch of columns must end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Before this offset.
    pub(crate) end: Offset,
    /// With so many rows.
    pub(crate) rows_max: usize,
    /// Once keys, values and headers have so many bytes.
    pub(crate) bytes_target: usize,
}

/// How far a batch of records was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// To its end.
    All,
    /// To the record before this offset: no more is wanted.
    UpTo(Offset),
}

/// Columns under construction.
#[derive(Debug)]
pub(crate) struct UntypedRows<'a> {
    columns: &'a [UntypedColumn],
    partition: PartitionId,
    rows: usize,
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    keys: Binary,
    values: Binary,
    headers: Headers,
}

impl<'a> UntypedRows<'a> {
    /// For these columns; about so many rows and bytes are expected.
    pub(crate) fn new(columns: &'a [UntypedColumn], partition: PartitionId, rows: usize, bytes: usize) -> Self {
        let wanted = |column, count: usize| if columns.contains(&column) { count } else { 0 };
        Self {
            columns,
            partition,
            rows: 0,
            offsets: Vec::with_capacity(wanted(UntypedColumn::Offset, rows)),
            timestamps: Vec::with_capacity(wanted(UntypedColumn::Timestamp, rows)),
            keys: Binary::with_expected(wanted(UntypedColumn::Key, rows), 0),
            values: Binary::with_expected(wanted(UntypedColumn::Value, rows), bytes),
            headers: Headers::with_expected(wanted(UntypedColumn::Headers, rows)),
        }
    }

    pub(crate) const fn rows(&self) -> usize {
        self.rows
    }

    /// The bytes of keys, values and headers.
    pub(crate) const fn bytes(&self) -> usize {
        self.keys.data.len() + self.values.data.len() + self.headers.keys.data.len() + self.headers.values.data.len()
    }

    /// Takes the records from `start` on, as far as `bounds` allow; always one if there is one.
    ///
    /// # Errors
    /// A malformed record.
    pub(crate) fn take(&mut self, batch: &Rows, start: Offset, bounds: &Bounds) -> Result<Taken, BatchError> {
        let [mut offset, mut timestamp, mut key, mut value, mut headers] = [false; 5];
        for column in self.columns {
            match column {
                UntypedColumn::Partition => {}
                UntypedColumn::Offset => offset = true,
                UntypedColumn::Timestamp => timestamp = true,
                UntypedColumn::Key => key = true,
                UntypedColumn::Value => value = true,
                UntypedColumn::Headers => headers = true,
            }
        }
        for record in batch {
            let record = record?;
            if record.offset < start {
                continue;
            }
            let full = self.rows >= bounds.rows_max || self.bytes() >= bounds.bytes_target;
            if record.offset >= bounds.end || (full && self.rows > 0) {
                return Ok(Taken::UpTo(record.offset));
            }
            if offset {
                self.offsets.push(record.offset.get().cast_signed());
            }
            if timestamp {
                self.timestamps.push(record.timestamp_ms);
            }
            if key {
                self.keys.push(record.key, batch);
            }
            if value {
                self.values.push(record.value, batch);
            }
            if headers {
                self.headers.push(record.headers, batch);
            }
            self.rows += 1;
        }
        Ok(Taken::All)
    }

    /// The columns as a message.
    pub(crate) fn finish(self) -> Encoded {
        let Self { columns, partition, rows, offsets, timestamps, keys, values, headers } = self;
        let mut parts = Parts::new(rows, None);
        let [mut offsets, mut timestamps] = [Some(offsets), Some(timestamps)];
        let [mut keys, mut values] = [Some(keys), Some(values)];
        let mut headers = Some(headers);
        for column in columns {
            match column {
                UntypedColumn::Partition => numbers(&mut parts, vec![partition.get().cast_signed(); rows]),
                UntypedColumn::Offset => numbers(&mut parts, offsets.take().unwrap_or_default()),
                UntypedColumn::Timestamp => numbers(&mut parts, timestamps.take().unwrap_or_default()),
                UntypedColumn::Key => keys.take().unwrap_or_default().finish(&mut parts),
                UntypedColumn::Value => values.take().unwrap_or_default().finish(&mut parts),
                UntypedColumn::Headers => headers.take().unwrap_or_default().finish(&mut parts),
            }
        }
        parts.finish()
    }
}

/// A column of numbers without nulls.
pub(crate) fn numbers<T: arrow_buffer::ArrowNativeType>(parts: &mut Parts, numbers: Vec<T>) {
    parts.node(numbers.len(), 0);
    parts.no_nulls();
    parts.buffer(bytes_of(Buffer::from_vec(numbers)));
}

/// Binary or text.
#[derive(Debug)]
struct Binary {
    ends: Vec<i32>,
    data: Pieces,
    validity: Validity,
}

impl Default for Binary {
    fn default() -> Self {
        Self::with_expected(0, 0)
    }
}

impl Binary {
    fn with_expected(rows: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self { ends, data: Pieces::with_expected(bytes), validity: Validity::default() }
    }

    #[inline]
    fn push(&mut self, value: Option<&[u8]>, batch: &Rows) {
        if let Some(value) = value {
            self.data.push(value, |value| batch.share(value));
        }
        self.counted(value.is_some());
    }

    #[inline]
    fn counted(&mut self, valid: bool) {
        // A message holds one target size and one record more: far below 2 GiB.
        self.ends.push(i32::try_from(self.data.len()).unwrap_or(i32::MAX));
        self.validity.push(valid);
    }

    fn finish(self, parts: &mut Parts) {
        parts.node(self.validity.len(), self.validity.nulls());
        parts.buffer(self.validity.finish());
        parts.buffer(bytes_of(Buffer::from_vec(self.ends)));
        parts.buffer_of(self.data.finish());
    }
}

/// Lists of key and value.
#[derive(Debug)]
struct Headers {
    ends: Vec<i32>,
    keys: Binary,
    values: Binary,
}

impl Default for Headers {
    fn default() -> Self {
        Self::with_expected(0)
    }
}

impl Headers {
    fn with_expected(rows: usize) -> Self {
        let mut ends = Vec::with_capacity(rows + 1);
        ends.push(0);
        Self { ends, keys: Binary::default(), values: Binary::default() }
    }

    #[inline]
    fn push(&mut self, headers: RecordHeaders<'_>, batch: &Rows) {
        for (key, value) in headers {
            match std::str::from_utf8(key) {
                Ok(_) => self.keys.push(Some(key), batch),
                // Kafka's clients agree on text and do not check; readers of Arrow rely on it.
                Err(_) => {
                    let text = String::from_utf8_lossy(key);
                    self.keys.data.push(text.as_bytes(), Bytes::copy_from_slice);
                    self.keys.counted(true);
                }
            }
            self.values.push(value, batch);
        }
        self.ends.push(i32::try_from(self.keys.validity.len()).unwrap_or(i32::MAX));
    }

    fn finish(self, parts: &mut Parts) {
        parts.node(self.ends.len() - 1, 0);
        parts.no_nulls();
        parts.buffer(bytes_of(Buffer::from_vec(self.ends)));
        parts.node(self.keys.validity.len(), 0);
        parts.no_nulls();
        self.keys.finish(parts);
        self.values.finish(parts);
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, RecordBatch, cast::AsArray, types::*};
    use levada_protocol::batch::{Attributes, BatchProducer, Compression, NewRecord, RowsBuilder, stamp};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ipc::{message::BatchMessage, read},
        schema::UNTYPED,
    };

    fn batch(base: u64, count: u8, compression: Compression) -> Rows {
        let mut builder = RowsBuilder::new();
        for number in 0..count {
            let value = vec![number; 100 * usize::from(number)];
            builder
                .push(&NewRecord {
                    timestamp_ms: 1000 + i64::from(number),
                    key: (number % 3 > 0).then_some(&[number, 0xFF]),
                    value: (number % 5 > 0).then_some(&value),
                    headers: &[("trace", Some(&b"1"[..])), ("empty", None)][..usize::from(number % 3)],
                })
                .unwrap();
        }
        let batch = builder.finish(Attributes::default().with_compression(compression), BatchProducer::NONE).unwrap();
        let mut batch = batch.to_vec();
        stamp(&mut batch, Offset(base), 1).unwrap();
        Rows::open(&batch.into()).unwrap()
    }

    fn record_batch(columns: &[UntypedColumn], encoded: &Encoded) -> RecordBatch {
        let body = Bytes::from(encoded.body.concat());
        let message = BatchMessage::parse(&encoded.metadata, body.len()).unwrap();
        let picks: Vec<_> = columns.iter().map(|column| *column as usize).collect();
        let schema = UNTYPED.project(&picks).unwrap();
        let arrays = read::read(schema.fields(), &message, &body, |_| true).unwrap();
        RecordBatch::try_new(schema.into(), arrays).unwrap()
    }

    const EVERYTHING: Bounds = Bounds { end: Offset(u64::MAX), rows_max: usize::MAX, bytes_target: usize::MAX };

    #[test]
    fn every_part_of_a_record_arrives() {
        for compression in [Compression::None, Compression::Lz4] {
            let mut rows = UntypedRows::new(&UntypedColumn::ALL, PartitionId(3), 30, 1000);
            assert_eq!(rows.take(&batch(10, 20, compression), Offset(10), &EVERYTHING), Ok(Taken::All));
            assert_eq!(rows.take(&batch(30, 2, compression), Offset(30), &EVERYTHING), Ok(Taken::All));
            let read = record_batch(&UntypedColumn::ALL, &rows.finish());
            assert_eq!(read.num_rows(), 22);
            assert!(read.column(0).as_primitive::<Int32Type>().values().iter().all(|partition| *partition == 3));
            assert!(read.column(1).as_primitive::<Int64Type>().values().iter().copied().eq(10..32));
            let times = read.column(2).as_primitive::<TimestampMillisecondType>().values();
            assert!(times.iter().copied().eq((1000..1020).chain(1000..1002)));
            let (keys, values) = (read.column(3).as_binary::<i32>(), read.column(4).as_binary::<i32>());
            for (row, number) in (0..22).zip((0..20_u8).chain(0..2)) {
                assert_eq!(
                    keys.is_valid(row).then(|| keys.value(row)),
                    (number % 3 > 0).then_some(&[number, 0xFF][..])
                );
                let value = vec![number; 100 * usize::from(number)];
                assert_eq!(values.is_valid(row).then(|| values.value(row)), (number % 5 > 0).then_some(&value[..]));
                let headers = read.column(5).as_list::<i32>().value(row);
                assert_eq!(headers.len(), usize::from(number % 3));
            }
            let headers = read.column(5).as_list::<i32>().value(2);
            let headers = headers.as_struct();
            assert!(headers.column(0).as_string::<i32>().iter().eq([Some("trace"), Some("empty")]));
            assert!(headers.column(1).as_binary::<i32>().iter().eq([Some(&b"1"[..]), None]));
        }
    }

    #[test]
    fn bounds_cut_where_they_say() {
        let source = batch(10, 20, Compression::None);
        let take = |start, bounds: &Bounds| {
            let mut rows = UntypedRows::new(&UntypedColumn::ALL, PartitionId(0), 30, 1000);
            let taken = rows.take(&source, Offset(start), bounds).unwrap();
            (rows.rows(), taken)
        };
        assert_eq!(take(25, &EVERYTHING), (5, Taken::All));
        assert_eq!(take(12, &Bounds { end: Offset(15), ..EVERYTHING }), (3, Taken::UpTo(Offset(15))));
        assert_eq!(take(10, &Bounds { rows_max: 4, ..EVERYTHING }), (4, Taken::UpTo(Offset(14))));
        assert_eq!(take(28, &Bounds { bytes_target: 1, ..EVERYTHING }), (1, Taken::UpTo(Offset(29))));
        assert_eq!(take(10, &Bounds { rows_max: 0, ..EVERYTHING }), (1, Taken::UpTo(Offset(11))), "always one");
    }

    #[test]
    fn columns_come_as_chosen_and_a_foreign_header_key_becomes_text() {
        let columns = [UntypedColumn::Headers, UntypedColumn::Offset];
        let mut rows = UntypedRows::new(&columns, PartitionId(0), 3, 0);
        let source = batch(0, 3, Compression::None);
        let mut bytes = [&source.header().to_bytes()[..], source.records()].concat();
        let at = bytes.windows(5).rposition(|window| window == b"trace").unwrap();
        bytes[at] = 0xFF;
        let source = Rows::open(&bytes.into()).unwrap();
        rows.take(&source, Offset(0), &EVERYTHING).unwrap();
        let read = record_batch(&columns, &rows.finish());
        let headers = read.column(0).as_list::<i32>().value(2);
        assert_eq!(headers.as_struct().column(0).as_string::<i32>().value(0), "\u{FFFD}race");
        assert_eq!(read.column(1).as_primitive::<Int64Type>().values(), &[0, 1, 2]);
    }

    type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

    fn parts(read: &RecordBatch) -> Vec<Parts> {
        let (keys, values) = (read.column(3).as_binary::<i32>(), read.column(4).as_binary::<i32>());
        let lists = read.column(5).as_list::<i32>();
        let of_row = |row| {
            let list = lists.value(row);
            let list = list.as_struct();
            let pairs = list.column(0).as_string::<i32>().iter().zip(list.column(1).as_binary::<i32>());
            let headers = pairs.map(|(key, value)| (key.unwrap().to_owned(), value.map(<[u8]>::to_vec))).collect();
            let bytes = |column: &arrow_array::BinaryArray| column.is_valid(row).then(|| column.value(row).to_vec());
            (bytes(keys), bytes(values), headers)
        };
        (0..read.num_rows()).map(of_row).collect()
    }

    fn bytes(most: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..most))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_records_arrive_whatever_the_cut(
            records in prop::collection::vec(
                (bytes(8), bytes(60), prop::collection::vec(("\\PC{0,4}", bytes(4)), 0..3)), 1..60),
            rows_max in 1..20_usize,
            bytes_target in 1..500_usize,
            zstd in any::<bool>(),
        ) {
            let mut builder = RowsBuilder::new();
            for (key, value, headers) in &records {
                let headers: Vec<_> = headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
                let (key, value) = (key.as_deref(), value.as_deref());
                builder.push(&NewRecord { timestamp_ms: 1, key, value, headers: &headers }).unwrap();
            }
            let codec = if zstd { Compression::Zstd } else { Compression::None };
            let batch = builder.finish(Attributes::default().with_compression(codec), BatchProducer::NONE).unwrap();
            let batch = Rows::open(&batch).unwrap();
            let bounds = Bounds { end: Offset(u64::MAX), rows_max, bytes_target };
            let (mut next, mut read) = (Offset(0), Vec::new());
            loop {
                let mut rows = UntypedRows::new(&UntypedColumn::ALL, PartitionId(0), 0, 0);
                let taken = rows.take(&batch, next, &bounds).unwrap();
                prop_assert!(rows.rows() <= rows_max);
                read.extend(parts(&record_batch(&UntypedColumn::ALL, &rows.finish())));
                match taken {
                    Taken::All => break,
                    Taken::UpTo(offset) => next = offset,
                }
            }
            prop_assert_eq!(read, records);
        }
    }
}
