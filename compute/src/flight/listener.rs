//! Connections to the Flight port: so many and no more, and those that do nothing make room for others.

use std::{
    future::Future as _,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use metrics::{counter, gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, futures::OwnedNotified, watch},
    time::{Instant, Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::{
    calls::{Calls, ConnectionInfo},
    server::FlightConfig,
};
use crate::metrics::{FLIGHT_CONNECTIONS, FLIGHT_CONNECTIONS_DROPPED_TOTAL};

/// How long to wait after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often somebody is asked to go while there is no place for another.
const CLEAR_INTERVAL: Duration = Duration::from_millis(200);
/// A connection that has not said what it speaks may be asked to go after this: a newcomer must have had the time to.
const STRANGE_AFTER: Duration = Duration::from_secs(1);
/// A connection without calls is idle after this.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// What every HTTP/2 client says first.
const PREFACE_BYTES: usize = 24;

/// Accepts connections, up to [`FlightConfig::connections_max`]. When there is no place for another, the oldest goes of those
/// that have not said what they speak, or else of those that have been idle for a while; when nobody is idle, it waits, and
/// whoever comes behind it does in the kernel's queue. Who has not said what it speaks within [`FlightConfig::handshake`] loses its
/// place anyway.
pub(crate) fn connections(
    listener: TcpListener,
    config: watch::Receiver<FlightConfig>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let places = Arc::new(Places::default());
    stream::unfold((listener, places, config), move |(listener, places, mut config)| async move {
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
                    let place = Place::take(&places, &mut config).await;
                    let handshake = config.borrow().handshake;
                    let connection = Connection::new(stream, peer, place, handshake);
                    return Some((Ok(connection), (listener, places, config)));
                }
                Err(error) => {
                    tracing::warn!(%error, "flight.accept.failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Places for connections, and who has to go when there is none for another.
#[derive(Debug, Default)]
struct Places {
    taken: watch::Sender<usize>,
    /// Those that have not said what they speak for a while. Whoever has waited longest is told first.
    strangers: Arc<Notify>,
    /// Those that have been idle for a while.
    idle: Arc<Notify>,
    /// How many are in these two lines.
    standing: [Arc<AtomicUsize>; 2],
}

impl Places {
    /// Asks one to go that does nothing, if there is one.
    fn clear(&self) {
        let lines = [&self.strangers, &self.idle];
        let line = lines.into_iter().zip(&self.standing).find(|(_, standing)| standing.load(Ordering::Relaxed) > 0);
        if let Some((line, _)) = line {
            line.notify_one();
        }
    }
}

/// A connection's place among the others.
#[derive(Debug)]
struct Place(Arc<Places>);

impl Place {
    /// Waits until there is one: somebody has left, or there may be more.
    async fn take(places: &Arc<Places>, config: &mut watch::Receiver<FlightConfig>) -> Self {
        let mut taken = places.taken.subscribe();
        while *taken.borrow_and_update() >= config.borrow_and_update().connections_max {
            places.clear();
            tokio::select! {
                Ok(()) = taken.changed() => {}
                Ok(()) = config.changed() => {}
                () = sleep(CLEAR_INTERVAL) => {}
            }
        }
        places.taken.send_modify(|taken| *taken += 1);
        Self(Arc::clone(places))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.send_modify(|taken| *taken -= 1);
    }
}

/// Stands in a line until it is told to go.
struct Stand {
    told: Pin<Box<OwnedNotified>>,
    standing: Arc<AtomicUsize>,
}

impl Stand {
    fn new(line: &Arc<Notify>, standing: &Arc<AtomicUsize>) -> Self {
        standing.fetch_add(1, Ordering::Relaxed);
        Self { told: Box::pin(Arc::clone(line).notified_owned()), standing: Arc::clone(standing) }
    }

    fn is_told(&mut self, cx: &mut Context<'_>) -> bool {
        self.told.as_mut().poll(cx).is_ready()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.standing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection is about.
enum State {
    /// Its preface is not there: how much of it is missing, when that is odd, and when it takes too long.
    Stranger { missing: usize, look: Pin<Box<Sleep>>, deadline: Pin<Box<Sleep>>, stand: Option<Stand> },
    /// It has calls under way, or had some of late: looked at when the time is up.
    Busy(Pin<Box<Sleep>>),
    /// It has had none for a while.
    Idle(Stand),
}

/// A connection that counts.
pub(crate) struct Connection {
    stream: TcpStream,
    state: State,
    calls: Calls,
    place: Place,
}

impl Connection {
    fn new(stream: TcpStream, peer: SocketAddr, place: Place, handshake: Duration) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "flight.connection.gone");
        }
        gauge!(FLIGHT_CONNECTIONS.name).increment(1);
        let (look, deadline) = (Box::pin(sleep(STRANGE_AFTER)), Box::pin(sleep(handshake)));
        let state = State::Stranger { missing: PREFACE_BYTES, look, deadline, stand: None };
        Self { stream, state, calls: Calls::default(), place }
    }

    /// So many bytes have come, or none are there.
    fn came(&mut self, bytes: usize) {
        match &mut self.state {
            State::Stranger { missing, .. } => {
                *missing = missing.saturating_sub(bytes);
                if *missing == 0 {
                    self.state = State::Busy(Box::pin(sleep(IDLE_AFTER)));
                }
            }
            // An answer to a ping is no call.
            State::Busy(_) => {}
            State::Idle(_) if self.calls.is_idle() => {}
            State::Idle(_) => self.state = State::Busy(Box::pin(sleep(IDLE_AFTER))),
        }
    }

    /// Whether it has to go, while it is waited for. Wakes whoever asks when that may change.
    fn has_to_go(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match &mut self.state {
                State::Stranger { look, deadline, stand, .. } => {
                    if stand.is_none() && look.as_mut().poll(cx).is_ready() {
                        let [strangers, _] = &self.place.0.standing;
                        *stand = Some(Stand::new(&self.place.0.strangers, strangers));
                    }
                    let is_told = stand.as_mut().is_some_and(|stand| stand.is_told(cx));
                    return is_told || deadline.as_mut().poll(cx).is_ready();
                }
                State::Busy(look) => {
                    if look.as_mut().poll(cx).is_pending() {
                        return false;
                    }
                    if self.calls.is_idle() {
                        let [_, idle] = &self.place.0.standing;
                        self.state = State::Idle(Stand::new(&self.place.0.idle, idle));
                    } else {
                        look.as_mut().reset(Instant::now() + IDLE_AFTER);
                    }
                }
                // A call may have begun meanwhile: then it stays, and another is asked in a moment.
                State::Idle(stand) => {
                    if !stand.is_told(cx) {
                        return false;
                    }
                    if self.calls.is_idle() {
                        return true;
                    }
                    self.state = State::Busy(Box::pin(sleep(IDLE_AFTER)));
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!(FLIGHT_CONNECTIONS.name).decrement(1);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        ConnectionInfo { tcp: self.stream.connect_info(), calls: self.calls.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, out);
        self.came(out.filled().len() - before);
        if read.is_pending() && self.has_to_go(cx) {
            let reason = if matches!(self.state, State::Stranger { .. }) { "silent" } else { "made_room" };
            counter!(FLIGHT_CONNECTIONS_DROPPED_TOTAL.name, "reason" => reason).increment(1);
            tracing::debug!(reason, "flight.connection.dropped");
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
