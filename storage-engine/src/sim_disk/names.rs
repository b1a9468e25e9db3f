//! The directories of the simulated disk: which names processes see, and which a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};

use super::rng::Rng;
use crate::disk::FileName;

pub(super) type InodeId = u64;

/// One change of a directory that its sync makes durable.
#[derive(Clone, Debug)]
enum Change {
    Dir(String),
    Link(FileName, InodeId),
    Unlink(FileName),
    Move(FileName, FileName, InodeId),
}

impl Change {
    /// The directory whose sync makes it durable.
    fn dir(&self) -> &str {
        match self {
            Self::Dir(dir) => parent(dir),
            Self::Link(name, _) | Self::Unlink(name) | Self::Move(_, name, _) => name.dir(),
        }
    }
}

fn parent(dir: &str) -> &str {
    dir.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[derive(Clone, Debug, Default)]
struct View {
    dirs: BTreeSet<String>,
    files: BTreeMap<FileName, InodeId>,
}

impl View {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Dir(dir) => {
                self.dirs.insert(dir.clone());
            }
            Change::Link(name, inode) => {
                self.files.insert(name.clone(), *inode);
            }
            Change::Unlink(name) => {
                self.files.remove(name);
            }
            Change::Move(from, to, inode) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
        }
    }

    fn has_dir(&self, dir: &str) -> bool {
        dir.is_empty() || (self.dirs.contains(dir) && self.has_dir(parent(dir)))
    }
}

/// Names: live, durable, and the changes between the two in the order they were made.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: View,
    durable: View,
    pending: Vec<Change>,
}

impl Names {
    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push(change);
    }

    pub(super) fn lookup(&self, name: &FileName) -> Option<InodeId> {
        self.live.files.get(name).copied()
    }

    pub(super) fn has_dir(&self, dir: &str) -> bool {
        self.live.has_dir(dir)
    }

    pub(super) fn list(&self, dir: &str) -> Vec<String> {
        let here = self.live.files.keys().filter(|name| name.dir() == dir);
        here.filter_map(|name| name.as_str().rsplit('/').next()).map(str::to_owned).collect()
    }

    pub(super) fn make_dir(&mut self, dir: &str) {
        if !self.live.has_dir(dir) {
            self.make_dir(parent(dir));
            self.change(Change::Dir(dir.to_owned()));
        }
    }

    pub(super) fn link(&mut self, name: &FileName, inode: InodeId) {
        self.change(Change::Link(name.clone(), inode));
    }

    pub(super) fn unlink(&mut self, name: &FileName) {
        self.change(Change::Unlink(name.clone()));
    }

    pub(super) fn rename(&mut self, from: &FileName, to: &FileName, inode: InodeId) {
        self.change(Change::Move(from.clone(), to.clone(), inode));
    }

    pub(super) fn sync_dir(&mut self, dir: &str) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let synced = change.dir() == dir;
            if synced {
                durable.apply(change);
            }
            !synced
        });
    }

    pub(super) fn sync_all(&mut self) {
        self.pending.clear();
        self.durable = self.live.clone();
    }

    /// What a power cut leaves: each change is there or not, independently of the others.
    pub(super) fn crash(&mut self, kept_percent: u8, rng: &mut Rng) {
        for change in std::mem::take(&mut self.pending) {
            if rng.chance(kept_percent) {
                self.durable.apply(&change);
            }
        }
        let View { dirs, files } = &self.durable;
        let reachable = View { dirs: dirs.clone(), files: BTreeMap::new() };
        let files = files.iter().filter(|(name, _)| reachable.has_dir(name.dir()));
        let files = files.map(|(name, inode)| (name.clone(), *inode)).collect();
        let dirs = dirs.iter().filter(|dir| reachable.has_dir(dir)).cloned().collect();
        self.durable = View { dirs, files };
        self.live = self.durable.clone();
    }

    /// The inodes that a name leads to, now or after a power cut.
    pub(super) fn inodes(&self) -> BTreeSet<InodeId> {
        let pending = self.pending.iter().filter_map(|change| match change {
            Change::Link(_, inode) | Change::Move(_, _, inode) => Some(*inode),
            Change::Dir(_) | Change::Unlink(_) => None,
        });
        self.live.files.values().chain(self.durable.files.values()).copied().chain(pending).collect()
    }
}
