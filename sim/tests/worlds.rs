//! Worlds as they are: reproducible, sound, and not sound when they lie.

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
    for (scenario, seeds) in [("mixed", 1..=10), ("power", 1..=4), ("partitions", 1..=3)] {
        for seed in seeds {
            outcome(&options(scenario, seed, 10));
        }
    }
}

/// A lie is found out within some seeds.
fn is_found_out(lie: Lie, mix: Mix, expected: &[Kind]) {
    let found = (1..=20).find_map(|seed| {
        let options = Options { lie: Some(lie), mix, ..options("mixed", seed, 10) };
        scenarios::run(&options, Story::untold()).err()
    });
    let found = found.unwrap_or_else(|| panic!("{lie:?} was not found out"));
    assert!(expected.contains(&found[0].kind), "{lie:?} looks like {}", found[0]);
}

#[test]
fn a_journal_that_does_not_sync_is_found_out() {
    // What was promised is gone, or what is left contradicts itself so that a node does not even start.
    is_found_out(Lie::SkipJournalSync, Mix::POWER, &[Kind::Lost, Kind::TwoValues, Kind::Diverged, Kind::Died]);
}

#[test]
fn a_journal_that_reports_too_early_is_found_out() {
    is_found_out(Lie::EarlyCompletion, Mix::POWER, &[Kind::Lost, Kind::TwoValues, Kind::Diverged, Kind::Died]);
}

#[test]
fn readers_of_what_is_not_committed_are_found_out() {
    is_found_out(
        Lie::ReadUncommitted,
        Mix::PARTITIONS,
        &[Kind::Lost, Kind::TwoValues, Kind::Diverged, Kind::Duplicate],
    );
}

#[test]
fn bounds_from_whoever_is_asked_are_found_out() {
    is_found_out(Lie::StaleBounds, Mix::NONE, &[Kind::Stale]);
}
