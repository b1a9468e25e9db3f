//! The real disk: a data directory on a Linux file system.
//!
//! Durable means: the file was synced ([`DiskOp::Sync`], `fdatasync`) and so was its directory ([`DiskOp::SyncDir`]).
//! Nothing here retries a failed sync: the kernel marks the pages clean when it reports the error, so a second try
//! would succeed without the data. A failure of space (`StorageFull`) leaves the file as it was, as far as lengths go.
//!
//! What fills whole pages is written around the page cache (`direct`). One process owns a data directory, by a lock
//! (`dir_lock`). Descriptors (`descriptors`) and maps (`mmap`) are cached within one bound, however many partitions
//! there are.

mod descriptors;
mod dir_lock;
mod direct;

use std::{
    fs::{self, File},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use rustix::fs::FallocateFlags;

pub use self::dir_lock::LockError;
use self::{
    descriptors::{Descriptors, Handle},
    dir_lock::DirLock,
    direct::Direct,
};
pub use crate::mmap::report_faults;
use crate::{
    disk::{Disk, DiskError, DiskOp, DiskSpace, FileName},
    mmap,
};

/// The most buffers of one `pwritev` (Linux's `IOV_MAX`).
const IOV_MAX: usize = 1024;
/// Zeros are written in pieces of this size, each waited for: a long burst of dirty pages would stall the journal.
const ZERO_PIECE: &[u8] = &[0; 1024 * 1024];

/// The bound of the cache of a [`StdDisk`].
#[derive(Clone, Copy, Debug)]
pub struct StdDiskConfig {
    /// The most files that are kept open, each with at most one map (`vm.max_map_count` bounds all maps of the process).
    pub open_files_max: usize,
    /// Whether whole pages are written around the page cache, where the file system lets it.
    pub direct: bool,
}

impl Default for StdDiskConfig {
    fn default() -> Self {
        Self { open_files_max: 512, direct: true }
    }
}

/// A data directory on a real disk.
#[derive(Debug)]
pub struct StdDisk {
    root: PathBuf,
    descriptors: Descriptors,
    direct: Direct,
    _lock: DirLock,
}

impl StdDisk {
    /// Opens a data directory, making it if it is not there, and locks it until this value is dropped.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn open(root: impl Into<PathBuf>, config: StdDiskConfig) -> Result<Self, LockError> {
        let root = root.into();
        let lock = DirLock::acquire(&root)?;
        let descriptors = Descriptors::open(&root, open_files_max(config.open_files_max))
            .map_err(|error| LockError::Io { path: root.clone(), error })?;
        Ok(Self { root, descriptors, direct: Direct::new(config.direct), _lock: lock })
    }

    /// The data directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, file: &FileName) -> PathBuf {
        self.root.join(file.as_str())
    }

    /// What failed, with the whole path: a machine may have several data directories.
    fn error(&self, call: &'static str, subject: &str, error: &io::Error) -> DiskError {
        DiskError::new(call, self.root.join(subject).display(), error)
    }

    /// Performs a change of one file through its descriptor and remembers that it is not synced.
    fn change(&self, file: &FileName, change: impl FnOnce(&Handle) -> io::Result<()>) -> io::Result<()> {
        let handle = self.descriptors.get(file)?;
        let result = change(&handle);
        self.descriptors.mark_dirty(file, handle);
        result
    }

    /// Makes the file `len` zeros, each of them written. It grows with them, so that a file of the wanted length is whole.
    fn write_zeros(&self, name: &FileName, handle: &Handle, len: u64) -> io::Result<()> {
        let file = &handle.file;
        file.set_len(0)?;
        // Reserves first: a full disk then fails before a byte is written.
        reserve(file, len)?;
        if self.direct.write_zeros(handle, &self.path(name), len)? {
            return Ok(());
        }
        let mut pos = 0;
        while pos < len {
            let piece = ZERO_PIECE.len().min(usize::try_from(len - pos).unwrap_or(usize::MAX));
            file.write_all_at(&ZERO_PIECE[..piece], pos)?;
            mmap::finish_writeback(file, pos, piece as u64)?;
            pos += piece as u64;
        }
        Ok(())
    }

    fn try_perform(&self, op: &DiskOp) -> io::Result<()> {
        match op {
            DiskOp::CreateDir { dir } => fs::create_dir_all(self.root.join(dir)),
            DiskOp::Create { file } => self.descriptors.create(file),
            DiskOp::ZeroFill { file, len } => self.change(file, |handle| {
                handle.map.forget();
                self.write_zeros(file, handle, *len)
            }),
            DiskOp::Preallocate { file, len } => self.change(file, |handle| match reserve(&handle.file, *len) {
                // Less than that may be enough: the write decides.
                Err(error) if is_lack_of_space(error.kind()) => Ok(()),
                other => other,
            }),
            DiskOp::Write { file, pos, bufs } => {
                self.change(file, |handle| self.direct.write(handle, &self.path(file), *pos, bufs))
            }
            DiskOp::Writeback { file, pos, len } => {
                mmap::start_writeback(&self.descriptors.get(file)?.file, *pos, *len)
            }
            DiskOp::Sync { file } => self.descriptors.sync(file),
            DiskOp::SyncAll => self.descriptors.sync_all(),
            DiskOp::Truncate { file, len } => self.change(file, |handle| {
                handle.map.forget();
                handle.file.set_len(*len)
            }),
            DiskOp::Rename { from, to } => {
                fs::rename(self.path(from), self.path(to))?;
                self.descriptors.rename(from, to);
                Ok(())
            }
            DiskOp::Remove { file } => {
                let removed = fs::remove_file(self.path(file));
                self.descriptors.forget(file);
                match removed {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other,
                }
            }
            DiskOp::SyncDir { dir } => File::open(self.root.join(dir))?.sync_all(),
        }
    }
}

impl Disk for StdDisk {
    fn perform(&self, op: &DiskOp) -> Result<(), DiskError> {
        self.try_perform(op).map_err(|error| self.error(op.call(), op.subject(), &error))?;
        // On its own, since lack of space means something else here.
        if let DiskOp::ZeroFill { file, .. } = op {
            self.descriptors.sync(file).map_err(|error| self.error("fdatasync", file.as_str(), &error))?;
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        let read = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(self.root.join(dir))? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|error| self.error("readdir", dir, &error)),
        }
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        match fs::metadata(self.path(file)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error("stat", file.as_str(), &error)),
        }
    }

    fn read(&self, name: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        let read = || -> io::Result<Bytes> {
            let file = &self.descriptors.get(name)?.file;
            let there = file.metadata()?.len().saturating_sub(pos);
            let len = len.min(usize::try_from(there).unwrap_or(usize::MAX));
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
            bytes.resize(len, 0);
            let mut filled = 0;
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], pos + filled as u64) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            bytes.truncate(filled);
            Ok(bytes.into())
        };
        read().map_err(|error| self.error("read", name.as_str(), &error))
    }

    fn read_from_disk(&self, name: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        match self.direct.read(&self.path(name), pos, len) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => self.read(name, pos, len),
            Err(error) => Err(self.error("read", name.as_str(), &error)),
        }
    }

    fn map(&self, name: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        let mapped = self.descriptors.get(name).and_then(|handle| handle.map.slice(&handle.file, pos, len));
        match mapped {
            // Where there may be no more maps (`vm.max_map_count`), there may well be memory.
            Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::OutOfMemory) => {
                let bytes = self.read(name, pos, len)?;
                if bytes.len() < len {
                    return Err(self.error("map", name.as_str(), &io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(bytes)
            }
            other => other.map_err(|error| self.error("map", name.as_str(), &error)),
        }
    }

    fn space(&self) -> Result<Option<DiskSpace>, DiskError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| self.error("statvfs", "", &error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Some(DiskSpace { total_bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) }))
    }
}

/// How many files may be open: each may have two descriptors, and half of the process's are for sockets.
fn open_files_max(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(wanted, |limit| wanted.min(usize::try_from(limit / 4).unwrap_or(usize::MAX)))
}

/// How many of the process's descriptors the files of a data directory may come to take. Whoever takes others leaves so
/// many: a node that cannot open the file that it must write has to end.
#[must_use]
pub fn descriptors_max(config: StdDiskConfig) -> u64 {
    2 * open_files_max(config.open_files_max) as u64
}

const fn is_lack_of_space(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Reserves blocks up to `len` without changing the length. A failure leaves none of the new ones behind (the kernel keeps
/// those that it got before it failed); a file system that cannot reserve is no error, since reserving only makes later
/// writes quicker and surer.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let len_before = file.metadata()?.len();
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len)) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => {
            file.set_len(len_before)?;
            Err(error.into())
        }
        Ok(()) => Ok(()),
    }
}

/// Writes all buffers one after the other, however the system splits them.
fn write_all_vectored(file: &File, mut pos: u64, bufs: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = bufs.iter().filter(|buf| !buf.is_empty()).map(|buf| IoSlice::new(buf)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(file, &rest[..rest.len().min(IOV_MAX)], pos))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        pos += written as u64;
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
