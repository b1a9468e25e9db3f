//! Descriptors for connections, and which are not for them.
//!
//! Whoever reaches a node can open connections to it. If they took all descriptors, the next file that the disk must open
//! could not be opened, and the node would have to end. So some are kept free of connections. Nobody counts: the kernel gives
//! a new descriptor the lowest number that is free, so a connection whose number is below a bound is one of at most so many.

use std::{io, os::fd::AsRawFd};

use levada_storage_engine::std_disk::{StdDiskConfig, descriptors_max};
use rustix::process::{Resource, getrlimit};

/// For what is neither a connection that came in nor a file of the data directory: the ways to other nodes, the log,
/// listeners, what the system's libraries open for a moment.
const OTHERS_MAX: u64 = 128;
/// For metrics and health: whoever asks what is going on finds a place, too.
const LOOK_MAX: u64 = 64;

/// Connections that come in have descriptors below this one.
#[must_use]
pub fn descriptors_for_connections() -> u64 {
    below(getrlimit(Resource::Nofile).current, descriptors_max(StdDiskConfig::default()))
}

/// Where the process may have so many, if that is bounded, and files take up to so many.
fn below(limit: Option<u64>, files: u64) -> u64 {
    let others = |limit| OTHERS_MAX.min(limit / 8) + look_max(limit);
    limit.map_or(u64::MAX, |limit| limit.saturating_sub(files + others(limit)))
}

/// How many connections there may be to metrics and health, whatever their descriptors.
pub(crate) fn connections_to_look_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(look_max(limit)).unwrap_or(usize::MAX)
}

fn look_max(limit: u64) -> u64 {
    LOOK_MAX.min(limit / 16).max(1)
}

/// A connection that has come in, unless its descriptor is not for connections.
///
/// # Errors
/// It is not; the connection is closed.
pub(crate) fn admit<T: AsRawFd>(stream: T, below: u64) -> io::Result<T> {
    if u64::try_from(stream.as_raw_fd()).is_ok_and(|descriptor| descriptor < below) {
        return Ok(stream);
    }
    Err(io::Error::other(format!(
        "no descriptor is left for connections, which have those below {below}; raise the limit"
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn files_and_others_keep_theirs() {
        assert_eq!(below(Some(160), 80), 50);
        assert_eq!(below(Some(1024), 512), 320);
        assert_eq!(below(Some(1 << 20), 1024), (1 << 20) - 1216);
        assert_eq!(below(Some(0), 1024), 0);
        assert_eq!(below(None, 1024), u64::MAX);
        assert!(descriptors_for_connections() > 64, "{}", descriptors_for_connections());
    }

    #[test]
    fn what_is_not_below_is_closed() {
        let open = || File::open("/dev/null").unwrap();
        assert!(admit(open(), u64::MAX).is_ok());
        let error = admit(open(), 1).unwrap_err();
        assert!(error.to_string().contains("those below 1;"), "{error}");
    }
}
