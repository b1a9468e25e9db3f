//! What a client knows of its cluster, and how it finds out.
//!
//! Any node describes the whole cluster, but each as it sees it: a node that was cut off tells an old story. So each
//! question begins at another node than the last; a node that does not answer at once is not waited for, the next one
//! is asked beside it; and of two leaders the one of the higher term is believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use levada_protocol::{
    error::{Error, ErrorClass, ErrorCode, NodeAddresses, Result},
    frame::Api,
    ids::{ClusterId, NodeId},
    messages::native::{MetadataRequest, MetadataResponse},
};
use tokio::time::{Instant, sleep};

use crate::{
    config::ClientConfig,
    error::CallError,
    pool::Pool,
    retry::{Backoff, Rng},
    topology::Topic,
};

/// How long a node may think about metadata before the next one is asked, too.
const NEXT_NODE_AFTER: Duration = Duration::from_millis(100);

/// One client's view of a cluster, and its connections for everything but produce.
#[derive(Debug)]
pub(crate) struct Cluster {
    config: ClientConfig,
    id: Arc<OnceLock<ClusterId>>,
    pool: Pool,
    view: Mutex<View>,
    /// Which node to ask first next time.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct View {
    controller: Option<NodeId>,
    nodes: BTreeMap<NodeId, NodeAddresses>,
    topics: BTreeMap<String, Arc<Topic>>,
}

/// An answer to a question about metadata, merged with what was known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) topics: Vec<Arc<Topic>>,
    /// Names asked for that do not exist.
    pub(crate) unknown: Vec<String>,
}

impl Cluster {
    /// One of which nothing is known but what is configured.
    pub(crate) fn unknown(config: ClientConfig) -> Self {
        let id = Arc::new(OnceLock::new());
        let pool = Pool::new(config.clone(), Arc::clone(&id));
        Self { pool, id, view: Mutex::default(), turn: AtomicUsize::new(0), config }
    }

    /// Finds the cluster. Tries for `connect_timeout`.
    ///
    /// # Errors
    /// No bootstrap node answers sensibly.
    pub(crate) async fn connect(config: ClientConfig) -> Result<Arc<Self>> {
        let cluster = Arc::new(Self::unknown(config));
        let give_up = Instant::now() + cluster.config.connect_timeout;
        let mut rng = Rng::from_entropy();
        loop {
            match cluster.refresh(MetadataRequest::default()).await {
                Ok(_) => return Ok(cluster),
                Err(error) if Instant::now() >= give_up || is_final(error.code) => {
                    return Err(Error {
                        message: format!(
                            "no node of {} answers: {}",
                            cluster.config.bootstrap.join(","),
                            error.message
                        ),
                        ..error
                    });
                }
                Err(_) => sleep(Backoff::ELECTION.pause(1, &mut rng)).await,
            }
        }
    }

    pub(crate) const fn config(&self) -> &ClientConfig {
        &self.config
    }

    pub(crate) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The cluster's id, shared with other pools of the same client.
    pub(crate) fn id(&self) -> Arc<OnceLock<ClusterId>> {
        Arc::clone(&self.id)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a node listens.
    pub(crate) fn node(&self, node: NodeId) -> Option<NodeAddresses> {
        self.view().nodes.get(&node).cloned()
    }

    /// All nodes that are known.
    pub(crate) fn nodes(&self) -> Vec<NodeAddresses> {
        self.view().nodes.values().cloned().collect()
    }

    /// The controller's address, as far as known.
    pub(crate) fn controller(&self) -> Option<NodeAddresses> {
        let view = self.view();
        view.nodes.get(&view.controller?).cloned()
    }

    /// Remembers where a redirect pointed.
    pub(crate) fn learn(&self, addresses: &NodeAddresses) {
        if addresses.node != NodeId::default() && !addresses.native.is_empty() {
            self.view().nodes.insert(addresses.node, addresses.clone());
        }
    }

    /// Every address that may belong to a node, another one first each time.
    pub(crate) fn candidates(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut addresses: Vec<String> = self.nodes().into_iter().map(|node| node.native).collect();
        addresses.extend(self.config.bootstrap.iter().cloned());
        addresses.retain(|address| !address.is_empty() && seen.insert(address.clone()));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(turn);
        addresses
    }

    /// A topic as it was last heard of.
    pub(crate) fn known_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.view().topics.get(name).cloned()
    }

    /// A topic, from memory if it is known.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownTopic`]; no node answers.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        match self.known_topic(name) {
            Some(topic) => Ok(topic),
            None => self.fresh_topic(name).await,
        }
    }

    /// A topic as it is now.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownTopic`]; no node answers.
    pub(crate) async fn fresh_topic(&self, name: &str) -> Result<Arc<Topic>> {
        levada_protocol::topic::check_topic_name(name)?;
        let request = MetadataRequest { topics: vec![name.to_owned()], ..MetadataRequest::default() };
        let mut metadata = self.refresh(request.clone()).await?;
        if metadata.topics.is_empty() {
            // The node asked may be behind; the controller knows.
            if let Some(controller) = self.controller() {
                metadata = self
                    .absorb(&request, self.ask(&controller.native, &request).await.map_err(|failed| failed.error)?)?;
            }
        }
        metadata.topics.into_iter().find(|topic| topic.name == name).ok_or_else(|| unknown_topic(name))
    }

    /// A topic as the controller has it.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownTopic`]; there is no controller within `operation_timeout`.
    pub(crate) async fn present_topic(&self, name: &str) -> Result<Arc<Topic>> {
        levada_protocol::topic::check_topic_name(name)?;
        let request = MetadataRequest { topics: vec![name.to_owned()], ..MetadataRequest::default() };
        let metadata = self.refresh_linearizably(request).await?;
        metadata.topics.into_iter().find(|topic| topic.name == name).ok_or_else(|| unknown_topic(name))
    }

    /// Asks for metadata that are no older than the question, as long as it takes to get them.
    ///
    /// # Errors
    /// The last error when there is no answer within `operation_timeout`.
    pub(crate) async fn refresh_linearizably(&self, request: MetadataRequest) -> Result<Metadata> {
        let request = MetadataRequest { linearizable: true, ..request };
        let give_up = Instant::now() + self.config.operation_timeout;
        let mut rng = Rng::from_entropy();
        let mut failures = 0;
        loop {
            let error = match self.refresh(request.clone()).await {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            let passes = matches!(error.class(), ErrorClass::Retry | ErrorClass::Redirect);
            if !passes || Instant::now() >= give_up {
                return Err(error);
            }
            failures += 1;
            sleep(Backoff::ELECTION.pause(failures, &mut rng)).await;
        }
    }

    /// Asks for metadata, and remembers the answer.
    ///
    /// # Errors
    /// The last error when no node gives an answer.
    pub(crate) async fn refresh(&self, request: MetadataRequest) -> Result<Metadata> {
        let mut candidates = self.candidates().into_iter();
        let mut asked = FuturesUnordered::new();
        let mut last = Error::new(ErrorCode::Disconnected, "no node is known");
        loop {
            let more = candidates.next();
            let none_left = more.is_none();
            if let Some(address) = more {
                let request = &request;
                asked.push(async move { self.ask(&address, request).await });
            }
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Ok(response)) => return self.absorb(&request, response),
                    Some(Err(failed)) => last = failed.error,
                    None if none_left => return Err(last),
                    None => {}
                },
                () = sleep(NEXT_NODE_AFTER), if !none_left => {}
            }
        }
    }

    async fn ask(&self, address: &str, request: &MetadataRequest) -> std::result::Result<MetadataResponse, CallError> {
        let connection = self.pool.get(address);
        let frame = connection.call(Api::Metadata, request, Bytes::new(), self.config.request_timeout).await?;
        frame.message().map_err(CallError::sent)
    }

    /// Merges an answer into the view.
    fn absorb(&self, request: &MetadataRequest, response: MetadataResponse) -> Result<Metadata> {
        let topics = response.topics.into_iter().map(Topic::try_from).collect::<Result<Vec<_>>>()?;
        let mut view = self.view();
        if !response.nodes.is_empty() {
            view.nodes = response.nodes.into_iter().map(|node| (NodeId(node.node_id), node.into())).collect();
        }
        view.controller = response.controller.map(NodeId).or(view.controller);
        if request.all_topics {
            let named: BTreeSet<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
            view.topics.retain(|name, _| named.contains(name.as_str()));
        }
        for name in &response.unknown {
            view.topics.remove(name);
        }
        let mut merged = Vec::with_capacity(topics.len());
        for mut topic in topics {
            if let Some(older) = view.topics.get(&topic.name) {
                topic.keep_newer_leaders(older);
            }
            let topic = Arc::new(topic);
            view.topics.insert(topic.name.clone(), Arc::clone(&topic));
            merged.push(topic);
        }
        Ok(Metadata { topics: merged, unknown: response.unknown })
    }
}

fn unknown_topic(name: &str) -> Error {
    Error::new(ErrorCode::UnknownTopic, format!("there is no topic {name:?}; create it first"))
}

/// Whether another try cannot help.
const fn is_final(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::WrongCluster | ErrorCode::UnsupportedVersion | ErrorCode::BadFrame | ErrorCode::Unauthorized
    )
}
