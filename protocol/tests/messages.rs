//! The messages that other versions, logs and checkpoints hold too: their bytes, pinned. Every field has a value that
//! no other has, so that one that gets another number, or another type, is found out; a new one does not compile.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Debug;

use bytes::Bytes;
use levada_protocol::messages::{
    metadata::{
        AddPartitions, AdmitNode, AllocateProducerIds, AlterTopic, Command, CreateTopic, DeleteTopic, DrainNode,
        FinishMove, JoinNode, LogStart, Membership, Move, MoveReplicas, Node, Partition, PartitionCommand,
        PartitionState, Producer, ProducerBatch, RecoverPartition, Recovery, RegisterNode, RemoveNode, RenewMember,
        ReplaceReplica, Replica, Roll, SegmentEnd, SetFeatureLevel, State, Topic, command::Kind,
        partition_command::Kind as PartitionKind,
    },
    native::{ErrorMessage, HandshakeRequest, HandshakeResponse, NodeAddresses, PeerIdentity},
    peer::{
        AskSegment, AskSnapshot, Asleep, Beat, CatchUp, EntryHead, Leadership, NodeHealth, Placement, RaftFrame,
        RaftMessage, SegmentBytes, SnapshotBytes, catch_up::Kind as CatchUpKind,
    },
};
use prost::Message;

/// Whether a message has these bytes, and they are this message again.
fn pinned<M: Message + Default + PartialEq + Debug>(message: M, expected: &[&[u8]]) {
    let expected = Bytes::from(expected.concat());
    assert_eq!(Bytes::from(message.encode_to_vec()), expected, "{message:?}");
    assert_eq!(M::decode(expected).unwrap(), message);
}

#[test]
fn golden_handshakes_and_errors() {
    let peer = PeerIdentity { node_id: 5, incarnation: Bytes::from_static(b"life"), member_id: 7 };
    let cluster_id = Bytes::from_static(b"cluster");
    pinned(
        HandshakeRequest { client_id: "me".into(), cluster_id: cluster_id.clone(), peer: Some(peer) },
        &[b"\x0a\x02me", b"\x12\x07cluster", b"\x1a\x0a", b"\x08\x05", b"\x12\x04life", b"\x18\x07"],
    );
    pinned(
        HandshakeResponse {
            version: 300,
            cluster_id,
            node_id: 3,
            server_version: "0.1".into(),
            incarnation: Bytes::from_static(b"life"),
            waiting: "me".into(),
        },
        &[b"\x08\xac\x02", b"\x12\x07cluster", b"\x18\x03", b"\x22\x030.1", b"\x2a\x04life", b"\x32\x02me"],
    );
    let leader = NodeAddresses { node_id: 7, native: "n:1".into(), flight: "f:2".into(), http: "h:3".into() };
    pinned(
        ErrorMessage { code: 20, message: "there".into(), leader: Some(leader) },
        &[b"\x08\x14", b"\x12\x05there", b"\x1a\x11", b"\x08\x07", b"\x12\x03n:1", b"\x1a\x03f:2", b"\x22\x03h:3"],
    );
}

#[test]
fn golden_raft_frame() {
    let message = RaftMessage {
        group: 1,
        from: 2,
        to: 3,
        r#type: 4,
        term: 5,
        log_term: 6,
        index: 7,
        entries: vec![EntryHead { term: 8, index: 9, kind: 10, payload_bytes: 11 }],
        commit: 12,
        commit_term: 13,
        reject: true,
        reject_hint: 14,
        request_snapshot: 15,
        priority: -16,
        context: Bytes::from_static(b"why"),
    };
    let placement = Placement {
        group: 19,
        voters: vec![20],
        lost_replica: 21,
        replace_replica: 22,
        targets_given: 23,
        roll: true,
        damaged_replica: 24,
        unsound: true,
        only_settled: true,
        term: 25,
        behind: true,
        first_index: 26,
    };
    let kinds = [
        CatchUpKind::AskSnapshot(AskSnapshot { wanted_to: 37 }),
        CatchUpKind::Snapshot(SnapshotBytes { payload_bytes: Some(24) }),
        CatchUpKind::AskSegment(AskSegment { first_index: 25, position: 26, bytes_max: 27 }),
        CatchUpKind::Segment(SegmentBytes { first_index: 28, position: 29, payload_bytes: Some(30) }),
    ];
    let frame = RaftFrame {
        messages: vec![message],
        leaderships: vec![Leadership { group: 17, term: 18 }],
        placements: vec![placement],
        catch_ups: kinds.map(|kind| CatchUp { group: 23, kind: Some(kind) }).into(),
        beat: Some(Beat { run: 33 }),
        asleep: vec![Asleep { group: 34, term: 35, last_index: 36 }],
        health: vec![NodeHealth { fullness: 31, slow_disk: true, sync_us: 32 }],
    };
    pinned(
        frame,
        &[
            b"\x0a\x29",
            b"\x08\x01\x10\x02\x18\x03\x20\x04\x28\x05\x30\x06\x38\x07",
            b"\x42\x08\x08\x08\x10\x09\x18\x0a\x20\x0b",
            b"\x48\x0c\x50\x0d\x58\x01\x60\x0e\x68\x0f",
            // The only number that is zigzagged.
            b"\x70\x1f",
            b"\x7a\x03why",
            b"\x12\x04\x08\x11\x10\x12",
            b"\x1a\x19\x08\x13\x12\x01\x14\x18\x15\x20\x16\x28\x17\x30\x01\x38\x18\x40\x01\x48\x01\x50\x19\x58\x01\x60\x1a",
            b"\x22\x06\x08\x17\x12\x02\x08\x25",
            b"\x22\x06\x08\x17\x1a\x02\x08\x18",
            b"\x22\x0a\x08\x17\x22\x06\x08\x19\x10\x1a\x18\x1b",
            b"\x22\x0a\x08\x17\x2a\x06\x08\x1c\x10\x1d\x18\x1e",
            b"\x2a\x02\x08\x21",
            b"\x32\x06\x08\x22\x10\x23\x18\x24",
            b"\x42\x06\x08\x1f\x10\x01\x18\x20",
        ],
    );
}

fn node() -> Node {
    Node {
        node_id: 3,
        incarnation: Bytes::from_static(b"life"),
        native: "n:1".into(),
        flight: "f:2".into(),
        http: "h:3".into(),
        rack: "r4".into(),
        member_id: 13,
        feature_level_max: 14,
        draining: true,
    }
}

const NODE: &[u8] = b"\x08\x03\x12\x04life\x1a\x03n:1\x22\x03f:2\x2a\x03h:3\x32\x02r4\x38\x0d\x40\x0e\x48\x01";

fn partition() -> Partition {
    let replica = |replica_id, node_id| vec![Replica { replica_id, node_id }];
    Partition {
        partition: 7,
        group: 8,
        replicas: replica(9, 10),
        target: replica(13, 14),
        first: replica(15, 16),
        leaving: replica(17, 18),
        lost: vec![19],
        targets_given: 20,
        recovery: Some(Recovery { survivor: 21, below: 22, forgiven_to: None }),
    }
}

const PARTITION: &[u8] = b"\x08\x07\x10\x08\x1a\x04\x08\x09\x10\x0a\x22\x04\x08\x0d\x10\x0e\x2a\x04\x08\x0f\x10\x10\
    \x32\x04\x08\x11\x10\x12\x3a\x01\x13\x40\x14\x4a\x04\x08\x15\x10\x16";

fn topic() -> Topic {
    Topic {
        name: "t".into(),
        topic_id: Bytes::from_static(b"id"),
        partitions: vec![partition()],
        config: [("k".to_owned(), "v".to_owned())].into(),
        schema_json: "{}".into(),
        schema_id: 11,
        created_ms: 12,
        altered_by: vec![],
    }
}

const TOPIC: &[u8] = b"\x0a\x01t\x12\x02id\x1a\x27\x08\x07\x10\x08\x1a\x04\x08\x09\x10\x0a\x22\x04\x08\x0d\x10\x0e\
    \x2a\x04\x08\x0f\x10\x10\x32\x04\x08\x11\x10\x12\x3a\x01\x13\x40\x14\x4a\x04\x08\x15\x10\x16\x22\x06\x0a\x01k\x12\x01v\x2a\x02{}\x30\x0b\x38\x0c";

/// Every command there is; a new one has no arm here.
fn command_bytes(kind: &Kind) -> Vec<u8> {
    let parts: &[&[u8]] = match kind {
        Kind::RegisterNode(_) => &[b"\x0a\x23", b"\x0a\x21", NODE],
        Kind::CreateTopic(_) => &[b"\x12\x42", b"\x0a\x40", TOPIC],
        Kind::DeleteTopic(_) => &[b"\x1a\x04", b"\x0a\x02id"],
        Kind::AlterTopic(_) => {
            &[b"\x22\x13", b"\x0a\x02id", b"\x12\x06\x0a\x01k\x12\x01v", b"\x1a\x01u", b"\x22\x02rq"]
        }
        Kind::AllocateProducerIds(_) => &[b"\x2a\x04", b"\x08\x03\x10\x04"],
        Kind::SetFeatureLevel(_) => &[b"\x32\x02\x08\x05"],
        Kind::AdmitNode(_) => &[b"\x3a\x04\x08\x03\x10\x01"],
        Kind::JoinNode(_) => &[b"\x42\x23", b"\x0a\x21", NODE],
        Kind::DrainNode(_) => &[b"\x4a\x04\x08\x03\x10\x01"],
        Kind::RemoveNode(_) => &[b"\x52\x02\x08\x03"],
        Kind::MoveReplicas(_) => &[b"\x5a\x0e", b"\x0a\x0c", b"\x0a\x02id\x10\x07\x1a\x02\x08\x09\x20\x0a"],
        Kind::FinishMove(_) => &[b"\x62\x08\x08\x08\x12\x02\x09\x0a\x18\x0b"],
        Kind::ReplaceReplica(_) => &[b"\x6a\x04\x08\x08\x10\x09"],
        Kind::AddPartitions(_) => &[b"\x72\x2d", b"\x0a\x02id", b"\x12\x27", PARTITION],
        Kind::RecoverPartition(_) => &[b"\x7a\x06\x08\x08\x10\x09\x18\x0a"],
        Kind::RenewMember(_) => &[b"\x82\x01\x08\x08\x03", b"\x12\x02id", b"\x18\x04"],
    };
    parts.concat()
}

#[test]
fn golden_commands() {
    let topic_id = Bytes::from_static(b"id");
    let set = [("k".to_owned(), "v".to_owned())].into();
    for kind in [
        Kind::RegisterNode(RegisterNode { node: Some(node()) }),
        Kind::CreateTopic(CreateTopic { topic: Some(topic()) }),
        Kind::DeleteTopic(DeleteTopic { topic_id: topic_id.clone() }),
        Kind::AlterTopic(AlterTopic {
            topic_id: topic_id.clone(),
            set,
            unset: vec!["u".into()],
            request_id: Bytes::from_static(b"rq"),
        }),
        Kind::AllocateProducerIds(AllocateProducerIds { node_id: 3, count: 4 }),
        Kind::SetFeatureLevel(SetFeatureLevel { level: 5 }),
        Kind::AdmitNode(AdmitNode { node_id: 3, replace: true }),
        Kind::JoinNode(JoinNode { node: Some(node()) }),
        Kind::DrainNode(DrainNode { node_id: 3, drain: true }),
        Kind::RemoveNode(RemoveNode { node_id: 3 }),
        Kind::MoveReplicas(MoveReplicas {
            moves: vec![Move { topic_id: topic_id.clone(), partition: 7, nodes: vec![8, 9], targets_given: Some(10) }],
        }),
        Kind::FinishMove(FinishMove { group: 8, voters: vec![9, 10], targets_given: 11 }),
        Kind::ReplaceReplica(ReplaceReplica { group: 8, replica_id: 9 }),
        Kind::AddPartitions(AddPartitions { topic_id: topic_id.clone(), partitions: vec![partition()] }),
        Kind::RecoverPartition(RecoverPartition { group: 8, survivor: 9, targets_given: 10, forgiven_to: None }),
        Kind::RenewMember(RenewMember { node_id: 3, incarnation: topic_id, member_id: 4 }),
    ] {
        let expected = command_bytes(&kind);
        pinned(Command { kind: Some(kind) }, &[&expected]);
    }
    // Of a survivor that may be in doubt.
    let recover = RecoverPartition { group: 8, survivor: 9, targets_given: 10, forgiven_to: Some(0) };
    let kind = Some(Kind::RecoverPartition(recover));
    pinned(Command { kind }, &[b"\x7a\x08\x08\x08\x10\x09\x18\x0a\x20\x00"]);
    pinned(Recovery { survivor: 21, below: 22, forgiven_to: Some(23) }, &[b"\x08\x15\x10\x16\x18\x17"]);
}

#[test]
fn golden_state() {
    let state = State {
        nodes: vec![node()],
        topics: vec![topic()],
        next_group: 21,
        next_replica: 22,
        next_producer_id: 23,
        feature_level: 24,
        admitted: vec![AdmitNode { node_id: 25, replace: true }],
        removed: vec![26],
        members_given: 27,
        alone_at: 28,
        regained_below: 29,
        alone_term: 30,
        deleted: vec![Bytes::from_static(b"gone")],
    };
    pinned(
        state,
        &[
            b"\x0a\x21",
            NODE,
            b"\x12\x40",
            TOPIC,
            b"\x18\x15\x20\x16\x28\x17\x30\x18",
            b"\x3a\x04\x08\x19\x10\x01\x42\x01\x1a\x48\x1b\x50\x1c\x58\x1d\x60\x1e",
            b"\x6a\x04gone",
        ],
    );
}

#[test]
fn golden_membership() {
    let membership =
        Membership { replica_id: 1, voters: vec![2], outgoing: vec![3], learners: vec![4], learners_next: vec![5] };
    pinned(membership, &[b"\x08\x01\x12\x01\x02\x1a\x01\x03\x22\x01\x04\x2a\x01\x05"]);
}

/// Every command to a partition there is; a new one has no arm here.
fn partition_command_bytes(kind: &PartitionKind) -> &'static [u8] {
    match kind {
        PartitionKind::Roll(Roll { time_ms: None }) => b"\x0a\x00",
        PartitionKind::Roll(Roll { time_ms: Some(0) }) => b"\x0a\x02\x08\x00",
        PartitionKind::Roll(Roll { time_ms: Some(_) }) => b"\x0a\x03\x08\xac\x02",
        PartitionKind::LogStart(_) => b"\x12\x02\x08\x05",
    }
}

#[test]
fn golden_commands_to_a_partition() {
    for kind in [
        PartitionKind::Roll(Roll { time_ms: None }),
        PartitionKind::Roll(Roll { time_ms: Some(0) }),
        PartitionKind::Roll(Roll { time_ms: Some(300) }),
        PartitionKind::LogStart(LogStart { offset: 5 }),
    ] {
        pinned(PartitionCommand { kind: Some(kind) }, &[partition_command_bytes(&kind)]);
    }
}

#[test]
fn golden_state_of_a_partition() {
    let batches = vec![ProducerBatch { base_sequence: 6, last_sequence: 7, base_offset: 8 }];
    let producer = Producer { producer_id: 3, producer_epoch: 4, batches, last_timestamp_ms: 5 };
    let state = PartitionState {
        next_offset: 1,
        log_start_offset: 2,
        producers: vec![producer],
        segment_ends: vec![SegmentEnd { offset: 9, time_ms: 10 }],
        groups: Bytes::from_static(b"g"),
    };
    pinned(
        state,
        &[
            b"\x08\x01\x10\x02",
            b"\x1a\x0e\x08\x03\x10\x04",
            b"\x1a\x06\x08\x06\x10\x07\x18\x08",
            b"\x20\x05",
            b"\x22\x04\x08\x09\x10\x0a",
            b"\x2a\x01g",
        ],
    );
}
