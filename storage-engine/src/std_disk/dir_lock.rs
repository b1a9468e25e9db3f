//! One process per data directory: a lock on the file `lock` in it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// The file that is locked, relative to the data directory.
const LOCK_FILE: &str = "lock";
/// A process id is short; whatever else stands in the file is not read.
const PID_BYTES_MAX: u64 = 20;

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "data directory {} is in use by process {pid} (it holds {}); stop that process or choose another directory",
        .root.display(), .root.join(LOCK_FILE).display()
    )]
    InUse {
        /// The data directory.
        root: PathBuf,
        /// The process, as it wrote itself into the lock file.
        pid: String,
    },
    /// It cannot be made, or not be written to.
    #[error("data directory cannot be opened: {}: {error}", .path.display())]
    Io {
        /// What was opened.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

/// A lock that lasts as long as this value (the kernel frees it when the process ends, however it ends).
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(super) fn acquire(root: &Path) -> Result<Self, LockError> {
        let path = root.join(LOCK_FILE);
        let fail = |error| LockError::Io { path: path.clone(), error };
        make_dir(root).map_err(|error| LockError::Io { path: root.to_owned(), error })?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = (&file).take(PID_BYTES_MAX).read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let pid = if known { pid.trim().to_owned() } else { "(unknown)".to_owned() };
                return Err(LockError::InUse { root: root.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        let write_pid = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        match write_pid(&mut file) {
            // A node starts on a full disk; the number is for people.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            written => written.map_err(fail)?,
        }
        Ok(Self { _file: file })
    }
}

/// Makes a directory with its parents, and its name and those of the parents that it made durable: nothing below it is
/// before.
fn make_dir(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).count();
    fs::create_dir_all(root)?;
    for dir in root.ancestors().take(missing) {
        sync_parent(dir)?;
    }
    // A process that was killed may have made it and no more. Whoever may not look into the parent did not make it.
    match if missing == 0 { sync_parent(root) } else { Ok(()) } {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}
