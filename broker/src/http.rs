//! Seen from outside: metrics and health over HTTP.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
    serve::Listener,
};
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};

use crate::{metrics as names, net::room, runtime::clock::Clock, server::readiness::Readiness};

/// A connection lives this long at most: half a request holds nothing for ever, and who scrapes comes back.
const LIFETIME: Duration = Duration::from_secs(30);
/// How often histograms are put in order; left alone they would grow until somebody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    metrics: PrometheusHandle,
    clock: Clock,
    readiness: Arc<Readiness>,
}

/// Serves metrics and health, for ever.
pub(crate) async fn serve(listener: TcpListener, metrics: PrometheusHandle, clock: Clock, readiness: Arc<Readiness>) {
    let router = Router::new()
        .route("/metrics", get(render))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Shared { metrics: metrics.clone(), clock, readiness });
    let listener = Bounded { listener, places: Arc::new(Semaphore::new(room::connections_to_look_max())) };
    let upkeep = async {
        loop {
            sleep(UPKEEP_INTERVAL).await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        () = upkeep => {}
        result = axum::serve(listener, router) => {
            if let Err(error) = result {
                tracing::error!(%error, "http.failed");
            }
        }
    }
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    // These two are of the moment: who asks several nodes compares their clocks.
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 come near 2^53 in the year 287396")]
    gauge!(names::CLOCK_SECONDS.name).set(shared.clock.now().wall_ms as f64 / 1e3);
    gauge!(names::READY.name).set(f64::from(u8::from(shared.readiness.report().ready)));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.render())
}

async fn live(State(shared): State<Shared>) -> impl IntoResponse {
    let alive = shared.readiness.is_alive();
    let status = if alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "alive": alive })))
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    let report = shared.readiness.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report))
}

/// A listener whose connections are few and short; more wait in the kernel.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Short;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Short, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("places are never closed");
        let (stream, remote) = Listener::accept(&mut self.listener).await;
        (Short { stream, end: Box::pin(sleep(LIFETIME)), _place: place }, remote)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that breaks when its time is up.
struct Short {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Short {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end.as_mut().poll(cx).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Short {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Short {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
