//! What a polite client notices of an overload, and what a node's memory does meanwhile: `bench/overload.sh` runs it and says
//! what can be set.
//!
//! One node (or three). In turn, several times:
//!
//! - **overload**: a crowd of useless connections at one node's doors ([`Crowd`]), a producer that sends as fast as it can, and
//!   beside them the polite client: `levada bench e2e` at a modest rate;
//! - **baseline**: the polite client beside threads that burn as much processor time as the producer and the nodes' work for it
//!   took in the overload before.
//!
//! Before the first, the polite client is alone, which shows what the nodes do without a flood.

#![allow(clippy::print_stdout, reason = "a measuring program")]

mod burner;
mod measure;
mod plan;
mod probe;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use levada_client::{Admin, NewTopic, Producer, Record};
use levada_protocol::ids::PartitionId;
use levada_tests::{
    crowd::{Crowd, Kind, Target},
    nodes::{Nodes, Place},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use self::{
    measure::{Phase, Stage},
    plan::Plan,
};

/// What stalled readers read.
const READ_TOPIC: &str = "crowd";
/// Its length: more than any socket takes.
const READ_BYTES: usize = 64 << 20;
const VALUE_BYTES: usize = 64 << 10;

#[tokio::main]
async fn main() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let plan = Plan::from_environment()?;
    let mut environment = vec![
        ("LEVADA_LIMITS_CONNECTIONS_MAX".to_owned(), (plan.idle_native + 1000).to_string()),
        ("LEVADA_LOG_FILTER".to_owned(), "warn".to_owned()),
    ];
    environment.extend(plan.settings.iter().cloned());
    let environment: Vec<(&str, &str)> = environment.iter().map(|(key, value)| (&**key, &**value)).collect();
    let places: Vec<Place> = (1..=plan.nodes).map(|id| Place::here(&plan.dir.join(format!("node-{id}")))).collect();
    let mut nodes = Nodes::placed(&plan.levada, &places, &plan.dir, &environment)?;
    nodes.spawn_all()?;

    let target = fill(&nodes).await?;
    let stage = Stage::new(&plan, &nodes, &target)?;
    let alone = stage.phase(Phase::Alone).await?;
    let mut rounds = Vec::new();
    for round in 1..=plan.rounds {
        eprintln!("round {round} of {}", plan.rounds);
        let crowd = gather(&plan, &target).await?;
        let overload = stage.phase(Phase::Overload(&crowd)).await?;
        drop(crowd);
        let share = (overload.flood_cores + overload.node_cores - alone.node_cores).max(0.0);
        let baseline = stage.phase(Phase::Baseline(share)).await?;
        rounds.push((overload, baseline));
    }
    let report = stage.report(&alone, &rounds)?;
    println!("{report}");
    Ok(())
}

/// Makes the topic that readers stall in, and says where all doors of its leader are.
async fn fill(nodes: &Nodes) -> Result<Target> {
    let bootstrap = nodes.bootstrap();
    let admin = Admin::connect(&bootstrap).await?;
    let (name, config) = (READ_TOPIC.to_owned(), BTreeMap::new());
    let new = NewTopic { name, partitions: 1, replicas: 0, config, schema_json: None };
    let topic = admin.create_topic(new).await?;
    let producer = Producer::builder(&bootstrap).build().await?;
    let value = vec![7; VALUE_BYTES];
    for _ in 0..READ_BYTES / VALUE_BYTES {
        // Closing waits for all of them.
        drop(producer.send(READ_TOPIC, Record::new(&value)).await?);
    }
    producer.close().await?;
    let topic = admin.describe_topic(&topic.name).await?;
    let partition = topic.topic_partition(PartitionId(0))?;
    let leader = topic.partition(PartitionId(0)).and_then(|partition| partition.leader).context("nobody leads it")?;
    let node = nodes.nodes.get(&leader.get()).context("the leader is no node of these")?;
    Ok(Target {
        native: node.native.clone(),
        flight: node.flight.clone(),
        http: node.http.clone(),
        partition,
        fetch_bytes: 8 << 20,
        stalled_for: plan::STALLED_FOR,
    })
}

/// Those that come first: idle ones are there before anybody else is.
async fn gather(plan: &Plan, target: &Target) -> Result<Crowd> {
    let mut crowd = Crowd::new(target.clone());
    let idle = crowd.join(Kind::IdleNative, plan.idle_native);
    if let Err(error) = idle.stand(plan.idle_native as u64).await {
        eprintln!("{error:#}");
    }
    for (kind, count) in plan.rest() {
        crowd.join(kind, count);
    }
    Ok(crowd)
}

/// What became of a crowd.
fn told(crowd: &Crowd) -> Value {
    use std::sync::atomic::Ordering::Relaxed;
    let groups = crowd.groups().iter().map(|(kind, counts)| {
        let counts = json!({
            "standing": counts.standing.load(Relaxed),
            "opened": counts.opened.load(Relaxed),
            "closed": counts.closed.load(Relaxed),
        });
        (format!("{kind:?}"), counts)
    });
    groups.collect::<serde_json::Map<_, _>>().into()
}
