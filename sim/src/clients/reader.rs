//! A reader that follows a partition, on one node or another, and goes back at times to read again.

use levada_protocol::ids::{NodeId, Offset, TopicPartition};

use super::{Call, CallId, Client, Context, Input, PATIENCE_US, Response};
use crate::checker::{Begun, Chunk};

/// How often it looks for something new.
const PACE_US: std::ops::RangeInclusive<u64> = 10_000..=60_000;

/// A reader.
#[derive(Debug)]
pub struct Reader {
    partition: TopicPartition,
    aim: NodeId,
    next: Offset,
    asked: Option<(CallId, u64, Begun)>,
}

impl Reader {
    /// A reader of a partition, from its start.
    #[must_use]
    pub const fn new(partition: TopicPartition, aim: NodeId) -> Self {
        Self { partition, aim, next: Offset(0), asked: None }
    }

    fn ask(&mut self, ctx: &mut Context<'_>) {
        if self.asked.is_some_and(|(_, at_us, _)| at_us + PATIENCE_US > ctx.now_us) {
            return;
        }
        if self.asked.is_some() || ctx.dice.chance(5) {
            self.aim = ctx.any_node();
        }
        if ctx.dice.chance(1) {
            self.next = Offset(ctx.dice.between(0..=self.next.get()));
        }
        let bytes_max = if ctx.dice.chance(20) { 1 } else { 64 << 10 };
        let read = Call::Read { partition: self.partition, offset: self.next, bytes_max };
        let begun = ctx.checker.reads(self.partition, self.aim, self.next);
        self.asked = Some((ctx.call(self.aim, read), ctx.now_us, begun));
    }

    fn shown(&mut self, begun: Begun, chunk: &Chunk, ctx: &mut Context<'_>) {
        if self.next < chunk.log_start {
            self.next = chunk.log_start;
        } else {
            self.next = ctx.checker.read(begun, self.next, chunk);
        }
    }
}

impl Client for Reader {
    fn step(&mut self, input: Input, ctx: &mut Context<'_>) {
        match input {
            Input::Wake => {
                ctx.wake_after_us = Some(ctx.dice.between(PACE_US));
                self.ask(ctx);
            }
            Input::Response { call, result, .. } => {
                let Some((_, _, begun)) = self.asked.take_if(|(asked, ..)| *asked == call) else { return };
                match result {
                    Ok(Response::Chunk(chunk)) => self.shown(begun, &chunk, ctx),
                    Ok(_) | Err(_) => self.aim = ctx.any_node(),
                }
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        None
    }
}
