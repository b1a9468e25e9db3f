//! What happens, and what follows from it.

use std::{fmt, iter};

use bytes::Bytes;
use levada_broker::{
    node::event::{Answer, Effect, Event, Request},
    raft::wire,
};
use levada_protocol::{
    error::{Error, Result},
    ids::NodeId,
};
use levada_storage_engine::disk::{DiskOp, Lane};

use super::{Happening, World};
use crate::{
    checker::Kind,
    clients::{Call, CallId, Context, Input, Response},
    network::{ClientId, Place},
    options::Lie,
    process::Process,
    process::{Then, Waiting},
};

/// How often at most a node hears that it cannot reach another.
const UNREACHABLE_US: u64 = 100_000;
/// Ticks that a paused process gets at once when it goes on, at most.
const TICKS_HELD_MAX: usize = 20;

/// Each arrival with what arrives: the last takes what was sent, only the others a copy.
fn each<T: Clone>(arrivals: Vec<u64>, what: T) -> impl Iterator<Item = (u64, T)> {
    let count = arrivals.len();
    arrivals.into_iter().zip(iter::repeat_n(what, count))
}

/// What a list of disk operations is called in the story.
struct Calls<'a>(&'a [DiskOp]);

impl fmt::Display for Calls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|op| {
            let subject = op.subject();
            let name = subject.rsplit('/').next().unwrap_or_default().trim_start_matches('0');
            write!(f, " {}({name})", op.call())
        })
    }
}

impl Happening {
    /// The process it is for.
    const fn process(&self) -> Option<(NodeId, Option<u32>)> {
        match self {
            Self::Tick { node, run }
            | Self::Flush { node, run }
            | Self::DiskOp { node, run, .. }
            | Self::DiskDone { node, run, .. }
            | Self::ReadDone { node, run, .. }
            | Self::Unreachable { node, run, .. }
            | Self::Resume { node, run } => Some((*node, Some(*run))),
            Self::Peer { to, .. } | Self::Call { to, .. } => Some((*to, None)),
            Self::Response { .. }
            | Self::Wake(_)
            | Self::Fault
            | Self::Parting(_)
            | Self::Look
            | Self::Start(_)
            | Self::Heal { .. }
            | Self::Voted { .. }
            | Self::ReadsWell(_)
            | Self::DiskSpeed { .. }
            | Self::DiskSpace(_) => None,
        }
    }
}

impl World {
    pub(super) fn happen(&mut self, happening: Happening) {
        let Some(happening) = self.reaches(happening) else { return };
        self.checker.time_is(self.queue.now_us());
        match happening {
            Happening::Tick { node, .. } => {
                self.next_tick(node);
                if let Some(space) = self.processes.get_mut(&node).and_then(Process::look_at_space) {
                    self.give(node, Event::Space(space));
                }
                self.give(node, Event::Tick);
                self.look_for_harm(node);
            }
            Happening::Flush { node, .. } => self.flush(node),
            Happening::DiskOp { node, lane, .. } => self.disk_op(node, lane),
            Happening::DiskDone { node, done, .. } => {
                let failed = done.result.as_ref().err().map(ToString::to_string);
                let failed = failed.map_or_else(String::new, |error| format!(", failed: {error}"));
                self.tell(format_args!("n{node} disk has done #{}{failed}", done.token));
                self.give(node, Event::Disk { token: done.token, result: done.result });
            }
            Happening::Peer { from, to, message } => self.give(to, Event::Peer { from, message }),
            Happening::Unreachable { node, other, .. } => self.give(node, Event::Unreachable { node: other }),
            Happening::Call { from, to, call, what } => self.called(from, to, call, what),
            Happening::Response { from, to, call, result } => {
                self.operations += 1;
                match &result {
                    Ok(response) => self.tell(format_args!("c{} has #{} of n{from}: {response}", to.0, call.0)),
                    Err(error) => self.tell(format_args!("c{} has #{} of n{from}: {error}", to.0, call.0)),
                }
                self.step_client(to, Input::Response { call, from, result });
            }
            Happening::Wake(client) => self.step_client(client, Input::Wake),
            Happening::Fault => self.next_fault(),
            Happening::Parting(fault) if !self.settling => self.perform(fault),
            Happening::Parting(_) => {}
            Happening::Look => self.look(),
            Happening::ReadDone { node, token, result, .. } => self.give(node, Event::Read { token, result }),
            Happening::Start(node) => self.start(node),
            Happening::Resume { node, .. } => self.resume(node),
            Happening::Heal { partition } if partition == self.partition => self.heal_network(),
            Happening::Heal { .. } => {}
            Happening::Voted { voter, candidate } => self.voted(voter, candidate),
            Happening::DiskSpace(node) => self.free_space(node),
            Happening::ReadsWell(node) => self.read_well(node),
            Happening::DiskSpeed { node, speed } => {
                if let Some(process) = self.processes.get_mut(&node) {
                    process.set_speed(speed);
                }
            }
        }
    }

    /// Whether what happens reaches its process now; a paused one gets it later.
    fn reaches(&mut self, happening: Happening) -> Option<Happening> {
        let Some((node, run)) = happening.process() else { return Some(happening) };
        let process = self.processes.get_mut(&node)?;
        if run.is_some_and(|run| run != process.run) {
            return None;
        }
        let running = process.running.as_mut()?;
        // The machine goes on, and so does the world outside.
        if matches!(happening, Happening::Resume { .. } | Happening::DiskOp { .. }) {
            return Some(happening);
        }
        let Some(held) = &mut running.held else { return Some(happening) };
        if let Happening::Tick { node, run } = happening {
            let ticks = held.iter().filter(|held| matches!(held, Happening::Tick { .. })).count();
            let keep = if self.options.ticks_burst { TICKS_HELD_MAX } else { 1 };
            self.queue.after(process.tick_us, Happening::Tick { node, run });
            if ticks >= keep {
                return None;
            }
        }
        held.push(happening);
        None
    }

    fn next_tick(&mut self, node: NodeId) {
        if let Some(process) = self.processes.get(&node) {
            self.queue.after(process.tick_us, Happening::Tick { node, run: process.run });
        }
    }

    /// An event goes into a core; its round ends a little later.
    pub(super) fn give(&mut self, node: NodeId, event: Event) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let (now, round_us, run) = (process.now(self.queue.now_us()), process.round_us(), process.run);
        let Some(running) = &mut process.running else { return };
        let mut effects = Vec::new();
        running.node.handle(now, event, &mut effects);
        if !running.flush_planned {
            running.flush_planned = true;
            self.queue.after(round_us, Happening::Flush { node, run });
        }
        self.follow(node, effects);
    }

    fn flush(&mut self, node: NodeId) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let run = process.run;
        let Some(running) = &mut process.running else { return };
        running.flush_planned = false;
        let mut effects = Vec::new();
        running.node.flush(&mut effects);
        for view in running.node.view().partitions() {
            let shown = view.state.borrow().high_watermark;
            self.checker.high_watermark(node, (run, view.replica), view.partition, shown);
        }
        let (slept, woken) = running.new_sleeps();
        if slept > 0 || !woken.is_empty() {
            let asleep = running.node.asleep();
            self.slept += slept;
            woken.iter().for_each(|(why, count)| *self.woken.entry(why).or_default() += count);
            self.tell(format_args!("n{node} {slept} groups fell asleep, woken {woken:?}, {asleep} sleep"));
        }
        self.follow(node, effects);
    }

    /// What a core wants done.
    fn follow(&mut self, node: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(node, to, message),
                Effect::Disk { lane, token, ops } => {
                    self.tell(format_args!("n{node} {lane:?} #{token}:{}", Calls(&ops)));
                    let Some(process) = self.processes.get_mut(&node) else { continue };
                    let run = process.run;
                    let Some(running) = &mut process.running else { continue };
                    if let Some(done) = running.lanes.submit(lane, token, ops) {
                        self.queue.after(0, Happening::DiskDone { node, run, done });
                    }
                    self.begin_disk_op(node, lane);
                }
                Effect::Read { token, file, pos, len, from_disk: _ } => {
                    let Some(process) = self.processes.get_mut(&node) else { continue };
                    let (run, us) = (process.run, process.read_us());
                    let result = process.read(&file, pos, len);
                    self.queue.after(us, Happening::ReadDone { node, run, token, result });
                }
                Effect::Reply { id, result } => {
                    let running = self.processes.get_mut(&node).and_then(|process| process.running.as_mut());
                    match running.and_then(|running| running.waiting.remove(&id)) {
                        Some(waiting) => self.answer(node, waiting, result),
                        None => {
                            let what = format!("node {node} answered request {} twice: {result:?}", id.0);
                            self.checker.report(Kind::Answers, what);
                        }
                    }
                }
                Effect::Reached { .. } => {}
                Effect::Fatal { message } => {
                    self.failed(node, &message);
                    return;
                }
                Effect::GiveUpMetadata { loss, message } => {
                    self.gave_up_metadata(node, loss, &message);
                    return;
                }
                Effect::ReadyToStop => {
                    self.stopped(node);
                    return;
                }
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: wire::PeerMessage) {
        self.terms.extend(message.led());
        // As on the wire, to see that nothing is lost in translation.
        let (frame, payload) = wire::encode(vec![message]);
        let payload = <[Bytes; 1]>::try_from(payload).map_or_else(|many| many.concat().into(), |[one]| one);
        let messages = match wire::decode(frame, payload) {
            Ok(messages) => messages,
            Err(error) => {
                self.checker.report(Kind::Died, format!("node {from} cannot be understood by {to}: {error}"));
                return;
            }
        };
        let now_us = self.queue.now_us();
        for message in messages {
            let arrivals = self.network.send(now_us, Place::Node(from), Place::Node(to));
            if self.options.parting_percent > 0
                && message.makes_voter()
                && let Some((after_us, fault)) = self.nemesis.parting(self.options.parting_percent, [from, to])
            {
                self.queue.after(after_us, Happening::Parting(fault));
            }
            if message.gives_vote() && self.vote_awaited.take_if(|voter| *voter == from).is_some() {
                self.queue.after(0, Happening::Voted { voter: from, candidate: to });
            }
            if let wire::PeerMessage::Raft { group, message } = &message {
                let (kind, entries) = (message.get_msg_type(), message.get_entries().len());
                let (term, index, commit) = (message.get_term(), message.get_index(), message.get_commit());
                let fate = if arrivals.is_empty() { " (lost)" } else { "" };
                self.story.tell(
                    now_us,
                    format_args!(
                        "n{from} > n{to} g{group} {kind:?} t{term} i{index} +{entries} c{commit}{}{fate}",
                        if message.get_reject() { " reject" } else { "" }
                    ),
                );
            }
            let dead = self.processes.get(&to).is_none_or(|process| process.running.is_none());
            if arrivals.is_empty() || dead {
                self.unreachable(from, to);
            }
            for (at_us, message) in each(arrivals, message) {
                self.queue.at(at_us, Happening::Peer { from, to, message });
            }
        }
    }

    /// The connection to another node is broken, and the sender notices.
    fn unreachable(&mut self, from: NodeId, to: NodeId) {
        let now_us = self.queue.now_us();
        let told_us = self.told_unreachable.entry((from, to)).or_default();
        if *told_us + UNREACHABLE_US > now_us && *told_us > 0 {
            return;
        }
        *told_us = now_us;
        if let Some(process) = self.processes.get(&from) {
            self.queue.after(1_000, Happening::Unreachable { node: from, run: process.run, other: to });
        }
    }

    pub(super) fn begin_disk_op(&mut self, node: NodeId, lane: Lane) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let run = process.run;
        if let Some(running) = process.running.as_mut().filter(|running| !running.is_paused())
            && let Some(us) = running.lanes.begin(lane)
        {
            self.queue.after(us, Happening::DiskOp { node, run, lane });
        }
    }

    /// The time of a disk operation is over, if the power did not go before.
    fn disk_op(&mut self, node: NodeId, lane: Lane) {
        let strikes = self.power_strikes(node);
        if strikes == Some(false) {
            return self.strike();
        }
        let Some(process) = self.processes.get_mut(&node) else { return };
        let run = process.run;
        let Some(running) = &mut process.running else { return };
        let done = running.lanes.finish(lane);
        if strikes == Some(true) {
            return self.strike();
        }
        if let Some(done) = done {
            self.happen(Happening::DiskDone { node, run, done });
        }
        self.begin_disk_op(node, lane);
    }

    /// A client's call arrives.
    fn called(&mut self, from: ClientId, to: NodeId, call: CallId, what: Call) {
        let now_us = self.queue.now_us();
        let lie = self.options.lie;
        let Some(running) = self.processes.get_mut(&to).and_then(|process| process.running.as_mut()) else { return };
        let mut waiting = Waiting { client: from, call, then: Then::Answer, since_us: now_us };
        let request = match what {
            Call::Read { partition, offset, bytes_max } => {
                let result = running.read(partition, offset, bytes_max, lie);
                return self.respond(to, from, call, result);
            }
            Call::Request(Request::Bounds { partition }) if lie == Some(Lie::StaleBounds) => {
                let bounds = running.stale_bounds(partition);
                let not_here = || Error::new(levada_protocol::error::ErrorCode::NotLeader, "no replica here");
                let result = bounds.map(|bounds| Response::Answer(Answer::Bounds(bounds))).ok_or_else(not_here);
                return self.respond(to, from, call, result);
            }
            Call::Request(request) => request,
            Call::Topic { name } => {
                waiting.then = Then::Topic(name);
                Request::MetadataBarrier
            }
        };
        let id = running.expect(waiting);
        self.give(to, Event::Request { id, request });
    }

    /// The core has answered a client's request.
    fn answer(&mut self, node: NodeId, waiting: Waiting, result: Result<Answer>) {
        let result = match (waiting.then, result) {
            (_, Err(error)) => Err(error),
            (Then::Answer, Ok(answer)) => Ok(Response::Answer(answer)),
            (Then::Topic(name), Ok(_)) => {
                let running = self.processes.get(&node).and_then(|process| process.running.as_ref());
                Ok(Response::Topic(running.and_then(|r| r.node.view().metadata.borrow().topic(&name).cloned())))
            }
        };
        self.respond(node, waiting.client, waiting.call, result);
    }

    fn respond(&mut self, from: NodeId, to: ClientId, call: CallId, result: Result<Response>) {
        let arrivals = self.network.send(self.queue.now_us(), Place::Node(from), Place::Client(to));
        for (at_us, result) in each(arrivals, result) {
            self.queue.at(at_us, Happening::Response { from, to, call, result });
        }
    }

    fn step_client(&mut self, id: ClientId, input: Input) {
        let Some((client, dice)) = self.clients.get_mut(id.0) else { return };
        if let (Input::Wake, true, Some(us)) =
            (&input, client.rests(), self.options.until_morning_us(self.queue.now_us()))
            && !self.settling
        {
            self.queue.after(us, Happening::Wake(id));
            return;
        }
        let mut ctx = Context {
            now_us: self.queue.now_us(),
            dice,
            checker: &mut self.checker,
            nodes: &self.nodes,
            next_call: &mut self.next_call,
            next_stream: &mut self.next_stream,
            sight: &self.sight,
            wishes: Vec::new(),
            settling: self.settling,
            calls: Vec::new(),
            wake_after_us: None,
        };
        client.step(input, &mut ctx);
        let Context { now_us, calls, wake_after_us, wishes, .. } = ctx;
        if let Some(us) = wake_after_us {
            self.queue.after(us, Happening::Wake(id));
        }
        for (to, call, what) in calls {
            let arrivals = self.network.send(now_us, Place::Client(id), Place::Node(to));
            let fate = if arrivals.is_empty() { " (lost)" } else { "" };
            self.story.tell(now_us, format_args!("c{} > n{to} #{}: {what}{fate}", id.0, call.0));
            for (at_us, what) in each(arrivals, what) {
                self.queue.at(at_us, Happening::Call { from: id, to, call, what });
            }
        }
        wishes.into_iter().for_each(|wish| self.fulfil(wish));
    }
}
