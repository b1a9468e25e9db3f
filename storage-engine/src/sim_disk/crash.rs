//! What a power cut does to a simulated disk.

use super::rng::Rng;

/// How much of what was not synced a power cut leaves. The same plan on the same disk gives the same image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    /// Where the choices are drawn from.
    pub seed: u64,
    /// How many of 100 unsynced sectors reached the platter.
    pub kept_percent: u8,
    /// How many of 100 of the others hold garbage instead of what they held before.
    pub garbage_percent: u8,
    /// How many of 100 unsynced changes of names are there.
    pub names_kept_percent: u8,
}

impl CrashPlan {
    /// Nothing that was not synced is left.
    pub const LOSE_ALL: Self = Self { seed: 0, kept_percent: 0, garbage_percent: 0, names_kept_percent: 0 };
    /// Everything is left, as when only the process dies.
    pub const KEEP_ALL: Self = Self { seed: 0, kept_percent: 100, garbage_percent: 0, names_kept_percent: 100 };

    /// A mixture that follows from the seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut pick = |choices: [u8; 4]| choices[usize::try_from(rng.below(4)).unwrap_or(0)];
        Self {
            seed,
            kept_percent: pick([10, 50, 90, 98]),
            garbage_percent: pick([0, 10, 50, 100]),
            names_kept_percent: pick([0, 50, 90, 100]),
        }
    }
}
