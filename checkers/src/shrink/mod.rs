//! What a person must read of a history to see an anomaly: as few operations as still show it.
//!
//! A history is taken apart into **units** that can be left out: a value of a log, with its send and wherever a read shows it, or
//! any other operation. What remains is judged again and again (delta debugging): without whole processes, then without
//! operations, halves and quarters and eighths of them and at last one by one, then without windows of time that lie across those;
//! and from the beginning again, until nothing more can go.
//!
//! What is left must be true of the whole history, too. So an anomaly counts as the same only if
//!
//! - it is of the same kind, on the same key, and the same events show it; an order that cannot be found ([`register`](crate::register)) has
//!   no such events: there, whatever is left keeps everything that was written of what is read, so that no order goes missing;
//! - nothing of a kind appears that the whole history does not show.
//!
//! Between two records of a read others may have been left out: whoever judges what is left must not take that for a gap
//! ([`Options::dense`](crate::log::Options::dense)).

mod reduce;
mod story;
#[cfg(test)]
mod tests;
mod units;

use std::collections::BTreeSet;

use crate::{
    history::{Event, Index, Phase},
    verdict::{Anomaly, Check},
};

use self::{reduce::reduce, units::Units};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being left out.
    pub pass: &'static str,
    /// Operations that are left.
    pub operations: usize,
    /// How many histories were judged.
    pub judged: u64,
}

/// What is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimal {
    /// The events, numbered anew so that they are a history.
    pub events: Vec<Event>,
    /// Which event of the whole history each is.
    pub places: Vec<Index>,
    /// What they show, by their new numbers.
    pub anomaly: Anomaly,
    /// Operations of the whole history.
    pub operations_before: usize,
    /// How many histories were judged.
    pub judged: u64,
}

/// Leaves out of a history what an anomaly that a checker found in it does not need. `None` if the checker does not find it.
pub fn shrink(
    events: &[Event],
    anomaly: &Anomaly,
    judge: &dyn Fn(&[Event]) -> Check,
    tell: &mut dyn FnMut(Progress),
) -> Option<Minimal> {
    let whole = judge(events);
    let kinds: BTreeSet<String> = whole.counts.into_keys().collect();
    let units = Units::new(events, anomaly.key);
    let mut search = Search { units: &units, anomaly, judge, kinds, judged: 0 };
    let mut kept = units.all();
    search.shown_by(&kept)?;
    loop {
        let before = units::count(&kept);
        for (pass, groups) in
            [("processes", Groups::Processes), ("operations", Groups::Units), ("windows", Groups::Windows)]
        {
            search.pass(pass, groups, &mut kept, tell);
        }
        if units::count(&kept) == before {
            break;
        }
    }
    let found = search.shown_by(&kept)?;
    Some(finish(&units.build(&kept), found, operations(events), search.judged))
}

/// What goes together.
#[derive(Clone, Copy, Debug)]
enum Groups {
    Processes,
    Units,
    Windows,
}

struct Search<'a> {
    units: &'a Units<'a>,
    anomaly: &'a Anomaly,
    judge: &'a dyn Fn(&[Event]) -> Check,
    kinds: BTreeSet<String>,
    judged: u64,
}

impl Search<'_> {
    fn pass(&mut self, pass: &'static str, groups: Groups, kept: &mut Vec<bool>, tell: &mut dyn FnMut(Progress)) {
        let units = self.units;
        let mut operations = units.operations(kept);
        let mut still = |candidate: &[bool]| {
            let shown = self.shown_by(candidate).is_some();
            if shown {
                operations = units.operations(candidate);
            }
            tell(Progress { pass, operations, judged: self.judged });
            shown
        };
        match groups {
            Groups::Processes => reduce(units.by_process(kept), kept, &mut still),
            Groups::Units => reduce(units.one_by_one(kept), kept, &mut still),
            Groups::Windows => reduce::windows(&units.one_by_one(kept), kept, &mut still),
        }
    }

    /// The anomaly, as what is kept shows it.
    fn shown_by(&mut self, kept: &[bool]) -> Option<Anomaly> {
        let by_order = self.anomaly.kind == "nonlinearizable";
        if by_order && !self.units.keeps_what_is_read(kept) {
            return None;
        }
        self.judged += 1;
        let check = (self.judge)(&self.units.build(kept));
        if check.counts.keys().any(|kind| !self.kinds.contains(kind)) {
            return None;
        }
        let Anomaly { kind, key, events, .. } = self.anomaly;
        let same = |found: &Anomaly| found.kind == *kind && found.key == *key && (by_order || found.events == *events);
        check.anomalies.into_iter().find(same)
    }
}

/// How many begin.
fn operations(events: &[Event]) -> usize {
    events.iter().filter(|event| event.phase == Phase::Invoke).count()
}

/// Numbers everything anew.
fn finish(left: &[Event], mut anomaly: Anomaly, operations_before: usize, judged: u64) -> Minimal {
    let places: Vec<Index> = left.iter().map(|event| event.index).collect();
    let number = |index: Index| places.binary_search(&index).map_or(index, |place| place as Index);
    let renumber =
        |event: &Event| Event { index: number(event.index), invocation: number(event.invocation), ..event.clone() };
    anomaly.events.iter_mut().for_each(|index| *index = number(*index));
    Minimal { events: left.iter().map(renumber).collect(), places, anomaly, operations_before, judged }
}
