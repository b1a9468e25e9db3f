//! Requests that change the cluster: topics, leadership. The controller (for leadership: the leader) carries them
//! out; other nodes redirect.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream::FuturesUnordered};

use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    ids::{GroupId, NodeId, TopicId, TopicPartition},
    limits::SCHEMA_BYTES_MAX,
    messages::native::{
        AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, ResizeTopicRequest, TopicResponse,
        TransferLeaderRequest, TransferLeaderResponse,
    },
    source::{LogSource as _, NewTopic},
};
use tokio::{task::spawn_blocking, time::sleep};
use uuid::Uuid;

use super::{connection::Session, door::needed, produce::unexpected, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::metadata::{Topic, unknown_topic},
    node::event::{Answer, Request},
    runtime::{budget::Charge, clock},
};

/// How long a new topic's partitions may take to find leaders before it is handed out without.
const LEADERS_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to reach one.
const LEADERS_PAUSE: Duration = Duration::from_millis(20);
/// Partitions that are waited for at once.
const LEADERS_AT_ONCE: usize = 64;

impl Broker {
    async fn ask_for_topic(&self, request: Request, deadline: Instant) -> Result<Arc<Topic>> {
        match self.worker.ask(request, deadline, Charge::default()).await? {
            Answer::Topic(topic) => Ok(topic),
            _ => Err(unexpected()),
        }
    }

    /// Makes a topic, if this node is the controller, and waits until its partitions have leaders.
    pub(crate) async fn create_topic_here(
        &self,
        ctx: &RequestContext,
        mut new: NewTopic,
        dry_run: bool,
        id: Option<TopicId>,
    ) -> Result<Arc<Topic>> {
        self.authorize(ctx, Action::Create, Resource::Topic(&new.name))?;
        if let Some(json) = new.schema_json.take() {
            new.schema_json = Some(self.check_schema(json).await?);
        }
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        let topic = self.ask_for_topic(Request::CreateTopic { new, dry_run, id }, deadline).await?;
        if !dry_run {
            tracing::info!(topic = topic.name, id = %topic.id, partitions = topic.partitions.len(), "topic.created");
            self.await_leaders(&topic, deadline.min(clock::instant() + LEADERS_WAIT)).await;
        }
        Ok(topic)
    }

    /// A schema in its canonical form.
    async fn check_schema(&self, json: String) -> Result<String> {
        if json.len() > SCHEMA_BYTES_MAX {
            let why = format!("a schema of {} bytes is larger than the {SCHEMA_BYTES_MAX} allowed", json.len());
            return Err(Error::new(ErrorCode::InvalidConfig, why));
        }
        let codec = self.codec.clone();
        let checked = spawn_blocking(move || needed(codec.as_deref())?.check_schema(&json)).await;
        checked
            .unwrap_or_else(|_| Err(Error::new(ErrorCode::Internal, "checking the schema failed; the log says more")))
    }

    /// Waits until all partitions of a topic can be written: each leader has answered a linearizable read.
    pub(crate) async fn await_leaders(&self, topic: &Topic, deadline: Instant) {
        let ctx = RequestContext::internal("create").with_deadline(deadline);
        for partitions in topic.partitions.chunks(LEADERS_AT_ONCE) {
            let mut waits = FuturesUnordered::new();
            for partition in partitions {
                let place = TopicPartition { topic: topic.id, partition: partition.partition };
                waits.push(self.await_leader(&ctx, place, deadline));
            }
            while waits.next().await.is_some() {}
        }
    }

    async fn await_leader(&self, ctx: &RequestContext, place: TopicPartition, deadline: Instant) {
        // The leader may not have heard of the topic when its neighbours have.
        while self.bounds(ctx, place).await.is_err() && !clock::left(deadline).is_zero() {
            sleep(LEADERS_PAUSE).await;
        }
    }

    /// Deletes a topic, if this node is the controller.
    pub(crate) async fn delete_topic_here(
        &self,
        ctx: &RequestContext,
        name: &str,
        id: Option<TopicId>,
    ) -> Result<Arc<Topic>> {
        self.authorize(ctx, Action::Delete, Resource::Topic(name))?;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        let topic = self.ask_for_topic(Request::DeleteTopic { name: name.to_owned(), id }, deadline).await?;
        tracing::info!(topic = topic.name, id = %topic.id, "topic.deleted");
        Ok(topic)
    }

    fn topic_response(&self, topic: &Topic) -> TopicResponse {
        TopicResponse { topic: Some(self.topic_info(topic)) }
    }
}

/// A wish for a topic, from the wire.
pub(crate) fn new_topic(request: CreateTopicRequest) -> NewTopic {
    NewTopic {
        name: request.name,
        partitions: request.partitions,
        replicas: request.replicas,
        config: request.config,
        schema_json: Some(request.schema_json).filter(|json| !json.is_empty()),
    }
}

/// The id that the topic is to have, if the client wants to know it again.
fn topic_id_of(request: &CreateTopicRequest) -> Result<Option<TopicId>> {
    Ok(request_id_of(&request.request_id)?.map(|request_id| TopicId::of_request(request_id, &request.name)))
}

/// Which request of a client's it is, if it says so.
fn request_id_of(bytes: &[u8]) -> Result<Option<Uuid>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let why = |_| Error::new(ErrorCode::InvalidRequest, format!("a request id has 16 bytes, not {}", bytes.len()));
    Uuid::from_slice(bytes).map(Some).map_err(why)
}

/// A new topic, on the native door.
pub(crate) async fn create_topic(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: CreateTopicRequest,
    responder: Responder,
) {
    let dry_run = request.dry_run;
    let made = async {
        let id = topic_id_of(&request)?;
        broker.create_topic_here(&session.context(), new_topic(request), dry_run, id).await
    };
    responder.answer(made.await.map(|topic| broker.topic_response(&topic)));
}

/// Other settings, on the native door.
pub(crate) async fn alter_topic(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: AlterTopicRequest,
    responder: Responder,
) {
    let ctx = session.context();
    let alter = async {
        broker.authorize(&ctx, Action::Alter, Resource::Topic(&request.name))?;
        let deadline = clock::deadline(&ctx, DEFAULT_WAIT);
        let AlterTopicRequest { name, set, unset, request_id } = request;
        let request = request_id_of(&request_id)?;
        broker.ask_for_topic(Request::AlterTopic { name, set, unset, request }, deadline).await
    };
    responder.answer(alter.await.map(|topic| broker.topic_response(&topic)));
}

/// A topic's end, on the native door.
pub(crate) async fn delete_topic(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: DeleteTopicRequest,
    responder: Responder,
) {
    let delete = async {
        let id = match &request.topic_id {
            id if id.is_empty() => None,
            id => Some(TopicId::from_slice(id).ok_or_else(|| {
                Error::new(ErrorCode::InvalidRequest, format!("a topic's id has 16 bytes, not {}", id.len()))
            })?),
        };
        broker.delete_topic_here(&session.context(), &request.name, id).await
    };
    responder.answer(delete.await.map(|topic| broker.topic_response(&topic)));
}

/// Another size of a topic, on the native door.
pub(crate) async fn resize_topic(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: ResizeTopicRequest,
    responder: Responder,
) {
    let ctx = session.context();
    let resize = async {
        broker.authorize(&ctx, Action::Alter, Resource::Topic(&request.name))?;
        let deadline = clock::deadline(&ctx, DEFAULT_WAIT);
        if let Some(replicas) = request.replicas {
            let name = request.name.clone();
            broker.worker.ask(Request::SetReplicas { name, replicas }, deadline, Charge::default()).await?;
        }
        if let Some(partitions) = request.partitions {
            let name = request.name.clone();
            let topic = broker.ask_for_topic(Request::SetPartitions { name, partitions }, deadline).await?;
            broker.await_leaders(&topic, deadline.min(clock::instant() + LEADERS_WAIT)).await;
        }
        let topic = broker.metadata().topic(&request.name).cloned();
        topic.ok_or_else(|| unknown_topic(&request.name))
    };
    responder.answer(resize.await.map(|topic| broker.topic_response(&topic)));
}

/// Leadership of a group to another node.
pub(crate) async fn transfer_leader(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: TransferLeaderRequest,
    responder: Responder,
) {
    let ctx = session.context();
    let transfer = async {
        broker.authorize(&ctx, Action::Alter, Resource::Cluster)?;
        let deadline = clock::deadline(&ctx, DEFAULT_WAIT);
        let request = Request::TransferLeader { group: GroupId(request.group), to: NodeId(request.node_id) };
        broker.worker.ask(request, deadline, Charge::default()).await
    };
    responder.answer(transfer.await.map(|_| TransferLeaderResponse {}));
}
