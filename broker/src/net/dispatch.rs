//! From a frame to who answers it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use levada_protocol::{
    context::{Action, Authorizer, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    frame::{Api, Frame},
    ids::{ClusterId, IncarnationId, NodeId, ReplicaId},
    messages::{
        native::{HandshakeRequest, HandshakeResponse, PeerIdentity},
        peer::{FoundClusterRequest, FoundClusterResponse, RaftFrame, SeedStateRequest},
    },
};

use super::{
    admin, config,
    connection::{Handler, Session, Work},
    fetch, groups, metadata, nodes, produce, recovery,
    responder::Responder,
    status,
};
use crate::{
    bootstrap::{Identity, desk::SeedDesk, record::Record},
    broker::Broker,
    raft::wire,
    server::readiness::Readiness,
};

/// Who answers on the native door: at first only the questions of other seeds, then everything.
pub(crate) struct Dispatch {
    node: NodeId,
    incarnation: IncarnationId,
    authorizer: Arc<dyn Authorizer>,
    desk: Arc<SeedDesk>,
    readiness: Arc<Readiness>,
    broker: OnceLock<Arc<Broker>>,
}

impl Dispatch {
    pub(crate) fn new(desk: Arc<SeedDesk>, authorizer: Arc<dyn Authorizer>, readiness: Arc<Readiness>) -> Self {
        let Record { node, incarnation, .. } = desk.record();
        Self { node, incarnation, authorizer, desk, readiness, broker: OnceLock::new() }
    }

    /// From now on everything is answered.
    pub(crate) fn open(&self, broker: Arc<Broker>) {
        let _ = self.broker.set(broker);
    }

    /// Judges who claims to be a node of this cluster: a founder, or one that has registered.
    fn check_member(&self, identity: &Identity, peer: &PeerIdentity) -> Result<()> {
        let node = NodeId(peer.node_id);
        let incarnation = IncarnationId::from_slice(&peer.incarnation)
            .ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "a node's incarnation is 16 bytes"))?;
        let known = match self.broker.get() {
            Some(broker) => {
                if broker.book.newcomer(node).is_none_or(|newcomer| newcomer.incarnation != incarnation) {
                    let judged = broker.metadata().check_caller(node, ReplicaId(peer.member_id));
                    if judged.as_ref().is_err_and(|error| error.code == ErrorCode::NotReady) {
                        broker.book.newcomers.want();
                    }
                    judged?;
                }
                broker.book.incarnation(node)
            }
            None if identity.members.get(&node).is_some_and(|member| member.incarnation == incarnation) => {
                return Ok(());
            }
            // It may have joined or been replaced since the founding: the metadata says so, which is read in a moment.
            None => {
                return Err(Error::new(
                    ErrorCode::NotReady,
                    "the node is starting, and knows only the founders; try again",
                ));
            }
        };
        match known {
            Some(known) if known == incarnation => Ok(()),
            Some(_) => {
                let why = format!(
                    "node {node} is known with another data directory; bring that one back, or, if it is lost, let this \
                     one take its place: `levada cluster replace {node}`"
                );
                Err(Error::new(ErrorCode::WrongIncarnation, why))
            }
            None => {
                let cluster = identity.cluster;
                let why = format!(
                    "node {node} is not of cluster {cluster}; check node_id and seed_nodes, or let it join: \
                     `levada cluster add {node}`"
                );
                Err(Error::new(ErrorCode::Unauthorized, why))
            }
        }
    }

    fn raft(&self, session: &Session, frame: Frame, responder: Responder) -> Work {
        let Some(from) = session.peer else {
            let why = "raft messages come from nodes only";
            return Work::Refuse(responder, Error::new(ErrorCode::Unauthorized, why));
        };
        let messages = frame.message::<RaftFrame>().and_then(|message| wire::decode(message, frame.payload));
        match (messages, self.broker.get()) {
            (Ok(_), Some(_)) if session.founding => return Work::Refuse(responder, stranger()),
            (Ok(messages), Some(broker)) => broker.worker.deliver(from, messages, responder.silent()),
            // Nobody is there yet who could take them: raft sends again.
            (Ok(_), None) => drop(responder.silent()),
            (Err(error), _) => return Work::Refuse(responder, error),
        }
        Work::Done
    }

    fn seed_state(&self, session: &Session, responder: Responder) {
        let ctx = session.context();
        let allowed = self.authorizer.authorize(&ctx, Action::Describe, Resource::Cluster);
        responder.answer(allowed.map(|()| self.desk.state()));
    }
}

impl Handler for Dispatch {
    fn welcome(&self, request: &HandshakeRequest) -> Result<(HandshakeResponse, Session)> {
        let identity = self.desk.identity();
        let ours = identity.as_ref().map(|identity| identity.cluster);
        let theirs = ClusterId::from_slice(&request.cluster_id);
        if theirs.is_none() && !request.cluster_id.is_empty() {
            return Err(Error::new(ErrorCode::InvalidRequest, "a cluster id is 16 bytes"));
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours != theirs
        {
            let why = format!("this node is of cluster {ours}, you want {theirs}; check the address");
            return Err(Error::new(ErrorCode::WrongCluster, why));
        }
        let caller = request.peer.as_ref();
        if let Some(node) = caller.map(|peer| NodeId(peer.node_id)).filter(|node| *node == self.node) {
            let why = format!("node {node} is this node; two processes must not have the same node id");
            return Err(Error::new(ErrorCode::WrongIncarnation, why));
        }
        // A node that names no cluster only asks around, and is told by the answer if it was wiped.
        let member = caller.filter(|_| theirs.is_some());
        if let Some(peer) = member {
            if let Some(identity) = &identity {
                self.check_member(identity, peer)?;
            }
            // What a node may do it may do with every frame: asked once.
            self.authorizer.authorize(&RequestContext::internal("node"), Action::Alter, Resource::Cluster)?;
        }
        let response = HandshakeResponse {
            version: 0,
            cluster_id: ours.map(|id| Bytes::copy_from_slice(&id.to_bytes())).unwrap_or_default(),
            node_id: self.node.get(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: Bytes::copy_from_slice(&self.incarnation.to_bytes()),
            waiting: if identity.is_none() { self.readiness.waits_for() } else { String::new() },
        };
        let mut session = Session::new(&request.client_id, member.map(|peer| NodeId(peer.node_id)));
        session.founding = session.peer.is_some() && identity.is_none();
        Ok((response, session))
    }

    fn handle(self: Arc<Self>, session: &Arc<Session>, frame: Frame, responder: Responder) -> Work {
        let Some(api) = Api::from_u16(frame.api) else {
            let why = format!("api {} is not known to this server ({})", frame.api, env!("CARGO_PKG_VERSION"));
            responder.error(&Error::new(ErrorCode::UnknownApi, why));
            return Work::Done;
        };
        match api {
            Api::Raft => return self.raft(session, frame, responder),
            Api::SeedState => {
                return match frame.message::<SeedStateRequest>() {
                    Ok(_) => {
                        self.seed_state(session, responder);
                        Work::Done
                    }
                    Err(error) => Work::Refuse(responder, error),
                };
            }
            Api::FoundCluster => return found_cluster(Arc::clone(&self), Arc::clone(session), &frame, responder),
            _ => {}
        }
        let Some(broker) = self.broker.get() else {
            let why = format!("the node is starting ({}); try again", self.readiness.waits_for());
            responder.error(&Error::new(ErrorCode::NotReady, why));
            return Work::Done;
        };
        if session.founding {
            return Work::Refuse(responder, stranger());
        }
        let (broker, session) = (Arc::clone(broker), Arc::clone(session));
        match api {
            Api::Produce => match frame.message() {
                Ok(request) => {
                    Work::InOrder(Box::pin(produce::produce(broker, session, request, frame.payload, responder)))
                }
                Err(error) => Work::Refuse(responder, error),
            },
            Api::Metadata => beside(&frame, responder, |m, r| metadata::metadata(broker, session, m, r)),
            Api::InitProducer => beside(&frame, responder, |m, r| produce::init_producer(broker, session, m, r)),
            Api::Fetch => beside(&frame, responder, |m, r| fetch::fetch(broker, session, m, r)),
            Api::ListOffsets => beside(&frame, responder, |m, r| fetch::list_offsets(broker, session, m, r)),
            Api::CreateTopic => beside(&frame, responder, |m, r| admin::create_topic(broker, session, m, r)),
            Api::AlterTopic => beside(&frame, responder, |m, r| admin::alter_topic(broker, session, m, r)),
            Api::DeleteTopic => beside(&frame, responder, |m, r| admin::delete_topic(broker, session, m, r)),
            Api::ClusterStatus => beside(&frame, responder, |m, r| status::cluster_status(broker, session, m, r)),
            Api::ResizeTopic => beside(&frame, responder, |m, r| admin::resize_topic(broker, session, m, r)),
            Api::RegisterNode => beside(&frame, responder, |m, r| nodes::register_node(broker, session, m, r)),
            Api::JoinCluster => beside(&frame, responder, |m, r| nodes::join_cluster(broker, session, m, r)),
            Api::AdmitNode => beside(&frame, responder, |m, r| nodes::admit_node(broker, session, m, r)),
            Api::Newcomers => beside(&frame, responder, |m, r| nodes::newcomers(broker, session, m, r)),
            Api::DrainNode => beside(&frame, responder, |m, r| nodes::drain_node(broker, session, m, r)),
            Api::Balance => beside(&frame, responder, |m, r| nodes::balance(broker, session, m, r)),
            Api::DescribeReplica => beside(&frame, responder, |m, r| recovery::describe_replica(broker, session, m, r)),
            Api::RecoverPartition => {
                beside(&frame, responder, |m, r| recovery::recover_partition(broker, session, m, r))
            }
            Api::RecoverMetadata => beside(&frame, responder, |m, r| recovery::recover_metadata(broker, session, m, r)),
            Api::FindCoordinator => beside(&frame, responder, |m, r| groups::find_coordinator(broker, session, m, r)),
            Api::Group => beside(&frame, responder, |m, r| groups::group(broker, session, m, r)),
            Api::TransferLeader => beside(&frame, responder, |m, r| admin::transfer_leader(broker, session, m, r)),
            Api::DescribeConfig => beside(&frame, responder, |m, r| config::describe_config(broker, session, m, r)),
            Api::ReloadConfig => beside(&frame, responder, |m, r| config::reload_config(broker, session, m, r)),
            Api::Handshake | Api::SeedState | Api::FoundCluster | Api::Raft => {
                Work::Refuse(responder, Error::new(ErrorCode::BadFrame, "the handshake is over"))
            }
        }
    }
}

/// To a node that came before there was a list of who may.
fn stranger() -> Error {
    Error::new(ErrorCode::NotReady, "the cluster has been founded since this connection was made; connect again")
}

/// Work that may go on beside other requests of the connection.
fn beside<M, F>(frame: &Frame, responder: Responder, work: impl FnOnce(M, Responder) -> F) -> Work
where
    M: prost::Message + Default,
    F: Future<Output = ()> + Send + 'static,
{
    match frame.message() {
        Ok(message) => Work::Beside(Box::pin(work(message, responder))),
        Err(error) => Work::Refuse(responder, error),
    }
}

fn found_cluster(dispatch: Arc<Dispatch>, session: Arc<Session>, frame: &Frame, responder: Responder) -> Work {
    beside(frame, responder, |request: FoundClusterRequest, responder| async move {
        let accept = async {
            if session.peer.is_none() {
                return Err(Error::new(ErrorCode::Unauthorized, "clusters are founded by nodes only"));
            }
            dispatch.desk.accept_wire(request).await
        };
        responder.answer(accept.await.map(|()| FoundClusterResponse {}));
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use levada_protocol::{context::AllowAll, messages::native::PeerIdentity};
    use levada_storage_engine::{disk::Disk, sim_disk::SimDisk};

    use super::*;
    use crate::{bootstrap::record::Decision, cluster::addresses::Member};

    const CLUSTER: [u8; 16] = [7; 16];

    fn hello(node_id: u64, incarnation: u8) -> HandshakeRequest {
        let peer = PeerIdentity { node_id, incarnation: Bytes::from(vec![incarnation; 16]), member_id: 0 };
        HandshakeRequest { cluster_id: Bytes::from_static(&CLUSTER), peer: Some(peer), ..Default::default() }
    }

    #[tokio::test]
    async fn only_nodes_of_the_cluster_pass_for_nodes() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let record = Record::open(&*disk, NodeId(1), || IncarnationId::from_bytes([1; 16])).unwrap();
        let desk = Arc::new(SeedDesk::new(disk, record));
        let readiness = Arc::new(Readiness::new(NodeId(1)));
        let dispatch = Dispatch::new(Arc::clone(&desk), Arc::new(AllowAll), readiness);
        let (answer, session) = dispatch.welcome(&hello(2, 2)).unwrap();
        assert!(answer.waiting.contains("data directory"), "it says what it waits for: {answer:?}");
        assert!(session.founding, "before the decision nobody can say who belongs to it");

        let member = |n: u8| Member { incarnation: IncarnationId::from_bytes([n; 16]), native: "a:1".into() };
        let members = BTreeMap::from([(NodeId(1), member(1)), (NodeId(2), member(2))]);
        desk.accept(Decision { cluster: ClusterId::from_bytes(CLUSTER), members, joined: None }).await.unwrap();
        let (_, session) = dispatch.welcome(&hello(2, 2)).unwrap();
        assert_eq!((session.peer, session.founding), (Some(NodeId(2)), false));
        // Who is another one by now may have been let in since: as long as this is starting, nobody can say.
        let refused = |node, incarnation| dispatch.welcome(&hello(node, incarnation)).unwrap_err();
        assert_eq!((refused(2, 9).code, refused(3, 3).code), (ErrorCode::NotReady, ErrorCode::NotReady));
        // Who only asks around, as a wiped founder does, is answered and is nobody.
        let (_, session) = dispatch.welcome(&HandshakeRequest { cluster_id: Bytes::new(), ..hello(3, 3) }).unwrap();
        assert_eq!(session.peer, None);
    }
}
