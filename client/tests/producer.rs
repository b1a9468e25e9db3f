//! The producer against a cluster that misbehaves: what is acknowledged is there once, in order, whatever happens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use levada_client::{
    Compression, Delivery, ErrorCode, PartitionId, Producer, ProducerBuilder, Record, Written, partition_of_key,
};
use support::{FakeCluster, Fault};

fn builder(cluster: &FakeCluster) -> ProducerBuilder {
    Producer::builder(&cluster.bootstrap()).linger(Duration::from_millis(1)).batch_bytes(2048)
}

async fn send(producer: &Producer, value: &str, partition: u32) -> Delivery {
    producer.send("t", Record::new(value).with_partition(PartitionId(partition))).await.unwrap()
}

/// Sends many records to one partition without waiting for each, and checks that all are there once and in order.
async fn send_all_and_check(cluster: &FakeCluster, producer: &Producer, count: usize) {
    let mut deliveries = Vec::new();
    for number in 0..count {
        deliveries.push(send(producer, &format!("value {number}"), 0).await);
    }
    let offsets: Vec<u64> =
        join_all(deliveries).await.into_iter().map(|delivered| delivered.unwrap().offset.get()).collect();
    assert_eq!(offsets, (0..count as u64).collect::<Vec<_>>());
    let values = cluster.values("t", 0);
    assert_eq!(values.len(), count);
    for (number, value) in values.iter().enumerate() {
        assert_eq!(value, format!("value {number}").as_bytes());
    }
}

#[tokio::test]
async fn records_arrive_where_their_keys_belong() {
    let cluster = FakeCluster::start(3).await;
    cluster.create_topic("t", 5);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let producer = builder(&cluster).compression(compression).build().await.unwrap();
        let mut deliveries = Vec::new();
        for number in 0..500_u32 {
            let key = format!("key {}", number % 50);
            let headers = [("trace", Some(&b"id"[..])), ("empty", None)];
            let record = Record::new("value").with_key(&key).with_headers(&headers).with_timestamp_ms(number.into());
            deliveries.push((key.clone(), producer.send("t", record).await.unwrap()));
        }
        for (key, delivery) in deliveries {
            assert_eq!(delivery.await.unwrap().partition, partition_of_key(key.as_bytes(), 5));
        }
        producer.close().await.unwrap();
        assert_eq!(producer.stats().records_delivered, 500);
        assert_eq!(producer.stats().buffered_bytes, 0);
    }
    let total: usize = (0..5).map(|partition| cluster.values("t", partition).len()).sum();
    assert_eq!(total, 1500);
}

#[tokio::test]
async fn records_without_keys_are_spread_in_whole_batches() {
    let cluster = FakeCluster::start(2).await;
    cluster.create_topic("t", 4);
    let producer = builder(&cluster).linger(Duration::from_secs(5)).build().await.unwrap();
    let mut deliveries = Vec::new();
    for _ in 0..400 {
        deliveries.push(producer.send("t", Record::new(&[7; 100])).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut counts = BTreeMap::new();
    for delivery in deliveries {
        *counts.entry(delivery.await.unwrap().partition.get()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.values().all(|&count| count > 50), "{counts:?}");
    let batches: usize = cluster.state().topics["t"].partitions.iter().map(|log| log.batches.len()).sum();
    assert!(batches <= 30, "400 records of 107 bytes in batches of 2048 bytes make about 22 batches, not {batches}");
}

#[tokio::test]
async fn a_lost_answer_doubles_nothing() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    cluster.plan(|_, seen| match seen % 9 {
        2 => Fault::ApplyAndDisconnect,
        5 => Fault::ApplyAndSay(ErrorCode::OutcomeUnknown),
        7 => Fault::Disconnect,
        _ => Fault::None,
    });
    send_all_and_check(&cluster, &producer, 1000).await;
    assert!(cluster.state().topics["t"].partitions[0].duplicates > 0, "the plan must have caused retries");
}

#[tokio::test]
async fn a_refusal_in_the_middle_keeps_the_order() {
    let cluster = FakeCluster::start(2).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    cluster.plan(|_, seen| match seen % 7 {
        1 => Fault::Refuse(ErrorCode::Busy),
        3 => Fault::Refuse(ErrorCode::NotReady),
        4 => Fault::Mislead,
        5 => Fault::ApplyAndSay(ErrorCode::Timeout),
        _ => Fault::None,
    });
    send_all_and_check(&cluster, &producer, 500).await;
}

#[tokio::test]
async fn bytes_that_are_no_frame_break_the_connection_and_nothing_else() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    cluster.plan(|_, seen| match seen {
        1 => Fault::Garbage,
        3 => Fault::HugeLength,
        _ => Fault::None,
    });
    send_all_and_check(&cluster, &producer, 200).await;
}

#[tokio::test]
async fn a_killed_leader_pauses_writes_for_little_more_than_the_election() {
    let cluster = Arc::new(FakeCluster::start(3).await);
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    send(&producer, "before", 0).await.await.unwrap();
    let election = Duration::from_millis(400);
    cluster.kill(1);
    let killed = Instant::now();
    let elect = Arc::clone(&cluster);
    tokio::spawn(async move {
        tokio::time::sleep(election).await;
        elect.move_leader("t", 0, 2);
    });
    send(&producer, "after", 0).await.await.unwrap();
    let pause = killed.elapsed();
    assert!(pause >= election && pause < election + Duration::from_millis(350), "paused for {pause:?}");
    assert_eq!(cluster.values("t", 0), [b"before".to_vec(), b"after".to_vec()]);
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_long_before_the_request_times_out() {
    let cluster = FakeCluster::start(3).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    send(&producer, "before", 0).await.await.unwrap();
    cluster.state().hanging.insert(1);
    let hung = Instant::now();
    let delivery = send(&producer, "after", 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.move_leader("t", 0, 3);
    delivery.await.unwrap();
    assert!(hung.elapsed() < Duration::from_millis(1500), "paused for {:?}", hung.elapsed());
}

#[tokio::test]
async fn a_node_that_never_answers_fails_the_record_at_its_deadline() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).delivery_timeout(Duration::from_millis(600)).build().await.unwrap();
    let forgotten = Arc::new(AtomicBool::new(true));
    let forget = Arc::clone(&forgotten);
    cluster.plan(move |_, _| if forget.load(Ordering::Relaxed) { Fault::ApplyAndForget } else { Fault::None });
    let failed = send(&producer, "lost answer", 0).await.await.unwrap_err();
    assert_eq!((failed.error.code, failed.written), (ErrorCode::Timeout, Written::Unknown));
    forgotten.store(false, Ordering::Relaxed);
    send(&producer, "next", 0).await.await.unwrap();
    assert_eq!(cluster.values("t", 0), [b"lost answer".to_vec(), b"next".to_vec()]);
    assert_eq!(cluster.state().topics["t"].partitions[0].producer_ids().len(), 2, "a new identity after the doubt");
}

#[tokio::test]
async fn without_any_leader_the_record_is_certainly_not_written() {
    let cluster = FakeCluster::start(2).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).delivery_timeout(Duration::from_millis(400)).build().await.unwrap();
    cluster.plan(|_, _| Fault::Refuse(ErrorCode::NotReady));
    let failed = send(&producer, "value", 0).await.await.unwrap_err();
    assert_eq!((failed.error.code, failed.written), (ErrorCode::Timeout, Written::No));
    assert!(failed.error.message.contains("NOT_READY"), "{failed}");
}

#[tokio::test]
async fn a_batch_that_does_not_fit_the_schema_fails_alone() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).linger(Duration::ZERO).build().await.unwrap();
    cluster.plan(|_, _| Fault::Delay(Duration::from_millis(10)));
    let mut deliveries = Vec::new();
    for number in 0..40 {
        let value = if number == 12 { "poison".to_owned() } else { format!("value {number}") };
        deliveries.push(send(&producer, &value, 0).await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let mut failed = 0;
    for delivery in deliveries {
        if let Err(failure) = delivery.await {
            assert_eq!((failure.error.code, failure.written), (ErrorCode::SchemaMismatch, Written::No));
            failed += 1;
        }
    }
    let values = cluster.values("t", 0);
    assert!((1..40).contains(&failed) && values.len() == 40 - failed, "{failed} failed, {} there", values.len());
    let numbers: Vec<u32> = values.iter().map(|value| String::from_utf8_lossy(value)[6..].parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test]
async fn a_forgotten_producer_goes_on_under_a_new_identity() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    send(&producer, "one", 0).await.await.unwrap();
    cluster.state().topics.get_mut("t").unwrap().partitions[0].forget_producers();
    send(&producer, "two", 0).await.await.unwrap();
    assert_eq!(cluster.values("t", 0), [b"one".to_vec(), b"two".to_vec()]);
}

#[tokio::test]
async fn a_full_buffer_makes_senders_wait() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).buffer_bytes(8192).build().await.unwrap();
    send(&producer, "first", 0).await.await.unwrap();
    cluster.state().hanging.insert(1);
    let value = "x".repeat(1000);
    let mut deliveries = Vec::new();
    while deliveries.len() < 100 {
        match producer.try_send("t", Record::new(&value)) {
            Ok(delivery) => deliveries.push(delivery),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Busy);
                break;
            }
        }
    }
    assert_eq!(deliveries.len(), 7, "7 times 1032 bytes are in 8192");
    let blocked = tokio::time::timeout(Duration::from_millis(100), producer.send("t", Record::new(&value)));
    assert!(blocked.await.is_err(), "the next sender waits");
    let waiting = {
        let (producer, value) = (producer.clone(), value.clone());
        tokio::spawn(async move { producer.send("t", Record::new(&value)).await })
    };
    cluster.state().hanging.clear();
    waiting.await.unwrap().unwrap().await.unwrap();
    join_all(deliveries).await.into_iter().for_each(|delivered| assert!(delivered.is_ok()));
    assert_eq!(producer.stats().buffered_bytes, 0, "a sender that gave up holds nothing");
    assert_eq!(producer.stats().records_delivered, 9);
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 2);
    cluster.state().topics.get_mut("t").unwrap().config.insert("max.message.bytes".into(), "1024".into());
    let producer = builder(&cluster).buffer_bytes(10_000).build().await.unwrap();
    let code = |result: Result<Delivery, levada_client::Error>| result.unwrap_err().code;
    assert_eq!(code(producer.try_send("t", Record::new("x"))), ErrorCode::NotReady);
    assert_eq!(code(producer.send("none", Record::new("x")).await), ErrorCode::UnknownTopic);
    assert_eq!(code(producer.send("no name", Record::new("x")).await), ErrorCode::InvalidName);
    let nowhere = Record::new("x").with_partition(PartitionId(2));
    assert_eq!(code(producer.send("t", nowhere).await), ErrorCode::UnknownPartition);
    assert_eq!(code(producer.send("t", Record::new(&vec![0; 2000])).await), ErrorCode::RecordTooLarge);
    assert_eq!(code(producer.send("t", Record::new(&vec![0; 20_000])).await), ErrorCode::RecordTooLarge);
    assert_eq!(code(producer.send("t", Record::new("x").with_timestamp_ms(i64::MAX)).await), ErrorCode::InvalidRequest);
    producer.send("t", Record::tombstone("key")).await.unwrap().await.unwrap();
    assert_eq!(producer.stats().buffered_bytes, 0);
}

#[tokio::test]
async fn closing_waits_and_dropping_does_not() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).linger(Duration::from_secs(60)).build().await.unwrap();
    let delivery = send(&producer, "one", 0).await;
    producer.close().await.unwrap();
    assert_eq!(delivery.now().unwrap().unwrap().offset.get(), 0);
    let refused = producer.send("t", Record::new("two")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::ShuttingDown);

    let producer = builder(&cluster).linger(Duration::from_secs(60)).build().await.unwrap();
    let delivery = send(&producer, "never sent", 0).await;
    let heard = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&heard);
    let callback = move |result| *tell.lock().unwrap() = Some(result);
    producer.send_with_callback("t", Record::new("neither"), callback).await.unwrap();
    drop(producer);
    let failed = delivery.await.unwrap_err();
    assert_eq!((failed.error.code, failed.written), (ErrorCode::ShuttingDown, Written::No));
    assert!(heard.lock().unwrap().as_ref().unwrap().is_err());
    assert_eq!(cluster.values("t", 0).len(), 1);
}

#[tokio::test]
async fn a_topic_made_anew_under_its_name_is_another_topic() {
    let cluster = FakeCluster::start(1).await;
    cluster.create_topic("t", 1);
    let producer = builder(&cluster).build().await.unwrap();
    send(&producer, "old", 0).await.await.unwrap();
    cluster.state().topics.clear();
    cluster.create_topic("t", 3);
    let failed = send(&producer, "for the old one", 0).await.await.unwrap_err();
    assert_eq!((failed.error.code, failed.written), (ErrorCode::UnknownTopic, Written::No));
    send(&producer, "new", 2).await.await.unwrap();
    assert_eq!(cluster.values("t", 2), [b"new".to_vec()]);
}

#[tokio::test]
async fn who_does_not_speak_the_protocol_is_named() {
    let cluster = FakeCluster::start(1).await;
    cluster.state().version = 9;
    let error = builder(&cluster).build().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedVersion);
    assert!(error.message.contains("version 9"), "{error}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_secs(9)).await;
        }
    });
    let error = Producer::builder(&address).build().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::BadFrame);
    assert!(error.message.contains(&address), "{error}");
}

#[tokio::test]
async fn nodes_of_two_clusters_are_not_mixed() {
    let one = FakeCluster::start(1).await;
    let two = FakeCluster::start(1).await;
    two.state().cluster_id = levada_protocol::ids::ClusterId::from_bytes([0xC2; 16]);
    one.create_topic("t", 1);
    let elsewhere = two.state().addresses[&1];
    one.state().addresses.insert(2, elsewhere);
    one.move_leader("t", 0, 2);
    let bootstrap = one.state().addresses[&1].to_string();
    let producer = Producer::builder(&bootstrap).delivery_timeout(Duration::from_millis(400)).build().await.unwrap();
    let failed = send(&producer, "value", 0).await.await.unwrap_err();
    assert_eq!(failed.written, Written::No);
    assert!(failed.error.message.contains("WRONG_CLUSTER"), "{failed}");
}

/// Everything at once, for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos() {
    let cluster = Arc::new(FakeCluster::start(3).await);
    cluster.create_topic("t", 4);
    let producer = builder(&cluster).linger(Duration::from_millis(2)).build().await.unwrap();
    cluster.plan(|_, seen| match seen % 37 {
        3 => Fault::ApplyAndDisconnect,
        11 => Fault::Disconnect,
        17 => Fault::ApplyAndSay(ErrorCode::OutcomeUnknown),
        23 => Fault::Refuse(ErrorCode::Busy),
        29 => Fault::Mislead,
        31 => Fault::Delay(Duration::from_millis(30)),
        _ => Fault::None,
    });
    let over = Arc::new(AtomicBool::new(false));
    let nemesis = {
        let (cluster, over) = (Arc::clone(&cluster), Arc::clone(&over));
        tokio::spawn(async move {
            for round in 0_usize.. {
                tokio::time::sleep(Duration::from_millis(60)).await;
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let node = 1 + round as u64 % 3;
                cluster.move_leader("t", round % 4, node);
                match round % 5 {
                    1 => {
                        cluster.kill(node);
                        tokio::time::sleep(Duration::from_millis(80)).await;
                        cluster.start_node(node).await;
                    }
                    3 => {
                        cluster.state().hanging.insert(node);
                        tokio::time::sleep(Duration::from_millis(80)).await;
                        cluster.state().hanging.clear();
                    }
                    _ => {}
                }
            }
        })
    };
    let mut deliveries = Vec::new();
    let began = Instant::now();
    let mut number = 0_u32;
    while began.elapsed() < Duration::from_secs(4) {
        let key = (number % 97).to_string();
        let value = number.to_string();
        deliveries.push((number, producer.send("t", Record::new(&value).with_key(&key)).await.unwrap()));
        number += 1;
        if number.is_multiple_of(50) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    nemesis.await.unwrap();
    let mut said = HashMap::new();
    for (number, delivery) in deliveries {
        let delivered = delivery.await.unwrap();
        said.insert((delivered.partition.get() as usize, delivered.offset.get()), number);
    }
    assert_eq!(said.len(), number as usize, "no two records have one place");
    let mut there = 0;
    for partition in 0..4 {
        let values = cluster.values("t", partition);
        there += values.len();
        let numbers: Vec<u32> = values.iter().map(|value| String::from_utf8_lossy(value).parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "partition {partition} keeps the order of sending");
        for (offset, number) in (0..).zip(numbers) {
            assert_eq!(said.get(&(partition, offset)), Some(&number));
        }
    }
    assert_eq!(there, number as usize, "each record is there once");
    assert!(number > 1000, "only {number} records were sent");
}
