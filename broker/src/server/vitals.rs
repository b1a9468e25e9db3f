//! What the process and its disk have left: gauges that the system is asked for now and then.
//!
//! Asked on a thread that may wait, as a file system that hangs answers nothing. What the system does not say is left as
//! it was.
#![allow(clippy::cast_precision_loss, reason = "gauges are floating point; a byte of 8 PiB does not matter")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use metrics::gauge;
use rustix::process::{Resource, getrlimit};
use tokio::{task::spawn_blocking, time::sleep};

use crate::metrics as names;

/// How often: counting the descriptors of a busy node takes milliseconds.
const INTERVAL: Duration = Duration::from_secs(5);

/// Sets the gauges, for ever. `started_ms` is when the process began, since 1970.
///
/// `segment_dirs` are the other directories, and whether each is used.
pub(super) async fn watch(data_dir: PathBuf, segment_dirs: BTreeMap<PathBuf, bool>, started_ms: i64) {
    gauge!(names::PROCESS_START_SECONDS.name).set(started_ms as f64 / 1e3);
    for (directory, is_used) in &segment_dirs {
        gauge!(names::SEGMENT_DIR_UP.name, "directory" => name(directory)).set(f64::from(u8::from(*is_used)));
    }
    let used: Vec<PathBuf> = segment_dirs.into_iter().filter(|(_, is_used)| *is_used).map(|(dir, _)| dir).collect();
    loop {
        let (directory, used) = (data_dir.clone(), used.clone());
        let looks = move || {
            set(&directory);
            used.iter().for_each(|directory| set_segment_dir(directory));
        };
        if spawn_blocking(looks).await.is_err() {
            tracing::error!("vitals.failed");
            return;
        }
        sleep(INTERVAL).await;
    }
}

fn name(directory: &Path) -> String {
    directory.display().to_string()
}

/// What a file system has free and in all, in bytes.
fn space(directory: &Path) -> Option<(f64, f64)> {
    let space = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks as f64 * space.f_frsize as f64;
    Some((bytes(space.f_bavail), bytes(space.f_blocks)))
}

fn set_segment_dir(directory: &Path) {
    if let Some((free, total)) = space(directory) {
        gauge!(names::SEGMENT_DIR_FREE_BYTES.name, "directory" => name(directory)).set(free);
        gauge!(names::SEGMENT_DIR_TOTAL_BYTES.name, "directory" => name(directory)).set(total);
    }
}

fn set(data_dir: &Path) {
    if let Some((free, total)) = space(data_dir) {
        gauge!(names::DISK_FREE_BYTES.name).set(free);
        gauge!(names::DISK_TOTAL_BYTES.name).set(total);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(anonymous_bytes) {
        gauge!(names::PROCESS_ANONYMOUS_BYTES.name).set(bytes as f64);
    }
    if let Ok(open) = open_files() {
        gauge!(names::PROCESS_OPEN_FILES.name).set(open as f64);
    }
    // Without a limit there is none to come near to.
    let limit = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |limit| limit as f64);
    gauge!(names::PROCESS_OPEN_FILES_MAX.name).set(limit);
}

/// `RssAnon` of `/proc/PID/status`.
fn anonymous_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Open descriptors of this process, but for the one that lists them.
fn open_files() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_there_is() {
        assert_eq!(anonymous_bytes("VmRSS:\t 9 kB\nRssAnon:\t    1234 kB\nRssFile:\t 0 kB\n"), Some(1234 << 10));
        assert_eq!(anonymous_bytes("VmRSS:\t 9 kB\n"), None);
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(anonymous_bytes(&own).is_some_and(|bytes| bytes > 1 << 16));
        let before = open_files().unwrap();
        let files: Vec<_> = (0..64).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(open_files().unwrap() >= files.len().max(before.saturating_sub(32)), "64 more are open");
    }
}
