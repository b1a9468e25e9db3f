//! One anomaly: what it says, the operations that show it beside what else went on, and the log around it.

use std::collections::BTreeSet;

use levada_checkers::{
    history::{Event, Index, Key, Offset, Op, Value},
    verdict::Anomaly,
};

use super::{
    offsets,
    operations::{History, Operation},
    plot::key_name,
    schedule,
    text::{Esc, count, duration, moment, plural},
};

/// Events of an anomaly that are shown.
const EVENTS_MAX: usize = 24;
/// Events of the same key before and after each, in which neighbours are looked for.
const AROUND: usize = 3;
/// Neighbours that are shown.
const NEIGHBOURS_MAX: usize = 10;

/// An operation, as part of the argument or next to it.
pub(super) struct Shown<'a> {
    pub(super) operation: Operation<'a>,
    /// Its place in the argument, from 1.
    pub(super) step: Option<usize>,
}

pub(super) fn one(anomaly: &Anomaly, open: bool, history: &History<'_>) -> String {
    let Anomaly { key, what, events, .. } = anomaly;
    let steps = steps(events, history);
    let shown = with_neighbours(&steps, history);
    let unknown = events.iter().take(EVENTS_MAX).filter(|index| history.operation(**index).is_none()).count();
    let mut notes = Vec::new();
    if events.len() > EVENTS_MAX {
        notes.push(format!("{} more show it as well.", plural((events.len() - EVENTS_MAX) as u64, "event")));
    }
    if unknown > 0 {
        notes.push(format!("{} it names, which the history does not have.", plural(unknown as u64, "event")));
    }
    let notes = if notes.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>\n", notes.join(" ")) };
    let place = key.map_or_else(String::new, |key| format!("<span class=\"key\">{}</span>", key_name(key)));
    let body = if shown.is_empty() {
        String::new()
    } else {
        schedule::draw(&shown, *key) + &table(&shown, *key) + &offsets::view(anomaly, &steps, history)
    };
    format!(
        r#"<details class="anomaly"{}><summary>{place}{}</summary>
{body}{notes}</details>
"#,
        if open { " open" } else { "" },
        Esc(what)
    )
}

/// The operations of the argument, in its order, each once.
fn steps<'a>(events: &[Index], history: &History<'a>) -> Vec<Operation<'a>> {
    let mut seen = BTreeSet::new();
    let operations = events.iter().take(EVENTS_MAX).filter_map(|index| history.operation(*index));
    operations.filter(|operation| seen.insert(operation.begun.index)).collect()
}

/// They, and what else went on around them on their keys, in the order in which they began.
fn with_neighbours<'a>(steps: &[Operation<'a>], history: &History<'a>) -> Vec<Shown<'a>> {
    let mut seen: BTreeSet<Index> = steps.iter().map(|step| step.begun.index).collect();
    let mut shown: Vec<Shown<'a>> =
        (1..).zip(steps).map(|(number, step)| Shown { operation: *step, step: Some(number) }).collect();
    // The nearest first, so that every step has some.
    let ends = steps.iter().flat_map(|step| [Some(step.begun), step.ended]).flatten();
    let mut around: Vec<(u64, &Event)> = Vec::new();
    for event in ends {
        for neighbour in history.around(event.op.key(), event.index, AROUND) {
            around.push((neighbour.index.abs_diff(event.index), neighbour));
        }
    }
    around.sort_by_key(|(distance, event)| (*distance, event.index));
    let operations = around.into_iter().filter_map(|(_, event)| history.operation(event.index));
    let telling =
        operations.filter(|operation| !matches!(operation.op(), Op::Poll { records, .. } if records.is_empty()));
    let neighbours = telling.filter(|operation| seen.insert(operation.begun.index)).take(NEIGHBOURS_MAX);
    shown.extend(neighbours.map(|operation| Shown { operation, step: None }));
    shown.sort_by_key(|shown| shown.operation.begun.index);
    shown
}

fn table(shown: &[Shown<'_>], key: Option<Key>) -> String {
    let error = |it: &Operation<'_>| it.ended.and_then(|event| event.error.clone()).or_else(|| it.begun.error.clone());
    let errors = shown.iter().any(|shown| error(&shown.operation).is_some());
    let mut rows = String::new();
    for Shown { operation, step } in shown {
        let Operation { begun, ended } = operation;
        let (class, step) = match step {
            Some(step) => ("step", format!("<b class=\"badge\">{step}</b>")),
            None => ("neighbour", String::new()),
        };
        let outcome = operation.outcome().name();
        let error = error(operation).unwrap_or_default();
        let error = if errors { format!("<td class=\"error\">{}</td>", Esc(error)) } else { String::new() };
        rows += &format!(
            r#"<tr class="{class}"><td>{step}</td><td class="time">{}</td><td class="time">{}</td><td>p{}</td><td>{}</td><td class="{outcome}">{outcome}</td><td class="op">{}</td>{error}<td class="index">{}</td></tr>
"#,
            moment(begun.time_ns),
            operation.latency_ns().map_or_else(|| "never ended".to_owned(), |ns| format!("+{}", duration(ns))),
            begun.process,
            ended.and_then(|event| event.node).or(begun.node).map_or_else(|| "–".to_owned(), |node| format!("n{node}")),
            Esc(describe(operation, key)),
            ended.map_or_else(|| begun.index.to_string(), |ended| format!("{}–{}", begun.index, ended.index)),
        );
    }
    format!(
        r#"<div class="wide"><table class="operations">
<thead><tr><th></th><th class="time">began</th><th class="time">took</th><th>process</th><th>node</th><th>outcome</th><th>operation</th>{}<th class="index">events</th></tr></thead>
<tbody>
{rows}</tbody></table></div>
"#,
        if errors { "<th>error</th>" } else { "" }
    )
}

/// An operation in words. The key is named where it is not the one that is talked about.
pub(super) fn describe(operation: &Operation<'_>, about: Option<Key>) -> String {
    let op = operation.op();
    let place = if about == Some(op.key()) { String::new() } else { format!(", {}", key_name(op.key())) };
    let told = operation.ended.is_some();
    let text = match op {
        Op::Send { value, offset: None, .. } => format!("send {value}"),
        Op::Send { value, offset: Some(offset), .. } => format!("send {value} → offset {offset}"),
        Op::Poll { from, records, .. } if told => format!("poll from {from} → {}", span(records)),
        Op::Poll { from, .. } => format!("poll from {from}"),
        Op::End { offset: Some(offset), .. } => format!("end → {offset}"),
        Op::End { offset: None, .. } => "end".to_owned(),
        Op::Final { records, .. } => format!("whole log → {}", span(records)),
        Op::Snapshot { from, columns, rows, .. } => {
            format!("snapshot from {from} → columns: {}; rows: {}", span(columns), span(rows))
        }
        Op::Read { value: Some(value), .. } => format!("read → {value}"),
        Op::Read { value: None, .. } if told => "read → never written".to_owned(),
        Op::Read { value: None, .. } => "read".to_owned(),
        Op::Write { value, .. } => format!("write {value}"),
        Op::Cas { expected: Some(expected), value, .. } => format!("set to {value} if {expected}"),
        Op::Cas { expected: None, value, .. } => format!("set to {value} if never written"),
    };
    text + &place
}

/// `14 records, 120 to 133`
fn span(records: &[(Offset, Value)]) -> String {
    match (records.first(), records.last()) {
        (Some((first, value)), Some(_)) if records.len() == 1 => format!("{value} at {first}"),
        (Some((first, _)), Some((last, _))) => format!("{} records, {first} to {last}", count(records.len() as u64)),
        _ => "nothing".to_owned(),
    }
}
