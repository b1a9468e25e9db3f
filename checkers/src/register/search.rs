//! Looks for an order of the operations of one register.
//!
//! A **configuration** is which operations came already and what the register holds. From it, any operation may be next that began
//! before all others that are left had completed. The search goes deep first, and remembers in which configurations it was: a
//! second way to one of them leads nowhere new. Where nothing is under way, few configurations are possible, so that such points
//! cut the history into parts although nothing here is about them.
//!
//! Four things keep it small:
//!
//! - what only looks at the register and may be next, is next: whatever is possible later still is then;
//! - an operation of which nobody knows whether it took effect is put into the order only right before one that needs it, as late as
//!   can be: that changes nothing for the operations in between. Such operations never complete, and would double the
//!   configurations each;
//! - of two such operations that do the same, the first is taken first;
//! - where the search was before with some of them used up, it need not be with more of them used up.

use std::collections::HashMap;

use super::{Action, Operation, Register, State};

/// So many operations are told of an order.
const TOLD: usize = 8;

/// What a search found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// In how many configurations it was.
    pub(super) configurations: usize,
    /// Why it found no order, if it did not.
    pub(super) stop: Option<Stop<'a>>,
}

/// Why there is no order.
#[derive(Debug)]
pub(super) enum Stop<'a> {
    /// It would have had to remember too much.
    Spent,
    /// There is none.
    Stuck {
        /// So many operations are in the longest one.
        ordered: usize,
        /// The last of them.
        last: Vec<&'a Operation>,
        /// What the register holds then.
        state: State,
        /// Those one of which must be next, but none can.
        next: Vec<&'a Operation>,
    },
}

/// Which operations came already: all below the words, and those whose bits are set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Done {
    words_before: usize,
    words: Vec<u64>,
}

impl Done {
    /// The first that did not come yet.
    fn first_left(&self) -> usize {
        self.words_before * 64 + self.words.first().map_or(0, |word| word.trailing_ones() as usize)
    }

    fn has(&self, i: usize) -> bool {
        match (i / 64).checked_sub(self.words_before) {
            Some(word) => self.words.get(word).is_some_and(|word| word >> (i % 64) & 1 == 1),
            None => true,
        }
    }

    fn add(&mut self, i: usize) {
        let word = i / 64 - self.words_before;
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (i % 64);
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        self.words.drain(..full);
        self.words_before += full;
    }
}

#[derive(Clone, Debug, Default)]
struct Configuration {
    done: Done,
    state: State,
    /// Which of the unknown operations took effect, in order.
    used: Vec<u32>,
}

impl Configuration {
    /// What it takes to remember it: as a place where the search was, and as one to go on from.
    fn bytes(&self) -> usize {
        2 * (size_of::<Self>() + size_of_val(&*self.done.words) + size_of_val(&*self.used)) + size_of::<Frame>()
    }
}

/// An operation that may be next, and the unknown ones that must take effect right before it.
struct Choice {
    operation: usize,
    before: Vec<u32>,
}

struct Frame {
    configuration: Configuration,
    choices: std::vec::IntoIter<Choice>,
    /// How long the order is here.
    ordered: usize,
}

/// A place in the order.
#[derive(Clone, Copy)]
enum Step {
    Certain(usize),
    Unknown(u32),
}

/// A search under way.
pub(super) struct Search<'a> {
    register: &'a Register,
    memory_bytes_max: usize,
    memory_bytes: usize,
    configurations: usize,
    /// Where it was, by what was used up.
    seen: HashMap<(Done, State), Vec<Vec<u32>>>,
    frames: Vec<Frame>,
    order: Vec<Step>,
    longest: Option<Longest<'a>>,
}

struct Longest<'a> {
    ordered: usize,
    last: Vec<&'a Operation>,
    state: State,
    next: Vec<&'a Operation>,
}

/// What came of going to a configuration.
enum Way {
    /// Everything is in order.
    Complete,
    /// It may go on, or leads nowhere.
    Open,
    Spent,
}

impl<'a> Search<'a> {
    pub(super) fn new(register: &'a Register, memory_bytes_max: usize) -> Self {
        Self {
            register,
            memory_bytes_max,
            memory_bytes: 0,
            configurations: 0,
            seen: HashMap::new(),
            frames: Vec::new(),
            order: Vec::new(),
            longest: None,
        }
    }

    /// Looks for an order.
    pub(super) fn run(mut self) -> Found<'a> {
        let mut way = self.enter(Configuration::default());
        let stop = loop {
            match way {
                Way::Complete => break None,
                Way::Spent => break Some(Stop::Spent),
                Way::Open => {}
            }
            let Some(frame) = self.frames.last_mut() else { break Some(self.stuck()) };
            self.order.truncate(frame.ordered);
            let Some(choice) = frame.choices.next() else {
                self.frames.pop();
                continue;
            };
            let mut configuration = frame.configuration.clone();
            for unknown in choice.before {
                configuration.state = self.register.unknown[unknown as usize].action.after(configuration.state);
                let place = configuration.used.partition_point(|&used| used < unknown);
                configuration.used.insert(place, unknown);
                self.order.push(Step::Unknown(unknown));
            }
            self.go(&mut configuration, choice.operation);
            way = self.enter(configuration);
        };
        Found { configurations: self.configurations, stop }
    }

    /// An operation is next.
    fn go(&mut self, configuration: &mut Configuration, operation: usize) {
        configuration.state = self.register.certain[operation].action.after(configuration.state);
        configuration.done.add(operation);
        self.order.push(Step::Certain(operation));
    }

    fn enter(&mut self, mut configuration: Configuration) -> Way {
        let open = loop {
            let open = self.open(&configuration.done);
            let looks = open.iter().copied().find(|&i| {
                let action = self.register.certain[i].action;
                action.only_looks() && action.may_follow(configuration.state)
            });
            match looks {
                Some(operation) => self.go(&mut configuration, operation),
                None => break open,
            }
        };
        if open.is_empty() {
            return Way::Complete;
        }
        let seen = self.seen.entry((configuration.done.clone(), configuration.state)).or_default();
        if seen.iter().any(|used| contains(&configuration.used, used)) {
            return Way::Open;
        }
        self.memory_bytes += configuration.bytes();
        if self.memory_bytes > self.memory_bytes_max {
            return Way::Spent;
        }
        self.configurations += 1;
        seen.push(configuration.used.clone());
        let choices = self.choices(&configuration, &open);
        if choices.is_empty() {
            self.note_longest(&configuration, &open);
        }
        self.frames.push(Frame { configuration, choices: choices.into_iter(), ordered: self.order.len() });
        Way::Open
    }

    /// Those that may be next by the time of their invocations.
    fn open(&self, done: &Done) -> Vec<usize> {
        let mut open = Vec::new();
        let mut first_completed = u64::MAX;
        for (i, operation) in self.register.certain.iter().enumerate().skip(done.first_left()) {
            if operation.invoked > first_completed {
                break;
            }
            if !done.has(i) {
                first_completed = first_completed.min(operation.completed);
                open.push(i);
            }
        }
        open
    }

    /// Those that may be next by what the register holds, or might. What must come first is tried first.
    fn choices(&self, configuration: &Configuration, open: &[usize]) -> Vec<Choice> {
        let completed = |i: usize| self.register.certain[i].completed;
        let deadline = open.iter().map(|&i| completed(i)).min().unwrap_or(u64::MAX);
        let begun = self.register.unknown.partition_point(|unknown| unknown.invoked < deadline);
        let left = Left { unknown: &self.register.unknown[..begun], used: &configuration.used };
        let mut choices = Vec::new();
        for &operation in open {
            let action = self.register.certain[operation].action;
            let ways = match action {
                _ if action.may_follow(configuration.state) => vec![Vec::new()],
                Action::Read(held) | Action::Exchange(held, _) => left.ways(configuration.state, held),
                Action::Differs(held) => left.ways_off(held),
                Action::Write(_) => Vec::new(),
            };
            choices.extend(ways.into_iter().map(|before| Choice { operation, before }));
        }
        choices.sort_by_key(|choice| (choice.before.len(), completed(choice.operation)));
        choices
    }

    fn note_longest(&mut self, &Configuration { state, ref used, .. }: &Configuration, open: &[usize]) {
        let ordered = self.order.len() - used.len();
        if self.longest.as_ref().is_some_and(|longest| longest.ordered >= ordered) {
            return;
        }
        let register = self.register;
        let last = self.order[self.order.len().saturating_sub(TOLD)..].iter().map(|step| match *step {
            Step::Certain(i) => &register.certain[i],
            Step::Unknown(i) => &register.unknown[i as usize],
        });
        let next = open.iter().map(|&i| &register.certain[i]);
        self.longest = Some(Longest { ordered, last: last.collect(), state, next: next.collect() });
    }

    fn stuck(&mut self) -> Stop<'a> {
        // A search that ended without an order has been where nothing could be next.
        let none = Longest { ordered: 0, last: Vec::new(), state: None, next: Vec::new() };
        let Longest { ordered, last, state, next } = self.longest.take().unwrap_or(none);
        Stop::Stuck { ordered, last, state, next }
    }
}

/// The unknown operations that may still take effect.
struct Left<'a> {
    unknown: &'a [Operation],
    used: &'a [u32],
}

impl Left<'_> {
    /// Those that are left and wanted, and of those that do the same only the first.
    fn different(&self, wanted: impl Fn(Action) -> bool) -> Vec<(u32, Action)> {
        let mut different: Vec<(u32, Action)> = Vec::new();
        for (i, &Operation { action, .. }) in (0..).zip(self.unknown) {
            let spent = self.used.binary_search(&i).is_ok();
            if wanted(action) && !spent && !different.iter().any(|&(_, other)| other == action) {
                different.push((i, action));
            }
        }
        different
    }

    /// The ways to make the register hold something that it does not.
    fn ways(&self, state: State, held: State) -> Vec<Vec<u32>> {
        let mut ways = Vec::new();
        self.extend(state, &mut vec![held], &mut Vec::new(), &mut ways);
        ways
    }

    /// Puts everything before `after` (from the last on) that leads to the last thing held. To hold something twice on the way
    /// would only use more of them; so none is there twice either.
    fn extend(&self, state: State, held: &mut Vec<State>, after: &mut Vec<u32>, ways: &mut Vec<Vec<u32>>) {
        let Some(&last) = held.last() else { return };
        for (i, action) in self.different(|action| action.after(last) == last) {
            after.push(i);
            match action {
                Action::Exchange(expected, _) if expected != state => {
                    if !held.contains(&expected) {
                        held.push(expected);
                        self.extend(state, held, after, ways);
                        held.pop();
                    }
                }
                _ => ways.push(after.iter().rev().copied().collect()),
            }
            after.pop();
        }
    }

    /// The ways to make the register not hold what it does.
    fn ways_off(&self, held: State) -> Vec<Vec<u32>> {
        let off = |action: Action| action.may_follow(held) && action.after(held) != held;
        self.different(off).into_iter().map(|(i, _)| vec![i]).collect()
    }
}

/// Whether all of one are in the other; both are in order.
fn contains(all: &[u32], some: &[u32]) -> bool {
    let mut all = all.iter();
    some.iter().all(|one| all.any(|other| other == one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_remembered_across_words() {
        let mut done = Done::default();
        for i in (0..200).rev().filter(|i| i % 3 == 0).chain((0..200).filter(|i| i % 3 != 0)) {
            assert!(!done.has(i));
            done.add(i);
            assert!(done.has(i));
            assert_eq!(done.first_left(), (0..).find(|&i| !done.has(i)).unwrap());
        }
        assert_eq!((done.first_left(), done.words.len()), (200, 1));
    }

    #[test]
    fn one_list_contains_another() {
        assert!(contains(&[1, 2, 5], &[]));
        assert!(contains(&[1, 2, 5], &[1, 5]));
        assert!(!contains(&[1, 2, 5], &[3]));
        assert!(!contains(&[1], &[1, 2]));
    }
}
