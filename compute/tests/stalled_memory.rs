//! What readers cost that stop reading. Alone in its file: it looks at the memory of the process.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use std::{sync::Arc, time::Duration};

use arrow_flight::FlightData;
use futures::TryStreamExt;
use levada_compute::flight::FlightConfig;
use levada_protocol::{
    batch::{Attributes, BatchProducer, Compression, NewRecord, RowsBuilder},
    context::AllowAll,
};
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use support::{Running, info, memory::rss_anon_bytes, path, tickets};

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
async fn a_hundred_stalled_readers_cost_little() {
    const STALLED: Duration = Duration::from_secs(3);
    let config = FlightConfig { stalled: STALLED, ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    for (topic, batches, batch_bytes, compression) in [
        ("small", 40, MIB, Compression::None),
        ("large", 5, 8 * MIB, Compression::None),
        ("compressed", 40, MIB, Compression::Lz4),
    ] {
        running.topic(topic, 1, None).await;
        fill(&running, topic, batches, batch_bytes, compression);
        let before = rss_anon_bytes();
        let readers = stalled(&running, topic, 100).await;
        let grown = rss_anon_bytes().saturating_sub(before);
        tokio::time::sleep(STALLED * 2).await;
        let later = rss_anon_bytes().saturating_sub(before);
        eprintln!("{topic}: {} MiB at once, {} MiB later", grown / MIB, later / MIB);
        assert!(grown < 256 * MIB, "{topic}: {} MiB", grown / MIB);
        drop(readers);
    }
}
