//! A partition's leader: gives offsets, judges sequences, packs batches into entries, and answers when they are safe.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use levada_protocol::{
    batch::header::{self, BatchHeader},
    error::{Error, ErrorCode},
    ids::{LogIndex, Offset, Term},
    limits::{BATCH_ALIGN, ENTRY_PACK_BYTES},
    source::Appended,
};
use levada_storage_engine::{
    entry::EntryKind,
    planted::{self, Planted},
};

use super::producers::{Producers, Verdict};
use crate::{
    node::event::{Answer, Effect, RequestId},
    raft::group::Group,
};

/// An entry of batches that is not known to be committed, and who waits for it.
#[derive(Debug)]
struct InFlight {
    end_offset: Offset,
    waiters: Vec<(RequestId, Result<Answer, Error>)>,
}

/// What waits for the next entry.
#[derive(Debug)]
enum Queued {
    /// A batch of a producer, which is told where it stands.
    Produced(RequestId, Bytes),
    /// A batch of a coordinator's records, and what is to be told when it is safe.
    Records(Bytes, Option<(RequestId, Answer)>),
    /// What a coordinator says without a record. It may rest on records that are not safe yet.
    Said(RequestId, Result<Answer, Error>),
}

impl Queued {
    const fn waiter(&self) -> Option<RequestId> {
        match self {
            Self::Produced(id, _) | Self::Records(_, Some((id, _))) | Self::Said(id, _) => Some(*id),
            Self::Records(_, None) => None,
        }
    }
}

/// The leader's copy of a partition's state, ahead of what is applied by what is in flight.
///
/// Invariants: `next_offset` and `producers` are what the log says up to its last entry; `in_flight` holds every
/// entry of batches above the commit index, and its offsets rise with its indexes.
#[derive(Debug)]
pub struct Leading {
    term: Term,
    next_offset: Offset,
    producers: Producers,
    in_flight: BTreeMap<LogIndex, InFlight>,
    queue: Vec<Queued>,
}

/// Batches that will be one entry.
#[derive(Default)]
struct Pack {
    batches: Vec<BytesMut>,
    bytes: usize,
    waiters: Vec<(RequestId, Result<Answer, Error>)>,
}

impl Leading {
    /// Begins where the log ends; it must be applied to its end.
    #[must_use]
    pub const fn new(term: Term, next_offset: Offset, producers: Producers) -> Self {
        Self { term, next_offset, producers, in_flight: BTreeMap::new(), queue: Vec::new() }
    }

    /// The term it leads in.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.term
    }

    /// Keeps a batch until [`Leading::flush`], so that those which arrive together can share an entry.
    pub fn enqueue(&mut self, id: RequestId, batch: Bytes) {
        self.queue.push(Queued::Produced(id, batch));
    }

    /// Keeps a batch of a coordinator's records likewise; it is never refused. `told` is answered when the batch is safe.
    pub fn enqueue_records(&mut self, batch: Bytes, told: Option<(RequestId, Answer)>) {
        self.queue.push(Queued::Records(batch, told));
    }

    /// Keeps what a coordinator says without a record: not before what it may rest on is safe, and not if others lead.
    pub fn enqueue_said(&mut self, id: RequestId, result: Result<Answer, Error>) {
        self.queue.push(Queued::Said(id, result));
    }

    /// Proposes what is queued: judged, stamped and packed, in order, in one go with raft saying that it leads. Answers
    /// what is said because of what is in the log (a no to a producer); that holds only if this is still the leader's log.
    pub fn flush(&mut self, group: &mut Group, out: &mut Vec<Effect>) -> Vec<(RequestId, Result<Answer, Error>)> {
        let mut said = Vec::new();
        let queue = std::mem::take(&mut self.queue);
        if queue.is_empty() {
            return said;
        }
        if !self.can_propose(group) {
            for id in queue.iter().filter_map(Queued::waiter) {
                reply(out, id, Err(Error::new(ErrorCode::NotReady, "leadership is moving; try again")));
            }
            return said;
        }
        let mut pack = Pack::default();
        for queued in queue {
            if let Queued::Produced(_, batch) | Queued::Records(batch, _) = &queued
                && pack.bytes + batch.len() > ENTRY_PACK_BYTES
            {
                self.propose(std::mem::take(&mut pack), group);
            }
            match queued {
                Queued::Produced(id, batch) => {
                    if let Err(refusal) = self.judge(id, batch, &mut pack, group, out) {
                        said.push((id, Err(refusal)));
                    }
                }
                Queued::Records(batch, told) => {
                    let header = BatchHeader::parse(&batch).expect("it was made here");
                    self.append(&header, batch, &mut pack, group);
                    pack.waiters.extend(told.map(|(id, answer)| (id, Ok(answer))));
                }
                Queued::Said(id, result) if !pack.batches.is_empty() => pack.waiters.push((id, result)),
                Queued::Said(id, result) => match self.in_flight.last_entry() {
                    Some(mut last) => last.get_mut().waiters.push((id, result)),
                    None => said.push((id, result)),
                },
            }
        }
        self.propose(pack, group);
        said
    }

    /// Whether what is queued now will be proposed, if nothing comes between.
    #[must_use]
    pub fn can_propose(&self, group: &Group) -> bool {
        group.can_propose() && group.term() == self.term
    }

    fn judge(
        &mut self,
        id: RequestId,
        batch: Bytes,
        pack: &mut Pack,
        group: &Group,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let header =
            BatchHeader::parse(&batch).map_err(|error| Error::new(ErrorCode::CorruptBatch, error.to_string()))?;
        let index = group.last_index().next();
        match self.producers.check(&header)? {
            Verdict::Duplicate { base_offset, index: written } => {
                let answer = Appended { base_offset, duplicate: true };
                if written == index {
                    pack.waiters.push((id, Ok(Answer::Appended(answer))));
                } else if let Some(in_flight) = self.in_flight.get_mut(&written)
                    && !planted::is(Planted::DuplicateAnsweredEarly)
                {
                    in_flight.waiters.push((id, Ok(Answer::Appended(answer))));
                } else {
                    reply(out, id, Ok(Answer::Appended(answer)));
                }
            }
            Verdict::Append => {
                let base_offset = self.append(&header, batch, pack, group);
                pack.waiters.push((id, Ok(Answer::Appended(Appended { base_offset, duplicate: false }))));
            }
        }
        Ok(())
    }

    /// Gives a batch its offset, as a part of the next entry.
    fn append(&mut self, header: &BatchHeader, batch: Bytes, pack: &mut Pack, group: &Group) -> Offset {
        let base_offset = self.next_offset;
        self.producers.record(header, base_offset, group.last_index().next());
        self.next_offset = base_offset.plus(u64::from(header.last_offset_delta) + 1);
        let mut batch = batch.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        header::stamp(&mut batch, base_offset, leader_epoch(self.term)).expect("its header parsed");
        pack.bytes += batch.len().next_multiple_of(BATCH_ALIGN);
        pack.batches.push(batch);
        base_offset
    }

    fn propose(&mut self, pack: Pack, group: &mut Group) {
        if pack.batches.is_empty() {
            return;
        }
        let index = group.propose(EntryKind::Batches, payload(pack.batches));
        // Offsets and sequences are given already; `flush` asked raft before.
        let index = index.expect("raft leads and takes proposals");
        self.in_flight.insert(index, InFlight { end_offset: self.next_offset, waiters: pack.waiters });
    }

    /// The entry that a request waits for, once it is proposed.
    #[must_use]
    pub fn index_of(&self, id: RequestId) -> Option<LogIndex> {
        let waits = |in_flight: &InFlight| in_flight.waiters.iter().any(|(waiter, _)| *waiter == id);
        self.in_flight.iter().rev().find(|(_, in_flight)| waits(in_flight)).map(|(index, _)| *index)
    }

    /// Whether somebody waits for what was taken.
    #[must_use]
    pub fn owes_answers(&self) -> bool {
        !self.queue.is_empty() || self.in_flight.values().any(|in_flight| !in_flight.waiters.is_empty())
    }

    /// Whether nothing is queued and everything proposed is known to be committed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Entries up to `committed` are durable on a quorum: answers who waited, and gives the new high watermark.
    pub fn on_committed(&mut self, committed: LogIndex, out: &mut Vec<Effect>) -> Option<Offset> {
        let mut high_watermark = None;
        while let Some(first) = self.in_flight.first_entry()
            && *first.key() <= committed
        {
            let done = first.remove();
            high_watermark = Some(done.end_offset);
            for (id, result) in done.waiters {
                reply(out, id, result);
            }
        }
        high_watermark
    }

    /// It leads no more: `in_flight` goes to who waits for entries that the next leader may commit or not, `queued` to
    /// whose batches were not proposed.
    pub fn fail(self, in_flight: &Error, queued: &Error, out: &mut Vec<Effect>) {
        for (id, _) in self.in_flight.into_values().flat_map(|in_flight| in_flight.waiters) {
            reply(out, id, Err(in_flight.clone()));
        }
        for id in self.queue.iter().filter_map(Queued::waiter) {
            reply(out, id, Err(queued.clone()));
        }
    }
}

/// Kafka's leader epoch has 31 bits; terms stay far below.
fn leader_epoch(term: Term) -> i32 {
    i32::try_from(term.get()).unwrap_or(i32::MAX)
}

/// One batch as it is; several with each on its boundary.
fn payload(mut batches: Vec<BytesMut>) -> Bytes {
    if batches.len() == 1
        && let Some(only) = batches.pop()
    {
        return only.freeze();
    }
    let bytes = batches.iter().map(|batch| batch.len().next_multiple_of(BATCH_ALIGN)).sum();
    let mut packed = BytesMut::with_capacity(bytes);
    for batch in batches {
        packed.resize(packed.len().next_multiple_of(BATCH_ALIGN), 0);
        packed.extend_from_slice(&batch);
    }
    packed.freeze()
}

fn reply(out: &mut Vec<Effect>, id: RequestId, result: Result<Answer, Error>) {
    out.push(Effect::Reply { id, result });
}
