//! What a node keeps on disk for its raft groups: one journal, and a log for each group.
//!
//! **The way of an entry.** [`Store::append`] puts it into the group's tail, where raft can read it at once, and hands it to
//! the journal. When the journal's block is durable, [`StoreEvent::Persisted`] says so. When raft has committed it too, and
//! the group has applied it ([`Store::commit`]), it is written to the group's segment, together with what else the group
//! has (`backlog.rs`), behind the journal and without anyone waiting. When a checkpoint (`checkpointing.rs`) has made the
//! segments durable up to there, the journal's file is used again.
//!
//! **What is promised.** What was reported persisted is there after any crash, and so is the hard state that came with it.
//! Nothing reaches a segment that raft could take back. Where the disk breaks its promise, recovery (`recovery.rs`) says
//! which groups are in doubt, and goes on saying so after every restart until the group is removed, another takes its place
//! (`replacing.rs`), or it goes on nevertheless (`reclaiming.rs`).
//!
//! **What is relied on.** One core calls this; two lanes perform what [`Store::poll`] hands out, each strictly in order.
//! Because the segments' lane is in order, a sync behind a write needs not wait for the write's answer: a checkpoint is
//! one list of operations.
//!
//! **Failure.** Any failed operation ends the store (fail-stop): [`Poisoned`], and nothing more is handed out. A full disk
//! is no failure: what finds no space waits for it (`space.rs`), unless a sync says so.
//!
//! **Group creation** is durable with the group's first entries: entry 0 of a group, which raft never sees, says in the
//! journal whose log it is. **Group removal** is durable with the next checkpoint; a crash before may bring the group back,
//! and whoever removed it does so again.

mod backlog;
mod checkpointing;
mod doubt;
mod group;
mod incoming;
mod played;
mod reclaiming;
mod recovery;
mod renewal;
mod repair;
mod replacing;
mod segment_spec;
mod snapshot;
mod space;
mod trimming;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use backlog::Backlog;
use bytes::Bytes;
use checkpointing::Checkpointing;
use group::Group;
use incoming::Incoming;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Offset, PartitionId, Term, TopicId, TopicPartition};
use space::Space;

pub use self::{
    recovery::{Recovered, RecoveredGroup},
    segment_spec::{SegmentCheck, SegmentSpec, segment_file},
    snapshot::{GroupState, Snapshot},
    space::reserve_file,
};
pub use crate::{config::StoreConfig, disk::Lane, identity::DirIdentity};
use crate::{
    disk::{Disk, DiskError, DiskOp, FileName},
    entry::{Entry, HardState},
    error::AppendError,
    journal::{Completed, Doubt, JournalWriter},
    log::{
        Log,
        suspects::Suspects,
        writer::{LogRecord, LogWriter},
    },
    planted::{self, Planted},
    poison::Poisoned,
};

/// A group that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInit {
    /// The group.
    pub group: GroupId,
    /// The topic whose partition it replicates.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// Where a group stands, as its owner sees it, for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCheckpoint {
    /// The group.
    pub group: GroupId,
    /// The last entry applied: what was last given to [`Store::commit`].
    pub applied: LogIndex,
    /// The group's membership as of that entry; opaque here.
    pub conf_state: Bytes,
    /// The state machine as of that entry; opaque here.
    pub app_state: Bytes,
}

/// Something a driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEffect {
    /// Perform these operations in order, behind those given to the same lane before, up to the first that fails. The
    /// answer goes to [`Store::on_disk`].
    Disk {
        /// Which queue.
        lane: Lane,
        /// For the answer.
        token: u64,
        /// What to do.
        ops: Vec<DiskOp>,
    },
}

/// Something that became true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// More of a group is durable.
    Persisted {
        /// The group.
        group: GroupId,
        /// The last entry of the log, as it is now, that is durable; everything before is, too.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// How many calls of [`Store::append`] for this group, since the store was opened, are durable with entries and
        /// hard state.
        appends: u64,
    },
    /// One more piece of a file that arrives is written, or the file synced.
    Incoming {
        /// The group.
        group: GroupId,
    },
    /// A piece of a file that arrives found no space: what is there of the group's files is to be thrown away.
    IncomingFull {
        /// The group.
        group: GroupId,
    },
    /// A damaged segment has another file now, which is sound.
    Repaired {
        /// The group.
        group: GroupId,
        /// The segment's first entry.
        first_index: LogIndex,
    },
    /// A checkpoint is durable.
    Checkpointed {
        /// Which one since the store was opened, from 1.
        number: u64,
    },
}

/// What an operation under way was for.
#[derive(Debug)]
enum Job {
    Journal(u64),
    JournalUpkeep(u64),
    Segment(GroupId),
    Checkpoint,
    Incoming(GroupId),
    Repair(GroupId, LogIndex),
    Remove,
    /// Makes the file that keeps blocks, or removes it.
    Reserve {
        is_kept: bool,
    },
}

/// Written entries that a tail still keeps.
#[derive(Clone, Copy, Debug)]
struct Kept {
    group: GroupId,
    last_index: LogIndex,
    bytes: u64,
}

/// What is left of a group that was removed.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// Appends that the journal has not made durable.
    submitted: usize,
    /// A crash before this checkpoint is durable brings the group back.
    until: u64,
}

/// What tails take in memory: of groups that are led here, and of all others.
#[derive(Debug, Default)]
struct TailBytes {
    led: Arc<AtomicU64>,
    followed: Arc<AtomicU64>,
}

/// All groups of a data directory.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    config: StoreConfig,
    identity: DirIdentity,
    journal: JournalWriter,
    groups: BTreeMap<GroupId, Group>,
    /// Groups that may have something to write to a segment.
    ready: BTreeSet<GroupId>,
    /// Groups that had, with no memory or descriptor to look at the segment with: they are ready again with the next tick.
    wanting: BTreeSet<GroupId>,
    /// What is with the disk; of what may be done again, also how.
    jobs: BTreeMap<u64, (Job, Vec<DiskOp>)>,
    last_token: u64,
    /// What tails take in memory.
    tail_bytes: TailBytes,
    /// What is committed and in no segment yet.
    backlog: Backlog,
    /// Entries that tails keep though they are written, the oldest first, and what they take.
    kept: VecDeque<Kept>,
    kept_bytes: u64,
    /// Segments written to since they were last synced.
    dirty: BTreeSet<FileName>,
    /// Whether there are segments whose names are not durable.
    dirty_names: bool,
    /// Files that the groups' logs do not have any more; they go when a checkpoint that does not name them is durable.
    removed: Vec<(GroupId, FileName)>,
    /// Files that nothing names any more.
    to_remove: Vec<FileName>,
    checkpointing: Checkpointing,
    /// How many checkpoints were begun to be written.
    checkpoints: u64,
    /// Groups that were removed, as long as something of them may be left.
    leaving: BTreeMap<GroupId, Leaving>,
    /// Files that arrive from other nodes.
    incoming: Incoming,
    /// Segments that somebody could not read.
    suspects: Arc<Suspects>,
    /// Segments whose files were not there at the start, and that nobody has asked for yet.
    missing: BTreeSet<(GroupId, LogIndex)>,
    /// What waits for space.
    space: Space,
    /// Groups that may have lost something that was acknowledged.
    doubt: Doubt,
    /// Of these: where their records ended, as far as the journal told when the store was opened. What is left may end before.
    seen: BTreeMap<GroupId, Offset>,
    /// Damage up to this block is in `doubt` by the names of its groups, though the block itself does not tell them.
    accounted: Lsn,
    poisoned: Option<Poisoned>,
}

impl Store {
    /// Makes a group, or finds it. Its creation is durable with the first append.
    ///
    /// # Panics
    /// If the group is there and is another partition's.
    pub fn create_group(&mut self, init: GroupInit) -> Log {
        let topic_partition = TopicPartition { topic: init.topic, partition: init.partition };
        if let Some(group) = self.groups.get(&init.group) {
            assert_eq!(group.log.log().topic_partition(), topic_partition, "group ids are never used again");
            return group.log.log().clone();
        }
        let log = LogWriter::open(
            Arc::clone(&self.disk),
            init.group,
            topic_partition,
            &LogRecord::EMPTY,
            self.config.segment,
            Arc::clone(&self.tail_bytes.followed),
            Arc::clone(&self.suspects),
        );
        let handle = log.log().clone();
        let mut group = Group::new(log);
        group.submit_creation(&mut self.journal);
        self.groups.insert(init.group, group);
        handle
    }

    /// Appends to a group's log: entries that continue it or replace its uncommitted end, a hard state, or both. The
    /// entries can be read at once; the journal writes them with the next block. An append of nothing is none.
    ///
    /// # Errors
    /// If an entry cannot be one of this log; then nothing was taken.
    ///
    /// # Panics
    /// If there is no such group, an entry would leave a gap, or a committed one would be replaced.
    pub fn append(
        &mut self,
        group: GroupId,
        entries: Vec<Entry>,
        hard_state: Option<HardState>,
    ) -> Result<(), AppendError> {
        let max = self.config.journal.entry_bytes_max();
        if let Some(entry) = entries.iter().find(|entry| entry.payload.len() > max) {
            return Err(AppendError::TooLarge { index: entry.index, bytes: entry.payload.len(), max });
        }
        let state = self.groups.get_mut(&group).expect("appends go to groups that were made");
        state.append(&mut self.journal, entries, hard_state)
    }

    /// Entries of a group up to `index` are committed and applied, and [`Store::roll`] was called for every roll among
    /// them before. They may go into the segment once they are in the journal.
    ///
    /// # Panics
    /// If there is no such group or entry.
    pub fn commit(&mut self, group: GroupId, index: LogIndex) {
        let state = self.groups.get_mut(&group).expect("the group was made");
        self.backlog.follow(state, |state| state.log.commit_to(index));
        self.ready.insert(group);
    }

    /// Whether this node leads the group. The memory for what it leads and for what others lead is counted apart, so that
    /// neither keeps out the other.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn set_led(&mut self, group: GroupId, led: bool) {
        let group = self.groups.get_mut(&group).expect("the group was made");
        if group.led != led {
            self.backlog.follow(group, |group| group.led = led);
            group.log.count_in(if led { &self.tail_bytes.led } else { &self.tail_bytes.followed });
        }
    }

    /// Forgets a group; its files go. Without effect if there is none.
    pub fn remove_group(&mut self, group: GroupId) {
        if let Some((submitted, files)) = self.take_out(group) {
            let until = self.checkpoints + 1 + self.checkpointing.blind();
            self.leaving.insert(group, Leaving { submitted, until });
            self.removed.extend(files.into_iter().map(|file| (group, file)));
        }
        self.end_doubt(group);
    }

    /// The log of a group.
    #[must_use]
    pub fn log(&self, group: GroupId) -> Option<&Log> {
        self.groups.get(&group).map(|group| group.log.log())
    }

    /// What the tails of all groups take in memory, about, in bytes.
    #[must_use]
    pub fn tail_bytes(&self) -> u64 {
        self.tail_bytes.led.load(Ordering::Relaxed) + self.tail_bytes.followed.load(Ordering::Relaxed)
    }

    /// How many more bytes of entries the tails of groups led here should take. None when the disk or the quorum does
    /// not keep up: then nothing more should be proposed for now.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        (self.config.tail_bytes_max / 2).saturating_sub(self.tail_bytes.led.load(Ordering::Relaxed))
    }

    /// What entries of groups led elsewhere take in memory that are committed and in no segment yet, about, in bytes.
    #[must_use]
    pub const fn backlog_bytes(&self) -> u64 {
        self.backlog.followed_bytes()
    }

    /// What waits for the journal: entries that were appended and are not durable here, in bytes of payload.
    pub const fn journal_waiting_bytes(&self) -> u64 {
        self.journal.waiting_bytes()
    }

    /// Whether the backlog, or what waits for the journal, is so much that entries of other leaders should be refused for now.
    /// This disk alone ends it, nobody else has to do anything: so nobody waits for it in a circle.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        let max = self.config.tail_bytes_max / 2;
        self.backlog.followed_bytes() > max || self.journal.waiting_bytes() > max
    }

    /// To be called every now and then (50 ms or so).
    pub fn tick(&mut self) {
        self.journal.tick();
        self.backlog.tick();
        self.space.tick();
        self.ready.append(&mut self.wanting);
    }

    /// Has the journal write an empty block if there is nothing else: how long does it take?
    pub const fn prove(&mut self) {
        self.journal.prove();
    }

    /// What must be done next.
    pub fn poll(&mut self, effects: &mut Vec<StoreEffect>) {
        if self.poisoned.is_some() {
            return;
        }
        // Before anything that is written: what recovery found left over may be about to be written again.
        self.poll_removal(effects);
        self.poll_incoming(effects);
        self.poll_space(effects);
        if let Some(io) = self.journal.poll() {
            effects.push(self.effect(Lane::Journal, Job::Journal(io.token), io.ops));
        }
        if let Some(io) = self.journal.poll_upkeep() {
            effects.push(self.effect(Lane::Segments, Job::JournalUpkeep(io.token), io.ops));
        }
        while let Some(id) = self.ready.pop_first() {
            if !self.write_segment(id, false, effects)
                && let Some(group) = self.groups.get_mut(&id)
            {
                if self.checkpointing.try_capture(group) {
                    // The checkpoint held it; what was committed meanwhile can be written now.
                    self.ready.insert(id);
                } else {
                    self.backlog.queue(group);
                }
            }
        }
        while let Some((id, since)) = self.backlog.next_urgent(&self.config) {
            if let Some(group) = self.groups.get_mut(&id)
                && group.waits_since.take_if(|at| *at == since).is_some()
            {
                self.write_segment(id, true, effects);
            }
        }
        self.poll_checkpoint(effects);
    }

    /// Takes the answer to an effect: what became true.
    ///
    /// # Errors
    /// When it failed, now or before. Nothing that was not reported may be relied on.
    ///
    /// # Panics
    /// On a token that was not handed out.
    pub fn on_disk(&mut self, token: u64, result: Result<(), DiskError>) -> Result<Vec<StoreEvent>, Poisoned> {
        let (job, ops) = self.jobs.remove(&token).expect("answers come to what was handed out");
        let events = match result {
            Err(error) if planted::is(Planted::NoSpaceIsSuccess) && space::may_wait(&job) && !error.is_fatal() => {
                self.space_found(token);
                self.finish(job, &ops, Ok(()))
            }
            Err(error) if self.poisoned.is_none() && space::may_wait(&job) && !error.is_fatal() => {
                self.put_off(token, job, ops, &error);
                Ok(Vec::new())
            }
            result => {
                if result.is_ok() {
                    self.space_found(token);
                }
                self.finish(job, &ops, result)
            }
        };
        if let Err(poisoned) = &events {
            self.poisoned.get_or_insert_with(|| poisoned.clone());
        }
        self.poisoned.clone().map_or(events, Err)
    }

    fn finish(&mut self, job: Job, ops: &[DiskOp], result: Result<(), DiskError>) -> Result<Vec<StoreEvent>, Poisoned> {
        match job {
            Job::Journal(token) => {
                let completed = self.journal.complete(token, result)?;
                return Ok(completed.map_or_else(Vec::new, |completed| self.block_durable(&completed)));
            }
            Job::JournalUpkeep(token) => self.journal.complete_upkeep(token, result)?,
            Job::Segment(group) => {
                result.map_err(Poisoned::new)?;
                self.segment_written(group, ops);
            }
            Job::Checkpoint => {
                result.map_err(Poisoned::new)?;
                return Ok(vec![self.checkpoint_durable()]);
            }
            Job::Incoming(group) => {
                return match result {
                    Err(error) if !error.is_fatal() => Ok(vec![StoreEvent::IncomingFull { group }]),
                    result => result.map(|()| vec![StoreEvent::Incoming { group }]).map_err(Poisoned::new),
                };
            }
            Job::Repair(group, first_index) => {
                result.map_err(Poisoned::new)?;
                return Ok(self.repaired(group, first_index));
            }
            Job::Remove => result.map_err(Poisoned::new)?,
            Job::Reserve { is_kept } => {
                let is_made = result.is_ok();
                result.or_else(|error| if error.is_fatal() { Err(Poisoned::new(error)) } else { Ok(()) })?;
                self.reserve_changed(is_kept && is_made);
            }
        }
        Ok(Vec::new())
    }

    fn block_durable(&mut self, completed: &Completed) -> Vec<StoreEvent> {
        let mut events = Vec::new();
        for durable in &completed.durable {
            if let Some(leaving) = self.leaving.get_mut(&durable.group) {
                leaving.submitted = leaving.submitted.saturating_sub(durable.appends);
            } else if let Some(group) = self.groups.get_mut(&durable.group) {
                events.extend(group.durable(completed.lsn, durable));
                self.ready.insert(durable.group);
            }
        }
        events
    }

    /// Whether there is something to write to the group's segment now.
    fn write_segment(&mut self, id: GroupId, urgent: bool, effects: &mut Vec<StoreEffect>) -> bool {
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let Some(ops) = self.backlog.follow(group, |group| group.log.next_write(urgent)) else {
            if group.log.take_want() {
                self.wanting.insert(id);
            }
            return false;
        };
        group.waits_since = None;
        effects.push(self.effect(Lane::Segments, Job::Segment(id), ops));
        true
    }

    fn segment_written(&mut self, id: GroupId, ops: &[DiskOp]) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let (written, removed) = self.backlog.follow(group, |group| group.log.written());
        self.removed.extend(removed.into_iter().map(|file| (id, file)));
        self.note_dirty(ops);
        self.ready.insert(id);
        self.kept.push_back(Kept { group: id, last_index: written.last_index, bytes: written.bytes });
        self.kept_bytes += written.bytes;
        while self.kept_bytes > self.config.tail_keep_bytes
            && let Some(oldest) = self.kept.pop_front()
        {
            self.kept_bytes -= oldest.bytes;
            if let Some(group) = self.groups.get_mut(&oldest.group) {
                group.log.release(oldest.last_index);
            }
        }
    }

    /// Which files have to be synced by the next checkpoint: it captures what was written, not what is on its way, and that
    /// may find no space.
    fn note_dirty(&mut self, ops: &[DiskOp]) {
        for op in ops {
            match op {
                DiskOp::Write { file, .. } => {
                    self.dirty.insert(file.clone());
                }
                DiskOp::Sync { file } => {
                    self.dirty.remove(file);
                }
                DiskOp::Create { .. } => self.dirty_names = true,
                _ => {}
            }
        }
    }

    fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.get_mut(&group).expect("the group was made")
    }

    fn effect(&mut self, lane: Lane, job: Job, ops: Vec<DiskOp>) -> StoreEffect {
        self.last_token += 1;
        let again = if space::may_wait(&job) { ops.clone() } else { Vec::new() };
        self.jobs.insert(self.last_token, (job, again));
        StoreEffect::Disk { lane, token: self.last_token, ops }
    }
}

#[cfg(test)]
mod tests;
