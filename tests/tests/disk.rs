//! Disks that are full, read-only or slow, under real processes: each node has an ext4 of its own on a loop device.
//!
//! Needs root and loop devices, and says so when it is skipped.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, ErrorCode, NewTopic, PartitionId, Producer, Record, Written};
use levada_tests::{
    disks::{PowerDisk, Throttle},
    ledger::{Ledger, Load},
    nodes::Nodes,
    tools,
    waiting::until,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 1024;
/// Well below the reserve of such a disk, which is 5 percent of it, and above half of it.
const LITTLE: u64 = 32 * MIB;
const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 3;
const WRITERS: u64 = 3;

/// Three nodes, each on a small disk of its own.
struct Cluster {
    // In this order: processes end before their disks go.
    nodes: Nodes,
    disks: Vec<PowerDisk>,
    dir: TempDir,
}

impl Cluster {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let disks: Vec<PowerDisk> =
            (1..=3).map(|id| PowerDisk::create(dir.path(), &format!("disk-{id}"), DISK_MIB)).collect::<Result<_>>()?;
        let data_dirs: Vec<PathBuf> = disks.iter().map(|disk| disk.path().to_owned()).collect();
        let nodes = Nodes::start(tools::levada(), &data_dirs, dir.path())?;
        Ok(Self { nodes, disks, dir })
    }

    fn disk(&self, node: u64) -> Result<&PowerDisk> {
        self.disks.get(usize::try_from(node - 1)?).context("there is such a node")
    }

    fn judge(&self, ledger: &Ledger) -> Result<String> {
        let flight = &self.nodes.nodes[&1].flight;
        ledger.judge(tools::python(), flight, TOPIC, self.dir.path())
    }
}

/// Says why nothing is tested, if nothing can be.
fn is_skipped(unavailable: Option<&str>) -> Result<bool> {
    if let Some(why) = unavailable {
        writeln!(std::io::stderr(), "SKIPPED: {why}")?;
        return Ok(true);
    }
    Ok(false)
}

async fn create_topic(admin: &Admin, name: &str, partitions: u32) -> Result<()> {
    let config = [("segment.bytes".to_owned(), (1 << 20).to_string())].into();
    let new = NewTopic { name: name.into(), partitions, replicas: 3, config, schema_json: None };
    admin.create_topic(new).await?;
    Ok(())
}

/// The nodes that lead the topic's partitions.
async fn leaders(admin: &Admin) -> Result<Vec<u64>> {
    let topic = admin.describe_topic(TOPIC).await?;
    let leaders = (0..PARTITIONS).filter_map(|number| topic.partition(PartitionId(number))?.leader);
    let leaders: Vec<u64> = leaders.map(|node| node.get()).collect();
    ensure!(leaders.len() == PARTITIONS as usize, "a partition has no leader");
    Ok(leaders)
}

/// Whether every replica has everything.
async fn are_equal(admin: &Admin) -> Result<bool> {
    let status = admin.cluster_status(true).await?;
    let all = status.partitions.iter().flat_map(|partition| &partition.replicas);
    Ok(all.into_iter().all(|replica| replica.entries_behind.is_some_and(|behind| behind < 200)))
}

async fn until_fullness(nodes: &Nodes, node: u64, fullness: f64) -> Result<()> {
    until(&format!("the disk of node {node} counts as {fullness}"), async || {
        Ok((nodes.metric(node, "levada_disk_fullness")? - fullness).abs() < 0.1)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_one_node_stops_no_writes_and_loses_nothing() -> Result<()> {
    if is_skipped(PowerDisk::unavailable())? {
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let admin = Admin::connect(&cluster.nodes.bootstrap()).await?;
    create_topic(&admin, TOPIC, PARTITIONS).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    ledger.progress(PARTITIONS, 500).await?;
    let victim = leaders(&admin).await?[0];
    ledger.take_pause();

    // Somebody else's files leave a little: it takes no records, and leads nothing any more.
    cluster.disk(victim)?.fill(LITTLE)?;
    until_fullness(&cluster.nodes, victim, 2.0).await?;
    until("others lead", async || Ok(!leaders(&admin).await?.contains(&victim))).await?;
    ledger.progress(PARTITIONS, 500).await?;
    // And now nothing is left at all.
    cluster.disk(victim)?.fill(0)?;
    ledger.progress(PARTITIONS, 3_000).await?;
    // It can even be started like this.
    cluster.nodes.kill(victim)?;
    cluster.nodes.spawn(victim)?;
    cluster.nodes.wait_ready()?;
    until_fullness(&cluster.nodes, victim, 2.0).await?;
    ledger.progress(PARTITIONS, 500).await?;
    let status = admin.cluster_status(true).await?;
    let full = status.nodes.iter().filter(|node| node.disk_fullness == 2);
    let full: Vec<u64> = full.filter_map(|node| Some(node.addresses.as_ref()?.node_id)).collect();
    assert_eq!(full, [victim], "the status says which");
    assert!(status.nodes.iter().all(|node| node.alive), "it is up, and votes");
    // Metadata goes on, there too.
    create_topic(&admin, "another", 1).await?;
    admin.delete_topic("another").await?;

    cluster.disk(victim)?.unfill()?;
    until_fullness(&cluster.nodes, victim, 0.0).await?;
    until("it catches up", async || are_equal(&admin).await).await?;
    until("it leads again", async || Ok(leaders(&admin).await?.contains(&victim))).await?;
    ledger.progress(PARTITIONS, 500).await?;
    let pause = ledger.take_pause();
    load.stop().await?;
    writeln!(std::io::stderr(), "the longest pause of writes, with a full disk on a leader: {pause:?}")?;
    ensure!(pause < Duration::from_secs(10), "writes paused for {pause:?}");
    assert_eq!(ledger.unknown(), 0);
    writeln!(std::io::stderr(), "{}", cluster.judge(&ledger)?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_on_all_nodes_refuse_writes_and_serve_reads_until_a_topic_is_deleted() -> Result<()> {
    if is_skipped(PowerDisk::unavailable())? {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let admin = Admin::connect(&cluster.nodes.bootstrap()).await?;
    create_topic(&admin, TOPIC, PARTITIONS).await?;
    create_topic(&admin, "large", 1).await?;
    let ballast = Producer::builder(&cluster.nodes.bootstrap()).build().await?;
    let value = "x".repeat(1 << 20);
    for _ in 0..120 {
        ballast.send("large", Record::new(&value)).await?.await?;
    }
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    ledger.progress(PARTITIONS, 500).await?;
    load.stop().await?;

    for disk in &cluster.disks {
        disk.fill(LITTLE)?;
    }
    for node in cluster.nodes.ids() {
        until_fullness(&cluster.nodes, node, 2.0).await?;
    }
    // A clear no, after the client has tried for as long as it was told to; nothing was written.
    let hasty = Producer::builder(&cluster.nodes.bootstrap()).delivery_timeout(Duration::from_secs(4)).build().await?;
    let refused = hasty.send(TOPIC, Record::new("refused")).await?.await.expect_err("no node has room");
    assert_eq!((refused.error.code, refused.written), (ErrorCode::Timeout, Written::No), "{refused}");
    for part in ["DISK_FULL", "Free space there"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    // Reads go on.
    writeln!(std::io::stderr(), "{}", cluster.judge(&ledger)?)?;
    // A patient producer waits.
    let patient = Producer::builder(&cluster.nodes.bootstrap()).build().await?;
    let waiting = patient.send(TOPIC, Record::new("3 0 patient").with_partition(PartitionId(0))).await?;
    // The worst: not a byte is left. Nobody dies, elections go on.
    for disk in &cluster.disks {
        disk.fill(0)?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    admin.transfer_leader(TOPIC, PartitionId(1), another(&admin, 1).await?).await?;
    // What is deleted makes the space that is needed, by itself.
    admin.delete_topic("large").await?;
    for node in cluster.nodes.ids() {
        until(&format!("node {node} has room again"), async || {
            Ok(cluster.nodes.metric(node, "levada_disk_fullness")? < 1.5)
        })
        .await?;
    }
    waiting.await?;
    for node in cluster.nodes.ids() {
        let waiting = cluster.nodes.metric(node, "levada_disk_waiting_writes")?;
        assert!(waiting < 0.5, "node {node}: {waiting} writes still wait");
    }
    for disk in &cluster.disks {
        disk.unfill()?;
    }
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    ledger.progress(PARTITIONS, 500).await?;
    load.stop().await
}

/// A node that does not lead a partition.
async fn another(admin: &Admin, partition: usize) -> Result<levada_client::NodeId> {
    let leader = leaders(admin).await?[partition];
    Ok(levada_client::NodeId(leader % 3 + 1))
}

/// A file system that finds an error lets nobody write any more. The node ends and says why; nothing that it acknowledged
/// is lost, the others go on, and with a sound disk it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_disk_ends_its_node_alone_and_says_why() -> Result<()> {
    if is_skipped(PowerDisk::unavailable())? {
        return Ok(());
    }
    let mut cluster = Cluster::start()?;
    let admin = Admin::connect(&cluster.nodes.bootstrap()).await?;
    create_topic(&admin, TOPIC, PARTITIONS).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    ledger.progress(PARTITIONS, 500).await?;
    let victim = leaders(&admin).await?[0];
    ledger.take_pause();

    cluster.disk(victim)?.go_read_only()?;
    let said = cluster.nodes.wait_ended(victim)?;
    let directory = cluster.disk(victim)?.path().join("data").join("journal").display().to_string();
    for part in ["out of service", "Read-only file system", &directory, "levada cluster replace"] {
        assert!(said.contains(part), "it does not say {part:?}:\n{said}");
    }
    ledger.progress(PARTITIONS, 500).await?;
    assert!(!leaders(&admin).await?.contains(&victim));
    let pause = ledger.take_pause();

    cluster.disks[usize::try_from(victim - 1)?].restore()?;
    cluster.nodes.spawn(victim)?;
    cluster.nodes.wait_ready()?;
    until("it catches up", async || are_equal(&admin).await).await?;
    load.stop().await?;
    writeln!(std::io::stderr(), "the pause of writes when a leader's disk went read-only: {pause:?}")?;
    assert_eq!(ledger.unknown(), 0);
    writeln!(std::io::stderr(), "{}", cluster.judge(&ledger)?)?;
    Ok(())
}

/// How many records a second are acknowledged, over some seconds.
async fn rate(ledger: &Ledger, seconds: u32) -> f64 {
    let before = ledger.acknowledged();
    tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let more = (ledger.acknowledged() - before) as f64;
    more / f64::from(seconds)
}

/// The disk of a leader manages some writes a second all at once. Others lead, and writes are as quick as before; when the
/// disk is as ever, the node leads again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_move_away_from_a_slow_disk_and_come_back() -> Result<()> {
    if is_skipped(Throttle::unavailable())? {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let admin = Admin::connect(&cluster.nodes.bootstrap()).await?;
    create_topic(&admin, TOPIC, PARTITIONS).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.nodes.bootstrap(), TOPIC, PARTITIONS, 1, &ledger).await?;
    ledger.progress(PARTITIONS, 500).await?;
    let quick = rate(&ledger, 5).await;
    let victim = leaders(&admin).await?[0];
    let throttle = Throttle::begin(cluster.disk(victim)?, cluster.nodes.process(victim)?, 12)?;
    let began = Instant::now();
    until("the disk is found to be slow", async || Ok(cluster.nodes.metric(victim, "levada_disk_slow")? > 0.5)).await?;
    let found = began.elapsed();
    until("others lead", async || Ok(!leaders(&admin).await?.contains(&victim))).await?;
    let moved = began.elapsed();
    let meanwhile = rate(&ledger, 5).await;
    assert!(!leaders(&admin).await?.contains(&victim), "and go on leading");
    let status = admin.cluster_status(true).await?;
    let slow = status.nodes.iter().filter(|node| node.disk_slow);
    let slow: Vec<u64> = slow.filter_map(|node| Some(node.addresses.as_ref()?.node_id)).collect();
    assert_eq!(slow, [victim], "the status says which");
    throttle.end()?;
    until("it leads again", async || Ok(leaders(&admin).await?.contains(&victim))).await?;
    until("it catches up", async || are_equal(&admin).await).await?;
    load.stop().await?;
    writeln!(
        std::io::stderr(),
        "a slow disk: found after {found:?}, nothing led there after {moved:?}; {quick:.0} records/s before, \
         {meanwhile:.0} with others leading; back after {:?}",
        began.elapsed()
    )?;
    ensure!(meanwhile > quick / 4.0, "{meanwhile:.0} records/s, after {quick:.0}");
    assert_eq!(ledger.unknown(), 0);
    writeln!(std::io::stderr(), "{}", cluster.judge(&ledger)?)?;
    Ok(())
}
