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
    responder::Responder,
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

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Arc<LiveLimits>,
    /// Bytes of requests of all clients.
    pub(crate) requests: Budget,
    /// Descriptors below this are for connections.
    pub(crate) descriptors: u64,
    /// Places for clients.
    pub(crate) clients: Budget,
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
    let write = outbox.run(writer, bounds.limits.get().frame());
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
struct Counted;

impl Counted {
    fn new() -> Self {
        gauge!(names::CONNECTIONS.name).increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(names::CONNECTIONS.name).decrement(1.0);
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
        let handshake = self.bounds.limits.get().handshake();
        let (correlation_id, result) = match timeout(handshake, self.hello()).await {
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
            None => match self.bounds.clients.try_take(1) {
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
        let _counted = Counted::new();
        let (beside, work) = mpsc::unbounded_channel();
        tokio::select! {
            ended = self.read(&session, beside) => ended,
            () = run(work) => Ok(()),
        }
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
            let limits = self.bounds.limits.get();
            match timeout(limits.idle(), self.reader.begin()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if places.available_permits() < places_max => continue,
                Err(_) => return Ok(()),
            }
            let head = match self.reader.head(limits.frame()).await {
                Ok(head) => head,
                Err(error) => return Err(self.refuse(error)),
            };
            let place = Arc::clone(&places).acquire_owned().await.ok();
            let charge = self.pay(session, head, &own, &raft).await;
            let frame = match self.reader.body(head, limits.frame()).await {
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
        own.and(self.bounds.requests.take(bytes).await)
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
