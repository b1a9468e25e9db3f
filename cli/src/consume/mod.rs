//! `levada consume`: record batches over Arrow Flight, in the form that the reader wants.

mod format;
mod json;
mod position;

use anyhow::{Context, Result};
use clap::Args;
use futures::FutureExt;
use levada_client::{ClientConfig, Consumer, End, Offset, PartitionId, Start};

use self::{
    format::{Format, Writer},
    position::Position,
};
use crate::{args::Global, exit, telemetry};

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
    let consumer = Consumer::builder(&global.bootstrap)
        .config(client)
        .topic(&args.topic)
        .partitions(args.partition.iter().copied().map(PartitionId))
        .start(start(args.from))
        .end(end(&args)?)
        .columns(columns)
        .build();
    let mut consumer = consumer.await.with_context(|| format!("cannot read {:?}", args.topic))?;
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
    while left > 0 {
        let batch = match consumer.next().now_or_never() {
            Some(batch) => batch,
            None => {
                // Nothing more for the moment: whoever follows wants to see what there is.
                writer.as_mut().map_or(Ok(()), Writer::flush)?;
                tokio::select! {
                    batch = consumer.next() => batch,
                    _ = &mut interrupted => break,
                }
            }
        };
        let Some(batch) = batch else { break };
        let mut records = batch.with_context(|| format!("cannot read {:?}", args.topic))?.records;
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
        (Some(writer), _) => writer.finish(),
        // Also no records have columns.
        (None, Some(schema)) => Writer::new(args.format, &schema, is_typed)?.finish(),
        (None, None) => Ok(()),
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
