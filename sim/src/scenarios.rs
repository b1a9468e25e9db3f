//! Worlds worth visiting: each a way of drawing options from a seed, and what running one gives.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    checker::{Anomaly, Kind},
    faults::Mix,
    network::Weather,
    options::Options,
    story::Story,
    world::{Outcome, World},
};

/// A scenario: its name, what it is for, and how it changes the options that were drawn.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name, on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    shape: fn(&mut Options),
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "mixed", about: "every fault, in a mix that is drawn", shape: |_| {} },
    Scenario {
        name: "membership",
        about: "every fault, while nodes come and go, lose their disks, and replicas move",
        shape: |options| {
            options.moves = true;
            // What a lost disk had must be copied first.
            options.settle_us *= 3;
        },
    },
    Scenario {
        name: "rot",
        about: "every fault, and segments of one node that decay or go in numbers: they are found and mended",
        shape: |options| {
            (options.mix.rot, options.mix.gone) = (6, 2);
            // All segments are read twice.
            options.settle_us *= 2;
        },
    },
    Scenario {
        name: "journal",
        about: "every fault, and the journal of one node decays: replicas in doubt are replaced",
        shape: |options| {
            options.mix.journal = 3;
            // All that it had must be copied first, as often as it is damaged.
            options.settle_us *= 3;
        },
    },
    Scenario {
        name: "full",
        about: "disks that fill up, often several at once",
        shape: |options| options.mix = Mix::FULL,
    },
    Scenario { name: "power", about: "power cuts, nothing else", shape: |options| options.mix = Mix::POWER },
    Scenario {
        name: "partitions",
        about: "a network that parts and loses, no crash",
        shape: |options| options.mix = Mix::PARTITIONS,
    },
    Scenario {
        name: "votes",
        about: "voters whose power goes as soon as they have given their vote",
        shape: |options| {
            let interval_us = 5_000_000;
            options.mix = Mix { vote: 1, interval_us, ..Mix::NONE };
        },
    },
    Scenario {
        name: "calm",
        about: "no fault at all",
        shape: |options| {
            options.mix = Mix::NONE;
            options.weather = Weather::CALM;
        },
    },
];

impl Scenario {
    /// The one of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
    }

    /// Its options for a seed.
    #[must_use]
    pub fn options(&self, seed: u64, nodes: u64, faults_s: u64) -> Options {
        let mut options = Options::drawn(seed, nodes, faults_s * 1_000_000);
        (self.shape)(&mut options);
        options
    }
}

/// Runs a world. A panic within it is an anomaly like any other.
///
/// # Errors
/// What should not have been; the first of it is what to look at.
pub fn run(options: &Options, story: Story) -> Result<Outcome, Vec<Anomaly>> {
    let world = World::new(options.clone(), story);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(outcome) if outcome.anomalies.is_empty() => Ok(outcome),
        Ok(outcome) => Err(outcome.anomalies),
        Err(panic) => Err(vec![Anomaly { kind: Kind::Died, what: format!("panic: {}", words(&*panic)) }]),
    }
}

/// Runs a world and writes its story down.
///
/// # Errors
/// As [`run`].
pub fn run_told(options: &Options, listener: impl io::Write + 'static) -> Result<Outcome, Vec<Anomaly>> {
    run(options, Story::told_to(listener))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<&str>().copied();
    words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
