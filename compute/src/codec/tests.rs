//! Rows to columns and back; columns that lie.

use levada_protocol::{
    batch::{BatchHeader, BatchProducer, ColumnsInfo, ColumnsPayload, Compression, seal, validate_produced},
    ids::{Offset, ProducerEpoch, ProducerId},
    limits::BATCH_BYTES_MAX,
};
use proptest::prelude::*;

use super::*;
use crate::ipc::{compression::Codec, message::BatchMessage};

const SCHEMA: &str = r#"{"fields":[
    {"name":"b","type":"bool"},{"name":"i","type":"int16"},{"name":"f","type":"float64"},
    {"name":"s","type":"utf8","nullable":false},{"name":"x","type":"binary"},
    {"name":"t","type":"timestamp(us, UTC)"},{"name":"m","type":"decimal128(20, 3)"},
    {"name":"l","type":"list","items":{"type":"list","items":"utf8"}},
    {"name":"e","type":"fixed_size_list(2)","items":"int64"},
    {"name":"o","type":"struct","fields":[{"name":"p","type":"utf8"},{"name":"q","type":"date32","nullable":false}]}
]}"#;

fn schema() -> TopicSchema {
    TopicSchema { id: 7, json: SCHEMA.to_owned() }
}

const PRODUCER: BatchProducer =
    BatchProducer { id: ProducerId(4000), epoch: ProducerEpoch(3), base_sequence: i32::MAX - 1 };

/// A record as the tests write it.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: String,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn rows_batch(records: &[Written], compression: Compression) -> Bytes {
    let mut builder = RowsBuilder::new();
    for record in records {
        let headers: Vec<_> = record.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        builder
            .push(&NewRecord {
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_deref(),
                value: Some(record.value.as_bytes()),
                headers: &headers,
            })
            .unwrap();
    }
    builder.finish(Attributes::default().with_compression(compression), PRODUCER).unwrap()
}

fn records(batch: &Bytes) -> Vec<Written> {
    let rows = Rows::open(batch).unwrap();
    let record = |record: levada_protocol::batch::Record<'_>| Written {
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(<[u8]>::to_vec),
        value: String::from_utf8(record.value.unwrap().to_vec()).unwrap(),
        headers: record
            .headers
            .map(|(key, value)| (String::from_utf8(key.to_vec()).unwrap(), value.map(<[u8]>::to_vec)))
            .collect(),
    };
    rows.iter().map(|read| record(read.unwrap())).collect()
}

fn plain(value: &str) -> Written {
    Written { timestamp_ms: 1000, key: None, value: value.to_owned(), headers: Vec::new() }
}

fn columns_of(values: &[&str]) -> Bytes {
    let records: Vec<_> = values.iter().map(|value| plain(value)).collect();
    ArrowCodec::new().to_columns(&schema(), &rows_batch(&records, Compression::None)).unwrap()
}

const FULL: &str = concat!(
    r#"{"b":true,"i":-5,"f":0.5,"s":"água","x":"AP8=","t":"2024-02-29T12:34:56.789012Z","m":"-1.500","#,
    r#""l":[["a",null],null,[]],"e":[1,null],"o":{"p":"in","q":"1999-12-31"}}"#
);
const EMPTY: &str = r#"{"b":null,"i":null,"f":null,"s":"","x":null,"t":null,"m":null,"l":null,"e":null,"o":null}"#;

#[test]
fn rows_become_columns_and_rows_again() {
    let codec = ArrowCodec::new();
    let headers = vec![("trace".to_owned(), Some(b"\xFF\0".to_vec())), (String::new(), None)];
    let records_in = vec![
        Written { timestamp_ms: 5000, key: Some(b"k\xFF".to_vec()), value: FULL.to_owned(), headers },
        plain(EMPTY),
        Written { timestamp_ms: -1, key: Some(Vec::new()), ..plain(EMPTY) },
    ];
    for compression in [Compression::None, Compression::Zstd] {
        let columns = codec.to_columns(&schema(), &rows_batch(&records_in, compression)).unwrap();
        let header = validate_produced(&columns, BATCH_BYTES_MAX).unwrap();
        assert!(header.is_columns());
        assert_eq!((header.record_count, header.producer()), (3, PRODUCER));
        assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (5000, 5000));
        codec.validate(&schema(), &columns).unwrap();

        let mut stamped = columns.to_vec();
        stamp(&mut stamped, Offset(77), 9).unwrap();
        let rows = codec.to_rows(&schema(), &stamped.into()).unwrap();
        let header = validate_produced(&rows, BATCH_BYTES_MAX).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch, header.producer()), (Offset(77), 9, PRODUCER));
        assert_eq!(records(&rows), records_in);
    }
}

#[test]
fn rows_that_do_not_fit_name_field_and_row() {
    let codec = ArrowCodec::new();
    for (value, says) in [
        (r#"{"s":"a","i":99999}"#, "field `i`, row 1: 99999 does not fit in int16"),
        (r#"{"s":"a","o":{"q":null}}"#, "field `o.q`, row 1: null, and the schema says it never is"),
        (r#"{"s":"a","z":0}"#, "field `z`, row 1: the schema has no such field"),
        ("3", "row 1: not a JSON object"),
    ] {
        let batch = rows_batch(&[plain(EMPTY), plain(value)], Compression::None);
        let error = codec.to_columns(&schema(), &batch).unwrap_err();
        assert_eq!(error.code, ErrorCode::SchemaMismatch);
        assert!(error.message.starts_with(says), "{}", error.message);
    }
    let mut builder = RowsBuilder::new();
    builder.push(&NewRecord::default()).unwrap();
    let batch = builder.finish(Attributes::default(), PRODUCER).unwrap();
    let error = codec.to_columns(&schema(), &batch).unwrap_err();
    assert!(error.message.starts_with("row 0: there is no value"), "{}", error.message);
}

#[test]
fn schemas_are_checked_and_made_canonical() {
    let codec = ArrowCodec::new();
    let canonical = codec.check_schema(r#"{"fields":[{"type":"string","name":"a"}]}"#).unwrap();
    assert_eq!(canonical, r#"{"fields":[{"name":"a","type":"utf8","nullable":true}]}"#);
    let error = codec.check_schema(r#"{"fields":[{"type":"strnig","name":"a"}]}"#).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidConfig);
    assert!(error.message.contains("field `a`: unknown type `strnig`"));
}

/// The batch with another message.
fn with_message(batch: &Bytes, change: impl FnOnce(&mut BatchMessage, &mut Vec<u8>)) -> Bytes {
    let payload = ColumnsPayload::parse(batch).unwrap();
    let mut message = BatchMessage::parse(&payload.metadata, payload.body.len()).unwrap();
    let mut body = payload.body.to_vec();
    change(&mut message, &mut body);
    let header = BatchHeader::parse(batch).unwrap();
    let info = ColumnsInfo {
        record_count: header.record_count,
        base_timestamp_ms: header.base_timestamp_ms,
        max_timestamp_ms: header.max_timestamp_ms,
        producer: header.producer(),
        transactional: false,
    };
    let metadata = message.write(body.len()).into();
    ColumnsPayload { metadata, body: body.into(), ..payload }.build(&info).unwrap()
}

#[test]
fn columns_that_lie_are_refused_by_name() {
    let codec = ArrowCodec::new();
    let good = columns_of(&[FULL, EMPTY, FULL]);
    codec.validate(&schema(), &good).unwrap();
    let refused = |change: fn(&mut BatchMessage, &mut Vec<u8>)| {
        codec.validate(&schema(), &with_message(&good, change)).unwrap_err()
    };
    let says = |error: Error, code: ErrorCode, text: &str| {
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(text), "{error}");
    };
    // Nodes: 0 b, 1 i, 2 f, 3 s, 4 x, 5 t, 6 m, … Buffers of s: 6 validity, 7 offsets, 8 text.
    says(refused(|m, _| m.rows = 2), ErrorCode::CorruptBatch, "2 rows, and the batch's header says 3");
    says(refused(|m, _| m.nodes[1].length = 2), ErrorCode::CorruptBatch, "field `i`: 2 rows");
    says(refused(|m, _| m.nodes.truncate(3)), ErrorCode::CorruptBatch, "nodes and");
    says(refused(|m, _| m.buffers.truncate(3)), ErrorCode::CorruptBatch, "buffers; ");
    says(refused(|m, _| m.nodes[1].nulls = 0), ErrorCode::CorruptBatch, "field `i`: 1 nulls where the message says 0");
    says(refused(|m, _| m.buffers[3].end -= 1), ErrorCode::CorruptBatch, "field `i`:");
    says(refused(|m, _| m.buffers[8].end -= 1), ErrorCode::CorruptBatch, "field `s`:");
    says(refused(|m, b| b[m.buffers[7].start + 4] = 0xFF), ErrorCode::CorruptBatch, "field `s`:");
    says(refused(|m, b| b[m.buffers[8].start] = 0xFF), ErrorCode::CorruptBatch, "UTF8 sequence at string index 0");
    says(
        refused(|m, b| {
            m.nodes[3].nulls = 1;
            m.buffers[6] = b.len()..b.len() + 1;
            b.push(0b101);
            b.resize(b.len().next_multiple_of(64), 0);
        }),
        ErrorCode::SchemaMismatch,
        "field `s`, row 1: null, and the schema says it never is",
    );
    says(
        refused(|m, b| {
            b.insert(0, 0);
            b.resize(b.len() + 63, 0);
            m.buffers.iter_mut().for_each(|range| *range = range.start + 1..range.end + 1);
        }),
        ErrorCode::CorruptBatch,
        "no multiple of 64",
    );
    says(
        refused(|m, b| b[m.buffers[15].start..m.buffers[15].start + 16].fill(0x7F)),
        ErrorCode::SchemaMismatch,
        "field `m`, row 0: a decimal of more than 20 digits",
    );
    says(refused(|m, _| m.codec = Some(Codec::Lz4)), ErrorCode::CorruptBatch, "field `b`:");

    let other = TopicSchema { id: 8, ..schema() };
    says(codec.validate(&other, &good).unwrap_err(), ErrorCode::SchemaMismatch, "has schema 7, the topic has 8");
}

/// A batch as version 1 of the format wrote it. It stays readable: this file is never written again.
const STORED_V1: &[u8] = include_bytes!("../../tests/fixtures/columns-v1.bin");

#[test]
fn what_an_older_version_stored_is_read() {
    let codec = ArrowCodec::new();
    let stored = Bytes::from_static(STORED_V1);
    validate_produced(&stored, BATCH_BYTES_MAX).unwrap();
    codec.validate(&schema(), &stored).unwrap();
    let headers = vec![("trace".to_owned(), Some(b"\xFF\0".to_vec())), (String::new(), None)];
    let expected =
        [Written { timestamp_ms: 5000, key: Some(b"k\xFF".to_vec()), value: FULL.to_owned(), headers }, plain(EMPTY)];
    assert_eq!(records(&codec.to_rows(&schema(), &stored).unwrap()), expected);
}

#[test]
fn compressed_buffers_are_read() {
    let codec = ArrowCodec::new();
    let good = columns_of(&[FULL, EMPTY]);
    let packed = with_message(&good, |message, body| {
        let plain = std::mem::take(body);
        for (number, range) in message.buffers.iter_mut().enumerate().filter(|(_, range)| range.start < range.end) {
            let data = &plain[range.clone()];
            let start = body.len();
            if number % 2 == 0 {
                body.extend_from_slice(&(data.len() as u64).to_le_bytes());
                body.extend(zstd::bulk::compress(data, 1).unwrap());
            } else {
                body.extend_from_slice(&(-1_i64).to_le_bytes());
                body.extend_from_slice(data);
            }
            *range = start..body.len();
            body.resize(body.len().next_multiple_of(64), 0);
        }
        message.buffers.iter_mut().filter(|range| range.start == range.end).for_each(|range| *range = 0..0);
        message.codec = Some(Codec::Zstd);
    });
    codec.validate(&schema(), &packed).unwrap();
    assert_eq!(codec.to_rows(&schema(), &packed), codec.to_rows(&schema(), &good));
}

#[test]
fn no_flipped_or_cut_byte_panics() {
    let codec = ArrowCodec::new();
    let good = columns_of(&[FULL, EMPTY]);
    let try_all = |bytes: Vec<u8>| {
        let batch = Bytes::from(bytes);
        let valid = codec.validate(&schema(), &batch);
        let rows = codec.to_rows(&schema(), &batch);
        // What the door lets in can be read.
        assert!(valid.is_err() || rows.is_ok(), "{valid:?} {rows:?}");
    };
    for position in 0..good.len() {
        try_all(good[..position].to_vec());
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = good.to_vec();
            bytes[position] ^= flip;
            seal(&mut bytes);
            try_all(bytes);
        }
    }
}

fn json_row() -> impl Strategy<Value = String> {
    let text = || "\\PC{0,6}".prop_map(|text| serde_json::to_string(&text).unwrap());
    let or_null = |strategy: BoxedStrategy<String>| prop_oneof![1 => Just("null".to_owned()), 4 => strategy].boxed();
    let array = |item: BoxedStrategy<String>, count: std::ops::RangeInclusive<usize>| {
        prop::collection::vec(item, count).prop_map(|items| format!("[{}]", items.join(","))).boxed()
    };
    let binary = prop::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| {
        use arrow_cast::base64::{BASE64_STANDARD, Engine};
        format!("\"{}\"", BASE64_STANDARD.encode(bytes))
    });
    let day = (1..=9999_i32, 1..=12_i32, 1..=28_i32).prop_map(|(y, m, d)| format!("\"{y:04}-{m:02}-{d:02}\""));
    let time = any::<i64>().prop_map(|time| time.to_string());
    let decimal = (any::<i32>(), 0..1000).prop_map(|(whole, part)| format!("\"{whole}.{part:03}\""));
    let strings = or_null(array(or_null(text().boxed()), 0..=3));
    let nested = (or_null(text().boxed()), day).prop_map(|(p, q)| format!(r#"{{"p":{p},"q":{q}}}"#));
    let fields = (
        or_null(any::<bool>().prop_map(|value| value.to_string()).boxed()),
        or_null(any::<i16>().prop_map(|value| value.to_string()).boxed()),
        or_null(any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| format!("{f:?}")).boxed()),
        text(),
        or_null(binary.boxed()),
        or_null(time.boxed()),
        or_null(decimal.boxed()),
        or_null(array(strings, 0..=2)),
        or_null(array(or_null(any::<i64>().prop_map(|value| value.to_string()).boxed()), 2..=2)),
        or_null(nested.boxed()),
    );
    fields.prop_map(|(b, i, f, s, x, t, m, l, e, o)| {
        format!(r#"{{"b":{b},"i":{i},"f":{f},"s":{s},"x":{x},"t":{t},"m":{m},"l":{l},"e":{e},"o":{o}}}"#)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_rows_survive_as_columns(
        rows in prop::collection::vec((json_row(), 0..1_i64 << 40, any::<Option<[u8; 3]>>()), 1..20),
    ) {
        let codec = ArrowCodec::new();
        let written: Vec<_> = rows
            .into_iter()
            .map(|(value, timestamp_ms, key)| {
                Written { timestamp_ms, key: key.map(|key| key.to_vec()), value, headers: Vec::new() }
            })
            .collect();
        let columns = codec.to_columns(&schema(), &rows_batch(&written, Compression::None)).unwrap();
        codec.validate(&schema(), &columns).unwrap();
        let read = records(&codec.to_rows(&schema(), &columns).unwrap());
        prop_assert_eq!(read.len(), written.len());
        for (read, written) in read.iter().zip(&written) {
            prop_assert_eq!((read.timestamp_ms, &read.key), (written.timestamp_ms, &written.key));
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            let (mut read, mut written) = (value(&read.value), value(&written.value));
            // A time is written as a number here and comes back as text; a row of its own checks the text.
            let micros = written["t"].take();
            let text = read["t"].take();
            if let (Some(micros), Some(text)) = (micros.as_i64(), text.as_str()) {
                prop_assert_eq!(text.parse::<jiff::Timestamp>().unwrap().as_microsecond(), micros);
            } else {
                prop_assert_eq!(micros, text);
            }
            prop_assert_eq!(read, written);
        }
    }
}
