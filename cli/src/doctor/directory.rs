//! The directories of a node: whether it can be used, what is free, and whether its disk syncs as honestly as can be seen.
//!
//! That a disk keeps what it said it has cannot be shown without cutting its power. But much that is not honest is quicker
//! than any disk can be, or says so where the kernel keeps its notes: memory file systems, barriers that are switched off,
//! a library that swallows syncs.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use rustix::fs::OFlags;

use super::{Finding, configuration::Configuration};
use crate::{
    disk::{self, Writes},
    units,
};

/// A small acknowledgement's worth: one block of the journal.
const BLOCK_BYTES: usize = 4096;
/// No disk has a block on something that lasts any sooner: the quickest take twice that, with the way there and back.
const SYNC_MIN: Duration = Duration::from_micros(10);
/// A node works with this, but nobody will call it quick.
const SYNC_SLOW: Duration = Duration::from_millis(20);

pub(super) async fn check(configuration: &Configuration) -> Vec<Finding> {
    let mut findings = check_data_dir(configuration).await;
    let config = &configuration.config;
    for (at, directory) in config.segment.dirs.iter().enumerate() {
        let others = std::iter::once(&config.data_dir).chain(config.segment.dirs.iter().take(at));
        findings.extend(check_segment_dir(directory, others).await);
    }
    findings
}

/// A directory that only takes segments. It may fail, and a node starts without it; but it should not.
async fn check_segment_dir(wanted: &Path, mut others: impl Iterator<Item = &PathBuf>) -> Vec<Finding> {
    const CHECK: &str = "segment.dirs";
    let (directory, finding) = match place(CHECK, wanted) {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let device = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    let on = |path: &Path| place(CHECK, path).ok().and_then(|(directory, _)| device(&directory));
    let finding = match others.find(|other| on(other) == device(&directory)) {
        Some(other) => {
            let saw = format!("{}; it is on the file system of {}", finding.saw, other.display());
            let todo = "mount a disk of its own there: like this it makes neither more space nor less damage";
            Finding::warning(CHECK, saw, todo)
        }
        None => finding,
    };
    let name = |finding: Finding| Finding { saw: format!("{}: {}", wanted.display(), finding.saw), ..finding };
    vec![finding, name(space(&directory, 0)), name(syncs(directory).await)]
}

async fn check_data_dir(configuration: &Configuration) -> Vec<Finding> {
    if !configuration.names_directory {
        let todo = "name it with --data-dir, or the node's file with --config";
        return vec![Finding::skipped("data-dir", "no data directory was given", todo)];
    }
    let wanted = configuration.config.data_dir.clone();
    let (directory, mut findings) = match place("data-dir", &wanted) {
        Ok((directory, finding)) => (directory, vec![finding]),
        Err(finding) => return vec![finding],
    };
    let config = &configuration.config;
    findings.push(space(&directory, config.journal.files_keep.saturating_mul(config.journal.file_bytes)));
    if config.disk.direct {
        findings.push(direct(&directory));
    }
    findings.push(syncs(directory).await);
    findings
}

async fn syncs(directory: PathBuf) -> Finding {
    let mount = fs::read_to_string("/proc/self/mountinfo").ok().and_then(|table| Mount::find(&table, &directory));
    let measured = tokio::task::spawn_blocking(move || Times::measure(&directory)).await;
    match measured {
        Ok(Ok(times)) => sync(&times, mount.as_ref(), &std::env::var("LD_PRELOAD").unwrap_or_default()),
        Ok(Err(error)) => Finding::wrong(
            "disk.sync",
            format!("{error:#}"),
            "give the directory to the user that runs the node (chown), on a file system that is mounted to be written",
        ),
        Err(error) => Finding::skipped("disk.sync", error.to_string(), "run it again"),
    }
}

/// Where to look: the directory, or, if it is not there, where it would be made.
fn place(check: &'static str, wanted: &Path) -> Result<(PathBuf, Finding), Finding> {
    let above = wanted.ancestors().find(|path| path.as_os_str().is_empty() || path.exists()).unwrap_or(wanted);
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let found = above.canonicalize().ok().filter(|path| path.is_dir());
    let Some(found) = found else {
        let todo = "name a directory";
        return Err(Finding::wrong(check, format!("{} is no directory", above.display()), todo));
    };
    if above != wanted {
        let saw = format!("{} is not there yet; looking at {}", wanted.display(), found.display());
        return Ok((found, Finding::ok(check, saw)));
    }
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = fs::metadata(found.join("lock")).ok().and_then(|lock| holder(&locks, &lock).map(str::to_owned));
    let saw = match held {
        Some(pid) => format!("{} is in use by process {}, a running node", found.display(), pid),
        None => format!("{} is there, and no node is seen on it", found.display()),
    };
    Ok((found, Finding::ok(check, saw)))
}

/// The process that holds a file locked, as `/proc/locks` has it. Not asked for by locking: a node that starts in that
/// moment would not get it.
fn holder<'a>(locks: &'a str, file: &fs::Metadata) -> Option<&'a str> {
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let name = format!("{major:02x}:{minor:02x}:{}", file.ino());
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "WRITE").skip(1);
        let (pid, locked) = (words.next()?, words.next()?);
        (locked == name).then_some(pid)
    })
}

/// What is free, and whether the journal, which is written in full once, fits in.
fn space(directory: &Path, journal_bytes: u64) -> Finding {
    match rustix::fs::statvfs(directory) {
        Ok(space) => {
            let journal_bytes = if directory.join("journal").exists() { 0 } else { journal_bytes };
            judge_space(space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize, journal_bytes)
        }
        Err(error) => Finding::skipped("disk.space", error.to_string(), "look with df"),
    }
}

fn judge_space(free: u64, total: u64, journal_bytes: u64) -> Finding {
    let saw = format!("{} of {} are free", units::size(free), units::size(total));
    let todo = "free or add space: a node without it takes no records (`docs/operations.md`, LevadaDiskFull)";
    match free {
        // As the alerts have it.
        _ if free < journal_bytes || free < total / 20 => Finding::wrong("disk.space", saw, todo),
        _ if free < total / 100 * 15 => Finding::warning("disk.space", saw, todo),
        _ => Finding::ok("disk.space", saw),
    }
}

/// Whether files can be written around the page cache there.
fn direct(directory: &Path) -> Finding {
    const CHECK: &str = "disk.direct";
    let path = directory.join(format!(".levada-direct-{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).custom_flags(i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0));
    let opened = options.open(&path);
    // Some file systems make the file before they refuse.
    let _ = fs::remove_file(&path);
    match opened {
        Ok(_) => Finding::ok(CHECK, "files can be written around the page cache"),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Finding::warning(
            CHECK,
            "this file system writes through the page cache only",
            "a node works, with longer pauses under load: better another file system (ext4, XFS)",
        ),
        Err(error) => Finding::skipped(CHECK, error.to_string(), "see disk.sync"),
    }
}

/// How long small writes take.
struct Times {
    synced: Duration,
    synced_p99: Duration,
    plain: Duration,
}

impl Times {
    fn measure(directory: &Path) -> Result<Self> {
        let plain = disk::measure(directory, 1, BLOCK_BYTES, Writes::Plain)?;
        let synced = disk::measure(directory, 1, BLOCK_BYTES, Writes::Synced)?;
        Ok(Self {
            synced: synced.median().unwrap_or_default(),
            synced_p99: synced.p99().unwrap_or_default(),
            plain: plain.median().unwrap_or_default(),
        })
    }
}

/// What the kernel says of where a directory is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mount {
    kind: String,
    source: String,
    options: Vec<String>,
    /// `write back` or `write through`, as the kernel takes the disk to be.
    cache: Option<String>,
    is_rotating: bool,
}

impl Mount {
    fn find(table: &str, directory: &Path) -> Option<Self> {
        let device = fs::metadata(directory).ok()?.dev();
        let mut mount = Self::parse(table, directory)?;
        // A partition has its disk's queue above it.
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let read = |name: &str| {
            let queues = [block.join("queue"), block.join("../queue")];
            queues.iter().find_map(|queue| fs::read_to_string(queue.join(name)).ok())
        };
        mount.cache = read("write_cache").map(|cache| cache.trim().to_owned());
        mount.is_rotating = read("rotational").is_some_and(|rotational| rotational.trim() == "1");
        Some(mount)
    }

    /// The mount that a directory is in, of `/proc/self/mountinfo`: the deepest, and of those the last.
    fn parse(table: &str, directory: &Path) -> Option<Self> {
        let mounts = table.lines().filter_map(|line| {
            let (place, rest) = line.split_once(" - ")?;
            let mut place = place.split(' ').skip(4);
            let (point, options) = (place.next()?.replace("\\040", " "), place.next()?);
            let mut rest = rest.split(' ');
            let (kind, source, more) = (rest.next()?, rest.next()?, rest.next().unwrap_or_default());
            let depth = Path::new(&point).components().count();
            let options = options.split(',').chain(more.split(',')).map(str::to_owned).collect();
            let mount = Self { kind: kind.to_owned(), source: source.to_owned(), options, ..Self::default() };
            directory.starts_with(&point).then_some((depth, mount))
        });
        mounts.max_by_key(|(depth, _)| *depth).map(|(_, mount)| mount)
    }
}

fn sync(times: &Times, mount: Option<&Mount>, preloaded: &str) -> Finding {
    const CHECK: &str = "disk.sync";
    let known = mount.cloned().unwrap_or_default();
    let place = mount.map_or_else(String::new, |mount| {
        let cache = mount.cache.as_ref().map(|cache| format!(", the kernel calls its cache {cache}"));
        format!(" ({} on {}{})", mount.kind, mount.source, cache.unwrap_or_default())
    });
    let saw = format!(
        "4 KiB written and synced in {} (p99 {}), written only in {}{place}",
        micros(times.synced),
        micros(times.synced_p99),
        micros(times.plain)
    );
    let wrong = |why: &str, todo: &str| Finding::wrong(CHECK, format!("{saw}: {why}"), todo);
    if ["tmpfs", "ramfs", "devtmpfs"].contains(&known.kind.as_str()) {
        return wrong("this is memory, and gone with the machine", "put the data directory on a disk");
    }
    if preloaded.contains("eatmydata") {
        return wrong("libeatmydata swallows syncs", "start the node without LD_PRELOAD");
    }
    if let Some(off) = known.options.iter().find(|option| ["nobarrier", "barrier=0"].contains(&option.as_str())) {
        let why = format!("mounted with {off}, a sync does not reach the disk");
        return wrong(&why, "mount it without that option, or a power cut takes what was acknowledged");
    }
    if times.synced < SYNC_MIN {
        return wrong(
            "no disk is that quick, so something says \"done\" before it is",
            "find what keeps syncs from the disk (a cache of the host, a driver's option) and switch it off",
        );
    }
    if ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph"].contains(&known.kind.as_str()) || known.kind.starts_with("fuse") {
        let todo = "use a local disk: replicas on three machines are safer than one shared server";
        return Finding::warning(CHECK, format!("{saw}: locks and syncs are as good as the server"), todo);
    }
    if known.kind == "overlay" {
        let todo = "mount a volume there: this layer goes with the container";
        return Finding::warning(CHECK, format!("{saw}: the layer of a container"), todo);
    }
    if times.synced > SYNC_SLOW {
        let todo = "use a quicker disk, or one that others leave alone: every acknowledgement waits for a sync";
        return Finding::warning(CHECK, format!("{saw}: slow"), todo);
    }
    let honesty = if known.is_rotating && times.synced < Duration::from_millis(2) {
        "; quicker than a disk turns, so a cache in between (of a controller, of a host) must survive a power cut"
    } else {
        "; whether it outlives a power cut can only be seen by cutting it"
    };
    Finding::ok(CHECK, format!("{saw}{honesty}"))
}

fn micros(time: Duration) -> String {
    if time < Duration::from_millis(1) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,nobarrier
30 27 0:30 / /srv/a\\040b rw - xfs /dev/sdb1 rw,attr2
31 27 0:31 / /srv rw - tmpfs tmpfs rw
";

    fn times(synced_us: u64) -> Times {
        let synced = Duration::from_micros(synced_us);
        Times { synced, synced_p99: synced * 2, plain: Duration::from_micros(1) }
    }

    #[test]
    fn a_directory_is_in_the_deepest_mount() {
        let kind = |path: &str| Mount::parse(TABLE, Path::new(path)).unwrap().kind;
        assert_eq!(
            [kind("/var/lib"), kind("/srv/a b/c"), kind("/srv/x"), kind("/srvx")],
            ["ext4", "xfs", "tmpfs", "ext4"]
        );
    }

    #[test]
    fn what_cannot_be_honest_is_wrong() {
        let mount = |path: &str| Mount::parse(TABLE, Path::new(path));
        let judged = |time, path, preloaded| sync(&times(time), mount(path).as_ref(), preloaded);
        assert_eq!(judged(300, "/srv/a b", "").state, State::Ok);
        for (time, path, preloaded, says) in [
            (300, "/srv", "", "memory"),
            (300, "/", "", "nobarrier"),
            (300, "/srv/a b", "/usr/lib/libeatmydata.so", "swallows"),
            (3, "/srv/a b", "", "no disk is that quick"),
        ] {
            let finding = judged(time, path, preloaded);
            assert!(finding.state == State::Wrong && finding.saw.contains(says), "{finding:?}");
            assert!(!finding.todo.is_empty());
        }
        assert_eq!(judged(40_000, "/srv/a b", "").state, State::Warning);
        let rotating = Mount { is_rotating: true, ..mount("/srv/a b").unwrap() };
        assert!(sync(&times(300), Some(&rotating), "").saw.contains("quicker than a disk turns"));
        assert_eq!(sync(&times(300), None, "").state, State::Ok);
    }

    #[test]
    fn space_is_judged_as_the_alerts_do() {
        let state = |free, journal| judge_space(free, 1000, journal).state;
        assert_eq!([state(500, 0), state(100, 0), state(49, 0)], [State::Ok, State::Warning, State::Wrong]);
        assert_eq!(state(500, 600), State::Wrong, "a new journal does not fit");
    }

    #[test]
    fn who_holds_a_file_is_seen_without_asking_for_it() {
        let file = fs::metadata("/proc/self/exe").unwrap();
        let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        let name = format!("{major:02x}:{minor:02x}:{}", file.ino());
        let other = format!("{major:02x}:{minor:02x}:1{}", file.ino());
        let locks = format!("1: POSIX  ADVISORY  WRITE 1 {other} 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 {name} 0 EOF\n");
        assert_eq!(holder(&locks, &file), Some("4711"));
        assert_eq!(holder("1: FLOCK  ADVISORY  WRITE 1 00:00:0 0 EOF\n", &file), None);
    }

    #[test]
    fn a_directory_that_is_not_there_is_looked_for_above() {
        let base = std::env::temp_dir().canonicalize().unwrap();
        let (found, finding) = place("data-dir", &base.join("levada-doctor/none/such")).unwrap();
        assert!(found == base && finding.saw.contains("not there yet"), "{finding:?}");
        let error = place("data-dir", Path::new("/proc/version/x")).unwrap_err();
        assert!(error.state == State::Wrong && error.saw.contains("/proc/version"), "{error:?}");
    }
}
