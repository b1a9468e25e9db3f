//! The node core: every raft group of this node, its storage and the controller, as one synchronous state machine.
//!
//! Events go in ([`Node::handle`]), effects come out; [`Node::flush`] ends a round of events, so that batches which
//! arrive together share raft entries, and entries of many groups share a journal block. The core owns no thread,
//! clock or socket: in production a driver feeds it ([`crate::runtime`]), in the simulator the world does.
//!
//! What is shown to readers goes through [`crate::cluster::view::ClusterView`], which the core alone writes.
//!
//! Invariants:
//! - a produce request is answered with success only when its entry is committed, which includes that this node's or
//!   a quorum of other nodes' journals have it durable;
//! - every request is answered exactly once;
//! - an effect that must follow durability (a vote, an acknowledgement) is not put out before the journal's event.

mod admission;
mod alone;
mod controller;
mod coordinating;
mod copying;
pub mod event;
mod fetching;
mod fitness;
mod followed;
pub mod footing;
mod housekeeping;
mod keeping;
mod mending;
mod open_error;
mod pace;
mod partitions;
mod placing;
mod reads;
mod reclaiming;
mod regaining;
mod renewal;
mod rota;
mod scrubbing;
pub(crate) mod shortening;
pub mod sleeping;
mod slow;
mod space;
mod unsound;
mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses},
    ids::{ClusterId, GroupId, IncarnationId, LogIndex, NodeId, ReplicaId, TopicPartition},
};
use levada_storage_engine::{
    disk::{Disk, DiskError, Lane},
    entry::EntryKind,
    planted::{self, Planted},
    store::{GroupCheckpoint, RecoveredGroup, Store, StoreConfig, StoreEffect, StoreEvent},
};

use self::{
    admission::Admission,
    alone::Alone,
    controller::Controller,
    copying::Copies,
    event::{Answer, Effect, Event, Now, Request, RequestId},
    fetching::Budget,
    fitness::Fitness,
    followed::FollowedRequests,
    mending::Mends,
    pace::Pace,
    reads::Reads,
    regaining::Regaining,
    rota::Rota,
    scrubbing::Scrub,
    shortening::Shortening,
    sleeping::Sleepers,
    slow::SlowDisk,
    space::Space,
    unsound::Reports,
};
use crate::{
    cluster::view::ClusterView,
    partition::machine::Partition,
    raft::{
        membership::{Conf, Membership},
        wire::{PeerMessage, kind_of},
    },
    random::Random,
};
pub use space::Watermarks;

pub use self::{
    open_error::NodeOpenError,
    renewal::{MemberLoss, Need},
    scrubbing::ScrubConfig,
};

/// Who a node is and how it behaves.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: IncarnationId,
    /// The nodes that founded the cluster: the first voters of the metadata group.
    pub founders: BTreeSet<NodeId>,
    /// Replicas of a topic that does not say.
    pub default_replicas: u32,
    /// Where ids that must be unique come from.
    pub seed: u64,
    /// How it stores.
    pub store: StoreConfig,
    /// What new replicas and damaged segments on this node may copy from others in a second, together.
    pub copy_bytes_per_s: u64,
    /// How often, and how fast, all segments are read to see whether they are sound.
    pub scrub: ScrubConfig,
    /// When its disk is full.
    pub watermarks: Watermarks,
    /// A disk whose journal blocks take less than this is never slow; 0: none is.
    pub slow_disk_ms: u64,
    /// How long the line before the journal's disk may be, about; 0: as long as memory lets it.
    pub journal_queue_ms: u64,
    /// A replica that has not answered for so long does not hold back retention any more: it is replaced if the log starts behind
    /// its end when it is back.
    pub absent_ms: u64,
    /// About how much of the metadata's log it keeps, for members that are behind.
    pub metadata_log_bytes: u64,
    /// It cannot go on with its replica of the metadata group as it is, the last run said ([`Effect::GiveUpMetadata`]): it does not
    /// open with it.
    pub member_loss: Option<MemberLoss>,
}

/// The core of one node.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    store: Store,
    view: Arc<ClusterView>,
    logger: slog::Logger,
    random: Random,
    controller: Controller,
    partitions: BTreeMap<GroupId, Partition>,
    places: BTreeMap<TopicPartition, GroupId>,
    /// Recovered from disk, but not yet named by the metadata as far as it is applied.
    dormant: BTreeMap<GroupId, RecoveredGroup>,
    /// Replicas that come into being here.
    copies: Copies,
    /// Damaged segments of replicas that go on.
    mends: Mends,
    /// What both may ask of others.
    budget: Budget,
    scrub: Scrub,
    /// Replicas that have lost what they had: their leaders are to have them replaced.
    lost: BTreeMap<GroupId, ReplicaId>,
    /// Of these, those that go on nevertheless as soon as this checkpoint is durable.
    reclaimed: BTreeMap<GroupId, u64>,
    alone: Alone,
    /// As leader of groups: which replicas have damaged segments.
    reports: Reports,
    /// Another replica of group 0 was given to this node, with this entry: the one here is to end.
    renewed_at: Option<LogIndex>,
    /// As leader of group 0: at which tick members were asked whether they still need what is not in the log.
    asked_further: BTreeMap<ReplicaId, u64>,
    /// Whether group 0 is about to go on from what is here.
    regaining: Regaining,
    /// Of the log of group 0.
    shortening: Shortening,
    /// As controller: everybody has the place in group 0 that is meant for it.
    metadata_settled: bool,
    /// Groups that may have something ready.
    dirty: BTreeSet<GroupId>,
    admission: Admission,
    space: Space,
    slow_disk: SlowDisk,
    pace: Pace,
    fitness: Fitness,
    /// The next tick at which a checkpoint may be begun because it makes space.
    freeing_at: u64,
    reads: Reads,
    followed: FollowedRequests,
    /// New groups whose preferred leader is here, with the tick at which it asks for votes.
    campaigns: BTreeMap<GroupId, u64>,
    /// Which groups are awake.
    sleepers: Sleepers,
    /// Whose segments are looked at for what may go.
    retained: Rota,
    ticks: u64,
    now: Now,
    /// The tick by which a shutdown ends, once it was asked for.
    stopping: Option<u64>,
    stopped: bool,
}

impl Node {
    /// Recovers a node from its data directory.
    ///
    /// # Errors
    /// The directory cannot be read, is damaged beyond recovery, or belongs to another node.
    pub fn open(disk: Arc<dyn Disk>, mut config: NodeConfig) -> Result<Self, NodeOpenError> {
        // Without an answer it is as if nothing bounded it: the driver asks again.
        let left = disk.space().ok().flatten();
        if let Some(left) = left {
            config.store.reserve_bytes = config.watermarks.reserve_file_bytes(left.total_bytes);
        }
        let mut space = Space::new(config.watermarks);
        space.measure(left);
        let recovered = Store::open(disk, config.store, &config.identity())?;
        let mut dormant: BTreeMap<GroupId, RecoveredGroup> =
            recovered.groups.into_iter().map(|group| (group.group, group)).collect();
        let mut store = recovered.store;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let controller = Controller::start(&config, &mut store, dormant.remove(&GroupId::METADATA), &logger)?;
        let view = Arc::new(ClusterView::new(config.cluster, config.node, config.incarnation));
        // Not the numbers that ids are made of.
        let sleepers = Sleepers::new(Random::new(!config.seed).next());
        let (budget, scrub) = (Budget::new(config.copy_bytes_per_s), Scrub::new(config.scrub));
        let shortening = Shortening::new(config.metadata_log_bytes);
        let mut node = Self {
            random: Random::new(config.seed),
            space,
            slow_disk: SlowDisk::new(config.slow_disk_ms),
            pace: Pace::new(config.journal_queue_ms),
            fitness: Fitness::default(),
            freeing_at: 0,
            config,
            store,
            view,
            logger,
            controller,
            partitions: BTreeMap::new(),
            places: BTreeMap::new(),
            dormant,
            copies: Copies::default(),
            mends: Mends::default(),
            budget,
            scrub,
            lost: BTreeMap::new(),
            reclaimed: BTreeMap::new(),
            alone: Alone::default(),
            reports: Reports::default(),
            renewed_at: None,
            asked_further: BTreeMap::new(),
            regaining: Regaining::default(),
            shortening,
            metadata_settled: false,
            dirty: BTreeSet::from([GroupId::METADATA]),
            admission: Admission::default(),
            followed: FollowedRequests::default(),
            reads: Reads::default(),
            campaigns: BTreeMap::new(),
            sleepers,
            retained: Rota::new(),
            ticks: 0,
            now: Now::default(),
            stopping: None,
            stopped: false,
        };
        if node.controller.is_superseded(node.config.incarnation) {
            return Err(NodeOpenError::Superseded { node: node.config.node });
        }
        let metadata = node.controller.metadata();
        if node.controller.is_renewed() {
            return Err(NodeOpenError::metadata_damaged(node.controller.group.replica(), Need::default(), &metadata));
        }
        // Nobody has asked for anything yet, so nobody is answered.
        let mut nothing = Vec::new();
        for topic in metadata.topics() {
            node.open_topic(topic, &mut nothing)?;
        }
        node.forget_deleted(&metadata);
        node.view.metadata.send_replace(metadata);
        Ok(node)
    }

    /// What this node shows to readers.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterView> {
        Arc::clone(&self.view)
    }

    /// What the store can tell about itself.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// How often leadership was handed over because this node's disk was full or slow.
    #[must_use]
    pub const fn handed_over(&self) -> u64 {
        self.fitness.handed()
    }

    /// Whether everything that this node leads has the replicas that it is to have, and none comes into being here.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let leads = self.partitions.values().filter(|partition| partition.leading.is_some());
        let metadata_is = self.metadata_settled || !self.controller.is_leading();
        self.copies.len() == 0 && self.lost.is_empty() && metadata_is && leads.into_iter().all(|led| led.settled)
    }

    /// Whether it is the controller, and has all metadata that is committed.
    #[must_use]
    pub const fn is_controller(&self) -> bool {
        self.controller.is_leading()
    }

    /// Where each of its groups stands, a line each, for whoever looks for what is stuck.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let group = |group: &crate::raft::group::Group| {
            let (conf, stats) = (group.conf(), group.log().stats());
            let ids = |of: &BTreeSet<ReplicaId>| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            format!(
                "g{} replica {} term {} leader {:?}: {}..={} committed {}, voters [{}] outgoing [{}] learners [{}] next [{}]",
                group.id(),
                group.replica(),
                group.term(),
                group.leader().map(NodeId::get),
                stats.first_index,
                stats.last_index,
                group.committed(),
                ids(&conf.voters),
                ids(&conf.outgoing),
                ids(&conf.learners),
                ids(&conf.learners_next),
            )
        };
        let partitions = self.partitions.values().map(|partition| {
            let placed = partition.placed().map(|placed| (placed.replicas.clone(), placed.target.clone()));
            let sleeps = if self.sleepers.is_asleep(partition.group.id()) { "sleeps" } else { "awake" };
            format!("{} {sleeps}, settled {}, placed {placed:?}", group(&partition.group), partition.settled)
        });
        let others = [
            format!("copies {:?}", self.copies),
            format!("mends {:?}", self.mends),
            format!("lost {:?}", self.lost),
            format!("damage reported {:?}", self.reports),
        ];
        std::iter::once(group(&self.controller.group)).chain(partitions).chain(others).collect()
    }

    /// Takes an event. What follows from it may come out here or with the next [`Node::flush`].
    pub fn handle(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        self.now = now;
        match event {
            Event::Tick => self.tick(out),
            Event::Disk { token, result } => {
                self.slow_disk.end(token, now.mono_ms);
                self.pace.end(token, now.mono_ms);
                match self.store.on_disk(token, result) {
                    Ok(events) => self.on_store(events, out),
                    Err(poisoned) => out.push(Effect::Fatal { message: poisoned.to_string() }),
                }
            }
            Event::Space(space) => self.space.measure(space),
            Event::Read { token, result } => self.on_read(token, result, out),
            Event::Peer { from, message } => self.on_peer(from, message, out),
            Event::Unreachable { node } => {
                self.controller.group.report_unreachable(node);
                // Nothing is under way to the replicas of groups that sleep.
                for group in self.sleepers.awake() {
                    if let Some(partition) = self.partitions.get_mut(&group) {
                        partition.group.report_unreachable(node);
                    }
                }
            }
            Event::Request { id, request } => self.on_request(id, request, out),
            Event::Follow { id } => self.followed.follow(id, self.ticks),
            Event::Settings(settings) => {
                self.config.default_replicas = settings.default_replicas;
                self.config.copy_bytes_per_s = settings.copy_bytes_per_s;
                self.budget.set_rate(settings.copy_bytes_per_s);
                self.config.scrub = settings.scrub;
                self.scrub.configure(settings.scrub);
            }
            Event::Shutdown => self.begin_shutdown(out),
        }
    }

    /// Ends a round of events: proposes what waits, lets raft work, applies, and hands storage its work.
    pub fn flush(&mut self, out: &mut Vec<Effect>) {
        self.admit(out);
        while let Some(group) = self.dirty.pop_first() {
            if group == GroupId::METADATA {
                self.drive_controller(out);
            } else {
                self.drive_partition(group, out);
            }
        }
        let is_wanted = !self.store.is_checkpointing()
            && (self.copies.wants_checkpoint(&self.store)
                || self.survivors_are_ready()
                || self.regaining.is_ready(&self.controller)
                || self.checkpoint_makes_space());
        if self.store.checkpoint_due() || is_wanted {
            self.begin_checkpoint();
        }
        self.poll_store(out);
    }

    fn poll_store(&mut self, out: &mut Vec<Effect>) {
        let mut effects = Vec::new();
        self.store.poll(&mut effects);
        out.extend(effects.into_iter().map(|effect| match effect {
            StoreEffect::Disk { lane, token, ops } => {
                if lane == Lane::Journal {
                    self.slow_disk.begin(token, &ops, self.now.mono_ms);
                    self.pace.begin(token, &ops, self.now.mono_ms);
                }
                Effect::Disk { lane, token, ops }
            }
        }));
    }

    fn begin_checkpoint(&mut self) {
        if self.store.is_checkpointing() {
            return;
        }
        if self.regaining.is_waiting() {
            self.store.recapture(GroupId::METADATA);
        }
        let mut groups: Vec<GroupCheckpoint> = vec![self.regaining.capture(&self.controller)];
        let moved = |partition: &&Partition| self.store.has_moved(partition.group.id(), partition.applied());
        let alone = &mut self.alone;
        groups.extend(self.partitions.values().filter(moved).map(|partition| {
            let raft = &partition.group;
            let membership = if alone.capture(partition) { raft.alone() } else { raft.membership() };
            let conf_state = match partition.placed() {
                Some(placed) if planted::is(Planted::MembershipNotCheckpointed) => {
                    let first = placed.first().iter().map(|first| first.id);
                    Membership { replica: membership.replica, conf: Conf::of(first) }.encode()
                }
                _ => membership.encode(),
            };
            GroupCheckpoint {
                group: raft.id(),
                applied: partition.applied(),
                conf_state,
                app_state: partition.encode(),
            }
        }));
        self.copies.discard_strays(|group| self.mends.has(group), &mut self.store);
        self.store.begin_checkpoint(groups);
    }

    fn on_store(&mut self, events: Vec<StoreEvent>, out: &mut Vec<Effect>) {
        for event in events {
            match event {
                StoreEvent::Persisted { group, appends, .. } => {
                    if group == GroupId::METADATA {
                        self.controller.group.on_durable(appends);
                    } else if let Some(partition) = self.partitions.get_mut(&group) {
                        partition.group.on_durable(appends);
                    }
                    self.dirty.insert(group);
                }
                StoreEvent::Incoming { group } if self.mends.has(group) => {
                    self.mends.on_written(group, &mut self.budget, &mut self.store, out);
                }
                StoreEvent::Incoming { group } => {
                    self.copies.on_written(group, &mut self.budget, &mut self.store, out);
                }
                StoreEvent::IncomingFull { group } if self.mends.has(group) => {
                    self.mends.on_full(group, &mut self.store)
                }
                StoreEvent::IncomingFull { group } => self.copies.on_full(group, &mut self.store),
                StoreEvent::Repaired { group, first_index } => self.mends.on_repaired(group, first_index),
                StoreEvent::Checkpointed { number } => {
                    self.end_renewed(out);
                    self.go_alone();
                    self.open_reclaimed(number, out);
                    self.go_on_with_metadata_alone(out);
                    for arrived in self.copies.on_checkpoint(number) {
                        if let Err(error) = self.open_arrived(arrived) {
                            out.push(Effect::Fatal { message: error.to_string() });
                        }
                    }
                }
            }
        }
    }

    fn on_read(&mut self, token: u64, result: Result<Bytes, DiskError>, out: &mut Vec<Effect>) {
        if Scrub::is_its(token) {
            if let Some((group, first_index)) = self.scrub.on_read(token, result, &self.store, out) {
                self.note_damage(group, first_index);
            }
        } else {
            self.copies.on_read(token, result, &mut self.budget, &mut self.store, out);
        }
    }

    fn on_peer(&mut self, from: NodeId, message: PeerMessage, out: &mut Vec<Effect>) {
        self.hear_node(from);
        match message {
            PeerMessage::Raft { group, message } => {
                let replica = ReplicaId(message.get_from());
                if group == GroupId::METADATA && !self.is_of_one_history(from, &message, out) {
                    return;
                }
                if self.is_gone(group, replica) || !self.wake_for(group, &message) {
                    return;
                }
                let known = if group == GroupId::METADATA {
                    Some(&mut self.controller.group)
                } else {
                    self.partitions.get_mut(&group).map(|partition| &mut partition.group)
                };
                // A group that the metadata here does not name yet: raft sends again.
                let Some(known) = known else { return };
                // The journal may be faster than the segments for long. What is acknowledged stays in memory until a
                // segment has it, so there must be an end to it; raft sends again.
                if !message.entries.is_empty() && self.store.is_behind() {
                    return;
                }
                // Nor are records taken that the disk has no room for. What gets the cluster out of that is.
                let is_batch = |entry| kind_of(entry, &entry.data) == EntryKind::Batches;
                if self.space.refuses_entries() && message.entries.iter().any(is_batch) {
                    return;
                }
                known.step(from, *message);
                self.dirty.insert(group);
            }
            PeerMessage::Leadership { group, term } => self.on_leadership(from, group, term),
            PeerMessage::Placed { group, voters, targets_given } => self.on_placed(group, &voters, targets_given),
            PeerMessage::Lost { group, replica } => self.on_lost(group, replica, out),
            PeerMessage::MemberLost { replica, loss, term } => self.on_member_lost((from, term), replica, loss, out),
            PeerMessage::Replace { group, replica, settled_at } => self.on_replace(group, replica, settled_at),
            PeerMessage::Damaged { group, replica, is_unsound } => self.on_damaged(group, replica, is_unsound),
            PeerMessage::Roll { group } => self.on_roll_wanted(group),
            PeerMessage::Health(health) => self.fitness.hear(from, health, self.now.mono_ms),
            PeerMessage::CatchUp { group, what } => self.on_catch_up(from, group, what, out),
            PeerMessage::Beat { run } => self.on_beat(from, run),
            PeerMessage::Asleep { notices } => self.on_asleep(from, &notices),
        }
    }

    fn on_request(&mut self, id: RequestId, request: Request, out: &mut Vec<Effect>) {
        if self.stopping.is_some() {
            out.push(Effect::Reply { id, result: Err(going_down()) });
            return;
        }
        match request {
            Request::Produce { partition, batch } => self.admission.queue(id, partition, batch),
            Request::Bounds { partition } => self.bounds(id, partition, out),
            Request::Group { partition, ask } => self.on_group_request(id, partition, ask, out),
            Request::DescribeReplica { group } => {
                let result = self.describe_replica(group).map(|report| Answer::Replica(Box::new(report)));
                out.push(Effect::Reply { id, result });
            }
            Request::RecoverMetadata => self.regain_metadata(id, out),
            Request::CatchUpMember { node, incarnation, replica, need } => {
                let result = self.state_for_member(node, incarnation, replica, &need);
                out.push(Effect::Reply { id, result });
            }
            Request::TransferLeader { group, to } => self.transfer_leader(id, group, to, out),
            request => self.on_controller_request(id, request, out),
        }
    }

    /// Where a node listens, as far as the metadata knows.
    fn addresses(&self, node: Option<NodeId>) -> Option<NodeAddresses> {
        self.controller.addresses(node?)
    }
}

/// The answer of a node that ends.
fn going_down() -> Error {
    Error::new(ErrorCode::ShuttingDown, "this node is going down; ask another")
}

/// Applied index that a recovered group starts from, or the beginning.
fn recovered_applied(recovered: Option<&RecoveredGroup>) -> LogIndex {
    recovered.map_or(LogIndex(0), |recovered| recovered.applied)
}

#[cfg(test)]
mod tests;
