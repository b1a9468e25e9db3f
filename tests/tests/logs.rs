//! What a node writes: with JSON every line is an event with a name that is listed; as text, nothing for terminals only.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{nodes::Nodes, tools};
use serde_json::Value;

const PAGE: &str = include_str!("../../docs/events.md");

#[test]
fn every_line_is_an_event_with_a_listed_name() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data: Vec<_> = (1..=3).map(|id| directory.path().join(format!("node-{id}"))).collect();
    let settings = [("LEVADA_LOG_FORMAT", "json"), ("LEVADA_LOG_FILTER", "debug")];
    let mut nodes = Nodes::start_with(tools::levada(), &data, directory.path(), &settings)?;
    for arguments in [&["topic", "create", "t"][..], &["produce", "t"], &["consume", "t"], &["topic", "delete", "t"]] {
        let mut command = Command::new(tools::levada());
        command.args(arguments).env("LEVADA_BOOTSTRAP", nodes.bootstrap()).stdin(Stdio::null()).stdout(Stdio::null());
        ensure!(command.status()?.success(), "levada {arguments:?} failed");
    }
    nodes.kill(3)?;
    nodes.spawn(3)?;
    nodes.wait_ready()?;
    nodes.stop(1)?;
    let mut seen = std::collections::BTreeSet::new();
    for id in 1..=3 {
        for line in fs::read_to_string(directory.path().join(format!("node-{id}.log")))?.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| format!("node {id} wrote {line}"))?;
            let name = event["event"].as_str().with_context(|| format!("no event in {line}"))?.to_owned();
            ensure!(name == "foreign" || PAGE.contains(&format!("\n| `{name}` | ")), "not listed: {line}");
            ensure!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
            seen.insert(name);
        }
    }
    for name in ["server.started", "cluster.founded", "topic.created", "peer.unreachable", "server.stopped"] {
        assert!(seen.contains(name), "{name} was not written: {seen:?}");
    }
    Ok(())
}

#[test]
fn the_last_words_are_in_the_log_too() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let run = |format: &str| {
        let mut command = Command::new(tools::levada());
        command.args(["server", "--node-id", "1", "--listen-native", &address, "--log-format", format]);
        command.arg("--data-dir").arg(directory.path().join("data")).output()
    };
    let json = run("json")?;
    assert_eq!(json.status.code(), Some(1));
    let lines = String::from_utf8(json.stderr)?;
    let events: Vec<Value> =
        lines.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(lines.clone())?;
    let last = events.last().context("it says nothing")?;
    assert_eq!((&last["event"], &last["exit"]), (&"server.ended".into(), &1.into()), "{lines}");
    assert!(last["error"].as_str().is_some_and(|error| error.contains(&address)), "{lines}");

    // Text into a file or a pipe has no colours.
    let text = String::from_utf8(run("text")?.stderr)?;
    assert!(text.contains(&format!("error: cannot listen on {address} (listen.native)")), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    Ok(())
}
