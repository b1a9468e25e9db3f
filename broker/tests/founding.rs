//! How clusters come into being over real sockets, and who is refused.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{Client, LONG, TestNode, cluster, configs};
use levada_broker::{bootstrap::BootstrapError, server::ServerError};
use levada_protocol::{error::ErrorCode, ids::NodeId};
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_one_after_the_other_found_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let configs = configs(dir.path(), 3).await;
    let mut waiting = Vec::new();
    for config in configs.into_iter().rev() {
        waiting.push(tokio::spawn(TestNode::start(config)));
        sleep(Duration::from_millis(300)).await;
        if waiting.len() < 3 {
            assert!(waiting.iter().all(|start| !start.is_finished()), "nobody founds before all are there");
        }
    }
    let mut clusters = BTreeSet::new();
    for start in waiting {
        let node = timeout(LONG, start).await.unwrap().unwrap();
        clusters.insert(node.running().cluster());
        std::mem::forget(node);
    }
    assert_eq!(clusters.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_waits_for_others_a_node_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = configs(dir.path(), 2).await.remove(0);
    let address = config.listen.native.clone();
    let start = tokio::spawn(common::start(config));
    let client = async {
        loop {
            match Client::connect(&address).await {
                Ok(client) => return client,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let mut client = timeout(LONG, client).await.unwrap();
    assert!(client.hello.cluster_id.is_empty());
    assert_eq!(client.metadata(&[]).await.unwrap_err().code, ErrorCode::NotReady);
    assert!(!start.is_finished());
    start.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(dir.path(), 3).await;
    nodes[2].crash().await;
    std::fs::remove_dir_all(&nodes[2].config.data_dir).unwrap();
    let refused = timeout(LONG, common::start(nodes[2].config.clone())).await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, ServerError::Bootstrap(BootstrapError::WrongIncarnation { node: NodeId(3), .. })),
        "{refused}"
    );
    assert!(refused.to_string().contains("levada cluster replace 3"), "{refused}");
    let node = &nodes[0];
    common::ready(node.running()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_node_and_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(dir.path(), 1).await;
    let mut second = nodes[0].config.clone();
    second.listen.native = "127.0.0.1:0".into();
    let (listeners, _flight) = levada_broker::server::Listeners::bind(&second).await.unwrap();
    let refused = levada_broker::server::Running::start(second, listeners, Default::default()).await.unwrap_err();
    assert!(matches!(refused, ServerError::DataDir(_)), "{refused}");
    assert!(refused.to_string().contains("in use by process"), "{refused}");

    let mut nodes = nodes;
    nodes[0].crash().await;
    let mut other = nodes[0].config.clone();
    other.node_id = 2;
    other.seed_nodes.clear();
    let refused = common::start(other).await.unwrap_err();
    let ours = matches!(refused, ServerError::Bootstrap(BootstrapError::OtherNode { theirs: NodeId(1), .. }));
    assert!(ours, "{refused}");
}
