//! Disks lose what they were given: real processes find it and mend it from each other, and a reader that we did not write
//! finds every acknowledged record exactly once, in order.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_client::{Admin, NewTopic};
use levada_tests::{
    http,
    ledger::{Ledger, Load},
    nodes::Nodes,
    rot::{self, Block, flip},
    tools,
};
use serde_json::Value;
use tokio::time::sleep;

const TOPIC: &str = "ledger";
/// Scrubs all the time, and seals and checkpoints early.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("LEVADA_JOURNAL_CHECKPOINT_BYTES", "2097152"),
    ("LEVADA_SCRUB_INTERVAL_S", "1"),
    ("LEVADA_SCRUB_BYTES_PER_S", "104857600"),
];
const PATIENCE: Duration = Duration::from_secs(60);

fn start(dir: &Path, count: u64) -> Result<Nodes> {
    let data_dirs: Vec<PathBuf> = (1..=count).map(|id| dir.join(format!("node-{id}"))).collect();
    data_dirs.iter().try_for_each(fs::create_dir_all)?;
    Nodes::start_with(tools::levada(), &data_dirs, dir, &ENVIRONMENT)
}

async fn topic(nodes: &Nodes, partitions: u32, replicas: u32) -> Result<()> {
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    let config = [("segment.bytes".to_owned(), (1 << 20).to_string())].into();
    admin.create_topic(NewTopic { name: TOPIC.into(), partitions, replicas, config, schema_json: None }).await?;
    Ok(())
}

fn levada(nodes: &Nodes, arguments: &[&str]) -> Result<(bool, String, String)> {
    let mut command = Command::new(tools::levada());
    let output = command.args(arguments).args(["--bootstrap", &nodes.bootstrap()]).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

/// The sealed segments of partitions on a node.
fn sealed(nodes: &Nodes, id: u64) -> Result<Vec<PathBuf>> {
    rot::sealed(&nodes.nodes[&id].data_dir)
}

async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(began.elapsed() < PATIENCE, "it does not happen: {what}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// What a node says of its own disk.
fn upkeep(nodes: &Nodes, id: u64, key: &str) -> Result<Option<u64>> {
    let (ok, out, _) = levada(nodes, &["cluster", "status", "--output", "json"])?;
    let status: Value = if ok { serde_json::from_str(&out)? } else { return Ok(None) };
    let nodes = status["nodes"].as_array().into_iter().flatten();
    Ok(nodes.into_iter().find(|node| node["id"] == id).and_then(|node| node[key].as_u64()))
}

async fn mended(nodes: &Nodes, id: u64, count: u64) -> Result<()> {
    eventually(&format!("node {id} has mended {count} segments"), || {
        let sound = upkeep(nodes, id, "damaged_segments")? == Some(0);
        Ok((sound && upkeep(nodes, id, "mended_segments")? >= Some(count)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_mended_from_other_nodes_under_load() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = start(dir.path(), 3)?;
    topic(&nodes, 2, 3).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 2, 4, &ledger).await?;
    eventually("there are segments", || {
        let counts = (1..=3).map(|id| sealed(&nodes, id).map(|sealed| sealed.len())).collect::<Result<Vec<_>>>()?;
        Ok(counts.iter().all(|count| *count >= 8).then_some(()))
    })
    .await?;

    // A bit flips; a sector is written to the wrong place. Nobody reads there.
    let (one, two) = (sealed(&nodes, 1)?, sealed(&nodes, 2)?);
    let was = fs::read(&one[0])?;
    flip(&one[0], 333_333)?;
    let sector = fs::read(&two[2])?.get(8_192..12_288).context("a segment is longer")?.to_vec();
    File::options().write(true).open(&two[1])?.write_all_at(&sector, 40_960)?;
    mended(&nodes, 1, 1).await?;
    mended(&nodes, 2, 1).await?;
    ensure!(fs::read(&one[0])? == was, "byte for byte what it was");
    eventually("it is counted", || {
        let metrics = http::get(&nodes.nodes[&1].http, "/metrics")?;
        Ok(metrics.contains("levada_segments_mended_total 1").then_some(()))
    })
    .await?;

    // A node is down; meanwhile files are cut, lost, and exchanged, and the end of one, its footer, is gone.
    nodes.kill(3)?;
    let three = sealed(&nodes, 3)?;
    let [a, b, c, d, e, ..] = &three[..] else { anyhow::bail!("{three:?}") };
    File::options().write(true).open(a)?.set_len(100_000)?;
    fs::remove_file(b)?;
    fs::rename(c, dir.path().join("c"))?;
    fs::rename(d, c)?;
    fs::rename(dir.path().join("c"), d)?;
    flip(e, fs::metadata(e)?.len() - 9)?;
    nodes.spawn(3)?;
    nodes.wait_ready()?;
    mended(&nodes, 3, 5).await?;
    let (ok, out, _) = levada(&nodes, &["cluster", "status"])?;
    ensure!(ok && out.contains("mended"), "{out}");

    load.stop().await.context("no write fails for it")?;
    // As the scrub says by now, all of them have the same again.
    for path in &three[..5] {
        let name = path.file_name().context("a name")?;
        let theirs = fs::read(nodes.nodes[&2].data_dir.join("segments").join(name))?;
        ensure!(fs::read(path)? == theirs, "{name:?} is another on node 2");
    }
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), &nodes.nodes[&3].flight, TOPIC, dir.path())?)?;
    Ok(())
}

/// Nobody has it: what is sound is served, the rest is named, and everything says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_another_replica_damage_is_named_and_the_rest_served() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = start(dir.path(), 1)?;
    topic(&nodes, 1, 1).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 1, 2, &ledger).await?;
    eventually("there are segments", || Ok((sealed(&nodes, 1)?.len() >= 4).then_some(()))).await?;
    load.stop().await?;
    let (ok, out, err) = levada(&nodes, &["cluster", "status"])?;
    ensure!(ok && out.contains("safe: "), "{out}{err}");
    flip(&sealed(&nodes, 1)?[1], 500_000)?;
    let words =
        "AT RISK: a disk has lost something; node 1: 1 damaged segment waits for a sound copy from another replica";
    eventually("the status says so", || {
        let (_, out, _) = levada(&nodes, &["cluster", "status"])?;
        Ok(out.contains(words).then_some(()))
    })
    .await?;
    // What was written lately is served from memory.
    nodes.kill(1)?;
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    let (ok, out, err) = levada(&nodes, &["consume", TOPIC, "--from", "earliest", "--format", "jsonl"])?;
    ensure!(!ok && err.contains("is damaged at byte") && err.contains("offsets"), "{ok} {} {err}", out.lines().count());
    let (ok, out, err) =
        levada(&nodes, &["consume", TOPIC, "--from", "offset:0", "--limit", "10", "--format", "jsonl"])?;
    ensure!(ok && out.lines().count() == 10, "{out}{err}");
    let mut producer = Command::new(tools::levada());
    let producer = producer.args(["produce", TOPIC, "--bootstrap", &nodes.bootstrap()]);
    let mut producer = producer.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    std::io::Write::write_all(producer.stdin.as_mut().context("its input")?, b"more\n")?;
    ensure!(producer.wait()?.success(), "it goes on taking records");
    Ok(())
}

/// The metadata's segments are needed by nobody who has a checkpoint: a damaged one goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_of_the_metadata_goes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = start(dir.path(), 3)?;
    topic(&nodes, 1, 3).await?;
    // Two megabytes later there is a checkpoint, up to which the scrub reads.
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 1, 2, &ledger).await?;
    let metadata = |id: u64| -> Result<Option<PathBuf>> {
        let names = fs::read_dir(nodes.nodes[&id].data_dir.join("segments"))?.map(|entry| Ok(entry?.path()));
        let mut paths = names.collect::<Result<Vec<_>>>()?.into_iter();
        let is_its = |path: &PathBuf| path.to_string_lossy().contains(&format!("/{}-", "0".repeat(20)));
        Ok(paths.find(|path| is_its(path) && path.extension().is_some_and(|extension| extension == "seg")))
    };
    for id in [1, 2] {
        let path = eventually("the metadata has a segment", || metadata(id)).await?;
        flip(&path, 200)?;
        mended(&nodes, id, 1).await?;
        ensure!(metadata(id)?.as_ref() != Some(&path) || !path.exists(), "{} is still there", path.display());
    }
    let (ok, out, err) = levada(&nodes, &["topic", "create", "later"])?;
    ensure!(ok, "{out}{err}");
    for id in 1..=3 {
        nodes.kill(id)?;
        nodes.spawn(id)?;
        nodes.wait_ready()?;
    }
    let (ok, out, _) = levada(&nodes, &["topic", "list"])?;
    ensure!(ok && out.contains("later") && out.contains(TOPIC), "{out}");
    let (_, out, _) = levada(&nodes, &["cluster", "status"])?;
    eventually("all is well", || Ok(levada(&nodes, &["cluster", "status"])?.1.contains("safe: ").then_some(())))
        .await
        .with_context(|| out)?;
    load.stop().await.context("no write fails for it")?;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir.path())?)?;
    Ok(())
}

/// The checkpoint is there twice in its file. Without either, nothing says what the journal needs not: the node does not start, says
/// what to do, and that helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_is_read_from_its_second_copy_or_the_node_is_replaced() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = start(dir.path(), 3)?;
    topic(&nodes, 2, 3).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 2, 2, &ledger).await?;
    let path = nodes.nodes[&3].data_dir.join("checkpoint");
    let copy = |path: &Path| Ok::<u64, anyhow::Error>(fs::metadata(path)?.len() / 2);
    eventually("there are segments", || Ok((sealed(&nodes, 3)?.len() >= 3).then_some(()))).await?;
    for second in [false, true] {
        nodes.kill(3)?;
        flip(&path, 100 + if second { copy(&path)? } else { 0 })?;
        nodes.spawn(3)?;
        nodes.wait_ready()?;
        eventually("another takes its place, twice as ever", || {
            let written = fs::read(&path)?;
            let (one, other) = written.split_at(written.len() / 2);
            Ok((one == other).then_some(()))
        })
        .await?;
    }
    ensure!(nodes.log(3)?.contains("file.copy.damaged"), "it says so");
    eventually("it catches up", || Ok(levada(&nodes, &["cluster", "status"])?.1.contains("safe: ").then_some(())))
        .await?;

    nodes.kill(3)?;
    let whole = fs::read(&path)?;
    let length = copy(&path)?;
    let (mut flipped, mut swapped) = (whole.clone(), whole.clone());
    for at in [100, 100 + usize::try_from(length)?] {
        flipped[at] ^= 4;
    }
    // Another node's: it is of another data directory.
    swapped.clone_from(&fs::read(nodes.nodes[&2].data_dir.join("checkpoint"))?);
    let cut = whole[..usize::try_from(length / 2)?].to_vec();
    for content in [flipped, cut, swapped] {
        fs::write(&path, &content)?;
        nodes.spawn(3)?;
        let log = nodes.wait_ended(3)?;
        let says = log.lines().rev().find(|line| line.contains("error: ")).unwrap_or_default();
        let is_told = says.contains("checkpoint is damaged") && says.contains("levada cluster replace");
        ensure!(is_told, "it says what to do: {log}");
    }
    // Nothing else was touched: the right one brings the node back.
    fs::write(&path, &whole)?;
    nodes.spawn(3)?;
    nodes.wait_ready()?;
    nodes.kill(3)?;

    fs::write(&path, b"nothing of it is left")?;
    nodes.spawn(3)?;
    nodes.wait_ended(3)?;
    nodes.wipe(3)?;
    let (ok, out, err) = levada(&nodes, &["cluster", "replace", "3", "--no-wait"])?;
    ensure!(ok, "{out}{err}");
    nodes.spawn(3)?;
    nodes.wait_ready()?;
    eventually("it has all its replicas again", || {
        Ok(levada(&nodes, &["cluster", "status"])?.1.contains("safe: ").then_some(()))
    })
    .await?;
    load.stop().await.context("no write fails for it")?;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), &nodes.nodes[&3].flight, TOPIC, dir.path())?)?;
    Ok(())
}

/// What the disk of a node that is down does to its journal.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A bit of a record flips. The header still says whose it is.
    Record,
    /// A bit of a header flips.
    Header,
    /// A file ends where it did not.
    Cut,
    /// Two files have each other's names.
    Swapped,
    /// A sector of one block stands in the place of another block's first.
    Misdirected,
}

impl Harm {
    /// Whether nobody can tell what the node had promised, and to whom: so the metadata is in doubt, too.
    fn is_about_all(self) -> bool {
        !matches!(self, Self::Record)
    }

    /// Harms what was durable, and what the next start needs. Answers where.
    fn befall(self, data_dir: &Path) -> Result<(PathBuf, u64)> {
        let replay_from = rot::replay_from(data_dir)?;
        let mut blocks = rot::blocks(data_dir)?;
        let synced = blocks.iter().map(|block| block.synced).max().context("there are blocks")?;
        blocks.retain(|block| (replay_from..synced).contains(&block.lsn));
        let has_records = |block: &&Block| block.frame_bytes > 200 && !block.groups.contains(&0);
        let last = blocks.iter().rfind(has_records).context("one has records, and was durable")?;
        // What was written again at the start after it is not needed there any more.
        let first_in_last = blocks.iter().filter(|block| block.file == last.file).map(|block| block.lsn).min();
        let earlier: Vec<&Block> = blocks.iter().filter(|block| Some(block.lsn) < first_in_last).collect();
        let middle = || earlier.get(earlier.len() / 2).context("the file before is needed");
        let (file, at) = match self {
            Self::Record => (&last.file, last.position + last.header_bytes + 100),
            Self::Header => (&last.file, last.position + 20),
            Self::Cut => (&middle()?.file, middle()?.position + rot::PAGE_BYTES / 2),
            Self::Swapped | Self::Misdirected => (&last.file, last.position),
        };
        match self {
            Self::Record | Self::Header => flip(file, at)?,
            Self::Cut => rot::cut(file, at)?,
            Self::Swapped => rot::swap(&middle()?.file, file)?,
            Self::Misdirected => rot::copy_page((&middle()?.file, middle()?.position), (file, at))?,
        }
        Ok((file.clone(), at))
    }
}

/// From here to its next start a node needs all that it writes to its journal, which is a good deal already.
async fn restart_without_checkpoints(nodes: &mut Nodes, id: u64) -> Result<()> {
    nodes.kill(id)?;
    let more = ("LEVADA_JOURNAL_CHECKPOINT_BYTES".to_owned(), (1_u64 << 30).to_string());
    nodes.nodes.get_mut(&id).context("there is such a node")?.environment.push(more);
    nodes.spawn(id)?;
    nodes.nodes.get_mut(&id).context("there is such a node")?.environment.pop();
    nodes.wait_ready()?;
    eventually("it writes", || Ok((nodes.metric(id, "levada_journal_block_bytes_count")? > 19.5).then_some(()))).await
}

/// What a node had promised is gone: it takes no part in these partitions any more, until it has others' copies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_journal_is_damaged_are_replaced_by_new_ones() -> Result<()> {
    journal_is_damaged(Harm::Record).await
}

/// The same where nobody can tell what it had promised, and to whom: so the metadata is in doubt, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_journal_may_have_lost_anything_comes_back_by_itself() -> Result<()> {
    journal_is_damaged(Harm::Header).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_journal_is_cut_comes_back_by_itself() -> Result<()> {
    journal_is_damaged(Harm::Cut).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_journal_files_are_exchanged_comes_back_by_itself() -> Result<()> {
    journal_is_damaged(Harm::Swapped).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_misdirected_write_in_its_journal_comes_back_by_itself() -> Result<()> {
    journal_is_damaged(Harm::Misdirected).await
}

async fn journal_is_damaged(harm: Harm) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = start(dir.path(), 3)?;
    topic(&nodes, 2, 3).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 2, 4, &ledger).await?;
    eventually("there are segments", || Ok((sealed(&nodes, 3)?.len() >= 3).then_some(()))).await?;
    // Every start begins another file: two of them are needed.
    for _ in 0..2 {
        restart_without_checkpoints(&mut nodes, 3).await?;
    }
    nodes.kill(3)?;
    harm.befall(&nodes.nodes[&3].data_dir)?;

    nodes.spawn(3)?;
    eventually("the damage is found, and made good", || {
        let log = fs::read_to_string(dir.path().join("node-3.log"))?;
        let is_renewed = log.contains("metadata.lost") == harm.is_about_all();
        Ok((is_renewed && log.contains("partition.damaged") && log.contains("copy.complete")).then_some(()))
    })
    .await?;
    nodes.wait_ready()?;
    eventually("all is well again", || {
        let (_, out, _) = levada(&nodes, &["cluster", "status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&out)?;
        let replicas = status["partitions"].as_array().into_iter().flatten().flat_map(|partition| {
            let replicas = partition["replicas"].as_array().into_iter().flatten();
            replicas.filter(|replica| replica["node"] == 3).filter_map(|replica| replica["id"].as_u64())
        });
        let is_new = replicas.max() > Some(6);
        Ok((status["safe"] == true && is_new && upkeep(&nodes, 3, "lost_replicas")? == Some(0)).then_some(()))
    })
    .await?;
    load.stop().await.context("no write fails for it")?;
    // It has everything: it is enough for a majority with either of the others.
    nodes.kill(1)?;
    eventually("the others lead", || {
        let (_, out, _) = levada(&nodes, &["cluster", "status", "--output", "json"])?;
        let status: Value = serde_json::from_str(&out)?;
        let mut partitions = status["partitions"].as_array().context("no partitions")?.iter();
        Ok(partitions.all(|partition| partition["leader"].as_u64().is_some_and(|leader| leader != 1)).then_some(()))
    })
    .await?;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), &nodes.nodes[&3].flight, TOPIC, dir.path())?)?;
    Ok(())
}

/// A cluster of one node, which runs, and has a good many records in segments and the last ones in its journal only.
async fn alone(dir: &Path) -> Result<(Nodes, Arc<Ledger>)> {
    let mut nodes = start(dir, 1)?;
    topic(&nodes, 1, 1).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 1, 2, &ledger).await?;
    eventually("there are segments", || Ok((sealed(&nodes, 1)?.len() >= 4).then_some(()))).await?;
    restart_without_checkpoints(&mut nodes, 1).await?;
    load.stop().await?;
    Ok((nodes, ledger))
}

/// The node ends as often as it is started, and says why in these words.
fn refuses(nodes: &mut Nodes, words: &[&str]) -> Result<()> {
    for _ in 0..2 {
        nodes.spawn(1)?;
        let log = nodes.wait_ended(1)?;
        let says = log.lines().rev().find(|line| line.contains("error: ")).unwrap_or_default();
        for part in words {
            ensure!(says.contains(part), "it does not say {part:?}: {log}");
        }
    }
    Ok(())
}

/// With what was damaged brought back, everything is there.
fn has_everything(nodes: &mut Nodes, ledger: &Ledger, dir: &Path) -> Result<()> {
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), &nodes.nodes[&1].flight, TOPIC, dir)?)?;
    Ok(())
}

/// Nobody else knows what the node voted for: it does not go on as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_a_node_whose_journal_may_have_lost_anything_asks_for_a_copy() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut nodes, ledger) = alone(dir.path()).await?;
    nodes.kill(1)?;
    let (file, at) = Harm::Header.befall(&nodes.nodes[&1].data_dir)?;
    let copy = "In a cluster of one node, bring the data directory back from a copy";
    refuses(&mut nodes, &["of the metadata group cannot go on as it is", copy])?;
    flip(&file, at)?;
    has_everything(&mut nodes, &ledger, dir.path())
}

/// The one partition that is concerned is not served as long as nobody says so; all else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_a_replica_whose_journal_is_damaged_waits_for_a_copy_of_the_directory() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut nodes, ledger) = alone(dir.path()).await?;
    nodes.kill(1)?;
    let (data_dir, copy) = (nodes.nodes[&1].data_dir.clone(), dir.path().join("copy"));
    let copied = Command::new("cp").arg("-a").args([&data_dir, &copy]).status()?;
    ensure!(copied.success(), "there is a copy");
    Harm::Record.befall(&data_dir)?;
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    let log = nodes.log(1)?;
    for event in
        ["journal.damaged: acknowledged entries may be lost here", "partition.damaged: this replica takes no part"]
    {
        ensure!(log.contains(event), "it does not say {event:?}: {log}");
    }
    let (_, out, _) = levada(&nodes, &["cluster", "status"])?;
    let says = ["NOT AVAILABLE: 1 of 1 partition has no leader", "1 lost replica", "levada partition recover"];
    ensure!(says.iter().all(|part| out.contains(part)), "{out}");
    let (ok, out, err) = levada(&nodes, &["partition", "recover", TOPIC, "0"])?;
    let says = ["No sound replica answers", "copies of directories from before the damage", "Nothing has been changed"];
    ensure!(ok && says.iter().all(|part| out.contains(part)), "nobody has to go on with the rest: {out}{err}");
    let (ok, out, err) = levada(&nodes, &["topic", "create", "another"])?;
    ensure!(ok, "{out}{err}");

    nodes.kill(1)?;
    fs::remove_dir_all(&data_dir)?;
    fs::rename(copy, &data_dir)?;
    has_everything(&mut nodes, &ledger, dir.path())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_a_node_without_a_sound_checkpoint_does_not_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut nodes, ledger) = alone(dir.path()).await?;
    nodes.kill(1)?;
    let path = nodes.nodes[&1].data_dir.join("checkpoint");
    let copy = fs::metadata(&path)?.len() / 2;
    for at in [100, copy + 100] {
        flip(&path, at)?;
    }
    let copy_of_it = "In a cluster of one node, bring the directory back from a copy";
    refuses(&mut nodes, &["checkpoint is damaged", "Nothing was changed: keep it", copy_of_it])?;
    for at in [100, copy + 100] {
        flip(&path, at)?;
    }
    has_everything(&mut nodes, &ledger, dir.path())
}

/// What finds entries is damaged, not they: all of them are served, and it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_a_segment_without_its_footer_or_an_index_is_served_as_a_whole() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut nodes, ledger) = alone(dir.path()).await?;
    let sealed = sealed(&nodes, 1)?;
    let footer = ("segment.frame.damaged", &sealed[1], fs::metadata(&sealed[1])?.len() - 9);
    let segment = fs::read(&sealed[2])?;
    let frames = (0..segment.len()).step_by(64);
    let mut indexes = frames.filter(|at| segment[*at..].starts_with(b"LVDF\x01\x80"));
    let index =
        ("segment.index.damaged", &sealed[2], u64::try_from(indexes.next().context("a segment has an index")? + 80)?);
    for (event, path, at) in [footer, index] {
        flip(path, at)?;
        eventually("the status says so", || {
            let (_, out, _) = levada(&nodes, &["cluster", "status"])?;
            Ok(out
                .contains("AT RISK: a disk has lost something; node 1: 1 damaged segment waits for a sound copy from another replica")
                .then_some(()))
        })
        .await?;
        // What was written lately is served from memory.
        nodes.kill(1)?;
        has_everything(&mut nodes, &ledger, dir.path())?;
        ensure!(nodes.log(1)?.contains(event), "it says what it does without: {event}");
        nodes.kill(1)?;
        flip(path, at)?;
        nodes.spawn(1)?;
        nodes.wait_ready()?;
        eventually("everything was read again", || {
            Ok((nodes.metric(1, "levada_scrub_passes_total")? > 1.5).then_some(()))
        })
        .await?;
        let (_, out, _) = levada(&nodes, &["cluster", "status"])?;
        ensure!(out.contains("safe: "), "it is sound: {out}");
    }
    Ok(())
}

/// The file that a node writes to is cut while it is down, and of the others one was behind: together they must not go on as
/// if what the node had acknowledged had never been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_has_lost_with_the_end_of_its_journal_it_does_not_vote_away() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut nodes = start(dir.path(), 3)?;
    topic(&nodes, 1, 3).await?;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&nodes.bootstrap(), TOPIC, 1, 2, &ledger).await?;
    eventually("there are segments", || Ok((sealed(&nodes, 3)?.len() >= 3).then_some(()))).await?;
    restart_without_checkpoints(&mut nodes, 3).await?;
    // From here on two of three have what is acknowledged.
    nodes.kill(2)?;
    ledger.progress(1, 5_000).await?;
    load.stop().await?;
    nodes.kill(3)?;
    nodes.kill(1)?;
    let blocks = rot::blocks(&nodes.nodes[&3].data_dir)?;
    let last = blocks.last().context("there are blocks")?;
    let of_last: Vec<&Block> = blocks.iter().filter(|block| block.file == last.file).collect();
    rot::cut(&last.file, of_last[of_last.len() / 4].position)?;

    nodes.spawn(2)?;
    nodes.spawn(3)?;
    eventually("the damage is found", || Ok(nodes.log(3)?.contains("journal.damaged").then_some(()))).await?;
    nodes.spawn(1)?;
    nodes.wait_ready()?;
    eventually("all is well again", || Ok(levada(&nodes, &["cluster", "status"])?.1.contains("safe: ").then_some(())))
        .await?;
    writeln!(std::io::stderr(), "{}", ledger.judge(tools::python(), &nodes.nodes[&3].flight, TOPIC, dir.path())?)?;
    Ok(())
}
