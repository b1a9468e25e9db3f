//! One partition's batches, in the order in which they will stand in the log.

mod failure;

use std::collections::VecDeque;

use levada_protocol::{
    batch::{BatchProducer, NewRecord, RowsBuilder, sequence_plus},
    error::{Error, ErrorCode},
    ids::{NodeId, Offset, Term, TopicPartition},
    limits::{BATCH_RECORDS_MAX, PRODUCER_BATCHES_REMEMBERED},
    source::ProducerIdentity,
};

use super::{
    Appended, Context, Effect, Time,
    batch::{Attempt, AttemptId, Batch, BatchId, Body},
};
use crate::{
    error::{CallError, DeliveryError},
    retry::Backoff,
};

const REMEMBERED: u64 = PRODUCER_BATCHES_REMEMBERED as u64;

/// A partition as its producer sees it.
///
/// Invariants:
/// - `queue` holds closed batches in order, oldest first; those in flight are its front, at most
///   [`PRODUCER_BATCHES_REMEMBERED`], all at one node and all of one identity;
/// - the signed ones are its front, too, and their sequences follow each other within an identity;
/// - from the oldest signed batch that is not acknowledged to the newest there are at most
///   [`PRODUCER_BATCHES_REMEMBERED`], those counted that were acknowledged out of turn: a broker remembers no more, and
///   would take the oldest one, sent again, for a gap;
/// - with `resend`, nothing is sent before every answer is in: then the front is sent again, in order. A batch whose
///   predecessor failed is refused by the broker, so this costs no more than the answers that are on their way;
/// - an identity that was given up is never used again here.
#[derive(Debug)]
pub(in crate::producer::core) struct Partition<D> {
    /// Where it stands among the producer's partitions.
    position: usize,
    pub(in crate::producer::core) name: TopicPartition,
    leader: Option<NodeId>,
    leader_epoch: Term,
    /// The leader is known by a redirect, which does not name its term: newer than `leader_epoch`.
    hinted: bool,
    identity: Option<ProducerIdentity>,
    next_sequence: i32,
    next_ordinal: u64,
    pub(in crate::producer::core) open: Option<Batch<D>>,
    queue: VecDeque<Batch<D>>,
    resend: bool,
    /// The open batch shall not wait for more records.
    hurry: bool,
    pause_until: Time,
    /// Rounds of failures since the last success.
    failures: u32,
    last_error: Option<Error>,
}

impl<D: Clone + Default> Partition<D> {
    pub(in crate::producer::core) const fn new(
        position: usize,
        name: TopicPartition,
        leader: Option<NodeId>,
        leader_epoch: Term,
    ) -> Self {
        Self {
            position,
            name,
            leader,
            leader_epoch,
            hinted: false,
            identity: None,
            next_sequence: 0,
            next_ordinal: 0,
            open: None,
            queue: VecDeque::new(),
            resend: false,
            hurry: false,
            pause_until: Time::ZERO,
            failures: 0,
            last_error: None,
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.iter().filter(|batch| batch.attempt.is_some()).count()
    }

    /// Batches closed and not acknowledged.
    pub(in crate::producer::core) fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// Whether another batch may be signed without the broker forgetting the oldest one.
    fn window_is_open(&self) -> bool {
        let oldest = self.queue.front().filter(|batch| batch.signed.is_some());
        oldest.is_none_or(|oldest| self.next_ordinal - oldest.ordinal < REMEMBERED)
    }

    /// Whether it can take more without growing a queue.
    pub(in crate::producer::core) fn is_flowing(&self) -> bool {
        self.leader.is_some() && self.failures == 0 && self.queue.len() < PRODUCER_BATCHES_REMEMBERED
    }

    /// Whether the open batch can be sent, or a leader for it be looked for, as soon as it is due.
    pub(in crate::producer::core) fn is_idle_enough(&self, now: Time) -> bool {
        !self.resend
            && self.pause_until <= now
            && self.window_is_open()
            && self.queue.iter().all(|batch| batch.attempt.is_some())
    }

    /// Everybody who waits for an outcome.
    pub(in crate::producer::core) fn outstanding(&self) -> impl Iterator<Item = D> {
        self.queue.iter().chain(&self.open).map(|batch| batch.delivery.clone())
    }

    /// The open batch will be sent as soon as it can be.
    pub(in crate::producer::core) const fn hurry(&mut self) {
        self.hurry = self.open.is_some();
    }

    /// Whether the open batch can take the record, too; an empty one can take any.
    pub(in crate::producer::core) fn has_room(&self, record: &NewRecord<'_>, batch_bytes: usize) -> bool {
        let Some(Batch { body: Body::Rows(rows), records, .. }) = &self.open else { return true };
        rows.bytes_with(record) <= batch_bytes && (*records as usize) < BATCH_RECORDS_MAX
    }

    /// Appends a record to the open batch, which has room for it.
    pub(in crate::producer::core) fn append(
        &mut self,
        record: &NewRecord<'_>,
        reserved: usize,
        batch_bytes: usize,
        batch_bytes_max: usize,
        cx: &mut Context<D>,
    ) -> Result<Appended<D>, Error> {
        let batch = self.open.get_or_insert_with(|| {
            Batch::open(cx.next_batch(), D::default(), RowsBuilder::with_capacity(batch_bytes), cx.now)
        });
        let appended = match &mut batch.body {
            Body::Rows(rows) => push(rows, record, batch_bytes_max),
            Body::Sealing | Body::Sealed(_) => Err(Error::new(ErrorCode::Internal, "the open batch is closed")),
        };
        match appended {
            Ok(index) => {
                batch.records = index + 1;
                batch.reserved += reserved;
                Ok(Appended { delivery: batch.delivery.clone(), index })
            }
            Err(error) => {
                self.open.take_if(|batch| batch.records == 0);
                Err(error)
            }
        }
    }

    /// Closes the open batch; the next record opens another.
    pub(in crate::producer::core) fn close_open(&mut self, cx: &mut Context<D>) {
        self.hurry = false;
        let Some(mut batch) = self.open.take() else { return };
        debug_assert!(batch.records > 0);
        if cx.settings.compress {
            match std::mem::replace(&mut batch.body, Body::Sealing) {
                Body::Rows(rows) => {
                    cx.sealing.insert(batch.id, self.position);
                    cx.effects.push(Effect::Seal { batch: batch.id, rows });
                }
                body => batch.body = body,
            }
        }
        self.queue.push_back(batch);
        cx.closed.push(self.position);
    }

    /// Takes note of who leads. Whatever is in flight at another node is not waited for: it may be written or not,
    /// and is sent again.
    pub(in crate::producer::core) fn set_leader(&mut self, leader: Option<NodeId>, epoch: Term, cx: &mut Context<D>) {
        let says_nothing_new = self.hinted || leader.is_none() || leader == self.leader;
        if epoch < self.leader_epoch || (epoch == self.leader_epoch && says_nothing_new) {
            return;
        }
        self.leader_epoch = epoch;
        self.leader = leader;
        self.hinted = false;
        if leader.is_some() {
            self.pause_until = cx.now;
            if self.queue.iter().filter_map(|batch| batch.attempt).any(|attempt| Some(attempt.node) != leader) {
                self.abandon_from(0, cx);
            }
        }
    }

    /// Takes a compressed batch back.
    pub(in crate::producer::core) fn on_sealed(
        &mut self,
        id: BatchId,
        sealed: Result<bytes::Bytes, Error>,
        cx: &mut Context<D>,
    ) {
        let Some(position) = self.queue.iter().position(|batch| batch.id == id) else { return };
        match sealed {
            Ok(bytes) => self.queue[position].body = Body::Sealed(bytes),
            Err(error) => self.fail(position, error, cx),
        }
    }

    /// Takes the answer to a try.
    pub(in crate::producer::core) fn on_answer(
        &mut self,
        id: AttemptId,
        answer: Result<Offset, CallError>,
        cx: &mut Context<D>,
    ) {
        let tried = |batch: &Batch<D>| batch.attempt.is_some_and(|attempt| attempt.id == id);
        let Some(position) = self.queue.iter().position(tried) else { return };
        match answer {
            Ok(base_offset) => {
                self.failures = 0;
                self.last_error = None;
                if let Some(batch) = self.queue.remove(position) {
                    self.deliver(batch, Ok(base_offset), cx);
                }
            }
            Err(failed) => self.on_failed(position, &failed, cx),
        }
    }

    /// Does what can be done now; answers when to look again.
    pub(in crate::producer::core) fn advance(&mut self, cx: &mut Context<D>) -> Option<Time> {
        self.expire(cx);
        self.send(cx);
        self.check();
        self.next_look(cx)
    }

    /// Sends what may be sent, in order.
    fn send(&mut self, cx: &mut Context<D>) {
        if self.resend && self.in_flight() > 0 {
            return;
        }
        self.resend = false;
        if cx.now < self.pause_until {
            return;
        }
        loop {
            let next = self.in_flight();
            if next >= PRODUCER_BATCHES_REMEMBERED
                || (next == self.queue.len() && !(self.window_is_open() && self.open_is_due(cx)))
            {
                return;
            }
            let Some(leader) = self.leader else {
                cx.refresh_wanted = true;
                self.pause_until = cx.now + Backoff::ELECTION.pause(1, &mut cx.rng);
                return;
            };
            if next == self.queue.len() {
                self.close_open(cx);
            }
            if !self.send_one(next, leader, cx) {
                return;
            }
        }
    }

    fn open_is_due(&self, cx: &Context<D>) -> bool {
        self.open.as_ref().is_some_and(|batch| self.hurry || batch.opened_at + cx.settings.linger <= cx.now)
    }

    /// Sends the batch at `position`, everything before which is in flight. False if it must wait.
    fn send_one(&mut self, position: usize, leader: NodeId, cx: &mut Context<D>) -> bool {
        if matches!(self.queue[position].body, Body::Sealing) {
            return false;
        }
        if self.queue[position].signed.is_none() {
            if !self.window_is_open() {
                return false;
            }
            let Some(producer) = self.next_signature(position, cx) else { return false };
            if let Err(error) = self.queue[position].sign(producer) {
                self.fail(position, error, cx);
                return true;
            }
            self.queue[position].ordinal = self.next_ordinal;
            self.next_ordinal += 1;
            self.next_sequence = sequence_plus(producer.base_sequence, self.queue[position].records);
        }
        // A batch of a new identity must not overtake those of the old one: a broker orders within an identity only.
        let identity = |batch: &Batch<D>| batch.signed.map(|signed| (signed.id, signed.epoch));
        if position > 0 && identity(&self.queue[0]) != identity(&self.queue[position]) {
            return false;
        }
        let batch = &mut self.queue[position];
        let Body::Sealed(bytes) = &batch.body else { return false };
        let id = cx.next_attempt();
        batch.attempt = Some(Attempt { id, node: leader, sent_at: cx.now, alone: position == 0 });
        cx.effects.push(Effect::Send { attempt: id, node: leader, partition: self.name, bytes: bytes.clone() });
        cx.attempts.insert(id, self.position);
        true
    }

    /// The signature of the first unsigned batch.
    fn next_signature(&mut self, position: usize, cx: &mut Context<D>) -> Option<BatchProducer> {
        let identity = match self.identity {
            Some(identity) => identity,
            // Signed only when it is the front, so that what is signed stays one identity.
            None if position > 0 => return None,
            None => {
                let identity = cx.identity()?;
                self.identity = Some(identity);
                self.next_sequence = 0;
                identity
            }
        };
        Some(BatchProducer { id: identity.id, epoch: identity.epoch, base_sequence: self.next_sequence })
    }

    fn deliver(&self, batch: Batch<D>, result: Result<Offset, DeliveryError>, cx: &mut Context<D>) {
        if let Some(attempt) = batch.attempt {
            cx.attempts.remove(&attempt.id);
        }
        cx.effects.push(Effect::Deliver {
            delivery: batch.delivery,
            partition: self.name.partition,
            records: batch.records,
            reserved: batch.reserved,
            result,
        });
    }

    /// When something happens here if nothing else does.
    fn next_look(&self, cx: &mut Context<D>) -> Option<Time> {
        let mut looks = [None; 4];
        let oldest = self.queue.front().or(self.open.as_ref());
        looks[0] = oldest.map(|batch| batch.opened_at + cx.settings.delivery_timeout);
        if let Some(sent_at) = self.queue.iter().filter_map(|batch| batch.attempt).map(|attempt| attempt.sent_at).min()
        {
            // The node may hang; perhaps another leads by now.
            let slow_at = sent_at + cx.settings.slow_after;
            if slow_at <= cx.now {
                cx.refresh_wanted = true;
            }
            looks[1] = Some(slow_at.max(cx.now + cx.settings.slow_after / 2));
        }
        if cx.now < self.pause_until && !(self.queue.is_empty() && self.open.is_none()) {
            looks[2] = Some(self.pause_until);
        }
        if self.is_idle_enough(cx.now) {
            looks[3] = self.open.as_ref().map(|batch| batch.opened_at + cx.settings.linger);
        }
        looks.into_iter().flatten().min()
    }

    /// The invariants that are cheap to check.
    fn check(&self) {
        debug_assert!(self.in_flight() <= PRODUCER_BATCHES_REMEMBERED);
        debug_assert!(
            self.queue.iter().is_sorted_by_key(|batch| batch.signed.is_none()),
            "signed batches are the front of the queue"
        );
        debug_assert!(
            self.resend || self.queue.iter().is_sorted_by_key(|batch| batch.attempt.is_none()),
            "batches in flight are the front of the queue"
        );
        debug_assert!(
            self.queue.iter().all(|batch| batch.attempt.is_none() || batch.signed.is_some()),
            "what is in flight is signed"
        );
    }
}

/// Appends a record to a batch; the very first one may be as large as the topic allows.
fn push(rows: &mut RowsBuilder, record: &NewRecord<'_>, batch_bytes_max: usize) -> Result<u32, Error> {
    let bytes = rows.bytes_with(record);
    if bytes > batch_bytes_max {
        return Err(Error::new(
            ErrorCode::RecordTooLarge,
            format!("a record makes a batch of {bytes} bytes; the topic takes {batch_bytes_max} (max.message.bytes)"),
        ));
    }
    rows.push(record)
        .map_err(|error| Error::new(ErrorCode::InvalidRequest, format!("a record cannot be sent: {error}")))
}
