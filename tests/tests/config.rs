//! Configuration that is read again while nodes run: what can change does, the rest is named, a wrong file is refused.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_protocol::{
    frame::{Api, Preface, encode_request},
    messages::native::HandshakeRequest,
};
use levada_tests::{http, nodes::Nodes, tools};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn what_can_change_does_and_the_rest_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("levada.toml");
    fs::write(&file, "rack = 'a'\n[log]\nformat = 'json'\n")?;
    let data: Vec<_> = (1..=2).map(|id| directory.path().join(format!("node-{id}"))).collect();
    let config = file.to_string_lossy();
    let mut nodes = Nodes::start_with(tools::levada(), &data, directory.path(), &[("LEVADA_CONFIG", &config)])?;
    let log = |id: u64| fs::read_to_string(directory.path().join(format!("node-{id}.log")));

    let shown = json(&levada(&nodes, &["config", "show", "--node", "2", "--output", "json"])?)?;
    assert_eq!((&shown["node"], shown["values"].as_array().map(Vec::len)), (&2.into(), Some(levada_keys()?)));
    assert_eq!(value(&shown, "rack")["origin"], format!("{config}, line 1"));
    assert_eq!(value(&shown, "node_id")["origin"], "LEVADA_NODE_ID");
    assert_eq!(value(&shown, "limits.idle_ms")["origin"], "default");

    // Three kinds of keys: the log's filter, a limit of the doors, one that needs a restart.
    fs::write(&file, "rack = 'b'\n[log]\nformat = 'json'\nfilter = 'debug'\n[limits]\nconnections_max = 3\n")?;
    ensure!(!log(1)?.contains("\"level\":\"DEBUG\""), "it writes what nobody asked for");
    let done = json(&levada(&nodes, &["config", "reload", "--output", "json"])?)?;
    for (at, node) in [1, 2].into_iter().enumerate() {
        let of = &done["nodes"][at];
        assert_eq!(
            (&of["node"], keys(&of["applied"]), keys(&of["needs_restart"])),
            (&node.into(), vec!["limits.connections_max", "log.filter"], vec!["rack"]),
            "{done}"
        );
    }
    let shown = json(&levada(&nodes, &["config", "show", "--changed", "--output", "json"])?)?;
    assert_eq!((&value(&shown, "rack")["value"], &value(&shown, "rack")["after_restart"]), (&"a".into(), &"b".into()));
    assert_eq!(value(&shown, "limits.connections_max")["value"], 3);
    eventually("events that only debug writes", || Ok(log(1)?.contains("\"level\":\"DEBUG\"")))?;

    // The door is full with three, whoever they are; then only a signal comes through.
    let node = nodes.nodes[&1].native.clone();
    let held: Vec<TcpStream> = (0..3).map(|_| shake_hands(&node)).collect::<Result<_>>()?;
    let refused = levada_at(&node, &["topic", "list", "--timeout", "1s", "--output", "json"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    ensure!(
        http::get(&nodes.nodes[&1].http, "/metrics")?.contains("levada_connections_refused_total{reason=\"full\"}")
    );
    fs::write(&file, "rack = 'b'\n[log]\nformat = 'json'\n[limits]\nconnections_max = 300\n")?;
    nodes.signal(1, Signal::HUP)?;
    eventually("the log tells of the signal", || Ok(log(1)?.matches("config.reloaded").count() == 2))?;
    let listed = levada_at(&node, &["topic", "list"])?;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    drop(held);

    // A wrong value in the last line, behind right ones.
    fs::write(&file, "rack = 'b'\n[log]\nfilter = 'warn'\n[limits]\nidle_ms = 9000\nframe_ms = 1\n")?;
    let refused = levada(&nodes, &["config", "reload", "--output", "json"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("`limits.frame_ms` ({config}, line 6): a number from 100 to 3600000")), "{said}");
    assert_eq!(json(&refused)?["nodes"][1]["error"]["code"], "INVALID_CONFIG");
    let shown = json(&levada(&nodes, &["config", "show", "--output", "json"])?)?;
    assert_eq!(value(&shown, "limits.idle_ms")["value"], 600_000, "nothing of it took effect");
    nodes.signal(2, Signal::HUP)?;
    eventually("the log tells what was wrong", || Ok(log(2)?.contains("config.refused")))?;

    // What needs a restart is there after one.
    fs::write(&file, "rack = 'b'\n[log]\nformat = 'json'\n")?;
    nodes.stop(1)?;
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    let shown = json(&levada(&nodes, &["config", "show", "--node", "1", "--output", "json"])?)?;
    assert_eq!((&value(&shown, "rack")["value"], &value(&shown, "rack")["after_restart"]), (&"b".into(), &Value::Null));
    Ok(())
}

/// A connection that has said hello and stays.
fn shake_hands(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&Preface::OURS.encode())?;
    stream.write_all(&encode_request(Api::Handshake, 1, &HandshakeRequest::default(), 0))?;
    stream.read_exact(&mut [0; 20]).context("no answer to the handshake")?;
    Ok(stream)
}

/// How many keys there are, as the server prints them.
fn levada_keys() -> Result<usize> {
    let output = Command::new(tools::levada())
        .args(["server", "--node-id", "1", "--data-dir", "/nowhere", "--print-config"])
        .output()?;
    Ok(String::from_utf8(output.stdout)?.lines().count())
}

fn value(shown: &Value, key: &str) -> Value {
    let all = shown["values"].as_array();
    all.and_then(|all| all.iter().find(|value| value["key"] == key)).cloned().unwrap_or_default()
}

fn keys(changes: &Value) -> Vec<&str> {
    changes.as_array().map(|all| all.iter().filter_map(|change| change["key"].as_str()).collect()).unwrap_or_default()
}

fn json(output: &Output) -> Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{}: {said}", output.status))
}

fn levada(nodes: &Nodes, arguments: &[&str]) -> Result<Output> {
    levada_at(&nodes.bootstrap(), arguments)
}

fn levada_at(bootstrap: &str, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(tools::levada()).args(arguments).env("LEVADA_BOOTSTRAP", bootstrap).output()?)
}

fn eventually(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// It says which line, and makes nothing.
#[test]
fn a_node_with_a_wrong_file_does_not_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("levada.toml");
    for (text, code, says) in [
        ("node_id = 1\ndata_dir = 'd'\nrack = 7\n", 2, "`rack` (levada.toml, line 3): invalid type"),
        ("node_id = 1\ndata_dir = 'd'\n[log]\nfilter = 'x=y'\n", 2, "`log.filter` (levada.toml, line 4)"),
        (
            "node_id = 1\ndata_dir = 'd'\n[nonsense]\na = 1\n",
            2,
            "`nonsense.a` (levada.toml, line 4): there is no such key",
        ),
        ("node_id = 1\ndata_dir = 'd'\nrack = \n", 2, "(levada.toml, line 3): this is not TOML"),
    ] {
        fs::write(&file, text)?;
        let mut command = Command::new(tools::levada());
        command.args(["server", "--config", "levada.toml"]).current_dir(directory.path());
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.contains(says)), (Some(code), true), "{says}: {said}");
        assert!(!Path::new(directory.path()).join("d").exists(), "it has made a directory all the same");
    }
    Ok(())
}
