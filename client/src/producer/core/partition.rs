//! One partition's batches, in the order in which they will stand in the log.

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
    verdict::Verdict,
};
use crate::{
    error::{CallError, DeliveryError, Written},
    retry::Backoff,
};

const REMEMBERED: u64 = PRODUCER_BATCHES_REMEMBERED as u64;
/// How often a batch may get a new identity because the broker does not know the old one.
const RENEWALS_MAX: u32 = 3;
/// Redirects that are followed without a pause.
const HOPS_MAX: u32 = 2;

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
pub(super) struct Partition<D> {
    /// Where it stands among the producer's partitions.
    position: usize,
    pub(super) name: TopicPartition,
    leader: Option<NodeId>,
    leader_epoch: Term,
    /// The leader is known by a redirect, which does not name its term: newer than `leader_epoch`.
    hinted: bool,
    identity: Option<ProducerIdentity>,
    next_sequence: i32,
    next_ordinal: u64,
    pub(super) open: Option<Batch<D>>,
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
    pub(super) const fn new(position: usize, name: TopicPartition, leader: Option<NodeId>, leader_epoch: Term) -> Self {
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
    pub(super) fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// Whether another batch may be signed without the broker forgetting the oldest one.
    fn window_is_open(&self) -> bool {
        let oldest = self.queue.front().filter(|batch| batch.signed.is_some());
        oldest.is_none_or(|oldest| self.next_ordinal - oldest.ordinal < REMEMBERED)
    }

    /// Whether it can take more without growing a queue.
    pub(super) fn is_flowing(&self) -> bool {
        self.leader.is_some() && self.failures == 0 && self.queue.len() < PRODUCER_BATCHES_REMEMBERED
    }

    /// Whether the open batch would be sent as soon as it is closed.
    pub(super) fn is_idle_enough(&self, now: Time) -> bool {
        self.leader.is_some()
            && !self.resend
            && self.pause_until <= now
            && self.window_is_open()
            && self.queue.iter().all(|batch| batch.attempt.is_some())
    }

    /// Everybody who waits for an outcome.
    pub(super) fn outstanding(&self) -> impl Iterator<Item = D> {
        self.queue.iter().chain(&self.open).map(|batch| batch.delivery.clone())
    }

    /// The open batch will be sent as soon as it can be.
    pub(super) const fn hurry(&mut self) {
        self.hurry = self.open.is_some();
    }

    /// Whether the open batch can take the record, too; an empty one can take any.
    pub(super) fn has_room(&self, record: &NewRecord<'_>, batch_bytes: usize) -> bool {
        let Some(Batch { body: Body::Rows(rows), records, .. }) = &self.open else { return true };
        rows.bytes_with(record) <= batch_bytes && (*records as usize) < BATCH_RECORDS_MAX
    }

    /// Appends a record to the open batch, which has room for it.
    pub(super) fn append(
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
    pub(super) fn close_open(&mut self, cx: &mut Context<D>) {
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
    pub(super) fn set_leader(&mut self, leader: Option<NodeId>, epoch: Term, cx: &mut Context<D>) {
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
    pub(super) fn on_sealed(&mut self, id: BatchId, sealed: Result<bytes::Bytes, Error>, cx: &mut Context<D>) {
        let Some(position) = self.queue.iter().position(|batch| batch.id == id) else { return };
        match sealed {
            Ok(bytes) => self.queue[position].body = Body::Sealed(bytes),
            Err(error) => self.fail(position, error, cx),
        }
    }

    /// Takes the answer to a try.
    pub(super) fn on_answer(&mut self, id: AttemptId, answer: Result<Offset, CallError>, cx: &mut Context<D>) {
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

    fn on_failed(&mut self, position: usize, failed: &CallError, cx: &mut Context<D>) {
        let batch = &mut self.queue[position];
        let Some(attempt) = batch.attempt.take() else { return };
        batch.may_be_written |= failed.may_have_happened();
        match Verdict::of(failed) {
            Verdict::Final => {
                let error = failed.error.clone();
                return self.fail(position, error, cx);
            }
            // Nothing was before it, so the broker has forgotten this producer. If the batch is certainly not in the
            // log, it can be sent as the first one of a new identity.
            Verdict::OutOfOrder if attempt.alone => {
                if batch.may_be_written || batch.renewals >= RENEWALS_MAX {
                    let error = failed.error.clone();
                    return self.fail(position, error, cx);
                }
                batch.renewals += 1;
                self.renew_from(position, cx);
                return;
            }
            // Its predecessor failed; its turn comes again after that.
            Verdict::OutOfOrder => {}
            Verdict::UnknownTopic => {
                cx.denied.push(self.name.topic);
                self.back_off(failed, Backoff::ELECTION, cx);
            }
            Verdict::Busy => self.back_off(failed, Backoff::BUSY, cx),
            Verdict::Elsewhere => self.go_elsewhere(attempt.node, failed, cx),
        }
        self.resend = true;
    }

    fn back_off(&mut self, failed: &CallError, backoff: Backoff, cx: &mut Context<D>) {
        if !self.resend {
            self.failures += 1;
        }
        self.last_error = Some(failed.error.clone());
        cx.refresh_wanted = true;
        self.pause_until = self.pause_until.max(cx.now + backoff.pause(self.failures, &mut cx.rng));
    }

    /// To where the error points, or to the next leader once one is known.
    fn go_elsewhere(&mut self, asked: NodeId, failed: &CallError, cx: &mut Context<D>) {
        if self.leader != Some(asked) {
            // Somebody knows better already.
            cx.refresh_wanted = true;
            self.last_error = Some(failed.error.clone());
            return;
        }
        self.hinted = false;
        let hint = failed.error.leader.as_deref().map(|leader| leader.node).filter(|&node| node != asked);
        if let Some(hint) = hint {
            self.leader = Some(hint);
            self.hinted = true;
            if self.failures < HOPS_MAX {
                self.failures += u32::from(!self.resend);
                self.last_error = Some(failed.error.clone());
                cx.refresh_wanted = true;
                return;
            }
        }
        self.back_off(failed, Backoff::ELECTION, cx);
    }

    /// Does what can be done now; answers when to look again.
    pub(super) fn advance(&mut self, cx: &mut Context<D>) -> Option<Time> {
        self.expire(cx);
        self.send(cx);
        self.check();
        self.next_look(cx)
    }

    /// Fails what took too long.
    fn expire(&mut self, cx: &mut Context<D>) {
        let is_late = |batch: &Batch<D>| batch.opened_at + cx.settings.delivery_timeout <= cx.now;
        if self.open.as_ref().is_some_and(is_late) {
            self.close_open(cx);
        }
        while self.queue.front().is_some_and(|batch| batch.opened_at + cx.settings.delivery_timeout <= cx.now) {
            let why = self.last_error.as_ref().or(cx.identity_error.as_ref());
            let why = why.map_or_else(|| "no answer".to_owned(), ToString::to_string);
            let error = Error::new(
                ErrorCode::Timeout,
                format!("not acknowledged within {:?}; last: {why}", cx.settings.delivery_timeout),
            );
            self.fail(0, error, cx);
        }
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

    /// A batch failed for good.
    ///
    /// If it was signed, its sequence numbers will never be in the log, or nobody knows. What was signed after it
    /// cannot be accepted without it. If it is certainly not in the log, neither are those: they get a new identity
    /// and are sent again. Otherwise nobody knows of them either, and sending them again may double them: they fail,
    /// too. What was never signed is not touched.
    fn fail(&mut self, position: usize, error: Error, cx: &mut Context<D>) {
        self.abandon_from(position, cx);
        let Some(batch) = self.queue.remove(position) else { return };
        let written = if batch.may_be_written { Written::Unknown } else { Written::No };
        let was_signed = batch.signed.is_some();
        tracing::debug!(partition = %self.name, records = batch.records, %error, ?written, "a batch failed");
        self.deliver(batch, Err(DeliveryError { error: error.clone(), written }), cx);
        if !was_signed {
            return;
        }
        if written == Written::No {
            self.renew_from(position, cx);
            return;
        }
        self.give_up_identity(cx);
        while self.queue.get(position).is_some_and(|batch| batch.signed.is_some()) {
            let Some(batch) = self.queue.remove(position) else { break };
            let error = Error::new(
                error.code,
                format!("an earlier batch of this partition failed and its fate is unknown: {}", error.message),
            );
            self.deliver(batch, Err(DeliveryError { error, written: Written::Unknown }), cx);
        }
    }

    /// Batches from `position` on, none of which can be in the log, start anew under another identity.
    fn renew_from(&mut self, position: usize, cx: &mut Context<D>) {
        self.abandon_from(position, cx);
        self.queue.iter_mut().skip(position).for_each(Batch::unsign);
        self.give_up_identity(cx);
    }

    fn give_up_identity(&mut self, cx: &mut Context<D>) {
        if let Some(identity) = self.identity.take() {
            cx.retire(identity);
        }
    }

    /// Stops waiting for the answers to the batches from `position` on.
    fn abandon_from(&mut self, position: usize, cx: &mut Context<D>) {
        for batch in self.queue.iter_mut().skip(position) {
            if let Some(attempt) = batch.attempt.take() {
                batch.may_be_written = true;
                cx.attempts.remove(&attempt.id);
            }
        }
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

    /// Fails everything; the producer goes away.
    pub(super) fn abort(&mut self, error: &Error, cx: &mut Context<D>) {
        self.abandon_from(0, cx);
        self.give_up_identity(cx);
        self.hurry = false;
        let batches: Vec<_> = self.queue.drain(..).chain(self.open.take()).collect();
        for batch in batches {
            let written = if batch.may_be_written { Written::Unknown } else { Written::No };
            self.deliver(batch, Err(DeliveryError { error: error.clone(), written }), cx);
        }
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
