//! When each key was served, and when clients asked in vain.
//!
//! A key pauses while some operation that takes a majority is under way there and none is done. A pause begins when the last one
//! was done, or when somebody asked for the first time since; it ends when one is done, or with the key's last event.

use levada_checkers::history::{Event, Key, Phase};

use super::{
    operations::{History, asks_majority},
    plot::{Axis, Mark, Panel, WIDTH, key_name, stretched},
    text::{Esc, count, duration, moment},
};

/// Shorter pauses are not worth a word: elections take some time.
pub(super) const PAUSE_NS: u64 = 500_000_000;
/// Keys that are drawn: those with the longest pauses.
const KEYS_MAX: usize = 40;
/// Pauses that are listed.
const LISTED_MAX: usize = 8;
const ROW_PX: u64 = 18;

/// A time for which a key was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) key: Key,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// Whether it was served again.
    pub(super) over: bool,
}

impl Pause {
    pub(super) const fn ns(&self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

/// How it went for a key.
struct Row {
    key: Key,
    from_ns: u64,
    to_ns: u64,
    /// Those of [`PAUSE_NS`] and more.
    pauses: Vec<Pause>,
    longest: Option<Pause>,
}

/// How it went for all keys.
pub(super) struct Service {
    rows: Vec<Row>,
}

impl Service {
    pub(super) fn new(history: &History<'_>) -> Self {
        let rows = history.keys().filter_map(|key| row(key, history.of_key(key).filter(|it| asks_majority(&it.op))));
        Self { rows: rows.collect() }
    }

    /// The longest pause of all, however short.
    pub(super) fn longest(&self) -> Option<Pause> {
        self.rows.iter().filter_map(|row| row.longest).max_by_key(|pause| (pause.ns(), pause.from_ns))
    }

    /// What is worth a word, longest first.
    pub(super) fn listed(&self) -> Vec<Pause> {
        let mut pauses: Vec<Pause> = self.rows.iter().flat_map(|row| row.pauses.iter().copied()).collect();
        pauses.sort_by_key(|pause| (u64::MAX - pause.ns(), pause.from_ns, pause.key));
        pauses.truncate(LISTED_MAX);
        pauses
    }

    pub(super) fn panel(&self, axis: Axis) -> Panel {
        let mut drawn: Vec<&Row> = self.rows.iter().collect();
        drawn.sort_by_key(|row| (u64::MAX - row.longest.map_or(0, |pause| pause.ns()), row.key));
        drawn.truncate(KEYS_MAX);
        drawn.sort_by_key(|row| row.key);
        let (mut served, mut paused, mut hints, mut marks) = (String::new(), String::new(), String::new(), Vec::new());
        let height_px = (drawn.len() as u64).max(1) * ROW_PX;
        for (number, row) in (0..).zip(&drawn) {
            let y = number * 10 + 2;
            served += &rect(axis, row.from_ns, row.to_ns, y);
            // Two that are drawn at one place are drawn once.
            let mut last = None;
            for pause in &row.pauses {
                if last.replace(axis.at(pause.from_ns, WIDTH)) != Some(axis.at(pause.from_ns, WIDTH)) {
                    paused += &rect(axis, pause.from_ns, pause.to_ns, y);
                }
            }
            let y_px = number * ROW_PX;
            hints += &format!(
                r#"<rect class="hint" width="100%" y="{y_px}" height="{ROW_PX}"><title>{}</title></rect>"#,
                Esc(hint(row))
            );
            marks.push(Mark { y_px: (y_px + ROW_PX / 2) as f64, text: key_name(row.key), line: false });
        }
        let content = format!(r#"<path class="served" d="{served}"/><path class="paused" d="{paused}"/>"#);
        let mut body = stretched(WIDTH, (drawn.len() as u64).max(1) * 10, height_px, &content) + &hints;
        if drawn.is_empty() {
            body = r#"<text class="nothing" x="50%" y="13">no operation that takes a majority</text>"#.to_owned();
        }
        let left_out = self.rows.len() - drawn.len();
        let others = match left_out {
            0 => String::new(),
            _ => format!(" {} more keys had no longer pauses and are not drawn.", count(left_out as u64)),
        };
        Panel {
            title: "Service by key",
            note: format!(
                "When operations that take a majority were done, and when none was though some were asked for.{others}"
            ),
            legend: &[("served", "served"), ("paused", "not served for 0.5 s or more")],
            height_px,
            lanes: false,
            marks,
            body,
        }
    }
}

fn hint(row: &Row) -> String {
    let Some(longest) = row.longest else { return format!("{}: never paused", key_name(row.key)) };
    format!(
        "{}: {} pauses of 0.5 s and more, the longest {} from {}",
        key_name(row.key),
        row.pauses.len(),
        duration(longest.ns()),
        moment(longest.from_ns)
    )
}

fn rect(axis: Axis, from_ns: u64, to_ns: u64, y: u64) -> String {
    let from = axis.at(from_ns, WIDTH);
    let width = axis.at(to_ns, WIDTH).saturating_sub(from).max(2);
    format!("M{from} {y}h{width}v6h-{width}z")
}

/// `None` if nothing was asked.
fn row<'a>(key: Key, events: impl Iterator<Item = &'a Event>) -> Option<Row> {
    let mut row: Option<Row> = None;
    let mut under_way = 0_u64;
    let mut waits_since = None;
    for event in events {
        let now = event.time_ns;
        let row = row.get_or_insert(Row { key, from_ns: now, to_ns: now, pauses: Vec::new(), longest: None });
        row.to_ns = now;
        if event.phase == Phase::Invoke {
            under_way += 1;
            waits_since.get_or_insert(now);
        } else {
            under_way = under_way.saturating_sub(1);
        }
        if event.phase == Phase::Ok {
            if let Some(from_ns) = waits_since {
                row.note(Pause { key, from_ns, to_ns: now, over: true });
            }
            waits_since = (under_way > 0).then_some(now);
        }
    }
    let mut row = row?;
    if let Some(from_ns) = waits_since {
        row.note(Pause { key, from_ns, to_ns: row.to_ns, over: false });
    }
    Some(row)
}

impl Row {
    fn note(&mut self, pause: Pause) {
        if self.longest.is_none_or(|longest| longest.ns() < pause.ns()) {
            self.longest = Some(pause);
        }
        if pause.ns() >= PAUSE_NS {
            self.pauses.push(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use levada_checkers::history::Op;

    use super::*;

    fn pauses(phases: &[(u64, Phase)]) -> Vec<(u64, u64, bool)> {
        let event = |(index, &(ms, phase)): (u64, &(u64, Phase))| Event {
            index,
            time_ns: ms * 1_000_000,
            process: 0,
            node: None,
            phase,
            invocation: 0,
            op: Op::Write { key: 0, value: 1 },
            error: None,
        };
        let events: Vec<Event> = (0..).zip(phases).map(event).collect();
        let row = row(0, events.iter()).unwrap();
        let ms = |pause: &Pause| (pause.from_ns / 1_000_000, pause.to_ns / 1_000_000, pause.over);
        row.pauses.iter().map(ms).collect()
    }

    #[test]
    fn nobody_pauses_where_nobody_asks() {
        use Phase::{Invoke, Ok};
        assert_eq!(pauses(&[(0, Invoke), (5, Ok), (9000, Invoke), (9010, Ok)]), []);
    }

    #[test]
    fn a_pause_begins_when_somebody_asks_and_ends_when_somebody_is_served() {
        use Phase::{Fail, Info, Invoke, Ok};
        let phases = [
            (0, Invoke),
            (5, Ok),
            (100, Invoke),
            (300, Fail),
            (2000, Invoke),
            (2600, Info),
            (2700, Invoke),
            (2710, Ok),
        ];
        assert_eq!(pauses(&phases), [(100, 2710, true)]);
    }

    #[test]
    fn a_key_that_is_not_served_again_pauses_to_its_end() {
        use Phase::{Info, Invoke, Ok};
        assert_eq!(pauses(&[(0, Invoke), (1, Invoke), (5, Ok), (3000, Info)]), [(5, 3000, false)]);
    }
}
