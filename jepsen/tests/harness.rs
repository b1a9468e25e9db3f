//! The harness itself, as a person runs it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use levada_tests::tools;

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

/// Loop devices and processes that have something to do with a store.
fn left(store: &Path) -> Vec<String> {
    let store = store.to_str().unwrap();
    let devices = Command::new("losetup").args(["--list", "--noheadings", "--output", "BACK-FILE"]).output().unwrap();
    let devices = String::from_utf8(devices.stdout).unwrap();
    let mut left: Vec<String> = devices.lines().filter(|line| line.contains(store)).map(str::to_owned).collect();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let read = |file: &str| fs::read(process.path().join(file)).unwrap_or_default();
        let is_ours = String::from_utf8_lossy(&read("environ")).contains(store);
        let name = String::from_utf8_lossy(&read("comm")).trim().to_owned();
        if is_ours && name == "levada" {
            left.push(name);
        }
    }
    left
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        sleep(Duration::from_millis(200));
    }
}
