//! The metadata of the cluster: nodes, topics, placement, and the counters that ids come from.
//!
//! It is the state machine of raft group 0. Every node applies the same commands in the same order, so every node
//! has the same state at the same index; a command that makes no sense any more when its turn comes is answered with
//! an error and changes nothing. Ids of groups and replicas are drawn here, on apply, so they are never given twice.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, IncarnationId, NodeId, PartitionId, ReplicaId, TopicId, TopicPartition},
    messages::{metadata as wire, native},
    source::TopicSchema,
    topic::TopicConfig,
};
use prost::Message as _;

/// One replica of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its id, never reused.
    pub id: ReplicaId,
    /// Where it is.
    pub node: NodeId,
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub partition: PartitionId,
    /// Its raft group.
    pub group: GroupId,
    /// Its replicas; the first is the preferred leader.
    pub replicas: Vec<Replica>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
    /// The settings that were given.
    pub settings: BTreeMap<String, String>,
    /// All settings.
    pub config: TopicConfig,
    /// Its schema, if it is typed.
    pub schema: Option<TopicSchema>,
    /// When it was made, by the controller's clock.
    pub created_ms: i64,
}

/// A node that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it listens.
    pub addresses: NodeAddresses,
    /// Its data directory.
    pub incarnation: IncarnationId,
    /// Where it stands; empty when it does not say.
    pub rack: String,
}

/// What applying a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A topic was made or changed; this is it now.
    Topic(Arc<Topic>),
    /// A topic is gone; this is what it was.
    TopicDeleted(Arc<Topic>),
    /// A node registered, anew or again.
    NodeRegistered(NodeId),
    /// These producer ids belong to who asked.
    ProducerIds(std::ops::Range<i64>),
}

/// The state. Cheap to clone: topics are shared.
///
/// Invariants: `names` and `groups` list exactly what `topics` holds; every group id is below `next_group`, every
/// replica id below `next_replica`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    nodes: BTreeMap<NodeId, Node>,
    topics: BTreeMap<TopicId, Arc<Topic>>,
    names: BTreeMap<String, TopicId>,
    groups: BTreeMap<GroupId, TopicPartition>,
    next_group: u64,
    next_replica: u64,
    next_producer_id: i64,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            groups: BTreeMap::new(),
            next_group: 1,
            next_replica: 1,
            next_producer_id: 0,
        }
    }
}

impl Metadata {
    /// The registered nodes.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// All topics, by identity.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// A topic by its identity.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// Which partition a raft group holds.
    #[must_use]
    pub fn partition_of(&self, group: GroupId) -> Option<TopicPartition> {
        self.groups.get(&group).copied()
    }

    /// Applies a command. `Err` is an answer that every replica gives alike, and changes nothing.
    ///
    /// # Errors
    /// The command makes no sense in this state.
    pub fn apply(&mut self, command: wire::Command) -> Result<Applied> {
        use wire::command::Kind;
        match command.kind.ok_or_else(|| Error::new(ErrorCode::Internal, "a metadata command without content"))? {
            Kind::RegisterNode(register) => self.register_node(register),
            Kind::CreateTopic(create) => self.create_topic(create),
            Kind::AlterTopic(alter) => self.alter_topic(&alter),
            Kind::DeleteTopic(delete) => self.delete_topic(&delete),
            Kind::AllocateProducerIds(allocate) => {
                let first = self.next_producer_id;
                self.next_producer_id = first + i64::from(allocate.count);
                Ok(Applied::ProducerIds(first..self.next_producer_id))
            }
        }
    }

    fn register_node(&mut self, register: wire::RegisterNode) -> Result<Applied> {
        let node = node_from_wire(register.node.ok_or_else(|| malformed("node"))?)?;
        let id = node.addresses.node;
        if let Some(known) = self.nodes.get(&id)
            && known.incarnation != node.incarnation
        {
            return Err(Error::new(
                ErrorCode::WrongIncarnation,
                format!(
                    "node {id} is known with data directory {}, this one is {}; bring that one back, or leave the node out: \
                     replacing a node is not offered yet",
                    known.incarnation, node.incarnation
                ),
            ));
        }
        self.nodes.insert(id, node);
        Ok(Applied::NodeRegistered(id))
    }

    fn create_topic(&mut self, create: wire::CreateTopic) -> Result<Applied> {
        let mut wire = create.topic.ok_or_else(|| malformed("topic"))?;
        if self.names.contains_key(&wire.name) {
            return Err(topic_exists(&wire.name));
        }
        for partition in &mut wire.partitions {
            partition.group = self.next_group;
            self.next_group += 1;
            for replica in &mut partition.replicas {
                replica.replica_id = self.next_replica;
                self.next_replica += 1;
            }
        }
        let topic = Arc::new(topic_from_wire(wire)?);
        self.insert(Arc::clone(&topic));
        Ok(Applied::Topic(topic))
    }

    fn alter_topic(&mut self, alter: &wire::AlterTopic) -> Result<Applied> {
        let topic = self.known(&alter.topic_id)?;
        let settings = altered(&topic.settings, &alter.set, &alter.unset);
        let config = TopicConfig::from_map(&settings)?;
        let topic = Arc::new(Topic { settings, config, ..(*topic).clone() });
        self.insert(Arc::clone(&topic));
        Ok(Applied::Topic(topic))
    }

    fn delete_topic(&mut self, delete: &wire::DeleteTopic) -> Result<Applied> {
        let topic = self.known(&delete.topic_id)?;
        self.topics.remove(&topic.id);
        self.names.remove(&topic.name);
        for partition in &topic.partitions {
            self.groups.remove(&partition.group);
        }
        Ok(Applied::TopicDeleted(topic))
    }

    fn known(&self, id: &[u8]) -> Result<Arc<Topic>> {
        let id = TopicId::from_slice(id).ok_or_else(|| malformed("topic id"))?;
        self.topics.get(&id).cloned().ok_or_else(|| unknown_topic(&id.to_string()))
    }

    fn insert(&mut self, topic: Arc<Topic>) {
        for partition in &topic.partitions {
            let place = TopicPartition { topic: topic.id, partition: partition.partition };
            self.groups.insert(partition.group, place);
        }
        self.names.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, topic);
    }

    /// The whole state, as a checkpoint keeps it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let state = wire::State {
            nodes: self.nodes.values().map(node_to_wire).collect(),
            topics: self.topics.values().map(|topic| topic_to_wire(topic)).collect(),
            next_group: self.next_group,
            next_replica: self.next_replica,
            next_producer_id: self.next_producer_id,
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
            ..Self::default()
        };
        for node in state.nodes {
            let node = node_from_wire(node)?;
            metadata.nodes.insert(node.addresses.node, node);
        }
        for topic in state.topics {
            metadata.insert(Arc::new(topic_from_wire(topic)?));
        }
        Ok(metadata)
    }
}

/// A topic's settings after a change.
#[must_use]
pub fn altered(
    settings: &BTreeMap<String, String>,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> BTreeMap<String, String> {
    let mut settings = settings.clone();
    settings.extend(set.clone());
    settings.retain(|key, _| !unset.contains(key));
    settings
}

/// The error for a topic that is not there.
#[must_use]
pub fn unknown_topic(what: &str) -> Error {
    Error::new(ErrorCode::UnknownTopic, format!("there is no topic {what}; `levada topic list` shows those there are"))
}

/// The error for a name that is taken.
#[must_use]
pub fn topic_exists(name: &str) -> Error {
    Error::new(ErrorCode::TopicExists, format!("a topic named {name:?} is there already; choose another name"))
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("malformed metadata: {what}"))
}

fn node_to_wire(node: &Node) -> wire::Node {
    wire::Node {
        node_id: node.addresses.node.get(),
        incarnation: Bytes::copy_from_slice(&node.incarnation.to_bytes()),
        native: node.addresses.native.clone(),
        flight: node.addresses.flight.clone(),
        http: node.addresses.http.clone(),
        rack: node.rack.clone(),
    }
}

fn node_from_wire(wire: wire::Node) -> Result<Node> {
    Ok(Node {
        addresses: NodeAddresses {
            node: NodeId(wire.node_id),
            native: wire.native,
            flight: wire.flight,
            http: wire.http,
        },
        incarnation: IncarnationId::from_slice(&wire.incarnation).ok_or_else(|| malformed("incarnation"))?,
        rack: wire.rack,
    })
}

/// The command that registers a node.
#[must_use]
pub fn register_command(node: &Node) -> wire::Command {
    command(wire::command::Kind::RegisterNode(wire::RegisterNode { node: Some(node_to_wire(node)) }))
}

/// A command of this kind.
#[must_use]
pub const fn command(kind: wire::command::Kind) -> wire::Command {
    wire::Command { kind: Some(kind) }
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
    }
}

fn partition_to_wire(partition: &Partition) -> wire::Partition {
    wire::Partition {
        partition: partition.partition.get(),
        group: partition.group.get(),
        replicas: partition
            .replicas
            .iter()
            .map(|replica| wire::Replica { replica_id: replica.id.get(), node_id: replica.node.get() })
            .collect(),
    }
}

fn topic_from_wire(wire: wire::Topic) -> Result<Topic> {
    let partitions = wire
        .partitions
        .into_iter()
        .map(|partition| Partition {
            partition: PartitionId(partition.partition),
            group: GroupId(partition.group),
            replicas: partition
                .replicas
                .into_iter()
                .map(|replica| Replica { id: ReplicaId(replica.replica_id), node: NodeId(replica.node_id) })
                .collect(),
        })
        .collect();
    Ok(Topic {
        name: wire.name,
        id: TopicId::from_slice(&wire.topic_id).ok_or_else(|| malformed("topic id"))?,
        partitions,
        config: TopicConfig::from_map(&wire.config)?,
        settings: wire.config,
        schema: (wire.schema_id != 0).then_some(TopicSchema { id: wire.schema_id, json: wire.schema_json }),
        created_ms: wire.created_ms,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn create(name: &str, id: u8) -> wire::Command {
        let replicas = |nodes: [u64; 3]| nodes.map(|node_id| wire::Replica { replica_id: 0, node_id }).to_vec();
        command(wire::command::Kind::CreateTopic(wire::CreateTopic {
            topic: Some(wire::Topic {
                name: name.into(),
                topic_id: Bytes::copy_from_slice(&[id; 16]),
                partitions: vec![
                    wire::Partition { partition: 0, group: 0, replicas: replicas([1, 2, 3]) },
                    wire::Partition { partition: 1, group: 0, replicas: replicas([2, 3, 1]) },
                ],
                ..wire::Topic::default()
            }),
        }))
    }

    fn register(node: u64, incarnation: u8) -> wire::Command {
        register_command(&Node {
            addresses: NodeAddresses { node: NodeId(node), native: "h:1".into(), ..NodeAddresses::default() },
            incarnation: IncarnationId::from_bytes([incarnation; 16]),
            rack: String::new(),
        })
    }

    #[test]
    fn ids_are_never_given_twice() {
        let mut metadata = Metadata::default();
        let Applied::Topic(first) = metadata.apply(create("a", 1)).unwrap() else { panic!() };
        let delete = wire::DeleteTopic { topic_id: Bytes::copy_from_slice(&[1; 16]) };
        metadata.apply(command(wire::command::Kind::DeleteTopic(delete.clone()))).unwrap();
        assert_eq!(metadata.partition_of(first.partitions[0].group), None);
        let Applied::Topic(second) = metadata.apply(create("a", 2)).unwrap() else { panic!() };
        let groups = |topic: &Topic| topic.partitions.iter().map(|p| p.group.get()).collect::<Vec<_>>();
        assert_eq!((groups(&first), groups(&second)), (vec![1, 2], vec![3, 4]));
        assert_eq!(second.partitions[0].replicas[0].id, ReplicaId(7));
        let gone = metadata.apply(command(wire::command::Kind::DeleteTopic(delete))).unwrap_err();
        assert_eq!(gone.code, ErrorCode::UnknownTopic);
    }

    #[test]
    fn a_taken_name_and_a_wiped_node_are_refused_and_change_nothing() {
        let mut metadata = Metadata::default();
        metadata.apply(create("a", 1)).unwrap();
        metadata.apply(register(1, 7)).unwrap();
        let before = metadata.clone();
        assert_eq!(metadata.apply(create("a", 2)).unwrap_err().code, ErrorCode::TopicExists);
        assert_eq!(metadata.apply(register(1, 8)).unwrap_err().code, ErrorCode::WrongIncarnation);
        assert_eq!(metadata, before);
        metadata.apply(register(1, 7)).unwrap();
    }

    #[test]
    fn settings_change_and_the_state_survives_a_checkpoint() {
        let mut metadata = Metadata::default();
        metadata.apply(create("a", 1)).unwrap();
        metadata.apply(register(1, 7)).unwrap();
        let alter = |set: &[(&str, &str)], unset: &[&str]| {
            command(wire::command::Kind::AlterTopic(wire::AlterTopic {
                topic_id: Bytes::copy_from_slice(&[1; 16]),
                set: set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                unset: unset.iter().map(|k| (*k).to_owned()).collect(),
            }))
        };
        metadata.apply(alter(&[("retention.ms", "5"), ("retention.bytes", "6")], &[])).unwrap();
        let Applied::Topic(topic) = metadata.apply(alter(&[], &["retention.ms"])).unwrap() else { panic!() };
        assert_eq!(topic.config, TopicConfig { retention_bytes: Some(6), ..TopicConfig::default() });
        assert_eq!(metadata.apply(alter(&[("nonsense", "1")], &[])).unwrap_err().code, ErrorCode::InvalidConfig);
        assert_eq!(Metadata::decode(metadata.encode()).unwrap(), metadata);
        assert_eq!(Metadata::decode(Bytes::new()).unwrap(), Metadata::default());
    }
}
