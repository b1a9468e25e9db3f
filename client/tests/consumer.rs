//! The consumer against Flight servers that misbehave: every row once, in order, whatever happens.

#![cfg(feature = "flight")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use arrow_array::{Array, BinaryArray, Int64Array};
use futures::StreamExt;
use levada_client::{
    ClientConfig, Consumer, ConsumerBuilder, End, ErrorCode, Offset, PartitionBatch, PartitionId, Producer, Record,
    Start,
};
use support::{
    FakeCluster,
    flight::{FakeFlight, FlightFault},
};

/// A cluster whose topic has `rows` records in each of its partitions.
async fn cluster(partitions: u32, rows: usize) -> (FakeCluster, FakeFlight) {
    let cluster = FakeCluster::start(3).await;
    let flight = FakeFlight::start(&cluster).await;
    cluster.create_topic("t", partitions);
    fill(&cluster, partitions, 0..rows).await;
    (cluster, flight)
}

async fn fill(cluster: &FakeCluster, partitions: u32, rows: std::ops::Range<usize>) {
    let producer = Producer::builder(&cluster.bootstrap()).build().await.unwrap();
    for row in rows {
        for partition in 0..partitions {
            let value = format!("{partition}:{row}");
            let record = Record::new(&value).with_partition(PartitionId(partition));
            drop(producer.send("t", record).await.unwrap());
        }
    }
    producer.close().await.unwrap();
}

fn consumer(cluster: &FakeCluster) -> ConsumerBuilder {
    Consumer::builder(&cluster.bootstrap()).topic("t")
}

fn values(batch: &PartitionBatch, column: &str) -> Vec<String> {
    let column = batch.records.column_by_name(column).unwrap();
    let column: &BinaryArray = column.as_any().downcast_ref().unwrap();
    column.iter().map(|value| String::from_utf8_lossy(value.unwrap()).into_owned()).collect()
}

/// All rows, by partition; checks that what batches say of their offsets is so.
async fn read(mut consumer: Consumer) -> BTreeMap<u32, Vec<String>> {
    let mut rows: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    while let Some(batch) = consumer.next().await {
        let batch = batch.unwrap();
        let of = rows.entry(batch.partition.get()).or_default();
        let offsets = batch.records.column_by_name("offset").unwrap();
        let offsets: &Int64Array = offsets.as_any().downcast_ref().unwrap();
        assert_eq!(offsets.value(0).unsigned_abs(), batch.first_offset.get());
        assert_eq!(offsets.value(offsets.len() - 1).unsigned_abs() + 1, batch.next_offset.get());
        of.extend(values(&batch, "value"));
    }
    rows
}

fn expected(partition: u32, rows: std::ops::Range<usize>) -> Vec<String> {
    rows.map(|row| format!("{partition}:{row}")).collect()
}

#[tokio::test]
async fn every_partition_is_read_whole() {
    let (cluster, _flight) = cluster(5, 100).await;
    let rows = read(consumer(&cluster).build().await.unwrap()).await;
    assert_eq!(rows.len(), 5);
    for (partition, rows) in rows {
        assert_eq!(rows, expected(partition, 0..100));
    }
}

#[tokio::test]
async fn ranges_partitions_and_batch_sizes_are_as_asked() {
    let (cluster, _flight) = cluster(3, 50).await;
    let part = |start, end| consumer(&cluster).partitions([PartitionId(1)]).start(start).end(end);
    let offset = |offset| Start::Offset(Offset(offset));
    let all = |rows: std::ops::Range<usize>| BTreeMap::from([(1, expected(1, rows))]);
    assert_eq!(read(part(offset(10), End::Offset(Offset(20))).build().await.unwrap()).await, all(10..20));
    assert_eq!(read(part(offset(40), End::Latest).build().await.unwrap()).await, all(40..50));
    assert_eq!(read(part(offset(40), End::Offset(Offset(999))).build().await.unwrap()).await, all(40..50));
    assert_eq!(read(part(Start::Time(30), End::Time(35)).build().await.unwrap()).await, all(30..35));
    assert_eq!(read(part(Start::Latest, End::Latest).build().await.unwrap()).await, BTreeMap::new());
    let small = part(Start::Earliest, End::Latest).batch_rows_max(3).build().await.unwrap();
    let sizes: Vec<usize> = small.map(|batch| batch.unwrap().records.num_rows()).collect().await;
    assert_eq!((sizes.len(), sizes.iter().max()), (17, Some(&3)));
}

#[tokio::test]
async fn columns_are_as_asked_and_the_offset_stays_inside() {
    let (cluster, flight) = cluster(1, 30).await;
    flight.plan(|ticket, seen| {
        assert_eq!(ticket.columns, ["value", "offset"], "the offset is asked for all the same");
        if seen == 0 { FlightFault::BreakAfter(2) } else { FlightFault::None }
    });
    let mut consumer = consumer(&cluster).columns(["value"]).build().await.unwrap();
    let mut rows = Vec::new();
    while let Some(batch) = consumer.next().await {
        let batch = batch.unwrap();
        assert_eq!(batch.records.num_columns(), 1);
        rows.extend(values(&batch, "value"));
    }
    assert_eq!(rows, expected(0, 0..30));
    assert_eq!(consumer.schema().unwrap().fields().len(), 1);
}

#[tokio::test]
async fn a_typed_topic_has_its_own_columns() {
    let (cluster, _flight) = cluster(1, 10).await;
    cluster.state().topics.get_mut("t").unwrap().schema_json = r#"{"fields":[]}"#.into();
    let mut consumer = consumer(&cluster).columns(["payload", "_partition"]).build().await.unwrap();
    let mut rows = Vec::new();
    while let Some(batch) = consumer.next().await {
        let batch = batch.unwrap();
        assert_eq!(batch.records.num_columns(), 2);
        rows.extend(values(&batch, "payload"));
    }
    assert_eq!(rows, expected(0, 0..10));
}

#[tokio::test]
async fn an_empty_topic_has_columns_too() {
    let (cluster, _flight) = cluster(2, 0).await;
    let mut consumer = consumer(&cluster).build().await.unwrap();
    assert!(consumer.next().await.is_none());
    assert_eq!(consumer.schema().unwrap().fields().len(), 3);
}

#[tokio::test]
async fn broken_streams_are_read_on_without_gap_or_double() {
    let (cluster, flight) = cluster(4, 200).await;
    flight.plan(|_, seen| match seen % 8 {
        0 => FlightFault::BreakAfter(3),
        1 => FlightFault::FailAfter(2, ErrorCode::ShuttingDown),
        2 => FlightFault::EndAfter(4),
        3 => FlightFault::Overlap(10),
        4 => FlightFault::Refuse(ErrorCode::NotReady),
        5 => FlightFault::BreakAfter(0),
        6 => FlightFault::FailAfter(1, ErrorCode::OutcomeUnknown),
        _ => FlightFault::BreakAfter(5),
    });
    let rows = read(consumer(&cluster).build().await.unwrap()).await;
    for partition in 0..4 {
        assert_eq!(rows[&partition], expected(partition, 0..200));
    }
    assert!(flight.asked() > 20, "the plan must have caused retries");
}

#[tokio::test]
async fn a_leader_that_dies_is_followed_to_the_next() {
    let (cluster, flight) = cluster(1, 100).await;
    let mut consumer = consumer(&cluster).follow().build().await.unwrap();
    let mut rows = Vec::new();
    while rows.len() < 100 {
        rows.extend(values(&consumer.next().await.unwrap().unwrap(), "value"));
    }
    flight.kill(1);
    cluster.kill(1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.move_leader("t", 0, 2);
    cluster.state().controller = 2;
    fill(&cluster, 1, 100..150).await;
    while rows.len() < 150 {
        rows.extend(values(&consumer.next().await.unwrap().unwrap(), "value"));
    }
    assert_eq!(rows, expected(0, 0..150));
}

#[tokio::test]
async fn a_leader_that_is_cut_off_and_silent_is_left() {
    let (cluster, flight) = cluster(1, 20).await;
    flight.plan(|_, seen| if seen == 0 { FlightFault::StallAfter(3) } else { FlightFault::None });
    let mut consumer = consumer(&cluster).follow().build().await.unwrap();
    let mut rows = Vec::new();
    while rows.len() < 20 {
        rows.extend(values(&consumer.next().await.unwrap().unwrap(), "value"));
    }
    cluster.move_leader("t", 0, 2);
    fill(&cluster, 1, 20..30).await;
    let moved = async {
        while rows.len() < 30 {
            rows.extend(values(&consumer.next().await.unwrap().unwrap(), "value"));
        }
    };
    tokio::time::timeout(Duration::from_secs(10), moved).await.expect("read on at the new leader");
    assert_eq!(rows, expected(0, 0..30));
}

#[tokio::test]
async fn a_partition_without_a_leader_holds_no_other_up() {
    const NOBODY: u64 = 0;
    let (cluster, _flight) = cluster(3, 20).await;
    cluster.move_leader("t", 1, NOBODY);
    let mut following = consumer(&cluster).follow().build().await.unwrap();
    assert_eq!(following.without_leader(), [PartitionId(1)]);
    let mut rows: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut read_on = async |partitions: usize| {
        while rows.len() < partitions || rows.values().any(|rows| rows.len() < 20) {
            let batch = following.next().await.unwrap().unwrap();
            rows.entry(batch.partition.get()).or_default().extend(values(&batch, "value"));
        }
        rows.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(read_on(2).await, [0, 2]);
    cluster.move_leader("t", 1, 2);
    assert_eq!(read_on(3).await, [0, 1, 2]);
    assert_eq!(following.without_leader(), []);

    // Who reads to the end hears of it, behind all that the others have.
    cluster.move_leader("t", 1, NOBODY);
    let mut config = ClientConfig::new(&cluster.bootstrap()).unwrap();
    config.operation_timeout = Duration::from_secs(3);
    let mut reading = consumer(&cluster).config(config).build().await.unwrap();
    let (mut rows, mut failed) = (0, Vec::new());
    while let Some(batch) = reading.next().await {
        match batch {
            Ok(batch) => rows += batch.records.num_rows(),
            Err(error) => failed.push(error),
        }
    }
    assert_eq!((rows, failed.len(), failed[0].code), (40, 1, ErrorCode::NotReady));
    assert!(failed[0].message.starts_with("partition 1 of t cannot be read on: "), "{}", failed[0]);
}

#[tokio::test]
async fn latest_means_when_the_consumer_was_built_even_if_the_first_try_fails() {
    let (cluster, flight) = cluster(1, 20).await;
    flight.plan(|_, seen| if seen < 3 { FlightFault::Refuse(ErrorCode::NotReady) } else { FlightFault::None });
    let mut consumer = consumer(&cluster).start(Start::Latest).follow().build().await.unwrap();
    fill(&cluster, 1, 20..30).await;
    let mut rows = Vec::new();
    while rows.len() < 10 {
        rows.extend(values(&consumer.next().await.unwrap().unwrap(), "value"));
    }
    assert_eq!(rows, expected(0, 20..30));
}

#[tokio::test]
async fn what_no_retry_helps_against_is_an_error_of_its_partition_alone() {
    let (cluster, flight) = cluster(2, 20).await;
    flight.plan(|ticket, _| match ticket.partition.partition.get() {
        0 => FlightFault::FailAfter(1, ErrorCode::Unauthorized),
        _ => FlightFault::None,
    });
    let mut consumer = consumer(&cluster).build().await.unwrap();
    let (mut rows, mut errors) = (0, Vec::new());
    while let Some(batch) = consumer.next().await {
        match batch {
            Ok(batch) => rows += batch.records.num_rows(),
            Err(error) => errors.push(error.code),
        }
    }
    assert_eq!((rows, errors), (27, vec![ErrorCode::Unauthorized]));
}

#[tokio::test]
async fn nonsense_is_refused() {
    let (cluster, flight) = cluster(1, 20).await;
    flight.plan(|_, _| FlightFault::Disorder);
    let mut reading = consumer(&cluster).build().await.unwrap();
    assert_eq!(reading.next().await.unwrap().unwrap_err().code, ErrorCode::BadFrame);
    assert!(reading.next().await.is_none());

    let code = async |builder: ConsumerBuilder| builder.build().await.unwrap_err().code;
    assert_eq!(code(Consumer::builder(&cluster.bootstrap())).await, ErrorCode::InvalidConfig);
    assert_eq!(code(consumer(&cluster).topic("none")).await, ErrorCode::UnknownTopic);
    assert_eq!(code(consumer(&cluster).partitions([PartitionId(9)])).await, ErrorCode::UnknownPartition);
}

#[tokio::test]
async fn records_that_retention_took_are_an_error_or_skipped_as_asked() {
    let (cluster, _flight) = cluster(1, 20).await;
    let mut reading = consumer(&cluster).start(Start::Offset(Offset(3))).build().await.unwrap();
    cluster.state().topics.get_mut("t").unwrap().partitions[0].start = 5;
    assert_eq!(reading.next().await.unwrap().unwrap_err().code, ErrorCode::OffsetOutOfRange);

    cluster.state().topics.get_mut("t").unwrap().partitions[0].start = 0;
    let reading = consumer(&cluster).build().await.unwrap();
    cluster.state().topics.get_mut("t").unwrap().partitions[0].start = 5;
    assert_eq!(read(reading).await[&0], expected(0, 5..20));
}

#[tokio::test]
async fn a_server_that_hangs_is_left() {
    let (cluster, flight) = cluster(1, 20).await;
    flight.plan(|_, seen| if seen == 0 { FlightFault::Hang } else { FlightFault::None });
    let mut config = levada_client::ClientConfig::new(&cluster.bootstrap()).unwrap();
    config.request_timeout = Duration::from_millis(300);
    let rows = read(consumer(&cluster).config(config).build().await.unwrap()).await;
    assert_eq!(rows[&0], expected(0, 0..20));
}

#[tokio::test]
async fn a_consumer_that_is_not_asked_holds_servers_back() {
    let (cluster, flight) = cluster(1, 0).await;
    let producer = Producer::builder(&cluster.bootstrap()).build().await.unwrap();
    let value = vec![7; 64 << 10];
    for _ in 0..1000 {
        drop(producer.send("t", Record::new(&value)).await.unwrap());
    }
    producer.close().await.unwrap();
    let mut consumer = consumer(&cluster).batch_rows_max(1).build().await.unwrap();
    consumer.next().await.unwrap().unwrap();
    let mut made = 0;
    while flight.batches() > made {
        made = flight.batches();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(made < 400, "{made} batches of 64 KiB are more than a window of 16 MiB and what waits here");
    let mut rows = 1;
    while let Some(batch) = consumer.next().await {
        rows += batch.unwrap().records.num_rows();
    }
    assert_eq!(rows, 1000);
}
