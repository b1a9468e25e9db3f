//! What the decoders are made for, as the encoders write it: where fuzzers begin.

use bytes::Bytes;
use levada_protocol::{
    error::NodeAddresses,
    ids::{ClusterId, GroupId, IncarnationId, LogIndex, NodeId, ReplicaId, Term},
    messages::metadata as wire,
};
use levada_storage_engine::entry::EntryKind;
use prost::Message as _;
use raft::eraftpb;

use crate::{
    bootstrap::record::{Decision, Record},
    cluster::{
        addresses::Member,
        health::Health,
        metadata::{Metadata, Node, join_command, register_command},
    },
    config::KEYS,
    node::MemberLoss,
    raft::{
        hibernation::Notice,
        membership::{Conf, Membership},
        wire::{CatchUp, PeerMessage, encode, raft_entry},
    },
};

fn behind_length(part: &[u8]) -> Vec<u8> {
    [&u16::try_from(part.len()).unwrap().to_le_bytes(), part].concat()
}

/// For [`super::raft_frame`].
#[must_use]
pub fn raft_frames() -> Vec<Vec<u8>> {
    let group = GroupId(7);
    let mut append = eraftpb::Message::default();
    append.set_msg_type(eraftpb::MessageType::MsgAppend);
    append.set_from(1);
    append.set_to(2);
    append.set_term(5);
    append.set_log_term(5);
    append.set_index(10);
    append.set_commit(9);
    let entries = vec![
        raft_entry(11, 5, EntryKind::Batches, Bytes::from_static(b"batches")),
        raft_entry(12, 5, EntryKind::Empty, Bytes::new()),
        raft_entry(13, 5, EntryKind::Command, Bytes::from_static(b"command")),
    ];
    append.set_entries(entries.into());
    let copies = [
        CatchUp::AskSnapshot { wanted_to: LogIndex(70) },
        CatchUp::Snapshot(Some(Bytes::from_static(b"snapshot"))),
        CatchUp::Snapshot(None),
        CatchUp::AskSegment { first_index: LogIndex(7), position: 64, bytes_max: 1000 },
        CatchUp::Segment { first_index: LogIndex(7), position: 64, bytes: Some(Bytes::from_static(b"segment")) },
    ];
    let mut all: Vec<Vec<PeerMessage>> =
        copies.into_iter().map(|what| vec![PeerMessage::CatchUp { group, what }]).collect();
    all.push(vec![PeerMessage::Raft { group, message: Box::new(append) }]);
    all.push(vec![
        PeerMessage::Leadership { group, term: Term(9) },
        PeerMessage::Placed { group, voters: vec![ReplicaId(1), ReplicaId(5)], targets_given: 2 },
        PeerMessage::Lost { group, replica: ReplicaId(5) },
        PeerMessage::MemberLost {
            replica: ReplicaId(5),
            loss: MemberLoss::Behind { first: LogIndex(4) },
            term: Term(8),
        },
        PeerMessage::Replace { group, replica: ReplicaId(6), settled_at: Some(3) },
        PeerMessage::Damaged { group, replica: ReplicaId(7), is_unsound: true },
        PeerMessage::Roll { group },
        PeerMessage::Beat { run: 77 },
        PeerMessage::Asleep { notices: vec![Notice { group, term: Term(9), last_index: LogIndex(8) }] },
        PeerMessage::Health(Health { slow_disk: true, sync_us: 500, ..Health::default() }),
    ]);
    all.push(all.concat());
    let whole = |messages| {
        let (frame, payload) = encode(messages);
        [behind_length(&frame.encode_to_vec()), payload.concat()].concat()
    };
    all.into_iter().map(whole).collect()
}

/// For [`super::founding`].
#[must_use]
pub fn foundings() -> Vec<Vec<u8>> {
    let member = |n: u8| Member { incarnation: IncarnationId::from_bytes([n; 16]), native: format!("node{n}:1") };
    let decision = Decision {
        cluster: ClusterId::from_bytes([9; 16]),
        members: (1..4).map(|n| (NodeId(n.into()), member(n))).collect(),
        joined: Some(ReplicaId(1 << 48)),
    };
    let record = Record { node: NodeId(2), incarnation: IncarnationId::from_bytes([2; 16]), decision: Some(decision) };
    let undecided = Record { decision: None, ..record.clone() };
    let whole = [record.encode(), undecided.encode()];
    whole.iter().map(|whole| whole[16..].to_vec()).chain(whole.clone()).collect()
}

fn node(number: u64) -> Node {
    let addresses = NodeAddresses {
        node: NodeId(number),
        native: format!("n{number}:1"),
        flight: format!("n{number}:2"),
        http: format!("n{number}:3"),
    };
    let incarnation = IncarnationId::from_bytes([u8::try_from(number).unwrap(); 16]);
    Node::new(addresses, incarnation, "rack".to_owned())
}

fn topic(number: u8) -> wire::Topic {
    let replica = |node| wire::Replica { replica_id: node, node_id: node };
    let partition = |partition| wire::Partition {
        partition,
        replicas: vec![replica(1), replica(2), replica(3)],
        ..wire::Partition::default()
    };
    wire::Topic {
        name: format!("topic-{number}"),
        topic_id: Bytes::from(vec![number; 16]),
        partitions: vec![partition(0), partition(1)],
        config: [("retention.ms".to_owned(), "5000".to_owned())].into(),
        schema_json: r#"{"fields":[{"name":"a","type":"int64"}]}"#.to_owned(),
        schema_id: 1,
        created_ms: 1_700_000_000_000,
        altered_by: vec![Bytes::from(vec![8; 16])],
    }
}

/// For [`super::metadata`].
#[must_use]
pub fn metadata() -> Vec<Vec<u8>> {
    use wire::command::Kind;
    let command = |kind| wire::Command { kind: Some(kind) };
    let id = |number: u8| Bytes::from(vec![number; 16]);
    let commands = [
        register_command(&node(1)),
        register_command(&node(2)),
        register_command(&node(3)),
        command(Kind::CreateTopic(wire::CreateTopic { topic: Some(topic(1)) })),
        command(Kind::CreateTopic(wire::CreateTopic { topic: Some(topic(2)) })),
        command(Kind::AdmitNode(wire::AdmitNode { node_id: 4, replace: false })),
        join_command(&node(4)),
        command(Kind::AlterTopic(wire::AlterTopic {
            topic_id: id(1),
            set: [("retention.bytes".to_owned(), "6".to_owned())].into(),
            unset: vec!["retention.ms".to_owned()],
            request_id: id(9),
        })),
        command(Kind::MoveReplicas(wire::MoveReplicas {
            moves: vec![wire::Move { topic_id: id(1), nodes: vec![1, 2, 4], ..wire::Move::default() }],
        })),
        command(Kind::AllocateProducerIds(wire::AllocateProducerIds { node_id: 1, count: 1000 })),
        command(Kind::DrainNode(wire::DrainNode { node_id: 3, drain: true })),
        command(Kind::DeleteTopic(wire::DeleteTopic { topic_id: id(2) })),
    ];
    let encoded: Vec<Vec<u8>> = commands.iter().map(|command| behind_length(&command.encode_to_vec())).collect();
    let mut metadata = Metadata::default();
    for command in commands {
        let _ = metadata.apply(command);
    }
    vec![encoded[3].clone(), encoded[..7].concat(), encoded.concat(), metadata.encode().to_vec()]
}

/// For [`super::membership`].
#[must_use]
pub fn memberships() -> Vec<Vec<u8>> {
    let ids = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect();
    let conf =
        Conf { voters: ids(&[1, 2, 1 << 48]), outgoing: ids(&[1, 2]), learners: ids(&[5]), learners_next: ids(&[6]) };
    let plain = Membership { replica: ReplicaId(1), conf: Conf::of([ReplicaId(1), ReplicaId(2)]) };
    let single = |change_type, node_id| wire::ConfChangeSingle { change_type, node_id };
    let change = wire::ConfChange { transition: 2, changes: vec![single(0, 5), single(1, 1), single(2, 9)] };
    let all = [Membership { replica: ReplicaId(2), conf }.encode(), plain.encode(), change.encode_to_vec().into()];
    all.into_iter().map(Vec::from).collect()
}

/// For [`super::partition`].
#[must_use]
pub fn partitions() -> Vec<Vec<u8>> {
    let batch = |base: i32| wire::ProducerBatch {
        base_sequence: base,
        last_sequence: base + 9,
        base_offset: 1000 + u64::try_from(base).unwrap(),
    };
    let producer = |producer_id| wire::Producer {
        producer_id,
        producer_epoch: 3,
        last_timestamp_ms: 1_700_000_000_000,
        batches: vec![batch(0), batch(10)],
    };
    let state = wire::PartitionState {
        next_offset: 2000,
        log_start_offset: 10,
        producers: vec![producer(4000), producer(4001)],
        segment_ends: vec![wire::SegmentEnd { offset: 500, time_ms: 1_700_000_000_000 }],
        groups: Bytes::new(),
    };
    let start = wire::partition_command::Kind::LogStart(wire::LogStart { offset: 5 });
    let command = wire::PartitionCommand { kind: Some(start) };
    vec![state.encode_to_vec(), command.encode_to_vec()]
}

/// For [`super::config`].
#[must_use]
pub fn configs() -> Vec<Vec<u8>> {
    const SMALLEST: &str = "node_id = 1\ndata_dir = 'd'\n";
    let keys = KEYS.iter().filter(|key| !key.default.is_empty());
    let all: String = keys.map(|key| format!("{} = {}\n", key.name, key.default)).collect();
    let mut texts = vec![SMALLEST.to_owned(), format!("{SMALLEST}{all}")];
    for more in [
        "seed_nodes = ['1@a:1', '2@b:2']",
        "seed_nodes = '1@a:1,2@b:2'",
        "insecure = true\nlisten.native = '0.0.0.0:1'\nadvertised.native = 'n:1'",
        "[limits]\nidle_ms = 500\nframe_ms = 'long'",
        "[log]\nfilter = 'info,levada_broker=debug'\nformat = 'json'",
        "[tracing]\notlp_endpoint = 'http://collector:4317'\nsamples_per_million = 10",
        "rack = = 'a'",
    ] {
        texts.push(format!("{SMALLEST}{more}\n"));
    }
    texts.into_iter().map(String::into_bytes).collect()
}
