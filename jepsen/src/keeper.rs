//! Where there are no namespaces, a process of its own sees to it that nothing is left of a run, however the harness ends.
//!
//! The harness starts itself once more as the **keeper**, and holds the other end of its standard input. When that closes, because
//! the harness ended, was killed or panicked, the keeper kills every process that has this run's mark in its environment, until
//! there is none. The mark is given to nodes, and whatever they start inherits it. The keeper is in a process group of its own, so that
//! whoever interrupts the harness does not mean it.

use std::{
    env, fs,
    io::Read as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// What a keeper has in its environment: the mark of those it keeps.
const KEEPS: &str = "JEPSEN_KEEPS";
/// What those have in theirs.
const RUN: &str = "JEPSEN_RUN";
/// Between two looks at all processes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A process that was just being started may not have its mark yet: it is over when nobody was found so many times.
const LOOKS: u32 = 5;

/// The harness's hold of its keeper. When it is dropped, all that have the mark are killed.
#[derive(Debug)]
pub struct Keeper {
    mark: String,
    process: Child,
}

impl Keeper {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start() -> Result<Self> {
        let mark = format!("{}-{:016x}", std::process::id(), rand::random::<u64>());
        let program = env::current_exe().context("where this program is")?;
        let mut command = Command::new(&program);
        command.env(KEEPS, &mark).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().with_context(|| format!("cannot start {} as a keeper", program.display()))?;
        Ok(Self { mark, process })
    }

    /// What to put in front of a command that is to end with the harness. It becomes the command.
    #[must_use]
    pub fn enter(&self) -> Vec<String> {
        vec!["env".to_owned(), format!("{RUN}={}", self.mark)]
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Whether this process was started as a keeper; if so, returns when its work is done.
#[must_use]
pub fn was_one() -> bool {
    let Ok(mark) = env::var(KEEPS) else { return false };
    // Nothing is ever written to it: this waits for its end.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let mark = format!("{RUN}={mark}");
    let mut looks = 0;
    while looks < LOOKS {
        looks = if kill_all(mark.as_bytes()) == 0 { looks + 1 } else { 0 };
        std::thread::sleep(LOOK_INTERVAL);
    }
    true
}

/// Kills all processes with a mark; how many there were.
fn kill_all(mark: &[u8]) -> usize {
    let mut killed = 0;
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // Others' are not shown.
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && environment.split(|&byte| byte == 0).any(|one| one == mark)
        {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
            killed += 1;
        }
    }
    killed
}
