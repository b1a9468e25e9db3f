//! Making a checkpoint, step by step, while everything else goes on.
//!
//! 1. *Begin*: the owner says, for groups that moved, up to where they applied and what their states are. These groups'
//!    segments stop there for a moment.
//! 2. *Capture*: as soon as a group's segments are written up to there, its record is taken and its segments go on.
//! 3. *Write*: when all are captured, one list of operations for the segments' lane: sync the segments, then replace the
//!    checkpoint. What was written before is in order before it.
//! 4. *Durable*: the journal recycles what no group needs, and the files go that the checkpoint does not name.
//!
//! What the owner says when it begins is one cut through all groups: the state of one may speak of another. So a group that
//! is [installed](Store::install) after that is not in this checkpoint, and one that is removed after that still is.
//!
//! A group that *rests* has got nothing since the last checkpoint, or since it was made, but a few empty entries of new
//! leaders. No checkpoint writes them to a segment, or makes one for them: it leaves the group as it was, and the journal
//! keeps the entries. So a restart touches no file of a group that is idle.
//!
//! A group that is stuck (its quorum is lost, say) keeps entries that no segment may have, and with them the journal's
//! oldest file. When that holds back too much, the group's entries are written to the journal once more. No checkpoint is
//! written while that is under way: so the entries are in the journal as a whole, at the old place or at the new.

use std::collections::BTreeMap;

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn};

use super::{
    GroupCheckpoint, Job, Lane, Store, StoreEffect, StoreEvent,
    group::{Captured, Group},
};
use crate::{
    checkpoint::{Checkpoint, GroupRecord},
    disk::{DiskOp, FileName},
    journal::Doubt,
    planted::{self, Planted},
    segment,
};

/// How far the checkpoint under way is.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Waits for these groups' segments.
    Capturing {
        waiting: BTreeMap<GroupId, (Bytes, Bytes)>,
        /// Groups that were removed since it began.
        removed: Vec<GroupRecord>,
        /// The first block that one of them needs: if the power goes, they are there once more.
        removed_need: Option<Lsn>,
        /// As it was when it began.
        doubt: Doubt,
    },
    /// With the disk.
    Writing { lsn: Lsn, replay_from: Lsn, unnamed: Vec<FileName> },
}

/// The checkpoint under way.
#[derive(Debug, Default)]
pub(super) struct Checkpointing {
    stage: Stage,
    /// What the journal had taken when the last one began.
    began_at_bytes: u64,
    /// The last block that the last checkpoint covers.
    lsn: Lsn,
    /// What the last checkpoint left of the journal, in whole files.
    left_bytes: u64,
}

impl Checkpointing {
    /// A group is gone, which stands here.
    pub(super) fn forget(&mut self, group: &mut Group) {
        if let Stage::Capturing { waiting, removed, removed_need, .. } = &mut self.stage {
            waiting.remove(&group.id());
            removed.push(record(group));
            *removed_need = removed_need.iter().copied().chain(group.needed_lsn()).min();
        }
    }

    /// Whether it is being found out what the checkpoint under way says.
    pub(super) const fn is_capturing(&self) -> bool {
        matches!(self.stage, Stage::Capturing { .. })
    }

    /// How many checkpoints from now on, the one under way included, do not know what happens now.
    pub(super) const fn blind(&self) -> u64 {
        match self.stage {
            Stage::Capturing { .. } => 1,
            Stage::Idle | Stage::Writing { .. } => 0,
        }
    }

    /// Captures a group if it is waited for and ready; answers whether it did.
    pub(super) fn try_capture(&mut self, group: &mut Group) -> bool {
        let Stage::Capturing { waiting, .. } = &mut self.stage else { return false };
        let id = group.id();
        if waiting.contains_key(&id)
            && let Some(log) = group.log.capture()
            && let Some((conf_state, app_state)) = waiting.remove(&id)
        {
            let applied = LogIndex(log.end().index.get() - 1);
            group.captured = Captured { applied, log, conf_state, app_state };
            group.is_outdated = false;
            return true;
        }
        false
    }
}

impl Store {
    /// Whether enough went into the journal since the last checkpoint began, it has more files than it keeps, or it finds no space
    /// for another, and no checkpoint is under way.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        let written_bytes = self.journal.written_bytes() - self.checkpointing.began_at_bytes;
        // Each start takes another file, however little is written between two.
        let kept_bytes = self.config.journal.file_bytes * self.config.journal.files_keep as u64;
        let is_due = written_bytes >= self.config.checkpoint_bytes
            || self.holds_journal_beyond(kept_bytes)
            || self.is_checkpoint_the_way_out();
        !self.is_checkpointing() && is_due
    }

    /// Whether a checkpoint would free space: there are files that no log has any more, and that the last one may still name, or the
    /// journal has taken another file since.
    #[must_use]
    pub fn checkpoint_frees(&self) -> bool {
        !self.removed.is_empty() || self.holds_journal_beyond(self.config.journal.file_bytes)
    }

    /// Whether the journal needs more files than these, and than the last checkpoint could not free.
    fn holds_journal_beyond(&self, bytes: u64) -> bool {
        self.journal.used_bytes() > bytes.max(self.checkpointing.left_bytes)
    }

    /// Whether the group's applied state is another than the last checkpoint has: the next one must name it. A group
    /// that rests, none needs to.
    #[must_use]
    pub fn has_moved(&self, group: GroupId, applied: LogIndex) -> bool {
        let has_moved = |group: &Group| (group.captured.applied != applied || group.is_outdated) && !group.rests();
        self.groups.get(&group).is_some_and(has_moved)
    }

    /// What the next checkpoint says of a group is something new, though its applied state is the same: its membership is.
    pub fn recapture(&mut self, group: GroupId) {
        if let Some(state) = self.groups.get_mut(&group) {
            state.is_outdated = true;
        }
    }

    /// Whether a checkpoint is under way.
    #[must_use]
    pub const fn is_checkpointing(&self) -> bool {
        !matches!(self.checkpointing.stage, Stage::Idle)
    }

    /// Begins a checkpoint. Groups that are not named stay as the last one has them. Without effect while one is under
    /// way.
    ///
    /// # Panics
    /// If a group is not there, or `applied` is not what was last given to [`Store::commit`].
    pub fn begin_checkpoint(&mut self, groups: Vec<GroupCheckpoint>) {
        if self.is_checkpointing() {
            return;
        }
        let mut waiting = BTreeMap::new();
        for checkpoint in groups {
            let group = self.group(checkpoint.group);
            assert_eq!(
                group.log.committed(),
                checkpoint.applied,
                "group {}: applied is what was committed",
                checkpoint.group
            );
            if group.rests() {
                continue;
            }
            group.log.hold(checkpoint.applied);
            self.ready.insert(checkpoint.group);
            waiting.insert(checkpoint.group, (checkpoint.conf_state, checkpoint.app_state));
        }
        self.checkpointing.began_at_bytes = self.journal.written_bytes();
        self.checkpoint_begins();
        let doubt = self.doubt.clone();
        self.checkpointing.stage = Stage::Capturing { waiting, removed: Vec::new(), removed_need: None, doubt };
    }

    /// Writes the checkpoint once everything is captured.
    pub(super) fn poll_checkpoint(&mut self, effects: &mut Vec<StoreEffect>) {
        let Stage::Capturing { waiting, removed, removed_need, doubt } = &mut self.checkpointing.stage else { return };
        if !waiting.is_empty() || self.groups.values().any(Group::is_submitted_again) {
            return;
        }
        let (removed, removed_need, doubt) = (std::mem::take(removed), *removed_need, doubt.clone());
        let lsn = self.journal.synced_lsn();
        let needed = self.groups.values_mut().filter_map(Group::needed_lsn).chain(removed_need).min();
        let replay_from = needed.map_or(Lsn(lsn.get() + 1), |needed| needed.min(Lsn(lsn.get() + 1)));
        self.checkpoints += 1;
        let number = self.checkpoints;
        let known = self.groups.values().filter(|group| group.first_checkpoint <= number).map(record);
        let groups: Vec<GroupRecord> = known.chain(removed.iter().cloned()).collect();
        // What is not replayed any more needs no excuse.
        let accounted = if self.accounted >= replay_from { self.accounted } else { Lsn(0) };
        let directory = self.identity.incarnation;
        let checkpoint = Checkpoint { directory, lsn, replay_from, doubt, accounted, groups };
        let mut ops = self.sync_segments();
        ops.extend(checkpoint.write());
        effects.push(self.effect(Lane::Segments, Job::Checkpoint, ops));
        let unnamed = self.unnamed(&removed);
        self.checkpointing.stage = Stage::Writing { lsn, replay_from, unnamed };
        if planted::is(Planted::RecycledTooSoon) {
            self.journal.recycle(replay_from);
        }
    }

    /// The number of the last checkpoint that is durable.
    pub(super) const fn checkpoints_durable(&self) -> u64 {
        let is_written = matches!(self.checkpointing.stage, Stage::Writing { .. });
        self.checkpoints - is_written as u64
    }

    /// The checkpoint under way is durable.
    pub(super) fn checkpoint_durable(&mut self) -> StoreEvent {
        let Stage::Writing { lsn, replay_from, unnamed } = std::mem::take(&mut self.checkpointing.stage) else {
            unreachable!("a checkpoint that is durable was written");
        };
        let number = self.checkpoints;
        self.leaving.retain(|_, leaving| leaving.until > number || leaving.submitted > 0);
        self.journal.recycle(replay_from);
        self.checkpointing.left_bytes = self.journal.used_bytes();
        self.to_remove.extend(unnamed);
        let before = std::mem::replace(&mut self.checkpointing.lsn, lsn);
        self.unstick(before);
        StoreEvent::Checkpointed { number }
    }

    /// Of the files that no log has any more, those that the checkpoint does not name either. It still does where it has
    /// a group as it stood before.
    fn unnamed(&mut self, still_named: &[GroupRecord]) -> Vec<FileName> {
        let groups = &self.groups;
        let is_unnamed = |(group, file): &mut (GroupId, FileName)| {
            !groups.get(group).is_some_and(|g| g.names(file))
                && !still_named.iter().any(|record| record.group == *group)
        };
        self.removed.extract_if(.., is_unnamed).map(|(_, file)| file).collect()
    }

    /// Removes files that nothing names any more.
    pub(super) fn poll_removal(&mut self, effects: &mut Vec<StoreEffect>) {
        if self.to_remove.is_empty() {
            return;
        }
        let ops = self.to_remove.drain(..).map(|file| DiskOp::Remove { file }).collect();
        effects.push(self.effect(Lane::Segments, Job::Remove, ops));
    }

    /// Everything that was written to segments becomes durable, and so do their names.
    fn sync_segments(&mut self) -> Vec<DiskOp> {
        let dirty = std::mem::take(&mut self.dirty);
        if planted::is(Planted::SegmentsNotSynced) {
            return Vec::new();
        }
        let mut ops = if dirty.len() > self.config.sync_files_max {
            vec![DiskOp::SyncAll]
        } else {
            dirty.into_iter().map(|file| DiskOp::Sync { file }).collect()
        };
        if std::mem::take(&mut self.dirty_names) {
            ops.push(DiskOp::SyncDir { dir: segment::DIRECTORY.to_owned() });
        }
        ops
    }

    /// Groups that needed a block up to `before` for all the time since then get their entries a new place: those that rest, as
    /// no checkpoint will have their entries, and all of them if too much of the journal is held back.
    fn unstick(&mut self, before: Lsn) {
        let held_bytes = self.journal.used_bytes();
        let too_much = held_bytes > self.config.journal_held_bytes_max;
        for group in self.groups.values_mut() {
            let is_stuck = group.needed_lsn().is_some_and(|needed| needed <= before);
            let is_written_again = is_stuck && (too_much || group.rests()) && group.submit_again(&mut self.journal);
            if is_written_again && too_much {
                tracing::info!(group = %group.id(), held_bytes, "journal.held: entries that hold it back are written again");
            }
        }
    }
}

/// A group for the checkpoint.
pub(super) fn record(group: &Group) -> GroupRecord {
    let Captured { applied, log, conf_state, app_state } = group.captured.clone();
    GroupRecord {
        group: group.id(),
        topic_partition: group.log.log().topic_partition(),
        hard_state: group.hard_state,
        applied,
        born: group.born,
        log,
        conf_state,
        app_state,
    }
}
