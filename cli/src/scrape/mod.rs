//! What a node says of itself over HTTP: its metrics and its health, asked as a monitoring system asks.

pub(crate) mod http;
pub(crate) mod samples;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use levada_broker::metrics::CLOCK_SECONDS;

use self::samples::Samples;

/// All metrics of a node at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    /// What was counted and measured.
    pub(crate) samples: Samples,
    /// When the answer was there.
    pub(crate) at: Instant,
    /// From the request to the answer.
    pub(crate) took: Duration,
    /// This machine's clock in the middle of it, in seconds since 1970.
    pub(crate) clock_s: f64,
}

impl Scrape {
    /// Asks the node at this HTTP address.
    pub(crate) async fn take(address: &str, within: Duration) -> Result<Self> {
        let (began, wall) = (Instant::now(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
        let answer = http::get(address, "/metrics", within).await?;
        if answer.status != 200 {
            bail!("{address}/metrics answers with {}", answer.status);
        }
        let took = began.elapsed();
        let clock_s = (wall + took / 2).as_secs_f64();
        Ok(Self { samples: Samples::parse(&answer.body), at: Instant::now(), took, clock_s })
    }

    /// By how many seconds the node's clock is ahead of this machine's; off by half of `took` at most, and the
    /// millisecond that it counts in.
    pub(crate) fn clock_ahead_s(&self) -> Option<f64> {
        Some(self.samples.get(CLOCK_SECONDS)? - self.clock_s)
    }
}
