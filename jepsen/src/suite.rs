//! Runs by name: what others lost data in, and what we ask of ourselves.

use std::{env, path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result};
use levada_checkers::verdict::Verdict;

use crate::{sandbox::WITH_PARENT, serve};

/// Which runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// One run, for whoever changes something: a minute and a half.
    Smoke,
    /// What every change must pass.
    Ci,
    /// All scenarios, for hours.
    Nightly,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Where it comes from, and what it would show.
    pub why: &'static str,
    /// What `jepsen run` is told.
    pub arguments: &'static str,
    suites: &'static [Suite],
}

/// A run that must be found INVALID: the servers are deceived.
pub const SELF_TEST: Scenario = Scenario {
    name: "no-sync",
    why: "with syncs that do nothing, a power cut takes what was acknowledged",
    arguments: "--workload queue --nodes 3 --lie no-sync --disk loop --nemesis power --targets all --time 20 --interval 6 \
                --clients 64",
    suites: &[],
};

/// All that there are.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "smoke",
        why: "processes, networks and power of one, some and all nodes, under load",
        arguments: "--workload queue --disk loop --nemesis partition,kill,pause,power \
                    --time 60 --interval 5 --clients 640 --acked-min 100000",
        suites: &[Suite::Smoke, Suite::Ci, Suite::Nightly],
    },
    Scenario {
        name: "metadata",
        why: "topics and their settings are linearizable",
        arguments: "--workload register --disk loop --nemesis partition,kill,pause,power --time 30 --interval 5",
        suites: &[Suite::Ci],
    },
    Scenario {
        name: "without-faults",
        why: "Bufstream 0.1.0 lost writes and got stuck without any fault",
        arguments: "--workload flight --time 120 --rate 3000 --acked-min 100000",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "power-of-all",
        why: "NATS 2.12.1 lost what was acknowledged when the power of all nodes went at once",
        arguments: "--workload queue --disk loop --nemesis power --targets all --time 600 --rate 3000 --interval 6",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "two-hundred-power-cuts",
        why: "with the power of one, some and all nodes cut 200 times, nothing acknowledged is lost",
        arguments: "--workload queue --nodes 3 --keys 4 --clients 32 --disk loop --nemesis power --targets any --bites 200 \
                    --time 600 --rate 200 --interval 3",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "power-of-some",
        why: "a power cut and pauses split NATS 2.12.1",
        arguments: "--workload queue --disk loop --nemesis power,pause,partition --time 600 --rate 3000 --interval 6",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "damaged-files",
        why: "single bits and cut files on one node lost the data of all in NATS 2.12.1",
        arguments: "--workload flight --nemesis corrupt,kill --time 900 --rate 3000 --interval 8",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "membership-kill-partition",
        why: "NATS 2.12.1 lost data when nodes came and went, were killed and cut off together",
        arguments: "--workload queue --nemesis membership,wipe,kill,partition,leader --time 900 --rate 3000 --interval 8",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "pause-kill",
        why: "a leader that stood still went on beside its successor in NATS 2.12.1",
        arguments: "--workload queue --nemesis pause-kill --time 600 --rate 3000 --interval 10",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "pauses",
        why: "Redpanda 21.10.1 and Bufstream 0.1.0 had duplicates, and clients that got stuck, after pauses",
        arguments: "--workload queue --nemesis pause,loss,partition --time 900 --rate 3000 --interval 6",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "wiped-node",
        why: "a node that lost everything must not vote as who it was, and is replaced as TigerBeetle's could not be",
        arguments: "--workload flight --nemesis wipe,kill,power --disk loop --time 900 --rate 3000 --interval 8",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "disks",
        why: "a disk that is full, slow, or fails to sync takes its node alone out of service, and nothing that was acknowledged",
        arguments: "--workload queue --disk loop --nemesis full,slow,eio,kill,partition --time 900 --rate 3000 --interval 10",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "clocks",
        why: "nothing but records' times goes by the time of day",
        arguments: "--workload queue --nemesis clock,kill,pause,leader --time 600 --rate 3000 --interval 6",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "registers",
        why: "the metadata is linearizable, under everything",
        arguments: "--workload register --disk loop --nemesis partition,loss,kill,pause,pause-kill,power,leader --time 900 \
                    --interval 8",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "without-root",
        why: "what the kernels of nodes do not see is survived, too: connections through proxies that are late, torn and stuck",
        arguments: "--workload queue --env proxy --nemesis partition,delay,kill,pause,pause-kill,leader --time 600 --rate 1500 \
                    --interval 8",
        suites: &[Suite::Nightly],
    },
    Scenario {
        name: "everything",
        why: "all faults together",
        arguments: "--workload flight --disk loop \
                    --nemesis partition,loss,kill,pause,pause-kill,power,clock,leader,wipe,corrupt,membership,full,slow,eio \
                    --time 1200 --rate 3000 --interval 10",
        suites: &[Suite::Nightly],
    },
];

impl Suite {
    /// Its runs.
    pub fn scenarios(self) -> impl Iterator<Item = &'static Scenario> {
        SCENARIOS.iter().filter(move |scenario| scenario.suites.contains(&self))
    }
}

/// What is to come of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing wrong.
    Valid,
    /// What clients were told cannot be: the checker of logs says so itself, whatever else is wrong.
    BrokenLog,
}

fn is_log_broken(store: &Path) -> bool {
    let runs = serve::runs(store);
    let checks = runs.first().map(|(_, latest)| &latest.checks);
    checks.is_some_and(|checks| checks.iter().any(|check| check.name == "log" && check.verdict == Verdict::Invalid))
}

/// Plays some, one after the other, each in a process of its own; whether all were found to be as expected. The last line is `N
/// passed, N failed`.
///
/// # Errors
/// The harness cannot be started.
#[allow(clippy::print_stdout, reason = "this is a command's output")]
pub fn play<'a>(scenarios: impl IntoIterator<Item = &'a Scenario>, expected: Expected, out: &Path) -> Result<bool> {
    let program = env::current_exe().context("where this program is")?;
    let (mut passed, mut failed) = (0, 0);
    for scenario in scenarios {
        println!("\n==> {}: {}", scenario.name, scenario.why);
        let began = Instant::now();
        let mut run = Command::new(&program);
        let store = out.join(scenario.name);
        run.arg("run").args(scenario.arguments.split_whitespace()).arg("--out").arg(&store).env(WITH_PARENT, "1");
        let status = run.status().with_context(|| format!("cannot run {}", program.display()))?;
        let verdict = match status.code() {
            Some(0) => Some(Verdict::Valid),
            Some(1) => Some(Verdict::Invalid),
            Some(2) => Some(Verdict::Inconclusive),
            _ => None,
        };
        let said = verdict.map_or_else(|| "the harness failed".to_owned(), |verdict| verdict.to_string());
        println!("<== {}: {said} after {:.0} s", scenario.name, began.elapsed().as_secs_f64());
        let is_so = match expected {
            Expected::Valid => verdict == Some(Verdict::Valid),
            Expected::BrokenLog => verdict == Some(Verdict::Invalid) && is_log_broken(&store),
        };
        if is_so {
            passed += 1;
        } else {
            failed += 1;
        }
    }
    println!("\n{passed} passed, {failed} failed");
    Ok(failed == 0)
}
