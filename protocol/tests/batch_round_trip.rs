//! What is written is read, whatever it is.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{Row, decode, encode};
use levada_protocol::{
    batch::{
        Attributes, BatchError, BatchHeader, BatchIter, BatchProducer, Compression, HEADER_BYTES, NewRecord, Rows,
        RowsBuilder, TimestampType, padded_bytes, seal, stamp, validate_produced, verify_crc,
    },
    ids::{Offset, ProducerEpoch, ProducerId},
    limits::BATCH_BYTES_MAX,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    // Both noise and what compresses; lengths on both sides of a varint's first border.
    prop_oneof![vec(any::<u8>(), 0..200), (any::<u8>(), 0..5000_usize).prop_map(|(byte, length)| vec![byte; length])]
}

prop_compose! {
    fn row()(
        timestamp_ms in prop_oneof![1_700_000_000_000..1_700_000_100_000_i64, -1..253_402_300_800_000_i64],
        key in option::of(bytes()),
        value in option::of(bytes()),
        headers in vec((".{0,20}", option::of(bytes())), 0..4),
    ) -> Row {
        Row { timestamp_ms, key, value, headers }
    }
}

fn producer() -> impl Strategy<Value = BatchProducer> {
    let some = (0..i64::MAX, 0..i16::MAX, 0..=i32::MAX).prop_map(|(id, epoch, base_sequence)| BatchProducer {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        base_sequence,
    });
    prop_oneof![Just(BatchProducer::NONE), some]
}

proptest! {
    #[test]
    fn rows(rows in vec(row(), 1..40), codec in select(&Compression::ALL[..]), producer in producer()) {
        let batch = encode(&rows, codec, producer);
        // The base is the first record's timestamp, as Kafka has it; the door wants max >= base, which is so.
        let header = validate_produced(&batch, BATCH_BYTES_MAX).unwrap();
        prop_assert_eq!(header.producer(), producer);
        prop_assert_eq!(header.record_count as usize, rows.len());
        prop_assert_eq!(Some(header.max_timestamp_ms), rows.iter().map(|row| row.timestamp_ms).max());
        prop_assert_eq!(decode(&batch).unwrap(), rows);
    }

    #[test]
    fn stamped_and_packed(
        batches in vec((vec(row(), 1..5), select(&Compression::ALL[..])), 1..6),
        base_offset in 0..i64::MAX as u64 / 2,
        leader_epoch: i32,
    ) {
        let (mut packed, mut adjacent) = (Vec::new(), Vec::new());
        let mut next = Offset(base_offset);
        for (rows, codec) in &batches {
            let mut batch = encode(rows, *codec, BatchProducer::NONE).to_vec();
            stamp(&mut batch, next, leader_epoch).unwrap();
            next = next.plus(rows.len() as u64);
            packed.resize(padded_bytes(packed.len()), 0);
            packed.extend_from_slice(&batch);
            adjacent.extend_from_slice(&batch);
        }
        for iter in [BatchIter::packed(&packed), BatchIter::adjacent(&adjacent)] {
            let mut next = Offset(base_offset);
            let mut seen = 0;
            for (batch, (rows, _)) in iter.zip(&batches) {
                let batch = batch.unwrap();
                verify_crc(batch.bytes).unwrap();
                prop_assert_eq!((batch.header.base_offset, batch.header.leader_epoch), (next, leader_epoch));
                let read = decode(&batch.bytes.to_vec().into()).unwrap();
                prop_assert_eq!(&read, rows);
                next = batch.header.next_offset();
                seen += 1;
            }
            prop_assert_eq!(seen, batches.len());
        }
    }
}

/// Without compression a record's bytes are the batch's bytes.
#[test]
fn reading_in_place_copies_nothing() {
    let batch = encode(&[Row::new(0, Some("key"), Some("value"))], Compression::None, BatchProducer::NONE);
    let rows = Rows::open(&batch).unwrap();
    let value = rows.iter().next().unwrap().unwrap().value.unwrap();
    assert!(batch.as_ptr_range().contains(&value.as_ptr()));
    assert_eq!(rows.share(value).as_ptr(), value.as_ptr());
}

/// What a codec would make larger goes as it is.
#[test]
fn compression_that_does_not_help_is_left_out() {
    for codec in Compression::ALL {
        let batch = encode(&[Row::new(0, None, Some("x"))], codec, BatchProducer::NONE);
        assert_eq!(Rows::open(&batch).unwrap().header().attributes.compression(), Compression::None);
    }
}

/// A batch whose second record was taken away, as compaction does it.
fn compacted() -> Bytes {
    let rows: Vec<_> = (0..4).map(|n| Row::new(100 + n, None, Some("value"))).collect();
    let batch = encode(&rows, Compression::None, BatchProducer::NONE);
    let mut header = BatchHeader::parse(&batch).unwrap();
    let record_bytes = header.payload_bytes() / 4;
    header.record_count = 3;
    header.batch_length -= u32::try_from(record_bytes).unwrap();
    let second = HEADER_BYTES + record_bytes;
    let mut bytes = [&header.to_bytes(), &batch[HEADER_BYTES..second], &batch[second + record_bytes..]].concat();
    seal(&mut bytes);
    bytes.into()
}

#[test]
fn compaction_leaves_gaps_that_only_the_log_may_make() {
    let batch = compacted();
    verify_crc(&batch).unwrap();
    let rows = Rows::open(&batch).unwrap();
    let offsets: Vec<_> = rows.iter().map(|record| record.unwrap().offset.get()).collect();
    assert_eq!(offsets, [0, 2, 3]);
    assert_eq!(rows.header().next_offset(), Offset(4));
    assert!(validate_produced(&batch, BATCH_BYTES_MAX).is_err());
}

#[test]
fn append_time_is_the_same_for_all_records() {
    let mut batch = compacted().to_vec();
    let mut header = BatchHeader::parse(&batch).unwrap();
    header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
    header.max_timestamp_ms = 777;
    batch[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let rows = Rows::open(&batch.into()).unwrap();
    assert!(rows.iter().all(|record| record.unwrap().timestamp_ms == 777));
}

#[test]
fn a_full_builder_says_so_and_stays_as_it_was() {
    let mut builder = RowsBuilder::new();
    let value = vec![0; BATCH_BYTES_MAX / 2];
    let record = NewRecord { value: Some(&value), ..NewRecord::default() };
    assert_eq!(builder.push(&record), Ok(0));
    let bytes = builder.bytes();
    assert!(matches!(builder.push(&record), Err(BatchError::TooLarge { .. })));
    let before_1970 = NewRecord { timestamp_ms: -2, ..NewRecord::default() };
    assert!(matches!(builder.push(&before_1970), Err(BatchError::Field { field: "timestamp", .. })));
    assert_eq!((builder.bytes(), builder.record_count()), (bytes, 1));

    // Half a maximal batch of zeros would unfold further than a reader goes; it is left as it is.
    let codec = Attributes::default().with_compression(Compression::Zstd);
    let batch = builder.finish(codec, BatchProducer::NONE).unwrap();
    let header = validate_produced(&batch, BATCH_BYTES_MAX).unwrap();
    assert_eq!(header.attributes.compression(), Compression::None);
}
