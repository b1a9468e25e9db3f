//! What each checker found, in full.

use levada_checkers::verdict::{Anomaly, Check, Verdict};

use super::{
    anomalies,
    kinds::meaning,
    operations::History,
    summary::{anchor, class, sign},
    text::{Esc, count, figure},
};

const HOW_TO_READ: &str = "<p class=\"note how\">Bars are operations from begin to end, in their order and not to scale: a \
dashed one may have taken effect later, or never. Numbers are the steps of the argument; what is grey went on beside them. Then \
the log around, in the order of its offsets: which value each source says stands there. A dash was left out between others \
that were shown.</p>\n";

pub(super) fn all(checks: &[Check], history: &History<'_>) -> String {
    // The worst first; those of a kind as they came.
    let mut sorted: Vec<&Check> = checks.iter().collect();
    sorted.sort_by_key(|check| std::cmp::Reverse(check.verdict));
    if sorted.is_empty() {
        return "<p class=\"note\">There were none.</p>\n".to_owned();
    }
    let how = if sorted.iter().any(|check| !check.anomalies.is_empty()) { HOW_TO_READ } else { "" };
    how.to_owned() + &sorted.into_iter().map(|check| one(check, history)).collect::<String>()
}

fn one(check: &Check, history: &History<'_>) -> String {
    let Check { name, verdict, why, counts, anomalies, figures } = check;
    let mut list = String::new();
    for (name, value) in figures {
        let (name, value) = figure(name, *value);
        list += &format!("<div><dt>{}</dt><dd>{}</dd></div>\n", Esc(name), Esc(value));
    }
    let figures = if list.is_empty() { list } else { format!("<dl class=\"figures\">\n{list}</dl>\n") };
    let why = match (why, verdict) {
        // The anomalies below say it better.
        (Some(_), Verdict::Invalid) if !counts.is_empty() => String::new(),
        (Some(why), _) => format!("<p class=\"why\">{}</p>\n", Esc(why)),
        (None, _) => String::new(),
    };
    let mut kinds = String::new();
    for (kind, all) in counts {
        let told: Vec<&Anomaly> = anomalies.iter().filter(|anomaly| anomaly.kind == *kind).collect();
        kinds += &of_kind(kind, *all, &told, history);
    }
    format!(
        r#"<article class="check {}" id="{}">
<h3>{} <b>{} {verdict}</b></h3>
{why}{figures}{kinds}</article>
"#,
        class(*verdict),
        anchor(check),
        Esc(name),
        sign(*verdict),
    )
}

fn of_kind(kind: &str, all: u64, told: &[&Anomaly], history: &History<'_>) -> String {
    let meaning = meaning(kind).map_or_else(String::new, |meaning| format!("<p class=\"meaning\">{meaning}</p>\n"));
    // The first is laid open. The others are much like it.
    let shown = (0..).zip(told).map(|(number, anomaly)| anomalies::one(anomaly, number == 0, history));
    let shown: String = shown.collect();
    let told = told.len() as u64;
    let more = match all.saturating_sub(told) {
        0 => String::new(),
        more => format!("<p class=\"note\">{} more were only counted.</p>\n", count(more)),
    };
    format!(
        r#"<section class="kind">
<h4>{} <span>{}</span></h4>
{meaning}{shown}{more}</section>
"#,
        Esc(kind),
        if all == 1 { "once".to_owned() } else { format!("{} times", count(all)) },
    )
}
