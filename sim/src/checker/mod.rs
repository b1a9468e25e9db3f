//! What must be true of everything that clients were told.
//!
//! The checker hears what clients heard, in the order of (virtual) real time: batches sent, acknowledgements, reads,
//! bounds. Every one is a **claim**: an acknowledged batch claims its offsets for its values, a read claims what it
//! showed, an answered bound claims that the log reaches so far. A claim is for ever. So the rules are few:
//!
//! - an offset has one value and a value has one offset, whoever tells of it, now or at the end;
//! - a batch has the same bytes on every replica and at every time;
//! - what is shown is gapless, and was sent;
//! - an answered bound is not below anything that anybody had been told before the question was asked;
//! - a process never takes its high watermark back;
//! - at the end every replica has everything that was ever claimed above the log start, the values of a producer
//!   stand there in the order of their sequence numbers, and none is missing between two of them.
//!
//! It knows nothing of the world: histories made by hand test it, and it can be fed by anything else.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use levada_protocol::{
    batch::{self, BatchHeader, UNCRCED_BYTES},
    ids::{NodeId, Offset, ProducerId, ReplicaId, TopicPartition},
};

use crate::batches::{self, Value};

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

#[derive(Debug, Default)]
struct Log {
    /// How many values of each stream were sent.
    sent: BTreeMap<u32, u32>,
    at: BTreeMap<Offset, Value>,
    place: BTreeMap<Value, Offset>,
    batches: BTreeMap<Offset, Seen>,
    /// Somebody knows that the log reaches to here.
    known_end: Offset,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    next: Offset,
    /// The batch's first bytes. The checksum among them stands for the others.
    front: [u8; UNCRCED_BYTES],
    count: u64,
    on: NodeId,
}

/// Hears what clients hear, and finds what cannot be.
#[derive(Debug, Default)]
pub struct Checker {
    logs: BTreeMap<TopicPartition, Log>,
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

    /// A client was given a producer id.
    pub fn producer_id(&mut self, id: ProducerId) {
        if !self.producers.insert(id) {
            self.report(Kind::Duplicate, format!("producer id {id} was given twice"));
        }
    }

    /// Values of a stream are about to be sent; they may turn up from now on.
    pub fn sent(&mut self, partition: TopicPartition, first: Value, count: u32) {
        let sent = self.logs.entry(partition).or_default().sent.entry(first.stream).or_default();
        *sent = (*sent).max(first.number + count);
    }

    /// A client was told that its batch stands at an offset.
    pub fn acked(&mut self, partition: TopicPartition, first: Value, count: u32, base: Offset) {
        let log = self.logs.entry(partition).or_default();
        for i in 0..count {
            let value = Value { number: first.number + i, ..first };
            if let Some(anomaly) = log.claim(partition, base.plus(u64::from(i)), value, "acknowledged") {
                self.anomalies.push(anomaly);
            }
        }
        log.known_end = log.known_end.max(base.plus(u64::from(count)));
        self.counts.acked += u64::from(count);
    }

    /// A client was shown batches from an offset on. Answers where to read on.
    pub fn read(&mut self, partition: TopicPartition, node: NodeId, from: Offset, chunk: &Chunk) -> Offset {
        let log = self.logs.entry(partition).or_default();
        let mut next = None;
        for bytes in &chunk.batches {
            match log.see(partition, node, bytes) {
                Ok(seen) => {
                    let base = BatchHeader::parse(bytes).map_or(from, |header| header.base_offset);
                    let follows = next.map_or(base <= from && from < seen.next, |next| next == base);
                    if !follows || seen.next > chunk.high_watermark {
                        let what = format!(
                            "{partition}: node {node} showed {base}..{} where {} follows; its high watermark is {}",
                            seen.next,
                            next.unwrap_or(from),
                            chunk.high_watermark
                        );
                        self.anomalies.push(Anomaly { kind: Kind::Hole, what });
                    }
                    self.counts.read += seen.count;
                    next = Some(seen.next);
                }
                Err(anomaly) => {
                    self.anomalies.push(anomaly);
                    return from;
                }
            }
        }
        let next = next.unwrap_or(from);
        log.known_end = log.known_end.max(next);
        next
    }

    /// A client is about to ask how far a log reaches. Answers what to hand in with the answer.
    #[must_use]
    pub fn asks_bounds(&self, partition: TopicPartition) -> Offset {
        self.logs.get(&partition).map_or(Offset(0), |log| log.known_end)
    }

    /// A client was told how far a log reaches; `known` is what [`Checker::asks_bounds`] said when it asked.
    pub fn bounds(&mut self, partition: TopicPartition, known: Offset, high_watermark: Offset) {
        if high_watermark < known {
            self.report(
                Kind::Stale,
                format!(
                    "{partition}: the end was said to be {high_watermark}, but {known} was known before the question"
                ),
            );
        }
        let log = self.logs.entry(partition).or_default();
        log.known_end = log.known_end.max(high_watermark);
        self.counts.bounds += 1;
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
        for FinalLog { node, log } in replicas {
            let end = self.read(partition, *node, log.log_start, log);
            if end != log.high_watermark {
                let what =
                    format!("{partition}: node {node} ends at {end}, its high watermark is {}", log.high_watermark);
                self.report(Kind::Hole, what);
            }
        }
        let Some(first) = replicas.first() else { return };
        for FinalLog { node, log } in replicas {
            if log.high_watermark != first.log.high_watermark {
                let (ours, theirs) = (log.high_watermark, first.log.high_watermark);
                let what = format!("{partition}: node {node} ends at {ours}, node {} at {theirs}", first.node);
                self.report(Kind::Diverged, what);
            }
        }
        let ends = replicas.iter().map(|replica| replica.log.high_watermark);
        let starts = replicas.iter().map(|replica| replica.log.log_start);
        if let (Some(end), Some(start), Some(log)) = (ends.min(), starts.max(), self.logs.get(&partition)) {
            self.anomalies.extend(log.lost(partition, end));
            self.anomalies.extend(log.disorder(partition, start));
        }
    }
}

impl Log {
    /// Somebody was told that a value stands at an offset.
    fn claim(&mut self, partition: TopicPartition, offset: Offset, value: Value, how: &str) -> Option<Anomaly> {
        let known = *self.at.entry(offset).or_insert(value);
        if known != value {
            let what = format!("{partition}: at offset {offset} stood {known}, now {value} was {how} there");
            return Some(Anomaly { kind: Kind::TwoValues, what });
        }
        let known = *self.place.entry(value).or_insert(offset);
        if known != offset {
            let what = format!("{partition}: {value} stood at offset {known}, now it was {how} at {offset} too");
            return Some(Anomaly { kind: Kind::Duplicate, what });
        }
        if self.sent.get(&value.stream).is_none_or(|sent| value.number >= *sent) {
            let what = format!("{partition}: {value} was {how} at offset {offset}, but nobody sent it");
            return Some(Anomaly { kind: Kind::Phantom, what });
        }
        None
    }

    /// Somebody was shown a batch.
    fn see(&mut self, partition: TopicPartition, node: NodeId, bytes: &Bytes) -> Result<Seen, Anomaly> {
        let damaged = |error| {
            let what = format!("{partition}: node {node} served a damaged batch: {error}");
            Anomaly { kind: Kind::Damaged, what }
        };
        batch::verify_crc(bytes).map_err(damaged)?;
        let header = BatchHeader::parse(bytes).map_err(damaged)?;
        let (base, next) = (header.base_offset, header.next_offset());
        let front = bytes.first_chunk().copied().unwrap_or([0; UNCRCED_BYTES]);
        let seen = Seen { next, front, count: u64::from(header.record_count), on: node };
        // Whatever overlaps it must be it.
        if let Some((&other, known)) = self.batches.range(..next).next_back()
            && known.next > base
        {
            if other == base && known.front == front {
                return Ok(seen);
            }
            let what = format!(
                "{partition}: node {} had a batch at {other}..{}, node {node} has another one at {base}..{next}",
                known.on, known.next
            );
            return Err(Anomaly { kind: Kind::Diverged, what });
        }
        let values = batches::decode(bytes).map_err(damaged)?;
        for (i, value) in (0..).zip(values) {
            if let Some(anomaly) = self.claim(partition, base.plus(i), value, "read") {
                return Err(anomaly);
            }
        }
        self.batches.insert(base, seen);
        Ok(seen)
    }

    /// What was claimed beyond the end.
    fn lost(&self, partition: TopicPartition, end: Offset) -> Option<Anomaly> {
        let claimed = self.at.range(end..).next();
        let what = match claimed {
            Some((offset, value)) => {
                let more = self.at.range(end..).count() - 1;
                format!("{partition}: {value} stood at offset {offset} (and {more} after it), the log ends at {end}")
            }
            None if self.known_end > end => {
                format!("{partition}: the log reached to {}, now it ends at {end}", self.known_end)
            }
            None => return None,
        };
        Some(Anomaly { kind: Kind::Lost, what })
    }

    /// Values of a stream that do not stand in order, without a gap.
    fn disorder(&self, partition: TopicPartition, log_start: Offset) -> Option<Anomaly> {
        let mut expected: BTreeMap<u32, u32> = BTreeMap::new();
        for (offset, value) in self.at.range(log_start..) {
            // The start of a stream may have gone with the start of the log.
            let first = if log_start == Offset(0) { 0 } else { value.number };
            let expected = expected.entry(value.stream).or_insert(first);
            if *expected != value.number {
                let what = format!(
                    "{partition}: at offset {offset} stands {value} where number {expected} of its stream follows"
                );
                return Some(Anomaly { kind: Kind::Order, what });
            }
            *expected += 1;
        }
        None
    }
}
