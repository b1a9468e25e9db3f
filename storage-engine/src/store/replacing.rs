//! A replica in doubt stays until the one that replaces it is there.
//!
//! What it has lost stood in the journal: a vote, or the end of its log. Its segments are another matter. As far as the last
//! checkpoint has them they hold nothing but committed entries, and were durable before that checkpoint was. They may be the
//! last sound copy of something, when those of another node rot. So a group in doubt that is to be replaced is not
//! [removed](Store::remove_group) first. It is **kept**: as it was found, in doubt, by its name, and nobody opens it. Then the new
//! one takes its place with one checkpoint ([`Store::install`]), and with that the doubt ends.
//!
//! **What it is good for.** Of a kept group, only the bytes of its segments' files are used, and never unseen:
//!
//! - They are *lent*. Whoever borrows them knows from a sound replica what they must be, and checks every byte.
//! - They are *adopted* ([`Store::may_adopt`]): a file that the new group is to have, by the snapshot of a sound replica, and that
//!   is named by the checkpoint which this group was recovered from, stays where it is. Its bytes are checked first, and it needs no
//!   sync, as that checkpoint came behind one. What stands in a file behind the end that the checkpoint names may never have been
//!   synced: nothing of it is adopted.
//!
//! Its hard state, its membership, its state machine and what the journal has of it are used for nothing.
//!
//! **A crash on the way** leaves it as it was, in doubt, or the new one. Files may have been replaced before that: by what stood in
//! them before it rotted, as all replicas have the same segments, or by less or more of the one that is written. So it is looked at
//! again then. The block up to which nothing is the new group's own (`born`) excuses it from the damage.
//!
//! **Files that the new group does not have** go when the first checkpoint that has it is durable. They are removed before the
//! owner hears of it, so that no segment of the new group can have been begun under such a name.

use levada_protocol::ids::{GroupId, LogIndex};

use super::{SegmentSpec, Store};
use crate::{disk::FileName, journal::Doubt, log::writer::SegmentRecord};

impl Store {
    /// The last entry that the segments of a group in doubt durably hold; `None` if no such group is here by its name.
    #[must_use]
    pub fn kept_to(&self, group: GroupId) -> Option<LogIndex> {
        let is_doubted = matches!(&self.doubt, Doubt::Groups(groups) if groups.contains(&group));
        self.groups.get(&group).filter(|_| is_doubted).map(|kept| kept.captured.applied)
    }

    /// Whether a file of a kept group may be this segment of the one that replaces it, if it holds what it should.
    #[must_use]
    pub fn may_adopt(&self, group: GroupId, segment: &SegmentSpec) -> bool {
        let Some(kept) = self.groups.get(&group).filter(|_| self.kept_to(group).is_some()) else { return false };
        let topic_partition = kept.log.log().topic_partition();
        let durable = |record: &SegmentRecord| SegmentSpec {
            header: record.start.header(group, topic_partition),
            end: record.end,
            sealed: record.sealed,
        };
        kept.captured.log.segments.iter().map(durable).any(|durable| {
            let is_long_enough = !segment.sealed && segment.end.position <= durable.end.position;
            durable == *segment || durable.header == segment.header && is_long_enough
        })
    }

    /// Whether a group of this number can be [installed](Store::install): nothing is left of an earlier one, or that is kept and
    /// nothing of it is on its way into the journal.
    #[must_use]
    pub fn may_install(&self, group: GroupId) -> bool {
        let is_still = || self.groups.get(&group).is_some_and(|kept| kept.submitted() == 0);
        self.is_gone(group) || self.kept_to(group).is_some() && !self.is_leaving(group) && is_still()
    }

    /// Ends a kept group, which another with these segments replaces.
    pub(super) fn end_kept(&mut self, group: GroupId, segments: &[SegmentSpec]) {
        let Some((_, files)) = self.take_out(group) else { return };
        let is_named = |file: &FileName| segments.iter().any(|segment| segment.file(group) == *file);
        self.removed.extend(files.into_iter().filter(|file| !is_named(file)).map(|file| (group, file)));
        self.end_doubt(group);
        // A file of that name comes.
        self.missing.retain(|(of, _)| *of != group);
    }

    /// Takes a group out: how many of its appends the journal has not made durable, and its files.
    pub(super) fn take_out(&mut self, group: GroupId) -> Option<(usize, Vec<FileName>)> {
        self.ready.remove(&group);
        // Another group of that number may come, whose entries are not these.
        self.kept.retain(|kept| {
            let stays = kept.group != group;
            self.kept_bytes -= if stays { 0 } else { kept.bytes };
            stays
        });
        let mut state = self.groups.remove(&group)?;
        self.backlog.forget(&state);
        self.checkpointing.forget(&mut state);
        self.space.forget(group);
        // The checkpoint under way may still have it, and then names files that must be what it says.
        let is_named = |file: &FileName| self.checkpointing.is_capturing() && state.names(file);
        let still_named: Vec<FileName> = self.dirty.iter().filter(|file| is_named(file)).cloned().collect();
        let submitted = state.submitted();
        let files = state.log.close();
        self.dirty.retain(|file| !files.contains(file));
        self.dirty.extend(still_named);
        Some((submitted, files))
    }
}
