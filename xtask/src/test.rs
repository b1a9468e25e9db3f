//! `cargo xtask test`: everything that must hold before a change lands, in the order of how soon it can say no.
//!
//! All steps run even if one fails, so that one run tells everything. The last line is `N passed, N failed`, summed over
//! all test binaries; a step without tests of its own counts as one failure when it fails, so that the line never says
//! `0 failed` of a run that did. A test that cannot run on this machine passes, and says `SKIPPED: why` on standard
//! error: such lines are counted just above.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{deny, process, tidy};

/// How a step ended.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: u64,
    failed: u64,
    /// Among the passed.
    skipped: u64,
}

impl Tally {
    /// Of a step that has no tests of its own.
    const fn of(succeeded: bool) -> Self {
        Self { passed: 0, failed: if succeeded { 0 } else { 1 }, skipped: 0 }
    }

    const fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

type Step = (&'static str, fn() -> Result<Tally>);

/// What is simulated with every change, in hours of clusters. The seeds are always the same: a campaign looks for new ones.
const SIMULATED_HOURS: &str = "20";
const SIMULATED_SCENARIOS: &str = "mixed,membership,recovery,rot,journal,full";
/// Worlds of all scenarios that are run twice, to see that they follow from their seeds.
const SIMULATED_TWICE: &str = "20";

const STEPS: [Step; 9] = [
    ("format", || plain(process::cargo(&["fmt", "--all", "--check"]), "run `cargo fmt --all`")),
    ("tidy", || Ok(Tally::of(tidy::run()?))),
    ("deny", deny),
    ("clippy", || {
        let clippy = process::cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
        let remedy = "mend what it names; an exception needs #[expect(.., reason = \"..\")]";
        let all = plain(clippy, remedy)?;
        // Together with the others it has all its features.
        let alone =
            ["clippy", "--package", "levada-client", "--no-default-features", "--locked", "--", "-D", "warnings"];
        // The bugs that the simulator must find, which no other build has.
        let planted = ["clippy", "--package", "levada-sim", "--features", "planted", "--all-targets", "--locked", "--"];
        let planted = planted.into_iter().chain(["-D", "warnings"]).collect::<Vec<_>>();
        Ok(all.and(plain(process::cargo(&alone), remedy)?).and(plain(process::cargo(&planted), remedy)?))
    }),
    ("build", || {
        plain(process::cargo(&["test", "--workspace", "--locked", "--no-run"]), "mend what the compiler names")
    }),
    ("tests", tests),
    ("simulate", || {
        let worlds = simulate(
            &["--hours", SIMULATED_HOURS, "--scenario", SIMULATED_SCENARIOS],
            "repeat a seed as it says, with --trace",
        )?;
        let twice = simulate(
            &["--twice", "--seeds", SIMULATED_TWICE, "--scenario", "all", "--time", "10"],
            "a world that does not follow from its seed: look for what else it follows from where the runs part",
        )?;
        Ok(worlds.and(twice))
    }),
    ("planted", || simulate(&["--selftest"], "a bug that nothing finds shows what the simulator lacks")),
    ("docs", || {
        let mut doc = process::cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        plain(doc, "mend the documentation it names")
    }),
];

/// Runs all steps; whether all succeeded.
pub(crate) fn run() -> Result<bool> {
    let began = Instant::now();
    let mut rows: Vec<(&str, Duration, Tally)> = Vec::new();
    for (name, step) in STEPS {
        println!("\n==> {name}");
        let step_began = Instant::now();
        let tally = step().with_context(|| format!("step {name}"))?;
        rows.push((name, step_began.elapsed(), tally));
    }

    println!("\n{:<10} {:>8}", "step", "seconds");
    for (name, took, tally) in &rows {
        let verdict = if tally.failed == 0 { "" } else { "  FAILED" };
        println!("{name:<10} {:>8.1}{verdict}", took.as_secs_f64());
    }
    println!("{:<10} {:>8.1}", "all", began.elapsed().as_secs_f64());
    let passed: u64 = rows.iter().map(|(_, _, tally)| tally.passed).sum();
    let failed: u64 = rows.iter().map(|(_, _, tally)| tally.failed).sum();
    let skipped: u64 = rows.iter().map(|(_, _, tally)| tally.skipped).sum();
    if skipped > 0 {
        println!("{skipped} of the passed were skipped: the lines with SKIPPED above say why");
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// The simulator, optimised, and able to plant bugs: one build does both, and without one planted it is the product. Its own closing
/// line counts worlds; here it is one test.
fn simulate(arguments: &[&str], remedy: &str) -> Result<Tally> {
    let mut command =
        process::cargo(&["run", "--release", "--locked", "--package", "levada-sim", "--features", "planted", "--"]);
    command.args(arguments);
    let tally = plain(command, remedy)?;
    Ok(Tally { passed: 1 - tally.failed, ..tally })
}

fn plain(mut command: Command, remedy: &str) -> Result<Tally> {
    let succeeded = process::succeeds(&mut command)?;
    if !succeeded {
        println!("{} failed: {remedy}", process::shown(&command));
    }
    Ok(Tally::of(succeeded))
}

/// Without the network the tool may be missing: that is told, and is no failure of the change.
fn deny() -> Result<Tally> {
    let verdict = deny::run()?;
    if verdict.is_none() {
        println!("SKIPPED: cargo-deny is missing and cannot be installed (cargo install cargo-deny)");
    }
    Ok(Tally::of(verdict != Some(false)))
}

/// All tests of the workspace, their output passed on as it comes.
fn tests() -> Result<Tally> {
    let mut command = process::cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    // The end-to-end tests need the `levada` binary; the build step made it, with the features of this very build.
    let levada = process::target_dir()?.join("debug/levada");
    if levada.exists() {
        command.env("TEST_LEVADA_BINARY", levada);
    }
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| process::shown(&command))?;
    let stdout = child.stdout.take().context("the test run has no output")?;
    let stderr = child.stderr.take().context("the test run has no error stream")?;
    let mut tally = Tally::default();
    let skipped = thread::scope(|scope| {
        let errors = scope.spawn(|| {
            let mut skipped = 0;
            pass_on(stderr, std::io::stderr(), |line| skipped += u64::from(line.starts_with("SKIPPED: ")))?;
            anyhow::Ok(skipped)
        });
        pass_on(stdout, std::io::stdout(), |line| {
            if let Some(counted) = closing_line(line) {
                tally.passed += counted.passed;
                tally.failed += counted.failed;
            }
        })?;
        errors.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    if !child.wait().context("waiting for the test run")?.success() && tally.failed == 0 {
        // A binary that does not build or dies has no closing line.
        tally.failed = 1;
    }
    Ok(Tally { skipped, ..tally })
}

/// Passes on what the test run says, line by line as it comes.
fn pass_on(from: impl Read, mut to: impl Write, mut see: impl FnMut(&str)) -> Result<()> {
    for line in BufReader::new(from).split(b'\n') {
        let mut line = line.context("cannot read the test run's output")?;
        see(&String::from_utf8_lossy(&line));
        line.push(b'\n');
        // Nobody may be listening any more; the tests run on all the same.
        let _ = to.write_all(&line);
    }
    Ok(())
}

/// The counts of `test result: ok. 12 passed; 0 failed; …`.
fn closing_line(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim_start().strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let part = counts.split(';').find_map(|part| part.trim().strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: 0 })
}

#[cfg(test)]
mod tests {
    use super::closing_line;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s";
        let tally = closing_line(line).unwrap();
        assert_eq!((tally.passed, tally.failed), (12, 3));
        assert!(closing_line("test batch::tests::test_result ... ok").is_none());
        assert!(closing_line("test result: ok").is_none());
    }
}
