//! One node's process and the machine it runs on: the core, its disk lanes, and the thin shell around them.
//!
//! What the shell does in production with threads and sockets is here a few lines: numbers for requests, answers to
//! who asked, reads from what the core shows. A process may be down, up, or paused; a paused one takes nothing in and
//! begins nothing, while its machine finishes the disk operation that is under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_broker::node::{
    MemberLoss, Node, NodeConfig, NodeOpenError, ScrubConfig, Watermarks,
    event::{Now, RequestId},
    sleeping::{SleepTotals, Wake},
};
use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{ClusterId, IncarnationId, NodeId, Offset, TopicPartition},
    source::LogBounds,
};
use levada_storage_engine::{
    config::{SegmentConfig, StoreConfig},
    disk::{Disk as _, DiskError, DiskSpace, FileName},
    journal::{JournalConfig, JournalId},
    sim_disk::{CrashPlan, SimDisk},
    store::{DirIdentity, GroupState, Store},
};
use uuid::Uuid;

use crate::{
    checker::Chunk,
    clients::{CallId, Response},
    dice::Dice,
    disks::{Lanes, Speed},
    network::ClientId,
    options::{Lie, Options},
};

/// How often the driver looks what the disk has left.
const SPACE_TICKS: u64 = 20;
/// After this a process that could not start because its disk is full is started again.
const FULL_RETRY_US: u64 = 300_000;
/// More operations than any world has.
const NEVER: u64 = 1 << 60;
/// Replicas of each partition, if there are as many nodes.
pub const REPLICAS: usize = 3;
/// When simulated time begins, in milliseconds since 1970: a moment of no meaning.
const EPOCH_MS: i64 = 1_800_000_000_000;

/// What happens to an answer of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes to the client.
    Answer,
    /// The metadata is as new as the question now: the client gets the topic of this name.
    Topic(String),
}

/// A request that the core has not answered yet.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Who asked.
    pub client: ClientId,
    /// Under which number.
    pub call: CallId,
    /// What the answer is for.
    pub then: Then,
    /// Since when.
    pub since_us: u64,
}

/// A process that is up.
#[derive(Debug)]
pub struct Running<H> {
    /// The core.
    pub node: Node,
    /// Its disk lanes.
    pub lanes: Lanes,
    /// The end of the round of events is planned.
    pub flush_planned: bool,
    /// What happened while the process was paused, if it is.
    pub held: Option<Vec<H>>,
    /// Requests without an answer.
    pub waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    started_us: u64,
    /// What had slept and woken when it was last looked at.
    sleeps_seen: SleepTotals,
}

impl<H> Running<H> {
    /// A number for a request of a client.
    pub fn expect(&mut self, waiting: Waiting) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.waiting.insert(id, waiting);
        id
    }

    /// How many groups fell asleep since the last call, and how many woke up, by reason.
    pub fn new_sleeps(&mut self) -> (u64, BTreeMap<&'static str, u64>) {
        let now = self.node.sleep_totals();
        if *now == self.sleeps_seen {
            return (0, BTreeMap::new());
        }
        let before = std::mem::replace(&mut self.sleeps_seen, now.clone());
        let more = |(why, count): (&Wake, &u64)| {
            let more = count - before.woken.get(why).copied().unwrap_or(0);
            (more > 0).then_some((why.name(), more))
        };
        (now.slept - before.slept, now.woken.iter().filter_map(more).collect())
    }

    /// Whether nothing goes in.
    pub const fn is_paused(&self) -> bool {
        self.held.is_some()
    }

    /// Reads what this node shows.
    ///
    /// # Errors
    /// As the door would answer.
    pub fn read(
        &self,
        partition: TopicPartition,
        offset: Offset,
        bytes_max: usize,
        lie: Option<Lie>,
    ) -> Result<Response, Error> {
        let view = self.node.view().partition(partition);
        let view = view.ok_or_else(|| Error::new(ErrorCode::NotLeader, "no replica here"))?;
        let state = *view.state.borrow();
        let uncommitted = lie == Some(Lie::ReadUncommitted);
        let high_watermark = if uncommitted { Offset(u64::MAX) } else { state.high_watermark };
        let mut chunk = Chunk { log_start: state.log_start, high_watermark, batches: Vec::new() };
        if (state.log_start..high_watermark).contains(&offset) {
            match view.log.read(offset, bytes_max, high_watermark) {
                Ok(read) => chunk.batches = read.batches,
                Err(_) if uncommitted => {}
                Err(error) => return Err(Error::new(ErrorCode::Damaged, error.to_string())),
            }
        }
        Ok(Response::Chunk(chunk))
    }

    /// How far this node believes that a partition reaches, asking nobody: a lie.
    pub fn stale_bounds(&self, partition: TopicPartition) -> Option<LogBounds> {
        let state = *self.node.view().partition(partition)?.state.borrow();
        Some(LogBounds {
            log_start: state.log_start,
            high_watermark: state.high_watermark,
            bytes: 0,
            leader_epoch: state.term,
        })
    }
}

/// Why a process did not start.
#[derive(Debug)]
pub enum NotStarted {
    /// The power went meanwhile.
    Power(CrashPlan),
    /// The core says no.
    Failed {
        /// It may: its disk is at fault. It is to be tried again after this time.
        excused_us: Option<u64>,
        /// What it says.
        error: NodeOpenError,
    },
}

/// A machine with its process.
#[derive(Debug)]
pub struct Process<H> {
    config: NodeConfig,
    disk: Arc<SimDisk>,
    dice: Dice,
    speed: Speed,
    lie: Option<Lie>,
    skew_ms: i64,
    /// What this machine takes for 50 milliseconds.
    pub tick_us: u64,
    /// How many times it was started: what is meant for an earlier process does not reach a later one.
    pub run: u32,
    /// The process, when it is up.
    pub running: Option<Running<H>>,
    /// A failure is planted in its disk: when it strikes, the process ends, and comes back after this time.
    pub excused_us: Option<u64>,
    /// Its disk has no space left.
    pub is_full: bool,
    /// What it reads for others is not what stands there.
    pub misreads: bool,
    ticks: u64,
    /// It was asked to stop; then it comes back after this time.
    pub stopping_us: Option<u64>,
    /// The last run came to its own end, or there was none.
    was_stopped: bool,
    /// The last run said that its replica of the metadata is of no use.
    member_loss: Option<MemberLoss>,
}

impl<H> Process<H> {
    /// A machine with an empty data directory.
    #[must_use]
    pub fn new(options: &Options, node: NodeId, founders: &BTreeSet<NodeId>, speed: Speed) -> Self {
        let incarnation = IncarnationId(Uuid::from_u64_pair(options.seed, node.get()));
        let (process, identity, journal) = Self::empty(options, node, incarnation, founders, speed);
        identity.format(&*process.disk, journal).expect("an empty disk can be formatted");
        process
    }

    /// A machine with the data directory of a node that has just joined; `run` counts on from the machine before.
    #[must_use]
    pub fn joining(
        options: &Options,
        (node, incarnation): (NodeId, IncarnationId),
        founders: &BTreeSet<NodeId>,
        run: u32,
        state: GroupState,
    ) -> Self {
        let (mut process, identity, journal) = Self::empty(options, node, incarnation, founders, Speed::QUICK);
        process.run = run;
        Store::format_joining(&*process.disk, &identity, journal, state).expect("an empty disk can be formatted");
        process
    }

    fn empty(
        options: &Options,
        node: NodeId,
        incarnation: IncarnationId,
        founders: &BTreeSet<NodeId>,
        speed: Speed,
    ) -> (Self, DirIdentity, JournalId) {
        let mut dice = Dice::new(options.seed, &format!("machine {node} {incarnation}"));
        let mut draw = |range| dice.between(range);
        let (tick_us, skew_ms) = (draw(48_500..=51_500), draw(0..=4_000));
        let config = NodeConfig {
            cluster: ClusterId(Uuid::from_u64_pair(options.seed, 0)),
            node,
            incarnation,
            founders: founders.clone(),
            default_replicas: u32::try_from(REPLICAS).unwrap_or(u32::MAX),
            seed: 0,
            store: store_config(options),
            copy_bytes_per_s: options.copy_bytes_per_s,
            scrub: ScrubConfig { bytes_per_s: 128 << 20, interval_ms: 5_000 },
            watermarks: Watermarks { reserve_bytes: options.reserve_bytes, reserve_percent: 100 },
            slow_disk_ms: 20,
            journal_queue_ms: 20,
            member_loss: None,
            metadata_log_bytes: draw(1 << 10..=16 << 10),
            absent_ms: draw(1_000..=20_000),
        };
        let disk = Arc::new(SimDisk::new(dice.seed()));
        let identity = DirIdentity { cluster: config.cluster, node, incarnation: config.incarnation };
        let (high, low) = incarnation.0.as_u64_pair();
        let journal = JournalId::from_bytes(Uuid::from_u64_pair(!options.seed ^ high, node.get() ^ low).into_bytes());
        let process = Self {
            config,
            disk,
            dice,
            speed,
            lie: options.lie,
            skew_ms: i64::try_from(skew_ms).unwrap_or(0) - 2_000,
            tick_us,
            run: 0,
            running: None,
            excused_us: None,
            is_full: false,
            misreads: false,
            ticks: 0,
            stopping_us: None,
            was_stopped: true,
            member_loss: None,
        };
        (process, identity, journal)
    }

    /// Its data directory.
    #[must_use]
    pub const fn incarnation(&self) -> IncarnationId {
        self.config.incarnation
    }

    /// Its disk.
    #[must_use]
    pub const fn disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    /// The time as this process sees it.
    #[must_use]
    pub fn now(&self, at_us: u64) -> Now {
        let started_us = self.running.as_ref().map_or(at_us, |running| running.started_us);
        let wall_ms = EPOCH_MS + i64::try_from(at_us / 1_000).unwrap_or(0) + self.skew_ms;
        Now { mono_ms: (at_us - started_us) * 50_000 / self.tick_us / 1_000, wall_ms }
    }

    /// Whether the last run came to its own end, or there was none.
    #[must_use]
    pub const fn was_stopped(&self) -> bool {
        self.was_stopped
    }

    /// The run has come to its own end.
    pub const fn stopped(&mut self) {
        self.was_stopped = true;
    }

    /// The machine's clock jumps.
    pub const fn jump(&mut self, by_ms: i64) {
        self.skew_ms += by_ms;
    }

    /// Starts the process from what is on the disk. In unsteady times the power may go meanwhile.
    ///
    /// # Errors
    /// The core cannot start.
    pub fn start(&mut self, at_us: u64, unsteady: bool) -> Result<(), NotStarted> {
        self.run += 1;
        self.stopping_us = None;
        self.was_stopped = false;
        let member_loss = self.member_loss.take();
        let config = NodeConfig { seed: self.dice.seed(), member_loss, ..self.config.clone() };
        let cut = unsteady && self.dice.chance(10);
        let off_at = self.disk.performed() + self.dice.between(1..=8);
        if cut {
            self.disk.halt_after(off_at - self.disk.performed());
        }
        let opened = Node::open(Arc::clone(&self.disk) as Arc<_>, config);
        if cut && self.disk.performed() == off_at {
            let plan = self.crash_plan();
            self.disk.crash(&plan);
            return Err(NotStarted::Power(plan));
        }
        self.disk.halt_after(NEVER);
        let node = match opened {
            Ok(node) => node,
            Err(error) => {
                // Without a free file of the journal it cannot begin.
                let excused_us = if self.is_full { Some(FULL_RETRY_US) } else { self.excuse() };
                return Err(NotStarted::Failed { excused_us, error });
            }
        };
        let dice = Dice::new(self.dice.seed(), "lanes");
        self.running = Some(Running {
            node,
            lanes: Lanes::new(Arc::clone(&self.disk), dice, self.speed, self.lie),
            flush_planned: false,
            held: None,
            waiting: BTreeMap::new(),
            next_request: 0,
            started_us: at_us,
            sleeps_seen: SleepTotals::default(),
        });
        Ok(())
    }

    /// Writes down what the node gets for a replica of the metadata that is lost.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn renew_metadata(&mut self, state: GroupState) -> Result<(), NodeOpenError> {
        Node::renew_metadata(Arc::clone(&self.disk) as Arc<_>, &self.config, state)
    }

    /// It does not start with its replica of the metadata as it is.
    pub const fn give_up_metadata(&mut self, loss: MemberLoss) {
        self.member_loss = Some(loss);
    }

    /// Whether it may end because of its disk now, and how long it is down then. That the disk is full is no reason.
    pub const fn excuse(&mut self) -> Option<u64> {
        self.excused_us.take()
    }

    /// What the disk has left, if the driver looks at this tick.
    pub fn look_at_space(&mut self) -> Option<Option<DiskSpace>> {
        self.ticks += 1;
        let space = self.disk.space().expect("it can be asked");
        self.ticks.is_multiple_of(SPACE_TICKS).then_some(space)
    }

    /// The process is gone; what it had written stays in the page cache.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// The power is gone, and the disk is left with what the plan says.
    pub fn cut_power(&mut self, plan: &CrashPlan) {
        if let Some(mut running) = self.running.take() {
            running.lanes.interrupt();
        }
        self.disk.crash(plan);
    }

    /// What a power cut would leave, this time.
    pub fn crash_plan(&mut self) -> CrashPlan {
        CrashPlan::seeded(self.dice.seed())
    }

    /// What a read gives: what stands there, or not.
    ///
    /// # Errors
    /// As the disk refuses.
    pub fn read(&mut self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        let bytes = self.disk.read(file, pos, len)?;
        if !self.misreads || bytes.is_empty() {
            return Ok(bytes);
        }
        let at = usize::try_from(self.dice.between(0..=bytes.len() as u64 - 1)).unwrap_or(0);
        let mut wrong = bytes.to_vec();
        wrong[at] ^= 1;
        Ok(wrong.into())
    }

    /// How long a read takes.
    pub fn read_us(&mut self) -> u64 {
        self.speed.base_us + self.dice.between(0..=self.speed.base_us)
    }

    /// How long the core may gather events before its round ends.
    pub fn round_us(&mut self) -> u64 {
        self.dice.between(0..=300)
    }

    /// The disk behaves so from now on.
    pub fn set_speed(&mut self, speed: Speed) {
        self.speed = speed;
        if let Some(running) = &mut self.running {
            running.lanes.speed = speed;
        }
    }

    /// How the disk behaves.
    #[must_use]
    pub const fn speed(&self) -> Speed {
        self.speed
    }
}

/// Storage small enough that everything it does happens within seconds.
fn store_config(options: &Options) -> StoreConfig {
    let file_bytes = options.journal_file_bytes;
    StoreConfig {
        journal: JournalConfig { file_bytes, files_keep: 3, gather_bytes: 256 << 10 },
        segment: SegmentConfig {
            write_bytes_min: options.write_bytes_min,
            write_bytes_max: 64 << 10,
            ..SegmentConfig::default()
        },
        checkpoint_bytes: options.checkpoint_bytes,
        sync_files_max: 4,
        tail_bytes_max: options.tail_bytes_max,
        tail_keep_bytes: 64 << 10,
        unwritten_ticks_max: 10,
        journal_held_bytes_max: 2 * options.tail_bytes_max,
        reserve_bytes: options.reserve_bytes / 8,
    }
}
