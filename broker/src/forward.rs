//! Requests to other nodes: a small native client, one pipelined connection to each node, opened when it is needed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode},
    frame::{Api, Frame, check_size, encode_request},
    ids::NodeId,
};
use tokio::{
    net::tcp::OwnedReadHalf,
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    cluster::addresses::AddressBook,
    net::{
        dial::{self, Caller},
        frames::{FrameReader, ReadError},
        write::write_all,
    },
    runtime::{clock, tasks::Tasks, worker::timed_out},
};

/// A connection that takes nothing, or stops in the middle of a frame, for this long is given up.
const STALL: Duration = Duration::from_secs(10);
/// Requests that wait to be written to one node.
const REQUESTS_QUEUED_MAX: usize = 256;
/// Past so many requests without an answer, those that nobody waits for are forgotten.
const UNANSWERED_SWEEP: usize = 1024;

/// Why a request was not answered with success.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) error: Error,
    /// It may have been carried out: it left this node, and no answer came.
    pub(crate) in_doubt: bool,
}

impl CallError {
    /// For requests that may be sent twice: a broken connection is a reason to try again.
    pub(crate) fn harmless(self) -> Self {
        Self { in_doubt: false, ..self }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        error.error
    }
}

fn unsent(error: Error) -> CallError {
    CallError { error, in_doubt: false }
}

/// Sends requests to other nodes.
#[derive(Debug)]
pub(crate) struct Forwarder {
    caller: Caller,
    book: Arc<AddressBook>,
    tasks: Tasks,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    attempts: AtomicU64,
}

/// A connection to one node, open or being opened.
#[derive(Debug)]
struct Link {
    requests: mpsc::Sender<Call>,
    broken: AtomicBool,
}

#[derive(Debug)]
struct Call {
    api: Api,
    make: Made,
    answer: Answer,
}

/// A request without its correlation id.
struct Made {
    head: Box<dyn FnOnce(u64) -> Bytes + Send>,
    payload: Bytes,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("payload_bytes", &self.payload.len()).finish_non_exhaustive()
    }
}

/// What was written and is not answered.
type Unanswered = Mutex<BTreeMap<u64, (Api, Answer)>>;

/// Where an answer goes.
type Answer = oneshot::Sender<std::result::Result<Frame, CallError>>;

impl Forwarder {
    pub(crate) fn new(caller: Caller, book: Arc<AddressBook>, tasks: Tasks) -> Self {
        Self { caller, book, tasks, links: Mutex::default(), attempts: AtomicU64::new(0) }
    }

    /// Sends a request to a node and waits for its answer.
    pub(crate) async fn call<M: prost::Message + Default>(
        &self,
        to: NodeId,
        api: Api,
        request: impl prost::Message + 'static,
        payload: Bytes,
        deadline: Instant,
    ) -> std::result::Result<M, CallError> {
        let payload_bytes = payload.len();
        check_size(&request, payload_bytes).map_err(unsent)?;
        let head = Box::new(move |id| encode_request(api, id, &request, payload_bytes));
        let (answer, answered) = oneshot::channel();
        let call = Call { api, make: Made { head, payload }, answer };
        let link = self.link(to)?;
        let wait = async {
            let gone = || Error::new(ErrorCode::Disconnected, format!("the connection to node {to} broke"));
            link.requests.send(call).await.map_err(|_| unsent(gone()))?;
            answered.await.unwrap_or_else(|_| Err(CallError { error: gone(), in_doubt: true }))
        };
        let late = |_| CallError { error: timed_out(), in_doubt: true };
        let frame = timeout(clock::left(deadline), wait).await.map_err(late)??;
        frame.answer().map_err(|error| CallError { in_doubt: error.code == ErrorCode::BadFrame, error })
    }

    fn link(&self, to: NodeId) -> std::result::Result<Arc<Link>, CallError> {
        let mut links = lock(&self.links);
        if let Some(link) = links.get(&to)
            && !link.broken.load(Ordering::Relaxed)
        {
            return Ok(Arc::clone(link));
        }
        let attempt = usize::try_from(self.attempts.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
        let address = self.book.native(to, attempt).ok_or_else(|| {
            unsent(Error::new(ErrorCode::NotReady, format!("the address of node {to} is not known here yet")))
        })?;
        let (requests, queue) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let link = Arc::new(Link { requests, broken: AtomicBool::new(false) });
        links.insert(to, Arc::clone(&link));
        self.tasks.spawn(serve(Arc::clone(&link), address, to, self.caller, queue));
        Ok(link)
    }
}

/// Opens a connection and carries requests until it breaks.
async fn serve(link: Arc<Link>, address: String, to: NodeId, caller: Caller, mut queue: mpsc::Receiver<Call>) {
    let _broken = Broken(Arc::clone(&link));
    drop(link);
    let unanswered = Unanswered::default();
    let (error, in_doubt) = match dial::dial(&address, to, caller).await {
        Ok(connection) => (carry(connection, &address, &mut queue, &unanswered).await, true),
        Err(error) => (error, false),
    };
    tracing::debug!(node = to.get(), %error, "forward.disconnected");
    for (_, answer) in std::mem::take(&mut *lock(&unanswered)).into_values() {
        drop(answer.send(Err(CallError { error: error.clone(), in_doubt })));
    }
    queue.close();
    while let Ok(call) = queue.try_recv() {
        drop(call.answer.send(Err(unsent(error.clone()))));
    }
}

/// Marks a link as of no use, however its task ends.
struct Broken(Arc<Link>);

impl Drop for Broken {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::Relaxed);
    }
}

async fn carry(
    connection: dial::Connection,
    address: &str,
    queue: &mut mpsc::Receiver<Call>,
    unanswered: &Unanswered,
) -> Error {
    let dial::Connection { mut reader, mut writer, .. } = connection;
    let write = async {
        let mut chunks = VecDeque::new();
        let mut last_id = 0;
        while let Some(call) = queue.recv().await {
            let mut next = Some(call);
            while let Some(call) = next {
                last_id += 1;
                chunks.push_back((call.make.head)(last_id));
                chunks.push_back(call.make.payload);
                remember(unanswered, last_id, call.api, call.answer);
                next = if chunks.len() < 64 { queue.try_recv().ok() } else { None };
            }
            if let Err(error) = write_all(&mut writer, &mut chunks, STALL).await {
                return dial::lost(address, &error);
            }
        }
        dial::lost(address, &"it is not needed any more")
    };
    tokio::select! {
        error = write => error,
        error = read(&mut reader, unanswered) => match error {
            Some(error) => dial::lost(address, &error),
            None => dial::lost(address, &"it closed the connection"),
        },
    }
}

fn remember(unanswered: &Unanswered, id: u64, api: Api, answer: Answer) {
    let mut unanswered = lock(unanswered);
    if unanswered.len() >= UNANSWERED_SWEEP {
        // The other node hangs, and nobody waits any more.
        unanswered.retain(|_, (_, answer)| !answer.is_closed());
    }
    unanswered.insert(id, (api, answer));
}

/// Hands answers to who waits for them.
async fn read(reader: &mut FrameReader<OwnedReadHalf>, unanswered: &Unanswered) -> Option<ReadError> {
    let mut next = async || {
        if !reader.begin().await? {
            return Ok(None);
        }
        let head = reader.head(STALL).await?;
        reader.body(head, STALL).await.map(Some)
    };
    loop {
        match next().await {
            Ok(Some(frame)) => {
                // Nobody may wait any more.
                if let Some((api, answer)) = lock(unanswered).remove(&frame.correlation_id)
                    && api as u16 == frame.api
                {
                    drop(answer.send(Ok(frame)));
                }
            }
            Ok(None) => return None,
            Err(error) => return Some(error),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which errors of a request say that it was not carried out, and may be soon, here or elsewhere.
pub(crate) fn may_retry(error: &Error) -> bool {
    matches!(
        error.code,
        ErrorCode::NotLeader
            | ErrorCode::NotController
            | ErrorCode::NotReady
            | ErrorCode::Busy
            | ErrorCode::DiskFull
            | ErrorCode::ShuttingDown
    )
}
