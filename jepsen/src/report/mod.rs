//! A run as a page: `report.html`, for a person who would rather look than read the history.
//!
//! The page is one file that needs nothing else: no network, no script, no font of its own. It is light or dark as the reader
//! likes, and prints. The same results and the same history give the same bytes.
//!
//! From the top: the verdict and why, what ran and the command that does it again, the figures that matter; then what was over
//! time, the faults, and the checks. Checks that found something come first of these. Every plot has the same axis and the
//! faults as bands through it, so that a glance down the page shows what a fault did.
//!
//! Its size is bounded, whatever the history holds: operations are counted into cells and bins, never drawn one by one. Only
//! operations that show an anomaly are, of which each check tells a few. Text that comes from elsewhere passes
//! `text::Esc`, without exception.

mod anomalies;
mod bands;
mod checks;
mod faults;
mod kinds;
mod lag;
mod latency;
mod offsets;
mod operations;
mod pauses;
mod plot;
mod rate;
pub mod sample;
mod schedule;
mod service;
mod shrunk;
mod summary;
#[cfg(test)]
mod tests;
mod text;

use levada_checkers::{history::Event, verdict::Verdict};

use crate::results::Results;

use self::{
    bands::Bands,
    operations::History,
    plot::Axis,
    service::Service,
    text::{Esc, plural},
};

const STYLE: &str = include_str!("style.css");

/// The page of a run.
#[must_use]
pub fn html(results: &Results, events: &[Event]) -> String {
    let history = History::new(events);
    let axis = Axis::new(span_ns(results, &history));
    let bands = Bands::new(&results.faults, &results.plan.nemeses, axis, history.end_ns);
    let samples = latency::samples(&history);
    let service = Service::new(&history);

    let top = [
        summary::banner(results),
        summary::figures(results, &history, &samples, &service),
        summary::run(results, &history),
        shrunk::part(results),
    ];
    let mut panels = vec![latency::panel(&samples, axis), rate::panel(&history, axis), service.panel(axis)];
    panels.extend(lag::panel(&history, axis));
    let panels: String = panels.iter().map(|panel| panel.render(axis, &bands)).collect();
    let over_time = section("Over time", &(panels + &pauses::table(&service.listed(), &results.faults)));
    let faults = section("Faults", &faults::table(results, history.end_ns));
    let checks = section("Checks", &checks::all(&results.checks, &history));
    let sections = match results.verdict {
        Verdict::Invalid => [checks, over_time, faults],
        Verdict::Valid | Verdict::Inconclusive => [over_time, faults, checks],
    };
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{verdict}: {id}</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
{}
{}
<footer>{events} in this history. Times are minutes:seconds since it began.</footer>
</main>
</body>
</html>
"#,
        top.concat(),
        sections.concat(),
        verdict = results.verdict,
        id = Esc(&results.id),
        events = plural(events.len() as u64, "event"),
    )
}

/// As long as the history; a run that has none is as long as its plan and its faults.
fn span_ns(results: &Results, history: &History<'_>) -> u64 {
    let faults = results.faults.iter().map(|fault| fault.from_ns);
    let planned = results.plan.time_s.saturating_mul(text::SECOND_NS);
    faults.chain([if history.end_ns == 0 { planned } else { history.end_ns }]).max().unwrap_or_default()
}

fn section(title: &str, content: &str) -> String {
    format!("<section class=\"part\">\n<h2>{title}</h2>\n{content}</section>\n")
}
