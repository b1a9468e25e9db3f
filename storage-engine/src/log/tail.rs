//! The end of a log, in memory: what no segment has yet, and for a while what one has.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use levada_protocol::{
    batch::BatchIter,
    ids::{LogIndex, Offset},
};

use crate::{
    codec::to_usize,
    entry::{Entry, EntryKind},
    payload::Summary,
    planted::{self, Planted},
    segment::reader::Batches,
};

/// What an entry takes in memory besides its payload, about.
const ENTRY_OVERHEAD_BYTES: u64 = 192;

/// What an entry counts for in a budget of memory.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    entry.payload.len() as u64 + ENTRY_OVERHEAD_BYTES
}

/// An entry, and the offsets around it.
#[derive(Clone, Debug)]
pub(crate) struct TailEntry {
    pub(crate) entry: Entry,
    pub(crate) base_offset: Offset,
    pub(crate) summary: Summary,
}

/// A log's last entries, in order and without gaps.
#[derive(Debug)]
pub(crate) struct Tail {
    entries: VecDeque<TailEntry>,
    /// The entry that comes after the last, and its offset.
    next: (LogIndex, Offset),
    /// What this one takes in memory, and what all tails do that count there.
    bytes: u64,
    budget: Arc<AtomicU64>,
}

impl Tail {
    /// An empty tail behind a log that ends before this entry.
    pub(crate) const fn new(next: (LogIndex, Offset), budget: Arc<AtomicU64>) -> Self {
        Self { entries: VecDeque::new(), next, bytes: 0, budget }
    }

    /// From now on it counts there.
    pub(crate) fn count_in(&mut self, budget: &Arc<AtomicU64>) {
        budget.fetch_add(self.bytes, Ordering::Relaxed);
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget = Arc::clone(budget);
    }

    fn take(&mut self, entry: &Entry) {
        self.bytes += entry_bytes(entry);
        self.budget.fetch_add(entry_bytes(entry), Ordering::Relaxed);
    }

    fn give_back(&mut self, entry: &Entry) {
        self.bytes -= entry_bytes(entry);
        self.budget.fetch_sub(entry_bytes(entry), Ordering::Relaxed);
    }

    /// The index of the first entry that is here; the next one when there is none.
    pub(crate) fn first_index(&self) -> LogIndex {
        self.entries.front().map_or(self.next.0, |first| first.entry.index)
    }

    /// The offset that the tail starts at.
    pub(crate) fn base_offset(&self) -> Offset {
        self.entries.front().map_or(self.next.1, |first| first.base_offset)
    }

    /// The offset that follows the last entry.
    pub(crate) const fn next_offset(&self) -> Offset {
        self.next.1
    }

    pub(crate) fn push(&mut self, entry: Entry, summary: Summary) {
        assert_eq!(entry.index, self.next.0, "entries of a log have no gaps");
        self.take(&entry);
        let base_offset = self.next.1;
        self.next = (entry.index.next(), summary.next_offset);
        self.entries.push_back(TailEntry { entry, base_offset, summary });
    }

    /// Drops the entries from `index` on.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) {
        while let Some(last) = self.entries.pop_back_if(|last| last.entry.index >= index) {
            self.next = (last.entry.index, last.base_offset);
            self.give_back(&last.entry);
        }
    }

    /// Drops the entries up to `index`.
    pub(crate) fn release(&mut self, index: LogIndex) {
        while let Some(first) = self.entries.pop_front_if(|first| first.entry.index <= index) {
            self.give_back(&first.entry);
        }
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&TailEntry> {
        let at = index.get().checked_sub(self.first_index().get())?;
        self.entries.get(to_usize(at))
    }

    /// The entries from `index` on.
    pub(crate) fn from(&self, index: LogIndex) -> impl Iterator<Item = &TailEntry> {
        let at = index.get().saturating_sub(self.first_index().get());
        self.entries.range(to_usize(at).min(self.entries.len())..)
    }

    /// The payloads that hold batches from `offset` on, at least one and enough for `max_bytes`.
    pub(crate) fn payloads(&self, offset: Offset, max_bytes: usize) -> Vec<Bytes> {
        let first = self.entries.partition_point(|entry| entry.summary.next_offset <= offset);
        let entries = self.entries.range(first..).filter(|entry| entry.entry.kind == EntryKind::Batches);
        let mut bytes = 0;
        let enough = entries.take_while(|entry| {
            let is_wanted = bytes <= max_bytes;
            // The first may hold batches below the offset, which do not count.
            bytes += if entry.base_offset < offset { 0 } else { entry.entry.payload.len() };
            is_wanted
        });
        enough.map(|entry| entry.entry.payload.clone()).collect()
    }

    /// The base offset of the first batch with a timestamp of at least `timestamp_ms`, among those that end behind
    /// `min_offset` and not behind `max_offset`.
    pub(crate) fn offset_for_time(&self, timestamp_ms: i64, min_offset: Offset, max_offset: Offset) -> Option<Offset> {
        let late = self.entries.iter().filter(|entry| entry.summary.max_timestamp_ms >= timestamp_ms);
        let mut headers = late.flat_map(|entry| BatchIter::packed(&entry.entry.payload).flatten()).map(|b| b.header);
        let found = headers.find(|h| h.max_timestamp_ms >= timestamp_ms && h.next_offset() > min_offset)?;
        (found.next_offset() <= max_offset).then_some(found.base_offset)
    }
}

/// Of these payloads, the batches from the one that contains `offset`, up to `max_bytes` but at least one, of those that
/// end before `max_offset`.
pub(crate) fn pick(payloads: &[Bytes], offset: Offset, max_bytes: usize, max_offset: Offset) -> Batches {
    let mut read = Batches { next_offset: offset, ..Batches::default() };
    for payload in payloads {
        for batch in BatchIter::packed(payload).flatten() {
            let next_offset = batch.header.next_offset();
            if next_offset <= offset {
                continue;
            }
            let is_beyond = next_offset > max_offset && !planted::is(Planted::ReadsPastHighWatermark);
            if !read.has_room(batch.bytes.len(), max_bytes) || is_beyond {
                return read;
            }
            read.push(payload.slice_ref(batch.bytes), next_offset);
        }
    }
    read
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.budget.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
