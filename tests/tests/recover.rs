//! A partition loses two of its three replicas for good. An operator is told what is left, lets it go on with that, and the
//! cluster is whole again when other nodes have come.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{nodes::Nodes, tools};
use serde_json::Value;

const TOPIC: &str = "orders";

fn levada(nodes: &Nodes, arguments: &[&str], input: &str) -> Result<(bool, String, String)> {
    let mut command = Command::new(tools::levada());
    command.args(arguments).env("LEVADA_BOOTSTRAP", nodes.bootstrap());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok((output.status.success(), text(output.stdout)?, text(output.stderr)?))
}

fn ok(nodes: &Nodes, arguments: &[&str], input: &str) -> Result<String> {
    let (ok, out, error) = levada(nodes, arguments, input)?;
    ensure!(ok, "levada {arguments:?}: {error}");
    Ok(out)
}

/// Records with these numbers.
fn produce(nodes: &Nodes, numbers: std::ops::Range<u32>) -> Result<()> {
    let lines: String = numbers.map(|number| format!("{number}\n")).collect();
    ok(nodes, &["produce", TOPIC], &lines).map(drop)
}

/// The numbers in the partition, from the first to the last.
fn consume(nodes: &Nodes) -> Result<Vec<u32>> {
    let out = ok(nodes, &["consume", TOPIC, "--from", "earliest", "--format", "raw"], "")?;
    out.lines().map(|line| Ok(line.parse()?)).collect()
}

fn status(nodes: &Nodes) -> Result<Value> {
    Ok(serde_json::from_str(&ok(nodes, &["cluster", "status", "--output", "json"], "")?)?)
}

fn eventually<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(began.elapsed() < patience, "it does not happen: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_partition_goes_on_with_what_is_left_of_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dirs: Vec<PathBuf> = (1..=5).map(|id| dir.path().join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    let mut nodes = Nodes::start_with(tools::levada(), &data_dirs, dir.path(), &[])?;
    ok(&nodes, &["topic", "create", TOPIC, "--replicas", "3"], "")?;
    produce(&nodes, 0..1_000)?;
    let partition = status(&nodes)?["partitions"][0].clone();
    let leader = partition["leader"].as_u64().context("no leader")?;
    let replicas = partition["replicas"].as_array().context("no replicas")?.iter();
    let of: Vec<u64> = replicas.filter_map(|replica| replica["node"].as_u64()).collect();
    let survivor = *of.iter().find(|node| **node != leader).context("a follower")?;
    let gone: Vec<u64> = of.iter().copied().filter(|node| *node != survivor).collect();

    let (done, _, error) = levada(&nodes, &["partition", "recover", TOPIC, "0", "--accept-data-loss"], "")?;
    ensure!(!done && error.contains("leads the partition: there is nothing to recover"), "{error}");

    // The survivor misses some, and then the others and their directories are gone.
    nodes.kill(survivor)?;
    produce(&nodes, 1_000..1_500)?;
    for node in &gone {
        nodes.kill(*node)?;
        nodes.wipe(*node)?;
    }
    nodes.spawn(survivor)?;
    let recover = |arguments: &[&str]| levada(&nodes, &[&["partition", "recover", TOPIC, "0"], arguments].concat(), "");
    // The leader that is gone is believed to be one for a moment.
    let plan = eventually("it is known what is left", Duration::from_secs(20), || {
        let (done, out, _) = recover(&[])?;
        Ok(done.then_some(out))
    })?;
    for part in ["no answer", "sound, goes on", "Offsets 0 to 999 would stay: 1000", "Nothing has been changed"] {
        ensure!(plan.contains(part), "{part:?} is not in:\n{plan}");
    }
    ensure!(plan.contains("All from offset 1000 on would be gone"), "{plan}");
    let (done, out, error) = recover(&["--accept-data-loss"])?;
    ensure!(done && out.contains("the next record gets offset 1000"), "{out}{error}");
    ensure!(consume(&nodes)? == (0..1_000).collect::<Vec<u32>>(), "what it had");
    produce(&nodes, 2_000..2_100)?;

    // Others come in the places of those that are gone.
    for node in &gone {
        ok(&nodes, &["cluster", "replace", &node.to_string(), "--no-wait"], "")?;
        nodes.spawn(*node)?;
    }
    nodes.wait_ready()?;
    eventually("the cluster is whole again", Duration::from_secs(60), || {
        Ok((status(&nodes)?["safe"] == true).then_some(()))
    })?;
    let expected: Vec<u32> = (0..1_000).chain(2_000..2_100).collect();
    // Whoever leads has it.
    for node in of {
        ok(&nodes, &["cluster", "move-leader", TOPIC, "0", &node.to_string()], "")?;
        ensure!(consume(&nodes)? == expected, "with node {node} as leader");
    }
    Ok(())
}
