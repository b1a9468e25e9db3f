//! Replicas go where they are to be: what a leader does for its group, and what the controller does for the cluster.
//!
//! The metadata says which replicas a partition is to have. Each leader brings its group there, step by step
//! (`raft/membership.rs`), and says so to the controller, which writes it down. Every message may be lost, every leader may
//! change: all of this is said and looked at again and again, and nothing depends on who did the step before.
//!
//! The controller also sees to group 0 itself (every node is in it, up to five vote), raises the feature level when all
//! nodes allow it, takes replicas off nodes that are drained, a few at a time, and lets these go when they hold none, and
//! spreads replicas again when nodes have come. It does one such thing at a time, and the next when that is applied.

use std::collections::BTreeSet;

use bytes::Bytes;
use levada_protocol::{
    ids::{GroupId, LogIndex, NodeId, Offset, ReplicaId},
    messages::metadata as wire,
};
use levada_storage_engine::store::Snapshot;
use prost::Message as _;

use super::{Node, event::Effect, housekeeping::SEGMENT_TICKS};
use crate::{
    cluster::{
        balance,
        feature::{LEVEL_MAX, LEVEL_MEMBERSHIP},
        health::{Fullness, Health},
        metadata::{self, Metadata, command, spread_command},
        placement::{Standing, Standings},
    },
    partition::machine::Partition,
    raft::{
        TICK_MS,
        group::Group,
        membership::{Conf, Membership, Target},
        wire::{CatchUp, PeerMessage},
    },
};

/// Voters of group 0, at most: more would make every change slower, and hardly safer.
const METADATA_VOTERS_MAX: usize = 5;
/// Partitions that are on their way because nodes are drained or replicas spread.
const MOVES_AT_ONCE: usize = 32;
/// How often the controller looks what is to be done.
const DUTY_TICKS: u64 = 500 / TICK_MS;
/// How often it looks whether replicas are spread evenly, when nothing moves.
const SPREAD_TICKS: u64 = 5_000 / TICK_MS;
/// A node that was heard of within this is there.
const PRESENT_MS: u64 = 3_000;
/// A replica that is behind the log's start for so long, though it answers, will not come further by itself.
const STRANDED_TICKS: u64 = 2_000 / TICK_MS;

impl Node {
    /// As leader of groups: goes a step towards the replicas that they are to have.
    pub(super) fn approach_all(&mut self, out: &mut Vec<Effect>) {
        let looks = self.ticks.is_multiple_of(SEGMENT_TICKS);
        let mut says = Vec::new();
        // A group that sleeps under a leader here has what it is to have.
        for id in self.sleepers.awake() {
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            if partition.settled || partition.leading.is_none() {
                continue;
            }
            let Some(placed) = partition.placed() else { continue };
            // It is about to go on without them; what is done with them stands in no log of those that come after.
            if placed.recovery.is_some_and(|recovery| recovery.is_due(partition.group.conf())) {
                continue;
            }
            let voters: BTreeSet<ReplicaId> = placed.wanted().iter().map(|replica| replica.id).collect();
            let (moves, targets_given) = (!placed.target.is_empty(), placed.targets_given);
            let target = Target { voters, learners: BTreeSet::new() };
            if partition.group.approach(&target, moves) {
                partition.settled = !moves;
                if partition.settled {
                    partition.group.clear_mark();
                    continue;
                }
                if moves && looks {
                    let voters = target.voters.into_iter().collect();
                    says.push(PeerMessage::Placed { group: id, voters, targets_given });
                }
            }
            if partition.group.has_ready() {
                self.dirty.insert(id);
            }
        }
        if looks {
            self.report_stranded(&mut says);
            self.report_lost(out);
            self.see_to_stranded_members(out);
        }
        for message in says {
            self.tell_controller(message, out);
        }
        self.approach_metadata(looks);
    }

    /// As leader: replicas that answer, and need entries that no log has any more.
    fn report_stranded(&mut self, says: &mut Vec<PeerMessage>) {
        for group in self.sleepers.awake() {
            let Some(partition) = self.partitions.get_mut(&group) else { continue };
            if partition.leading.is_none() {
                continue;
            }
            let now = stranded(&partition.group);
            for &replica in &now {
                let since = *partition.stranded.entry(replica).or_insert(self.ticks);
                if self.ticks >= since + STRANDED_TICKS {
                    says.push(PeerMessage::Replace { group, replica, settled_at: None });
                }
            }
            partition.stranded.retain(|replica, _| now.contains(replica));
        }
    }

    /// Tells the leaders of replicas that have lost what they had. A group without a leader has nobody who could say that
    /// the others have it: then the replica stays as it is.
    fn report_lost(&self, out: &mut Vec<Effect>) {
        for (&group, &replica) in &self.lost {
            if let Some(to) = self.view.leader(group).and_then(|known| known.node) {
                out.push(Effect::Send { to, message: PeerMessage::Lost { group, replica } });
            }
        }
    }

    /// As leader: a replica says that it has lost what it had.
    pub(super) fn on_lost(&mut self, group: GroupId, replica: ReplicaId, out: &mut Vec<Effect>) {
        let Some(partition) = self.partitions.get(&group) else { return };
        if partition.leading.is_some() && !partition.group.is_self(replica) {
            self.tell_controller(PeerMessage::Replace { group, replica, settled_at: None }, out);
        }
    }

    pub(super) fn tell_controller(&mut self, message: PeerMessage, out: &mut Vec<Effect>) {
        if self.controller.is_leading() {
            match message {
                PeerMessage::Placed { group, voters, targets_given } => self.on_placed(group, &voters, targets_given),
                PeerMessage::Replace { group, replica, settled_at } => self.on_replace(group, replica, settled_at),
                _ => {}
            }
        } else if let Some(to) = self.controller.group.leader() {
            out.push(Effect::Send { to, message });
        }
    }

    /// As controller: a group consists of these voters.
    pub(super) fn on_placed(&mut self, group: GroupId, voters: &[ReplicaId], targets_given: u64) {
        let voters: Vec<u64> = voters.iter().map(|replica| replica.get()).collect();
        let Some(placed) = self.partition_placed(group) else { return };
        let wanted: BTreeSet<u64> = placed.target.iter().map(|replica| replica.id.get()).collect();
        let is_current = placed.targets_given == targets_given && !wanted.is_empty();
        if is_current && wanted == voters.iter().copied().collect() {
            let finish = wire::FinishMove { group: group.get(), voters, targets_given };
            self.do_duty(Duty::Group(group), &command(wire::command::Kind::FinishMove(finish)));
        }
    }

    /// As controller: a replica is to be replaced. If that is `settled_at` a target, only as long as the group is there and is to
    /// have no other.
    pub(super) fn on_replace(&mut self, group: GroupId, replica: ReplicaId, settled_at: Option<u64>) {
        let Some(placed) = self.partition_placed(group) else { return };
        let is_settled = |at: u64| placed.target.is_empty() && placed.targets_given == at;
        if placed.everybody().contains_key(&replica) && settled_at.is_none_or(is_settled) {
            tracing::warn!(group = group.get(), %replica, "replica.lost: another one takes its place");
            let replace = wire::ReplaceReplica { group: group.get(), replica_id: replica.get() };
            self.do_duty(Duty::Group(group), &command(wire::command::Kind::ReplaceReplica(replace)));
        }
    }

    pub(super) fn partition_placed(&self, group: GroupId) -> Option<&metadata::Partition> {
        let metadata = self.controller.current();
        let place = metadata.partition_of(group)?;
        metadata.topic_by_id(place.topic)?.partition(place.partition)
    }

    fn do_duty(&mut self, duty: Duty, command: &wire::Command) {
        if self.controller.is_leading()
            && self.controller.current().feature_level() >= LEVEL_MEMBERSHIP
            && self.controller.do_duty(duty, command)
        {
            self.dirty.insert(GroupId::METADATA);
        }
    }

    /// As controller: goes a step towards everybody's place in group 0.
    fn approach_metadata(&mut self, looks: bool) {
        let is_due = self.controller.is_leading() && self.controller.current().feature_level() >= LEVEL_MEMBERSHIP;
        if !is_due {
            return;
        }
        let members = self.controller.members();
        let metadata = self.controller.metadata();
        let may_vote = |replica: ReplicaId| {
            let node = members.get(&replica).and_then(|node| metadata.nodes().get(node));
            node.is_some_and(|node| !node.draining)
        };
        let group = &mut self.controller.group;
        let present: BTreeSet<ReplicaId> = members.keys().copied().collect();
        let target = metadata_target(group.conf(), &present, may_vote, |replica| group.has_caught_up(replica));
        let has_arrived = group.approach(&target, false);
        self.metadata_settled = has_arrived && all_vote_who_are_to(&group.conf().voters, &present, may_vote);
        if group.has_ready() {
            self.dirty.insert(GroupId::METADATA);
        }
        if looks {
            group.set_mark();
        }
    }

    /// What the controller does by itself.
    pub(super) fn do_duties(&mut self) {
        if !self.ticks.is_multiple_of(DUTY_TICKS) || !self.controller.is_leading() {
            return;
        }
        let metadata = self.controller.metadata();
        if let Some(level) = self.next_level(&metadata) {
            let set = command(wire::command::Kind::SetFeatureLevel(wire::SetFeatureLevel { level }));
            if self.controller.do_duty(Duty::Cluster, &set) {
                self.dirty.insert(GroupId::METADATA);
            }
            return;
        }
        let members = self.controller.members();
        let conf = self.controller.group.conf();
        let voters = conf.voters.union(&conf.outgoing).filter_map(|voter| members.get(voter).copied()).collect();
        if let Some(command) = drain_next(&metadata, &self.standings(), &voters) {
            self.do_duty(Duty::Cluster, &command);
        } else if self.ticks.is_multiple_of(SPREAD_TICKS) && balance::moving(&metadata) == 0 && self.is_calm(&metadata)
        {
            let moves = balance::balance(&metadata, &self.standings(), MOVES_AT_ONCE);
            if !moves.is_empty() {
                self.do_duty(Duty::Cluster, &spread_command(&moves, &metadata));
            }
        }
    }

    /// The level to which the cluster may be raised.
    fn next_level(&self, metadata: &Metadata) -> Option<u32> {
        let is_there = |node: &NodeId| metadata.nodes().contains_key(node);
        let known = metadata.nodes().values().map(|node| node.feature_level_max).min()?.min(LEVEL_MAX);
        (known > metadata.feature_level() && self.controller.nodes().all(|node| is_there(&node))).then_some(known)
    }

    /// Whether everybody is there and nobody is about to go: replicas are spread when there is nothing else to do.
    fn is_calm(&self, metadata: &Metadata) -> bool {
        metadata.nodes().iter().all(|(id, node)| !node.draining && self.is_present(*id))
    }

    fn is_present(&self, node: NodeId) -> bool {
        let heard = self.view.heard_ms(node).is_some_and(|at| at + PRESENT_MS >= self.now.mono_ms);
        node == self.config.node || heard
    }

    /// How well nodes can take replicas, as far as it is known here.
    pub(super) fn standings(&self) -> Standings {
        let absent = self.controller.nodes().filter(|node| !self.is_present(*node));
        let absent = absent.map(|node| (node, Standing::Absent));
        let of_health = |health: Health| match health.fullness {
            Fullness::Full => Some(Standing::Full),
            Fullness::Tight => Some(Standing::Strained),
            Fullness::Roomy => health.slow_disk.then_some(Standing::Strained),
        };
        let present = self.healths().filter_map(|(node, health)| Some((node, of_health(health)?)));
        // What was heard of a node that is absent counts no more.
        present.chain(absent).collect()
    }

    /// A message between a replica that comes into being and one that has what it needs.
    pub(super) fn on_catch_up(&mut self, from: NodeId, group: GroupId, what: CatchUp, out: &mut Vec<Effect>) {
        match what {
            CatchUp::AskSnapshot { wanted_to } => {
                let partition = self.partitions.get(&group);
                let snapshot = partition.and_then(|_| self.store.snapshot(group));
                let applied = partition.map(Partition::applied).unwrap_or_default();
                let is_short = snapshot.as_ref().is_some_and(|snapshot| snapshot.applied() < wanted_to)
                    && self.store.has_moved(group, applied);
                let is_old = partition
                    .zip(snapshot.as_ref())
                    .is_some_and(|(partition, snapshot)| snapshot.first_index() < partition.group.log().first_index());
                if is_old {
                    // It names segments that are gone. It is asked again.
                    self.begin_checkpoint();
                    return;
                }
                if is_short {
                    self.begin_checkpoint();
                }
                let what = CatchUp::Snapshot(snapshot.map(|snapshot| snapshot.encode()));
                out.push(Effect::Send { to: from, message: PeerMessage::CatchUp { group, what } });
            }
            CatchUp::AskSegment { first_index, position, bytes_max } => {
                // Who borrows of a replica in doubt looks at every byte, too.
                if self.partitions.contains_key(&group) || self.store.kept_to(group).is_some() {
                    self.copies.lend(from, group, first_index, (position, bytes_max), out);
                }
            }
            CatchUp::Snapshot(bytes) => self.on_snapshot(from, group, bytes, out),
            CatchUp::Segment { first_index, position, bytes } => {
                let what = (group, first_index, position);
                let (budget, store) = (&mut self.budget, &mut self.store);
                if !self.mends.on_segment(from, what, bytes.as_ref(), budget, store, out) {
                    self.copies.on_segment(from, what, bytes, budget, store, out);
                }
            }
        }
    }

    fn on_snapshot(&mut self, from: NodeId, group: GroupId, bytes: Option<Bytes>, out: &mut Vec<Effect>) {
        let metadata = self.controller.metadata();
        let Some(place) = metadata.partition_of(group) else { return };
        let first = self.partition_placed(group).map(|placed| Conf::of(placed.first().iter().map(|first| first.id)));
        let recovery = self.partition_placed(group).and_then(|placed| placed.recovery);
        let adopt = |replica: ReplicaId, snapshot: Snapshot| {
            if snapshot.topic_partition() != place {
                return None;
            }
            let theirs = Membership::decode(snapshot.conf_state()).ok()?;
            let state = wire::PartitionState::decode(snapshot.app_state().clone()).ok()?;
            if Offset(state.next_offset) != snapshot.next_offset() {
                return None;
            }
            // A group that no checkpoint has is as it was made.
            let conf = match theirs {
                Some(theirs) if theirs.conf.voters.is_empty() => return None,
                Some(theirs) => theirs.conf,
                None if snapshot.applied() == LogIndex(0) => first?,
                None => return None,
            };
            // As it was before the survivor went on alone, which no entry of its log says.
            if recovery.is_some_and(|recovery| recovery.is_due(&conf)) {
                return None;
            }
            Some(snapshot.with_conf_state(Membership { replica, conf }.encode()))
        };
        self.copies.on_snapshot((from, group), bytes, adopt, &mut self.budget, &mut self.store, out);
    }
}

/// Something that the controller does by itself; not again before it is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Duty {
    /// For the cluster as a whole.
    Cluster,
    /// For one group.
    Group(GroupId),
}

/// Replicas that answer, and have said that they need entries below the first that the leader has.
pub(super) fn stranded(group: &Group) -> Vec<ReplicaId> {
    let first = group.log().first_index();
    let matched = group.matched().into_iter();
    let is_stranded = |(replica, matched): (ReplicaId, LogIndex)| {
        let needs = matched.next() < first && group.next_index(replica).is_some_and(|next| next < first);
        (needs && group.is_active(replica) && !group.is_self(replica)).then_some(replica)
    };
    matched.filter_map(is_stranded).collect()
}

/// Who is to belong to group 0: everybody, and of them an odd number of voters. Who votes goes on doing so while it `may`
/// (its node is not about to leave); who is `ready` can be made a voter.
fn metadata_target(
    conf: &Conf,
    present: &BTreeSet<ReplicaId>,
    may: impl Fn(ReplicaId) -> bool,
    ready: impl Fn(ReplicaId) -> bool,
) -> Target {
    let able: BTreeSet<ReplicaId> = present.iter().copied().filter(|replica| may(*replica)).collect();
    let wanted = metadata_voters_wanted(able.len());
    let mut voters: BTreeSet<ReplicaId> = conf.voters.intersection(&able).copied().collect();
    let free = able.iter().copied().filter(|replica| conf.learners.contains(replica) && ready(*replica));
    let free: Vec<ReplicaId> = free.take(wanted.saturating_sub(voters.len())).collect();
    let candidates = able.iter().filter(|replica| !voters.contains(replica)).count();
    let to_come = wanted.saturating_sub(voters.len()).min(candidates);
    if free.len() < to_come && !conf.voters.is_subset(&able) {
        // Who is to go stays until its place can be taken: a majority needs no more answers with it than without.
        voters.clone_from(&conf.voters);
        let learners = present.difference(&voters).copied().collect();
        return Target { voters, learners };
    }
    // Four are no better than three, and need one more to agree.
    let even = (voters.len() + free.len()).is_multiple_of(2);
    voters.extend(free.iter().take(free.len() - usize::from(even && !free.is_empty())));
    let learners = present.difference(&voters).copied().collect();
    Target { voters, learners }
}

/// Whether group 0 needs no other voters. A learner on its way is in its place for now, and whoever it is to follow may be gone.
fn all_vote_who_are_to(
    voters: &BTreeSet<ReplicaId>,
    present: &BTreeSet<ReplicaId>,
    may: impl Fn(ReplicaId) -> bool,
) -> bool {
    let able = present.iter().filter(|replica| may(**replica)).count();
    let all_are_able = voters.iter().all(|voter| present.contains(voter) && may(*voter));
    all_are_able && voters.len() >= metadata_voters_wanted(able)
}

/// How many of so many are to vote in group 0: an odd number.
fn metadata_voters_wanted(able: usize) -> usize {
    able.saturating_sub(usize::from(able.is_multiple_of(2))).clamp(1, METADATA_VOTERS_MAX)
}

/// What is to be done next for nodes that are drained.
fn drain_next(metadata: &Metadata, standings: &Standings, voters: &BTreeSet<NodeId>) -> Option<wire::Command> {
    let drained: Vec<NodeId> =
        metadata.nodes().iter().filter(|(_, node)| node.draining).map(|(node, _)| *node).collect();
    // Not before group 0 can do without its vote: it is about to be switched off.
    let is_free = |node: &&NodeId| !metadata.holds_replicas(**node) && !voters.contains(node);
    if let Some(node) = drained.iter().find(is_free) {
        let remove = wire::RemoveNode { node_id: node.get() };
        return Some(command(wire::command::Kind::RemoveNode(remove)));
    }
    if drained.is_empty() {
        return None;
    }
    let free = MOVES_AT_ONCE.saturating_sub(balance::moving(metadata));
    // Without a node that could take them they stay, and whoever asks is told.
    let moves = balance::drain(metadata, standings, free).unwrap_or_default();
    (!moves.is_empty()).then(|| spread_command(&moves, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().copied().map(ReplicaId).collect()
    }

    fn target(voters: &[u64], learners: &[u64], present: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let conf = Conf { learners: ids(learners), ..Conf::of(ids(voters)) };
        let target = metadata_target(&conf, &ids(present), |replica| replica.get() != 8, |replica| replica.get() != 9);
        let numbers = |of: BTreeSet<ReplicaId>| of.into_iter().map(ReplicaId::get).collect();
        (numbers(target.voters), numbers(target.learners))
    }

    #[test]
    fn up_to_five_vote_and_an_odd_number() {
        assert_eq!(target(&[1], &[2], &[1, 2]), (vec![1], vec![2]));
        assert_eq!(target(&[1], &[2, 3], &[1, 2, 3]), (vec![1, 2, 3], vec![]));
        assert_eq!(target(&[1, 2, 3], &[4], &[1, 2, 3, 4]), (vec![1, 2, 3], vec![4]));
        assert_eq!(target(&[1, 2, 3], &[4, 5], &[1, 2, 3, 4, 5]), (vec![1, 2, 3, 4, 5], vec![]));
        assert_eq!(target(&[1, 2, 3], &[4, 9], &[1, 2, 3, 4, 9]), (vec![1, 2, 3], vec![4, 9]), "9 is not ready");
        assert_eq!(target(&[1, 2, 3, 4, 5], &[6, 7], &[1, 2, 3, 4, 5, 6, 7]).0, [1, 2, 3, 4, 5]);
    }

    /// With a learner that is still to take the place of one that is gone, the loss of one more would be that of a majority.
    #[test]
    fn it_is_settled_when_those_vote_who_are_to() {
        let settled = |voters, present| all_vote_who_are_to(&ids(voters), &ids(present), |replica| replica.get() != 8);
        for (voters, present) in [
            ([1, 2, 3].as_slice(), [1, 2, 3].as_slice()),
            (&[1, 2, 3], &[1, 2, 3, 4]),
            (&[1, 2], &[1, 2]),
            (&[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[1], &[1, 2]),
            (&[1, 2, 3], &[1, 2, 3, 8]),
        ] {
            assert!(settled(voters, present), "{voters:?} of {present:?}");
        }
        for (voters, present) in [
            ([1, 2, 3].as_slice(), [1, 2, 9].as_slice()),
            (&[1, 2], &[1, 2, 9]),
            (&[1, 2, 8], &[1, 2, 4, 8]),
            (&[1], &[1, 2, 3]),
        ] {
            assert!(!settled(voters, present), "{voters:?} of {present:?}");
        }
    }

    #[test]
    fn a_voter_that_goes_is_replaced_by_one_that_is_ready() {
        assert_eq!(target(&[1, 2, 3], &[4], &[1, 2, 4]), (vec![1, 2, 4], vec![]));
        assert_eq!(target(&[1, 2, 3], &[9], &[1, 2, 9]), (vec![1, 2, 3], vec![9]), "it stays until somebody is");
        assert_eq!(target(&[1, 2, 3], &[], &[1, 2, 9]), (vec![1, 2, 3], vec![9]), "9 is not even a learner");
        assert_eq!(target(&[1, 2, 3], &[], &[1, 2]), (vec![1, 2], vec![]), "nobody is left to take its place");
        assert_eq!(target(&[1, 2, 8], &[4], &[1, 2, 4, 8]), (vec![1, 2, 4], vec![8]), "8 is about to leave");
        assert_eq!(target(&[1, 2, 3], &[7], &[1, 3, 7]), (vec![1, 3, 7], vec![]), "a node that came back empty");
    }
}
