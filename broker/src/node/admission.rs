//! Batches on their way to their leader: each waits until there is memory for it, in the order in which they came.
//!
//! Entries stay in memory until a quorum has them and a segment holds them. When the disk or the quorum does not keep up,
//! new batches wait here, not in a second try of the client: who is turned away again and again may starve while others
//! get in. So it is on a disk that has little room left (`space.rs`), until it has none: then all are refused. What waits
//! is bounded by the bytes that connections may have under way, and each request by its own deadline.

use std::collections::VecDeque;

use bytes::Bytes;
use levada_protocol::{error::Error, ids::TopicPartition};

use super::{
    Node,
    event::{Effect, RequestId},
};
use crate::cluster::health::Fullness;

/// A batch that waits.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    place: TopicPartition,
    batch: Bytes,
}

/// The batches that wait, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Admission {
    waiting: VecDeque<Waiting>,
}

impl Admission {
    /// Queues a batch; [`Node::admit`] goes on with it.
    pub(super) fn queue(&mut self, id: RequestId, place: TopicPartition, batch: Bytes) {
        self.waiting.push_back(Waiting { id, place, batch });
    }

    /// Whether anything waits.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Refuses everything that waits.
    pub(super) fn refuse(&mut self, error: &Error, out: &mut Vec<Effect>) {
        out.extend(self.waiting.drain(..).map(|waiting| Effect::Reply { id: waiting.id, result: Err(error.clone()) }));
    }
}

impl Node {
    /// Hands batches to the leaders of their partitions, as many as there is memory for.
    pub(super) fn admit(&mut self, out: &mut Vec<Effect>) {
        if self.store.lacks_space() {
            self.space.note_lack();
        }
        self.store.set_plenty(self.space.fullness() == Fullness::Roomy);
        if self.space.fullness() == Fullness::Full && self.admission.is_waited_for() {
            self.admission.refuse(&self.space.refusal(self.config.node), out);
        }
        let mut room_bytes = self.store.room_bytes();
        while room_bytes > 0
            && self.space.may_take()
            && let Some(Waiting { id, place, batch }) = self.admission.waiting.pop_front()
        {
            room_bytes = room_bytes.saturating_sub(batch.len() as u64);
            self.space.take(batch.len());
            self.produce(id, place, batch, out);
        }
    }
}
