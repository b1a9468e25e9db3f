//! Rounds of the node core: events in, effects performed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::NodeId,
};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::sync::watch;

use super::{Flush, Input, Queue, Reply, WorkerState, lock, timed_out};
use crate::{
    follow::ProduceStory,
    metrics as names,
    node::{
        Node,
        event::{Answer, Effect, Event, RequestId},
        sleeping::Wake,
    },
    runtime::{
        budget::Charge,
        clock::{self, Clock},
        lanes::Lanes,
        peers::Peers,
        reads::{Read, Reads},
        ticks::Ticks,
    },
};

/// The most events of one round, so that effects are not put off for ever.
const ROUND_EVENTS_MAX: usize = 1024;
/// So many rounds in a millisecond are done by whoever brings events; what takes more than that is load.
const HELPED_ROUNDS_MAX: u32 = 16;
/// Answers of a round go directly to so many connections; with more, each of their tasks does its own.
const FLUSHED_DIRECTLY_MAX: usize = 4;

/// A request that the core works on.
struct Pending {
    deadline_ms: u64,
    /// `None` once it was answered with a timeout.
    reply: Option<Reply>,
    /// Of a produce that is followed.
    story: Option<Arc<ProduceStory>>,
    _charge: Charge,
}

/// Whether there are more rounds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    End,
}

/// The core, and what it needs to work. Whoever has it may do a round.
pub(super) struct Rounds {
    node: Node,
    clock: Clock,
    ticks: Ticks,
    lanes: Lanes,
    reads: Reads,
    peers: Arc<Peers>,
    /// What this round takes, empty between rounds.
    inputs: VecDeque<Input>,
    /// After the last round.
    ended: bool,
    /// How many rounds others may do in this millisecond.
    help: (u64, u32),
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
    groups_asleep: Gauge,
    sleeps: Counter,
    wakes: [(Wake, Counter); Wake::ALL.len()],
    fullness: Gauge,
    slow_disk: Gauge,
    waiting_writes: Gauge,
    handed_over: Counter,
    state: watch::Sender<WorkerState>,
}

impl fmt::Debug for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

impl Rounds {
    pub(super) fn new(
        node: Node,
        clock: Clock,
        (lanes, reads): (Lanes, Reads),
        peers: Arc<Peers>,
        state: watch::Sender<WorkerState>,
    ) -> Self {
        Self {
            node,
            clock,
            ticks: Ticks::new(clock.mono_ms()),
            lanes,
            reads,
            peers,
            inputs: VecDeque::new(),
            ended: false,
            help: (0, 0),
            pending: BTreeMap::new(),
            last_request: 0,
            unreachable: BTreeSet::new(),
            effects: Vec::new(),
            answered: Vec::new(),
            round_seconds: histogram!(names::WORKER_ROUND_SECONDS.name),
            queue_length: gauge!(names::WORKER_QUEUE.name),
            tail_bytes: gauge!(names::TAIL_BYTES.name),
            backlog_bytes: gauge!(names::BACKLOG_BYTES.name),
            groups_asleep: gauge!(names::GROUPS_ASLEEP.name),
            sleeps: counter!(names::GROUP_SLEEPS.name),
            wakes: Wake::ALL.map(|why| (why, counter!(names::GROUP_WAKES.name, "reason" => why.name()))),
            fullness: gauge!(names::DISK_FULLNESS.name),
            slow_disk: gauge!(names::DISK_SLOW.name),
            waiting_writes: gauge!(names::DISK_WAITING_WRITES.name),
            handed_over: counter!(names::LEADERS_HANDED_OVER.name),
            state,
        }
    }

    /// Whether somebody else than the core's thread may do a round: not when there have been many lately.
    pub(super) fn may_be_helped(&mut self) -> bool {
        let now_ms = self.clock.mono_ms();
        let (ms, rounds) = self.help;
        self.help = if ms == now_ms { (ms, rounds + 1) } else { (now_ms, 1) };
        self.help.1 <= HELPED_ROUNDS_MAX
    }

    /// How long until there must be a round, whatever is queued.
    pub(super) fn wait(&self) -> Duration {
        self.ticks.wait(self.clock.mono_ms())
    }

    /// One round.
    pub(super) fn round(&mut self, queue: &Mutex<Queue>) -> Next {
        if self.ended {
            return Next::End;
        }
        let begun = clock::instant();
        let mut next = Next::GoOn;
        let left = self.fetch(queue);
        while next == Next::GoOn
            && let Some(input) = self.inputs.pop_front()
        {
            next = self.take(input);
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
            self.show_sleep();
        }
        self.node.flush(&mut self.effects);
        if self.perform() == Next::End {
            next = Next::End;
        }
        self.round_seconds.record(begun.elapsed());
        self.show(left);
        self.ended = next == Next::End;
        next
    }

    /// Takes what this round does out of the queue; how much is left there.
    fn fetch(&mut self, queue: &Mutex<Queue>) -> usize {
        let inputs = &mut lock(queue).inputs;
        if inputs.len() <= ROUND_EVENTS_MAX {
            std::mem::swap(inputs, &mut self.inputs);
        } else {
            self.inputs.extend(inputs.drain(..ROUND_EVENTS_MAX));
        }
        inputs.len()
    }

    #[allow(clippy::cast_precision_loss, reason = "what is in memory is far below 2^52")]
    fn show(&self, queued: usize) {
        self.queue_length.set(queued as f64);
        self.tail_bytes.set(self.node.store().tail_bytes() as f64);
        self.backlog_bytes.set(self.node.store().backlog_bytes() as f64);
        let health = self.node.health();
        self.fullness.set(f64::from(health.fullness as u8));
        self.slow_disk.set(f64::from(u8::from(health.slow_disk)));
        self.waiting_writes.set(self.node.store().waiting_for_space() as f64);
        self.handed_over.absolute(self.node.handed_over());
    }

    /// Shows what sleeps, with each tick.
    #[allow(clippy::cast_precision_loss, reason = "groups are far below 2^52")]
    fn show_sleep(&self) {
        self.groups_asleep.set(self.node.asleep() as f64);
        let totals = self.node.sleep_totals();
        self.sleeps.absolute(totals.slept);
        for (why, counter) in &self.wakes {
            counter.absolute(totals.woken.get(why).copied().unwrap_or(0));
        }
    }

    fn take(&mut self, input: Input) -> Next {
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
                    story: asked.story,
                    _charge: asked.charge,
                };
                if pending.story.is_some() {
                    self.node.handle(now, Event::Follow { id }, &mut self.effects);
                }
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
                Effect::Read { token, file, pos, len, from_disk } => {
                    self.reads.read(Read { token, file, pos, len, from_disk });
                }
                Effect::Reply { id, result } => {
                    if let Some(reply) = self.pending.remove(&id).and_then(|pending| pending.reply) {
                        self.answer(reply, result);
                    }
                }
                Effect::Reached { id, stage } => {
                    if let Some(story) = self.pending.get(&id).and_then(|pending| pending.story.as_ref()) {
                        story.reached(stage);
                    }
                }
                Effect::Fatal { message } => return self.fail(&message),
                Effect::GiveUpMetadata { loss, message } => {
                    tracing::warn!(why = message, "metadata.given_up: the node begins again, and asks others");
                    let why =
                        "this node begins again; whether the request was carried out is not known: look, or try again";
                    return self.end(
                        &Error::new(ErrorCode::OutcomeUnknown, why),
                        WorkerState::GaveUpMetadata(loss, message.into()),
                    );
                }
                Effect::ReadyToStop => drop(self.state.send_replace(WorkerState::ReadyToStop)),
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
        counter!(names::STORAGE_FAILURES.name).increment(1);
        self.end(&Error::new(ErrorCode::StorageFailed, why), WorkerState::Failed(why.into()))
    }

    /// Ends by itself; whoever waits gets this answer.
    fn end(&mut self, error: &Error, state: WorkerState) -> Next {
        for pending in std::mem::take(&mut self.pending).into_values() {
            if let Some(reply) = pending.reply {
                self.answer(reply, Err(error.clone()));
            }
        }
        self.flush();
        self.state.send_replace(state);
        Next::End
    }

    /// Answers requests whose time is up.
    fn expire(&mut self, now_ms: u64) {
        let overdue = self.pending.values_mut().filter(|pending| pending.deadline_ms <= now_ms);
        let replies: Vec<Reply> = overdue.filter_map(|pending| pending.reply.take()).collect();
        replies.into_iter().for_each(|reply| self.answer(reply, Err(timed_out())));
    }
}
