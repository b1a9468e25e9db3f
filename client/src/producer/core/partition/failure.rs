//! What becomes of a batch whose try failed, and of those behind it.

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::NodeId,
};

use super::{
    super::{batch::Batch, context::Context, verdict::Verdict},
    Partition,
};
use crate::{
    error::{CallError, DeliveryError, Written},
    retry::Backoff,
};

/// How often a batch may get a new identity because the broker does not know the old one.
const RENEWALS_MAX: u32 = 3;
/// Redirects that are followed without a pause.
const HOPS_MAX: u32 = 2;

impl<D: Clone + Default> Partition<D> {
    /// A try failed.
    pub(super) fn on_failed(&mut self, position: usize, failed: &CallError, cx: &mut Context<D>) {
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

    /// Fails what took too long.
    pub(super) fn expire(&mut self, cx: &mut Context<D>) {
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

    /// A batch failed for good.
    ///
    /// If it was signed, its sequence numbers will never be in the log, or nobody knows. What was signed after it
    /// cannot be accepted without it. If it is certainly not in the log, neither are those: they get a new identity
    /// and are sent again. Otherwise nobody knows of them either, and sending them again may double them: they fail,
    /// too. What was never signed is not touched.
    pub(super) fn fail(&mut self, position: usize, error: Error, cx: &mut Context<D>) {
        self.abandon_from(position, cx);
        let Some(batch) = self.queue.remove(position) else { return };
        let written = if batch.may_be_written { Written::Unknown } else { Written::No };
        let was_signed = batch.signed.is_some();
        tracing::debug!(partition = %self.name, records = batch.records, %error, ?written, "producer.batch.failed");
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
    pub(super) fn abandon_from(&mut self, position: usize, cx: &mut Context<D>) {
        for batch in self.queue.iter_mut().skip(position) {
            if let Some(attempt) = batch.attempt.take() {
                batch.may_be_written = true;
                cx.attempts.remove(&attempt.id);
            }
        }
    }

    /// Fails everything; the producer goes away.
    pub(in crate::producer::core) fn abort(&mut self, error: &Error, cx: &mut Context<D>) {
        self.abandon_from(0, cx);
        self.give_up_identity(cx);
        self.hurry = false;
        let batches: Vec<_> = self.queue.drain(..).chain(self.open.take()).collect();
        for batch in batches {
            let written = if batch.may_be_written { Written::Unknown } else { Written::No };
            self.deliver(batch, Err(DeliveryError { error: error.clone(), written }), cx);
        }
    }
}
