//! The operator's guide names every configuration key and every metric.

#![allow(clippy::unwrap_used, reason = "a test")]

use levada_broker::{config::KEYS, metrics};

#[test]
fn the_operators_guide_names_all_keys_and_metrics() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
    for key in KEYS {
        let default = key.default.trim_matches('"');
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let line = format!("| `{}` | {default} | {} |", key.name, key.meaning);
        assert!(guide.contains(&line), "docs/operations.md lacks the line\n{line}");
    }
    for metric in metrics::ALL {
        let line =
            format!("| `{}` | {} | {} |", metric.name, format!("{:?}", metric.kind).to_lowercase(), metric.meaning);
        assert!(guide.contains(&line), "docs/operations.md lacks the line\n{line}");
    }
}
