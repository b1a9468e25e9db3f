//! The faults one by one, and what shows that each was one.

use crate::results::{Fault, Results};

use super::{
    bands::{self, FAULTS_MAX},
    text::{Esc, count, moment},
};

pub(super) fn table(results: &Results, end_ns: u64) -> String {
    let Results { faults, plan, .. } = results;
    if faults.is_empty() {
        return "<p class=\"note\">There were none.</p>\n".to_owned();
    }
    let families = bands::families(faults, &plan.nemeses);
    let mut rows = String::new();
    for (number, fault) in (1..).zip(faults.iter().take(FAULTS_MAX)) {
        let Fault { family, what, nodes, from_ns, evidence, .. } = fault;
        let nodes = nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let evidence = match evidence {
            Some(evidence) => Esc(evidence).to_string(),
            None => "<strong class=\"warning\">NO EVIDENCE</strong>".to_owned(),
        };
        rows += &format!(
            r#"<tr><td class="number">{number}</td><td class="time">{}</td><td class="family"><i class="swatch {}"></i>{}</td><td class="what">{}</td><td data-label="nodes">{}</td><td class="lasted" data-label="lasted">{}</td><td class="evidence">{evidence}</td></tr>
"#,
            moment(*from_ns),
            bands::class(&families, family),
            Esc(family),
            Esc(what),
            Esc(if nodes.is_empty() { "none".to_owned() } else { nodes }),
            bands::lasted(fault, end_ns),
        );
    }
    let more = match faults.len().saturating_sub(FAULTS_MAX) {
        0 => String::new(),
        more => format!("<p class=\"note\">{} more stand in <code>faults.jsonl</code>.</p>\n", count(more as u64)),
    };
    format!(
        r#"<table class="faults">
<thead><tr><th class="number">no.</th><th class="time">from</th><th>family</th><th>what was done</th><th>nodes</th><th class="lasted">lasted</th><th>what shows that it bit</th></tr></thead>
<tbody>
{rows}</tbody></table>
{more}"#
    )
}
