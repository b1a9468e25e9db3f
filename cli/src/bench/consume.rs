//! `levada bench consume`: reads over Arrow Flight, every value checked.
//!
//! Fills a topic, then reads all of it again and again. The first pass is not measured: it finds the data in the page
//! cache, which is what "hot" means. A latency here is the time from asking for the next record batch to having it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arrow_array::{Array, cast::AsArray};
use clap::Args;
use hdrhistogram::Histogram;
use levada_client::{Consumer, Producer, ProducerConfig, Record};
use serde_json::json;

use super::{
    BenchTopic, Measured, TopicArgs,
    report::{Report, histogram, micros},
    values::{self, Pool, Stamp, VALUE_BYTES_MIN},
};
use crate::{args::Global, exit, units};

/// Measures reads.
#[derive(Args)]
pub(crate) struct ConsumeBenchArgs {
    #[command(flatten)]
    topic: TopicArgs,
    /// Reads a typed topic, stored as Arrow
    #[arg(long)]
    typed: bool,
    /// Bytes of values to fill the topic with
    #[arg(long, value_parser = units::bytes, default_value = "512MiB", value_name = "BYTES")]
    bytes: u64,
    /// Bytes of a value
    #[arg(long, value_parser = units::bytes, default_value = "1024", value_name = "BYTES")]
    value_bytes: u64,
    /// A batch is stored when it has grown to this
    #[arg(long, value_parser = units::bytes, default_value = "1MiB", value_name = "BYTES")]
    batch_bytes: u64,
    /// How many readers at once, each of the whole topic
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    readers: u16,
    /// How long to measure
    #[arg(long, value_parser = units::duration, default_value = "10s", value_name = "TIME")]
    duration: Duration,
    /// The random numbers begin with this
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

/// The column of a typed topic that holds the values.
const PAYLOAD: &str = "payload";
const SCHEMA: &str = r#"{"fields":[{"name":"payload","type":"binary","nullable":false}]}"#;

/// What one reader, or all of them, read.
struct Read {
    records: u64,
    bytes: u64,
    passes: u64,
    latencies: Histogram<u64>,
}

pub(super) async fn run(global: &Global, args: ConsumeBenchArgs) -> Result<()> {
    let value_bytes = usize::try_from(args.value_bytes)?;
    if value_bytes < VALUE_BYTES_MIN {
        return Err(exit::usage(format!("--value-bytes must be at least {VALUE_BYTES_MIN}")));
    }
    let topic = BenchTopic::make(global, &args.topic, args.typed.then(|| SCHEMA.to_owned())).await?;
    topic.conclude(global, measure(global, &args, &topic)).await
}

async fn measure(global: &Global, args: &ConsumeBenchArgs, topic: &BenchTopic) -> Result<Measured> {
    let name = topic.topic.name.clone();
    let records = (args.bytes / args.value_bytes).max(1);
    fill(global, args, &name, records).await.context("cannot fill the topic")?;

    let warm = pass(global, &name, args.typed).await?;
    if warm.records != records {
        bail!("{records} records were acknowledged, {} were read", warm.records);
    }
    let began = Instant::now();
    let readers = (0..args.readers).map(|_| {
        let (global, name, typed, duration) = (global.clone(), name.clone(), args.typed, args.duration);
        tokio::spawn(async move {
            let mut all = Read { records: 0, bytes: 0, passes: 0, latencies: histogram() };
            while began.elapsed() < duration {
                all.add(pass(&global, &name, typed).await?);
            }
            anyhow::Ok(all)
        })
    });
    let readers: Vec<_> = readers.collect();
    let mut all = Read { records: 0, bytes: 0, passes: 0, latencies: histogram() };
    for reader in readers {
        all.add(reader.await.context("a reader failed")??);
    }
    let elapsed = began.elapsed();

    let mut conditions = topic.conditions();
    conditions.insert("value_bytes".into(), json!(args.value_bytes));
    conditions.insert("values".into(), json!("incompressible, each with a checksum, each checked"));
    conditions.insert("batch_bytes".into(), json!(args.batch_bytes));
    conditions.insert("readers".into(), json!(args.readers));
    conditions.insert("topic_records".into(), json!(records));
    conditions.insert("latency".into(), json!("from asking for a record batch to having it"));
    conditions.insert("cache".into(), json!("hot: read once before"));
    let report = Report {
        bench: "consume",
        records: all.records,
        bytes: all.bytes,
        elapsed,
        latencies: all.latencies,
        counts: vec![("passes", json!(all.passes))],
        conditions,
    };
    Ok(Measured { report, failure: None })
}

impl Read {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.passes += other.passes;
        let added = self.latencies.add(other.latencies);
        debug_assert!(added.is_ok(), "all histograms have the same bounds");
    }
}

async fn fill(global: &Global, args: &ConsumeBenchArgs, topic: &str, records: u64) -> Result<()> {
    let pool = Pool::new(args.seed, usize::try_from(args.value_bytes)?);
    let mut config = ProducerConfig::new(global.client_config()?);
    config.batch_bytes = usize::try_from(args.batch_bytes)?;
    config.linger = Duration::from_millis(50);
    let producer = Producer::with_config(config).await?;
    let mut value = Vec::new();
    for number in 0..records {
        pool.write(Stamp { client: 0, number, intended_ns: 0 }, &mut value);
        if args.typed {
            value = typed_row(&value).into_bytes();
        }
        // The outcome of all is asked for below.
        drop(producer.send(topic, Record::new(&value)).await?);
    }
    Ok(producer.close().await.map_err(levada_client::Error::from)?)
}

/// A row of the typed topic, as JSON.
fn typed_row(value: &[u8]) -> String {
    use arrow_cast::base64::{BASE64_STANDARD, Engine};
    let mut row = format!("{{\"{PAYLOAD}\":\"");
    BASE64_STANDARD.encode_string(value, &mut row);
    row.push_str("\"}");
    row
}

/// Reads the topic from its start to its end, and checks every value.
async fn pass(global: &Global, topic: &str, typed: bool) -> Result<Read> {
    let column = if typed { PAYLOAD } else { "value" };
    let consumer = Consumer::builder(&global.bootstrap()).config(global.client_config()?).topic(topic);
    let mut consumer = consumer.columns([column]).build().await.context("cannot read the topic")?;
    let mut read = Read { records: 0, bytes: 0, passes: 1, latencies: histogram() };
    loop {
        let asked = Instant::now();
        let Some(batch) = consumer.next().await else { return Ok(read) };
        read.latencies.saturating_record(micros(asked.elapsed()).max(1));
        let batch = batch.context("cannot read the topic")?;
        let values = batch.records.column_by_name(column).and_then(|column| column.as_binary_opt::<i32>());
        let values = values.with_context(|| format!("the server left out the column {column}"))?;
        for row in 0..values.len() {
            let value = values.value(row);
            if values.is_null(row) || values::check(value).is_none() {
                let at = batch.first_offset.plus(u64::try_from(row)?);
                bail!("the value in partition {} at about offset {at} is not what was written", batch.partition);
            }
            read.bytes += u64::try_from(value.len())?;
        }
        read.records += u64::try_from(values.len())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_row_is_json() {
        assert_eq!(typed_row(b"\xff\x00"), r#"{"payload":"/wA="}"#);
        assert!(SCHEMA.contains(PAYLOAD));
    }
}
