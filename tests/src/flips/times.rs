//! How long repairs took.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{Bite, Kind};

/// A line a kind: how many, and the shortest, the median and the longest time.
#[must_use]
pub fn table(bites: &[Bite]) -> String {
    let mut by_kind: BTreeMap<Option<Kind>, Vec<Duration>> = BTreeMap::new();
    for bite in bites {
        by_kind.entry(Some(bite.kind)).or_default().push(bite.took);
        by_kind.entry(None).or_default().push(bite.took);
    }
    // All together come last.
    let all = by_kind.remove(&None);
    let mut lines = format!("{:<18} {:>5} {:>8} {:>8} {:>8}\n", "bits of", "flips", "min s", "median s", "max s");
    for (kind, mut took) in by_kind.into_iter().chain(all.map(|all| (None, all))) {
        took.sort_unstable();
        let s = |at: usize| took.get(at).map_or(0.0, Duration::as_secs_f64);
        let (count, name) = (took.len(), kind.map_or("all", Kind::name));
        let (min, median, max) = (s(0), s(count / 2), s(count.saturating_sub(1)));
        let _ = writeln!(lines, "{name:<18} {count:>5} {min:>8.1} {median:>8.1} {max:>8.1}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_line_and_all_together_the_last() {
        let bite = |kind, took_ms| Bite {
            kind,
            node: 1,
            is_down: false,
            file: "segments/x".to_owned(),
            at: 5,
            bit: 3,
            took: Duration::from_millis(took_ms),
        };
        let bites = [bite(Kind::Identity, 900), bite(Kind::Journal, 4_000), bite(Kind::Journal, 2_000)];
        let said = table(&[&bites[..], &[bite(Kind::Journal, 3_000)]].concat());
        let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["journal", "3", "2.0", "3.0", "4.0"]);
        assert_eq!(lines[2], ["identity", "1", "0.9", "0.9", "0.9"]);
        assert_eq!(lines[3], ["all", "4", "0.9", "3.0", "4.0"]);
    }
}
