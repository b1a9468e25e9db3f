//! Connections to the Flight port: so many and no more.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use metrics::gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Sleep, sleep},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::server::FlightConfig;
use crate::metrics::FLIGHT_CONNECTIONS;

/// How long to wait after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What every HTTP/2 client says first.
const PREFACE_BYTES: usize = 24;

/// Accepts connections while there are fewer than [`FlightConfig::connections_max`]; the others wait in the kernel's
/// queue. Who has not said what it speaks within [`FlightConfig::handshake`] loses its place.
pub(crate) fn connections(
    listener: TcpListener,
    config: watch::Receiver<FlightConfig>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let taken = Arc::new(watch::Sender::new(0));
    stream::unfold((listener, taken, config), move |(listener, taken, mut config)| async move {
        let place = Place::take(&taken, &mut config).await;
        loop {
            let accepted = listener.accept().await;
            let below = config.borrow().descriptors;
            // The kernel gives the lowest number that is free, so those below a bound are at most so many.
            let is_for_files =
                |stream: &TcpStream| u64::try_from(stream.as_raw_fd()).is_ok_and(|number| number >= below);
            match accepted {
                Ok((stream, _)) if is_for_files(&stream) => {
                    let error = format!("no descriptor is left for connections, which have those below {below}");
                    tracing::warn!(error, "flight.accept.failed");
                    drop(stream);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Ok((stream, peer)) => {
                    let handshake = config.borrow().handshake;
                    let connection = Connection::new(stream, peer, place, handshake);
                    return Some((Ok(connection), (listener, taken, config)));
                }
                Err(error) => {
                    tracing::warn!(%error, "flight.accept.failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// A connection's place among the others.
#[derive(Debug)]
struct Place(Arc<watch::Sender<usize>>);

impl Place {
    /// Waits until there is one: somebody has left, or there may be more.
    async fn take(taken: &Arc<watch::Sender<usize>>, config: &mut watch::Receiver<FlightConfig>) -> Self {
        let mut others = taken.subscribe();
        while *others.borrow_and_update() >= config.borrow_and_update().connections_max {
            tokio::select! {
                Ok(()) = others.changed() => {}
                Ok(()) = config.changed() => {}
            }
        }
        taken.send_modify(|taken| *taken += 1);
        Self(Arc::clone(taken))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|taken| *taken -= 1);
    }
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until the preface is there: how much of it is missing, and when that takes too long.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Place,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, place: Place, handshake: Duration) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "flight.connection.gone");
        }
        gauge!(FLIGHT_CONNECTIONS.name).increment(1);
        Self { stream, preface: Some((PREFACE_BYTES, Box::pin(sleep(handshake)))), _place: place }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!(FLIGHT_CONNECTIONS.name).decrement(1);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, out);
        let Some((missing, deadline)) = &mut self.preface else { return read };
        *missing = missing.saturating_sub(out.filled().len() - before);
        if *missing == 0 {
            self.preface = None;
        } else if read.is_pending() && deadline.as_mut().poll(cx).is_ready() {
            tracing::debug!("flight.connection.silent");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
