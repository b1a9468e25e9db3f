//! Connections that are used badly, against a handler that only counts.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use levada_protocol::{
    error::{Error, ErrorCode},
    frame::{Api, FLAG_ERROR, Frame, FrameDecoder, Preface, encode_request},
    limits::FRAME_BYTES_MAX,
    messages::native::{
        FetchResponse, HandshakeRequest, HandshakeResponse, MetadataRequest, MetadataResponse, ProduceRequest,
        ProduceResponse,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Bounds, Handler, Held, IDLE_AFTER, Session, Work},
    listener::{HANDSHAKES_MAX, listen},
    outbox::Outbox,
    responder::Responder,
    way::Way,
};
use crate::{
    config::{LimitsConfig, LiveLimits, ServerConfig},
    runtime::{
        budget::{Budget, Charge},
        tasks::{Stopper, Tasks},
    },
};

const LONG: Duration = Duration::from_secs(10);

/// Answers produce with the length of its payload, or holds it until told; answers fetch with a large payload.
#[derive(Default)]
struct Fake {
    seen: AtomicUsize,
    holds: bool,
    held: Mutex<Vec<Responder>>,
}

impl Fake {
    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    fn release(&self) {
        for responder in self.held.lock().unwrap().drain(..) {
            responder.answer(Ok(ProduceResponse::default()));
        }
    }
}

impl Handler for Fake {
    fn welcome(&self, request: &HandshakeRequest) -> Result<(HandshakeResponse, Session), Error> {
        Ok((HandshakeResponse { node_id: 7, ..Default::default() }, Session::new(&request.client_id, None)))
    }

    fn handle(self: Arc<Self>, _session: &Arc<Session>, frame: Frame, responder: Responder) -> Work {
        self.seen.fetch_add(1, Ordering::SeqCst);
        match Api::from_u16(frame.api) {
            Some(Api::Produce) if self.holds => self.held.lock().unwrap().push(responder),
            Some(Api::Produce) => {
                let base_offset = frame.payload.len() as u64;
                responder.answer(Ok(ProduceResponse { base_offset, duplicate: false }));
            }
            Some(Api::Fetch) => {
                let payload = vec![Bytes::from(vec![1; 1 << 20])];
                responder.answer_with(Ok((FetchResponse::default(), payload)));
            }
            Some(Api::Metadata) => drop(responder),
            _ => return Work::Refuse(responder, Error::new(ErrorCode::BadFrame, "not that")),
        }
        Work::Done
    }
}

struct Server {
    address: SocketAddr,
    handler: Arc<Fake>,
    bounds: Arc<Bounds>,
    _tasks: Stopper,
}

impl Server {
    async fn start(holds: bool, change: impl FnOnce(&mut LimitsConfig)) -> Self {
        let mut limits = ServerConfig::local(levada_protocol::ids::NodeId(1), "/unused").limits;
        limits.handshake_ms = 300;
        change(&mut limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Arc::new(Bounds {
            held: Held::new(limits.request_bytes_max),
            descriptors: u64::MAX,
            clients: Budget::new(limits.connections_max),
            idle: Way::default(),
            strangers: Way::default(),
            drain: CancellationToken::new(),
            limits: Arc::new(LiveLimits::new(limits)),
        });
        let handler = Arc::new(Fake { holds, ..Fake::default() });
        let tasks = Tasks::new(Handle::current());
        tasks.spawn(listen(listener, Arc::clone(&handler), Arc::clone(&bounds), tasks.clone()));
        Self { address, handler, bounds, _tasks: Stopper(tasks) }
    }

    async fn raw(&self) -> Raw {
        Raw { stream: TcpStream::connect(self.address).await.unwrap(), input: BytesMut::new() }
    }

    async fn client(&self) -> Raw {
        let mut raw = self.raw().await;
        raw.send(&Preface::OURS.encode()).await;
        raw.send(&encode_request(Api::Handshake, 1, &HandshakeRequest::default(), 0)).await;
        let answer: HandshakeResponse = raw.frame().await.unwrap().answer().unwrap();
        assert_eq!((answer.version, answer.node_id), (1, 7));
        raw
    }
}

struct Raw {
    stream: TcpStream,
    input: BytesMut,
}

impl Raw {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` when the server has closed without resetting.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            let read = timeout(LONG, self.stream.read_buf(&mut self.input)).await.expect("an answer or the end");
            if read.expect("no reset") == 0 {
                return None;
            }
        }
    }

    async fn error_and_end(&mut self) -> ErrorCode {
        let frame = self.frame().await.expect("an error");
        assert_eq!(frame.flags, FLAG_ERROR);
        assert!(self.frame().await.is_none(), "closed");
        Error::decode(frame.header).code
    }

    async fn produce(&mut self, id: u64, bytes: usize) {
        let head = encode_request(Api::Produce, id, &ProduceRequest::default(), bytes);
        self.send(&head).await;
        self.send(&vec![0; bytes]).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn what_is_no_preface_is_told_so() {
    let server = Server::start(false, |_| {}).await;
    let mut http = server.raw().await;
    http.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(http.error_and_end().await, ErrorCode::BadFrame);

    let mut newer = server.raw().await;
    newer.send(&Preface { version_min: 7, version_max: 9 }.encode()).await;
    newer.send(&encode_request(Api::Handshake, 1, &HandshakeRequest::default(), 0)).await;
    assert_eq!(newer.error_and_end().await, ErrorCode::UnsupportedVersion);

    let mut impatient = server.raw().await;
    impatient.send(&Preface::OURS.encode()).await;
    impatient.produce(1, 10).await;
    assert_eq!(impatient.error_and_end().await, ErrorCode::BadFrame);

    let mut large = server.raw().await;
    large.send(&Preface::OURS.encode()).await;
    let client_id = "x".repeat(17 << 10);
    large.send(&encode_request(Api::Handshake, 1, &HandshakeRequest { client_id, ..Default::default() }, 0)).await;
    assert_eq!(large.error_and_end().await, ErrorCode::BadFrame, "more than a handshake takes");
    assert_eq!(server.handler.seen(), 0);
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let server = Server::start(false, |_| {}).await;
    let mut silent = server.raw().await;
    assert!(silent.frame().await.is_none());
    let mut half = server.raw().await;
    half.send(b"LVD").await;
    assert!(half.frame().await.is_none());
}

#[tokio::test]
async fn lies_about_lengths_end_the_connection_with_an_error() {
    let server = Server::start(false, |_| {}).await;
    for length in [u32::MAX, u32::try_from(FRAME_BYTES_MAX).unwrap() + 1, 0, 15] {
        let mut client = server.client().await;
        client.send(&[&length.to_le_bytes()[..], &[0; 16]].concat()).await;
        assert_eq!(client.error_and_end().await, ErrorCode::BadFrame, "{length}");
    }
    let mut client = server.client().await;
    let mut frame = encode_request(Api::Produce, 1, &ProduceRequest::default(), 0).to_vec();
    frame[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    client.send(&frame).await;
    assert_eq!(client.error_and_end().await, ErrorCode::BadFrame);
    assert_eq!(server.bounds.held.requests.held(), 0, "nothing stays charged");
}

#[tokio::test]
async fn half_a_frame_is_given_up_and_its_charge_returned() {
    let server = Server::start(false, |limits| limits.frame_ms = 300).await;
    let mut client = server.client().await;
    client.send(&encode_request(Api::Produce, 1, &ProduceRequest::default(), 40 << 20)).await;
    client.send(&[0; 1000]).await;
    until("the frame is charged before it is read", || server.bounds.held.requests.held() > 40 << 20).await;
    assert!(client.frame().await.is_none(), "closed");
    until("given back", || server.bounds.held.requests.held() == 0).await;
    assert_eq!(server.handler.seen(), 0);
}

#[tokio::test]
async fn a_refused_request_gets_its_error_and_the_connection_ends() {
    let server = Server::start(false, |_| {}).await;
    let mut client = server.client().await;
    client.produce(5, 3).await;
    client.send(&encode_request(Api::DeleteTopic, 6, &ProduceRequest::default(), 0)).await;
    client.produce(7, 3).await;
    assert_eq!(client.frame().await.unwrap().correlation_id, 5);
    let refused = client.frame().await.unwrap();
    assert_eq!((refused.correlation_id, refused.is_error()), (6, true));
    assert!(client.frame().await.is_none());
    assert_eq!(server.handler.seen(), 2, "what came behind it is not looked at");
}

#[tokio::test]
async fn a_request_that_is_dropped_is_answered_all_the_same() {
    let server = Server::start(false, |_| {}).await;
    let mut client = server.client().await;
    client.send(&encode_request(Api::Metadata, 9, &ProduceRequest::default(), 0)).await;
    let error = client.frame().await.unwrap().answer::<ProduceResponse>().unwrap_err();
    assert_eq!(error.code, ErrorCode::OutcomeUnknown);
}

#[tokio::test]
async fn past_its_budget_a_connection_is_not_read() {
    const MIB: usize = 1 << 20;
    let server = Server::start(true, |limits| limits.connection_bytes_max = 4 << 20).await;
    let mut client = server.client().await;
    let (sender, handler) = (&mut client, &server.handler);
    let send = async {
        for id in 0..12 {
            sender.produce(id, MIB).await;
        }
    };
    let check = async {
        until("three fit", || handler.seen() == 3).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(handler.seen(), 3, "the fourth, with its overhead, does not");
        while handler.seen() < 12 {
            handler.release();
            sleep(Duration::from_millis(5)).await;
        }
        handler.release();
    };
    timeout(LONG, async { tokio::join!(send, check) }).await.expect("it goes on when there is room");
    for _ in 0..12 {
        assert!(!client.frame().await.unwrap().is_error());
    }
}

#[tokio::test]
async fn all_connections_together_have_a_budget_too() {
    // Three quarters of it are for large requests.
    let server = Server::start(true, |limits| limits.request_bytes_max = 88 << 20).await;
    let bytes = 30 << 20;
    let (mut one, mut two, mut three) = (server.client().await, server.client().await, server.client().await);
    one.produce(1, bytes).await;
    two.produce(1, bytes).await;
    until("two fit", || server.handler.seen() == 2).await;
    let release = async {
        sleep(Duration::from_millis(50)).await;
        assert_eq!(server.handler.seen(), 2);
        server.handler.release();
        until("the third is read", || server.handler.seen() == 3).await;
    };
    tokio::join!(three.produce(1, bytes), release);
}

#[tokio::test]
async fn requests_under_way_are_bounded_even_when_they_are_small() {
    let server = Server::start(true, |limits| limits.connection_requests_max = 5).await;
    let mut client = server.client().await;
    for id in 0..9 {
        client.produce(id, 1).await;
    }
    until("five fit", || server.handler.seen() == 5).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(server.handler.seen(), 5);
    server.handler.release();
    until("four more", || server.handler.seen() == 9).await;
}

#[tokio::test]
async fn who_does_not_read_answers_is_cut_off() {
    let server = Server::start(false, |limits| {
        limits.connection_requests_max = 8;
        limits.frame_ms = 500;
    })
    .await;
    let mut client = server.client().await;
    for id in 0..64 {
        client.send(&encode_request(Api::Fetch, id, &ProduceRequest::default(), 0)).await;
    }
    // Eight answers of a megabyte wait, or a few more that fit the kernel's buffers; then nothing is read any more.
    sleep(Duration::from_millis(200)).await;
    assert!(server.handler.seen() < 40, "{}", server.handler.seen());
    let wait = async {
        loop {
            // Writing fails when the other side is gone.
            if client.stream.write_all(&[0; 1]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, wait).await.expect("cut off");
}

#[tokio::test]
async fn a_full_server_says_so_and_an_idle_connection_ends() {
    let server = Server::start(false, |limits| {
        limits.connections_max = 1;
        limits.idle_ms = 400;
    })
    .await;
    let mut first = server.client().await;
    let mut second = server.client().await;
    assert_eq!(second.error_and_end().await, ErrorCode::Busy);
    first.produce(1, 1).await;
    assert!(first.frame().await.is_some());
    assert!(first.frame().await.is_none(), "idle for long enough");
    let mut third = server.client().await;
    third.produce(1, 1).await;
    assert!(third.frame().await.is_some(), "the place is free again");
}

#[tokio::test]
async fn who_is_idle_longest_makes_room_for_another() {
    let server = Server::start(false, |limits| limits.connections_max = 2).await;
    let (mut idle, mut busy) = (server.client().await, server.client().await);
    let work = async {
        for id in 0.. {
            busy.produce(id, 1).await;
            assert!(!busy.frame().await.expect("who has requests stays").is_error());
            sleep(Duration::from_millis(100)).await;
        }
    };
    let come = async {
        sleep(IDLE_AFTER + Duration::from_secs(1)).await;
        let mut late = server.client().await;
        late.produce(1, 1).await;
        assert!(!late.frame().await.expect("the idle one makes room").is_error());
        assert!(idle.frame().await.is_none());
    };
    tokio::select! {
        () = work => {}
        () = come => {}
    }
}

#[tokio::test]
async fn who_says_nothing_goes_when_too_many_others_come() {
    let server = Server::start(false, |limits| limits.handshake_ms = 60_000).await;
    let mut oldest = server.raw().await;
    oldest.send(b"LVD").await;
    let mut others = Vec::new();
    for _ in 1..HANDSHAKES_MAX {
        others.push(server.raw().await);
    }
    let mut client = timeout(LONG, server.client()).await.expect("a place");
    client.produce(1, 1).await;
    assert!(!client.frame().await.unwrap().is_error());
    assert!(oldest.frame().await.is_none(), "it has made room");
    let newest = others.last_mut().unwrap();
    assert!(timeout(Duration::from_millis(50), newest.frame()).await.is_err(), "this one has not");
}

#[tokio::test]
async fn half_a_frame_does_not_keep_out_others_for_long() {
    let server = Server::start(false, |limits| limits.request_bytes_max = 40 << 20).await;
    let mut half = server.client().await;
    half.send(&encode_request(Api::Produce, 1, &ProduceRequest::default(), 39 << 20)).await;
    half.send(&[0; 1000]).await;
    until("charged", || server.bounds.held.requests.held() >= 30 << 20).await;
    let mut client = server.client().await;
    client.produce(1, 1000).await;
    assert!(!client.frame().await.expect("what is small has room").is_error());
    assert!(!server.bounds.held.are_requests_waited_for());
    client.produce(2, 2 << 20).await;
    assert!(!client.frame().await.expect("long before `frame_ms`").is_error());
    assert!(half.frame().await.is_none(), "closed");
}

#[tokio::test]
async fn answers_that_nobody_takes_do_not_keep_out_others_for_long() {
    let server = Server::start(false, |_| {}).await;
    let mut stalled = server.client().await;
    for id in 0..64 {
        stalled.send(&encode_request(Api::Fetch, id, &ProduceRequest::default(), 0)).await;
    }
    until("they are made", || server.handler.seen() == 64).await;
    let answers = &server.bounds.held.answers;
    let _all = answers.take(usize::MAX).await;
    let gone = async {
        // Writing fails when the other side is gone.
        while stalled.stream.write_all(&[0; 1]).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = answers.take(1) => panic!("there is none"),
        gone = timeout(LONG, gone) => gone.expect("long before `frame_ms`"),
    }
}

#[tokio::test]
async fn a_connection_with_a_request_under_way_is_not_idle() {
    let server = Server::start(true, |limits| limits.idle_ms = 100).await;
    let mut client = server.client().await;
    client.produce(1, 1).await;
    until("it is there", || server.handler.seen() == 1).await;
    sleep(Duration::from_millis(350)).await;
    server.handler.release();
    assert!(!client.frame().await.unwrap().is_error());
}

#[tokio::test]
async fn at_the_end_answers_that_are_ready_are_still_written() {
    let server = Server::start(true, |_| {}).await;
    let mut client = server.client().await;
    client.produce(1, 1).await;
    until("it is there", || server.handler.seen() == 1).await;
    server.handler.release();
    server.bounds.drain.cancel();
    assert!(!client.frame().await.unwrap().is_error());
    assert!(client.frame().await.is_none());
    assert!(
        timeout(Duration::from_secs(1), TcpStream::connect(server.address)).await.unwrap().is_err(),
        "nobody listens"
    );
}

#[tokio::test]
async fn a_client_is_not_taken_at_its_word_for_a_large_header() {
    let server = Server::start(false, |_| ()).await;
    let mut client = server.client().await;
    let names = MetadataRequest { topics: vec![String::new(); 300_000], ..Default::default() };
    client.send(&encode_request(Api::Metadata, 2, &names, 0)[..64]).await;
    assert_eq!(client.error_and_end().await, ErrorCode::BadFrame);
    assert_eq!(server.handler.seen(), 0);
}

#[tokio::test]
async fn an_answer_that_no_frame_takes_is_an_error() {
    let outbox = Arc::new(Outbox::default());
    let responder = |id| Responder::new(Api::Metadata as u16, id, Arc::clone(&outbox), None, Charge::default());
    responder(1).answer(Ok(MetadataResponse { unknown: vec!["x".repeat(1 << 20); 5], ..Default::default() }));
    responder(2).answer(Ok(MetadataResponse::default()));
    outbox.close();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (here, _) = listener.accept().await.unwrap();
    outbox.run(here.into_split().1, LONG).await.unwrap();
    let mut written = BytesMut::new();
    while there.read_buf(&mut written).await.unwrap() > 0 {}
    let mut next = || FrameDecoder::new(FRAME_BYTES_MAX).decode(&mut written).unwrap().unwrap();
    assert_eq!(next().answer::<MetadataResponse>().unwrap_err().code, ErrorCode::InvalidRequest);
    assert_eq!(next().answer::<MetadataResponse>().unwrap(), MetadataResponse::default());
}
