//! Where the other nodes are: as they registered, or as the configuration and the founding say while they have not.

use std::{collections::BTreeMap, sync::Arc};

use levada_protocol::{
    error::NodeAddresses,
    ids::{IncarnationId, NodeId},
};

use super::view::ClusterView;

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
}

impl AddressBook {
    /// From these sources.
    #[must_use]
    pub const fn new(
        view: Arc<ClusterView>,
        members: BTreeMap<NodeId, Member>,
        seeds: BTreeMap<NodeId, String>,
    ) -> Self {
        Self { view, members, seeds }
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
        self.view.metadata.borrow().nodes().get(&node).map(|node| node.addresses.clone())
    }

    /// The data directory that the cluster knows a node by.
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Option<IncarnationId> {
        let metadata = self.view.metadata.borrow();
        if metadata.removed().contains(&node) {
            return None;
        }
        let registered = metadata.nodes().get(&node).map(|node| node.incarnation);
        registered.or_else(|| self.members.get(&node).map(|member| member.incarnation))
    }
}
