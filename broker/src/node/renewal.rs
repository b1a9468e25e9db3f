//! A node whose replica of the metadata group is lost begins with another, which the controller has given it.
//!
//! What is lost is the journal's word, not the data directory: the node stays who it is, replicas that are not in doubt go on, and
//! those that are say so to their leaders, as ever. But all of that needs the metadata first, and its replica may not vote
//! again under its old number. So before anything of it runs, it is exchanged on the disk
//! (`levada_storage_engine::store::Store::renew_metadata`).

use std::{collections::BTreeSet, sync::Arc};

use levada_protocol::ids::GroupId;
use levada_storage_engine::{
    disk::Disk,
    store::{DirIdentity, GroupState, Store},
};

use super::{Node, NodeConfig, NodeOpenError};
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

impl NodeConfig {
    /// Whose data directory it is.
    pub(super) const fn identity(&self) -> DirIdentity {
        DirIdentity { cluster: self.cluster, node: self.node, incarnation: self.incarnation }
    }
}
