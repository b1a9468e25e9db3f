//! Reading the journal back: what must be there, what may be there, and what is in doubt.
#![deny(clippy::indexing_slicing)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, Lsn, Offset};

use super::{
    JournalId,
    block::Block,
    files::Files,
    format::Table,
    plan::{Plan, plan},
    survey::{Found, load, survey},
};
use crate::{
    disk::{Disk, DiskError, FileName},
    entry::{Entry, HardState},
    payload,
    planted::{self, Planted},
};

/// Where replay starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayStart {
    /// The first block that is needed; what lies below is covered by the checkpoint. 0 and 1 both mean from the start.
    pub lsn: Lsn,
    /// A block that is known to have been durable ([`JournalWriter::synced_lsn`](super::JournalWriter::synced_lsn) when
    /// the checkpoint was written); 0 when nothing is known.
    pub synced: Lsn,
}

/// Why the journal cannot be replayed now. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A later release wrote it.
    #[error(
        "{file} is in format {version}, which this release does not know; start the release that wrote it, or a later one"
    )]
    LaterVersion {
        /// The file.
        file: FileName,
        /// Its format.
        version: u16,
    },
    /// A block that could be read cannot be read any more.
    #[error("block {lsn} in {file} was whole a moment ago and is not any more: check the disk")]
    Unstable {
        /// The block.
        lsn: Lsn,
        /// Its file.
        file: FileName,
    },
}

/// A block that was durable once and is not there, or not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedBlock {
    /// The block, or the first of several.
    pub lsn: Lsn,
    /// The last of them.
    pub last: Lsn,
    /// Where it stands, if its header is sound.
    pub place: Option<(FileName, u64)>,
    /// The groups that had something in it; `None` when that is not known.
    pub groups: Option<Vec<GroupId>>,
}

impl fmt::Display for DamagedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "journal block {}", self.lsn)?;
        if self.last > self.lsn {
            write!(f, " to {}", self.last)?;
        }
        match &self.place {
            Some((file, pos)) => write!(f, " in {file} at byte {pos} is damaged")?,
            None => write!(f, " is missing")?,
        }
        match &self.groups {
            Some(groups) if groups.len() == 1 => write!(f, "; it held entries of 1 group"),
            Some(groups) => write!(f, "; it held entries of {} groups", groups.len()),
            None => write!(f, "; whose entries it held is not known"),
        }
    }
}

/// Which groups may have lost something that was acknowledged. They must not vote, acknowledge or campaign, and are
/// replaced under new replica ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// None: the journal is sound.
    None,
    /// These.
    Groups(BTreeSet<GroupId>),
    /// All groups of this directory.
    All,
}

impl Doubt {
    /// Whether it is about this group, there or not.
    #[must_use]
    pub fn covers(&self, group: GroupId) -> bool {
        match self {
            Self::None => false,
            Self::Groups(groups) => groups.contains(&group),
            Self::All => true,
        }
    }
}

/// A block that was read back.
///
/// Apply it entry by entry. An entry that the log already has, with index *and* term, changes nothing (entries are written
/// again when they hold up recycling); one with an index the log has under another term replaces it and all above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayedBlock {
    /// Its number.
    pub lsn: Lsn,
    /// Its entries in the order they were submitted. The payloads hold no other memory alive.
    pub entries: Vec<(GroupId, Entry)>,
    /// The hard states, valid with the entries.
    pub hard_states: Vec<(GroupId, HardState)>,
}

/// Where the writer goes on.
#[derive(Debug)]
pub struct JournalEnd {
    pub(super) journal: JournalId,
    pub(super) next_lsn: Lsn,
    pub(super) files: Files,
    pub(super) tail: Option<Block>,
}

/// A replay in progress: everything has been looked at, blocks are read one by one.
#[derive(Debug)]
pub struct Replay<'a> {
    disk: &'a dyn Disk,
    journal: JournalId,
    found: Vec<Found>,
    plan: Plan,
    next: usize,
    tail: Option<Block>,
    files: Files,
    /// Damaged blocks that a group had something in, in order: from the first of them on nothing of it is handed out.
    doubted: BTreeMap<GroupId, Vec<Lsn>>,
    /// The same of any group: blocks that nobody knows the groups of, in order, each with the last of its kind.
    doubted_all: Vec<(Lsn, Lsn)>,
    /// Such blocks that were accounted for, from the first of them: nothing up to the end is handed out. All groups that had
    /// anything in there were put in doubt by name, so nobody lacks it.
    accounted: Option<RangeInclusive<Lsn>>,
    /// Where the records end that groups in doubt have behind the damage.
    beyond: BTreeMap<GroupId, Offset>,
}

impl<'a> Replay<'a> {
    /// Looks at the whole journal and decides what counts.
    ///
    /// # Errors
    /// When the disk refuses or a later release wrote it. Damage is no error: see [`Replay::doubt`].
    pub fn open(disk: &'a dyn Disk, journal: JournalId, start: ReplayStart) -> Result<Self, ReplayError> {
        let survey = survey(disk, journal)?;
        let plan = plan(&survey, start);
        let mut doubted: BTreeMap<GroupId, Vec<Lsn>> = BTreeMap::new();
        let mut doubted_all = Vec::new();
        for damaged in &plan.damaged {
            match &damaged.groups {
                Some(groups) => groups.iter().for_each(|group| doubted.entry(*group).or_default().push(damaged.lsn)),
                None => doubted_all.push((damaged.lsn, damaged.last)),
            }
        }
        let tail = match plan.tail.and_then(|tail| survey.found.get(tail)) {
            Some(tail) => Some(load(disk, tail)?).map(|(table, frames)| Block::from_parts(table, frames)),
            None => None,
        };
        let files = survey.files.iter().map(|file| (*file, plan.last_lsns.get(&file.number).copied())).collect();
        let files = Files::new(files, plan.next_generation);
        tracing::info!(blocks = plan.blocks.len(), proven = %plan.proven, tail = tail.is_some(), "journal.found");
        Ok(Self {
            disk,
            journal,
            found: survey.found,
            plan,
            next: 0,
            tail,
            files,
            doubted,
            doubted_all,
            accounted: None,
            beyond: BTreeMap::new(),
        })
    }

    /// Damage in blocks up to `born` does not concern this group: it was begun behind them.
    pub fn absolve(&mut self, group: GroupId, born: Lsn) {
        let Some(damaged) = self.doubted.get_mut(&group) else { return };
        damaged.retain(|damaged| *damaged > born);
        if damaged.is_empty() {
            self.doubted.remove(&group);
        }
    }

    /// Of damage in blocks up to `at` that may be about any group, it was written down then about which it is.
    pub fn account(&mut self, at: Lsn) {
        let accounted: Vec<(Lsn, Lsn)> = self.doubted_all.extract_if(.., |(first, _)| *first <= at).collect();
        self.accounted = accounted.first().map(|(first, _)| *first..=at);
        // Blocks that are missing in a row may have gone at different times.
        let later = accounted.into_iter().filter(|(_, last)| *last > at);
        self.doubted_all.splice(0..0, later.map(|(_, last)| (Lsn(at.get() + 1), last)).collect::<Vec<_>>());
    }

    /// Whether what is handed out is all that was acknowledged; known before the first block is read.
    #[must_use]
    pub fn doubt(&self) -> Doubt {
        if !self.doubted_all.is_empty() {
            Doubt::All
        } else if self.doubted.is_empty() {
            Doubt::None
        } else {
            Doubt::Groups(self.doubted.keys().copied().collect())
        }
    }

    /// Says what is damaged, for the operator.
    pub fn tell(&self) {
        let is_settled = self.doubt() == Doubt::None;
        for damaged in &self.plan.damaged {
            if is_settled {
                tracing::info!(%damaged, "journal.damaged: what it had is known to be in doubt, or replaced");
            } else {
                tracing::error!(%damaged, "journal.damaged: acknowledged entries may be lost here");
            }
        }
    }

    /// What is damaged.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedBlock] {
        &self.plan.damaged
    }

    /// The next block. Of groups in doubt only what stood before the damage.
    ///
    /// # Errors
    /// When the disk refuses, or gives something else than before.
    pub fn next_block(&mut self) -> Result<Option<ReplayedBlock>, ReplayError> {
        let (index, found, lsn) = loop {
            let Some(index) = self.plan.blocks.get(self.next).copied() else { return Ok(None) };
            let Some(found) = self.found.get(index) else { return Ok(None) };
            let lsn = found.header.id.lsn;
            if self.doubted_all.iter().any(|(from, _)| lsn >= *from) {
                return Ok(None);
            }
            self.next += 1;
            if !self.accounted.as_ref().is_some_and(|accounted| accounted.contains(&lsn)) {
                break (index, found, lsn);
            }
        };
        let (table, frames) = match &self.tail {
            Some(tail) if self.plan.tail == Some(index) => (tail.table.clone(), tail.frames.clone()),
            _ => load(self.disk, found)?,
        };
        Ok(Some(self.without_doubted(lsn, &table, frames)))
    }

    fn without_doubted(&mut self, lsn: Lsn, table: &Table, frames: Vec<(GroupId, Entry)>) -> ReplayedBlock {
        let doubted = &self.doubted;
        let sound = |group: &GroupId| doubted.get(group).and_then(|from| from.first()).is_none_or(|from| lsn < *from);
        let (frames, behind): (Vec<_>, Vec<_>) = frames.into_iter().partition(|(group, _)| sound(group));
        for (group, end) in behind.iter().filter_map(|(group, entry)| Some((*group, payload::end_of(entry)?))) {
            let seen = self.beyond.entry(group).or_default();
            *seen = end.max(*seen);
        }
        let entries = frames.into_iter().map(|(group, entry)| {
            let payload = Bytes::copy_from_slice(&entry.payload);
            (group, Entry { payload, ..entry })
        });
        let hard_states = table.iter().filter(|(group, _)| sound(group));
        let hard_states = hard_states.filter_map(|(group, entry)| entry.hard_state.map(|state| (*group, state)));
        ReplayedBlock { lsn, entries: entries.collect(), hard_states: hard_states.collect() }
    }

    /// Of groups in doubt: where the records end that they had behind what was handed out, as far as sound blocks tell. To
    /// be asked when all blocks were.
    #[must_use]
    pub const fn beyond(&self) -> &BTreeMap<GroupId, Offset> {
        &self.beyond
    }

    /// Where the writer goes on, for [`JournalWriter::resume`](super::JournalWriter::resume).
    #[must_use]
    pub fn finish(self) -> JournalEnd {
        let tail = self.tail.filter(|tail| !tail.is_empty());
        if let (Some(_), true) = (&tail, planted::is(Planted::TailTrusted)) {
            let next_lsn = Lsn(self.plan.proven.get() + 2);
            return JournalEnd { journal: self.journal, next_lsn, files: self.files, tail: None };
        }
        JournalEnd { journal: self.journal, next_lsn: Lsn(self.plan.proven.get() + 1), files: self.files, tail }
    }
}
