//! Everything that a run makes is gone when it ends, however it ends.
//!
//! The harness runs itself once more inside namespaces of its own: of processes, networks and mounts (and of users, if it is not
//! root). The kernel keeps the promise that no handler of signals could: with the first process of the namespace all its processes
//! end, with them its networks, and its mounts with their loop devices. So Ctrl-C, `kill -9` and a panic leave nothing behind but
//! the store directory.

use std::{env, ffi::OsString, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::shell::{has, run};

/// Set inside.
const INSIDE: &str = "JEPSEN_INSIDE";
/// Set by whoever wants what it starts to end with it, however it ends.
pub const WITH_PARENT: &str = "JEPSEN_WITH_PARENT";

/// Why there can be no namespaces here; `None` if there can be, or if this is inside of some.
#[must_use]
pub fn unavailable() -> Option<String> {
    if env::var_os(INSIDE).is_some() {
        return None;
    }
    let why = match unshare().arg("true").output() {
        Ok(output) if output.status.success() => (!has("nft")).then(|| "nft is missing".to_owned()),
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("cannot run unshare (of util-linux): {error}")),
    };
    why.filter(|why| !why.is_empty())
}

/// This process ends with its parent, if its parent wants that. Stays so when it becomes another program.
///
/// # Errors
/// The system refuses.
pub fn end_with_parent() -> Result<()> {
    if env::var_os(WITH_PARENT).is_some() {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    Ok(())
}

/// Runs this program again inside, in place of this process, with this in its environment; returns when this is the one inside.
/// There is no network but its own inside: what must be fetched is fetched by `before`, outside. There must be one thread only.
///
/// # Errors
/// `before` fails; the system has no `unshare`, or does not let this user have namespaces.
pub fn enter(before: impl FnOnce() -> Result<Vec<(&'static str, OsString)>>) -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return prepare();
    }
    let environment = before()?;
    end_with_parent()?;
    let program = env::current_exe().context("where this program is")?;
    let mut unshare = unshare();
    unshare.arg(program).args(env::args_os().skip(1)).env(INSIDE, "1").envs(environment);
    Err(unshare.exec()).context("cannot run unshare (of util-linux)")
}

/// What runs a program inside.
fn unshare() -> Command {
    let mut unshare = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare
}

fn prepare() -> Result<()> {
    ensure!(rustix::process::getpid().is_init(), "{INSIDE} is set, but this is not the first process of a namespace");
    // A place for the names of networks, which nobody else sees.
    run("mount", ["-t", "tmpfs", "tmpfs", "/run"])?;
    std::fs::create_dir_all(Path::new("/run/netns"))?;
    run("ip", ["link", "set", "lo", "up"])
}
