//! Who should lead: not a node whose disk is full or slow, if another can.
//!
//! Every node tells the others how it is (`cluster/health.rs`). One that is not well hands over what it leads, to whoever
//! is well and has nearly everything; preferred leaders that are not well get nothing back. Where nobody is better,
//! everything stays as it is: then the leader answers itself that its disk is full.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{GroupId, NodeId, ReplicaId},
};

use super::{Node, event::Effect, sleeping::Wake};
use crate::{
    cluster::health::{Fullness, Health},
    raft::{TICK_MS, group::Group, wire::PeerMessage},
};

/// How often a node says how it is.
const HEALTH_TICKS: u64 = 1_000 / TICK_MS;
/// What was said longer ago says nothing any more.
const HEALTH_MS: u64 = 10_000;
/// How often what is led is handed over: an attempt that fails holds up writes for half of it.
const SHED_TICKS: u64 = 2_000 / TICK_MS;
/// A replica that is further behind would not take over in time.
const BEHIND_MAX: u64 = 1_000;

/// How the nodes are.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    others: BTreeMap<NodeId, (Health, u64)>,
    told: Health,
    /// Other nodes whose disks are full, as of the last tick.
    full: BTreeSet<NodeId>,
    /// How often leadership was handed over because of this.
    handed: u64,
}

impl Fitness {
    /// A node says how it is.
    pub(super) fn hear(&mut self, from: NodeId, health: Health, now_ms: u64) {
        self.others.insert(from, (health, now_ms));
    }

    /// Whether a majority of a group's voters takes no records: none can be committed then.
    pub(super) fn is_quorum_full(&self, group: &Group) -> bool {
        let is_full = |voter| group.replicas().get(voter).is_some_and(|node| self.full.contains(node));
        let voters = &group.conf().voters;
        !self.full.is_empty() && 2 * voters.iter().filter(|voter| is_full(voter)).count() >= voters.len()
    }

    /// What clients are told that want to write then.
    pub(super) fn quorum_refusal(&self) -> Error {
        let nodes: Vec<String> = self.full.iter().map(NodeId::to_string).collect();
        let why = format!(
            "the disks of too many replicas are full (nodes {}): no majority takes records. Free space there, let records \
             go sooner (retention.ms, retention.bytes) or delete topics; it goes on by itself",
            nodes.join(", ")
        );
        Error::new(ErrorCode::DiskFull, why)
    }

    /// How often leadership was handed over because this node was not well.
    pub(super) const fn handed(&self) -> u64 {
        self.handed
    }

    /// How the others are that said so lately.
    pub(super) fn fresh(&self, now_ms: u64) -> impl Iterator<Item = (NodeId, Health)> {
        let is_fresh = move |at: u64| at + HEALTH_MS >= now_ms;
        self.others.iter().filter(move |(_, (_, at))| is_fresh(*at)).map(|(node, (health, _))| (*node, *health))
    }
}

impl Node {
    /// How this node is.
    #[must_use]
    pub fn health(&self) -> Health {
        let (slow_disk, sync_us) = (self.slow_disk.is_slow(), self.slow_disk.told_us());
        Health { fullness: self.space.fullness(), slow_disk, sync_us }
    }

    /// Every tick: says how this node is, and hands over what it should not lead.
    pub(super) fn keep_fit(&mut self, out: &mut Vec<Effect>) {
        if self.ticks.is_multiple_of(HEALTH_TICKS) {
            self.look_at_disk();
        }
        let health = self.health();
        self.fitness.full = self.full_nodes();
        let has_changed = health.may_lead() != self.fitness.told.may_lead();
        if has_changed || self.ticks.is_multiple_of(HEALTH_TICKS) {
            self.fitness.told = health;
            self.view.set_health(self.fitness.fresh(self.now.mono_ms).chain([(self.config.node, health)]).collect());
            for to in self.controller.nodes().filter(|node| *node != self.config.node) {
                out.push(Effect::Send { to, message: PeerMessage::Health(health) });
            }
        }
        if !health.may_lead() && self.stopping.is_none() && self.ticks.is_multiple_of(SHED_TICKS) {
            self.shed();
        }
    }

    /// Every second: compares the disk with those of others.
    fn look_at_disk(&mut self) {
        let others = self.fitness.fresh(self.now.mono_ms).map(|(_, health)| health.sync_us);
        let others_us: Vec<u64> = others.filter(|us| *us > 0).collect();
        if self.slow_disk.second(self.now.mono_ms, others_us.clone()) {
            let (is_slow, median_us) = (self.slow_disk.is_slow(), self.slow_disk.told_us());
            tracing::warn!(
                is_slow,
                median_us,
                ?others_us,
                "disk.speed: how long blocks of the journal take has changed"
            );
        }
        if self.slow_disk.wants_proof() {
            self.store.prove();
        }
    }

    /// Nodes that should not lead, this one included.
    pub(super) fn unfit(&self) -> BTreeSet<NodeId> {
        self.healths().filter(|(_, health)| !health.may_lead()).map(|(node, _)| node).collect()
    }

    /// How this node is, and others of which it is known.
    pub(super) fn healths(&self) -> impl Iterator<Item = (NodeId, Health)> {
        self.fitness.fresh(self.now.mono_ms).chain([(self.config.node, self.health())])
    }

    /// Other nodes whose disks are full.
    pub(super) fn full_nodes(&self) -> BTreeSet<NodeId> {
        let full = self.fitness.fresh(self.now.mono_ms).filter(|(_, health)| health.fullness == Fullness::Full);
        full.map(|(node, _)| node).collect()
    }

    fn shed(&mut self) {
        let unfit = self.unfit();
        let mut handed = 0;
        let successors = self.partitions.iter().filter_map(|(id, partition)| {
            let to = successor(&partition.group, &unfit, |replica| self.reports.is_unsound(*id, replica))?;
            Some((*id, to))
        });
        for (id, to) in successors.collect::<Vec<_>>() {
            self.hand_to(id, to, false, Wake::Upkeep);
            handed += 1;
        }
        if let Some(to) = successor(&self.controller.group, &unfit, |_| false) {
            self.controller.group.transfer_leader(to, false);
            self.dirty.insert(GroupId::METADATA);
            handed += 1;
        }
        if handed > 0 {
            self.fitness.handed += handed;
            tracing::warn!(handed, health = ?self.health(), "node.unfit: others are to lead");
        }
    }
}

/// As leader that should not be: who should be instead. It votes, answers, and has nearly everything; one that is unsound, only
/// if there is no other.
fn successor(group: &Group, unfit: &BTreeSet<NodeId>, is_unsound: impl Fn(ReplicaId) -> bool) -> Option<NodeId> {
    if !group.can_propose() {
        return None;
    }
    let last = group.last_index().get();
    let fit = group.matched().into_iter().filter_map(|(replica, matched)| {
        let node = group.replicas().get(&replica).copied()?;
        let is_able = group.is_active(replica)
            && !group.is_self(replica)
            && group.conf().voters.contains(&replica)
            && last.saturating_sub(matched.get()) <= BEHIND_MAX
            && !unfit.contains(&node);
        is_able.then_some((!is_unsound(replica), matched, node))
    });
    fit.max_by_key(|(sound, matched, node)| (*sound, *matched, std::cmp::Reverse(*node))).map(|(_, _, node)| node)
}
