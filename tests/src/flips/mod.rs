//! Single bits flip in the files of one of three nodes, one after the other, while records are written: each must be mended by the
//! cluster itself, from what the others have, within [`REPAIRED_WITHIN`].
//!
//! It is mended when nothing wrong stands in the file any more, all replicas are there and none is behind or in doubt. Then every
//! replica is read as a whole and compared with what was produced, byte for byte, and the sealed segments of all nodes with each
//! other.
//!
//! Segments and all else that a node reads as it runs rot while it does, or in one case of four while it is down; what is read at the
//! start only, while it is down. How long a bit in a segment goes unnoticed depends on `scrub.interval_s` and `scrub.bytes_per_s`.

mod place;
mod stream;
mod times;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use levada_client::{Admin, NewTopic};
use levada_protocol::{
    ids::TopicId,
    messages::native::{ClusterStatusResponse, PartitionStatus},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{sleep, timeout};

use crate::{nodes::Nodes, rot};
use stream::{Shown, Stream};

pub use place::{Kind, Place};
pub use times::table;

/// What a bit may take from when it flipped, or from the start of a node whose bit flipped while it was down.
pub const REPAIRED_WITHIN: Duration = Duration::from_secs(60);
/// What is not repaired by then will not be. What is late is waited for, so that there is more to say of it.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(300);
/// How the nodes are configured. The scrub reads all that a node has within seconds, at the rate that it has anyhow; checkpoints and
/// seals come early, and the journal takes little space.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    ("LEVADA_SCRUB_INTERVAL_S", "5"),
    ("LEVADA_JOURNAL_CHECKPOINT_BYTES", "2097152"),
    ("LEVADA_JOURNAL_FILE_BYTES", "50331648"),
    ("LEVADA_JOURNAL_FILES_KEEP", "2"),
];

const TOPIC: &str = "flips";
const NODES: u64 = 3;
const PARTITIONS: u32 = 2;
const SEGMENT_BYTES: u64 = 1 << 20;
/// Bits flip when every node has so many sealed segments.
const SEALED_MIN: usize = 4;
/// Between two records of a partition, from then on.
const PAUSE_MS: u32 = 50;
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a cluster may take to be ready for the next bit, and a replica to show what is acknowledged.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Entries that a replica may be behind in the middle of work.
const BEHIND_TOLERATED: u64 = 200;

/// A bit that flipped and was mended.
#[derive(Clone, Debug)]
pub struct Bite {
    /// What it belonged to.
    pub kind: Kind,
    /// Whose.
    pub node: u64,
    /// Whether the node was down.
    pub is_down: bool,
    /// Its file, in the data directory.
    pub file: String,
    /// Its byte.
    pub at: usize,
    /// Which of it.
    pub bit: u8,
    /// How long until all was well again.
    pub took: Duration,
}

/// Three nodes that are written to.
pub struct Flips {
    nodes: Nodes,
    admin: Admin,
    topic: TopicId,
    stream: Stream,
    dice: StdRng,
}

impl Flips {
    /// Starts nodes below a directory, and writes until they have sealed segments.
    ///
    /// # Errors
    /// They do not come up, or do not take records.
    pub async fn start(binary: &Path, dir: &Path, seed: u64) -> Result<Self> {
        let data_dirs: Vec<PathBuf> = (1..=NODES).map(|id| dir.join(format!("node-{id}"))).collect();
        data_dirs.iter().try_for_each(fs::create_dir_all)?;
        let nodes = Nodes::start_with(binary, &data_dirs, dir, &ENVIRONMENT)?;
        let admin = Admin::connect(&nodes.bootstrap()).await?;
        let config = [("segment.bytes".to_owned(), SEGMENT_BYTES.to_string())].into();
        let new = NewTopic { name: TOPIC.into(), partitions: PARTITIONS, replicas: 3, config, schema_json: None };
        let topic = admin.create_topic(new).await?.id;
        let stream = Stream::start(&nodes.bootstrap(), TOPIC, PARTITIONS, seed).await?;
        let flips = Self { nodes, admin, topic, stream, dice: StdRng::seed_from_u64(seed) };
        let began = Instant::now();
        for id in 1..=NODES {
            while rot::sealed(&flips.data_dir(id)?)?.len() < SEALED_MIN {
                ensure!(began.elapsed() < READY_WITHIN, "node {id} does not seal {SEALED_MIN} segments");
                sleep(LOOK_INTERVAL).await;
            }
        }
        flips.stream.pace(PAUSE_MS);
        Ok(flips)
    }

    /// So many kinds, each as often as the others.
    pub fn deal(&mut self, count: usize) -> Vec<Kind> {
        Kind::deal(count, &mut self.dice)
    }

    /// A bit of this kind flips on some node, and is mended.
    ///
    /// # Errors
    /// It is not, long after [`REPAIRED_WITHIN`]; or something is shown that was not produced.
    pub async fn bite(&mut self, kind: Kind) -> Result<Bite> {
        let began = Instant::now();
        while !self.is_whole().await? {
            ensure!(began.elapsed() < READY_WITHIN, "the cluster is not ready for the next bit");
            sleep(LOOK_INTERVAL).await;
        }
        let node = self.dice.random_range(1..=NODES);
        let is_down = kind.is_read_at_start() || self.dice.random_bool(0.25);
        let (place, since) = self.flip(kind, node, is_down).await?;
        let data_dir = self.data_dir(node)?;
        let file = place.file.strip_prefix(&data_dir).unwrap_or(&place.file).display().to_string();
        let Place { at, bit, .. } = place;
        let what = format!("bit {bit} of byte {at} of {file} ({}) on node {node}", kind.name());
        self.wait_mended(&place, node, since).await.with_context(|| what.clone())?;
        let took = since.elapsed();
        self.compare_all().await.with_context(|| format!("after {what}"))?;
        Ok(Bite { kind, node, is_down, file, at, bit, took })
    }

    /// Ends the load. Everything that was acknowledged stands in every replica.
    ///
    /// # Errors
    /// A write failed, or a replica does not have it. Answers how many records there are.
    pub async fn finish(self) -> Result<usize> {
        let Self { stream, .. } = &self;
        stream.pace(0);
        self.compare_all().await?;
        let acknowledged = stream.acknowledged().iter().sum();
        self.stream.stop().await?;
        Ok(acknowledged)
    }

    async fn flip(&mut self, kind: Kind, node: u64, is_down: bool) -> Result<(Place, Instant)> {
        let (data_dir, began) = (self.data_dir(node)?, Instant::now());
        loop {
            if is_down {
                self.nodes.kill(node)?;
            }
            let place = kind.draw(&data_dir, &mut self.dice)?;
            let mut since = Instant::now();
            place.iter().try_for_each(Place::flip)?;
            if is_down {
                since = Instant::now();
                self.nodes.spawn(node)?;
            }
            if let Some(place) = place {
                return Ok((place, since));
            }
            // A checkpoint has just come, and nothing is needed of the journal.
            ensure!(began.elapsed() < READY_WITHIN, "node {node} has no bit of a {}", kind.name());
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn wait_mended(&mut self, place: &Place, node: u64, since: Instant) -> Result<()> {
        let data_dir = self.data_dir(node)?;
        loop {
            ensure!(!self.nodes.has_ended(node)?, "the node ended: {}", self.nodes.log(node)?);
            // A file may just be exchanged.
            let is_mended = place.is_mended(&data_dir).unwrap_or(false);
            if is_mended && self.is_whole().await? {
                return Ok(());
            }
            if since.elapsed() > GIVEN_UP_AFTER {
                let why = if is_mended { "the cluster is not whole" } else { "it still stands there" };
                bail!("not repaired within {GIVEN_UP_AFTER:?}: {why}: {:?}", self.status().await);
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    async fn status(&self) -> Option<ClusterStatusResponse> {
        timeout(PATIENCE, self.admin.cluster_status(true)).await.ok()?.ok()
    }

    /// Whether all nodes are there, vote on metadata and have nothing to mend, and every partition has a leader and all its replicas,
    /// none behind, in doubt or moving.
    async fn is_whole(&self) -> Result<bool> {
        let Some(status) = self.status().await else { return Ok(false) };
        let is_whole = |partition: &PartitionStatus| {
            let is_in_sync = |behind: Option<u64>| behind.is_some_and(|behind| behind <= BEHIND_TOLERATED);
            let replicas = &partition.replicas;
            partition.leader.is_some()
                && partition.moving_to.is_empty()
                && replicas.len() == usize::try_from(NODES).unwrap_or(0)
                && replicas.iter().all(|replica| !replica.lost && is_in_sync(replica.entries_behind))
        };
        let nodes = status.nodes.iter().filter(|node| {
            let is_sound =
                node.upkeep.as_ref().is_some_and(|upkeep| upkeep.damaged_segments == 0 && upkeep.lost_replicas == 0);
            node.alive && node.metadata_voter && node.copying == 0 && is_sound
        });
        Ok(status.controller.is_some()
            && nodes.count() as u64 == NODES
            && status.partitions.len() == PARTITIONS as usize
            && status.partitions.iter().all(is_whole))
    }

    /// Every replica shows what was produced; sealed segments are the same on all nodes.
    async fn compare_all(&self) -> Result<()> {
        let began = Instant::now();
        for (id, node) in &self.nodes.nodes {
            for partition in 0..PARTITIONS {
                let what = format!("partition {partition} on node {id}");
                let show = async || self.stream.show(&node.flight, self.topic, partition).await;
                while let Shown::NotYet(why) = show().await.with_context(|| what.clone())? {
                    ensure!(began.elapsed() < READY_WITHIN, "{what} does not show everything: {why}");
                    sleep(LOOK_INTERVAL).await;
                }
            }
        }
        let mut first = BTreeMap::new();
        for id in 1..=NODES {
            for file in rot::sealed(&self.data_dir(id)?)? {
                let (name, bytes) = (file.file_name().map(ToOwned::to_owned), fs::read(&file)?);
                let known = first.entry(name).or_insert_with(|| bytes.clone());
                ensure!(*known == bytes, "{} is another than on the nodes before", file.display());
            }
        }
        Ok(())
    }

    fn data_dir(&self, node: u64) -> Result<PathBuf> {
        Ok(self.nodes.nodes.get(&node).with_context(|| format!("no node {node}"))?.data_dir.clone())
    }
}
