//! The log of the metadata group is kept short, by each node for itself.
//!
//! A restart needs nothing of it that a checkpoint has. What is kept of its segments is for members that are behind, so not all
//! of it is ([`LOG_BYTES`]), each node ending its segments where it likes. For the same reason none is mended that is damaged:
//! it goes, and every older one with it. A member that needs what its leader does not have any more is told so, and goes on from a
//! later state (`renewal.rs`).

use std::collections::BTreeSet;

use levada_protocol::ids::{GroupId, LogIndex};
use levada_storage_engine::log::SegmentStats;

use super::Node;

/// About so much is kept: many thousand changes.
pub(crate) const LOG_BYTES: u64 = 16 << 20;
/// What is kept is in so many segments.
const SEGMENTS: u64 = 4;

/// What is to be done about the segments of the metadata.
#[derive(Debug)]
pub(super) struct Shortening {
    /// About so much is kept.
    log_bytes: u64,
    /// Damaged ones, by their first entries.
    damaged: BTreeSet<LogIndex>,
    /// How many of those have gone.
    let_go: u64,
    /// The segment that was told to end, by its first entry.
    ending: Option<LogIndex>,
    /// A damaged one has gone, and a checkpoint is to say so: it would be found again at the next start.
    wants_checkpoint: bool,
}

impl Shortening {
    /// Keeps about so much of the log.
    pub(super) const fn new(log_bytes: u64) -> Self {
        Self { log_bytes, damaged: BTreeSet::new(), let_go: 0, ending: None, wants_checkpoint: false }
    }

    /// A segment cannot be read.
    fn note(&mut self, first_index: LogIndex) {
        if self.damaged.insert(first_index) {
            tracing::error!(%first_index, "metadata.segment.damaged: it goes, a checkpoint has what is in it");
        }
    }

    /// How many are damaged.
    pub(super) fn damaged(&self) -> usize {
        self.damaged.len()
    }

    /// How many damaged ones have gone since the start.
    pub(super) const fn let_go(&self) -> u64 {
        self.let_go
    }

    /// Forgets what is not there any more.
    fn look(&mut self, segments: &[SegmentStats]) {
        let before = self.damaged.len();
        self.damaged.retain(|first| segments.iter().any(|segment| segment.first_index == *first));
        let gone = before - self.damaged.len();
        if gone > 0 {
            tracing::info!(gone, "metadata.segment.gone: damaged ones, whose place the checkpoint has taken");
        }
        self.let_go += gone as u64;
        self.wants_checkpoint |= gone > 0;
    }

    /// The first entry that is still needed, and whether the last segment is to end.
    fn plan(&self, segments: &[SegmentStats], applied: LogIndex) -> (Option<LogIndex>, bool) {
        let active = segments.last().filter(|segment| !segment.sealed);
        let is_damaged = |segment: &SegmentStats| self.damaged.contains(&segment.first_index);
        let ends = active.is_some_and(|active| active.bytes >= self.log_bytes / SEGMENTS || is_damaged(active));
        let mut kept = 0;
        let is_too_much = |segment: &&SegmentStats| {
            kept += segment.bytes;
            kept > self.log_bytes && segment.sealed
        };
        let too_old = segments.iter().rev().find(is_too_much).map(|segment| segment.next_index);
        // Of the one that is written, the end is where it is told to be.
        let end = |segment: &SegmentStats| if segment.sealed { segment.next_index } else { applied.next() };
        let damaged = segments.iter().rev().find(|segment| is_damaged(segment)).map(end);
        (too_old.max(damaged), ends)
    }
}

impl Node {
    /// A segment cannot be read. (Those of a replica in doubt are not mended: another takes its place.)
    pub(super) fn note_damage(&mut self, group: GroupId, first_index: LogIndex) {
        if group == GroupId::METADATA {
            self.shortening.note(first_index);
        } else if self.partitions.contains_key(&group) {
            self.mends.note(group, first_index);
        }
    }

    /// Every half second: lets go of what is not needed of the metadata's log.
    pub(super) fn shorten_metadata(&mut self) {
        const GROUP: GroupId = GroupId::METADATA;
        let log = self.controller.group.log();
        let (segments, applied) = (log.segments(), self.controller.applied());
        self.shortening.look(&segments);
        let (needed_from, ends) = self.shortening.plan(&segments, applied);
        let last = segments.last().map(|segment| segment.first_index);
        if ends && self.shortening.ending != last {
            self.shortening.ending = last;
            self.store.accept_damage(GROUP);
            self.store.roll(GROUP, applied);
        }
        if let Some(needed_from) = needed_from.filter(|needed_from| *needed_from > log.first_index()) {
            self.store.set_needed_from(GROUP, needed_from);
        }
        if self.shortening.wants_checkpoint && !self.store.is_checkpointing() {
            self.shortening.wants_checkpoint = false;
            self.store.recapture(GROUP);
            self.begin_checkpoint();
        }
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::Offset;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Segments of ten entries each, the last one unsealed.
    fn segments(bytes: &[u64]) -> Vec<SegmentStats> {
        let of = |(at, bytes): (u64, &u64)| SegmentStats {
            first_index: LogIndex(at * 10 + 1),
            next_index: LogIndex(at * 10 + 11),
            base_offset: Offset(0),
            next_offset: Offset(0),
            bytes: *bytes,
            max_timestamp_ms: None,
            sealed: true,
        };
        let mut segments: Vec<SegmentStats> = (0..).zip(bytes).map(of).collect();
        if let Some(last) = segments.last_mut() {
            last.sealed = false;
        }
        segments
    }

    fn plan(bytes: &[u64], damaged: &[u64]) -> (Option<u64>, bool) {
        let damaged = damaged.iter().map(|first| LogIndex(*first)).collect();
        let shortening = Shortening { damaged, ..Shortening::new(LOG_BYTES) };
        let (needed_from, ends) = shortening.plan(&segments(bytes), LogIndex(99));
        (needed_from.map(LogIndex::get), ends)
    }

    #[test]
    fn so_much_is_kept() {
        assert_eq!(plan(&[], &[]), (None, false));
        assert_eq!(plan(&[4 * MIB - 1], &[]), (None, false));
        assert_eq!(plan(&[4 * MIB], &[]), (None, true));
        assert_eq!(plan(&[4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 1], &[]), (Some(11), false));
        assert_eq!(plan(&[MIB, 4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB, 1], &[]), (Some(21), false));
        assert_eq!(plan(&[MIB, 20 * MIB], &[]), (Some(11), true), "what is written is not counted out");
    }

    #[test]
    fn what_is_damaged_goes_with_all_that_is_older() {
        assert_eq!(plan(&[1, 1, 1, 1], &[11]), (Some(21), false));
        assert_eq!(plan(&[1, 1, 1, 1], &[1, 21]), (Some(31), false));
        assert_eq!(plan(&[1, 1], &[11]), (Some(100), true), "the one that is written ends first");
    }

    #[test]
    fn what_has_gone_is_counted() {
        let mut shortening = Shortening::new(LOG_BYTES);
        shortening.note(LogIndex(1));
        shortening.note(LogIndex(1));
        shortening.look(&segments(&[1, 1]));
        assert_eq!((shortening.damaged(), shortening.let_go()), (1, 0));
        shortening.look(&segments(&[1, 1])[1..]);
        assert_eq!((shortening.damaged(), shortening.let_go()), (0, 1));
    }
}
