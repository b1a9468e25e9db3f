//! `levada bench e2e`: from when a record was to be sent to when a following reader has it.
//!
//! Writer and reader are this process, so that both read one clock.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use arrow_array::{Array, cast::AsArray};
use clap::Args;
use hdrhistogram::Histogram;
use levada_client::{Consumer, Start};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use super::{
    BenchTopic, LoadArgs, Measured, TopicArgs, load,
    report::{Report, histogram, micros},
    show_progress,
    values::{self, Pool, Stamp},
};
use crate::args::Global;

/// Measures the way from a writer to a following reader.
#[derive(Args)]
pub(crate) struct E2eBenchArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// What was acknowledged must have been read within this time after the last acknowledgement.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);

/// What the reader saw.
struct Seen {
    latencies: Histogram<u64>,
    records: u64,
    duplicates: u64,
}

pub(super) async fn run(global: &Global, args: E2eBenchArgs) -> Result<()> {
    let pool = args.load.pool()?;
    let topic = BenchTopic::make(global, &args.topic, None).await?;
    topic.conclude(global, measure(global, &args, &topic, pool)).await
}

async fn measure(global: &Global, args: &E2eBenchArgs, topic: &BenchTopic, pool: Arc<Pool>) -> Result<Measured> {
    let consumer = Consumer::builder(&global.bootstrap()).config(global.client_config()?).topic(&topic.topic.name);
    let consumer = consumer.start(Start::Earliest).follow().columns(["value"]).build().await;
    let consumer = consumer.context("cannot follow the topic")?;
    let load = args.load.load(&topic.topic.name)?;
    let producers = args.load.producers(global).await?;
    let disk = args.load.disk(topic.replicas()).await?;

    let length = load.warmup + load.duration;
    let measured_from = now_ns() + u64::try_from(load.warmup.as_nanos())?;
    let measured_to = now_ns() + u64::try_from(length.as_nanos())?;
    let (acknowledged, awaited) = watch::channel(None);
    let reader = tokio::spawn(follow(consumer, measured_from..measured_to, awaited));
    let running = load::start(load, pool.clone(), producers);
    let watch = running.watch();
    let sent = tokio::select! {
        sent = running.finish() => sent?,
        () = show_progress(watch, pool.value_bytes(), length) => bail!("the progress ended before the load"),
    };
    acknowledged.send_replace(Some(sent.acknowledged_in_all));
    let seen = timeout(CATCH_UP_WITHIN, reader).await;
    let seen = seen.context("the reader has not caught up")?.context("the reader failed")??;
    let disk = disk.join(args.load.disk(topic.replicas()).await?);

    let mut conditions = topic.conditions();
    conditions.extend(args.load.conditions(&disk));
    let measured = seen.latencies.len();
    let report = Report {
        bench: "e2e",
        records: measured,
        bytes: measured * u64::try_from(pool.value_bytes())?,
        elapsed: sent.measured,
        latencies: seen.latencies,
        counts: vec![
            ("acknowledged_in_all", json!(sent.acknowledged_in_all)),
            ("read_in_all", json!(seen.records)),
            ("duplicates", json!(seen.duplicates)),
            ("failed", json!(sent.failed)),
        ],
        conditions,
    };
    let failure = match sent.failure {
        Some(first) => Some(format!("{} records failed, the first one: {first}", sent.failed)),
        None => (seen.duplicates > 0).then(|| format!("{} records were read twice", seen.duplicates)),
    };
    Ok(Measured { report, failure })
}

/// Reads until as many records were seen as were acknowledged.
async fn follow(
    mut consumer: Consumer,
    measured: std::ops::Range<u64>,
    mut acknowledged: watch::Receiver<Option<u64>>,
) -> Result<Seen> {
    let mut seen = Seen { latencies: histogram(), records: 0, duplicates: 0 };
    let mut unseen = Unseen::default();
    loop {
        let all_acknowledged = *acknowledged.borrow_and_update();
        if all_acknowledged.is_some_and(|all| seen.records >= all) {
            return Ok(seen);
        }
        let batch = tokio::select! {
            batch = consumer.next() => batch.context("the reader has no partitions")?.context("cannot follow the topic")?,
            changed = acknowledged.changed() => {
                changed.context("the writer is gone")?;
                continue;
            }
        };
        let now = now_ns();
        let values = batch.records.column_by_name("value").and_then(|column| column.as_binary_opt::<i32>());
        let values = values.context("the server left out the column value")?;
        for row in 0..values.len() {
            let stamp = values::check(values.value(row)).context("a value is not what was written")?;
            if !unseen.take(stamp) {
                seen.duplicates += 1;
                continue;
            }
            seen.records += 1;
            if measured.contains(&stamp.intended_ns) {
                let latency = Duration::from_nanos(now.saturating_sub(stamp.intended_ns));
                seen.latencies.saturating_record(micros(latency).max(1));
            }
        }
    }
}

/// Which records of each client have not come yet; small, as they come nearly in order.
#[derive(Default)]
struct Unseen {
    /// By client: the number above all that came, and those below it that did not.
    clients: Vec<(u64, BTreeSet<u64>)>,
}

impl Unseen {
    /// Whether it came for the first time.
    fn take(&mut self, stamp: Stamp) -> bool {
        let client = usize::try_from(stamp.client).unwrap_or(usize::MAX);
        if self.clients.len() <= client {
            self.clients.resize_with(client + 1, Default::default);
        }
        let Some((next, missing)) = self.clients.get_mut(client) else { return false };
        if stamp.number < *next {
            return missing.remove(&stamp.number);
        }
        missing.extend(*next..stamp.number);
        *next = stamp.number + 1;
        true
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_once() {
        let mut unseen = Unseen::default();
        let mut take = |client, number| unseen.take(Stamp { client, number, intended_ns: 0 });
        assert!([take(0, 2), take(0, 0), take(1, 0), take(0, 1), take(0, 3)].into_iter().all(|first| first));
        assert!(![take(0, 2), take(0, 0), take(0, 1), take(1, 0)].into_iter().any(|first| first));
    }
}
