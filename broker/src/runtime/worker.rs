//! The worker: a thread that owns the node core, feeds it events and performs its effects.
//!
//! **A round**: wait for the first event or the next tick; take what else is there, up to a bound; let the core end the
//! round ([`Node::flush`]); perform the effects. What arrives while the journal syncs shares the next round, so batches
//! share raft entries and entries share journal blocks without anybody waiting on purpose.
//!
//! **Queues.** Requests wait for a place in the queue ([`Worker::submit`]), so it stays short; messages of peers carry
//! the charge of their connection, and disk completions are as many as there are jobs. The worker itself never waits
//! for anything but its queue: it hands jobs to lanes, messages to peers and answers to closures, all of which return
//! at once.
//!
//! **Answers.** Every request is answered exactly once, by the core, or with `Timeout` when its deadline passes. The
//! bytes of a request that timed out stay charged until the core lets go of it: a hung disk must not make room for more.
//!
//! **The end.** A failed disk or a panic of the core ends the thread, never just a round: whatever the core held is in
//! doubt then. [`WorkerState`] tells the server, which ends the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::NodeId,
};
use levada_storage_engine::disk::Disk;
use metrics::{Gauge, Histogram, counter, gauge, histogram};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{budget::Charge, clock, clock::Clock, lanes::Lanes, peers::Peers, ticks::Ticks};
use crate::{
    metrics as names,
    node::{
        Node,
        event::{Answer, Effect, Event, Request, RequestId},
    },
    raft::wire::PeerMessage,
};

/// Requests that may wait in the queue.
const REQUESTS_QUEUED_MAX: usize = 4096;
/// The most events of one round, so that effects are not put off for ever.
const ROUND_EVENTS_MAX: usize = 1024;

/// Called with the answer to a request, on the worker's thread: it must be quick. Names who is to be flushed at the end of
/// the round, if anybody.
pub type Reply = Box<dyn FnOnce(Result<Answer>) -> Option<Arc<dyn Flush>> + Send>;

/// Something that gathers answers and sends them off together.
pub trait Flush: Send + Sync {
    /// Sends off what was gathered; `directly` from the calling thread if that costs no more than a short system call.
    fn flush(&self, directly: bool);
}

/// Answers of a round go directly to so many connections; with more, each of their tasks does its own.
const FLUSHED_DIRECTLY_MAX: usize = 4;

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
    _place: OwnedSemaphorePermit,
}

/// The way to the worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worker {
    queue: mpsc::Sender<Input>,
    queued: Arc<AtomicUsize>,
    places: Arc<Semaphore>,
    state: watch::Receiver<WorkerState>,
}

impl Worker {
    /// Starts the threads around a node.
    ///
    /// # Errors
    /// When the system gives no threads.
    #[allow(clippy::disallowed_methods, reason = "a driver: it spawns its thread")]
    pub fn start(node: Node, disk: &Arc<dyn Disk>, clock: Clock, peers: Arc<Peers>) -> io::Result<Self> {
        let (queue, inputs) = mpsc::channel();
        let (state, states) = watch::channel(WorkerState::Running);
        let queued = Arc::new(AtomicUsize::new(0));
        let worker = Self {
            queue,
            queued: Arc::clone(&queued),
            places: Arc::new(Semaphore::new(REQUESTS_QUEUED_MAX)),
            state: states,
        };
        let reporter = worker.clone();
        let lanes =
            Lanes::start(disk, move |token, result| reporter.send(Input::Event(Event::Disk { token, result })))?;
        let thread = Thread {
            node,
            clock,
            ticks: Ticks::new(clock.mono_ms()),
            lanes,
            peers,
            inputs,
            queued,
            pending: BTreeMap::new(),
            last_request: 0,
            unreachable: BTreeSet::new(),
            effects: Vec::new(),
            answered: Vec::new(),
            round_seconds: histogram!(names::WORKER_ROUND_SECONDS),
            queue_length: gauge!(names::WORKER_QUEUE),
            tail_bytes: gauge!(names::TAIL_BYTES),
            backlog_bytes: gauge!(names::BACKLOG_BYTES),
            state: Ending(state),
        };
        std::thread::Builder::new().name("node".to_owned()).spawn(move || thread.run())?;
        Ok(worker)
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
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the queue's places are never closed");
        self.send(Input::Request(Asked { request, deadline, charge, reply, _place: place }));
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the core answers; `Timeout`; `OutcomeUnknown` when the worker has ended.
    pub async fn ask(&self, request: Request, deadline: Instant, charge: Charge) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.submit(request, deadline, charge, Box::new(move |result| {
            drop(reply.send(result));
            None
        }))
        .await;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Hands over messages of another node. `charge` is held until the core has taken them.
    pub fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>, charge: Charge) {
        self.send(Input::Messages { from, messages, charge });
    }

    /// Tells that messages to a node were lost.
    pub fn unreachable(&self, node: NodeId) {
        self.send(Input::Event(Event::Unreachable { node }));
    }

    /// Asks the core to hand leadership over; [`WorkerState::ReadyToStop`] follows.
    pub fn shutdown(&self) {
        self.send(Input::Event(Event::Shutdown));
    }

    /// Ends the thread once it has performed what came before.
    pub fn stop(&self) {
        self.send(Input::Stop);
    }

    fn send(&self, input: Input) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        // After the end nobody takes it: dropping it is the answer.
        drop(self.queue.send(input));
    }
}

fn ended() -> Error {
    Error::new(
        ErrorCode::OutcomeUnknown,
        "the node ended before the answer was there; a write may have happened or not",
    )
}

/// A request that the core works on.
struct Pending {
    deadline_ms: u64,
    /// `None` once it was answered with a timeout.
    reply: Option<Reply>,
    _charge: Charge,
}

/// Tells how the thread ended, also when it panics.
struct Ending(watch::Sender<WorkerState>);

impl Ending {
    fn fail(&self, why: &str) {
        self.0.send_replace(WorkerState::Failed(why.into()));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let by_itself = std::thread::panicking();
            match state {
                WorkerState::Failed(_) => return false,
                _ if by_itself => {
                    *state = WorkerState::Failed("the node core panicked; its last words are on standard error".into());
                }
                _ => *state = WorkerState::Stopped,
            }
            true
        });
    }
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

struct Thread {
    node: Node,
    clock: Clock,
    ticks: Ticks,
    lanes: Lanes,
    peers: Arc<Peers>,
    inputs: mpsc::Receiver<Input>,
    queued: Arc<AtomicUsize>,
    pending: BTreeMap<RequestId, Pending>,
    last_request: u64,
    /// Nodes to which messages were dropped in the last round.
    unreachable: BTreeSet<NodeId>,
    effects: Vec<Effect>,
    /// Who got answers in this round.
    answered: Vec<Arc<dyn Flush>>,
    round_seconds: Histogram,
    queue_length: Gauge,
    tail_bytes: Gauge,
    backlog_bytes: Gauge,
    /// Dropped last: by then the lanes' threads have ended.
    state: Ending,
}

impl Thread {
    fn run(mut self) {
        while self.round() == Next::GoOn {}
    }

    fn round(&mut self) -> Next {
        let first = self.inputs.recv_timeout(self.ticks.wait(self.clock.mono_ms())).ok();
        let begun = clock::instant();
        let mut next = first.map_or(Next::GoOn, |input| self.take(input));
        for _ in 1..ROUND_EVENTS_MAX {
            match self.inputs.try_recv() {
                Ok(input) if next == Next::GoOn => next = self.take(input),
                _ => break,
            }
        }
        let now = self.clock.now();
        for node in std::mem::take(&mut self.unreachable) {
            self.node.handle(now, Event::Unreachable { node }, &mut self.effects);
        }
        let ticks = self.ticks.take(now.mono_ms);
        for _ in 0..ticks {
            self.node.handle(now, Event::Tick, &mut self.effects);
        }
        if ticks > 0 {
            self.expire(now.mono_ms);
        }
        self.node.flush(&mut self.effects);
        if self.perform() == Next::End {
            next = Next::End;
        }
        self.round_seconds.record(begun.elapsed());
        self.show();
        next
    }

    #[allow(clippy::cast_precision_loss, reason = "what is in memory is far below 2^52")]
    fn show(&self) {
        self.queue_length.set(self.queued.load(Ordering::Relaxed) as f64);
        self.tail_bytes.set(self.node.store().tail_bytes() as f64);
        self.backlog_bytes.set(self.node.store().backlog_bytes() as f64);
    }

    fn take(&mut self, input: Input) -> Next {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        let now = self.clock.now();
        match input {
            Input::Event(event) => self.node.handle(now, event, &mut self.effects),
            Input::Messages { from, messages, charge } => {
                for message in messages {
                    self.node.handle(now, Event::Peer { from, message }, &mut self.effects);
                }
                drop(charge);
            }
            Input::Request(asked) => {
                self.last_request += 1;
                let id = RequestId(self.last_request);
                let pending = Pending {
                    deadline_ms: self.clock.mono_ms_of(asked.deadline),
                    reply: Some(asked.reply),
                    _charge: asked.charge,
                };
                self.pending.insert(id, pending);
                self.node.handle(now, Event::Request { id, request: asked.request }, &mut self.effects);
            }
            Input::Stop => return Next::End,
        }
        Next::GoOn
    }

    /// Performs the effects, in order where it matters: what others wait for first (entries for followers have the longest
    /// way to go), then the own disk, then answers.
    fn perform(&mut self) -> Next {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    if !self.peers.send(to, message) {
                        self.unreachable.insert(to);
                    }
                }
                Effect::Disk { lane, token, ops } => {
                    self.lanes.queue(lane, token, ops);
                }
                Effect::Reply { id, result } => {
                    if let Some(reply) = self.pending.remove(&id).and_then(|pending| pending.reply) {
                        self.answer(reply, result);
                    }
                }
                Effect::Fatal { message } => return self.fail(&message),
                Effect::ReadyToStop => drop(self.state.0.send_replace(WorkerState::ReadyToStop)),
            }
        }
        self.effects = effects;
        self.peers.wake();
        if let Err(poisoned) = self.lanes.pump() {
            return self.fail(&poisoned.to_string());
        }
        self.flush();
        Next::GoOn
    }

    fn answer(&mut self, reply: Reply, result: Result<Answer>) {
        if let Some(answered) = reply(result)
            && !self.answered.iter().rev().take(FLUSHED_DIRECTLY_MAX).any(|other| Arc::ptr_eq(other, &answered))
        {
            self.answered.push(answered);
        }
    }

    /// Sends off the answers of this round.
    fn flush(&mut self) {
        let directly = self.answered.len() <= FLUSHED_DIRECTLY_MAX;
        self.answered.drain(..).for_each(|answered| answered.flush(directly));
    }

    fn fail(&mut self, why: &str) -> Next {
        tracing::error!(why, "storage.failed");
        counter!(names::STORAGE_FAILURES).increment(1);
        let error = Error::new(ErrorCode::StorageFailed, why);
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Some(reply) = pending.reply {
                self.answer(reply, Err(error.clone()));
            }
        }
        self.flush();
        self.state.fail(why);
        Next::End
    }

    /// Answers requests whose time is up.
    fn expire(&mut self, now_ms: u64) {
        let overdue = self.pending.values_mut().filter(|pending| pending.deadline_ms <= now_ms);
        let replies: Vec<Reply> = overdue.filter_map(|pending| pending.reply.take()).collect();
        replies.into_iter().for_each(|reply| self.answer(reply, Err(timed_out())));
    }
}

/// The answer to who has waited long enough.
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorCode::Timeout, "no answer within the time allowed; a write may have happened or not")
}

#[cfg(test)]
mod tests;
