//! The nodes of a test, their disks, and a network that answers at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use levada_protocol::{
    ids::{PartitionId, Term},
    source::NewTopic,
};
use levada_storage_engine::{
    disk::{DiskOp, FileName, Lane},
    journal::JournalId,
    sim_disk::SimDisk,
    store::DirIdentity,
};

use super::super::*;
use raft::{StateRole, eraftpb::MessageType};

use crate::{
    cluster::{feature::LEVEL_MAX, metadata},
    node::event::{Answer, Stage},
    raft::{ELECTION_TICKS, timeout::election_timeout, wire},
};

/// Nodes that a test drives, step by step.
pub(super) struct World {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) disks: BTreeMap<NodeId, Arc<SimDisk>>,
    pub(super) events: VecDeque<(NodeId, Event)>,
    pub(super) replies: BTreeMap<RequestId, Result<Answer, Error>>,
    pub(super) cut: BTreeSet<NodeId>,
    pub(super) now: Now,
    pub(super) next_request: u64,
    /// Nodes that lost their data directory and came back.
    pub(super) wiped: BTreeSet<NodeId>,
    /// What nodes that start may copy in a second.
    pub(super) copy_bytes_per_s: u64,
    /// How many ticks each block of a node's journal takes.
    pub(super) slow: BTreeMap<NodeId, u64>,
    /// Blocks that take their time: until which tick.
    pub(super) late: Vec<(u64, NodeId, u64)>,
    pub(super) ticks: u64,
    /// How nodes that start scrub.
    pub(super) scrub: ScrubConfig,
    /// How far followed requests have come.
    pub(super) reached: Vec<(RequestId, Stage)>,
    /// What nodes did of late, one line each.
    pub(super) story: Vec<String>,
    /// Nodes that may say that they cannot go on; then they are gone.
    pub(super) may_end: BTreeSet<NodeId>,
    /// What those say of their replicas of the metadata.
    pub(super) losses: BTreeMap<NodeId, MemberLoss>,
    /// Messages that the network loses.
    pub(super) drops: Option<fn(NodeId, &PeerMessage) -> bool>,
}

pub(super) fn config(node: NodeId, count: u64) -> NodeConfig {
    NodeConfig {
        cluster: ClusterId::from_bytes([1; 16]),
        node,
        incarnation: IncarnationId::from_bytes([u8::try_from(node.get()).unwrap(); 16]),
        founders: (1..=count).map(NodeId).collect(),
        default_replicas: 3,
        seed: node.get(),
        store: StoreConfig { checkpoint_bytes: 1 << 20, ..StoreConfig::default() },
        copy_bytes_per_s: 50 << 20,
        watermarks: Watermarks { reserve_bytes: 1 << 30, reserve_percent: 10 },
        slow_disk_ms: 20,
        journal_queue_ms: 20,
        member_loss: None,
        metadata_log_bytes: 16 << 10,
        absent_ms: 5_000,
        scrub: ScrubConfig { bytes_per_s: 0, interval_ms: 0 },
    }
}

impl World {
    pub(super) fn new(count: u64) -> Self {
        let mut world = Self::founded(count);
        for id in (1..=count).map(NodeId) {
            world.register(id, count);
        }
        world
    }

    pub(super) fn register(&mut self, id: NodeId, count: u64) {
        self.register_at(id, count, LEVEL_MAX);
    }

    /// A node of a build that goes up to this feature level.
    pub(super) fn register_at(&mut self, id: NodeId, count: u64, feature_level_max: u32) {
        let addresses = NodeAddresses { node: id, native: format!("n{id}"), ..NodeAddresses::default() };
        let incarnation = config(id, count).incarnation;
        let node = metadata::Node { feature_level_max, ..metadata::Node::new(addresses, incarnation, String::new()) };
        let request = Request::RegisterNode { node: Box::new(node) };
        self.ask_controller(request).unwrap();
    }

    /// No node has registered yet.
    pub(super) fn founded(count: u64) -> Self {
        let mut world = Self {
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            events: VecDeque::new(),
            replies: BTreeMap::new(),
            cut: BTreeSet::new(),
            now: Now::default(),
            next_request: 0,
            wiped: BTreeSet::new(),
            copy_bytes_per_s: 50 << 20,
            slow: BTreeMap::new(),
            late: Vec::new(),
            ticks: 0,
            scrub: ScrubConfig { bytes_per_s: 0, interval_ms: 0 },
            reached: Vec::new(),
            story: Vec::new(),
            may_end: BTreeSet::new(),
            losses: BTreeMap::new(),
            drops: None,
        };
        for id in (1..=count).map(NodeId) {
            let disk = Arc::new(SimDisk::new(id.get()));
            let config = config(id, count);
            let identity = DirIdentity { cluster: config.cluster, node: id, incarnation: config.incarnation };
            identity.format(&*disk, JournalId::from_bytes([9; 16])).unwrap();
            world.disks.insert(id, Arc::clone(&disk));
            world.nodes.insert(id, Node::open(disk, config).unwrap());
        }
        world.until(|world| world.controller().is_some());
        world
    }

    /// Lets everything happen that is ready to, then one tick.
    pub(super) fn step(&mut self) {
        self.now.mono_ms += 50;
        self.now.wall_ms += 50;
        self.ticks += 1;
        let done = self.late.extract_if(.., |(at, ..)| *at <= self.ticks);
        self.events.extend(done.map(|(_, id, token)| (id, Event::Disk { token, result: Ok(()) })));
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.events.extend(ids.iter().map(|id| (*id, Event::Tick)));
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        while !self.events.is_empty() {
            self.round();
        }
    }

    pub(super) fn round(&mut self) {
        let mut touched = BTreeSet::new();
        for (id, event) in std::mem::take(&mut self.events) {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let mut out = Vec::new();
            node.handle(self.now, event, &mut out);
            touched.insert(id);
            self.perform(id, out);
        }
        for id in touched {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let mut out = Vec::new();
            node.flush(&mut out);
            self.perform(id, out);
        }
    }

    pub(super) fn perform(&mut self, id: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    self.tell_message(id, to, &message);
                    // As on the wire: what cannot be understood there would break the connection.
                    let (frame, payload) = wire::encode(vec![message]);
                    let messages = wire::decode(frame, payload.concat().into()).unwrap();
                    if !self.cut.contains(&id) && !self.cut.contains(&to) {
                        let drops = self.drops.unwrap_or(|_, _| false);
                        let messages = messages.into_iter().filter(|message| !drops(to, message));
                        let heard = messages.map(|message| (to, Event::Peer { from: id, message }));
                        self.events.extend(heard);
                    }
                }
                Effect::Disk { lane, token, ops } => {
                    if lane == Lane::Journal && ops.iter().any(|op| matches!(op, DiskOp::Sync { .. })) {
                        self.story.push(format!("{id} syncs its journal"));
                    }
                    let result = ops.iter().try_for_each(|op| self.disks[&id].perform(op));
                    if let (Lane::Journal, Ok(()), Some(ticks)) = (lane, &result, self.slow.get(&id)) {
                        self.late.push((self.ticks + ticks, id, token));
                        continue;
                    }
                    self.events.push_back((id, Event::Disk { token, result }));
                }
                Effect::Read { token, file, pos, len, from_disk: _ } => {
                    let result = self.disks[&id].read(&file, pos, len);
                    self.events.push_back((id, Event::Read { token, result }));
                }
                Effect::Reply { id, result } => {
                    let says = result
                        .as_ref()
                        .map_or_else(|e| format!("{}: {}", e.code.name(), e.message), |a| format!("{a:?}"));
                    if !says.contains("Topic") {
                        self.story.push(format!("answer: {says}"));
                    }
                    assert!(self.replies.insert(id, result).is_none(), "{id:?} is answered twice");
                }
                Effect::Reached { id, stage } => self.reached.push((id, stage)),
                Effect::Fatal { .. } if self.may_end.contains(&id) => {
                    self.nodes.remove(&id);
                }
                Effect::Fatal { message } => panic!("{message}"),
                Effect::GiveUpMetadata { loss, .. } if self.may_end.contains(&id) => {
                    self.losses.insert(id, loss);
                    self.nodes.remove(&id);
                }
                Effect::GiveUpMetadata { message, .. } => panic!("{message}"),
                Effect::ReadyToStop => {
                    self.nodes.remove(&id);
                    return;
                }
            }
        }
    }

    /// What a partition's replicas say to each other; heartbeats tell nothing.
    fn tell_message(&mut self, from: NodeId, to: NodeId, message: &PeerMessage) {
        let PeerMessage::Raft { group, message } = message else { return };
        let (kind, term, index) = (message.get_msg_type(), message.get_term(), message.get_index());
        if *group == GroupId::METADATA {
            return;
        }
        let says =
            match kind {
                MessageType::MsgAppend => {
                    let entries = message.get_entries().iter();
                    let entries: Vec<String> =
                        entries.map(|e| format!("{} {:?}", e.get_index(), wire::kind_of(e, &e.data))).collect();
                    format!("append behind {index}: {entries:?}, committed to {}", message.get_commit())
                }
                MessageType::MsgAppendResponse if message.get_reject() => format!("does not follow {index}"),
                MessageType::MsgAppendResponse => format!("durable to {index}"),
                MessageType::MsgRequestPreVote => format!("would you vote in term {term}?"),
                MessageType::MsgRequestVote => format!("vote in term {term}"),
                MessageType::MsgRequestPreVoteResponse | MessageType::MsgRequestVoteResponse => {
                    if message.get_reject() { "no".to_owned() } else { "yes".to_owned() }
                }
                MessageType::MsgTimeoutNow => "take over".to_owned(),
                _ => return,
            };
        self.story.push(format!("{from} to {to}: {says}"));
    }

    pub(super) fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..400 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("it does not happen");
    }

    pub(super) fn controller(&self) -> Option<NodeId> {
        self.nodes.iter().find(|(_, node)| node.controller.is_leading()).map(|(id, _)| *id)
    }

    pub(super) fn leader(&self, place: TopicPartition) -> Option<NodeId> {
        let leads = |node: &Node| node.view.partition(place).is_some_and(|view| view.state.borrow().leading);
        self.nodes.iter().find(|(id, node)| !self.cut.contains(id) && leads(node)).map(|(id, _)| *id)
    }

    pub(super) fn send(&mut self, node: NodeId, request: Request) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.events.push_back((node, Event::Request { id, request }));
        id
    }

    pub(super) fn ask(&mut self, node: NodeId, request: Request) -> Result<Answer, Error> {
        let id = self.send(node, request);
        self.until(|world| world.replies.contains_key(&id));
        self.replies[&id].clone()
    }

    pub(super) fn ask_controller(&mut self, request: Request) -> Result<Answer, Error> {
        self.until(|world| world.controller().is_some());
        self.ask(self.controller().unwrap(), request)
    }

    pub(super) fn create_topic(&mut self, partitions: u32, settings: &[(&str, &str)]) -> Vec<TopicPartition> {
        let new = NewTopic {
            name: "orders".into(),
            partitions,
            replicas: 0,
            config: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            schema_json: None,
        };
        let answer = self.ask_controller(Request::CreateTopic { new, dry_run: false, id: None }).unwrap();
        let Answer::Topic(topic) = answer else { panic!("{answer:?}") };
        let places: Vec<TopicPartition> = (0..partitions)
            .map(|partition| TopicPartition { topic: topic.id, partition: PartitionId(partition) })
            .collect();
        self.until(|world| places.iter().all(|place| world.leader(*place).is_some()));
        places
    }

    pub(super) fn produce(&mut self, place: TopicPartition, batch: Bytes) -> Result<Answer, Error> {
        self.until(|world| world.leader(place).is_some());
        self.ask(self.leader(place).unwrap(), Request::Produce { partition: place, batch })
    }

    /// Every value that a node shows of a partition.
    pub(super) fn values(&self, node: NodeId, place: TopicPartition) -> Vec<String> {
        // A node that starts shows its partitions when it has caught up with the metadata.
        let Some(view) = self.nodes[&node].view.partition(place) else { return Vec::new() };
        let high_watermark = view.state.borrow().high_watermark;
        let (mut at, mut values) = (view.state.borrow().log_start, Vec::new());
        while at < high_watermark {
            let read = view.log.read(at, 1 << 20, high_watermark).unwrap();
            for batch in &read.batches {
                let rows = levada_protocol::batch::Rows::open(batch).unwrap();
                values.extend(rows.iter().map(|record| {
                    let record = record.unwrap();
                    assert_eq!(record.offset, at);
                    at = at.plus(1);
                    String::from_utf8(record.value.unwrap().to_vec()).unwrap()
                }));
            }
        }
        values
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.events.retain(|(to, _)| *to != node);
    }

    pub(super) fn restart(&mut self, node: NodeId) {
        let disk = Arc::new(self.disks[&node].crash_image(&levada_storage_engine::sim_disk::CrashPlan::LOSE_ALL));
        self.disks.insert(node, Arc::clone(&disk));
        // Another process.
        let config = NodeConfig { seed: node.get() + (self.now.mono_ms << 8), ..self.config(node) };
        self.nodes.insert(node, Node::open(disk, config).unwrap());
    }

    /// A node that is down gets another replica of the metadata, or a later state of the one that it has, as a server does before it
    /// starts, and starts; the replica that it had.
    pub(super) fn renew(&mut self, node: NodeId) -> ReplicaId {
        self.events.retain(|(to, _)| *to != node);
        let (disk, config) = (Arc::clone(&self.disks[&node]), self.config(node));
        let member_loss = self.losses.remove(&node).or(Some(MemberLoss::GivenUp { term: Term(0) }));
        let opened = Node::open(disk.clone(), NodeConfig { member_loss, ..config.clone() });
        let Err(NodeOpenError::MetadataDamaged { replica: lost, need, .. }) = opened else { panic!("{opened:?}") };
        let incarnation = config.incarnation;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|_| need.sound_to.is_some()).collect();
        let later = others.into_iter().find_map(|other| {
            let catch_up = Request::CatchUpMember { node, incarnation, replica: lost, need };
            self.ask(other, catch_up).ok()
        });
        let answer = later.map_or_else(|| self.ask_controller(Request::RenewMember { node, incarnation, lost }), Ok);
        let Answer::Joined(state) = answer.unwrap() else { panic!("no other answer") };
        assert!(need.is_met_by(&state), "{need:?}");
        Node::renew_metadata(disk, &config, *state).unwrap();
        self.restart(node);
        lost
    }

    /// Three nodes founded the cluster, whoever is in it by now.
    fn config(&self, node: NodeId) -> NodeConfig {
        let mut config = NodeConfig { copy_bytes_per_s: self.copy_bytes_per_s, scrub: self.scrub, ..config(node, 3) };
        if self.wiped.contains(&node) {
            config.incarnation = IncarnationId::from_bytes([u8::try_from(100 + node.get()).unwrap(); 16]);
        }
        config
    }

    /// A node asks to join, with an empty disk.
    pub(super) fn ask_to_join(&mut self, node: NodeId) -> Result<Answer, Error> {
        let addresses = NodeAddresses { node, native: format!("n{node}"), ..NodeAddresses::default() };
        let joins = metadata::Node::new(addresses, self.config(node).incarnation, String::new());
        self.ask_controller(Request::JoinNode { node: Box::new(joins) })
    }

    /// An admitted node joins, and starts.
    pub(super) fn join(&mut self, node: NodeId) {
        let Answer::Joined(state) = self.ask_to_join(node).unwrap() else { panic!("it has not joined") };
        let disk = Arc::new(SimDisk::new(1000 + node.get()));
        let config = self.config(node);
        let identity = DirIdentity { cluster: config.cluster, node, incarnation: config.incarnation };
        Store::format_joining(&*disk, &identity, JournalId::from_bytes([9; 16]), *state).unwrap();
        self.disks.insert(node, Arc::clone(&disk));
        self.nodes.insert(node, Node::open(disk, config).unwrap());
    }

    pub(super) fn admit(&mut self, node: NodeId, replace: bool) {
        self.until(|world| {
            let controller = world.controller();
            controller.is_some_and(|id| world.nodes[&id].controller.current().feature_level() == LEVEL_MAX)
        });
        self.ask_controller(Request::AdmitNode { node, replace, dry_run: false }).unwrap();
    }

    /// Where a partition's replicas are, by the metadata; `None` while they move.
    pub(super) fn placed(&self, place: TopicPartition) -> Option<Vec<u64>> {
        let metadata = self.nodes[&self.controller()?].controller.metadata();
        let topic = metadata.topic_by_id(place.topic)?;
        let partition = topic.partitions.iter().find(|partition| partition.partition == place.partition)?;
        let nodes = partition.replicas.iter().map(|replica| replica.node.get()).collect();
        partition.target.is_empty().then_some(nodes)
    }

    /// Who votes on metadata, by its leader.
    pub(super) fn metadata_voters(&self) -> Vec<u64> {
        let Some(controller) = self.controller() else { return Vec::new() };
        let controller = &self.nodes[&controller].controller;
        let members = controller.members();
        let conf = controller.group.conf();
        if conf.is_joint() {
            return Vec::new();
        }
        conf.voters.iter().map(|voter| members.get(voter).map_or(0, |node| node.get())).collect()
    }
}

/// A term, not before another, in which a replica that nobody answers asks for votes with each tenth tick, from the first on.
pub(super) fn unlucky_term(group: GroupId, replica: ReplicaId, from: u64) -> u64 {
    let waits = |term, role| election_timeout(group.get(), replica.get(), term, role);
    let is_unlucky = |term: &u64| {
        [StateRole::Follower, StateRole::PreCandidate].iter().all(|role| waits(*term, *role) == ELECTION_TICKS)
    };
    (from..).find(is_unlucky).unwrap()
}

/// Flips a bit in the last place of the journal where these bytes stand.
pub(super) fn damage_journal(disk: &SimDisk, bytes: &[u8]) {
    damage(disk, "journal", bytes);
}

/// The same in the header of that block: nobody knows what it was about.
pub(super) fn damage_header(disk: &SimDisk, bytes: &[u8]) {
    let (file, at) = last_place(disk, "journal", bytes);
    disk.flip_bit(&file, at / 4096 * 4096 + 20, 0);
}

pub(super) fn damage(disk: &SimDisk, directory: &str, bytes: &[u8]) {
    let (file, at) = last_place(disk, directory, bytes);
    disk.flip_bit(&file, at, 0);
}

fn last_place(disk: &SimDisk, directory: &str, bytes: &[u8]) -> (FileName, u64) {
    let mut places = disk.list(directory).unwrap().into_iter().flat_map(|name| {
        let file = FileName::new(format!("{directory}/{name}"));
        let content = disk.read(&file, 0, usize::try_from(disk.len(&file).unwrap().unwrap()).unwrap()).unwrap();
        let used = content.chunks(4096).rposition(|page| page != &[0; 4096][..page.len()])?;
        let at =
            content[..content.len().min((used + 1) * 4096)].windows(bytes.len()).rposition(|window| window == bytes)?;
        Some((file, at as u64))
    });
    places.next_back().expect("the bytes are there")
}
