//! Requests that only the controller answers: each becomes a command for group 0, or an answer at once.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use levada_groups::limits::COORDINATORS;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, IncarnationId, NodeId, Term, TopicId},
    limits::{REPLICAS_MAX, TOPIC_PARTITIONS_MAX},
    messages::metadata as wire,
    source::NewTopic,
    topic::{TOPIC_CONFIG_KEYS, TopicConfig, check_topic_name},
};
use levada_storage_engine::planted::{self, Planted};

use uuid::Uuid;

use super::{
    Node,
    controller::{Controller, Waiter},
    event::{Answer, Effect, Request, RequestId},
    partitions::internal_topic,
    reads::Read,
};
use crate::cluster::{
    balance::{self, Move},
    feature::{LEVEL_GROUPS, LEVEL_MEMBERSHIP, LEVEL_ONCE, LEVEL_RECOVERY},
    metadata::{self, Applied, altered, command, move_command, spread_command, topic_exists, unknown_topic},
    placement::{self, Standings},
};
use crate::partition::coordinating::{GROUPS_TOPIC, GROUPS_TOPIC_ID};

/// The most that one request moves; it may be asked again.
const BALANCE_MOVES_MAX: usize = 1_000;

impl Controller {
    /// Checks a wish for a topic and says which command fulfils it.
    fn plan_topic(
        &self,
        new: NewTopic,
        (id, created_ms): (TopicId, i64),
        replicas: u32,
        standings: &Standings,
    ) -> Result<wire::Topic> {
        check_topic_name(&new.name)?;
        TopicConfig::from_map(&new.config)?;
        if self.current().topic(&new.name).is_some() {
            return Err(topic_exists(&new.name));
        }
        if !(1..=TOPIC_PARTITIONS_MAX).contains(&new.partitions) {
            let why = format!("a topic has 1 to {TOPIC_PARTITIONS_MAX} partitions, not {}", new.partitions);
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        let replicas = replicas as usize;
        check_replicas(replicas)?;
        // Founders register when they start: a topic that cannot wait for the others asks for fewer replicas.
        let (registered, nodes) = (self.current().nodes().len(), self.nodes().count());
        if registered < replicas && replicas <= nodes {
            let why =
                format!("of {nodes} nodes only {registered} have started so far; try again, or ask for fewer replicas");
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        let places = placement::place(self.current(), standings, new.partitions, replicas)?;
        Ok(wire::Topic {
            name: new.name,
            topic_id: Bytes::copy_from_slice(&id.to_bytes()),
            partitions: (0..).zip(places).map(|(partition, nodes)| new_partition(partition, nodes)).collect(),
            config: new.config,
            schema_id: u32::from(new.schema_json.is_some()),
            schema_json: new.schema_json.unwrap_or_default(),
            created_ms,
            altered_by: Vec::new(),
        })
    }

    /// Says which command changes a topic's settings.
    fn plan_alteration(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
        request: Option<Uuid>,
    ) -> Result<wire::AlterTopic> {
        let topic = self.known_topic(name)?;
        check_unset(&set, &unset)?;
        TopicConfig::from_map(&altered(&topic.settings, &set, &unset))?;
        let topic_id = Bytes::copy_from_slice(&topic.id.to_bytes());
        let request = request.filter(|_| self.current().feature_level() >= LEVEL_ONCE);
        let request_id = request.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default();
        Ok(wire::AlterTopic { topic_id, set, unset, request_id })
    }

    /// Says which command deletes the topic of a name, if it is the wanted one.
    fn plan_deletion(&self, name: &str, wanted: Option<TopicId>) -> Result<wire::DeleteTopic> {
        let id = self.known_topic(name)?.id;
        if wanted.is_some_and(|wanted| wanted != id) {
            return Err(unknown_topic(&format!("{name:?} that was to be deleted: there is another one")));
        }
        Ok(wire::DeleteTopic { topic_id: Bytes::copy_from_slice(&id.to_bytes()) })
    }

    /// Says which command gives a topic so many partitions.
    fn plan_partitions(&self, name: &str, partitions: u32, standings: &Standings) -> Result<wire::AddPartitions> {
        let topic = self.known_topic(name)?;
        let before = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        if partitions <= before || partitions > TOPIC_PARTITIONS_MAX {
            let why = format!(
                "topic {name:?} has {before} partitions; it can have more, up to {TOPIC_PARTITIONS_MAX}, never fewer: \
                 not {partitions}"
            );
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        let replicas = topic.partitions.iter().map(|partition| partition.wanted().len()).max().unwrap_or(1);
        let places = placement::place(self.current(), standings, partitions - before, replicas)?;
        Ok(wire::AddPartitions {
            topic_id: Bytes::copy_from_slice(&topic.id.to_bytes()),
            partitions: (before..).zip(places).map(|(number, nodes)| new_partition(number, nodes)).collect(),
        })
    }
}

fn new_partition(partition: u32, nodes: Vec<NodeId>) -> wire::Partition {
    let replicas = nodes.into_iter().map(|node| wire::Replica { replica_id: 0, node_id: node.get() });
    wire::Partition { partition, replicas: replicas.collect(), ..wire::Partition::default() }
}

fn check_replicas(replicas: usize) -> Result<()> {
    if (1..=REPLICAS_MAX).contains(&replicas) {
        return Ok(());
    }
    let why = format!("a partition has 1 to {REPLICAS_MAX} replicas, not {replicas}");
    Err(Error::new(ErrorCode::InvalidRequest, why))
}

impl Node {
    /// A request that only the controller answers.
    pub(super) fn on_controller_request(&mut self, id: RequestId, request: Request, out: &mut Vec<Effect>) {
        self.dirty.insert(GroupId::METADATA);
        if !self.controller.is_leading() {
            return out.push(Effect::Reply { id, result: Err(self.controller.not_controller()) });
        }
        match self.plan_controller_request(id, request, out) {
            Ok(()) => {}
            Err(error) if planted::is(Planted::RefusesAlone) => out.push(Effect::Reply { id, result: Err(error) }),
            // One that was deposed and has not heard of it yet judges by old metadata.
            Err(error) => {
                let context = self.reads.begin(Read { id, group: GroupId::METADATA, refusal: Some(error) });
                self.controller.group.read_index(context);
            }
        }
    }

    fn plan_controller_request(&mut self, id: RequestId, request: Request, out: &mut Vec<Effect>) -> Result<()> {
        use wire::command::Kind;
        let kind = match request {
            Request::InitProducer => {
                self.controller.give_producer_id(id, out);
                return Ok(());
            }
            Request::MetadataBarrier if planted::is(Planted::StaleMetadata) => return tell(id, Answer::Done, out),
            Request::MetadataBarrier => {
                let context = self.reads.begin(Read { id, group: GroupId::METADATA, decided: None });
                self.controller.group.read_index(context);
                return Ok(());
            }
            Request::CreateTopic { new, dry_run, id: wanted } => {
                let create = self.plan_creation(new, wanted)?;
                if dry_run {
                    let applied = self.controller.current().clone().apply(command(create))?;
                    let Applied::Topic(topic) = applied else { return Ok(()) };
                    out.push(Effect::Reply { id, result: Ok(Answer::Topic(topic)) });
                    return Ok(());
                }
                create
            }
            Request::AlterTopic { name, set, unset, request } => {
                self.check_not_internal(&name)?;
                Kind::AlterTopic(self.controller.plan_alteration(&name, set, unset, request)?)
            }
            Request::DeleteTopic { name, id: wanted } => {
                self.check_not_internal(&name)?;
                Kind::DeleteTopic(self.controller.plan_deletion(&name, wanted)?)
            }
            Request::RegisterNode { node } => {
                let register = metadata::register_command(&node);
                return self.controller.propose(&register, Waiter::Request(id));
            }
            Request::AdmitNode { node, replace, dry_run } => {
                self.needs_membership()?;
                let kind = Kind::AdmitNode(wire::AdmitNode { node_id: node.get(), replace });
                if dry_run {
                    let moves = self.plan_admission(kind, node)?;
                    return tell(id, Answer::Moves(moves), out);
                }
                kind
            }
            Request::JoinNode { node } => {
                self.needs_membership()?;
                let join = metadata::join_command(&node);
                return self.controller.propose(&join, Waiter::Request(id));
            }
            Request::RenewMember { node, incarnation, lost } => {
                self.needs(LEVEL_RECOVERY)?;
                let known = self.controller.current().nodes().get(&node).and_then(|known| known.member);
                if let Some(member) = known.filter(|member| *member != lost && self.controller.has_begun(*member)) {
                    let why = format!(
                        "node {node} has had replica {member} of the metadata since it lost replica {lost}; this is an older copy of \
                         its data directory: bring the newer one back, or, if it is lost, let an empty one take its place \
                         (`levada cluster replace {node}`)"
                    );
                    return Err(Error::new(ErrorCode::WrongIncarnation, why));
                }
                let incarnation = Bytes::copy_from_slice(&incarnation.to_bytes());
                Kind::RenewMember(wire::RenewMember { node_id: node.get(), incarnation, member_id: lost.get() })
            }
            Request::DrainNode { node, drain, dry_run } => {
                self.needs_membership()?;
                let kind = Kind::DrainNode(wire::DrainNode { node_id: node.get(), drain });
                let moves = self.plan_drain(kind.clone(), drain)?;
                if dry_run {
                    return tell(id, Answer::Moves(moves), out);
                }
                kind
            }
            Request::Balance { dry_run } => {
                self.needs_membership()?;
                let moves = balance::balance(self.controller.current(), &self.standings(), BALANCE_MOVES_MAX);
                if dry_run || moves.is_empty() {
                    return tell(id, Answer::Moves(moves), out);
                }
                return self
                    .controller
                    .propose(&spread_command(&moves, self.controller.current()), Waiter::Request(id));
            }
            Request::SetReplicas { name, replicas } => {
                self.needs_membership()?;
                let topic = self.controller.known_topic(&name)?;
                check_replicas(replicas as usize)?;
                let metadata = self.controller.current();
                let moves = balance::set_replicas(metadata, &self.standings(), topic, replicas as usize)?;
                if moves.is_empty() {
                    return tell(id, Answer::Done, out);
                }
                return self.controller.propose(&move_command(&moves), Waiter::Request(id));
            }
            Request::SetPartitions { name, partitions } => {
                self.needs_membership()?;
                self.check_not_internal(&name)?;
                Kind::AddPartitions(self.controller.plan_partitions(&name, partitions, &self.standings())?)
            }
            Request::RecoverPartition { group, survivor, targets_given, forgiven_to } => {
                self.needs(LEVEL_RECOVERY)?;
                let (group, survivor, forgiven_to) = (group.get(), survivor.get(), forgiven_to.map(Term::get));
                Kind::RecoverPartition(wire::RecoverPartition { group, survivor, targets_given, forgiven_to })
            }
            Request::Produce { .. }
            | Request::Bounds { .. }
            | Request::Group { .. }
            | Request::TransferLeader { .. }
            | Request::DescribeReplica { .. }
            | Request::CatchUpMember { .. }
            | Request::RecoverMetadata => {
                return Err(Error::new(ErrorCode::Internal, "not a request to the controller"));
            }
        };
        self.controller.propose(&command(kind), Waiter::Request(id))
    }

    /// The coordinators' topic stays as it is: groups are found by the number of its partitions.
    fn check_not_internal(&self, name: &str) -> Result<()> {
        let is_internal = self.controller.current().topic(name).is_some_and(|topic| topic.id == *GROUPS_TOPIC_ID);
        if is_internal { Err(internal_topic()) } else { Ok(()) }
    }

    /// What makes a topic, of this id if the client wants one.
    fn plan_creation(&mut self, new: NewTopic, wanted: Option<TopicId>) -> Result<wire::command::Kind> {
        if new.name == GROUPS_TOPIC {
            // Replicas of older builds would not apply what is in it.
            self.needs(LEVEL_GROUPS)?;
            let is_theirs = wanted == Some(*GROUPS_TOPIC_ID);
            if !is_theirs || new.partitions != COORDINATORS || new.schema_json.is_some() {
                return Err(internal_topic());
            }
        }
        let nodes = u32::try_from(self.controller.nodes().count()).unwrap_or(u32::MAX);
        let default = self.config.default_replicas.min(nodes.max(1));
        let replicas = if new.replicas == 0 { default } else { new.replicas };
        let id = wanted.unwrap_or_else(|| TopicId(self.random.uuid()));
        let topic = self.controller.plan_topic(new, (id, self.now.wall_ms), replicas, &self.standings())?;
        Ok(wire::command::Kind::CreateTopic(wire::CreateTopic { topic: Some(topic) }))
    }

    fn needs_membership(&self) -> Result<()> {
        self.needs(LEVEL_MEMBERSHIP)
    }

    /// Nodes of older builds must not meet commands that they do not know.
    pub(super) fn needs(&self, level: u32) -> Result<()> {
        let metadata = self.controller.current();
        if metadata.feature_level() >= level {
            return Ok(());
        }
        let older = metadata.nodes().values().filter(|node| node.feature_level_max < level);
        let older: Vec<String> = older.map(|node| node.addresses.node.to_string()).collect();
        let silent = self.controller.nodes().filter(|node| !metadata.nodes().contains_key(node));
        let silent: Vec<String> = silent.map(|node| node.to_string()).collect();
        let why = format!(
            "the cluster is at feature level {}, this needs {level}; it rises when all nodes run a build that \
             knows it (older builds: {}; not started yet: {})",
            metadata.feature_level(),
            if older.is_empty() { "none".to_owned() } else { older.join(", ") },
            if silent.is_empty() { "none".to_owned() } else { silent.join(", ") },
        );
        Err(Error::new(ErrorCode::FeatureLevel, why))
    }

    /// What moves when a node joins: its share, or all that it had before.
    fn plan_admission(&self, kind: wire::command::Kind, node: NodeId) -> Result<Vec<Move>> {
        let mut planned = self.controller.current().clone();
        planned.apply(command(kind))?;
        let addresses = NodeAddresses { node, ..NodeAddresses::default() };
        let joins = metadata::Node::new(addresses, IncarnationId::default(), String::new());
        let before = planned.clone();
        planned.apply(metadata::join_command(&joins))?;
        if !before.nodes().contains_key(&node) {
            return Ok(balance::balance(&planned, &self.standings(), BALANCE_MOVES_MAX));
        }
        let partitions =
            planned.topics().flat_map(|topic| topic.partitions.iter().map(move |partition| (topic, partition)));
        let anew = partitions.filter_map(|(topic, partition)| {
            let to: Vec<NodeId> = partition.wanted().iter().map(|replica| replica.node).collect();
            to.contains(&node).then(|| Move { topic: Arc::clone(topic), partition: partition.partition, to })
        });
        Ok(anew.collect())
    }

    /// What moves when a node is drained, or none is.
    fn plan_drain(&self, kind: wire::command::Kind, drain: bool) -> Result<Vec<Move>> {
        let mut planned = self.controller.current().clone();
        planned.apply(command(kind))?;
        if planned.nodes().values().all(|node| node.draining) {
            return Err(Error::new(ErrorCode::NotEnoughNodes, "the last node of a cluster cannot be decommissioned"));
        }
        if drain { balance::drain(&planned, &self.standings(), usize::MAX) } else { Ok(Vec::new()) }
    }
}

/// Nothing is to be changed: that is the answer.
fn tell(id: RequestId, answer: Answer, out: &mut Vec<Effect>) -> Result<()> {
    out.push(Effect::Reply { id, result: Ok(answer) });
    Ok(())
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
