//! One connection, from its first byte to its last.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures::{StreamExt, stream::FuturesUnordered};
use levada_protocol::{
    context::{Principal, RequestContext},
    error::{Error, ErrorCode},
    frame::{Api, Frame, Preface, encode_answer, encode_error},
    ids::NodeId,
    limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX, PEER_QUEUE_BYTES_MAX, REQUEST_HEADER_BYTES_MAX},
    messages::native::{HandshakeRequest, HandshakeResponse},
    metric::Metric,
    source::BoxFuture,
};
use metrics::{counter, gauge};
use tokio::{
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    frames::{FrameReader, Head, ReadError},
    outbox::{Outbox, Outgoing},
    patience::Patience,
    responder::Responder,
    way::Way,
};
use crate::{
    config::LiveLimits,
    metrics as names,
    runtime::{
        budget::{Budget, Charge},
        worker::Flush,
    },
};

/// How long a connection that is closed may take to write its last answers and see the other side leave.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// What is read and dropped of a connection that is closed.
const DRAIN_BYTES_MAX: usize = 1 << 20;
/// What answers to fetches may take on one connection while they wait to be written.
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// Of the name that a client gives itself.
const CLIENT_CHARS_MAX: usize = 128;
/// A client without requests under way is idle after this: then it goes if there is no place for another.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How long a client waits for the place of one that was asked to go.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// A request is large above this.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// What a request costs besides its own bytes.
const REQUEST_OVERHEAD_BYTES: usize = 256;

/// Who is at the other end.
#[derive(Debug)]
pub(crate) struct Session {
    /// The name it gave itself.
    pub(crate) client: Arc<str>,
    /// Set when it is another node of the cluster (or of the founders of one).
    pub(crate) peer: Option<NodeId>,
    /// It was let in before it was decided who belongs to the cluster: it may found it, and do nothing else.
    pub(crate) founding: bool,
    /// Bytes of answers that wait to be written.
    pub(crate) answers: Budget,
}

impl Session {
    pub(crate) fn new(client: &str, peer: Option<NodeId>) -> Self {
        let client = client.chars().take(CLIENT_CHARS_MAX).collect::<String>();
        Self { client: client.into(), peer, founding: false, answers: Budget::new(ANSWER_BYTES_MAX) }
    }

    /// For calls in its name.
    pub(crate) fn context(&self) -> RequestContext {
        let principal = if self.peer.is_some() { Principal::named("levada") } else { Principal::anonymous() };
        RequestContext { principal, client: Arc::clone(&self.client), deadline: None, trace: None }
    }
}

/// What a request leads to.
pub(crate) enum Work {
    /// It is done.
    Done,
    /// This must be done before the next request is looked at.
    InOrder(BoxFuture<'static, ()>),
    /// This can be done beside others.
    Beside(BoxFuture<'static, ()>),
    /// It breaks the rules: the connection is closed.
    Refuse(Responder, Error),
}

/// Who answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Judges a handshake.
    fn welcome(&self, request: &HandshakeRequest) -> Result<(HandshakeResponse, Session), Error>;

    /// Begins to work on a request.
    fn handle(self: Arc<Self>, session: &Arc<Session>, frame: Frame, responder: Responder) -> Work;
}

/// Bytes of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Of requests.
    pub(crate) requests: Budget,
    /// Of those that are large: some room is left for the others, whatever is announced and does not come.
    large: Budget,
    /// Of answers to fetches.
    pub(crate) answers: Budget,
}

impl Held {
    /// So many of requests, and as many of answers.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let (requests, answers) = (Budget::new(bytes_max), Budget::new(bytes_max));
        Self { requests, large: Budget::new(large(bytes_max)), answers }
    }

    /// From now on so many.
    pub(crate) fn resize(&self, bytes_max: u64) {
        self.requests.resize(bytes_max);
        self.large.resize(large(bytes_max));
        self.answers.resize(bytes_max);
    }

    /// Waits until there is room for a request.
    async fn take(&self, bytes: usize) -> Charge {
        let large = if bytes > SMALL_BYTES_MAX { self.large.take(bytes).await } else { Charge::default() };
        large.and(self.requests.take(bytes).await)
    }

    /// Whether somebody waits until a request is done.
    pub(crate) fn are_requests_waited_for(&self) -> bool {
        self.requests.is_waited_for() || self.large.is_waited_for()
    }

    /// Whether somebody waits until an answer is taken.
    pub(crate) fn are_answers_waited_for(&self) -> bool {
        self.answers.is_waited_for()
    }
}

const fn large(bytes_max: u64) -> u64 {
    bytes_max - bytes_max / 4
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Arc<LiveLimits>,
    /// Descriptors below this are for connections.
    pub(crate) descriptors: u64,
    /// What a client holds that does nothing.
    pub(crate) held: Held,
    /// Places for clients.
    pub(crate) clients: Budget,
    /// Clients that are idle: they go when there is no place for another.
    pub(crate) idle: Way,
    /// Those that have not shaken hands: the oldest goes when there are too many.
    pub(crate) strangers: Way,
    /// Connections stop reading and write their last answers.
    pub(crate) drain: CancellationToken,
}

/// Serves a connection until it ends. `shaking_hands` is dropped when the handshake is done.
pub(crate) async fn serve<H: Handler, T: Send>(
    stream: TcpStream,
    remote: SocketAddr,
    handler: Arc<H>,
    bounds: Arc<Bounds>,
    shaking_hands: T,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (reader, writer) = stream.into_split();
    let mut reader = FrameReader::new(reader, BytesMut::new());
    let outbox = Arc::new(Outbox::default());
    let write = outbox
        .run(writer, Patience::new(bounds.limits.get().frame(), &bounds.held, Held::are_answers_waited_for, "stalled"));
    let mut write = std::pin::pin!(write);
    let mut connection = Connection { reader: &mut reader, outbox: &outbox, handler, bounds: &bounds };
    let read = async {
        let session = connection.shake_hands().await?;
        drop(shaking_hands);
        tracing::debug!(%remote, client = &*session.client, "connection.open");
        connection.requests(Arc::new(session)).await
    };
    let ended = tokio::select! {
        ended = read => ended,
        result = &mut write => return drop(result),
        () = bounds.drain.cancelled() => Ok(()),
    };
    outbox.close();
    let written = timeout(CLOSE_GRACE, write.as_mut()).await;
    match ended {
        Err(ReadError::Protocol(error)) => {
            tracing::debug!(%remote, %error, "connection.refused");
            if written.is_ok() {
                // Waits for the other side to take the answer and leave.
                drop(timeout(CLOSE_GRACE, reader.drain(DRAIN_BYTES_MAX)).await);
            }
        }
        Err(error) => tracing::debug!(%remote, %error, "connection.lost"),
        Ok(()) => tracing::debug!(%remote, "connection.closed"),
    }
}

/// A number in a gauge for as long as this lives.
struct Counted(Metric);

impl Counted {
    fn new(metric: Metric) -> Self {
        gauge!(metric.name).increment(1.0);
        Self(metric)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0.name).decrement(1.0);
    }
}

struct Connection<'a, H> {
    reader: &'a mut FrameReader<OwnedReadHalf>,
    outbox: &'a Arc<Outbox>,
    handler: Arc<H>,
    bounds: &'a Bounds,
}

impl<H: Handler> Connection<'_, H> {
    /// Preface and handshake.
    async fn shake_hands(&mut self) -> Result<Session, ReadError> {
        let _counted = Counted::new(names::CONNECTIONS_SHAKING_HANDS);
        let handshake = self.bounds.limits.get().handshake();
        let bounds = self.bounds;
        let hello = tokio::select! {
            hello = timeout(handshake, self.hello()) => hello,
            () = bounds.strangers.stand() => {
                return Err(refusal("crowded", ErrorCode::Busy, "too many connections have not shaken hands"));
            }
        };
        let (correlation_id, result) = match hello {
            Err(_) => return Err(refusal("slow", ErrorCode::Timeout, "the handshake took too long")),
            Ok(Err(ReadError::Protocol(error))) => (0, Err(error)),
            Ok(Err(error)) => return Err(error),
            Ok(Ok((correlation_id, version, request))) => {
                let welcome = self.handler.welcome(&request);
                (
                    correlation_id,
                    welcome.map(|(response, session)| {
                        (HandshakeResponse { version: version.into(), ..response }, session)
                    }),
                )
            }
        };
        let api = Api::Handshake as u16;
        match result {
            Ok((response, session)) => {
                self.push(encode_answer(api, correlation_id, &response, 0));
                // Clients are many, and what they ask is small.
                let header = if session.peer.is_some() { FRAME_HEADER_BYTES_MAX } else { REQUEST_HEADER_BYTES_MAX };
                self.reader.allow(FRAME_BYTES_MAX, header);
                Ok(session)
            }
            Err(error) => {
                counter!(names::CONNECTIONS_REFUSED.name, "reason" => error.code.name()).increment(1);
                self.push(encode_error(api, correlation_id, &error));
                Err(error.into())
            }
        }
    }

    async fn hello(&mut self) -> Result<(u64, u16, HandshakeRequest), ReadError> {
        let version = Preface::decode(self.reader.preface().await?)?.negotiate()?;
        let wait = self.bounds.limits.get().handshake();
        let head = self.reader.head(wait).await?;
        let frame = self.reader.body(head, wait).await?;
        if frame.api != Api::Handshake as u16 {
            let why = format!("the first frame must be a handshake, not api {}", frame.api);
            return Err(Error::new(ErrorCode::BadFrame, why).into());
        }
        Ok((frame.correlation_id, version, frame.message()?))
    }

    fn push(&self, head: bytes::Bytes) {
        self.outbox.push(Outgoing { head, payload: Vec::new(), place: None, charge: Charge::default() });
        self.outbox.flush(false);
    }

    /// Reads and works on requests until the connection ends.
    async fn requests(&mut self, session: Arc<Session>) -> Result<(), ReadError> {
        let _client = match session.peer {
            // Other nodes always find a place.
            Some(_) => None,
            None => match self.place().await {
                Some(place) => Some(place),
                None => {
                    let error =
                        refusal("full", ErrorCode::Busy, "this node has all the connections it takes; try again");
                    if let ReadError::Protocol(error) = &error {
                        self.push(encode_error(Api::Handshake as u16, 0, error));
                    }
                    return Err(error);
                }
            },
        };
        let _counted = Counted::new(names::CONNECTIONS);
        let (beside, work) = mpsc::unbounded_channel();
        tokio::select! {
            ended = self.read(&session, beside) => ended,
            () = run(work) => Ok(()),
        }
    }

    /// A place for a client, that of an idle one if need be.
    async fn place(&self) -> Option<Charge> {
        let clients = &self.bounds.clients;
        if let Some(place) = clients.try_take(1) {
            return Some(place);
        }
        if !self.bounds.idle.clear() {
            return None;
        }
        timeout(PLACE_WAIT, clients.take(1)).await.ok()
    }

    /// Waits for the first byte of the next frame; `false` at the end, which comes, too, when the client has been idle for too
    /// long, or another needs its place.
    async fn begin(&mut self, session: &Session, has_requests: impl Fn() -> bool) -> Result<bool, ReadError> {
        let bounds = self.bounds;
        let left = loop {
            let idle = bounds.limits.get().idle();
            let look = idle.min(IDLE_AFTER);
            if let Ok(begun) = timeout(look, self.reader.begin()).await {
                return Ok(begun?);
            }
            if !has_requests() {
                break idle - look;
            }
        };
        let asked = async {
            match session.peer {
                Some(_) => std::future::pending().await,
                None => bounds.idle.stand().await,
            }
        };
        let reason = tokio::select! {
            begun = timeout(left, self.reader.begin()) => match begun {
                Ok(begun) => return Ok(begun?),
                Err(_) => "idle",
            },
            () = asked => "made_room",
        };
        counter!(names::CONNECTIONS_DROPPED.name, "reason" => reason).increment(1);
        Ok(false)
    }

    async fn read(
        &mut self,
        session: &Arc<Session>,
        beside: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    ) -> Result<(), ReadError> {
        let limits = self.bounds.limits.get();
        let places_max =
            usize::try_from(limits.connection_requests_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(places_max));
        let own = Budget::new(limits.connection_bytes_max);
        let raft = Budget::new(PEER_QUEUE_BYTES_MAX as u64);
        loop {
            if !self.begin(session, || places.available_permits() < places_max).await? {
                return Ok(());
            }
            let limits = self.bounds.limits.get();
            let head = match self.reader.head(limits.frame()).await {
                Ok(head) => head,
                Err(error) => return Err(self.refuse(error)),
            };
            let place = Arc::clone(&places).acquire_owned().await.ok();
            let charge = self.pay(session, head, &own, &raft).await;
            // What another node sends is not held in what clients wait for.
            let patience = match session.peer {
                Some(_) => Patience::from(limits.frame()),
                None => Patience::new(limits.frame(), &self.bounds.held, Held::are_requests_waited_for, "silent"),
            };
            let frame = match self.reader.body(head, patience).await {
                Ok(frame) => frame,
                Err(error) => return Err(self.refuse(error)),
            };
            let responder = Responder::new(frame.api, frame.correlation_id, Arc::clone(self.outbox), place, charge);
            match Arc::clone(&self.handler).handle(session, frame, responder) {
                Work::Done => {}
                Work::InOrder(work) => work.await,
                Work::Beside(work) => drop(beside.send(work)),
                Work::Refuse(responder, error) => {
                    responder.error(&error);
                    return Err(error.into());
                }
            }
        }
    }

    /// Waits until a frame's bytes fit the budgets.
    async fn pay(&self, session: &Session, head: Head, own: &Budget, raft: &Budget) -> Charge {
        let bytes = head.bytes + REQUEST_OVERHEAD_BYTES;
        if session.peer.is_some() && head.api == Api::Raft as u16 {
            return raft.take(bytes).await;
        }
        let own = own.take(bytes).await;
        own.and(self.bounds.held.take(bytes).await)
    }

    /// Tells the other side which rule it broke, if it did.
    fn refuse(&self, error: ReadError) -> ReadError {
        if let ReadError::Protocol(error) = &error {
            counter!(names::CONNECTIONS_REFUSED.name, "reason" => error.code.name()).increment(1);
            self.push(encode_error(u16::MAX, 0, error));
        }
        error
    }
}

fn refusal(reason: &'static str, code: ErrorCode, why: &str) -> ReadError {
    counter!(names::CONNECTIONS_REFUSED.name, "reason" => reason).increment(1);
    Error::new(code, why).into()
}

/// Works on requests beside each other.
async fn run(mut work: mpsc::UnboundedReceiver<BoxFuture<'static, ()>>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            more = work.recv() => match more {
                Some(more) => under_way.push(more),
                None => return,
            },
            Some(()) = under_way.next() => {}
        }
    }
}
