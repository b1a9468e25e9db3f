//! When the core's clock ticks.

use std::time::Duration;

use crate::raft::TICK_MS;

/// The most ticks at once. After a pause (the machine slept, the process was stopped) the rest is forgotten: a burst
/// would start elections although messages of a living leader wait in the queue.
const TICKS_AT_ONCE_MAX: u64 = 3;

/// Counts ticks of [`TICK_MS`].
#[derive(Debug)]
pub(super) struct Ticks {
    next_ms: u64,
}

impl Ticks {
    /// The first is due one tick after `now_ms`.
    pub(super) const fn new(now_ms: u64) -> Self {
        Self { next_ms: now_ms + TICK_MS }
    }

    /// How long until the next is due.
    pub(super) const fn wait(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.next_ms.saturating_sub(now_ms))
    }

    /// How many are due; they count as done.
    pub(super) fn take(&mut self, now_ms: u64) -> u64 {
        if now_ms < self.next_ms {
            return 0;
        }
        let due = (now_ms - self.next_ms) / TICK_MS + 1;
        if due > TICKS_AT_ONCE_MAX {
            self.next_ms = now_ms + TICK_MS;
            return TICKS_AT_ONCE_MAX;
        }
        self.next_ms += due * TICK_MS;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_catch_up_but_do_not_burst() {
        let mut ticks = Ticks::new(1000);
        assert_eq!((ticks.take(1000), ticks.take(1049), ticks.take(1050)), (0, 0, 1));
        assert_eq!(ticks.wait(1060), Duration::from_millis(40));
        assert_eq!(ticks.take(1155), 2, "late, and caught up");
        assert_eq!(ticks.wait(1155), Duration::from_millis(45), "without a drift");
        assert_eq!(ticks.take(61_000), 3, "a minute is not made up for");
        assert_eq!((ticks.take(61_049), ticks.take(61_050)), (0, 1));
        assert_eq!(ticks.wait(70_000), Duration::ZERO);
    }
}
