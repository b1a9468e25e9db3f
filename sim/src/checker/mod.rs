//! What must be true of everything that clients were told.
//!
//! The checker hears what clients hear, in the order of (virtual) real time: batches sent, acknowledgements, reads, bounds. It
//! writes them down as a history, which in the end is judged by the rules that the harness has too, [`levada_checkers::log`]:
//! nothing that was told of a log is taken back.
//!
//! What only a simulator can see is judged as it happens:
//!
//! - a batch has the same bytes on every replica and at every time, and they are sound;
//! - a node shows nothing beyond its high watermark and leaves nothing out, and a process never takes its high watermark back;
//! - a producer id is given once.
//!
//! It knows nothing of the world: histories made by hand test it, and it can be fed by anything else.

mod batches;
mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use levada_checkers::history::{Index, Op};
use levada_protocol::ids::{NodeId, Offset, ProducerId, ReplicaId, TopicPartition};

use self::{batches::Batches, history::History};
use crate::batches::Value;

/// What kind of promise was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something that a client was told is gone.
    Lost,
    /// One offset has two values.
    TwoValues,
    /// One value has two offsets.
    Duplicate,
    /// A value that nobody sent.
    Phantom,
    /// Values of one producer are out of order, or one between two is missing.
    Order,
    /// Replicas, or the same replica at two times, have different bytes.
    Diverged,
    /// A read that leaves out offsets, or shows some beyond the high watermark.
    Hole,
    /// Bytes that were served are damaged; or something is, or is in doubt, on a disk that was not harmed.
    Damaged,
    /// An answer that is older than its question.
    Stale,
    /// A high watermark that went back.
    Regressed,
    /// A request that was answered twice, or never.
    Answers,
    /// An error that no client should have got.
    Refused,
    /// Without any fault left, something was not done in time.
    Stuck,
    /// A process ended without being told to.
    Died,
    /// A process could not start from its disk.
    Unopened,
    /// Two runs of the same world are not the same.
    Differs,
    /// The history is none that can be judged.
    Unjudged,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its kind.
    pub kind: Kind,
    /// What exactly.
    pub what: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// Batches that a node served.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its log start.
    pub log_start: Offset,
    /// Its high watermark.
    pub high_watermark: Offset,
    /// In order; the first may begin below the offset that was asked for.
    pub batches: Vec<Bytes>,
}

/// The log of one replica, at the end.
#[derive(Clone, Debug)]
pub struct FinalLog {
    /// Where it is.
    pub node: NodeId,
    /// All of it, from its log start to its high watermark.
    pub log: Chunk,
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records acknowledged.
    pub acked: u64,
    /// Records read, as often as they were.
    pub read: u64,
    /// Bounds answered.
    pub bounds: u64,
}

/// Something that a client has begun, by which its end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    index: Index,
    partition: TopicPartition,
}

/// Hears what clients hear, and finds what cannot be.
#[derive(Debug, Default)]
pub struct Checker {
    history: History,
    batches: BTreeMap<TopicPartition, Batches>,
    /// How far somebody knows that the log reaches.
    known_ends: BTreeMap<TopicPartition, Offset>,
    high_watermarks: BTreeMap<(NodeId, u32, ReplicaId, TopicPartition), Offset>,
    /// Producer ids that were given.
    producers: BTreeSet<ProducerId>,
    anomalies: Vec<Anomaly>,
    counts: Counts,
}

impl Checker {
    /// What was found.
    #[must_use]
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    /// How much was checked.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Something was found by somebody else.
    pub fn report(&mut self, kind: Kind, what: String) {
        self.anomalies.push(Anomaly { kind, what });
    }

    /// What follows happens at this time, or later.
    pub const fn time_is(&mut self, now_us: u64) {
        self.history.now_us = now_us;
    }

    /// A client was given a producer id.
    pub fn producer_id(&mut self, id: ProducerId) {
        if !self.producers.insert(id) {
            self.report(Kind::Duplicate, format!("producer id {id} was given twice"));
        }
    }

    /// Values of a stream are about to be sent; they may turn up from now on.
    pub fn sends(&mut self, partition: TopicPartition, first: Value, count: u32) -> Begun {
        let key = self.history.key(partition);
        let mut index = None;
        for value in values(first, count) {
            let sent = self.history.begin(first.stream, None, Op::Send { key, value, offset: None });
            index.get_or_insert(sent);
        }
        Begun { index: index.unwrap_or_default(), partition }
    }

    /// A client was told that its batch stands at an offset.
    pub fn acked(&mut self, sent: Begun, first: Value, count: u32, base: Offset) {
        let key = self.history.key(sent.partition);
        for (i, value) in (0..).zip(values(first, count)) {
            let op = Op::Send { key, value, offset: Some(base.get() + i) };
            self.history.end(sent.index + i, op);
        }
        self.knows_end(sent.partition, base.plus(u64::from(count)));
        self.counts.acked += u64::from(count);
    }

    /// A client is about to read from an offset on.
    pub fn reads(&mut self, partition: TopicPartition, node: NodeId, from: Offset) -> Begun {
        let op = Op::Poll { key: self.history.key(partition), from: from.get(), records: Vec::new() };
        Begun { index: self.history.begin(READERS, Some(node), op), partition }
    }

    /// A client was shown batches. Answers where to read on.
    pub fn read(&mut self, asked: Begun, from: Offset, chunk: &Chunk) -> Offset {
        let Begun { index, partition } = asked;
        let Some(node) = self.history.node(index) else { return from };
        let Some((next, records)) = self.look_at(partition, node, from, chunk) else { return from };
        let key = self.history.key(partition);
        self.history.end(index, Op::Poll { key, from: from.get(), records });
        next
    }

    /// Looks at bytes that a node served. Answers where they end, and what they say from an offset on; nothing, if they are
    /// wrong.
    fn look_at(
        &mut self,
        partition: TopicPartition,
        node: NodeId,
        from: Offset,
        chunk: &Chunk,
    ) -> Option<(Offset, Vec<(u64, u64)>)> {
        let batches = self.batches.entry(partition).or_default();
        let (mut next, mut records) = (from, Vec::new());
        for bytes in &chunk.batches {
            let seen = match batches.see(node, bytes) {
                Ok(seen) => seen,
                Err((kind, what)) => {
                    self.report(kind, format!("{partition}: {what}"));
                    return None;
                }
            };
            if seen.base > next || seen.next <= next || seen.next > chunk.high_watermark {
                let (base, end, high_watermark) = (seen.base, seen.next, chunk.high_watermark);
                let what = format!(
                    "{partition}: node {node} showed {base}..{end} where {next} follows; its high watermark is {high_watermark}"
                );
                self.anomalies.push(Anomaly { kind: Kind::Hole, what });
            }
            self.counts.read += seen.values.len() as u64;
            let at = (seen.base.get()..).zip(seen.values.iter().map(number));
            records.extend(at.filter(|(offset, _)| *offset >= from.get()));
            next = seen.next;
        }
        self.knows_end(partition, next);
        Some((next, records))
    }

    /// A client is about to ask how far a log reaches.
    pub fn asks_bounds(&mut self, partition: TopicPartition) -> Begun {
        let op = Op::End { key: self.history.key(partition), offset: None };
        Begun { index: self.history.begin(READERS, None, op), partition }
    }

    /// A client was told how far a log reaches.
    pub fn bounds(&mut self, asked: Begun, high_watermark: Offset) {
        let key = self.history.key(asked.partition);
        self.history.end(asked.index, Op::End { key, offset: Some(high_watermark.get()) });
        self.knows_end(asked.partition, high_watermark);
        self.counts.bounds += 1;
    }

    /// How far a log reaches, by all that anybody was told.
    #[must_use]
    pub fn known_end(&self, partition: TopicPartition) -> Offset {
        self.known_ends.get(&partition).copied().unwrap_or(Offset(0))
    }

    fn knows_end(&mut self, partition: TopicPartition, end: Offset) {
        let known = self.known_ends.entry(partition).or_default();
        *known = end.max(*known);
    }

    /// A replica shows this high watermark; `run` tells the processes of its node apart.
    pub fn high_watermark(
        &mut self,
        node: NodeId,
        (run, replica): (u32, ReplicaId),
        partition: TopicPartition,
        shown: Offset,
    ) {
        let last = self.high_watermarks.entry((node, run, replica, partition)).or_default();
        if shown < *last {
            let what = format!("{partition}: the high watermark of node {node} went from {last} back to {shown}");
            self.anomalies.push(Anomaly { kind: Kind::Regressed, what });
        }
        *last = shown;
    }

    /// Nothing happens any more; these are the replicas of a partition.
    pub fn finish(&mut self, partition: TopicPartition, replicas: &[FinalLog]) {
        let key = self.history.key(partition);
        for FinalLog { node, log } in replicas {
            let range = Some(log.log_start.get()..log.high_watermark.get());
            let begun = self.history.begin(READERS, Some(*node), Op::Final { key, range: None, records: Vec::new() });
            if let Some((_, records)) = self.look_at(partition, *node, log.log_start, log) {
                self.history.end(begun, Op::Final { key, range, records });
            }
        }
    }

    /// Everything is told: judges it. What was told of logs and is not so comes first: what else is wrong may have come of it.
    pub fn judge(&mut self) {
        let mut found = self.history.judge();
        found.append(&mut self.anomalies);
        self.anomalies = found;
    }
}

/// The process that the history has for all that read: nothing depends on which of them it was. Streams count from 1.
const READERS: u32 = 0;

/// Values of a stream as the history has them.
fn values(first: Value, count: u32) -> impl Iterator<Item = u64> {
    (first.number..first.number + count).map(move |number_in| number(&Value { number: number_in, ..first }))
}

/// A value as the history has it: a person reads the stream in front, and the last ten digits as the number.
fn number(value: &Value) -> u64 {
    u64::from(value.stream).wrapping_mul(10_000_000_000).wrapping_add(u64::from(value.number))
}
