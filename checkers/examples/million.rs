//! Checks a history of a million operations, and tells how long that takes and how much memory.
//!
//! ```sh
//! cargo run --release -p levada-checkers --example million            # makes the history, and checks it in memory
//! cargo run --release -p levada-checkers --example million -- FILE    # makes it, or reads it if it is there
//! ```
//!
//! 50 processes send to 16 keys, several sends of each under way, and poll; of some sends nobody knows what became; five nodes are
//! read at the end. To tell the peak of a run that only reads, run it twice.

#![allow(clippy::print_stdout, clippy::cast_possible_truncation, reason = "a program that makes its own small numbers")]

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Instant,
};

use levada_checkers::{
    history::{Event, Index, Key, Offset, Op, Phase, Process, Value, file},
    log,
    verdict::Verdict,
};

const OPERATIONS: u64 = 1_000_000;
const KEYS: Key = 16;
const PROCESSES: Process = 50;
const NODES: u64 = 5;
/// So many sends of a process are under way.
const PIPELINE: usize = 8;
/// One operation in so many is a poll, and shows at most so many records.
const POLL_EVERY: u64 = 5;
const POLL_RECORDS: usize = 20;
/// Of one send in so many nobody knows what became.
const UNKNOWN_EVERY: u64 = 500;

fn main() -> Result<(), file::Error> {
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let begun = Instant::now();
    let events = match &path {
        Some(path) if path.exists() => {
            let events = file::read(path)?;
            println!("read {} events in {:.2?}, peak {} MiB", events.len(), begun.elapsed(), peak_mib());
            events
        }
        path => {
            let events = World::default().events();
            println!("made {} events in {:.2?}, peak {} MiB", events.len(), begun.elapsed(), peak_mib());
            if let Some(path) = path {
                write(path, &events)?;
            }
            events
        }
    };
    let checking = Instant::now();
    let check = log::check(&events);
    println!("checked in {:.2?}, peak {} MiB: {}", checking.elapsed(), peak_mib(), check.verdict);
    println!("in all {:.2?}", begun.elapsed());
    for (name, value) in &check.figures {
        println!("  {name} {value}");
    }
    assert_eq!(check.verdict, Verdict::Valid, "{:?}", check.anomalies);
    Ok(())
}

fn write(path: &Path, events: &[Event]) -> Result<(), file::Error> {
    let begun = Instant::now();
    let mut writer = file::Writer::create(path)?;
    for event in events {
        writer.append(event)?;
    }
    writer.finish()?;
    println!("wrote {} in {:.2?}", path.display(), begun.elapsed());
    Ok(())
}

/// The most memory that this process ever had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Logs, and processes that use them. Everything takes effect in the order in which it is sent.
#[derive(Default)]
struct World {
    events: Vec<Event>,
    logs: [Vec<(Offset, Value)>; KEYS as usize],
    dice: u64,
}

impl World {
    fn events(mut self) -> Vec<Event> {
        let mut pipelines: Vec<VecDeque<Index>> = vec![VecDeque::new(); PROCESSES as usize];
        for operation in 0..OPERATIONS {
            let process = self.roll(PROCESSES.into()) as Process;
            let key = self.roll(KEYS.into()) as Key;
            if self.roll(POLL_EVERY) == 0 {
                self.poll(PROCESSES + process, key);
                continue;
            }
            let send = self.push(process, Phase::Invoke, None, Op::Send { key, value: operation, offset: None });
            let pipeline = &mut pipelines[process as usize];
            pipeline.push_back(send);
            if pipeline.len() >= PIPELINE
                && let Some(first) = pipeline.pop_front()
            {
                self.append(first);
            }
        }
        for send in pipelines.into_iter().flatten() {
            self.append(send);
        }
        for node in 0..NODES {
            for key in 0..KEYS {
                let process = 2 * PROCESSES;
                let begun =
                    self.push(process, Phase::Invoke, None, Op::Final { key, range: None, records: Vec::new() });
                let records = self.logs[key as usize].clone();
                let range = Some(0..records.len() as Offset);
                let done = self.push(process, Phase::Ok, Some(begun), Op::Final { key, range, records });
                for event in [begun, done] {
                    self.events[event as usize].node = Some(node);
                }
            }
        }
        self.events
    }

    /// The oldest send of a process is done, or nobody knows.
    fn append(&mut self, send: Index) {
        let Event { process, op: Op::Send { key, value, .. }, .. } = self.events[send as usize] else { return };
        let log = &mut self.logs[key as usize];
        let offset = log.len() as Offset;
        log.push((offset, value));
        if self.roll(UNKNOWN_EVERY) == 0 {
            self.push(process, Phase::Info, Some(send), Op::Send { key, value, offset: None });
        } else {
            self.push(process, Phase::Ok, Some(send), Op::Send { key, value, offset: Some(offset) });
        }
    }

    fn poll(&mut self, process: Process, key: Key) {
        let end = self.logs[key as usize].len() as Offset;
        let from = end.saturating_sub(self.roll(40));
        let begun = self.push(process, Phase::Invoke, None, Op::Poll { key, from, records: Vec::new() });
        let records = self.logs[key as usize][from as usize..].iter().copied().take(POLL_RECORDS).collect();
        self.push(process, Phase::Ok, Some(begun), Op::Poll { key, from, records });
    }

    fn push(&mut self, process: Process, phase: Phase, invocation: Option<Index>, op: Op) -> Index {
        let index = self.events.len() as Index;
        let invocation = invocation.unwrap_or(index);
        let time_ns = index * 10_000;
        self.events.push(Event { index, time_ns, process, node: None, phase, invocation, op, error: None });
        index
    }

    /// Below a bound, and the same in every run.
    fn roll(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % bound
    }
}
