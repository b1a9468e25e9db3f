//! Which groups of a node are awake, and how nodes stand in for groups that sleep.
//!
//! `raft/hibernation.rs` says when a group may sleep and why that is safe; this is the bookkeeping around it. Ticks go to
//! awake groups only. Group 0 is never among them: it does not sleep, and carries the news of everything else.
//!
//! **Beats.** Each 200 ms a node tells every other one that it is there, with the number of its process. Any message counts
//! for that, too. A node that says nothing for a second is *lost*, and so is one whose number changes: then the groups wake
//! up that it led, and those led here that have no majority without it. When it is back, those led here that have a replica
//! there wake up for a moment, some with each tick. Those that are awake stay so for a while: by what its process before
//! answered they might fall asleep, though the replica is in doubt now and does not answer any more.
//!
//! **Notices.** What sleeps under a leader here is told to its followers when it falls asleep and each 10 seconds after that,
//! a few groups with each tick. A follower that has not been told for 25 seconds wakes up. A node whose replica takes no part
//! hears from them who leads, and tells it why.
//!
//! Beats and notices are sent once the cluster is at the feature level that knows them.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::ids::{GroupId, LogIndex, NodeId};
use levada_storage_engine::planted::{self, Planted};

use super::{Node, event::Effect, rota::Rota};
use crate::{
    cluster::feature::LEVEL_HIBERNATION,
    partition::machine::Partition,
    raft::{ELECTION_TICKS, TICK_MS, hibernation::Notice, wire::PeerMessage},
};

/// A group in which nothing happened for so long may sleep.
const QUIET_TICKS: u64 = 2_000 / TICK_MS;
/// How often it is looked whether it may.
const LOOK_TICKS: u64 = 4;
/// Time between two beats.
const BEAT_TICKS: u64 = 200 / TICK_MS;
/// A node that says nothing for so long is lost.
const LOST_TICKS: u64 = 1_000 / TICK_MS;
/// How often a leader says of each of its sleeping groups that it sleeps.
const NOTICE_TICKS: u64 = 10_000 / TICK_MS;
/// A follower to which that was not said for so long wakes up.
const UNCONFIRMED_TICKS: u64 = 25_000 / TICK_MS;
/// Groups that are woken in one tick because a node is back.
const WAKES_AT_ONCE: usize = 256;
/// So long such a group stays awake, if nothing else happens.
const MOMENT_TICKS: u64 = 500 / TICK_MS;
/// Notices in one message.
const NOTICES_MAX: usize = 1_024;

const _: () = assert!(MOMENT_TICKS < QUIET_TICKS);
// Meanwhile raft forgets who answered before, and only who answers again counts as there.
const _: () = assert!(MOMENT_TICKS >= ELECTION_TICKS as u64);
const _: () = assert!(2 * BEAT_TICKS < LOST_TICKS && 2 * NOTICE_TICKS < UNCONFIRMED_TICKS);

/// Why a group woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// Another replica said something.
    Message,
    /// Somebody wants something of it: a record appended, an end of the log, another leader.
    Request,
    /// It has work of its own: a segment to end or to remove, replicas that are to be others.
    Upkeep,
    /// The node of its leader is lost, or so many that no majority is left.
    NodeLost,
    /// A follower's node is back.
    NodeBack,
    /// Its leader has not said for long that it sleeps.
    Unconfirmed,
}

impl Wake {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Message, Self::Request, Self::Upkeep, Self::NodeLost, Self::NodeBack, Self::Unconfirmed];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Request => "request",
            Self::Upkeep => "upkeep",
            Self::NodeLost => "node_lost",
            Self::NodeBack => "node_back",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// How much has slept and woken since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SleepTotals {
    /// How many times a group fell asleep.
    pub slept: u64,
    /// How many times one woke up, by reason.
    pub woken: BTreeMap<Wake, u64>,
}

/// A group that sleeps.
#[derive(Clone, Copy, Debug)]
struct Slumber {
    /// The node that leads it.
    leader: NodeId,
    /// When its leader said so last.
    confirmed: u64,
}

/// What is known of another node.
#[derive(Clone, Copy, Debug, Default)]
struct Sighting {
    /// The number of its process, once it said it.
    run: Option<u64>,
    /// When it said anything last.
    heard: u64,
    /// It said something lately.
    present: bool,
}

/// Who sleeps.
///
/// Invariants: every group of the node but group 0 is either in `awake` or in `asleep`; what is in `asleep` was at rest
/// when it came there, and nothing has happened to its raft since.
#[derive(Debug)]
pub(super) struct Sleepers {
    /// The number of this process.
    run: u64,
    /// Awake groups, with the tick at which something last happened in them.
    awake: BTreeMap<GroupId, u64>,
    asleep: BTreeMap<GroupId, Slumber>,
    sightings: BTreeMap<NodeId, Sighting>,
    /// Groups that are to be woken, or kept awake, because a node is back.
    awaited: BTreeSet<GroupId>,
    /// What is to be said with the end of this tick.
    notices: BTreeMap<NodeId, Vec<Notice>>,
    rota: Rota,
    totals: SleepTotals,
}

impl Sleepers {
    pub(super) const fn new(run: u64) -> Self {
        Self {
            run,
            awake: BTreeMap::new(),
            asleep: BTreeMap::new(),
            sightings: BTreeMap::new(),
            awaited: BTreeSet::new(),
            notices: BTreeMap::new(),
            rota: Rota::new(),
            totals: SleepTotals { slept: 0, woken: BTreeMap::new() },
        }
    }

    /// A group is there from now on, awake.
    pub(super) fn open(&mut self, group: GroupId, now: u64) {
        self.asleep.remove(&group);
        self.awake.insert(group, now);
    }

    /// A group is gone.
    pub(super) fn close(&mut self, group: GroupId) {
        self.awake.remove(&group);
        self.asleep.remove(&group);
        self.awaited.remove(&group);
    }

    /// Groups that are awake, in their order.
    pub(super) fn awake(&self) -> impl Iterator<Item = GroupId> {
        self.awake.keys().copied()
    }

    pub(super) fn is_asleep(&self, group: GroupId) -> bool {
        self.asleep.contains_key(&group)
    }

    /// Whether it sleeps or not, something happens in it now.
    fn busy(&mut self, group: GroupId, now: u64) {
        if let Some(since) = self.awake.get_mut(&group) {
            *since = now;
        }
    }

    fn sleep(&mut self, group: GroupId, leader: NodeId, now: u64) {
        if self.awake.remove(&group).is_some() {
            self.asleep.insert(group, Slumber { leader, confirmed: now });
            self.totals.slept += 1;
        }
    }

    /// Who leads it, if it slept.
    fn wake(&mut self, group: GroupId, why: Wake, now: u64) -> Option<NodeId> {
        let slumber = self.asleep.remove(&group)?;
        // Only then does it matter when something happened.
        let quiet = if why == Wake::NodeBack { QUIET_TICKS - MOMENT_TICKS } else { 0 };
        self.awake.insert(group, now.saturating_sub(quiet));
        *self.totals.woken.entry(why).or_default() += 1;
        Some(slumber.leader)
    }

    fn is_present(&self, node: NodeId) -> bool {
        self.sightings.get(&node).is_some_and(|sighting| sighting.present && sighting.run.is_some())
    }

    /// A node said something; answers whether it is back.
    fn hear(&mut self, node: NodeId, now: u64) -> bool {
        let sighting = self.sightings.entry(node).or_default();
        sighting.heard = now;
        let was_present = std::mem::replace(&mut sighting.present, true);
        !was_present && sighting.run.is_some()
    }

    /// A node says which process it is; answers which it was before.
    fn hear_run(&mut self, node: NodeId, run: u64) -> Option<u64> {
        self.sightings.entry(node).or_default().run.replace(run)
    }

    /// Nodes that have said nothing for too long, once each.
    fn take_lost(&mut self, now: u64) -> Vec<NodeId> {
        let silent = |sighting: &Sighting| sighting.present && sighting.heard + LOST_TICKS < now;
        let lost = self.sightings.iter_mut().filter(|(_, sighting)| silent(sighting));
        lost.map(|(node, sighting)| {
            sighting.present = false;
            *node
        })
        .collect()
    }
}

impl Node {
    /// How many groups sleep here now.
    #[must_use]
    pub fn asleep(&self) -> usize {
        self.sleepers.asleep.len()
    }

    /// What has slept and woken so far.
    #[must_use]
    pub const fn sleep_totals(&self) -> &SleepTotals {
        &self.sleepers.totals
    }

    /// Something is about to happen in a group: it is awake then.
    pub(super) fn wake(&mut self, group: GroupId, why: Wake) {
        match self.sleepers.wake(group, why, self.ticks) {
            Some(leader) => {
                let is_led_here = leader == self.config.node;
                let Some(partition) = self.partitions.get_mut(&group) else { return };
                if is_led_here {
                    partition.group.rouse();
                } else if matches!(why, Wake::NodeLost | Wake::Unconfirmed) {
                    partition.group.succeed();
                }
                self.dirty.insert(group);
            }
            None => self.sleepers.busy(group, self.ticks),
        }
    }

    /// A message of raft has come for a group. Answers whether raft is to see it.
    pub(super) fn wake_for(&mut self, group: GroupId, message: &raft::eraftpb::Message) -> bool {
        use raft::eraftpb::MessageType::{MsgHeartbeat, MsgHeartbeatResponse};
        match message.get_msg_type() {
            // An answer that was on its way when the leader fell asleep.
            MsgHeartbeatResponse if self.sleepers.is_asleep(group) => {
                let term = self.partitions.get(&group).map(|partition| partition.group.term().get());
                if term == Some(message.get_term()) {
                    return false;
                }
                self.wake(group, Wake::Message);
            }
            MsgHeartbeat | MsgHeartbeatResponse if !self.sleepers.is_asleep(group) => {}
            _ => self.wake(group, Wake::Message),
        }
        true
    }

    /// Another node said something.
    pub(super) fn hear_node(&mut self, node: NodeId) {
        self.view.hear(node, self.now.mono_ms);
        if self.sleepers.hear(node, self.ticks) {
            self.on_node_back(node);
        }
    }

    /// Another node says that it is there, and which process it is.
    pub(super) fn on_beat(&mut self, node: NodeId, run: u64) {
        let before = self.sleepers.hear_run(node, run);
        if before == Some(run) {
            return;
        }
        if before.is_some() {
            self.on_node_lost(node);
        }
        self.on_node_back(node);
    }

    /// Another node says which of the groups that it leads sleep.
    pub(super) fn on_asleep(&mut self, from: NodeId, notices: &[Notice]) {
        for notice in notices {
            let Some(partition) = self.partitions.get(&notice.group) else {
                self.on_leadership(from, notice.group, notice.term);
                continue;
            };
            if !partition.group.follows(from, notice) || partition.applied() != notice.last_index {
                continue;
            }
            match self.sleepers.asleep.get_mut(&notice.group) {
                Some(slumber) => slumber.confirmed = self.ticks,
                None => self.lay_down(notice.group, from),
            }
        }
    }

    /// A tick, for everything that sleeps or may.
    pub(super) fn tick_sleepers(&mut self, out: &mut Vec<Effect>) {
        for node in self.sleepers.take_lost(self.ticks) {
            self.on_node_lost(node);
        }
        if self.controller.current().feature_level() < LEVEL_HIBERNATION {
            return;
        }
        if self.ticks.is_multiple_of(BEAT_TICKS) {
            let others = self.controller.nodes().filter(|node| *node != self.config.node);
            let beats = others.map(|to| Effect::Send { to, message: PeerMessage::Beat { run: self.sleepers.run } });
            out.extend(beats);
        }
        for _ in 0..WAKES_AT_ONCE {
            let Some(group) = self.sleepers.awaited.pop_first() else { break };
            self.wake(group, Wake::NodeBack);
        }
        if self.stopping.is_none() {
            self.send_to_sleep();
        }
        self.confirm();
        for (to, notices) in std::mem::take(&mut self.sleepers.notices) {
            for notices in notices.chunks(NOTICES_MAX) {
                out.push(Effect::Send { to, message: PeerMessage::Asleep { notices: notices.to_vec() } });
            }
        }
    }

    /// As leader: groups in which nothing happens fall asleep. Some are looked at with each tick: those that may not, for
    /// whatever reason, are looked at again and again.
    fn send_to_sleep(&mut self) {
        let has_turn = |group: &GroupId| group.get() % LOOK_TICKS == self.ticks % LOOK_TICKS;
        let awake = self.sleepers.awake.iter().filter(|(group, _)| has_turn(group));
        let quiet = awake.filter(|(_, busy)| **busy + QUIET_TICKS <= self.ticks);
        let is_present = |node| self.sleepers.is_present(node);
        let may = |group: &GroupId| {
            let partition = self.partitions.get(group);
            partition.is_some_and(|partition| partition.is_idle() && partition.group.may_sleep(is_present))
        };
        let may: Vec<GroupId> = quiet.map(|(group, _)| *group).filter(may).collect();
        for group in may {
            self.lay_down(group, self.config.node);
            self.give_notice(group);
        }
    }

    fn lay_down(&mut self, group: GroupId, leader: NodeId) {
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.group.lie_down();
            let full = self.full_nodes();
            self.show_replicas_of(group, &full);
            self.sleepers.sleep(group, leader, self.ticks);
        }
    }

    /// As leader: tells the followers of a group that it sleeps, with the end of this tick.
    fn give_notice(&mut self, group: GroupId) {
        let Some(group) = self.partitions.get(&group).map(|partition| &partition.group) else { return };
        let followers: BTreeSet<NodeId> =
            group.conf().voters.iter().filter_map(|voter| group.replicas().get(voter).copied()).collect();
        let is_told = |node: &NodeId| *node != self.config.node && self.sleepers.is_present(*node);
        for node in followers.into_iter().filter(is_told).collect::<Vec<_>>() {
            self.sleepers.notices.entry(node).or_default().push(group.notice());
        }
    }

    /// Goes on with its round of the sleeping groups: those led here are told again to sleep, others may have been forgotten.
    fn confirm(&mut self) {
        let due = self.sleepers.rota.next(&self.sleepers.asleep, NOTICE_TICKS);
        for group in due {
            let Some(&Slumber { leader, confirmed }) = self.sleepers.asleep.get(&group) else { continue };
            if leader == self.config.node {
                self.give_notice(group);
            } else if confirmed + UNCONFIRMED_TICKS < self.ticks && !planted::is(Planted::SleepsThroughLoss) {
                self.wake(group, Wake::Unconfirmed);
            }
        }
    }

    /// Another node is not there any more, or not as it was.
    fn on_node_lost(&mut self, node: NodeId) {
        let is_present = |other| other != node && self.sleepers.is_present(other);
        let concerns = |(group, slumber): (&GroupId, &Slumber)| {
            let needs_it = || {
                let led_here = self.partitions.get(group).filter(|_| slumber.leader == self.config.node);
                led_here.is_some_and(|partition| !partition.group.has_majority(is_present))
            };
            (slumber.leader == node || needs_it()).then_some(*group)
        };
        let groups: Vec<GroupId> = self.sleepers.asleep.iter().filter_map(concerns).collect();
        if !groups.is_empty() {
            tracing::info!(%node, groups = groups.len(), "groups.woken: their node says nothing, or was started again");
        }
        for group in groups.into_iter().filter(|_| !planted::is(Planted::SleepsThroughLoss)) {
            self.wake(group, Wake::NodeLost);
        }
    }

    /// Another node is there again, or another process on it: its replicas may need something, or not know who leads them, or
    /// not take part any more.
    fn on_node_back(&mut self, node: NodeId) {
        let led_here = self.partitions.iter().filter(|(_, partition)| partition.group.is_leader());
        let concerned = led_here.filter(|(_, partition)| partition.group.replicas().values().any(|at| *at == node));
        let groups: Vec<GroupId> = concerned.map(|(group, _)| *group).collect();
        self.sleepers.awaited.extend(groups);
    }
}

impl Partition {
    /// As leader: whether nobody waits for it, and it has proposed nothing that is not applied.
    fn is_idle(&self) -> bool {
        self.settled
            && !self.roll_pending
            && !self.log_start_pending
            && self.applied() == LogIndex(self.group.last_index().get())
            && self.leading.as_ref().is_some_and(crate::partition::leading::Leading::is_idle)
    }
}
