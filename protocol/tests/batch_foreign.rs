//! Batches of other implementations are read as they were meant, and ours are read by others.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use bytes::{Bytes, BytesMut};
use common::{Row, decode, encode, five_records, fixture, fixtures};
use kafka_protocol::{
    protocol::StrBytes,
    records::{
        Compression as TheirCompression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
        RecordEncodeOptions, TimestampType,
    },
};
use levada_protocol::{
    batch::{BatchProducer, Compression, RowsBuilder, stamp, validate_produced},
    ids::{Offset, ProducerEpoch, ProducerId},
    limits::BATCH_BYTES_MAX,
};

const PRODUCER: BatchProducer = BatchProducer { id: ProducerId(4000), epoch: ProducerEpoch(3), base_sequence: 17 };

fn theirs(codec: Compression) -> TheirCompression {
    match codec {
        Compression::None => TheirCompression::None,
        Compression::Gzip => TheirCompression::Gzip,
        Compression::Snappy => TheirCompression::Snappy,
        Compression::Lz4 => TheirCompression::Lz4,
        Compression::Zstd => TheirCompression::Zstd,
    }
}

/// Records that compress, more than one block of any codec; no header key twice, as theirs are a map.
fn many_records() -> Vec<Row> {
    let mut rows: Vec<Row> = (0..3000)
        .map(|n| {
            let value = format!(r#"{{"city":"Funchal","litres":{n},"unit":"l","note":"water for the mill"}}"#);
            Row::new(1_700_000_000_000 + n / 3, (n % 7 != 0).then_some("user"), (n % 11 != 0).then_some(value.as_str()))
        })
        .collect();
    for row in rows.iter_mut().step_by(5) {
        row.headers = vec![("trace".into(), Some(b"0af7651916cd43dd".to_vec())), ("flag".into(), None)];
    }
    rows
}

#[test]
fn fixtures_decode() {
    for (name, codec, batch) in fixtures() {
        let header =
            validate_produced(&batch, BATCH_BYTES_MAX).unwrap_or_else(|error| panic!("{name} {codec:?}: {error}"));
        assert_eq!(header.attributes.compression(), codec, "{name}");
        assert_eq!(header.record_count, 5);
        assert_eq!(header.max_timestamp_ms, 1_700_000_000_101);
        assert!(header.has_producer());
        if name == "java" {
            assert_eq!(header.producer(), PRODUCER);
        }
        assert_eq!(decode(&batch).unwrap(), five_records(), "{name} {codec:?}");
    }
}

/// Not only readable: the same bytes.
#[test]
fn we_write_the_bytes_that_java_writes() {
    let ours = encode(&five_records(), Compression::None, PRODUCER);
    assert_eq!(ours, fixture("java", Compression::None));
    // Compressed bytes are each encoder's own; the framing is the same.
    for (codec, framing) in [(Compression::Lz4, 7), (Compression::Snappy, 16)] {
        let ours = encode(&five_records(), codec, PRODUCER);
        assert_eq!(ours[21..61 + framing], fixture("java", codec)[21..61 + framing], "{codec:?}");
    }
}

#[test]
fn they_read_ours() {
    for codec in Compression::ALL {
        for producer in [PRODUCER, BatchProducer::NONE] {
            let rows = many_records();
            let mut batch = BytesMut::from(&encode(&rows, codec, producer)[..]);
            stamp(&mut batch, Offset(1000), 7).unwrap();
            let read = RecordBatchDecoder::decode(&mut batch.freeze()).unwrap();
            assert_eq!(read.compression as i16, codec as i16, "it was compressed");
            assert_eq!(read.records.len(), rows.len());
            for (n, (record, row)) in (0..).zip(read.records.iter().zip(&rows)) {
                assert_eq!((record.offset, record.timestamp), (1000 + i64::from(n), row.timestamp_ms));
                assert_eq!(
                    (record.key.as_deref(), record.value.as_deref()),
                    (row.key.as_deref(), row.value.as_deref())
                );
                assert_eq!((record.producer_id, record.producer_epoch), (producer.id.get(), producer.epoch.get()));
                assert_eq!(record.sequence, producer.base_sequence + n);
                assert_eq!(record.partition_leader_epoch, 7);
                let headers: Vec<_> = record
                    .headers
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.as_ref().map(|value| value.to_vec())))
                    .collect();
                assert_eq!(headers, row.headers);
            }
        }
    }
}

#[test]
fn we_read_theirs() {
    for codec in Compression::ALL {
        let rows = many_records();
        let records: Vec<TheirRecord> = (0..)
            .zip(&rows)
            .map(|(n, row)| TheirRecord {
                transactional: true,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: PRODUCER.id.get(),
                producer_epoch: PRODUCER.epoch.get(),
                timestamp_type: TimestampType::Creation,
                offset: i64::from(n),
                sequence: PRODUCER.base_sequence + n,
                timestamp: row.timestamp_ms,
                key: row.key.clone().map(Bytes::from),
                value: row.value.clone().map(Bytes::from),
                headers: row
                    .headers
                    .iter()
                    .map(|(key, value)| (StrBytes::from_string(key.clone()), value.clone().map(Bytes::from)))
                    .collect(),
            })
            .collect();
        let mut batch = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: theirs(codec) };
        RecordBatchEncoder::encode(&mut batch, &records, &options).unwrap();
        let batch = batch.freeze();
        let header = validate_produced(&batch, BATCH_BYTES_MAX).unwrap();
        assert_eq!(header.attributes.compression(), codec);
        assert!(header.attributes.is_transactional());
        assert_eq!(header.producer(), PRODUCER);
        assert_eq!(decode(&batch).unwrap(), rows, "{codec:?}");
    }
}

#[test]
fn nothing_to_send_is_no_batch() {
    assert!(RowsBuilder::new().finish(Default::default(), BatchProducer::NONE).is_err());
}
