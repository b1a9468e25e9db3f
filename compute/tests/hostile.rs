//! Bytes that no client would send: an error, a server that goes on, memory that stays where it was.

#![allow(clippy::unwrap_used, reason = "tests fail where they should")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, types::Int32Type};
use arrow_flight::{FlightData, encode::FlightDataEncoderBuilder};
use arrow_ipc::{CompressionType, writer::IpcWriteOptions};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt, stream};
use http_body_util::{BodyExt, Full};
use levada_compute::flight::FlightConfig;
use levada_protocol::{context::AllowAll, error::ErrorCode};
use prost::Message;
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use support::{Running, command, error_of, get, info, memory::peak_bytes, path, put_data, read_all, tickets};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{body::Body, transport::Endpoint};
use tower::{Service, ServiceExt};

const SCHEMA: &str = r#"{"fields":[{"name":"n","type":"int64"},{"name":"s","type":"utf8"},
    {"name":"l","type":"list","items":"int32"}]}"#;

/// Counts panics anywhere in this process from here on.
fn panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, before) = (Arc::clone(&count), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
    count
}

async fn data(topic: &str, compression: Option<CompressionType>) -> Vec<FlightData> {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("s", Arc::new(StringArray::from(vec![Some("água"), Some(""), None]))),
        ("l", Arc::new(lists)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(path(&[topic])))
        .with_options(options)
        .build(stream::iter([Ok(batch)]))
        .try_collect()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_byte_of_a_write_is_an_answer() {
    let panics = panics();
    let running = Running::start().await;
    running.topic("t", 1, Some(SCHEMA)).await;
    let mut client = running.client().await;
    let before = peak_bytes();
    for compression in [None, Some(CompressionType::ZSTD), Some(CompressionType::LZ4_FRAME)] {
        let good = data("t", compression).await;
        put_data(&mut client, good.clone()).await.unwrap();
        for (message, header) in [(0, true), (1, true), (1, false)] {
            let part = if header { &good[message].data_header } else { &good[message].data_body };
            for position in 0..part.len() {
                // Every byte of what says where things are, some of the rest.
                if !header && position % 3 > 0 {
                    continue;
                }
                let mut bytes = part.to_vec();
                bytes[position] ^= [0x01, 0x80, 0xFF][position % 3];
                let mut damaged = good.clone();
                match header {
                    true => damaged[message].data_header = bytes.into(),
                    false => damaged[message].data_body = bytes.into(),
                }
                if let Err(status) = put_data(&mut client, damaged).await {
                    assert_ne!(error_of(&status).code, ErrorCode::Internal, "{status}");
                }
            }
        }
        for length in [0, 1, 63, 64, 100] {
            let mut cut = good.clone();
            cut[1].data_body.truncate(length);
            let error = error_of(&put_data(&mut client, cut).await.unwrap_err());
            assert_eq!(error.code, ErrorCode::CorruptBatch, "{error}");
        }
    }
    assert_eq!(panics.load(Ordering::SeqCst), 0, "no input panics");
    let grown = peak_bytes().saturating_sub(before);
    assert!(grown < 128 << 20, "{} MiB", grown >> 20);
    // Whatever was let in can be read.
    assert!(read_all(&mut client, path(&["t"])).await.num_rows() >= 9);
}

#[tokio::test]
async fn who_says_nothing_loses_its_place() {
    let config = FlightConfig { connections_max: 2, handshake: Duration::from_millis(200), ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    running.topic("t", 1, Some(SCHEMA)).await;
    let silent = TcpStream::connect(running.address).await.unwrap();
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"PRI * HTTP").await.unwrap();
    let mut client = tokio::time::timeout(Duration::from_secs(5), running.client()).await.expect("a place");
    tokio::time::sleep(Duration::from_millis(500)).await;
    put_data(&mut client, data("t", None).await).await.expect("the deadline is for the beginning only");
    drop((silent, slow));
}

#[tokio::test]
async fn idle_connections_make_room_and_those_that_read_stay() {
    let config = FlightConfig { connections_max: 2, ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    running.topic("t", 1, Some(SCHEMA)).await;
    let mut following = running.client().await;
    let follow = command(r#"{"topic":"t","follow":true}"#);
    let ticket = tickets(&info(&mut following, follow).await.unwrap()).remove(0);
    let mut records = get(&mut following, ticket).await.unwrap();
    let mut idle = running.client().await;
    info(&mut idle, path(&["t"])).await.unwrap();
    // Whoever comes waits until one has been idle for a while.
    let mut client = running.client().await;
    let wait = tokio::time::timeout(Duration::from_secs(30), put_data(&mut client, data("t", None).await));
    assert_eq!(wait.await.expect("a place").unwrap().len(), 1);
    let read =
        tokio::time::timeout(Duration::from_secs(10), records.next()).await.expect("the reader has kept its own");
    assert!(read.unwrap().unwrap().num_rows() > 0);
}

/// Who has just come has not had the time to say what it speaks.
#[tokio::test]
async fn a_newcomer_is_not_sent_away_for_the_next() {
    let config = FlightConfig { connections_max: 1, ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    let mut newcomer = TcpStream::connect(running.address).await.unwrap();
    let _next = TcpStream::connect(running.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The preface, settings that change nothing, and a ping, which comes back.
    let (settings, ping) = ([0, 0, 0, 4, 0, 0, 0, 0, 0], [0, 0, 8, 6, 0, 0, 0, 0, 0]);
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &ping, b"whoIsNew"].concat();
    newcomer.write_all(&hello).await.unwrap();
    let mut read = Vec::new();
    while !read.windows(8).any(|window| window == b"whoIsNew") {
        let more = tokio::time::timeout(Duration::from_secs(5), newcomer.read_buf(&mut read));
        assert!(more.await.expect("it is answered").unwrap() > 0, "it was sent away");
    }
}

#[tokio::test]
async fn descriptors_for_files_are_not_for_connections() {
    let config = FlightConfig { descriptors: 0, ..FlightConfig::default() };
    let running = Running::start_with(config, Arc::new(AllowAll)).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0])).await.expect("it is closed");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_lie_about_their_length_or_method() {
    let running = Running::start().await;
    running.topic("t", 1, Some(SCHEMA)).await;
    let before = peak_bytes();
    let endpoint = Endpoint::from_shared(format!("http://{}", running.address)).unwrap();
    let mut channel = endpoint.connect().await.unwrap();
    let flight = |method: &str| format!("http://{}/arrow.flight.protocol.FlightService/{method}", running.address);
    let framed = |message: &[u8]| [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
    let first = data("t", None).await.remove(0).encode_to_vec();
    for (method, body) in [
        ("DoPut", vec![0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("DoPut", [framed(&first), vec![0, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3]].concat()),
        ("DoPut", [framed(&first), framed(b"\xFF\xFF\xFF")].concat()),
        ("DoPut", vec![7; 100]),
        ("DoGet", vec![0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("DoGet", vec![0; 1 << 20]),
        ("DoGet", framed(b"\x0a\xFF\xFF\xFF\xFF\x0F")),
        ("GetFlightInfo", vec![0, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("GetFlightInfo", framed(&[0xFF; 1000])),
        ("DoAction", framed(b"\x0a\x01x\x12\x02{]")),
        ("Nothing", framed(b"")),
    ] {
        let request = http::Request::post(flight(method))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(Bytes::from(body.clone()))))
            .unwrap();
        let answer = async {
            let response = channel.ready().await.unwrap().call(request).await.unwrap();
            let in_headers = response.headers().get("grpc-status").cloned();
            let in_trailers = response.into_body().collect().await.unwrap().trailers().cloned();
            in_headers.or_else(|| in_trailers.and_then(|trailers| trailers.get("grpc-status").cloned()))
        };
        let status = tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap();
        assert!(status.is_some_and(|status| status != "0"), "{method} {body:?}");
    }
    let grown = peak_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    let mut client = running.client().await;
    put_data(&mut client, data("t", None).await).await.unwrap();
    assert_eq!(read_all(&mut client, path(&["t"])).await.num_rows(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port() {
    let running = Running::start().await;
    running.topic("t", 1, Some(SCHEMA)).await;
    let mut random = SmallRng::seed_from_u64(7);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut silent = Vec::new();
    for round in 0..200 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let mut garbage = vec![0; random.random_range(0..4096)];
        random.fill_bytes(&mut garbage);
        // Nothing, noise, half a preface, and noise after a whole one; some hang up and some stay.
        if round % 4 >= 2 {
            let _ = stream.write_all(&preface[..if round % 4 == 2 { round % 24 } else { 24 }]).await;
        }
        if round % 4 % 2 == 1 {
            let _ = stream.write_all(&garbage).await;
        }
        if round % 5 == 0 {
            silent.push(stream);
        }
    }
    let mut client = running.client().await;
    put_data(&mut client, data("t", None).await).await.unwrap();
    assert_eq!(read_all(&mut client, path(&["t"])).await.num_rows(), 3);
}
