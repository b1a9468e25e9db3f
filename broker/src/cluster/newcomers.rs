//! Nodes that joined while this one was away.
//!
//! The metadata says who is of the cluster. Who joined while this node was down or behind is not in what this node has of it; and if
//! that one leads the metadata by now, nobody else sends what is missing. So those whom this node does know are asked who has
//! joined since. What they say of a node counts until its number in the metadata was given here, too; from then on the metadata
//! decides. What a node says of itself leads to the question only.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use levada_protocol::{
    error::NodeAddresses,
    ids::{IncarnationId, NodeId, ReplicaId},
    messages::peer as wire,
};
use tokio::sync::Notify;

use super::metadata::{MEMBERS_FIRST, Metadata};

/// The most that are remembered. One of them that leads brings the metadata, where all stand.
const NEWCOMERS_MAX: usize = 1024;

/// A node that joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newcomer {
    /// Where it listens.
    pub(crate) addresses: NodeAddresses,
    /// Its data directory.
    pub(crate) incarnation: IncarnationId,
    /// Its replica of group 0.
    pub(crate) member: ReplicaId,
}

/// Those that nodes which are known here tell of.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    told: Mutex<BTreeMap<NodeId, Newcomer>>,
    wanted: Notify,
}

/// Who has joined and whose replica of group 0 has this number or a later one.
pub(crate) fn newcomers_of(metadata: &Metadata, members_from: ReplicaId) -> Vec<Newcomer> {
    let joined = metadata.nodes().values().filter_map(|node| {
        let (addresses, member) = (node.addresses.clone(), node.member?);
        Some(Newcomer { addresses, incarnation: node.incarnation, member })
    });
    joined.filter(|newcomer| newcomer.member >= members_from).collect()
}

impl Newcomers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Newcomer>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node came of whose joining nothing is known here.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until one has come.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Takes what a node that is known here says of another; whether that is news.
    pub(crate) fn learn(&self, newcomer: Newcomer, metadata: &Metadata) -> bool {
        let mut told = self.lock();
        told.retain(|_, known| !metadata.has_given_member(known.member));
        let id = newcomer.addresses.node;
        let known = told.get(&id);
        let is_old =
            metadata.has_given_member(newcomer.member) || known.is_some_and(|known| known.member >= newcomer.member);
        if newcomer.member.get() < MEMBERS_FIRST || is_old || (known.is_none() && told.len() >= NEWCOMERS_MAX) {
            return false;
        }
        told.insert(id, newcomer);
        true
    }

    /// What was told of a node, as long as this metadata does not know of its joining.
    pub(crate) fn get(&self, node: NodeId, metadata: &Metadata) -> Option<Newcomer> {
        self.lock().get(&node).filter(|newcomer| !metadata.has_given_member(newcomer.member)).cloned()
    }
}

impl Newcomer {
    /// For an answer.
    pub(crate) fn to_wire(&self) -> wire::Newcomer {
        let NodeAddresses { node, native, flight, http } = self.addresses.clone();
        wire::Newcomer {
            node_id: node.get(),
            incarnation: Bytes::copy_from_slice(&self.incarnation.to_bytes()),
            member_id: self.member.get(),
            native,
            flight,
            http,
        }
    }

    /// From an answer; `None` for one that makes no sense.
    pub(crate) fn from_wire(wire: wire::Newcomer) -> Option<Self> {
        let wire::Newcomer { node_id, incarnation, member_id, native, flight, http } = wire;
        let addresses = NodeAddresses { node: NodeId(node_id), native, flight, http };
        Some(Self { addresses, incarnation: IncarnationId::from_slice(&incarnation)?, member: ReplicaId(member_id) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use levada_protocol::{
        ids::ClusterId,
        messages::metadata::{AdmitNode, Command, DrainNode, JoinNode, Node, RemoveNode, command::Kind},
    };

    use super::*;
    use crate::cluster::{addresses::AddressBook, view::ClusterView};

    const NODE: NodeId = NodeId(4);

    fn directory(number: u8) -> IncarnationId {
        IncarnationId::from_bytes([number; 16])
    }

    fn newcomer(number: u8, member: u64) -> Newcomer {
        let addresses = NodeAddresses { node: NODE, native: format!("new:{number}"), ..NodeAddresses::default() };
        Newcomer { addresses, incarnation: directory(number), member: ReplicaId(member) }
    }

    /// The node joins, and leaves if it was there.
    fn join(metadata: &mut Metadata, number: u8) {
        let (node_id, incarnation) = (NODE.get(), Bytes::copy_from_slice(&directory(number).to_bytes()));
        let mut apply = |kind| drop(metadata.apply(Command { kind: Some(kind) }));
        apply(Kind::DrainNode(DrainNode { node_id, drain: true }));
        apply(Kind::RemoveNode(RemoveNode { node_id }));
        apply(Kind::AdmitNode(AdmitNode { node_id, replace: false }));
        let node = Node { node_id, incarnation, native: format!("joined:{number}"), ..Node::default() };
        apply(Kind::JoinNode(JoinNode { node: Some(node) }));
    }

    #[test]
    fn what_others_say_counts_until_the_metadata_has_come_that_far() {
        let view = Arc::new(ClusterView::new(ClusterId::from_bytes([7; 16]), NodeId(3), directory(3)));
        let book = AddressBook::new(Arc::clone(&view), BTreeMap::new(), BTreeMap::new());
        let known = || (book.incarnation(NODE), book.native(NODE, 0));
        let learn = |newcomer| book.newcomers.learn(newcomer, &view.metadata.borrow());
        let is = |number, address: &str| (Some(directory(number)), Some(format!("{address}:{number}")));
        assert_eq!(known(), (None, None));
        assert!(!learn(newcomer(1, NODE.get())), "founders do not join");
        assert_eq!(known(), (None, None));

        assert!(learn(newcomer(1, MEMBERS_FIRST)));
        assert_eq!(known(), is(1, "new"));
        // It has left and joined again, of which the next one that is asked has not heard.
        assert!(learn(newcomer(2, MEMBERS_FIRST + 1)));
        assert!(!learn(newcomer(1, MEMBERS_FIRST)));
        assert_eq!(known(), is(2, "new"));

        let mut metadata = Metadata::default();
        join(&mut metadata, 1);
        view.metadata.send_replace(Arc::new(metadata.clone()));
        assert_eq!(known(), is(2, "new"), "the metadata here is still behind");
        join(&mut metadata, 2);
        assert_eq!(newcomers_of(&metadata, ReplicaId(MEMBERS_FIRST + 1)).len(), 1);
        assert_eq!(newcomers_of(&metadata, metadata.next_member()), []);
        view.metadata.send_replace(Arc::new(metadata.clone()));
        assert_eq!(known(), is(2, "joined"));
        assert!(!learn(newcomer(2, MEMBERS_FIRST + 1)), "no news any more");
        join(&mut metadata, 3);
        view.metadata.send_replace(Arc::new(metadata));
        assert_eq!(known(), is(3, "joined"));
    }
}
