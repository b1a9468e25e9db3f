//! An operator who lets groups go on that have lost a majority of their replicas for good: what `levada cluster recover` and
//! `levada partition recover --all` do, with all faults going on.
//!
//! It asks all nodes that have something left, decides as the controller does ([`plan`]), and asks for that. The metadata first: without
//! a controller nobody can be told. It does not ask whether it was done; the world shows it no more then.

use std::collections::BTreeMap;

use levada_broker::{
    cluster::{
        metadata::Replica,
        recovery::{Found, Subject, plan},
    },
    node::event::{Answer, Request},
};
use levada_protocol::ids::{GroupId, NodeId, ReplicaId};

use super::{Call, CallId, Client, Context, Input, PATIENCE_US, Response};

const PACE_US: std::ops::RangeInclusive<u64> = 20_000..=200_000;
/// How long it waits for a group to go on before it looks at one again, on average. Two of them may be the same.
const REST_US: u64 = 1_000_000;

/// A raft group that has lost a majority of its replicas for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bereft {
    /// The group.
    pub group: GroupId,
    /// Of a topic of this name, if it is not the metadata's.
    pub topic: String,
    /// Members that nobody will see again, and where they were.
    pub gone: BTreeMap<ReplicaId, NodeId>,
    /// The others.
    pub left: BTreeMap<ReplicaId, NodeId>,
}

#[derive(Debug)]
enum Stage {
    /// It wants to know which replicas the partition is to have.
    Topic(CallId),
    /// It wants to know what is left.
    Reports { calls: BTreeMap<CallId, Replica>, found: Vec<Found>, targets_given: u64 },
    /// It has decided.
    Asked(CallId),
}

/// The operator.
#[derive(Debug)]
pub struct Recoverer {
    aim: NodeId,
    at_work: Option<(Bereft, Stage, u64)>,
    rests_until_us: u64,
}

impl Default for Recoverer {
    fn default() -> Self {
        Self { aim: NodeId(1), at_work: None, rests_until_us: 0 }
    }
}

impl Recoverer {
    fn wake(&mut self, ctx: &mut Context<'_>) {
        ctx.wake_after_us = Some(ctx.dice.between(PACE_US));
        if self.at_work.as_ref().is_some_and(|(.., since_us)| since_us + PATIENCE_US > ctx.now_us) {
            return;
        }
        if self.at_work.take().is_some() {
            self.aim = ctx.any_node();
        }
        if self.rests_until_us > ctx.now_us {
            return;
        }
        let groups: Vec<GroupId> = ctx.sight.bereft.iter().map(|bereft| bereft.group).collect();
        let any = ctx.dice.pick(&groups);
        let first = if groups.contains(&GroupId::METADATA) { Some(GroupId::METADATA) } else { any };
        let Some(bereft) = ctx.sight.bereft.iter().find(|bereft| Some(bereft.group) == first).cloned() else { return };
        let stage = if bereft.group == GroupId::METADATA {
            Self::look(&bereft, 0, ctx)
        } else {
            Stage::Topic(ctx.call(self.aim, Call::Topic { name: bereft.topic.clone() }))
        };
        self.at_work = Some((bereft, stage, ctx.now_us));
    }

    /// Who is gone does not answer.
    fn look(bereft: &Bereft, targets_given: u64, ctx: &mut Context<'_>) -> Stage {
        let replica = |(id, node): (&ReplicaId, &NodeId)| Replica { id: *id, node: *node };
        let found = bereft.gone.iter().map(|gone| Found { replica: replica(gone), report: None }).collect();
        let group = bereft.group;
        let ask =
            |left| (ctx.call(replica(left).node, Call::Request(Request::DescribeReplica { group })), replica(left));
        Stage::Reports { calls: bereft.left.iter().map(ask).collect(), found, targets_given }
    }

    /// All have answered.
    fn decide(&mut self, bereft: &Bereft, found: &[Found], targets_given: u64, ctx: &mut Context<'_>) -> Option<Stage> {
        let group = bereft.group;
        let is_metadata = group == GroupId::METADATA;
        // Somebody leads, or will: the next look shows it.
        let plan = plan(if is_metadata { Subject::Metadata } else { Subject::Partition }, found).ok()?;
        let call = if is_metadata {
            ctx.call(plan.survivor.node, Call::Request(Request::RecoverMetadata))
        } else {
            let (survivor, forgiven_to) = (plan.survivor.id, plan.forgiven_to);
            let recover = Request::RecoverPartition { group, survivor, targets_given, forgiven_to };
            ctx.call(self.aim, Call::Request(recover))
        };
        Some(Stage::Asked(call))
    }

    fn hear(&mut self, call: CallId, result: Result<Response, levada_protocol::error::Error>, ctx: &mut Context<'_>) {
        let Some((bereft, stage, since_us)) = self.at_work.take() else { return };
        let next = match (stage, result) {
            (Stage::Topic(asked), Ok(Response::Topic(topic))) if asked == call => {
                let mut partitions = topic.iter().flat_map(|topic| &topic.partitions);
                let partition = partitions.find(|partition| partition.group == bereft.group);
                partition.map(|partition| Self::look(&bereft, partition.targets_given, ctx))
            }
            (Stage::Reports { mut calls, mut found, targets_given }, result) if calls.contains_key(&call) => {
                match (calls.remove(&call), result) {
                    (Some(replica), Ok(Response::Answer(Answer::Replica(report)))) => {
                        found.push(Found { replica, report: Some(*report) });
                        if calls.is_empty() {
                            self.decide(&bereft, &found, targets_given, ctx)
                        } else {
                            Some(Stage::Reports { calls, found, targets_given })
                        }
                    }
                    // It is starting, say. Who decides without it may decide wrongly.
                    _ => None,
                }
            }
            (Stage::Asked(asked), result) if asked == call => {
                self.rests_until_us = ctx.now_us + ctx.dice.around(REST_US);
                if let Err(error) = result {
                    self.aim = ctx.redirected(&error);
                }
                None
            }
            (Stage::Topic(asked), Err(error)) if asked == call => {
                self.aim = ctx.redirected(&error);
                None
            }
            (stage, _) => Some(stage),
        };
        self.at_work = next.map(|stage| (bereft, stage, since_us));
    }
}

impl Client for Recoverer {
    fn rests(&self) -> bool {
        false
    }

    fn step(&mut self, input: Input, ctx: &mut Context<'_>) {
        match input {
            Input::Wake => self.wake(ctx),
            Input::Response { call, result, .. } => self.hear(call, result, ctx),
        }
    }

    fn unfinished(&self) -> Option<String> {
        self.at_work.as_ref().map(|(bereft, stage, _)| format!("the operator lets {bereft:?} go on: {stage:?}"))
    }
}
