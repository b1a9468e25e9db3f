//! Asking the other seeds, and deciding.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::{ClusterId, NodeId},
    messages::peer::{FoundClusterRequest, FoundClusterResponse, SeedStateRequest, SeedStateResponse},
};
use levada_storage_engine::store::GroupState;
use tokio::time::{sleep, timeout};

use super::{
    BootstrapError, Identity,
    desk::SeedDesk,
    joining::{self, Applicant, Knocked},
    record::{Decision, Record, members_to_wire},
};
use crate::{
    cluster::addresses::Member,
    net::dial::{self, ANSWER_WAIT, Caller, lost},
};

/// Between two rounds of asking, or of telling.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two rounds of telling, in the long run.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What follows from what the seeds say.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Not all is known, or it is another node's turn; the words say which.
    Wait(String),
    /// All are empty, and this node is the lowest.
    Found(BTreeMap<NodeId, Member>),
    /// One of them belongs to a cluster that counts this node as a founder.
    Belong(Decision),
    /// One of them belongs to a cluster that this node is not of, or not with this directory.
    Knock(Decision),
}

/// Judges what the other seeds have said; `None` for those that have not.
fn judge(
    own: &Record,
    seeds: &BTreeMap<NodeId, String>,
    said: &BTreeMap<NodeId, Option<Record>>,
) -> std::result::Result<Verdict, BootstrapError> {
    let mut decisions = said.values().flatten().filter_map(|record| record.decision.as_ref());
    if let Some(decision) = decisions.next() {
        if let Some(other) = decisions.find(|other| other.cluster != decision.cluster) {
            return Err(BootstrapError::TwoClusters { one: decision.cluster, other: other.cluster });
        }
        let founder = decision.members.get(&own.node).is_some_and(|member| member.incarnation == own.incarnation);
        let decision = Decision { joined: None, ..decision.clone() };
        return Ok(if founder { Verdict::Belong(decision) } else { Verdict::Knock(decision) });
    }
    if !seeds.contains_key(&own.node) {
        // It founds nothing.
        return Ok(Verdict::Wait("no seed node that answers belongs to a cluster that could be joined".to_owned()));
    }
    let silent: Vec<String> = seeds
        .keys()
        .filter(|seed| said.get(*seed).is_none_or(Option::is_none) && **seed != own.node)
        .map(ToString::to_string)
        .collect();
    if !silent.is_empty() {
        return Ok(Verdict::Wait(format!("seed nodes that have not answered: {}", silent.join(", "))));
    }
    if let Some(lowest) = seeds.keys().next().filter(|lowest| **lowest != own.node) {
        return Ok(Verdict::Wait(format!("node {lowest} founds the cluster")));
    }
    let everybody = said.values().flatten().chain([own]);
    let members = everybody.map(|record| {
        let native = seeds.get(&record.node).cloned().unwrap_or_default();
        (record.node, Member { incarnation: record.incarnation, native })
    });
    Ok(Verdict::Found(members.collect()))
}

/// Who a node is, and how a new data directory begins.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) identity: Identity,
    /// The metadata that a node begins with that has just joined.
    pub(crate) begins_with: Option<GroupState>,
}

/// Finds out to which cluster this node belongs, founding it if that is this node's part, or joining it. `seeds` holds the
/// nodes to ask; `progress` is told what is waited for; `is_formatted` says whether the directory has begun.
pub(crate) async fn settle(
    desk: &Arc<SeedDesk>,
    applicant: &Applicant,
    seeds: &BTreeMap<NodeId, String>,
    (fresh, is_formatted): (impl Fn() -> ClusterId, bool),
    progress: impl Fn(&str),
) -> std::result::Result<Settled, BootstrapError> {
    let mut told = String::new();
    let mut wait = async |why: String| {
        progress(&why);
        if told != why {
            tracing::info!(why, "bootstrap.waiting");
            told = why;
        }
        // Who is told meanwhile need not ask again.
        drop(timeout(PAUSE, desk.decided()).await);
    };
    loop {
        if let Some(identity) = desk.identity()
            && (identity.joined.is_none() || is_formatted)
        {
            return Ok(Settled { identity, begins_with: None });
        }
        let own = desk.record();
        let others = seeds.iter().filter(|(node, _)| **node != own.node);
        let asked = others.map(|(&node, address)| ask(node, address, &own));
        let said: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        let decision = match judge(&own, seeds, &said)? {
            Verdict::Found(members) => {
                let cluster = fresh();
                tracing::info!(%cluster, members = members.len(), "cluster.founded");
                Decision { cluster, members, joined: None }
            }
            Verdict::Belong(decision) => decision,
            Verdict::Knock(decision) => match joining::knock(&own, &decision, applicant, seeds).await? {
                Knocked::Joined(decision, state) => {
                    desk.accept(decision).await.map_err(BootstrapError::NotAccepted)?;
                    let identity =
                        desk.identity().ok_or(BootstrapError::NotAccepted(lost("the record", &"it is gone")))?;
                    return Ok(Settled { identity, begins_with: Some(state) });
                }
                Knocked::Wait(why) => {
                    wait(why).await;
                    sleep(PAUSE).await;
                    continue;
                }
            },
            Verdict::Wait(why) => {
                wait(why).await;
                continue;
            }
        };
        match desk.accept(decision).await {
            // Another decision was taken in meanwhile, and came first.
            Err(error) if error.code == ErrorCode::WrongCluster => {}
            accepted => accepted.map_err(BootstrapError::NotAccepted)?,
        }
    }
}

async fn ask(node: NodeId, address: &str, own: &Record) -> (NodeId, Option<Record>) {
    let request =
        SeedStateRequest { node_id: own.node.get(), incarnation: Bytes::copy_from_slice(&own.incarnation.to_bytes()) };
    let answer: Result<SeedStateResponse> = call(node, address, own, Api::SeedState, &request).await;
    let record = match answer {
        Ok(state) => {
            Record::from_wire(state).map_err(|why| tracing::warn!(node = node.get(), why, "seed.nonsense")).ok()
        }
        Err(error) => {
            tracing::debug!(node = node.get(), %error, "seed.silent");
            None
        }
    };
    (node, record)
}

/// Tells the other members of the decision, until each has accepted or refused it.
pub(crate) async fn tell(desk: Arc<SeedDesk>, seeds: BTreeMap<NodeId, String>) {
    let record = desk.record();
    let Some(decision) = record.decision.clone().filter(|decision| decision.joined.is_none()) else { return };
    let request = FoundClusterRequest {
        cluster_id: Bytes::copy_from_slice(&decision.cluster.to_bytes()),
        members: members_to_wire(&decision.members),
    };
    let mut untold: Vec<NodeId> = decision.members.keys().copied().filter(|node| *node != record.node).collect();
    let mut pause = PAUSE;
    while !untold.is_empty() {
        let told = untold.iter().map(|node| {
            let founding = decision.members.get(node).map(|member| member.native.as_str());
            let address = seeds.get(node).map(String::as_str).or(founding).unwrap_or_default();
            let (record, request) = (&record, &request);
            async move {
                let answer: Result<FoundClusterResponse> =
                    call(*node, address, record, Api::FoundCluster, request).await;
                match answer {
                    Ok(_) => None,
                    Err(error) if matches!(error.code, ErrorCode::WrongCluster | ErrorCode::WrongIncarnation) => {
                        tracing::error!(node = node.get(), %error, "bootstrap.refused");
                        None
                    }
                    Err(_) => Some(*node),
                }
            }
        });
        untold = join_all(told).await.into_iter().flatten().collect();
        if !untold.is_empty() {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// One request on a connection of its own.
pub(super) async fn call<M: prost::Message + Default>(
    node: NodeId,
    address: &str,
    own: &Record,
    api: Api,
    request: &impl prost::Message,
) -> Result<M> {
    let caller = Caller {
        cluster: own.decision.as_ref().map(|decision| decision.cluster),
        node: own.node,
        incarnation: own.incarnation,
        joined: own.decision.as_ref().and_then(|decision| decision.joined),
    };
    let exchange = async { dial::dial(address, node, caller).await?.ask(address, api, request).await };
    let late = |_| Err(Error::new(ErrorCode::Timeout, format!("{address} does not answer")));
    timeout(2 * ANSWER_WAIT, exchange).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::IncarnationId;

    use super::*;

    fn record(node: u64, incarnation: u8) -> Record {
        Record { node: NodeId(node), incarnation: IncarnationId::from_bytes([incarnation; 16]), decision: None }
    }

    fn seeds(nodes: &[u64]) -> BTreeMap<NodeId, String> {
        nodes.iter().map(|&node| (NodeId(node), format!("node{node}:1"))).collect()
    }

    fn said(records: &[Record]) -> BTreeMap<NodeId, Option<Record>> {
        records.iter().map(|record| (record.node, Some(record.clone()))).collect()
    }

    fn decision(cluster: u8, members: &[(u64, u8)]) -> Decision {
        let members = members.iter().map(|&(node, incarnation)| {
            let native = format!("node{node}:1");
            (NodeId(node), Member { incarnation: IncarnationId::from_bytes([incarnation; 16]), native })
        });
        Decision { cluster: ClusterId::from_bytes([cluster; 16]), members: members.collect(), joined: None }
    }

    #[test]
    fn the_lowest_founds_when_all_have_answered_and_all_are_empty() {
        let seeds = seeds(&[1, 2, 3]);
        let (one, two, three) = (record(1, 11), record(2, 22), record(3, 33));
        let founds = judge(&one, &seeds, &said(&[two.clone(), three.clone()])).unwrap();
        assert_eq!(founds, Verdict::Found(decision(0, &[(1, 11), (2, 22), (3, 33)]).members));
        let waits = judge(&two, &seeds, &said(&[one.clone(), three.clone()])).unwrap();
        assert_eq!(waits, Verdict::Wait("node 1 founds the cluster".into()));
        let mut silent = said(&[two]);
        silent.insert(NodeId(3), None);
        let waits = judge(&one, &seeds, &silent).unwrap();
        assert_eq!(waits, Verdict::Wait("seed nodes that have not answered: 3".into()), "silence is not emptiness");
    }

    #[test]
    fn one_alone_founds_at_once() {
        let founds = judge(&record(5, 1), &seeds(&[5]), &BTreeMap::new()).unwrap();
        assert_eq!(
            founds,
            Verdict::Found(BTreeMap::from([(
                NodeId(5),
                decision(0, &[(5, 1)]).members[&NodeId(5)].clone().with("node5:1")
            )]))
        );
    }

    impl Member {
        fn with(self, native: &str) -> Self {
            Self { native: native.into(), ..self }
        }
    }

    #[test]
    fn a_cluster_that_is_there_is_joined_or_refused() {
        let seeds = seeds(&[1, 2, 3]);
        let founded = decision(9, &[(1, 11), (2, 22), (3, 33)]);
        let member = |decision: &Decision| Record { decision: Some(decision.clone()), ..record(3, 33) };
        // One member with the decision is enough, whoever else is silent or empty.
        assert_eq!(
            judge(&record(1, 11), &seeds, &said(&[member(&founded)])).unwrap(),
            Verdict::Belong(founded.clone())
        );
        let wiped = judge(&record(1, 99), &seeds, &said(&[record(2, 22), member(&founded)])).unwrap();
        assert_eq!(wiped, Verdict::Knock(founded.clone()));
        let stranger = judge(&record(4, 44), &seeds, &said(&[member(&founded)])).unwrap();
        assert_eq!(stranger, Verdict::Knock(founded.clone()));
        let other = Record { decision: Some(decision(8, &[(2, 22)])), ..record(2, 22) };
        let alone = judge(&record(4, 44), &seeds, &said(&[record(1, 11), record(2, 22), record(3, 33)])).unwrap();
        assert!(matches!(alone, Verdict::Wait(_)), "who is no seed founds nothing: {alone:?}");
        let two = judge(&record(1, 11), &seeds, &said(&[member(&founded), other])).unwrap_err();
        assert!(matches!(two, BootstrapError::TwoClusters { .. }), "{two}");
    }
}
