//! How the senders of a batch hear what became of it.
//!
//! All records of a batch share one outcome, so they share one place for it: a [`Delivery`] is that place and the
//! record's position in the batch. Sending a record allocates nothing for it.

use std::{
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, Waker},
};

use levada_protocol::ids::{Offset, PartitionId};

use super::record::Delivered;
use crate::error::DeliveryError;

/// What is called when the fate of a record is known.
pub type Callback = Box<dyn FnOnce(Result<Delivered, DeliveryError>) + Send>;

/// The outcome of one batch, once there is one.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    result: OnceLock<Result<(PartitionId, Offset), DeliveryError>>,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    wakers: Vec<Waker>,
    callbacks: Vec<(u32, Callback)>,
}

impl std::fmt::Debug for Waiters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiters").field("wakers", &self.wakers.len()).field("callbacks", &self.callbacks.len()).finish()
    }
}

impl Outcome {
    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody: first the callbacks, so that when a future of the batch resolves, and with it a flush, they have
    /// been called. Happens once; a second outcome is ignored.
    pub(super) fn resolve(&self, result: Result<(PartitionId, Offset), DeliveryError>) {
        let wakers = loop {
            let callbacks = {
                let mut waiters = self.waiters();
                if waiters.callbacks.is_empty() {
                    let first = self.result.set(result).is_ok();
                    debug_assert!(first, "a batch has one outcome");
                    break std::mem::take(&mut waiters.wakers);
                }
                std::mem::take(&mut waiters.callbacks)
            };
            for (index, callback) in callbacks {
                // A callback that panics must not keep the others of this task from being called.
                if panic::catch_unwind(AssertUnwindSafe(|| callback(of_record(&result, index)))).is_err() {
                    tracing::error!("producer.callback.panicked");
                }
            }
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Calls back with the outcome of the record at `index`, at once if it is known.
    pub(super) fn on_resolved(&self, index: u32, callback: Callback) {
        let known = {
            let mut waiters = self.waiters();
            // Looked at under the lock under which `resolve` sets it when no callback is left: none is forgotten.
            match self.of(index) {
                Some(result) => result,
                None => {
                    waiters.callbacks.push((index, callback));
                    return;
                }
            }
        };
        callback(known);
    }

    fn of(&self, index: u32) -> Option<Result<Delivered, DeliveryError>> {
        self.result.get().map(|result| of_record(result, index))
    }
}

/// The outcome of the record at `index`, from its batch's.
fn of_record(batch: &Result<(PartitionId, Offset), DeliveryError>, index: u32) -> Result<Delivered, DeliveryError> {
    let delivered =
        |&(partition, base): &(PartitionId, Offset)| Delivered { partition, offset: base.plus(index.into()) };
    batch.as_ref().map(delivered).map_err(Clone::clone)
}

/// What becomes of one record: a future of where it is, or why it was not acknowledged.
///
/// Resolves exactly once, also when the producer is dropped. Need not be awaited: the record is sent all the same.
#[derive(Debug)]
#[must_use = "a record is not durable before its delivery resolves"]
pub struct Delivery {
    outcome: Arc<Outcome>,
    index: u32,
    /// Where this future's waker stands among the batch's.
    waker: Option<usize>,
}

impl Delivery {
    pub(super) const fn new(outcome: Arc<Outcome>, index: u32) -> Self {
        Self { outcome, index, waker: None }
    }

    /// The outcome, if it is known already.
    #[must_use]
    pub fn now(&self) -> Option<Result<Delivered, DeliveryError>> {
        self.outcome.of(self.index)
    }
}

impl Future for Delivery {
    type Output = Result<Delivered, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.now() {
            return Poll::Ready(result);
        }
        let slot = self.waker;
        let place = {
            let mut waiters = self.outcome.waiters();
            if let Some(result) = self.now() {
                return Poll::Ready(result);
            }
            match slot.and_then(|slot| waiters.wakers.get_mut(slot)) {
                Some(waker) => {
                    waker.clone_from(cx.waker());
                    slot
                }
                None => {
                    waiters.wakers.push(cx.waker().clone());
                    Some(waiters.wakers.len() - 1)
                }
            }
        };
        self.waker = place;
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use levada_protocol::error::{Error, ErrorCode};

    use super::*;
    use crate::error::Written;

    #[test]
    fn all_records_of_a_batch_hear_the_outcome_once() {
        let outcome = Arc::new(Outcome::default());
        let heard = Arc::new(AtomicU64::new(0));
        let callback = |heard: &Arc<AtomicU64>| -> Callback {
            let heard = Arc::clone(heard);
            Box::new(move |result| {
                heard.fetch_add(result.unwrap().offset.get(), Ordering::Relaxed);
            })
        };
        outcome.on_resolved(1, callback(&heard));
        outcome.on_resolved(2, callback(&heard));
        let mut delivery = Delivery::new(Arc::clone(&outcome), 5);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(Pin::new(&mut delivery).poll(&mut cx).is_pending());
        }
        assert_eq!(outcome.waiters().wakers.len(), 1, "polling again takes no more room");
        outcome.resolve(Ok((PartitionId(3), Offset(100))));
        assert_eq!(heard.load(Ordering::Relaxed), 101 + 102);
        let expected = Delivered { partition: PartitionId(3), offset: Offset(105) };
        assert_eq!(Pin::new(&mut delivery).poll(&mut cx), Poll::Ready(Ok(expected)));
        outcome.on_resolved(7, callback(&heard));
        assert_eq!(heard.load(Ordering::Relaxed), 101 + 102 + 107, "a late callback is called at once");
    }

    #[test]
    fn nobody_hears_that_a_batch_is_done_before_its_callbacks_were_called() {
        let outcome = Arc::new(Outcome::default());
        let (of_outcome, early) = (Arc::clone(&outcome), Arc::new(AtomicU64::new(0)));
        let of_early = Arc::clone(&early);
        let callback = move |_| {
            of_early.fetch_add(Delivery::new(Arc::clone(&of_outcome), 0).now().map_or(0, |_| 1), Ordering::Relaxed);
            // One that comes while others are called is called too.
            let of_late = Arc::clone(&of_early);
            let late = move |_| {
                of_late.fetch_add(10, Ordering::Relaxed);
            };
            of_outcome.on_resolved(1, Box::new(late));
        };
        outcome.on_resolved(0, Box::new(callback));
        outcome.resolve(Ok((PartitionId(0), Offset(0))));
        assert_eq!(early.load(Ordering::Relaxed), 10);
        assert!(Delivery::new(outcome, 0).now().is_some());
    }

    #[test]
    fn a_failure_reaches_every_record() {
        let outcome = Arc::new(Outcome::default());
        let failure = DeliveryError { error: Error::new(ErrorCode::SchemaMismatch, "row 3"), written: Written::No };
        outcome.resolve(Err(failure.clone()));
        assert_eq!(Delivery::new(outcome, 9).now(), Some(Err(failure)));
    }
}
