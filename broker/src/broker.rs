//! What requests are answered from, whichever door they came through: the view, the worker, the way to other nodes.
//!
//! The native door ([`crate::net`]) answers for this node and redirects; the seams ([`crate::seams`]) find the right
//! node themselves. Both stand on what is here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use levada_protocol::{
    codec::PayloadCodec,
    context::{Action, Authorizer, RequestContext, Resource},
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, NodeId, TopicId, TopicPartition},
    trace::Tracer,
};
use tokio::{sync::Semaphore, time::sleep};

use crate::{
    bootstrap::Identity,
    cluster::{
        addresses::AddressBook,
        metadata::{Metadata, Partition, Topic, unknown_topic},
        view::{ClusterView, PartitionView},
    },
    config::{LiveLimits, Reloader},
    forward::{CallError, Forwarder, may_retry},
    net::told::Told,
    runtime::{
        budget::Budget,
        clock::{self, Clock},
        peers::Peers,
        worker::Worker,
    },
};

/// How long work that no client bounds may take.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_secs(10);
/// How long an election may take before who waits for a leader looks again.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// Everything of a running node that requests need.
pub(crate) struct Broker {
    pub(crate) identity: Identity,
    pub(crate) addresses: NodeAddresses,
    pub(crate) rack: String,
    /// Of this node, and not used while it runs.
    pub(crate) segment_dirs_failed: u32,
    pub(crate) limits: Arc<LiveLimits>,
    pub(crate) view: Arc<ClusterView>,
    pub(crate) worker: Worker,
    pub(crate) forwarder: Forwarder,
    pub(crate) book: Arc<AddressBook>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: Clock,
    /// Bytes of requests under way, of all doors.
    pub(crate) requests: Budget,
    /// Bytes of answers to fetches that wait to be written, of all clients.
    pub(crate) answers: Budget,
    /// Turns of who unfolds a batch.
    pub(crate) unfolding: Semaphore,
    pub(crate) codec: Option<Arc<dyn PayloadCodec>>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    /// Which damage readers have met lately.
    pub(crate) told: Told,
    /// Follows some requests.
    pub(crate) tracer: Option<Arc<Tracer>>,
    /// Reads the configuration again.
    pub(crate) reloader: Option<Arc<Reloader>>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Broker {
    /// This node.
    pub(crate) const fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The metadata as applied here.
    pub(crate) fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&self.view.metadata.borrow())
    }

    /// Asks the authorizer.
    pub(crate) fn authorize(&self, ctx: &RequestContext, action: Action, resource: Resource<'_>) -> Result<()> {
        self.authorizer.authorize(ctx, action, resource)
    }

    /// A topic by its identity, if the principal may do this with it.
    pub(crate) fn topic(&self, ctx: &RequestContext, action: Action, id: TopicId) -> Result<Arc<Topic>> {
        let topic = self.metadata().topic_by_id(id).cloned().ok_or_else(|| unknown_topic(&id.to_string()))?;
        self.authorize(ctx, action, Resource::Topic(&topic.name))?;
        Ok(topic)
    }

    /// The replica here of a partition of a topic.
    pub(crate) fn replica(&self, topic: &Topic, place: TopicPartition) -> Result<Arc<PartitionView>> {
        if let Some(view) = self.view.partition(place) {
            return Ok(view);
        }
        let partition = partition_of(topic, place)?;
        if partition.replicas.iter().any(|replica| replica.node == self.node()) {
            return Err(Error::new(ErrorCode::NotReady, format!("the replica of {place} here is not open yet")));
        }
        let error = Error::new(ErrorCode::NotLeader, format!("node {} has no replica of {place}", self.node()));
        Err(error.redirect(self.leader_addresses(partition.group)))
    }

    /// The node that leads a group, as far as is known here.
    pub(crate) fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.view.leader(group)?.node
    }

    /// Where the leader of a group listens.
    pub(crate) fn leader_addresses(&self, group: GroupId) -> Option<NodeAddresses> {
        self.node_addresses(self.leader(group)?)
    }

    /// Where a node listens.
    pub(crate) fn node_addresses(&self, node: NodeId) -> Option<NodeAddresses> {
        if node == self.node() { Some(self.addresses.clone()) } else { self.book.registered(node) }
    }

    /// Finds the leader of a group, waiting for one.
    pub(crate) async fn find_leader(&self, group: GroupId, deadline: Instant) -> Result<NodeId> {
        loop {
            if let Some(node) = self.leader(group) {
                return Ok(node);
            }
            if clock::left(deadline).is_zero() {
                let what = if group == GroupId::METADATA {
                    "the cluster has no controller"
                } else {
                    "the partition has no leader"
                };
                return Err(Error::new(ErrorCode::NotReady, format!("{what} that this node knows of; try again")));
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// After a failed try at a leader: waits a moment if another try makes sense, or gives the error back.
    pub(crate) async fn retry(&self, failed: CallError, deadline: Instant) -> Result<()> {
        let unsent = !failed.in_doubt && failed.error.code == ErrorCode::Disconnected;
        if !(unsent || may_retry(&failed.error)) || clock::left(deadline) <= RETRY_PAUSE {
            return Err(failed.error);
        }
        sleep(RETRY_PAUSE).await;
        Ok(())
    }
}

/// A partition of a topic.
pub(crate) fn partition_of(topic: &Topic, place: TopicPartition) -> Result<&Partition> {
    topic.partition(place.partition).ok_or_else(|| {
        let count = topic.partitions.len();
        let why = format!("topic {} has {count} partitions, not number {}", topic.name, place.partition);
        Error::new(ErrorCode::UnknownPartition, why)
    })
}
