//! What is seen first: the verdict and why, what ran, how to do it again, and the figures that matter.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::TimeZone};
use levada_checkers::{
    history::Op,
    verdict::{Check, Verdict},
};

use crate::results::Results;

use super::{
    bands,
    latency::{Sample, quantile},
    operations::{History, Outcome},
    plot::key_name,
    service::Service,
    text::{Esc, SECOND_NS, count, duration, moment, plural},
};

/// A verdict's class in the style sheet.
pub(super) const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Inconclusive => "inconclusive",
        Verdict::Invalid => "invalid",
    }
}

/// The sign before a verdict: colours alone are not read by everyone, nor printed.
pub(super) const fn sign(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "✓",
        Verdict::Inconclusive => "?",
        Verdict::Invalid => "✗",
    }
}

/// An id that a link can name.
pub(super) fn anchor(check: &Check) -> String {
    let safe = |char: char| if char.is_ascii_alphanumeric() { char } else { '-' };
    format!("check-{}", check.name.chars().take(40).map(safe).collect::<String>())
}

pub(super) fn banner(results: &Results) -> String {
    let Results { verdict, checks, id, .. } = results;
    let bad = checks.iter().filter(|check| check.verdict == *verdict).count() as u64;
    let sentence = match verdict {
        _ if checks.is_empty() => "Nothing was checked.".to_owned(),
        Verdict::Valid => format!("{} found nothing wrong, and saw enough to say so.", plural(bad, "check")),
        Verdict::Inconclusive => {
            format!("Nothing is known to be wrong, but {} could not say that nothing is.", plural(bad, "check"))
        }
        Verdict::Invalid => format!("{} found what must not happen.", plural(bad, "check")),
    };
    let mut rows = String::new();
    for check in checks {
        let why = check.why.as_deref().unwrap_or("nothing wrong");
        rows += &format!(
            r##"<li class="{}"><a href="#{}">{}</a><b>{} {}</b><span>{}</span></li>
"##,
            class(check.verdict),
            anchor(check),
            Esc(&check.name),
            sign(check.verdict),
            check.verdict,
            Esc(why)
        );
    }
    format!(
        r#"<header class="banner {}">
<p class="eyebrow">Levada fault run <span class="id">{}</span></p>
<h1><span class="sign" aria-hidden="true">{}</span> {}</h1>
<p class="sentence">{sentence}</p>
<ul class="whys">
{rows}</ul>
</header>
"#,
        class(*verdict),
        Esc(id),
        sign(*verdict),
        verdict.to_string().to_uppercase(),
    )
}

pub(super) fn run(results: &Results, history: &History<'_>) -> String {
    let Results { began, build, plan, again, .. } = results;
    let began = match began.parse::<Timestamp>() {
        Ok(at) => at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => began.clone(),
    };
    let rate =
        if plan.rate == 0 { "as fast as they can".to_owned() } else { format!("{} operations/s", count(plan.rate)) };
    let nemeses = if plan.nemeses.is_empty() { "none".to_owned() } else { plan.nemeses.join(", ") };
    let time = format!(
        "{} of faults, one every {}; {} in all",
        duration(plan.time_s.saturating_mul(SECOND_NS)),
        duration(plan.interval_s.saturating_mul(SECOND_NS)),
        duration(history.end_ns)
    );
    let facts = [
        ("workload", plan.workload.clone()),
        ("faults", nemeses),
        ("nodes", format!("{}, in {}, disks {}", count(plan.nodes), plan.env, plan.disk)),
        ("clients", format!("{}, {rate}", count(u64::from(plan.clients)))),
        ("time", time),
        ("began", began),
        ("build", build.clone()),
        ("seed", plan.seed.to_string()),
    ];
    let mut list = String::new();
    for (name, text) in facts {
        list += &format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", Esc(text));
    }
    format!(
        r#"<section class="run" aria-label="What ran">
<dl class="facts">
{list}</dl>
<div class="again"><span>Again</span><code>{}</code></div>
</section>
"#,
        Esc(again)
    )
}

/// What clients did, in a few numbers.
#[derive(Default)]
struct Totals {
    acknowledged: u64,
    read: u64,
    unknown: u64,
    failed: u64,
}

impl Totals {
    fn of(history: &History<'_>) -> Self {
        let mut totals = Self::default();
        for operation in history.operations() {
            match (operation.outcome(), operation.op()) {
                (Outcome::Info, _) => totals.unknown += 1,
                (Outcome::Fail, _) => totals.failed += 1,
                (Outcome::Ok, Op::Send { .. } | Op::Write { .. } | Op::Cas { .. }) => totals.acknowledged += 1,
                (Outcome::Ok, Op::Read { .. }) => totals.read += 1,
                (Outcome::Ok, Op::Poll { records, .. } | Op::Snapshot { rows: records, .. }) => {
                    totals.read += records.len() as u64;
                }
                (Outcome::Ok, Op::End { .. } | Op::Final { .. }) => {}
            }
        }
        totals
    }
}

pub(super) fn figures(results: &Results, history: &History<'_>, samples: &[Sample], service: &Service) -> String {
    let totals = Totals::of(history);
    let mut ok: Vec<u64> = samples.iter().filter(|it| it.outcome == Outcome::Ok).map(|it| it.latency_ns).collect();
    ok.sort_unstable();
    let latency = |thousandths| quantile(&ok, thousandths).map_or_else(|| "–".to_owned(), duration);
    let longest = service.longest();
    let pause = longest.map_or_else(|| "–".to_owned(), |pause| duration(pause.ns()));
    let where_ = longest.map_or_else(String::new, |it| format!("{} from {}", key_name(it.key), moment(it.from_ns)));
    let tiles = [
        ("", "acknowledged", count(totals.acknowledged), "writes".to_owned()),
        ("", "read", count(totals.read), "records or values".to_owned()),
        ("info", "unknown", count(totals.unknown), "may have been done".to_owned()),
        ("fail", "failed", count(totals.failed), "were not done".to_owned()),
        ("", "median latency", latency(500), "from asking to ok".to_owned()),
        ("", "99th percentile", latency(990), "one of 100 is slower".to_owned()),
        ("", "longest pause", pause, where_),
    ];
    let mut list = String::new();
    for (class, name, value, of) in tiles {
        list += &format!(
            r#"<div class="tile {class}"><dt>{name}</dt><dd>{}</dd><small>{}</small></div>
"#,
            unit_apart(&value),
            Esc(of)
        );
    }
    format!("<dl class=\"tiles\">\n{list}</dl>\n{}", bites(results))
}

/// Units are smaller than their number.
fn unit_apart(value: &str) -> String {
    match value.rsplit_once(' ') {
        Some((number, unit)) if !number.contains(' ') => format!("{}<i>{}</i>", Esc(number), Esc(unit)),
        _ => Esc(value).to_string(),
    }
}

/// Of each family, how many faults there were, and how many proved to be some.
fn bites(results: &Results) -> String {
    let families = bands::families(&results.faults, &results.plan.nemeses);
    let mut of: BTreeMap<&str, (u64, u64)> = families.iter().map(|family| (*family, (0, 0))).collect();
    for fault in &results.faults {
        let (bit, all) = of.entry(&fault.family).or_default();
        *bit += u64::from(fault.evidence.is_some());
        *all += 1;
    }
    let mut list = String::new();
    for (family, (bit, all)) in of {
        let short = if bit < all || all == 0 { " short" } else { "" };
        let text = match (bit, all) {
            (_, 0) => "none".to_owned(),
            _ if bit == all => count(all),
            _ => format!("{} of {}", count(bit), count(all)),
        };
        list += &format!(
            r#"<li class="bite{short}"><i class="swatch {}"></i>{} <b>{text}</b></li>
"#,
            bands::class(&families, family),
            Esc(family)
        );
    }
    if list.is_empty() {
        String::new()
    } else {
        format!("<ul class=\"bites\"><li class=\"name\">Faults that bit</li>\n{list}</ul>\n")
    }
}
