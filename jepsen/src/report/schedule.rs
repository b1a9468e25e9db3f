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
/// About as wide as all lanes are on a desk; where they are narrower, text is cut.
const WIDTH_PX: u64 = 1000;
/// A character, about.
const CHAR_PX: u64 = 7;

pub(super) fn draw(shown: &[Shown<'_>], key: Option<Key>) -> String {
    let ends = shown.iter().flat_map(|it| [Some(it.operation.begun), it.operation.ended]).flatten();
    let order: BTreeSet<u64> = ends.map(|event| event.index).collect();
    let ranks: BTreeMap<u64, u64> = order.into_iter().zip(0..).collect();
    let rank = |index| ranks.get(&index).copied().unwrap_or_default();
    let places = ranks.len() as u64 + 1;

    let mut lanes: Vec<(Process, u64)> = Vec::new();
    let mut bars: Vec<Bar<'_, '_>> = Vec::new();
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
        if let Some((_, until)) = lanes.get_mut(lane) {
            *until = to;
        }
        bars.push(Bar { shown, lane, from, to });
    }
    let mut drawn = String::new();
    for bar in &bars {
        let later = bars.iter().filter(|other| other.lane == bar.lane && other.from > bar.from).map(|other| other.from);
        drawn += &bar.draw(key, later.min().unwrap_or(places), places);
    }
    let mut names = String::new();
    let mut last = None;
    for (lane, (process, _)) in (0..).zip(&lanes) {
        let y_px = lane * LANE_PX;
        if last.replace(*process) != Some(*process) {
            names += &format!(r#"<text class="mark" x="-8" y="{}">p{process}</text>"#, y_px + 14);
        }
        names += &format!(r#"<line class="lane" x1="0" x2="100%" y1="{0}" y2="{0}"/>"#, y_px + BAR_PX + 2);
    }
    let height_px = lanes.len() as u64 * LANE_PX;
    format!(
        r#"<div class="wide"><div class="schedule"><svg class="plot" width="100%" height="{height_px}" role="img" aria-label="which operations overlap">{names}
{drawn}</svg></div></div>
"#
    )
}

/// An operation's place.
struct Bar<'a, 'b> {
    shown: &'b Shown<'a>,
    lane: usize,
    from: u64,
    to: u64,
}

impl Bar<'_, '_> {
    /// Its text stands in it, or behind it if there is room until the next one in its lane.
    fn draw(&self, key: Option<Key>, free_until: u64, places: u64) -> String {
        let Self { shown, lane, from, to } = *self;
        let width = to.saturating_sub(from).max(1);
        let room = free_until.saturating_sub(from).max(width);
        let outcome = shown.operation.outcome().name();
        let (class, badge, left_px) = match shown.step {
            Some(step) => ("step", badge(step), 23),
            None => ("neighbour", String::new(), 6),
        };
        let px = |places_wide: u64| places_wide * WIDTH_PX / places.max(1);
        let text = short(shown.operation.op());
        let text_px = text.chars().count() as u64 * CHAR_PX;
        let label = if text_px + 2 * CHAR_PX <= px(room - width) && left_px + text_px > px(width) {
            format!(r#"<text x="{}" dx="6" y="14">{}</text>"#, share(width, room), Esc(text))
        } else if left_px + text_px <= px(room) {
            format!(r#"<text x="{left_px}" y="14">{}</text>"#, Esc(text))
        } else {
            // It stands in the table, and in the hint.
            String::new()
        };
        format!(
            r#"<svg class="{class} {outcome}" x="{}" y="{}" width="{}" height="{BAR_PX}"><title>{}</title><rect width="{}" height="100%" rx="3"/>{badge}{label}</svg>
"#,
            share(from, places),
            lane as u64 * LANE_PX,
            share(room, places),
            Esc(describe(&shown.operation, key)),
            share(width, room),
        )
    }
}

fn badge(step: usize) -> String {
    let (middle_px, text_px) = (BAR_PX / 2, BAR_PX / 2 + 4);
    format!(
        r#"<circle class="badge" cx="11" cy="{middle_px}" r="7.5"/><text class="step" x="11" y="{text_px}">{step}</text>"#
    )
}

/// A part of a whole, in percent.
fn share(part: u64, whole: u64) -> String {
    let hundredths = part * 10_000 / whole.max(1);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
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
