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

/// The cluster is at the level of this build: before all nodes have registered it is not.
fn all_know_each_other(nodes: &Nodes) -> Result<()> {
    eventually("the feature level rises", Duration::from_secs(20), || {
        Ok((status(nodes)?["feature_level"].as_u64() >= Some(3)).then_some(()))
    })
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
    all_know_each_other(&nodes)?;
    ok(&nodes, &["topic", "create", TOPIC, "--replicas", "3"], "")?;
    produce(&nodes, 0..1_000)?;
    let partition = status(&nodes)?["partitions"][0].clone();
    let leader = partition["leader"].as_u64().context("no leader")?;
    let replicas = partition["replicas"].as_array().context("no replicas")?.iter();
    let of: Vec<u64> = replicas.filter_map(|replica| replica["node"].as_u64()).collect();
    let survivor = *of.iter().find(|node| **node != leader).context("a follower")?;
    let gone: Vec<u64> = of.iter().copied().filter(|node| *node != survivor).collect();

    let out = ok(&nodes, &["partition", "recover", TOPIC, "0", "--accept-data-loss"], "")?;
    ensure!(out.contains("leads the partition: there is nothing to recover"), "{out}");

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
        Ok((done && out.contains("would stay")).then_some(out))
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

/// Two of three nodes are gone for good, and with them every majority: of the metadata, and of each partition.
#[test]
fn a_cluster_of_three_goes_on_with_the_one_node_that_is_left() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dirs: Vec<PathBuf> = (1..=3).map(|id| dir.path().join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    let mut nodes = Nodes::start_with(tools::levada(), &data_dirs, dir.path(), &[])?;
    all_know_each_other(&nodes)?;
    ok(&nodes, &["topic", "create", TOPIC, "--partitions", "1"], "")?;
    ok(&nodes, &["topic", "create", "others", "--partitions", "20"], "")?;
    produce(&nodes, 0..1_000)?;
    let out = ok(&nodes, &["cluster", "recover", "--accept-data-loss"], "")?;
    ensure!(out.contains("leads the metadata: there is nothing to recover"), "{out}");

    let controller = status(&nodes)?["controller"].as_u64().context("no controller")?;
    let survivor = (1..=3).find(|node| *node != controller).context("another")?;
    let gone: Vec<u64> = (1..=3).filter(|node| *node != survivor).collect();
    let (wiped, back) = (gone[0], gone[1]);
    gone.iter().try_for_each(|node| nodes.kill(*node))?;
    nodes.wipe(wiped)?;

    // Nothing else helps.
    let (done, _, error) = levada(&nodes, &["partition", "recover", TOPIC, "0", "--timeout", "3s"], "")?;
    ensure!(
        !done && error.contains("no controller") && error.contains("`levada cluster recover` comes first"),
        "{error}"
    );
    let says = ok(&nodes, &["cluster", "status"], "")?;
    ensure!(says.contains("NOT AVAILABLE") && says.contains("`levada cluster recover` says what is left"), "{says}");
    let plan = eventually("it is known what is left", Duration::from_secs(20), || {
        let (done, out, _) = levada(&nodes, &["cluster", "recover"], "")?;
        Ok((done && out.contains("would go on")).then_some(out))
    })?;
    for part in ["no answer", "sound, goes on", "would go on with", "Nothing has been changed"] {
        ensure!(plan.contains(part), "{part:?} is not in:\n{plan}");
    }
    ensure!(status(&nodes)?["controller"].is_null(), "nothing has been changed");
    let out = ok(&nodes, &["cluster", "recover", "--accept-data-loss"], "")?;
    ensure!(out.contains(&format!("node {survivor} is the controller")), "{out}");

    // What the others had is given up for all partitions at once.
    let plan = eventually("it is known what is left of them", Duration::from_secs(20), || {
        let (done, out, _) = levada(&nodes, &["partition", "recover", "--all"], "")?;
        Ok((done && out.contains("others")).then_some(out))
    })?;
    ensure!(plan.lines().filter(|line| line.contains("no record")).count() == 20, "{plan}");
    ensure!(plan.contains("offsets 0 to 999 "), "{plan}");
    let done = ok(&nodes, &["partition", "recover", "--all", "--accept-data-loss", "--output", "json"], "")?;
    let done: Value = serde_json::from_str(&done)?;
    let partitions = done["partitions"].as_array().context("partitions")?;
    ensure!(partitions.iter().all(|partition| partition["recovered"] == true), "{done}");
    ensure!(consume(&nodes)? == (0..1_000).collect::<Vec<u32>>(), "what it had");
    produce(&nodes, 1_000..1_100)?;
    let out = ok(&nodes, &["partition", "recover", "--all"], "")?;
    ensure!(out.contains("there is nothing to recover"), "{out}");

    // One comes back with all that it had, which counts no more; one with an empty directory.
    nodes.spawn(back)?;
    ok(&nodes, &["cluster", "replace", &wiped.to_string(), "--no-wait"], "")?;
    nodes.spawn(wiped)?;
    nodes.wait_ready()?;
    eventually("the cluster is whole again", Duration::from_secs(60), || {
        let status = status(&nodes)?;
        let mut nodes = status["nodes"].as_array().into_iter().flatten();
        Ok((status["safe"] == true && nodes.all(|node| node["metadata_voter"] == true)).then_some(()))
    })?;
    ensure!(nodes.log(back)?.contains("metadata.given_up"), "it was told");
    let expected: Vec<u32> = (0..1_100).collect();
    for node in 1..=3 {
        ok(&nodes, &["cluster", "move-leader", TOPIC, "0", &node.to_string()], "")?;
        ensure!(consume(&nodes)? == expected, "with node {node} as leader");
    }
    // Whoever is left of them is a majority.
    nodes.kill(survivor)?;
    eventually("the two others go on", Duration::from_secs(20), || {
        let (done, _, _) = levada(&nodes, &["topic", "create", "later"], "")?;
        Ok(done.then_some(()))
    })?;
    ensure!(consume(&nodes)? == expected, "without the survivor");
    Ok(())
}
