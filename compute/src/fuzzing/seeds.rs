//! What the decoders are made for, as the encoders write it: where fuzzers begin.

use arrow_flight::{FlightDescriptor, Ticket as FlightTicket};
use levada_protocol::{
    batch::{Attributes, BatchProducer, ColumnsPayload, NewRecord, RowsBuilder},
    codec::PayloadCodec as _,
    ids::{Offset, PartitionId, TopicId, TopicPartition},
    ticket::{End, Start, Ticket},
};
use prost::Message as _;

use super::{SCHEMA, SMALL_SCHEMA, known};
use crate::{
    ipc::{compression::Codec, message::BatchMessage, schema},
    schema::{TypedSchema, UNTYPED},
};

const FULL: &str = concat!(
    r#"{"b":true,"i":-5,"f":0.5,"s":"água","x":"AP8=","t":"2024-02-29T12:34:56.789012Z","m":"-1.500","#,
    r#""l":[["a",null],null,[]],"e":[1,null],"o":{"p":"in","q":"1999-12-31"}}"#
);
const EMPTY: &str = r#"{"s":""}"#;
const SMALL: [&str; 3] = [r#"{"n":-5,"l":["a",null,"bc"]}"#, r#"{"n":null,"l":null}"#, r#"{"l":[]}"#];

fn behind_length(part: &[u8]) -> Vec<u8> {
    [&u16::try_from(part.len()).unwrap().to_le_bytes(), part].concat()
}

/// Metadata and body of rows of the topic of this number.
fn stored(topic: usize, lines: &[&str]) -> ColumnsPayload {
    let mut builder = RowsBuilder::new();
    for (line, key) in lines.iter().zip([Some(&b"key"[..]), None].into_iter().cycle()) {
        let headers: &[(&str, Option<&[u8]>)] = if key.is_some() { &[("trace", Some(b"\xFF"))] } else { &[] };
        builder.push(&NewRecord { timestamp_ms: 5000, key, value: Some(line.as_bytes()), headers }).unwrap();
    }
    let rows = builder.finish(Attributes::default(), BatchProducer::default()).unwrap();
    let columns = known().codec.to_columns(&known().topics[topic], &rows).unwrap();
    ColumnsPayload::parse(&columns).unwrap()
}

fn all_stored() -> Vec<(usize, ColumnsPayload)> {
    vec![(0, stored(0, &[EMPTY])), (0, stored(0, &[FULL, EMPTY])), (1, stored(1, &SMALL[..1])), (1, stored(1, &SMALL))]
}

/// For [`super::columns`].
#[must_use]
pub fn columns() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (topic, payload) in all_stored() {
        let number = u8::try_from(topic).unwrap();
        seeds.push([&[number][..], &behind_length(&payload.metadata), &payload.body].concat());
        // The same as its sender may compress it, though the bytes are not.
        let message = BatchMessage::parse(&payload.metadata, payload.body.len()).unwrap();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let message = BatchMessage { codec: Some(codec), ..message.clone() };
            let metadata = message.write(payload.body.len());
            seeds.push([&[number][..], &behind_length(&metadata), &payload.body].concat());
        }
    }
    seeds
}

/// For [`super::put`].
#[must_use]
pub fn puts() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (topic, payload) in all_stored() {
        let known = TypedSchema::new(&known().topics[topic]).unwrap();
        let message = behind_length(&schema::write(known.stored()));
        let number = u8::try_from(topic).unwrap();
        let metadata = behind_length(&payload.metadata);
        seeds.push([&[number][..], &message, &metadata, &payload.body].concat());
    }
    let (_, payload) = all_stored().swap_remove(2);
    let untyped = behind_length(&schema::write(&UNTYPED));
    seeds.push([&[2][..], &untyped, &behind_length(&payload.metadata), &payload.body].concat());
    seeds
}

/// For [`super::schema_json`].
#[must_use]
pub fn schemas() -> Vec<Vec<u8>> {
    [SCHEMA, SMALL_SCHEMA, r#"{"fields":[]}"#].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// For [`super::rows`].
#[must_use]
pub fn rows() -> Vec<Vec<u8>> {
    vec![
        format!("\0{FULL}\n{EMPTY}").into_bytes(),
        format!("\0{EMPTY}").into_bytes(),
        format!("\u{1}{}", SMALL.join("\n")).into_bytes(),
    ]
}

/// For [`super::ask`].
#[must_use]
pub fn asks() -> Vec<Vec<u8>> {
    let topic = TopicId::from_bytes(*b"a topic's number");
    let partition = TopicPartition { topic, partition: PartitionId(4) };
    let ticket = Ticket::new(partition, Start::Offset(Offset(5)), End::Follow).encode();
    let message = FlightTicket { ticket }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let read = r#"{"topic":"t","partitions":[1,2],"from":"offset:7","to":"time:1970-01-01T00:00:01Z","columns":["a"],
        "max_batch_rows":9}"#;
    let write = r#"{"topic":"t","partition":1,"producer_id":5,"epoch":0,"sequence":77}"#;
    vec![
        [&[0], &length[..], &message].concat(),
        read.as_bytes().to_vec(),
        write.as_bytes().to_vec(),
        FlightDescriptor::new_path(vec!["orders".to_owned(), "3".to_owned()]).encode_to_vec(),
        FlightDescriptor::new_cmd(read.as_bytes().to_vec()).encode_to_vec(),
    ]
}
