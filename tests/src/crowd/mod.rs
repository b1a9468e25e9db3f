//! Connections that do nobody any good: idle ones, some that say half of what they should, readers that stop reading.
//!
//! Each is opened again when the server closes it, as whoever attacks or is broken would do.

mod http2;
mod native;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use levada_protocol::ids::TopicPartition;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Connections that are being opened at once: more would overflow a listener's queue, and wait for a second SYN.
const OPENING_MAX: usize = 128;
/// Between two tries of one.
const PAUSE: Duration = Duration::from_millis(200);
/// How long opening one may take.
const OPENING_TIME: Duration = Duration::from_secs(20);

/// What a connection does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shakes hands at the native door, and asks for nothing.
    IdleNative,
    /// Speaks HTTP/2 at the Flight door, answers pings, and calls nothing.
    IdleFlight,
    /// Asks once at the HTTP door, and stays.
    IdleHttp,
    /// Says half of a handshake at the native door.
    HalfNative,
    /// Says half of HTTP/2's preface at the Flight door.
    HalfFlight,
    /// Says half of a request at the HTTP door.
    HalfHttp,
    /// Announces a frame of so many bytes at the native door after its handshake, and sends a part of it.
    HalfFrame(usize),
    /// Fetches a partition natively, many times, and does not read the answers.
    StalledNative,
    /// Reads a partition over Flight until its window is full, answers pings, and makes no room.
    StalledFlight,
    /// The same with a large window, of which it takes nothing from the socket.
    DeafFlight,
}

/// Where the doors are, and what is read.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port` of the native door.
    pub native: String,
    /// `host:port` of Flight.
    pub flight: String,
    /// `host:port` of health and metrics.
    pub http: String,
    /// A partition that the node leads, with more in it than sockets take.
    pub partition: TopicPartition,
    /// How many bytes a native reader asks for at once.
    pub fetch_bytes: u32,
    /// A stalled reader is opened again after so long: what is in its socket hides that the server has closed it.
    pub stalled_for: Duration,
}

/// What became of connections of one kind.
#[derive(Debug, Default)]
pub struct Counts {
    /// They stand: opened, and not closed by the server as far as it can be seen.
    pub standing: AtomicU64,
    /// How many times one was opened.
    pub opened: AtomicU64,
    /// How many times one was closed by the server, or could not be opened.
    pub closed: AtomicU64,
}

/// A number of such connections. They go when it is dropped.
#[derive(Debug)]
pub struct Crowd {
    target: Arc<Target>,
    opening: Arc<Semaphore>,
    tasks: JoinSet<()>,
    groups: Vec<(Kind, Arc<Counts>)>,
}

impl Crowd {
    /// Nobody yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let opening = Arc::new(Semaphore::new(OPENING_MAX));
        Self { target: Arc::new(target), opening, tasks: JoinSet::new(), groups: Vec::new() }
    }

    /// So many more of this kind.
    pub fn join(&mut self, kind: Kind, count: usize) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        self.groups.push((kind, Arc::clone(&counts)));
        for _ in 0..count {
            let one = One {
                kind,
                target: Arc::clone(&self.target),
                opening: Arc::clone(&self.opening),
                counts: Arc::clone(&counts),
            };
            self.tasks.spawn(one.go_on());
        }
        counts
    }

    /// Who is there.
    #[must_use]
    pub fn groups(&self) -> &[(Kind, Arc<Counts>)] {
        &self.groups
    }
}

impl Counts {
    /// Waits until so many stand at once.
    ///
    /// # Errors
    /// They do not within a minute.
    pub async fn stand(&self, count: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.standing.load(Relaxed) < count {
            let standing = self.standing.load(Relaxed);
            ensure!(Instant::now() < deadline, "{standing} of {count} connections stand after a minute: {self:?}");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// One of them.
struct One {
    kind: Kind,
    target: Arc<Target>,
    opening: Arc<Semaphore>,
    counts: Arc<Counts>,
}

impl One {
    async fn go_on(self) {
        loop {
            // A connection that ends is what is counted, however it does.
            let _ended = self.once().await;
            self.counts.closed.fetch_add(1, Relaxed);
            sleep(PAUSE).await;
        }
    }

    /// Opens it, and stays until the server closes it.
    async fn once(&self) -> io::Result<()> {
        let place = self.opening.acquire().await.map_err(io::Error::other)?;
        let (stream, bytes) = match timeout(OPENING_TIME, self.open()).await {
            Ok(opened) => opened?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        self.stand(place, stream, bytes).await
    }

    async fn open(&self) -> io::Result<(TcpStream, Bytes)> {
        let Target { native, flight, http, partition, fetch_bytes, .. } = &*self.target;
        Ok(match self.kind {
            Kind::IdleNative => (native::shaken_hands(native).await?, Bytes::new()),
            Kind::HalfFrame(bytes) => (native::shaken_hands(native).await?, native::half_of_a_frame(bytes)),
            Kind::StalledNative => {
                let fetches = native::fetches(*partition, *fetch_bytes);
                (native::shaken_hands(native).await?, fetches)
            }
            Kind::HalfNative => (TcpStream::connect(native).await?, native::half_of_a_handshake()),
            Kind::HalfFlight => (TcpStream::connect(flight).await?, http2::half_of_the_preface()),
            Kind::IdleFlight => (TcpStream::connect(flight).await?, http2::hello(http2::WINDOW_BYTES)),
            Kind::StalledFlight => {
                (TcpStream::connect(flight).await?, http2::do_get(flight, *partition, http2::WINDOW_BYTES))
            }
            Kind::DeafFlight => {
                (TcpStream::connect(flight).await?, http2::do_get(flight, *partition, http2::WINDOW_BYTES_LARGE))
            }
            Kind::IdleHttp => {
                let whole = format!("GET /health/live HTTP/1.1\r\nHost: {http}\r\n\r\n");
                (TcpStream::connect(http).await?, whole.into())
            }
            Kind::HalfHttp => (TcpStream::connect(http).await?, Bytes::from_static(b"GET /heal")),
        })
    }

    async fn stand(&self, opening: SemaphorePermit<'_>, mut stream: TcpStream, bytes: Bytes) -> io::Result<()> {
        stream.write_all(&bytes).await?;
        drop(opening);
        self.counts.opened.fetch_add(1, Relaxed);
        self.counts.standing.fetch_add(1, Relaxed);
        let _standing = Standing(&self.counts);
        match self.kind {
            Kind::StalledNative | Kind::DeafFlight => sleep(self.target.stalled_for).await,
            Kind::IdleFlight => http2::keep(&mut stream).await?,
            Kind::StalledFlight => drop(timeout(self.target.stalled_for, http2::keep(&mut stream)).await),
            _ => while stream.read(&mut [0; 1024]).await? > 0 {},
        }
        Ok(())
    }
}

struct Standing<'c>(&'c Counts);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.standing.fetch_sub(1, Relaxed);
    }
}
