//! How long this side waits for the other one to take or to send something: for a while; and for a moment only when others wait
//! for what is held meanwhile.
//!
//! A frame is paid for when it is announced, and an answer before it is read. Some who announce large frames and send nothing,
//! or fetch and do not read, could so hold all that there is for requests or answers, and everybody else would wait for them.

use std::time::Duration;

use metrics::counter;
use tokio::time::{Instant, timeout};

use super::connection::Held;
use crate::metrics as names;

/// The moment. Who has done nothing for so long is not slow, it is gone.
const MOMENT: Duration = Duration::from_secs(1);

/// Whether others wait for what is held.
type IsWaitedFor = fn(&Held) -> bool;

/// How long to wait, and of whom else there is to think.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience<'b> {
    most: Duration,
    /// What is held meanwhile, and whether others wait for that.
    held: Option<(&'b Held, IsWaitedFor)>,
    /// What the other side is when it does nothing, in metrics; `None` where it is no client.
    reason: Option<&'static str>,
}

impl From<Duration> for Patience<'_> {
    fn from(most: Duration) -> Self {
        Self { most, held: None, reason: None }
    }
}

impl<'b> Patience<'b> {
    /// Waits so long, if nobody waits for any of this.
    pub(crate) const fn new(most: Duration, held: &'b Held, is_waited_for: IsWaitedFor, reason: &'static str) -> Self {
        Self { most, held: Some((held, is_waited_for)), reason: Some(reason) }
    }

    /// How long it waits at most.
    pub(crate) const fn most(&self) -> Duration {
        self.most
    }

    /// What comes; `None` when it is not waited for any longer.
    pub(crate) async fn wait<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut what = std::pin::pin!(what);
        let end = Instant::now() + self.most;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if let Ok(came) = timeout(left.min(MOMENT), what.as_mut()).await {
                return Some(came);
            }
            if left <= MOMENT || self.held.is_some_and(|(held, is_waited_for)| is_waited_for(held)) {
                if let Some(reason) = self.reason {
                    counter!(names::CONNECTIONS_DROPPED.name, "reason" => reason).increment(1);
                }
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, pin::pin};

    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn it_ends_sooner_when_others_wait() {
        const LONG: Duration = Duration::from_secs(1000);
        let held = Held::new(10);
        assert!(Patience::from(Duration::from_millis(10)).wait(pending::<()>()).await.is_none());
        let patience = Patience::new(LONG, &held, Held::are_answers_waited_for, "stalled");
        assert_eq!(patience.wait(async { 7 }).await, Some(7));
        let _all = held.answers.take(10).await;
        let nobody_waits = timeout(3 * MOMENT, patience.wait(pending::<()>())).await;
        assert!(nobody_waits.is_err());
        let mut other = pin!(held.answers.take(1));
        assert!(poll!(&mut other).is_pending());
        assert!(patience.wait(pending::<()>()).await.is_none());
    }
}
