//! The alerts and the dashboard of `deploy/`, in a real Prometheus with a real Alertmanager over real nodes.
//!
//! Runs where both are installed, or with `TEST_ALERTS=1`, which takes them from the Debian archive.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{
    clock::FakeClock,
    disks::PowerDisk,
    nodes::Nodes,
    prometheus::{Monitors, Programs},
    rot, tools,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

const ALERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/levada.json");

/// What is shown only once something went wrong, or came through Flight.
const MAY_BE_EMPTY: [&str; 5] =
    ["code!=\"OK\"", "flight_errors", "stalled_dropped", "messages_dropped", "flight_written"];

/// Alerts about the disk that this test happens to run on.
const OF_THE_MACHINE: [&str; 3] = ["LevadaDiskFilling", "LevadaDiskFull", "LevadaFsyncSlow"];

/// Says why nothing is tested, if nothing can be.
fn programs() -> Result<Option<Programs>> {
    let wanted = std::env::var_os("TEST_ALERTS").is_some();
    let programs = if wanted { Some(Programs::get()?) } else { Programs::find() };
    if programs.is_none() {
        // Not `println`, which is shown of failing tests only.
        writeln!(std::io::stderr(), "SKIPPED: there is no prometheus and alertmanager; TEST_ALERTS=1 gets them")?;
    }
    Ok(programs)
}

/// Asks whether an alert about a node has come to the webhook.
fn firing(name: &'static str, instance: &str) -> impl FnMut(&Monitors) -> Result<Option<Value>> + use<> {
    let instance = instance.to_owned();
    move |monitors: &Monitors| {
        let is_it = |alert: &Value| {
            let labels = &alert["labels"];
            labels["alertname"] == name && labels["instance"] == instance && alert["status"] == "firing"
        };
        Ok(monitors.received().into_iter().rev().find(is_it))
    }
}

#[test]
fn a_dead_node_is_told_to_whoever_must_know() -> Result<()> {
    let Some(programs) = programs()? else { return Ok(()) };
    let alerts = Path::new(ALERTS);
    programs.promtool("check", alerts)?;
    programs.promtool("test", &alerts.with_file_name("alerts_test.yml"))?;

    let directory = tempfile::tempdir()?;
    let data: Vec<_> = (1..=3).map(|id| directory.path().join(format!("node-{id}"))).collect();
    let mut nodes = Nodes::unstarted(tools::levada(), &data, directory.path())?;
    let more = directory.path().join("more").display().to_string();
    nodes.nodes.get_mut(&1).context("node 1")?.environment.push(("LEVADA_SEGMENT_DIRS".to_owned(), more));
    nodes.spawn_all()?;
    let http: Vec<String> = nodes.nodes.values().map(|node| node.http.clone()).collect();
    levada(&nodes, &["topic", "create", "watched", "--partitions", "3"], "")?;
    levada(&nodes, &["produce", "watched"], "one\ntwo\nthree\n")?;
    levada(&nodes, &["consume", "watched", "--limit", "3"], "")?;

    let monitors = Monitors::start(&programs, directory.path(), &http, &at_once(&std::fs::read_to_string(alerts)?))?;
    let up = |count: &'static str| {
        move |monitors: &Monitors| Ok((value_of(&monitors.query("sum(up)")?) == Some(count)).then_some(()))
    };
    monitors.eventually("three nodes are up", up("3"))?;
    the_dashboard_is_answered(&monitors)?;
    // One that began while not all nodes were seen yet is over by now.
    monitors.eventually("nothing is wrong", |monitors| {
        let firing = monitors.query("ALERTS{alertstate=\"firing\"}")?;
        let of_the_machine = |alert: &Value| OF_THE_MACHINE.iter().any(|name| alert["metric"]["alertname"] == *name);
        Ok(firing.iter().all(of_the_machine).then_some(()))
    })?;
    let before = monitors.received().len();
    let firing = |name: &'static str| {
        move |monitors: &Monitors| {
            let alerts = monitors.received().into_iter().skip(before);
            Ok(alerts.rev().find(|alert| alert["labels"]["alertname"] == name && alert["status"] == "firing"))
        }
    };

    nodes.kill(3)?;
    let down = monitors.eventually("the dead node is told", firing("LevadaNodeDown"))?;
    assert_eq!(down["labels"]["instance"], http[2], "{down}");
    assert_eq!(down["annotations"]["runbook_url"], "docs/operations.md#levadanodedown", "{down}");
    let lame = monitors.eventually("partitions lack a replica", firing("LevadaUnderReplicated"))?;
    assert!(lame["annotations"]["summary"].as_str().is_some_and(|text| text.contains("partitions have")), "{lame}");

    nodes.kill(2)?;
    monitors.eventually("one of three leads nothing", firing("LevadaNoLeader"))?;
    monitors.eventually("nor is it the controller", firing("LevadaNoController"))?;
    monitors.eventually("so it is not ready", firing("LevadaNodeNotReady"))?;

    nodes.spawn(2)?;
    nodes.spawn(3)?;
    nodes.wait_ready()?;
    for name in ["LevadaNodeDown", "LevadaUnderReplicated", "LevadaNoLeader", "LevadaNoController"] {
        monitors.eventually("what is mended is told, too", |monitors| {
            let alerts = monitors.received();
            let last = alerts.iter().rfind(|alert| alert["labels"]["alertname"] == name);
            Ok(last.filter(|alert| alert["status"] == "resolved").map(drop))
        })?;
    }
    Ok(())
}

/// A disk that fills, a disk that is slow, a clock that is wrong and a node that hangs, each on another node, while all of
/// them run.
#[test]
fn what_is_about_to_go_wrong_is_told_while_all_nodes_run() -> Result<()> {
    let Some(programs) = programs()? else { return Ok(()) };
    let missing = PowerDisk::unavailable().or_else(|| missing_strace().then_some("strace is not installed"));
    if let Some(why) = missing {
        writeln!(std::io::stderr(), "SKIPPED: {why}")?;
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    // Sparse: what fills it takes no room.
    let disk = PowerDisk::create(directory.path(), "full", 4096)?;
    let data = [disk.path().to_owned(), directory.path().join("slow"), directory.path().join("wrong")];
    let clock = FakeClock::new(&directory.path().join("clock"))?;
    clock.set("+1h")?;
    let mut nodes = Nodes::unstarted(tools::levada(), &data, directory.path())?;
    let slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"];
    let slow = slow.into_iter().chain(["inject=fdatasync:delay_enter=250000"]).map(str::to_owned);
    nodes.nodes.get_mut(&2).context("node 2")?.wrapper = slow.collect();
    nodes.nodes.get_mut(&3).context("node 3")?.environment = clock.environment();
    // Where nobody can make anything.
    let none = ("LEVADA_SEGMENT_DIRS".to_owned(), "/proc/none".to_owned());
    nodes.nodes.get_mut(&1).context("node 1")?.environment.push(none);
    nodes.spawn_all()?;
    FakeClock::bites(&nodes.nodes[&3].http, 3600.0)?;
    // 7 % are left.
    let free = 4096 / 100 * 7;
    let filler = std::process::Command::new("sh")
        .args([
            "-c",
            r#"fallocate -l $(($(df --output=avail -BM "$1" | tail -1 | tr -d 'M ') - $2))M "$1/filler""#,
            "sh",
        ])
        .arg(disk.path())
        .arg(free.to_string())
        .status()?;
    ensure!(filler.success(), "the disk cannot be filled");
    let http: Vec<String> = nodes.nodes.values().map(|node| node.http.clone()).collect();
    levada(&nodes, &["topic", "create", "watched", "--partitions", "3"], "")?;
    levada(&nodes, &["produce", "watched"], "one\ntwo\nthree\n")?;

    let rules = at_once(&std::fs::read_to_string(ALERTS)?);
    let monitors = Monitors::start(&programs, directory.path(), &http, &rules)?;
    monitors.eventually("its clock is told", firing("LevadaClockSkew", &http[2]))?;
    monitors.eventually("its disk is told", firing("LevadaDiskFilling", &http[0]))?;
    let gone = monitors.eventually("its other directory is told", firing("LevadaSegmentDirFailed", &http[0]))?;
    assert_eq!(gone["labels"]["directory"], "/proc/none", "{gone}");
    // The quantile needs syncs between two scrapes.
    let load = Load::start(&nodes.bootstrap())?;
    monitors.eventually("its slow disk is told", firing("LevadaFsyncSlow", &http[1]))?;
    for other in [&http[0], &http[1]] {
        ensure!(firing("LevadaClockSkew", other)(&monitors)?.is_none(), "the clock of {other} is right");
    }

    // A node that hangs: the others go on, and its replicas fall behind, in seconds.
    nodes.signal(1, Signal::STOP)?;
    let behind = |monitors: &Monitors| {
        let told = |alert: &Value| alert["labels"]["alertname"] == "LevadaReplicaLag" && alert["status"] == "firing";
        Ok(monitors.received().into_iter().find(told))
    };
    let told = monitors.eventually("the hanging replicas are told", behind)?;
    assert_ne!(told["labels"]["instance"], http[0].as_str(), "who hangs tells nothing; a leader does");
    nodes.signal(1, Signal::CONT)?;
    monitors.eventually("it has caught up", |monitors| {
        let lag = monitors.query("max(levada_replica_seconds_behind_max)")?;
        Ok(value_of(&lag).and_then(|lag| lag.parse::<f64>().ok()).filter(|lag| *lag < 5.0))
    })?;
    load.stop()
}

/// A disk that does not keep what it was given: the damage that another node mends, and the damage that nobody can.
#[test]
fn damage_is_told_and_so_is_damage_that_stays() -> Result<()> {
    let Some(programs) = programs()? else { return Ok(()) };
    let directory = tempfile::tempdir()?;
    let data: Vec<_> = (1..=3).map(|id| directory.path().join(format!("node-{id}"))).collect();
    let environment = [("LEVADA_JOURNAL_CHECKPOINT_BYTES", "2097152"), ("LEVADA_SCRUB_INTERVAL_S", "1")];
    let nodes = Nodes::start_with(tools::levada(), &data, directory.path(), &environment)?;
    let http: Vec<String> = nodes.nodes.values().map(|node| node.http.clone()).collect();
    let rules = at_once(&std::fs::read_to_string(ALERTS)?);
    let monitors = Monitors::start(&programs, directory.path(), &http, &rules)?;
    let lines = format!("{}\n", "x".repeat(1_000)).repeat(2_000);
    let fill = |topic: &str| levada(&nodes, &["produce", topic, "--compression", "none"], &lines);
    let create = |topic: &str, replicas: &str| {
        let of_one = ["--partitions", "1", "--config", "segment.bytes=1048576"];
        levada(&nodes, &[&["topic", "create", topic, "--replicas", replicas], &of_one[..]].concat(), "")
    };
    let address = |id: u64| nodes.nodes[&id].http.as_str();
    // What is counted is told only where it was counted before, too.
    monitors.eventually("all nodes count", |monitors| {
        Ok((value_of(&monitors.query("count(levada_scrub_damage_total)")?) == Some("3")).then_some(()))
    })?;
    create("alone", "1")?;
    let (alone, lost) = monitors.eventually("there is a segment", |_| {
        fill("alone")?;
        first_sealed(&nodes, None)
    })?;
    create("together", "3")?;
    let (mends, damaged) = monitors.eventually("there is a segment elsewhere", |_| {
        fill("together")?;
        first_sealed(&nodes, Some(alone))
    })?;

    rot::flip(&damaged, 300_000)?;
    let told = monitors.eventually("the damage is told", firing("LevadaDamage", address(mends)))?;
    assert_eq!(told["annotations"]["runbook_url"], "docs/operations.md#levadadamage", "{told}");
    monitors.eventually("it is mended", |_| {
        Ok((nodes.metric(mends, "levada_segments_mended_total")? > 0.5).then_some(()))
    })?;

    rot::flip(&lost, 300_000)?;
    let told = monitors.eventually("the damage that stays is told", firing("LevadaDamageStays", address(alone)))?;
    assert_eq!(told["annotations"]["runbook_url"], "docs/operations.md#levadadamagestays", "{told}");
    assert!(told["annotations"]["summary"].as_str().is_some_and(|text| text.starts_with("1 segments")), "{told}");
    monitors.eventually("so is that it is damage at all", firing("LevadaDamage", address(alone)))?;
    Ok(())
}

/// A sealed segment of a node, but not of this one.
fn first_sealed(nodes: &Nodes, but: Option<u64>) -> Result<Option<(u64, PathBuf)>> {
    for (id, node) in nodes.nodes.iter().filter(|(id, _)| Some(**id) != but) {
        if let Some(path) = rot::sealed(&node.data_dir)?.into_iter().next() {
            return Ok(Some((*id, path)));
        }
    }
    Ok(None)
}

fn missing_strace() -> bool {
    std::process::Command::new("strace").arg("-V").output().is_err()
}

/// Records that come as long as this lives.
struct Load {
    process: std::process::Child,
}

impl Load {
    fn start(bootstrap: &str) -> Result<Self> {
        let mut command = std::process::Command::new("sh");
        let script = r#"while sleep 0.05; do echo "a record"; done | "$0" produce watched --timeout 120s"#;
        command.args(["-c", script]).arg(tools::levada()).env("LEVADA_BOOTSTRAP", bootstrap);
        Ok(Self { process: command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()? })
    }

    fn stop(self) -> Result<()> {
        drop(self);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // The shell, what it loops over and the command.
        if let Some(group) = Pid::from_raw(i32::try_from(self.process.id()).unwrap_or_default()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

/// The rules with all their waiting taken out.
fn at_once(rules: &str) -> String {
    let line = |line: &str| if line.trim().starts_with("for: ") { String::new() } else { format!("{line}\n") };
    rules.lines().map(line).collect()
}

/// Every query of every panel.
fn the_dashboard_is_answered(monitors: &Monitors) -> Result<()> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut asked = 0;
    for query in targets.filter_map(|target| target["expr"].as_str()) {
        let filled = query.replace("$job", "levada").replace("$instance", ".*").replace("$__rate_interval", "30s");
        ensure!(!filled.contains('$'), "a variable that this test does not know: {filled}");
        let may_be_empty = MAY_BE_EMPTY.iter().any(|part| query.contains(part));
        monitors.eventually(&format!("an answer to {filled}"), |monitors| {
            let answer = monitors.query(&filled)?;
            Ok((may_be_empty || !answer.is_empty()).then_some(()))
        })?;
        asked += 1;
    }
    ensure!(asked > 20, "only {asked} queries");
    Ok(())
}

/// The value of the one element of a vector.
fn value_of(vector: &[Value]) -> Option<&str> {
    vector.first()?["value"][1].as_str()
}

fn levada(nodes: &Nodes, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = std::process::Command::new(tools::levada());
    command.args(arguments).env("LEVADA_BOOTSTRAP", nodes.bootstrap());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    ensure!(child.wait()?.success(), "levada {arguments:?} failed");
    Ok(())
}
