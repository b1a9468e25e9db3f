//! The story of one followed produce: from the door to the answer, as spans.
//!
//! ```text
//! produce            from the last byte of the request to the answer
//! ├ produce.admit    the door's checks
//! ├ produce.queue    until the core has given it its offset
//! ├ journal.sync     until this node's disk has it
//! ├ replicate        until a quorum has it: it is committed
//! └ produce.answer   until the answer is on its way
//! ```
//! `journal.sync` and `replicate` begin together. A commit does not wait for this node's disk if the followers' were
//! faster: then there is no `journal.sync`.

use std::{sync::OnceLock, time::Instant};

use levada_protocol::{
    error::Result,
    ids::{LogIndex, NodeId, TopicPartition},
    source::Appended,
    trace::{Followed, SpanKind, SpanValue},
};

use crate::{node::event::Stage, runtime::clock};

/// A produce that is followed.
#[derive(Debug)]
pub struct ProduceStory {
    followed: Followed,
    node: NodeId,
    place: TopicPartition,
    topic: String,
    client: String,
    bytes: usize,
    records: u32,
    begun: Instant,
    admitted: Instant,
    proposed: OnceLock<(Instant, LogIndex)>,
    durable: OnceLock<Instant>,
}

/// What is known of it when it has been admitted.
pub(crate) struct Admission {
    pub(crate) node: NodeId,
    pub(crate) place: TopicPartition,
    pub(crate) topic: String,
    pub(crate) client: String,
    pub(crate) bytes: usize,
    pub(crate) records: u32,
    /// When its last byte was there.
    pub(crate) begun: Instant,
}

impl ProduceStory {
    /// It has been admitted just now.
    pub(crate) fn new(followed: Followed, of: Admission) -> Self {
        let Admission { node, place, topic, client, bytes, records, begun } = of;
        let (proposed, durable) = (OnceLock::new(), OnceLock::new());
        let admitted = clock::instant();
        Self { followed, node, place, topic, client, bytes, records, begun, admitted, proposed, durable }
    }

    /// It has come so far just now.
    pub(crate) fn reached(&self, stage: Stage) {
        match stage {
            Stage::Proposed { index } => drop(self.proposed.set((clock::instant(), index))),
            Stage::Durable => drop(self.durable.set(clock::instant())),
        }
    }

    /// The core has answered at `answered`, and the answer is on its way by now.
    pub(crate) fn end(&self, result: &Result<Appended>, answered: Instant) {
        let followed = &self.followed;
        followed.stage("produce.admit", self.begun, self.admitted, vec![]);
        if let Some((proposed, index)) = self.proposed.get().copied() {
            followed.stage("produce.queue", self.admitted, proposed, vec![]);
            if let Some(durable) = self.durable.get() {
                followed.stage("journal.sync", proposed, *durable, vec![]);
            }
            if result.is_ok() {
                followed.stage("replicate", proposed, answered, vec![("levada.index", index.get().into())]);
            }
        }
        let now = clock::instant();
        followed.stage("produce.answer", answered, now, vec![]);
        let mut about: Vec<(&'static str, SpanValue)> = vec![
            ("levada.node", self.node.get().into()),
            ("levada.topic", self.topic.clone().into()),
            ("levada.partition", u64::from(self.place.partition.get()).into()),
            ("levada.client", self.client.clone().into()),
            ("levada.bytes", self.bytes.into()),
            ("levada.records", u64::from(self.records).into()),
        ];
        if let Ok(appended) = result {
            about.push(("levada.base_offset", appended.base_offset.get().into()));
        }
        let error = result.as_ref().err().map(ToString::to_string);
        followed.clone().end(("produce", SpanKind::Server), self.begun, now, about, error);
    }
}
