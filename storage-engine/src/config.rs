//! How storage is set up: sizes, intervals, budgets.

use crate::journal::JournalConfig;

/// How a store is set up.
#[derive(Clone, Copy, Debug)]
pub struct StoreConfig {
    /// The journal.
    pub journal: JournalConfig,
    /// Segments.
    pub segment: SegmentConfig,
    /// A checkpoint is due when this much went into the journal since the last one began. A restart replays about that,
    /// and looks through all journal files there are.
    pub checkpoint_bytes: u64,
    /// Past this many segments that changed since the last checkpoint, one sync of the whole file system takes the place
    /// of one for each.
    pub sync_files_max: usize,
    /// What tails may take in memory: half of it is for groups led here (see [`crate::store::Store::room_bytes`]), half
    /// for what this disk owes to the leaders of others (see [`crate::store::Store::is_behind`]).
    pub tail_bytes_max: u64,
    /// What entries may take that are in segments already: for followers that are slightly behind.
    pub tail_keep_bytes: u64,
    /// Entries are written to segments at the latest so many ticks after they were committed.
    pub unwritten_ticks_max: u64,
    /// When a group's uncommitted entries hold back this much of the journal, they are written to it again. At least
    /// twice what tails may take, or that alone could keep the journal busy.
    pub journal_held_bytes_max: u64,
    /// What the file takes that keeps space for checkpoints on a disk that is full. 0: there is none.
    pub reserve_bytes: u64,
}

impl StoreConfig {
    /// What committed entries that are in no segment may take in memory, of all groups. Past it the groups that wait
    /// longest are written, however little they have.
    pub(crate) const fn unwritten_bytes_max(&self) -> u64 {
        self.tail_bytes_max / 8
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            journal: JournalConfig::default(),
            segment: SegmentConfig::default(),
            checkpoint_bytes: 64 << 20,
            sync_files_max: 64,
            tail_bytes_max: 256 << 20,
            tail_keep_bytes: 32 << 20,
            unwritten_ticks_max: 100,
            journal_held_bytes_max: 512 << 20,
            reserve_bytes: 0,
        }
    }
}

/// How segments are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentConfig {
    /// How far apart the points of the sparse index are, in bytes of the file. Segments of replicas are identical only
    /// where this is.
    pub index_interval_bytes: u64,
    /// Committed entries wait in memory until a group has this much of them, to be written at once: the journal has
    /// them, so nobody waits for their segment, and one large write costs a disk less than many small ones.
    pub write_bytes_min: u64,
    /// About the most that is written to one group's segment at once.
    pub write_bytes_max: u64,
    /// Writeback is asked for whenever this much of a file was written: left to itself, the kernel saves it up for
    /// seconds and then stalls the journal. What is written around the page cache leaves it little to do.
    pub writeback_bytes: u64,
    /// Space reserved by a segment's first write; each time it is used up, twice as much is.
    pub preallocate_bytes_min: u64,
    /// The most that is reserved at once.
    pub preallocate_bytes_max: u64,
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self {
            index_interval_bytes: 16 << 10,
            write_bytes_min: 256 << 10,
            write_bytes_max: 2 << 20,
            writeback_bytes: 256 << 10,
            preallocate_bytes_min: 64 << 10,
            preallocate_bytes_max: 64 << 20,
        }
    }
}

impl SegmentConfig {
    /// How much to reserve for a file that must reach `end`, where `allocated` bytes were reserved.
    pub(crate) fn allocation(&self, allocated: u64, end: u64) -> u64 {
        let mut len = allocated;
        while len < end {
            len += len.clamp(self.preallocate_bytes_min, self.preallocate_bytes_max);
        }
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_reserved_in_doubling_steps() {
        let config = SegmentConfig::default();
        let (kib, mib) = (1 << 10, 1 << 20);
        assert_eq!(config.allocation(0, 1), 64 * kib);
        assert_eq!(config.allocation(64 * kib, 64 * kib + 1), 128 * kib);
        assert_eq!(config.allocation(0, mib), mib);
        assert_eq!(config.allocation(64 * mib, 65 * mib), 128 * mib);
        assert_eq!(config.allocation(128 * mib, 129 * mib), 192 * mib, "at most 64 MiB at once");
    }
}
