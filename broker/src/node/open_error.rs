//! Why a node cannot begin with what its data directory holds.

use std::collections::BTreeMap;

use levada_protocol::ids::{GroupId, NodeId, ReplicaId};
use levada_storage_engine::error::OpenError;

use super::Need;
use crate::cluster::metadata::Metadata;

/// Why a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum NodeOpenError {
    /// The data directory.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The node cannot go on with the replica of the metadata group that it has. The controller gives it another, or any node a later
    /// state ([`Node::renew_metadata`](super::Node::renew_metadata)).
    #[error(
        "replica {replica} of the metadata group cannot go on as it is (the journal is, or was, damaged where it holds that group, or \
         the cluster has gone on without it); no other node is known that could give it another, or a later state: name some as \
         seed_nodes, or say `levada cluster replace` on one of them. In a cluster of one node, bring the data directory back \
         from a copy"
    )]
    MetadataDamaged {
        /// The replica.
        replica: ReplicaId,
        /// What it needs.
        need: Need,
        /// Where other nodes were, as far as this one knew.
        known: BTreeMap<NodeId, String>,
    },
    /// The build is older than what the cluster has written.
    #[error(
        "the cluster is at feature level {cluster}, this build knows up to {build}; run a newer one on this data directory"
    )]
    TooOld {
        /// The cluster's level.
        cluster: u32,
        /// The build's.
        build: u32,
    },
    /// The cluster has let another data directory take this one's place.
    #[error(
        "another data directory has taken the place of this one as node {node}, and what is in it is not needed any more; \
         remove it, or, to use this machine as well, start it with an empty directory and another id"
    )]
    Superseded {
        /// The node.
        node: NodeId,
    },
    /// A checkpoint's state of a group does not parse.
    #[error(
        "the checkpoint's state of group {group} does not parse ({why}); keep the data directory for whoever \
         looks into it, and let an empty one take its place (`levada cluster replace N`)"
    )]
    State {
        /// The group.
        group: GroupId,
        /// The parser's words.
        why: String,
    },
    /// Raft cannot start from what was recovered.
    #[error(
        "raft group {group} cannot start from what was recovered ({why}); keep the data directory for whoever \
         looks into it, and let an empty one take its place (`levada cluster replace N`)"
    )]
    Raft {
        /// The group.
        group: GroupId,
        /// Raft's words.
        why: String,
    },
}

impl NodeOpenError {
    /// Of this replica of group 0, which needs this; the metadata is what the node knew.
    pub(super) fn metadata_damaged(replica: ReplicaId, need: Need, metadata: &Metadata) -> Self {
        let nodes = metadata.nodes().iter();
        let known = nodes.map(|(node, known)| (*node, known.addresses.native.clone())).collect();
        Self::MetadataDamaged { replica, need, known }
    }
}
