//! Where the other nodes are: as they registered, or as the configuration and the founding say while they have not. Of those
//! that joined while this node was away, what others say (`newcomers.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{IncarnationId, NodeId},
};

use super::{
    newcomers::{Newcomer, Newcomers},
    view::ClusterView,
};

/// A founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its data directory.
    pub incarnation: IncarnationId,
    /// Where its native protocol was when the cluster was founded.
    pub native: String,
}

/// All addresses that are known here.
#[derive(Debug)]
pub struct AddressBook {
    view: Arc<ClusterView>,
    members: BTreeMap<NodeId, Member>,
    /// From this node's configuration: newer than what the founding says.
    seeds: BTreeMap<NodeId, String>,
    /// Who joined while this node was away.
    pub(crate) newcomers: Newcomers,
}

impl AddressBook {
    /// From these sources.
    #[must_use]
    pub fn new(view: Arc<ClusterView>, members: BTreeMap<NodeId, Member>, seeds: BTreeMap<NodeId, String>) -> Self {
        Self { view, members, seeds, newcomers: Newcomers::default() }
    }

    /// All other nodes that this one knows of.
    #[must_use]
    pub(crate) fn others(&self) -> BTreeSet<NodeId> {
        let metadata = self.view.metadata.borrow();
        let known = self.members.keys().chain(self.seeds.keys()).chain(metadata.nodes().keys());
        known.copied().filter(|node| *node != self.view.node && !metadata.removed().contains(node)).collect()
    }

    /// The native address of a node to try for the `attempt`th time: what is known is tried in turn, as any of it
    /// may be out of date.
    #[must_use]
    pub fn native(&self, node: NodeId, attempt: usize) -> Option<String> {
        let mut known: Vec<String> = Vec::new();
        let registered = self.registered(node).map(|addresses| addresses.native);
        let seed = self.seeds.get(&node).cloned();
        let founding = self.members.get(&node).map(|member| member.native.clone());
        for address in [registered, seed, founding].into_iter().flatten() {
            if !known.contains(&address) {
                known.push(address);
            }
        }
        let turn = attempt.checked_rem(known.len())?;
        known.into_iter().nth(turn)
    }

    /// All addresses of a node, once it has registered.
    #[must_use]
    pub fn registered(&self, node: NodeId) -> Option<NodeAddresses> {
        if let Some(newcomer) = self.newcomer(node) {
            return Some(newcomer.addresses);
        }
        self.view.metadata.borrow().nodes().get(&node).map(|node| node.addresses.clone())
    }

    /// The data directory that the cluster knows a node by.
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Option<IncarnationId> {
        if let Some(newcomer) = self.newcomer(node) {
            return Some(newcomer.incarnation);
        }
        let metadata = self.view.metadata.borrow();
        if metadata.removed().contains(&node) {
            return None;
        }
        let registered = metadata.nodes().get(&node).map(|node| node.incarnation);
        registered.or_else(|| self.members.get(&node).map(|member| member.incarnation))
    }

    /// A node that joined while this one was away, as others say, and of whose joining the metadata here does not know yet.
    #[must_use]
    pub(crate) fn newcomer(&self, node: NodeId) -> Option<Newcomer> {
        self.newcomers.get(node, &self.view.metadata.borrow())
    }

    /// Whether who answers as a node is the one that the cluster knows, as far as is known here.
    ///
    /// # Errors
    /// `WrongIncarnation`.
    pub(crate) fn check_answerer(&self, node: NodeId, address: &str, incarnation: &[u8]) -> Result<()> {
        let known = self.incarnation(node);
        if known.is_some() && known != IncarnationId::from_slice(incarnation) {
            let why = format!("node {node} at {address} has another data directory than the one the cluster knows");
            return Err(Error::new(ErrorCode::WrongIncarnation, why));
        }
        Ok(())
    }
}
