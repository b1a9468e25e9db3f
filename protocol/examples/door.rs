//! What the door check of a produced batch costs on one core, by codec and record size:
//! `cargo run --release -p levada-protocol --example door`.
//!
//! `envelope` is header and CRC, `records` is the walk over every record (with decompression where there is a codec).
//! GB/s are of the batch as it is sent; `unfolded` says how many times larger its records are once decompressed.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program")]

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use levada_protocol::{
    batch::{
        Attributes, BatchProducer, Compression, NewRecord, Rows, RowsBuilder, validate_envelope, validate_records,
    },
    limits::{BATCH_BYTES_MAX, KIB, MIB},
};

fn main() {
    println!(
        "{:8} {:>9} {:>8} {:>9} | {:>14} {:>14} {:>14}",
        "codec", "record", "batch", "unfolded", "envelope GB/s", "records GB/s", "both GB/s"
    );
    for (value_bytes, batch_bytes) in [(100, 16 * KIB), (100, MIB), (KIB, 64 * KIB), (KIB, MIB)] {
        for codec in Compression::ALL {
            let batch = batch(value_bytes, batch_bytes, codec);
            let header = validate_envelope(&batch, BATCH_BYTES_MAX).unwrap();
            let envelope_s = seconds(|| drop(black_box(validate_envelope(&batch, BATCH_BYTES_MAX))));
            let records_s = seconds(|| drop(black_box(validate_records(&header, &batch))));
            let gb_s = |seconds: f64| batch.len() as f64 / seconds / 1e9;
            let unfolded = Rows::open(&batch).unwrap().records().len() as f64 / header.payload_bytes() as f64;
            println!(
                "{:8} {value_bytes:>7} B {:>4} KiB {unfolded:>9.1} | {:>14.2} {:>14.2} {:>14.2}",
                format!("{:?}", header.attributes.compression()),
                batch_bytes / KIB,
                gb_s(envelope_s),
                gb_s(records_s),
                gb_s(envelope_s + records_s),
            );
        }
    }
}

/// About `batch_bytes` of records that compress like log lines do: words of a small vocabulary between numbers.
fn batch(value_bytes: usize, batch_bytes: usize, codec: Compression) -> Bytes {
    const WORDS: [&str; 8] = ["spring", "channel", "mill", "litres", "gate=open", "level=low", "field", "user_id"];
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    let mut builder = RowsBuilder::new();
    let mut timestamp_ms = 1_700_000_000_000;
    while builder.bytes() < batch_bytes {
        let mut value = String::new();
        while value.len() < value_bytes {
            let word = WORDS[usize::try_from(next()).unwrap() % WORDS.len()];
            value.push_str(&format!("{word} {} ", next() % 1_000_000));
        }
        value.truncate(value_bytes);
        let key = format!("user-{}", next() % 1000);
        timestamp_ms += i64::try_from(next() % 3).unwrap();
        let record = NewRecord { timestamp_ms, key: Some(key.as_bytes()), value: Some(value.as_bytes()), headers: &[] };
        builder.push(&record).unwrap();
    }
    builder.finish(Attributes::default().with_compression(codec), BatchProducer::NONE).unwrap()
}

/// The fastest of some runs of at least 20 ms each: what the work costs when nothing else disturbs it.
fn seconds(mut work: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..15)
        .map(|_| {
            let (start, mut count) = (Instant::now(), 0_u32);
            while start.elapsed().as_millis() < 20 {
                work();
                count += 1;
            }
            start.elapsed().as_secs_f64() / f64::from(count)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[0]
}
