//! The commands that say how a cluster is, over real nodes one of which is killed.

use anyhow::{Context as _, Result};
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

    dev.kill(3)?;
    let (found, code) = doctor(&dev)?;
    assert_eq!(found("nodes")["saw"], "2 of 3 nodes are up; down: 3");
    assert_eq!((&found("nodes")["state"], code), (&"wrong".into(), Some(1)));
    assert!(dev.stop()?.success());
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
