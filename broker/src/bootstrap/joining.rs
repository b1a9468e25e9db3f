//! Asking to join a cluster that is there already.

use std::collections::BTreeMap;

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses},
    frame::Api,
    ids::{GroupId, LogIndex, NodeId, PartitionId, ReplicaId, Term, TopicId, TopicPartition},
    messages::peer::{JoinClusterRequest, JoinClusterResponse},
};
use levada_storage_engine::store::GroupState;

use super::{
    BootstrapError,
    founding::call,
    record::{Decision, Record},
};
use crate::{cluster::feature::LEVEL_MAX, node::Need, raft::membership::Membership};

/// What a node says of itself to be let in.
#[derive(Clone, Debug)]
pub(crate) struct Applicant {
    /// Where it listens.
    pub(crate) addresses: NodeAddresses,
    /// Where it stands.
    pub(crate) rack: String,
}

/// What the cluster says.
#[derive(Debug)]
pub(crate) enum Knocked {
    /// The node is of the cluster now, and begins with this.
    Joined(Decision, GroupState),
    /// Not yet; the words say why.
    Wait(String),
}

/// Asks the nodes that are known, one after the other, to be let in.
pub(super) async fn knock(
    own: &Record,
    decision: &Decision,
    applicant: &Applicant,
    seeds: &BTreeMap<NodeId, String>,
) -> Result<Knocked, BootstrapError> {
    let request = request(own, applicant);
    // As nobody of this cluster yet.
    let stranger = Record { decision: None, ..own.clone() };
    let mut silent = "no node of the cluster answers".to_owned();
    for (node, address) in seeds.iter().filter(|(node, _)| **node != own.node) {
        let answer: Result<JoinClusterResponse, Error> =
            call(*node, address, &stranger, Api::JoinCluster, &request).await;
        match answer {
            Ok(joined) => return read(decision, joined),
            Err(error) => match error.code {
                ErrorCode::NotAdmitted | ErrorCode::FeatureLevel => return Ok(Knocked::Wait(error.message)),
                ErrorCode::WrongIncarnation => {
                    let (cluster, node, said) = (decision.cluster, own.node, error.message);
                    return Err(BootstrapError::WrongIncarnation { cluster, node, said });
                }
                ErrorCode::UnsupportedVersion | ErrorCode::Unauthorized | ErrorCode::InvalidRequest => {
                    return Err(BootstrapError::NotJoined(error));
                }
                _ => silent = format!("node {node} cannot let this node join: {error}"),
            },
        }
    }
    Ok(Knocked::Wait(silent))
}

fn request(own: &Record, applicant: &Applicant) -> JoinClusterRequest {
    let addresses = &applicant.addresses;
    JoinClusterRequest {
        node_id: own.node.get(),
        incarnation: Bytes::copy_from_slice(&own.incarnation.to_bytes()),
        native: addresses.native.clone(),
        flight: addresses.flight.clone(),
        http: addresses.http.clone(),
        rack: applicant.rack.clone(),
        feature_level_max: LEVEL_MAX,
        lost_member: 0,
        sound_below: 0,
        sound_term: 0,
        applied_min: 0,
    }
}

/// Asks the nodes that are known, one after the other, for another replica of the metadata group, or a later state of the one that
/// there is. `Err` within says why there is none yet.
pub(crate) async fn renew(
    own: &Record,
    applicant: &Applicant,
    nodes: &BTreeMap<NodeId, String>,
    lost: ReplicaId,
    need: Need,
) -> Result<Result<GroupState, String>, BootstrapError> {
    let Some(decision) = &own.decision else { return Ok(Err("the node is of no cluster".to_owned())) };
    let request = JoinClusterRequest {
        lost_member: lost.get(),
        sound_below: need.sound_to.map_or(0, |(_, last)| last.next().get()),
        sound_term: need.sound_to.map_or(0, |(term, _)| term.get()),
        applied_min: need.applied.get(),
        ..request(own, applicant)
    };
    let stranger = Record { decision: None, ..own.clone() };
    let mut silent = "no other node of the cluster answers".to_owned();
    for (node, address) in nodes {
        let answer: Result<JoinClusterResponse, Error> =
            call(*node, address, &stranger, Api::JoinCluster, &request).await;
        match answer {
            Ok(joined) => {
                let Knocked::Joined(given, state) = read(decision, joined)? else { continue };
                let is_another = given.joined != Some(lost);
                if (is_another || need.sound_to.is_some()) && need.is_met_by(&state) {
                    return Ok(Ok(state));
                }
                silent =
                    format!("what node {node} says is older than what is needed, or it has no other replica to give");
            }
            Err(error) => match error.code {
                ErrorCode::WrongIncarnation
                | ErrorCode::NodeRemoved
                | ErrorCode::UnknownNode
                | ErrorCode::UnsupportedVersion
                | ErrorCode::Unauthorized => return Err(BootstrapError::NotJoined(error)),
                _ => silent = format!("node {node} cannot give another replica now: {error}"),
            },
        }
    }
    Ok(Err(silent))
}

fn read(decision: &Decision, joined: JoinClusterResponse) -> Result<Knocked, BootstrapError> {
    let nonsense =
        |what: &str| BootstrapError::NotJoined(Error::new(ErrorCode::BadFrame, format!("{what} is malformed")));
    let answered = Decision::from_wire(&joined.cluster_id, joined.members).map_err(|why| nonsense(&why))?;
    if answered.cluster != decision.cluster {
        return Err(BootstrapError::TwoClusters { one: decision.cluster, other: answered.cluster });
    }
    let topic = TopicId::from_slice(&joined.topic_id).ok_or_else(|| nonsense("the metadata's identity"))?;
    let state = GroupState {
        group: GroupId::METADATA,
        topic_partition: TopicPartition { topic, partition: PartitionId(0) },
        applied: LogIndex(joined.applied),
        term: Term(joined.term),
        conf_state: joined.membership,
        app_state: joined.metadata,
    };
    let membership = Membership::decode(&state.conf_state).ok().flatten();
    if membership.is_none_or(|membership| membership.replica.get() != joined.member_id) {
        return Err(nonsense("the node's place in the metadata's membership"));
    }
    Ok(Knocked::Joined(Decision { joined: Some(ReplicaId(joined.member_id)), ..answered }, state))
}
