//! A partition loses two of its three replicas for good, or something of all that it has. An operator is told what is left, lets it
//! go on with that, and the cluster is whole again when other nodes have come.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{
    nodes::Nodes,
    rot::{self, Block},
    tools,
};
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

/// A bit flips in a record that a node which is down had made durable, so far from the first of them to the last.
fn damage(nodes: &Nodes, node: u64, (part, of): (usize, usize)) -> Result<()> {
    let data_dir = &nodes.nodes[&node].data_dir;
    let mut blocks = rot::blocks(data_dir)?;
    let synced = blocks.iter().map(|block| block.synced).max().context("there are blocks")?;
    let needed = rot::replay_from(data_dir)?..synced;
    // Of the partition, and of nothing else.
    blocks.retain(|block| needed.contains(&block.lsn) && block.frame_bytes > 500 && !block.groups.contains(&0));
    let Block { file, position, header_bytes, .. } = blocks.get(blocks.len() * part / of).context("one has records")?;
    rot::flip(file, position + header_bytes + 100)
}

/// What would be left of the partition, as it is said when the damage is known.
fn plan_in_doubt(nodes: &Nodes) -> Result<Value> {
    let plan = eventually("it is known what is left", Duration::from_secs(20), || {
        let (done, out, _) = levada(nodes, &["partition", "recover", TOPIC, "0", "--output", "json"], "")?;
        Ok(if done { Some(serde_json::from_str::<Value>(&out)?) } else { None })
    })?;
    let states = plan["replicas"].as_array().context("replicas")?.iter();
    ensure!(states.into_iter().all(|replica| replica["state"] == "lost"), "{plan}");
    ensure!(plan["in_doubt"] == true && plan["recovered"] == false && plan["high_watermark"].is_null(), "{plan}");
    ensure!(plan["known_lost"]["to"] == 1_000 && plan["unknown_from"] == 1_000, "its journal shows it: {plan}");
    Ok(plan)
}

/// Ten times a hundred records, each time in blocks of their own.
fn produce_thousand(nodes: &Nodes) -> Result<()> {
    (0..10).try_for_each(|part| produce(nodes, 100 * part..100 * (part + 1)))?;
    // The last of them is proven by what is written behind it.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// The only replica of a partition has lost some of its journal. The rest of it is there, and is not thrown away for that.
#[test]
fn the_only_replica_of_a_partition_goes_on_though_its_journal_is_damaged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("node-1");
    std::fs::create_dir_all(&data_dir)?;
    let mut nodes = Nodes::start_with(tools::levada(), &[data_dir], dir.path(), &[])?;
    all_know_each_other(&nodes)?;
    ok(&nodes, &["topic", "create", TOPIC, "--replicas", "1"], "")?;
    produce_thousand(&nodes)?;
    nodes.kill(1)?;
    damage(&nodes, 1, (1, 2))?;
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    let says = ok(&nodes, &["cluster", "status"], "")?;
    ensure!(says.contains("NOT AVAILABLE") && says.contains("levada partition recover"), "{says}");

    let plan = plan_in_doubt(&nodes)?;
    let kept = u32::try_from(plan["kept"]["to"].as_u64().context("it says what is kept")?)?;
    ensure!((100..1_000).contains(&kept), "{plan}");
    let says = ok(&nodes, &["partition", "recover", TOPIC, "0"], "")?;
    for part in [
        "lost, goes on",
        &format!("Offsets 0 to {} would stay", kept - 1),
        &format!("Offsets {kept} to 999 would be gone"),
        "All from offset 1000 on would be gone that node 1 had, and has lost: how many that were, nobody knows",
        "No sound replica answers",
        "copies of directories from before the damage",
        "Nothing has been changed",
    ] {
        ensure!(says.contains(part), "{part:?} is not in:\n{says}");
    }
    let all = ok(&nodes, &["partition", "recover", "--all"], "")?;
    ensure!(all.contains("in doubt, perhaps all from 1000 on"), "{all}");
    let says = ok(&nodes, &["partition", "recover", TOPIC, "0", "--accept-data-loss"], "")?;
    ensure!(says.contains(&format!("the next record gets offset {kept}")), "{says}");
    produce(&nodes, 2_000..2_100)?;
    let expected: Vec<u32> = (0..kept).chain(2_000..2_100).collect();
    ensure!(consume(&nodes)? == expected, "what it had in front of the damage, and what is new");
    ensure!(nodes.log(1)?.contains("partition.recovered"), "it says what it does");

    // The damage is still there, and is no news.
    nodes.kill(1)?;
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    eventually("all is well", Duration::from_secs(20), || Ok((status(&nodes)?["safe"] == true).then_some(())))?;
    ensure!(consume(&nodes)? == expected, "the same after a restart");
    Ok(())
}

/// All journals are damaged at once. The one that has most in front of the damage goes on, and the others get copies of it.
#[test]
fn a_partition_goes_on_though_all_its_journals_are_damaged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dirs: Vec<PathBuf> = (1..=3).map(|id| dir.path().join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    let mut nodes = Nodes::start_with(tools::levada(), &data_dirs, dir.path(), &[])?;
    all_know_each_other(&nodes)?;
    ok(&nodes, &["topic", "create", TOPIC, "--replicas", "3"], "")?;
    produce_thousand(&nodes)?;
    (1..=3).try_for_each(|node| nodes.kill(node))?;
    for (node, place) in [(1, (1, 4)), (2, (3, 4)), (3, (1, 2))] {
        damage(&nodes, node, place)?;
    }
    (1..=3).try_for_each(|node| nodes.spawn(node))?;
    nodes.wait_ready()?;
    let plan = plan_in_doubt(&nodes)?;
    let kept = u32::try_from(plan["kept"]["to"].as_u64().context("it says what is kept")?)?;
    ensure!(plan["survivor_node"] == 2 && (200..1_000).contains(&kept), "{plan}");
    ok(&nodes, &["partition", "recover", TOPIC, "0", "--accept-data-loss"], "")?;
    produce(&nodes, 2_000..2_100)?;
    eventually("the cluster is whole again", Duration::from_secs(60), || {
        Ok((status(&nodes)?["safe"] == true).then_some(()))
    })?;
    let expected: Vec<u32> = (0..kept).chain(2_000..2_100).collect();
    for node in 1..=3 {
        ok(&nodes, &["cluster", "move-leader", TOPIC, "0", &node.to_string()], "")?;
        ensure!(consume(&nodes)? == expected, "with node {node} as leader");
    }
    Ok(())
}
