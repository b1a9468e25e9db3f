//! What is left of a history, told to a person.

use std::fmt::Write as _;

use crate::history::{Event, Offset, Op, Phase, Value};

use super::Minimal;

/// Events that are told. More are no story.
const EVENTS_MAX: usize = 200;
/// Records of a read that are told.
const RECORDS_MAX: usize = 12;

impl Minimal {
    /// The anomaly, and then an event a line: when, who, what, and its number in the whole history. What shows the anomaly has a `*`.
    #[must_use]
    pub fn story(&self) -> String {
        let Self { events, places, anomaly, operations_before, judged } = self;
        let key = anomaly.key.map_or_else(String::new, |key| format!(" on key {key}"));
        let mut told = format!(
            "{}{key}: {}\n\n{} of {operations_before} operations are left; {judged} histories were judged to find them. What was left out \
             of what reads\nshowed, and what other processes did, does not matter for this. * shows it; #: the event in the whole history.\n\n",
            anomaly.kind,
            anomaly.what,
            super::operations(events)
        );
        let width = events.iter().map(|event| event.process.to_string().len()).max().unwrap_or_default();
        for (event, place) in events.iter().zip(places).take(EVENTS_MAX) {
            let star = if anomaly.events.contains(&event.index) { '*' } else { ' ' };
            let (s, us) = (event.time_ns / 1_000_000_000, event.time_ns % 1_000_000_000 / 1_000);
            let _ = writeln!(told, "{star} {s:5}.{us:06} s  p{:<width$}  {}  #{place}", event.process, sentence(event));
        }
        if events.len() > EVENTS_MAX {
            let _ = writeln!(told, "  and {} events more", events.len() - EVENTS_MAX);
        }
        told
    }
}

fn sentence(event: &Event) -> String {
    let said = match event.phase {
        Phase::Invoke => asked(event),
        Phase::Ok => answered(&event.op),
        Phase::Fail if event.answers() => "is told that it holds something else".to_owned(),
        Phase::Fail => format!("is told that it failed: to {}", what(&event.op)),
        Phase::Info => format!("hears nothing certain of it: to {}", what(&event.op)),
    };
    let error = event.error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
    said + &error
}

/// What it wants to do.
fn what(op: &Op) -> String {
    match op {
        Op::Send { value, .. } => format!("send {value}"),
        Op::Poll { from, .. } => format!("read from offset {from} on"),
        Op::End { .. } => "ask where the log ends".to_owned(),
        Op::Final { .. } => "read the whole log".to_owned(),
        Op::Snapshot { from, .. } => format!("read from offset {from} on, as columns and as rows"),
        Op::Read { .. } => "read".to_owned(),
        Op::Write { value, .. } => format!("write {value}"),
        Op::Cas { expected: Some(expected), value, .. } => format!("write {value} if it holds {expected}"),
        Op::Cas { expected: None, value, .. } => format!("write {value} if nothing was ever written"),
    }
}

fn asked(event: &Event) -> String {
    let node = event.node.map_or_else(String::new, |node| format!(" of node {node}"));
    format!("begins to {}{node}", what(&event.op))
}

fn answered(op: &Op) -> String {
    match op {
        Op::Send { value, offset: Some(offset), .. } => format!("is told that {value} stands at offset {offset}"),
        Op::Send { value, offset: None, .. } => format!("is told that {value} is written"),
        Op::Poll { from, records, .. } => format!("is shown from offset {from} on: {}", list(records)),
        Op::End { offset: Some(offset), .. } => format!("is told that the log ends at {offset}"),
        Op::End { offset: None, .. } => "is told of no end".to_owned(),
        Op::Final { records, .. } => format!("is shown the whole log: {}", list(records)),
        Op::Snapshot { columns, rows, .. } => format!("is shown columns: {}; and rows: {}", list(columns), list(rows)),
        Op::Read { value: Some(value), .. } => format!("reads {value}"),
        Op::Read { value: None, .. } => "reads that nothing was ever written".to_owned(),
        Op::Write { value, .. } | Op::Cas { value, .. } => format!("is told that {value} is written"),
    }
}

fn list(records: &[(Offset, Value)]) -> String {
    if records.is_empty() {
        return "nothing".to_owned();
    }
    let told = records.iter().take(RECORDS_MAX).map(|(offset, value)| format!("{value} at {offset}"));
    let more = records.len().saturating_sub(RECORDS_MAX);
    let more = (more > 0).then(|| format!("{more} more"));
    told.chain(more).collect::<Vec<_>>().join(", ")
}
