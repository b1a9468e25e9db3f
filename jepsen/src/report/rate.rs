//! How many operations ended in a second, and how.

use super::{
    operations::{History, Outcome},
    plot::{Axis, Mark, Panel, round_scale},
    text::{SECOND_NS, count},
};

const HEIGHT_PX: u64 = 130;
/// What is few among many is still seen.
const PART_MIN_PX: f64 = 1.5;

pub(super) fn panel(history: &History<'_>, axis: Axis) -> Panel {
    let mut bins = vec![[0_u64; 3]; axis.bins()];
    for operation in history.operations() {
        if let Some(ended) = operation.ended {
            bins[axis.bin(ended.time_ns)][operation.outcome() as usize] += 1;
        }
    }
    let bin_s = axis.bin_ns() / SECOND_NS;
    let most = bins.iter().map(|bin| bin.iter().sum()).max().unwrap_or(0_u64).div_ceil(bin_s);
    let (top, step) = round_scale(most);
    let px = |number: u64| number as f64 * HEIGHT_PX as f64 / top as f64;
    let mut paths: [String; 3] = Default::default();
    for (x, bin) in bins.iter().enumerate() {
        let mut y_px = HEIGHT_PX as f64;
        for outcome in Outcome::ALL {
            let number = bin[outcome as usize];
            if number > 0 {
                let high = (px(number) / bin_s as f64).max(PART_MIN_PX);
                y_px -= high;
                paths[outcome as usize] += &format!("M{x} {y_px:.1}h1v{high:.1}h-1z");
            }
        }
    }
    let mut content = String::new();
    for outcome in Outcome::ALL {
        content += &format!(r#"<path class="cell {} l4" d="{}"/>"#, outcome.name(), paths[outcome as usize]);
    }
    let mark = |part| Mark { y_px: HEIGHT_PX as f64 - px(part * step), text: count(part * step), line: true };
    // The last bin may reach beyond the end of the axis, and is cut there.
    let bins_wide = axis.end_ns() as f64 / axis.bin_ns() as f64;
    let body = format!(
        r#"<svg width="100%" height="{HEIGHT_PX}" viewBox="0 0 {bins_wide:.4} {HEIGHT_PX}" preserveAspectRatio="none">{content}</svg>"#
    );
    Panel {
        title: "Operations per second",
        note: "All operations, by when they ended: one on another.".to_owned(),
        legend: &[("ok", "ok"), ("info", "unknown"), ("fail", "failed")],
        height_px: HEIGHT_PX,
        lanes: true,
        marks: (0..=top / step).map(mark).collect(),
        body,
    }
}
