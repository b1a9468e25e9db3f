//! Metadata as bytes: in commands, in checkpoints, and as clients see it.

use std::collections::VecDeque;

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, IncarnationId, LogIndex, NodeId, PartitionId, ReplicaId, Term, TopicId},
    messages::{metadata as wire, native},
    source::TopicSchema,
    topic::TopicConfig,
};
use levada_storage_engine::planted::{self, Planted};
use prost::Message as _;
use uuid::Uuid;

use super::{ALTERATIONS_KNOWN, DELETED_KNOWN, Metadata, Node, Partition, Recovery, Replica, Topic};
use crate::cluster::feature::LEVEL_FIRST;

impl Metadata {
    /// The whole state, as a checkpoint keeps it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let state = wire::State {
            nodes: self.nodes.values().map(node_to_wire).collect(),
            topics: self.topics.values().map(|topic| topic_to_wire(topic)).collect(),
            next_group: self.next_group,
            next_replica: self.next_replica,
            next_producer_id: if planted::is(Planted::ProducerIdsNotCheckpointed) { 0 } else { self.next_producer_id },
            feature_level: self.feature_level,
            admitted: self
                .admitted
                .iter()
                .map(|(node, &replace)| wire::AdmitNode { node_id: node.get(), replace })
                .collect(),
            removed: self.removed.iter().map(|node| node.get()).collect(),
            members_given: self.members_given,
            alone_at: self.alone_at.get(),
            alone_term: self.alone_term.get(),
            regained_below: self.regained_below.get(),
            deleted: self.deleted.iter().map(|topic| Bytes::copy_from_slice(&topic.to_bytes())).collect(),
        };
        state.encode_to_vec().into()
    }

    /// From a checkpoint. Empty bytes are the state of a new cluster.
    ///
    /// # Errors
    /// The bytes are not such a state.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let state = wire::State::decode(bytes).map_err(|error| malformed(&error.to_string()))?;
        let mut metadata = Self {
            next_group: state.next_group,
            next_replica: state.next_replica,
            next_producer_id: state.next_producer_id,
            feature_level: state.feature_level.max(LEVEL_FIRST),
            admitted: state.admitted.iter().map(|admit| (NodeId(admit.node_id), admit.replace)).collect(),
            removed: state.removed.into_iter().map(NodeId).collect(),
            members_given: state.members_given,
            alone_at: LogIndex(state.alone_at),
            alone_term: Term(state.alone_term),
            regained_below: GroupId(state.regained_below),
            deleted: deleted_from_wire(&state.deleted)?,
            ..Self::default()
        };
        for node in state.nodes {
            let node = node_from_wire(node)?;
            metadata.nodes.insert(node.addresses.node, node);
        }
        for topic in state.topics {
            metadata.insert(std::sync::Arc::new(topic_from_wire(topic)?));
        }
        Ok(metadata)
    }
}

pub(super) fn malformed(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("malformed metadata: {what}"))
}

pub(super) fn node_to_wire(node: &Node) -> wire::Node {
    wire::Node {
        node_id: node.addresses.node.get(),
        incarnation: Bytes::copy_from_slice(&node.incarnation.to_bytes()),
        native: node.addresses.native.clone(),
        flight: node.addresses.flight.clone(),
        http: node.addresses.http.clone(),
        rack: node.rack.clone(),
        member_id: node.member.map_or(0, ReplicaId::get),
        feature_level_max: node.feature_level_max,
        draining: node.draining,
    }
}

pub(super) fn node_from_wire(wire: wire::Node) -> Result<Node> {
    Ok(Node {
        addresses: NodeAddresses {
            node: NodeId(wire.node_id),
            native: wire.native,
            flight: wire.flight,
            http: wire.http,
        },
        incarnation: IncarnationId::from_slice(&wire.incarnation).ok_or_else(|| malformed("incarnation"))?,
        rack: wire.rack,
        member: (wire.member_id != 0).then_some(ReplicaId(wire.member_id)),
        feature_level_max: wire.feature_level_max.max(LEVEL_FIRST),
        draining: wire.draining,
    })
}

fn topic_to_wire(topic: &Topic) -> wire::Topic {
    wire::Topic {
        name: topic.name.clone(),
        topic_id: Bytes::copy_from_slice(&topic.id.to_bytes()),
        partitions: topic.partitions.iter().map(partition_to_wire).collect(),
        config: topic.settings.clone(),
        schema_json: topic.schema.as_ref().map(|schema| schema.json.clone()).unwrap_or_default(),
        schema_id: topic.schema.as_ref().map_or(0, |schema| schema.id),
        created_ms: topic.created_ms,
        altered_by: topic.altered_by.iter().map(|request| Bytes::copy_from_slice(request.as_bytes())).collect(),
    }
}

fn replicas_to_wire(replicas: &[Replica]) -> Vec<wire::Replica> {
    replicas.iter().map(|replica| wire::Replica { replica_id: replica.id.get(), node_id: replica.node.get() }).collect()
}

fn replicas_from_wire(replicas: Vec<wire::Replica>) -> Vec<Replica> {
    let replica = |wire: wire::Replica| Replica { id: ReplicaId(wire.replica_id), node: NodeId(wire.node_id) };
    replicas.into_iter().map(replica).collect()
}

fn partition_to_wire(partition: &Partition) -> wire::Partition {
    wire::Partition {
        partition: partition.partition.get(),
        group: partition.group.get(),
        replicas: replicas_to_wire(&partition.replicas),
        target: replicas_to_wire(&partition.target),
        first: replicas_to_wire(&partition.first),
        leaving: replicas_to_wire(&partition.leaving),
        lost: partition.lost.iter().map(|replica| replica.get()).collect(),
        targets_given: partition.targets_given,
        recovery: partition.recovery.map(|recovery| wire::Recovery {
            survivor: recovery.survivor.get(),
            below: recovery.below.get(),
            forgiven_to: recovery.forgiven_to.map(Term::get),
        }),
    }
}

pub(super) fn partition_from_wire(wire: wire::Partition) -> Partition {
    Partition {
        partition: PartitionId(wire.partition),
        group: GroupId(wire.group),
        replicas: replicas_from_wire(wire.replicas),
        target: replicas_from_wire(wire.target),
        first: replicas_from_wire(wire.first),
        leaving: replicas_from_wire(wire.leaving),
        lost: wire.lost.into_iter().map(ReplicaId).collect(),
        targets_given: wire.targets_given,
        recovery: wire.recovery.map(|recovery| Recovery {
            survivor: ReplicaId(recovery.survivor),
            below: ReplicaId(recovery.below),
            forgiven_to: recovery.forgiven_to.map(Term),
        }),
    }
}

pub(super) fn topic_from_wire(wire: wire::Topic) -> Result<Topic> {
    Ok(Topic {
        name: wire.name,
        id: TopicId::from_slice(&wire.topic_id).ok_or_else(|| malformed("topic id"))?,
        partitions: wire.partitions.into_iter().map(partition_from_wire).collect(),
        config: TopicConfig::from_map(&wire.config)?,
        settings: wire.config,
        schema: (wire.schema_id != 0).then_some(TopicSchema { id: wire.schema_id, json: wire.schema_json }),
        created_ms: wire.created_ms,
        altered_by: altered_by_from_wire(&wire.altered_by)?,
    })
}

fn deleted_from_wire(wire: &[Bytes]) -> Result<VecDeque<TopicId>> {
    if wire.len() > DELETED_KNOWN {
        return Err(malformed("deleted topics"));
    }
    wire.iter().map(|topic| TopicId::from_slice(topic).ok_or_else(|| malformed("topic id"))).collect()
}

fn altered_by_from_wire(wire: &[Bytes]) -> Result<VecDeque<Uuid>> {
    if wire.len() > ALTERATIONS_KNOWN {
        return Err(malformed("requests that altered a topic"));
    }
    wire.iter().map(|request| Uuid::from_slice(request).map_err(|_| malformed("request id"))).collect()
}

/// A topic as native clients see it, without who leads.
#[must_use]
pub fn topic_info(topic: &Topic) -> native::TopicInfo {
    native::TopicInfo {
        name: topic.name.clone(),
        topic_id: Bytes::copy_from_slice(&topic.id.to_bytes()),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| native::PartitionInfo {
                partition: partition.partition.get(),
                group: partition.group.get(),
                leader: None,
                leader_epoch: 0,
                replicas: partition
                    .replicas
                    .iter()
                    .map(|replica| native::ReplicaInfo { replica_id: replica.id.get(), node_id: replica.node.get() })
                    .collect(),
            })
            .collect(),
        config: topic.settings.clone(),
        schema_json: topic.schema.as_ref().map(|schema| schema.json.clone()).unwrap_or_default(),
        schema_id: topic.schema.as_ref().map_or(0, |schema| schema.id),
    }
}
