//! Checks registers that many clients use at once, and tells how long that takes.
//!
//! ```sh
//! cargo run --release -p levada-checkers --example registers
//! ```
//!
//! 100,000 operations of 20 clients: over 200 keys, over one, and over 200 of which one read shows what nobody wrote.
//! Of some operations nobody knows what became.

#![allow(clippy::print_stdout, clippy::cast_possible_truncation, reason = "a program that makes its own small numbers")]

use std::{collections::BTreeMap, time::Instant};

use levada_checkers::{
    history::{Event, Index, Key, Op, Phase, Process, Value},
    register,
};

const OPERATIONS: u64 = 100_000;
const CLIENTS: u64 = 20;
/// Values are below this, so that exchanges find what they expect now and then.
const VALUES: u64 = 5;
/// Of one operation in so many nobody knows what became.
const UNKNOWN_EVERY: u64 = 100;

fn main() {
    for (name, keys, wrong) in [("many keys", 200, false), ("one key", 1, false), ("a wrong read", 200, true)] {
        let mut world = World::default();
        world.run(keys);
        if wrong {
            world.show_what_nobody_wrote();
        }
        let begun = Instant::now();
        let check = register::check(&world.events);
        println!("{name}: {} in {:.2?}, {:?}", check.verdict, begun.elapsed(), check.figures);
        for anomaly in &check.anomalies {
            println!("  {} of key {:?}: {}", anomaly.kind, anomaly.key, anomaly.what);
        }
    }
}

/// An operation that began, and what it came to if it took effect at once.
type UnderWay = (Index, Op, Option<(Phase, Op)>);

/// Registers that are ones: every operation takes effect as it begins or as it completes.
#[derive(Default)]
struct World {
    events: Vec<Event>,
    registers: BTreeMap<Key, Option<Value>>,
    dice: u64,
}

impl World {
    fn run(&mut self, keys: u64) {
        let mut clients: Vec<Option<UnderWay>> = vec![None; CLIENTS as usize];
        let mut begun = 0;
        while begun < OPERATIONS {
            let client = self.roll(CLIENTS) as usize;
            let process = client as Process;
            match clients[client].take() {
                None => {
                    begun += 1;
                    let op = self.some_op(keys);
                    let index = self.push(process, Phase::Invoke, None, op.clone());
                    let early = (self.roll(2) == 0).then(|| self.happen(&op));
                    clients[client] = Some((index, op, early));
                }
                Some((index, op, early)) => {
                    if self.roll(UNKNOWN_EVERY) == 0 {
                        self.push(process, Phase::Info, Some(index), op);
                        continue;
                    }
                    let (phase, op) = early.unwrap_or_else(|| self.happen(&op));
                    self.push(process, phase, Some(index), op);
                }
            }
        }
    }

    /// A read in the middle that is done shows a value that nobody wrote.
    fn show_what_nobody_wrote(&mut self) {
        let half = self.events.len() / 2;
        let read = |event: &&mut Event| event.phase == Phase::Ok && matches!(event.op, Op::Read { .. });
        if let Some(Event { op: Op::Read { value, .. }, .. }) = self.events.iter_mut().skip(half).find(read) {
            *value = Some(VALUES);
        }
    }

    fn some_op(&mut self, keys: u64) -> Op {
        let (key, value, expected) = (self.roll(keys) as Key, self.roll(VALUES), Some(self.roll(VALUES)));
        match self.roll(3) {
            0 => Op::Read { key, value: None },
            1 => Op::Write { key, value },
            _ => Op::Cas { key, expected, value },
        }
    }

    fn happen(&mut self, op: &Op) -> (Phase, Op) {
        let state = self.registers.entry(op.key()).or_default();
        match *op {
            Op::Write { value, .. } => *state = Some(value),
            Op::Cas { expected, value, .. } if expected == *state => *state = Some(value),
            Op::Cas { .. } => return (Phase::Fail, op.clone()),
            _ => return (Phase::Ok, Op::Read { key: op.key(), value: *state }),
        }
        (Phase::Ok, op.clone())
    }

    fn push(&mut self, process: Process, phase: Phase, invocation: Option<Index>, op: Op) -> Index {
        let index = self.events.len() as Index;
        let invocation = invocation.unwrap_or(index);
        self.events.push(Event { index, time_ns: index, process, node: None, phase, invocation, op, error: None });
        index
    }

    /// Below a bound, and the same in every run.
    fn roll(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % bound
    }
}
