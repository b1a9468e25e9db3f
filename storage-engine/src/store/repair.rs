//! A damaged segment gets another file.
//!
//! The bytes of a sealed segment never change, and all replicas have the same. So the damaged file is not touched: a whole one
//! arrives from another node beside it (`incoming.rs`), is checked against what is known of the segment
//! (`segment_spec.rs`), synced, and takes its name. Whoever still reads the old one finds in it what it found before. A crash
//! in between leaves one or the other.
//!
//! **The segment that is written.** What is written behind a damaged place is sound, as the writer has the index in memory. But
//! after a restart it must read the index, and if that is lost, what it would write (index frames, footer, the chain of
//! CRCs into the next segment) would not be what others have. So the segment waits until the damaged file is replaced, up to
//! where it is written ([`Store::awaits_repair`]). Entries wait in memory meanwhile. Where nobody has a sound file,
//! [`Store::accept_damage`] goes on without: from then on this replica's segments are its own, and files of others are refused
//! as [`crate::error::DamageCause::Diverged`].

use std::collections::BTreeSet;

use levada_protocol::ids::{GroupId, LogIndex};

use super::{
    Job, SegmentSpec, Store, StoreEvent,
    incoming::{COPY, file_name},
};
use crate::{
    disk::DiskOp,
    segment::{self, reader::Segment},
};

impl Store {
    /// Segments that somebody could not read since this was asked last, by group and first entry; and up to `room` of those
    /// whose files were not there at the start, of groups that can be helped.
    #[must_use]
    pub fn take_suspects(
        &mut self,
        room: usize,
        can_be_helped: impl Fn(GroupId) -> bool,
    ) -> BTreeSet<(GroupId, LogIndex)> {
        if !self.missing.is_empty() {
            // Some may be gone with their groups, or by retention.
            let missing = std::mem::take(&mut self.missing);
            self.missing =
                missing.into_iter().filter(|(group, first)| self.segment(*group, *first).is_some()).collect();
        }
        let mut suspects = self.suspects.take();
        let room = room.saturating_sub(suspects.len());
        suspects.extend(self.missing.extract_if(.., |(group, _)| can_be_helped(*group)).take(room));
        suspects
    }

    /// How many segments whose files were not there at the start are still to be asked for.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// What a segment's file must be by now, if there is such a segment. Of one that is not sealed, more may be written at
    /// any time.
    #[must_use]
    pub fn segment(&self, group: GroupId, first_index: LogIndex) -> Option<SegmentSpec> {
        self.groups.get(&group)?.log.log().segment(first_index)
    }

    /// The first segment behind `at`, in the order of groups and entries, and what its file must durably be: of one that
    /// is not sealed, what the last checkpoint has.
    #[must_use]
    pub fn next_segment(&self, at: (GroupId, LogIndex)) -> Option<(GroupId, SegmentSpec)> {
        // Files of a group that arrives may not have their names yet.
        let there = self.groups.range(at.0..).filter(|(_, group)| group.first_checkpoint <= self.checkpoints_durable());
        // Nothing of a group in doubt is mended: another takes its place, and looks at every file.
        for (&id, group) in there.filter(|(id, _)| !self.doubts(**id)) {
            let from = if id == at.0 { at.1.next() } else { LogIndex(0) };
            let captured = group.captured.log.segments.iter().find(|segment| !segment.sealed);
            let spec = group.log.log().next_segment(from, captured.map(|segment| segment.end));
            if let Some(spec) = spec {
                return Some((id, spec));
            }
        }
        None
    }

    /// Whether the segment that the group is to write next waits for a sound file.
    #[must_use]
    pub fn awaits_repair(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.log.is_waiting_for_repair())
    }

    /// It does not have to wait any longer: nobody has one.
    pub fn accept_damage(&mut self, group: GroupId) {
        if let Some(state) = self.groups.get_mut(&group) {
            state.log.accept_damage();
            self.ready.insert(group);
        }
    }

    /// Gives a segment that is sealed, or awaits it, the file that has arrived for it. [`StoreEvent::Repaired`] follows.
    ///
    /// # Panics
    /// If there is no such file that is complete.
    pub fn replace_segment(&mut self, group: GroupId, first_index: LogIndex) {
        let key = (group, first_index);
        let file = self.incoming.files.remove(&key);
        assert!(file.is_some_and(|file| file.is_complete), "segment {first_index} of group {group} has arrived");
        let ops = vec![
            DiskOp::Rename { from: file_name(key, COPY), to: segment::file_name(group, first_index) },
            DiskOp::SyncDir { dir: segment::DIRECTORY.to_owned() },
        ];
        self.incoming.waiting.push((Job::Repair(group, first_index), ops));
    }

    pub(super) fn repaired(&mut self, group: GroupId, first_index: LogIndex) -> Vec<StoreEvent> {
        let Some(state) = self.groups.get_mut(&group) else { return Vec::new() };
        state.log.reopen(first_index);
        self.ready.insert(group);
        vec![StoreEvent::Repaired { group, first_index }]
    }
}

impl SegmentSpec {
    /// Of a segment as it is now.
    pub(crate) fn of(segment: &Segment) -> Self {
        Self { header: *segment.header(), end: segment.end(), sealed: segment.is_sealed() }
    }
}
