//! `levada topic`: topics as an operator sees them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use futures::future;
use levada_client::{Admin, ErrorCode, NewTopic, Offsets, PartitionId, Topic};
use levada_protocol::topic::TopicConfig;
use serde_json::{Value, json};

use crate::{
    args::Global,
    exit,
    print::{self, Column},
    units,
};

/// What to do with topics.
#[derive(Subcommand)]
pub(crate) enum TopicCommand {
    /// Makes a topic; it can be written when this returns
    Create(CreateArgs),
    /// Lists all topics
    List,
    /// Shows a topic: partitions, leaders, offsets, settings, schema
    Describe {
        /// The topic
        topic: String,
    },
    /// Changes a topic's settings, its number of partitions or of replicas
    Alter(AlterArgs),
    /// Deletes topics and their records
    Delete {
        /// The topics
        #[arg(required = true)]
        topics: Vec<String>,
        /// A topic that is not there is as good as deleted
        #[arg(long)]
        if_exists: bool,
    },
}

/// A wish for a topic.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// The topic: 1 to 249 of a-z A-Z 0-9 . _ -
    topic: String,
    /// How many partitions
    #[arg(long, default_value_t = 1, value_name = "N")]
    partitions: u32,
    /// How many replicas of each; the cluster's default if not given
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    replicas: u32,
    /// A setting, such as retention.ms=86400000; may be given several times
    #[arg(long, value_parser = units::key_value, value_name = "KEY=VALUE")]
    config: Vec<(String, String)>,
    /// An Arrow schema as JSON: makes a typed topic, stored as Arrow
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// A topic of that name is as good as made
    #[arg(long)]
    if_not_exists: bool,
    /// Only checks whether it could be made
    #[arg(long)]
    dry_run: bool,
}

/// A change of a topic's settings.
#[derive(Args)]
pub(crate) struct AlterArgs {
    /// The topic
    topic: String,
    /// Sets this; may be given several times
    #[arg(long, value_parser = units::key_value, value_name = "KEY=VALUE")]
    set: Vec<(String, String)>,
    /// Takes this back to its default; may be given several times
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Gives it so many partitions: more than it has. Keys may go to other partitions from then on
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Gives it so many replicas of each partition; they are moved in the background
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
}

pub(crate) async fn run(global: &Global, command: TopicCommand) -> Result<()> {
    match command {
        TopicCommand::Create(args) => create(global, args).await,
        TopicCommand::List => list(global).await,
        TopicCommand::Describe { topic } => describe(global, &topic).await,
        TopicCommand::Alter(args) => alter(global, args).await,
        TopicCommand::Delete { topics, if_exists } => delete(global, &topics, if_exists).await,
    }
}

async fn create(global: &Global, args: CreateArgs) -> Result<()> {
    let schema_json = match &args.schema {
        Some(path) => {
            Some(std::fs::read_to_string(path).with_context(|| format!("cannot read the schema {}", path.display()))?)
        }
        None => None,
    };
    let new = NewTopic {
        name: args.topic.clone(),
        partitions: args.partitions,
        replicas: args.replicas,
        config: args.config.into_iter().collect(),
        schema_json,
    };
    let admin = global.admin().await?;
    let what = || format!("cannot create topic {:?}", args.topic);
    if args.dry_run {
        admin.check_topic(new).await.with_context(what)?;
        return said(global, &json!({"topic": args.topic, "could_be_created": true}), "it could be created");
    }
    let topic = match admin.create_topic(new).await {
        Err(error) if error.code == ErrorCode::TopicExists && args.if_not_exists => {
            let topic = admin.describe_topic(&args.topic).await.with_context(what)?;
            return said(global, &topic_json(&topic, None), "it is there already");
        }
        created => created.with_context(what)?,
    };
    let partitions = units::some(topic.partitions.len() as u64, "partition", "partitions");
    let replicas = topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    let replicas = units::some(replicas as u64, "replica", "replicas");
    let kind = if topic.schema.is_some() { "typed, " } else { "" };
    let words = format!("created topic {} ({kind}{partitions}, {replicas} each)", topic.name);
    said(global, &topic_json(&topic, None), &words)
}

async fn list(global: &Global) -> Result<()> {
    let topics = global.admin().await?.list_topics().await.context("cannot list topics")?;
    if global.is_json() {
        let topics: Vec<Value> = topics.iter().map(|topic| topic_json(topic, None)).collect();
        return print::json(&json!({ "topics": topics }));
    }
    let columns = [
        Column::Text("topic"),
        Column::Number("partitions"),
        Column::Number("replicas"),
        Column::Text("typed"),
        Column::Text("settings"),
    ];
    let rows = topics.iter().map(|topic| {
        let replicas = topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0);
        let settings: Vec<String> = topic.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            topic.name.clone(),
            topic.partitions.len().to_string(),
            replicas.to_string(),
            if topic.schema.is_some() { "yes" } else { "no" }.to_owned(),
            settings.join(" "),
        ]
    });
    print::line(&print::table(&columns, rows))
}

async fn describe(global: &Global, name: &str) -> Result<()> {
    let admin = global.admin().await?;
    let topic = admin.describe_topic(name).await.with_context(|| format!("cannot describe topic {name:?}"))?;
    let offsets = all_offsets(&admin, &topic, global.timeout().min(OFFSETS_WITHIN)).await;
    if global.is_json() {
        return print::json(&topic_json(&topic, Some(&offsets)));
    }
    let kind = if topic.schema.is_some() { "typed" } else { "untyped" };
    print::line(&format!("{}  {kind}, id {}\n", topic.name, topic.id))?;
    let columns = [
        Column::Number("partition"),
        Column::Text("leader"),
        Column::Text("replicas"),
        Column::Number("log start"),
        Column::Number("high watermark"),
        Column::Number("bytes"),
    ];
    let unknown = || "?".to_owned();
    let rows = topic.partitions.iter().zip(&offsets).enumerate().map(|(number, (partition, offsets))| {
        let replicas: Vec<String> = partition.replicas.iter().map(|replica| replica.node.to_string()).collect();
        let shown = |number: Option<u64>| number.map_or_else(unknown, |number| number.to_string());
        vec![
            number.to_string(),
            partition.leader.map_or_else(unknown, |node| node.to_string()),
            replicas.join(","),
            shown(offsets.map(|offsets| offsets.log_start.get())),
            shown(offsets.map(|offsets| offsets.high_watermark.get())),
            shown(offsets.map(|offsets| offsets.bytes)),
        ]
    });
    print::line(&print::table(&columns, rows))?;
    let settings = full_config(&topic).into_iter().map(|(key, value)| {
        let origin = if topic.config.contains_key(&key) { "set" } else { "default" };
        vec![key, value, origin.to_owned()]
    });
    let columns = [Column::Text("setting"), Column::Text("value"), Column::Text("from")];
    print::line(&format!("\n{}", print::table(&columns, settings)))?;
    match &topic.schema {
        Some(schema) => print::line(&format!("\nschema {}\n{}", schema.id, schema.json)),
        None => Ok(()),
    }
}

/// A leader that is there answers within this.
const OFFSETS_WITHIN: Duration = Duration::from_secs(2);

/// Both ends of every partition; `None` where no leader answers in time.
async fn all_offsets(admin: &Admin, topic: &Topic, within: Duration) -> Vec<Option<Offsets>> {
    let ask = |number| async move {
        let asked = admin.list_offsets(&topic.name, PartitionId(number), None);
        tokio::time::timeout(within, asked).await.ok()?.ok()
    };
    future::join_all((0..topic.partition_count()).map(ask)).await
}

async fn alter(global: &Global, args: AlterArgs) -> Result<()> {
    let (sets, resizes) =
        (!(args.set.is_empty() && args.unset.is_empty()), args.partitions.or(args.replicas).is_some());
    if !sets && !resizes {
        return Err(exit::usage(
            "nothing to change: give --set KEY=VALUE, --unset KEY, --partitions N or --replicas N",
        ));
    }
    let admin = global.admin().await?;
    let what = || format!("cannot alter topic {:?}", args.topic);
    if sets {
        admin.alter_topic(&args.topic, args.set.into_iter().collect(), args.unset).await.with_context(what)?;
    }
    if resizes {
        admin.resize_topic(&args.topic, args.partitions, args.replicas).await.with_context(what)?;
    }
    let topic = admin.describe_topic(&args.topic).await.with_context(what)?;
    said(global, &topic_json(&topic, None), &format!("altered topic {}", topic.name))
}

async fn delete(global: &Global, topics: &[String], if_exists: bool) -> Result<()> {
    let admin = global.admin().await?;
    for name in topics {
        match admin.delete_topic(name).await {
            Err(error) if error.code == ErrorCode::UnknownTopic && if_exists => {}
            deleted => deleted.with_context(|| format!("cannot delete topic {name:?}"))?,
        }
    }
    said(global, &json!({ "deleted": topics }), &format!("deleted {}", topics.join(", ")))
}

fn said(global: &Global, value: &Value, words: &str) -> Result<()> {
    if global.is_json() { print::json(value) } else { print::line(words) }
}

/// All settings, the defaults too.
fn full_config(topic: &Topic) -> BTreeMap<String, String> {
    let mut all = TopicConfig::default().to_map();
    all.extend(topic.config.clone());
    all
}

fn topic_json(topic: &Arc<Topic>, offsets: Option<&[Option<Offsets>]>) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(number, partition)| {
            let replicas: Vec<u64> = partition.replicas.iter().map(|replica| replica.node.get()).collect();
            let mut shown = json!({
                "partition": number,
                "leader": partition.leader.map(|node| node.get()),
                "leader_epoch": partition.leader_epoch.get(),
                "replicas": replicas,
            });
            if let Some(offsets) = offsets {
                let of = offsets.get(number).copied().flatten();
                shown["log_start_offset"] = json!(of.map(|of| of.log_start.get()));
                shown["high_watermark"] = json!(of.map(|of| of.high_watermark.get()));
                shown["bytes"] = json!(of.map(|of| of.bytes));
            }
            shown
        })
        .collect();
    json!({
        "name": topic.name,
        "id": topic.id.to_string(),
        "partitions": partitions,
        "config": full_config(topic),
        "schema": topic.schema.as_ref().map(|schema| {
            serde_json::from_str::<Value>(&schema.json).unwrap_or_else(|_| json!(schema.json))
        }),
        "schema_id": topic.schema.as_ref().map(|schema| schema.id),
    })
}
