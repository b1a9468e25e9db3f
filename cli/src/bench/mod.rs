//! `levada bench`: how much, and how soon.
//!
//! Each benchmark makes a topic of its own, fills or follows it with values that do not compress and carry a checksum
//! ([`values`]), and says under which conditions it ran: the machine, and what its disk needed for a bare write with
//! fdatasync in the same minutes ([`crate::disk`]). [`load`] sends without coordinated omission.

mod consume;
mod e2e;
mod load;
mod produce;
mod report;
mod values;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use levada_client::{Admin, NewTopic, Producer, ProducerConfig, Topic};
use serde_json::{Map, Value, json};

use self::{
    load::{Load, Watch},
    report::Report,
    values::{Pool, VALUE_BYTES_MIN},
};
use crate::{
    args::Global,
    disk::{self, DiskTimes},
    exit,
    produce::Codec,
    units,
};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Acknowledged writes: throughput, and latency from when a record was to be sent to its acknowledgement
    Produce(produce::ProduceBenchArgs),
    /// Reads over Arrow Flight, every value checked
    Consume(consume::ConsumeBenchArgs),
    /// From when a record was to be sent to when a following reader has it
    E2e(e2e::E2eBenchArgs),
}

/// The topic that a benchmark makes for itself.
#[derive(Args)]
pub(crate) struct TopicArgs {
    /// The topic's name; one of its own if not given
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// How many partitions
    #[arg(long, default_value_t = 16, value_name = "N")]
    partitions: u32,
    /// How many replicas of each; the cluster's default if not given
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    replicas: u32,
    /// Leaves the topic there
    #[arg(long)]
    keep: bool,
}

/// What is written, and how fast.
#[derive(Args)]
pub(crate) struct LoadArgs {
    /// Bytes of a value
    #[arg(long, value_parser = units::bytes, default_value = "1024", value_name = "BYTES")]
    value_bytes: u64,
    /// MB of values a second, over all clients; as many as it takes if not given
    #[arg(long, value_name = "MB/S", conflicts_with = "records_per_s")]
    rate: Option<f64>,
    /// Records a second, over all clients
    #[arg(long, value_name = "N")]
    records_per_s: Option<f64>,
    /// Records in flight for each client (closed loop: latency counts from the real send)
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "records_per_s"])]
    in_flight: Option<u64>,
    /// How many producers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
    /// How long to measure
    #[arg(long, value_parser = units::duration, default_value = "10s", value_name = "TIME")]
    duration: Duration,
    /// How long to run before that
    #[arg(long, value_parser = units::duration, default_value = "3s", value_name = "TIME")]
    warmup: Duration,
    /// How long a batch waits for more records
    #[arg(long, value_parser = units::duration, default_value = "5ms", value_name = "TIME")]
    linger: Duration,
    /// A batch is sent when it has grown to this
    #[arg(long, value_parser = units::bytes, default_value = "256KiB", value_name = "BYTES")]
    batch_bytes: u64,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// The random numbers begin with this
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// A directory on the disk that the nodes write to, to measure a bare write and fdatasync in
    #[arg(long, default_value = ".", value_name = "DIR")]
    disk_dir: PathBuf,
}

pub(crate) async fn run(global: &Global, command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Produce(args) => produce::run(global, args).await,
        BenchCommand::Consume(args) => consume::run(global, args).await,
        BenchCommand::E2e(args) => e2e::run(global, args).await,
    }
}

/// What a benchmark found, and why it counts as failed all the same.
struct Measured {
    report: Report,
    failure: Option<String>,
}

/// A topic made for a benchmark.
struct BenchTopic {
    admin: Admin,
    topic: Arc<Topic>,
    keep: bool,
}

impl BenchTopic {
    async fn make(global: &Global, args: &TopicArgs, schema_json: Option<String>) -> Result<Self> {
        let admin = global.admin().await?;
        let name = args.topic.clone().unwrap_or_else(|| format!("bench-{}", uuid::Uuid::new_v4().simple()));
        let new = NewTopic {
            name,
            partitions: args.partitions,
            replicas: args.replicas,
            config: std::collections::BTreeMap::new(),
            schema_json,
        };
        let topic = admin.create_topic(new).await.context("cannot make the benchmark's topic")?;
        Ok(Self { admin, topic, keep: args.keep })
    }

    fn replicas(&self) -> usize {
        self.topic.partitions.first().map_or(0, |partition| partition.replicas.len())
    }

    /// Waits for what was measured, or for Ctrl-C; then deletes the topic, unless it shall stay; then tells. In this order:
    /// neither a failure nor a reader of the report that goes away leaves the topic behind, or hides that records failed.
    async fn conclude(&self, global: &Global, measuring: impl Future<Output = Result<Measured>>) -> Result<()> {
        let measured = tokio::select! {
            measured = measuring => measured,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        };
        let name = &self.topic.name;
        let deleted = if self.keep { Ok(()) } else { self.admin.delete_topic(name).await };
        let deleted = deleted.with_context(|| format!("cannot delete the benchmark's topic {name}"));
        let measured = match (measured, &deleted) {
            (Err(error), Err(deleted)) => return Err(error.context(format!("{deleted:#}, after this"))),
            (measured, _) => measured?,
        };
        let told = measured.report.tell(global);
        measured.failure.map_or(deleted.and(told), |failure| Err(anyhow!(failure)))
    }

    fn conditions(&self) -> Map<String, Value> {
        let mut conditions = report::machine();
        conditions.insert("topic".into(), json!(self.topic.name));
        conditions.insert("partitions".into(), json!(self.topic.partitions.len()));
        conditions.insert("replicas".into(), json!(self.replicas()));
        conditions.insert("typed".into(), json!(self.topic.schema.is_some()));
        conditions.insert("acknowledged_when".into(), json!("fsynced by a quorum of replicas"));
        conditions.insert("fsync".into(), json!(true));
        conditions
    }
}

impl LoadArgs {
    fn pool(&self) -> Result<Arc<Pool>> {
        let value_bytes = usize::try_from(self.value_bytes)?;
        if value_bytes < VALUE_BYTES_MIN {
            return Err(exit::usage(format!("--value-bytes must be at least {VALUE_BYTES_MIN}")));
        }
        Ok(Arc::new(Pool::new(self.seed, value_bytes)))
    }

    fn load(&self, topic: &str) -> Result<Load> {
        #[allow(clippy::cast_precision_loss, reason = "values are smaller than 2^53 bytes")]
        let from_bytes = self.rate.map(|mb_per_s| mb_per_s * 1e6 / self.value_bytes as f64);
        let records_per_s = self.records_per_s.or(from_bytes);
        if records_per_s.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(exit::usage("the rate must be more than 0"));
        }
        Ok(Load {
            topic: topic.to_owned(),
            records_per_s,
            in_flight_max: self.in_flight.map(|records| records.max(1)),
            warmup: self.warmup,
            duration: self.duration,
        })
    }

    async fn producers(&self, global: &Global) -> Result<Vec<Producer>> {
        let mut config = ProducerConfig::new(global.client_config()?);
        config.compression = self.compression.into();
        config.linger = self.linger;
        config.batch_bytes = usize::try_from(self.batch_bytes)?;
        let mut producers = Vec::new();
        for _ in 0..self.clients {
            producers.push(Producer::with_config(config.clone()).await.context("cannot start a producer")?);
        }
        Ok(producers)
    }

    /// What the disk does now.
    async fn disk(&self, replicas: usize) -> Result<DiskTimes> {
        let (directory, bytes) = (self.disk_dir.clone(), usize::try_from(self.value_bytes)?);
        let measured =
            tokio::task::spawn_blocking(move || disk::measure(&directory, replicas, bytes, disk::Writes::Synced)).await;
        measured.context("cannot measure the disk")?.context("--disk-dir says where")
    }

    fn conditions(&self, disk: &DiskTimes) -> Vec<(String, Value)> {
        let loop_kind = match (self.in_flight, self.rate.or(self.records_per_s)) {
            (Some(_), _) => "closed: latency counts from the send",
            (None, Some(_)) => "open: latency counts from when a record was to be sent",
            (None, None) => "as much as the producer's buffer takes: latency counts from the hand-over to the producer",
        };
        let disk_p50 = disk.median().map(|median| (median.as_secs_f64() * 1e6).round() / 1e3);
        let conditions = [
            ("value_bytes", json!(self.value_bytes)),
            ("values", json!("incompressible, each with a checksum")),
            ("rate_mb_per_s", json!(self.rate)),
            ("rate_records_per_s", json!(self.records_per_s)),
            ("in_flight", json!(self.in_flight)),
            ("loop", json!(loop_kind)),
            ("clients", json!(self.clients)),
            ("compression", json!(format!("{:?}", self.compression).to_lowercase())),
            ("linger_ms", json!(self.linger.as_secs_f64() * 1e3)),
            ("batch_bytes", json!(self.batch_bytes)),
            ("warmup_s", json!(self.warmup.as_secs_f64())),
            ("disk_write_fdatasync_p50_ms", json!(disk_p50)),
            ("disk_measured", json!("as many at once as replicas, of the value's size, before and after the load")),
        ];
        conditions.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// Shows on standard error how the load goes, until dropped; nothing when that is no terminal.
async fn show_progress(watch: Watch, value_bytes: usize, length: Duration) {
    let style = ProgressStyle::with_template("{bar:40} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)).with_style(style);
    let (began, mut before) = (tokio::time::Instant::now(), 0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let now = watch.so_far();
        let bytes = u64::try_from(value_bytes).unwrap_or(u64::MAX).saturating_mul(now - before);
        bar.set_position(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        bar.set_message(format!("{}/s acknowledged", units::size(bytes)));
        before = now;
    }
}
