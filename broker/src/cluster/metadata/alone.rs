//! The metadata as it goes on when a majority of those who vote on it is gone for good (`node/regaining.rs`).
//!
//! First what is left of the log is applied, as it would have been: others may have applied it, too. What was decided behind that,
//! nobody knows. So no number is given again that may have been given there; nobody who took part in it goes on with what it has;
//! and a replica of which nothing is there is not one that was just made: there it may have been removed.

use std::collections::BTreeSet;

use levada_protocol::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};

use super::{Metadata, nodes::MEMBERS_FIRST};

/// Numbers that are given from then on begin at the term in which that was, times this: no others have given so many behind the log's
/// end, and of two that go on alone, the one in the later term gives the higher ones.
const NUMBERS_OF_A_TERM: u64 = 1 << 20;
/// Of producers.
const PRODUCER_IDS_OF_A_TERM: i64 = 1 << 32;

impl Metadata {
    /// Goes on from what one node has, in this term, as soon as entry `last` is applied, the last of its log.
    pub const fn go_on_alone(&mut self, last: LogIndex, term: Term) {
        (self.alone_at, self.alone_term) = (last, term);
    }

    /// The term in which it went on alone last; 0 if it never did.
    #[must_use]
    pub const fn alone_term(&self) -> Term {
        self.alone_term
    }

    /// Whether an entry is of the log from before: what it says of the membership counts no more.
    #[must_use]
    pub fn is_from_before(&self, index: LogIndex) -> bool {
        index <= self.alone_at
    }

    /// Whether all of the log from before is applied, if there is such a thing: until then nobody can begin with it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.alone_at == LogIndex(0)
    }

    /// All of the log up to there is applied. From now on all nodes but one are to get other replicas of group 0. Founders that
    /// never registered were hardly there, and are not expected any more.
    pub fn give_up_others(&mut self, survivor: NodeId, founders: impl IntoIterator<Item = NodeId>) {
        let founders: BTreeSet<NodeId> = founders.into_iter().collect();
        let term = self.alone_term.get();
        let behind = |number: u64| number.max(term.saturating_mul(NUMBERS_OF_A_TERM));
        self.alone_at = LogIndex(0);
        self.regained_below = GroupId(self.next_group);
        self.next_group = behind(self.next_group);
        self.next_replica = behind(self.next_replica);
        self.members_given = behind(self.members_given);
        let producers = i64::try_from(term).unwrap_or(i64::MAX).saturating_mul(PRODUCER_IDS_OF_A_TERM);
        self.next_producer_id = self.next_producer_id.max(producers);
        for (_, node) in self.nodes.iter_mut().filter(|(id, _)| **id != survivor) {
            node.member = Some(ReplicaId(MEMBERS_FIRST + self.members_given));
            self.members_given += 1;
        }
        let unknown = founders.into_iter().filter(|founder| *founder != survivor && !self.nodes.contains_key(founder));
        self.removed.extend(unknown.collect::<Vec<_>>());
    }

    /// Which of the nodes it is, from 0 on.
    #[must_use]
    pub fn ordinal(&self, node: NodeId, founders: &BTreeSet<NodeId>) -> u64 {
        let all: BTreeSet<NodeId> = founders.iter().chain(self.nodes.keys()).copied().collect();
        all.range(..node).count() as u64
    }

    /// Whether a replica of the group that is not there may have been, and have been removed since.
    #[must_use]
    pub fn may_have_been_removed(&self, group: GroupId) -> bool {
        group < self.regained_below
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::{error::NodeAddresses, ids::IncarnationId};

    use super::*;
    use crate::cluster::metadata::Node;

    fn three() -> Metadata {
        let mut metadata = Metadata::default();
        for id in [1, 2, 3].map(NodeId) {
            let addresses = NodeAddresses { node: id, ..NodeAddresses::default() };
            let member = (id == NodeId(3)).then_some(ReplicaId(MEMBERS_FIRST));
            let node = Node { member, ..Node::new(addresses, IncarnationId::from_bytes([1; 16]), String::new()) };
            metadata.nodes.insert(id, node);
        }
        metadata.members_given = 1;
        metadata
    }

    const FOUNDERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(4)];

    #[test]
    fn everybody_else_gets_another_number_and_none_is_given_again() {
        let (before, mut metadata) = (three(), three());
        metadata.go_on_alone(LogIndex(7), Term(1_001));
        assert_eq!(metadata.members(FOUNDERS), before.members(FOUNDERS), "not yet");
        assert!(metadata.is_from_before(LogIndex(7)) && !metadata.is_from_before(LogIndex(8)));
        assert_eq!(Metadata::decode(metadata.encode()).unwrap(), metadata);
        metadata.give_up_others(NodeId(1), FOUNDERS);
        assert!(!metadata.is_from_before(LogIndex(1)));
        let first = MEMBERS_FIRST + 1_001 * NUMBERS_OF_A_TERM;
        let expected = [(1, 1), (first, 2), (first + 1, 3)].map(|(replica, node)| (ReplicaId(replica), NodeId(node)));
        assert_eq!(metadata.members(FOUNDERS), expected.into());
        assert!(metadata.has_given_member(ReplicaId(2)) && metadata.has_given_member(ReplicaId(MEMBERS_FIRST)));
        assert!(metadata.has_given_member(ReplicaId(4)), "it was given up, too");
        assert!(!metadata.has_given_member(ReplicaId(1)));
        assert!(metadata.next_group() > before.next_group() && metadata.next_replica > before.next_replica);
        assert!(metadata.may_have_been_removed(GroupId(0)) && !metadata.may_have_been_removed(before.next_group()));
        assert_eq!(Metadata::decode(metadata.encode()).unwrap(), metadata);
    }

    #[test]
    fn of_two_that_go_on_alone_the_later_gives_higher_numbers() {
        let alone = |survivor, term| {
            let mut metadata = three();
            metadata.go_on_alone(LogIndex(7), Term(term));
            metadata.give_up_others(NodeId(survivor), FOUNDERS);
            metadata
        };
        let (one, other) = (alone(1, 1_001), alone(2, 1_002));
        let given = |metadata: &Metadata| {
            let members = metadata.members(FOUNDERS).into_keys();
            members.filter(|id| id.get() > MEMBERS_FIRST).collect::<Vec<_>>()
        };
        assert!(given(&one).iter().max() < given(&other).iter().min());
        assert!(one.next_group < other.next_group && one.next_replica < other.next_replica);
        assert!(one.next_producer_id < other.next_producer_id);
    }
}
