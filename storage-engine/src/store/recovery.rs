//! Opening a store: what a crash left becomes a state that was there before.
//!
//! The checkpoint says how each group's log ended when it was made; the journal has everything since. Its entries are
//! played in the order in which they were written, and what then stands above a group's segments becomes its tail. What
//! segments hold beyond the checkpoint is ignored, and written again, with the same bytes. So recovery reads the checkpoint
//! and the journal, and nothing else.
//!
//! A group's entries in the journal are played on their own, without a look at its segments: an entry that was replaced
//! may lie above the checkpoint, and the one that replaced it below. Of those below, that is all that counts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Offset, TopicPartition};

use super::{
    Store, StoreConfig, TailBytes,
    backlog::Backlog,
    checkpointing::Checkpointing,
    group::{Captured, Group, created},
    incoming::Incoming,
    played::Played,
    space::Space,
};
use crate::{
    checkpoint::{Checkpoint, GroupRecord},
    disk::{Disk, FileName},
    entry::HardState,
    error::OpenError,
    identity::DirIdentity,
    journal::{Doubt, JournalWriter, Replay, ReplayStart, ReplayedBlock},
    log::{Log, suspects::Suspects, writer::LogRecord, writer::LogWriter},
    planted::{self, Planted},
    segment,
};

/// An opened store and what it holds.
#[derive(Debug)]
pub struct Recovered {
    /// The store.
    pub store: Store,
    /// Its groups.
    pub groups: Vec<RecoveredGroup>,
    /// Groups that may have lost something that was acknowledged, whether they are among `groups` or not: they must not
    /// vote, acknowledge or campaign.
    pub doubt: Doubt,
}

/// A group as it was found.
#[derive(Clone, Debug)]
pub struct RecoveredGroup {
    /// The group.
    pub group: GroupId,
    /// The partition it replicates.
    pub topic_partition: TopicPartition,
    /// Its hard state; `commit` lies between `applied` and the last entry.
    pub hard_state: HardState,
    /// Its membership as of `applied`, as the last checkpoint was given it.
    pub conf_state: Bytes,
    /// The entry up to which its states are.
    pub applied: LogIndex,
    /// Its state machine as of `applied`, as the last checkpoint was given it.
    pub app_state: Bytes,
    /// Its log. Entries above `applied` are all in the tail; those that are committed are to be given to
    /// [`Store::commit`] again, and rolls among them to [`Store::roll`].
    pub log: Log,
    /// It may have lost something that was acknowledged.
    pub damaged: bool,
}

impl Store {
    /// Opens a data directory. Blocks while the journal is read, and what is found at its end made durable.
    ///
    /// # Errors
    /// If it is another's, was never formatted ([`DirIdentity::format`]), a file without which nothing is known is
    /// damaged, or the disk refuses. A damaged journal is no error, see [`Recovered::doubt`].
    ///
    /// # Panics
    /// If the configuration cannot be.
    pub fn open(disk: Arc<dyn Disk>, config: StoreConfig, identity: &DirIdentity) -> Result<Recovered, OpenError> {
        let (found, journal_id) = DirIdentity::read_with_journal(&*disk)?.ok_or(OpenError::NotFormatted)?;
        if found != *identity {
            return Err(OpenError::OtherDirectory { expected: Box::new(*identity), found: Box::new(found) });
        }
        let checkpoint = Checkpoint::read(&*disk, identity.incarnation)?;
        let mut recovery = Recovery::new(Arc::clone(&disk), config, &checkpoint);
        // A block behind which the metadata began anew was there, whatever is found of it.
        let metadata = checkpoint.groups.iter().find(|group| group.group == GroupId::METADATA);
        let synced = checkpoint.lsn.max(metadata.map_or(Lsn(0), |metadata| metadata.born));
        let start = ReplayStart { lsn: checkpoint.replay_from, synced };
        let mut replay = Replay::open(&*disk, journal_id, start)?;
        for group in &checkpoint.groups {
            replay.absolve(group.group, group.born);
        }
        replay.account(checkpoint.accounted);
        replay.tell();
        recovery.doubt(replay.doubt());
        while let Some(block) = replay.next_block()? {
            recovery.play(block);
        }
        recovery.seen = replay.beyond().clone();
        let mut journal = JournalWriter::resume(&config.journal, replay.finish());
        journal.settle(&*disk)?;
        let Recovery { groups, tail_bytes, suspects, doubt, seen, .. } = recovery.finish();
        let files = SegmentFiles::find(&*disk, &checkpoint)?;
        // With the journal in doubt, they may be the last copy of something.
        let leftovers = if doubt == Doubt::None { files.unnamed } else { Vec::new() };
        let incoming = Incoming::found(&*disk)?;
        let recovered = groups.values().map(|group| recovered_group(group, &doubt)).collect();
        let space = Space::found_on(&*disk)?;
        let store = Store {
            disk,
            config,
            identity: *identity,
            journal,
            groups,
            ready: BTreeSet::new(),
            wanting: BTreeSet::new(),
            jobs: BTreeMap::new(),
            last_token: 0,
            tail_bytes,
            kept: VecDeque::new(),
            kept_bytes: 0,
            backlog: Backlog::default(),
            dirty: BTreeSet::new(),
            dirty_names: true,
            removed: Vec::new(),
            to_remove: leftovers,
            checkpointing: Checkpointing::default(),
            checkpoints: 0,
            leaving: BTreeMap::new(),
            incoming,
            space,
            suspects,
            missing: files.missing,
            doubt: doubt.clone(),
            seen,
            accounted: checkpoint.accounted,
            poisoned: None,
        };
        Ok(Recovered { store, groups: recovered, doubt })
    }
}

/// What is wrong with the files of segments, as far as their names tell.
struct SegmentFiles {
    /// Files that the checkpoint does not name: of groups that are gone, or begun after it.
    unnamed: Vec<FileName>,
    /// Segments whose files are not there: somebody removed them, or the directory that had them.
    missing: BTreeSet<(GroupId, LogIndex)>,
}

impl SegmentFiles {
    fn find(disk: &dyn Disk, checkpoint: &Checkpoint) -> Result<Self, OpenError> {
        let segments = |record: &GroupRecord| {
            let group = record.group;
            record.log.segments.iter().map(move |segment| (group, segment.start.index)).collect::<Vec<_>>()
        };
        let keys = checkpoint.groups.iter().flat_map(segments);
        let mut named: BTreeMap<FileName, _> = keys.map(|key| (segment::file_name(key.0, key.1), key)).collect();
        let mut unnamed = Vec::new();
        for name in disk.list(segment::DIRECTORY)?.into_iter().filter(|name| name.ends_with(".seg")) {
            let file = FileName::new(format!("{}/{name}", segment::DIRECTORY));
            if named.remove(&file).is_none() {
                unnamed.push(file);
            }
        }
        if !named.is_empty() {
            let (files, first) = (named.len(), named.keys().next());
            tracing::error!(
                files,
                first = first.map(FileName::as_str),
                "segment.missing: their files are not there; they are to be mended"
            );
        }
        Ok(Self { unnamed, missing: named.into_values().collect() })
    }
}

pub(super) fn recovered_group(group: &Group, doubt: &Doubt) -> RecoveredGroup {
    let log = group.log.log().clone();
    RecoveredGroup {
        group: log.group(),
        topic_partition: log.topic_partition(),
        hard_state: group.hard_state,
        conf_state: group.captured.conf_state.clone(),
        applied: group.captured.applied,
        app_state: group.captured.app_state.clone(),
        damaged: doubt.covers(log.group()),
        log,
    }
}

/// A store that is being put together.
struct Recovery {
    disk: Arc<dyn Disk>,
    config: StoreConfig,
    tail_bytes: TailBytes,
    suspects: Arc<Suspects>,
    /// What the checkpoint covers.
    lsn: Lsn,
    groups: BTreeMap<GroupId, Group>,
    played: BTreeMap<GroupId, Played>,
    doubt: Doubt,
    /// Where the records end that groups in doubt had.
    seen: BTreeMap<GroupId, Offset>,
}

impl Recovery {
    fn new(disk: Arc<dyn Disk>, config: StoreConfig, checkpoint: &Checkpoint) -> Self {
        let mut recovery = Self {
            disk,
            config,
            tail_bytes: TailBytes::default(),
            suspects: Arc::default(),
            lsn: checkpoint.lsn,
            groups: BTreeMap::new(),
            played: BTreeMap::new(),
            doubt: checkpoint.doubt.clone(),
            seen: BTreeMap::new(),
        };
        checkpoint.groups.iter().for_each(|record| recovery.restore(record));
        recovery
    }

    fn restore(&mut self, record: &GroupRecord) {
        let mut group = self.make(record.group, record.topic_partition, &record.log);
        group.hard_state = record.hard_state;
        group.born = record.born;
        group.captured = Captured {
            applied: record.applied,
            log: record.log.clone(),
            conf_state: record.conf_state.clone(),
            app_state: record.app_state.clone(),
        };
        self.groups.insert(record.group, group);
    }

    fn make(&self, group: GroupId, topic_partition: TopicPartition, log: &LogRecord) -> Group {
        let (disk, tail_bytes) = (Arc::clone(&self.disk), Arc::clone(&self.tail_bytes.followed));
        let (config, suspects) = (self.config.segment, Arc::clone(&self.suspects));
        Group::new(LogWriter::open(disk, group, topic_partition, log, config, tail_bytes, suspects))
    }

    fn doubt(&mut self, more: Doubt) {
        self.doubt = match (std::mem::replace(&mut self.doubt, Doubt::None), more) {
            (Doubt::All, _) | (_, Doubt::All) => Doubt::All,
            (Doubt::None, doubt) | (doubt, Doubt::None) => doubt,
            (Doubt::Groups(some), Doubt::Groups(more)) => Doubt::Groups(some.into_iter().chain(more).collect()),
        };
    }

    fn play(&mut self, block: ReplayedBlock) {
        // The checkpoint knows better: of a group that it does not have, this is left from before its removal.
        let is_covered = block.lsn <= self.lsn;
        for (id, entry) in block.entries {
            if entry.index == LogIndex(0) {
                if let (false, false, Some(topic_partition)) =
                    (is_covered, self.groups.contains_key(&id), created(&entry))
                {
                    let group = self.make(id, topic_partition, &LogRecord::EMPTY);
                    self.groups.insert(id, group);
                }
                if self.groups.get(&id).is_some_and(|group| block.lsn > group.born) {
                    self.played.entry(id).or_default().begins_again();
                }
            } else if let Some(group) = self.groups.get(&id).filter(|group| block.lsn > group.born) {
                let applied = group.captured.applied;
                self.played.entry(id).or_default().play(block.lsn, entry, applied);
            }
        }
        if planted::is(Planted::HardStateNotReplayed) {
            return;
        }
        for (id, hard_state) in block.hard_states {
            let group = self.groups.get_mut(&id).filter(|group| !is_covered && block.lsn > group.born);
            if let Some(group) = group {
                group.hard_state = hard_state;
            }
        }
    }

    /// Gives the groups their tails.
    fn finish(mut self) -> Self {
        for (id, played) in std::mem::take(&mut self.played) {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let end = played.end();
            if let Err(cause) = played.into_tail(group) {
                let seen = self.seen.entry(id).or_default();
                *seen = end.unwrap_or_default().max(*seen);
                tracing::error!(group = %id, cause, "journal.gap: it does not continue the group's segments");
                self.doubt(Doubt::Groups([id].into()));
            }
        }
        for group in self.groups.values_mut() {
            let (last, _) = group.log.last();
            let commit = &mut group.hard_state.commit;
            *commit = (*commit).max(group.captured.applied).min(last);
        }
        self
    }
}
