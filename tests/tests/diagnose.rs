//! The commands that say how a cluster is, over real nodes one of which is killed.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{dev::Dev, http, tools};
use serde_json::Value;

/// A record's value, which no tool for operators may show.
const PAYLOAD: &str = "nobody-else's-business";

#[test]
fn an_operator_sees_what_is_wrong() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &["--nodes", "3", "--port-base", "0"])?;
    dev.ok(&["topic", "create", "watched", "--partitions", "4"], b"")?;
    dev.ok(&["produce", "watched"], format!("one\ntwo\n{PAYLOAD}\n").as_bytes())?;

    let (found, _) = doctor(&dev)?;
    assert_eq!(found("nodes")["saw"], "3 of 3 nodes are up");
    assert_eq!(found("partitions")["saw"], "4 partitions, each with a leader");
    assert_eq!(found("clocks")["state"], "ok", "they have one clock: {}", found("clocks"));
    assert_eq!(found("versions")["state"], "ok", "{}", found("versions"));
    let in_use = found("data-dir")["saw"].to_string();
    assert!(in_use.contains(&format!("in use by process {}", dev.nodes[0].pid)), "{in_use}");

    let top: Value =
        serde_json::from_str(&dev.ok(&["top", "--once", "--interval", "300ms", "--output", "json"], b"")?)?;
    assert_eq!((&top["leaderless"], &top["under_replicated"]), (&0.into(), &0.into()), "{top}");
    let nodes = top["nodes"].as_array().context("nodes")?;
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node["state"] == "up"), "{top}");
    assert!(nodes.iter().all(|node| node["disk_free_bytes"].as_f64().is_some_and(|free| free > 0.0)), "{top}");
    let records: u64 = top["partitions"].as_array().context("partitions")?.iter().filter_map(high_watermark).sum();
    assert_eq!(records, 3, "{top}");
    let text = dev.ok(&["top", "--once", "--interval", "300ms"], b"")?;
    assert!(text.contains("3/3 nodes up, 4 partitions") && text.contains("\nsafe: every partition"), "{text}");
    let no_terminal = dev.run(&["top"], b"")?;
    assert_eq!(no_terminal.status.code(), Some(2), "{}", String::from_utf8_lossy(&no_terminal.stderr));
    let screen = on_a_terminal(&dev, &["top", "--interval", "300ms"])?;
    assert!(screen.contains("3/3 nodes up") && screen.contains("q ends"), "{screen}");

    dev.kill(3)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !metrics_tell_it(&dev)? {
        ensure!(Instant::now() < deadline, "nobody counts the partitions that lack a replica");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (found, code) = doctor(&dev)?;
    assert_eq!(found("nodes")["saw"], "2 of 3 nodes are up; down: 3");
    assert_eq!((&found("nodes")["state"], code), (&"wrong".into(), Some(1)));
    let text = dev.ok(&["top", "--once", "--interval", "300ms"], b"")?;
    assert!(text.contains("2/3 nodes up") && text.contains("3 ! DOWN"), "{text}");
    bundle(&dev, directory.path())?;
    assert!(dev.stop()?.success());
    Ok(())
}

/// Whether nodes 1 and 2 count all partitions as led by one of them, with a replica that is down though nothing is written.
fn metrics_tell_it(dev: &Dev) -> Result<bool> {
    let mut sums = [0.0, 0.0];
    for node in dev.nodes.iter().take(2) {
        let metrics = http::get(&node.http, "/metrics")?;
        for (sum, name) in sums.iter_mut().zip(["levada_partitions_led ", "levada_partitions_under_replicated "]) {
            let number = metrics.lines().find_map(|line| line.strip_prefix(name)).context(name)?;
            *sum += number.parse::<f64>()?;
        }
    }
    Ok(sums == [4.0, 4.0])
}

fn high_watermark(partition: &Value) -> Option<u64> {
    partition["high_watermark"].as_u64()
}

/// Runs a command on a terminal of 80 columns, presses q when it has shown something, and gives what came.
const TERMINAL: &str = "
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
seen = b''
while True:
    try: part = os.read(terminal, 65536)
    except OSError: break
    if not part: break
    seen += part
    if b'q ends' in seen: os.write(terminal, b'q')
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn on_a_terminal(dev: &Dev, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("timeout");
    command.args(["30", "python3", "-c", TERMINAL]).arg(tools::levada()).args(arguments);
    let output = command.env("LEVADA_BOOTSTRAP", dev.bootstrap()).env("TERM", "xterm").output()?;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {shown}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(shown)
}

/// A bundle of a cluster of which node 3 is down.
fn bundle(dev: &Dev, directory: &Path) -> Result<()> {
    let config = directory.join("levada.toml");
    fs::write(
        &config,
        "node_id = 1\ndata_dir = \"nowhere\"\nrack = \"http://me:hush@here\"\n[limits]\nidle_ms = 12345\n",
    )?;
    let file = directory.join("bundle.tar.gz");
    let (file_name, config_name) = (file.to_string_lossy(), config.to_string_lossy());
    let line = ["debug", "bundle", "--file", &file_name, "--config", &config_name, "--output", "json"];
    let output = dev.run(&line, b"")?;
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && progress.contains("cluster-status.json ("), "{progress}");
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let missing = told["missing"].as_array().context("missing")?;
    assert!(missing.len() == 3 && missing.iter().all(|line| line.to_string().contains("nodes/3/")), "{told}");
    assert_eq!(dev.run(&line, b"")?.status.code(), Some(1), "a file that is there is not overwritten");

    let unpacked = directory.join("unpacked");
    fs::create_dir(&unpacked)?;
    let status = Command::new("tar").arg("xzf").arg(&file).arg("-C").arg(&unpacked).status()?;
    ensure!(status.success(), "tar does not unpack it");
    let top = fs::read_dir(&unpacked)?.next().context("the archive is empty")??.path();
    let read = |name: &str| fs::read_to_string(top.join(name)).with_context(|| name.to_owned());
    let json = |name: &str| -> Result<Value> { Ok(serde_json::from_str(&read(name)?)?) };
    assert_eq!(json("cluster-status.json")?["nodes"][2]["alive"], false);
    assert_eq!(json("topics.json")?["topics"][0]["name"], "watched");
    assert!(json("doctor.json")?["wrong"].as_u64().is_some_and(|wrong| wrong > 0), "a node is down");
    assert_eq!(json("top.json")?["nodes"][2]["state"], "down");
    assert!(read("nodes/1/metrics.txt")?.contains("levada_node_info{node=\"1\""));
    assert_eq!(json("nodes/2/ready.json")?["ready"], true);
    assert!(read("config.txt")?.contains("limits.idle_ms = 12345\n"));
    assert!(read("missing.txt")?.contains("nodes/3/metrics.txt: cannot connect"), "{}", read("missing.txt")?);
    let about = json("about.json")?;
    for name in about["files"].as_array().context("files")?.iter().filter_map(Value::as_str) {
        let text = read(name)?;
        assert!(!text.contains(PAYLOAD) && !text.contains("hush"), "{name} holds what it must not");
    }
    Ok(())
}

/// What `levada doctor` says of node 1 and of the cluster: a finding by its check, and the exit code.
fn doctor(dev: &Dev) -> Result<(impl Fn(&str) -> Value + use<>, Option<i32>)> {
    let node = &dev.nodes[0];
    let data_dir = node.data_dir.to_string_lossy();
    let doors = ["--listen-native", &node.native, "--listen-flight", &node.flight, "--listen-http", &node.http];
    let line = [&["doctor", "--output", "json", "--data-dir", &data_dir][..], &doors].concat();
    let output = dev.run(&line, b"")?;
    let said: Value = serde_json::from_slice(&output.stdout).context("one line of JSON")?;
    let find = move |check: &str| {
        let findings = said["findings"].as_array();
        findings.and_then(|all| all.iter().find(|finding| finding["check"] == check)).cloned().unwrap_or_default()
    };
    Ok((find, output.status.code()))
}
