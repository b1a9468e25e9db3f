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
        name: "recovery",
        about: "every fault, while majorities of nodes lose their disks for good: what is left goes on",
        shape: |options| {
            (options.moves, options.losses) = (true, true);
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
        name: "deposed",
        about: "a network that parts again and again, and clients in a hurry: they ask old leaders and new ones in turn",
        shape: |options| {
            options.mix = Mix { interval_us: 1_200_000, ..Mix::PARTITIONS };
            options.weather = Weather::CALM;
            options.workload.patience_us = 150_000;
            options.workload.filling_max = 50;
            options.day_us = None;
        },
    },
    Scenario {
        name: "crashes",
        about: "processes that end and power cuts, close together",
        shape: |options| {
            let interval_us = 300_000;
            options.mix = Mix { kill: 4, power: 1, all_percent: 30, interval_us, ..Mix::NONE };
        },
    },
    Scenario {
        name: "disks",
        about: "disks that fail, one or all at once, and power cuts",
        shape: |options| options.mix = Mix { fail: 3, power: 1, all_percent: 50, interval_us: 700_000, ..Mix::NONE },
    },
    Scenario {
        name: "slow",
        about: "slow disks under more load than they can bear, and power cuts: checkpoints take longer than journal files last",
        shape: |options| {
            options.mix = Mix { slow: 4, power: 3, all_percent: 30, interval_us: 500_000, ..Mix::NONE };
            let workload = &mut options.workload;
            (workload.partitions, workload.producers, workload.pace_us) = (4, 3, 5_000);
            (workload.records_max, workload.filling_max) = (20, 4_000);
            (options.journal_file_bytes, options.checkpoint_bytes) = (512 << 10, 64 << 10);
            options.tail_bytes_max = 8 << 20;
        },
    },
    Scenario {
        name: "lending",
        about: "one node's journal decays, so that its replicas are made anew, and another one misreads what it lends for that",
        shape: |options| {
            options.mix = Mix { misread: 3, journal: 2, interval_us: 700_000, ..Mix::NONE };
            options.settle_us *= 3;
        },
    },
    Scenario {
        name: "regroup",
        about: "nodes come and go and replicas move, and the network parts just when a group gets other members",
        shape: |options| {
            options.moves = true;
            options.parting_percent = 60;
            // Many groups, each with little to do.
            let workload = &mut options.workload;
            (workload.partitions, workload.producers, workload.pace_us) = (4, 1, 50_000);
            (workload.records_max, workload.filling_max) = (1, 50);
            options.mix = Mix { partition: 2, kill: 1, interval_us: 2_000_000, ..Mix::NONE };
            options.settle_us *= 3;
        },
    },
    Scenario {
        name: "absent",
        about: "no fault but a node that is away for long, from one night on in which everything sleeps",
        shape: |options| {
            options.mix = Mix::NONE;
            options.weather = Weather::CALM;
            options.day_us = Some(5_000_000);
            options.absence = true;
        },
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
