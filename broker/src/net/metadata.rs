//! What topics and nodes there are, and who leads what.
//!
//! Every node answers from its own metadata, which may be a moment old. The controller makes sure first that its own
//! is not. A topic that a node does not know is asked for at the controller before it is called unknown, so that who
//! has just created a topic finds it everywhere.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::Result,
    frame::Api,
    ids::{GroupId, TopicId},
    messages::native::{MetadataRequest, MetadataResponse, TopicInfo},
    source::{PartitionDescription, TopicDescription},
};

use super::{connection::Session, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::metadata::{Metadata, Topic, topic_info},
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

    /// Answers a metadata request.
    pub(crate) async fn metadata_response(
        &self,
        ctx: &RequestContext,
        request: MetadataRequest,
    ) -> Result<MetadataResponse> {
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        // Who stops being the controller meanwhile answers what it knows, and asks the new one for what it does not.
        let fresh = self.is_controller() && self.barrier(deadline).await.is_ok();
        let metadata = self.metadata();
        let mut found = self.find_topics(ctx, &metadata, &request);
        let all_found = found.names.is_empty() && found.ids.is_empty();
        if !fresh && !all_found {
            let missing = MetadataRequest {
                topics: std::mem::take(&mut found.names),
                all_topics: false,
                topic_ids: std::mem::take(&mut found.ids),
            };
            let newer = self.ask_controller(missing, deadline).await?;
            found.topics.extend(newer.topics.into_iter().filter(|topic| self.may_see(ctx, &topic.name)));
            found.names = newer.unknown;
        }
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

    async fn ask_controller(&self, missing: MetadataRequest, deadline: Instant) -> Result<MetadataResponse> {
        loop {
            let controller = self.find_leader(GroupId::METADATA, deadline).await?;
            let asked = if controller == self.node() {
                match self.barrier(deadline).await {
                    Ok(()) => {
                        let found = self.find_topics(&RequestContext::internal("metadata"), &self.metadata(), &missing);
                        return Ok(MetadataResponse {
                            topics: found.topics,
                            unknown: found.names,
                            ..Default::default()
                        });
                    }
                    Err(error) => Err(crate::forward::CallError { error, in_doubt: false }),
                }
            } else {
                self.forwarder.call(controller, Api::Metadata, missing.clone(), Bytes::new(), deadline).await
            };
            match asked {
                Ok(response) => return Ok(response),
                Err(failed) => self.retry(failed, deadline).await?,
            }
        }
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

/// Metadata, on the native door.
pub(crate) async fn metadata(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: MetadataRequest,
    responder: Responder,
) {
    responder.answer(broker.metadata_response(&session.context(), request).await);
}
