//! Three nodes in this process, over real sockets and disks: replication, failover, restarts.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Client, LONG, TestNode, batch, cluster, produced};
use levada_protocol::{
    context::RequestContext,
    error::{Error, ErrorClass, ErrorCode},
    frame::Api,
    ids::{Offset, PartitionId, TopicId, TopicPartition},
    messages::native::{
        ClusterStatusRequest, ClusterStatusResponse, MetadataRequest, MetadataResponse, TopicInfo,
        TransferLeaderRequest, TransferLeaderResponse,
    },
    source::NewTopic,
};
use tokio::time::{sleep, timeout};

/// The node that leads a partition, as some running node says.
async fn leader(nodes: &[TestNode], topic: &str, partition: usize) -> u64 {
    let find = async {
        loop {
            for node in nodes.iter().filter(|node| node.running.is_some()) {
                let Ok(mut client) = Client::connect(node.address()).await else { continue };
                let Ok(metadata) = client.metadata(&[topic]).await else { continue };
                let leader = metadata.topics.first().and_then(|topic| topic.partitions[partition].leader);
                if let Some(leader) = leader.filter(|leader| running(nodes, *leader)) {
                    return leader;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, find).await.expect("a leader")
}

fn running(nodes: &[TestNode], id: u64) -> bool {
    nodes.iter().any(|node| node.config.node_id == id && node.running.is_some())
}

fn position(nodes: &[TestNode], id: u64) -> usize {
    nodes.iter().position(|node| node.config.node_id == id).unwrap()
}

/// A connection to the node that leads a partition.
async fn leader_client(nodes: &[TestNode], topic: &str) -> Client {
    loop {
        let id = leader(nodes, topic, 0).await;
        if let Ok(client) = Client::connect(nodes[position(nodes, id)].address()).await {
            return client;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a batch until it is acknowledged, wherever the leader is.
async fn produce_surely(nodes: &[TestNode], client: &mut Client, topic: &TopicInfo, batch: Bytes) -> u64 {
    let send = async {
        loop {
            match client.produce(topic, 0, batch.clone()).await {
                Ok(answer) => return answer.base_offset,
                Err(error) if matches!(error.class(), ErrorClass::Retry | ErrorClass::Redirect) => {
                    sleep(Duration::from_millis(20)).await;
                    *client = leader_client(nodes, &topic.name).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(LONG, send).await.expect("an acknowledgement")
}

async fn admin(nodes: &[TestNode]) -> Client {
    for _ in 0..500 {
        for node in nodes.iter().filter(|node| node.running.is_some()) {
            let Ok(mut client) = Client::connect(node.address()).await else { continue };
            let Ok(metadata) = client.metadata(&[]).await else { continue };
            if metadata.controller == Some(node.config.node_id) {
                return client;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("no controller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_leader_dies_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    let mut controller = admin(&nodes).await;
    let topic = controller.create_topic("orders", 1, 3).await.unwrap();
    let producer = controller.init_producer().await.unwrap();
    drop(controller);
    let mut client = leader_client(&nodes, "orders").await;
    let mut acknowledged = Vec::new();
    let mut longest = Duration::ZERO;
    for n in 0..150 {
        if n == 50 {
            let id = leader(&nodes, "orders", 0).await;
            let at = position(&nodes, id);
            nodes[at].crash().await;
        }
        if n == 100 {
            let at = nodes.iter().position(|node| node.running.is_none()).unwrap();
            nodes[at].restart().await;
        }
        let value = format!("value-{n}");
        let begun = Instant::now();
        let offset = produce_surely(&nodes, &mut client, &topic, produced(&[&value], producer, n)).await;
        longest = longest.max(begun.elapsed());
        assert_eq!(offset, acknowledged.len() as u64, "each once, in order");
        acknowledged.push(value);
    }
    println!("longest pause {longest:?}");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    // Every replica comes to the same, the one that was away too.
    for node in &nodes {
        let same = async {
            let mut client = Client::connect(node.address()).await.unwrap();
            while client.fetch_all(&topic, 0).await.ok().as_ref() != Some(&acknowledged) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, same).await.unwrap_or_else(|_| panic!("node {} differs", node.config.node_id));
    }
    // And again after all of them were away.
    for node in &mut nodes {
        node.crash().await;
    }
    futures::future::join_all(nodes.iter_mut().map(TestNode::restart)).await;
    let mut client = leader_client(&nodes, "orders").await;
    let offset = produce_surely(&nodes, &mut client, &topic, produced(&["value-149"], producer, 149)).await;
    assert_eq!(offset, 149, "known still");
    assert_eq!(client.fetch_all(&topic, 0).await.unwrap(), acknowledged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    let topic = admin(&nodes).await.create_topic("t", 1, 3).await.unwrap();
    let mut client = leader_client(&nodes, "t").await;
    produce_surely(&nodes, &mut client, &topic, batch(&["before"])).await;
    let old = leader(&nodes, "t", 0).await;
    let at = position(&nodes, old);
    let begun = Instant::now();
    nodes[at].stop().await;
    produce_surely(&nodes, &mut client, &topic, batch(&["after"])).await;
    println!("stopped and produced again within {:?}", begun.elapsed());
    assert_ne!(leader(&nodes, "t", 0).await, old);
    assert_eq!(client.fetch_all(&topic, 0).await.unwrap(), ["before", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged_or_shown() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    let topic = admin(&nodes).await.create_topic("t", 1, 3).await.unwrap();
    let mut client = leader_client(&nodes, "t").await;
    produce_surely(&nodes, &mut client, &topic, batch(&["kept"])).await;
    let id = leader(&nodes, "t", 0).await;
    for node in nodes.iter_mut().filter(|node| node.config.node_id != id) {
        node.crash().await;
    }
    let refused = client.produce(&topic, 0, batch(&["lost?"])).await.unwrap_err();
    assert!(matches!(refused.class(), ErrorClass::Retry | ErrorClass::Redirect), "{refused}");
    let mut reader = Client::connect(nodes[position(&nodes, id)].address()).await.unwrap();
    assert_eq!(reader.fetch(&topic, 0, 0, 0).await.unwrap(), (vec![(0, "kept".to_owned())], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_sent_to_the_leader_and_seams_go_there_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 3).await;
    let ctx = RequestContext::anonymous("test");
    let controller = admin(&nodes).await.hello.node_id;
    let follower = nodes.iter().find(|node| node.config.node_id != controller).unwrap();

    // A topic with one replica, made through a node that is not the controller.
    let new =
        NewTopic { name: "single".into(), partitions: 3, replicas: 1, config: Default::default(), schema_json: None };
    let described = follower.running().catalog().create_topic(&ctx, new).await.unwrap();
    assert_eq!(described.partitions.len(), 3);
    let leaders: Vec<u64> = described.partitions.iter().map(|p| p.leader.as_ref().unwrap().node.get()).collect();
    for node in &nodes {
        let running = node.running();
        assert_eq!(running.catalog().topic(&ctx, "single").await.unwrap().id, described.id, "known everywhere at once");
        for (partition, leader) in (0..).zip(&leaders) {
            let place = TopicPartition { topic: described.id, partition: PartitionId(partition) };
            let appended = running.sink().append(&ctx, place, batch(&["via seam"])).await.unwrap();
            let bounds = running.source().bounds(&ctx, place).await.unwrap();
            assert!(bounds.high_watermark > appended.base_offset);
            let late = running.source().offset_for_time(&ctx, place, i64::MAX).await.unwrap();
            assert_eq!(late, bounds.high_watermark, "nothing is so late, here or elsewhere");
            assert_eq!(running.source().offset_for_time(&ctx, place, 0).await.unwrap(), Offset(0));
            let read = running.source().read(&ctx, place, Offset(0), 1 << 20).await;
            if *leader == node.config.node_id {
                assert_eq!(read.unwrap().next_offset, bounds.high_watermark);
            } else {
                let error = read.unwrap_err();
                assert_eq!(error.code, ErrorCode::NotLeader);
                assert_eq!(error.leader.unwrap().node.get(), *leader, "says where to go");
            }
        }
    }
    let first = nodes[0].running().sink().init_producer(&ctx).await.unwrap();
    let second = nodes[1].running().sink().init_producer(&ctx).await.unwrap();
    assert_ne!(first.id, second.id);

    // The native door redirects.
    let mut client = Client::connect(follower.address()).await.unwrap();
    let error: Error = client.create_topic("native", 1, 3).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotController);
    assert_eq!(error.leader.unwrap().node.get(), controller);
    let info = client.metadata(&["single"]).await.unwrap().topics.remove(0);
    assert_eq!(TopicId::from_slice(&info.topic_id), Some(described.id));
    let elsewhere = (0..3).find(|p| leaders[*p as usize] != follower.config.node_id).unwrap();
    let error = client.produce(&info, elsewhere, batch(&["x"])).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotLeader);
    assert_eq!(error.leader.unwrap().node.get(), leaders[elsewhere as usize]);

    let deleted = follower.running().catalog().delete_topic(&ctx, "single").await;
    deleted.unwrap();
    assert_eq!(follower.running().catalog().topic(&ctx, "single").await.unwrap_err().code, ErrorCode::UnknownTopic);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_is_looked_up_among_all_that_was_acknowledged_on_every_replica() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 3).await;
    let ctx = RequestContext::anonymous("test");
    let topic = admin(&nodes).await.create_topic("t", 1, 3).await.unwrap();
    let mut client = leader_client(&nodes, "t").await;
    let topic_id = TopicId::from_slice(&topic.topic_id).unwrap();
    let place = TopicPartition { topic: topic_id, partition: PartitionId(0) };
    for n in 1..=20 {
        produce_surely(&nodes, &mut client, &topic, batch(&["x"])).await;
        for node in &nodes {
            let late = node.running().source().offset_for_time(&ctx, place, i64::MAX).await.unwrap();
            assert_eq!(late, Offset(n), "node {}", node.config.node_id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_what_is_true_now_gets_it_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    let ctx = RequestContext::anonymous("test");
    let mut controller = admin(&nodes).await;
    let all = MetadataRequest { all_topics: true, linearizable: true, ..Default::default() };
    for n in 1..=10 {
        controller.create_topic(&format!("t{n}"), 1, 3).await.unwrap();
        for node in &nodes {
            let mut client = Client::connect(node.address()).await.unwrap();
            let (listed, _): (MetadataResponse, _) = client.call(Api::Metadata, &all, Bytes::new()).await.unwrap();
            assert_eq!(listed.topics.len(), n, "node {}", node.config.node_id);
            assert_eq!(node.running().catalog().topics(&ctx).await.unwrap().len(), n);
            let named = node.running().catalog().topic(&ctx, "t1").await.unwrap();
            assert_eq!((named.name.as_str(), named.partitions[0].replicas.len()), ("t1", 3));
        }
    }
    nodes[0].crash().await;
    nodes[1].crash().await;
    let mut client = Client::connect(nodes[2].address()).await.unwrap();
    assert_eq!(client.metadata(&["t1"]).await.unwrap().topics.len(), 1, "what is known is told to who does not mind");
    let refused = client.call::<MetadataResponse>(Api::Metadata, &all, Bytes::new()).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::Retry, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_and_the_status_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    let topic = admin(&nodes).await.create_topic("t", 1, 3).await.unwrap();
    let mut client = leader_client(&nodes, "t").await;
    produce_surely(&nodes, &mut client, &topic, batch(&["x"])).await;
    let old = leader(&nodes, "t", 0).await;
    let to = nodes.iter().map(|node| node.config.node_id).find(|id| *id != old).unwrap();
    let transfer = TransferLeaderRequest { group: topic.partitions[0].group, node_id: to };
    let _: (TransferLeaderResponse, _) = client.call(Api::TransferLeader, &transfer, Bytes::new()).await.unwrap();
    let moved = async {
        while leader(&nodes, "t", 0).await == old {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, moved).await.expect("leadership moves");

    let dead = nodes.iter().map(|node| node.config.node_id).find(|id| *id != old && *id != to).unwrap();
    let at = position(&nodes, dead);
    nodes[at].crash().await;
    let seen = async {
        loop {
            let mut client = leader_client(&nodes, "t").await;
            let request = ClusterStatusRequest { all_nodes: true };
            let (status, _): (ClusterStatusResponse, _) =
                client.call(Api::ClusterStatus, &request, Bytes::new()).await.unwrap();
            let alive: Vec<(u64, bool)> =
                status.nodes.iter().map(|n| (n.addresses.as_ref().unwrap().node_id, n.alive)).collect();
            if alive.iter().all(|(id, alive)| *alive == (*id != dead)) && status.partitions[0].high_watermark == 1 {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let status = timeout(LONG, seen).await.expect("the dead one is seen to be dead");
    assert_eq!(status.nodes.len(), 3);
}
