//! A client that asks leaders how far their logs reach: the answer must never be older than the question.

use levada_broker::node::event::{Answer, Request};
use levada_protocol::ids::{NodeId, TopicPartition};

use super::{Call, CallId, Client, Context, Input, PATIENCE_US, Response};
use crate::checker::Begun;

const PACE_US: std::ops::RangeInclusive<u64> = 20_000..=200_000;

#[derive(Debug)]
struct Question {
    call: CallId,
    at_us: u64,
    begun: Begun,
}

/// An auditor of a partition.
#[derive(Debug)]
pub struct Auditor {
    partition: TopicPartition,
    aim: NodeId,
    asked: Option<Question>,
}

impl Auditor {
    /// An auditor of a partition.
    #[must_use]
    pub const fn new(partition: TopicPartition, aim: NodeId) -> Self {
        Self { partition, aim, asked: None }
    }
}

impl Client for Auditor {
    fn step(&mut self, input: Input, ctx: &mut Context<'_>) {
        match input {
            Input::Wake => {
                ctx.wake_after_us = Some(ctx.dice.between(PACE_US));
                if self.asked.as_ref().is_some_and(|asked| asked.at_us + PATIENCE_US > ctx.now_us) {
                    return;
                }
                if self.asked.is_some() || ctx.dice.chance(10) {
                    self.aim = ctx.any_node();
                }
                let begun = ctx.checker.asks_bounds(self.partition);
                let call = ctx.call(self.aim, Call::Request(Request::Bounds { partition: self.partition }));
                self.asked = Some(Question { call, at_us: ctx.now_us, begun });
            }
            Input::Response { call, result, .. } => {
                let Some(asked) = self.asked.take_if(|asked| asked.call == call) else { return };
                match result {
                    Ok(Response::Answer(Answer::Bounds(bounds))) => {
                        ctx.checker.bounds(asked.begun, bounds.high_watermark);
                    }
                    Ok(_) => self.aim = ctx.any_node(),
                    Err(error) => self.aim = ctx.redirected(&error),
                }
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        None
    }
}
