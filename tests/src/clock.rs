//! Clocks that are wrong: libfaketime from the Debian archive, which shows a process another time of day.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::debian;

/// The time of day of the processes that are started with it. The clock that only measures stays right, as it does when
/// somebody sets a machine's clock.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right, until it is [set](Self::set). Its setting is kept in a file.
    ///
    /// # Errors
    /// libfaketime cannot be had.
    pub fn new(file: &Path) -> Result<Self> {
        let clock = Self { library: Self::fetch()?, file: file.to_owned() };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Has the library there, and says where.
    ///
    /// # Errors
    /// libfaketime cannot be had.
    pub fn fetch() -> Result<PathBuf> {
        let unpacked = debian::unpacked("faketime", &["libfaketime"])?;
        let below = |dir: PathBuf| fs::read_dir(dir).ok().into_iter().flatten().flatten().map(|entry| entry.path());
        let libraries = below(unpacked.join("usr/lib")).map(|of| of.join("faketime/libfaketimeMT.so.1"));
        let library = libraries.into_iter().find(|library| library.is_file());
        library.context("the package holds no libfaketimeMT.so.1")
    }

    /// The environment of a process that goes by it.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![
            pair("LD_PRELOAD", &self.library.to_string_lossy()),
            pair("FAKETIME_TIMESTAMP_FILE", &self.file.to_string_lossy()),
            pair("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            pair("DONT_FAKE_MONOTONIC", "1"),
            // How long it takes until all see that it was set, in seconds.
            pair("FAKETIME_CACHE_DURATION", "1"),
        ]
    }

    /// Sets it: `+1h`, `-1h`, `+0`, as faketime takes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, offset: &str) -> Result<()> {
        fs::write(&self.file, format!("{offset}\n")).with_context(|| format!("cannot set {}", self.file.display()))
    }

    /// By how much a process's clock is ahead, as its metrics tell it.
    ///
    /// # Errors
    /// It does not tell.
    pub fn ahead(http: &str) -> Result<f64> {
        let theirs = crate::http::metric(http, "levada_clock_seconds")?;
        let ours = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64();
        Ok(theirs - ours)
    }

    /// Waits until a process's clock is ahead by about this: the fault must bite before anything is proven by it.
    ///
    /// # Errors
    /// It is not within ten seconds.
    pub fn bites(http: &str, seconds: f64) -> Result<()> {
        for _ in 0..100 {
            if Self::ahead(http).is_ok_and(|ahead| (ahead - seconds).abs() < 5.0) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let ahead = Self::ahead(http)?;
        ensure!(false, "the clock of {http} is ahead by {ahead} s, not by {seconds} s");
        Ok(())
    }
}
