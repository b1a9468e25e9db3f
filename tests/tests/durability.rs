//! Acknowledged means durable: processes are killed and power is cut under load, and an independent reader finds every
//! acknowledged record exactly once, in order. A server whose `fdatasync` does nothing fails the same test.
//!
//! `TEST_ROUNDS` sets the number of rounds (20 for the figures in the documentation; fewer by default). With it the pauses
//! of writes must stay within the promised bounds; without it, on a busy machine, within [`UNMEASURED`] times these.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use levada_client::{Admin, NewTopic, PartitionId};
use levada_tests::{
    disks::PowerDisk,
    ledger::{IN_FLIGHT, Ledger, Load},
    nodes::Nodes,
    tools,
};

const TOPIC: &str = "ledger";
const PARTITIONS: u32 = 4;
const WRITERS: u64 = 6;
/// How long writes to a partition pause when its leader is lost: the median, and the worst.
const PAUSE_MEDIAN_MAX: Duration = Duration::from_millis(1200);
const PAUSE_WORST_MAX: Duration = Duration::from_secs(3);
/// What a run that does not measure, of a debug build beside other tests, may take longer.
const UNMEASURED: u32 = 4;

fn rounds() -> usize {
    std::env::var("TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(4)
}

async fn create_topic(nodes: &Nodes) -> Result<Admin> {
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    let settings = [("segment.bytes".to_owned(), (1 << 20).to_string())];
    admin
        .create_topic(NewTopic {
            name: TOPIC.into(),
            partitions: PARTITIONS,
            replicas: 3,
            config: settings.into(),
            schema_json: None,
        })
        .await?;
    Ok(admin)
}

/// Waits until this many more records are acknowledged.
async fn progress(ledger: &Ledger, more: u64) -> Result<()> {
    let goal = ledger.acknowledged() + more;
    let deadline = Instant::now() + Duration::from_secs(30);
    while ledger.acknowledged() < goal {
        anyhow::ensure!(Instant::now() < deadline, "writes do not go on: {} acknowledged", ledger.acknowledged());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Waits until so many more records are acknowledged in every partition that all writers had under way are among them.
async fn progress_everywhere(ledger: &Ledger) -> Result<()> {
    let more = WRITERS * u64::try_from(IN_FLIGHT)? / u64::from(PARTITIONS) + 100;
    let before = ledger.by_partition();
    let deadline = Instant::now() + Duration::from_secs(30);
    let is_there = |now: &BTreeMap<u32, u64>| {
        (0..PARTITIONS).all(|number| now.get(&number) >= Some(&(before.get(&number).unwrap_or(&0) + more)))
    };
    while !is_there(&ledger.by_partition()) {
        anyhow::ensure!(Instant::now() < deadline, "writes do not go on everywhere: {:?}", ledger.by_partition());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Says how long writes paused, and refuses what is longer than promised.
fn check_pauses(mut pauses: Vec<Duration>) -> Result<()> {
    pauses.sort();
    let is_measured = std::env::var_os("TEST_ROUNDS").is_some();
    let (median, worst) = (pauses[pauses.len() / 2], pauses[pauses.len() - 1]);
    let factor = if is_measured { 1 } else { UNMEASURED };
    let bounds = (PAUSE_MEDIAN_MAX * factor, PAUSE_WORST_MAX * factor);
    // Not `println`, which is shown of failing tests only.
    writeln!(
        std::io::stderr(),
        "write pause after the loss of a leader: median {median:?} (at most {:?}), worst {worst:?} (at most {:?}), \
         all {pauses:?}{}",
        bounds.0,
        bounds.1,
        if is_measured { "" } else { "; not a measuring run, see TEST_ROUNDS" },
    )?;
    anyhow::ensure!(median <= bounds.0 && worst <= bounds.1, "writes paused for too long: {pauses:?}");
    Ok(())
}

/// The node that leads a partition, once there is one.
async fn leader(admin: &Admin, partition: PartitionId) -> Result<u64> {
    for _ in 0..500 {
        let topic = admin.describe_topic(TOPIC).await?;
        if let Some(leader) = topic.partition(partition).and_then(|partition| partition.leader) {
            return Ok(leader.get());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("partition {partition} has no leader")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_lose_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dirs: Vec<PathBuf> = (1..=3).map(|id| dir.path().join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(std::fs::create_dir_all)?;
    let mut nodes = Nodes::start(tools::levada(), &data_dirs, dir.path())?;
    let admin = create_topic(&nodes).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    progress(&ledger, 2_000).await?;
    let mut pauses = Vec::new();
    for round in 0..rounds() {
        let partition = u32::try_from(round)? % PARTITIONS;
        let leader = leader(&admin, PartitionId(partition)).await?;
        let victims = match round % 3 {
            0 => vec![leader],
            1 => vec![leader % 3 + 1],
            _ => nodes.ids(),
        };
        ledger.take_pause();
        for &victim in &victims {
            nodes.kill(victim)?;
        }
        if victims.len() == 1 {
            progress_everywhere(&ledger).await?;
            if round % 3 == 0 {
                pauses.push(ledger.take_pause());
            }
        }
        for &victim in &victims {
            nodes.spawn(victim)?;
        }
        nodes.wait_ready()?;
        progress(&ledger, 1_000).await?;
    }
    load.stop().await?;
    println!("{} outcomes unknown", ledger.unknown());
    println!("{}", ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?);
    check_pauses(pauses)
}

/// Cuts the power of all nodes and of minorities under load, and lets pyarrow judge. What goes wrong before the first
/// cut is the outer error, what goes wrong after it the inner one.
async fn power_cuts(rounds: usize, wrapper: &[&str]) -> Result<Result<String>> {
    let dir = tempfile::tempdir()?;
    let mut disks = Vec::new();
    for id in 1..=3 {
        disks.push(PowerDisk::create(dir.path(), &format!("disk-{id}"), 4096)?);
    }
    let data_dirs: Vec<PathBuf> = disks.iter().map(|disk| disk.path().to_owned()).collect();
    let mut nodes = Nodes::start_wrapped(tools::levada(), &data_dirs, dir.path(), wrapper)?;
    create_topic(&nodes).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, PARTITIONS, WRITERS, &ledger).await?;
    progress(&ledger, 1_000).await?;
    let outcome = cut_and_restore(rounds, &mut nodes, &mut disks, &ledger).await;
    let verdict = match outcome {
        Ok(()) => {
            let judge = || ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path());
            load.stop().await.and_then(|()| judge())
        }
        // What stopped it may be a loss or not: the judge says.
        Err(error) => {
            load.abort();
            let judged = ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path());
            Err(match judged {
                Ok(_) => error,
                Err(lost) => lost.context(error),
            })
        }
    };
    drop(nodes);
    Ok(verdict)
}

async fn cut_and_restore(rounds: usize, nodes: &mut Nodes, disks: &mut [PowerDisk], ledger: &Ledger) -> Result<()> {
    for round in 0..rounds {
        let victims = if round % 2 == 0 { nodes.ids() } else { vec![u64::try_from(round / 2 % 3)? + 1] };
        PowerDisk::cut_all((1..).zip(&*disks).filter(|(id, _)| victims.contains(id)).map(|(_, disk)| disk))?;
        for &victim in &victims {
            nodes.kill(victim)?;
        }
        if victims.len() == 1 {
            progress(ledger, 300).await?;
        }
        for &victim in &victims {
            disks[usize::try_from(victim - 1)?].restore()?;
            nodes.spawn(victim)?;
        }
        nodes.wait_ready()?;
        progress(ledger, 500).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_lose_nothing() -> Result<()> {
    if let Some(why) = PowerDisk::unavailable() {
        writeln!(std::io::stderr(), "SKIPPED: {why}")?;
        return Ok(());
    }
    println!("{}", power_cuts(rounds(), &[]).await??);
    Ok(())
}

/// The proof that the test above can fail: the same servers, but every sync answers at once and does nothing. They write
/// through the page cache: what such a power cut takes is what the file system holds back, and a disk's own cache stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_sync_is_caught() -> Result<()> {
    if let Some(why) = PowerDisk::unavailable() {
        writeln!(std::io::stderr(), "SKIPPED: {why}")?;
        return Ok(());
    }
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        writeln!(std::io::stderr(), "SKIPPED: strace is needed (apt-get install strace)")?;
        return Ok(());
    }
    let lie = "fdatasync,fsync,syncfs,sync_file_range";
    let (trace, inject) = (format!("trace={lie}"), format!("inject={lie}:retval=0"));
    let strace = [
        "env",
        "LEVADA_DISK_DIRECT=false",
        "strace",
        "-f",
        "-qq",
        "--seccomp-bpf",
        "-e",
        &trace,
        "-e",
        &inject,
        "-o",
        "/dev/null",
    ];
    let verdict = power_cuts(2, &strace).await?;
    let found =
        verdict.map_or_else(|error| format!("{error:#}"), |fine| panic!("without a sync all was there: {fine}"));
    // Records are gone, or their topic, or nodes notice that what they had called durable is.
    let losses = ["wrong, such as", "UNKNOWN_TOPIC", "damaged", "is known with another data directory"];
    assert!(losses.iter().any(|loss| found.contains(loss)), "it failed, but not for a loss: {found}");
    Ok(())
}
