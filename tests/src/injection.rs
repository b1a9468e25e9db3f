//! Calls of a process that runs which the system refuses or delays: strace, attached to it for a while.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The calls that make what was written durable.
const SYNCS: &str = "fdatasync,fsync,syncfs";
/// How strace marks what it changed, in what it writes.
const INJECTED: &str = "(INJECTED)";
const DELAYED: &str = "(DELAYED)";
/// How long strace may take to have all threads of a process.
const ATTACHED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Such calls, until it is dropped.
#[derive(Debug)]
pub struct Injection {
    strace: Child,
    /// What strace writes: each call that it changed, and others.
    notes: PathBuf,
}

impl Injection {
    /// Why this machine cannot do it, if it cannot.
    #[must_use]
    pub fn unavailable() -> Option<&'static str> {
        let is_there = Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_ok();
        (!is_there).then_some("there is no strace")
    }

    /// The next sync of each of a process's threads says that it failed (`EIO`) and does nothing; those after it are as ever, as
    /// on a real disk. Notes go to a file.
    ///
    /// # Errors
    /// strace is missing, or the system does not let it.
    pub fn fail_syncs(process: u32, notes: &Path) -> Result<Self> {
        Self::begin(process, notes, "error=EIO:when=1")
    }

    /// Every sync of a process takes so much longer.
    ///
    /// # Errors
    /// As [`Self::fail_syncs`].
    pub fn delay_syncs(process: u32, notes: &Path, by: Duration) -> Result<Self> {
        Self::begin(process, notes, &format!("delay_enter={}", by.as_micros()))
    }

    fn begin(process: u32, notes: &Path, how: &str) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["--follow-forks", "--quiet=all"]).arg(format!("--attach={process}"));
        command.arg(format!("--output={}", notes.display()));
        command.arg(format!("--trace={SYNCS}")).arg(format!("--inject={SYNCS}:{how}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let strace = command.spawn().context("cannot run strace (of the package strace)")?;
        let mut injection = Self { strace, notes: notes.to_owned() };
        injection.wait_attached(process)?;
        Ok(injection)
    }

    /// A process that is gone has no threads without it.
    fn wait_attached(&mut self, process: u32) -> Result<()> {
        let deadline = Instant::now() + ATTACHED_WITHIN;
        while !are_traced(process) {
            if let Some(status) = self.strace.try_wait()? {
                bail!("strace cannot attach to process {process}: it ended with {status}");
            }
            ensure!(Instant::now() < deadline, "strace is not attached to process {process} in time");
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// How many calls it has changed so far.
    #[must_use]
    pub fn count(&self) -> usize {
        let notes = fs::read_to_string(&self.notes).unwrap_or_default();
        notes.lines().filter(|line| line.contains(INJECTED) || line.contains(DELAYED)).count()
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // It lets go of the process, which goes on; one that has ended took it along.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::INT);
        let _ = self.strace.wait();
    }
}

/// Whether somebody traces all threads of a process.
fn are_traced(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let is_traced = |thread: PathBuf| {
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_none_or(|tracer| tracer.trim() != "0")
    };
    threads.map(|thread| thread.path()).all(is_traced)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Syncs a file again and again, and writes what came of it, a word a line.
    const SYNCER: &str = "import os, sys, time\n\
        file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n\
        while True:\n\
        \x20   began = time.monotonic()\n\
        \x20   try:\n\
        \x20       os.fdatasync(file)\n\
        \x20       print('slow' if time.monotonic() - began > 0.3 else 'quick', flush=True)\n\
        \x20   except OSError as error:\n\
        \x20       print(error.errno, flush=True)\n\
        \x20   time.sleep(0.01)\n";

    struct Syncer {
        process: Child,
        said: PathBuf,
    }

    impl Syncer {
        fn start(dir: &Path) -> Self {
            let said = dir.join("said");
            let mut command = Command::new("python3");
            command.args(["-c", SYNCER]).arg(dir.join("file")).stdout(fs::File::create(&said).unwrap());
            Self { process: command.spawn().unwrap(), said }
        }

        fn words(&self) -> Vec<String> {
            fs::read_to_string(&self.said).unwrap().lines().map(str::to_owned).collect()
        }

        /// Waits for some words more; all that there are then.
        fn more(&self, count: usize) -> Vec<String> {
            let goal = self.words().len() + count;
            let deadline = Instant::now() + Duration::from_secs(60);
            while self.words().len() < goal {
                assert!(Instant::now() < deadline, "it does not go on: {:?}", self.words());
                std::thread::sleep(LOOK_INTERVAL);
            }
            self.words()
        }
    }

    impl Drop for Syncer {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn is_skipped() -> bool {
        let Some(why) = Injection::unavailable() else { return false };
        // Not `println`, which is shown of failing tests only.
        writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
        true
    }

    #[test]
    fn one_sync_fails_and_those_after_it_do_not() {
        if is_skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let syncer = Syncer::start(dir.path());
        assert!(syncer.more(3).iter().all(|word| word != "5"));
        let failing = Injection::fail_syncs(syncer.process.id(), &dir.path().join("notes")).unwrap();
        let words = syncer.more(5);
        assert_eq!(words.iter().filter(|word| *word == "5").count(), 1, "{words:?}");
        assert_eq!(failing.count(), 1);
        drop(failing);
        assert_eq!(syncer.more(3).last().unwrap(), "quick", "it goes on");
    }

    #[test]
    fn syncs_take_longer_as_long_as_they_are_to() {
        if is_skipped() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let syncer = Syncer::start(dir.path());
        syncer.more(3);
        let delay = Duration::from_millis(400);
        let slow = Injection::delay_syncs(syncer.process.id(), &dir.path().join("notes"), delay).unwrap();
        assert_eq!(syncer.more(3).last().unwrap(), "slow");
        assert!(slow.count() > 0);
        drop(slow);
        let words = syncer.more(10);
        assert!(words.iter().rev().take(5).any(|word| word == "quick"), "{words:?}");
    }
}
