//! `levada bench produce`: acknowledged writes.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::{
    BenchTopic, LoadArgs, Measured, TopicArgs,
    load::{self, Sent},
    report::Report,
    show_progress,
    values::Pool,
};
use crate::args::Global;

/// Measures acknowledged writes.
#[derive(Args)]
pub(crate) struct ProduceBenchArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    load: LoadArgs,
}

pub(super) async fn run(global: &Global, args: ProduceBenchArgs) -> Result<()> {
    let pool = args.load.pool()?;
    let topic = BenchTopic::make(global, &args.topic, None).await?;
    topic.conclude(global, measure(global, &args, &topic, pool)).await
}

async fn measure(global: &Global, args: &ProduceBenchArgs, topic: &BenchTopic, pool: Arc<Pool>) -> Result<Measured> {
    let load = args.load.load(&topic.topic.name)?;
    let producers = args.load.producers(global).await?;
    let disk = args.load.disk(topic.replicas()).await?;

    let length = load.warmup + load.duration;
    let running = load::start(load, pool.clone(), producers);
    let watch = running.watch();
    let sent: Sent = tokio::select! {
        sent = running.finish() => sent?,
        () = show_progress(watch, pool.value_bytes(), length) => bail!("the progress ended before the load"),
    };
    let disk = disk.join(args.load.disk(topic.replicas()).await?);

    let mut conditions = topic.conditions();
    conditions.extend(args.load.conditions(&disk));
    let value_bytes = u64::try_from(pool.value_bytes())?;
    let report = Report {
        bench: "produce",
        records: sent.acknowledged,
        bytes: sent.acknowledged * value_bytes,
        elapsed: sent.measured,
        latencies: sent.latencies,
        counts: vec![
            ("acknowledged_in_all", json!(sent.acknowledged_in_all)),
            ("failed", json!(sent.failed)),
            ("longest_gap_ms", json!((sent.longest_gap.as_secs_f64() * 1e6).round() / 1e3)),
        ],
        conditions,
    };
    let failure = sent.failure.map(|first| format!("{} records failed, the first one: {first}", sent.failed));
    Ok(Measured { report, failure })
}
