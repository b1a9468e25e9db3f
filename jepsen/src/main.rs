//! `jepsen`: attacks a cluster, and judges it.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use levada_checkers::{
    history::Op,
    shrink::Progress,
    verdict::{self, Check, Verdict},
};
use levada_jepsen::{
    keeper,
    nemesis::{Family, Targets},
    net::Env,
    results::Results,
    run::Options,
    sandbox,
    seed::Seed,
    serve, shell, shrink,
    stage::{Disk, Lie},
    suite::{self, Expected, Suite},
    workload::{Orders, WITH_GAPS, Workload},
};
use levada_tests::clock::FakeClock;

/// Where the server is.
const BINARY: &str = "TEST_LEVADA_BINARY";

/// Attacks a cluster of real Levada processes, and judges what its clients were told.
///
/// Ends with 0 when nothing was wrong, with 1 when something was, with 2 when too little happened to say so, and with 3 when
/// the harness itself failed.
#[derive(Parser)]
#[command(name = "jepsen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run: clients work, faults strike, everything is read and judged.
    Run(Run),
    /// Plays a run again, with the options and the seed that it kept. What is drawn is the same, when things happen is not.
    Replay {
        /// The directory of a run, or a seed: then the latest run below `--out` that had it.
        run: String,
        #[command(flatten)]
        place: Place,
    },
    /// Several runs, by name.
    Suite {
        /// Which; `jepsen suite list` tells what is in each.
        #[arg(value_enum)]
        suite: SuiteName,
        /// Only this one of its scenarios.
        #[arg(long)]
        only: Option<String>,
        /// Where runs are kept.
        #[arg(long, default_value = "store")]
        out: PathBuf,
    },
    /// Sees whether a cluster that loses what it acknowledged is found out.
    Selftest {
        /// Where runs are kept.
        #[arg(long, default_value = "store")]
        out: PathBuf,
    },
    /// Shows kept runs in a browser.
    Serve {
        /// Where runs are kept.
        #[arg(default_value = "store")]
        store: PathBuf,
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: std::net::SocketAddr,
    },
    /// Judges a history once more.
    Check {
        /// A `history.jsonl.zst`, or a `minimal.jsonl.zst`.
        history: PathBuf,
        /// Records were left out of what reads showed, as `shrink` does: what is not there is not missing.
        #[arg(long)]
        gaps: bool,
    },
    /// Leaves of an INVALID run's history what still shows the anomaly, and tells it as a story.
    Shrink {
        /// The directory of a run.
        store: PathBuf,
        /// Which kind of anomaly, such as `lost-write`. The first that was found, if it is not given.
        #[arg(long)]
        kind: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum SuiteName {
    /// One run: a minute and a half.
    Smoke,
    /// What every change must pass.
    Ci,
    /// All scenarios, for hours.
    Nightly,
    /// Says what is in each, and runs nothing.
    List,
}

#[derive(clap::Args)]
struct Run {
    /// What clients do.
    #[arg(long, value_enum, default_value = "queue")]
    workload: Workload,
    /// Servers. Five at most found a cluster.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=5))]
    nodes: u64,
    /// What goes wrong, separated by commas. Nothing, if it is not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    nemesis: Vec<Family>,
    /// How many nodes a fault of processes or disks hits at once.
    #[arg(long, value_enum, default_value = "any")]
    targets: Targets,
    /// How long it goes wrong, in seconds; up to five times as long, until enough was acknowledged and every family has bitten.
    #[arg(long, default_value_t = 60)]
    time: u64,
    /// How often every family must bite. A run in which one did not proves nothing.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    bites: u64,
    /// Between two faults of one kind, in seconds, on average.
    #[arg(long, default_value_t = 8)]
    interval: u64,
    /// Between what they are: networks of namespaces, or proxies on loopback, which need no root. Namespaces if the system lets this
    /// user have some, if it is not given.
    #[arg(long, value_enum)]
    env: Option<Env>,
    /// On what nodes store: a directory each, or a file system each whose power can be cut and which can be full.
    #[arg(long, value_enum, default_value = "dir")]
    disk: Disk,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 8)]
    keys: u32,
    /// Processes that send; 32 share a producer.
    #[arg(long, default_value_t = 256)]
    clients: u32,
    /// Records sent in a second, by all of them; 0: as many as they can.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Everything drawn follows from it (when things happen does not). Drawn, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// With fewer records acknowledged the run proves nothing.
    #[arg(long, default_value_t = 1_000)]
    acked_min: u64,
    /// Deceive the servers, to see that it is noticed: the verdict should be INVALID.
    #[arg(long, value_enum)]
    lie: Option<Lie>,
    #[command(flatten)]
    place: Place,
}

/// What is not about the run itself.
#[derive(clap::Args)]
struct Place {
    /// The server. Built, if it is not given.
    #[arg(long, env = BINARY)]
    binary: Option<PathBuf>,
    /// Where runs are kept, a directory each.
    #[arg(long, default_value = "store")]
    out: PathBuf,
    /// Keep the nodes' data, too.
    #[arg(long)]
    keep: bool,
    /// Say nothing until the end.
    #[arg(long)]
    quiet: bool,
}

impl Run {
    fn options(self) -> Options {
        let seed = self.seed.unwrap_or_else(rand::random);
        let options = Options {
            binary: PathBuf::new(),
            workload: self.workload,
            families: self.nemesis,
            targets: self.targets,
            nodes: self.nodes,
            env: self.env.unwrap_or_else(possible_env),
            disk: self.disk,
            time: Duration::from_secs(self.time),
            bites_min: self.bites,
            interval: Duration::from_secs(self.interval),
            orders: Orders {
                keys: self.keys,
                replicas: u32::try_from(self.nodes.min(3)).unwrap_or(3),
                clients: self.clients,
                rate: self.rate,
                seed,
            },
            acknowledged_min: self.acked_min,
            out: PathBuf::new(),
            keep: false,
            lie: self.lie,
            quiet: false,
        };
        self.place.of(options)
    }
}

impl Place {
    /// There.
    fn of(self, options: Options) -> Options {
        let Self { binary, out, keep, quiet } = self;
        let binary = binary.unwrap_or_else(|| levada_tests::tools::levada().to_owned());
        Options { binary, out, keep, quiet, ..options }
    }
}

/// Namespaces, if there can be some.
#[allow(clippy::print_stderr, reason = "this is a command's progress")]
fn possible_env() -> Env {
    if rustix::process::getuid().is_root() {
        install("nft", "nftables");
    }
    let Some(why) = sandbox::unavailable() else { return Env::Netns };
    eprintln!("no namespaces here ({why}): this is --env proxy");
    Env::Proxy
}

/// Makes ready what needs the network: the programs of the system. What the process inside is to have in its environment.
fn prepare(options: &Options) -> Result<Vec<(&'static str, OsString)>> {
    if options.env == Env::Netns {
        install("nft", "nftables");
    }
    if options.lie.is_some() || options.families.iter().any(|family| matches!(family, Family::Slow | Family::Eio)) {
        install("strace", "strace");
    }
    if options.families.contains(&Family::Clock) {
        FakeClock::fetch()?;
    }
    Ok(vec![(BINARY, options.binary.clone().into())])
}

/// Plays a run, and says before what it is, if there is something to say.
fn play(options: &Options, what: Option<&str>) -> Result<Verdict> {
    options.check()?;
    match options.env {
        Env::Netns => sandbox::enter(|| prepare(options))?,
        Env::Proxy => {
            sandbox::end_with_parent()?;
            prepare(options)?;
        }
    }
    what.into_iter().for_each(tell);
    let (results, store) = options.run()?;
    show(&results);
    tell(&format!("report: {}", store.join("report.html").display()));
    Ok(results.verdict)
}

fn main() -> ExitCode {
    if keeper::was_one() {
        return ExitCode::SUCCESS;
    }
    let cli = Cli::parse();
    match execute(cli) {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Invalid) => ExitCode::from(1),
        Ok(Verdict::Inconclusive) => ExitCode::from(2),
        Err(error) => {
            fail(&error);
            ExitCode::from(3)
        }
    }
}

/// Has a program there, if this system lets it: whoever cannot install it is told when it is needed.
#[allow(clippy::print_stderr, reason = "this is a command's progress")]
fn install(program: &str, package: &str) {
    if shell::has(program) {
        return;
    }
    eprintln!("{program} is missing: installing {package}");
    let install = || shell::run("apt-get", ["install", "--yes", "--quiet", package]);
    if install().is_err() {
        // It may not know yet what there is.
        let updated = shell::run("apt-get", ["update", "--quiet"]);
        if let Err(error) = updated.and_then(|()| install()) {
            eprintln!("{error:#}");
        }
    }
}

#[allow(clippy::print_stderr, reason = "this is a command's last word")]
fn fail(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn execute(cli: Cli) -> Result<Verdict> {
    match cli.command {
        Command::Run(run) => play(&run.options(), None),
        Command::Replay { run, place } => {
            let (dir, seed) = Seed::find(&run, &place.out)?;
            let what = format!("again what {} was, of the harness {} and {}", dir.display(), seed.version, seed.build);
            play(&place.of(seed.options), Some(&what))
        }
        Command::Suite { suite, only, out } => {
            let suite = match suite {
                SuiteName::Smoke => Suite::Smoke,
                SuiteName::Ci => Suite::Ci,
                SuiteName::Nightly => Suite::Nightly,
                SuiteName::List => {
                    list();
                    return Ok(Verdict::Valid);
                }
            };
            let chosen: Vec<_> =
                suite.scenarios().filter(|one| only.as_ref().is_none_or(|only| only == one.name)).collect();
            anyhow::ensure!(!chosen.is_empty(), "there is no such scenario in it: see `jepsen suite list`");
            Ok(verdict_of(suite::play(chosen, Expected::Valid, &out)?))
        }
        Command::Selftest { out } => Ok(verdict_of(suite::play([&suite::SELF_TEST], Expected::BrokenLog, &out)?)),
        Command::Serve { store, listen } => {
            serve::serve(&store, listen)?;
            Ok(Verdict::Valid)
        }
        Command::Shrink { store, kind } => {
            let shrunk = shrink::run(&store, kind.as_deref(), &mut show_progress);
            end_progress();
            tell(&shrunk?);
            let (history, report) = (store.join(shrink::HISTORY), store.join("report.html"));
            tell(&format!("history: {} (jepsen check --gaps judges it)", history.display()));
            tell(&format!("report: {}", report.display()));
            Ok(Verdict::Valid)
        }
        Command::Check { history, gaps } => {
            let events = levada_checkers::history::file::read(&history).context("cannot judge it")?;
            let is_log = events.iter().any(|event| matches!(event.op, Op::Send { .. }));
            anyhow::ensure!(!events.is_empty(), "nothing happened in it");
            let workload = if is_log { Workload::Queue } else { Workload::Register };
            let checks = match workload {
                Workload::Queue if gaps => vec![levada_checkers::log::check_with(&events, &WITH_GAPS)],
                workload => workload.check(&events),
            };
            checks.iter().for_each(show_check);
            Ok(verdict::worst(&checks))
        }
    }
}

const fn verdict_of(as_expected: bool) -> Verdict {
    if as_expected { Verdict::Valid } else { Verdict::Invalid }
}

fn list() {
    for suite in [Suite::Smoke, Suite::Ci, Suite::Nightly] {
        tell(&format!("{}:", suite.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()));
        for scenario in suite.scenarios() {
            tell(&format!("  {:<26} {}", scenario.name, scenario.why));
        }
    }
}

/// On a line that is written again and again.
#[allow(clippy::print_stderr, reason = "this is a command's progress")]
fn show_progress(progress: Progress) {
    let Progress { pass, operations, judged } = progress;
    eprint!("\r{judged:6} histories judged, {operations} operations left; leaving out {pass}    ");
}

#[allow(clippy::print_stderr, reason = "this is a command's progress")]
fn end_progress() {
    eprintln!();
}

#[allow(clippy::print_stdout, reason = "this is a command's output")]
fn tell(what: &str) {
    println!("{what}");
}

fn show(results: &Results) {
    for check in &results.checks {
        show_check(check);
    }
    tell(&format!("again: {}", results.again));
    tell(&format!("verdict: {}", results.verdict));
}

fn show_check(check: &Check) {
    let figures: Vec<String> = check.figures.iter().map(|(name, value)| format!("{name}={value:.0}")).collect();
    tell(&format!("{:<10} {:<12} {}", check.name, check.verdict.to_string(), figures.join(" ")));
    if let Some(why) = &check.why {
        tell(&format!("  {why}"));
    }
    for anomaly in &check.anomalies {
        tell(&format!("  {}: {}", anomaly.kind, anomaly.what));
    }
}

#[cfg(test)]
mod tests {
    use levada_jepsen::suite::SCENARIOS;

    use super::*;

    #[test]
    fn every_scenario_is_what_run_takes() {
        for scenario in SCENARIOS.iter().chain([&suite::SELF_TEST]) {
            let words = ["jepsen", "run"].into_iter().chain(scenario.arguments.split_whitespace());
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{}: {}", scenario.name, parsed.err().unwrap());
        }
    }

    fn options_of(words: &str) -> Options {
        let cli = Cli::try_parse_from(words.split_whitespace().chain(["--binary", "levada"])).unwrap();
        let Command::Run(run) = cli.command else { panic!("{words}") };
        run.options()
    }

    #[test]
    fn what_is_kept_and_the_command_that_is_shown_do_the_same_again() {
        let everything = "jepsen run --env proxy --workload flight --nodes 4 --nemesis partition,pause-kill,delay --targets majority \
                          --time 7 --interval 3 --keys 5 --clients 33 --rate 70 --seed 18446744073709551615 --acked-min 12";
        let disks = "jepsen run --env netns --nemesis power --disk loop --lie no-sync --seed 3";
        for words in ["jepsen run --env netns", disks, everything] {
            let options = options_of(words);
            assert_eq!(options_of(&options.again()), options, "{words}");
            let dir = tempfile::tempdir().unwrap();
            Seed::new(&options, "levada 1").keep(dir.path()).unwrap();
            let (_, kept) = Seed::find(dir.path().to_str().unwrap(), dir.path()).unwrap();
            let place = || Place { binary: Some("levada".into()), out: "store".into(), keep: false, quiet: false };
            assert_eq!(place().of(kept.options), options, "{words}");
        }
    }

    #[test]
    fn what_cannot_be_done_without_namespaces_is_refused() {
        for (words, why) in [
            ("jepsen run --env proxy --disk loop", "--disk dir"),
            ("jepsen run --env proxy --nemesis kill,power", "power"),
            ("jepsen run --env netns --nemesis delay", "delay"),
            ("jepsen run --env netns --nemesis power", "--disk loop"),
        ] {
            let refused = options_of(words).check().unwrap_err().to_string();
            assert!(refused.contains(why), "{words}: {refused}");
        }
        options_of(
            "jepsen run --env proxy --nemesis partition,loss,delay,kill,pause,pause-kill,clock,leader,wipe,corrupt",
        )
        .check()
        .unwrap();
    }

    #[test]
    fn disks_are_struck_only_where_nodes_have_their_own() {
        for scenario in SCENARIOS {
            let words = ["jepsen", "run"].into_iter().chain(scenario.arguments.split_whitespace());
            let Command::Run(run) = Cli::try_parse_from(words).unwrap().command else { panic!("{}", scenario.name) };
            let needs = run.nemesis.iter().any(|family| family.needs_disks());
            assert!(!needs || run.disk == Disk::Loop, "{}", scenario.name);
        }
    }
}
