//! Batches on their way to their leader: each waits until there is memory for it, and until the journal's disk is to have it.
//!
//! Entries stay in memory until a quorum has them and a segment holds them. When the disk or the quorum does not keep up,
//! new batches wait here, not in a second try of the client: who is turned away again and again may starve while others
//! get in. So it is on a disk that has little room left (`space.rs`), until it has none: then all are refused. What waits
//! is bounded by the bytes that connections may have under way, and each request by its own deadline.
//!
//! **Turns.** What is handed on stands in one line before the disk, so no more is than the disk needs to be busy
//! (`pace.rs`): the line is here, where each sender has its turn, and who sends as fast as it can waits behind itself. A sender
//! is a producer, whatever its connections, nodes and partitions; batches without a producer are their partition's.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use levada_protocol::{
    batch::BatchHeader,
    error::Error,
    ids::{ProducerId, TopicPartition},
};

use super::{
    Node,
    event::{Effect, RequestId},
};
use crate::cluster::health::Fullness;

/// What a sender may hand on before it is another's turn. One that hands on more, as its batch is larger, misses turns.
pub(super) const TURN_BYTES: u64 = 256 << 10;

/// A batch that waits.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    place: TopicPartition,
    batch: Bytes,
}

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sender {
    Producer(ProducerId),
    Partition(TopicPartition),
}

/// The line of one sender, the oldest batch first. Never empty.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// What it may still hand on in this turn; below zero it owes.
    credit: i64,
}

/// The batches that wait.
///
/// Invariant: `turns` names each sender that has a line once, whose turn it is first.
#[derive(Debug, Default)]
pub(super) struct Admission {
    lines: BTreeMap<Sender, Line>,
    turns: VecDeque<Sender>,
}

impl Admission {
    /// Queues a batch; [`Node::admit`] goes on with it.
    pub(super) fn queue(&mut self, id: RequestId, place: TopicPartition, batch: Bytes) {
        let producer = BatchHeader::parse(&batch).ok().map(|header| header.producer_id).filter(|id| id.0 >= 0);
        let sender = producer.map_or(Sender::Partition(place), Sender::Producer);
        let turns = &mut self.turns;
        let line = self.lines.entry(sender).or_insert_with(|| {
            turns.push_back(sender);
            Line::default()
        });
        line.waiting.push_back(Waiting { id, place, batch });
    }

    /// Whether anything waits.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Refuses everything that waits.
    pub(super) fn refuse(&mut self, error: &Error, out: &mut Vec<Effect>) {
        self.turns.clear();
        let waiting = std::mem::take(&mut self.lines).into_values().flat_map(|line| line.waiting);
        out.extend(waiting.map(|waiting| Effect::Reply { id: waiting.id, result: Err(error.clone()) }));
    }

    /// The batch whose turn it is.
    fn next(&mut self) -> Option<Waiting> {
        loop {
            let sender = *self.turns.front()?;
            let line = self.lines.get_mut(&sender)?;
            if line.credit <= 0 {
                line.credit += TURN_BYTES.cast_signed();
                self.turns.rotate_left(1);
                continue;
            }
            let waiting = line.waiting.pop_front()?;
            line.credit -= i64::try_from(waiting.batch.len()).unwrap_or(i64::MAX);
            if line.waiting.is_empty() {
                self.lines.remove(&sender);
                self.turns.pop_front();
            }
            return Some(waiting);
        }
    }
}

impl Node {
    /// Hands batches to the leaders of their partitions, as many as there is memory for and the disk is to have.
    pub(super) fn admit(&mut self, out: &mut Vec<Effect>) {
        if self.store.lacks_space() {
            self.space.note_lack();
        }
        self.store.set_plenty(self.space.fullness() == Fullness::Roomy);
        if self.space.fullness() == Fullness::Full && self.admission.is_waited_for() {
            self.admission.refuse(&self.space.refusal(self.config.node), out);
        }
        let mut room_bytes = self.store.room_bytes().min(self.pace.room_bytes(self.store.journal_waiting_bytes()));
        while room_bytes > 0
            && self.space.may_take()
            && let Some(Waiting { id, place, batch }) = self.admission.next()
        {
            room_bytes = room_bytes.saturating_sub(batch.len() as u64);
            self.space.take(batch.len());
            self.produce(id, place, batch, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::{
        batch::{Attributes, BatchProducer, NewRecord, RowsBuilder},
        ids::{PartitionId, ProducerEpoch, TopicId},
    };

    use super::*;

    fn place(partition: u32) -> TopicPartition {
        TopicPartition { topic: TopicId::default(), partition: PartitionId(partition) }
    }

    fn batch(producer: i64, bytes: usize) -> Bytes {
        let value = vec![7; bytes];
        let mut builder = RowsBuilder::new();
        builder.push(&NewRecord { timestamp_ms: 5, value: Some(&value), ..NewRecord::default() }).unwrap();
        let named = BatchProducer { id: ProducerId(producer), epoch: ProducerEpoch(0), base_sequence: 0 };
        let producer = if producer < 0 { BatchProducer::NONE } else { named };
        builder.finish(Attributes::default(), producer).unwrap()
    }

    /// In which order the requests come that were queued in the order of their ids.
    fn order(batches: &[(i64, u32, usize)]) -> Vec<u64> {
        let mut admission = Admission::default();
        for (id, &(producer, partition, bytes)) in (0..).zip(batches) {
            admission.queue(RequestId(id), place(partition), batch(producer, bytes));
        }
        let order = std::iter::from_fn(|| admission.next()).map(|waiting| waiting.id.0).collect();
        assert!(!admission.is_waited_for() && admission.lines.is_empty());
        order
    }

    #[test]
    fn who_sends_much_waits_behind_itself() {
        let flood = (0..40).map(|n| (1, n % 16, 200 << 10));
        let batches: Vec<_> = flood.chain([(2, 0, 100), (2, 1, 100), (3, 2, 100)]).collect();
        let order = order(&batches);
        let at = |id| order.iter().position(|other| *other == id).unwrap();
        assert!(at(40) <= 2 && at(41) <= 3 && at(42) <= 4, "{order:?}");
        let flood: Vec<_> = order.iter().filter(|id| **id < 40).copied().collect();
        assert!(flood.is_sorted(), "the order of one sender stays: {flood:?}");
    }

    #[test]
    fn large_batches_have_no_larger_share_than_small_ones() {
        let large = (0..8).map(|_| (1, 0, 2 << 20));
        let small = (0..64).map(|_| (2, 1, 128 << 10));
        let batches: Vec<_> = large.chain(small).collect();
        let mut sent = [0_i64; 2];
        for id in order(&batches).into_iter().take(36) {
            let (producer, _, bytes) = batches[usize::try_from(id).unwrap()];
            sent[usize::from(producer == 2)] += i64::try_from(bytes).unwrap();
            assert!((sent[0] - sent[1]).abs() <= (2 << 20) + (512 << 10), "{sent:?}");
        }
    }

    #[test]
    fn batches_without_a_producer_are_their_partitions() {
        let flood = (0..20).map(|_| (-1, 0, 200 << 10));
        let batches: Vec<_> = flood.chain([(-1, 1, 100)]).collect();
        assert!(order(&batches).iter().position(|id| *id == 20).unwrap() <= 2);
    }

    #[test]
    fn all_that_wait_are_refused() {
        let mut admission = Admission::default();
        for id in 0..3 {
            admission.queue(RequestId(id), place(0), batch(1, 10));
        }
        admission.queue(RequestId(3), place(0), batch(2, 10));
        let mut out = Vec::new();
        let error = Error::new(levada_protocol::error::ErrorCode::DiskFull, "no");
        admission.refuse(&error, &mut out);
        assert!(out.len() == 4 && !admission.is_waited_for());
        admission.queue(RequestId(4), place(0), batch(1, 10));
        assert_eq!(admission.next().unwrap().id, RequestId(4));
    }
}
