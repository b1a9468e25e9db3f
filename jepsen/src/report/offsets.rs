//! A log around the offsets that an anomaly is about: who says that which value stands where.
//!
//! A row for each offset, a column for each source: what senders were told, what readers were shown, what each node held in the
//! end, and the reads of the argument by themselves. Where sources differ, the row is marked.

use std::collections::{BTreeMap, BTreeSet};

use levada_checkers::{
    history::{Event, Key, Offset, Op, Phase, Value},
    verdict::Anomaly,
};

use super::{
    operations::{History, Operation},
    text::{Esc, count},
};

/// Rows on both sides of an offset.
const AROUND: u64 = 3;
/// Offsets that are looked at.
const FOCUS_MAX: usize = 4;
/// Columns for single reads.
const READS_MAX: usize = 6;
/// Values that are told of a cell.
const VALUES_MAX: usize = 4;

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Senders.
    Acknowledged,
    /// All readers together.
    Read,
    /// A node, in the end.
    Node(u64),
    /// A step of the argument.
    Step(usize),
    /// The columns of a step that is a snapshot; its rows are the step.
    Columns(usize),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Acknowledged => "acknowledged".to_owned(),
            Self::Read => "polls".to_owned(),
            Self::Node(node) => format!("node {node}"),
            Self::Step(step) => format!("<b class=\"badge\">{step}</b>"),
            Self::Columns(step) => format!("<b class=\"badge\">{step}</b> columns"),
        }
    }
}

/// Nothing if the anomaly is not about places in a log.
pub(super) fn view(anomaly: &Anomaly, steps: &[Operation<'_>], history: &History<'_>) -> String {
    let Some(key) = anomaly.key else { return String::new() };
    let (offsets, values) = focus(key, steps, history);
    if offsets.is_empty() {
        return String::new();
    }
    let mut rows: BTreeSet<Offset> = BTreeSet::new();
    for offset in offsets.iter().take(FOCUS_MAX) {
        rows.extend(offset.saturating_sub(AROUND)..=offset.saturating_add(AROUND));
    }
    let claims = Claims::gather(key, &rows, steps, history);
    claims.render(&rows, &offsets, &values)
}

/// Which offsets it is about, and which values.
fn focus(key: Key, steps: &[Operation<'_>], history: &History<'_>) -> (BTreeSet<Offset>, BTreeSet<Value>) {
    let (mut offsets, mut values) = (BTreeSet::new(), BTreeSet::new());
    let steps = || steps.iter().filter(|step| step.op().key() == key);
    for step in steps() {
        if let Op::Send { value, offset, .. } = step.op() {
            values.insert(*value);
            offsets.extend(offset);
        }
    }
    let reads: Vec<&[(Offset, Value)]> = steps().flat_map(|step| reads(step.op())).collect();
    let records = || reads.iter().flat_map(|read| read.iter());
    offsets.extend(records().filter(|(_, value)| values.contains(value)).map(|(offset, _)| *offset));
    if offsets.is_empty() {
        // Where two reads differ.
        let mut told = BTreeMap::new();
        let differ = records().filter(|(offset, value)| *told.entry(*offset).or_insert(*value) != *value);
        offsets.extend(differ.map(|(offset, _)| *offset).take(FOCUS_MAX));
        for [one, other] in reads.array_windows() {
            offsets.extend(missing(one, other).into_iter().chain(missing(other, one)).take(FOCUS_MAX));
        }
    }
    if offsets.is_empty() {
        // Where one does not go on as it should, in itself or after the one before.
        let jumps = |records: &[(Offset, Value)]| -> Vec<Offset> {
            let jump = records.array_windows().find(|[(one, _), (next, _)]| *next != one.saturating_add(1));
            jump.map(|[(one, _), (next, _)]| vec![*one, *next]).unwrap_or_default()
        };
        offsets.extend(reads.iter().flat_map(|read| jumps(read)));
        if offsets.is_empty() {
            let borders = reads.array_windows().map(|[one, next]| [one.last(), next.first()]);
            offsets.extend(borders.flatten().flatten().map(|(offset, _)| *offset).take(FOCUS_MAX));
        }
    }
    if offsets.is_empty() && !values.is_empty() {
        // Sent, and nobody was told where: somebody may have been shown it.
        let shown = history.of_key(key).flat_map(|event| reads_of(event)).flatten();
        offsets.extend(shown.filter(|(_, value)| values.contains(value)).map(|(offset, _)| *offset).take(FOCUS_MAX));
    }
    if offsets.is_empty() {
        offsets.extend(records().map(|(offset, _)| *offset).next());
    }
    (offsets, values)
}

/// The first offset that one read has and the other has not, though it reaches that far on both sides.
fn missing(one: &[(Offset, Value)], other: &[(Offset, Value)]) -> Option<Offset> {
    let has: BTreeSet<Offset> = other.iter().map(|(offset, _)| *offset).collect();
    let (first, last) = (*has.first()?, *has.last()?);
    let lacks = |offset: &Offset| (first..=last).contains(offset) && !has.contains(offset);
    one.iter().map(|(offset, _)| *offset).find(lacks)
}

/// What it showed of a log.
fn reads(op: &Op) -> Vec<&[(Offset, Value)]> {
    match op {
        Op::Poll { records, .. } | Op::Final { records, .. } => vec![records],
        Op::Snapshot { columns, rows, .. } => vec![rows, columns],
        _ => Vec::new(),
    }
}

fn reads_of(event: &Event) -> Vec<&[(Offset, Value)]> {
    if event.phase == Phase::Ok { reads(&event.op) } else { Vec::new() }
}

/// What a source says of the offsets that are looked at.
#[derive(Default)]
struct Column {
    /// Values, and how often.
    values: BTreeMap<Offset, BTreeMap<Value, u64>>,
    /// The first and the last offset that it showed at all.
    reach: Option<(Offset, Offset)>,
}

impl Column {
    fn claim(&mut self, offset: Offset, value: Value) {
        *self.values.entry(offset).or_default().entry(value).or_default() += 1;
    }

    /// Whether it showed what is before and after, and not this.
    fn skips(&self, offset: Offset) -> bool {
        let reaches = self.reach.is_some_and(|(first, last)| (first..=last).contains(&offset));
        reaches && !self.values.contains_key(&offset)
    }

    fn show(&mut self, records: &[(Offset, Value)], rows: &BTreeSet<Offset>) {
        for (offset, value) in records {
            let (first, last) = self.reach.unwrap_or((*offset, *offset));
            self.reach = Some((first.min(*offset), last.max(*offset)));
            if rows.contains(offset) {
                self.claim(*offset, *value);
            }
        }
    }
}

#[derive(Default)]
struct Claims {
    columns: BTreeMap<Source, Column>,
}

impl Claims {
    fn gather(key: Key, rows: &BTreeSet<Offset>, steps: &[Operation<'_>], history: &History<'_>) -> Self {
        let mut claims = Self::default();
        for event in history.of_key(key).filter(|event| event.phase == Phase::Ok) {
            match (&event.op, event.node) {
                (Op::Send { value, offset: Some(offset), .. }, _) if rows.contains(offset) => {
                    claims.column(Source::Acknowledged).claim(*offset, *value);
                }
                (Op::Poll { records, .. }, _) => claims.column(Source::Read).show(records, rows),
                (Op::Final { records, .. }, Some(node)) => claims.column(Source::Node(node)).show(records, rows),
                _ => {}
            }
        }
        let shown = (1..).zip(steps).filter(|(_, step)| step.op().key() == key).take(READS_MAX);
        for (number, step) in shown {
            match step.op() {
                Op::Poll { records, .. } => claims.column(Source::Step(number)).show(records, rows),
                Op::Snapshot { columns, rows: told, .. } => {
                    claims.column(Source::Step(number)).show(told, rows);
                    claims.column(Source::Columns(number)).show(columns, rows);
                }
                // A node's own column says the same.
                _ => {}
            }
        }
        claims
    }

    fn column(&mut self, source: Source) -> &mut Column {
        self.columns.entry(source).or_default()
    }

    fn render(&self, rows: &BTreeSet<Offset>, focus: &BTreeSet<Offset>, values: &BTreeSet<Value>) -> String {
        let heads: String = self.columns.keys().map(|source| format!("<th>{}</th>", source.name())).collect();
        let mut body = String::new();
        let mut last: Option<Offset> = None;
        // What nobody says anything about is beyond the log's end.
        let told = |offset: &&Offset| self.columns.values().any(|column| column.values.contains_key(*offset));
        for offset in rows.iter().filter(|offset| focus.contains(*offset) || told(offset)) {
            if last.is_some_and(|last| last.saturating_add(1) < *offset) {
                body += &format!("<tr class=\"gap\"><th>⋮</th><td colspan=\"{}\"></td></tr>\n", self.columns.len());
            }
            last = Some(*offset);
            let said = self.columns.values().filter_map(|column| column.values.get(offset));
            let different: BTreeSet<Value> = said.flat_map(|values| values.keys().copied()).collect();
            let skipped = !different.is_empty() && self.columns.values().any(|column| column.skips(*offset));
            let class = if different.len() > 1 || skipped { " class=\"differs\"" } else { "" };
            let cells: String = self.columns.values().map(|column| cell(column, *offset, values)).collect();
            body += &format!("<tr{class}><th>{offset}</th>{cells}</tr>\n");
        }
        format!(
            r#"<div class="wide"><table class="offsets">
<thead><tr><th>offset</th>{heads}</tr></thead>
<tbody>
{body}</tbody></table></div>
"#
        )
    }
}

fn cell(column: &Column, offset: Offset, focus: &BTreeSet<Value>) -> String {
    let Some(values) = column.values.get(&offset) else {
        return if column.skips(offset) { "<td class=\"skipped\">—</td>".to_owned() } else { "<td></td>".to_owned() };
    };
    let shown = values.iter().take(VALUES_MAX).map(|(value, times)| {
        let times = if *times > 1 { format!("<small>×{}</small>", count(*times)) } else { String::new() };
        if focus.contains(value) { format!("<mark>{value}</mark>{times}") } else { format!("{}{times}", Esc(value)) }
    });
    let mut shown: Vec<String> = shown.collect();
    if values.len() > VALUES_MAX {
        shown.push(format!("and {} more", count((values.len() - VALUES_MAX) as u64)));
    }
    format!("<td>{}</td>", shown.join(" · "))
}
