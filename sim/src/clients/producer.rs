//! An idempotent producer of one partition, as careful as the protocol asks of it and as careless as it allows.
//!
//! At most five batches are unsettled at a time. When anything goes wrong with one (an error, a silence), all that are
//! not acknowledged are sent again, in order and with the same sequence numbers, to where the leader may be now.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use levada_broker::node::event::{Answer, Request};
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode},
    ids::{NodeId, ProducerId, TopicPartition},
    limits::PRODUCER_BATCHES_REMEMBERED,
    source::Appended,
};

use super::{Call, CallId, Client, Context, Input, PATIENCE_US, Response};
use crate::{
    batches::{self, Value},
    checker::{Begun, Kind},
    options::Workload,
};

/// How long to wait before sending again.
const BACKOFF_US: std::ops::RangeInclusive<u64> = 5_000..=60_000;

#[derive(Debug)]
struct Pending {
    begun: Begun,
    first: Value,
    count: u32,
    batch: Bytes,
    sent_us: u64,
    acked: bool,
}

#[derive(Debug)]
struct Identity {
    producer: ProducerId,
    stream: u32,
    next_number: u32,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    partition: TopicPartition,
    workload: Workload,
    aim: NodeId,
    identity: Option<Identity>,
    /// The call for an identity, and when it was made.
    asked: Option<(CallId, u64)>,
    /// Batches in the order of their sequence numbers, from the first that is not acknowledged.
    window: VecDeque<Pending>,
    calls: BTreeMap<CallId, (Value, bool)>,
    send_again_us: Option<u64>,
}

impl Producer {
    /// A producer of a partition.
    #[must_use]
    pub const fn new(partition: TopicPartition, workload: Workload, aim: NodeId) -> Self {
        Self {
            partition,
            workload,
            aim,
            identity: None,
            asked: None,
            window: VecDeque::new(),
            calls: BTreeMap::new(),
            send_again_us: None,
        }
    }

    fn wake(&mut self, ctx: &mut Context<'_>) {
        let pace_us = self.workload.pace_us;
        ctx.wake_after_us = Some(ctx.dice.between(pace_us / 2..=pace_us * 3 / 2));
        if !ctx.settling && ctx.dice.chance_ppm(self.workload.amnesia_ppm) {
            *self = Self::new(self.partition, self.workload, self.aim);
        }
        // Who is in a hurry listens to anybody who says that another node leads.
        if self.workload.patience_us < PATIENCE_US && ctx.dice.chance(2) {
            self.aim = ctx.any_node();
        }
        let Some(identity) = &mut self.identity else {
            return self.ask_identity(ctx);
        };
        let patience_us = self.workload.patience_us;
        let late = |pending: &Pending| !pending.acked && pending.sent_us + patience_us < ctx.now_us;
        if self.window.iter().any(late) && self.send_again_us.is_none() {
            self.aim = ctx.any_node();
            self.send_again_us = Some(ctx.now_us);
        }
        if let Some(at_us) = self.send_again_us {
            if at_us <= ctx.now_us {
                self.send_again_us = None;
                self.send_all(ctx);
            }
        } else if !ctx.settling && self.window.len() < PRODUCER_BATCHES_REMEMBERED {
            let first = Value { stream: identity.stream, number: identity.next_number };
            let count = u32::try_from(ctx.dice.between(1..=u64::from(self.workload.records_max))).unwrap_or(1);
            let filling = ctx.dice.between(0..=self.workload.filling_max as u64);
            let filling = usize::try_from(filling).unwrap_or(0);
            let timestamp_ms = i64::try_from(ctx.now_us / 1000).unwrap_or(0);
            let batch = batches::encode(identity.producer, first, count, filling, timestamp_ms);
            identity.next_number += count;
            let begun = ctx.checker.sends(self.partition, first, count);
            self.window.push_back(Pending { begun, first, count, batch, sent_us: ctx.now_us, acked: false });
            self.send_last(ctx);
        }
    }

    fn ask_identity(&mut self, ctx: &mut Context<'_>) {
        if self.asked.is_some_and(|(_, at_us)| at_us + PATIENCE_US > ctx.now_us) || ctx.settling {
            return;
        }
        if self.asked.is_some() {
            self.aim = ctx.any_node();
        }
        self.asked = Some((ctx.call(self.aim, Call::Request(Request::InitProducer)), ctx.now_us));
    }

    fn send_all(&mut self, ctx: &mut Context<'_>) {
        for (at, pending) in self.window.iter_mut().enumerate().filter(|(_, pending)| !pending.acked) {
            pending.sent_us = ctx.now_us;
            let produce = Request::Produce { partition: self.partition, batch: pending.batch.clone() };
            self.calls.insert(ctx.call(self.aim, Call::Request(produce)), (pending.first, at == 0));
        }
    }

    fn send_last(&mut self, ctx: &mut Context<'_>) {
        if let Some(pending) = self.window.back() {
            let produce = Request::Produce { partition: self.partition, batch: pending.batch.clone() };
            self.calls.insert(ctx.call(self.aim, Call::Request(produce)), (pending.first, self.window.len() == 1));
        }
    }

    fn appended(&mut self, first: Value, appended: Appended, ctx: &mut Context<'_>) {
        let Some(pending) = self.window.iter_mut().find(|pending| pending.first == first) else { return };
        // Said twice, it must be the same: the checker sees to that.
        ctx.checker.acked(pending.begun, first, pending.count, appended.base_offset);
        pending.acked = true;
        while self.window.front().is_some_and(|pending| pending.acked) {
            self.window.pop_front();
        }
    }

    fn failed(&mut self, error: &Error, ctx: &mut Context<'_>) {
        // A node that is behind in the metadata does not know the topic yet; one that led without knowing that it
        // does no more judges sequences by an old log. Both come right.
        let passing = [ErrorCode::UnknownTopic, ErrorCode::UnknownPartition, ErrorCode::OutOfOrderSequence];
        let hopeless = matches!(error.class(), ErrorClass::Fence | ErrorClass::FixRequest | ErrorClass::Stop);
        if hopeless && !passing.contains(&error.code) {
            ctx.checker.report(Kind::Refused, format!("{}: a sound batch got {error}", self.partition));
        }
        match error.class() {
            ErrorClass::Retry => {}
            _ => self.aim = ctx.redirected(error),
        }
        if self.send_again_us.is_none() {
            self.send_again_us = Some(ctx.now_us + ctx.dice.between(BACKOFF_US));
        }
    }
}

impl Client for Producer {
    fn step(&mut self, input: Input, ctx: &mut Context<'_>) {
        match input {
            Input::Wake => self.wake(ctx),
            Input::Response { call, from, result } if self.asked.is_some_and(|(asked, _)| asked == call) => {
                self.asked = None;
                match result {
                    Ok(Response::Answer(Answer::ProducerId(id))) => {
                        ctx.checker.producer_id(ProducerId(id));
                        *ctx.next_stream += 1;
                        let stream = *ctx.next_stream;
                        self.identity = Some(Identity { producer: ProducerId(id), stream, next_number: 0 });
                        self.aim = from;
                    }
                    Ok(other) => ctx.checker.report(Kind::Refused, format!("a producer id was asked for, got {other}")),
                    Err(error) => self.aim = ctx.redirected(&error),
                }
            }
            Input::Response { call, result, .. } => {
                let Some((first, alone)) = self.calls.remove(&call) else { return };
                match result {
                    Ok(Response::Answer(Answer::Appended(appended))) => self.appended(first, appended, ctx),
                    Ok(other) => ctx.checker.report(Kind::Refused, format!("a batch was sent, got {other}")),
                    // Only of interest while it was not acknowledged by another try.
                    Err(error) if self.window.iter().any(|pending| pending.first == first && !pending.acked) => {
                        if alone && error.code == ErrorCode::OutOfOrderSequence {
                            ctx.checker.report(Kind::Refused, format!("#{} {first} {error}", call.0));
                        }
                        self.failed(&error, ctx);
                    }
                    Err(_) => {}
                }
            }
        }
    }

    fn unfinished(&self) -> Option<String> {
        let pending = self.window.iter().find(|pending| !pending.acked)?;
        Some(format!("{} of {} is not acknowledged", pending.first, self.partition))
    }
}
