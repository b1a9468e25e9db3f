//! The world: nodes, their machines, the network between them, and clients, on one thread, from one seed.
//!
//! Everything is a `Happening` in one queue. A world goes through these times: the cluster is founded in good weather;
//! then there are faults, as long as the options say; then everything heals, and whatever was begun must come to its
//! end in bounded time (liveness); at last the power of all nodes goes once more, and what every replica has after
//! that is compared with everything that clients were ever told.

mod audit;
mod disturb;
mod events;
mod losses;
mod machines;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use levada_broker::raft::wire::PeerMessage;
use levada_protocol::{
    error::Result,
    ids::{GroupId, NodeId, Term, TopicPartition},
    source::NewTopic,
};
use levada_storage_engine::disk::{DiskError, Lane};

use crate::{
    checker::{Anomaly, Checker, Counts, Kind},
    clients::{
        Call, CallId, Client, Response,
        admin::Admin,
        auditor::Auditor,
        mover::{Mover, Sight},
        producer::Producer,
        reader::Reader,
        recoverer::Recoverer,
    },
    dice::Dice,
    disks::{Done, Speed},
    faults::{Fault, Nemesis},
    network::{ClientId, Network, Weather},
    options::Options,
    process::{Process, REPLICAS},
    queue::Queue,
    story::Story,
};
use losses::Homes;

/// The topic that producers and readers work with.
const TOPIC: &str = "levada";
/// How long founding a cluster may take.
const FOUNDING_US: u64 = 20_000_000;
/// Machines that may be added.
const SPARES: u64 = 2;
/// How often the world looks whether everything has come right.
const LOOK_US: u64 = 200_000;

/// Something that happens.
#[derive(Debug)]
enum Happening {
    Tick { node: NodeId, run: u32 },
    Flush { node: NodeId, run: u32 },
    DiskOp { node: NodeId, run: u32, lane: Lane },
    DiskDone { node: NodeId, run: u32, done: Done },
    ReadDone { node: NodeId, run: u32, token: u64, result: std::result::Result<Bytes, DiskError> },
    Look,
    Peer { from: NodeId, to: NodeId, message: PeerMessage },
    Unreachable { node: NodeId, run: u32, other: NodeId },
    Call { from: ClientId, to: NodeId, call: CallId, what: Call },
    Response { from: NodeId, to: ClientId, call: CallId, result: Result<Response> },
    Wake(ClientId),
    Fault,
    Parting(Fault),
    Start(NodeId),
    Resume { node: NodeId, run: u32 },
    Heal { partition: u32 },
    Voted { voter: NodeId, candidate: NodeId },
    DiskSpeed { node: NodeId, speed: Speed },
    DiskSpace(NodeId),
    ReadsWell(NodeId),
}

/// A power cut that waits for a disk operation of the first of its victims.
#[derive(Debug)]
struct Armed {
    victims: Vec<(NodeId, u64)>,
    operation: u32,
    performed: bool,
}

/// What came of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What should not have been; empty is good.
    pub anomalies: Vec<Anomaly>,
    /// The hash of its story.
    pub trace_hash: u64,
    /// Lines of its story.
    pub trace_lines: u64,
    /// How much was checked.
    pub counts: Counts,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u32>,
    /// How long it lasted, in its own time.
    pub lasted_us: u64,
    /// How many times nodes or replicas were moved about.
    pub moves: u64,
    /// How many times a group fell asleep on a node.
    pub slept: u64,
    /// How many times one woke up, by reason.
    pub woken: BTreeMap<&'static str, u64>,
    /// Calls of clients that were answered.
    pub operations: u64,
    /// How many times a group had another leader than before.
    pub elections: u64,
    /// How many times a node started from what a crash had left.
    pub recoveries: u64,
}

/// So many calls must be answered in a second of a world that counts.
const OPERATIONS_PER_S: u64 = 50;

impl Outcome {
    /// What is missing for the world to count as one that put anything to the test; `None` if it does.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        let of_disks = ["disk failure", "full disk", "slow disk", "rot", "journal rot", "directory gone"];
        let has_disk_fault = of_disks.iter().any(|fault| self.faults.contains_key(fault));
        match () {
            () if self.operations * 1_000_000 < OPERATIONS_PER_S * self.lasted_us => Some("operations"),
            () if self.elections == 0 => Some("an election"),
            () if self.recoveries == 0 => Some("a recovery from a crash"),
            () if !has_disk_fault => Some("a disk fault"),
            () => None,
        }
    }
}

/// A world.
#[derive(Debug)]
pub struct World {
    options: Options,
    story: Story,
    queue: Queue<Happening>,
    network: Network,
    nemesis: Nemesis,
    processes: BTreeMap<NodeId, Process<Happening>>,
    /// The machines there are.
    nodes: Vec<NodeId>,
    founders: BTreeSet<NodeId>,
    /// How many times machines were started that are gone.
    runs: BTreeMap<NodeId, u32>,
    sight: Sight,
    /// Where replicas were seen: a machine, as long as it has this data directory.
    homes: Homes,
    /// Nodes that wait for another replica of the metadata.
    renewing: BTreeSet<NodeId>,
    clients: Vec<(Box<dyn Client>, Dice)>,
    partitions: Vec<TopicPartition>,
    checker: Checker,
    next_call: u64,
    next_stream: u32,
    /// No new faults, no new work.
    settling: bool,
    armed: Option<Armed>,
    /// The power of this node goes when it has given its vote.
    vote_awaited: Option<NodeId>,
    /// Which partition of the network is the latest.
    partition: u32,
    /// Nodes whose segments have decayed.
    harmed: BTreeSet<NodeId>,
    /// Nodes whose journal has, or whose replica of the metadata the others have given up.
    doubtful: BTreeSet<NodeId>,
    told_unreachable: BTreeMap<(NodeId, NodeId), u64>,
    faults: BTreeMap<&'static str, u32>,
    slept: u64,
    woken: BTreeMap<&'static str, u64>,
    operations: u64,
    /// Terms in which groups had leaders.
    terms: BTreeSet<(GroupId, Term)>,
    recoveries: u64,
}

impl World {
    /// A world before its beginning.
    #[must_use]
    pub fn new(options: Options, story: Story) -> Self {
        let nodes: Vec<NodeId> = (1..=options.nodes).map(NodeId).collect();
        let founders: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let machine = |node| (node, Process::new(&options, node, &founders, Speed::QUICK));
        Self {
            story,
            queue: Queue::default(),
            network: Network::new(Dice::new(options.seed, "network"), Weather::CALM),
            nemesis: Nemesis::new(Dice::new(options.seed, "faults"), options.mix, nodes.clone()),
            processes: nodes.iter().copied().map(machine).collect(),
            nodes,
            founders,
            runs: BTreeMap::new(),
            sight: Sight::default(),
            homes: Homes::default(),
            renewing: BTreeSet::new(),
            clients: Vec::new(),
            partitions: Vec::new(),
            checker: Checker::default(),
            next_call: 0,
            next_stream: 0,
            settling: false,
            armed: None,
            vote_awaited: None,
            partition: 0,
            harmed: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            told_unreachable: BTreeMap::new(),
            faults: BTreeMap::new(),
            slept: 0,
            woken: BTreeMap::new(),
            operations: 0,
            terms: BTreeSet::new(),
            recoveries: 0,
            options,
        }
    }

    /// Lets the world run its course.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        self.found();
        if self.is_sound() {
            self.trouble();
        }
        if self.is_sound() {
            self.heal();
            self.settle(self.options.settle_us);
        }
        if self.is_sound() {
            self.look_for_forgotten();
        }
        if self.is_sound() && self.options.absence {
            self.absence();
        }
        if self.is_sound() {
            self.last_night();
            self.settle(self.options.settle_us);
        }
        // Whatever did not come right: is something gone, too?
        if self.checker.anomalies().iter().all(|anomaly| anomaly.kind == Kind::Stuck) && !self.partitions.is_empty() {
            self.audit();
        }
        self.checker.judge();
        let groups: BTreeSet<GroupId> = self.terms.iter().map(|(group, _)| *group).collect();
        Outcome {
            elections: (self.terms.len() - groups.len()) as u64,
            operations: self.operations,
            recoveries: self.recoveries,
            anomalies: self.checker.anomalies().to_vec(),
            trace_hash: self.story.hash(),
            trace_lines: self.story.lines(),
            counts: self.checker.counts(),
            faults: self.faults,
            lasted_us: self.queue.now_us(),
            moves: self.clients.iter().map(|(client, _)| client.begun()).sum(),
            slept: self.slept,
            woken: self.woken,
        }
    }

    fn is_sound(&self) -> bool {
        self.checker.anomalies().is_empty()
    }

    fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        self.story.tell(self.queue.now_us(), what);
    }

    /// Runs until then, or until something is wrong.
    fn run_until(&mut self, by_us: u64) {
        while self.is_sound()
            && let Some(happening) = self.queue.next_by(by_us)
        {
            self.happen(happening);
        }
    }

    /// Everything is well, and the cluster comes into being.
    fn found(&mut self) {
        for node in self.nodes.clone() {
            self.start(node);
        }
        let machines: Vec<_> = self.processes.iter().map(|(&node, process)| (node, process.incarnation())).collect();
        let workload = self.options.workload;
        let retention = workload.retention_bytes.map(|bytes| ("retention.bytes".to_owned(), bytes.to_string()));
        let segments = ("segment.bytes".to_owned(), (1 << 20).to_string());
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions: workload.partitions,
            replicas: 0,
            config: retention.into_iter().chain([segments]).collect(),
            schema_json: None,
        };
        self.employ(Box::new(Admin::founding(&machines, topic, workload.patience_us)));
        while self.is_sound() && self.partitions.is_empty() {
            if self.queue.now_us() > FOUNDING_US {
                let waits = self.clients.iter().find_map(|(client, _)| client.unfinished());
                self.checker.report(Kind::Stuck, format!("the cluster does not come into being: {waits:?}"));
            }
            self.run_until(self.queue.now_us() + LOOK_US);
            self.partitions = self.topic_partitions();
        }
        for partition in self.partitions.clone() {
            let aim = |n: u32| self.nodes[n as usize % self.nodes.len()];
            let producers = (0..workload.producers).map(|n| Producer::new(partition, workload, aim(n)));
            let readers = (0..workload.readers).map(|n| Reader::new(partition, aim(n)));
            let mut clients: Vec<Box<dyn Client>> = vec![Box::new(Auditor::new(partition, aim(0)))];
            clients.extend(producers.map(|client| Box::new(client) as _));
            clients.extend(readers.map(|client| Box::new(client) as _));
            clients.into_iter().for_each(|client| self.employ(client));
        }
    }

    fn employ(&mut self, client: Box<dyn Client>) {
        let id = ClientId(self.clients.len());
        self.clients.push((client, Dice::new(self.options.seed, &format!("client {}", id.0))));
        self.queue.after(0, Happening::Wake(id));
    }

    /// The partitions of the topic, once every node knows it.
    fn topic_partitions(&self) -> Vec<TopicPartition> {
        let mut topic = None;
        for process in self.processes.values() {
            let Some(running) = &process.running else { return Vec::new() };
            let known = running.node.view().metadata.borrow().topic(TOPIC).cloned();
            if known.is_none() {
                return Vec::new();
            }
            topic = known;
        }
        topic.map_or_else(Vec::new, |topic| {
            let of = |p: &levada_broker::cluster::metadata::Partition| p.partition;
            topic.partitions.iter().map(|p| TopicPartition { topic: topic.id, partition: of(p) }).collect()
        })
    }

    /// Somebody moves nodes and replicas about, if the options say so.
    fn employ_mover(&mut self) {
        if self.options.moves {
            let last = self.options.nodes;
            let replicas = self.nodes.len().min(REPLICAS);
            let spares = (last + 1..=last + SPARES).map(NodeId).collect();
            let losses = self.options.losses;
            self.employ(Box::new(Mover::new(TOPIC, spares, u32::try_from(replicas).unwrap_or(1), losses)));
            if losses {
                self.employ(Box::new(Recoverer::default()));
            }
            self.queue.after(0, Happening::Look);
        }
    }

    /// The time of faults.
    fn trouble(&mut self) {
        self.employ_mover();
        self.network.weather = self.options.weather;
        for (node, speed) in self.nodes.clone().into_iter().zip(self.options.disks.clone()) {
            self.queue.after(0, Happening::DiskSpeed { node, speed });
        }
        let first_us = self.nemesis.rest_us();
        self.queue.after(first_us, Happening::Fault);
        self.run_until(self.queue.now_us() + self.options.faults_us);
    }
}
