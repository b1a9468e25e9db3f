//! What a consumer costs: batches of about 1 MiB from a Flight server in a process of its own, so that the processor
//! time is the client's alone; every value is looked at. `cargo bench -p levada-client --bench consume -- [GIGABYTES]`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use arrow_array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use levada_client::{Consumer, End, Offset};
use support::{FakeCluster, flight::FakeFlight};

/// Offsets in the served range; more than anybody reads.
const ROWS: u64 = 1 << 40;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let [command, kind] = &args[..]
        && command == "serve"
    {
        return runtime.block_on(serve(kind == "typed"));
    }
    let gigabytes = args.first().and_then(|arg| arg.parse().ok()).unwrap_or(4.0);
    for kind in ["rows", "typed"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut server = command.args(["serve", kind]).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
        runtime.block_on(consume(address.trim(), kind, gigabytes * 1e9));
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

async fn consume(address: &str, kind: &str, bytes_max: f64) {
    let mut consumer = Consumer::builder(address).topic("t").end(End::Offset(Offset(ROWS))).build().await.unwrap();
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let (mut bytes, mut rows, mut sum) = (0.0, 0, 0_u64);
    while bytes < bytes_max {
        let batch = consumer.next().await.unwrap().unwrap().records;
        rows += batch.num_rows();
        for column in batch.columns() {
            bytes += column.to_data().get_slice_memory_size().unwrap() as f64;
            sum = sum.wrapping_add(checksum(column));
        }
    }
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{kind}: {:.2} GB/s, {:.2} cores, {:.2} s of processor time per GB, {rows} rows, checksum {sum:x}",
        bytes / elapsed / 1e9,
        cpu / elapsed,
        cpu / bytes * 1e9,
    );
}

fn checksum(column: &ArrayRef) -> u64 {
    let data = column.to_data();
    let words = data.buffers().iter().flat_map(|buffer| buffer.as_slice().as_chunks::<8>().0);
    words.fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |field: &str| field.parse::<f64>().unwrap();
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}

async fn serve(typed: bool) {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    {
        let mut state = cluster.state();
        let topic = state.topics.get_mut("t").unwrap();
        topic.partitions[0].end = ROWS;
        if typed {
            topic.schema_json = "{}".into();
        }
    }
    let flight = FakeFlight::start(&cluster).await;
    flight.generate(move |from| if typed { typed_rows(from) } else { untyped_rows(from) });
    println!("{}", cluster.bootstrap());
    std::future::pending::<()>().await;
}

fn offsets(from: u64, rows: i64) -> ArrayRef {
    let from = i64::try_from(from).unwrap();
    Arc::new(Int64Array::from_iter_values(from..from + rows))
}

/// 1,000 records of 1 KiB.
fn untyped_rows(from: u64) -> RecordBatch {
    let value = [0xA5; 1024];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("partition", Arc::new(Int32Array::from(vec![0; 1000]))),
        ("offset", offsets(from, 1000)),
        ("value", Arc::new(BinaryArray::from_iter_values((0..1000).map(|_| &value)))),
    ];
    batch(columns)
}

/// 16,384 rows of eight numbers.
fn typed_rows(from: u64) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..16_384));
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let mut columns: Vec<(&str, ArrayRef)> = names.iter().map(|name| (*name, Arc::clone(&numbers))).collect();
    columns.push(("_offset", offsets(from, 16_384)));
    batch(columns)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    debug_assert!(fields.iter().all(|field| *field.data_type() != DataType::Null));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())
        .unwrap()
}
