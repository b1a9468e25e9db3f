//! A rolling upgrade between two builds that differ in their feature level, under load: it can be taken back until the last
//! node has it, what needs the new level is refused until then, and an older build is refused afterwards.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, NewTopic};
use levada_tests::{
    ledger::{Ledger, Load},
    nodes::Nodes,
    tools,
};
use serde_json::Value;

const TOPIC: &str = "ledger";

/// The level of this build: `LEVEL_MAX` in `broker/src/cluster/feature.rs`.
const NEW_LEVEL: u64 = 4;

/// The build that knows the first level only.
fn older() -> Result<PathBuf> {
    let binary = tools::levada().with_file_name("levada-level-1");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--package", "levada", "--bin", "levada-level-1", "--features", "level-1"]);
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success() && binary.exists(), "the older build cannot be made");
    Ok(binary)
}

fn levada(nodes: &Nodes, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(tools::levada());
    command.args(arguments).args(["--output", "json", "--bootstrap", &nodes.bootstrap()]);
    command.output().context("cannot run levada")
}

fn level(nodes: &Nodes) -> Result<u64> {
    let output = levada(nodes, &["cluster", "status", "--nodes"])?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    status["feature_level"].as_u64().context("the status tells the level")
}

async fn until_level(nodes: &Nodes, wanted: u64) -> Result<()> {
    for _ in 0..100 {
        if level(nodes)? == wanted {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("the level does not become {wanted}")
}

async fn restart(nodes: &mut Nodes, id: u64, binary: &Path, ledger: &Ledger) -> Result<()> {
    nodes.stop(id)?;
    nodes.use_binary(binary);
    nodes.spawn(id)?;
    nodes.wait_ready()?;
    let goal = ledger.acknowledged() + 1_000;
    let waiting = async {
        while ledger.acknowledged() < goal {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.context("writes do not go on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_upgraded_one_by_one() -> Result<()> {
    let (older, newer) = (older()?, tools::levada().to_owned());
    let dir = tempfile::tempdir()?;
    let data_dirs: Vec<PathBuf> = (1..=3).map(|id| dir.path().join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    let small = [("LEVADA_JOURNAL_CHECKPOINT_BYTES", "2097152")];
    let mut nodes = Nodes::start_with(&older, &data_dirs, dir.path(), &small)?;
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    let new = NewTopic { name: TOPIC.into(), partitions: 3, replicas: 3, config: [].into(), schema_json: None };
    admin.create_topic(new).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 3, 3, &ledger).await?;

    // There and back, and there again: while one node is of the older build, nothing new is written.
    for (id, binary) in [(1, &newer), (2, &newer), (1, &older), (1, &newer)] {
        restart(&mut nodes, id, binary, &ledger).await?;
        ensure!(level(&nodes)? == 1, "node 3 does not know the second level");
    }
    let refused = levada(&nodes, &["cluster", "add", "4", "--no-wait"])?;
    let words = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && words.contains("FEATURE_LEVEL") && words.contains('3'), "{words}");

    restart(&mut nodes, 3, &newer, &ledger).await?;
    until_level(&nodes, NEW_LEVEL).await?;
    let added = levada(&nodes, &["cluster", "add", "4", "--no-wait"])?;
    ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    // It is durable, and the way back is closed.
    restart(&mut nodes, 2, &newer, &ledger).await?;
    ensure!(level(&nodes)? == NEW_LEVEL, "the level only rises");
    nodes.stop(2)?;
    nodes.use_binary(&older);
    nodes.spawn(2)?;
    let log = nodes.wait_ended(2)?;
    ensure!(log.contains(&format!("feature level {NEW_LEVEL}")) && log.contains("knows up to 1"), "{log}");
    nodes.use_binary(&newer);
    nodes.spawn(2)?;
    nodes.wait_ready()?;

    load.stop().await.context("no write fails")?;
    ensure!(ledger.unknown() == 0, "{} writes were given up", ledger.unknown());
    println!("{}", ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?);
    Ok(())
}
