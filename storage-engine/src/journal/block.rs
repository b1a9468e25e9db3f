//! A block before it is written: what was gathered.

use std::{collections::BTreeMap, vec};

use bytes::Bytes;
use levada_protocol::{ids::GroupId, limits::JOURNAL_BLOCK_FRAMES_MAX};

use super::{
    Append, Durable,
    format::{self, BlockId, FRAME_HEADER_BYTES, TABLE_ENTRY_BYTES, Table},
};
use crate::entry::{Entry, HardState};

/// An append of which a part may have been gathered already.
#[derive(Debug)]
pub(super) struct Pending {
    group: GroupId,
    entries: vec::IntoIter<Entry>,
    hard_state: Option<HardState>,
}

impl From<Append> for Pending {
    fn from(append: Append) -> Self {
        Self { group: append.group, entries: append.entries.into_iter(), hard_state: append.hard_state }
    }
}

/// Entries and hard states that are written together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) table: Table,
    pub(super) frames: Vec<(GroupId, Entry)>,
    payload_bytes: usize,
    /// How many appends of each group end in it.
    appends: BTreeMap<GroupId, usize>,
}

impl Block {
    /// From what was read back.
    pub(super) fn from_parts(table: Table, frames: Vec<(GroupId, Entry)>) -> Self {
        let payload_bytes = frames.iter().map(|(_, entry)| entry.payload.len()).sum();
        Self { table, frames, payload_bytes, appends: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The payloads of its entries.
    pub(super) const fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Its length in the file.
    pub(super) fn padded_bytes(&self) -> u64 {
        let bytes = format::block_bytes(self.table.len(), self.frames.len(), self.payload_bytes);
        bytes.next_multiple_of(format::PAGE_BYTES) as u64
    }

    /// Takes over as much of `pending` as fits; true when nothing is left of it. An empty block takes at least one
    /// entry.
    pub(super) fn gather(&mut self, pending: &mut Pending, bytes_max: usize) -> bool {
        while let Some(entry) = pending.entries.as_slice().first() {
            if !self.has_room(pending.group, FRAME_HEADER_BYTES + entry.payload.len(), bytes_max) {
                return false;
            }
            self.frames.extend(pending.entries.next().map(|entry| {
                self.table.entry(pending.group).or_default().cover(entry.index);
                self.payload_bytes += entry.payload.len();
                (pending.group, entry)
            }));
        }
        if let Some(hard_state) = pending.hard_state {
            if !self.has_room(pending.group, 0, bytes_max) {
                return false;
            }
            self.table.entry(pending.group).or_default().hard_state = Some(hard_state);
        }
        *self.appends.entry(pending.group).or_default() += 1;
        true
    }

    fn has_room(&self, group: GroupId, more: usize, bytes_max: usize) -> bool {
        let new_group = !self.table.contains_key(&group);
        let bytes = format::block_bytes(self.table.len(), self.frames.len(), self.payload_bytes)
            + more
            + if new_group { TABLE_ENTRY_BYTES } else { 0 };
        self.is_empty()
            || (bytes <= bytes_max
                && self.frames.len() < JOURNAL_BLOCK_FRAMES_MAX
                && (!new_group || self.table.len() < JOURNAL_BLOCK_FRAMES_MAX))
    }

    pub(super) fn encode(&self, id: &BlockId) -> Vec<Bytes> {
        format::encode(id, &self.table, &self.frames)
    }

    /// What is durable once the block is.
    pub(super) fn durable(&self) -> Vec<Durable> {
        let mut last = BTreeMap::new();
        for (group, entry) in &self.frames {
            last.insert(*group, (entry.index, entry.term));
        }
        let durable = |(group, entry): (&GroupId, &format::TableEntry)| Durable {
            group: *group,
            last: last.get(group).copied(),
            hard_state: entry.hard_state,
            appends: self.appends.get(group).copied().unwrap_or(0),
        };
        self.table.iter().map(durable).collect()
    }
}
