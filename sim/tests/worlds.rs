//! Worlds as they are: reproducible, sound, and not sound when they lie.

use std::collections::{BTreeMap, BTreeSet};

use levada_sim::{
    checker::Kind,
    faults::Mix,
    options::{Lie, Options},
    scenarios::{self, Scenario},
    story::Story,
    world::Outcome,
};

fn options(scenario: &str, seed: u64, faults_s: u64) -> Options {
    Scenario::named(scenario).expect("a scenario of that name").options(seed, 3, faults_s)
}

fn outcome(options: &Options) -> Outcome {
    scenarios::run(options, Story::untold()).unwrap_or_else(|anomalies| {
        panic!("seed {}: {}\n{options:?}", options.seed, anomalies[0]);
    })
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let first = outcome(&options("mixed", 1, 5));
    let again = outcome(&options("mixed", 1, 5));
    assert!(first.trace_lines > 1_000, "{}", first.trace_lines);
    assert_eq!((first.trace_hash, first.trace_lines), (again.trace_hash, again.trace_lines));
    assert_ne!(first.trace_hash, outcome(&options("mixed", 2, 5)).trace_hash);
}

#[test]
fn without_faults_everything_is_quick_and_sound() {
    let outcome = outcome(&options("calm", 1, 5));
    assert!(outcome.faults.is_empty());
    assert!(outcome.counts.acked > 100 && outcome.counts.read > outcome.counts.acked, "{:?}", outcome.counts);
}

#[test]
fn under_faults_every_promise_holds() {
    let (mut acked, mut read, mut faults) = (0, 0, BTreeSet::new());
    let (mut slept, mut woken) = (0, BTreeMap::new());
    for (scenario, seeds) in [("mixed", 1..=10), ("power", 1..=4), ("partitions", 1..=3)] {
        for seed in seeds {
            let outcome = outcome(&options(scenario, seed, 10));
            slept += outcome.slept;
            outcome.woken.into_iter().for_each(|(why, count)| *woken.entry(why).or_insert(0) += count);
            let Outcome { counts, faults: met, .. } = outcome;
            acked += counts.acked;
            read += counts.read;
            faults.extend(met.into_keys());
        }
    }
    // A promise that nobody asked for, or that nothing threatened, holds of itself.
    assert!(acked > 1_000 && read > acked, "{acked} acknowledged, {read} read");
    let all = ["disk failure", "full disk", "kill", "partition", "pause", "power cut", "restart", "slow disk"];
    let missing: Vec<_> = all.iter().filter(|fault| !faults.contains(*fault)).collect();
    assert!(missing.is_empty(), "{missing:?} never happened, only {faults:?}");
    // Groups sleep at night, and what wakes them in the field does here.
    assert!(slept > 50, "groups fell asleep {slept} times");
    for why in ["message", "request", "node_lost"] {
        assert!(woken.contains_key(why), "nothing was woken by {why}, only {woken:?}");
    }
}

/// A lie is found out within some seeds, as one of these.
fn is_found_out(lie: Lie, mix: Mix, expected: &[Kind]) {
    let mut found = Vec::new();
    for seed in 1..=20 {
        let options = Options { lie: Some(lie), mix, ..options("mixed", seed, 10) };
        found.extend(scenarios::run(&options, Story::untold()).err().unwrap_or_default());
        if found.iter().any(|anomaly| expected.contains(&anomaly.kind)) {
            return;
        }
    }
    panic!("{lie:?} was not found out, only {found:?}");
}

#[test]
fn a_journal_that_does_not_sync_is_found_out() {
    // The last night takes what was acknowledged, or a node notices that its journal lacks what was durable. That it is made anew
    // from the others is no excuse.
    is_found_out(Lie::SkipJournalSync, Mix::NONE, &[Kind::Lost, Kind::Damaged, Kind::Unopened]);
    let consequences = [Kind::Lost, Kind::TwoValues, Kind::Order, Kind::Damaged, Kind::Died, Kind::Unopened];
    is_found_out(Lie::SkipJournalSync, Mix::POWER, &consequences);
}

#[test]
fn a_journal_that_reports_too_early_is_found_out() {
    // What was acknowledged goes, replicas part, or a node notices that its journal lacks what was durable.
    let told = [Kind::Lost, Kind::TwoValues, Kind::Stale, Kind::Diverged];
    let noticed = [Kind::Damaged, Kind::Died, Kind::Unopened];
    is_found_out(Lie::EarlyCompletion, Mix::POWER, &[told.as_slice(), &noticed].concat());
}

#[test]
fn readers_of_what_is_not_committed_are_found_out() {
    is_found_out(Lie::ReadUncommitted, Mix::PARTITIONS, &[Kind::Lost, Kind::TwoValues, Kind::Diverged]);
}

#[test]
fn bounds_from_whoever_is_asked_are_found_out() {
    is_found_out(Lie::StaleBounds, Mix::NONE, &[Kind::Stale]);
}

#[test]
fn what_is_left_of_majorities_goes_on_with_everything() {
    let mut lost = 0;
    for seed in 1..=8 {
        let outcome = outcome(&options("recovery", seed, 15));
        lost += outcome.faults.get("lost majority").copied().unwrap_or(0);
    }
    assert!(lost > 5, "majorities were lost {lost} times");
}
