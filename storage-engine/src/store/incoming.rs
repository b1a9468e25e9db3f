//! Becoming a replica of a group that is there already: its segments arrive from another node.
//!
//! 1. Files are written under names of their own (`.part`), piece by piece ([`Store::write_incoming`]). They survive a
//!    restart: [`Store::incoming`] says how long each is, and whoever fetches reads what is there and goes on behind it.
//! 2. When all that a [`Snapshot`] names is there, checked and synced, [`Store::install`] gives the files their names and
//!    makes the group. It is durable with the next checkpoint, not before: until [`StoreEvent::Checkpointed`] says so, nothing
//!    of the group may be promised to anybody.
//!
//! A crash before that checkpoint leaves files that nothing names, which the next start removes; the group begins again.
//!
//! **A group id comes back.** A node may lose its replica of a group and get another, with a new replica id. Of the
//! earlier one segments may be left under the same names, and entries in the journal. So a group is installed only when the
//! earlier one is gone ([`Store::is_gone`]), and remembers before which block nothing is its own.

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Group, Job, Lane, Store, StoreEffect,
    group::Captured,
    snapshot::Snapshot,
};
use crate::{
    disk::{Disk, DiskOp, FileName},
    error::OpenError,
    log::{Log, writer::LogWriter},
    segment,
};

const SUFFIX: &str = ".part";

/// Files that arrive, and what is to be done to them.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// How far each is written, or will be by what waits.
    files: BTreeMap<(GroupId, LogIndex), u64>,
    waiting: Vec<(Job, Vec<DiskOp>)>,
}

impl Incoming {
    /// What a restart finds.
    pub(super) fn found(disk: &dyn Disk) -> Result<Self, OpenError> {
        let mut files = BTreeMap::new();
        for name in disk.list(segment::DIRECTORY)? {
            let Some(key) = name.strip_suffix(SUFFIX).and_then(segment::parse_stem) else { continue };
            let file = part_file(key);
            files.insert(key, disk.len(&file)?.unwrap_or(0));
        }
        Ok(Self { files, waiting: Vec::new() })
    }
}

/// The name of a file while it arrives.
fn part_file((group, first_index): (GroupId, LogIndex)) -> FileName {
    let name = segment::file_name(group, first_index);
    FileName::new(format!("{}{SUFFIX}", name.as_str().trim_end_matches(".seg")))
}

impl Store {
    /// How much is there of the files that arrive for a group: first entry and length.
    #[must_use]
    pub fn incoming(&self, group: GroupId) -> BTreeMap<LogIndex, u64> {
        let files = self.incoming.files.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)));
        files.map(|((_, first), len)| (*first, *len)).collect()
    }

    /// The groups for which there are such files.
    #[must_use]
    pub fn incoming_groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> = self.incoming.files.keys().map(|(group, _)| *group).collect();
        groups.dedup();
        groups
    }

    /// The file that arrives, to be read: what was written of it and answered.
    #[must_use]
    pub fn incoming_file(&self, group: GroupId, first_index: LogIndex) -> FileName {
        part_file((group, first_index))
    }

    /// Appends to a file that arrives; the first piece makes it. [`super::StoreEvent::Incoming`] follows.
    pub fn write_incoming(&mut self, group: GroupId, first_index: LogIndex, bytes: Bytes) {
        let key = (group, first_index);
        let mut ops = Vec::new();
        let pos = *self.incoming.files.entry(key).or_insert_with(|| {
            ops.push(DiskOp::Create { file: part_file(key) });
            0
        });
        self.incoming.files.insert(key, pos + bytes.len() as u64);
        ops.push(DiskOp::Write { file: part_file(key), pos, bufs: vec![bytes] });
        self.incoming.waiting.push((Job::Incoming(group), ops));
    }

    /// Makes a file that arrives, and its name, durable. [`super::StoreEvent::Incoming`] follows.
    pub fn sync_incoming(&mut self, group: GroupId, first_index: LogIndex) {
        let dir = segment::DIRECTORY.to_owned();
        let ops = vec![DiskOp::Sync { file: part_file((group, first_index)) }, DiskOp::SyncDir { dir }];
        self.incoming.waiting.push((Job::Incoming(group), ops));
    }

    /// Removes a file that arrived, or began to.
    pub fn discard_incoming(&mut self, group: GroupId, first_index: LogIndex) {
        if self.incoming.files.remove(&(group, first_index)).is_some() {
            let ops = vec![DiskOp::Remove { file: part_file((group, first_index)) }];
            self.incoming.waiting.push((Job::Remove, ops));
        }
    }

    /// Whether a group was removed, and that may not be durable.
    #[must_use]
    pub fn is_leaving(&self, group: GroupId) -> bool {
        self.leaving.contains_key(&group)
    }

    /// Whether nothing is left of a group that was removed: the checkpoint does not know it, and its files are gone.
    #[must_use]
    pub fn is_gone(&self, group: GroupId) -> bool {
        !self.groups.contains_key(&group)
            && !self.removed.iter().any(|(removed, _)| *removed == group)
            && !self.leaving.contains_key(&group)
            && self.to_remove.is_empty()
    }

    /// Makes a group from a snapshot whose files have arrived and are durable. It is in the checkpoint whose number is
    /// answered, and in no earlier one.
    ///
    /// # Panics
    /// If something is left of an earlier group of that number.
    pub fn install(&mut self, snapshot: Snapshot) -> (Log, u64) {
        let group = snapshot.group();
        assert!(self.is_gone(group), "group {group} is installed while something of it is left");
        let mut ops = Vec::new();
        for segment in snapshot.segments() {
            let key = (group, segment.first_index());
            assert!(self.incoming.files.remove(&key).is_some(), "segment {} of group {group} has arrived", key.1);
            ops.push(DiskOp::Rename { from: part_file(key), to: segment::file_name(group, key.1) });
        }
        if !ops.is_empty() {
            ops.push(DiskOp::SyncDir { dir: segment::DIRECTORY.to_owned() });
            self.incoming.waiting.push((Job::Remove, ops));
        }
        let hard_state = snapshot.first_hard_state();
        let record = snapshot.record;
        let (disk, tail_bytes) = (Arc::clone(&self.disk), Arc::clone(&self.tail_bytes.followed));
        let log = LogWriter::open(disk, group, record.topic_partition, &record.log, self.config.segment, tail_bytes);
        let handle = log.log().clone();
        let mut state = Group::new(log);
        state.hard_state = hard_state;
        state.born = Lsn(self.journal.next_lsn().get() - 1);
        state.captured = Captured {
            applied: record.applied,
            log: record.log,
            conf_state: record.conf_state,
            app_state: record.app_state,
        };
        self.groups.insert(group, state);
        (handle, self.checkpoints + 1)
    }

    /// Hands out what is to be done to files that arrive.
    pub(super) fn poll_incoming(&mut self, effects: &mut Vec<StoreEffect>) {
        for (job, ops) in std::mem::take(&mut self.incoming.waiting) {
            let effect = self.effect(Lane::Segments, job, ops);
            effects.push(effect);
        }
    }
}
