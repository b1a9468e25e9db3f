//! What is measured, from the environment.

use std::{path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use levada_tests::crowd::Kind;

/// Stalled readers come again after this: longer than a node lets them stall.
pub(crate) const STALLED_FOR: Duration = Duration::from_secs(40);

/// The plan.
pub(crate) struct Plan {
    /// The binary.
    pub(crate) levada: PathBuf,
    /// Where data and logs go.
    pub(crate) dir: PathBuf,
    pub(crate) nodes: u64,
    pub(crate) rounds: u32,
    /// The measured part of a phase.
    pub(crate) seconds: u64,
    /// Before it, while everybody is there already.
    pub(crate) warmup_s: u64,
    /// Records of 1 KiB a second of the polite client.
    pub(crate) records_per_s: u64,
    pub(crate) idle_native: usize,
    pub(crate) half_open: usize,
    pub(crate) stalled: usize,
    /// Frames of 60 MiB that do not come: 0 by default, as the goal does not speak of them.
    pub(crate) half_frames: usize,
    /// Whether there is a flood.
    pub(crate) flood: bool,
    /// More of the nodes' configuration, as `KEY=VALUE` separated by spaces.
    pub(crate) settings: Vec<(String, String)>,
}

impl Plan {
    pub(crate) fn from_environment() -> Result<Self> {
        let settings = std::env::var("SETTINGS").unwrap_or_default();
        let settings = settings.split_whitespace().map(|setting| {
            let (key, value) = setting.split_once('=').ok_or_else(|| anyhow!("{setting} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        });
        Ok(Self {
            levada: std::env::var_os("LEVADA").context("LEVADA names the binary")?.into(),
            dir: std::env::var_os("DIR").context("DIR names a directory for data")?.into(),
            nodes: number("NODES", 1)?,
            rounds: number("ROUNDS", 3)?,
            seconds: number("SECONDS_EACH", 20)?,
            warmup_s: number("WARMUP_S", 5)?,
            records_per_s: number("RECORDS_PER_S", 1000)?,
            idle_native: number("IDLE", 10_000)?,
            half_open: number("HALF_OPEN", 1000)?,
            stalled: number("STALLED", 100)?,
            half_frames: number("HALF_FRAMES", 0)?,
            flood: number("FLOOD", 1)? > 0,
            settings: settings.collect::<Result<_>>()?,
        })
    }

    /// Everybody but the idle ones at the native door.
    pub(crate) fn rest(&self) -> [(Kind, usize); 9] {
        [
            (Kind::IdleFlight, self.idle_native / 20),
            (Kind::IdleHttp, self.idle_native / 100),
            (Kind::HalfNative, self.half_open / 2),
            (Kind::HalfFlight, self.half_open * 3 / 10),
            (Kind::HalfHttp, self.half_open / 5),
            (Kind::StalledNative, self.stalled / 2),
            (Kind::StalledFlight, self.stalled / 4),
            (Kind::DeafFlight, self.stalled / 4),
            (Kind::HalfFrame(60 << 20), self.half_frames),
        ]
    }
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str, default: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is no number")),
        Err(_) => Ok(default),
    }
}
