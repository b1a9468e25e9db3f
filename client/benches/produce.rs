//! What a producer costs: records of 1 KiB to a sink that acknowledges at once, in a process of its own, so that the
//! processor time is the client's alone. `cargo bench -p levada-client --bench produce -- [SECONDS] [MB_PER_S]`;
//! without a rate as fast as it goes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that cannot go on stops")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::BytesMut;
use levada_client::{Delivery, Producer, Record};
use levada_protocol::{
    frame::{self, Api, FrameDecoder},
    limits::FRAME_BYTES_MAX,
    messages::native::*,
};

const PARTITIONS: u32 = 16;
const VALUE_BYTES: usize = 1024;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "sink") {
        return sink();
    }
    args.resize(2, String::new());
    let seconds = args[0].parse().unwrap_or(5);
    let rate = args[1].parse::<f64>().ok().map(|megabytes| megabytes * 1e6);
    let mut child = Command::new(std::env::current_exe().unwrap()).arg("sink").stdout(Stdio::piped()).spawn().unwrap();
    let mut address = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for way in [Way::Future, Way::Callback] {
        runtime.block_on(produce(address.trim(), Duration::from_secs(seconds), rate, way));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How the outcome is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Future,
    Callback,
}

async fn produce(address: &str, time: Duration, rate: Option<f64>, way: Way) {
    let producer = Producer::builder(address).build().await.unwrap();
    let value = vec![0xA5; VALUE_BYTES];
    let heard = Arc::new(AtomicU64::new(0));
    // Another task hears the outcomes, as it would in a program.
    let (deliveries, mut outcomes) = tokio::sync::mpsc::unbounded_channel::<Vec<Delivery>>();
    let hears = tokio::spawn({
        let heard = Arc::clone(&heard);
        async move {
            while let Some(batch) = outcomes.recv().await {
                for delivery in batch {
                    delivery.await.unwrap();
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut sent = 0_u64;
    let mut waiting = Vec::new();
    while began.elapsed() < time {
        for _ in 0..64 {
            match way {
                Way::Future => waiting.push(producer.send("t", Record::new(&value)).await.unwrap()),
                Way::Callback => {
                    let heard = Arc::clone(&heard);
                    let callback = move |_| {
                        heard.fetch_add(1, Ordering::Relaxed);
                    };
                    producer.send_with_callback("t", Record::new(&value), callback).await.unwrap();
                }
            }
            sent += 1;
        }
        deliveries.send(std::mem::take(&mut waiting)).unwrap();
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64((sent * VALUE_BYTES as u64) as f64 / rate);
            let ahead = due.saturating_sub(began.elapsed());
            if ahead > Duration::from_millis(1) {
                tokio::time::sleep(ahead).await;
            }
        }
    }
    producer.close().await.unwrap();
    drop(deliveries);
    hears.await.unwrap();
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    assert_eq!(heard.load(Ordering::Relaxed), sent);
    println!(
        "{way:?}: {:.0} records/s, {:.0} MB/s, {:.2} cores, {:.0} ns of processor time per record, {} batches",
        sent as f64 / elapsed,
        (sent * VALUE_BYTES as u64) as f64 / elapsed / 1e6,
        cpu / elapsed,
        cpu / sent as f64 * 1e9,
        producer.stats().batches,
    );
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |field: &str| field.parse::<f64>().unwrap();
    (ticks(fields[11]) + ticks(fields[12])) / 100.0
}

/// Acknowledges whatever comes.
fn sink() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    println!("{address}");
    let address = Arc::new(address);
    for stream in listener.incoming() {
        let address = Arc::clone(&address);
        std::thread::spawn(move || serve(stream.unwrap(), &address));
    }
}

fn serve(mut stream: TcpStream, address: &str) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    stream.read_exact(&mut [0; 8]).ok()?;
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    let mut input = BytesMut::new();
    let mut chunk = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        while let Some(frame) = decoder.decode(&mut input).unwrap() {
            let encode = |message: &dyn Fn(u16, u64) -> bytes::Bytes| message(frame.api, frame.correlation_id);
            let answer = match Api::from_u16(frame.api).unwrap() {
                Api::Produce => {
                    offset += 256;
                    let response = ProduceResponse { base_offset: offset, duplicate: false };
                    encode(&|api, id| frame::encode_answer(api, id, &response, 0))
                }
                Api::Handshake => {
                    let response = HandshakeResponse {
                        version: 1,
                        cluster_id: vec![1; 16].into(),
                        node_id: 1,
                        ..HandshakeResponse::default()
                    };
                    encode(&|api, id| frame::encode_answer(api, id, &response, 0))
                }
                Api::InitProducer => {
                    let response = InitProducerResponse { producer_id: 1, producer_epoch: 0 };
                    encode(&|api, id| frame::encode_answer(api, id, &response, 0))
                }
                _ => encode(&|api, id| frame::encode_answer(api, id, &metadata(address), 0)),
            };
            stream.write_all(&answer).ok()?;
        }
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        input.extend_from_slice(&chunk[..read]);
    }
}

fn metadata(address: &str) -> MetadataResponse {
    let partition = |partition| PartitionInfo { partition, leader: Some(1), ..PartitionInfo::default() };
    let topic = TopicInfo {
        name: "t".into(),
        topic_id: vec![2; 16].into(),
        partitions: (0..PARTITIONS).map(partition).collect(),
        ..TopicInfo::default()
    };
    MetadataResponse {
        cluster_id: vec![1; 16].into(),
        controller: Some(1),
        nodes: vec![NodeAddresses { node_id: 1, native: address.into(), ..NodeAddresses::default() }],
        topics: vec![topic],
        unknown: Vec::new(),
    }
}
