//! Many connections that do nobody any good, at all doors of a node that has few places (and at two of them more than there are):
//! whoever behaves goes on working, also who comes anew; the others go in their time; and memory stays within what the configuration says.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow_array::{Array as _, cast::AsArray as _};
use levada_client::{Admin, ClientConfig, Consumer, NewTopic, PartitionId, Producer, ProducerConfig, Record, Start};
use levada_tests::{
    crowd::{Crowd, Kind, Target},
    http,
    nodes::Nodes,
    tools,
    waiting::until,
};

/// What readers stall in, and what the well-behaved client writes to.
const READ: &str = "read";
const WRITTEN: &str = "written";
const MIB: usize = 1 << 20;
/// What readers stall in has so many values of so many bytes.
const VALUES: usize = 256;
const VALUE_BYTES: usize = 64 << 10;

/// Few places, and little patience.
const SETTINGS: [(&str, &str); 8] = [
    ("LEVADA_LIMITS_CONNECTIONS_MAX", "150"),
    ("LEVADA_LIMITS_HANDSHAKE_MS", "3000"),
    ("LEVADA_LIMITS_FRAME_MS", "6000"),
    ("LEVADA_LIMITS_REQUEST_BYTES_MAX", "67108864"),
    ("LEVADA_FLIGHT_CONNECTIONS_MAX", "80"),
    ("LEVADA_FLIGHT_STALLED_MS", "3000"),
    ("LEVADA_FLIGHT_HELD_BYTES_MAX", "16777216"),
    ("LEVADA_TAIL_BYTES_MAX", "134217728"),
];

async fn make(admin: &Admin, name: &str, partitions: u32) -> Result<()> {
    let config = std::collections::BTreeMap::new();
    admin.create_topic(NewTopic { name: name.to_owned(), partitions, replicas: 1, config, schema_json: None }).await?;
    Ok(())
}

/// Fills the topic that readers stall in; where all that is.
async fn fill(nodes: &Nodes, admin: &Admin) -> Result<Target> {
    make(admin, READ, 1).await?;
    let producer = Producer::builder(&nodes.bootstrap()).build().await?;
    let value = vec![7; VALUE_BYTES];
    for _ in 0..VALUES {
        // Closing waits for all of them.
        drop(producer.send(READ, Record::new(&value)).await?);
    }
    producer.close().await?;
    let node = nodes.nodes.get(&1).context("no node")?;
    Ok(Target {
        native: node.native.clone(),
        flight: node.flight.clone(),
        http: node.http.clone(),
        partition: admin.describe_topic(READ).await?.topic_partition(PartitionId(0))?,
        fetch_bytes: 4 << 20,
        stalled_for: Duration::from_secs(60),
    })
}

/// A client that is new: writes some records, and reads all that there are. Then it asks for the node's health.
async fn behave(nodes: &Nodes, before: u64, records: u64) -> Result<()> {
    let bootstrap = nodes.bootstrap();
    // How long it takes is not the question here.
    let config = ClientConfig { connect_timeout: Duration::from_secs(25), ..ClientConfig::new(&bootstrap)? };
    let producer = Producer::with_config(ProducerConfig::new(config.clone())).await.context("no producer")?;
    for number in before..before + records {
        let value = number.to_string();
        producer.send(WRITTEN, Record::new(&value)).await?.await.context("not acknowledged")?;
    }
    producer.close().await?;
    let consumer = Consumer::builder(&bootstrap).config(config).topic(WRITTEN).start(Start::Earliest);
    let mut consumer = consumer.columns(["value"]).build().await.context("no consumer")?;
    let mut read = Vec::new();
    while let Some(batch) = consumer.next().await {
        let batch = batch.context("not read")?;
        let values = batch.records.column(0).as_binary::<i32>();
        read.extend((0..values.len()).map(|row| String::from_utf8_lossy(values.value(row)).into_owned()));
    }
    let expected: Vec<String> = (0..before + records).map(|number| number.to_string()).collect();
    ensure!(read == expected, "read {} records of {}", read.len(), expected.len());
    let node = nodes.nodes.get(&1).context("no node")?;
    http::get(&node.http, "/health/ready").context("no health")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn useless_connections_do_not_keep_out_the_others() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = [directory.path().join("node-1")];
    let nodes = Nodes::start_with(tools::levada(), &data, directory.path(), &SETTINGS)?;
    let admin = Admin::connect(&nodes.bootstrap()).await?;
    make(&admin, WRITTEN, 1).await?;
    let target = fill(&nodes, &admin).await?;
    behave(&nodes, 0, 10).await.context("alone")?;

    let mut crowd = Crowd::new(target);
    for (kind, count) in [
        (Kind::IdleNative, 160),
        (Kind::IdleFlight, 30),
        (Kind::IdleHttp, 20),
        (Kind::HalfNative, 200),
        (Kind::HalfFlight, 5),
        (Kind::HalfHttp, 90),
        (Kind::HalfFrame(40 * MIB), 3),
        (Kind::StalledNative, 30),
        (Kind::StalledFlight, 20),
        (Kind::DeafFlight, 10),
    ] {
        crowd.join(kind, count);
    }
    let began = Instant::now();
    let mut written = 10;
    let dropped = |door: &str, reason: &str| {
        let series = format!("levada_{door}connections_dropped_total{{reason=\"{reason}\"}}");
        nodes.metric(1, &series).unwrap_or(0.0) > 0.0
    };
    // Longer than anybody of the crowd is let do nothing.
    while began.elapsed() < Duration::from_secs(8) {
        behave(&nodes, written, 5).await.with_context(|| format!("beside the crowd, after {:?}", began.elapsed()))?;
        written += 5;
    }
    until("all kinds have been dropped", async || {
        Ok(dropped("", "made_room")
            && dropped("", "stalled")
            && dropped("", "silent")
            && dropped("flight_", "silent")
            && nodes.metric(1, "levada_connections_refused_total{reason=\"slow\"}")? > 0.0
            && nodes.metric(1, "levada_flight_stalled_dropped_total")? > 0.0
            && nodes.metric(1, "levada_http_connections_broken_total")? > 0.0)
    })
    .await?;
    behave(&nodes, written, 5).await.context("beside the crowd, at the end")?;
    let (budget, taken) =
        (nodes.metric(1, "levada_memory_budget_bytes")?, nodes.metric(1, "levada_process_anonymous_bytes")?);
    ensure!(taken < budget, "{taken} bytes of memory, and the configuration gives {budget}");
    Ok(())
}
