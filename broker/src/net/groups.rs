//! Requests for consumer groups. The leader of a group's coordinator answers; others point to it.

use std::sync::Arc;

use levada_groups::{
    coordinator_of,
    limits::{COORDINATORS, NAME_BYTES_MAX},
};
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    ids::PartitionId,
    limits::MIB,
    messages::native::{
        FindCoordinatorRequest, FindCoordinatorResponse, GroupRequest, GroupResponse, find_coordinator_request::Of,
        group_request::Ask, group_response::Answer as Told,
    },
    source::NewTopic,
};

use super::{connection::Session, group_wire as wire, produce::unexpected, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::metadata::Topic,
    node::event::{Answer, GroupAnswer, GroupAsk, Request},
    partition::coordinating::{GROUPS_REQUEST, GROUPS_TOPIC, GROUPS_TOPIC_ID},
    runtime::{budget::Charge, clock},
};

/// Segments of coordinators end when they have this: what is in them nobody reads again, but for curiosity.
const SEGMENT_BYTES: usize = 16 * MIB;
/// And so much of it stays.
const RETENTION_BYTES: usize = 64 * MIB;

impl Broker {
    /// The coordinators' topic, made if it is not there.
    async fn coordinators(&self, ctx: &RequestContext) -> Result<Arc<Topic>> {
        if let Some(topic) = self.metadata().topic_by_id(*GROUPS_TOPIC_ID) {
            return Ok(Arc::clone(topic));
        }
        let settings = [("segment.bytes", SEGMENT_BYTES), ("retention.bytes", RETENTION_BYTES)];
        let new = NewTopic {
            name: GROUPS_TOPIC.to_owned(),
            partitions: COORDINATORS,
            replicas: 0,
            config: settings.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.to_string())).collect(),
            schema_json: None,
        };
        // Whoever asks need not be somebody who makes topics.
        let made_for = RequestContext::internal("groups").with_deadline(clock::deadline(ctx, DEFAULT_WAIT));
        let deadline = clock::deadline(&made_for, DEFAULT_WAIT);
        match self.create_anywhere(&made_for, new, Some(GROUPS_REQUEST), deadline).await {
            Err(error) if error.code != ErrorCode::TopicExists => return Err(error),
            _ => {}
        }
        let metadata = self.metadata();
        metadata.topic_by_id(*GROUPS_TOPIC_ID).cloned().ok_or_else(|| {
            if metadata.topic(GROUPS_TOPIC).is_some() {
                let why = format!(
                    "consumer groups need the name {GROUPS_TOPIC}, and somebody has made a topic of that name; copy what is in it to \
                     another one, and delete it"
                );
                return Error::new(ErrorCode::TopicExists, why);
            }
            let why = "the coordinators are being made, and this node has not heard of it; try again";
            Error::new(ErrorCode::NotReady, why)
        })
    }

    async fn coordinator_response(
        &self,
        ctx: &RequestContext,
        request: FindCoordinatorRequest,
    ) -> Result<FindCoordinatorResponse> {
        let coordinator = match request.of {
            Some(Of::Group(group)) => {
                self.authorize(ctx, Action::Describe, Resource::Group(shown(&group)?))?;
                coordinator_of(&group)
            }
            Some(Of::Coordinator(number)) => {
                self.authorize(ctx, Action::Describe, Resource::Cluster)?;
                number
            }
            None => return Err(Error::new(ErrorCode::InvalidRequest, "name a group, or a coordinator's number")),
        };
        let topic = self.coordinators(ctx).await?;
        let partition = topic.partition(PartitionId(coordinator)).ok_or_else(|| {
            let why = format!("there are {COORDINATORS} coordinators, not number {coordinator}");
            Error::new(ErrorCode::InvalidRequest, why)
        })?;
        let leader = self.leader_addresses(partition.group).map(Into::into);
        Ok(FindCoordinatorResponse { coordinator, coordinators: COORDINATORS, leader })
    }

    async fn ask_coordinator(
        &self,
        ctx: &RequestContext,
        group: &str,
        ask: GroupAsk,
        charge: Charge,
    ) -> Result<GroupAnswer> {
        self.ask_coordinator_of(ctx, coordinator_of(group), ask, charge).await
    }

    async fn ask_coordinator_of(
        &self,
        ctx: &RequestContext,
        coordinator: u32,
        ask: GroupAsk,
        charge: Charge,
    ) -> Result<GroupAnswer> {
        let request = Request::Group { partition: PartitionId(coordinator), ask };
        match self.worker.ask(request, clock::deadline(ctx, DEFAULT_WAIT), charge).await? {
            Answer::Group(answer) => Ok(*answer),
            _ => Err(unexpected()),
        }
    }

    async fn group_response(&self, ctx: &RequestContext, request: GroupRequest, charge: Charge) -> Result<Told> {
        let ask = request.ask.ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "nothing is asked of the group"))?;
        let (group, action) = match &ask {
            Ask::Heartbeat(ask) => (&ask.group, Action::Read),
            Ask::Leave(ask) => (&ask.group, Action::Read),
            Ask::Commit(ask) => (&ask.group, Action::Read),
            Ask::Offsets(ask) => (&ask.group, Action::Describe),
            Ask::Members(ask) => (&ask.group, Action::Describe),
            Ask::DeleteOffsets(ask) => (&ask.group, Action::Delete),
            Ask::Delete(ask) => (&ask.group, Action::Delete),
            Ask::List(ask) => {
                self.authorize(ctx, Action::Describe, Resource::Cluster)?;
                let (coordinator, after) = (ask.coordinator, ask.after.clone());
                return match self.ask_coordinator_of(ctx, coordinator, GroupAsk::List { after }, charge).await? {
                    GroupAnswer::Listed(groups) => Ok(Told::List(wire::list(&groups))),
                    _ => Err(unexpected()),
                };
            }
        };
        self.authorize(ctx, action, Resource::Group(shown(group)?))?;
        let group = group.clone();
        let show = GroupAsk::Show { group: group.clone() };
        let (page, ask) = match ask {
            Ask::Offsets(ask) => (Page::Offsets(wire::after(ask.after)?), show),
            Ask::Members(ask) => (Page::Members(ask.after), show),
            ask => (Page::None, GroupAsk::Change(wire::command(ask)?)),
        };
        match (self.ask_coordinator(ctx, &group, ask, charge).await?, page) {
            (GroupAnswer::Told(answer), Page::None) => Ok(wire::told(answer)),
            (GroupAnswer::Shown(shown), Page::Offsets(after)) => Ok(Told::Offsets(wire::offsets(&shown, after))),
            (GroupAnswer::Shown(shown), Page::Members(after)) => {
                Ok(Told::Members(wire::members(&group, &shown, &after)))
            }
            _ => Err(unexpected()),
        }
    }
}

/// Which part of a group is to be shown.
enum Page {
    None,
    Offsets(Option<levada_protocol::ids::TopicPartition>),
    Members(String),
}

/// A group's name, if it may be one: it is echoed in messages.
fn shown(group: &str) -> Result<&str> {
    if group.len() > NAME_BYTES_MAX {
        let why = format!("a group's name has at most {NAME_BYTES_MAX} bytes, not {}", group.len());
        return Err(Error::new(ErrorCode::InvalidName, why));
    }
    Ok(group)
}

/// Which node coordinates a group, on the native door.
pub(crate) async fn find_coordinator(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: FindCoordinatorRequest,
    responder: Responder,
) {
    responder.answer(broker.coordinator_response(&session.context(), request).await);
}

/// Something about groups, on the native door.
pub(crate) async fn group(broker: Arc<Broker>, session: Arc<Session>, request: GroupRequest, mut responder: Responder) {
    let charge = responder.take_charge();
    let answer = broker.group_response(&session.context(), request, charge).await;
    responder.answer(answer.map(|answer| GroupResponse { answer: Some(answer) }));
}
