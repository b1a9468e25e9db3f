//! What a disk can do: small writes, each with its fdatasync or without.
//!
//! The floor below every acknowledgement. A benchmark measures it before and after its load, in the same run, as disks of
//! virtual machines change from one minute to the next.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

const ROUNDS: usize = 200;
const TIME_MAX: Duration = Duration::from_secs(2);
/// As long as a write of its own block takes part in none of its neighbours'.
const STEP_BYTES_MIN: usize = 4096;

/// Whether writes wait until the disk has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// They do, with fdatasync.
    Synced,
    /// They do not.
    Plain,
}

/// Times of single writes, in the order of their length.
#[derive(Debug, Default)]
pub(crate) struct DiskTimes(Vec<Duration>);

impl DiskTimes {
    pub(crate) fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self.0.sort_unstable();
        self
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        self.0.get(self.0.len() / 2).copied()
    }

    /// The longest of a hundred, about.
    pub(crate) fn p99(&self) -> Option<Duration> {
        self.0.get(self.0.len().saturating_sub(1) * 99 / 100).copied()
    }
}

/// Writes `bytes` at a time from `threads` threads at once, each into a file of its own in `directory`.
pub(crate) fn measure(directory: &Path, threads: usize, bytes: usize, writes: Writes) -> Result<DiskTimes> {
    let workers: Vec<_> = (0..threads.max(1))
        .map(|number| {
            let path = directory.join(format!(".levada-disk-{}-{number}", std::process::id()));
            std::thread::spawn(move || {
                let file = Scratch::make(path)?;
                let times = one(&file.file, bytes, writes);
                times.with_context(|| format!("cannot measure the disk with {}", file.path.display()))
            })
        })
        .collect();
    let mut all = DiskTimes::default();
    for worker in workers {
        let times = worker.join().map_err(|_| anyhow::anyhow!("a thread that measures the disk failed"))??;
        all = all.join(DiskTimes(times));
    }
    Ok(all)
}

fn one(file: &File, bytes: usize, writes: Writes) -> Result<Vec<Duration>> {
    let buffer = vec![0xA5; bytes.max(1)];
    let step = u64::try_from(bytes.next_multiple_of(STEP_BYTES_MIN))?;
    // Written before, as a recycled journal file is: the sync below has no new blocks to find.
    for round in 0..ROUNDS as u64 {
        file.write_all_at(&vec![0; usize::try_from(step)?], round * step)?;
    }
    file.sync_all()?;
    let began = Instant::now();
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS as u64 {
        let write_began = Instant::now();
        file.write_all_at(&buffer, round * step)?;
        if writes == Writes::Synced {
            file.sync_data()?;
        }
        times.push(write_began.elapsed());
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(times)
}

/// A file that goes with this.
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    fn make(path: PathBuf) -> Result<Self> {
        let file = File::create(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { file, path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is a small file with a telling name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_measured_and_left_clean() {
        let directory = std::env::temp_dir().join(format!("levada-disk-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let times = measure(&directory, 2, 1024, Writes::Synced).unwrap();
        assert!(times.median().is_some_and(|median| median > Duration::ZERO));
        assert!(times.p99() >= times.median());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir_all(&directory).unwrap();
        assert!(measure(&directory, 1, 1024, Writes::Plain).is_err());
    }
}
