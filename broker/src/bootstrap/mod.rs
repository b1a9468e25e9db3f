//! How a cluster comes into being, and how a node knows that it belongs to it.
//!
//! A data directory begins empty. Before anything else the node draws an *incarnation* for it and makes that durable
//! (`record`). Then the seed nodes ask each other for their state (`founding`); each answers with its incarnation and
//! the cluster it belongs to, if any (`desk`). When **all** of them have answered and none belongs to a cluster, the
//! one with the lowest id **founds** it: it draws the cluster id, writes down the members with their incarnations, makes
//! that durable, and tells the others, who do the same. From then on a node starts without asking anybody.
//!
//! # Why no step can go wrong
//!
//! What counts is: at most one cluster is founded that can ever acknowledge anything, and no node takes part in it
//! with a directory other than the one it was founded with.
//!
//! - *A crash before the incarnation is durable*: nobody has seen it. The next start draws another.
//! - *A crash before the founder's decision is durable*: nobody was told. The next start decides again.
//! - *A crash after it*: the decision names all members. Every member that knows it tells those that do not, at every
//!   start, until they have accepted; and a seed that hears of it while asking takes it from there. So it is enough that
//!   one member with the decision is alive. Accepting twice changes nothing.
//! - *Two founders* would need two nodes that each believe to be the lowest of the same list. With different lists on
//!   different nodes (which is a mistake) two decisions may stand, but a node accepts only its first, so at most one
//!   of them gets a majority of its members; the other founder is told `WrongCluster`.
//! - *A seed that was there when it was asked, and wiped before it was told*: it has another incarnation, so it refuses,
//!   and the cluster is one member short from the beginning. It needs a majority of the others.
//! - *A wiped founder* founds again only if all seeds are empty. If its first decision had reached a majority, at least one
//!   of them is not; and without a majority nothing was ever acknowledged.
//! - *A wiped member* finds its id in the decision of the others, with another incarnation: it has forgotten votes and
//!   entries that others count on, so it never takes part as who it was. Let in by an operator (`levada cluster replace`)
//!   it joins as somebody new; otherwise it refuses to start. While the others cannot be reached it waits: silence is not
//!   emptiness.
//!
//! # Joining
//!
//! A node that is not among the founders, or not with this directory, **asks to join** (`joining`). The controller lets it
//! if an operator has said so before, and gives it a new replica of group 0 and the metadata as of some entry. The node
//! writes down first its decision (the cluster, its founders, the replica), then formats its directory with the metadata in
//! it. A crash between the two: it asks again, and is given the same replica and newer metadata. From the moment that the
//! directory is formatted it starts without asking anybody, and raft brings it what came since.

pub(crate) mod desk;
pub(crate) mod founding;
pub(crate) mod joining;
pub(crate) mod record;

use std::collections::BTreeMap;

use levada_protocol::{
    error::Error,
    ids::{ClusterId, IncarnationId, NodeId, ReplicaId},
};
use levada_storage_engine::{disk::DiskError, error::OpenError};

use crate::cluster::addresses::Member;

/// Who a node is, once it belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: IncarnationId,
    /// The founding members.
    pub members: BTreeMap<NodeId, Member>,
    /// For a node that joined later: its replica of group 0.
    pub joined: Option<ReplicaId>,
}

/// Why a node could not take its place in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The disk refuses.
    #[error("the data directory cannot be read or written: {0}")]
    Disk(#[from] DiskError),
    /// The record of who this is cannot be read.
    #[error(transparent)]
    Record(#[from] OpenError),
    /// The directory is another node's.
    #[error("the data directory belongs to node {theirs}, not to node {ours}; check data_dir and node_id")]
    OtherNode {
        /// The node it belongs to.
        theirs: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// The cluster knows this id with another directory.
    #[error(
        "cluster {cluster} knows node {node} with another data directory: {said}, then start it again. An emptied directory has \
         forgotten what others count on"
    )]
    WrongIncarnation {
        /// The cluster.
        cluster: ClusterId,
        /// This node.
        node: NodeId,
        /// What the controller says: both directories, and what helps.
        said: String,
    },
    /// The cluster does not let this node in, and will not.
    #[error("the cluster does not let this node join: {0}")]
    NotJoined(Error),
    /// The decision could not be taken in.
    #[error("the founding of the cluster could not be written down: {0}")]
    NotAccepted(Error),
    /// Seeds belong to different clusters.
    #[error("the seed nodes belong to different clusters ({one} and {other}); check seed_nodes")]
    TwoClusters {
        /// One.
        one: ClusterId,
        /// Another.
        other: ClusterId,
    },
}
