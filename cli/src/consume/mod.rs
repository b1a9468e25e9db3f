//! `levada consume`: record batches over Arrow Flight, in the form that the reader wants.

mod format;
mod json;
mod position;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use futures::FutureExt;
use levada_client::{ClientConfig, Consumer, End, Offset, PartitionId, Start};

use self::{
    format::{Format, Writer},
    position::Position,
};
use crate::{args::Global, exit, telemetry};

/// How often it is looked for partitions without a leader while nothing comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads records over Arrow Flight.
#[derive(Args)]
pub(crate) struct ConsumeArgs {
    /// The topic
    topic: String,
    /// Where to begin: earliest, latest, offset:N or time:RFC3339
    #[arg(long, default_value = "earliest", value_name = "PLACE")]
    from: Position,
    /// Where to end, not included: latest (the end as it is now), offset:N or time:RFC3339
    #[arg(long, default_value = "latest", value_name = "PLACE", conflicts_with = "follow")]
    to: Position,
    /// Never ends: waits for what comes
    #[arg(long)]
    follow: bool,
    /// Ends after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only these columns, in this order
    #[arg(long, value_delimiter = ',', value_name = "A,B,..")]
    columns: Vec<String>,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "N")]
    partition: Vec<u32>,
    /// How records are shown
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) async fn run(global: &Global, args: ConsumeArgs) -> Result<()> {
    let mut client = global.client_config()?;
    let exporter = telemetry::of_client(&mut client)?;
    let read = read(global, args, client).await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    read
}

async fn read(global: &Global, args: ConsumeArgs, client: ClientConfig) -> Result<()> {
    let mut columns = args.columns.clone();
    if args.format == Format::Raw {
        if !columns.is_empty() {
            return Err(exit::usage("raw shows values alone: leave out --columns"));
        }
        columns.push("value".to_owned());
    }
    let consumer = Consumer::builder(&global.bootstrap())
        .config(client)
        .topic(&args.topic)
        .partitions(args.partition.iter().copied().map(PartitionId))
        .start(start(args.from))
        .end(end(&args)?)
        .columns(columns)
        .build();
    let what = || format!("cannot read {:?}", args.topic);
    let mut consumer = consumer.await.with_context(what)?;
    let is_typed = consumer.topic().schema.is_some();
    if args.format == Format::Raw && is_typed {
        return Err(exit::usage(format!(
            "{:?} is a typed topic and has no raw values: use --format jsonl",
            args.topic
        )));
    }
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);

    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut writer = None;
    let mut failed = None;
    let mut leaderless = Leaderless::default();
    while left > 0 {
        let batch = match consumer.next().now_or_never() {
            Some(batch) => batch,
            None => {
                // Nothing more for the moment: whoever follows wants to see what there is.
                writer.as_mut().map_or(Ok(()), Writer::flush)?;
                leaderless.tell(global, &consumer);
                tokio::select! {
                    batch = consumer.next() => batch,
                    _ = &mut interrupted => break,
                    () = tokio::time::sleep(LOOK_EVERY) => continue,
                }
            }
        };
        let mut records = match batch {
            None => break,
            Some(Ok(batch)) => batch.records,
            // What the other partitions have is read all the same, unless that never ends.
            Some(Err(error)) if args.follow => return Err(error).with_context(what),
            Some(Err(error)) => {
                failed.get_or_insert(error);
                continue;
            }
        };
        let rows = usize::try_from(left).unwrap_or(usize::MAX).min(records.num_rows());
        records = records.slice(0, rows);
        left -= u64::try_from(rows)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(Writer::new(args.format, records.schema_ref(), is_typed)?),
        };
        writer.write(&records)?;
    }
    match (writer, consumer.schema()) {
        (Some(writer), _) => writer.finish()?,
        // Also no records have columns.
        (None, Some(schema)) => Writer::new(args.format, &schema, is_typed)?.finish()?,
        (None, None) => {}
    }
    // What was asked for is there.
    let failed = failed.filter(|_| left > 0);
    failed.map_or(Ok(()), Err).with_context(what)
}

/// Partitions without a leader, of which nothing comes: each is told of once.
#[derive(Default)]
struct Leaderless(BTreeSet<PartitionId>);

impl Leaderless {
    fn tell(&mut self, global: &Global, consumer: &Consumer) {
        for partition in consumer.without_leader() {
            if self.0.insert(partition) {
                let words = format!(
                    "partition {partition} of {} has no leader and cannot be read before it has one; `levada cluster status` says what \
                     to do",
                    consumer.topic().name
                );
                if global.is_json() {
                    eprintln!("{}", serde_json::json!({"waiting": words}));
                } else {
                    eprintln!("{words}");
                }
            }
        }
    }
}

const fn start(position: Position) -> Start {
    match position {
        Position::Earliest => Start::Earliest,
        Position::Latest => Start::Latest,
        Position::Offset(offset) => Start::Offset(offset),
        Position::Time(time) => Start::Time(time),
    }
}

fn end(args: &ConsumeArgs) -> Result<End> {
    Ok(match args.to {
        _ if args.follow => End::Follow,
        Position::Earliest => return Err(exit::usage("nothing stands before the earliest record: give another --to")),
        Position::Latest => End::Latest,
        Position::Offset(Offset(0)) => return Err(exit::usage("nothing stands before offset 0: give another --to")),
        Position::Offset(offset) => End::Offset(offset),
        Position::Time(time) => End::Time(time),
    })
}
