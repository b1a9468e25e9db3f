//! The metadata of the cluster: nodes, topics, placement, and the counters that ids come from.
//!
//! It is the state machine of raft group 0. Every node applies the same commands in the same order, so every node
//! has the same state at the same index; a command that makes no sense any more when its turn comes is answered with
//! an error and changes nothing. Ids of groups and replicas are drawn here, on apply, so they are never given twice.

mod alone;
mod moves;
mod nodes;
mod recovery;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, IncarnationId, LogIndex, NodeId, PartitionId, ReplicaId, Term, TopicId, TopicPartition},
    messages::metadata as messages,
    source::TopicSchema,
    topic::TopicConfig,
};

use uuid::Uuid;

use self::wire::{malformed, node_to_wire, topic_from_wire};
pub use self::{
    moves::{Move, move_command, spread_command},
    nodes::{MEMBERS_FIRST, removed, unknown_node},
    recovery::Recovery,
    wire::topic_info,
};
use super::feature::{LEVEL_FIRST, LEVEL_MAX, LEVEL_ONCE};

/// How many requests a topic remembers that changed its settings: one of them may be asked again because its answer was lost, and
/// must not undo what came after it.
pub const ALTERATIONS_KNOWN: usize = 8;

/// How many topics are remembered after their deletion: the request that made one of them may come late, and must not make it again.
pub const DELETED_KNOWN: usize = 128;

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
    /// The replicas that it is to have, while they are others.
    pub target: Vec<Replica>,
    /// The replicas that it was made with, once it has had others.
    pub first: Vec<Replica>,
    /// Replicas of targets that were given up while the group was on its way to them: it may consist of them.
    pub leaving: Vec<Replica>,
    /// Of all of these, those that have lost what they had.
    pub lost: Vec<ReplicaId>,
    /// How many targets it has been given: one may come back that was given up before.
    pub targets_given: u64,
    /// It goes on from one replica without the consent of the others.
    pub recovery: Option<Recovery>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// Its partitions: that of number n is the nth, from 0 on.
    pub partitions: Vec<Partition>,
    /// The settings that were given.
    pub settings: BTreeMap<String, String>,
    /// All settings.
    pub config: TopicConfig,
    /// Its schema, if it is typed.
    pub schema: Option<TopicSchema>,
    /// When it was made, by the controller's clock.
    pub created_ms: i64,
    /// The requests that changed its settings last, the oldest first; at most [`ALTERATIONS_KNOWN`].
    pub altered_by: VecDeque<Uuid>,
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
    /// Its replica of group 0, if it joined; that of a founder has the node's number.
    pub member: Option<ReplicaId>,
    /// The highest feature level that its build knows.
    pub feature_level_max: u32,
    /// It is to give up all its replicas.
    pub draining: bool,
}

impl Topic {
    /// One of its partitions.
    #[must_use]
    pub fn partition(&self, number: PartitionId) -> Option<&Partition> {
        let at = usize::try_from(number.get()).ok()?;
        self.partitions.get(at).filter(|partition| partition.partition == number)
    }
}

impl Node {
    /// One of this build, as it registers or asks to join.
    #[must_use]
    pub const fn new(addresses: NodeAddresses, incarnation: IncarnationId, rack: String) -> Self {
        Self { addresses, incarnation, rack, member: None, feature_level_max: LEVEL_MAX, draining: false }
    }
}

/// What applying a command gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// A topic was made or changed; this is it now.
    Topic(Arc<Topic>),
    /// A topic is gone; this is what it was.
    TopicDeleted(Arc<Topic>),
    /// Replicas of these topics are to move, or have moved.
    Topics(Vec<Arc<Topic>>),
    /// Nodes, or what is known of them, are others.
    NodesChanged,
    /// A node joined; replicas of these topics are to be replaced.
    NodeJoined {
        /// The node.
        node: NodeId,
        /// The topics.
        topics: Vec<Arc<Topic>>,
    },
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
    /// Those that were deleted last, the oldest first; at most [`DELETED_KNOWN`].
    deleted: VecDeque<TopicId>,
    groups: BTreeMap<GroupId, TopicPartition>,
    next_group: u64,
    next_replica: u64,
    next_producer_id: i64,
    feature_level: u32,
    /// Nodes that may join; `true` for those that are known with another data directory.
    admitted: BTreeMap<NodeId, bool>,
    removed: BTreeSet<NodeId>,
    members_given: u64,
    /// It goes on from one replica alone, and its log up to here is one that others had a part in; 0: it is not.
    alone_at: LogIndex,
    /// In which term that was.
    alone_term: Term,
    /// What was decided about groups with lower numbers may have been lost.
    regained_below: GroupId,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            deleted: VecDeque::new(),
            groups: BTreeMap::new(),
            next_group: 1,
            next_replica: 1,
            next_producer_id: 0,
            feature_level: LEVEL_FIRST,
            admitted: BTreeMap::new(),
            removed: BTreeSet::new(),
            members_given: 0,
            alone_at: LogIndex(0),
            alone_term: Term(0),
            regained_below: GroupId(0),
        }
    }
}

impl Metadata {
    /// The number that the next group gets; all below were given.
    #[must_use]
    pub const fn next_group(&self) -> GroupId {
        GroupId(self.next_group)
    }

    /// The registered nodes.
    #[must_use]
    pub const fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// What may stand in the log (see [`super::feature`]).
    #[must_use]
    pub const fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// Nodes that may join and have not yet.
    #[must_use]
    pub const fn admitted(&self) -> &BTreeMap<NodeId, bool> {
        &self.admitted
    }

    /// Nodes that were decommissioned.
    #[must_use]
    pub const fn removed(&self) -> &BTreeSet<NodeId> {
        &self.removed
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
    pub fn apply(&mut self, command: messages::Command) -> Result<Applied> {
        use messages::command::Kind;
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
            Kind::SetFeatureLevel(set) => self.set_feature_level(set),
            Kind::AdmitNode(admit) => self.admit_node(admit),
            Kind::JoinNode(join) => self.join_node(join),
            Kind::DrainNode(drain) => self.drain_node(drain),
            Kind::RemoveNode(remove) => self.remove_node(remove),
            Kind::MoveReplicas(moves) => self.move_replicas(moves),
            Kind::FinishMove(finish) => self.finish_move(&finish),
            Kind::ReplaceReplica(replace) => self.replace_replica(&replace),
            Kind::AddPartitions(add) => self.add_partitions(add),
            Kind::RecoverPartition(recover) => self.recover_partition(&recover),
            Kind::RenewMember(renew) => self.renew_member(&renew),
        }
    }

    fn create_topic(&mut self, create: messages::CreateTopic) -> Result<Applied> {
        let mut topic = topic_from_wire(create.topic.ok_or_else(|| malformed("topic"))?)?;
        if self.names.contains_key(&topic.name) {
            return Err(topic_exists(&topic.name));
        }
        if self.deleted.contains(&topic.id) {
            let why = format!("topic {:?} was made by this request before, and has been deleted since", topic.name);
            return Err(Error::new(ErrorCode::TopicExists, why));
        }
        for partition in &mut topic.partitions {
            self.number(partition);
        }
        Ok(Applied::Topic(self.insert(topic)))
    }

    fn alter_topic(&mut self, alter: &messages::AlterTopic) -> Result<Applied> {
        let topic = self.known(&alter.topic_id)?;
        let request = Uuid::from_slice(&alter.request_id).ok();
        if request.is_some_and(|request| topic.altered_by.contains(&request)) {
            return Ok(Applied::Topic(topic));
        }
        let settings = altered(&topic.settings, &alter.set, &alter.unset);
        let config = TopicConfig::from_map(&settings)?;
        let mut altered_by = topic.altered_by.clone();
        altered_by.extend(request);
        if altered_by.len() > ALTERATIONS_KNOWN {
            altered_by.pop_front();
        }
        Ok(Applied::Topic(self.insert(Topic { settings, config, altered_by, ..(*topic).clone() })))
    }

    fn delete_topic(&mut self, delete: &messages::DeleteTopic) -> Result<Applied> {
        let topic = self.known(&delete.topic_id)?;
        self.topics.remove(&topic.id);
        self.names.remove(&topic.name);
        if self.feature_level >= LEVEL_ONCE {
            self.deleted.push_back(topic.id);
        }
        if self.deleted.len() > DELETED_KNOWN {
            self.deleted.pop_front();
        }
        for partition in &topic.partitions {
            self.groups.remove(&partition.group);
        }
        Ok(Applied::TopicDeleted(topic))
    }

    fn known(&self, id: &[u8]) -> Result<Arc<Topic>> {
        let id = TopicId::from_slice(id).ok_or_else(|| malformed("topic id"))?;
        self.topics.get(&id).cloned().ok_or_else(|| unknown_topic(&id.to_string()))
    }

    fn insert(&mut self, topic: impl Into<Arc<Topic>>) -> Arc<Topic> {
        let topic = topic.into();
        for partition in &topic.partitions {
            let place = TopicPartition { topic: topic.id, partition: partition.partition };
            self.groups.insert(partition.group, place);
        }
        self.names.insert(topic.name.clone(), topic.id);
        self.topics.insert(topic.id, Arc::clone(&topic));
        topic
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

/// The command that registers a node.
#[must_use]
pub fn register_command(node: &Node) -> messages::Command {
    command(messages::command::Kind::RegisterNode(messages::RegisterNode { node: Some(node_to_wire(node)) }))
}

/// The command that lets an admitted node join.
#[must_use]
pub fn join_command(node: &Node) -> messages::Command {
    command(messages::command::Kind::JoinNode(messages::JoinNode { node: Some(node_to_wire(node)) }))
}

/// A command of this kind.
#[must_use]
pub const fn command(kind: messages::command::Kind) -> messages::Command {
    messages::Command { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn create(name: &str, id: u8) -> messages::Command {
        let replicas = |nodes: [u64; 3]| nodes.map(|node_id| messages::Replica { replica_id: 0, node_id }).to_vec();
        command(messages::command::Kind::CreateTopic(messages::CreateTopic {
            topic: Some(messages::Topic {
                name: name.into(),
                topic_id: Bytes::copy_from_slice(&[id; 16]),
                partitions: vec![
                    messages::Partition { partition: 0, replicas: replicas([1, 2, 3]), ..Default::default() },
                    messages::Partition { partition: 1, replicas: replicas([2, 3, 1]), ..Default::default() },
                ],
                ..messages::Topic::default()
            }),
        }))
    }

    fn register(node: u64, incarnation: u8) -> messages::Command {
        let addresses = NodeAddresses { node: NodeId(node), native: "h:1".into(), ..NodeAddresses::default() };
        register_command(&Node::new(addresses, IncarnationId::from_bytes([incarnation; 16]), String::new()))
    }

    #[test]
    fn ids_are_never_given_twice() {
        let mut metadata = Metadata::default();
        let Applied::Topic(first) = metadata.apply(create("a", 1)).unwrap() else { panic!() };
        let delete = messages::DeleteTopic { topic_id: Bytes::copy_from_slice(&[1; 16]) };
        metadata.apply(command(messages::command::Kind::DeleteTopic(delete.clone()))).unwrap();
        assert_eq!(metadata.partition_of(first.partitions[0].group), None);
        let Applied::Topic(second) = metadata.apply(create("a", 2)).unwrap() else { panic!() };
        let groups = |topic: &Topic| topic.partitions.iter().map(|p| p.group.get()).collect::<Vec<_>>();
        assert_eq!((groups(&first), groups(&second)), (vec![1, 2], vec![3, 4]));
        assert_eq!(second.partitions[0].replicas[0].id, ReplicaId(7));
        let gone = metadata.apply(command(messages::command::Kind::DeleteTopic(delete))).unwrap_err();
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
            command(messages::command::Kind::AlterTopic(messages::AlterTopic {
                topic_id: Bytes::copy_from_slice(&[1; 16]),
                set: set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
                unset: unset.iter().map(|k| (*k).to_owned()).collect(),
                request_id: Bytes::new(),
            }))
        };
        metadata.apply(alter(&[("retention.ms", "5"), ("retention.bytes", "6")], &[])).unwrap();
        let Applied::Topic(topic) = metadata.apply(alter(&[], &["retention.ms"])).unwrap() else { panic!() };
        assert_eq!(topic.config, TopicConfig { retention_bytes: Some(6), ..TopicConfig::default() });
        assert_eq!(metadata.apply(alter(&[("nonsense", "1")], &[])).unwrap_err().code, ErrorCode::InvalidConfig);
        assert_eq!(Metadata::decode(metadata.encode()).unwrap(), metadata);
        assert_eq!(Metadata::decode(Bytes::new()).unwrap(), Metadata::default());
    }

    /// The first try of a request comes after the second, and after the deletion of what that had made.
    #[test]
    fn a_topic_that_was_deleted_is_not_made_again_by_the_request_that_made_it() {
        let mut metadata = Metadata { feature_level: LEVEL_ONCE, ..Metadata::default() };
        let delete = |id: u8| {
            let topic_id = Bytes::copy_from_slice(&[id; 16]);
            command(messages::command::Kind::DeleteTopic(messages::DeleteTopic { topic_id }))
        };
        metadata.apply(create("a", 1)).unwrap();
        metadata.apply(delete(1)).unwrap();
        let mut metadata = Metadata::decode(metadata.encode()).unwrap();
        assert_eq!(metadata.apply(create("a", 1)).unwrap_err().code, ErrorCode::TopicExists);
        for id in 2..=200 {
            metadata.apply(create("a", id)).unwrap();
            metadata.apply(delete(id)).unwrap();
        }
        assert_eq!(metadata.deleted.len(), DELETED_KNOWN);
    }

    #[test]
    fn a_request_that_comes_again_undoes_nothing() {
        let mut metadata = Metadata::default();
        metadata.apply(create("a", 1)).unwrap();
        let alter = |request: u8, bytes: &str| {
            command(messages::command::Kind::AlterTopic(messages::AlterTopic {
                topic_id: Bytes::copy_from_slice(&[1; 16]),
                set: [("retention.bytes".to_owned(), bytes.to_owned())].into(),
                unset: Vec::new(),
                request_id: Bytes::copy_from_slice(&[request; 16]),
            }))
        };
        metadata.apply(alter(1, "1")).unwrap();
        metadata.apply(alter(2, "2")).unwrap();
        // A checkpoint does not forget it.
        let mut metadata = Metadata::decode(metadata.encode()).unwrap();
        let Applied::Topic(topic) = metadata.apply(alter(1, "1")).unwrap() else { panic!() };
        assert_eq!(topic.config.retention_bytes, Some(2));
        for request in 3..100 {
            metadata.apply(alter(request, "3")).unwrap();
        }
        let Applied::Topic(topic) = metadata.apply(alter(92, "92")).unwrap() else { panic!() };
        assert_eq!((topic.config.retention_bytes, topic.altered_by.len()), (Some(3), ALTERATIONS_KNOWN));
    }
}
