//! What the decoders are made for, as the encoders write it: where fuzzers begin.

use bytes::Bytes;
use prost::Message;

use crate::{
    batch::{
        Attributes, BatchProducer, ColumnsInfo, ColumnsPayload, Compression, NewRecord, RowsBuilder, padded_bytes,
    },
    error::{Error, ErrorCode, NodeAddresses},
    frame::{Api, Preface, encode_answer, encode_error, encode_request},
    ids::{NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicPartition},
    messages::{metadata, native, peer},
    ticket::{End, Start, Ticket},
};

const TOPIC: [u8; 16] = *b"a topic's number";

fn produce() -> native::ProduceRequest {
    native::ProduceRequest {
        topic_id: Bytes::from_static(&TOPIC),
        partition: 3,
        timeout_ms: 500,
        ..native::ProduceRequest::default()
    }
}

fn moved() -> Error {
    let leader = NodeAddresses { node: NodeId(7), native: "n:1".into(), flight: "f:2".into(), http: "h:3".into() };
    Error::new(ErrorCode::NotLeader, "there").redirect(Some(leader))
}

/// For [`super::frame`].
#[must_use]
pub fn frames() -> Vec<Vec<u8>> {
    let batch = rows(Compression::None);
    let mut whole = encode_request(Api::Produce, 1, &produce(), batch.len()).to_vec();
    whole.extend_from_slice(&batch);
    let answer = encode_answer(Api::Metadata as u16, 2, &topics(), 0);
    let error = encode_error(Api::Fetch as u16, 3, &moved());
    let several = [&whole[..], &answer, &error].concat();
    vec![Preface::OURS.encode().to_vec(), whole[4..].to_vec(), several, answer.to_vec(), error.to_vec()]
}

fn topics() -> native::MetadataResponse {
    let replicas = (1..4).map(|node| native::ReplicaInfo { replica_id: node, node_id: node }).collect();
    let partition = native::PartitionInfo { partition: 0, group: 9, leader: Some(2), leader_epoch: 4, replicas };
    let topic = native::TopicInfo {
        name: "orders".into(),
        topic_id: Bytes::from_static(&TOPIC),
        partitions: vec![partition.clone(), native::PartitionInfo { partition: 1, leader: None, ..partition }],
        config: [("retention_ms".to_owned(), "5000".to_owned())].into(),
        schema_json: r#"{"fields":[]}"#.into(),
        schema_id: 1,
    };
    native::MetadataResponse { topics: vec![topic], ..native::MetadataResponse::default() }
}

/// For [`super::message`]: of each message an empty one, and of some what they say.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    let said = [
        (0, native::HandshakeRequest { client_id: "me".into(), ..Default::default() }.encode_to_vec()),
        (2, moved().to_wire().encode_to_vec()),
        (4, topics().encode_to_vec()),
        (5, produce().encode_to_vec()),
        (38, raft_frame().encode_to_vec()),
        (39, command().encode_to_vec()),
    ];
    let empty = (0..45).map(|number| vec![number]);
    empty.chain(said.into_iter().map(|(number, said)| [vec![number], said].concat())).collect()
}

fn raft_frame() -> peer::RaftFrame {
    let entries = vec![peer::EntryHead { term: 8, index: 9, kind: 1, payload_bytes: 11 }];
    let message = peer::RaftMessage { group: 1, from: 2, to: 3, term: 5, index: 8, entries, ..Default::default() };
    peer::RaftFrame { messages: vec![message], ..peer::RaftFrame::default() }
}

fn command() -> metadata::Command {
    let ids = metadata::AllocateProducerIds { node_id: 1, count: 1000 };
    metadata::Command { kind: Some(metadata::command::Kind::AllocateProducerIds(ids)) }
}

/// A batch of three records.
#[must_use]
pub fn rows(codec: Compression) -> Bytes {
    let mut builder = RowsBuilder::new();
    let headers: [(&str, Option<&[u8]>); 2] = [("trace", Some(b"0af7")), ("flag", None)];
    for (number, key) in [None, Some(&b"key"[..]), Some(b"")].into_iter().enumerate() {
        let value = Some(&br#"{"city":"Funchal","litres":12}"#[..]).filter(|_| number < 2);
        let timestamp_ms = 1_700_000_000_000 + i64::try_from(number).unwrap();
        builder.push(&NewRecord { timestamp_ms, key, value, headers: &headers[..number] }).unwrap();
    }
    let producer = BatchProducer { id: ProducerId(4000), epoch: ProducerEpoch(3), base_sequence: 17 };
    builder.finish(Attributes::default().with_compression(codec), producer).unwrap()
}

fn columns() -> Bytes {
    let payload = ColumnsPayload {
        schema_id: 7,
        metadata: Bytes::from_static(b"of some length"),
        body: Bytes::from_static(b"and a body"),
    };
    let info = ColumnsInfo {
        record_count: 3,
        base_timestamp_ms: 5,
        max_timestamp_ms: 9,
        producer: BatchProducer::default(),
        transactional: false,
    };
    payload.build(&info).unwrap()
}

/// For [`super::batch`].
#[must_use]
pub fn batches() -> Vec<Vec<u8>> {
    let mut batches: Vec<Vec<u8>> = Compression::ALL.into_iter().map(|codec| rows(codec).to_vec()).collect();
    batches.push(columns().to_vec());
    let mut packed = batches[0].clone();
    packed.resize(padded_bytes(packed.len()), 0);
    packed.extend_from_slice(&batches[5]);
    batches.push(packed);
    batches.push(batches[..2].concat());
    batches
}

/// For [`super::compression`].
#[must_use]
pub fn compressed() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, codec) in (0..).zip(Compression::ALL) {
        seeds.push([&[number], &rows(codec)[crate::batch::HEADER_BYTES..]].concat());
        seeds.push([&[0x80 | number][..], &b"some value, some value, some value".repeat(3)].concat());
    }
    seeds
}

/// For [`super::ticket`].
#[must_use]
pub fn tickets() -> Vec<Vec<u8>> {
    let topic = TopicId::from_bytes(TOPIC);
    let partition = TopicPartition { topic, partition: PartitionId(4) };
    let of = |start, end| Ticket::new(partition, start, end);
    let tickets = [
        of(Start::Offset(Offset(5)), End::Follow),
        of(Start::Latest, End::Offset(Offset(1 << 40))),
        Ticket { columns: vec!["a".into(), "b".into()], max_batch_rows: 7, ..of(Start::Time(-5), End::Time(1 << 40)) },
    ];
    tickets.iter().flat_map(|ticket| [ticket.encode().to_vec(), ticket.encode()[1..].to_vec()]).collect()
}
