//! How fast one reader gets 1 KiB values over Flight, from a log in memory: `cargo run --release -p levada-compute
//! --example flight_bench [-- seconds]`. With `serve` in place of seconds it only serves, for a reader elsewhere.
//!
//! Server and reader share this machine's cores, so that what it prints is a floor. Where others use the machine too,
//! look at the seconds of CPU per GB, of server and reader.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench says what it finds and fails where it should")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use arrow_array::{Array, BinaryArray, RecordBatch, cast::AsArray};
use futures::{StreamExt, TryStreamExt};
use levada_protocol::batch::{Attributes, BatchProducer, Compression, NewRecord, RowsBuilder};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use support::{Client, Running, command, get, info, path, tickets};

const VALUE_BYTES: usize = 1024;
const SET_BYTES: usize = 128 << 20;
const TYPED: &str = r#"{"fields":[{"name":"value","type":"binary","nullable":false}]}"#;

/// Fills a topic with batches of so many values.
async fn fill(running: &Running, topic: &str, per_batch: usize, compression: Compression) {
    running.topic(topic, 1, None).await;
    let mut random = SmallRng::seed_from_u64(1);
    let mut value = [0; VALUE_BYTES];
    for _ in 0..SET_BYTES / VALUE_BYTES / per_batch {
        let mut builder = RowsBuilder::with_capacity(per_batch * (VALUE_BYTES + 16));
        for _ in 0..per_batch {
            random.fill_bytes(&mut value);
            if compression != Compression::None {
                value[VALUE_BYTES / 2..].fill(random.random());
            }
            builder.push(&NewRecord { timestamp_ms: 1, value: Some(&value), ..NewRecord::default() }).unwrap();
        }
        let attributes = Attributes::default().with_compression(compression);
        running.log.push(topic, 0, &builder.finish(attributes, BatchProducer::NONE).unwrap());
    }
}

/// The same for a typed topic, written through the server.
async fn fill_typed(running: &Running, client: &mut Client, topic: &str, per_batch: usize) -> f64 {
    running.topic(topic, 1, Some(TYPED)).await;
    let mut random = SmallRng::seed_from_u64(1);
    let mut values = vec![0; per_batch * VALUE_BYTES];
    let batches = (0..SET_BYTES / VALUE_BYTES / per_batch).map(|_| {
        random.fill_bytes(&mut values);
        let values: BinaryArray = values.chunks(VALUE_BYTES).map(Some).collect();
        RecordBatch::try_from_iter([("value", std::sync::Arc::new(values) as _)]).unwrap()
    });
    let batches: Vec<_> = batches.collect();
    let start = Instant::now();
    support::put(client, path(&[topic]), batches).await.unwrap();
    gigabytes(SET_BYTES, start.elapsed())
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn gigabytes(bytes: usize, elapsed: Duration) -> f64 {
    bytes as f64 / 1e9 / elapsed.as_secs_f64()
}

#[derive(Clone, Copy, PartialEq)]
enum Reader {
    /// Takes the messages apart as far as gRPC goes.
    Messages,
    /// Makes record batches of them.
    Batches,
    /// And reads every byte of every value.
    Checksums,
}

/// GB/s, and the seconds of CPU that server and reader took per GB.
async fn read(client: &mut Client, command_json: &str, seconds: u64, reader: Reader) -> [f64; 3] {
    let (mut bytes, start) = (0, Instant::now());
    let before = [cpu_seconds("server"), cpu_seconds("reader")];
    while start.elapsed() < Duration::from_secs(seconds) {
        let ticket = tickets(&info(client, command(command_json)).await.unwrap()).remove(0);
        if reader == Reader::Messages {
            let mut messages = client.do_get(ticket).await.unwrap().into_inner();
            while let Some(message) = messages.next().await {
                bytes += message.unwrap().data_body.len();
            }
            continue;
        }
        let mut batches = get(client, ticket).await.unwrap();
        while let Some(batch) = batches.try_next().await.unwrap() {
            let values = batch.column_by_name("value").unwrap().as_binary::<i32>();
            bytes += values.value_data().len();
            if reader == Reader::Checksums {
                let sum = values.iter().flatten().map(crc32);
                assert_eq!(sum.count(), values.len());
            }
        }
    }
    let per_gigabyte = 1e9 / f64::from(u32::try_from(bytes >> 10).unwrap()) / 1024.0;
    let [server, own] = [cpu_seconds("server") - before[0], cpu_seconds("reader") - before[1]];
    [gigabytes(bytes, start.elapsed()), server * per_gigabyte, own * per_gigabyte]
}

/// The CPU time of this process's threads of that name.
fn cpu_seconds(name: &str) -> f64 {
    let mut ticks = 0;
    for thread in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        if let Some((_, fields)) = stat.split_once(&format!("({name}) ")) {
            let fields: Vec<&str> = fields.split(' ').collect();
            ticks += fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
        }
    }
    f64::from(ticks) / 100.0
}

fn crc32(value: &[u8]) -> u32 {
    // The checksum that is at hand and fast: Kafka's.
    let mut batch = vec![0; 21];
    batch.extend_from_slice(value);
    levada_protocol::batch::seal(&mut batch);
    u32::from_be_bytes([batch[17], batch[18], batch[19], batch[20]])
}

fn runtime(name: &str) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build().unwrap()
}

fn main() {
    let (server, reader) = (runtime("server"), runtime("reader"));
    let running = server.block_on(server.spawn(Running::start())).unwrap();
    reader.block_on(reader.spawn(bench(running))).unwrap();
}

async fn bench(running: Running) {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let mut client = running.client().await;
    fill(&running, "rows", 1000, Compression::None).await;
    fill(&running, "rows-small", 16, Compression::None).await;
    fill(&running, "rows-large", 8000, Compression::None).await;
    fill(&running, "rows-lz4", 1000, Compression::Lz4).await;
    let written = fill_typed(&running, &mut client, "typed", 8000).await;
    let written_small = fill_typed(&running, &mut client, "typed-small", 16).await;
    println!("written to a typed topic: {written:.2} GB/s in large batches, {written_small:.2} in batches of 16 KiB");
    println!("serving rows, rows-small, rows-large, rows-lz4, typed, typed-small at {}", running.address);
    if argument == "serve" {
        std::future::pending::<()>().await;
    }
    let seconds = argument.parse().unwrap_or(2);
    println!("GB/s (CPU s/GB of server + reader) for a reader that takes");
    println!("{:22}{:>22}{:>22}{:>22}", "", "messages", "batches", "checksums");
    for (name, json) in [
        ("rows, 1 MB batches", r#"{"topic":"rows"}"#),
        ("rows, 16 KB batches", r#"{"topic":"rows-small"}"#),
        ("rows, 8 MB batches", r#"{"topic":"rows-large"}"#),
        ("rows, lz4", r#"{"topic":"rows-lz4"}"#),
        ("typed, 2 MB batches", r#"{"topic":"typed"}"#),
        ("typed, value alone", r#"{"topic":"typed","columns":["value"]}"#),
        ("typed, 16 KB batches", r#"{"topic":"typed-small"}"#),
    ] {
        print!("{name:22}");
        for reader in [Reader::Messages, Reader::Batches, Reader::Checksums] {
            let [speed, server, own] = read(&mut client, json, seconds, reader).await;
            print!("{:>22}", format!("{speed:.2} ({server:.2} + {own:.2})"));
        }
        println!();
    }
}
