//! One node through its sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::time::SystemTime;

use bytes::Bytes;
use common::{Client, batch, cluster, produce_request, produced, produced_in};
use levada_protocol::{
    batch::seal,
    error::ErrorCode,
    frame::Api,
    messages::native::{
        AlterTopicRequest, ClusterStatusRequest, ClusterStatusResponse, DeleteTopicRequest, ListOffsetsRequest,
        ListOffsetsResponse, ProduceResponse, TopicResponse,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_produced_is_read_back_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 1).await;
    let node = &mut nodes[0];
    let mut client = Client::connect(node.address()).await.unwrap();
    assert_eq!(client.hello.node_id, 1);
    let topic = client.create_topic("orders", 2, 0).await.unwrap();
    assert_eq!(topic.partitions.iter().map(|p| p.leader).collect::<Vec<_>>(), [Some(1), Some(1)]);

    // Pipelined: answers come in order, offsets follow each other.
    for n in 0..20 {
        let value = format!("value-{n}");
        client.send(Api::Produce, &produce_request(&topic, 1), batch(&[&value, "x"])).await.unwrap();
    }
    for n in 0..20 {
        let answer: ProduceResponse = client.receive().await.unwrap().answer().unwrap();
        assert_eq!((answer.base_offset, answer.duplicate), (n * 2, false));
    }
    let (values, high_watermark) = client.fetch(&topic, 1, 37, 0).await.unwrap();
    assert_eq!(high_watermark, 40);
    assert_eq!(values, [(37, "x".into()), (38, "value-19".into()), (39, "x".into())]);
    assert_eq!(client.fetch(&topic, 0, 0, 0).await.unwrap(), (vec![], 0));

    // The same batch of an idempotent producer again is the same batch.
    let producer = client.init_producer().await.unwrap();
    let first = client.produce(&topic, 0, produced(&["a", "b"], producer, 0)).await.unwrap();
    let again = client.produce(&topic, 0, produced(&["a", "b"], producer, 0)).await.unwrap();
    assert_eq!((first.base_offset, first.duplicate, again.base_offset, again.duplicate), (0, false, 0, true));
    let gap = client.produce(&topic, 0, produced(&["d"], producer, 3)).await.unwrap_err();
    assert_eq!(gap.code, ErrorCode::OutOfOrderSequence);
    // A newer epoch takes over; the older one is fenced, and what it sends is not written.
    let other = client.init_producer().await.unwrap();
    client.produce(&topic, 1, produced_in(1, &["new"], other, 0)).await.unwrap();
    let old = client.produce(&topic, 1, produced_in(0, &["old"], other, 0)).await.unwrap_err();
    assert_eq!(old.code, ErrorCode::ProducerFenced);

    let list =
        |partition, timestamp_ms| ListOffsetsRequest { topic_id: topic.topic_id.clone(), partition, timestamp_ms };
    let (bounds, _): (ListOffsetsResponse, _) =
        client.call(Api::ListOffsets, &list(1, None), Bytes::new()).await.unwrap();
    assert_eq!((bounds.log_start_offset, bounds.high_watermark, bounds.offset_for_time), (0, 41, None));
    let (bounds, _): (ListOffsetsResponse, _) =
        client.call(Api::ListOffsets, &list(1, Some(2_000_000)), Bytes::new()).await.unwrap();
    assert_eq!(bounds.offset_for_time, Some(41), "nothing is so late");

    node.crash().await;
    node.restart().await;
    common::ready(node.running()).await;
    let mut client = Client::connect(node.address()).await.unwrap();
    assert_eq!(client.metadata(&["orders", "nothing"]).await.unwrap().unknown, ["nothing"]);
    assert_eq!(client.fetch_all(&topic, 1).await.unwrap().len(), 41);
    assert_eq!(client.fetch_all(&topic, 0).await.unwrap(), ["a", "b"]);
    let wait = async {
        loop {
            // The new leader may still be on its way.
            match client.produce(&topic, 0, produced(&["a", "b"], producer, 0)).await {
                Err(error) if error.code == ErrorCode::NotReady || error.code == ErrorCode::NotLeader => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                answer => return answer.unwrap(),
            }
        }
    };
    assert!(wait.await.duplicate, "idempotence survives too");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_change_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 1).await;
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let topic = client.create_topic("t", 1, 1).await.unwrap();
    assert_eq!(client.create_topic("t", 1, 1).await.unwrap_err().code, ErrorCode::TopicExists);
    assert_eq!(client.create_topic("a/b", 1, 1).await.unwrap_err().code, ErrorCode::InvalidName);
    assert_eq!(client.create_topic("three", 1, 3).await.unwrap_err().code, ErrorCode::NotEnoughNodes);

    let set = [("max.message.bytes".to_owned(), "1024".to_owned())].into();
    let alter = AlterTopicRequest { name: "t".into(), set, unset: vec![], request_id: Bytes::new() };
    let (altered, _): (TopicResponse, _) = client.call(Api::AlterTopic, &alter, Bytes::new()).await.unwrap();
    assert_eq!(altered.topic.unwrap().config["max.message.bytes"], "1024");
    let large = client.produce(&topic, 0, batch(&[&"x".repeat(1100)])).await.unwrap_err();
    assert_eq!(large.code, ErrorCode::RecordTooLarge);

    let (status, _): (ClusterStatusResponse, _) =
        client.call(Api::ClusterStatus, &ClusterStatusRequest { all_nodes: true }, Bytes::new()).await.unwrap();
    assert_eq!((status.controller, status.nodes.len(), status.partitions.len()), (Some(1), 1, 1));
    assert!(status.nodes[0].alive && status.nodes[0].leads == 1);

    let delete = DeleteTopicRequest { name: "t".into(), topic_id: Bytes::new() };
    let _: (TopicResponse, _) = client.call(Api::DeleteTopic, &delete, Bytes::new()).await.unwrap();
    assert_eq!(client.produce(&topic, 0, batch(&["x"])).await.unwrap_err().code, ErrorCode::UnknownTopic);
    let again = client.create_topic("t", 1, 1).await.unwrap();
    assert_ne!(again.topic_id, topic.topic_id);
    assert_eq!(client.fetch(&topic, 0, 0, 0).await.unwrap_err().code, ErrorCode::UnknownTopic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 1).await;
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let topic = client.create_topic("t", 1, 1).await.unwrap();
    let good = batch(&["value"]);
    let spoilt = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    for (batch, code) in [
        (spoilt(good.len() - 1), ErrorCode::CorruptBatch),
        (spoilt(20), ErrorCode::CorruptBatch),
        (good.slice(..good.len() - 1), ErrorCode::CorruptBatch),
        (good.slice(..10), ErrorCode::CorruptBatch),
        (Bytes::new(), ErrorCode::CorruptBatch),
        (Bytes::from([&good[..], &good[..]].concat()), ErrorCode::CorruptBatch),
        (batch(&[&"x".repeat(9 << 20)]), ErrorCode::RecordTooLarge),
    ] {
        assert_eq!(client.produce(&topic, 0, batch).await.unwrap_err().code, code);
    }
    assert_eq!(client.produce(&topic, 1, good.clone()).await.unwrap_err().code, ErrorCode::UnknownPartition);
    let mut elsewhere = topic.clone();
    elsewhere.topic_id = Bytes::from_static(&[1; 16]);
    assert_eq!(client.produce(&elsewhere, 0, good.clone()).await.unwrap_err().code, ErrorCode::UnknownTopic);
    elsewhere.topic_id = Bytes::from_static(&[1; 3]);
    assert_eq!(client.produce(&elsewhere, 0, good.clone()).await.unwrap_err().code, ErrorCode::InvalidRequest);
    assert_eq!(client.fetch(&topic, 0, 1, 0).await.unwrap_err().code, ErrorCode::OffsetOutOfRange);
    let unknown = client.call_raw(999, Bytes::new()).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::UnknownApi, "and the connection goes on");
    let raft = client.call_raw(Api::Raft as u16, Bytes::new()).await.unwrap_err();
    assert_eq!(raft.code, ErrorCode::Unauthorized, "only nodes send raft messages");
    assert!(client.receive().await.is_err(), "and others are hung up on");
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let nonsense = client.call_raw(Api::Metadata as u16, Bytes::from_static(b"\xff\xff")).await.unwrap_err();
    assert_eq!(nonsense.code, ErrorCode::BadFrame);
    assert!(client.receive().await.is_err());
    // Nothing of all that is in the log, and the node goes on.
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    assert_eq!(client.fetch(&topic, 0, 0, 0).await.unwrap(), (vec![], 0));
    assert_eq!(client.produce(&topic, 0, good).await.unwrap().base_offset, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_contradicts_itself_is_refused_though_its_crc_fits() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 1).await;
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let topic = client.create_topic("t", 1, 1).await.unwrap();
    let good = batch(&["one", "two"]);
    let sealed = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        seal(&mut bytes);
        Bytes::from(bytes)
    };
    assert_eq!(sealed(&|_| {}), good);
    // Of two records: what the header says of their number, and of the last one's offset.
    for (record_count, last_offset_delta) in [(1, 1), (2, 5), (3, 1), (1, 0), (3, 2), (0, 0), (u32::MAX, 1)] {
        let counted = sealed(&|bytes| {
            bytes[23..27].copy_from_slice(&u32::to_be_bytes(last_offset_delta));
            bytes[57..61].copy_from_slice(&u32::to_be_bytes(record_count));
        });
        let refused = client.produce(&topic, 0, counted).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::CorruptBatch, "{record_count} records, {last_offset_delta}: {refused}");
    }
    // The server's clock, a control batch, and what a rows batch does not have.
    for bit in [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        let marked = sealed(&|bytes| bytes[21..23].copy_from_slice(&u16::to_be_bytes(1 << bit)));
        let refused = client.produce(&topic, 0, marked).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::CorruptBatch, "bit {bit}: {refused}");
    }
    assert_eq!(client.fetch(&topic, 0, 0, 0).await.unwrap(), (vec![], 0), "nothing of them is in the log");
    assert_eq!(client.produce(&topic, 0, good.clone()).await.unwrap().base_offset, 0, "and the connection goes on");
    assert_eq!(client.fetch_all(&topic, 0).await.unwrap(), ["one", "two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_waits_for_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 1).await;
    let mut reader = Client::connect(nodes[0].address()).await.unwrap();
    let mut writer = Client::connect(nodes[0].address()).await.unwrap();
    let topic = writer.create_topic("t", 1, 1).await.unwrap();
    let wait = reader.fetch(&topic, 0, 0, 20_000);
    let write = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        writer.produce(&topic, 0, batch(&["at last"])).await.unwrap();
    };
    let (read, ()) = tokio::join!(wait, write);
    assert_eq!(read.unwrap(), (vec![(0, "at last".to_owned())], 1));
    assert_eq!(reader.fetch(&topic, 0, 1, 50).await.unwrap(), (vec![], 1), "not for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_are_seen_from_outside() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 1).await;
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let topic = client.create_topic("t", 1, 1).await.unwrap();
    client.produce(&topic, 0, batch(&["x"])).await.unwrap();
    let http = nodes[0].running().addresses().http.clone();
    let get = |path: &'static str| {
        let http = http.clone();
        async move {
            let mut stream = TcpStream::connect(http).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    };
    assert!(get("/health/live").await.starts_with("HTTP/1.1 200"));
    let ready = get("/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"ready\":true"), "{ready}");
    let metrics = get("/metrics").await;
    for name in [
        "levada_requests_total{api=\"produce\",code=\"OK\"}",
        "levada_produce_seconds_bucket",
        "levada_journal_sync_seconds_bucket",
        "levada_worker_round_seconds_bucket",
        "levada_connections",
        "levada_node_info{node=\"1\",cluster=",
        "levada_ready 1",
        "levada_disk_free_bytes",
        "levada_process_anonymous_bytes",
        "levada_process_open_files_max",
    ] {
        assert!(metrics.contains(name), "{name} is missing in {metrics}");
    }
    let clock = metrics.lines().find_map(|line| line.strip_prefix("levada_clock_seconds ")).unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((0.0..5.0).contains(&(now - clock.parse::<f64>().unwrap())), "the clock of the moment: {clock}");
    // What is shown is what is described, and told to be what it is.
    let described = || levada_broker::metrics::ALL.iter().chain(levada_storage_engine::metrics::ALL);
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(described().any(|metric| metric.name == name && metric.kind.name() == kind), "{line}");
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} has no words");
    }
}
