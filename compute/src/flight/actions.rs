//! `DoAction`: what is done to topics and not to their records. JSON in, JSON out.

use std::collections::BTreeMap;

use arrow_flight::{Action as FlightAction, ActionType};
use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{PartitionId, TopicPartition},
    source::{NewTopic, TopicDescription},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    options::{from_json, to_json},
    server::FlightDeps,
};

/// The actions and what they take.
const ACTIONS: [(&str, &str); 6] = [
    (
        "create-topic",
        r#"{"name", "partitions": 1, "replicas": 0 for the default, "config": {}, "schema": an Arrow schema as JSON}"#,
    ),
    ("delete-topic", r#"{"name"}"#),
    ("describe-topic", r#"{"name"}: id, settings, schema, partitions"#),
    (
        "offsets",
        r#"{"topic", "partitions": all, "time": "2024-02-29T12:00:00Z"}: log start, high watermark, offset for the time"#,
    ),
    ("init-producer", "{}: producer_id and epoch for idempotent writes"),
    ("cluster-id", "{}: the cluster's identity"),
];

/// What `ListActions` says.
pub(crate) fn list() -> Vec<ActionType> {
    let action =
        |(name, takes): &(&str, &str)| ActionType { r#type: (*name).to_owned(), description: (*takes).to_owned() };
    ACTIONS.iter().map(action).collect()
}

/// Does an action.
///
/// # Errors
/// There is no such action, its JSON is not what it takes, or it fails.
pub(crate) async fn act(deps: &FlightDeps, ctx: &RequestContext, action: &FlightAction) -> Result<Bytes> {
    let body = &action.body;
    let answer = match action.r#type.as_str() {
        "create-topic" => create(deps, ctx, from_json(body)?).await?,
        "delete-topic" => delete(deps, ctx, from_json(body)?).await?,
        "describe-topic" => describe(deps, ctx, from_json(body)?).await?,
        "offsets" => offsets(deps, ctx, from_json(body)?).await?,
        "init-producer" => {
            let Nothing {} = from_json(body)?;
            deps.authorizer.authorize(ctx, Action::Write, Resource::Cluster)?;
            let identity = deps.sink.init_producer(ctx).await?;
            json!({"producer_id": identity.id.get(), "epoch": identity.epoch.get()})
        }
        "cluster-id" => {
            let Nothing {} = from_json(body)?;
            deps.authorizer.authorize(ctx, Action::Describe, Resource::Cluster)?;
            json!({"cluster_id": deps.catalog.cluster_id().to_string()})
        }
        other => {
            let known: Vec<_> = ACTIONS.iter().map(|(name, _)| *name).collect();
            let why = format!("there is no action {other:?}; there are {}", known.join(", "));
            return Err(Error::new(ErrorCode::UnknownApi, why));
        }
    };
    Ok(to_json(&answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    #[serde(default = "one")]
    partitions: u32,
    #[serde(default)]
    replicas: u32,
    #[serde(default)]
    config: BTreeMap<String, Value>,
    schema: Option<Value>,
}

const fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Offsets {
    topic: String,
    #[serde(default)]
    partitions: Vec<u32>,
    time: Option<String>,
}

async fn create(deps: &FlightDeps, ctx: &RequestContext, create: Create) -> Result<Value> {
    deps.authorizer.authorize(ctx, Action::Create, Resource::Topic(&create.name))?;
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let new = NewTopic {
        name: create.name,
        partitions: create.partitions,
        replicas: create.replicas,
        config: create.config.into_iter().map(|(key, value)| (key, text(value))).collect(),
        schema_json: create.schema.map(text),
    };
    Ok(description(&deps.catalog.create_topic(ctx, new).await?))
}

async fn delete(deps: &FlightDeps, ctx: &RequestContext, topic: Named) -> Result<Value> {
    deps.authorizer.authorize(ctx, Action::Delete, Resource::Topic(&topic.name))?;
    deps.catalog.delete_topic(ctx, &topic.name).await?;
    Ok(json!({}))
}

async fn describe(deps: &FlightDeps, ctx: &RequestContext, topic: Named) -> Result<Value> {
    deps.authorizer.authorize(ctx, Action::Describe, Resource::Topic(&topic.name))?;
    Ok(description(&deps.catalog.topic(ctx, &topic.name).await?))
}

async fn offsets(deps: &FlightDeps, ctx: &RequestContext, asked: Offsets) -> Result<Value> {
    deps.authorizer.authorize(ctx, Action::Describe, Resource::Topic(&asked.topic))?;
    let topic = deps.catalog.topic(ctx, &asked.topic).await?;
    let time = asked.time.map(|time| match time.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_millisecond()),
        Err(_) => Err(Error::new(ErrorCode::InvalidRequest, format!("time is {time:?}, not a time of RFC 3339"))),
    });
    let time = time.transpose()?;
    let mut answers = Vec::new();
    for partition in &topic.partitions {
        let number = partition.partition.get();
        if !asked.partitions.is_empty() && !asked.partitions.contains(&number) {
            continue;
        }
        let id = TopicPartition { topic: topic.id, partition: partition.partition };
        let bounds = deps.source.bounds(ctx, id).await?;
        let mut answer = json!({
            "partition": number,
            "log_start": bounds.log_start.get(),
            "high_watermark": bounds.high_watermark.get(),
            "bytes": bounds.bytes,
            "leader_epoch": bounds.leader_epoch.get(),
        });
        if let Some(time) = time {
            let offset = deps.source.offset_for_time(ctx, id, time).await?;
            if let Some(answer) = answer.as_object_mut() {
                answer.insert("offset_for_time".to_owned(), offset.get().into());
            }
        }
        answers.push(answer);
    }
    let unknown = |number: &&u32| !topic.partitions.iter().any(|known| known.partition == PartitionId(**number));
    match asked.partitions.iter().find(unknown) {
        Some(number) => {
            Err(Error::new(ErrorCode::UnknownPartition, format!("{} has no partition {number}", topic.name)))
        }
        None => Ok(json!({"topic": topic.name, "partitions": answers})),
    }
}

fn description(topic: &TopicDescription) -> Value {
    let node = |node: &NodeAddresses| json!({"node": node.node.get(), "native": node.native, "flight": node.flight, "http": node.http});
    let partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition.get(),
                "leader": partition.leader.as_ref().map(node),
                "replicas": partition.replicas.iter().map(node).collect::<Vec<_>>(),
            })
        })
        .collect();
    let schema = topic.schema.as_ref().map(
        |schema| json!({"id": schema.id, "schema": serde_json::from_str::<Value>(&schema.json).unwrap_or(Value::Null)}),
    );
    json!({
        "name": topic.name,
        "id": topic.id.to_string(),
        "config": topic.config.to_map(),
        "schema": schema,
        "partitions": partitions,
    })
}
