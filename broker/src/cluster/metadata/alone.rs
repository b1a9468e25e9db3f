//! The metadata as it goes on when a majority of those who vote on it is gone for good (`node/regaining.rs`).
//!
//! What was decided behind the last entry that is left, nobody knows. So no number is given again that may have been given there;
//! and nobody who took part in it goes on with what it has.

use levada_protocol::ids::{NodeId, ReplicaId};

use super::{Metadata, nodes::MEMBERS_FIRST};

/// So many groups, replicas and members of group 0 were not given a number behind that.
const NUMBERS_SKIPPED: u64 = 1 << 20;
/// Nor so many producers.
const PRODUCER_IDS_SKIPPED: i64 = 1 << 32;

impl Metadata {
    /// Goes on from what one node has: all others are to get other replicas of group 0. Founders that never registered were
    /// hardly there, and are not expected any more.
    pub fn go_on_alone(&mut self, survivor: NodeId, founders: impl IntoIterator<Item = NodeId>) {
        self.next_group += NUMBERS_SKIPPED;
        self.next_replica += NUMBERS_SKIPPED;
        self.next_producer_id = self.next_producer_id.saturating_add(PRODUCER_IDS_SKIPPED);
        self.members_given += NUMBERS_SKIPPED;
        for (_, node) in self.nodes.iter_mut().filter(|(id, _)| **id != survivor) {
            node.member = Some(ReplicaId(MEMBERS_FIRST + self.members_given));
            self.members_given += 1;
        }
        let unknown = founders.into_iter().filter(|founder| *founder != survivor && !self.nodes.contains_key(founder));
        self.removed.extend(unknown.collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::{error::NodeAddresses, ids::IncarnationId};

    use super::*;
    use crate::cluster::metadata::Node;

    #[test]
    fn everybody_else_gets_another_number_and_none_is_given_again() {
        let mut metadata = Metadata::default();
        for id in [1, 2, 3].map(NodeId) {
            let addresses = NodeAddresses { node: id, ..NodeAddresses::default() };
            let member = (id == NodeId(3)).then_some(ReplicaId(MEMBERS_FIRST));
            let node = Node { member, ..Node::new(addresses, IncarnationId::from_bytes([1; 16]), String::new()) };
            metadata.nodes.insert(id, node);
        }
        metadata.members_given = 1;
        let before = metadata.clone();
        let founders = [1, 2, 4].map(NodeId);
        metadata.go_on_alone(NodeId(1), founders);
        let first = MEMBERS_FIRST + 1 + NUMBERS_SKIPPED;
        let expected = [(1, 1), (first, 2), (first + 1, 3)].map(|(replica, node)| (ReplicaId(replica), NodeId(node)));
        assert_eq!(metadata.members(founders), expected.into());
        assert!(metadata.has_given_member(ReplicaId(2)) && metadata.has_given_member(ReplicaId(MEMBERS_FIRST)));
        assert!(metadata.has_given_member(ReplicaId(4)), "it was given up, too");
        assert!(!metadata.has_given_member(ReplicaId(1)));
        assert!(metadata.next_group() > before.next_group() && metadata.next_replica > before.next_replica);
        assert_eq!(Metadata::decode(metadata.encode()).unwrap(), metadata);
    }
}
