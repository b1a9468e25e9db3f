//! The commands that say how a cluster is, over real nodes one of which is killed.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use levada_tests::{dev::Dev, tools};
use serde_json::Value;

#[test]
fn an_operator_sees_what_is_wrong() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &["--nodes", "3", "--port-base", "0"])?;
    dev.ok(&["topic", "create", "watched", "--partitions", "4"], b"")?;
    dev.ok(&["produce", "watched"], b"one\ntwo\nthree\n")?;

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
    let (found, code) = doctor(&dev)?;
    assert_eq!(found("nodes")["saw"], "2 of 3 nodes are up; down: 3");
    assert_eq!((&found("nodes")["state"], code), (&"wrong".into(), Some(1)));
    let text = dev.ok(&["top", "--once", "--interval", "300ms"], b"")?;
    assert!(text.contains("2/3 nodes up") && text.contains("3 ! DOWN"), "{text}");
    assert!(dev.stop()?.success());
    Ok(())
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
