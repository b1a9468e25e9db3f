//! The worker: owns the node core, feeds it events and performs its effects.
//!
//! **A round** (`rounds.rs`): take what is in the queue, up to a bound; let the core end the round ([`Node::flush`]);
//! perform the effects. What arrives while the journal syncs shares the next round, so batches share raft entries and
//! entries share journal blocks without anybody waiting on purpose.
//!
//! **Whose thread.** The core has a thread, which sees to its ticks. But to wake up a thread costs more than most rounds,
//! and a produce would wait for five of them on its way. So whoever brings an event (the task that read it from a socket,
//! the lane that wrote it to the disk) does the round itself, if nobody is at it: then a follower's acknowledgement leaves
//! from the very thread that synced its journal. If somebody is at it, the event waits in the queue, and whoever that is
//! looks again before it goes. Past a few rounds in a millisecond nobody helps any more: under load the core's own thread
//! does everything, in large rounds (`docs/adr/0005`).
//!
//! **Queues.** Requests wait for a place in the queue ([`Worker::submit`]), so it stays short; messages of peers carry
//! the charge of their connection, and disk completions are as many as there are jobs. A round waits for
//! nobody: it hands jobs to lanes, messages to peers and answers to closures, all of which return at once. (It still reads
//! from segments for a follower that is far behind, and when a segment is written to for the first time after a restart.)
//!
//! **Answers.** Every request is answered exactly once, by the core, or with `Timeout` when its deadline passes. The
//! bytes of a request that timed out stay charged until the core lets go of it: a hung disk must not make room for more.
//!
//! **The end.** A failed disk or a panic of the core ends the worker, never just a round: whatever the core held is in
//! doubt then. [`WorkerState`] tells the server, which ends the process.

mod rounds;

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
    thread::{self, Thread},
    time::Instant,
};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::NodeId,
};
use levada_storage_engine::disk::{Disk, DiskSpace};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use self::rounds::{Next, Rounds};
use super::{budget::Charge, clock::Clock, lanes::Lanes, peers::Peers, reads::Reads};
use crate::{
    follow::ProduceStory,
    node::{
        MemberLoss, Node,
        event::{Answer, Event, Request, Settings},
    },
    raft::wire::PeerMessage,
};

/// Rounds that somebody does who only came to bring an event.
const HELPED_AT_ONCE_MAX: usize = 4;
/// Requests that may wait in the queue.
const REQUESTS_QUEUED_MAX: usize = 4096;

/// Called with the answer to a request, in the middle of a round: it must be quick. Names who is to be flushed at the end of
/// the round, if anybody.
pub type Reply = Box<dyn FnOnce(Result<Answer>) -> Option<Arc<dyn Flush>> + Send>;

/// Something that gathers answers and sends them off together.
pub trait Flush: Send + Sync {
    /// Sends off what was gathered; `directly` from the calling thread if that costs no more than a short system call.
    fn flush(&self, directly: bool);
}

/// How the worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It works.
    Running,
    /// After [`Worker::shutdown`]: nothing is led here any more.
    ReadyToStop,
    /// It has ended as told.
    Stopped,
    /// It has ended by itself, for this reason.
    Failed(Arc<str>),
    /// It has ended by itself, as the node needs another replica of the metadata group, for this reason.
    GaveUpMetadata(MemberLoss, Arc<str>),
}

impl WorkerState {
    /// Whether it has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Stopped | Self::Failed(_) | Self::GaveUpMetadata(..))
    }
}

enum Input {
    Event(Event),
    Messages { from: NodeId, messages: Vec<PeerMessage>, charge: Charge },
    Request(Asked),
    Stop,
}

struct Asked {
    request: Request,
    deadline: Instant,
    charge: Charge,
    reply: Reply,
    story: Option<Arc<ProduceStory>>,
    _place: OwnedSemaphorePermit,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Messages { .. } => "Messages",
            Self::Request(_) => "Request",
            Self::Stop => "Stop",
        })
    }
}

/// The way to the worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    state: watch::Receiver<WorkerState>,
}

/// What everybody who brings events shares.
///
/// * Nobody leaves `rounds` unlocked with something queued and the thread asleep: who unlocks looks into the queue
///   afterwards, who queues tries the lock afterwards. As the queue has a lock of its own, one of them sees the other.
/// * The queue's lock is held for moments only, and nothing else is locked meanwhile.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// `None` before the beginning and after the end.
    rounds: Mutex<Option<Rounds>>,
    /// The core's own thread.
    thread: OnceLock<Thread>,
}

/// Events in the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    inputs: VecDeque<Input>,
    /// After the end nobody takes anything.
    closed: bool,
}

impl Worker {
    /// Starts the threads around a node.
    ///
    /// # Errors
    /// When the system gives no threads.
    #[allow(clippy::disallowed_methods, reason = "a driver: it spawns its thread")]
    pub fn start(node: Node, disk: &Arc<dyn Disk>, clock: Clock, peers: Arc<Peers>) -> io::Result<Self> {
        let (state, states) = watch::channel(WorkerState::Running);
        let shared = Arc::new(Shared { queue: Mutex::default(), rounds: Mutex::new(None), thread: OnceLock::new() });
        let reporter = Arc::clone(&shared);
        let lanes =
            Lanes::start(disk, move |token, result| reporter.send(Input::Event(Event::Disk { token, result })))?;
        let reporter = Arc::clone(&shared);
        let reads = Reads::start(disk, move |token, result| {
            reporter.send(Input::Event(Event::Read { token, result }));
        })?;
        *shared.rounds() = Some(Rounds::new(node, clock, (lanes, reads), peers, state.clone()));
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new().name("node".to_owned()).spawn(move || own.run(state));
        let thread = thread.inspect_err(|_| drop(shared.rounds().take()))?;
        let _ = shared.thread.set(thread.thread().clone());
        Ok(Self { shared, places: Arc::new(Semaphore::new(REQUESTS_QUEUED_MAX)), state: states })
    }

    /// How it is, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<WorkerState> {
        self.state.clone()
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn is_running(&self) -> bool {
        *self.state.borrow() == WorkerState::Running
    }

    /// Hands over a request, waiting for a place in the queue. `charge` is held until the core has let go of it; `reply`
    /// is called once, or dropped when the worker has ended.
    pub async fn submit(&self, request: Request, deadline: Instant, charge: Charge, reply: Reply) {
        self.submit_followed(request, deadline, charge, reply, None).await;
    }

    /// The same for a produce that is followed: its story is told how far it comes.
    pub async fn submit_followed(
        &self,
        request: Request,
        deadline: Instant,
        charge: Charge,
        reply: Reply,
        story: Option<Arc<ProduceStory>>,
    ) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the queue's places are never closed");
        self.shared.send(Input::Request(Asked { request, deadline, charge, reply, story, _place: place }));
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the core answers; `Timeout`; `OutcomeUnknown` when the worker has ended.
    pub async fn ask(&self, request: Request, deadline: Instant, charge: Charge) -> Result<Answer> {
        self.ask_followed(request, deadline, charge, None).await
    }

    /// The same for a produce that is followed.
    ///
    /// # Errors
    /// As [`Worker::ask`].
    pub async fn ask_followed(
        &self,
        request: Request,
        deadline: Instant,
        charge: Charge,
        story: Option<Arc<ProduceStory>>,
    ) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        let reply = Box::new(move |result| {
            drop(reply.send(result));
            None
        });
        self.submit_followed(request, deadline, charge, reply, story).await;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Hands over messages of another node. `charge` is held until the core has taken them.
    pub fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>, charge: Charge) {
        self.shared.send(Input::Messages { from, messages, charge });
    }

    /// Tells that messages to a node were lost.
    pub fn unreachable(&self, node: NodeId) {
        self.shared.send(Input::Event(Event::Unreachable { node }));
    }

    /// Tells what the disk has left.
    pub fn space(&self, space: Option<DiskSpace>) {
        self.shared.send(Input::Event(Event::Space(space)));
    }

    /// Tells the core other settings.
    pub fn configure(&self, settings: Settings) {
        self.shared.send(Input::Event(Event::Settings(settings)));
    }

    /// Asks the core to hand leadership over; [`WorkerState::ReadyToStop`] follows.
    pub fn shutdown(&self) {
        self.shared.send(Input::Event(Event::Shutdown));
    }

    /// Ends the worker once it has performed what came before.
    pub fn stop(&self) {
        self.shared.send(Input::Stop);
    }
}

impl Shared {
    /// Queues something, and sees to it that somebody takes it.
    fn send(&self, input: Input) {
        {
            let mut queue = self.queue();
            if queue.closed {
                // Dropping it is the answer, but not under the lock.
                drop(queue);
                return drop(input);
            }
            queue.inputs.push_back(input);
        }
        self.help();
    }

    /// Does what is queued, if nobody else is at it and there is no load; the core's thread does what is left.
    fn help(&self) {
        for _ in 0..HELPED_AT_ONCE_MAX {
            match self.rounds.try_lock() {
                Ok(mut rounds) => {
                    let Some(rounds) = &mut *rounds else { return };
                    if !rounds.may_be_helped() || rounds.round(&self.queue) == Next::End {
                        break;
                    }
                }
                // Who is at it looks again.
                Err(TryLockError::WouldBlock) => return,
                // The core has panicked; its thread sees to that.
                Err(TryLockError::Poisoned(_)) => break,
            }
            if self.queue().inputs.is_empty() {
                return;
            }
        }
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    fn rounds(&self) -> MutexGuard<'_, Option<Rounds>> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core's thread.
    fn run(self: Arc<Self>, state: watch::Sender<WorkerState>) {
        let _end = End { shared: &self, state };
        loop {
            let wait = {
                let Ok(mut rounds) = self.rounds.lock() else { return };
                let Some(rounds) = &mut *rounds else { return };
                if rounds.round(&self.queue) == Next::End {
                    return;
                }
                rounds.wait()
            };
            if self.queue().inputs.is_empty() {
                thread::park_timeout(wait);
            }
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended() -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        "the node ended before the answer was there; a write may have happened or not",
    )
}

/// However the core's thread ends: nobody does another round, the lanes end, and then it is told.
struct End<'s> {
    shared: &'s Shared,
    state: watch::Sender<WorkerState>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let panicked = self.shared.rounds.is_poisoned();
        let rounds = self.shared.rounds().take();
        // Not under the lock: a lane that still has something to report tries it.
        drop(rounds);
        let left = {
            let mut queue = self.shared.queue();
            queue.closed = true;
            std::mem::take(&mut queue.inputs)
        };
        drop(left);
        self.state.send_if_modified(|state| {
            *state = match state {
                WorkerState::Failed(_) | WorkerState::GaveUpMetadata(..) => return false,
                _ if panicked => {
                    WorkerState::Failed("the node core panicked; its last words are on standard error".into())
                }
                _ => WorkerState::Stopped,
            };
            true
        });
    }
}

/// The answer to who has waited long enough.
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorCode::Timeout, "no answer within the time allowed; a write may have happened or not")
}

#[cfg(test)]
mod tests;
