//! A node whose replica of the metadata group is lost begins with another, which the controller has given it.
//!
//! What is lost is the journal's word, not the data directory: the node stays who it is, replicas that are not in doubt go on, and
//! those that are say so to their leaders, as ever. But all of that needs the metadata first, and its replica may not vote
//! again under its old number. So before anything of it runs, it is exchanged on the disk
//! (`levada_storage_engine::store::Store::renew_metadata`).

use std::{collections::BTreeSet, sync::Arc};

use levada_protocol::ids::{GroupId, ReplicaId};
use levada_storage_engine::{
    disk::Disk,
    store::{DirIdentity, GroupState, Store},
};

use super::{Node, NodeConfig, NodeOpenError, event::Effect};
use crate::cluster::metadata::Metadata;

impl Node {
    /// Lets the metadata group of a data directory begin anew with what the controller says, durably.
    ///
    /// # Errors
    /// That is no metadata, or the directory cannot be written.
    pub fn renew_metadata(disk: Arc<dyn Disk>, config: &NodeConfig, state: GroupState) -> Result<(), NodeOpenError> {
        let (group, identity) = (GroupId::METADATA, config.identity());
        let metadata = Metadata::decode(state.app_state.clone());
        let metadata = metadata.map_err(|error| NodeOpenError::State { group, why: error.to_string() })?;
        let partitions = metadata.topics().flat_map(|topic| &topic.partitions);
        let replicated: BTreeSet<GroupId> = partitions
            .filter(|partition| partition.known().any(|replica| replica.node == config.node))
            .map(|partition| partition.group)
            .collect();
        Ok(Store::open(disk, config.store, &identity)?.store.renew_metadata(state, replicated)?)
    }
}

impl Node {
    /// A checkpoint is durable: ends the node if it has another replica of group 0 now, and the checkpoint says so.
    pub(super) fn end_renewed(&mut self, out: &mut Vec<Effect>) {
        let Some(renewed_at) = self.renewed_at else { return };
        let is_known = self.store.snapshot(GroupId::METADATA).is_some_and(|known| known.applied() >= renewed_at);
        if is_known {
            let metadata = self.controller.current();
            let message = NodeOpenError::metadata_damaged(self.controller.group.replica(), metadata).to_string();
            out.push(Effect::Fatal { message });
        } else {
            self.begin_checkpoint();
        }
    }

    /// Groups of topics that were deleted before the metadata begins that this node has: no command says so any more. Numbers of
    /// groups are given in order and once, so who is not named by now never will be.
    pub(super) fn forget_deleted(&mut self, metadata: &Metadata) {
        let is_deleted = |group: &GroupId| {
            *group != GroupId::METADATA && *group < metadata.next_group() && metadata.partition_of(*group).is_none()
        };
        let here = self.dormant.keys().copied().chain(self.store.doubted());
        let deleted: BTreeSet<GroupId> = here.filter(is_deleted).collect();
        for group in deleted {
            self.dormant.remove(&group);
            self.store.remove_group(group);
        }
    }
}

impl NodeOpenError {
    /// Of this replica of group 0; the metadata is what the node knew.
    pub(super) fn metadata_damaged(replica: ReplicaId, metadata: &Metadata) -> Self {
        let nodes = metadata.nodes().iter();
        let known = nodes.map(|(node, known)| (*node, known.addresses.native.clone())).collect();
        Self::MetadataDamaged { replica, known }
    }
}

impl NodeConfig {
    /// Whose data directory it is.
    pub(super) const fn identity(&self) -> DirIdentity {
        DirIdentity { cluster: self.cluster, node: self.node, incarnation: self.incarnation }
    }
}
