//! A server whose authorizer refuses: no request of a client gets past it, and none changes anything.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use common::{Client, LONG, TestNode, batch, configs, produce_request, ready};
use levada_broker::{
    config::{Reloader, Source},
    server::{Hooks, Listeners, Running},
};
use levada_protocol::{
    context::{Action, Authorizer, RequestContext, Resource, refused},
    error::{ErrorCode, Result},
    frame::{Api, FrameDecoder, Preface, encode_request},
    limits::FRAME_BYTES_MAX,
    messages::{
        native::{
            AdmitNodeRequest, AlterTopicRequest, BalanceRequest, ClusterStatusRequest, ClusterStatusResponse,
            CreateTopicRequest, DeleteTopicRequest, DescribeConfigRequest, DescribeReplicaRequest, DrainNodeRequest,
            FetchRequest, FindCoordinatorRequest, GroupCommit, GroupOffset, GroupRequest, HandshakeRequest,
            InitProducerRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, NodeAddresses, PeerIdentity,
            RecoverMetadataRequest, RecoverPartitionRequest, RegisterNodeRequest, ReloadConfigRequest,
            ResizeTopicRequest, TopicInfo, TransferLeaderRequest, find_coordinator_request, group_request,
        },
        peer::{FoundClusterRequest, JoinClusterRequest, NewcomersRequest, RaftFrame, SeedStateRequest},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

/// Lets everybody do everything until it is shut, and then nobody anything.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
}

impl Authorizer for Gate {
    fn authorize(&self, ctx: &RequestContext, action: Action, resource: Resource<'_>) -> Result<()> {
        if self.shut.load(Ordering::SeqCst) { Err(refused(ctx, action, resource)) } else { Ok(()) }
    }
}

/// Nodes that know each other, the first of which asks the gate.
async fn behind(gate: &Arc<Gate>, dir: &std::path::Path, count: u64) -> Vec<TestNode> {
    let mut configs = configs(dir, count).await.into_iter();
    let config = configs.next().unwrap();
    let guarded = async {
        let flags =
            [("LEVADA_NODE_ID", "1"), ("LEVADA_DATA_DIR", "/unused")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let reloader = Reloader::load(Source { flags: flags.into(), ..Source::default() }).unwrap();
        let authorizer = Arc::clone(gate) as Arc<dyn Authorizer>;
        let hooks = Hooks { authorizer, reloader: Some(reloader), ..Hooks::default() };
        let (listeners, _flight) = Listeners::bind(&config).await.unwrap();
        let running = Running::start(config.clone(), listeners, hooks).await.unwrap();
        TestNode { config: config.clone(), running: Some(running) }
    };
    let others = futures::future::join_all(configs.map(TestNode::start));
    let (guarded, others) = tokio::join!(guarded, others);
    let nodes: Vec<_> = std::iter::once(guarded).chain(others).collect();
    for node in &nodes {
        ready(node.running()).await;
    }
    nodes
}

/// What becomes of a client's request.
enum Fate {
    /// It is refused, and what the authorizer was asked.
    Refused(Action, Resource<'static>),
    /// It is answered, and the topic is not in the answer.
    Hidden,
    /// Only nodes may ask that, whatever the authorizer says.
    ForNodes,
    /// It is no request any more, or not one of this time of a connection.
    OutOfPlace,
}

/// A new request has no arm here.
fn fate(api: Api) -> Fate {
    let (topic, cluster) = (Resource::Topic("orders"), Resource::Cluster);
    match api {
        Api::Handshake => Fate::OutOfPlace,
        Api::Metadata => Fate::Hidden,
        Api::Produce => Fate::Refused(Action::Write, topic),
        Api::InitProducer => Fate::Refused(Action::Write, cluster),
        Api::Fetch | Api::ListOffsets => Fate::Refused(Action::Read, topic),
        Api::CreateTopic => Fate::Refused(Action::Create, Resource::Topic("more")),
        Api::AlterTopic => Fate::Refused(Action::Alter, topic),
        Api::DeleteTopic => Fate::Refused(Action::Delete, topic),
        Api::ClusterStatus | Api::SeedState | Api::DescribeReplica | Api::DescribeConfig => {
            Fate::Refused(Action::Describe, cluster)
        }
        Api::TransferLeader
        | Api::AdmitNode
        | Api::DrainNode
        | Api::Balance
        | Api::RecoverPartition
        | Api::RecoverMetadata
        | Api::ReloadConfig
        | Api::JoinCluster => Fate::Refused(Action::Alter, cluster),
        Api::ResizeTopic => Fate::Refused(Action::Alter, topic),
        Api::FindCoordinator => Fate::Refused(Action::Describe, Resource::Group("readers")),
        Api::Group => Fate::Refused(Action::Read, Resource::Group("readers")),
        Api::RegisterNode | Api::FoundCluster | Api::Raft | Api::Newcomers => Fate::ForNodes,
    }
}

/// A request that does something when nobody is refused.
async fn ask(client: &mut Client, api: Api, topic: &TopicInfo) -> Result<Bytes> {
    let topic_id = topic.topic_id.clone();
    let (name, nothing) = (topic.name.clone(), Bytes::new());
    let set = [("max.message.bytes".to_owned(), "1024".to_owned())].into();
    let elsewhere = NodeAddresses { node_id: 1, native: "elsewhere:1".into(), ..Default::default() };
    let answer: Result<((), Bytes)> = match api {
        Api::Handshake => client.call(api, &HandshakeRequest::default(), nothing).await,
        Api::Metadata => client.call(api, &MetadataRequest { all_topics: true, ..Default::default() }, nothing).await,
        Api::Produce => client.call(api, &produce_request(topic, 0), batch(&["more"])).await,
        Api::InitProducer => client.call(api, &InitProducerRequest {}, nothing).await,
        Api::Fetch => {
            let request = FetchRequest { topic_id, partition: 0, offset: 0, max_bytes: 1 << 20, wait_ms: 0 };
            client.call(api, &request, nothing).await
        }
        Api::ListOffsets => {
            let request = ListOffsetsRequest { topic_id, partition: 0, timestamp_ms: Some(0) };
            client.call(api, &request, nothing).await
        }
        Api::CreateTopic => {
            let request = CreateTopicRequest { name: "more".into(), partitions: 1, replicas: 1, ..Default::default() };
            client.call(api, &request, nothing).await
        }
        Api::AlterTopic => {
            client.call(api, &AlterTopicRequest { name, set, unset: vec![], request_id: Bytes::new() }, nothing).await
        }
        Api::DeleteTopic => client.call(api, &DeleteTopicRequest { name, topic_id: Bytes::new() }, nothing).await,
        Api::ClusterStatus => client.call(api, &ClusterStatusRequest { all_nodes: true }, nothing).await,
        Api::RegisterNode => {
            let incarnation = client.hello.incarnation.clone();
            let rack = "r9".into();
            let request = RegisterNodeRequest { addresses: Some(elsewhere), incarnation, rack, ..Default::default() };
            client.call(api, &request, nothing).await
        }
        Api::TransferLeader => {
            let group = topic.partitions[0].group;
            client.call(api, &TransferLeaderRequest { group, node_id: 1 }, nothing).await
        }
        Api::DescribeReplica => {
            let group = topic.partitions[0].group;
            client.call(api, &DescribeReplicaRequest { group }, nothing).await
        }
        Api::RecoverPartition => {
            let request = RecoverPartitionRequest { topic: name, partition: 0, accept_data_loss: true };
            client.call(api, &request, nothing).await
        }
        Api::RecoverMetadata => {
            client.call(api, &RecoverMetadataRequest { accept_data_loss: true, forwarded: false }, nothing).await
        }
        Api::AdmitNode => {
            client.call(api, &AdmitNodeRequest { node_id: 9, replace: false, dry_run: false }, nothing).await
        }
        Api::DrainNode => {
            // Of a node alone, this checks and says no: it is asked what it would do to take it back.
            client.call(api, &DrainNodeRequest { node_id: 1, cancel: true, dry_run: true }, nothing).await
        }
        Api::Balance => client.call(api, &BalanceRequest { dry_run: true }, nothing).await,
        Api::ResizeTopic => {
            client.call(api, &ResizeTopicRequest { name, partitions: Some(2), replicas: None }, nothing).await
        }
        Api::JoinCluster => {
            let incarnation = Bytes::from_static(&[7; 16]);
            let request = JoinClusterRequest { node_id: 9, incarnation, feature_level_max: 9, ..Default::default() };
            client.call(api, &request, nothing).await
        }
        Api::DescribeConfig => client.call(api, &DescribeConfigRequest::default(), nothing).await,
        Api::ReloadConfig => client.call(api, &ReloadConfigRequest::default(), nothing).await,
        Api::SeedState => client.call(api, &SeedStateRequest::default(), nothing).await,
        Api::FoundCluster => client.call(api, &FoundClusterRequest::default(), nothing).await,
        Api::FindCoordinator => {
            let of = Some(find_coordinator_request::Of::Group("readers".into()));
            client.call(api, &FindCoordinatorRequest { of }, nothing).await
        }
        Api::Group => {
            let offsets = vec![GroupOffset { topic_id, ..Default::default() }];
            let commit = GroupCommit { group: "readers".into(), offsets, ..Default::default() };
            client.call(api, &GroupRequest { ask: Some(group_request::Ask::Commit(commit)) }, nothing).await
        }
        Api::Raft => client.call(api, &RaftFrame::default(), nothing).await,
        Api::Newcomers => client.call(api, &NewcomersRequest::default(), nothing).await,
    };
    answer.map(|((), payload)| payload)
}

/// The state of the cluster, but for what a node does in its own time.
async fn status(client: &mut Client) -> ClusterStatusResponse {
    let request = ClusterStatusRequest { all_nodes: true };
    let (mut status, _): (ClusterStatusResponse, _) =
        client.call(Api::ClusterStatus, &request, Bytes::new()).await.unwrap();
    for partition in &mut status.partitions {
        partition.bytes = 0;
        partition.replicas.iter_mut().for_each(|replica| replica.entries_behind = None);
    }
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_of_a_client_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let nodes = behind(&gate, dir.path(), 1).await;
    let mut client = Client::connect(nodes[0].address()).await.unwrap();
    let mut topic = client.create_topic("orders", 1, 1).await.unwrap();
    client.produce(&topic, 0, batch(&["kept"])).await.unwrap();
    assert_eq!(client.fetch(&topic, 0, 0, 20_000).await.unwrap().1, 1, "what is written is seen");
    // Before a node joins that is not there: they would have replicas on it.
    let wait = Instant::now();
    while let Err(error) = ask(&mut client, Api::FindCoordinator, &topic).await {
        assert!(error.code == ErrorCode::FeatureLevel && wait.elapsed() < LONG, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    let producer = client.init_producer().await.unwrap();
    let (before, was) = (status(&mut client).await, client.metadata(&["orders"]).await.unwrap());

    gate.shut.store(true, Ordering::SeqCst);
    for api in (0..=u16::MAX).filter_map(Api::from_u16) {
        let mut client = Client::connect(nodes[0].address()).await.expect("to say hello is not to ask for anything");
        let answer = ask(&mut client, api, &topic).await;
        match fate(api) {
            Fate::Refused(action, resource) => {
                let error = answer.expect_err(&format!("{api:?} was not refused"));
                let expected = refused(&RequestContext::anonymous("test"), action, resource);
                assert_eq!((error.code, error.message), (ErrorCode::Unauthorized, expected.message), "{api:?}");
            }
            Fate::ForNodes => {
                let error = answer.expect_err(&format!("{api:?} was not refused"));
                assert_eq!(error.code, ErrorCode::Unauthorized, "{api:?}: {error}");
            }
            Fate::OutOfPlace => assert_eq!(answer.unwrap_err().code, ErrorCode::BadFrame, "{api:?}"),
            Fate::Hidden => assert_eq!(answer.unwrap(), Bytes::new()),
        }
    }
    // What must not be seen is not there, by whatever name.
    for linearizable in [false, true] {
        let request = MetadataRequest {
            topics: vec!["orders".into()],
            all_topics: true,
            topic_ids: vec![topic.topic_id.clone()],
            linearizable,
        };
        let (seen, _): (MetadataResponse, _) = client.call(Api::Metadata, &request, Bytes::new()).await.unwrap();
        assert_eq!((seen.topics, seen.unknown), (vec![], vec!["orders".to_owned()]));
    }

    gate.shut.store(false, Ordering::SeqCst);
    assert_eq!(status(&mut client).await, before);
    assert_eq!(client.metadata(&["orders"]).await.unwrap(), was);
    assert_eq!(client.metadata(&["more"]).await.unwrap().unknown, ["more"]);
    assert_eq!(client.fetch(&topic, 0, 0, 0).await.unwrap(), (vec![(0, "kept".to_owned())], 1));
    assert_eq!(client.init_producer().await.unwrap(), producer + 1, "no id was given away");
    // Refused for the gate alone: open, the same requests do what they are for.
    for api in (0..=u16::MAX).filter_map(Api::from_u16) {
        let mut client = Client::connect(nodes[0].address()).await.unwrap();
        if let Fate::Refused(..) = fate(api) {
            match ask(&mut client, api, &topic).await {
                // It has a leader.
                Err(error) if matches!(api, Api::RecoverPartition | Api::RecoverMetadata) => {
                    assert_eq!(error.code, ErrorCode::NotNeeded)
                }
                answer => drop(answer.unwrap_or_else(|error| panic!("{api:?}: {error}"))),
            }
            if api == Api::DeleteTopic {
                topic = client.create_topic("orders", 1, 1).await.unwrap();
            }
        }
    }
}

/// Says hello as a node would.
async fn hello_of(peer: PeerIdentity, cluster_id: Bytes, address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&Preface::OURS.encode()).await.unwrap();
    let request = HandshakeRequest { client_id: "node".into(), cluster_id, peer: Some(peer) };
    stream.write_all(&encode_request(Api::Handshake, 1, &request, 0)).await.unwrap();
    let mut input = BytesMut::new();
    loop {
        if let Some(frame) = FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut input).unwrap() {
            return frame.answer();
        }
        assert_ne!(stream.read_buf(&mut input).await.unwrap(), 0, "hung up on without an answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_asked_about_when_it_says_hello() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let nodes = behind(&gate, dir.path(), 2).await;
    let second = Client::connect(nodes[1].address()).await.unwrap().hello;
    let peer = PeerIdentity { node_id: 2, incarnation: second.incarnation, member_id: 0 };
    hello_of(peer.clone(), second.cluster_id.clone(), nodes[0].address()).await.unwrap();
    gate.shut.store(true, Ordering::SeqCst);
    let error = hello_of(peer, second.cluster_id, nodes[0].address()).await.unwrap_err();
    let expected = refused(&RequestContext::internal("node"), Action::Alter, Resource::Cluster);
    assert_eq!((error.code, error.message), (ErrorCode::Unauthorized, expected.message));
}
