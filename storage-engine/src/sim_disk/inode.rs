//! A file of the simulated disk: what the processes see and what the platter holds, in sectors.

use std::{collections::BTreeSet, sync::Arc};

use super::{crash::CrashPlan, dirty::Dirty, rng::Rng};

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// Bytes in sectors that are shared between copies; a missing sector is zeros.
#[derive(Clone, Debug, Default)]
struct Content {
    len: u64,
    sectors: Vec<Option<Arc<Sector>>>,
}

impl Content {
    fn get(&self, sector: usize) -> Option<&Arc<Sector>> {
        self.sectors.get(sector)?.as_ref()
    }

    fn set(&mut self, sector: usize, content: Option<Arc<Sector>>) {
        if sector >= self.sectors.len() {
            if content.is_none() {
                return;
            }
            self.sectors.resize(sector + 1, None);
        }
        self.sectors[sector] = content;
    }

    fn sector_mut(&mut self, sector: usize) -> &mut Sector {
        if sector >= self.sectors.len() {
            self.sectors.resize(sector + 1, None);
        }
        Arc::make_mut(self.sectors[sector].get_or_insert_with(|| Arc::new([0; SECTOR_BYTES])))
    }

    /// A sector gets other content as a whole: what it had is not copied first.
    fn put(&mut self, sector: usize, content: &Sector) {
        if sector >= self.sectors.len() {
            self.sectors.resize(sector + 1, None);
        }
        let slot = &mut self.sectors[sector];
        match slot.as_mut().and_then(Arc::get_mut) {
            Some(old) => old.copy_from_slice(content),
            None => *slot = Some(Arc::new(*content)),
        }
    }

    /// Sets the length; bytes beyond it are zeros should it grow again.
    fn cut(&mut self, len: u64) {
        self.len = len;
        let (sector, within) = split(len);
        self.sectors.truncate(sector + usize::from(within > 0));
        if within > 0 && self.get(sector).is_some() {
            self.sector_mut(sector)[within..].fill(0);
        }
    }
}

fn split(pos: u64) -> (usize, usize) {
    let pos = usize::try_from(pos).unwrap_or(usize::MAX);
    (pos / SECTOR_BYTES, pos % SECTOR_BYTES)
}

/// A file: `live` is what reads see, `durable` what a power cut leaves for sure.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    live: Content,
    durable: Content,
    /// Sectors that the next sync writes. After a failed one the live content of others may differ from the durable.
    dirty: Dirty,
    unreadable: BTreeSet<usize>,
    reserved: u64,
}

impl Inode {
    pub(super) const fn len(&self) -> u64 {
        self.live.len
    }

    /// Space it takes, in bytes.
    pub(super) fn space(&self) -> u64 {
        self.live.len.max(self.reserved).next_multiple_of(SECTOR_BYTES as u64)
    }

    pub(super) fn reserve(&mut self, len: u64) {
        self.reserved = self.reserved.max(len);
    }

    pub(super) fn read(&self, pos: u64, len: usize) -> Option<Vec<u8>> {
        let end = pos.saturating_add(len as u64).min(self.live.len);
        let mut bytes = Vec::with_capacity(usize::try_from(end.saturating_sub(pos)).unwrap_or(0));
        if pos < end && self.unreadable.range(split(pos).0..=split(end - 1).0).next().is_some() {
            return None;
        }
        let mut pos = pos;
        while pos < end {
            let (sector, within) = split(pos);
            let until = SECTOR_BYTES.min(within + usize::try_from(end - pos).unwrap_or(SECTOR_BYTES));
            match self.live.get(sector) {
                Some(content) => bytes.extend_from_slice(&content[within..until]),
                None => bytes.resize(bytes.len() + until - within, 0),
            }
            pos += (until - within) as u64;
        }
        Some(bytes)
    }

    pub(super) fn write(&mut self, pos: u64, mut bytes: &[u8]) {
        let mut pos = pos;
        while !bytes.is_empty() {
            let (sector, within) = split(pos);
            let piece = bytes.len().min(SECTOR_BYTES - within);
            match bytes.first_chunk() {
                Some(whole) if within == 0 => self.live.put(sector, whole),
                _ => self.live.sector_mut(sector)[within..within + piece].copy_from_slice(&bytes[..piece]),
            }
            self.dirty.insert(sector);
            self.unreadable.remove(&sector);
            pos += piece as u64;
            bytes = &bytes[piece..];
        }
        self.live.len = self.live.len.max(pos);
    }

    pub(super) fn write_zeros(&mut self, len: u64) {
        self.truncate(0);
        let sectors = split(len.next_multiple_of(SECTOR_BYTES as u64)).0;
        self.dirty.extend(0..sectors);
        self.unreadable.clear();
        self.live.len = len;
    }

    pub(super) fn truncate(&mut self, len: u64) {
        let first = split(len).0;
        let count = self.live.sectors.len().max(self.durable.sectors.len());
        self.dirty.extend(first..count.max(first));
        self.live.cut(len);
        self.reserved = self.reserved.min(len);
    }

    pub(super) fn sync(&mut self) {
        let Self { live, durable, dirty, .. } = self;
        dirty.drain(|sector| durable.set(sector, live.get(sector).cloned()));
        durable.len = live.len;
    }

    /// A sync that failed, as on Linux: some of it reached the platter, the rest counts as clean and never will. Some
    /// file systems forget the rest at once, others show it until the page leaves the cache, here at the next crash.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        let Self { live, durable, dirty, .. } = self;
        dirty.drain(|sector| {
            if rng.chance(50) {
                durable.set(sector, live.get(sector).cloned());
            }
        });
        if rng.chance(50) {
            self.durable.cut(self.live.len);
        }
        if rng.chance(50) {
            self.live = self.durable.clone();
        }
    }

    /// What a power cut leaves: of every sector that was not synced the new content, the old, or neither.
    pub(super) fn crash(&mut self, plan: &CrashPlan, rng: &mut Rng) {
        let (old, new) = (self.durable.len, self.live.len);
        let len = match rng.below(4) {
            _ if plan.kept_percent == 100 => new,
            _ if plan.kept_percent == 0 => old,
            0 => old,
            1 => old.min(new) + rng.below(old.abs_diff(new)),
            _ => new,
        };
        let Self { live, durable, dirty, .. } = self;
        dirty.drain(|sector| {
            if rng.chance(plan.kept_percent) {
                durable.set(sector, live.get(sector).cloned());
            } else if rng.chance(plan.garbage_percent) {
                // Bytes that were to stay as they were do: no disk is known to harm them (SQLite's powersafe overwrite).
                let old = durable.get(sector).map_or([0; SECTOR_BYTES], |content| **content);
                let new = live.get(sector).map_or([0; SECTOR_BYTES], |content| **content);
                let torn = durable.sector_mut(sector);
                for i in 0..SECTOR_BYTES {
                    torn[i] = if old[i] == new[i] { old[i] } else { rng.byte() };
                }
            }
        });
        self.durable.cut(len);
        self.live = self.durable.clone();
        self.reserved = 0;
    }

    pub(super) fn flip_bit(&mut self, pos: u64, bit: u8) {
        let (sector, within) = split(pos);
        for content in [&mut self.live, &mut self.durable] {
            content.sector_mut(sector)[within] ^= 1 << (bit % 8);
        }
    }

    pub(super) fn make_unreadable(&mut self, pos: u64, len: u64) {
        let last = split((pos + len).next_multiple_of(SECTOR_BYTES as u64)).0;
        self.unreadable.extend(split(pos).0..last);
    }

    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }
}
