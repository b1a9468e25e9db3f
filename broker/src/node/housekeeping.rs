//! What a node does by the clock: ticks of raft, campaigns, segment rolls, retention, balance, and its own end.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::{
    ids::{GroupId, LogIndex, NodeId, Offset, ReplicaId},
    messages::metadata as wire,
};
use levada_storage_engine::{
    entry::EntryKind,
    retention::{self, RetentionPolicy},
};
use prost::Message as _;

use super::{Node, event::Effect, going_down, sleeping::Wake};
use crate::{
    cluster::{
        health::Fullness,
        view::{Leadership, Upkeep},
    },
    partition::{leading::Leading, machine::Partition},
    raft::{TICK_MS, group::Group},
};

/// How often leaders look whether a segment is full and how far replicas are behind.
pub(super) const SEGMENT_TICKS: u64 = 500 / TICK_MS;
/// How often leaders look for segments that may go.
const RETENTION_TICKS: u64 = 10_000 / TICK_MS;
/// How often leadership goes back to preferred leaders, and all leaderships are told to who holds no replica that answers.
const BALANCE_TICKS: u64 = 5_000 / TICK_MS;
/// How long a shutdown waits for others to take over.
const SHUTDOWN_TICKS: u64 = 3_000 / TICK_MS;
/// How often a checkpoint is begun because it makes space, at most.
const FREEING_TICKS: u64 = 2_000 / TICK_MS;

impl Node {
    /// Whether files wait for a checkpoint, to go or to be used again, and their space is needed.
    pub(super) fn checkpoint_makes_space(&mut self) -> bool {
        let is_due =
            self.space.fullness() > Fullness::Roomy && self.store.checkpoint_frees() && self.ticks >= self.freeing_at;
        if is_due {
            self.freeing_at = self.ticks + FREEING_TICKS;
        }
        is_due
    }

    /// 50 milliseconds have passed.
    pub(super) fn tick(&mut self, out: &mut Vec<Effect>) {
        self.ticks += 1;
        self.store.tick();
        self.controller.group.tick();
        self.dirty.insert(GroupId::METADATA);
        // Before the ticks: a group that is about to send a heartbeat is not at rest.
        self.tick_sleepers(out);
        for id in self.sleepers.awake() {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            partition.group.tick();
            if partition.group.has_ready() {
                self.dirty.insert(id);
            }
        }
        self.campaign();
        self.space.tick();
        self.budget.tick(self.space.fullness() < Fullness::Full);
        self.copies.tick(&mut self.budget, &mut self.store, out);
        self.mend(out);
        self.scrub.tick(&self.store, out);
        self.keep_fit(out);
        self.followed.tick(self.ticks);
        self.approach_all(out);
        self.do_duties();
        if self.ticks.is_multiple_of(SEGMENT_TICKS) {
            self.roll_segments();
            self.show_replicas();
            self.show_nodes();
            self.leave_damage();
            self.shorten_metadata();
            self.look_for_survivors();
            self.look_for_forgiven();
            self.go_on_regaining(out);
            self.see_to_unsound(out);
        }
        self.retain();
        self.tick_coordinators();
        if self.stopping.is_some() {
            self.hand_over(out);
        } else if self.ticks.is_multiple_of(BALANCE_TICKS) {
            self.balance();
            self.announce_all(out);
        }
        // At the end: what was noted half a second ago is looked at before.
        if self.ticks.is_multiple_of(SEGMENT_TICKS) {
            for id in self.sleepers.awake() {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.group.set_mark();
                }
            }
        }
    }

    fn campaign(&mut self) {
        let due: Vec<GroupId> =
            self.campaigns.iter().filter(|(_, at)| **at <= self.ticks).map(|(group, _)| *group).collect();
        for group in due {
            self.campaigns.remove(&group);
            if let Some(partition) = self.partitions.get_mut(&group)
                && partition.group.leader().is_none()
            {
                partition.group.campaign();
                self.dirty.insert(group);
            }
        }
    }

    /// As leader of a partition whose active segment is full: proposes its end. What sleeps was looked at before.
    fn roll_segments(&mut self) {
        for id in self.sleepers.awake() {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            let full = partition.log_stats().active_bytes >= partition.topic.config.segment_bytes;
            if full && roll(partition, self.now.wall_ms) {
                self.dirty.insert(id);
            }
        }
    }

    /// As leader, for some groups with each tick: proposes the end of an active segment that is old, or else a new log start
    /// where old segments may go.
    fn retain(&mut self) {
        for id in self.retained.next(&self.partitions, RETENTION_TICKS) {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            let is_old = !partition.roll_pending && active_is_old(partition, self.now.wall_ms);
            let start = log_start(partition, (self.ticks, self.config.absent_ms / TICK_MS), self.now.wall_ms);
            if partition.leading.is_none() || !is_old && start.is_none() {
                continue;
            }
            self.wake(id, Wake::Upkeep);
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            if is_old {
                roll(partition, self.now.wall_ms);
            }
            if let Some(offset) = start {
                let start = wire::partition_command::Kind::LogStart(wire::LogStart { offset: offset.get() });
                partition.log_start_pending = propose(partition, start);
            }
            self.dirty.insert(id);
        }
    }

    /// Shows how far each replica is behind its leader. Where a group sleeps, nothing changes.
    fn show_replicas(&mut self) {
        let awake: Vec<GroupId> = self.sleepers.awake().collect();
        let full = self.full_nodes();
        awake.into_iter().for_each(|group| self.show_replicas_of(group, &full));
    }

    /// The same for one of them, with the other nodes whose disks are full.
    pub(super) fn show_replicas_of(&mut self, group: GroupId, full: &BTreeSet<NodeId>) {
        let Some(partition) = self.partitions.get_mut(&group) else { return };
        let mut behind = BTreeMap::new();
        if partition.group.is_leader() {
            let last = partition.group.last_index();
            for (replica, matched) in partition.group.matched() {
                let node = partition.group.replicas().get(&replica);
                // It answers, but takes no records: it may have to go on without what retention removes here.
                let is_full = node.is_some_and(|node| full.contains(node));
                if let Some(&node) = node {
                    behind.insert(node, last.get().saturating_sub(matched.get()));
                }
                if partition.group.is_active(replica) && !is_full || partition.group.is_self(replica) {
                    partition.absent.remove(&replica);
                } else {
                    partition.absent.entry(replica).or_insert(self.ticks);
                }
            }
        }
        partition.view.set_behind(behind);
    }

    /// Shows who votes on metadata, and how this node's disk is.
    fn show_nodes(&self) {
        let members = self.controller.members();
        let voters = self.controller.group.conf().voters.iter();
        self.view.set_metadata_voters(voters.filter_map(|voter| members.get(voter).copied()).collect());
        self.view.set_upkeep(Upkeep {
            copying: self.copies.len(),
            copied_bytes: self.copies.copied_bytes() + self.mends.fetched_bytes(),
            damaged_segments: self.mends.len() + self.shortening.damaged() + self.store.missing(),
            mended_segments: self.mends.mended() + self.shortening.let_go(),
            lost_replicas: self.lost.len(),
            scrub_passes: self.scrub.passes(),
            scrubbed_bytes: self.scrub.bytes(),
            scrub_found: self.scrub.found(),
            scrub_ended_ms_ago: self.scrub.ended_ms_ago(),
        });
    }

    /// Gives leadership back to preferred leaders that are well and have everything, but not from where it was
    /// put on purpose, nor while it is on its way.
    fn balance(&mut self) {
        let (own, unfit) = (self.config.node, self.unfit());
        let better = |(&id, partition): (&GroupId, &Partition)| {
            partition.leading.as_ref()?;
            let to = partition.preferred().filter(|preferred| *preferred != own && !unfit.contains(preferred))?;
            let group = &partition.group;
            // Under load no replica ever has everything at the very moment.
            let on_it = group.replicas().iter().filter(|(_, node)| **node == to);
            let may_lead = |replica| group.has_caught_up(replica) && !self.reports.is_unsound(id, replica);
            let has_caught_up = || on_it.into_iter().any(|(replica, _)| may_lead(*replica));
            (!group.leads_by_request() && group.can_propose() && has_caught_up()).then_some((id, to))
        };
        let moves: Vec<(GroupId, NodeId)> = self.partitions.iter().filter_map(better).collect();
        for (id, to) in moves {
            self.hand_to(id, to, false, Wake::Upkeep);
        }
    }

    /// As leader: another replica takes over.
    pub(super) fn hand_to(&mut self, group: GroupId, to: NodeId, is_asked: bool, why: Wake) {
        self.wake(group, why);
        if let Some(partition) = self.partitions.get_mut(&group) {
            partition.group.transfer_leader(to, is_asked);
            self.dirty.insert(group);
        }
    }

    /// Where a follower needs what cannot be read here, somebody else leads who has it: once, as their disks may be no better.
    fn leave_damage(&mut self) {
        for id in self.sleepers.awake() {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            if let Some(&to) = caught_up(&partition.group).first()
                && let Some(index) = partition.group.take_damage()
            {
                tracing::warn!(group = id.get(), %index, %to, "partition.damaged: another replica is to lead");
                partition.group.transfer_leader(to, true);
                self.dirty.insert(id);
            }
        }
    }

    fn announce_all(&self, out: &mut Vec<Effect>) {
        for partition in self.partitions.values().filter(|partition| partition.group.is_leader()) {
            let leadership = Leadership { term: partition.group.term(), node: Some(self.config.node) };
            self.announce(partition.group.id(), leadership, out);
        }
    }

    pub(super) fn begin_shutdown(&mut self, out: &mut Vec<Effect>) {
        if self.stopping.is_none() {
            self.stopping = Some(self.ticks + SHUTDOWN_TICKS);
            self.admission.refuse(&going_down(), out);
            self.hand_over(out);
        }
    }

    /// Hands over what is led here and owes no answer, until nothing is or time is up.
    fn hand_over(&mut self, out: &mut Vec<Effect>) {
        let mut led = 0;
        let mut moves = Vec::new();
        for (&id, partition) in &self.partitions {
            if partition.leading.as_ref().is_some_and(Leading::owes_answers) {
                led += 1;
            } else if partition.group.is_leader() && partition.group.conf().voters.len() > 1 {
                led += 1;
                moves.extend(caught_up(&partition.group).first().map(|to| (id, *to)));
            }
        }
        for (id, to) in moves {
            self.hand_to(id, to, false, Wake::Request);
        }
        let owes_answers = self.controller.owes_answers();
        let group = &mut self.controller.group;
        if owes_answers {
            led += 1;
        } else if group.is_leader() && group.conf().voters.len() > 1 {
            led += 1;
            if let Some(&to) = caught_up(group).first() {
                group.transfer_leader(to, false);
                self.dirty.insert(GroupId::METADATA);
            }
        }
        let late = self.stopping.is_some_and(|by| self.ticks >= by);
        if (led == 0 || late) && !self.stopped {
            self.stopped = true;
            out.push(Effect::ReadyToStop);
        }
    }
}

/// As leader: where the log may start from now on, if that is further than it does. Nothing goes that a replica does not have
/// yet, unless it has not answered for long: then it is to get a copy when it comes back.
fn log_start(partition: &Partition, (now, absent_ticks): (u64, u64), now_ms: i64) -> Option<Offset> {
    if partition.leading.is_none() || partition.log_start_pending {
        return None;
    }
    let is_awaited = |replica: &ReplicaId| partition.absent.get(replica).is_none_or(|since| now < since + absent_ticks);
    let matched = partition.group.matched().into_iter().filter(|(replica, _)| is_awaited(replica));
    let floor = matched.map(|(_, matched)| matched).min()?;
    let config = &partition.topic.config;
    let policy = RetentionPolicy { retention_ms: config.retention_ms, retention_bytes: config.retention_bytes };
    let segments = partition.view.log.segments();
    let start = retention::plan(&segments, partition.segment_ends_ms(), &policy, now_ms, floor)?;
    Some(start.offset)
}

/// The other nodes whose replica votes, is alive and has every entry.
fn caught_up(group: &Group) -> Vec<NodeId> {
    let last = group.last_index();
    let is_ready = |replica: ReplicaId, matched: LogIndex| {
        matched == last && group.is_active(replica) && !group.is_self(replica) && group.conf().voters.contains(&replica)
    };
    let ready = group.matched().into_iter().filter(|(replica, matched)| is_ready(*replica, *matched));
    ready.filter_map(|(replica, _)| group.replicas().get(&replica).copied()).collect()
}

/// Whether the active segment has records and may have begun longer ago than the topic keeps records. It began behind the
/// segment before it, or not before the topic was made.
fn active_is_old(partition: &Partition, now_ms: i64) -> bool {
    let Some(retention_ms) = partition.topic.config.retention_ms else { return false };
    let began_ms = partition.segment_ends_ms().values().next_back().copied().unwrap_or(partition.topic.created_ms);
    // In the future it cannot have begun: a leader's clock was wrong then, and how old it is nobody knows.
    let is_old = began_ms > now_ms || now_ms.abs_diff(began_ms) > retention_ms;
    is_old && partition.view.log.segments().last().is_some_and(|s| !s.sealed && s.next_offset > s.base_offset)
}

/// Proposes the end of the active segment as leader, unless that is under way; `false` when nothing is proposed.
pub(super) fn roll(partition: &mut Partition, now_ms: i64) -> bool {
    if partition.roll_pending {
        return false;
    }
    partition.roll_pending =
        propose(partition, wire::partition_command::Kind::Roll(wire::Roll { time_ms: Some(now_ms) }));
    partition.roll_pending
}

/// Proposes a command as leader; `false` when it is not this node's turn.
fn propose(partition: &mut Partition, kind: wire::partition_command::Kind) -> bool {
    if partition.leading.is_none() {
        return false;
    }
    let command = wire::PartitionCommand { kind: Some(kind) };
    partition.group.propose(EntryKind::Command, command.encode_to_vec().into()).is_some()
}
