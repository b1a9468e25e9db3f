//! How much happened, how fast, and whether that is enough to say anything.
//!
//! Nothing here is wrong or right. But a run in which hardly anything was acknowledged proves nothing, however sound it was:
//! below its [`Floor`] it is inconclusive.
//!
//! | Figure | What it is |
//! |---|---|
//! | `send_invoke`, `send_ok`, `send_fail`, `send_info`, … | events, by operation and phase |
//! | `send_ok_per_s`, … | how many were done in a second of the whole history |
//! | `send_p50_ms`, `send_p99_ms`, `send_p999_ms`, `send_max_ms`, … | from invocation to completion, of those that were done |
//! | `acked`, `acked_per_s` | sends, writes and exchanges that were done |
//! | `duration_ms` | from the first event to the last |

use std::collections::BTreeMap;

use crate::{
    history::{Event, Op, Phase},
    verdict::Check,
};

/// What a run must come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// At least so many sends, writes and exchanges are acknowledged.
    pub acked_min: u64,
}

/// Counts, and holds the counts against the floor.
#[must_use]
pub fn check(events: &[Event], floor: &Floor) -> Check {
    let mut check = Check::new("stats");
    let mut counts: BTreeMap<(&str, Phase), u64> = BTreeMap::new();
    let mut latencies_ns: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut acked = 0;
    for event in events {
        *counts.entry((event.op.name(), event.phase)).or_default() += 1;
        if event.phase != Phase::Ok {
            continue;
        }
        acked += u64::from(matches!(event.op, Op::Send { .. } | Op::Write { .. } | Op::Cas { .. }));
        if let Some(begun) = event.begun(events) {
            let latency_ns = event.time_ns.saturating_sub(begun.time_ns);
            latencies_ns.entry(event.op.name()).or_default().push(latency_ns);
        }
    }
    let first_ns = events.first().map_or(0, |event| event.time_ns);
    let duration_ns = events.last().map_or(0, |event| event.time_ns).saturating_sub(first_ns);
    check.figure("duration_ms", ms(duration_ns));
    check.figure("acked", float(acked));
    check.figure("acked_per_s", per_s(acked, duration_ns));
    for (&(f, phase), &count) in &counts {
        check.figure(&format!("{f}_{}", name(phase)), float(count));
        if phase == Phase::Ok {
            check.figure(&format!("{f}_ok_per_s"), per_s(count, duration_ns));
        }
    }
    for (f, latencies_ns) in &mut latencies_ns {
        latencies_ns.sort_unstable();
        for (percentile, per_mille) in [("p50", 500), ("p99", 990), ("p999", 999), ("max", 1000)] {
            check.figure(&format!("{f}_{percentile}_ms"), ms(ranked(latencies_ns, per_mille)));
        }
    }
    if acked < floor.acked_min {
        check.doubt(format!("{acked} were acknowledged, at least {} are needed", floor.acked_min));
    }
    check
}

const fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Invoke => "invoke",
        Phase::Ok => "ok",
        Phase::Fail => "fail",
        Phase::Info => "info",
    }
}

/// The smallest that is not below so many thousandths of them.
fn ranked(sorted: &[u64], per_mille: usize) -> u64 {
    let rank = (sorted.len() * per_mille).div_ceil(1000);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "figures are for people")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Nanoseconds as milliseconds.
pub(crate) fn ms(ns: u64) -> f64 {
    float(ns) / 1e6
}

fn per_s(count: u64, duration_ns: u64) -> f64 {
    if duration_ns == 0 { 0.0 } else { float(count) * 1e9 / float(duration_ns) }
}

#[cfg(test)]
mod tests {
    use crate::{testing::Story, verdict::Verdict};

    use super::*;

    #[test]
    fn everything_is_counted_by_operation_and_phase() {
        let mut story = Story::new();
        story.sent(1, 10, 0).polled(2, 0, &[(0, 10)]);
        let (failed, unsure, too) = (story.send(1, 11), story.send(1, 12), story.send(1, 13));
        story.fails(failed);
        story.unsure(unsure);
        story.unsure(too);
        let write = story.begin(1, Op::Write { key: 1, value: 1 });
        story.complete(write, Phase::Ok, Op::Write { key: 1, value: 1 });
        let check = check(story.events(), &Floor { acked_min: 2 });
        assert_eq!(check.verdict, Verdict::Valid);
        for (name, count) in [
            ("send_invoke", 4.0),
            ("send_ok", 1.0),
            ("send_fail", 1.0),
            ("send_info", 2.0),
            ("poll_ok", 1.0),
            ("write_ok", 1.0),
            ("acked", 2.0),
            ("duration_ms", 11.0),
        ] {
            assert_eq!(check.figures[name], count, "{name}");
        }
        assert!((check.figures["acked_per_s"] - 2000.0 / 11.0).abs() < 1e-9);
        for name in ["poll_ok_per_s", "send_ok_per_s"] {
            assert!((check.figures[name] - 1000.0 / 11.0).abs() < 1e-9, "{name}");
        }
    }

    #[test]
    fn latencies_are_of_what_was_done() {
        let mut story = Story::new();
        for ms in (1..=2000).rev() {
            let send = story.send(1, ms);
            story.wait_ms(ms - 1);
            story.acked(send, ms);
        }
        let unsure = story.send(1, 0);
        story.wait_ms(9999);
        story.unsure(unsure);
        let check = check(story.events(), &Floor::default());
        let figures = ["send_p50_ms", "send_p99_ms", "send_p999_ms", "send_max_ms"].map(|name| check.figures[name]);
        assert_eq!(figures, [1000.0, 1980.0, 1998.0, 2000.0]);
    }

    #[test]
    fn of_one_every_percentile_is_it() {
        assert_eq!([0, 500, 1000].map(|per_mille| ranked(&[7], per_mille)), [7; 3]);
        assert_eq!(ranked(&[], 500), 0);
        assert_eq!(ranked(&[1, 2, 3], 500), 2);
    }

    #[test]
    fn below_the_floor_nothing_is_said() {
        let mut story = Story::new();
        story.sent(1, 10, 0).polled(2, 0, &[(0, 10)]);
        assert_eq!(check(story.events(), &Floor { acked_min: 1 }).verdict, Verdict::Valid);
        assert_eq!(check(story.events(), &Floor { acked_min: 2 }).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_part_of_a_history_has_latencies_too() {
        let mut story = Story::new();
        story.sent(1, 10, 0).sent(1, 11, 1);
        let check = check(&story.events()[1..], &Floor::default());
        assert_eq!(check.figures["send_max_ms"], 1.0);
    }
}
