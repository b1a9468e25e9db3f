//! Nodes come and go under load, through the `levada` command: nobody's write fails, and an independent reader finds every
//! acknowledged record exactly once, in order.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, NewTopic};
use levada_tests::{
    ledger::{Ledger, Load},
    nodes::Nodes,
    tools,
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
