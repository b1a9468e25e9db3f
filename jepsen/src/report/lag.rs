//! What was acknowledged and nobody had read yet, over time: by key, from the offsets that senders and readers were told.

use std::collections::BTreeMap;

use levada_checkers::history::{Key, Op, Phase};

use super::{
    operations::History,
    plot::{Axis, Mark, Panel, WIDTH, key_name, round_scale, stretched},
    text::{Esc, count},
};

const HEIGHT_PX: u64 = 110;
/// Lines that are drawn: of the keys that lagged most.
const KEYS_MAX: usize = 12;

/// A key's ends: the first offset that was not acknowledged, and the first that was not read; then how far they were apart at
/// most in each bin.
struct Lag {
    acknowledged: u64,
    read: u64,
    bins: Vec<u64>,
}

/// `None` when there is no log that was written and read.
pub(super) fn panel(history: &History<'_>, axis: Axis) -> Option<Panel> {
    let lags = lags(history, axis);
    let mut drawn: Vec<(Key, u64, &Lag)> =
        lags.iter().map(|(key, lag)| (*key, lag.bins.iter().copied().max().unwrap_or(0), lag)).collect();
    drawn.sort_by_key(|(key, most, _)| (u64::MAX - most, *key));
    drawn.truncate(KEYS_MAX);
    let (worst_key, most, worst) = drawn.first().copied()?;
    let (top, step) = round_scale(most);
    let y_px = |lag: u64| HEIGHT_PX as f64 * (1.0 - lag as f64 / top as f64);
    let mut content = String::new();
    for (key, _, lag) in drawn.iter().rev() {
        let mut path = String::new();
        let mut drawn_at = None;
        for (number, lag) in (0..).zip(&lag.bins) {
            if drawn_at != Some(*lag) {
                let x = axis.at(number * axis.bin_ns(), WIDTH);
                path += &match drawn_at {
                    None => format!("M{x} {:.1}", y_px(*lag)),
                    Some(_) => format!("H{x}V{:.1}", y_px(*lag)),
                };
                drawn_at = Some(*lag);
            }
        }
        let class = if *key == worst_key { "lag worst" } else { "lag" };
        content += &format!(r#"<path class="{class}" d="{path}H{WIDTH}"><title>{}</title></path>"#, key_name(*key));
    }
    let mut body = stretched(WIDTH, HEIGHT_PX, HEIGHT_PX, &content);
    if most > 0 {
        body += &peak(worst_key, most, worst, axis, y_px(most));
    }
    let mark = |part| Mark { y_px: y_px(part * step), text: count(part * step), line: true };
    Some(Panel {
        title: "Acknowledged and not yet read",
        note: "Records between the highest offset that a sender was told and the highest that any reader was shown: the most in \
               each second, by key."
            .to_owned(),
        legend: &[("stroke worst", "the key that lagged most"), ("stroke lag", "others")],
        height_px: HEIGHT_PX,
        lanes: false,
        marks: (0..=top / step).map(mark).collect(),
        body,
    })
}

/// The label of the highest point, on the side where there is room.
fn peak(key: Key, most: u64, lag: &Lag, axis: Axis, y_px: f64) -> String {
    let at = lag.bins.iter().position(|lag| *lag == most).unwrap_or_default() as u64;
    let left_half = axis.at(at * axis.bin_ns(), 10) < 6;
    let (at_ns, dx, anchor) =
        if left_half { ((at + 1) * axis.bin_ns(), 6, "start") } else { (at * axis.bin_ns(), -6, "end") };
    let text = format!("{}: {}", key_name(key), count(most));
    let x = axis.percent(at_ns);
    let y_px = y_px + 10.0;
    format!(r#"<text class="peak" x="{x}" dx="{dx}" y="{y_px:.1}" text-anchor="{anchor}">{}</text>"#, Esc(text))
}

fn lags(history: &History<'_>, axis: Axis) -> BTreeMap<Key, Lag> {
    let mut lags = BTreeMap::new();
    for key in history.keys() {
        let mut lag = Lag { acknowledged: 0, read: 0, bins: vec![0; axis.bins()] };
        let mut bin = 0;
        let (mut sent, mut polled) = (false, false);
        for event in history.of_key(key).filter(|event| event.phase == Phase::Ok) {
            let now = axis.bin(event.time_ns);
            lag.carry(bin, now);
            bin = now;
            match &event.op {
                Op::Send { offset: Some(offset), .. } => {
                    lag.acknowledged = lag.acknowledged.max(offset.saturating_add(1));
                    sent = true;
                }
                Op::Poll { records, .. } => {
                    let end = records.iter().map(|(offset, _)| offset.saturating_add(1)).max();
                    lag.read = lag.read.max(end.unwrap_or(0));
                    polled = true;
                }
                _ => {}
            }
            let apart = lag.acknowledged.saturating_sub(lag.read);
            lag.bins[bin] = lag.bins[bin].max(apart);
        }
        lag.carry(bin, axis.bins() - 1);
        if sent && polled {
            lags.insert(key, lag);
        }
    }
    lags
}

impl Lag {
    /// As far apart as now, until then.
    fn carry(&mut self, from: usize, to: usize) {
        let apart = self.acknowledged.saturating_sub(self.read);
        for bin in self.bins.iter_mut().take(to + 1).skip(from + 1) {
            *bin = apart;
        }
    }
}

#[cfg(test)]
mod tests {
    use levada_checkers::history::Event;

    use super::*;

    #[test]
    fn what_is_acknowledged_lags_until_it_is_read() {
        let send = |offset| Op::Send { key: 0, value: offset, offset: Some(offset) };
        let ops = [
            (0, send(0)),
            (100, send(4)),
            (2500, Op::Poll { key: 0, from: 0, records: vec![(0, 0), (3, 3)] }),
            (4500, Op::Poll { key: 0, from: 3, records: vec![(4, 4)] }),
        ];
        let event = |(index, (ms, op)): (u64, (u64, Op))| Event {
            index,
            time_ns: ms * 1_000_000,
            process: 0,
            node: None,
            phase: Phase::Ok,
            invocation: index,
            op,
            error: None,
        };
        let events: Vec<Event> = (0..).zip(ops).map(event).collect();
        let history = History::new(&events);
        let axis = Axis::new(6_000_000_000);
        assert_eq!(lags(&history, axis)[&0].bins, [5, 5, 5, 1, 1, 0]);
    }
}
