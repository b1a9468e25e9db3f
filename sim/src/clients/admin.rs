//! An operator: founds the cluster, then makes, changes and deletes topics and moves leadership about.
//!
//! Everything goes one step after the other. A step is asked for until it is done, whatever happens in between; and
//! after each change the metadata is looked at: it must show it.

use std::collections::{BTreeMap, VecDeque};

use levada_broker::{
    cluster::metadata::Node,
    node::event::{Answer, Request},
};
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode, NodeAddresses},
    ids::{GroupId, IncarnationId, NodeId, ProducerId, TopicId, TopicPartition},
    source::NewTopic,
};

use uuid::Uuid;

use super::{Call, CallId, Client, Context, Input, Response};
use crate::{
    batches::{self, Value},
    checker::Kind,
};

const PACE_US: std::ops::RangeInclusive<u64> = 20_000..=100_000;
/// How long it rests between two topics, on average.
const REST_US: u64 = 4_000_000;

/// One thing to do.
#[derive(Clone, Debug)]
enum Step {
    Register(NodeAddresses, IncarnationId),
    Create(NewTopic),
    Alter {
        name: String,
    },
    Delete {
        name: String,
    },
    /// The metadata must show the topic, or must not.
    Look {
        name: String,
        there: bool,
    },
    /// Some batches into a topic's first partition, whatever becomes of them.
    Scribble {
        name: String,
    },
    Rest {
        until_us: u64,
    },
}

impl Step {
    /// Whether an error says that an earlier try was successful.
    fn was_done(&self, error: &Error) -> bool {
        matches!(
            (self, error.code),
            (Self::Create(_), ErrorCode::TopicExists) | (Self::Delete { .. }, ErrorCode::UnknownTopic)
        )
    }
}

/// The operator.
#[derive(Debug)]
pub struct Admin {
    aim: NodeId,
    steps: VecDeque<Step>,
    asked: Option<(CallId, u64)>,
    topics_made: u32,
    groups_max: u64,
    patience_us: u64,
}

impl Admin {
    /// One that registers the nodes and makes a topic.
    #[must_use]
    pub fn founding(nodes: &[(NodeId, IncarnationId)], topic: NewTopic, patience_us: u64) -> Self {
        let mut steps: VecDeque<Step> = nodes
            .iter()
            .map(|&(node, incarnation)| {
                let at = |port| format!("node-{node}:{port}");
                Step::Register(NodeAddresses { node, native: at(1), flight: at(2), http: at(3) }, incarnation)
            })
            .collect();
        let groups_max = u64::from(topic.partitions);
        steps.push_back(Step::Look { name: topic.name.clone(), there: false });
        steps.push_back(Step::Create(topic));
        Self { aim: NodeId(1), steps, asked: None, topics_made: 0, groups_max, patience_us }
    }

    fn plan(&mut self, ctx: &mut Context<'_>) {
        self.topics_made += 1;
        self.groups_max += 1;
        let name = format!("extra-{}", self.topics_made);
        let topic = |name| NewTopic { name, partitions: 1, replicas: 0, config: BTreeMap::new(), schema_json: None };
        self.steps.push_back(Step::Rest { until_us: ctx.now_us + ctx.dice.around(REST_US) });
        self.steps.push_back(Step::Create(topic(name.clone())));
        // More than once: each time somebody else may be asked.
        self.steps.extend((0..3).map(|_| Step::Look { name: name.clone(), there: true }));
        if ctx.dice.chance(70) {
            self.steps.push_back(Step::Scribble { name: name.clone() });
        }
        if ctx.dice.chance(30) {
            self.steps.push_back(Step::Alter { name: name.clone() });
        }
        if ctx.dice.chance(70) {
            self.steps.push_back(Step::Delete { name: name.clone() });
            self.steps.push_back(Step::Look { name, there: false });
        }
    }

    fn wake(&mut self, ctx: &mut Context<'_>) {
        ctx.wake_after_us = Some(ctx.dice.between(PACE_US));
        if self.asked.is_some_and(|(_, at_us)| at_us + self.patience_us > ctx.now_us) {
            return;
        }
        if self.asked.take().is_some() {
            self.aim = ctx.any_node();
        }
        if self.steps.is_empty() && !ctx.settling {
            self.plan(ctx);
        }
        if !ctx.settling && ctx.dice.chance_ppm(10_000) {
            let group = GroupId(ctx.dice.between(0..=self.groups_max));
            let to = ctx.any_node();
            let anywhere = ctx.any_node();
            ctx.call(anywhere, Call::Request(Request::TransferLeader { group, to }));
        }
        if ctx.settling && matches!(self.steps.front(), Some(Step::Rest { .. })) {
            self.steps.clear();
        }
        let Some(step) = self.steps.front().cloned() else { return };
        let call = match step {
            Step::Rest { until_us } if until_us > ctx.now_us => return,
            // What is begun without a majority may be there for ever, and have nothing left of it.
            Step::Rest { .. } if !ctx.sight.bereft.is_empty() => return,
            Step::Rest { .. } => {
                self.steps.pop_front();
                return;
            }
            Step::Register(addresses, incarnation) => {
                let node = Node::new(addresses, incarnation, String::new());
                Call::Request(Request::RegisterNode { node: Box::new(node) })
            }
            Step::Create(new) => {
                let id = Some(id_of(&new.name));
                Call::Request(Request::CreateTopic { new, dry_run: false, id })
            }
            Step::Alter { name } => {
                let set = BTreeMap::from([("retention.bytes".to_owned(), "5000000".to_owned())]);
                Call::Request(Request::AlterTopic { name, set, unset: Vec::new(), request: Some(Uuid::from_u128(1)) })
            }
            Step::Delete { name } => {
                let id = Some(id_of(&name));
                Call::Request(Request::DeleteTopic { name, id })
            }
            Step::Look { name, .. } | Step::Scribble { name } => Call::Topic { name },
        };
        // An old controller may believe that it still is one: it must find out before it says anything.
        let asks_anybody = matches!(call, Call::Topic { .. }) && ctx.dice.chance(50);
        let to = if asks_anybody { ctx.any_node() } else { self.aim };
        self.asked = Some((ctx.call(to, call), ctx.now_us));
    }

    fn done(&mut self, response: &Response, ctx: &mut Context<'_>) {
        match (self.steps.pop_front(), response) {
            (Some(Step::Look { name, there }), Response::Topic(topic)) if topic.is_some() != there => {
                let (expected, found) = if there { ("made", "is not there") } else { ("gone or not made", "is there") };
                ctx.checker
                    .report(Kind::Stale, format!("topic {name} was {expected}, but the metadata says it {found}"));
            }
            (Some(Step::Scribble { .. }), Response::Topic(Some(topic))) => {
                let Some(first) = topic.partitions.first() else { return };
                let partition = TopicPartition { topic: topic.id, partition: first.partition };
                for number in 0..5 {
                    let batch = batches::encode(ProducerId(-1), Value { stream: 0, number }, 1, 10_000, 0);
                    let to = ctx.any_node();
                    ctx.call(to, Call::Request(Request::Produce { partition, batch }));
                }
            }
            _ => {}
        }
    }

    fn failed(&mut self, error: &Error, ctx: &mut Context<'_>) {
        if self.steps.front().is_some_and(|step| step.was_done(error)) {
            self.steps.pop_front();
            return;
        }
        if error.class() == ErrorClass::FixRequest {
            let step = self.steps.front();
            ctx.checker.report(Kind::Refused, format!("the operator wanted {step:?} and got {error}"));
        }
        self.aim = ctx.redirected(error);
    }
}

impl Client for Admin {
    fn rests(&self) -> bool {
        false
    }

    fn step(&mut self, input: Input, ctx: &mut Context<'_>) {
        match input {
            Input::Wake => self.wake(ctx),
            Input::Response { call, result, .. } => {
                if self.asked.take_if(|(asked, _)| *asked == call).is_none() {
                    return;
                }
                match result {
                    Ok(response @ (Response::Answer(Answer::Done | Answer::Topic(_)) | Response::Topic(_))) => {
                        self.done(&response, ctx);
                    }
                    Ok(other) => ctx.checker.report(Kind::Refused, format!("the operator got {other}")),
                    Err(error) => self.failed(&error, ctx),
                }
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        let step = self.steps.front().filter(|step| !matches!(step, Step::Rest { .. }))?;
        Some(format!("the operator waits for {step:?}"))
    }
}

/// The id that the one request has given a topic which has made one of that name.
fn id_of(name: &str) -> TopicId {
    TopicId::of_request(Uuid::nil(), name)
}
