//! The clock.
#![allow(clippy::disallowed_methods, reason = "the one place that looks at the clock")]

use std::time::{Duration, Instant, SystemTime};

use levada_protocol::context::RequestContext;

use crate::node::event::Now;

/// The process's clock, counting from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts to count.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The time as the node core wants it.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Now { mono_ms: self.mono_ms(), wall_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX) }
    }

    /// Milliseconds since it was made.
    #[must_use]
    pub fn mono_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds from its making to an instant; 0 for one before.
    #[must_use]
    pub(crate) fn mono_ms_of(&self, instant: Instant) -> u64 {
        u64::try_from(instant.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Now, for measuring.
#[must_use]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// When a request must be answered: by its own deadline, at most after `most`.
#[must_use]
pub(crate) fn deadline(ctx: &RequestContext, most: Duration) -> Instant {
    let last = Instant::now() + most;
    ctx.deadline.map_or(last, |deadline| deadline.min(last))
}

/// How long there is until an instant.
#[must_use]
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
