//! What topics and nodes there are, and who leads what.
//!
//! Every node answers from its own metadata, which may be a moment old: who has to find a leader soon needs no more. A
//! topic that a node does not know is asked for at the controller before it is called unknown, so that who has just
//! created a topic finds it everywhere. Who must not see what is old asks for a linearizable answer: the controller
//! gives it, after a quorum has said that it still is the controller, or nobody does.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::{GroupId, NodeId, PartitionId, ReplicaId, TopicId},
    limits::METADATA_NAMES_MAX,
    messages::native::{MetadataRequest, MetadataResponse, TopicInfo},
    source::{PartitionDescription, TopicDescription, TopicSchema},
    topic::TopicConfig,
};

use super::{connection::Session, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::metadata::{Metadata, Partition, Replica, Topic, topic_info},
    forward::CallError,
    node::event::Request,
    runtime::{budget::Charge, clock},
};

/// Topics that are asked for, found and not.
#[derive(Debug, Default)]
struct Found {
    topics: Vec<TopicInfo>,
    names: Vec<String>,
    ids: Vec<Bytes>,
}

impl Broker {
    /// Whether this node leads the metadata group.
    pub(crate) fn is_controller(&self) -> bool {
        self.leader(GroupId::METADATA) == Some(self.node())
    }

    /// As controller: waits until the metadata here is no older than the call.
    pub(crate) async fn barrier(&self, deadline: Instant) -> Result<()> {
        self.worker.ask(Request::MetadataBarrier, deadline, Charge::default()).await.map(drop)
    }

    /// Answers a metadata request; another node's is not passed on.
    pub(crate) async fn metadata_response(
        &self,
        ctx: &RequestContext,
        request: MetadataRequest,
        from_node: bool,
    ) -> Result<MetadataResponse> {
        let named = request.topics.len() + request.topic_ids.len();
        if named > METADATA_NAMES_MAX {
            let why = format!("{named} topics are named in one request, at most {METADATA_NAMES_MAX} may be");
            return Err(Error::new(ErrorCode::InvalidRequest, why));
        }
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        let found = if request.linearizable && from_node {
            self.barrier(deadline).await?;
            self.find_topics(ctx, &self.metadata(), &request)
        } else if request.linearizable {
            self.ask_controller(ctx, request, deadline).await?
        } else {
            self.find_anywhere(ctx, request, deadline).await?
        };
        let metadata = self.metadata();
        let mut nodes: Vec<_> = metadata.nodes().values().map(|node| node.addresses.clone().into()).collect();
        if !metadata.nodes().contains_key(&self.node()) {
            nodes.push(self.addresses.clone().into());
        }
        Ok(MetadataResponse {
            cluster_id: Bytes::copy_from_slice(&self.identity.cluster.to_bytes()),
            controller: self.leader(GroupId::METADATA).map(levada_protocol::ids::NodeId::get),
            nodes,
            topics: found.topics,
            unknown: found.names,
        })
    }

    /// Topics that are known here, and of the others what the controller says.
    async fn find_anywhere(&self, ctx: &RequestContext, request: MetadataRequest, deadline: Instant) -> Result<Found> {
        let mut found = self.find_topics(ctx, &self.metadata(), &request);
        let (topics, topic_ids) = (std::mem::take(&mut found.names), std::mem::take(&mut found.ids));
        if !topics.is_empty() || !topic_ids.is_empty() {
            let missing = MetadataRequest { topics, topic_ids, all_topics: false, linearizable: true };
            let newer = self.ask_controller(ctx, missing, deadline).await?;
            found.topics.extend(newer.topics);
            found.names = newer.names;
        }
        Ok(found)
    }

    /// What the controller finds, which knows everything that was decided before the call.
    async fn ask_controller(&self, ctx: &RequestContext, request: MetadataRequest, deadline: Instant) -> Result<Found> {
        let request = MetadataRequest { linearizable: true, ..request };
        loop {
            let controller = self.find_leader(GroupId::METADATA, deadline).await?;
            let asked = if controller == self.node() {
                let barrier = self.barrier(deadline).await;
                let found = barrier.map(|()| self.find_topics(ctx, &self.metadata(), &request));
                found.map_err(|error| CallError { error, in_doubt: false })
            } else {
                let answer = self.forwarder.call(controller, Api::Metadata, request.clone(), Bytes::new(), deadline);
                answer.await.map(|answer: MetadataResponse| {
                    let (topics, hidden): (Vec<_>, Vec<_>) =
                        answer.topics.into_iter().partition(|topic| self.may_see(ctx, &topic.name));
                    let hidden = hidden.into_iter().map(|topic| topic.name);
                    let hidden = hidden.filter(|name| request.topics.contains(name));
                    let names = answer.unknown.into_iter().chain(hidden).collect();
                    Found { topics, names, ids: Vec::new() }
                })
            };
            match asked {
                Ok(found) => return Ok(found),
                Err(CallError { error, .. }) if error.code == ErrorCode::Timeout => {
                    let why = "the controller does not answer, and what this node knows may be old; try again";
                    return Err(Error::new(ErrorCode::NotReady, why));
                }
                // Asking twice does no harm.
                Err(failed) => self.retry(failed.harmless(), deadline).await?,
            }
        }
    }

    /// Topics as the controller has them: all, or one by name.
    pub(crate) async fn topics_now(
        &self,
        ctx: &RequestContext,
        name: Option<&str>,
        deadline: Instant,
    ) -> Result<Vec<Topic>> {
        let topics = name.map(str::to_owned).into_iter().collect();
        let request = MetadataRequest { topics, all_topics: name.is_none(), ..Default::default() };
        self.ask_controller(ctx, request, deadline).await?.topics.into_iter().map(topic_of_info).collect()
    }

    fn may_see(&self, ctx: &RequestContext, name: &str) -> bool {
        self.authorize(ctx, Action::Describe, Resource::Topic(name)).is_ok()
    }

    /// The topics of a request that the principal may see. Others are unknown to it.
    fn find_topics(&self, ctx: &RequestContext, metadata: &Metadata, request: &MetadataRequest) -> Found {
        let mut found = Found::default();
        let mut listed: BTreeSet<TopicId> = BTreeSet::new();
        let mut list = |topic: &Arc<Topic>| {
            let visible = self.may_see(ctx, &topic.name);
            if visible && listed.insert(topic.id) {
                found.topics.push(self.topic_info(topic));
            }
            visible
        };
        if request.all_topics {
            for topic in metadata.topics() {
                list(topic);
            }
        }
        for name in &request.topics {
            if !metadata.topic(name).is_some_and(&mut list) {
                found.names.push(name.clone());
            }
        }
        for id in &request.topic_ids {
            let topic = TopicId::from_slice(id).and_then(|id| metadata.topic_by_id(id));
            if !topic.is_some_and(&mut list) {
                found.ids.push(id.clone());
            }
        }
        found
    }

    /// A topic as native clients see it, with its leaders as far as they are known here.
    pub(crate) fn topic_info(&self, topic: &Topic) -> TopicInfo {
        let mut info = topic_info(topic);
        for partition in &mut info.partitions {
            if let Some(known) = self.view.leader(GroupId(partition.group)) {
                partition.leader = known.node.map(levada_protocol::ids::NodeId::get);
                partition.leader_epoch = known.term.get();
            }
        }
        info
    }

    /// A topic as the catalog describes it.
    pub(crate) fn describe(&self, topic: &Topic) -> TopicDescription {
        let addresses = |node| {
            self.node_addresses(node)
                .unwrap_or_else(|| levada_protocol::error::NodeAddresses { node, ..Default::default() })
        };
        TopicDescription {
            name: topic.name.clone(),
            id: topic.id,
            config: topic.config.clone(),
            schema: topic.schema.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| PartitionDescription {
                    partition: partition.partition,
                    leader: self.leader_addresses(partition.group),
                    replicas: partition.replicas.iter().map(|replica| addresses(replica.node)).collect(),
                })
                .collect(),
        }
    }
}

/// A topic as another node describes it.
fn topic_of_info(info: TopicInfo) -> Result<Topic> {
    let id = TopicId::from_slice(&info.topic_id)
        .ok_or_else(|| Error::new(ErrorCode::Internal, "the controller describes a topic without identity"))?;
    let partitions = info.partitions.into_iter().map(|partition| Partition {
        partition: PartitionId(partition.partition),
        group: GroupId(partition.group),
        replicas: partition
            .replicas
            .into_iter()
            .map(|replica| Replica { id: ReplicaId(replica.replica_id), node: NodeId(replica.node_id) })
            .collect(),
        target: Vec::new(),
        first: Vec::new(),
        leaving: Vec::new(),
        lost: Vec::new(),
        targets_given: 0,
        recovery: None,
    });
    let schema = Some(info.schema_json).filter(|json| !json.is_empty());
    Ok(Topic {
        name: info.name,
        id,
        partitions: partitions.collect(),
        config: TopicConfig::from_map(&info.config)?,
        settings: info.config,
        schema: schema.map(|json| TopicSchema { id: info.schema_id, json }),
        // Not told, and not described.
        created_ms: 0,
        altered_by: VecDeque::new(),
    })
}

/// Metadata, on the native door.
pub(crate) async fn metadata(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: MetadataRequest,
    responder: Responder,
) {
    responder.answer(broker.metadata_response(&session.context(), request, session.peer.is_some()).await);
}
