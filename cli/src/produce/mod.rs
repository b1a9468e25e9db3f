//! `levada produce`: standard input, record by record, into a topic.
//!
//! A thread reads and parses ([`input`]); this task sends, and counts outcomes as they come back. The command succeeds
//! only if every record of the input was acknowledged. The first record that is not ends it: what was read before it
//! still gets its outcome, what stands behind it is not read.

mod field;
mod input;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use levada_client::{Admin, Compression, DeliveryError, PartitionId, Producer, ProducerConfig, Record, Written};
use serde_json::json;

use self::input::{Input, InputRecord};
use crate::{args::Global, exit, print, telemetry, units};

/// Writes records from standard input.
#[derive(Args)]
pub(crate) struct ProduceArgs {
    /// The topic
    topic: String,
    /// What a record is: a line; a line that is a JSON object; a row of CSV below a header
    #[arg(long, value_enum, default_value_t = Format::Lines)]
    format: Format,
    /// The field (jsonl, csv) whose value is the record's key
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// The field (jsonl, csv) whose value is the record's time: milliseconds since 1970, or RFC 3339
    #[arg(long, value_name = "FIELD")]
    timestamp: Option<String>,
    /// The partition, when the key shall not decide it
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// How batches are compressed
    #[arg(long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// How long a batch waits for more records
    #[arg(long, value_parser = units::duration, default_value = "5ms", value_name = "TIME")]
    linger: Duration,
    /// A batch is sent when it has grown to this
    #[arg(long, value_parser = units::bytes, default_value = "256KiB", value_name = "BYTES")]
    batch_bytes: u64,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line, as it is.
    Lines,
    /// A line that is a JSON object, as it is.
    Jsonl,
    /// A row of CSV, as a JSON object with the header's names.
    Csv,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    None,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// What became of the records so far.
#[derive(Default)]
struct Outcomes {
    acknowledged: u64,
    bytes: u64,
    failed: u64,
    /// The failure that stands first in the input.
    first_failure: Option<(u64, DeliveryError)>,
}

pub(crate) async fn run(global: &Global, args: ProduceArgs) -> Result<()> {
    if args.format == Format::Lines && (args.key.is_some() || args.timestamp.is_some()) {
        return Err(exit::usage("lines have no fields: --key and --timestamp need --format jsonl or csv"));
    }
    let admin = global.admin().await?;
    let topic = admin.describe_topic(&args.topic).await.with_context(|| format!("cannot write to {:?}", args.topic))?;
    if let Some(partition) = args.partition {
        topic.topic_partition(PartitionId(partition)).with_context(|| format!("cannot write to {:?}", args.topic))?;
    }
    let input = Input::new(args.format, args.key.clone(), args.timestamp.clone(), topic.schema.as_ref())?;
    drop::<Admin>(admin);

    let mut client = global.client_config()?;
    let exporter = telemetry::of_client(&mut client)?;
    let mut config = ProducerConfig::new(client);
    config.compression = args.compression.into();
    config.linger = args.linger;
    config.batch_bytes = usize::try_from(args.batch_bytes).unwrap_or(usize::MAX);
    config.delivery_timeout = global.timeout().max(args.linger + Duration::from_millis(1));
    let producer = Producer::with_config(config).await.context("cannot start a producer")?;

    let began = Instant::now();
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let bar = progress();
    let sent = send_all(&producer, &args, input, &outcomes, &bar).await;
    // What was sent gets its outcome in any case, and is told below.
    let _ = producer.close().await;
    bar.finish_and_clear();
    let elapsed = began.elapsed();
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }

    let outcomes = std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    let told = tell(global, &outcomes, elapsed);
    conclude(outcomes, sent, told)
}

/// How it ends. Records that were not acknowledged are a failure, whoever has seen enough of the output.
fn conclude(outcomes: Outcomes, sent: Result<()>, told: Result<()>) -> Result<()> {
    if let Some((line, failure)) = outcomes.first_failure {
        let unknown = if failure.written == Written::Unknown { "; it may be there all the same" } else { "" };
        let what = format!(
            "line {line} was not acknowledged{unknown} ({} records were, {} were not)",
            units::count(outcomes.acknowledged),
            units::count(outcomes.failed)
        );
        return Err(anyhow::Error::new(failure.error).context(what));
    }
    sent.and(told)
}

/// Sends record by record until the input ends, or a record fails.
async fn send_all(
    producer: &Producer,
    args: &ProduceArgs,
    input: Input,
    outcomes: &Arc<Mutex<Outcomes>>,
    bar: &ProgressBar,
) -> Result<()> {
    let mut chunks = input.read_stdin();
    while let Some(chunk) = chunks.recv().await {
        for record in chunk? {
            let InputRecord { line, key, value, timestamp_ms } = record;
            let bytes = value.len() + key.as_ref().map_or(0, Vec::len);
            let told = Arc::clone(outcomes);
            let sending = Record {
                key: key.as_deref(),
                value: Some(&value),
                timestamp_ms,
                partition: args.partition.map(PartitionId),
                ..Record::default()
            };
            let count = move |outcome: Result<_, DeliveryError>| {
                let mut outcomes = told.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(_) => {
                        outcomes.acknowledged += 1;
                        outcomes.bytes += u64::try_from(bytes).unwrap_or_default();
                    }
                    Err(failure) => {
                        outcomes.failed += 1;
                        if outcomes.first_failure.as_ref().is_none_or(|(first, _)| line < *first) {
                            outcomes.first_failure = Some((line, failure));
                        }
                    }
                }
            };
            let taken = producer.send_with_callback(&args.topic, sending, count).await;
            taken.with_context(|| format!("line {line} cannot be sent"))?;
        }
        let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set_position(outcomes.acknowledged);
        bar.set_message(units::size(outcomes.bytes));
        if let Some((line, _)) = &outcomes.first_failure {
            return Err(anyhow!("line {line} failed"));
        }
    }
    Ok(())
}

/// A line on standard error that says how far it is; nothing when that is no terminal.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} records acknowledged, {msg}, {per_sec}");
    let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn tell(global: &Global, outcomes: &Outcomes, elapsed: Duration) -> Result<()> {
    let Outcomes { acknowledged, bytes, failed, .. } = outcomes;
    if global.is_json() {
        let elapsed_s = elapsed.as_secs_f64();
        return print::json(&json!({
            "records": acknowledged, "bytes": bytes, "elapsed_s": elapsed_s, "failed": failed,
        }));
    }
    eprintln!(
        "{} ({}) acknowledged in {:.1} s",
        units::some(*acknowledged, "record", "records"),
        units::size(*bytes),
        elapsed.as_secs_f64()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use levada_client::{Error, ErrorCode};

    use super::*;

    #[test]
    fn failed_records_count_though_nobody_reads_the_output() {
        let closed = || Err(print::Closed.into());
        let failure = DeliveryError { error: Error::new(ErrorCode::Timeout, "late"), written: Written::Unknown };
        let outcomes = Outcomes { failed: 1, first_failure: Some((7, failure)), ..Outcomes::default() };
        let ended = conclude(outcomes, Err(anyhow!("line 7 failed")), closed()).unwrap_err();
        assert!(ended.to_string().starts_with("line 7 was not acknowledged"), "{ended}");
        let ended = conclude(Outcomes::default(), Err(anyhow!("line 2 cannot be sent")), closed()).unwrap_err();
        assert!(!ended.is::<print::Closed>());
        assert!(conclude(Outcomes::default(), Ok(()), closed()).unwrap_err().is::<print::Closed>());
    }
}
