//! Whether a read that follows keeps up: what a server can know of its lag.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How far a read has come. Written by the reader, read by who watches all of them.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    follows: bool,
    /// It has everything there is, and waits for more.
    waits: AtomicBool,
    /// When it had everything last, in milliseconds since it began.
    caught_up_ms: AtomicU64,
}

impl Progress {
    pub(crate) fn new(follows: bool) -> Self {
        Self { begun: Instant::now(), follows, waits: AtomicBool::new(false), caught_up_ms: AtomicU64::new(0) }
    }

    /// It has been handed everything there is, or there is more again.
    pub(crate) fn set_waits(&self, waits: bool) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.caught_up_ms.store(now_ms, Ordering::Relaxed);
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// Since when it has not had everything there is. A read with an end has no lag.
    pub(crate) fn behind(&self) -> Duration {
        if !self.follows || self.waits.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.begun.elapsed().saturating_sub(Duration::from_millis(self.caught_up_ms.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_more_is_not_behind() {
        let pause = || std::thread::sleep(Duration::from_millis(30));
        let (follows, ends) = (Progress::new(true), Progress::new(false));
        pause();
        assert!(follows.behind() >= Duration::from_millis(30), "it has read nothing yet");
        assert_eq!(ends.behind(), Duration::ZERO);
        follows.set_waits(true);
        pause();
        assert_eq!(follows.behind(), Duration::ZERO);
        follows.set_waits(false);
        let before = follows.behind();
        pause();
        assert!(before < Duration::from_millis(20) && follows.behind() >= Duration::from_millis(30));
    }
}
