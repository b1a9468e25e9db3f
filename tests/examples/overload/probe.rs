//! What the system says of processes, and nodes of themselves, while a phase runs.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use levada_tests::http;

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// How often a node is asked for its health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Anonymous memory of a process, in bytes: maps of segments do not count.
pub(crate) fn anonymous_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// What a process has had of processors, in seconds.
pub(crate) fn processor_s(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    #[allow(clippy::cast_precision_loss, reason = "it is 100")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(f64::from(ticks) / per_second)
}

/// Looks at nodes until it is stopped.
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    memory: JoinHandle<()>,
    health: JoinHandle<()>,
    seen: Arc<Seen>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The most anonymous memory of any of the nodes.
    pub(crate) anonymous_bytes_max: AtomicU64,
    /// The longest that the question for health took, in milliseconds, and how often there was no good answer.
    pub(crate) health_ms_max: AtomicU64,
    pub(crate) health_failed: AtomicU64,
}

impl Probe {
    /// Looks at these processes, and at the health of the node at this address.
    pub(crate) fn start(pids: Vec<u32>, http: String) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let memory = thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                while !stop.load(Relaxed) {
                    // A node that has ended shows in what its clients say.
                    let most = pids.iter().filter_map(|pid| anonymous_bytes(*pid).ok()).max().unwrap_or(0);
                    seen.anonymous_bytes_max.fetch_max(most, Relaxed);
                    thread::sleep(INTERVAL);
                }
            }
        });
        let health = thread::spawn({
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            move || {
                while !stop.load(Relaxed) {
                    let began = Instant::now();
                    if http::get(&http, "/health/ready").is_err() {
                        seen.health_failed.fetch_add(1, Relaxed);
                    }
                    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    seen.health_ms_max.fetch_max(took, Relaxed);
                    thread::sleep(HEALTH_INTERVAL);
                }
            }
        });
        Self { stop, memory, health, seen }
    }

    /// Stops; what it saw.
    pub(crate) fn stop(self) -> Arc<Seen> {
        self.stop.store(true, Relaxed);
        let _ = (self.memory.join(), self.health.join());
        self.seen
    }
}
