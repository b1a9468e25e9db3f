//! The test of the simulator itself: bugs are planted, and each must be found.
//!
//! A simulator that finds nothing says that there is nothing, or that it does not look. So mistakes that somebody could make
//! stand in the product, behind a feature that no release has (`levada_storage_engine::planted`): a sync left out, a vote given
//! twice, a leader that does not ask. For each [`trials`] says in which worlds it would do harm, and [`hunt`] visits one seed
//! after the other until something is found, or time is up: then the simulator lacks a fault, a client or a rule.
//!
//! **What counts as found**: any anomaly. A bug has many consequences, and which comes first is chance. That it was the bug, and
//! not the world, shows the control: every world in which one was found is visited again without it, and must be sound.

pub mod trials;

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use levada_storage_engine::planted::{Planted, plant};

use self::trials::Trial;
use crate::{
    checker::Anomaly,
    scenarios::{self, Scenario},
    story::Story,
};

/// How a bug was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// In which kind of world.
    pub trial: Trial,
    /// In which of them.
    pub seed: u64,
    /// What was wrong first.
    pub anomaly: Anomaly,
}

/// What came of looking for a bug.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Where it was found; `None`: nowhere.
    pub found: Option<Found>,
    /// How many worlds were visited.
    pub worlds: u64,
    /// How long that took.
    pub took: Duration,
}

/// Looks for a bug with so many threads, for so long at most.
#[must_use]
pub fn hunt(bug: Planted, trials: &[Trial], jobs: usize, budget: Duration) -> Hunt {
    #[allow(clippy::disallowed_methods, reason = "how long it took, out here")]
    let began = Instant::now();
    plant(Some(bug));
    let (next, is_over, found) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(None::<(u64, Found)>));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) && began.elapsed() < budget {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let at = usize::try_from(number).unwrap_or(0) % trials.len().max(1);
                    let (Some(trial), seed) = (trials.get(at), 1 + number / trials.len().max(1) as u64) else { return };
                    let Err(anomalies) = visit(trial, seed) else { continue };
                    is_over.store(true, Ordering::Relaxed);
                    let Some(anomaly) = anomalies.into_iter().next() else { return };
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    // Of several at once the first, so that it is the same next time.
                    if found.as_ref().is_none_or(|(before, _)| number < *before) {
                        *found = Some((number, Found { trial: *trial, seed, anomaly }));
                    }
                }
            });
        }
    });
    plant(None);
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner).map(|(_, found)| found);
    Hunt { found, worlds: next.into_inner(), took: began.elapsed() }
}

/// Visits one world, with the bug that is planted.
///
/// # Errors
/// What is wrong in it.
pub fn visit(trial: &Trial, seed: u64) -> Result<(), Vec<Anomaly>> {
    let scenario = Scenario::named(trial.scenario).expect("trials name scenarios that there are");
    scenarios::run(&scenario.options(seed, trial.nodes, trial.faults_s), Story::untold()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_has_worlds_in_which_it_is_looked_for() {
        for bug in Planted::ALL {
            let trials = trials::of(*bug);
            assert!(!trials.is_empty(), "{bug:?}");
            assert!(trials.iter().all(|trial| Scenario::named(trial.scenario).is_some()), "{bug:?}");
        }
    }

    #[test]
    fn a_bug_is_found_and_its_world_is_sound_without_it() {
        let bug = Planted::LeaderAloneAcknowledges;
        let hunt = hunt(bug, trials::of(bug), 1, Duration::from_secs(600));
        let found = hunt.found.expect("it shows in nearly every world");
        assert!(visit(&found.trial, found.seed).is_ok());
    }
}
