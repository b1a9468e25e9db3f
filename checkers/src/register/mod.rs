//! Registers are linearizable: every operation takes effect at one moment between its invocation and its completion.
//!
//! Each key is a register by itself, and empty at first. What is known of an operation says what it may be:
//!
//! | Operation | Completion | What it is |
//! |---|---|---|
//! | read | `ok` | it showed what the register held |
//! | write | `ok` | it took effect |
//! | exchange | `ok` | the register held what was expected, and it took effect |
//! | exchange | `fail` without an error | the register held something else |
//! | write, exchange | `info`, or none | it takes effect at any time after its invocation, or never |
//! | any | `fail` with an error, a write's `fail` | it never took effect |
//! | read | `fail`, `info` or none | nothing is known |
//!
//! A key whose operations cannot be put into any such order is `nonlinearizable`. What is told of it is the longest order that could
//! be found from the beginning on, and the operations none of which can come next. The search is Wing's and Gong's with Lowe's
//! memory of where it was before; where it would take too much memory, a doubt is left.

mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    history::{Event, Index, Key, Op, Phase, Process, Value},
    verdict::Check,
};

use self::search::{Found, Search, Stop};

/// How much may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// So much the search may remember of one key.
    pub memory_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory_bytes_max: 512 << 20 }
    }
}

/// Checks all registers of a history.
#[must_use]
pub fn check(events: &[Event]) -> Check {
    check_with(events, &Options::default())
}

/// Checks all registers of a history.
#[must_use]
pub fn check_with(events: &[Event], options: &Options) -> Check {
    let mut check = Check::new("register");
    let registers = gather(events);
    let (mut operations, mut unknown, mut configurations, mut most) = (0, 0, 0, 0);
    for (&key, register) in &registers {
        let found = Search::new(register, options.memory_bytes_max).run();
        operations += register.certain.len();
        unknown += register.unknown.len();
        configurations += found.configurations;
        most = most.max(found.configurations);
        tell(key, register, &found, options, &mut check);
    }
    let figures = [
        ("keys", registers.len()),
        ("operations", operations),
        ("unknown", unknown),
        ("configurations", configurations),
        ("configurations_of_a_key_max", most),
    ];
    for (name, count) in figures {
        check.figure(name, f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
    check
}

fn tell(key: Key, register: &Register, found: &Found, options: &Options, check: &mut Check) {
    match &found.stop {
        None => {}
        Some(Stop::Spent) => check.doubt(format!(
            "the operations of key {key} could not be put in order within {} bytes",
            options.memory_bytes_max
        )),
        Some(Stop::Stuck { ordered, last, state, next }) => {
            let list = |operations: &[&Operation]| {
                operations.iter().map(|operation| operation.describe()).collect::<Vec<_>>().join(", ")
            };
            let what = format!(
                "{ordered} of {} operations can be put in order, at last {}; then the register holds {}, and none can be next of {}",
                register.certain.len(),
                list(last),
                describe(*state),
                list(next),
            );
            let events = last.iter().chain(next).map(|operation| operation.completed).collect();
            check.found("nonlinearizable", Some(key), events, what);
        }
    }
}

/// What a register holds.
type State = Option<Value>;

fn describe(state: State) -> String {
    state.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}

/// What an operation is to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// It holds this.
    Read(State),
    /// It holds anything else.
    Differs(State),
    Write(Value),
    /// It holds the first, and then the second.
    Exchange(State, Value),
}

impl Action {
    /// Whether it can happen to a register that holds this.
    fn may_follow(self, state: State) -> bool {
        match self {
            Self::Read(held) | Self::Exchange(held, _) => held == state,
            Self::Differs(held) => held != state,
            Self::Write(_) => true,
        }
    }

    /// What the register holds then.
    const fn after(self, state: State) -> State {
        match self {
            Self::Read(_) | Self::Differs(_) => state,
            Self::Write(value) | Self::Exchange(_, value) => Some(value),
        }
    }

    /// Whether it leaves the register as it is.
    const fn only_looks(self) -> bool {
        matches!(self, Self::Read(_) | Self::Differs(_))
    }
}

/// One operation of which something is known.
#[derive(Clone, Copy, Debug)]
struct Operation {
    action: Action,
    process: Process,
    invoked: Index,
    /// Its completion; its invocation while there is none.
    completed: Index,
}

impl Operation {
    fn describe(&self) -> String {
        let process = self.process;
        match self.action {
            Action::Read(state) => format!("process {process} reads {}", describe(state)),
            Action::Differs(state) => format!("process {process} finds something else than {}", describe(state)),
            Action::Write(value) => format!("process {process} writes {value}"),
            Action::Exchange(state, value) => {
                format!("process {process} exchanges {} for {value}", describe(state))
            }
        }
    }
}

/// All operations of one key, each list in the order of the invocations.
#[derive(Debug, Default)]
struct Register {
    /// Those that took effect before they completed.
    certain: Vec<Operation>,
    /// Those that may take effect at any time, or never.
    unknown: Vec<Operation>,
}

fn gather(events: &[Event]) -> BTreeMap<Key, Register> {
    let mut completions: BTreeMap<Index, &Event> = BTreeMap::new();
    for event in events.iter().filter(|event| event.phase != Phase::Invoke) {
        if matches!(event.op, Op::Read { .. } | Op::Write { .. } | Op::Cas { .. }) {
            completions.insert(event.invocation, event);
        }
    }
    let mut registers: BTreeMap<Key, Register> = BTreeMap::new();
    for event in events.iter().filter(|event| event.phase == Phase::Invoke) {
        let completion = completions.get(&event.index).copied();
        let Some((action, certain)) = action(event, completion) else { continue };
        let register = registers.entry(event.op.key()).or_default();
        let list = if certain { &mut register.certain } else { &mut register.unknown };
        let completed = completion.map_or(event.index, |completion| completion.index);
        list.push(Operation { action, process: event.process, invoked: event.index, completed });
    }
    registers
}

/// What an operation is to its register, and whether it certainly is.
fn action(invocation: &Event, completion: Option<&Event>) -> Option<(Action, bool)> {
    let last = completion.unwrap_or(invocation);
    let action = match last.op {
        Op::Read { value, .. } => Action::Read(value),
        Op::Write { value, .. } => Action::Write(value),
        Op::Cas { expected, .. } if last.phase == Phase::Fail => Action::Differs(expected),
        Op::Cas { expected, value, .. } => Action::Exchange(expected, value),
        _ => return None,
    };
    match last.phase {
        _ if last.answers() => Some((action, true)),
        Phase::Invoke | Phase::Info if !action.only_looks() => Some((action, false)),
        _ => None,
    }
}
