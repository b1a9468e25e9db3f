//! What all plots over time share: the axis, the panel around them, the bands of the faults.
//!
//! A panel is as wide as the page. Text stands at percentages of that and keeps its size; areas and lines are in an SVG of their
//! own that is [`WIDTH`] wide and stretched. Bounded, whatever the history holds: nothing is drawn finer than [`WIDTH`].

use levada_checkers::history::Key;

use super::{
    bands::Bands,
    text::{Esc, SECOND_NS},
};

/// How wide a plot is, in its own units.
pub(super) const WIDTH: u64 = 2000;
/// Bins of what is counted by time, at most.
const BINS_MAX: u64 = 300;
/// Labels along the axis, at most.
const TICKS_MAX: u64 = 14;
/// Where the axis' labels stand below a plot.
const AXIS_PX: u64 = 22;
/// Seconds that people count by.
const STEPS_S: [u64; 16] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 43_200];

/// Time, from left to right.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    end_ns: u64,
}

impl Axis {
    pub(super) fn new(end_ns: u64) -> Self {
        Self { end_ns: end_ns.max(1) }
    }

    pub(super) const fn end_ns(self) -> u64 {
        self.end_ns
    }

    /// Where a moment stands, in so many units.
    pub(super) fn at(self, ns: u64, units: u64) -> u64 {
        let at = u128::from(ns.min(self.end_ns)) * u128::from(units) / u128::from(self.end_ns);
        u64::try_from(at).unwrap_or(units)
    }

    /// Where a moment stands, for an attribute.
    pub(super) fn percent(self, ns: u64) -> String {
        percent(self.at(ns, 10_000))
    }

    /// How long a bin is of what is counted by time: a second, unless there would be too many.
    pub(super) fn bin_ns(self) -> u64 {
        step_s(self.end_ns, BINS_MAX) * SECOND_NS
    }

    /// How many of them there are.
    pub(super) fn bins(self) -> usize {
        usize::try_from(self.end_ns.div_ceil(self.bin_ns())).unwrap_or_default().max(1)
    }

    /// The one in which a moment is.
    pub(super) fn bin(self, ns: u64) -> usize {
        usize::try_from(ns.min(self.end_ns) / self.bin_ns()).unwrap_or_default().min(self.bins() - 1)
    }

    fn ticks(self, y_px: u64) -> String {
        let step_s = step_s(self.end_ns, TICKS_MAX);
        let mut ticks = String::new();
        for (number, at_s) in (0..=self.end_ns / SECOND_NS).step_by(usize::try_from(step_s).unwrap_or(1)).enumerate() {
            let x = self.percent(at_s * SECOND_NS);
            let label = match (self.end_ns / SECOND_NS, at_s) {
                (3600.., at) => format!("{}:{:02} h", at / 3600, at / 60 % 60),
                (60.., at) => format!("{}:{:02}", at / 60, at % 60),
                (_, at) => format!("{at} s"),
            };
            // Where there is little room, every other one goes.
            let class = if number % 2 == 0 { "tick" } else { "tick between" };
            ticks += &format!(
                r#"<g class="{class}"><line x1="{x}" x2="{x}" y1="{y_px}" y2="{}"/><text x="{x}" y="{}">{label}</text></g>"#,
                y_px + 4,
                y_px + 17
            );
        }
        ticks
    }
}

/// The first step of which there are at most so many; days if need be.
fn step_s(end_ns: u64, steps_max: u64) -> u64 {
    let end_s = end_ns.div_ceil(SECOND_NS);
    let fits = STEPS_S.into_iter().find(|step| end_s.div_ceil(*step) <= steps_max);
    fits.unwrap_or_else(|| end_s.div_ceil(steps_max).next_multiple_of(86_400))
}

/// Hundredths of a percent, for an attribute.
fn percent(hundredths: u64) -> String {
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// A scale from 0 to at least `max` of at most five round parts, and one of them.
pub(super) fn round_scale(max: u64) -> (u64, u64) {
    let mut ten = 1_u64;
    loop {
        for step in [ten, ten.saturating_mul(2), ten.saturating_mul(5)] {
            if step.saturating_mul(5) >= max {
                return (step.saturating_mul(max.div_ceil(step).max(1)), step);
            }
        }
        ten = ten.saturating_mul(10);
    }
}

/// A label at a plot's left.
pub(super) struct Mark {
    pub(super) y_px: f64,
    pub(super) text: String,
    /// Whether a line goes from it through the plot.
    pub(super) line: bool,
}

/// What a key is called everywhere.
pub(super) fn key_name(key: Key) -> String {
    format!("key {key}")
}

/// A plot, and what is around it.
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// What it shows, for who has not seen one before. Text.
    pub(super) note: String,
    /// What its colours mean: classes, and text.
    pub(super) legend: &'static [(&'static str, &'static str)],
    pub(super) height_px: u64,
    /// Whether the families stand above it by their names; the shades of the faults are always there.
    pub(super) lanes: bool,
    pub(super) marks: Vec<Mark>,
    /// What is drawn: markup, over the bands, at the size of the plot.
    pub(super) body: String,
}

impl Panel {
    pub(super) fn render(&self, axis: Axis, bands: &Bands) -> String {
        let Self { title, height_px, .. } = *self;
        let (top_px, lanes) = if self.lanes { (bands.lanes_px(), bands.lanes()) } else { (0, "") };
        let mut legend = String::new();
        for (class, text) in self.legend {
            legend += &format!(r#"<span><i class="swatch {class}"></i>{}</span>"#, Esc(text));
        }
        let mut marks = String::new();
        for Mark { y_px, text, line } in &self.marks {
            if *line {
                marks += &format!(r#"<line class="grid" x1="0" x2="100%" y1="{y_px:.1}" y2="{y_px:.1}"/>"#);
            }
            marks += &format!(r#"<text class="mark" x="-8" y="{:.1}">{}</text>"#, y_px + 3.5, Esc(text));
        }
        let (total_px, shades) = (top_px + height_px + AXIS_PX, bands.shades(height_px));
        let (ticks, note, body) = (axis.ticks(height_px), Esc(&self.note), &self.body);
        format!(
            r#"<figure class="panel">
<figcaption><h3>{title}</h3><p class="legend">{legend}</p></figcaption>
<div class="frame"><svg class="plot" width="100%" height="{total_px}" role="img" aria-label="{title} over time">
<g class="lanes">{lanes}</g>
<g transform="translate(0,{top_px})"><rect class="ground" width="100%" height="{height_px}"/>
{shades}
{marks}
{body}
{ticks}</g></svg></div>
<p class="note">{note}</p>
</figure>
"#
        )
    }
}

/// An SVG that is stretched over the whole plot.
pub(super) fn stretched(width: u64, height: u64, height_px: u64, content: &str) -> String {
    format!(
        r#"<svg width="100%" height="{height_px}" viewBox="0 0 {width} {height}" preserveAspectRatio="none">{content}</svg>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_stand_where_they_should_and_never_outside() {
        let axis = Axis::new(10 * SECOND_NS);
        assert_eq!(axis.percent(0), "0.00%");
        assert_eq!(axis.percent(2_505_000_000), "25.05%");
        assert_eq!(axis.percent(u64::MAX), "100.00%");
        assert_eq!((axis.bins(), axis.bin(u64::MAX)), (10, 9));
    }

    #[test]
    fn no_run_is_too_short_or_too_long_for_its_axis() {
        for end_ns in [0, 1, SECOND_NS, 3600 * SECOND_NS, u64::MAX] {
            let axis = Axis::new(end_ns);
            assert!(axis.bins() <= 300, "{end_ns}");
            let ticks = axis.ticks(0).matches("<text").count();
            assert!((1..=15).contains(&ticks), "{end_ns}: {ticks}");
        }
    }

    #[test]
    fn scales_are_round() {
        assert_eq!(round_scale(0), (1, 1));
        assert_eq!(round_scale(17), (20, 5));
        assert_eq!(round_scale(1000), (1000, 200));
        assert_eq!(round_scale(u64::MAX), (u64::MAX, 5_000_000_000_000_000_000));
    }
}
