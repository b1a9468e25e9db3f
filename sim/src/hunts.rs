//! `levada-sim --selftest`: plants one bug after the other and tells which were found.

use std::{io::Write as _, process::ExitCode, time::Duration};

use levada_sim::selftest::{self, Found, trials};
use levada_storage_engine::planted::{Planted, plant};

/// What is asked of the self-test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Plant bugs, one after the other, and see that each is found.
    #[arg(long)]
    selftest: bool,
    /// Of these bugs only; several, with commas. With `--seed` and without `--selftest`: the world of that seed with this bug.
    #[arg(long, value_name = "NAME", value_parser = bug, value_delimiter = ',')]
    bug: Vec<Planted>,
    /// Seconds after which a bug counts as not found.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    budget_s: u64,
}

fn bug(name: &str) -> Result<Planted, String> {
    Planted::ALL.iter().copied().find(|bug| self::name(*bug) == name).ok_or_else(|| {
        let known: Vec<String> =
            Planted::ALL.iter().map(|bug| format!("{}: {}", self::name(*bug), bug.about())).collect();
        format!("there are\n{}", known.join("\n"))
    })
}

/// A bug's name on the command line.
fn name(bug: Planted) -> String {
    let mut name = String::new();
    for letter in format!("{bug:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

impl Args {
    /// Whether bugs are to be hunted. If not, one may be planted in the worlds that are to be run.
    pub(crate) fn are_wanted(&self) -> bool {
        if !self.selftest {
            plant(self.bug.first().copied());
        }
        self.selftest
    }
}

#[allow(clippy::print_stdout, reason = "this is a command's output")]
pub(crate) fn run(args: &Args, jobs: usize) -> ExitCode {
    // A process that panics is what many bugs come to.
    std::panic::set_hook(Box::new(|_| {}));
    let bugs = if args.bug.is_empty() { Planted::ALL } else { &args.bug };
    let (mut found, mut escaped) = (Vec::new(), Vec::new());
    println!(
        "{:<30} {:<11} {:<12} {:>5} {:>6} {:>7}  first sign",
        "bug", "found as", "scenario", "seed", "worlds", "seconds"
    );
    for &bug in bugs {
        let hunt = selftest::hunt(bug, trials::of(bug), jobs, Duration::from_secs(args.budget_s));
        let (worlds, took_s) = (hunt.worlds, hunt.took.as_secs_f64());
        match hunt.found {
            Some(Found { trial, seed, anomaly }) => {
                let (kind, what) = (format!("{:?}", anomaly.kind), anomaly.what.chars().take(100).collect::<String>());
                println!(
                    "{:<30} {kind:<11} {:<12} {seed:>5} {worlds:>6} {took_s:>7.1}  {what}",
                    name(bug),
                    trial.scenario
                );
                found.push((bug, trial, seed));
            }
            None => {
                println!("{:<30} ESCAPED {:>32} {took_s:>7.1}  {}", name(bug), worlds, bug.about());
                escaped.push(bug);
            }
        }
        let _ = std::io::stdout().flush();
    }
    let mut unsound = 0;
    for (bug, trial, seed) in &found {
        if let Err(anomalies) = selftest::visit(trial, *seed) {
            unsound += 1;
            println!("without {} the world of seed {seed} of {trial:?} is not sound: {}", name(*bug), anomalies[0]);
        }
    }
    println!("{} of {} worlds are sound without the bug that was found in them", found.len() - unsound, found.len());
    println!("{} passed, {} failed", found.len() - unsound, escaped.len() + unsound);
    if escaped.is_empty() && unsound == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
