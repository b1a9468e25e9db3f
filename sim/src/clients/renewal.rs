//! A node that waits for another replica of the metadata, as its own is lost: what the server does before the core starts.

use levada_broker::node::{
    Need,
    event::{Answer, Request},
};
use levada_protocol::{
    error::{ErrorClass, ErrorCode},
    ids::{IncarnationId, NodeId, ReplicaId},
};

use super::{Call, CallId, Client, Context, Input, PATIENCE_US, Response, mover::Wish};
use crate::checker::Kind;

const PACE_US: std::ops::RangeInclusive<u64> = 50_000..=150_000;

/// It asks until it has one.
#[derive(Debug)]
pub struct Renewal {
    node: NodeId,
    incarnation: IncarnationId,
    lost: ReplicaId,
    /// Where its log is sound, a later state of it will do, which any node may have.
    need: Need,
    aim: NodeId,
    asked: Option<(CallId, u64)>,
    is_done: bool,
}

impl Renewal {
    /// Of this node.
    #[must_use]
    pub const fn new(node: NodeId, incarnation: IncarnationId, lost: ReplicaId, need: Need) -> Self {
        Self { node, incarnation, lost, need, aim: node, asked: None, is_done: false }
    }
}

impl Client for Renewal {
    fn rests(&self) -> bool {
        false
    }

    fn step(&mut self, input: Input, ctx: &mut Context<'_>) {
        if self.is_done {
            return;
        }
        match input {
            Input::Wake => {
                ctx.wake_after_us = Some(ctx.dice.between(PACE_US));
                if self.asked.is_some_and(|(_, at_us)| at_us + PATIENCE_US > ctx.now_us) {
                    return;
                }
                if self.asked.take().is_some() || self.aim == self.node {
                    self.aim = ctx.any_node();
                }
                let Self { node, incarnation, lost, .. } = *self;
                let need = self.need;
                let renew = if need.sound_to.is_some() && ctx.dice.chance(50) {
                    Request::CatchUpMember { node, incarnation, replica: lost, need }
                } else {
                    Request::RenewMember { node, incarnation, lost }
                };
                self.asked = Some((ctx.call(self.aim, Call::Request(renew)), ctx.now_us));
            }
            Input::Response { call, result, .. } => {
                if self.asked.take_if(|(asked, _)| *asked == call).is_none() {
                    return;
                }
                match result {
                    // Of another history, or too old.
                    Ok(Response::Answer(Answer::Joined(state))) if !self.need.is_met_by(&state) => {
                        self.aim = ctx.any_node();
                    }
                    Ok(Response::Answer(Answer::Joined(state))) => {
                        self.is_done = true;
                        ctx.wishes.push(Wish::Renew { node: self.node, state });
                    }
                    Ok(other) => ctx.checker.report(Kind::Refused, format!("a node that lost metadata got {other}")),
                    // The machine is about to go, or has been given to another node.
                    Err(error) if matches!(error.code, ErrorCode::NodeRemoved | ErrorCode::WrongIncarnation) => {
                        self.is_done = true;
                    }
                    Err(error) => {
                        // It rises a moment after the cluster has come into being; nodes wait for it.
                        let is_refused =
                            error.class() == ErrorClass::FixRequest && error.code != ErrorCode::FeatureLevel;
                        if is_refused {
                            let what =
                                format!("node {} wanted another replica of the metadata and got {error}", self.node);
                            ctx.checker.report(Kind::Refused, what);
                        }
                        self.aim = ctx.redirected(&error);
                    }
                }
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        (!self.is_done).then(|| format!("node {} waits for another replica of the metadata", self.node))
    }
}
