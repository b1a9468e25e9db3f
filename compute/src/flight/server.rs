//! The Flight server: a function of a listener, what it serves, its settings and a shutdown.

use std::{sync::Arc, time::Duration};

use arrow_flight::flight_service_server::FlightServiceServer;
use levada_protocol::{
    context::Authorizer,
    limits::{BATCH_DECOMPRESSED_BYTES_MAX, MIB},
    source::{Catalog, LogSink, LogSource},
    trace::Tracer,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::{calls::CountLayer, doget::DoGetLayer, listener::connections, service::Flight, stalls::Stalls};
use crate::codec::ArrowCodec;

/// What the server stands on.
#[derive(Clone)]
pub struct FlightDeps {
    /// Where records are read.
    pub source: Arc<dyn LogSource>,
    /// Where batches are written.
    pub sink: Arc<dyn LogSink>,
    /// What topics there are.
    pub catalog: Arc<dyn Catalog>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Arrow.
    pub codec: Arc<ArrowCodec>,
    /// Follows some reads.
    pub tracer: Option<Arc<Tracer>>,
}

/// Settings of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlightConfig {
    /// The most connections.
    pub connections_max: usize,
    /// Connections have descriptors below this one; the others of the process are for its files.
    pub descriptors: u64,
    /// How long a new connection may take to say that it speaks HTTP/2.
    pub handshake: Duration,
    /// What a reader holds is dropped when it has not moved for this long.
    pub stalled: Duration,
    /// What all readers together may hold while they do not move; past it, whoever has not for a second loses it.
    pub held_bytes_max: usize,
    /// How long an append is tried again before its writer gets the error.
    pub append_timeout: Duration,
    /// How long calls under way may take to end once the server goes down.
    pub grace: Duration,
}

impl Default for FlightConfig {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            descriptors: u64::MAX,
            handshake: Duration::from_secs(10),
            stalled: Duration::from_secs(30),
            held_bytes_max: 256 * MIB,
            append_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(10),
        }
    }
}

/// Why the server stopped, other than by being told to.
#[derive(Debug, thiserror::Error)]
#[error("the Flight server stopped: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// What all parts of one server share.
pub(crate) struct Shared {
    pub(crate) deps: FlightDeps,
    pub(crate) config: watch::Receiver<FlightConfig>,
    pub(crate) stalls: Stalls,
    pub(crate) shutdown: CancellationToken,
}

/// The Flight server.
#[derive(Clone, Copy, Debug)]
pub struct FlightServer;

/// The largest message taken from a writer.
const MESSAGE_BYTES_MAX: usize = BATCH_DECOMPRESSED_BYTES_MAX + MIB;
/// What a writer may have under way before it is read; readers' windows are their own.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest HTTP/2 frame taken.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// The most calls at once on one connection.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
/// A peer that is silent is asked whether it lives, and given up when it does not answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

impl FlightServer {
    /// Serves until `shutdown`, with the settings as they are at each moment (but for `grace`). Then reads under way end with `SHUTTING_DOWN` and appends under way are waited for;
    /// whoever has stalled is left behind after [`FlightConfig::grace`].
    ///
    /// # Errors
    /// The transport failed.
    pub async fn serve(
        listener: TcpListener,
        deps: FlightDeps,
        config: watch::Receiver<FlightConfig>,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let incoming = connections(listener, config.clone());
        let grace = config.borrow().grace;
        let shared = Arc::new(Shared { deps, config, stalls: Stalls::default(), shutdown: shutdown.clone() });
        let stalls = tokio::spawn(shared.stalls.clone().run(shared.config.clone(), shutdown.clone()));
        let service =
            FlightServiceServer::new(Flight::new(Arc::clone(&shared))).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let served = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .layer(CountLayer)
            .layer(DoGetLayer(Arc::clone(&shared)))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let served = tokio::select! {
            served = served => served,
            () = overdue => Ok(()),
        };
        stalls.abort();
        Ok(served?)
    }
}
