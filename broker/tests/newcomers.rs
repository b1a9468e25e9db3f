//! Nodes that joined while another one was away, over real sockets and disks.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Client, LONG, TestNode, configs, ready};
use levada_broker::{
    cluster::metadata::MEMBERS_FIRST,
    config::ServerConfig,
    server::{Hooks, Listeners, ServerError, serve},
};
use levada_protocol::{
    error::{ErrorCode, Result},
    frame::Api,
    ids::GroupId,
    messages::native::{
        AdmitNodeRequest, AdmitNodeResponse, ClusterStatusRequest, ClusterStatusResponse, DrainNodeRequest,
        HandshakeRequest, MovesResponse, PeerIdentity, TransferLeaderRequest, TransferLeaderResponse,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Asks whichever of these nodes is the controller, until it does it.
async fn ask_controller<M: prost::Message + Default>(
    nodes: &[&TestNode],
    api: Api,
    request: &impl prost::Message,
) -> M {
    let ask = async {
        loop {
            for node in nodes {
                let Ok(mut client) = Client::connect(node.address()).await else { continue };
                if let Ok((answer, _)) = client.call(api, request, Bytes::new()).await {
                    return answer;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, ask).await.unwrap_or_else(|_| panic!("nobody does {api:?}"))
}

async fn status(node: &TestNode) -> ClusterStatusResponse {
    let mut client = Client::connect(node.address()).await.unwrap();
    client.call(Api::ClusterStatus, &ClusterStatusRequest::default(), Bytes::new()).await.unwrap().0
}

/// Waits until the controller says that the first node votes on metadata and the second is gone.
async fn votes_instead_of(nodes: &[&TestNode], node: u64, gone: u64) {
    let wait = async {
        loop {
            for asked in nodes {
                let status = status(asked).await;
                let there = |id: u64| {
                    status.nodes.iter().find(|node| node.addresses.as_ref().is_some_and(|at| at.node_id == id))
                };
                let is_controller = status.controller == Some(asked.config.node_id);
                if is_controller && there(gone).is_none() && there(node).is_some_and(|node| node.metadata_voter) {
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("node {node} does not vote instead of node {gone}"));
}

/// Runs a node as its process does: when it must begin from a later state of the metadata it starts again. Answers why it ended.
async fn comes_back(config: ServerConfig) -> ServerError {
    let mut member_loss = None;
    loop {
        let served = async {
            let (listeners, _flight) = Listeners::bind(&config).await?;
            let hooks = Hooks { member_loss, ..Hooks::default() };
            serve(config.clone(), listeners, hooks, CancellationToken::new()).await
        };
        match served.await {
            Err(ServerError::MetadataGivenUp(loss, _)) => member_loss = Some(loss),
            Err(ServerError::Bind { .. } | ServerError::DataDir(_)) => sleep(Duration::from_millis(25)).await,
            ended => return ended.expect_err("nobody stops it"),
        }
    }
}

/// Waits until a node says that it serves.
async fn serves(http: &str, node: &JoinHandle<ServerError>) {
    let mut said = String::new();
    let wait = async {
        while !said.starts_with("HTTP/1.1 200") {
            assert!(!node.is_finished(), "the node has ended; before it said: {said}");
            sleep(Duration::from_millis(50)).await;
            let Ok(mut stream) = TcpStream::connect(http).await else { continue };
            let request = "GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            let asked = stream.write_all(request.as_bytes()).await;
            said.clear();
            let _ = asked.and(stream.read_to_string(&mut said).await);
        }
    };
    if timeout(LONG, wait).await.is_err() {
        panic!("it does not serve: {said}");
    }
}

/// Three nodes founded the cluster; while the third was down, a fourth joined and the second left.
struct Changed {
    first: TestNode,
    third: TestNode,
    fourth: TestNode,
    _dir: TempDir,
}

async fn changed_while_the_third_was_away() -> Changed {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = configs(dir.path(), 4).await;
    let seeds = configs[0].seed_nodes[..3].to_vec();
    configs.iter_mut().for_each(|config| config.seed_nodes.clone_from(&seeds));
    configs[2].listen.http = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let newcomer = configs.pop().unwrap();
    let founders = futures::future::join_all(configs.into_iter().map(TestNode::start)).await;
    for node in &founders {
        ready(node.running()).await;
    }
    let [first, mut second, mut third]: [TestNode; 3] = founders.try_into().unwrap_or_else(|_| panic!("three"));
    third.crash().await;

    let admit = AdmitNodeRequest { node_id: 4, ..Default::default() };
    let _: AdmitNodeResponse = ask_controller(&[&first, &second], Api::AdmitNode, &admit).await;
    let fourth = TestNode::start(newcomer).await;
    ready(fourth.running()).await;
    let drain = DrainNodeRequest { node_id: 2, ..Default::default() };
    let _: MovesResponse = ask_controller(&[&first, &second, &fourth], Api::DrainNode, &drain).await;
    votes_instead_of(&[&first, &fourth], 4, 2).await;
    second.crash().await;
    Changed { first, third, fourth, _dir: dir }
}

/// A node that was away knew nothing of one that had joined meanwhile, and refused it: as that one led the metadata, nobody else
/// could have told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_takes_a_newcomer_for_its_controller() {
    let Changed { first, third, fourth, _dir } = changed_while_the_third_was_away().await;
    let leads = async {
        while status(&fourth).await.controller != Some(4) {
            let transfer = TransferLeaderRequest { group: GroupId::METADATA.get(), node_id: 4 };
            let mut client = Client::connect(first.address()).await.unwrap();
            // Node 1 may have handed it over by now.
            let _: Result<(TransferLeaderResponse, _)> =
                client.call(Api::TransferLeader, &transfer, Bytes::new()).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, leads).await.expect("node 4 leads");
    let (http, back) = (third.config.listen.http.clone(), tokio::spawn(comes_back(third.config.clone())));
    serves(&http, &back).await;
    assert_eq!(status(&third).await.controller, Some(4), "nobody else has led meanwhile");

    // Whoever is none of them still is not.
    let cluster = Bytes::copy_from_slice(&fourth.running().cluster().to_bytes());
    let refused = async |node_id: u64, member_id: u64| {
        let peer = PeerIdentity { node_id, incarnation: Bytes::from_static(&[9; 16]), member_id };
        let request = HandshakeRequest { cluster_id: cluster.clone(), peer: Some(peer), ..Default::default() };
        Client::connect_as(third.address(), request).await.err().map(|error| error.code)
    };
    for _ in 0..5 {
        assert_eq!(refused(9, MEMBERS_FIRST + 7).await, Some(ErrorCode::NotReady), "nobody knows it");
        assert_eq!(refused(4, MEMBERS_FIRST).await, Some(ErrorCode::WrongIncarnation));
        sleep(Duration::from_millis(300)).await;
    }
    back.abort();
}

/// With the last node down that it knows, an operator can name another: the two are a majority of those who vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_asks_a_seed_node_that_is_new() {
    let Changed { mut first, third, fourth, _dir } = changed_while_the_third_was_away().await;
    first.crash().await;
    let mut config = third.config.clone();
    config.seed_nodes.push(format!("4@{}", fourth.address()).parse().unwrap());
    let back = tokio::spawn(comes_back(config.clone()));
    serves(&config.listen.http, &back).await;
    assert_eq!(status(&third).await.controller, Some(4), "node 3 does not have the newest metadata");
    back.abort();
}
