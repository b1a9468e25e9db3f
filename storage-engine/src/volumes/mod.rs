//! Segments in several directories: one [`Disk`] made of several, so that a node can use several disks.
//!
//! **Where things are.** Journal, checkpoint and all else stand at *home*, the data directory; and so do the segments of
//! the metadata, without which a node cannot know what it has. All other segments, and files that are to become segments,
//! stand at home or in any other directory, each where there was most space when it was made. Names do not say where: two
//! directories never have the same file, and what is where is found out by looking, at the start. So a directory may be
//! moved to another disk, and a file to another directory, while no process has them.
//!
//! **A directory that fails** takes nothing with it that is not elsewhere. Its segments hold committed entries only, and
//! other replicas have the same files; hard states, entries that may still be taken back, and what no checkpoint has yet stand
//! at home. So a replica that lost segments is damaged, like one whose disk forgets bits: it goes on, and its segments come
//! from the other nodes ([`crate::store::Store::take_suspects`]). While the process runs, a failed write or sync is the end of
//! it all the same (fail-stop: what the system took and did not write, nobody knows). But another start, without that
//! directory, recovers as from a crash, and may follow at once if home has not failed ([`Volumes::end`]): else what the page
//! cache shows of the journal may not be there.
//!
//! **A directory that is full** keeps the segments that are written there waiting, and with them the checkpoint that would
//! free it: so each directory has its own reserve (`store/space.rs`).
//!
//! **The same file twice**: `twice.rs`.

mod owner;
mod twice;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use levada_protocol::ids::GroupId;

pub use self::owner::{ALWAYS, Owner, OwnerError, next_start};
use crate::{
    disk::{Disk, DiskError, DiskOp, DiskSpace, FileName},
    segment::{DIRECTORY, parse_stem},
    store::reserve_file,
};

/// A directory.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it is, for people.
    pub path: PathBuf,
    /// What is there.
    pub disk: Arc<dyn Disk>,
    /// The last start, by the data directory's count, at which it was used before this one; [`ALWAYS`] for that directory.
    pub last_used: u64,
}

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct VolumeError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub error: DiskError,
}

/// A data directory whose segments are spread over several directories.
#[derive(Debug)]
pub struct Volumes {
    /// Home, and the others.
    directories: Vec<Volume>,
    places: RwLock<Places>,
    /// Of those that have failed for good.
    failed: Mutex<BTreeSet<Place>>,
    /// Whether nothing is performed any more. Held for reading while something is.
    has_ended: RwLock<bool>,
}

/// A directory by its place among them.
type Place = usize;
const HOME: Place = 0;
/// Free space counts as equal if it differs by less than this part of the most there is.
const ABOUT_EQUAL: u64 = 8;

/// Which segment is where.
#[derive(Debug)]
struct Places {
    files: BTreeMap<FileName, Place>,
    /// How many there are in each directory.
    counts: Vec<usize>,
}

impl Places {
    fn put(&mut self, file: &FileName, place: Place) {
        self.forget(file);
        self.files.insert(file.clone(), place);
        self.counts[place] += 1;
    }

    fn forget(&mut self, file: &FileName) {
        if let Some(place) = self.files.remove(file) {
            self.counts[place] -= 1;
        }
    }
}

impl Volumes {
    /// Looks what is where.
    ///
    /// # Errors
    /// A directory cannot be read or written.
    pub fn open(home: Volume, others: Vec<Volume>) -> Result<Self, VolumeError> {
        let directories: Vec<Volume> = std::iter::once(home).chain(others).collect();
        let places = Places { files: BTreeMap::new(), counts: vec![0; directories.len()] };
        let places = RwLock::new(places);
        let volumes = Self { directories, places, failed: Mutex::default(), has_ended: RwLock::new(false) };
        let mut found: BTreeMap<FileName, Vec<Place>> = BTreeMap::new();
        for (place, Volume { path, disk, .. }) in volumes.directories.iter().enumerate() {
            let failed = |error| VolumeError { path: path.clone(), error };
            if place != HOME {
                disk.perform(&DiskOp::CreateDir { dir: DIRECTORY.to_owned() }).map_err(failed)?;
                disk.perform(&DiskOp::SyncDir { dir: String::new() }).map_err(failed)?;
            }
            for name in disk.list(DIRECTORY).map_err(failed)? {
                found.entry(FileName::new(format!("{DIRECTORY}/{name}"))).or_default().push(place);
            }
        }
        for (file, places) in found {
            let kept = match places[..] {
                [place] => Some(place),
                _ => twice::settle(&volumes.directories, &file, &places)
                    .map_err(|error| VolumeError { path: volumes.directories[HOME].path.clone(), error })?,
            };
            if let Some(kept) = kept {
                volumes.places_mut().put(&file, kept);
            }
        }
        Ok(volumes)
    }

    /// Waits for what is being performed; nothing is from then on. Answers the directories that have failed, if the store can
    /// be opened again at once without them: none if home failed, too.
    #[must_use]
    pub fn end(&self) -> Vec<PathBuf> {
        *self.has_ended.write().unwrap_or_else(PoisonError::into_inner) = true;
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.contains(&HOME) {
            return Vec::new();
        }
        failed.iter().map(|place| self.directories[*place].path.clone()).collect()
    }

    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_mut(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a file is, or would be looked for.
    fn place(&self, file: &FileName) -> Place {
        self.places().files.get(file).copied().unwrap_or(HOME)
    }

    fn disk(&self, file: &FileName) -> &dyn Disk {
        &*self.directories[self.place(file)].disk
    }

    /// Where a new segment goes: to most space, and where that is about equal, to fewest files (many segments begin at once, and
    /// take their space later). What does not say how much it has is not asked to take more.
    fn roomiest(&self) -> Place {
        let free = |place: Place| match self.directories[place].disk.space() {
            Ok(space) => space.map_or(u64::MAX, |space| space.free_bytes),
            Err(_) => 0,
        };
        let counts = self.places().counts.clone();
        let free: Vec<u64> = (0..self.directories.len()).map(free).collect();
        let most = free.iter().copied().max().unwrap_or(0);
        let roomy = (0..free.len()).filter(|place| free[*place] >= most - most / ABOUT_EQUAL);
        roomy.min_by_key(|place| counts[*place]).unwrap_or(HOME)
    }

    fn perform_at(&self, place: Place, op: &DiskOp) -> Result<(), DiskError> {
        let result = self.directories[place].disk.perform(op);
        self.note(place, &result);
        result
    }

    /// Takes note of a failure. Want of memory or descriptors says nothing of a directory.
    fn note<T>(&self, place: Place, result: &Result<T, DiskError>) {
        if result.as_ref().is_err_and(|error| error.is_fatal() && !error.is_want()) {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        }
    }

    fn perform_everywhere(&self, op: &DiskOp) -> Result<(), DiskError> {
        (0..self.directories.len()).try_for_each(|place| self.perform_at(place, op))
    }

    fn create(&self, file: &FileName) -> Result<(), DiskError> {
        let (before, place) = (self.place(file), if is_metadata(file) { HOME } else { self.roomiest() });
        self.perform_at(place, &DiskOp::Create { file: file.clone() })?;
        self.places_mut().put(file, place);
        // It would have been emptied.
        if place == before { Ok(()) } else { self.perform_at(before, &DiskOp::Remove { file: file.clone() }) }
    }

    fn rename(&self, from: &FileName, to: &FileName) -> Result<(), DiskError> {
        let (place, replaced) = (self.place(from), self.place(to));
        self.perform_at(place, &DiskOp::Rename { from: from.clone(), to: to.clone() })?;
        {
            let mut places = self.places_mut();
            places.forget(from);
            places.put(to, place);
        }
        if place != replaced {
            // One of them is there at any time.
            self.perform_at(place, &DiskOp::SyncDir { dir: DIRECTORY.to_owned() })?;
            self.perform_at(replaced, &DiskOp::Remove { file: to.clone() })?;
        }
        Ok(())
    }

    fn remove(&self, file: &FileName) -> Result<(), DiskError> {
        self.perform_at(self.place(file), &DiskOp::Remove { file: file.clone() })?;
        self.places_mut().forget(file);
        Ok(())
    }
}

/// Whether a segment, or a file that is to become one, is of the metadata group.
fn is_metadata(file: &FileName) -> bool {
    let name = file.as_str().rsplit('/').next().unwrap_or_default();
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    parse_stem(stem).is_some_and(|(group, _)| group == GroupId::METADATA)
}

impl Disk for Volumes {
    fn perform(&self, op: &DiskOp) -> Result<(), DiskError> {
        let has_ended = self.has_ended.read().unwrap_or_else(PoisonError::into_inner);
        if *has_ended {
            return Err(DiskError::new(op.call(), op.subject(), &io::Error::other("the store has ended")));
        }
        match op {
            DiskOp::SyncAll => self.perform_everywhere(op),
            DiskOp::CreateDir { dir } | DiskOp::SyncDir { dir } if dir == DIRECTORY => self.perform_everywhere(op),
            DiskOp::CreateDir { .. } | DiskOp::SyncDir { .. } => self.perform_at(HOME, op),
            DiskOp::Create { file } | DiskOp::Preallocate { file, .. } | DiskOp::Remove { file }
                if *file == reserve_file() =>
            {
                self.perform_everywhere(op)
            }
            DiskOp::Create { file } if file.dir() == DIRECTORY => self.create(file),
            DiskOp::Rename { from, to } if from.dir() == DIRECTORY => self.rename(from, to),
            DiskOp::Remove { file } => self.remove(file),
            DiskOp::Rename { from: file, .. }
            | DiskOp::Create { file }
            | DiskOp::ZeroFill { file, .. }
            | DiskOp::Preallocate { file, .. }
            | DiskOp::Write { file, .. }
            | DiskOp::Writeback { file, .. }
            | DiskOp::Sync { file }
            | DiskOp::Truncate { file, .. } => self.perform_at(self.place(file), op),
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        if dir != DIRECTORY {
            return self.directories[HOME].disk.list(dir);
        }
        let mut names = BTreeSet::new();
        for (place, Volume { disk, .. }) in self.directories.iter().enumerate() {
            let found = disk.list(dir);
            self.note(place, &found);
            names.extend(found?);
        }
        Ok(names.into_iter().collect())
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        let place = self.place(file);
        let len = self.directories[place].disk.len(file);
        self.note(place, &len);
        len
    }

    fn read(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        self.disk(file).read(file, pos, len)
    }

    fn read_from_disk(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        self.disk(file).read_from_disk(file, pos, len)
    }

    fn map(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        self.disk(file).map(file, pos, len)
    }

    /// Of the data directory. The journal is there, so a node is full when that is; and as segments go to where most space is,
    /// it fills last.
    fn space(&self) -> Result<Option<DiskSpace>, DiskError> {
        self.directories[HOME].disk.space()
    }
}

#[cfg(test)]
mod tests;
