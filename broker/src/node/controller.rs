//! Group 0 on this node: the metadata, and on its leader the requests that change it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, LogIndex, NodeId, PartitionId, ReplicaId, Term, TopicId},
    limits::{REPLICAS_MAX, TOPIC_PARTITIONS_MAX},
    messages::metadata as wire,
    source::NewTopic,
    topic::{TOPIC_CONFIG_KEYS, TopicConfig, check_topic_name},
};
use levada_storage_engine::{
    entry::{EntryKind, HardState},
    store::{GroupCheckpoint, GroupInit, RecoveredGroup, Store},
};
use prost::Message as _;

use super::{
    Node, NodeConfig, NodeOpenError,
    event::{Answer, Effect, Request, RequestId},
    reads::Read,
    recovered_applied,
};
use crate::{
    cluster::{
        metadata::{self, Applied, Metadata, altered, command, topic_exists, unknown_topic},
        placement,
        view::Leadership,
    },
    raft::{
        group::{Group, GroupStart},
        wire::kind_of,
    },
};

/// Producer ids that the controller takes from the metadata at once.
const PRODUCER_IDS_AT_ONCE: u32 = 1000;

/// Group 0's replica, its state, and who waits for it.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) group: Group,
    node: NodeId,
    metadata: Metadata,
    shown: Arc<Metadata>,
    applied: LogIndex,
    /// The term in which this node is the controller: it leads group 0 and has applied all before its term.
    leading: Option<Term>,
    waiters: BTreeMap<LogIndex, Waiter>,
    /// Barriers whose index is not applied yet.
    barriers: Vec<(LogIndex, RequestId)>,
    producer_ids: std::ops::Range<i64>,
    wants_producer_id: Vec<RequestId>,
    founders: BTreeSet<NodeId>,
}

#[derive(Debug)]
enum Waiter {
    Request(RequestId),
    ProducerIds,
}

impl Controller {
    /// Starts group 0 from what was recovered of it, or as the first of a new cluster.
    pub(super) fn start(
        config: &NodeConfig,
        store: &mut Store,
        recovered: Option<RecoveredGroup>,
        logger: &slog::Logger,
    ) -> std::result::Result<Self, NodeOpenError> {
        let group = GroupId::METADATA;
        if store.doubts(group) {
            return Err(NodeOpenError::MetadataDamaged);
        }
        let applied = recovered_applied(recovered.as_ref());
        let log = store.create_group(GroupInit { group, topic: TopicId::default(), partition: PartitionId(0) });
        let (hard_state, state) =
            recovered.map_or((HardState::default(), Bytes::new()), |r| (r.hard_state, r.app_state));
        let metadata = Metadata::decode(state).map_err(|e| NodeOpenError::State { group, why: e.to_string() })?;
        let start = GroupStart {
            group,
            replica: ReplicaId(config.node.get()),
            replicas: config.founders.iter().map(|node| (ReplicaId(node.get()), *node)).collect(),
            log,
            hard_state,
            applied,
        };
        let raft =
            Group::start(start, logger).map_err(|error| NodeOpenError::Raft { group, why: error.to_string() })?;
        Ok(Self {
            group: raft,
            node: config.node,
            shown: Arc::new(metadata.clone()),
            metadata,
            applied,
            leading: None,
            waiters: BTreeMap::new(),
            barriers: Vec::new(),
            producer_ids: 0..0,
            wants_producer_id: Vec::new(),
            founders: config.founders.clone(),
        })
    }

    /// The metadata as applied here.
    pub(super) fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&self.shown)
    }

    /// Whether this node is the controller.
    pub(super) const fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// Whether somebody waits for what is proposed.
    pub(super) fn owes_answers(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Where a node listens, once it has registered.
    pub(super) fn addresses(&self, node: NodeId) -> Option<NodeAddresses> {
        self.metadata.nodes().get(&node).map(|node| node.addresses.clone())
    }

    /// All nodes there are.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.founders.iter().chain(self.metadata.nodes().keys().filter(|node| !self.founders.contains(node)))
    }

    /// What a checkpoint keeps of group 0.
    pub(super) fn checkpoint(&self) -> GroupCheckpoint {
        GroupCheckpoint {
            group: GroupId::METADATA,
            applied: self.applied,
            conf_state: Bytes::new(),
            app_state: self.metadata.encode(),
        }
    }

    /// The error of a node that is not the controller.
    fn not_controller(&self) -> Error {
        if self.group.is_leader() {
            return Error::new(ErrorCode::NotReady, "the new controller is not ready yet; try again");
        }
        let leader = self.group.leader().and_then(|node| self.addresses(node));
        Error::new(ErrorCode::NotController, format!("node {} is not the controller", self.node)).redirect(leader)
    }

    fn propose(&mut self, command: &wire::Command, waiter: Waiter) -> Result<()> {
        let index = self.group.propose(EntryKind::Command, command.encode_to_vec().into());
        let index = index.ok_or_else(|| Error::new(ErrorCode::NotReady, "leadership is moving; try again"))?;
        self.waiters.insert(index, waiter);
        Ok(())
    }

    /// Checks a wish for a topic and says which command fulfils it.
    fn plan_topic(&self, new: NewTopic, id: TopicId, created_ms: i64, replicas: u32) -> Result<wire::Topic> {
        check_topic_name(&new.name)?;
        TopicConfig::from_map(&new.config)?;
        if self.metadata.topic(&new.name).is_some() {
            return Err(topic_exists(&new.name));
        }
        if !(1..=TOPIC_PARTITIONS_MAX).contains(&new.partitions) {
            let why = format!("a topic has 1 to {TOPIC_PARTITIONS_MAX} partitions, not {}", new.partitions);
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        let replicas = replicas as usize;
        if !(1..=REPLICAS_MAX).contains(&replicas) {
            let why = format!("a partition has 1 to {REPLICAS_MAX} replicas, not {replicas}");
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        // Founders register when they start: a topic that cannot wait for the others asks for fewer replicas.
        let (registered, nodes) = (self.metadata.nodes().len(), self.nodes().count());
        if registered < replicas && replicas <= nodes {
            let why =
                format!("of {nodes} nodes only {registered} have started so far; try again, or ask for fewer replicas");
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        let places = placement::place(&self.metadata, new.partitions, replicas)?;
        Ok(wire::Topic {
            name: new.name,
            topic_id: Bytes::copy_from_slice(&id.to_bytes()),
            partitions: (0..)
                .zip(places)
                .map(|(partition, nodes)| wire::Partition {
                    partition,
                    group: 0,
                    replicas: nodes
                        .into_iter()
                        .map(|node| wire::Replica { replica_id: 0, node_id: node.get() })
                        .collect(),
                })
                .collect(),
            config: new.config,
            schema_id: u32::from(new.schema_json.is_some()),
            schema_json: new.schema_json.unwrap_or_default(),
            created_ms,
        })
    }

    fn known_topic(&self, name: &str) -> Result<&Arc<metadata::Topic>> {
        self.metadata.topic(name).ok_or_else(|| unknown_topic(&format!("{name:?}")))
    }

    fn give_producer_ids(&mut self, out: &mut Vec<Effect>) {
        while let Some(&id) = self.wants_producer_id.first() {
            let Some(producer) = self.producer_ids.next() else { break };
            self.wants_producer_id.remove(0);
            out.push(Effect::Reply { id, result: Ok(Answer::ProducerId(producer)) });
        }
        let asked = self.waiters.values().any(|waiter| matches!(waiter, Waiter::ProducerIds));
        if !self.wants_producer_id.is_empty() && !asked {
            let allocate = wire::AllocateProducerIds { node_id: self.node.get(), count: PRODUCER_IDS_AT_ONCE };
            let allocate = command(wire::command::Kind::AllocateProducerIds(allocate));
            if let Err(error) = self.propose(&allocate, Waiter::ProducerIds) {
                self.fail_producer_ids(&error, out);
            }
        }
    }

    fn fail_producer_ids(&mut self, error: &Error, out: &mut Vec<Effect>) {
        for id in std::mem::take(&mut self.wants_producer_id) {
            out.push(Effect::Reply { id, result: Err(error.clone()) });
        }
    }

    /// Applies an entry, and answers who waited for it.
    fn apply(&mut self, index: LogIndex, kind: EntryKind, payload: Bytes, out: &mut Vec<Effect>) -> Option<Applied> {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
        if kind != EntryKind::Command {
            assert_eq!(kind, EntryKind::Empty, "group 0 holds commands only");
            return None;
        }
        let command = wire::Command::decode(payload).expect("the controller made this command");
        let result = self.metadata.apply(command);
        match (self.waiters.remove(&index), &result) {
            (Some(Waiter::Request(id)), result) => {
                let result = result.as_ref().map_err(Clone::clone).map(answer);
                out.push(Effect::Reply { id, result });
            }
            (Some(Waiter::ProducerIds), Ok(Applied::ProducerIds(ids))) => self.producer_ids = ids.clone(),
            _ => {}
        }
        result.ok()
    }

    fn step_down(&mut self, out: &mut Vec<Effect>) {
        self.leading = None;
        self.producer_ids = 0..0;
        let leader = self.group.leader().and_then(|node| self.addresses(node));
        for waiter in std::mem::take(&mut self.waiters).into_values() {
            if let Waiter::Request(id) = waiter {
                let error = Error::new(
                    ErrorCode::OutcomeUnknown,
                    "the controller changed before the request was committed; look whether it happened, or try again",
                );
                out.push(Effect::Reply { id, result: Err(error.redirect(leader.clone())) });
            }
        }
        let moved = self.not_controller();
        self.fail_producer_ids(&moved, out);
        for (_, id) in std::mem::take(&mut self.barriers) {
            out.push(Effect::Reply { id, result: Err(moved.clone()) });
        }
    }
}

fn answer(applied: &Applied) -> Answer {
    match applied {
        Applied::Topic(topic) | Applied::TopicDeleted(topic) => Answer::Topic(Arc::clone(topic)),
        Applied::NodeRegistered(_) | Applied::ProducerIds(_) => Answer::Done,
    }
}

impl Node {
    /// A request that only the controller answers.
    pub(super) fn on_controller_request(&mut self, id: RequestId, request: Request, out: &mut Vec<Effect>) {
        let result = if self.controller.is_leading() {
            self.plan_controller_request(id, request, out)
        } else {
            Err(self.controller.not_controller())
        };
        if let Err(error) = result {
            out.push(Effect::Reply { id, result: Err(error) });
        }
        self.dirty.insert(GroupId::METADATA);
    }

    fn plan_controller_request(&mut self, id: RequestId, request: Request, out: &mut Vec<Effect>) -> Result<()> {
        use wire::command::Kind;
        let kind = match request {
            Request::InitProducer => {
                self.controller.wants_producer_id.push(id);
                self.controller.give_producer_ids(out);
                return Ok(());
            }
            Request::MetadataBarrier => {
                let read = Read { id, group: GroupId::METADATA, refusal: None };
                let context = self.reads.begin(read);
                self.controller.group.read_index(context);
                return Ok(());
            }
            Request::CreateTopic { new, dry_run } => {
                let nodes = u32::try_from(self.controller.nodes().count()).unwrap_or(u32::MAX);
                let default = self.config.default_replicas.min(nodes.max(1));
                let replicas = if new.replicas == 0 { default } else { new.replicas };
                let topic_id = TopicId(self.random.uuid());
                let topic = self.controller.plan_topic(new, topic_id, self.now.wall_ms, replicas)?;
                let create = Kind::CreateTopic(wire::CreateTopic { topic: Some(topic) });
                if dry_run {
                    let applied = self.controller.metadata.clone().apply(command(create))?;
                    out.push(Effect::Reply { id, result: Ok(answer(&applied)) });
                    return Ok(());
                }
                create
            }
            Request::AlterTopic { name, set, unset } => {
                let topic = self.controller.known_topic(&name)?;
                check_unset(&set, &unset)?;
                TopicConfig::from_map(&altered(&topic.settings, &set, &unset))?;
                let topic_id = Bytes::copy_from_slice(&topic.id.to_bytes());
                Kind::AlterTopic(wire::AlterTopic { topic_id, set, unset })
            }
            Request::DeleteTopic { name } => {
                let topic_id = Bytes::copy_from_slice(&self.controller.known_topic(&name)?.id.to_bytes());
                Kind::DeleteTopic(wire::DeleteTopic { topic_id })
            }
            Request::RegisterNode { addresses, incarnation, rack } => {
                let node = metadata::Node { addresses, incarnation, rack };
                self.controller.propose(&metadata::register_command(&node), Waiter::Request(id))?;
                return Ok(());
            }
            Request::Produce { .. } | Request::Bounds { .. } | Request::TransferLeader { .. } => {
                return Err(Error::new(ErrorCode::Internal, "not a request to the controller"));
            }
        };
        self.controller.propose(&command(kind), Waiter::Request(id))
    }

    /// Lets group 0 work, applies what is committed, and follows what that changes on this node.
    pub(super) fn drive_controller(&mut self, out: &mut Vec<Effect>) {
        let driven = self.controller.group.drive(&mut self.store, out);
        let mut changes = Vec::new();
        if let Some(last) = driven.committed.last() {
            let last = LogIndex(last.get_index());
            for entry in driven.committed {
                let (kind, index) = (kind_of(&entry, &entry.data), LogIndex(entry.get_index()));
                changes.extend(self.controller.apply(index, kind, entry.data.clone(), out));
            }
            self.store.commit(GroupId::METADATA, last);
            self.controller.group.applied(last);
        }
        if !changes.is_empty() {
            self.controller.shown = Arc::new(self.controller.metadata.clone());
            self.view.metadata.send_replace(self.controller.metadata());
        }
        for change in changes {
            self.follow(change, out);
        }
        let (leads, term) = (self.controller.group.is_leader(), self.controller.group.term());
        if self.controller.leading.is_some_and(|led| !leads || led != term) {
            self.controller.step_down(out);
            let moved = self.controller.not_controller();
            self.reads.fail(GroupId::METADATA, &moved, out);
        }
        if leads && self.controller.group.log().term(self.controller.applied) == Ok(term) {
            self.controller.leading = Some(term);
        }
        for read in driven.reads {
            if let Some((read, index)) = self.reads.confirmed(&read) {
                self.controller.barriers.push((index, read.id));
            }
        }
        let applied = self.controller.applied;
        self.controller.barriers.retain(|(index, id)| {
            if *index <= applied {
                out.push(Effect::Reply { id: *id, result: Ok(Answer::Done) });
            }
            *index > applied
        });
        if self.controller.is_leading() {
            self.controller.give_producer_ids(out);
        }
        let leadership = Leadership { term, node: self.controller.group.leader() };
        self.show_leader(GroupId::METADATA, leadership, out);
        if self.controller.group.has_ready() {
            self.dirty.insert(GroupId::METADATA);
        }
    }

    /// Makes a change of the metadata true on this node.
    fn follow(&mut self, change: Applied, out: &mut Vec<Effect>) {
        match change {
            Applied::Topic(topic) => {
                if let Err(error) = self.open_topic(&topic) {
                    out.push(Effect::Fatal { message: error.to_string() });
                }
            }
            Applied::TopicDeleted(topic) => self.remove_topic(&topic, out),
            Applied::NodeRegistered(_) | Applied::ProducerIds(_) => {}
        }
    }
}

/// What is taken back must be a setting, and not be set in the same breath.
fn check_unset(set: &BTreeMap<String, String>, unset: &[String]) -> Result<()> {
    let wrong = |why: String| Err(Error::new(ErrorCode::InvalidConfig, why));
    for key in unset {
        if set.contains_key(key) {
            return wrong(format!("topic setting {key:?} is both set and taken back; say one of them"));
        }
        if !TOPIC_CONFIG_KEYS.iter().any(|(known, _)| known == key) {
            let known: Vec<&str> = TOPIC_CONFIG_KEYS.iter().map(|(key, _)| *key).collect();
            return wrong(format!("unknown topic setting {key:?}; known are {}", known.join(", ")));
        }
    }
    Ok(())
}
