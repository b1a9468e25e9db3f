//! An operator who adds nodes, drains them, replaces those whose disk is lost, and changes how many replicas there are.
//!
//! One thing after the other, and the next when the world has come to rest: a second disk must not be lost before what was
//! on the first is on another one again. Or else a majority of the disks is lost at one moment in which what is left has everything
//! that anybody was told; then somebody else sees to it that the cluster goes on (`recoverer.rs`).

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use levada_broker::{
    cluster::metadata::Node,
    node::event::{Answer, Request},
};
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode, NodeAddresses},
    ids::{IncarnationId, NodeId},
};
use levada_storage_engine::store::GroupState;

use super::{Call, CallId, Client, Context, Input, PATIENCE_US, Response, recoverer::Bereft};
use crate::checker::Kind;

const PACE_US: std::ops::RangeInclusive<u64> = 20_000..=100_000;
/// How long it rests between two things, on average.
const REST_US: u64 = 1_000_000;
/// Fewer nodes than this are not left.
const NODES_MIN: usize = 3;

/// The cluster as somebody sees it who sees everything.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Nothing moves, nobody is missing.
    pub is_calm: bool,
    /// Nodes that were decommissioned.
    pub removed: BTreeSet<NodeId>,
    /// Groups that have lost a majority of their replicas for good, and have not gone on without them.
    pub bereft: Vec<Bereft>,
}

/// Something that the world does to machines.
#[derive(Clone)]
pub enum Wish {
    /// The machine is lost with its disk.
    Wipe(NodeId),
    /// All of these are, at once; not before what others have is worth something without them.
    WipeAll(BTreeSet<NodeId>),
    /// A machine with an empty disk starts, as a node that has joined.
    Begin {
        /// The node.
        node: NodeId,
        /// Its data directory.
        incarnation: IncarnationId,
        /// The metadata that it begins with.
        state: Box<GroupState>,
    },
    /// A machine whose process could not start, as its replica of the metadata is lost, has got another.
    Renew {
        /// The node.
        node: NodeId,
        /// The metadata that it begins with.
        state: Box<GroupState>,
    },
    /// The machine is switched off for good.
    Gone(NodeId),
    /// The world has changed: whether it is calm shows only when somebody looks again.
    LookAgain,
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wipe(node) => write!(f, "n{node} is lost with its disk"),
            Self::WipeAll(nodes) => write!(f, "{nodes:?} are to be lost with their disks"),
            Self::Begin { node, .. } => write!(f, "n{node} begins"),
            Self::Renew { node, .. } => write!(f, "n{node} has another replica of the metadata"),
            Self::Gone(node) => write!(f, "n{node} is switched off"),
            Self::LookAgain => write!(f, "has changed"),
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug)]
enum Step {
    Rest { until_us: u64 },
    Wipe(NodeId),
    WipeAll(BTreeSet<NodeId>),
    Admit { node: NodeId, replace: bool },
    Join(NodeId, IncarnationId),
    Drain(NodeId),
    AwaitRemoved(NodeId),
    SetReplicas(u32),
    AwaitCalm,
}

/// The operator.
#[derive(Debug)]
pub struct Mover {
    topic: String,
    aim: NodeId,
    steps: VecDeque<Step>,
    asked: Option<(CallId, u64)>,
    /// Numbers of nodes that have never been, or are free again.
    spares: Vec<NodeId>,
    replicas: u32,
    /// Majorities are lost, too.
    losses: bool,
    incarnations: u64,
    begun: u64,
}

impl Mover {
    /// One who has machines for so many nodes more.
    #[must_use]
    pub fn new(topic: &str, spares: Vec<NodeId>, replicas: u32, losses: bool) -> Self {
        let steps = VecDeque::from([Step::AwaitCalm]);
        let (asked, incarnations, begun) = (None, 0, 0);
        Self { topic: topic.to_owned(), aim: NodeId(1), steps, asked, spares, replicas, losses, incarnations, begun }
    }

    fn fresh(&mut self) -> IncarnationId {
        self.incarnations += 1;
        IncarnationId(uuid::Uuid::from_u64_pair(self.incarnations, u64::MAX))
    }

    fn plan(&mut self, ctx: &mut Context<'_>) {
        self.begun += 1;
        self.steps.push_back(Step::Rest { until_us: ctx.now_us + ctx.dice.around(REST_US) });
        if self.losses && ctx.dice.chance(70) {
            self.plan_loss(ctx);
            return self.steps.push_back(Step::AwaitCalm);
        }
        match ctx.dice.between(0..=3) {
            0 if !self.spares.is_empty() => {
                let node = self.spares.remove(0);
                let incarnation = self.fresh();
                self.steps.push_back(Step::Admit { node, replace: false });
                self.steps.push_back(Step::Join(node, incarnation));
            }
            1 if ctx.nodes.len() > NODES_MIN => {
                let node = ctx.any_node();
                self.steps.extend([Step::Drain(node), Step::AwaitRemoved(node)]);
            }
            2 if self.replicas == 3 => {
                let node = ctx.any_node();
                let incarnation = self.fresh();
                self.steps.extend([Step::Wipe(node), Step::Admit { node, replace: true }]);
                self.steps.push_back(Step::Join(node, incarnation));
            }
            _ => {
                self.replicas =
                    if self.replicas == 3 { u32::try_from(ctx.dice.between(1..=2)).unwrap_or(1) } else { 3 };
                self.steps.push_back(Step::SetReplicas(self.replicas));
            }
        }
        self.steps.push_back(Step::AwaitCalm);
    }

    /// All nodes but one, or some more. Others take their places.
    fn plan_loss(&mut self, ctx: &mut Context<'_>) {
        let left = ctx.dice.between(1..=ctx.nodes.len().div_ceil(2) as u64);
        let mut gone: BTreeSet<NodeId> = ctx.nodes.iter().copied().collect();
        for _ in 0..left {
            gone.remove(&ctx.any_node());
        }
        self.steps.push_back(Step::WipeAll(gone.clone()));
        for node in gone {
            let incarnation = self.fresh();
            self.steps.extend([Step::Admit { node, replace: true }, Step::Join(node, incarnation)]);
        }
    }

    fn wake(&mut self, ctx: &mut Context<'_>) {
        ctx.wake_after_us = Some(ctx.dice.between(PACE_US));
        if self.asked.is_some_and(|(_, at_us)| at_us + PATIENCE_US > ctx.now_us) {
            return;
        }
        if self.asked.take().is_some() {
            self.aim = ctx.any_node();
        }
        if ctx.settling && matches!(self.steps.front(), Some(Step::Rest { .. })) {
            self.steps.clear();
        }
        if self.steps.is_empty() && !ctx.settling {
            self.plan(ctx);
        }
        let Some(step) = self.steps.front().cloned() else { return };
        let request = match step {
            Step::Rest { until_us } if until_us > ctx.now_us => return,
            Step::AwaitCalm if !ctx.sight.is_calm => return,
            Step::AwaitRemoved(node) if !ctx.sight.removed.contains(&node) => return,
            Step::Rest { .. } | Step::AwaitCalm => {
                self.steps.pop_front();
                return;
            }
            Step::AwaitRemoved(node) => {
                self.steps.pop_front();
                self.spares.push(node);
                return ctx.wishes.push(Wish::Gone(node));
            }
            Step::Wipe(node) => {
                self.steps.pop_front();
                return ctx.wishes.push(Wish::Wipe(node));
            }
            Step::WipeAll(nodes) if nodes.iter().all(|node| ctx.nodes.contains(node)) => {
                if ctx.settling {
                    return self.steps.clear();
                }
                return ctx.wishes.push(Wish::WipeAll(nodes));
            }
            Step::WipeAll(_) => {
                self.steps.pop_front();
                return;
            }
            Step::Admit { node, replace } => Request::AdmitNode { node, replace, dry_run: false },
            Step::Join(node, incarnation) => {
                let at = |port| format!("node-{node}:{port}");
                let addresses = NodeAddresses { node, native: at(1), flight: at(2), http: at(3) };
                Request::JoinNode { node: Box::new(Node::new(addresses, incarnation, String::new())) }
            }
            Step::Drain(node) => Request::DrainNode { node, drain: true, dry_run: false },
            Step::SetReplicas(replicas) => Request::SetReplicas { name: self.topic.clone(), replicas },
        };
        self.asked = Some((ctx.call(self.aim, Call::Request(request)), ctx.now_us));
    }

    fn done(&mut self, answer: Answer, ctx: &mut Context<'_>) {
        ctx.wishes.push(Wish::LookAgain);
        if let (Some(Step::Join(node, incarnation)), Answer::Joined(state)) = (self.steps.pop_front(), answer) {
            ctx.wishes.push(Wish::Begin { node, incarnation, state });
        }
    }

    fn failed(&mut self, error: &Error, ctx: &mut Context<'_>) {
        let step = self.steps.front();
        match (step, error.code) {
            // Its answer was lost, and all is over already.
            (Some(Step::Drain(node)), ErrorCode::NodeRemoved) if ctx.sight.removed.contains(node) => {
                self.steps.pop_front();
                return;
            }
            // Nodes that are down are given nothing; they come back.
            (_, ErrorCode::FeatureLevel | ErrorCode::NotEnoughNodes) => {}
            _ if error.class() == ErrorClass::FixRequest => {
                ctx.checker.report(Kind::Refused, format!("the operator wanted {step:?} and got {error}"));
            }
            _ => {}
        }
        self.aim = ctx.redirected(error);
    }
}

impl Client for Mover {
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
                    Ok(Response::Answer(answer)) => self.done(answer, ctx),
                    Ok(other) => ctx.checker.report(Kind::Refused, format!("the operator got {other}")),
                    Err(error) => self.failed(&error, ctx),
                }
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        let step = self.steps.front().filter(|step| !matches!(step, Step::Rest { .. }))?;
        Some(format!("the mover waits for {step:?}"))
    }

    fn begun(&self) -> u64 {
        self.begun
    }
}
