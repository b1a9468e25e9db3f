//! The command that lets a partition go on from one replica when it has no majority any more (`cluster/recovery.rs` says
//! when that may be).
//!
//! All other replicas that the partition has, had or was to have count as lost, and their numbers are never used again: the
//! survivor's raft group takes them out by itself (`node/alone.rs`), without their consent. That must happen once, so what is
//! given up is told by its numbers: replicas that come later have higher ones.

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, ReplicaId, Term},
    messages::metadata as messages,
};

use super::{Applied, Metadata, Partition, Replica};
use crate::raft::{alone::later, membership::Conf};

/// Until its group has arrived at its target, a partition goes on from one replica without the consent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// That replica.
    pub survivor: ReplicaId,
    /// All others with numbers below are given up.
    pub below: ReplicaId,
    /// If it may be in doubt: it goes on nevertheless, as long as it knows of no later term than this.
    pub forgiven_to: Option<Term>,
}

impl Recovery {
    /// Whether a replica is given up.
    #[must_use]
    pub fn gives_up(&self, replica: ReplicaId) -> bool {
        replica < self.below && replica != self.survivor
    }

    /// In which term a replica goes on though it is in doubt, if it is to, and knows this as its last: behind all that it may
    /// know of. So it does that once. If it is in doubt again afterwards, that is another matter.
    #[must_use]
    pub fn forgives(&self, replica: ReplicaId, term: Term) -> Option<Term> {
        self.forgiven_to.filter(|to| replica == self.survivor && term <= *to).map(later)
    }

    /// Whether a group with this membership still needs replicas that are given up. If one of those that came later
    /// belongs to it, it does not: then it has gone on without them already. Nor does a survivor that votes alone need those that
    /// learn from it: they came when it had gone on, and were given up when it was told to once more.
    #[must_use]
    pub fn is_due(&self, conf: &Conf) -> bool {
        let needs = conf.voters.union(&conf.outgoing).any(|replica| self.gives_up(*replica));
        needs && conf.everybody().iter().all(|replica| *replica < self.below)
    }
}

impl Metadata {
    pub(super) fn recover_partition(&mut self, recover: &messages::RecoverPartition) -> Result<Applied> {
        let (group, survivor) = (GroupId(recover.group), ReplicaId(recover.survivor));
        let place = self.partition_of(group);
        let topic = place.and_then(|place| self.topics.get(&place.topic));
        let before = topic.and_then(|topic| topic.partitions.iter().find(|partition| partition.group == group));
        let is_so = before.is_some_and(|partition| {
            partition.targets_given == recover.targets_given && partition.everybody().contains_key(&survivor)
        });
        if before.is_some() && !is_so {
            let why = format!("the replicas of raft group {group} have changed since this was decided; look again");
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        let forgiven_to = recover.forgiven_to.map(Term);
        self.change_partition(group, |metadata, partition| metadata.leave_to(partition, survivor, forgiven_to))
    }

    fn leave_to(&mut self, partition: &mut Partition, survivor: ReplicaId, forgiven_to: Option<Term>) {
        partition.recovery = Some(Recovery { survivor, below: ReplicaId(self.next_replica), forgiven_to });
        let others: Vec<ReplicaId> = partition.everybody().into_keys().filter(|replica| *replica != survivor).collect();
        partition.lost.extend(others);
        let wanted = partition.wanted().to_vec();
        let renewed = |replica: Replica| {
            if replica.id == survivor { replica } else { self.draw_replica(replica.node) }
        };
        partition.set_target(wanted.into_iter().map(renewed).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64]) -> Conf {
        let ids = |of: &[u64]| of.iter().copied().map(ReplicaId).collect();
        Conf { learners: ids(learners), ..Conf::of(ids(voters)) }
    }

    #[test]
    fn it_is_due_once() {
        let recovery = Recovery { survivor: ReplicaId(2), below: ReplicaId(4), forgiven_to: None };
        assert!(recovery.is_due(&conf(&[1, 2, 3], &[])));
        assert!(recovery.is_due(&Conf { outgoing: [ReplicaId(1)].into(), ..conf(&[2], &[]) }));
        assert!(!recovery.is_due(&conf(&[2], &[])));
        assert!(!recovery.is_due(&conf(&[2], &[4])));
        assert!(!recovery.is_due(&conf(&[2, 4, 5], &[])));
        assert!(!recovery.is_due(&conf(&[2], &[3])), "it leads, and can let it go by itself");
        assert!(recovery.is_due(&conf(&[1, 3], &[2])));
        // However it came back: those that came later may be a majority.
        assert!(!recovery.is_due(&conf(&[2, 4, 5], &[3])));
    }

    #[test]
    fn a_replica_in_doubt_is_forgiven_once_if_that_was_said() {
        let sound = Recovery { survivor: ReplicaId(2), below: ReplicaId(4), forgiven_to: None };
        assert_eq!(sound.forgives(ReplicaId(2), Term(0)), None);
        let recovery = Recovery { forgiven_to: Some(Term(7)), ..sound };
        let later = recovery.forgives(ReplicaId(2), Term(5)).unwrap();
        assert!(later > Term(1_000) && recovery.forgives(ReplicaId(2), Term(7)) == Some(later));
        assert_eq!(recovery.forgives(ReplicaId(2), later), None, "that is a later doubt");
        assert_eq!(recovery.forgives(ReplicaId(3), Term(5)), None);
    }
}
