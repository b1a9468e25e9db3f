//! Faults over time: a lane for each family above a plot, and a shade through it.

use crate::results::Fault;

use super::{
    plot::{Axis, WIDTH, stretched},
    text::{Esc, duration, moment},
};

/// Colours of families in the style sheet: `f0`, `f1`, …
const COLOURS: usize = 8;
const LANE_PX: u64 = 15;
const GAP_PX: u64 = 6;
/// More faults than these are shaded, but not told one by one.
pub(super) const FAULTS_MAX: usize = 500;
/// A fault that took no time is still seen.
const WIDTH_MIN: u64 = 3;

/// The families of faults that there were or should have been, in order.
pub(super) fn families<'a>(faults: &'a [Fault], planned: &'a [String]) -> Vec<&'a str> {
    let hit = faults.iter().map(|fault| fault.family.as_str());
    let mut names: Vec<&str> = hit.chain(planned.iter().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A family's class in the style sheet.
pub(super) fn class(families: &[&str], family: &str) -> String {
    format!("f{}", families.iter().position(|name| *name == family).unwrap_or_default() % COLOURS)
}

/// How long a fault took, for a person. One that outlives the history never ended.
pub(super) fn lasted(fault: &Fault, end_ns: u64) -> String {
    if fault.to_ns > end_ns { "never ended".to_owned() } else { duration(fault.to_ns.saturating_sub(fault.from_ns)) }
}

/// All of them, drawn once for every plot.
pub(super) struct Bands {
    lanes: String,
    shades: String,
    lanes_px: u64,
}

impl Bands {
    pub(super) fn new(faults: &[Fault], planned: &[String], axis: Axis, end_ns: u64) -> Self {
        let families = families(faults, planned);
        let (mut lanes, mut shades) = (String::new(), String::new());
        let mut top_px = 0;
        for family in &families {
            let class = class(&families, family);
            lanes += &format!(
                r#"<text class="mark" x="-8" y="{}">{}</text><line class="lane" x1="0" x2="100%" y1="{2}" y2="{2}"/>"#,
                top_px + 10,
                Esc(family),
                top_px + 7
            );
            let mut path = String::new();
            for (number, fault) in (1..).zip(faults).filter(|(_, fault)| fault.family == *family) {
                if number <= FAULTS_MAX {
                    lanes += &bar(fault, number, &class, axis, end_ns, top_px);
                }
                let from = axis.at(fault.from_ns, WIDTH).min(WIDTH - WIDTH_MIN);
                let to = axis.at(fault.to_ns, WIDTH);
                let width = to.saturating_sub(from).max(WIDTH_MIN);
                path += &format!("M{from} 0h{width}v1h-{width}z");
            }
            shades += &format!(r#"<path class="shade {class}" d="{path}"/>"#);
            top_px += LANE_PX;
        }
        Self { lanes, shades, lanes_px: if families.is_empty() { 0 } else { top_px + GAP_PX } }
    }

    /// How high the lanes are above a plot.
    pub(super) const fn lanes_px(&self) -> u64 {
        self.lanes_px
    }

    pub(super) fn lanes(&self) -> &str {
        &self.lanes
    }

    pub(super) fn shades(&self, height_px: u64) -> String {
        stretched(WIDTH, 1, height_px, &self.shades)
    }
}

fn bar(fault: &Fault, number: usize, class: &str, axis: Axis, end_ns: u64, top_px: u64) -> String {
    let from = axis.at(fault.from_ns, 10_000);
    let width = axis.at(fault.to_ns, 10_000).saturating_sub(from);
    let (x, y_px) = (axis.percent(fault.from_ns), top_px + 2);
    let unproven = if fault.evidence.is_none() { " unproven" } else { "" };
    let open = if fault.to_ns > end_ns { " open" } else { "" };
    format!(
        r#"<rect class="bar {class}{unproven}{open}" x="{x}" y="{y_px}" width="{}.{:02}%" height="10"><title>{number}. {}: {}. From {}, {}. {}</title></rect>"#,
        width / 100,
        width % 100,
        Esc(&fault.family),
        Esc(&fault.what),
        moment(fault.from_ns),
        lasted(fault, end_ns),
        Esc(fault.evidence.as_deref().unwrap_or("NO EVIDENCE")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(from_ns: u64, to_ns: u64) -> Fault {
        Fault {
            family: "kill".to_owned(),
            what: "node 1".to_owned(),
            nodes: vec![1],
            from_ns,
            to_ns,
            evidence: Some("new pid".to_owned()),
        }
    }

    #[test]
    fn a_fault_that_never_ended_goes_on_to_the_end() {
        let bands = Bands::new(&[fault(50, u64::MAX)], &[], Axis::new(100), 100);
        assert!(bands.shades.contains(&format!("M{} 0h{}v1", WIDTH / 2, WIDTH / 2)), "{}", bands.shades);
        assert!(bands.lanes.contains(r#"x="50.00%" y="2" width="50.00%""#), "{}", bands.lanes);
        assert!(bands.lanes.contains("never ended"), "{}", bands.lanes);
    }

    #[test]
    fn a_fault_of_no_length_or_after_the_end_is_seen() {
        let bands = Bands::new(&[fault(50, 50), fault(70, 60), fault(500, 600)], &[], Axis::new(100), 100);
        assert_eq!(bands.shades.matches(&format!("h{WIDTH_MIN}v1")).count(), 3, "{}", bands.shades);
    }

    #[test]
    fn a_family_that_never_struck_has_an_empty_lane() {
        let bands = Bands::new(&[fault(50, 60)], &["disk".to_owned(), "kill".to_owned()], Axis::new(100), 100);
        assert!(bands.lanes.contains(">disk</text>"), "{}", bands.lanes);
        assert_eq!(bands.lanes_px(), 2 * LANE_PX + GAP_PX);
    }
}
