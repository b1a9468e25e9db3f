//! Pauses between tries: growing, bounded, and jittered so that many clients do not come back at the same moment.

use std::time::Duration;

/// A small deterministic generator (splitmix64): for jitter and for where a sticky partitioner starts, never for ids.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded differently in every process and for every caller.
    pub(crate) fn from_entropy() -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        Self(high ^ low)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound` (0 for a bound of 0).
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        match self.next().checked_rem(bound) {
            Some(number) => number,
            None => 0,
        }
    }

    /// Between half of `pause` and all of it.
    pub(crate) fn jitter(&mut self, pause: Duration) -> Duration {
        let half = pause / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(self.below(spread.saturating_add(1)))
    }
}

/// How long to wait after a number of failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// After the first failure.
    pub(crate) min: Duration,
    /// However many there were.
    pub(crate) max: Duration,
}

impl Backoff {
    /// While a leader is being elected: how long a write pauses depends on it.
    pub(crate) const ELECTION: Self = Self { min: Duration::from_millis(100), max: Duration::from_millis(100) };
    /// While a server asks for patience.
    pub(crate) const BUSY: Self = Self { min: Duration::from_millis(50), max: Duration::from_secs(1) };

    /// The jittered pause after `failures` (from 1) in a row.
    pub(crate) fn pause(self, failures: u32, rng: &mut Rng) -> Duration {
        let doubled = self.min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        rng.jitter(doubled.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_spread() {
        let mut rng = Rng::new(7);
        let ms = |pause: Duration| pause.as_millis();
        for (failures, low, high) in
            [(0, 25, 50), (1, 25, 50), (2, 50, 100), (5, 400, 800), (6, 500, 1000), (99, 500, 1000)]
        {
            for _ in 0..100 {
                let pause = ms(Backoff::BUSY.pause(failures, &mut rng));
                assert!((low..=high).contains(&pause), "{failures} failures: {pause} ms");
            }
        }
        let pauses: std::collections::BTreeSet<_> = (0..20).map(|_| Backoff::ELECTION.pause(3, &mut rng)).collect();
        assert!(pauses.len() > 10);
        assert!(pauses.iter().all(|&pause| (50..=100).contains(&ms(pause))));
    }
}
