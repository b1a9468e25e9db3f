//! A run that never was, to look at the report without a cluster, and to test it.
//!
//! Four logs and a register on five nodes, two minutes of faults. While a fault is on, the keys whose leader it hit are not
//! served for some seconds. [`invalid`] is the same run with something of each kind put in that must not be.

use std::collections::BTreeMap;

use levada_checkers::{
    history::{Event, Index, Key, Op, Phase, Process, Value},
    verdict::{Check, worst},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::results::{Fault, Plan, Results};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const LOGS: Key = 4;
const REGISTER: Key = 4;
const NODES: u64 = 5;
/// Faults go on for so long; then all is healed, and clients go on for a while.
const FAULTS_NS: u64 = 120 * SECOND;
const END_NS: u64 = 135 * SECOND;
const FINAL_NS: u64 = 137 * SECOND;
const TIMEOUT_NS: u64 = 2 * SECOND;

/// An operation before it is two events.
struct Done {
    from_ns: u64,
    to_ns: u64,
    process: Process,
    node: Option<u64>,
    asked: Op,
    told: Op,
    phase: Phase,
    error: Option<&'static str>,
}

/// A run in which all was well.
#[must_use]
pub fn valid(seed: u64) -> (Results, Vec<Event>) {
    let run = Run::new(seed);
    let events = run.events();
    (results("20260301T140210Z-queue-7f3a", seed, run.faults, Vec::new()), events)
}

/// One in which nothing was.
#[must_use]
pub fn invalid(seed: u64) -> (Results, Vec<Event>) {
    let mut run = Run::new(seed);
    run.spoil();
    let events = run.events();
    let checks = checks(&run, &events);
    if let Some(fault) = run.faults.last_mut() {
        fault.to_ns = u64::MAX;
    }
    if let Some(fault) = run.faults.get_mut(3) {
        fault.evidence = None;
    }
    (results("20260301T151744Z-queue-c019", seed, run.faults, checks), events)
}

fn results(id: &str, seed: u64, faults: Vec<Fault>, found: Vec<Check>) -> Results {
    let mut log = Check::new("log");
    log.figure("values_sent", 5312.0);
    log.figure("values_read", 5308.0);
    let mut liveness = Check::new("liveness");
    liveness.figure("longest_gap_ms", 4121.0);
    liveness.figure("first_ok_after_heal_ms", 212.4);
    let mut stats = Check::new("stats");
    stats.figure("sent_per_s", 44.3);
    stats.figure("rss_max_mib", 214.0);
    stats.figure("open_files_max", 311.0);
    let mut checks = vec![log, Check::new("register"), liveness, stats];
    for check in found {
        if let Some(known) = checks.iter_mut().find(|known| known.name == check.name) {
            known.figures.extend(check.figures);
            (known.verdict, known.why, known.counts, known.anomalies) =
                (check.verdict, check.why, check.counts, check.anomalies);
        } else {
            checks.push(check);
        }
    }
    let nemeses = ["disk", "kill", "partition", "pause"].map(str::to_owned).to_vec();
    let time_s = FAULTS_NS / SECOND;
    Results {
        id: id.to_owned(),
        began: "2026-03-01T14:02:10Z".to_owned(),
        build: "levada 0.1.0 (99a11c1f)".to_owned(),
        plan: Plan {
            workload: "queue".to_owned(),
            nemeses,
            nodes: NODES,
            time_s,
            rate: 100,
            clients: 14,
            interval_s: 10,
            env: "netns".to_owned(),
            disk: "loop".to_owned(),
            seed,
        },
        again: format!(
            "jepsen run --workload queue --nemesis disk,kill,partition,pause --nodes {NODES} --time {time_s} --rate 100 --seed {seed}"
        ),
        verdict: worst(&checks),
        checks,
        faults,
        shrunk: None,
    }
}

struct Run {
    random: StdRng,
    faults: Vec<Fault>,
    /// From when to when a key is not served.
    outages: Vec<(Key, u64, u64)>,
    done: Vec<Done>,
    /// Of each key, what stands where and since when.
    logs: BTreeMap<Key, Vec<(u64, Value)>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut run = Self { random, faults: Vec::new(), outages: Vec::new(), done: Vec::new(), logs: BTreeMap::new() };
        run.strike();
        for process in 0..8 {
            run.produce(process);
        }
        run.append();
        for key in 0..LOGS {
            run.consume(8 + key, key);
        }
        run.register();
        run.finish();
        run
    }

    fn strike(&mut self) {
        let mut at = 6 * SECOND;
        while at < FAULTS_NS {
            let node = self.random.random_range(1..=NODES);
            let other = node % NODES + 1;
            let took = self.random.random_range(3 * SECOND..9 * SECOND);
            let (family, what, nodes, evidence) = match self.random.random_range(0..4) {
                0 => (
                    "partition",
                    format!("nodes {node} and {other} cut off from all others"),
                    vec![node, other],
                    "1,214 packets dropped",
                ),
                1 => ("kill", format!("node {node} killed, started again"), vec![node], "pid 4121, then 4187"),
                2 => ("pause", format!("node {node} stopped"), vec![node], "state T for as long"),
                _ => ("disk", format!("writes of node {node} took 400 ms longer"), vec![node], "318 writes delayed"),
            };
            let to_ns = (at + took).min(FAULTS_NS);
            self.faults.push(Fault {
                family: family.to_owned(),
                what,
                nodes,
                from_ns: at,
                to_ns,
                evidence: Some(evidence.to_owned()),
            });
            for key in 0..=REGISTER {
                if self.random.random_ratio(2, 5) {
                    let gap = self.random.random_range(300 * MS..4200 * MS);
                    self.outages.push((key, at + 20 * MS, at + 20 * MS + gap));
                }
            }
            at += took + self.random.random_range(SECOND..6 * SECOND);
        }
    }

    /// A few milliseconds, seldom a few hundred.
    fn latency(&mut self) -> u64 {
        let exponent: f64 = self.random.random_range(0.0..1.0);
        let tail = exponent.powi(14) * 180.0;
        let ms = 1.4 + exponent * exponent * 2.2 + tail;
        std::time::Duration::from_secs_f64(ms / 1000.0).as_nanos().try_into().unwrap_or(MS)
    }

    /// When an operation that begins then has an answer, and which.
    fn answer(&mut self, key: Key, from_ns: u64) -> (u64, Phase, Option<&'static str>) {
        let latency = self.latency();
        let outage = self.outages.iter().find(|(k, from, to)| *k == key && (*from..*to).contains(&from_ns));
        match outage.copied() {
            None => (from_ns + latency, Phase::Ok, None),
            Some((_, _, to)) if to - from_ns < TIMEOUT_NS => (to + latency * 3, Phase::Ok, None),
            Some(_) if self.random.random_ratio(1, 3) => {
                (from_ns + latency, Phase::Fail, Some("NOT_LEADER: no leader is known"))
            }
            Some(_) => (from_ns + TIMEOUT_NS, Phase::Info, Some("TIMEOUT: no answer in 2 s")),
        }
    }

    fn produce(&mut self, process: Process) {
        let mut at = u64::from(process) * 7 * MS;
        let mut value = u64::from(process) * 10_000;
        while at < END_NS {
            let key = self.random.random_range(0..LOGS);
            let (to_ns, phase, error) = self.answer(key, at);
            value += 1;
            let asked = Op::Send { key, value, offset: None };
            let node = Some(u64::from(key) % NODES + 1);
            self.done.push(Done { from_ns: at, to_ns, process, node, told: asked.clone(), asked, phase, error });
            at = to_ns + self.random.random_range(40 * MS..280 * MS);
        }
    }

    /// Gives what was sent its place.
    fn append(&mut self) {
        self.done.sort_by_key(|done| (done.to_ns, done.process));
        for done in &mut self.done {
            let Op::Send { key, value, offset } = &mut done.told else { continue };
            let unknown_but_done = done.phase == Phase::Info && *value % 2 == 0;
            if done.phase == Phase::Ok || unknown_but_done {
                let log = self.logs.entry(*key).or_default();
                *offset = (done.phase == Phase::Ok).then_some(log.len() as u64);
                log.push((done.to_ns - MS, *value));
            }
        }
    }

    fn consume(&mut self, process: Process, key: Key) {
        let (mut at, mut from) = (3 * MS, 0);
        while at < END_NS + SECOND {
            let (to_ns, phase, error) = self.answer(key, at);
            let log = self.logs.get(&key).map_or(&[][..], Vec::as_slice);
            let unread = (0..).zip(log).skip(usize::try_from(from).unwrap_or_default()).take(64);
            let committed =
                unread.take_while(|(_, (since, _))| *since < to_ns).map(|(offset, (_, value))| (offset, *value));
            let records: Vec<(u64, Value)> = if phase == Phase::Ok { committed.collect() } else { Vec::new() };
            let next = records.last().map_or(from, |(offset, _)| offset + 1);
            let node = Some(u64::from(key) % NODES + 1);
            let asked = Op::Poll { key, from, records: Vec::new() };
            let told = Op::Poll { key, from, records };
            self.done.push(Done { from_ns: at, to_ns, process, node, asked, told, phase, error });
            from = next;
            at = to_ns + self.random.random_range(120 * MS..380 * MS);
        }
    }

    fn register(&mut self) {
        let (mut at, mut held) = (11 * MS, None);
        for value in 1.. {
            let (to_ns, phase, error) = self.answer(REGISTER, at);
            let process = 12 + Process::from(value % 2 == 0);
            let op = match value % 3 {
                0 => Op::Write { key: REGISTER, value },
                1 => Op::Cas { key: REGISTER, expected: held, value },
                _ => Op::Read { key: REGISTER, value: held },
            };
            let asked = if let Op::Read { .. } = op { Op::Read { key: REGISTER, value: None } } else { op.clone() };
            if phase == Phase::Ok && value % 3 != 2 {
                held = Some(value);
            }
            let told = if phase == Phase::Ok { op } else { asked.clone() };
            self.done.push(Done { from_ns: at, to_ns, process, node: None, asked, told, phase, error });
            at = to_ns + self.random.random_range(60 * MS..200 * MS);
            if at > END_NS {
                break;
            }
        }
    }

    fn finish(&mut self) {
        for (key, log) in &self.logs {
            for node in 1..=NODES {
                let from_ns = FINAL_NS + (u64::from(*key) * NODES + node) * 9 * MS;
                let records = (0..).zip(log).map(|(offset, (_, value))| (offset, *value)).collect();
                self.done.push(Done {
                    from_ns,
                    to_ns: from_ns + 6 * MS,
                    process: 14,
                    node: Some(node),
                    asked: Op::Final { key: *key, range: None, records: Vec::new() },
                    told: Op::Final { key: *key, range: None, records },
                    phase: Phase::Ok,
                    error: None,
                });
            }
        }
    }

    /// In key 1 a record is replaced by another on all nodes but one, a reader of key 0 is not shown one, key 2 has one twice, the
    /// register goes back, and columns lack what rows have.
    fn spoil(&mut self) {
        let mut stale = None;
        let mut written = 0;
        for done in &mut self.done {
            match &mut done.told {
                Op::Final { key: 1, records, .. } if done.node != Some(2) => records[400].1 = 99_001,
                Op::Final { key: 2, records, .. } => records[500].1 = records[498].1,
                Op::Poll { key: 1, records, .. } => {
                    for (offset, value) in records {
                        *value = if *offset == 400 { 99_001 } else { *value };
                    }
                }
                Op::Poll { key: 0, records, .. }
                    if stale.is_none() && done.from_ns > 60 * SECOND && records.len() > 3 =>
                {
                    records.remove(1);
                    stale = Some(());
                }
                Op::Read { key: REGISTER, value: Some(value) } if done.phase == Phase::Ok => {
                    written += 1;
                    *value = if written == 120 { *value - 2 } else { *value };
                }
                _ => {}
            }
        }
        let rows: Vec<(u64, Value)> =
            (200..212).zip(&self.logs[&3][200..]).map(|(offset, (_, value))| (offset, *value)).collect();
        let mut columns = rows.clone();
        columns.remove(7);
        let asked = Op::Snapshot { key: 3, from: 200, columns: Vec::new(), rows: Vec::new() };
        let told = Op::Snapshot { key: 3, from: 200, columns, rows };
        let (from_ns, node) = (91 * SECOND, Some(4));
        let to_ns = from_ns + 12 * MS;
        self.done.push(Done { from_ns, to_ns, process: 15, node, asked, told, phase: Phase::Ok, error: None });
    }

    fn events(&self) -> Vec<Event> {
        let begun = self.done.iter().enumerate().map(|(at, done)| (done.from_ns, at, true));
        let ended = self.done.iter().enumerate().map(|(at, done)| (done.to_ns, at, false));
        let mut order: Vec<(u64, usize, bool)> = begun.chain(ended).collect();
        order.sort_unstable();
        let mut invocations = vec![0; self.done.len()];
        let event = |(index, (time_ns, at, begins)): (Index, (u64, usize, bool))| {
            let Done { process, node, asked, told, phase, error, .. } = &self.done[at];
            if begins {
                invocations[at] = index;
            }
            Event {
                index,
                time_ns,
                process: *process,
                node: *node,
                phase: if begins { Phase::Invoke } else { *phase },
                invocation: invocations[at],
                op: if begins { asked.clone() } else { told.clone() },
                error: error.filter(|_| !begins).map(str::to_owned),
            }
        };
        (0..).zip(order).map(event).collect()
    }
}

/// What checkers would say of a spoiled run.
fn checks(run: &Run, events: &[Event]) -> Vec<Check> {
    let find = |wanted: &dyn Fn(&Event) -> bool| -> Vec<Index> {
        events.iter().filter(|event| event.phase == Phase::Ok && wanted(event)).map(|event| event.index).collect()
    };
    let sent =
        |k: Key, v: Value| find(&move |it| matches!(it.op, Op::Send { key, value, .. } if (key, value) == (k, v)));
    let read = |k: Key, o: u64| {
        find(
            &move |it| matches!(&it.op, Op::Poll { key, records, .. } if *key == k && records.iter().any(|it| it.0 == o)),
        )
    };
    let held =
        |k: Key, n: u64| find(&move |it| it.node == Some(n) && matches!(it.op, Op::Final { key, .. } if key == k));
    let mut log = Check::new("log");
    let lost = run.logs[&1][400].1;
    let events_of = [sent(1, lost), read(1, 400)].concat();
    log.found(
        "lost-write",
        Some(1),
        events_of.clone(),
        format!("{lost} was acknowledged at 400, and no reader was shown it"),
    );
    log.found("inconsistent-offsets", Some(1), events_of, format!("at 400 stand both {lost} and 99001"));
    for node in [1, 3, 4] {
        let what = format!("at 400, node 2 holds {lost} and node {node} holds 99001");
        log.found("divergence", Some(1), [held(1, 2), held(1, node)].concat(), what);
    }
    let twice = run.logs[&2][498].1;
    log.found("duplicate", Some(2), [sent(2, twice), held(2, 1)].concat(), format!("{twice} stands at 498 and at 500"));
    let skipped = find(
        &|it| matches!(&it.op, Op::Poll { key: 0, records, .. } if records.windows(2).any(|pair| pair[1].0 != pair[0].0 + 1)),
    );
    log.found("poll-skip", Some(0), skipped, "the answer leaves out a record that others were shown");
    let mut register = Check::new("register");
    let reads = find(&|it| matches!(it.op, Op::Read { .. }));
    let stale = reads[119];
    let last = events[..usize::try_from(stale).unwrap_or_default()].iter().rev();
    let last = last.filter(|it| it.phase == Phase::Ok && matches!(it.op, Op::Write { .. } | Op::Cas { .. })).take(3);
    let mut argument: Vec<Index> = last.map(|event| event.index).collect();
    argument.reverse();
    argument.push(stale);
    register.found(
        "nonlinearizable",
        Some(REGISTER),
        argument,
        "the read has no place after the last write that was acknowledged",
    );
    let mut flight = Check::new("flight");
    let snapshots = find(&|it| matches!(it.op, Op::Snapshot { .. }));
    flight.found("flight-differs", Some(3), snapshots, "rows hold the record at 207, columns do not");
    let mut servers = Check::new("server-logs");
    servers.doubt("the log of node 3 ends in the middle of a line");
    vec![log, register, flight, servers]
}
