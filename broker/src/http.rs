//! Seen from outside: metrics and health over HTTP.

use std::{
    collections::VecDeque,
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
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{metrics as names, net::room, runtime::clock::Clock, server::readiness::Readiness};

/// A connection lives this long at most: half a request holds nothing for ever, and who scrapes comes back.
const LIFETIME: Duration = Duration::from_secs(30);
/// A connection is not broken for another before this.
const ANSWERED_WITHIN: Duration = Duration::from_millis(250);
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
        .layer(map_response(last))
        .with_state(Shared { metrics: metrics.clone(), clock, readiness });
    let listener = Bounded::new(listener, room::connections_to_look_max());
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

/// One answer a connection: who asks comes back in seconds, and places are few.
async fn last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
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

/// A listener whose connections are few and short: when there is no place for another, the oldest breaks. So who asks whether the
/// node lives hears so, whoever else holds on to connections.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    /// Since when a connection is there, and what breaks it; those that have ended are broken already. The oldest first, and as many
    /// as there are places.
    standing: VecDeque<(Instant, CancellationToken)>,
}

impl Bounded {
    fn new(listener: TcpListener, places_max: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places_max)), standing: VecDeque::new() }
    }

    /// A place, that of the oldest if need be, once it has had the time for an answer.
    async fn place(&mut self) -> OwnedSemaphorePermit {
        self.standing.retain(|(_, connection)| !connection.is_cancelled());
        let oldest = self.standing.front();
        let make = async {
            if let Some((since, connection)) = oldest {
                sleep_until(*since + ANSWERED_WITHIN).await;
                counter!(names::HTTP_CONNECTIONS_BROKEN.name).increment(1);
                connection.cancel();
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            place = Arc::clone(&self.places).acquire_owned() => place.expect("places are never closed"),
            never = make => never,
        }
    }
}

impl Listener for Bounded {
    type Io = Short;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Short, SocketAddr) {
        let (stream, remote) = Listener::accept(&mut self.listener).await;
        let place = self.place().await;
        let broken = CancellationToken::new();
        self.standing.push_back((Instant::now(), broken.clone()));
        let asked = broken.clone().cancelled_owned();
        let end = Box::pin(async move { drop(timeout(LIFETIME, asked).await) });
        (Short { stream, end, _broken: broken.drop_guard(), _place: place }, remote)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that breaks when its time is up.
struct Short {
    stream: TcpStream,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    _broken: DropGuard,
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_when_another_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = Bounded::new(listener, 2);
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for number in 0..4 {
            there.push(TcpStream::connect(address).await.unwrap());
            if number > 1 {
                // Whoever serves a connection reads from it all the time.
                let mut oldest: Short = here.remove(0);
                let (accepted, read) =
                    tokio::join!(timeout(LIFETIME, listener.accept()), async move { oldest.read(&mut [0; 1]).await });
                assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut, "{number}");
                here.push(accepted.unwrap().0);
            } else {
                here.push(listener.accept().await.0);
            }
        }
        // One that leaves by itself makes room, too, and nobody else goes for it.
        drop(here.remove(0));
        there.push(TcpStream::connect(address).await.unwrap());
        let (_fifth, _) = timeout(LIFETIME, listener.accept()).await.unwrap();
        assert!(timeout(Duration::from_millis(50), here[0].read(&mut [0; 1])).await.is_err(), "it stands");
    }
}
