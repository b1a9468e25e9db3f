//! Requests about partitions, and the metadata, that have no majority of their replicas any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    frame::Api,
    ids::{GroupId, NodeId, PartitionId, ReplicaId},
    messages::native::{
        DescribeReplicaRequest, DescribeReplicaResponse, RecoverMetadataRequest, RecoverMetadataResponse,
        RecoverPartitionRequest, RecoverPartitionResponse, RecoverableReplica,
    },
};

use super::{connection::Session, produce::unexpected, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    cluster::{
        metadata::{Partition, Replica, unknown_topic},
        recovery::{Found, ReplicaReport, Subject, plan},
    },
    node::event::{Answer, Request},
    runtime::{budget::Charge, clock},
};

/// How long a node may take to say what it has. Longer than it takes to notice that one is down: who is not heard is given up.
const REPORT_WAIT: Duration = Duration::from_secs(3);
/// Who does not answer, and was heard of within this, may be starting: it is waited for.
const RESTART_MS: u64 = 10_000;

impl Broker {
    async fn replica_here(&self, group: GroupId) -> Result<ReplicaReport> {
        let deadline = clock::instant() + REPORT_WAIT;
        match self.worker.ask(Request::DescribeReplica { group }, deadline, Charge::default()).await? {
            Answer::Replica(report) => Ok(*report),
            _ => Err(unexpected()),
        }
    }

    /// What a node says of its replica. One that is starting is not gone: what it has is known soon.
    async fn find(&self, group: GroupId, replica: Replica) -> Result<Found> {
        let deadline = clock::instant() + REPORT_WAIT;
        let said = if replica.node == self.node() {
            self.replica_here(group).await
        } else {
            let request = DescribeReplicaRequest { group: group.get() };
            let answer = self.forwarder.call(replica.node, Api::DescribeReplica, request, Bytes::new(), deadline).await;
            let answer = answer.map(|answer: DescribeReplicaResponse| answer.report.unwrap_or_default());
            answer.map(ReplicaReport::from_wire).map_err(Error::from)
        };
        match said {
            Err(error) if error.code == ErrorCode::NotReady => {
                let why = format!(
                    "node {} is starting, and may have more than others: wait until it has started, or stop it ({})",
                    replica.node, error.message
                );
                Err(Error::new(ErrorCode::NotReady, why))
            }
            Err(error) => match starts_within_ms(self.view.heard_ms(replica.node), self.clock.mono_ms()) {
                Some(left_ms) if replica.node != self.node() => {
                    let why = format!(
                        "node {} does not answer, and may be starting ({}): it is waited for. If it is down for good, say the same \
                         again in {} s",
                        replica.node,
                        error.message,
                        left_ms.div_ceil(1_000)
                    );
                    Err(Error::new(ErrorCode::NotReady, why))
                }
                _ => Ok(Found { replica, report: None }),
            },
            Ok(report) => Ok(Found { replica, report: Some(report) }),
        }
    }

    /// What their nodes say of all replicas of a group.
    async fn find_all(&self, group: GroupId, replicas: BTreeMap<ReplicaId, NodeId>) -> Result<Vec<Found>> {
        let replicas = replicas.into_iter().map(|(id, node)| Replica { id, node });
        let found = join_all(replicas.map(|replica| self.find(group, replica))).await;
        let leads = |found: &Found| found.report.as_ref().is_some_and(|report| report.leads);
        if found.iter().flatten().any(leads) {
            // Whatever the others have: there is nothing to wait for.
            return Ok(found.into_iter().flatten().collect());
        }
        found.into_iter().collect()
    }

    async fn recover_partition(
        &self,
        ctx: &RequestContext,
        request: RecoverPartitionRequest,
    ) -> Result<RecoverPartitionResponse> {
        self.authorize(ctx, Action::Alter, Resource::Cluster)?;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        // The controller's metadata is what is decided about: elsewhere this says who it is.
        self.worker.ask(Request::MetadataBarrier, deadline, Charge::default()).await?;
        let partition = self.partition_named(&request.topic, PartitionId(request.partition))?;
        let group = partition.group;
        let found = self.find_all(group, partition.everybody()).await?;
        let plan = plan(Subject::Partition, &found)?;
        if request.accept_data_loss {
            let survivor = plan.survivor.id;
            tracing::warn!(?plan, topic = request.topic, partition = request.partition, "partition.recover");
            let targets_given = partition.targets_given;
            let forgiven_to = plan.forgiven_to;
            let recover = Request::RecoverPartition { group, survivor, targets_given, forgiven_to };
            self.worker.ask(recover, deadline, Charge::default()).await?;
        }
        Ok(RecoverPartitionResponse {
            replicas: found.iter().map(to_wire).collect(),
            survivor: plan.survivor.id.get(),
            survivor_node: plan.survivor.node.get(),
            log_start_offset: plan.log_start.get(),
            end_offset: plan.end.get(),
            known_end_offset: plan.known_end.get(),
            recovered: request.accept_data_loss,
            in_doubt: plan.forgiven_to.is_some(),
        })
    }

    /// As nobody leads the metadata, any node decides by what all say.
    async fn recover_metadata(
        &self,
        ctx: &RequestContext,
        request: RecoverMetadataRequest,
    ) -> Result<RecoverMetadataResponse> {
        self.authorize(ctx, Action::Alter, Resource::Cluster)?;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        let members = self.metadata().members(self.identity.members.keys().copied());
        let found = self.find_all(GroupId::METADATA, members).await?;
        let plan = plan(Subject::Metadata, &found)?;
        let node = plan.survivor.node;
        if request.accept_data_loss {
            tracing::warn!(?plan, "metadata.recover");
            if node == self.node() {
                self.worker.ask(Request::RecoverMetadata, deadline, Charge::default()).await?;
            } else if request.forwarded {
                let why = format!("node {node} has more of the metadata than node {}; try again", self.node());
                return Err(Error::new(ErrorCode::NotReady, why));
            } else {
                let request = RecoverMetadataRequest { forwarded: true, ..request };
                let call = self.forwarder.call(node, Api::RecoverMetadata, request, Bytes::new(), deadline);
                return call.await.map_err(Error::from);
            }
        }
        let survivor = found.iter().find(|found| found.replica == plan.survivor);
        let (last_term, last_index) =
            survivor.and_then(|found| found.report.as_ref()).map(|report| report.last).unwrap_or_default();
        Ok(RecoverMetadataResponse {
            replicas: found.iter().map(to_wire).collect(),
            survivor: plan.survivor.id.get(),
            survivor_node: node.get(),
            last_term: last_term.get(),
            last_index: last_index.get(),
            recovered: request.accept_data_loss,
        })
    }

    fn partition_named(&self, topic: &str, number: PartitionId) -> Result<Partition> {
        let metadata = self.metadata();
        let known = metadata.topic(topic).ok_or_else(|| unknown_topic(topic))?;
        known.partition(number).cloned().ok_or_else(|| {
            let why =
                format!("topic {topic:?} has {} partitions, and none with number {number}", known.partitions.len());
            Error::new(ErrorCode::UnknownPartition, why)
        })
    }
}

/// How long a node that does not answer may still take to start; `None` if that should be over. Who has just started itself cannot
/// know whom it would have heard of.
fn starts_within_ms(heard_ms: Option<u64>, now_ms: u64) -> Option<u64> {
    let by_ms = heard_ms.unwrap_or(0) + RESTART_MS;
    by_ms.checked_sub(now_ms).filter(|left_ms| *left_ms > 0)
}

fn to_wire(found: &Found) -> RecoverableReplica {
    RecoverableReplica {
        replica_id: found.replica.id.get(),
        node_id: found.replica.node.get(),
        report: found.report.as_ref().map(ReplicaReport::to_wire),
    }
}

/// What this node has of a partition.
pub(crate) async fn describe_replica(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: DescribeReplicaRequest,
    responder: Responder,
) {
    let describe = async {
        broker.authorize(&session.context(), Action::Describe, Resource::Cluster)?;
        broker.replica_here(GroupId(request.group)).await
    };
    responder.answer(describe.await.map(|report| DescribeReplicaResponse { report: Some(report.to_wire()) }));
}

/// A partition goes on with what one replica has.
pub(crate) async fn recover_partition(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: RecoverPartitionRequest,
    responder: Responder,
) {
    responder.answer(broker.recover_partition(&session.context(), request).await);
}

/// The metadata goes on with what one node has.
pub(crate) async fn recover_metadata(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: RecoverMetadataRequest,
    responder: Responder,
) {
    responder.answer(broker.recover_metadata(&session.context(), request).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_of_lately_may_be_starting() {
        assert_eq!(starts_within_ms(Some(60_000), 60_500), Some(9_500));
        assert_eq!(starts_within_ms(Some(60_000), 70_000), None);
        assert_eq!(starts_within_ms(None, 70_000), None);
        assert_eq!(starts_within_ms(None, 1_000), Some(9_000), "nobody can have been heard of for longer");
    }
}
