//! Nodes come and go, and topics grow and shrink, under load and through the `levada` command: nobody's write fails, and an
//! independent reader finds every acknowledged record exactly once, in order.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, NewTopic};
use levada_tests::{
    ledger::{Ledger, Load},
    nodes::Nodes,
    tools,
    waiting::until,
};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 4;
const WRITERS: u64 = 4;
/// How long one change of the cluster may take here, beside other tests.
const PATIENCE: Duration = Duration::from_secs(90);

fn levada(nodes: &Nodes, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(tools::levada());
    command.args(arguments).args(["--output", "json", "--bootstrap", &nodes.bootstrap()]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    child.with_context(|| format!("cannot run levada {arguments:?}"))
}

/// What the command says at its end.
async fn said(child: Child) -> Result<Value> {
    let output = timeout(PATIENCE, child.wait_with_output()).await.context("the command does not come to an end")??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{out}\n{err}");
    serde_json::from_str(out.trim()).with_context(|| format!("no JSON: {out}"))
}

async fn run(nodes: &Nodes, arguments: &[&str]) -> Result<Value> {
    said(levada(nodes, arguments)?).await
}

async fn progress(ledger: &Ledger, more: u64) -> Result<()> {
    let goal = ledger.acknowledged() + more;
    let waiting = async {
        while ledger.acknowledged() < goal {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waiting).await.context("writes do not go on")
}

fn node(status: &Value, id: u64) -> Option<&Value> {
    status["nodes"].as_array()?.iter().find(|node| node["id"] == id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_and_go_under_load() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dirs: Vec<PathBuf> = (1..=4).map(|id| dir.path().join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    // Small, so that there is something in segments to copy.
    let small = [("LEVADA_JOURNAL_CHECKPOINT_BYTES", "2097152")];
    let mut nodes = Nodes::start_with(tools::levada(), &data_dirs[..3], dir.path(), &small)?;
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    let config = [("segment.bytes".to_owned(), (1 << 20).to_string())].into();
    let new = NewTopic { name: TOPIC.into(), partitions: PARTITIONS, replicas: 3, config, schema_json: None };
    admin.create_topic(new).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    progress(&ledger, 20_000).await?;

    // A node joins. The command is there first, and waits for it.
    let adding = levada(&nodes, &["cluster", "add", "4"])?;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(nodes.prepare_joining(&data_dirs[3], dir.path())?, 4);
    nodes.spawn(4)?;
    let added = said(adding).await?;
    println!("add: {added}");
    ensure!(added["copied_bytes"].as_u64() > Some(0), "nothing was copied: {added}");
    nodes.wait_ready()?;
    let status = run(&nodes, &["cluster", "status"]).await?;
    ensure!(node(&status, 4).is_some_and(|node| node["replicas"] == 3), "it has its share: {status}");
    progress(&ledger, 2_000).await?;

    // Another leaves, and its process ends by itself.
    let planned = run(&nodes, &["cluster", "decommission", "2", "--dry-run"]).await?;
    let leaves = |planned: &Value| {
        let from = planned["from"].as_array().is_some_and(|nodes| nodes.contains(&2.into()));
        from && planned["to"].as_array().is_some_and(|nodes| !nodes.contains(&2.into()))
    };
    ensure!(planned["moves"].as_array().is_some_and(|moves| moves.len() == 3 && moves.iter().all(leaves)), "{planned}");
    println!("decommission: {}", run(&nodes, &["cluster", "decommission", "2"]).await?);
    let log = nodes.wait_ended(2)?;
    ensure!(log.contains("node 2 was decommissioned"), "{log}");
    nodes.forget(2);
    progress(&ledger, 2_000).await?;

    // A third one loses its data directory. It does not come back by itself, but when it is let.
    nodes.wipe(3)?;
    nodes.spawn(3)?;
    let log = nodes.wait_ended(3)?;
    ensure!(log.contains("levada cluster replace 3"), "it says what to do: {log}");
    let replacing = levada(&nodes, &["cluster", "replace", "3"])?;
    sleep(Duration::from_millis(500)).await;
    nodes.spawn(3)?;
    println!("replace: {}", said(replacing).await?);
    nodes.wait_ready()?;
    progress(&ledger, 2_000).await?;

    // Without the file that says whose it is, its directory is not told from an emptied one by others: it says so itself.
    nodes.kill(3)?;
    let identity = nodes.nodes[&3].data_dir.join("identity");
    let kept = std::fs::read(&identity)?;
    std::fs::remove_file(&identity)?;
    nodes.spawn(3)?;
    let log = nodes.wait_ended(3)?;
    ensure!(log.lines().last().is_some_and(|line| line.contains("has no file `identity`")), "{log}");
    std::fs::write(&identity, kept)?;
    nodes.spawn(3)?;
    nodes.wait_ready()?;

    // All are restarted, one after the other.
    for id in nodes.ids() {
        nodes.stop(id)?;
        nodes.spawn(id)?;
        nodes.wait_ready()?;
        progress(&ledger, 1_000).await?;
    }
    let status = run(&nodes, &["cluster", "status"]).await?;
    let ids: Vec<_> = status["nodes"].as_array().into_iter().flatten().map(|node| node["id"].clone()).collect();
    ensure!(ids == [1, 3, 4].map(Value::from), "{status}");

    load.stop().await.context("no write fails")?;
    ensure!(ledger.unknown() == 0, "{} writes were given up", ledger.unknown());
    println!("{}", ledger.judge(tools::python(), &nodes.nodes[&4].flight, TOPIC, dir.path())?);
    Ok(())
}

/// Nodes with these many data directories, and small checkpoints so that there is something in segments to copy.
fn cluster(dir: &Path, count: u64) -> Result<Nodes> {
    let data_dirs: Vec<PathBuf> = (1..=count).map(|id| dir.join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    Nodes::start_with(tools::levada(), &data_dirs, dir, &[("LEVADA_JOURNAL_CHECKPOINT_BYTES", "2097152")])
}

/// The nodes with replicas of each partition of the topic, as the cluster's status says; nothing while any are on their way.
async fn placed(nodes: &Nodes) -> Result<Vec<Vec<u64>>> {
    let status = run(nodes, &["cluster", "status"]).await?;
    let mut placed = Vec::new();
    for partition in status["partitions"].as_array().into_iter().flatten().filter(|of| of["topic"] == TOPIC) {
        let is_moving = partition["moving_to"].as_array().is_some_and(|to| !to.is_empty());
        ensure!(!is_moving && partition["leader"].is_u64(), "it is on its way: {partition}");
        let replicas = partition["replicas"].as_array().into_iter().flatten();
        let mut on: Vec<u64> = replicas.filter_map(|replica| replica["node"].as_u64()).collect();
        on.sort_unstable();
        on.dedup();
        placed.push(on);
    }
    Ok(placed)
}

fn sorted(nodes: &Value) -> Vec<u64> {
    let mut nodes: Vec<u64> = nodes.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    nodes.sort_unstable();
    nodes
}

/// Whether the nodes have as many replicas as they are said to have.
fn are_there(nodes: &Nodes, placed: &[Vec<u64>]) -> Result<bool> {
    let mut counts: BTreeMap<u64, u32> = nodes.ids().into_iter().map(|id| (id, 0)).collect();
    placed.iter().flatten().for_each(|node| *counts.entry(*node).or_default() += 1);
    let counts = counts
        .into_iter()
        .map(|(id, count)| Ok((nodes.metric(id, "levada_partitions")? - f64::from(count)).abs() < 0.5));
    Ok(counts.collect::<Result<Vec<_>>>()?.into_iter().all(|is_so| is_so))
}

/// Waits until the topic has so many partitions with so many replicas, each on a node of its own, where the status says; the
/// nodes themselves and whoever looks at the topic say the same. The cluster may even them out by itself meanwhile.
async fn until_sized(nodes: &Nodes, partitions: usize, replicas: usize) -> Result<Vec<Vec<u64>>> {
    let mut sized = Vec::new();
    until(&format!("{partitions} partitions with {replicas} replicas"), async || {
        let status = run(nodes, &["cluster", "status"]).await?;
        sized = placed(nodes).await?;
        let is_sized = sized.len() == partitions && sized.iter().all(|on| on.len() == replicas);
        let topic = run(nodes, &["topic", "describe", TOPIC]).await?;
        let described = topic["partitions"].as_array().into_iter().flatten().map(|of| sorted(&of["replicas"]));
        Ok(status["safe"] == true && is_sized && are_there(nodes, &sized)? && described.eq(sized.iter().cloned()))
    })
    .await?;
    Ok(sized)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_gets_more_partitions_and_replicas_and_fewer_again_under_load() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let nodes = cluster(dir.path(), 4)?;
    run(&nodes, &["topic", "create", TOPIC, "--partitions", "2", "--replicas", "1"]).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 2, 2, &ledger).await?;
    ledger.progress(2, 2_000).await?;
    until_sized(&nodes, 2, 1).await?;

    run(&nodes, &["topic", "alter", TOPIC, "--replicas", "3"]).await?;
    until_sized(&nodes, 2, 3).await?;
    run(&nodes, &["topic", "alter", TOPIC, "--partitions", "6"]).await?;
    until_sized(&nodes, 6, 3).await?;
    let more = Load::start_as(&nodes.bootstrap(), TOPIC, 6, 2..4, &ledger).await?;
    ledger.progress(6, 1_000).await?;

    for (what, number, why) in [("--partitions", "3", "never fewer"), ("--replicas", "5", "add a node")] {
        let refused = run(&nodes, &["topic", "alter", TOPIC, what, number]).await;
        let refusal = refused.err().context("that cannot be")?.to_string();
        ensure!(refusal.contains(why), "{refusal}");
    }
    until_sized(&nodes, 6, 3).await?;

    for replicas in [2, 1] {
        run(&nodes, &["topic", "alter", TOPIC, "--replicas", &replicas.to_string()]).await?;
        until_sized(&nodes, 6, replicas).await?;
        ledger.progress(6, 500).await?;
    }
    load.stop().await.context("no write fails")?;
    more.stop().await.context("no write fails")?;
    ensure!(ledger.unknown() == 0, "{} writes were given up", ledger.unknown());
    println!("{}", ledger.judge(tools::python(), &nodes.nodes[&4].flight, TOPIC, dir.path())?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_spread_when_an_operator_says_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = cluster(dir.path(), 3)?;
    run(&nodes, &["topic", "create", TOPIC, "--partitions", "6", "--replicas", "2"]).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 6, WRITERS, &ledger).await?;
    ledger.progress(6, 500).await?;
    // Whoever may join and has not, as node 9, keeps the cluster from spreading replicas by itself.
    for id in ["9", "4"] {
        until("the feature level rises, and nodes may join", async || {
            Ok(run(&nodes, &["cluster", "add", id, "--no-wait"]).await.is_ok())
        })
        .await?;
    }
    assert_eq!(nodes.prepare_joining(&dir.path().join("node-4"), dir.path())?, 4);
    nodes.spawn(4)?;
    nodes.wait_ready()?;
    let before = until_sized(&nodes, 6, 2).await?;
    ensure!(!before.iter().flatten().any(|on| *on == 4), "node 4 has nothing yet: {before:?}");

    let planned = run(&nodes, &["cluster", "balance", "--dry-run"]).await?;
    let moves = planned["moves"].as_array().context("a plan")?;
    let are_to_it = moves.iter().all(|of| of["to"].as_array().is_some_and(|to| to.contains(&4.into())));
    ensure!(moves.len() == 3 && are_to_it, "a fourth of twelve replicas: {planned}");
    ensure!(until_sized(&nodes, 6, 2).await? == before, "nothing has moved");

    println!("balance: {}", run(&nodes, &["cluster", "balance"]).await?);
    let after = until_sized(&nodes, 6, 2).await?;
    for id in nodes.ids() {
        let count = after.iter().flatten().filter(|on| **on == id).count();
        ensure!(count == 3, "node {id} has {count}: {after:?}");
    }
    let mut expected = before;
    for of in moves {
        let number = usize::try_from(of["partition"].as_u64().context("a partition")?)?;
        expected[number] = sorted(&of["to"]);
    }
    ensure!(after == expected, "it is as was planned: {planned}, but {after:?}");
    let nothing = run(&nodes, &["cluster", "balance"]).await?;
    ensure!(nothing["moves"].as_array().is_some_and(Vec::is_empty), "{nothing}");
    ledger.progress(6, 500).await?;
    load.stop().await.context("no write fails")?;
    ensure!(ledger.unknown() == 0, "{} writes were given up", ledger.unknown());
    println!("{}", ledger.judge(tools::python(), &nodes.nodes[&4].flight, TOPIC, dir.path())?);
    Ok(())
}
