//! What every node has of a log at the end.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    history::{Event, Index, Offset, Op, Phase, Value},
    verdict::Check,
};

use super::{Log, Options, sends::Outcome};

/// The final reads of one log by node. Of several by one node the last one that was done counts.
#[derive(Debug, Default)]
pub(super) struct Finals<'a> {
    by_node: BTreeMap<Option<u64>, Option<&'a Event>>,
}

impl<'a> Finals<'a> {
    /// Notes an event of a final read.
    pub(super) fn note(&mut self, event: &'a Event) {
        let last = self.by_node.entry(event.node).or_default();
        if event.phase == Phase::Ok {
            *last = Some(event);
        }
    }

    /// Whether an event is what counts of its node.
    pub(super) fn has(&self, event: &Event) -> bool {
        self.last().any(|last| last.index == event.index)
    }

    /// What counts of each node.
    pub(super) fn last(&self) -> impl Iterator<Item = &'a Event> {
        self.by_node.values().copied().flatten()
    }

    /// Their events.
    pub(super) fn events(&self) -> Vec<Index> {
        self.last().map(|event| event.index).collect()
    }

    /// A node that was asked, but of which nothing counts.
    fn missing(&self) -> Option<Option<u64>> {
        self.by_node.iter().find(|(_, last)| last.is_none()).map(|(&node, _)| node)
    }

    /// The first offset that any node still has.
    pub(super) fn start(&self) -> Option<Offset> {
        self.last().filter_map(|event| range(event).map(|range| range.start)).min()
    }

    /// The end of the longest.
    fn end(&self) -> Option<Offset> {
        self.last().map(|event| range(event).map_or(0, |range| range.end)).max()
    }
}

fn records(event: &Event) -> &[(Offset, Value)] {
    match &event.op {
        Op::Final { records, .. } => records,
        _ => &[],
    }
}

/// The offsets that a node says it has.
const fn told_range(event: &Event) -> Option<&Range<Offset>> {
    match &event.op {
        Op::Final { range, .. } => range.as_ref(),
        _ => None,
    }
}

/// The offsets that a node has: as it says, or that its records have.
fn range(event: &Event) -> Option<Range<Offset>> {
    if let Some(range) = told_range(event) {
        return Some(range.clone());
    }
    let records = records(event);
    Some(records.first()?.0..records.last()?.0.saturating_add(1))
}

/// The node of an event, for a person.
fn node(event: &Event) -> String {
    event.node.map_or_else(|| "a node".to_owned(), |node| format!("node {node}"))
}

impl Log<'_> {
    /// All nodes must have the same, and as much as was ever told.
    pub(super) fn judge_finals(&self, options: &Options, check: &mut Check) {
        let Some(first) = self.finals.last().next() else {
            let acked = self.sends.iter().filter(|sent| sent.outcome == Outcome::Acked).count();
            if acked > 0 {
                check.doubt(format!("{acked} values of key {} are acknowledged, and no final read is there", self.key));
            }
            return;
        };
        if let Some(missing) = self.finals.missing() {
            let node = missing.map_or_else(|| "a node".to_owned(), |node| format!("node {node}"));
            check.doubt(format!("the final read of key {} on {node} was never done", self.key));
        }
        for event in self.finals.last().skip(1) {
            if let Some(difference) = difference(first, event, options) {
                check.found("divergence", Some(self.key), vec![first.index, event.index], difference);
            }
        }
        if options.dense
            && let (Some((told, reach)), Some(end)) = (self.reach.last(), self.finals.end())
            && end < reach
        {
            let what = format!("the log was told to reach to {reach}, and ends at {end}");
            let events = std::iter::once(told).chain(self.finals.events()).collect();
            check.found("lost-end", Some(self.key), events, what);
        }
    }
}

/// How the log of one node differs from that of another.
fn difference(one_event: &Event, other_event: &Event, options: &Options) -> Option<String> {
    let (mut ours, mut theirs) = (records(one_event), records(other_event));
    if options.retention
        && let (Some(our_range), Some(their_range)) = (range(one_event), range(other_event))
    {
        // Each node drops its beginning in its own time.
        let start = our_range.start.max(their_range.start);
        ours = &ours[ours.partition_point(|&(offset, _)| offset < start)..];
        theirs = &theirs[theirs.partition_point(|&(offset, _)| offset < start)..];
    }
    let (one, other) = (node(one_event), node(other_event));
    let apart = ours.iter().zip(theirs).find(|(our, their)| our != their);
    if let Some(((our_offset, ours), (their_offset, theirs))) = apart {
        return Some(if our_offset == their_offset {
            format!("at offset {our_offset}, {one} has {ours} and {other} has {theirs}")
        } else {
            format!("{one} has {ours} at offset {our_offset} where {other} has {theirs} at {their_offset}")
        });
    }
    let (ours, theirs) = (ours.len(), theirs.len());
    if ours != theirs {
        return Some(format!("{one} has {ours} records, {other} has {theirs}"));
    }
    let (our_end, their_end) = (told_range(one_event)?.end, told_range(other_event)?.end);
    (our_end != their_end).then(|| format!("{one} ends at {our_end}, {other} at {their_end}"))
}
