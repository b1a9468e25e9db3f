//! The command as an operator has it: topics are changed and deleted, leaders moved, partitions chosen, and a development
//! cluster ends with Ctrl-C.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{
    dev::{ClusterFile, Dev},
    tools,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

fn json_of(dev: &Dev, arguments: &[&str]) -> Result<Value> {
    let text = dev.ok(&[arguments, &["--output", "json"]].concat(), b"")?;
    serde_json::from_str(&text).context(text)
}

/// Its exit code, and its error as `--output json` has it.
fn refused(dev: &Dev, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = dev.run(&[arguments, &["--output", "json"]].concat(), b"line\n")?;
    let said = String::from_utf8(output.stderr)?;
    let error: Value = serde_json::from_str(&said).with_context(|| format!("{arguments:?}: {said}"))?;
    Ok((output.status.code(), error["error"].clone()))
}

/// Asks until it is so.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn topics_leaders_and_partitions_are_looked_after() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dev = Dev::start(tools::levada(), directory.path(), &["--port-base", "0"])?;
    settings(&dev)?;
    deletion(&dev)?;
    leadership(&dev)?;
    partitions(&dev)?;
    a_dead_node_takes_nothing_over(&dev)
}

fn settings(dev: &Dev) -> Result<()> {
    dev.ok(&["topic", "create", "settings"], b"")?;
    let default = json_of(dev, &["topic", "describe", "settings"])?["config"].clone();
    let set = ["topic", "alter", "settings", "--set", "retention.ms=3600000", "--set", "segment.bytes=1048576"];
    let altered = json_of(dev, &set)?["config"].clone();
    assert_eq!((&altered["retention.ms"], &altered["segment.bytes"]), (&json!("3600000"), &json!("1048576")));
    assert_eq!(json_of(dev, &["topic", "describe", "settings"])?["config"], altered);

    dev.ok(&["topic", "alter", "settings", "--unset", "retention.ms", "--set", "segment.bytes=2097152"], b"")?;
    let config = json_of(dev, &["topic", "describe", "settings"])?["config"].clone();
    assert_eq!((&config["retention.ms"], &config["segment.bytes"]), (&default["retention.ms"], &json!("2097152")));
    let table = dev.ok(&["topic", "describe", "settings"], b"")?;
    let origin = |setting: &str| {
        let row = table.lines().find(|line| line.starts_with(setting))?;
        row.split_whitespace().last().map(ToOwned::to_owned)
    };
    assert_eq!(origin("retention.ms").as_deref(), Some("default"), "{table}");
    assert_eq!(origin("segment.bytes").as_deref(), Some("set"), "{table}");

    let (code, error) = refused(dev, &["topic", "alter", "settings", "--set", "colour=red"])?;
    assert_eq!(code, Some(3), "{error}");
    let (code, error) = refused(dev, &["topic", "alter", "settings", "--unset", "colour"])?;
    assert_eq!((code, &error["code"]), (Some(3), &json!("INVALID_CONFIG")), "{error}");
    let both = ["topic", "alter", "settings", "--set", "segment.bytes=1048576", "--unset", "segment.bytes"];
    let (code, error) = refused(dev, &both)?;
    assert_eq!((code, &error["code"]), (Some(3), &json!("INVALID_CONFIG")), "{error}");
    let (code, error) = refused(dev, &["topic", "alter", "nothing", "--set", "retention.ms=1"])?;
    assert_eq!((code, &error["code"]), (Some(3), &json!("UNKNOWN_TOPIC")), "{error}");
    let (code, error) = refused(dev, &["topic", "alter", "settings"])?;
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(json_of(dev, &["topic", "describe", "settings"])?["config"], config, "what was refused changed nothing");
    Ok(())
}

fn deletion(dev: &Dev) -> Result<()> {
    let consume = ["consume", "short-lived", "--format", "raw"];
    let is_listed = || -> Result<bool> {
        let listed = json_of(dev, &["topic", "list"])?;
        Ok(listed["topics"].as_array().into_iter().flatten().any(|topic| topic["name"] == "short-lived"))
    };
    let created = json_of(dev, &["topic", "create", "short-lived"])?;
    dev.ok(&["produce", "short-lived"], b"old\nolder\n")?;
    assert_eq!(dev.ok(&consume, b"")?, "old\nolder\n");
    assert!(is_listed()?);

    dev.ok(&["topic", "delete", "short-lived"], b"")?;
    assert!(!is_listed()?);
    let lost: [&[&str]; 4] = [
        &consume,
        &["produce", "short-lived"],
        &["topic", "describe", "short-lived"],
        &["topic", "delete", "short-lived"],
    ];
    for arguments in lost {
        let (code, error) = refused(dev, arguments)?;
        assert_eq!((code, &error["code"]), (Some(3), &json!("UNKNOWN_TOPIC")), "{arguments:?}: {error}");
    }

    let again = json_of(dev, &["topic", "create", "short-lived"])?;
    assert_ne!(again["id"], created["id"]);
    assert_eq!(dev.ok(&consume, b"")?, "", "a new topic has nothing of the old one");
    dev.ok(&["produce", "short-lived"], b"new\n")?;
    let read = dev.ok(&["consume", "short-lived", "--format", "jsonl", "--columns", "offset,value"], b"")?;
    assert_eq!(serde_json::from_str::<Value>(&read)?, json!({"offset": 0, "value": "new"}));
    Ok(())
}

/// Who leads partition 1 of the topic "led".
fn leader_of_led(dev: &Dev) -> Result<Option<u64>> {
    let status = json_of(dev, &["cluster", "status"])?;
    let mut partitions = status["partitions"].as_array().into_iter().flatten();
    let partition = partitions.find(|partition| partition["topic"] == "led" && partition["partition"] == 1);
    Ok(partition.and_then(|partition| partition["leader"].as_u64()))
}

fn leadership(dev: &Dev) -> Result<()> {
    dev.ok(&["topic", "create", "led", "--partitions", "2"], b"")?;
    dev.ok(&["produce", "led", "--partition", "1"], b"before\n")?;
    let leader = || leader_of_led(dev);
    let before = eventually("the partition has a leader", leader)?;
    let after = before % 3 + 1;
    let moved = json_of(dev, &["cluster", "move-leader", "led", "1", &after.to_string()])?;
    assert_eq!(moved, json!({"topic": "led", "partition": 1, "leader": after}));
    eventually("the other node leads", || Ok((leader()? == Some(after)).then_some(())))?;
    dev.ok(&["produce", "led", "--partition", "1"], b"after\n")?;
    assert_eq!(dev.ok(&["consume", "led", "--format", "raw"], b"")?, "before\nafter\n");

    let (code, error) = refused(dev, &["cluster", "move-leader", "led", "1", "9"])?;
    assert_eq!(code, Some(3), "{error}");
    assert_eq!(leader()?, Some(after));
    Ok(())
}

fn a_dead_node_takes_nothing_over(dev: &Dev) -> Result<()> {
    let leader = || leader_of_led(dev);
    let leads = eventually("the partition has a leader", leader)?;
    let victim = dev.nodes.iter().find(|node| node.id != leads).context("there are three")?;
    kill_process(Pid::from_raw(i32::try_from(victim.pid)?).context("a process")?, Signal::KILL)?;
    let (code, error) = refused(dev, &["cluster", "move-leader", "led", "1", &victim.id.to_string()])?;
    assert_ne!(code, Some(0), "{error}");
    let why = error["message"].as_str().unwrap_or_default();
    assert!(why.contains(&format!("node {} did not take over", victim.id)), "{error}");
    assert_eq!(leader()?, Some(leads));
    Ok(())
}

fn partitions(dev: &Dev) -> Result<()> {
    dev.ok(&["topic", "create", "chosen", "--partitions", "3"], b"")?;
    let input: String = (0..5000).map(|n| format!("{n}: a line that is much like the one before\n")).collect();
    let produce = |partition: &str, compression: &str| {
        let arguments = ["produce", "chosen", "--partition", partition, "--compression", compression];
        dev.ok(&arguments, input.as_bytes())
    };
    produce("0", "none")?;
    produce("2", "zstd")?;
    let consume = |partitions: &[&str]| dev.ok(&[&["consume", "chosen", "--format", "raw"], partitions].concat(), b"");
    assert_eq!(consume(&["--partition", "2"])?, input);
    assert_eq!(consume(&["--partition", "0"])?, input);
    assert_eq!(consume(&["--partition", "1"])?, "");
    assert_eq!(consume(&["--partition", "1", "--partition", "2"])?, input);
    assert_eq!(consume(&["--partition", "0", "--partition", "2"])?.len(), 2 * input.len());

    let described = json_of(dev, &["topic", "describe", "chosen"])?;
    let bytes = |partition: usize| described["partitions"][partition]["bytes"].as_u64().context("no bytes");
    assert!(bytes(2)? * 4 < bytes(0)?, "zstd takes less room: {described}");

    for arguments in [["produce", "chosen", "--partition", "3"], ["consume", "chosen", "--partition", "3"]] {
        let (code, error) = refused(dev, &arguments)?;
        assert_eq!(code, Some(3), "{arguments:?}: {error}");
    }
    Ok(())
}

/// `levada dev` as a terminal has it: in a process group of its own, which Ctrl-C reaches as a whole.
struct Terminal(Child);

impl Terminal {
    fn start(directory: &Path, arguments: &[&str]) -> Result<(Self, ClusterFile)> {
        let mut command = Command::new(tools::levada());
        command.args(["--output", "json", "dev", "--port-base", "0", "--data-dir"]).arg(directory).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut terminal = Self(command.process_group(0).spawn()?);
        let mut line = String::new();
        BufReader::new(terminal.0.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "no node is ready: {}", terminal.words()?);
        let cluster = serde_json::from_str(&line).with_context(|| format!("not cluster.json: {line}"))?;
        Ok((terminal, cluster))
    }

    fn ctrl_c(&mut self) -> Result<ExitStatus> {
        kill_process_group(pid(self.0.id())?, Signal::INT)?;
        eventually("levada dev ends", || Ok(self.0.try_wait()?))
    }

    /// All that it said on standard error, once it has ended.
    fn words(&mut self) -> Result<String> {
        let mut words = String::new();
        self.0.stderr.take().context("no error stream")?.read_to_string(&mut words)?;
        Ok(words)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // After Ctrl-C it is gone, and both fail. The nodes end with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid(pid: u32) -> Result<Pid> {
    Pid::from_raw(i32::try_from(pid)?).context("process 0 is none")
}

fn is_running(process: u32) -> bool {
    Path::new("/proc").join(process.to_string()).exists()
}

#[test]
fn ctrl_c_ends_all_nodes_also_those_that_were_started_again() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("cluster.json");
    let (mut terminal, before) = Terminal::start(directory.path(), &["--nodes", "2", "--restart"])?;
    let levada = |arguments: &[&str]| -> Result<String> {
        let bootstrap = before.nodes.iter().map(|node| node.native.clone()).collect::<Vec<_>>().join(",");
        let output = Command::new(tools::levada()).args(arguments).env("LEVADA_BOOTSTRAP", bootstrap).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };

    kill_process(pid(before.nodes[1].pid)?, Signal::KILL)?;
    let after = eventually("cluster.json has a new process", || {
        let cluster: ClusterFile = serde_json::from_slice(&std::fs::read(&path)?)?;
        Ok((cluster != before).then_some(cluster))
    })?;
    assert_eq!(after.nodes[0], before.nodes[0]);
    assert_eq!((after.nodes[1].id, &after.nodes[1].native), (before.nodes[1].id, &before.nodes[1].native));
    assert_ne!(after.nodes[1].pid, before.nodes[1].pid);
    assert!(after.nodes.iter().all(|node| is_running(node.pid)));
    // Two replicas of two: it takes the node that was started again.
    levada(&["topic", "create", "both", "--replicas", "2"])?;
    assert!(levada(&["topic", "describe", "both"])?.contains("both"));

    assert_eq!(terminal.ctrl_c()?.code(), Some(0));
    for node in before.nodes.iter().chain(&after.nodes) {
        assert!(!is_running(node.pid), "{node:?}");
    }
    assert!(!path.exists());
    let words = terminal.words()?;
    let [old, new] = [&before, &after].map(|cluster| cluster.nodes[1].pid);
    assert!(words.contains(&format!("node 2 (process {old}) was killed by signal 9")), "{words}");
    assert!(words.contains(&format!("node 2 started again as process {new}")), "{words}");
    Ok(())
}
