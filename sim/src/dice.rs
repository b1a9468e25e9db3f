//! Chance, from the seed alone.

use std::ops::RangeInclusive;

use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::StdRng};

/// A stream of chance. Every part of a world has its own, so that one part drawing more does not change what the
/// others draw.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// The stream of this name in the world of this seed.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        let mixed = name.bytes().fold(seed ^ 0x9E37_79B9_7F4A_7C15, |hash, byte| {
            (hash.rotate_left(9) ^ u64::from(byte)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
        });
        Self(StdRng::seed_from_u64(mixed))
    }

    /// Any number: a seed for something else.
    pub fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number of the range, each as likely.
    pub fn between(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// True in so many of a million cases.
    pub fn chance_ppm(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.0.random_range(0..1_000_000) < ppm
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.chance_ppm(percent * 10_000)
    }

    /// An element, each as likely; `None` of nothing.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let last = of.len().checked_sub(1)?;
        of.get(self.0.random_range(0..=last)).copied()
    }

    /// A time around a mean, exponentially distributed and at most eight times as long: how long rare things take.
    pub fn around(&mut self, mean_us: u64) -> u64 {
        // In integers, so that no rounding of a platform can change a run: the position of the first one bit says
        // how many halvings, the rest lies evenly between two.
        let draw = self.0.next_u64();
        let halvings = u64::from(draw.leading_zeros().min(11));
        let low = mean_us * halvings * 7 / 10;
        low + self.between(0..=mean_us * 7 / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_follow_from_seed_and_name() {
        let draw = |seed, name| Dice::new(seed, name).seed();
        assert_eq!(draw(1, "network"), draw(1, "network"));
        assert_ne!(draw(1, "network"), draw(1, "faults"));
        assert_ne!(draw(1, "network"), draw(2, "network"));
    }

    #[test]
    fn draws_keep_to_their_bounds() {
        let mut dice = Dice::new(7, "test");
        assert!((0..1000).all(|_| (3..=5).contains(&dice.between(3..=5))));
        let hits = (0..10_000).filter(|_| dice.chance(30)).count();
        assert!((2700..3300).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| !dice.chance_ppm(0) && dice.chance(100)));
        assert_eq!(dice.pick::<u8>(&[]), None);
        let sum: u64 = (0..10_000).map(|_| dice.around(1000)).sum();
        assert!((9_000_000..12_000_000).contains(&sum), "{sum}");
        assert!((0..10_000).all(|_| dice.around(1000) <= 8_400));
    }
}
