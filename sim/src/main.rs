//! Runs simulated worlds and reports what they found.

#[cfg(feature = "planted")]
mod hunts;

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use levada_sim::{
    checker::{Anomaly, Kind},
    options::Options,
    scenarios::{self, SCENARIOS, Scenario},
    story::Story,
    twice,
    world::Outcome,
};

/// Sectors of disks, messages and events come and go by the million.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates whole clusters under faults and checks every promise they make.
#[derive(Parser)]
#[command(name = "levada-sim")]
struct Args {
    /// How many worlds, of the seeds from `--first` on.
    #[arg(long, default_value_t = 20, conflicts_with = "seed")]
    seeds: u64,
    /// Instead of so many worlds: until so many simulated hours count, those of worlds with 50 operations a second, an
    /// election, a recovery from a crash and a disk fault.
    #[arg(long, value_name = "HOURS", conflicts_with_all = ["seed", "seeds"])]
    hours: Option<f64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of faults in each world, in its own time.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time: u64,
    /// Nodes of each cluster.
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// What kind of world: mixed, membership, recovery, rot, journal, full, power, partitions, deposed, crashes, disks, slow, lending,
    /// regroup, absent, votes, calm; several, with commas, or all take turns.
    #[arg(long, default_value = "mixed", value_parser = taking_turns)]
    scenario: Turns,
    /// Print the story of each world.
    #[arg(long)]
    trace: bool,
    /// Run each world twice: both runs must tell the same story. If not, says at which line they part.
    #[arg(long, conflicts_with = "trace")]
    twice: bool,
    /// Worlds at a time; by default as many as there are processors.
    #[arg(long)]
    jobs: Option<usize>,
    #[cfg(feature = "planted")]
    #[command(flatten)]
    hunts: hunts::Args,
}

/// Scenarios that take turns.
#[derive(Clone)]
struct Turns(Vec<Scenario>);

impl Turns {
    fn of(&self, seed: u64) -> Scenario {
        self.0[usize::try_from(seed).unwrap_or(0) % self.0.len()]
    }
}

fn taking_turns(names: &str) -> Result<Turns, String> {
    let all = || Ok(SCENARIOS.to_vec());
    (if names == "all" { all() } else { names.split(',').map(scenario).collect() }).map(Turns)
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::named(name).ok_or_else(|| {
        let known: Vec<String> = SCENARIOS.iter().map(|s| format!("{} ({})", s.name, s.about)).collect();
        format!("there are {}", known.join(", "))
    })
}

const HOUR_US: f64 = 3_600e6;
/// After so many failures it is known that something is wrong.
const FAILED_MAX: usize = 20;

/// What all worlds together came to.
#[derive(Default)]
struct Sum {
    passed: u64,
    failed: Vec<u64>,
    /// Among the failed: those whose runs differ.
    differ: u64,
    /// All stories together.
    trace_hash: u64,
    trace_lines: u64,
    lasted_us: u64,
    /// Of worlds that count.
    counted_us: u64,
    /// What others lacked.
    lacking: BTreeMap<&'static str, u64>,
    operations: u64,
    elections: u64,
    recoveries: u64,
    acked: u64,
    read: u64,
    bounds: u64,
    faults: BTreeMap<&'static str, u32>,
    slept: u64,
    woken: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.passed += 1;
        self.trace_hash = self.trace_hash.wrapping_add(outcome.trace_hash);
        self.trace_lines += outcome.trace_lines;
        self.lasted_us += outcome.lasted_us;
        match outcome.lacks() {
            None => self.counted_us += outcome.lasted_us,
            Some(what) => *self.lacking.entry(what).or_default() += 1,
        }
        self.operations += outcome.operations;
        self.elections += outcome.elections;
        self.recoveries += outcome.recoveries;
        self.acked += outcome.counts.acked;
        self.read += outcome.counts.read;
        self.bounds += outcome.counts.bounds;
        for (fault, count) in &outcome.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.slept += outcome.slept;
        for (why, count) in &outcome.woken {
            *self.woken.entry(why).or_default() += count;
        }
    }
}

#[allow(clippy::print_stdout, reason = "this is a command's output")]
fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(feature = "planted")]
    if args.hunts.are_wanted() {
        return hunts::run(&args.hunts, args.jobs.unwrap_or_else(processors));
    }
    let (first, count) = args.seed.map_or((args.first, args.seeds), |seed| (seed, 1));
    let wanted_us = args.hours.map(|hours| {
        let wanted = Duration::try_from_secs_f64(hours * 3_600.0).unwrap_or(Duration::MAX);
        u64::try_from(wanted.as_micros()).unwrap_or(u64::MAX)
    });
    #[allow(clippy::disallowed_methods, reason = "how long the worlds took, out here")]
    let began = Instant::now();
    let (next, sum) = (AtomicU64::new(first), Mutex::new(Sum::default()));
    let jobs = if args.trace { 1 } else { args.jobs.unwrap_or_else(processors) };
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_enough = match wanted_us {
                        None => seed >= first + count,
                        Some(wanted_us) => {
                            let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                            sum.counted_us >= wanted_us || sum.failed.len() >= FAILED_MAX
                        }
                    };
                    if is_enough {
                        return;
                    }
                    let scenario = args.scenario.of(seed);
                    let options = scenario.options(seed, args.nodes, args.time);
                    let result = visit(&args, &options);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    match result {
                        Ok(outcome) => {
                            if count == 1 {
                                println!(
                                    "seed {seed}: hash {:016x}, {} lines",
                                    outcome.trace_hash, outcome.trace_lines
                                );
                            }
                            sum.add(&outcome);
                        }
                        Err(anomalies) => {
                            sum.failed.push(seed);
                            sum.differ += u64::from(anomalies.iter().any(|anomaly| anomaly.kind == Kind::Differs));
                            report(&args, scenario, &options, &anomalies);
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (simulated_s, took_s) = (sum.lasted_us as f64 / 1e6, began.elapsed().as_secs_f64());
    println!("faults: {:?}", sum.faults);
    println!("groups fell asleep {} times, woken {:?}", sum.slept, sum.woken);
    println!("checked: {} records acknowledged, {} read, {} bounds", sum.acked, sum.read, sum.bounds);
    println!(
        "{} operations answered, {} elections, {} recoveries from crashes",
        sum.operations, sum.elections, sum.recoveries
    );
    println!(
        "{:.2} simulated hours count; worlds that lacked something: {:?}",
        sum.counted_us as f64 / HOUR_US,
        sum.lacking
    );
    println!("{} lines of stories, their hash {:016x}", sum.trace_lines, sum.trace_hash);
    println!("{simulated_s:.0} simulated seconds in {took_s:.1} s: {:.0} times real time", simulated_s / took_s);
    if args.twice {
        let worlds = sum.passed + sum.failed.len() as u64;
        println!("same seed, same hash: {} of {worlds}", worlds - sum.differ);
    }
    println!("{} passed, {} failed", sum.passed, sum.failed.len());
    if !sum.failed.is_empty() {
        println!("failed seeds: {:?}", sum.failed);
    }
    let _ = std::io::stdout().flush();
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a world, as it is wanted.
fn visit(args: &Args, options: &Options) -> Result<Outcome, Vec<Anomaly>> {
    match () {
        () if args.twice => twice::run(options),
        () if args.trace => scenarios::run_told(options, std::io::stdout()),
        () => scenarios::run(options, Story::untold()),
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[allow(clippy::print_stdout, reason = "this is a command's output")]
fn report(args: &Args, scenario: Scenario, options: &Options, anomalies: &[Anomaly]) {
    println!("seed {} FAILED", options.seed);
    for anomaly in anomalies.iter().take(10) {
        println!("  {anomaly}");
    }
    println!("  {options:?}");
    println!(
        "  again: cargo xtask sim --scenario {} --nodes {} --time {} --seed {} {}",
        scenario.name,
        args.nodes,
        args.time,
        options.seed,
        if args.twice { "--twice" } else { "--trace" }
    );
}
