//! The phases, and the report.

use std::{
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use levada_tests::{
    crowd::{Crowd, Target},
    http,
    nodes::Nodes,
};
use serde_json::{Value, json};

use super::{
    burner::Burner,
    plan::Plan,
    probe::{Probe, processor_s},
    told,
};

/// The flood is there before the polite client, and goes after it.
const AROUND: Duration = Duration::from_secs(3);
/// What the bench measures of the disk before and after, and what else it needs.
const BESIDES_S: u64 = 6;

/// Who is there besides the polite client.
#[derive(Clone, Copy)]
pub(crate) enum Phase<'c> {
    /// Nobody.
    Alone,
    /// A crowd, and a flood.
    Overload(&'c Crowd),
    /// A burner that takes so many cores.
    Baseline(f64),
}

/// What a phase gave.
pub(crate) struct Measured {
    /// What the polite client said; its words if it failed.
    polite: Result<Value, String>,
    flood: Option<Value>,
    crowd: Option<Value>,
    /// Cores that the flood's process, the nodes, this process (crowd and burner) took on average.
    pub(crate) flood_cores: f64,
    pub(crate) node_cores: f64,
    own_cores: f64,
    anonymous_bytes_max: u64,
    health_ms_max: u64,
    health_failed: u64,
}

/// Where it all happens.
pub(crate) struct Stage<'p> {
    plan: &'p Plan,
    bootstrap: String,
    pids: Vec<u32>,
    http: String,
}

impl<'p> Stage<'p> {
    pub(crate) fn new(plan: &'p Plan, nodes: &Nodes, target: &Target) -> Result<Self> {
        let pids = nodes.ids().into_iter().map(|id| nodes.process(id)).collect::<Result<_>>()?;
        Ok(Self { plan, bootstrap: nodes.bootstrap(), pids, http: target.http.clone() })
    }

    /// Runs a phase.
    pub(crate) async fn phase(&self, phase: Phase<'_>) -> Result<Measured> {
        let (bootstrap, plan) = (&self.bootstrap, self.plan);
        let flood = match phase {
            Phase::Overload(_) if plan.flood => Some(self.bench(&self.flood_arguments())?),
            _ => None,
        };
        let burner = match phase {
            Phase::Baseline(cores) => Some(Burner::start(cores)),
            _ => None,
        };
        tokio::time::sleep(AROUND).await;
        let probe = Probe::start(self.pids.clone(), self.http.clone());
        let flood_pid = flood.as_ref().map(Child::id);
        let before = self.processors(flood_pid)?;
        let began = Instant::now();
        let polite = self.bench(&self.polite_arguments())?;
        let polite = tokio::task::spawn_blocking(move || answer(polite)).await?;
        let seconds = began.elapsed().as_secs_f64();
        let after = self.processors(flood_pid)?;
        let seen = probe.stop();
        let crowd = match phase {
            Phase::Overload(crowd) => Some(told(crowd)),
            _ => None,
        };
        drop(burner);
        let flood = match flood {
            Some(flood) => Some(tokio::task::spawn_blocking(move || answer(flood)).await?),
            None => None,
        };
        let [flood_cores, node_cores, own_cores] =
            std::array::from_fn(|which| (after[which] - before[which]) / seconds);
        if let Err(error) = &polite {
            eprintln!("the polite client at {bootstrap} failed: {error:#}");
        }
        Ok(Measured {
            polite: polite.map_err(|error| format!("{error:#}")),
            flood: flood.map(|flood| flood.unwrap_or_else(|error| json!(format!("{error:#}")))),
            crowd,
            flood_cores,
            node_cores,
            own_cores,
            anonymous_bytes_max: seen.anonymous_bytes_max.load(Relaxed),
            health_ms_max: seen.health_ms_max.load(Relaxed),
            health_failed: seen.health_failed.load(Relaxed),
        })
    }

    fn polite_arguments(&self) -> Vec<String> {
        let Plan { records_per_s, seconds, warmup_s, .. } = self.plan;
        format!("e2e --partitions 4 --records-per-s {records_per_s} --duration {seconds}s --warmup {warmup_s}s")
            .split(' ')
            .map(str::to_owned)
            .collect()
    }

    fn flood_arguments(&self) -> Vec<String> {
        let seconds = self.plan.seconds + self.plan.warmup_s + 2 * AROUND.as_secs() + BESIDES_S;
        format!("produce --partitions 16 --duration {seconds}s --warmup 0s").split(' ').map(str::to_owned).collect()
    }

    fn bench(&self, arguments: &[String]) -> Result<Child> {
        let mut command = Command::new(&self.plan.levada);
        command.args(["--output", "json", "--timeout", "120s", "bench"]).args(arguments);
        command.arg("--disk-dir").arg(&self.plan.dir).env("LEVADA_BOOTSTRAP", &self.bootstrap);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("levada bench does not start")
    }

    /// What flood, nodes and this process have had of processors.
    fn processors(&self, flood: Option<u32>) -> Result<[f64; 3]> {
        let nodes = self.pids.iter().map(|pid| processor_s(*pid)).sum::<Result<f64>>();
        let nodes = nodes.context("a node has ended")?;
        // One that has ended already has said why.
        let flood = flood.and_then(|pid| processor_s(pid).ok()).unwrap_or(0.0);
        Ok([flood, nodes, processor_s(std::process::id())?])
    }

    /// Everything, as one line of JSON.
    pub(crate) fn report(&self, alone: &Measured, rounds: &[(Measured, Measured)]) -> Result<Value> {
        let metrics = http::get(&self.http, "/metrics").unwrap_or_default();
        let metric = |name: &str| {
            let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(series, _)| *series == name).and_then(|(_, value)| value.parse::<f64>().ok())
        };
        let all = || rounds.iter().flat_map(|(overload, baseline)| [overload, baseline]).chain([alone]);
        let most = all().map(|measured| measured.anonymous_bytes_max).max().unwrap_or(0);
        let over = |name: &str| median(rounds.iter().map(|(overload, _)| overload.figure(name)));
        let base = |name: &str| median(rounds.iter().map(|(_, baseline)| baseline.figure(name)));
        let plan = self.plan;
        let crowds: Vec<String> = metrics
            .lines()
            .filter(|line| line.starts_with("levada_") && line.contains("onnections"))
            .map(str::to_owned)
            .collect();
        Ok(json!({
            "bench": "overload", "nodes": plan.nodes, "rounds": plan.rounds, "seconds": plan.seconds,
            "cores": std::thread::available_parallelism()?.get(), "records_per_s": plan.records_per_s,
            "idle_native": plan.idle_native, "half_open": plan.half_open, "stalled": plan.stalled,
            "half_frames": plan.half_frames,
            "p50_ms": {"baseline": base("p50_ms"), "overload": over("p50_ms")},
            "p99_ms": {"baseline": base("p99_ms"), "overload": over("p99_ms")},
            "p99_times_baseline": ratio(over("p99_ms"), base("p99_ms")),
            "p99_times_baseline_each": rounds.iter().map(|(overload, baseline)| {
                ratio(overload.figure("p99_ms"), baseline.figure("p99_ms"))
            }).collect::<Vec<_>>(),
            "anonymous_mb_max": most >> 20,
            "memory_budget_mb": metric("levada_memory_budget_bytes").map(|bytes| (bytes / 1_048_576.0).round()),
            "connections": crowds,
            "alone": alone.told(),
            "each": rounds.iter().map(|(overload, baseline)| json!({
                "overload": overload.told(), "baseline": baseline.told(),
            })).collect::<Vec<_>>(),
        }))
    }
}

impl Measured {
    fn figure(&self, name: &str) -> Option<f64> {
        self.polite.as_ref().ok()?.get(name)?.as_f64()
    }

    fn told(&self) -> Value {
        let figures = ["p50_ms", "p99_ms", "p999_ms", "max_ms"].map(|name| (name, self.figure(name)));
        json!({
            "polite": figures.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "failed": self.polite.as_ref().err(),
            "flood_mb_per_s": self.flood.as_ref().map(|flood| flood.get("mb_per_s").unwrap_or(flood)),
            "crowd": self.crowd,
            "cores": {"flood": hundredths(self.flood_cores), "nodes": hundredths(self.node_cores),
                      "crowd_or_burner": hundredths(self.own_cores)},
            "anonymous_mb_max": self.anonymous_bytes_max >> 20,
            "health_ms_max": self.health_ms_max, "health_failed": self.health_failed,
        })
    }
}

fn answer(child: Child) -> Result<Value> {
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A phase that failed has no figures, and the median is of those that have.
fn median(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.flatten().collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn ratio(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(hundredths(a? / b?))
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
