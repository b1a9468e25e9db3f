//! The disk as the cores see it: reads are calls, writes are values.
//!
//! A core describes what must happen to files as [`DiskOp`]s; a driver performs them in order with
//! [`Disk::perform`]. Names are relative to the data directory, with `/` between parts. Nothing is durable before
//! the [`DiskOp::Sync`] of its file, and no name is durable before the [`DiskOp::SyncDir`] of its directory.

use std::{fmt, io::ErrorKind, sync::Arc};

use bytes::Bytes;
use rustix::io::Errno;

/// A file's name below the data directory, such as `journal/00000003.lj`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Arc<str>);

impl FileName {
    /// From a relative path. Panics on one that could leave the data directory: names are made by code, never by input.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        assert!(
            !name.is_empty() && !name.starts_with('/') && !name.split('/').any(|part| part.is_empty() || part == ".."),
            "not a name below the data directory: {name:?}"
        );
        Self(name.into())
    }

    /// The relative path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory it stands in; empty for the data directory itself.
    #[must_use]
    pub fn dir(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(dir, _)| dir)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One change to the disk, for a driver to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Makes a directory and its parents, if they are not there.
    CreateDir {
        /// The directory, relative to the data directory.
        dir: String,
    },
    /// Makes an empty file, or empties the one that is there.
    Create {
        /// The file.
        file: FileName,
    },
    /// Writes zeros from the start up to `len` and syncs: the file's blocks exist and are written once.
    ZeroFill {
        /// The file.
        file: FileName,
        /// Its length afterwards, in bytes.
        len: u64,
    },
    /// Reserves space up to `len` without changing the length. Where there is not as much, nothing is reserved, and that is
    /// no error: whether there is room enough is for the write to find out.
    Preallocate {
        /// The file.
        file: FileName,
        /// Space reserved from the start, in bytes.
        len: u64,
    },
    /// Writes the buffers one after the other at `pos`.
    Write {
        /// The file.
        file: FileName,
        /// Where the first byte goes.
        pos: u64,
        /// What is written.
        bufs: Vec<Bytes>,
    },
    /// Asks the kernel to start writing this range back; promises nothing.
    Writeback {
        /// The file.
        file: FileName,
        /// Start of the range.
        pos: u64,
        /// Length of the range.
        len: u64,
    },
    /// `fdatasync`: what was written to the file before is durable afterwards.
    Sync {
        /// The file.
        file: FileName,
    },
    /// `syncfs`: everything written to any file before is durable afterwards.
    SyncAll,
    /// Sets the file's length.
    Truncate {
        /// The file.
        file: FileName,
        /// The new length, in bytes.
        len: u64,
    },
    /// Renames a file, replacing what stands under the new name.
    Rename {
        /// The old name.
        from: FileName,
        /// The new name.
        to: FileName,
    },
    /// Removes a file. One that is not there is no error.
    Remove {
        /// The file.
        file: FileName,
    },
    /// Makes the names in a directory durable.
    SyncDir {
        /// The directory; empty for the data directory itself.
        dir: String,
    },
}

impl DiskOp {
    /// The system call that does it, as errors and traces name it.
    #[must_use]
    pub const fn call(&self) -> &'static str {
        match self {
            Self::CreateDir { .. } => "mkdir",
            Self::Create { .. } => "create",
            Self::ZeroFill { .. } => "zero-fill",
            Self::Preallocate { .. } => "fallocate",
            Self::Write { .. } => "write",
            Self::Writeback { .. } => "sync_file_range",
            Self::Sync { .. } => "fdatasync",
            Self::SyncAll => "syncfs",
            Self::Truncate { .. } => "truncate",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::SyncDir { .. } => "fsync directory",
        }
    }

    /// The file or directory it is about; for a rename the old name.
    #[must_use]
    pub fn subject(&self) -> &str {
        match self {
            Self::CreateDir { dir } | Self::SyncDir { dir } => dir,
            Self::Create { file }
            | Self::ZeroFill { file, .. }
            | Self::Preallocate { file, .. }
            | Self::Write { file, .. }
            | Self::Writeback { file, .. }
            | Self::Sync { file }
            | Self::Truncate { file, .. }
            | Self::Remove { file } => file.as_str(),
            Self::Rename { from, .. } => from.as_str(),
            Self::SyncAll => "",
        }
    }

    /// Whether the operation promises durability, so that its failure leaves the file in an unknown state.
    #[must_use]
    pub const fn is_sync(&self) -> bool {
        matches!(self, Self::ZeroFill { .. } | Self::Sync { .. } | Self::SyncAll | Self::SyncDir { .. })
    }
}

/// A queue of operations that are performed strictly in order. The lanes do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Blocks of the journal: short, synced, an acknowledgement waits for each.
    Journal,
    /// Everything else: segments, checkpoints, preparing journal files. Nobody waits for it.
    Segments,
}

/// Why an operation on the disk failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{op} {file}: {cause}")]
pub struct DiskError {
    /// What was tried, such as `fdatasync`.
    pub op: &'static str,
    /// On which file or directory.
    pub file: String,
    /// The kind of failure, for decisions (`StorageFull`, `NotFound`, …). Want of descriptors is `OutOfMemory`, too.
    pub kind: ErrorKind,
    /// The system's words.
    pub cause: String,
}

impl DiskError {
    /// Wraps an I/O error with what was tried and on what.
    #[must_use]
    pub fn new(op: &'static str, file: impl fmt::Display, error: &std::io::Error) -> Self {
        let no_descriptor = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        let kind = if no_descriptor.contains(&error.raw_os_error()) { ErrorKind::OutOfMemory } else { error.kind() };
        Self { op, file: file.to_string(), kind, cause: error.to_string() }
    }

    /// Whether the system had no memory, map or descriptor left for it. That says nothing of the disk, and may pass.
    #[must_use]
    pub fn is_want(&self) -> bool {
        self.kind == ErrorKind::OutOfMemory
    }
}

/// What the file system of a data directory has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What it has altogether, in bytes.
    pub total_bytes: u64,
    /// What an ordinary user may still write, in bytes.
    pub free_bytes: u64,
}

/// A data directory. Calls block; drivers call [`Disk::perform`], cores only read.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Performs one operation.
    ///
    /// # Errors
    /// When the system refuses. After a failed [`DiskOp::Sync`] the state of the file is unknown: the data directory is
    /// finished (fail-stop), the operation is never tried again.
    fn perform(&self, op: &DiskOp) -> Result<(), DiskError>;

    /// The files of a directory (names only, sorted); empty when the directory is not there.
    ///
    /// # Errors
    /// When the system refuses.
    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError>;

    /// The file's length in bytes, or `None` when it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError>;

    /// Reads up to `len` bytes at `pos` into memory; fewer at the end of the file.
    ///
    /// # Errors
    /// When the file is not there or the system refuses.
    fn read(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError>;

    /// The same, from the disk itself where the system allows it: not from a cache that was filled when it was written, and
    /// without pushing others out of that. For who wants to know what the disk holds.
    ///
    /// # Errors
    /// When the file is not there or the system refuses.
    fn read_from_disk(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        self.read(file, pos, len)
    }

    /// The bytes `pos..pos + len` of a file whose range is written and will not change, without a copy where the system
    /// allows it (a map whose pages were populated, so that touching them cannot fault).
    ///
    /// # Errors
    /// When the file is shorter than the range or the system refuses.
    fn map(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError>;

    /// What the file system has left; `None` where nothing is known to bound it.
    ///
    /// # Errors
    /// When the system refuses.
    fn space(&self) -> Result<Option<DiskSpace>, DiskError>;
}
