//! The longest pauses, and what was done to the nodes meanwhile.

use crate::results::Fault;

use super::{
    plot::key_name,
    service::Pause,
    text::{Esc, duration, moment},
};

/// Faults that are named of a pause.
const NAMED_MAX: usize = 3;

pub(super) fn table(pauses: &[Pause], faults: &[Fault]) -> String {
    let mut rows = String::new();
    for pause in pauses {
        rows += &format!(
            r#"<tr><td>{}</td><td class="time">{}</td><td class="lasted">{}{}</td><td>{}</td></tr>
"#,
            key_name(pause.key),
            moment(pause.from_ns),
            duration(pause.ns()),
            if pause.over { "" } else { ", never ended" },
            Esc(meanwhile(pause, faults)),
        );
    }
    if rows.is_empty() {
        return "<p class=\"note\">No key was ever not served for 0.5 s.</p>\n".to_owned();
    }
    format!(
        r#"<h3>Longest pauses</h3>
<table class="pauses">
<thead><tr><th>where</th><th class="time">from</th><th class="lasted">lasted</th><th>meanwhile</th></tr></thead>
<tbody>
{rows}</tbody></table>
"#
    )
}

/// The faults that went on when it began, or began later in it.
fn meanwhile(pause: &Pause, faults: &[Fault]) -> String {
    let during = faults.iter().filter(|fault| fault.from_ns <= pause.to_ns && fault.to_ns >= pause.from_ns);
    let told: Vec<String> = during.clone().take(NAMED_MAX).map(|it| format!("{}: {}", it.family, it.what)).collect();
    match during.count().saturating_sub(NAMED_MAX) {
        _ if told.is_empty() => "no fault".to_owned(),
        0 => told.join("; "),
        more => format!("{}; {more} more", told.join("; ")),
    }
}
