//! A server: a function of configuration, listeners and hooks, that runs until it is told to stop or cannot go on.
//!
//! ```no_run
//! # async fn run() -> Result<(), levada_broker::server::ServerError> {
//! use levada_broker::{config::ServerConfig, server::{Hooks, Listeners, serve}};
//! let config = ServerConfig::local(levada_protocol::ids::NodeId(1), "/var/lib/levada");
//! let (listeners, _flight) = Listeners::bind(&config).await?;
//! serve(config, listeners, Hooks::default(), tokio_util::sync::CancellationToken::new()).await
//! # }
//! ```
//!
//! **Start**: take the data directory; answer other seeds and find the cluster ([`crate::bootstrap`]); recover the node
//! core; start its threads; open the doors; register with the controller. The native door listens from the beginning,
//! but says `NotReady` to clients until the core is there; HTTP says what is waited for.
//!
//! **Stop** ([`Running::run_until`]): leadership is handed over while requests are still answered; then the worker ends,
//! which answers what is left; then connections write their last answers; then everything is gone. Each step has a bound.
//! A second signal need not be handled: whatever is cut short is what a crash would cut short, and recovery covers that.
//!
//! **Failure**: a failed disk or a panic of the core is an error of [`Running::run_until`]; the process should exit with it
//! and must not go on.

mod directories;
mod lag;
mod membership;
mod newcomers;
mod observe;
pub(crate) mod readiness;
mod settings;
mod space;
mod start;
mod vitals;

use std::{collections::BTreeSet, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use levada_protocol::{
    codec::PayloadCodec,
    context::{AllowAll, Authorizer},
    error::{ErrorCode, NodeAddresses},
    ids::{ClusterId, NodeId},
    source::{Catalog, LogSink, LogSource},
    trace::Tracer,
};
pub use levada_storage_engine::std_disk::report_faults;
use levada_storage_engine::{error::OpenError, journal::ReplayError, std_disk::LockError, volumes::OwnerError};
use tokio::{
    net::{TcpListener, lookup_host},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use readiness::Report;

pub use crate::net::room::descriptors_for_connections;

use crate::{
    bootstrap::BootstrapError,
    broker::Broker,
    config::{Doors, Reloader, ServerConfig},
    net::connection::Bounds,
    node::{MemberLoss, NodeOpenError},
    runtime::{
        tasks::{Stopper, Tasks},
        worker::WorkerState,
    },
};
use readiness::Readiness;

/// How long handing leadership over may take; the core itself gives up earlier.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
/// How long the worker may take to finish what its lanes have begun.
const WORKER_END_MAX: Duration = Duration::from_secs(10);
/// How long connections may take to write their last answers.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A door cannot be opened.
    #[error("cannot listen on {address} ({key}): {error}")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        address: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The data directory cannot be taken.
    #[error(transparent)]
    DataDir(#[from] LockError),
    /// A directory is another's.
    #[error("the directory {} cannot be used (data_dir, segment.dirs): {error}", path.display())]
    SegmentDir {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        error: OwnerError,
    },
    /// Directories for segments failed. Nothing is acknowledged any more; a server can start again at once without them
    /// ([`Hooks::without`]).
    #[error("{} (segment.dirs) failed: {why}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    SegmentDirsFailed {
        /// The directories.
        paths: Vec<PathBuf>,
        /// What happened.
        why: Arc<str>,
    },
    /// The node needs another replica of the metadata group. Nothing is acknowledged any more; a server can start again at once
    /// and get one ([`Hooks::member_loss`]).
    #[error("the node has stopped: {1}")]
    MetadataGivenUp(MemberLoss, Arc<str>),
    /// The node has no place in a cluster.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The data directory cannot be recovered.
    #[error("the data directory cannot be recovered: {0}")]
    Recovery(#[from] NodeOpenError),
    /// The system gives no thread, or something else that a server needs.
    #[error("the server cannot start: {0}")]
    System(String),
    /// The cluster does not take this node.
    #[error("the cluster refuses this node: {0}")]
    Refused(levada_protocol::error::Error),
    /// The data directory failed, or the core did. Nothing is acknowledged any more.
    #[error("the node has stopped: {0}")]
    Failed(Arc<str>),
    /// It was told to stop before it had started.
    #[error("stopped while starting")]
    Interrupted,
}

impl ServerError {
    /// Its stable code, for whoever starts servers.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        let of_open = |error: &OpenError| match error {
            OpenError::OtherFormat { .. } | OpenError::Journal(ReplayError::LaterVersion { .. }) => {
                ErrorCode::UnsupportedVersion
            }
            OpenError::OtherDirectory { .. } => ErrorCode::WrongIncarnation,
            OpenError::Damaged { .. } => ErrorCode::Damaged,
            _ => ErrorCode::StorageFailed,
        };
        match self {
            Self::Bind { .. } | Self::DataDir(_) | Self::SegmentDir { .. } => ErrorCode::InvalidConfig,
            Self::Bootstrap(error) => match error {
                BootstrapError::Record(error) => of_open(error),
                BootstrapError::OtherNode { .. } | BootstrapError::WrongIncarnation { .. } => {
                    ErrorCode::WrongIncarnation
                }
                BootstrapError::TwoClusters { .. } => ErrorCode::WrongCluster,
                BootstrapError::NotJoined(error) | BootstrapError::NotAccepted(error) => error.code,
                BootstrapError::Disk(_) => ErrorCode::StorageFailed,
            },
            Self::Recovery(NodeOpenError::Store(error)) => of_open(error),
            Self::Recovery(NodeOpenError::TooOld { .. }) => ErrorCode::UnsupportedVersion,
            Self::Recovery(_) | Self::MetadataGivenUp(..) => ErrorCode::Damaged,
            Self::Refused(error) => error.code,
            Self::Failed(_) | Self::SegmentDirsFailed { .. } => ErrorCode::StorageFailed,
            Self::System(_) => ErrorCode::Internal,
            Self::Interrupted => ErrorCode::ShuttingDown,
        }
    }
}

/// What is given to a server besides its configuration.
#[derive(Clone)]
pub struct Hooks {
    /// Checks and converts typed topics; without it they are refused.
    pub codec: Option<Arc<dyn PayloadCodec>>,
    /// Decides what principals may do.
    pub authorizer: Arc<dyn Authorizer>,
    /// Follows some requests; without it none.
    pub tracer: Option<Arc<Tracer>>,
    /// Reads the configuration again; without it, it stays as it is until a restart.
    pub reloader: Option<Arc<Reloader>>,
    /// Directories for segments that have failed while the process runs: they are left alone.
    pub without: BTreeSet<PathBuf>,
    /// The node cannot go on with its replica of the metadata group as it is, the run before said: the server asks for another, or
    /// a later state of it, before it starts.
    pub member_loss: Option<MemberLoss>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            codec: None,
            authorizer: Arc::new(AllowAll),
            tracer: None,
            reloader: None,
            without: BTreeSet::new(),
            member_loss: None,
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("codec", &self.codec.is_some()).finish_non_exhaustive()
    }
}

/// The doors of a server.
#[derive(Debug)]
pub struct Listeners {
    /// The native protocol.
    pub native: TcpListener,
    /// Metrics and health.
    pub http: TcpListener,
    /// Where each door is, Flight's too, which the caller serves.
    pub bound: Doors,
}

impl Listeners {
    /// Opens all doors of a configuration. Flight's is given apart: the broker knows no Arrow, so somebody else serves it.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub async fn bind(config: &ServerConfig) -> Result<(Self, TcpListener), ServerError> {
        let native = bind("listen.native", &config.listen.native).await?;
        let flight = bind("listen.flight", &config.listen.flight).await?;
        let http = bind("listen.http", &config.listen.http).await?;
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map(|address| address.to_string())
                .map_err(|error| ServerError::System(error.to_string()))
        };
        let bound = Doors { native: address(&native)?, flight: address(&flight)?, http: address(&http)? };
        Ok((Self { native, http, bound }, flight))
    }
}

async fn bind(key: &'static str, address: &str) -> Result<TcpListener, ServerError> {
    let failed = |error| ServerError::Bind { key, address: address.to_owned(), error };
    let mut found: Vec<SocketAddr> = lookup_host(address).await.map_err(failed)?.collect();
    // `localhost` is both 127.0.0.1 and ::1, and what goes there by number goes to the first.
    found.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(found.as_slice()).await.map_err(failed)
}

/// Runs a server until `shutdown` is cancelled.
///
/// # Errors
/// It cannot start, or cannot go on.
pub async fn serve(
    config: ServerConfig,
    listeners: Listeners,
    hooks: Hooks,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let running = tokio::select! {
        running = Running::start(config, listeners, hooks) => running?,
        () = shutdown.cancelled() => return Err(ServerError::Interrupted),
    };
    running.run_until(shutdown).await
}

/// A server that has started. Dropping it stops it at once, without handing anything over.
#[derive(Debug)]
pub struct Running {
    broker: Arc<Broker>,
    directories: directories::Directories,
    bounds: Arc<Bounds>,
    readiness: Arc<Readiness>,
    /// The cluster does not take this node.
    refused: watch::Receiver<Option<levada_protocol::error::Error>>,
    connections: Stopper,
    tasks: Stopper,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.broker.worker.stop();
    }
}

impl Running {
    /// Starts a server; completes when it belongs to a cluster and its core has recovered. Dropped before that, it leaves
    /// nothing behind.
    ///
    /// # Errors
    /// It cannot start.
    pub async fn start(config: ServerConfig, listeners: Listeners, hooks: Hooks) -> Result<Self, ServerError> {
        Box::pin(start::start(config, listeners, hooks)).await
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.broker.node()
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.broker.identity.cluster
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &NodeAddresses {
        &self.broker.addresses
    }

    /// Reads its partitions.
    #[must_use]
    pub fn source(&self) -> Arc<dyn LogSource> {
        Arc::clone(&self.broker) as Arc<dyn LogSource>
    }

    /// Writes to any partition.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn LogSink> {
        Arc::clone(&self.broker) as Arc<dyn LogSink>
    }

    /// Knows all topics.
    #[must_use]
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        Arc::clone(&self.broker) as Arc<dyn Catalog>
    }

    /// Whether it serves, and if not, why.
    #[must_use]
    pub fn readiness(&self) -> Report {
        self.readiness.report()
    }

    /// Runs until `shutdown` is cancelled, then stops gracefully.
    ///
    /// # Errors
    /// It cannot go on.
    pub async fn run_until(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        let mut state = self.broker.worker.state();
        let mut refused = self.refused.clone();
        let failed = tokio::select! {
            () = shutdown.cancelled() => None,
            error = ended(&mut state) => Some(error),
            error = refusal(&mut refused) => Some(ServerError::Refused(error)),
        };
        match failed {
            Some(ServerError::Failed(why)) => {
                tracing::error!(%why, "server.failed");
                self.readiness.stopping();
                self.finish().await;
                let paths = self.directories.end().await;
                Err(if paths.is_empty() {
                    ServerError::Failed(why)
                } else {
                    ServerError::SegmentDirsFailed { paths, why }
                })
            }
            Some(error @ ServerError::MetadataGivenUp(..)) => {
                self.readiness.stopping();
                self.finish().await;
                Err(error)
            }
            other => {
                self.stop().await?;
                other.map_or(Ok(()), Err)
            }
        }
    }

    /// Stops gracefully.
    async fn stop(self) -> Result<(), ServerError> {
        tracing::info!(node = self.node().get(), "server.stopping");
        self.readiness.stopping();
        let mut state = self.broker.worker.state();
        self.broker.worker.shutdown();
        let ready = |state: &WorkerState| *state != WorkerState::Running;
        if timeout(HAND_OVER_MAX, state.wait_for(ready)).await.is_err() {
            tracing::warn!("server.hand_over.late");
        }
        self.finish().await;
        match &*state.borrow() {
            WorkerState::Failed(why) => Err(ServerError::Failed(Arc::clone(why))),
            _ => Ok(()),
        }
    }

    /// Ends everything at once, without handing anything over or answering anybody: what a crash would do, but for the
    /// process.
    pub async fn halt(self) {
        self.connections.0.stop().await;
        self.tasks.0.stop().await;
        self.end_worker().await;
    }

    async fn end_worker(&self) {
        let mut state = self.broker.worker.state();
        self.broker.worker.stop();
        if timeout(WORKER_END_MAX, state.wait_for(WorkerState::is_over)).await.is_err() {
            tracing::error!("server.worker.stuck");
        }
    }

    async fn finish(&self) {
        self.end_worker().await;
        self.bounds.drain.cancel();
        self.connections.0.finish(DRAIN_MAX).await;
        self.tasks.0.stop().await;
        tracing::info!(node = self.node().get(), "server.stopped");
    }
}

/// Waits until the worker ends by itself.
async fn ended(state: &mut watch::Receiver<WorkerState>) -> ServerError {
    match state.wait_for(WorkerState::is_over).await.as_deref() {
        Ok(WorkerState::Failed(why)) => ServerError::Failed(Arc::clone(why)),
        Ok(WorkerState::GaveUpMetadata(loss, why)) => ServerError::MetadataGivenUp(*loss, Arc::clone(why)),
        _ => ServerError::Failed("the worker ended".into()),
    }
}

/// Waits until the cluster refuses this node.
async fn refusal(
    refused: &mut watch::Receiver<Option<levada_protocol::error::Error>>,
) -> levada_protocol::error::Error {
    let error = refused.wait_for(Option::is_some).await.ok().and_then(|refused| refused.clone());
    match error {
        Some(error) => error,
        None => std::future::pending().await,
    }
}

fn stoppers(runtime: &tokio::runtime::Handle) -> (Stopper, Stopper) {
    (Stopper(Tasks::new(runtime.clone())), Stopper(Tasks::new(runtime.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_where_most_look_for_it() {
        let listener = bind("listen.http", "localhost:0").await.unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4(), "{listener:?}");
        let taken = listener.local_addr().unwrap().to_string();
        let error = bind("listen.http", &taken).await.unwrap_err().to_string();
        assert!(error.contains(&taken) && error.contains("listen.http"), "{error}");
    }
}
