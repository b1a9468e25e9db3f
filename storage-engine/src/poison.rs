//! Fail-stop: what is left to say when a data directory can no longer be trusted.

use std::io::ErrorKind;

use crate::disk::DiskError;

impl DiskError {
    /// Whether the data directory is finished. A full disk that refuses a write is not the end, unless the refusal came
    /// from a sync: then the kernel had taken the bytes and dropped them.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        let dropped = matches!(self.op, "fdatasync" | "syncfs" | "fsync directory");
        dropped || !matches!(self.kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}

/// The data directory is out of service until the process starts again.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the data directory is out of service: {cause}. Nothing is acknowledged any more, and nothing is retried, because \
     the system forgets what a failed write or sync left unwritten. Check the disk (kernel log, whether it is mounted \
     read-only, free space, SMART), then start the node again: it recovers from its journal. If the disk is broken, \
     give the node an empty directory on another and let it back in with `levada cluster replace`; the other nodes go \
     on meanwhile. Where it is one of segment.dirs, nothing is to be done for that: the node starts again without it"
)]
pub struct Poisoned {
    /// The operation that failed first.
    #[source]
    pub cause: DiskError,
}

impl Poisoned {
    /// From the failure that ended it.
    #[must_use]
    pub const fn new(cause: DiskError) -> Self {
        Self { cause }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn only_a_refused_write_for_lack_of_space_is_survived() {
        let full = Error::from(ErrorKind::StorageFull);
        assert!(!DiskError::new("write", "s", &full).is_fatal());
        assert!(!DiskError::new("zero-fill", "j", &full).is_fatal());
        assert!(!DiskError::new("write", "s", &Error::from(ErrorKind::QuotaExceeded)).is_fatal());
        assert!(DiskError::new("write", "s", &Error::from(ErrorKind::ReadOnlyFilesystem)).is_fatal());
        assert!(DiskError::new("fdatasync", "s", &full).is_fatal());
        assert!(DiskError::new("write", "s", &Error::other("EIO")).is_fatal());
    }

    #[test]
    fn the_message_says_what_happened_and_what_to_do() {
        let error = DiskError::new("fdatasync", "journal/00000001.lj", &Error::from_raw_os_error(5));
        let message = Poisoned::new(error).to_string();
        for part in ["fdatasync journal/00000001.lj", "Input/output error", "Check the disk", "start the node again"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
