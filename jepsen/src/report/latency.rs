//! How long operations took: a grid of cells, the darker the more operations, with the median and the 99th percentile over it.
//!
//! However many operations there were, there are at most [`COLUMNS`] × 7 × [`ROWS_A_DECADE`] cells.

use super::{
    operations::{History, Outcome, asks_majority},
    plot::{Axis, Mark, Panel, WIDTH, stretched},
    text::SECOND_NS,
};

const COLUMNS: usize = 240;
const ROWS_A_DECADE: usize = 12;
const HEIGHT_PX: u64 = 260;
/// Shades of a cell: `l1` to `l5` in the style sheet.
const LEVELS: u32 = 5;
/// What is quicker stands at the bottom.
const FLOOR_NS: u64 = 10_000;
/// What is slower stands at the top.
const CEILING_NS: u64 = 100 * SECOND_NS;

/// An operation that had an end.
pub(super) struct Sample {
    pub(super) begun_ns: u64,
    pub(super) latency_ns: u64,
    pub(super) outcome: Outcome,
}

/// What is measured: operations that take a majority, and ended.
pub(super) fn samples(history: &History<'_>) -> Vec<Sample> {
    let asked = history.operations().filter(|operation| asks_majority(&operation.begun.op));
    let sample = |operation: super::operations::Operation<'_>| {
        let latency_ns = operation.latency_ns()?;
        Some(Sample { begun_ns: operation.begun.time_ns, latency_ns, outcome: operation.outcome() })
    };
    asked.filter_map(sample).collect()
}

/// The value below which so many thousandths of all are. They are sorted.
pub(super) fn quantile(sorted: &[u64], thousandths: usize) -> Option<u64> {
    sorted.get((sorted.len() * thousandths / 1000).min(sorted.len().saturating_sub(1))).copied()
}

/// Powers of ten, from the bottom to the top.
struct Scale {
    decades_ns: Vec<u64>,
    /// Where each row begins.
    rows_ns: Vec<f64>,
}

impl Scale {
    fn new(samples: &[Sample]) -> Self {
        let latencies = || samples.iter().map(|sample| sample.latency_ns.clamp(FLOOR_NS, CEILING_NS));
        let (min, max) = (latencies().min().unwrap_or(FLOOR_NS), latencies().max().unwrap_or(CEILING_NS));
        let mut decade = FLOOR_NS;
        while decade * 10 <= min && decade * 10 < CEILING_NS {
            decade *= 10;
        }
        let mut decades_ns = vec![decade];
        while decade < max || decades_ns.len() < 3 {
            decade *= 10;
            decades_ns.push(decade);
        }
        let step = 10_f64.powf(1.0 / ROWS_A_DECADE as f64);
        let parts = std::iter::successors(Some(1.0), |part| Some(part * step));
        let parts: Vec<f64> = parts.take(ROWS_A_DECADE).collect();
        let below_top = decades_ns.iter().take(decades_ns.len() - 1);
        let rows_ns = below_top.flat_map(|decade| parts.iter().map(|part| *decade as f64 * part)).collect();
        Self { decades_ns, rows_ns }
    }

    fn rows(&self) -> usize {
        self.rows_ns.len()
    }

    /// The row of a latency, from the bottom.
    fn row(&self, ns: u64) -> usize {
        self.rows_ns.partition_point(|from| *from <= ns as f64).saturating_sub(1)
    }

    fn y_px(&self, ns: u64) -> f64 {
        let (Some(bottom), Some(top)) = (self.decades_ns.first(), self.decades_ns.last()) else { return 0.0 };
        let log = |ns: u64| (ns as f64).log10();
        let share = (log(ns.clamp(*bottom, *top)) - log(*bottom)) / (log(*top) - log(*bottom));
        HEIGHT_PX as f64 * (1.0 - share)
    }

    fn marks(&self) -> Vec<Mark> {
        let text = |ns: u64| match ns {
            SECOND_NS.. => format!("{} s", ns / SECOND_NS),
            1_000_000.. => format!("{} ms", ns / 1_000_000),
            _ => format!("{} µs", ns / 1000),
        };
        self.decades_ns.iter().map(|ns| Mark { y_px: self.y_px(*ns), text: text(*ns), line: true }).collect()
    }
}

pub(super) fn panel(samples: &[Sample], axis: Axis) -> Panel {
    let scale = Scale::new(samples);
    let body = if samples.is_empty() {
        r#"<text class="nothing" x="50%" y="50%">no operation that takes a majority had an end</text>"#.to_owned()
    } else {
        cells(samples, &scale, axis) + &quantiles(samples, &scale, axis)
    };
    Panel {
        title: "Latency",
        note: "Operations that take a majority to answer, by when they began and how long they took. The stronger the colour, the more. A cell \
               with one whose outcome is unknown, or that failed, has its colour."
            .to_owned(),
        legend: &[
            ("ok", "ok"),
            ("info", "unknown"),
            ("fail", "failed"),
            ("stroke p50", "median of ok"),
            ("stroke p99", "99th percentile"),
        ],
        height_px: HEIGHT_PX,
        lanes: true,
        marks: scale.marks(),
        body,
    }
}

fn cells(samples: &[Sample], scale: &Scale, axis: Axis) -> String {
    let rows = scale.rows();
    // From the top, row by row: how many of which outcome.
    let mut grid = vec![[0_u32; 3]; rows * COLUMNS];
    let columns = COLUMNS as u64;
    for Sample { begun_ns, latency_ns, outcome } in samples {
        let column = usize::try_from(axis.at(*begun_ns, columns)).unwrap_or_default().min(COLUMNS - 1);
        let row = rows - 1 - scale.row(*latency_ns).min(rows - 1);
        if let Some(cell) = grid.get_mut(row * COLUMNS + column) {
            cell[*outcome as usize] += 1;
        }
    }
    let most = [0, 1, 2].map(|outcome| grid.iter().map(|cell| cell[outcome]).max().unwrap_or(0));
    let mut paths: [[String; LEVELS as usize]; 3] = Default::default();
    for (row, cells) in grid.chunks(COLUMNS).enumerate() {
        let shown = cells.iter().map(|cell| {
            let outcome = [Outcome::Fail, Outcome::Info, Outcome::Ok].into_iter().find(|it| cell[*it as usize] > 0)?;
            Some((outcome as usize, level(cell[outcome as usize], most[outcome as usize])))
        });
        let shown: Vec<Option<(usize, usize)>> = shown.collect();
        let mut column = 0;
        for run in shown.chunk_by(PartialEq::eq) {
            if let Some(Some((outcome, level))) = run.first() {
                let width = run.len();
                paths[*outcome][*level] += &format!("M{column} {row}h{width}v1h-{width}z");
            }
            column += run.len();
        }
    }
    let mut content = String::new();
    for outcome in Outcome::ALL {
        for (level, path) in (1..).zip(&paths[outcome as usize]).filter(|(_, path)| !path.is_empty()) {
            content += &format!(r#"<path class="cell {} l{level}" d="{path}"/>"#, outcome.name());
        }
    }
    stretched(columns, rows as u64, HEIGHT_PX, &content)
}

/// From 0; by the logarithm, for a few slow ones are as worth seeing as many quick ones.
fn level(count: u32, most: u32) -> usize {
    let bits = |count: u32| u32::BITS - count.leading_zeros();
    let level = (bits(count) * LEVELS).div_ceil(bits(most).max(1)).clamp(1, LEVELS) - 1;
    usize::try_from(level).unwrap_or_default()
}

fn quantiles(samples: &[Sample], scale: &Scale, axis: Axis) -> String {
    let mut bins = vec![Vec::new(); axis.bins()];
    for sample in samples.iter().filter(|sample| sample.outcome == Outcome::Ok) {
        bins[axis.bin(sample.begun_ns)].push(sample.latency_ns);
    }
    for bin in &mut bins {
        bin.sort_unstable();
    }
    let mut content = String::new();
    for (class, thousandths) in [("p99", 990), ("p50", 500)] {
        let mut path = String::new();
        let mut follows = false;
        for (number, bin) in (0..).zip(&bins) {
            let Some(ns) = quantile(bin, thousandths) else {
                follows = false;
                continue;
            };
            let x = axis.at(number * axis.bin_ns() + axis.bin_ns() / 2, WIDTH);
            // A lone point is a line of no length, which has round ends.
            let (letter, end) = if follows { ('L', "") } else { ('M', "h0") };
            path += &format!("{letter}{x} {:.1}{end}", scale.y_px(ns));
            follows = true;
        }
        content += &format!(r#"<path class="halo" d="{path}"/><path class="line {class}" d="{path}"/>"#);
    }
    stretched(WIDTH, HEIGHT_PX, HEIGHT_PX, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_are_among_them() {
        assert_eq!(quantile(&[], 500), None);
        assert_eq!(quantile(&[7], 990), Some(7));
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((quantile(&hundred, 500), quantile(&hundred, 990)), (Some(51), Some(100)));
    }

    #[test]
    fn any_latency_has_a_row() {
        let sample = |latency_ns| Sample { begun_ns: 0, latency_ns, outcome: Outcome::Ok };
        let scale = Scale::new(&[0, u64::MAX].map(sample));
        assert_eq!((scale.row(0), scale.row(u64::MAX)), (0, scale.rows() - 1));
        assert_eq!((scale.y_px(0), scale.y_px(u64::MAX)), (HEIGHT_PX as f64, 0.0));
        let scale = Scale::new(&[2_000_000, 900_000_000].map(sample));
        assert_eq!(scale.decades_ns, [1_000_000, 10_000_000, 100_000_000, 1_000_000_000]);
    }

    #[test]
    fn one_is_pale_and_the_most_are_dark() {
        assert_eq!([level(1, 1), level(1, 1000), level(30, 1000), level(1000, 1000)], [4, 0, 2, 4]);
    }
}
