//! Tasks that end together.
#![allow(clippy::disallowed_methods, reason = "the one place that spawns tasks")]

use std::time::Duration;

use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Starts tasks on a runtime, and ends them.
#[derive(Clone, Debug)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// On this runtime.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Starts a task; [`Tasks::stop`] drops it wherever it waits. May be called from any thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn_on(
            async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled_owned() => {}
                    () = task => {}
                }
            },
            &self.runtime,
        );
    }

    /// Lets all tasks end by themselves, and ends those that have not after `grace`.
    pub async fn finish(&self, grace: Duration) {
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            self.stop().await;
        }
    }

    /// Ends all tasks and waits until they are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

/// Ends all tasks when it is dropped, without waiting.
#[derive(Debug)]
pub(crate) struct Stopper(pub(crate) Tasks);
