//! What stands under `deploy/` for Prometheus and Grafana fits the metrics that there are, and the operator's guide.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use levada_protocol::metric::Kind;
use serde_json::Value;

const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/levada.json");
const GUIDE: &str = include_str!("../../docs/operations.md");

/// Every name under which a metric is served.
fn served() -> BTreeSet<String> {
    let all = [levada_broker::metrics::ALL, levada_broker::metrics::storage::ALL, levada_compute::metrics::ALL];
    let names = all.into_iter().flatten().flat_map(|metric| {
        let suffixes: &[&str] = if metric.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
        suffixes.iter().map(|suffix| format!("{}{suffix}", metric.name))
    });
    names.collect()
}

/// The metrics that a query names.
fn named(query: &str) -> BTreeSet<&str> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("levada_")).collect()
}

fn check(query: &str) {
    let served = served();
    for name in named(query) {
        assert!(served.contains(name), "no metric is called {name}: {query}");
    }
}

#[test]
fn alerts_name_metrics_that_exist_and_say_what_to_do() {
    let alerts: Vec<&str> = ALERTS.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 6, "{} alerts", alerts.len());
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        let key = |key: &str| alert.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
        let expression = key("expr:").unwrap_or_else(|| panic!("{name} has no expression on its line"));
        check(expression);
        assert!(!named(expression).is_empty() || expression.starts_with("up{"), "{name}: {expression}");
        assert!(key("summary:").is_some_and(|summary| summary.len() > 10), "{name} has no summary");
        assert!(key("severity:").is_some_and(|severity| ["warning", "critical"].contains(&severity)), "{name}");
        let runbook = key("runbook_url:").unwrap_or_default();
        assert_eq!(runbook, format!("docs/operations.md#{}", name.to_lowercase()));
        assert!(GUIDE.contains(&format!("\n### {name}\n")), "docs/operations.md has no section {name}");
    }
}

/// All strings under a key, however deep.
fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|value| strings(value, key, found));
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_names_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut queries = Vec::new();
    strings(&dashboard, "expr", &mut queries);
    assert!(queries.len() > 20, "{} queries", queries.len());
    // Those of its variables are under this key.
    strings(&dashboard["templating"], "query", &mut queries);
    queries.iter().for_each(|query| check(query));

    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{} is too wide", panel["title"]);
    }
}
