//! Requests about nodes: they register and join, operators add, replace and drain them, and spread replicas.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, NodeAddresses, Result},
    frame::Api,
    ids::{GroupId, IncarnationId, LogIndex, NodeId, ReplicaId, Term},
    messages::{
        native::{
            AdmitNodeRequest, AdmitNodeResponse, BalanceRequest, DrainNodeRequest, MoveInfo, MovesResponse,
            RegisterNodeRequest, RegisterNodeResponse,
        },
        peer::{JoinClusterRequest, JoinClusterResponse, NewcomersRequest, NewcomersResponse},
    },
};
use levada_storage_engine::store::GroupState;

use super::{connection::Session, produce::unexpected, responder::Responder};
use crate::{
    bootstrap::record::members_to_wire,
    broker::{Broker, DEFAULT_WAIT},
    cluster::{
        balance::Move,
        metadata::Node,
        newcomers::{Newcomer, newcomers_of},
    },
    node::{
        Need,
        event::{Answer, Request},
    },
    raft::membership::Membership,
    runtime::{budget::Charge, clock},
};

impl Broker {
    /// Asks this node, if it is the controller, for something that changes the cluster.
    async fn change_cluster(&self, ctx: &RequestContext, request: Request) -> Result<Answer> {
        self.authorize(ctx, Action::Alter, Resource::Cluster)?;
        self.worker.ask(request, clock::deadline(ctx, DEFAULT_WAIT), Charge::default()).await
    }

    /// Registers a node, if this node is the controller.
    pub(crate) async fn register_here(&self, ctx: &RequestContext, node: Node) -> Result<()> {
        self.change_cluster(ctx, Request::RegisterNode { node: Box::new(node) }).await.map(drop)
    }

    /// Lets a node join: here, or wherever the controller is.
    async fn join(&self, ctx: &RequestContext, request: JoinClusterRequest) -> Result<JoinClusterResponse> {
        self.authorize(ctx, Action::Alter, Resource::Cluster)?;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        if let Some(state) = self.later_state(&request, deadline).await? {
            return self.joined(*state);
        }
        let controller = self.find_leader(GroupId::METADATA, deadline).await?;
        if controller != self.node() {
            return Ok(self.forwarder.call(controller, Api::JoinCluster, request, Bytes::new(), deadline).await?);
        }
        let incarnation = incarnation(&request.incarnation)?;
        let id = NodeId(request.node_id);
        let (native, flight, http) = (request.native, request.flight, request.http);
        let addresses = NodeAddresses { node: id, native, flight, http };
        let feature_level_max = request.feature_level_max;
        let node = Node { feature_level_max, ..Node::new(addresses, incarnation, request.rack) };
        let wish = match request.lost_member {
            0 => Request::JoinNode { node: Box::new(node) },
            lost => Request::RenewMember { node: id, incarnation, lost: ReplicaId(lost) },
        };
        match self.change_cluster(ctx, wish).await? {
            Answer::Joined(state) => {
                if request.lost_member == 0 {
                    tracing::info!(node = id.get(), %incarnation, "node.joined");
                } else {
                    tracing::warn!(
                        node = id.get(),
                        lost = request.lost_member,
                        "metadata.member.lost: its node gets another"
                    );
                }
                self.joined(*state)
            }
            _ => Err(unexpected()),
        }
    }

    /// For a replica that is sound and only needs a later state: that, if this node has it. Nobody has to agree.
    async fn later_state(&self, request: &JoinClusterRequest, deadline: Instant) -> Result<Option<Box<GroupState>>> {
        let Some(sound_to) = request.sound_below.checked_sub(1).map(LogIndex) else { return Ok(None) };
        let (node, incarnation) = (NodeId(request.node_id), incarnation(&request.incarnation)?);
        let sound_to = Some((Term(request.sound_term), sound_to));
        let need = Need { sound_to, applied: LogIndex(request.applied_min), term: Term(0) };
        let wish = Request::CatchUpMember { node, incarnation, replica: ReplicaId(request.lost_member), need };
        match self.worker.ask(wish, deadline, Charge::default()).await {
            Ok(Answer::Joined(state)) => Ok(Some(state)),
            Ok(_) => Err(unexpected()),
            Err(error) => {
                tracing::debug!(node = node.get(), %error, "metadata.member.behind: there is no later state for it here");
                Ok(None)
            }
        }
    }

    fn joined(&self, state: GroupState) -> Result<JoinClusterResponse> {
        let membership = Membership::decode(&state.conf_state).ok().flatten().ok_or_else(unexpected)?;
        Ok(JoinClusterResponse {
            cluster_id: Bytes::copy_from_slice(&self.identity.cluster.to_bytes()),
            members: members_to_wire(&self.identity.members),
            member_id: membership.replica.get(),
            topic_id: Bytes::copy_from_slice(&state.topic_partition.topic.to_bytes()),
            applied: state.applied.get(),
            term: state.term.get(),
            membership: state.conf_state,
            metadata: state.app_state,
        })
    }
}

fn incarnation(bytes: &[u8]) -> Result<IncarnationId> {
    let wrong = || Error::new(ErrorCode::InvalidRequest, "incarnation is not 16 bytes");
    IncarnationId::from_slice(bytes).ok_or_else(wrong)
}

/// A node's addresses, from that node.
pub(crate) async fn register_node(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: RegisterNodeRequest,
    responder: Responder,
) {
    let register = async {
        let addresses: NodeAddresses =
            request.addresses.ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "no addresses"))?.into();
        let incarnation = incarnation(&request.incarnation)?;
        if session.peer != Some(addresses.node) {
            let why = format!("only node {} itself registers its addresses", addresses.node);
            return Err(Error::new(ErrorCode::Unauthorized, why));
        }
        let feature_level_max = request.feature_level_max;
        let node = Node { feature_level_max, ..Node::new(addresses, incarnation, request.rack) };
        broker.register_here(&session.context(), node).await
    };
    responder.answer(register.await.map(|()| RegisterNodeResponse {}));
}

/// A node wants to join.
pub(crate) async fn join_cluster(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: JoinClusterRequest,
    responder: Responder,
) {
    responder.answer(broker.join(&session.context(), request).await);
}

/// A node asks who has joined.
pub(crate) async fn newcomers(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: NewcomersRequest,
    responder: Responder,
) {
    if session.peer.is_none() {
        responder.error(&Error::new(ErrorCode::Unauthorized, "only nodes ask who has joined"));
        return;
    }
    let newcomers = newcomers_of(&broker.metadata(), ReplicaId(request.members_from));
    let newcomers = newcomers.iter().map(Newcomer::to_wire).collect();
    responder.answer(Ok(NewcomersResponse { newcomers }));
}

/// A node may join.
pub(crate) async fn admit_node(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: AdmitNodeRequest,
    responder: Responder,
) {
    let AdmitNodeRequest { node_id, replace, dry_run } = request;
    let admit = Request::AdmitNode { node: NodeId(node_id), replace, dry_run };
    let admitted = broker.change_cluster(&session.context(), admit).await;
    responder.answer(admitted.map(|answer| AdmitNodeResponse { moves: moves(answer).moves }));
}

/// A node is to leave.
pub(crate) async fn drain_node(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: DrainNodeRequest,
    responder: Responder,
) {
    let DrainNodeRequest { node_id, cancel, dry_run } = request;
    let drain = Request::DrainNode { node: NodeId(node_id), drain: !cancel, dry_run };
    responder.answer(broker.change_cluster(&session.context(), drain).await.map(moves));
}

/// Replicas are to be spread.
pub(crate) async fn balance(broker: Arc<Broker>, session: Arc<Session>, request: BalanceRequest, responder: Responder) {
    let balance = Request::Balance { dry_run: request.dry_run };
    responder.answer(broker.change_cluster(&session.context(), balance).await.map(moves));
}

fn moves(answer: Answer) -> MovesResponse {
    let Answer::Moves(moves) = answer else { return MovesResponse::default() };
    let info = |planned: Move| {
        let before = planned.topic.partitions.iter().find(|partition| partition.partition == planned.partition);
        let from = before.into_iter().flat_map(|partition| partition.wanted()).map(|replica| replica.node.get());
        MoveInfo {
            topic: planned.topic.name.clone(),
            partition: planned.partition.get(),
            from: from.collect(),
            to: planned.to.into_iter().map(NodeId::get).collect(),
        }
    };
    MovesResponse { moves: moves.into_iter().map(info).collect() }
}
