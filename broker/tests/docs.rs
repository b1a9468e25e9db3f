//! The operator's guide names every configuration key.

#![allow(clippy::unwrap_used, reason = "a test")]

use levada_broker::config::KEYS;

#[test]
fn the_operators_guide_names_all_keys() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
    for key in KEYS {
        let default = key.default.trim_matches('"');
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        let takes = if key.live { "reload" } else { "restart" };
        let line = format!("| `{}` | {default} | {takes} | {} |", key.name, key.meaning);
        assert!(guide.contains(&line), "docs/operations.md lacks the line\n{line}");
    }
}
