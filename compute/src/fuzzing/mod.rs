//! Doors for fuzzers: one function for each decoder, which takes any bytes and panics where the decoder breaks its word.
//!
//! `fuzz/` calls them, with bytes that a fuzzer makes up and with those that it once found interesting.

#![allow(clippy::unwrap_used, reason = "a panic is the answer")]

use std::sync::OnceLock;

use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use levada_protocol::{
    batch::{
        Attributes, BatchProducer, ColumnsInfo, ColumnsPayload, Compression, NewRecord, RowsBuilder, validate_produced,
    },
    codec::PayloadCodec as _,
    ids::PartitionId,
    limits::BATCH_BYTES_MAX,
    source::TopicSchema,
    ticket::Ticket,
};
use prost::Message as _;

use crate::{
    codec::ArrowCodec,
    convert::columns::{StoredColumns, TypedView},
    flight::fuzzing as flight,
    ipc::{message::BatchMessage, schema},
    schema::{TypedSchema, parse_json, write_json},
};

pub mod seeds;

/// Columns of every type.
const SCHEMA: &str = r#"{"fields":[
    {"name":"b","type":"bool"},{"name":"i","type":"int16"},{"name":"f","type":"float64"},
    {"name":"s","type":"utf8","nullable":false},{"name":"x","type":"binary"},
    {"name":"t","type":"timestamp(us, UTC)"},{"name":"m","type":"decimal128(20, 3)"},
    {"name":"l","type":"list","items":{"type":"list","items":"utf8"}},
    {"name":"e","type":"fixed_size_list(2)","items":"int64"},
    {"name":"o","type":"struct","fields":[{"name":"p","type":"utf8"},{"name":"q","type":"date32","nullable":false}]}
]}"#;
/// Few columns, so that a fuzzer gets through all of them.
const SMALL_SCHEMA: &str = r#"{"fields":[{"name":"n","type":"int64"},{"name":"l","type":"list","items":"utf8"}]}"#;

struct Known {
    codec: ArrowCodec,
    topics: [TopicSchema; 2],
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| Known {
        codec: ArrowCodec::new(),
        topics: [SCHEMA, SMALL_SCHEMA].map(|json| TopicSchema { id: 7, json: json.to_owned() }),
    })
}

/// Some bytes behind their length in two.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *bytes = rest;
    Some(part)
}

/// The first byte says of which topic.
fn topic(bytes: &mut &[u8]) -> Option<&'static TopicSchema> {
    let (&number, rest) = bytes.split_first()?;
    *bytes = rest;
    known().topics.get(usize::from(number % 2))
}

/// A columns batch as a producer sends it: metadata and body, in a container whose numbers fit them if they can.
pub fn columns(bytes: &[u8]) {
    let mut body = bytes;
    let Some(topic) = topic(&mut body) else { return };
    let Some(metadata) = part(&mut body) else { return };
    let Ok(message) = BatchMessage::parse(metadata, body.len()) else { return };
    assert_eq!(BatchMessage::parse(&message.write(body.len()), body.len()).unwrap(), message);
    let payload = ColumnsPayload {
        schema_id: topic.id,
        metadata: Bytes::copy_from_slice(metadata),
        body: Bytes::copy_from_slice(body),
    };
    let mut info = ColumnsInfo {
        record_count: u32::try_from(message.rows).unwrap(),
        base_timestamp_ms: 0,
        max_timestamp_ms: 0,
        producer: BatchProducer::default(),
        transactional: false,
    };
    let codec = &known().codec;
    let schema = codec.schema(topic).unwrap();
    let Ok(batch) = payload.build(&info) else { return };
    let Ok(times) = StoredColumns::parse(&schema, &batch).and_then(|stored| stored.timestamps(&schema)) else { return };
    info.base_timestamp_ms = times.first().copied().unwrap_or_default();
    info.max_timestamp_ms = times.iter().max().copied().unwrap_or_default();
    let batch = payload.build(&info).unwrap();
    let is_sound = codec.validate(topic, &batch).is_ok();
    let rows = codec.to_rows(topic, &batch);
    if !is_sound {
        return;
    }
    // What was let in is served, whole and in part, to whoever asks in whatever form.
    let stored = StoredColumns::parse(&schema, &batch).unwrap();
    let all = TypedView::new(schema, &[]).unwrap();
    let whole = all.whole(&stored, PartitionId(3));
    BatchMessage::parse(&whole.metadata, whole.body_bytes).unwrap();
    assert_eq!(whole.body.iter().map(Bytes::len).sum::<usize>(), whole.body_bytes);
    let rows_of = stored.rows();
    let some = rows_of.start + rows_of.len() / 3..rows_of.end;
    let copied = all.copied(&[(stored.clone(), some.clone()), (stored, rows_of)], PartitionId(3)).unwrap();
    BatchMessage::parse(&copied.metadata, copied.body_bytes).unwrap();
    if let Ok(rows) = rows {
        validate_produced(&rows, BATCH_BYTES_MAX).unwrap();
    }
}

/// What a Flight client writes: its schema, and a message of records.
pub fn put(bytes: &[u8]) {
    let mut body = bytes;
    let Some((&how, rest)) = body.split_first() else { return };
    body = rest;
    let (Some(schema_message), Some(header)) = (part(&mut body), part(&mut body)) else { return };
    let Ok(client) = schema::parse(schema_message) else { return };
    assert_eq!(schema::parse(&schema::write(&client)).unwrap(), client);
    let typed = known().topics.get(usize::from(how % 3)).map(|topic| TypedSchema::new(topic).unwrap());
    let data = FlightData {
        data_header: Bytes::copy_from_slice(header),
        data_body: Bytes::copy_from_slice(body),
        ..FlightData::default()
    };
    flight::records(typed.as_ref(), client, &data);
}

/// A schema as a person writes it.
pub fn schema_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(schema) = parse_json(text) else { return };
    let written = write_json(&schema);
    let again = parse_json(&written).unwrap();
    assert_eq!((write_json(&again), again), (written, schema));
}

/// Rows of JSON for a typed topic, one in a line.
pub fn rows(bytes: &[u8]) {
    let mut lines = bytes;
    let Some(topic) = topic(&mut lines) else { return };
    let mut builder = RowsBuilder::new();
    for line in lines.split(|byte| *byte == b'\n') {
        builder.push(&NewRecord { timestamp_ms: 5, value: Some(line), ..NewRecord::default() }).unwrap();
    }
    let rows = builder.finish(Attributes::default().with_compression(Compression::None), BatchProducer::default());
    let codec = &known().codec;
    let Ok(columns) = codec.to_columns(topic, &rows.unwrap()) else { return };
    validate_produced(&columns, BATCH_BYTES_MAX).unwrap();
    codec.validate(topic, &columns).unwrap();
    let rows = codec.to_rows(topic, &columns).unwrap();
    let again = codec.to_columns(topic, &rows).unwrap();
    assert_eq!(codec.to_rows(topic, &again).unwrap(), rows, "what is served can be written");
}

/// What a Flight client asks for: a request of `DoGet`, and a descriptor.
pub fn ask(bytes: &[u8]) {
    if let Ok(ticket) = flight::ticket_of(Bytes::copy_from_slice(bytes))
        && let Ok(ticket) = Ticket::decode(&ticket)
    {
        assert_eq!(Ticket::decode(&ticket.encode()).unwrap(), ticket);
    }
    if let Ok(descriptor) = FlightDescriptor::decode(bytes) {
        flight::options(Some(&descriptor));
    }
    flight::options(Some(&FlightDescriptor::new_cmd(bytes.to_vec())));
}
