//! Topics, behind [`Catalog`].

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::{ClusterId, GroupId, TopicId},
    messages::native::{CreateTopicRequest, DeleteTopicRequest, TopicResponse},
    source::{BoxFuture, Catalog, NewTopic, TopicDescription},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::metadata::{Metadata, Topic, unknown_topic},
    forward::CallError,
    runtime::{clock, worker::timed_out},
};

impl Broker {
    /// Waits until the metadata here shows something.
    async fn await_metadata<T>(&self, deadline: Instant, mut shows: impl FnMut(&Metadata) -> Option<T>) -> Result<T> {
        let mut metadata = self.view.metadata.subscribe();
        let wait = async {
            loop {
                if let Some(found) = shows(&metadata.borrow_and_update()) {
                    return found;
                }
                if metadata.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout(clock::left(deadline), wait).await.map_err(|_| timed_out())
    }

    /// A topic that the metadata here may not show yet: the controller is asked before it is called unknown.
    async fn look_up(
        &self,
        ctx: &RequestContext,
        what: &str,
        find: impl Fn(&Metadata) -> Option<Arc<Topic>>,
        ask: levada_protocol::messages::native::MetadataRequest,
    ) -> Result<TopicDescription> {
        let topic = match find(&self.metadata()) {
            Some(topic) => topic,
            None if self.metadata_response(ctx, ask, false).await?.topics.is_empty() => {
                return Err(unknown_topic(what));
            }
            None => self.await_metadata(clock::deadline(ctx, DEFAULT_WAIT), find).await?,
        };
        self.authorize(ctx, Action::Describe, Resource::Topic(&topic.name))?;
        Ok(self.describe(&topic))
    }

    /// Has the controller make a topic, as this request asks for if it has an id.
    pub(crate) async fn create_anywhere(
        &self,
        ctx: &RequestContext,
        new: NewTopic,
        request: Option<Uuid>,
        deadline: Instant,
    ) -> Result<TopicId> {
        let id = request.map(|request| TopicId::of_request(request, &new.name));
        loop {
            let controller = self.find_leader(GroupId::METADATA, deadline).await?;
            let asked = if controller == self.node() {
                let topic = self.create_topic_here(ctx, new.clone(), false, id).await;
                topic.map(|topic| topic.id).map_err(|error| CallError { error, in_doubt: false })
            } else {
                let request = CreateTopicRequest {
                    name: new.name.clone(),
                    partitions: new.partitions,
                    replicas: new.replicas,
                    config: new.config.clone(),
                    schema_json: new.schema_json.clone().unwrap_or_default(),
                    dry_run: false,
                    request_id: request.map(|id| Bytes::copy_from_slice(id.as_bytes())).unwrap_or_default(),
                };
                let answer: std::result::Result<TopicResponse, CallError> =
                    self.forwarder.call(controller, Api::CreateTopic, request, Bytes::new(), deadline).await;
                answer.and_then(|answer| {
                    let id = answer.topic.and_then(|topic| TopicId::from_slice(&topic.topic_id));
                    let nonsense = || Error::new(ErrorCode::Internal, "the controller answered without a topic");
                    id.ok_or_else(|| CallError { error: nonsense(), in_doubt: false })
                })
            };
            match asked {
                Ok(id) => return Ok(id),
                Err(failed) => self.retry(failed, deadline).await?,
            }
        }
    }
}

impl Catalog for Broker {
    fn cluster_id(&self) -> ClusterId {
        self.identity.cluster
    }

    fn topics<'a>(&'a self, ctx: &'a RequestContext) -> BoxFuture<'a, Result<Vec<TopicDescription>>> {
        Box::pin(async move {
            let topics = self.topics_now(ctx, None, clock::deadline(ctx, DEFAULT_WAIT)).await?;
            let mut topics: Vec<TopicDescription> = topics.iter().map(|topic| self.describe(topic)).collect();
            topics.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(topics)
        })
    }

    fn topic<'a>(&'a self, ctx: &'a RequestContext, name: &'a str) -> BoxFuture<'a, Result<TopicDescription>> {
        Box::pin(async move {
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            let found = self.topics_now(ctx, Some(name), deadline).await?.pop();
            let topic = found.ok_or_else(|| unknown_topic(&format!("{name:?}")))?;
            // The caller goes on with it here.
            self.await_metadata(deadline, |metadata| metadata.topic_by_id(topic.id).map(drop)).await?;
            Ok(self.describe(&topic))
        })
    }

    fn topic_by_id<'a>(&'a self, ctx: &'a RequestContext, id: TopicId) -> BoxFuture<'a, Result<TopicDescription>> {
        let ask = levada_protocol::messages::native::MetadataRequest {
            topic_ids: vec![Bytes::copy_from_slice(&id.to_bytes())],
            ..Default::default()
        };
        Box::pin(
            async move { self.look_up(ctx, &id.to_string(), |metadata| metadata.topic_by_id(id).cloned(), ask).await },
        )
    }

    fn create_topic<'a>(&'a self, ctx: &'a RequestContext, new: NewTopic) -> BoxFuture<'a, Result<TopicDescription>> {
        Box::pin(async move {
            // Asked here: to the controller, this node is the one who asks.
            self.authorize(ctx, Action::Create, Resource::Topic(&new.name))?;
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            let id = self.create_anywhere(ctx, new, None, deadline).await?;
            let topic = self.await_metadata(deadline, |metadata| metadata.topic_by_id(id).cloned()).await?;
            self.await_leaders(&topic, deadline).await;
            Ok(self.describe(&topic))
        })
    }

    fn delete_topic<'a>(&'a self, ctx: &'a RequestContext, name: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.authorize(ctx, Action::Delete, Resource::Topic(name))?;
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            loop {
                let controller = self.find_leader(GroupId::METADATA, deadline).await?;
                let asked = if controller == self.node() {
                    let deleted = self.delete_topic_here(ctx, name, None).await;
                    deleted.map(|topic| topic.id).map_err(|error| CallError { error, in_doubt: false })
                } else {
                    let request = DeleteTopicRequest { name: name.to_owned(), topic_id: Bytes::new() };
                    let answer =
                        self.forwarder.call(controller, Api::DeleteTopic, request, Bytes::new(), deadline).await;
                    answer.map(|answer: TopicResponse| {
                        answer.topic.and_then(|topic| TopicId::from_slice(&topic.topic_id)).unwrap_or_default()
                    })
                };
                match asked {
                    Ok(id) => {
                        // Gone here too before the caller goes on; when that takes long, it is gone where it counts.
                        let gone = |metadata: &Metadata| metadata.topic_by_id(id).is_none().then_some(());
                        let _ = self.await_metadata(deadline, gone).await;
                        return Ok(());
                    }
                    Err(failed) => self.retry(failed, deadline).await?,
                }
            }
        })
    }
}
