//! Hibernation: a group in which nothing happens does nothing.
//!
//! An awake group costs a tick each 50 ms on every replica, and its leader a heartbeat to each follower each 100 ms. Most
//! groups of a large node are idle most of the time. One that has been for a while goes to **sleep**: it does not tick,
//! sends nothing, and is not even looked at. What its heartbeats said ("the leader is there") the nodes say for all their
//! groups at once, each to each other (`node/sleeping.rs`).
//!
//! **Falling asleep.** A leader may when there is nothing that time could bring on ([`Group::may_sleep`]): every replica
//! votes, and each whose node is there has answered lately, has every entry and knows that all of them are committed (these
//! are a majority); everything is applied and durable here; no read, no change of membership and no hand-over is under way.
//! What a node that is not there needs, it gets when it is back: then its groups are woken. The leader tells its followers
//! with a [`Notice`]: the group, the term and the last index. A follower that stands exactly there ([`Group::follows`]) sleeps too; any other
//! goes on ticking.
//!
//! **Waking up.** Any message of raft for the group wakes a replica, and so does whatever is asked of it here. A leader that
//! wakes says so with a heartbeat at once ([`Group::rouse`]), which wakes the others. When the *node* of a sleeping leader
//! is lost, its followers wake with [`Group::succeed`]. When a follower's is, the leader sleeps on, as long as a majority is
//! left; when that node is back, or another process runs there, the leader wakes up and looks what it needs.
//!
//! **Nothing of this is needed for safety.** A sleeping replica is to raft one whose clock stands still, and raft's safety
//! does not depend on clocks: whoever leads needs a majority for each entry and each read. What could go wrong is that a
//! group stays without a leader, or that a good leader is deposed. So, case by case:
//!
//! - *A follower missed the notice.* It ticks, hears no heartbeat, and asks for pre-votes. Its question wakes the leader and
//!   the other followers. All of them are within their lease (their clocks stood still behind the leader's last word), so
//!   none answers; the leader's heartbeat makes the candidate a follower again. The term does not change. (If both followers
//!   of three missed it and ask in the same moment, one of them may win. That is an election like any other.)
//! - *The leader is cut off.* It does not hear the others' nodes any more, wakes up, and steps down as raft's check of its
//!   quorum tells it to. The others wake because they do not hear its node, and elect. Meanwhile it commits nothing and
//!   confirms no read, as it would have awake. If it hears them and they do not hear it, they elect, and the vote or the
//!   new leader's first entry wakes it.
//! - *The leader's process is paused.* To the others that is the same. When it goes on, it believes itself the leader, asleep.
//!   Its successor may sleep, too, by then; but it hears the node again, wakes up, and its heartbeat deposes the old one.
//! - *The leader's node was restarted*, so quickly that nobody missed it. Nobody leads any more, and no timer runs. Each
//!   process has a number of its own in what its node says; another number is taken as the loss of the node.
//! - *A follower's node was restarted.* Its replica does not know of any leader. The leader wakes because of the number, or at
//!   the latest because of the follower's question for pre-votes.
//! - *A follower's replica is in doubt after a restart*, and asks nobody for anything. The leader wakes because of the number, or
//!   stays awake for a while if it is, so that what the process before answered is forgotten: then nobody sleeps until another
//!   replica has taken its place. If such an answer comes late, so that the leader sleeps, its notices tell that node whom to tell.
//! - *The leader's replica is gone while its node is there* (it is in doubt after a restart, or was replaced). Awake, its
//!   followers would notice. So a notice holds for a limited time only: the leader repeats it in turn for all its sleeping
//!   groups, and a follower for which it is not repeated wakes up and asks for votes.
//! - *A late notice* reaches a follower of an awake leader: the next heartbeat wakes it.
//!
//! **Votes.** Under check-quorum a follower within its lease ignores who asks for votes. One that sleeps is within its lease
//! for ever, so when its leader is lost the lease must end: [`Group::succeed`] sets its clock to the end of the election
//! timeout. Of thousands of groups that lose their leader at once, each campaigns a little later than the next, by a hash of
//! its number; and of one group's replicas one comes first, so that votes are rarely split (`succession_ticks`).

use levada_protocol::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use raft::StateRole;

use super::{ELECTION_TICKS, group::Group};

/// After the loss of its leader's node a group waits at least so long: the others are to have noticed, too.
const SUCCESSION_TICKS_MIN: usize = 5;
/// Campaigns of groups that lost their leaders at once are spread over so many ticks.
const SUCCESSION_SPREAD_TICKS: usize = 16;
/// The second in line comes so many ticks after the first.
const SUCCESSION_RANK_TICKS: usize = 10;
/// Who comes further behind in line does not wait any longer.
const SUCCESSION_RANK_MAX: usize = 2;
/// Raft takes no election timeout from here on.
pub(super) const TIMEOUT_TICKS_MAX: usize = 6 * ELECTION_TICKS;

const _: () = assert!(
    ELECTION_TICKS + SUCCESSION_TICKS_MIN + SUCCESSION_SPREAD_TICKS + SUCCESSION_RANK_MAX * SUCCESSION_RANK_TICKS
        < TIMEOUT_TICKS_MAX
);

/// A leader's word that its group sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The group.
    pub group: GroupId,
    /// The term it leads in.
    pub term: Term,
    /// The last entry: committed, and known to be on every replica.
    pub last_index: LogIndex,
}

impl Group {
    /// As leader: whether time alone can bring nothing on, with these nodes there. What is proposed here and not by raft
    /// itself, the caller knows.
    #[must_use]
    pub fn may_sleep(&self, is_present: impl Fn(NodeId) -> bool) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let conf = self.conf();
        let is_there = |id: u64| self.replicas().get(&ReplicaId(id)).is_some_and(|node| is_present(*node));
        raft.state == StateRole::Leader
            && raft.lead_transferee.is_none()
            && raft.pending_read_count() == 0
            && !raft.has_pending_conf()
            && !conf.is_joint()
            && conf.learners.is_empty()
            && self.is_at_rest(last)
            && self.has_majority(&is_present)
            && raft.prs().iter().filter(|(id, _)| **id != raft.id && is_there(**id)).all(|(_, progress)| {
                progress.recent_active && progress.matched == last && progress.committed_index == last
            })
    }

    /// Whether this replica and those on nodes that are there are a majority of the voters.
    #[must_use]
    pub fn has_majority(&self, is_present: impl Fn(NodeId) -> bool) -> bool {
        let voters = &self.conf().voters;
        let is_there = |voter: &&ReplicaId| {
            self.is_self(**voter) || self.replicas().get(*voter).is_some_and(|node| is_present(*node))
        };
        2 * voters.iter().filter(is_there).count() > voters.len()
    }

    /// What a leader tells its followers when it falls asleep, and now and then as long as it sleeps.
    #[must_use]
    pub fn notice(&self) -> Notice {
        Notice { group: self.id(), term: self.term(), last_index: self.last_index() }
    }

    /// As follower: whether this replica stands where its leader on that node says that the group sleeps.
    #[must_use]
    pub fn follows(&self, leader: NodeId, notice: &Notice) -> bool {
        self.raw.raft.state == StateRole::Follower
            && self.leader() == Some(leader)
            && self.term() == notice.term
            && self.last_index() == notice.last_index
            && self.is_at_rest(notice.last_index.get())
    }

    /// Everything up to `last` is committed, applied and durable here, and raft has nothing to hand out.
    fn is_at_rest(&self, last: u64) -> bool {
        let log = &self.raw.raft.raft_log;
        log.committed == last
            && log.applied == last
            && log.persisted == last
            && self.unpersisted.is_empty()
            && !self.raw.has_ready()
    }

    /// It falls asleep: what it does not need meanwhile goes.
    pub fn lie_down(&mut self) {
        self.raw.raft.maybe_free_inflight_buffers();
        self.unpersisted.shrink_to_fit();
    }

    /// It wakes up: a leader says so to its followers.
    pub fn rouse(&mut self) {
        self.raw.ping();
        self.fix_timeout();
    }

    /// As follower that wakes up: its leader is lost. Its lease ends here, and it asks for votes when it is its turn.
    pub fn succeed(&mut self) {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Follower {
            return;
        }
        let lost = ReplicaId(raft.leader_id);
        let ticks = succession_ticks(self.id(), self.replica(), self.conf().voters.iter().copied(), lost);
        self.raw.raft.election_elapsed = ELECTION_TICKS;
        self.succession = Some((self.term(), ELECTION_TICKS + ticks));
        self.fix_timeout();
    }
}

/// How many ticks after the loss of its leader a replica asks for votes. The replicas of a group have an order in which they
/// do, which differs from group to group.
fn succession_ticks(group: GroupId, own: ReplicaId, voters: impl Iterator<Item = ReplicaId>, lost: ReplicaId) -> usize {
    let hash = usize::try_from(mix(group.get()) >> 33).unwrap_or(0);
    let line: Vec<ReplicaId> = voters.filter(|voter| *voter != lost).collect();
    let first = hash % line.len().max(1);
    let place = line.iter().position(|voter| *voter == own).unwrap_or(line.len());
    let rank = (place + line.len() - first) % line.len().max(1);
    let spread = hash / line.len().max(1) % SUCCESSION_SPREAD_TICKS;
    SUCCESSION_TICKS_MIN + spread + SUCCESSION_RANK_TICKS * rank.min(SUCCESSION_RANK_MAX)
}

const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 32;
    x.wrapping_mul(0xD1B5_4A32_D192_ED03)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(group: u64, own: u64) -> usize {
        succession_ticks(GroupId(group), ReplicaId(own), [11, 12, 13].map(ReplicaId).into_iter(), ReplicaId(12))
    }

    #[test]
    fn one_replica_comes_first_and_not_always_the_same() {
        let firsts = (1..=1000).filter(|&group| {
            let (one, other) = (ticks(group, 11), ticks(group, 13));
            assert_eq!(one.abs_diff(other), SUCCESSION_RANK_TICKS, "group {group}");
            one < other
        });
        let firsts = firsts.count();
        assert!((400..600).contains(&firsts), "{firsts} of 1000");
    }

    #[test]
    fn groups_are_spread_evenly() {
        let mut at = [0; SUCCESSION_SPREAD_TICKS];
        for group in 1..=16_000 {
            let first = ticks(group, 11).min(ticks(group, 13));
            at[first - SUCCESSION_TICKS_MIN] += 1;
        }
        assert!(at.iter().all(|groups| (800..1200).contains(groups)), "{at:?}");
    }
}
