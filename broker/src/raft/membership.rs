//! Who belongs to a group, and how that changes.
//!
//! Somebody (the metadata) says which replicas a group is to have. Its leader gets there by itself, one step at a time, and
//! [`next_step`] says which one is next. It depends on nothing but where the group stands, so whoever leads goes on where
//! the leader before stopped, and the target may change on the way.
//!
//! 1. Replicas that are new become **learners**: they get everything and count for nothing.
//! 2. When all of them have caught up, they become voters and those that are to go do not vote any more, in one change by
//!    **joint consensus** (Raft dissertation §4.3): for a while everything needs a majority of the old voters and one of
//!    the new.
//! 3. The joint state is left by a change of its own. (Raft-rs would propose it by itself, and forgets to if leadership
//!    moves at the wrong moment.)
//!
//! A leader that is to go stays until everybody else is in place, hands leadership over, and is removed by its successor.
//! Nobody is removed as long as fewer than a majority of those that stay have caught up.
//!
//! **When it is over.** Raft does not keep durably what is committed, it finds out again. After a power cut of all nodes
//! replicas that know of an earlier membership only could wait for votes of others that are deleted by then. So a group
//! has arrived when one more entry is committed that was sent with the news that the last change is: then a majority of
//! those that stay has that on its disk ([`super::group::Group::approach`]).
//!
//! Raft-rs keeps a change as a message of its own protobuf. Its bytes stand in the log and come from peers; they are read
//! with `prost` here, into the same message (see [`super::wire`]).

use std::collections::BTreeSet;

use bytes::Bytes;
use levada_protocol::{ids::ReplicaId, messages::metadata as wire};
use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

/// More changes at once are nonsense.
const CHANGES_MAX: usize = 64;

/// Who belongs to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// Who votes.
    pub voters: BTreeSet<ReplicaId>,
    /// In the joint state: who voted before. Everything needs a majority of them, too.
    pub outgoing: BTreeSet<ReplicaId>,
    /// Who gets everything and does not vote.
    pub learners: BTreeSet<ReplicaId>,
    /// In the joint state: who will be a learner after it.
    pub learners_next: BTreeSet<ReplicaId>,
}

/// Which replica of a group this is, and who belongs to it: what a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// This replica.
    pub replica: ReplicaId,
    /// As of the entry that was applied last.
    pub conf: Conf,
}

/// Who is to belong to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Who is to vote.
    pub voters: BTreeSet<ReplicaId>,
    /// Who is to get everything without a vote.
    pub learners: BTreeSet<ReplicaId>,
}

/// What a leader does to bring its group to the replicas that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A learner more.
    Learn(ReplicaId),
    /// Into the joint state: learners become voters, and others go.
    Enter {
        /// Who becomes a voter.
        add: BTreeSet<ReplicaId>,
        /// Who votes no more, and goes on as a learner.
        demote: BTreeSet<ReplicaId>,
        /// Who goes.
        remove: BTreeSet<ReplicaId>,
    },
    /// Out of the joint state.
    Leave,
    /// Leadership goes to one of these, as this leader is to go.
    HandOver(BTreeSet<ReplicaId>),
}

impl Conf {
    /// Voters only.
    #[must_use]
    pub fn of(voters: impl IntoIterator<Item = ReplicaId>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Everybody who gets entries.
    #[must_use]
    pub fn everybody(&self) -> BTreeSet<ReplicaId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).chain(&self.learners_next).copied().collect()
    }

    /// As raft has it.
    #[must_use]
    pub fn to_raft(&self) -> ConfState {
        let ids = |of: &BTreeSet<ReplicaId>| of.iter().map(|replica| replica.get()).collect::<Vec<u64>>();
        let mut conf = ConfState::default();
        conf.set_voters(ids(&self.voters));
        conf.set_voters_outgoing(ids(&self.outgoing));
        conf.set_learners(ids(&self.learners));
        conf.set_learners_next(ids(&self.learners_next));
        conf
    }

    /// From raft.
    #[must_use]
    pub fn from_raft(conf: &ConfState) -> Self {
        let ids = |of: &[u64]| of.iter().copied().map(ReplicaId).collect();
        Self {
            voters: ids(conf.get_voters()),
            outgoing: ids(conf.get_voters_outgoing()),
            learners: ids(conf.get_learners()),
            learners_next: ids(conf.get_learners_next()),
        }
    }
}

impl Membership {
    /// This replica, and nobody else.
    #[must_use]
    pub fn alone(replica: ReplicaId) -> Self {
        Self { replica, conf: Conf::of([replica]) }
    }

    /// For a checkpoint.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let ids = |of: &BTreeSet<ReplicaId>| of.iter().map(|replica| replica.get()).collect();
        let conf = &self.conf;
        let message = wire::Membership {
            replica_id: self.replica.get(),
            voters: ids(&conf.voters),
            outgoing: ids(&conf.outgoing),
            learners: ids(&conf.learners),
            learners_next: ids(&conf.learners_next),
        };
        message.encode_to_vec().into()
    }

    /// From a checkpoint; `None` from one that says nothing of it: then the group is as it was made.
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, prost::DecodeError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let message = wire::Membership::decode(bytes)?;
        let ids = |of: Vec<u64>| of.into_iter().map(ReplicaId).collect();
        let conf = Conf {
            voters: ids(message.voters),
            outgoing: ids(message.outgoing),
            learners: ids(message.learners),
            learners_next: ids(message.learners_next),
        };
        Ok(Some(Self { replica: ReplicaId(message.replica_id), conf }))
    }
}

/// The next step from `conf` to `target` for the leader `own`; `None` when there is nothing to do for now.
/// `caught_up` says who has about everything and answers.
#[must_use]
pub fn next_step(conf: &Conf, target: &Target, own: ReplicaId, caught_up: impl Fn(ReplicaId) -> bool) -> Option<Step> {
    if conf.is_joint() {
        // The change may be of a leader before, and may remove this one.
        let ready: BTreeSet<ReplicaId> = conf.voters.iter().copied().filter(|replica| caught_up(*replica)).collect();
        let must_hand_over = !conf.voters.contains(&own) && !ready.is_empty();
        return Some(if must_hand_over { Step::HandOver(ready) } else { Step::Leave });
    }
    let Target { voters, learners } = target;
    if voters.is_empty() {
        return None;
    }
    let there = conf.everybody();
    if let Some(&missing) = voters.union(learners).find(|replica| !there.contains(replica)) {
        return Some(Step::Learn(missing));
    }
    let learning: BTreeSet<ReplicaId> = voters.intersection(&conf.learners).copied().collect();
    let is_wanted = |replica: &&ReplicaId| voters.contains(replica) || learners.contains(replica);
    let mut leaving: BTreeSet<ReplicaId> = there.iter().filter(|replica| !is_wanted(replica)).copied().collect();
    let ready: BTreeSet<ReplicaId> = voters.iter().copied().filter(|replica| caught_up(*replica)).collect();
    let mut demote: BTreeSet<ReplicaId> = conf.voters.intersection(learners).copied().collect();
    let is_done = learning.is_empty() && leaving.is_empty() && demote.is_empty();
    if is_done || !learning.is_subset(&ready) || 2 * ready.len() <= voters.len() {
        return None;
    }
    let stays = !leaving.remove(&own) && !demote.remove(&own);
    if !learning.is_empty() || !leaving.is_empty() || !demote.is_empty() {
        return Some(Step::Enter { add: learning, demote, remove: leaving });
    }
    (!stays).then_some(Step::HandOver(ready))
}

/// A step as raft takes it; `None` for one that is no change.
#[must_use]
pub fn change(step: &Step) -> Option<ConfChangeV2> {
    let single = |kind: ConfChangeType, replica: &ReplicaId| {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = replica.get();
        single
    };
    let mut change = ConfChangeV2::default();
    match step {
        Step::Learn(replica) => change.set_changes(vec![single(ConfChangeType::AddLearnerNode, replica)].into()),
        Step::Enter { add, demote, remove } => {
            let demote = demote.iter().map(|replica| single(ConfChangeType::AddLearnerNode, replica));
            let add = add.iter().map(|replica| single(ConfChangeType::AddNode, replica));
            let remove = remove.iter().map(|replica| single(ConfChangeType::RemoveNode, replica));
            change.set_transition(ConfChangeTransition::Explicit);
            change.set_changes(add.chain(demote).chain(remove).collect::<Vec<_>>().into());
        }
        Step::Leave => {}
        Step::HandOver(_) => return None,
    }
    Some(change)
}

/// Reads a change from the log.
///
/// # Errors
/// The bytes are none that a leader writes.
pub fn read_change(bytes: &[u8]) -> Result<ConfChangeV2, &'static str> {
    let message = wire::ConfChange::decode(bytes).map_err(|_| "a change of the membership does not parse")?;
    if message.changes.len() > CHANGES_MAX {
        return Err("a change of the membership is too large");
    }
    let mut change = ConfChangeV2::default();
    change.set_transition(match message.transition {
        0 => ConfChangeTransition::Auto,
        2 => ConfChangeTransition::Explicit,
        _ => return Err("a change of the membership is of a kind that no leader makes"),
    });
    let singles = message.changes.iter().map(|single| {
        let mut raft = ConfChangeSingle::default();
        raft.set_change_type(match single.change_type {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            _ => return Err("a change of the membership is of a kind that no leader makes"),
        });
        if single.node_id == 0 {
            return Err("replica 0 does not exist");
        }
        raft.node_id = single.node_id;
        Ok(raft)
    });
    change.set_changes(singles.collect::<Result<Vec<_>, _>>()?.into());
    Ok(change)
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;
    use raft::{RawNode, storage::MemStorage};

    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().copied().map(ReplicaId).collect()
    }

    fn voters(of: &[u64]) -> Target {
        Target { voters: ids(of), ..Target::default() }
    }

    fn raft_of(conf: &Conf, own: u64) -> RawNode<MemStorage> {
        let config = raft::Config { id: own, election_tick: 10, heartbeat_tick: 2, ..raft::Config::default() };
        let storage = MemStorage::new_with_conf_state(conf.to_raft());
        RawNode::new(&config, storage, &slog::Logger::root(slog::Discard, slog::o!())).unwrap()
    }

    /// Follows the steps through raft's own state until there are none.
    fn walk(from: &[u64], to: &[u64], own: u64) -> Vec<String> {
        let (mut conf, target, mut own) = (Conf::of(ids(from)), voters(to), ReplicaId(own));
        let mut raft = raft_of(&conf, own.get());
        let mut walked = Vec::new();
        while let Some(step) = next_step(&conf, &target, own, |_| true) {
            assert!(walked.len() < 20, "{walked:?}");
            match &step {
                Step::HandOver(to) => own = *to.first().unwrap(),
                step => {
                    let bytes = change(step).unwrap().write_to_bytes().unwrap();
                    let read = read_change(&bytes).unwrap();
                    assert_eq!(read.write_to_bytes().unwrap(), bytes);
                    conf = Conf::from_raft(&raft.apply_conf_change(&read).unwrap());
                    assert!(conf.voters.contains(&own), "a leader is never removed by itself: {step:?}");
                }
            }
            let membership = Membership { replica: own, conf: conf.clone() };
            assert_eq!(Membership::decode(&membership.encode()).unwrap(), Some(membership));
            walked.push(match step {
                Step::Learn(replica) => format!("+{replica}?"),
                Step::Enter { add, demote, remove } => {
                    let demote = demote.iter().map(|replica| format!("~{replica}"));
                    let add = add.iter().map(|replica| format!("+{replica}")).chain(demote);
                    add.chain(remove.iter().map(|replica| format!("-{replica}"))).collect::<Vec<_>>().join(" ")
                }
                Step::Leave => "leave".to_owned(),
                Step::HandOver(_) => format!("to {own}"),
            });
        }
        assert_eq!(conf, Conf::of(target.voters));
        walked
    }

    #[test]
    fn every_way_from_some_replicas_to_others() {
        assert_eq!(walk(&[1, 2, 3], &[1, 2, 4], 1), ["+4?", "+4 -3", "leave"]);
        assert_eq!(walk(&[1, 2, 3], &[2, 3, 4], 1), ["+4?", "+4", "leave", "to 2", "-1", "leave"]);
        assert_eq!(walk(&[1], &[2], 1), ["+2?", "+2", "leave", "to 2", "-1", "leave"]);
        assert_eq!(walk(&[1, 2, 3], &[4, 5, 6], 2).last().unwrap(), "leave");
        assert_eq!(walk(&[1, 2, 3], &[1], 1), ["-2 -3", "leave"]);
        assert_eq!(walk(&[1, 2, 3], &[1, 2, 3], 1), [""; 0]);
        for from in 1..32_u64 {
            for to in 1..32_u64 {
                let of = |bits: u64| (1..=5).filter(|id| bits >> (id - 1) & 1 == 1).collect::<Vec<_>>();
                of(from).iter().for_each(|own| drop(walk(&of(from), &of(to), *own)));
            }
        }
    }

    #[test]
    fn nobody_counts_or_goes_before_the_others_have_caught_up() {
        let conf = Conf { learners: ids(&[4]), ..Conf::of(ids(&[1, 2, 3])) };
        let step = |ready: &[u64], target: &[u64]| {
            next_step(&conf, &voters(target), ReplicaId(1), |replica| ids(ready).contains(&replica))
        };
        assert_eq!(step(&[1, 2, 3], &[1, 2, 4]), None, "the learner has not");
        let none = BTreeSet::new;
        let enter =
            |add: &[u64], remove: &[u64]| Some(Step::Enter { add: ids(add), demote: none(), remove: ids(remove) });
        assert_eq!(step(&[1, 4], &[1, 2, 4]), enter(&[4], &[3]), "a majority of those that stay has");
        assert_eq!(step(&[1], &[1, 2]), None, "the only one that would be left to answer is not enough");
        assert_eq!(step(&[1, 2, 3], &[1, 2, 3]), enter(&[], &[4]), "a learner that is not wanted any more goes");
    }

    #[test]
    fn learners_may_be_there_for_good() {
        let target = Target { voters: ids(&[1, 2, 3]), learners: ids(&[5]) };
        let step = |conf: &Conf| next_step(conf, &target, ReplicaId(1), |_| true);
        let conf = Conf::of(ids(&[1, 2, 3]));
        assert_eq!(step(&conf), Some(Step::Learn(ReplicaId(5))));
        assert_eq!(step(&Conf { learners: ids(&[5]), ..conf.clone() }), None);
        let more = Conf { learners: ids(&[4, 5]), ..conf };
        assert_eq!(step(&more), Some(Step::Enter { add: ids(&[]), demote: ids(&[]), remove: ids(&[4]) }));
        let voter = Conf { learners: ids(&[2]), ..Conf::of(ids(&[1, 3, 5])) };
        assert_eq!(step(&voter), Some(Step::Enter { add: ids(&[2]), demote: ids(&[5]), remove: ids(&[]) }));
        let leader = Conf::of(ids(&[1, 2, 3, 5]));
        let step = next_step(&leader, &target, ReplicaId(5), |_| true);
        assert_eq!(step, Some(Step::HandOver(ids(&[1, 2, 3]))), "a leader does not demote itself");
    }

    #[test]
    fn a_leader_whom_a_change_before_it_removes_hands_over() {
        let conf = Conf { outgoing: ids(&[1, 2, 3]), ..Conf::of(ids(&[2, 3, 4])) };
        let step = |own, ready: &[u64]| {
            next_step(&conf, &voters(&[2, 3, 4]), ReplicaId(own), |replica| ids(ready).contains(&replica))
        };
        assert_eq!(step(1, &[1, 3, 4]), Some(Step::HandOver(ids(&[3, 4]))));
        assert_eq!(step(1, &[1]), Some(Step::Leave), "nobody is there to take over");
        assert_eq!(step(2, &[1]), Some(Step::Leave));
    }

    #[test]
    fn what_no_leader_writes_is_refused() {
        let bytes = |transition, kinds: &[(i32, u64)]| {
            let changes = kinds.iter().map(|&(change_type, node_id)| wire::ConfChangeSingle { change_type, node_id });
            wire::ConfChange { transition, changes: changes.collect() }.encode_to_vec()
        };
        assert!(read_change(&bytes(2, &[(0, 1), (1, 2)])).is_ok());
        for nonsense in [bytes(1, &[]), bytes(9, &[]), bytes(0, &[(3, 1)]), bytes(0, &[(0, 0)]), b"\x99".to_vec()] {
            assert!(read_change(&nonsense).is_err());
        }
        assert!(read_change(&bytes(0, &[(0, 1); CHANGES_MAX + 1])).is_err());
    }
}
