//! Operations: what a history's events amount to. An invocation and its completion, if there is one.

use std::collections::BTreeMap;

use levada_checkers::history::{Event, Index, Key, Op, Phase};

/// How an operation ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It was done.
    Ok,
    /// Nobody knows. So it is with one that never completed.
    Info,
    /// It was not done.
    Fail,
}

impl Outcome {
    pub(super) const ALL: [Self; 3] = [Self::Ok, Self::Info, Self::Fail];

    /// Its name, which is its class in the style sheet as well.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Fail => "fail",
        }
    }
}

/// An operation.
#[derive(Clone, Copy)]
pub(super) struct Operation<'a> {
    pub(super) begun: &'a Event,
    pub(super) ended: Option<&'a Event>,
}

impl<'a> Operation<'a> {
    pub(super) fn outcome(&self) -> Outcome {
        match self.ended.map(|event| event.phase) {
            Some(Phase::Ok) => Outcome::Ok,
            Some(Phase::Fail) => Outcome::Fail,
            Some(Phase::Info | Phase::Invoke) | None => Outcome::Info,
        }
    }

    /// The operation, with what the answer filled if there was one.
    pub(super) fn op(&self) -> &'a Op {
        &self.ended.unwrap_or(self.begun).op
    }

    pub(super) fn latency_ns(&self) -> Option<u64> {
        self.ended.map(|ended| ended.time_ns.saturating_sub(self.begun.time_ns))
    }
}

/// Whether it takes a majority to answer. Readers of a log may be shown what was committed before by anyone who leads, and wait
/// for more: how long they take, or that they are answered, says little of the cluster.
pub(super) const fn asks_majority(op: &Op) -> bool {
    matches!(op, Op::Send { .. } | Op::End { .. } | Op::Read { .. } | Op::Write { .. } | Op::Cas { .. })
}

/// A history, to look things up in.
pub(super) struct History<'a> {
    pub(super) events: &'a [Event],
    /// When the last event happened.
    pub(super) end_ns: u64,
    /// For an event that is an invocation, where its completion is.
    completions: Vec<Option<usize>>,
    /// Where a key's events are.
    keys: BTreeMap<Key, Vec<usize>>,
}

impl<'a> History<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        let mut completions = vec![None; events.len()];
        let mut keys: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            keys.entry(event.op.key()).or_default().push(at);
            let invocation = usize::try_from(event.invocation).ok().and_then(|at| completions.get_mut(at));
            if let Some(completion) = invocation.filter(|completion| completion.is_none())
                && event.phase != Phase::Invoke
            {
                *completion = Some(at);
            }
        }
        let end_ns = events.iter().map(|event| event.time_ns).max().unwrap_or_default();
        Self { events, end_ns, completions, keys }
    }

    /// All operations, in the order in which they began.
    pub(super) fn operations(&self) -> impl Iterator<Item = Operation<'a>> {
        let begun = self.events.iter().enumerate().filter(|(_, event)| event.phase == Phase::Invoke);
        begun.map(|(at, begun)| Operation { begun, ended: self.completion(at) })
    }

    /// The operation that an event belongs to, if there is such an event.
    pub(super) fn operation(&self, index: Index) -> Option<Operation<'a>> {
        let event = self.events.get(usize::try_from(index).ok()?)?;
        let at = usize::try_from(event.invocation).ok()?;
        let begun = self.events.get(at).filter(|begun| begun.phase == Phase::Invoke)?;
        Some(Operation { begun, ended: self.completion(at) })
    }

    fn completion(&self, at: usize) -> Option<&'a Event> {
        let at = self.completions.get(at).copied().flatten()?;
        self.events.get(at)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.keys.keys().copied()
    }

    /// A key's events, in order.
    pub(super) fn of_key(&self, key: Key) -> impl DoubleEndedIterator<Item = &'a Event> + Clone {
        self.keys.get(&key).map_or(&[][..], Vec::as_slice).iter().filter_map(|at| self.events.get(*at))
    }

    /// A key's events on both sides of another event, so many each.
    pub(super) fn around(&self, key: Key, index: Index, each: usize) -> impl Iterator<Item = &'a Event> {
        let places = self.keys.get(&key).map_or(&[][..], Vec::as_slice);
        let at = places.partition_point(|at| (*at as Index) < index);
        let (from, to) = (at.saturating_sub(each), at.saturating_add(each + 1).min(places.len()));
        places.get(from..to).unwrap_or_default().iter().filter_map(|at| self.events.get(*at))
    }
}
