//! What was sent to one log, and what became of it.

use crate::history::{Event, Index, Offset, Phase, Process, Value};

use super::versions::{Marks, Place};

/// What the sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing certain, or nothing at all.
    Unknown,
    Acked,
    Failed,
}

/// One send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) value: Value,
    pub(super) process: Process,
    pub(super) outcome: Outcome,
    /// All that was ever told of its value, wherever it stood.
    pub(super) marks: Marks,
    pub(super) invoked: Index,
    /// Its completion; its invocation while there is none.
    pub(super) completed: Index,
    /// Where it was acknowledged.
    pub(super) acked_at: Option<Offset>,
    /// The lowest and the highest offset that anybody saw it at.
    pub(super) places: Option<(Offset, Offset)>,
}

impl Sent {
    /// Whether it must be in the log: it was acknowledged, or somebody who was answered has read it.
    pub(super) const fn must_be_there(&self) -> bool {
        match self.outcome {
            Outcome::Acked => true,
            Outcome::Unknown => self.marks.has(Marks::READ_OK),
            Outcome::Failed => false,
        }
    }

    /// Whether it is known to stand in the log although its sender was not told so.
    pub(super) const fn recovered(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown) && self.marks.has(Marks::READ)
    }

    /// Somebody saw it at an offset.
    pub(super) fn stands_at(&mut self, offset: Offset) {
        let (low, high) = self.places.unwrap_or((offset, offset));
        self.places = Some((low.min(offset), high.max(offset)));
    }

    /// The offset that its order among others is judged by.
    pub(super) fn offset(&self) -> Option<Offset> {
        self.acked_at.or(self.places.map(|(low, _)| low))
    }
}

/// All sends to one log, in the order of their invocations.
#[derive(Debug, Default)]
pub(super) struct Sends {
    list: Vec<Sent>,
    /// Places in the list, in the order of values.
    by_value: Vec<u32>,
}

impl Sends {
    /// Notes an event of a send.
    pub(super) fn note(&mut self, event: &Event, value: Value, offset: Option<Offset>) {
        let outcome = match event.phase {
            Phase::Invoke => {
                return self.list.push(Sent {
                    value,
                    process: event.process,
                    outcome: Outcome::Unknown,
                    marks: Marks::default(),
                    invoked: event.index,
                    completed: event.index,
                    acked_at: None,
                    places: None,
                });
            }
            Phase::Ok => Outcome::Acked,
            Phase::Fail => Outcome::Failed,
            Phase::Info => Outcome::Unknown,
        };
        if let Ok(i) = self.list.binary_search_by_key(&event.invocation, |sent| sent.invoked) {
            let sent = &mut self.list[i];
            (sent.outcome, sent.completed) = (outcome, event.index);
            sent.acked_at = offset.filter(|_| outcome == Outcome::Acked);
        }
    }

    /// All events are noted. Answers a value that was sent twice, if one was.
    pub(super) fn sort(&mut self) -> Option<Value> {
        self.by_value = (0..).take(self.list.len()).collect();
        let value = |&i: &u32| self.list[i as usize].value;
        self.by_value.sort_by_key(value);
        self.by_value.windows(2).find(|pair| value(&pair[0]) == value(&pair[1])).map(|pair| value(&pair[0]))
    }

    /// Which send a value is of.
    pub(super) fn find(&self, value: Value) -> Option<Place> {
        let found = self.by_value.binary_search_by_key(&value, |&i| self.list[i as usize].value).ok()?;
        Some(self.by_value[found])
    }

    pub(super) fn get(&self, place: Place) -> &Sent {
        &self.list[place as usize]
    }

    pub(super) fn get_mut(&mut self, place: Place) -> &mut Sent {
        &mut self.list[place as usize]
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Sent> {
        self.list.iter()
    }

    /// Those of every process in the order of their invocations, process after process.
    pub(super) fn by_process(&self) -> Vec<&Sent> {
        let mut sends: Vec<&Sent> = self.list.iter().collect();
        sends.sort_by_key(|sent| sent.process);
        sends
    }
}
