//! Readers that stop reading and go on: they miss nothing.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use arrow_array::{cast::AsArray, types::Int64Type};
use arrow_flight::FlightData;
use futures::TryStreamExt;
use levada_compute::flight::FlightConfig;
use levada_protocol::{
    batch::{Attributes, BatchProducer, Compression, NewRecord, RowsBuilder},
    context::AllowAll,
};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use support::{Running, command, get, info, path, tickets};

const MIB: usize = 1 << 20;

/// So many batches of so many bytes of 1 KiB values.
fn fill(running: &Running, topic: &str, batches: usize, batch_bytes: usize, compression: Compression) {
    let mut random = SmallRng::seed_from_u64(1);
    let mut value = [0; 1024];
    for _ in 0..batches {
        let mut builder = RowsBuilder::new();
        while builder.bytes() < batch_bytes {
            random.fill_bytes(&mut value[..512]);
            builder.push(&NewRecord { timestamp_ms: 1, value: Some(&value), ..NewRecord::default() }).unwrap();
        }
        let attributes = Attributes::default().with_compression(compression);
        running.log.push(topic, 0, &builder.finish(attributes, BatchProducer::NONE).unwrap());
    }
}

/// Starts so many readers, each on a connection of its own with a small window, and lets each take one message.
async fn stalled(running: &Running, topic: &str, count: usize) -> Vec<tonic::Streaming<FlightData>> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let mut client = running.client_with(65_535).await;
        let ticket = tickets(&info(&mut client, path(&[topic])).await.unwrap()).remove(0);
        let mut messages = client.do_get(ticket).await.unwrap().into_inner();
        messages.try_next().await.unwrap().unwrap();
        readers.push(messages);
    }
    readers
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_after_a_stall_misses_nothing() {
    const STALLED: Duration = Duration::from_millis(100);
    let config = FlightConfig { stalled: STALLED, ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    running.topic("rows", 1, None).await;
    fill(&running, "rows", 8, MIB, Compression::None);
    fill(&running, "rows", 3, 3 * MIB, Compression::Zstd);
    let schema = r#"{"fields":[{"name":"n","type":"int64"},{"name":"s","type":"utf8"}]}"#;
    running.topic("typed", 1, Some(schema)).await;
    let mut first = 0;
    for count in [40_000, 50, 50, 50, 30_000, 20_000] {
        let rows: Vec<_> = (first..first + count).map(|n| format!(r#"{{"n":{n},"s":"{n:030}"}}"#)).collect();
        let rows: Vec<_> = rows.iter().map(|row| (1, row.as_str())).collect();
        running.log.push_json("typed", 0, &rows);
        first += count;
    }
    for (topic, column) in [("rows", "offset"), ("typed", "_offset")] {
        let mut reads = Vec::new();
        let mut all = Vec::new();
        for pause in [Duration::ZERO, STALLED * 4] {
            let before = running.log.reads.load(Ordering::Relaxed);
            let mut client = running.client_with(65_535).await;
            let json = format!(r#"{{"topic":"{topic}"}}"#);
            let ticket = tickets(&info(&mut client, command(&json)).await.unwrap()).remove(0);
            let mut batches = get(&mut client, ticket).await.unwrap();
            let mut read = Vec::new();
            while let Some(batch) = batches.try_next().await.unwrap() {
                tokio::time::sleep(pause).await;
                read.push(batch);
            }
            reads.push(running.log.reads.load(Ordering::Relaxed) - before);
            all.push(arrow_select::concat::concat_batches(&read[0].schema(), &read).unwrap());
        }
        assert!(reads[1] > reads[0], "{topic}: nothing was dropped and read again: {reads:?}");
        assert!(all[0] == all[1], "{topic}");
        let offsets = all[1].column_by_name(column).unwrap().as_primitive::<Int64Type>();
        assert!(offsets.values().iter().copied().eq(0..i64::try_from(all[1].num_rows()).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_go_while_a_reader_stalls_end_its_stream() {
    const STALLED: Duration = Duration::from_millis(100);
    let config = FlightConfig { stalled: STALLED, ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    running.topic("rows", 1, None).await;
    fill(&running, "rows", 8, MIB, Compression::None);
    let mut reader = stalled(&running, "rows", 1).await.remove(0);
    tokio::time::sleep(STALLED * 4).await;
    running.log.with("rows", 0, |partition| partition.log_start = partition.high_watermark);
    let mut ended = Ok(());
    while ended.is_ok() {
        match tokio::time::timeout(Duration::from_secs(10), reader.try_next()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(status) => ended = Err(status),
        }
    }
    assert!(ended.is_err(), "half of a topic is not an end");
}
