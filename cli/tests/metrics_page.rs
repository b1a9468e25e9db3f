//! `docs/metrics.md` says what the constants say. `cargo xtask metrics` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;

use levada_protocol::metric::{Kind, Metric};

/// Where a crate's constants stand, what they are about, all of them, and the text that declares them.
const CRATES: [(&str, &[Metric], &str); 3] = [
    ("The node", levada_broker::metrics::ALL, include_str!("../../broker/src/metrics.rs")),
    ("The disk", levada_broker::metrics::storage::ALL, include_str!("../../storage-engine/src/metrics.rs")),
    ("Arrow Flight", levada_compute::metrics::ALL, include_str!("../../compute/src/metrics.rs")),
];

const HEAD: &str = "\
# Metrics

Made from the constants in the code by `cargo xtask metrics`: change it there.

Every node serves its own at `GET /metrics` of its HTTP address, in Prometheus' text form. A histogram has the usual
`_bucket`, `_sum` and `_count`. A metric appears when it is first counted. `deploy/prometheus/alerts.yml` has alerts over
them, `deploy/grafana/levada.json` a dashboard; `levada top` shows some of them in a terminal.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, all, _) in CRATES {
        writeln!(page, "\n## {title}\n").unwrap();
        writeln!(page, "| metric | type | unit | labels | meaning | when it is high |\n|---|---|---|---|---|---|")
            .unwrap();
        for Metric { name, kind, unit, labels, meaning, remedy } in all {
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            writeln!(page, "| `{name}` | {} | {unit} | {labels} | {meaning} | {remedy} |", kind.name()).unwrap();
        }
    }
    page
}

#[test]
fn the_page_says_what_the_constants_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("TEST_WRITE_METRICS_PAGE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "docs/metrics.md does not say what the constants say: run `cargo xtask metrics`");
}

#[test]
fn every_constant_is_listed_and_described() {
    let mut names = std::collections::BTreeSet::new();
    for (title, all, source) in CRATES {
        let declared = source.lines().filter(|line| line.contains(": Metric =")).count();
        assert_eq!(all.len(), declared, "{title}: ALL lacks a constant, or has one twice");
        for metric in all {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("levada_") && !metric.meaning.is_empty() && !metric.unit.is_empty(), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}: counters end in _total");
            // The buckets are chosen by the end of the name.
            let suffixes = ["_seconds", "_bytes"];
            assert!(metric.kind != Kind::Histogram || suffixes.iter().any(|end| name.ends_with(end)), "{name}");
            assert!(!metric.meaning.contains('|') && !metric.remedy.contains('|'), "{name}: no | in a table");
        }
    }
}
