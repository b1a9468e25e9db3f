//! Connections to the Flight port: so many and no more, and those that do nothing make room for others.

use std::{
    collections::BTreeMap,
    future::Future as _,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, stream};
use metrics::{counter, gauge};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
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
/// What has come may be a call, and is one after this.
const CALL_WITHIN: Duration = Duration::from_millis(200);
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
    /// Those that have not said what they speak for a while.
    strangers: Arc<Line>,
    /// Those that have been idle for a while.
    idle: Arc<Line>,
}

impl Places {
    /// Asks one to go that does nothing, if there is one.
    fn clear(&self) {
        let _ = self.strangers.clear() || self.idle.clear();
    }
}

/// Those who do nothing: whoever came first has the lowest number.
#[derive(Debug, Default)]
struct Line(Mutex<(u64, BTreeMap<u64, oneshot::Sender<()>>)>);

impl Line {
    /// Asks whoever has stood here longest to go; false if nobody does.
    fn clear(&self) -> bool {
        let first = self.lock().1.pop_first();
        first.is_some_and(|(_, tell)| tell.send(()).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, oneshot::Sender<()>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    line: Arc<Line>,
    number: u64,
    told: oneshot::Receiver<()>,
}

impl Stand {
    fn new(line: &Arc<Line>) -> Self {
        let (tell, told) = oneshot::channel();
        let mut standing = line.lock();
        let number = standing.0;
        standing.0 += 1;
        standing.1.insert(number, tell);
        drop(standing);
        Self { line: Arc::clone(line), number, told }
    }

    fn is_told(&mut self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut self.told).poll(cx).is_ready()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.line.lock().1.remove(&self.number);
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
            State::Busy(_) => {}
            State::Idle(_) if bytes == 0 && self.calls.is_idle() => {}
            // A call that has just come is not known yet; an answer to a ping is none.
            State::Idle(_) => {
                let after = if self.calls.is_idle() { CALL_WITHIN } else { IDLE_AFTER };
                self.state = State::Busy(Box::pin(sleep(after)));
            }
        }
    }

    /// Whether it has to go, while it is waited for. Wakes whoever asks when that may change.
    fn has_to_go(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match &mut self.state {
                State::Stranger { look, deadline, stand, .. } => {
                    if stand.is_none() && look.as_mut().poll(cx).is_ready() {
                        *stand = Some(Stand::new(&self.place.0.strangers));
                    }
                    let is_told = stand.as_mut().is_some_and(|stand| stand.is_told(cx));
                    return is_told || deadline.as_mut().poll(cx).is_ready();
                }
                State::Busy(look) => {
                    if look.as_mut().poll(cx).is_pending() {
                        return false;
                    }
                    if self.calls.is_idle() {
                        self.state = State::Idle(Stand::new(&self.place.0.idle));
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
