//! Which operations of an anomaly went on at the same time: a bar for each in its process' lane.
//!
//! Begins and ends are drawn in their order and evenly spaced, not to scale: what took microseconds is as wide as what took
//! seconds, and what matters is which came first. One whose outcome nobody knows may take effect at any later time, so its bar is
//! open to the right.

use std::collections::{BTreeMap, BTreeSet};

use levada_checkers::history::{Key, Op, Process};

use super::{
    anomalies::{Shown, describe},
    operations::Outcome,
    text::Esc,
};

const LANE_PX: u64 = 26;
const BAR_PX: u64 = 20;

pub(super) fn draw(shown: &[Shown<'_>], key: Option<Key>) -> String {
    let ends = shown.iter().flat_map(|it| [Some(it.operation.begun), it.operation.ended]).flatten();
    let order: BTreeSet<u64> = ends.map(|event| event.index).collect();
    let ranks: BTreeMap<u64, u64> = order.into_iter().zip(0..).collect();
    let rank = |index| ranks.get(&index).copied().unwrap_or_default();
    let places = ranks.len() as u64 + 1;

    let mut lanes: Vec<(Process, u64)> = Vec::new();
    let mut bars = String::new();
    let mut by_process: Vec<&Shown<'_>> = shown.iter().collect();
    by_process.sort_by_key(|shown| (shown.operation.begun.process, shown.operation.begun.index));
    for shown in by_process {
        let operation = &shown.operation;
        let begun = operation.begun;
        let open = operation.outcome() == Outcome::Info;
        let from = rank(begun.index);
        let to = operation.ended.filter(|_| !open).map_or(places, |ended| rank(ended.index));
        // Where a process had another one under way, this one gets a lane of its own.
        let free = lanes.iter().position(|(process, until)| *process == begun.process && *until < from);
        let lane = free.unwrap_or_else(|| {
            lanes.push((begun.process, 0));
            lanes.len() - 1
        });
        // What follows one whose outcome is unknown is still drawn on it: the process went on when it gave up.
        let busy = operation.ended.map_or(places, |ended| rank(ended.index));
        if let Some((_, until)) = lanes.get_mut(lane) {
            *until = if open { places } else { busy };
        }
        bars += &bar(shown, key, lane as u64 * LANE_PX, from, to, places);
    }
    let mut names = String::new();
    let mut last = None;
    for (lane, (process, _)) in (0..).zip(&lanes) {
        let y_px = lane * LANE_PX;
        if last.replace(*process) != Some(*process) {
            names += &format!(r#"<text class="mark" x="-8" y="{}">p{process}</text>"#, y_px + 14);
        }
        names += &format!(r#"<line class="lane" x1="0" x2="100%" y1="{0}" y2="{0}"/>"#, y_px + BAR_PX / 2);
    }
    let height_px = lanes.len() as u64 * LANE_PX;
    format!(
        r#"<div class="wide"><div class="schedule"><svg class="plot" width="100%" height="{height_px}" role="img" aria-label="which operations overlap">{names}
{bars}</svg></div></div>
<p class="note">Begins and ends in their order, not to scale. Numbers are steps of the argument; grey bars are what else went on there; a bar that fades out may have taken effect later, or never.</p>
"#
    )
}

fn bar(shown: &Shown<'_>, key: Option<Key>, y_px: u64, from: u64, to: u64, places: u64) -> String {
    let percent = |place: u64| {
        let hundredths = place * 10_000 / places.max(1);
        format!("{}.{:02}%", hundredths / 100, hundredths % 100)
    };
    let outcome = shown.operation.outcome().name();
    let (class, badge, text_px) = match shown.step {
        Some(step) => {
            let badge = format!(
                r#"<circle class="badge" cx="11" cy="{0}" r="7.5"/><text class="step" x="11" y="{1}">{step}</text>"#,
                BAR_PX / 2,
                BAR_PX / 2 + 4
            );
            ("step", badge, 23)
        }
        None => ("neighbour", String::new(), 6),
    };
    format!(
        r#"<svg class="{class} {outcome}" x="{}" y="{y_px}" width="{}" height="{BAR_PX}"><title>{}</title><rect width="100%" height="100%" rx="3"/>{badge}<text x="{text_px}" y="14">{}</text></svg>
"#,
        percent(from),
        percent(to.saturating_sub(from).max(1)),
        Esc(describe(&shown.operation, key)),
        Esc(short(shown.operation.op())),
    )
}

/// As short as it can be.
fn short(op: &Op) -> String {
    match op {
        Op::Send { value, offset: Some(offset), .. } => format!("{value} @{offset}"),
        Op::Send { value, offset: None, .. } => format!("send {value}"),
        Op::Poll { from, records, .. } => match records.last() {
            Some((last, _)) => format!("poll {from}…{last}"),
            None => format!("poll {from}"),
        },
        Op::End { offset, .. } => offset.map_or_else(|| "end".to_owned(), |offset| format!("end {offset}")),
        Op::Final { .. } => "log".to_owned(),
        Op::Snapshot { from, .. } => format!("snap {from}"),
        Op::Read { value, .. } => value.map_or_else(|| "read –".to_owned(), |value| format!("read {value}")),
        Op::Write { value, .. } => format!("write {value}"),
        Op::Cas { expected: Some(expected), value, .. } => format!("{expected} → {value}"),
        Op::Cas { expected: None, value, .. } => format!("– → {value}"),
    }
}
