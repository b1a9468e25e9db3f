//! A replica with damage that nobody can mend, though others have what is damaged, is replaced as a whole.
//!
//! All replicas have the same files, so that each can be mended from any other. All but one: a replica that had to write on in
//! a segment whose index was lost (`mending.rs`) has files of its own from there on. They say the same, and nobody notices until
//! one of them is damaged, too. Then every other node has it soundly, and none has the file. The replica is **unsound**.
//!
//! It votes, takes entries and serves what can be read all the while: unlike one that is in doubt, it counts. It goes when a new
//! one takes its place on the same node, and from then until that is complete the group has a replica less. So it goes only
//! while that is safe, and nothing is lost by waiting:
//!
//! - Its node tells the group's leader every half second which replicas have damage, and whether they are unsound.
//! - A leader that is unsound itself hands over to one that is not damaged at all. Leadership does not go back to it.
//! - The leader has it replaced when it has led for long enough to have heard of everybody's damage; when every other voter
//!   answers and has caught up, they are a majority, and one of them at least has no damage that is known (the copy comes from
//!   there); and when the group has the replicas that it is to have. That the controller looks at once more, so that never two
//!   are replaced at once.
//!
//! Where all of them are damaged nothing is done, and everything stays as it is: each may be the only one that has something. Nor
//! is one of two replaced: the other could not agree with anybody to take the new one in.

use std::collections::BTreeMap;

use levada_protocol::ids::{GroupId, NodeId, ReplicaId, Term};

use super::{Node, event::Effect, sleeping::Wake};
use crate::{
    partition::machine::Partition,
    raft::{TICK_MS, group::Group, wire::PeerMessage},
};

/// What a replica said longer ago holds no more.
const FRESH_TICKS: u64 = 2_000 / TICK_MS;
/// A leader knows of everybody's damage after so many ticks of reports.
const HEARD_TICKS: u64 = 2_000 / TICK_MS;

/// As leader of groups: what their replicas say of their damage.
#[derive(Debug, Default)]
pub(super) struct Reports {
    groups: BTreeMap<GroupId, Reported>,
}

/// A group in which somebody has damage.
#[derive(Debug)]
struct Reported {
    /// Who leads in another term begins to listen anew.
    term: Term,
    replicas: BTreeMap<ReplicaId, Report>,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    heard: u64,
    /// It has been unsound since this tick.
    unsound_since: Option<u64>,
}

impl Report {
    /// Whether it has been unsound for so long that the others would have said if they were damaged.
    fn is_ripe(&self, now: u64) -> bool {
        self.unsound_since.is_some_and(|since| now >= since + HEARD_TICKS)
    }
}

impl Reports {
    fn hear(&mut self, group: GroupId, term: Term, replica: ReplicaId, is_unsound: bool, now: u64) {
        let reported = self.groups.entry(group).or_insert_with(|| Reported { term, replicas: BTreeMap::new() });
        if reported.term != term {
            *reported = Reported { term, replicas: BTreeMap::new() };
        }
        let report = reported.replicas.entry(replica).or_insert(Report { heard: now, unsound_since: None });
        report.heard = now;
        report.unsound_since = is_unsound.then(|| report.unsound_since.unwrap_or(now));
    }

    /// Forgets what is old, and groups that are not led in the same term any more.
    fn forget(&mut self, now: u64, term: impl Fn(GroupId) -> Option<Term>) {
        self.groups.retain(|group, reported| {
            reported.replicas.retain(|_, report| now <= report.heard + FRESH_TICKS);
            !reported.replicas.is_empty() && term(*group) == Some(reported.term)
        });
    }

    /// A group wakes up: whether its replicas are there shows only now.
    fn listen_anew(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    /// Whether a replica of a group that is led here is unsound.
    pub(super) fn is_unsound(&self, group: GroupId, replica: ReplicaId) -> bool {
        let report = self.groups.get(&group).and_then(|reported| reported.replicas.get(&replica));
        report.is_some_and(|report| report.unsound_since.is_some())
    }
}

/// What a leader does about unsound replicas of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    HandOver(NodeId),
    /// It was settled at this target.
    Replace(ReplicaId, u64),
    /// That would be the way, but something is missing: it must not fall asleep.
    Wait,
}

impl Node {
    /// Every half second: tells leaders what is damaged here, and as leader does something about it.
    pub(super) fn see_to_unsound(&mut self, out: &mut Vec<Effect>) {
        for (group, is_unsound) in self.mends.groups() {
            let Some(partition) = self.partitions.get(&group) else { continue };
            let replica = partition.group.replica();
            if partition.leading.is_some() {
                self.on_damaged(group, replica, is_unsound);
            } else if let Some(to) = partition.group.leader().filter(|to| *to != self.config.node) {
                out.push(Effect::Send { to, message: PeerMessage::Damaged { group, replica, is_unsound } });
            }
        }
        let partitions = &self.partitions;
        let led = |group| partitions.get(&group).filter(|partition| partition.leading.is_some());
        self.reports.forget(self.ticks, |group| led(group).map(|partition| partition.group.term()));
        let ways = self.reports.groups.iter().filter_map(|(&group, reported)| {
            let way = self.way(led(group)?, &reported.replicas)?;
            Some((group, way))
        });
        for (group, way) in ways.collect::<Vec<_>>() {
            if self.sleepers.is_asleep(group) {
                self.reports.listen_anew(group);
            }
            self.wake(group, Wake::Upkeep);
            match way {
                Way::HandOver(to) => {
                    tracing::warn!(group = group.get(), %to, "replica.unsound: another one is to lead");
                    self.hand_to(group, to, false, Wake::Upkeep);
                }
                Way::Replace(replica, targets_given) => {
                    let settled_at = Some(targets_given);
                    self.tell_controller(PeerMessage::Replace { group, replica, settled_at }, out);
                }
                Way::Wait => {}
            }
        }
    }

    /// As leader: a replica says that it has damaged segments.
    pub(super) fn on_damaged(&mut self, group: GroupId, replica: ReplicaId, is_unsound: bool) {
        let Some(partition) = self.partitions.get(&group) else { return };
        if partition.leading.is_some() && partition.group.conf().voters.contains(&replica) {
            self.reports.hear(group, partition.group.term(), replica, is_unsound, self.ticks);
        }
    }

    /// What is to be done in a group that is led here and in which these replicas are damaged.
    fn way(&self, partition: &Partition, reports: &BTreeMap<ReplicaId, Report>) -> Option<Way> {
        let (group, own) = (&partition.group, partition.group.replica());
        let voters = &group.conf().voters;
        let whole: Vec<ReplicaId> = voters.iter().copied().filter(|voter| !reports.contains_key(voter)).collect();
        let unsound = || reports.iter().filter(|(_, report)| report.unsound_since.is_some());
        if whole.is_empty() || unsound().next().is_none() {
            return None;
        }
        let mut ripe = unsound().filter(|(_, report)| report.is_ripe(self.ticks)).map(|(replica, _)| *replica);
        if ripe.clone().any(|replica| replica == own) {
            let unfit = self.unfit();
            let able = whole.into_iter().filter(|voter| group.can_propose() && group.has_caught_up(*voter));
            let able = able.filter_map(|voter| group.replicas().get(&voter)).find(|node| !unfit.contains(*node));
            return Some(able.map_or(Way::Wait, |to| Way::HandOver(*to)));
        }
        if 2 * (voters.len() - 1) <= voters.len() {
            return None;
        }
        let placed = partition.placed()?;
        let is_settled = !self.sleepers.is_asleep(group.id()) && partition.settled && placed.target.is_empty();
        let replace = ripe.find(|replica| is_settled && has_all_but(group, *replica));
        Some(replace.map_or(Way::Wait, |replica| Way::Replace(replica, placed.targets_given)))
    }
}

/// Whether the group consists of voters that answer and have caught up, but for one.
fn has_all_but(group: &Group, replica: ReplicaId) -> bool {
    let conf = group.conf();
    conf.everybody() == conf.voters
        && conf.voters.iter().filter(|voter| **voter != replica).all(|voter| group.has_caught_up(*voter))
}
