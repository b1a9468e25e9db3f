//! What a benchmark found, and under which conditions.

use std::{fs, time::Duration};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::{
    args::Global,
    print::{self, Column},
    units,
};

/// Latencies from 1 µs to 10 minutes, in microseconds, to three digits.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are sound")
}

/// Microseconds of a time.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What a benchmark found.
pub(super) struct Report {
    /// Its name.
    pub(super) bench: &'static str,
    pub(super) records: u64,
    /// Bytes of values.
    pub(super) bytes: u64,
    /// The measured part of the run.
    pub(super) elapsed: Duration,
    /// In microseconds.
    pub(super) latencies: Histogram<u64>,
    /// What was counted besides, by name.
    pub(super) counts: Vec<(&'static str, Value)>,
    /// Under which conditions.
    pub(super) conditions: Map<String, Value>,
}

impl Report {
    pub(super) fn tell(&self, global: &Global) -> Result<()> {
        let results = self.results();
        if global.is_json() {
            let mut report: Map<String, Value> =
                results.into_iter().map(|(name, value)| (name.into(), value)).collect();
            report.insert("bench".into(), json!(self.bench));
            report.insert("conditions".into(), Value::Object(self.conditions.clone()));
            return print::json(&report);
        }
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows = results.iter().map(|(name, value)| vec![(*name).to_owned(), shown(value)]);
        print::line(&print::table(&[Column::Text(self.bench), Column::Text("")], rows))?;
        let rows = self.conditions.iter().map(|(name, value)| vec![name.clone(), shown(value)]);
        print::line(&format!("\n{}", print::table(&[Column::Text("condition"), Column::Text("")], rows)))
    }

    /// By name, the most wanted first.
    fn results(&self) -> Vec<(&'static str, Value)> {
        let quantile = |quantile: f64| json!(round(milliseconds(self.latencies.value_at_quantile(quantile))));
        let mut results = vec![
            ("records_per_s", json!(round(units::rate(self.records, self.elapsed)))),
            ("mb_per_s", json!(round(units::rate(self.bytes, self.elapsed) / 1e6))),
            ("p50_ms", quantile(0.5)),
            ("p99_ms", quantile(0.99)),
            ("p999_ms", quantile(0.999)),
            ("max_ms", json!(round(milliseconds(self.latencies.max())))),
            ("records", json!(self.records)),
            ("bytes", json!(self.bytes)),
            ("elapsed_s", json!(round(self.elapsed.as_secs_f64()))),
        ];
        results.extend(self.counts.clone());
        results
    }
}

/// What the machine is.
pub(super) fn machine() -> Map<String, Value> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let mut machine = Map::new();
    machine.insert("cores".into(), json!(std::thread::available_parallelism().map_or(0, usize::from)));
    machine.insert("cpu".into(), json!(model.map(|(_, model)| model)));
    machine.insert("kernel".into(), json!(kernel.trim()));
    machine.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    machine.insert("optimised".into(), json!(!cfg!(debug_assertions)));
    machine
}

fn milliseconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1e3
}

/// To three digits behind the point: more would pretend.
fn round(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
