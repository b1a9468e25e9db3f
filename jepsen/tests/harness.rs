//! The harness itself, as a person runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use levada_tests::tools;
use rustix::process::{Pid, Signal, kill_process};

/// Why it cannot run here, if it cannot.
fn unavailable() -> Option<&'static str> {
    let lets = Command::new("unshare").args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]).output();
    if !lets.is_ok_and(|output| output.status.success()) {
        return Some("namespaces need root (unshare --net --mount --pid)");
    }
    levada_tests::disks::PowerDisk::unavailable()
}

fn skipped() -> bool {
    let Some(why) = unavailable() else { return false };
    // Not `println`, which is shown of failing tests only.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    true
}

fn jepsen(arguments: &str, store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    command.args(arguments.split_whitespace()).arg("--out").arg(store).env("TEST_LEVADA_BINARY", tools::levada());
    command
}

/// A machine has not many cores, and what is slow is called stuck at last.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The suite of every change: five nodes under faults of four families, then the metadata under the same.
#[test]
fn nothing_is_lost_doubled_or_out_of_order_under_faults() {
    if skipped() {
        return;
    }
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let output = jepsen("suite ci", store.path()).stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let _ = writeln!(std::io::stderr(), "{said}");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("2 passed, 0 failed"));
}

/// What the nightly suite relies on beside that: nodes that come and go, and disks that are full, slow and broken, all bite.
#[test]
fn nothing_is_lost_while_nodes_come_and_go_and_disks_fail() {
    if skipped() {
        return;
    }
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let run =
        "run --nodes 3 --disk loop --nemesis membership,full,slow,eio --time 20 --interval 4 --rate 500 --clients 64";
    let output = jepsen(run, store.path()).stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let _ = writeln!(std::io::stderr(), "{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_cluster_that_loses_what_it_acknowledged_is_found_out() {
    if skipped() {
        return;
    }
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let output = jepsen("selftest", store.path()).stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("INVALID"), "{said}");
    let run = fs::read_dir(store.path().join("no-sync")).unwrap().next().unwrap().unwrap().path();
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("INVALID"));
    let judged = Command::new(env!("CARGO_BIN_EXE_jepsen")).arg("check").arg(run.join("history.jsonl.zst")).output();
    assert_eq!(judged.unwrap().status.code(), Some(1), "the history alone says so, too");

    let shrunk = Command::new(env!("CARGO_BIN_EXE_jepsen")).arg("shrink").arg(&run).output().unwrap();
    let (story, progress) = (String::from_utf8_lossy(&shrunk.stdout), String::from_utf8_lossy(&shrunk.stderr));
    assert!(shrunk.status.success() && progress.contains("histories judged"), "{story}{progress}");
    let _ = writeln!(std::io::stderr(), "{story}");
    let mut judge = Command::new(env!("CARGO_BIN_EXE_jepsen"));
    let judged = judge.args(["check", "--gaps"]).arg(run.join("minimal.jsonl.zst")).output();
    assert_eq!(judged.unwrap().status.code(), Some(1), "what is left says so, too");
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("minimal.txt") && story.lines().count() < 60);
}

#[test]
fn whatever_ends_it_nothing_is_left() {
    if skipped() {
        return;
    }
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let run = "run --nodes 3 --time 300 --disk loop --nemesis power,kill,partition --interval 3 --clients 32";
    // A suite has another process between.
    for (arguments, things) in [(run, 6), ("suite nightly --only power-of-all", 10)] {
        let mut harness = jepsen(arguments, store.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("it has disks and servers", || left(store.path()).len() >= things);
        sleep(Duration::from_secs(5));
        harness.kill().unwrap();
        harness.wait().unwrap();
        until("all is gone", || left(store.path()).is_empty());
    }
}

/// Runs it where there is nothing but loopback: as a user who may do nothing, if this one may be another.
fn without_root(arguments: &str, store: &Path) -> Command {
    if !rustix::process::getuid().is_root() {
        return jepsen(arguments, store);
    }
    let here = store.join("bin");
    fs::create_dir_all(&here).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    // Others may not look below the home of root.
    for (name, binary) in [("jepsen", Path::new(env!("CARGO_BIN_EXE_jepsen"))), ("levada", tools::levada())] {
        let copy = here.join(name);
        if !copy.exists() && fs::hard_link(binary, &copy).is_err() {
            fs::copy(binary, &copy).unwrap();
        }
    }
    let out = store.join("runs");
    fs::create_dir_all(&out).unwrap();
    for dir in [store, &out] {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
    }
    command.arg(here.join("jepsen")).args(arguments.split_whitespace()).arg("--out").arg(out).current_dir(store);
    command.env("TEST_LEVADA_BINARY", here.join("levada"));
    command
}

/// The directories of all runs below a store.
fn runs(store: &Path) -> Vec<PathBuf> {
    let dirs = |below: &Path| fs::read_dir(below).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut runs: Vec<PathBuf> = dirs(store).chain(dirs(&store.join("runs"))).collect();
    runs.retain(|dir| dir.join("seed.json").is_file());
    runs.sort();
    runs
}

#[test]
fn without_root_and_namespaces_faults_bite_and_a_run_is_played_again() {
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let run = "run --env proxy --nodes 3 --time 8 --nemesis partition,delay,kill,pause --interval 2 --keys 2 --clients 32 --rate 300 \
               --acked-min 500 --seed 11";
    for arguments in [run, "replay 11"] {
        let output = without_root(arguments, store.path()).stderr(Stdio::inherit()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let _ = writeln!(std::io::stderr(), "{said}");
        assert!(output.status.success(), "{arguments}: {said}");
        assert!(said.contains("verdict: valid") && said.contains("without_evidence_count"), "{said}");
    }
    let kept: Vec<String> =
        runs(store.path()).iter().map(|dir| fs::read_to_string(dir.join("seed.json")).unwrap()).collect();
    assert_eq!(kept.len(), 2);
    assert_eq!(kept[0], kept[1]);
    until("all is gone", || left(store.path()).is_empty());
}

#[test]
fn without_namespaces_nothing_is_left_either() {
    let _alone = alone();
    let store = tempfile::tempdir().unwrap();
    let run = "run --env proxy --nodes 3 --time 300 --nemesis kill,pause --interval 3 --clients 32";
    for signal in [Signal::KILL, Signal::INT] {
        let mut command = without_root(run, store.path());
        let mut harness = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let keepers = || marked(&format!("JEPSEN_KEEPS={}-", harness.id())).len();
        until("it has servers and a keeper", || left(store.path()).len() >= 3 && keepers() == 1);
        sleep(Duration::from_secs(5));
        let pid = Pid::from_child(&harness);
        kill_process(pid, signal).unwrap();
        if signal == Signal::INT {
            // The second one says that nothing is to be mended or judged.
            sleep(Duration::from_millis(500));
            kill_process(pid, signal).unwrap();
        }
        until("all is gone", || left(store.path()).is_empty() && keepers() == 0);
        harness.wait().unwrap();
    }
}

/// Loop devices and processes that have something to do with a store.
fn left(store: &Path) -> Vec<String> {
    let store = store.to_str().unwrap();
    let devices = Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]).output().unwrap();
    let devices = String::from_utf8(devices.stdout).unwrap();
    let mut left: Vec<String> = devices.lines().filter(|line| line.contains(store)).map(str::to_owned).collect();
    left.extend(marked(store).into_iter().filter(|name| name == "levada"));
    left
}

/// The names of all processes that have this somewhere in their environment.
fn marked(mark: &str) -> Vec<String> {
    let mut names = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        if read("environ").contains(mark) {
            names.push(read("comm").trim().to_owned());
        }
    }
    names
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        sleep(Duration::from_millis(200));
    }
}
