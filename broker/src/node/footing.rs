//! Where a raft group stands on a node, for who sees all nodes at once: a simulator, which knows what nobody in the cluster can.

use levada_protocol::ids::{GroupId, LogIndex, ReplicaId, Term};

use super::Node;
use crate::raft::{group::Group, membership::Conf};

/// Where a raft group stands on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footing {
    /// Which replica it is.
    pub replica: ReplicaId,
    /// Who belongs to the group, as far as it knows.
    pub conf: Conf,
    /// The last entry that it knows to be committed.
    pub committed: (Term, LogIndex),
    /// It leads, and knows everything that is committed.
    pub leads: bool,
}

impl Node {
    /// Where a group stands here, if it has a sound replica of it.
    #[must_use]
    pub fn footing(&self, id: GroupId) -> Option<Footing> {
        let (group, leads) = if id == GroupId::METADATA {
            (&self.controller.group, self.controller.is_leading())
        } else {
            let partition = self.partitions.get(&id)?;
            (&partition.group, partition.leading.is_some())
        };
        let committed = group.committed();
        let term = group.log().term(committed).unwrap_or_default();
        Some(Footing { replica: group.replica(), conf: group.conf().clone(), committed: (term, committed), leads })
    }

    /// Whether its replica has everything durably up to an entry that is committed.
    #[must_use]
    pub fn holds(&self, id: GroupId, (term, index): (Term, LogIndex)) -> bool {
        let has = |group: &Group| {
            // What its log begins behind was committed when it went.
            let is_same = index < group.log().first_index() || group.log().term(index).is_ok_and(|here| here == term);
            is_same && group.persisted() >= index
        };
        if id == GroupId::METADATA {
            return has(&self.controller.group);
        }
        self.partitions.get(&id).is_some_and(|partition| has(&partition.group))
    }
}
