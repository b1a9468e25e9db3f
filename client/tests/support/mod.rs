//! A small cluster in this process that speaks the native protocol and misbehaves on demand.
//!
//! It keeps Kafka's rule for sequences, so a client that retries wrongly shows as a doubled, missing or reordered
//! record. It is not Levada's broker: there is one state behind all nodes, and an append is durable at once.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[cfg(feature = "flight")]
pub(crate) mod flight;
mod log;
mod serve;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use levada_client::ErrorCode;
use levada_protocol::{
    ids::{ClusterId, TopicId},
    messages::native,
};
use tokio::{net::TcpListener, task::JoinHandle};

pub(crate) use log::Log;

/// What to do with one produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Answer as it should be.
    None,
    /// Refuse it.
    Refuse(ErrorCode),
    /// Apply it, and say that something went wrong all the same.
    ApplyAndSay(ErrorCode),
    /// Break the connection without applying it.
    Disconnect,
    /// Apply it, then break the connection: the third outcome.
    ApplyAndDisconnect,
    /// Apply it, and never answer.
    ApplyAndForget,
    /// Answer late.
    Delay(Duration),
    /// Send bytes that are no frame.
    Garbage,
    /// Announce a frame of 4 GiB.
    HugeLength,
    /// Redirect to a node that does not lead.
    Mislead,
}

/// A topic of the fake cluster.
#[derive(Debug)]
pub(crate) struct FakeTopic {
    pub(crate) id: TopicId,
    pub(crate) partitions: Vec<Log>,
    pub(crate) config: BTreeMap<String, String>,
    /// Requests that changed it.
    pub(crate) altered_by: BTreeSet<Bytes>,
    pub(crate) schema_json: String,
}

/// Decides about produce requests: called with topic, partition and how many were seen before.
pub(crate) type Plan = Box<dyn FnMut(u32, usize) -> Fault + Send>;

pub(crate) struct State {
    pub(crate) cluster_id: ClusterId,
    pub(crate) addresses: BTreeMap<u64, SocketAddr>,
    pub(crate) flight: BTreeMap<u64, SocketAddr>,
    pub(crate) controller: u64,
    pub(crate) topics: BTreeMap<String, FakeTopic>,
    pub(crate) hanging: BTreeSet<u64>,
    pub(crate) plan: Plan,
    pub(crate) produced: usize,
    pub(crate) identities: i64,
    /// How every request was asked, with the node that was asked.
    pub(crate) requests: Vec<(u64, u16)>,
    /// The version that handshakes are answered with.
    pub(crate) version: u32,
    /// Requests to the controller that are applied although the connection breaks.
    pub(crate) lose_controller_answers: usize,
}

/// The cluster. Dropping it stops its nodes.
pub(crate) struct FakeCluster {
    state: Arc<Mutex<State>>,
    nodes: Mutex<BTreeMap<u64, JoinHandle<()>>>,
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.nodes.lock().unwrap().values().for_each(JoinHandle::abort);
    }
}

impl FakeCluster {
    /// Starts nodes 1 to `nodes`.
    pub(crate) async fn start(nodes: u64) -> Self {
        let state = State {
            cluster_id: ClusterId::from_bytes([0xC1; 16]),
            addresses: BTreeMap::new(),
            flight: BTreeMap::new(),
            controller: 1,
            topics: BTreeMap::new(),
            hanging: BTreeSet::new(),
            plan: Box::new(|_, _| Fault::None),
            produced: 0,
            identities: 100,
            requests: Vec::new(),
            version: 1,
            lose_controller_answers: 0,
        };
        let cluster = Self { state: Arc::new(Mutex::new(state)), nodes: Mutex::default() };
        for node in 1..=nodes {
            cluster.start_node(node).await;
        }
        cluster
    }

    /// Starts a node, or starts it again under its old address.
    pub(crate) async fn start_node(&self, node: u64) {
        let known = self.state().addresses.get(&node).copied();
        let listener = TcpListener::bind(known.unwrap_or_else(|| ([127, 0, 0, 1], 0).into())).await.unwrap();
        self.state().addresses.insert(node, listener.local_addr().unwrap());
        let state = Arc::clone(&self.state);
        self.nodes.lock().unwrap().insert(node, tokio::spawn(serve::listen(node, listener, state)));
    }

    /// Kills a node: its connections break, new ones are refused.
    pub(crate) fn kill(&self, node: u64) {
        if let Some(task) = self.nodes.lock().unwrap().remove(&node) {
            task.abort();
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn shared(&self) -> Arc<Mutex<State>> {
        Arc::clone(&self.state)
    }

    pub(crate) fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.state().addresses.values().map(ToString::to_string).collect();
        addresses.join(",")
    }

    /// Makes a topic whose partitions are led by the nodes in turn.
    pub(crate) fn create_topic(&self, name: &str, partitions: u32) {
        self.state().create_topic(name, partitions);
    }

    /// Decides about produce requests from now on.
    pub(crate) fn plan(&self, plan: impl FnMut(u32, usize) -> Fault + Send + 'static) {
        self.state().plan = Box::new(plan);
    }

    /// Makes another node the leader.
    pub(crate) fn move_leader(&self, topic: &str, partition: usize, to: u64) {
        let mut state = self.state();
        let log = &mut state.topics.get_mut(topic).unwrap().partitions[partition];
        log.leader = to;
        log.epoch += 1;
    }

    /// The values in a partition, in order.
    pub(crate) fn values(&self, topic: &str, partition: usize) -> Vec<Vec<u8>> {
        self.state().topics[topic].partitions[partition].values()
    }
}

impl State {
    pub(crate) fn create_topic(&mut self, name: &str, partitions: u32) -> native::TopicInfo {
        let nodes: Vec<u64> = self.addresses.keys().copied().collect();
        let id = TopicId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
        let leaders = (0..partitions as usize).map(|number| nodes[number % nodes.len()]);
        let topic = FakeTopic {
            id,
            partitions: leaders.map(Log::led_by).collect(),
            config: BTreeMap::new(),
            altered_by: BTreeSet::new(),
            schema_json: String::new(),
        };
        self.topics.insert(name.to_owned(), topic);
        self.describe(name)
    }

    pub(crate) fn describe(&self, name: &str) -> native::TopicInfo {
        let topic = &self.topics[name];
        let partition = |(number, log): (u32, &Log)| native::PartitionInfo {
            partition: number,
            group: u64::from(number) + 1,
            leader: Some(log.leader).filter(|leader| *leader > 0),
            leader_epoch: log.epoch,
            replicas: vec![native::ReplicaInfo { replica_id: 1, node_id: log.leader }],
        };
        native::TopicInfo {
            name: name.to_owned(),
            topic_id: topic.id.to_bytes().to_vec().into(),
            partitions: (0..).zip(&topic.partitions).map(partition).collect(),
            config: topic.config.clone(),
            schema_json: topic.schema_json.clone(),
            schema_id: 1,
        }
    }

    pub(crate) fn node(&self, node: u64) -> native::NodeAddresses {
        let text = |address: Option<&SocketAddr>| address.map_or_else(String::new, ToString::to_string);
        native::NodeAddresses {
            node_id: node,
            native: text(self.addresses.get(&node)),
            flight: text(self.flight.get(&node)),
            http: String::new(),
        }
    }
}
