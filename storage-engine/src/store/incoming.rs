//! Becoming a replica of a group that is there already: its segments arrive from another node.
//!
//! 1. A file is written under a name of its own (`.part`), piece by piece ([`Store::write_incoming`]), and when it is
//!    complete it is synced and gets another (`.copy`). Copies survive a restart: [`Store::incoming`] says how long each is,
//!    and whoever fetches reads it again instead. Parts do not: whether a sync of them failed before, nobody knows, and then
//!    what can be read of them is not what is on the disk.
//! 2. When all that a [`Snapshot`] names is there, [`Store::install`] gives the files their names and makes the group. It is
//!    durable with the next checkpoint, not before: until [`super::StoreEvent::Checkpointed`] says so, nothing of the group
//!    may be promised to anybody.
//!
//! A crash before that checkpoint leaves files that nothing names, which the next start removes; the group begins again.
//!
//! **A group id comes back.** A node may lose its replica of a group and get another, with a new replica id. Of the
//! earlier one segments may be left under the same names, and entries in the journal. So a group is installed only when the
//! earlier one is gone ([`Store::is_gone`]), or in its place if it is in doubt (`replacing.rs`), and remembers before which block
//! nothing is its own.

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Group, Job, Lane, Store, StoreEffect, group::Captured, snapshot::Snapshot};
use crate::{
    disk::{Disk, DiskOp, FileName},
    error::OpenError,
    log::{Log, writer::LogWriter},
    segment,
};

const PART: &str = ".part";
pub(super) const COPY: &str = ".copy";
/// A file that arrives is synced whenever it has grown by this.
const SYNC_BYTES: u64 = 4 << 20;

/// Files that arrive, and what is to be done to them.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub(super) files: BTreeMap<(GroupId, LogIndex), File>,
    pub(super) waiting: Vec<(Job, Vec<DiskOp>)>,
}

/// A file that arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    /// How far it is written, or will be by what waits.
    len: u64,
    pub(super) is_complete: bool,
}

impl Incoming {
    /// What a restart finds.
    pub(super) fn found(disk: &dyn Disk) -> Result<Self, OpenError> {
        let mut incoming = Self::default();
        for name in disk.list(segment::DIRECTORY)? {
            if let Some(key) = name.strip_suffix(COPY).and_then(segment::parse_stem) {
                let len = disk.len(&file_name(key, COPY))?.unwrap_or(0);
                incoming.files.insert(key, File { len, is_complete: true });
            } else if name.ends_with(PART) {
                let file = FileName::new(format!("{}/{name}", segment::DIRECTORY));
                incoming.waiting.push((Job::Remove, vec![DiskOp::Remove { file }]));
            }
        }
        Ok(incoming)
    }
}

/// The name of a file while it arrives, or when it has.
pub(super) fn file_name((group, first_index): (GroupId, LogIndex), suffix: &str) -> FileName {
    let name = segment::file_name(group, first_index);
    FileName::new(format!("{}{suffix}", name.as_str().trim_end_matches(".seg")))
}

impl Store {
    /// The copies that are there of a group's segments: first entry and length.
    #[must_use]
    pub fn incoming(&self, group: GroupId) -> BTreeMap<LogIndex, u64> {
        let files = self.incoming.files.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)));
        files.filter(|(_, file)| file.is_complete).map(|((_, first), file)| (*first, file.len)).collect()
    }

    /// The groups for which there are files that arrive or have arrived.
    #[must_use]
    pub fn incoming_groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> = self.incoming.files.keys().map(|(group, _)| *group).collect();
        groups.dedup();
        groups
    }

    /// A copy's file, to be read.
    #[must_use]
    pub fn incoming_file(&self, group: GroupId, first_index: LogIndex) -> FileName {
        file_name((group, first_index), COPY)
    }

    /// Appends to a file that arrives; the first piece makes it. [`super::StoreEvent::Incoming`] follows.
    pub fn write_incoming(&mut self, group: GroupId, first_index: LogIndex, bytes: Bytes) {
        let key = (group, first_index);
        let mut ops = Vec::new();
        let file = self.incoming.files.entry(key).or_insert_with(|| {
            ops.push(DiskOp::Create { file: file_name(key, PART) });
            File { len: 0, is_complete: false }
        });
        debug_assert!(!file.is_complete, "a copy is complete");
        let pos = file.len;
        file.len += bytes.len() as u64;
        let synced = file.len / SYNC_BYTES > pos / SYNC_BYTES;
        ops.push(DiskOp::Write { file: file_name(key, PART), pos, bufs: vec![bytes] });
        if synced {
            // Not all at once at the end: others wait for this lane.
            ops.push(DiskOp::Sync { file: file_name(key, PART) });
        }
        self.incoming.waiting.push((Job::Incoming(group), ops));
    }

    /// Makes a file that has arrived a copy, durably. [`super::StoreEvent::Incoming`] follows.
    pub fn finish_incoming(&mut self, group: GroupId, first_index: LogIndex) {
        let key = (group, first_index);
        if let Some(file) = self.incoming.files.get_mut(&key) {
            file.is_complete = true;
        }
        let dir = segment::DIRECTORY.to_owned();
        let ops = vec![
            DiskOp::Sync { file: file_name(key, PART) },
            DiskOp::Rename { from: file_name(key, PART), to: file_name(key, COPY) },
            DiskOp::SyncDir { dir },
        ];
        self.incoming.waiting.push((Job::Incoming(group), ops));
    }

    /// Removes all files of a group that arrived, or began to.
    pub fn discard_incoming(&mut self, group: GroupId) {
        let files = self.incoming.files.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)));
        for first in files.map(|((_, first), _)| *first).collect::<Vec<_>>() {
            self.discard_incoming_file(group, first);
        }
    }

    /// Removes a file that arrived, or began to.
    pub fn discard_incoming_file(&mut self, group: GroupId, first_index: LogIndex) {
        let key = (group, first_index);
        if self.incoming.files.remove(&key).is_some() {
            let ops = [PART, COPY].map(|suffix| DiskOp::Remove { file: file_name(key, suffix) });
            self.incoming.waiting.push((Job::Remove, ops.into()));
        }
    }

    /// Whether a group was removed, and that may not be durable.
    #[must_use]
    pub fn is_leaving(&self, group: GroupId) -> bool {
        self.leaving.contains_key(&group)
    }

    /// Whether a group is here.
    #[must_use]
    pub fn knows(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Whether nothing is left of a group that was removed: the checkpoint does not know it, and its files are gone.
    #[must_use]
    pub fn is_gone(&self, group: GroupId) -> bool {
        !self.groups.contains_key(&group)
            && !self.removed.iter().any(|(removed, _)| *removed == group)
            && !self.leaving.contains_key(&group)
    }

    /// Makes a group from a snapshot whose files have arrived and are durable. It is in the checkpoint whose number is
    /// answered, and in no earlier one. `adopted` are the first entries of segments that a kept group leaves to it: their files
    /// were read and are what they should be.
    ///
    /// # Panics
    /// If it [may not be](Store::may_install), or a segment has neither arrived nor [may be adopted](Store::may_adopt).
    pub fn install(&mut self, snapshot: Snapshot, adopted: &BTreeSet<LogIndex>) -> (Log, u64) {
        let group = snapshot.group();
        assert!(self.may_install(group), "group {group} is installed while something of it is left");
        let segments = snapshot.segments();
        let mut ops = Vec::new();
        for segment in &segments {
            let key = (group, segment.first_index());
            if adopted.contains(&key.1) {
                assert!(self.may_adopt(group, segment), "segment {} of group {group} is here", key.1);
                continue;
            }
            let file = self.incoming.files.remove(&key);
            assert!(file.is_some_and(|file| file.is_complete), "segment {} of group {group} has arrived", key.1);
            ops.push(DiskOp::Rename { from: file_name(key, COPY), to: segment::file_name(group, key.1) });
        }
        if !segments.is_empty() {
            // Adopted ones may have got their names from a process that was killed right after.
            ops.push(DiskOp::SyncDir { dir: segment::DIRECTORY.to_owned() });
            self.incoming.waiting.push((Job::Remove, ops));
        }
        self.end_kept(group, &segments);
        let hard_state = snapshot.first_hard_state();
        let record = snapshot.record;
        let (disk, tail_bytes) = (Arc::clone(&self.disk), Arc::clone(&self.tail_bytes.followed));
        let (config, suspects) = (self.config.segment, Arc::clone(&self.suspects));
        let log = LogWriter::open(disk, group, record.topic_partition, &record.log, config, tail_bytes, suspects);
        let handle = log.log().clone();
        let mut state = Group::new(log);
        state.hard_state = hard_state;
        // Nothing of an earlier replica is under way; and a block that is may never be, and its number come again.
        state.born = self.journal.synced_lsn();
        state.captured = Captured {
            applied: record.applied,
            log: record.log,
            conf_state: record.conf_state,
            app_state: record.app_state,
        };
        state.first_checkpoint = self.checkpoints + 1 + self.checkpointing.blind();
        let first_checkpoint = state.first_checkpoint;
        self.groups.insert(group, state);
        (handle, first_checkpoint)
    }

    /// Hands out what is to be done to files that arrive.
    pub(super) fn poll_incoming(&mut self, effects: &mut Vec<StoreEffect>) {
        for (job, ops) in std::mem::take(&mut self.incoming.waiting) {
            let effect = self.effect(Lane::Segments, job, ops);
            effects.push(effect);
        }
    }
}
