//! How much space the disk has left, and what this node still takes because of it.
//!
//! Three watermarks, all from one number, the reserve. Below twice the reserve records are taken slowly; below the
//! reserve none are taken from clients; below half of it no entries of other leaders either, unless they are what the
//! cluster needs to get out of it (metadata, log starts, membership). What is left serves votes, checkpoints, and
//! segments of what was taken before. Back goes it only some way above each mark, so that nothing flaps.
//!
//! A write that finds no space ([`Space::note_lack`]) counts as full, whatever the file system says of its space: it
//! may have a quota, or no inodes.

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::NodeId,
};
use levada_storage_engine::disk::DiskSpace;

use crate::{cluster::health::Fullness, raft::TICK_MS};

/// Records are taken slowly below so many reserves.
const TIGHT_RESERVES: u64 = 2;
/// A mark is left behind only when there is an eighth more than it.
const HYSTERESIS_SHARE: u64 = 8;
/// While records are taken slowly, a second takes this share of what is left until the reserve...
const THROTTLE_SHARE: u64 = 10;
/// ...and not less than this.
const THROTTLE_BYTES_PER_S_MIN: u64 = 64 << 10;
/// For so long (5 s) it counts that a write found no space.
const LACKING_TICKS: u64 = 5_000 / TICK_MS;
/// The share of the reserve that a file keeps for the node itself, and the most that it takes.
const RESERVE_FILE_SHARE: u64 = 8;
const RESERVE_FILE_BYTES_MAX: u64 = 64 << 20;

/// When a disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this no records are taken; 0: whatever is left.
    pub reserve_bytes: u64,
    /// But not more than this share of the disk.
    pub reserve_percent: u64,
}

impl Watermarks {
    /// The reserve of a disk.
    #[must_use]
    pub fn reserve(&self, total_bytes: u64) -> u64 {
        self.reserve_bytes.min(total_bytes / 100 * self.reserve_percent)
    }

    /// How much of that a file keeps.
    #[must_use]
    pub fn reserve_file_bytes(&self, total_bytes: u64) -> u64 {
        (self.reserve(total_bytes) / RESERVE_FILE_SHARE).min(RESERVE_FILE_BYTES_MAX)
    }
}

/// What is known of the disk's space.
#[derive(Debug)]
pub(super) struct Space {
    watermarks: Watermarks,
    last: Option<DiskSpace>,
    fullness: Fullness,
    refuses_entries: bool,
    /// For so many ticks more it counts that something waited for space.
    lacking_ticks: u64,
    /// Bytes that may be taken while they are taken slowly; less than nothing after a large batch.
    allowance_bytes: i64,
}

impl Space {
    pub(super) const fn new(watermarks: Watermarks) -> Self {
        let fullness = Fullness::Roomy;
        Self { watermarks, last: None, fullness, refuses_entries: false, lacking_ticks: 0, allowance_bytes: 0 }
    }

    /// What the file system says; `None` if nothing bounds it.
    pub(super) fn measure(&mut self, space: Option<DiskSpace>) {
        let before = self.fullness();
        self.last = space;
        let (free, reserve) =
            space.map_or((u64::MAX, 0), |space| (space.free_bytes, self.watermarks.reserve(space.total_bytes)));
        let is_below = |mark: u64, was_below: bool| {
            free < if was_below { mark.saturating_add(mark / HYSTERESIS_SHARE) } else { mark }
        };
        self.refuses_entries = is_below(reserve / 2, self.refuses_entries);
        self.fullness = if is_below(reserve, self.fullness == Fullness::Full) {
            Fullness::Full
        } else if is_below(reserve * TIGHT_RESERVES, self.fullness >= Fullness::Tight) {
            Fullness::Tight
        } else {
            Fullness::Roomy
        };
        self.tell(before);
    }

    /// A write has found no space and waits for some. That is so for a while after it has found some: the next one may not,
    /// and leadership is not to go back and forth.
    pub(super) fn note_lack(&mut self) {
        let before = self.fullness();
        self.lacking_ticks = LACKING_TICKS;
        self.tell(before);
    }

    /// 50 ms have passed.
    pub(super) fn tick(&mut self) {
        let before = self.fullness();
        self.lacking_ticks = self.lacking_ticks.saturating_sub(1);
        self.tell(before);
        let per_s = self.throttle_bytes_per_s();
        let per_tick = i64::try_from(per_s * TICK_MS / 1_000).unwrap_or(i64::MAX / 64);
        self.allowance_bytes = (self.allowance_bytes + per_tick).min(per_tick * 10);
    }

    fn throttle_bytes_per_s(&self) -> u64 {
        let above =
            self.last.map_or(0, |space| space.free_bytes.saturating_sub(self.watermarks.reserve(space.total_bytes)));
        (above / THROTTLE_SHARE).max(THROTTLE_BYTES_PER_S_MIN)
    }

    /// How much room there is.
    pub(super) const fn fullness(&self) -> Fullness {
        if self.is_lacking() { Fullness::Full } else { self.fullness }
    }

    /// Whether records of other leaders are refused.
    pub(super) const fn refuses_entries(&self) -> bool {
        self.is_lacking() || self.refuses_entries
    }

    const fn is_lacking(&self) -> bool {
        self.lacking_ticks > 0
    }

    /// Whether one more batch may be taken now.
    pub(super) const fn may_take(&self) -> bool {
        match self.fullness() {
            Fullness::Roomy => true,
            Fullness::Tight => self.allowance_bytes > 0,
            Fullness::Full => false,
        }
    }

    /// A batch was taken.
    pub(super) fn take(&mut self, bytes: usize) {
        if self.fullness() == Fullness::Tight {
            self.allowance_bytes -= i64::try_from(bytes).unwrap_or(i64::MAX / 64);
        }
    }

    /// What clients are told that want to write.
    pub(super) fn refusal(&self, node: NodeId) -> Error {
        let found = match self.last {
            Some(space) if !self.is_lacking() => {
                let (free, total) = (mib(space.free_bytes), mib(space.total_bytes));
                format!(
                    "{free} of {total} are free, and below {} it takes none",
                    mib(self.watermarks.reserve(space.total_bytes))
                )
            }
            _ => "writes find no space (or no quota, or no inodes)".to_owned(),
        };
        let why = format!(
            "the disk of node {node} is full and takes no records: {found}. Free space there, let records go sooner \
             (retention.ms, retention.bytes) or delete topics; it goes on by itself. Reads go on, and so do writes where \
             another replica can lead"
        );
        Error::new(ErrorCode::DiskFull, why)
    }

    fn tell(&self, before: Fullness) {
        let now = self.fullness();
        if before == now {
            return;
        }
        let free_bytes = self.last.map_or(0, |space| space.free_bytes);
        let (lacking, last) = (self.is_lacking(), self.last);
        match now {
            Fullness::Roomy => tracing::info!(free_bytes, "disk.roomy: records are taken as ever"),
            Fullness::Tight => tracing::warn!(free_bytes, "disk.tight: records are taken slowly"),
            Fullness::Full => tracing::error!(?last, lacking, "disk.full: no records are taken"),
        }
    }
}

/// For people.
#[allow(clippy::cast_precision_loss, reason = "a tenth of a MiB does not matter")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn space() -> Space {
        Space::new(Watermarks { reserve_bytes: 1 << 30, reserve_percent: 5 })
    }

    fn measured(space: &mut Space, free_mib: u64) -> Fullness {
        space.measure(Some(DiskSpace { total_bytes: 1_000 * MIB, free_bytes: free_mib * MIB }));
        space.fullness()
    }

    #[test]
    fn the_reserve_is_a_share_of_small_disks_and_bounded_on_large_ones() {
        let watermarks = space().watermarks;
        assert_eq!(watermarks.reserve(1_000 * MIB), 50 * MIB);
        assert_eq!(watermarks.reserve(1 << 42), 1 << 30);
        assert_eq!(watermarks.reserve_file_bytes(1_600 * MIB), 10 * MIB);
        assert_eq!(watermarks.reserve_file_bytes(1 << 42), 64 * MIB);
    }

    #[test]
    fn it_goes_down_at_the_marks_and_up_some_way_above_them() {
        let mut space = space();
        let down = [(101, Fullness::Roomy), (99, Fullness::Tight), (50, Fullness::Tight), (49, Fullness::Full)];
        let up = [(55, Fullness::Full), (57, Fullness::Tight), (111, Fullness::Tight), (113, Fullness::Roomy)];
        for (free, expected) in down.into_iter().chain(up) {
            assert_eq!(measured(&mut space, free), expected, "{free} MiB are free");
        }
        assert_eq!(measured(&mut space, 0), Fullness::Full, "all at once");
        assert_eq!(measured(&mut space, 900), Fullness::Roomy);
    }

    #[test]
    fn entries_of_others_are_taken_for_longer_than_records_of_clients() {
        let mut space = space();
        measured(&mut space, 30);
        assert!(!space.may_take() && !space.refuses_entries());
        measured(&mut space, 24);
        assert!(space.refuses_entries());
        measured(&mut space, 26);
        assert!(space.refuses_entries());
        measured(&mut space, 29);
        assert!(!space.refuses_entries());
    }

    #[test]
    fn what_finds_no_space_counts_whatever_is_said_to_be_free() {
        let mut space = space();
        measured(&mut space, 900);
        space.note_lack();
        assert!(space.fullness() == Fullness::Full && space.refuses_entries() && !space.may_take());
        assert!(space.refusal(NodeId(3)).message.contains("no quota"));
        assert_eq!(measured(&mut space, 900), Fullness::Full);
        (1..LACKING_TICKS).for_each(|_| space.tick());
        assert!(space.refuses_entries(), "for a while");
        space.tick();
        assert!(space.may_take() && !space.refuses_entries());
    }

    #[test]
    fn the_slower_the_less_is_left_and_a_batch_larger_than_a_second_passes() {
        let taken = |free: u64, batch: usize| {
            let mut space = space();
            measured(&mut space, free);
            let mut taken = 0;
            for _ in 0..200 {
                space.tick();
                while space.may_take() {
                    space.take(batch);
                    taken += batch as u64;
                }
            }
            taken
        };
        // 10 s: about what is left, if it were measured only once.
        assert!((40 * MIB..50 * MIB).contains(&taken(95, 1 << 16)), "{}", taken(95, 1 << 16));
        assert!((4 * MIB..6 * MIB).contains(&taken(55, 1 << 16)), "{}", taken(55, 1 << 16));
        assert_eq!(taken(51, 8 << 20), 8 << 20, "once, and then it waits");
        assert_eq!(taken(49, 1), 0);
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        let mut space = space();
        measured(&mut space, 12);
        let error = space.refusal(NodeId(2));
        assert_eq!(error.code, ErrorCode::DiskFull);
        for part in ["node 2", "12.0 MiB of 1000.0 MiB", "below 50.0 MiB", "retention.bytes"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_disk_that_nothing_bounds_is_never_full() {
        let mut space = space();
        space.measure(None);
        assert!(space.may_take() && space.fullness() == Fullness::Roomy);
    }
}
