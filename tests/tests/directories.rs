//! Nodes with several directories for segments, each an ext4 of its own on a loop device, under real processes: one fails or
//! goes read-only, comes back, is exchanged for an empty one, and is given to another node by mistake.
//!
//! Needs root and loop devices, and says so when it is skipped.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, NewTopic, NodeId, PartitionId};
use levada_tests::{
    disks::PowerDisk,
    ledger::{Ledger, Load},
    nodes::Nodes,
    tools,
    waiting::until,
};
use tempfile::TempDir;

const DISK_MIB: u64 = 1024;
const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 3;
const WRITERS: u64 = 3;
/// Beside the data directory.
const DIRS: u64 = 2;

/// Three nodes, each with a small disk for its data directory and one for each directory for segments.
struct Cluster {
    // In this order: processes end before their disks go.
    nodes: Nodes,
    /// By node, and which of its directories; 0 is the data directory.
    disks: BTreeMap<(u64, u64), PowerDisk>,
    dir: TempDir,
}

impl Cluster {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut disks = BTreeMap::new();
        for key in (1..=3).flat_map(|node| (0..=DIRS).map(move |n| (node, n))) {
            disks.insert(key, PowerDisk::create(dir.path(), &format!("disk-{}-{}", key.0, key.1), DISK_MIB)?);
        }
        let data_dirs: Vec<_> = (1..=3).map(|node| disks[&(node, 0)].path().to_owned()).collect();
        let mut nodes = Nodes::unstarted(tools::levada(), &data_dirs, dir.path())?;
        for (id, node) in &mut nodes.nodes {
            let dirs: Vec<String> = (1..=DIRS).map(|n| disks[&(*id, n)].path().display().to_string()).collect();
            node.environment.push(("LEVADA_SEGMENT_DIRS".to_owned(), dirs.join(",")));
            // So that segments are soon all that there is of most records.
            node.environment.push(("LEVADA_JOURNAL_CHECKPOINT_BYTES".to_owned(), (1 << 20).to_string()));
        }
        nodes.spawn_all()?;
        Ok(Self { nodes, disks, dir })
    }

    /// Whether a node uses a directory.
    fn is_used(&self, key: (u64, u64)) -> Result<bool> {
        let directory = self.disks[&key].path().display();
        Ok(self.nodes.metric(key.0, &format!("levada_segment_dir_up{{directory=\"{directory}\"}}"))? > 0.5)
    }

    /// Segments in a directory of a node.
    fn segments(&self, key: (u64, u64)) -> Result<usize> {
        let below = self.disks[&key].path();
        let below = if key.1 == 0 { below.join("data") } else { below.to_owned() };
        let names = std::fs::read_dir(below.join("segments"))?.collect::<std::io::Result<Vec<_>>>()?;
        Ok(names.iter().filter(|name| name.path().extension().is_some_and(|end| end == "seg")).count())
    }

    /// Waits until a node has nothing to mend, though it had something, and everything that the others have.
    async fn until_whole(&self, admin: &Admin, node: u64, was_damaged: bool) -> Result<()> {
        let is_whole = until(&format!("node {node} has everything"), async || {
            let status = admin.cluster_status(true).await?;
            let replicas = status.partitions.iter().flat_map(|partition| &partition.replicas);
            let are_equal =
                replicas.into_iter().all(|replica| replica.entries_behind.is_some_and(|behind| behind < 200));
            let is_mended = !was_damaged || self.nodes.metric(node, "levada_segments_mended_total")? > 0.5;
            Ok(are_equal && is_mended && self.nodes.metric(node, "levada_segments_damaged")? < 0.5)
        })
        .await;
        is_whole.with_context(|| self.nodes.log(node).unwrap_or_default())
    }
}

/// The topic, writers at work on it, and segments in every directory of a node that leads.
async fn under_load(cluster: &Cluster, admin: &Admin) -> Result<(Arc<Ledger>, Load, u64)> {
    let config = [("segment.bytes".to_owned(), (1 << 20).to_string())].into();
    let new = NewTopic { name: TOPIC.into(), partitions: PARTITIONS, replicas: 3, config, schema_json: None };
    admin.create_topic(new).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    let topic = admin.describe_topic(TOPIC).await?;
    let victim = topic.partition(PartitionId(0)).and_then(|partition| partition.leader).context("a leader")?.get();
    until("there are segments in every directory", async || {
        let counts = (1..=DIRS).map(|n| cluster.segments((victim, n))).collect::<Result<Vec<_>>>()?;
        Ok(counts.iter().all(|count| *count > 5))
    })
    .await?;
    Ok((ledger, load, victim))
}

fn said(log: &str, event: &str, directory: &Path) -> bool {
    log.lines().any(|line| line.contains(event) && line.contains(&directory.display().to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_fails_takes_nothing_with_it() -> Result<()> {
    if let Some(why) = PowerDisk::unavailable() {
        writeln!(std::io::stderr(), "SKIPPED: {why}")?;
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let admin = Admin::connect(&cluster.nodes.bootstrap()).await?;
    let (ledger, load, victim) = under_load(&cluster, &admin).await?;
    let pid = cluster.nodes.process(victim)?;
    ledger.take_pause();

    // The disk of one is dead: what was not synced is lost, and everything fails from now on.
    let (dead, other) = ((victim, 1), (victim, 2));
    let lost = cluster.segments(dead)?;
    PowerDisk::cut_all([&cluster.disks[&dead]])?;
    let began = Instant::now();
    until("the node goes on without it", async || Ok(!cluster.is_used(dead)?)).await?;
    let again = began.elapsed();
    cluster.until_whole(&admin, victim, true).await?;
    let whole = began.elapsed();
    ledger.progress(PARTITIONS, 500).await?;
    let pause = ledger.take_pause();
    assert_eq!(cluster.nodes.process(victim)?, pid, "whoever started it has not noticed");
    assert!(cluster.is_used(other)?);
    let log = cluster.nodes.log(victim)?;
    for event in ["server.again", "directory.failed"] {
        assert!(said(&log, event, cluster.disks[&dead].path()), "it does not say {event}:\n{log}");
    }
    assert!(log.contains("segment.missing"), "nothing was to be mended:\n{log}");
    writeln!(
        std::io::stderr(),
        "a directory with {lost} segments failed: the node was there again after {again:?}, whole after {whole:?}; \
         writes paused for {pause:?}"
    )?;
    ensure!(pause < Duration::from_secs(10), "writes paused for {pause:?}");

    // It comes back, with what it had.
    cluster.nodes.kill(victim)?;
    cluster.disks.get_mut(&dead).context("there is such a disk")?.restore()?;
    cluster.nodes.spawn(victim)?;
    cluster.nodes.wait_ready()?;
    assert!(cluster.is_used(dead)?, "it is used again");
    cluster.until_whole(&admin, victim, false).await?;
    let before = cluster.segments(dead)?;
    until("it takes new segments", async || Ok(cluster.segments(dead)? > before)).await?;

    // The disk of the other is exchanged for an empty one while the node is down.
    cluster.nodes.kill(victim)?;
    let path = cluster.disks[&other].path().to_owned();
    for entry in std::fs::read_dir(&path)? {
        let entry = entry?.path();
        if entry.is_dir() { std::fs::remove_dir_all(entry)? } else { std::fs::remove_file(entry)? }
    }
    cluster.nodes.spawn(victim)?;
    cluster.nodes.wait_ready()?;
    cluster.until_whole(&admin, victim, true).await?;
    until("it takes segments", async || Ok(cluster.segments(other)? > 0)).await?;
    load.stop().await?;
    assert_eq!(ledger.unknown(), 0);
    // What is read is the victim's own.
    until("the victim leads", async || {
        for number in 0..PARTITIONS {
            admin.transfer_leader(TOPIC, PartitionId(number), NodeId(victim)).await?;
        }
        Ok(true)
    })
    .await?;
    let flight = &cluster.nodes.nodes[&victim].flight;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), flight, TOPIC, cluster.dir.path())?)?;

    // Somebody mixes up the disks: nothing starts, nothing is touched.
    let thief = victim % 3 + 1;
    cluster.nodes.kill(victim)?;
    cluster.nodes.kill(thief)?;
    let before = cluster.segments(dead)?;
    let node = cluster.nodes.nodes.get_mut(&thief).context("there is such a node")?;
    node.environment = vec![("LEVADA_SEGMENT_DIRS".to_owned(), cluster.disks[&dead].path().display().to_string())];
    cluster.nodes.spawn(thief)?;
    let refusal = cluster.nodes.wait_ended(thief)?;
    for part in [&cluster.disks[&dead].path().display().to_string(), &format!("node {victim}"), "segment.dirs"] {
        assert!(refusal.contains(part), "it does not say {part:?}:\n{refusal}");
    }
    assert_eq!(cluster.segments(dead)?, before);
    Ok(())
}

/// A file system that finds an error lets nobody write any more; what is there can still be read. The node leaves it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_goes_read_only_is_left_alone() -> Result<()> {
    if let Some(why) = PowerDisk::unavailable() {
        writeln!(std::io::stderr(), "SKIPPED: {why}")?;
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let admin = Admin::connect(&cluster.nodes.bootstrap()).await?;
    let (ledger, load, victim) = under_load(&cluster, &admin).await?;
    let pid = cluster.nodes.process(victim)?;
    ledger.take_pause();

    let (fixed, other) = ((victim, 1), (victim, 2));
    let kept = cluster.segments(fixed)?;
    cluster.disks[&fixed].go_read_only()?;
    until("the node goes on without it", async || Ok(!cluster.is_used(fixed)?)).await?;
    cluster.until_whole(&admin, victim, true).await?;
    ledger.progress(PARTITIONS, 500).await?;
    let pause = ledger.take_pause();
    assert_eq!(cluster.nodes.process(victim)?, pid, "whoever started it has not noticed");
    assert!(cluster.is_used(other)?);
    let log = cluster.nodes.log(victim)?;
    for event in ["server.again", "directory.failed"] {
        assert!(said(&log, event, cluster.disks[&fixed].path()), "it does not say {event}:\n{log}");
    }
    assert!(log.contains("Read-only file system"), "it does not say why:\n{log}");
    let there = cluster.segments(fixed)?;
    assert!(there >= kept, "{there} of {kept} segments are still there");
    writeln!(std::io::stderr(), "a directory with {kept} segments went read-only: writes paused for {pause:?}")?;
    ensure!(pause < Duration::from_secs(10), "writes paused for {pause:?}");

    // Started while it still is, the node does the same without having written there first.
    cluster.nodes.kill(victim)?;
    cluster.nodes.spawn(victim)?;
    cluster.nodes.wait_ready()?;
    assert!(!cluster.is_used(fixed)?, "it cannot be used");
    cluster.until_whole(&admin, victim, false).await?;
    load.stop().await?;
    assert_eq!(ledger.unknown(), 0);
    until("the victim leads", async || {
        for number in 0..PARTITIONS {
            admin.transfer_leader(TOPIC, PartitionId(number), NodeId(victim)).await?;
        }
        Ok(true)
    })
    .await?;
    let flight = &cluster.nodes.nodes[&victim].flight;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), flight, TOPIC, cluster.dir.path())?)?;
    Ok(())
}
