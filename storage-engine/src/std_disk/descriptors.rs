//! Open descriptors, bounded, least recently used first out.
//!
//! A failed write-back is reported to the descriptors that were open when it happened, so a file that was written but
//! not synced should keep its descriptor: clean ones are closed first. When all are dirty one must go, and its name is
//! remembered: its sync then syncs the whole file system through the root's descriptor, which was open all the time.
//! A file's map goes with its descriptor, so this bounds the maps as well. A file that is written around the page cache
//! has two descriptors, which count as one.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::{disk::FileName, lru::Lru, mmap::FileMap};

/// A file that is open, and its map.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) file: File,
    pub(super) map: FileMap,
    /// The same file, for writes around the page cache; opened with the first of them.
    pub(super) direct: OnceLock<File>,
}

impl Handle {
    pub(super) fn new(file: File) -> Self {
        Self { file, map: FileMap::default(), direct: OnceLock::new() }
    }
}

#[derive(Debug)]
struct Dirty {
    handle: Arc<Handle>,
    /// The number of the last change, to tell what a sync of everything covered.
    change: u64,
}

#[derive(Debug)]
struct Open {
    clean: Lru<FileName, Arc<Handle>>,
    dirty: Lru<FileName, Dirty>,
    closed_dirty: BTreeSet<FileName>,
    changes: u64,
    /// Counts what names were given to other files, so that a file opened meanwhile is not kept under a stale name.
    names: u64,
    count_max: usize,
}

impl Open {
    fn lookup(&mut self, name: &FileName) -> Option<Arc<Handle>> {
        self.dirty.get(name).map(|dirty| &dirty.handle).or_else(|| self.clean.get(name)).cloned()
    }

    fn insert_clean(&mut self, name: &FileName, file: File) -> Arc<Handle> {
        let handle = Arc::new(Handle::new(file));
        self.clean.insert(name.clone(), Arc::clone(&handle));
        self.evict();
        handle
    }

    fn forget(&mut self, name: &FileName) {
        self.names += 1;
        self.clean.remove(name);
        self.dirty.remove(name);
        self.closed_dirty.remove(name);
    }

    fn evict(&mut self) {
        while self.clean.len() + self.dirty.len() > self.count_max {
            if self.clean.pop_oldest().is_none()
                && let Some((name, _)) = self.dirty.pop_oldest()
            {
                self.closed_dirty.insert(name);
            }
        }
    }
}

/// The descriptors of one data directory.
#[derive(Debug)]
pub(super) struct Descriptors {
    root: PathBuf,
    root_dir: File,
    open: Mutex<Open>,
}

impl Descriptors {
    pub(super) fn open(root: &Path, count_max: usize) -> io::Result<Self> {
        let open = Open {
            clean: Lru::new(),
            dirty: Lru::new(),
            closed_dirty: BTreeSet::new(),
            changes: 0,
            names: 0,
            count_max: count_max.max(2),
        };
        Ok(Self { root: root.to_owned(), root_dir: File::open(root)?, open: Mutex::new(open) })
    }

    /// The descriptor of a file that is there.
    pub(super) fn get(&self, name: &FileName) -> io::Result<Arc<Handle>> {
        loop {
            let names = {
                let mut open = self.lock();
                if let Some(handle) = open.lookup(name) {
                    return Ok(handle);
                }
                open.names
            };
            // Outside the lock: opening may wait for the disk.
            let file = OpenOptions::new().read(true).write(true).open(self.root.join(name.as_str()))?;
            let mut open = self.lock();
            if let Some(other) = open.lookup(name) {
                return Ok(other);
            }
            if open.names == names {
                return Ok(open.insert_clean(name, file));
            }
        }
    }

    /// Makes a file, or empties it.
    pub(super) fn create(&self, name: &FileName) -> io::Result<()> {
        let path = self.root.join(name.as_str());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        let handle = {
            let mut open = self.lock();
            open.forget(name);
            open.insert_clean(name, file)
        };
        self.mark_dirty(name, handle);
        Ok(())
    }

    /// Remembers that a file was changed through this descriptor and not synced since.
    pub(super) fn mark_dirty(&self, name: &FileName, handle: Arc<Handle>) {
        let mut open = self.lock();
        open.changes += 1;
        let change = open.changes;
        open.clean.remove(name);
        open.dirty.insert(name.clone(), Dirty { handle, change });
        open.evict();
    }

    /// `fdatasync`.
    pub(super) fn sync(&self, name: &FileName) -> io::Result<()> {
        if self.lock().closed_dirty.contains(name) {
            return self.sync_all();
        }
        let handle = self.get(name)?;
        rustix::fs::fdatasync(&handle.file)?;
        let mut open = self.lock();
        open.dirty.remove(name);
        open.clean.insert(name.clone(), handle);
        open.evict();
        Ok(())
    }

    /// `syncfs`.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        let (covered, closed) = {
            let open = self.lock();
            (open.changes, open.closed_dirty.clone())
        };
        rustix::fs::syncfs(&self.root_dir)?;
        let mut open = self.lock();
        open.closed_dirty.retain(|name| !closed.contains(name));
        for (name, dirty) in open.dirty.extract(|_, dirty| dirty.change <= covered) {
            open.clean.insert(name, dirty.handle);
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &FileName, to: &FileName) {
        let mut open = self.lock();
        let dirty = open.dirty.remove(from);
        let clean = open.clean.remove(from);
        let closed_dirty = open.closed_dirty.remove(from);
        open.forget(to);
        if let Some(dirty) = dirty {
            open.dirty.insert(to.clone(), dirty);
        }
        if let Some(clean) = clean {
            open.clean.insert(to.clone(), clean);
        }
        if closed_dirty {
            open.closed_dirty.insert(to.clone());
        }
    }

    pub(super) fn forget(&self, name: &FileName) {
        self.lock().forget(name);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let open = self.lock();
        (open.clean.len(), open.dirty.len(), open.closed_dirty.len())
    }
}
