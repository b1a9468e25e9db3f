//! What found no space on the disk: it waits, and is tried again.
//!
//! Segments and checkpoints lie behind the journal, so nothing is lost while they wait: entries stay in memory and in the
//! journal, whose files are not used again meanwhile. A write that found no space may be done once more from its
//! beginning, since nobody was told of it: it makes the same file, and puts the same bytes at the same place. A failed
//! *sync* is another thing ([`DiskError::is_fatal`]).
//!
//! **The reserve.** A journal that is never freed comes to its end, and with it votes and elections. What frees it is a
//! checkpoint, which needs space itself, and so do the entries that must be in segments before. So a file keeps some blocks
//! for them: when something waits, the file goes, and comes back when there is space enough ([`Store::set_plenty`]).
//!
//! * At most one job of a group waits, and one checkpoint: what waits is bounded by what tails may take.
//! * One is tried at a time, every [`RETRY_TICKS`]. When it finds space, the next is tried at once.

use std::collections::VecDeque;

use levada_protocol::ids::GroupId;

use super::{Job, Lane, Store, StoreEffect};
use crate::disk::{Disk, DiskError, DiskOp, FileName};

/// How often one of those that wait is tried again (1 s).
const RETRY_TICKS: u64 = 20;

/// The file that keeps blocks.
#[must_use]
pub fn reserve_file() -> FileName {
    FileName::new("reserve")
}

/// Where the reserve is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reserve {
    /// Given up, or never made.
    #[default]
    Gone,
    /// With the disk.
    Changing,
    Kept,
}

/// What waits for space.
#[derive(Debug, Default)]
pub(super) struct Space {
    waiting: VecDeque<(Job, Vec<DiskOp>)>,
    /// The one that is being tried.
    probe: Option<u64>,
    /// Something may be tried now.
    may_try: bool,
    reserve: Reserve,
    /// There is space enough for everything, the reserve too.
    is_plenty: bool,
    ticks: u64,
    /// No checkpoint is begun for want of space before this tick.
    checkpoint_ticks: u64,
}

impl Space {
    /// What a restart finds.
    pub(super) fn found_on(disk: &dyn Disk) -> Result<Self, DiskError> {
        let reserve = if disk.len(&reserve_file())?.is_some() { Reserve::Kept } else { Reserve::Gone };
        Ok(Self { reserve, ..Self::default() })
    }

    /// Whether something waits, or is being tried.
    pub(super) fn is_lacking(&self) -> bool {
        !self.waiting.is_empty() || self.probe.is_some()
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.probe.is_some())
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.may_try |= self.ticks.is_multiple_of(RETRY_TICKS);
    }

    /// A job found no space.
    fn put_off(&mut self, token: u64, job: Job, ops: Vec<DiskOp>, is_gone: bool) {
        self.probe.take_if(|probe| *probe == token);
        if !is_gone {
            self.waiting.push_back((job, ops));
        }
    }

    /// A job was done.
    fn found(&mut self, token: u64) {
        if self.probe.take_if(|probe| *probe == token).is_some() {
            self.may_try = true;
        }
    }

    /// Nothing of a group is tried again: it is gone.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.waiting.retain(|(job, _)| !matches!(job, Job::Segment(id) if *id == group));
    }
}

/// Whether a job may be done again from its beginning, whatever else was done since. Not where names change: under them
/// other things may stand by then.
pub(super) const fn may_wait(job: &Job) -> bool {
    matches!(job, Job::Segment(_) | Job::Checkpoint)
}

impl Store {
    /// Whether something found no space and waits for it: a segment, a checkpoint, or the journal's next file, without
    /// which nothing becomes durable any more.
    #[must_use]
    pub fn lacks_space(&self) -> bool {
        self.space.is_lacking() || self.journal.lacks_space()
    }

    /// How many writes wait for space.
    #[must_use]
    pub fn waiting_for_space(&self) -> usize {
        self.space.len() + usize::from(self.journal.lacks_space())
    }

    /// Whether there is space enough, also for the reserve.
    pub const fn set_plenty(&mut self, is_plenty: bool) {
        self.space.is_plenty = is_plenty;
    }

    /// A job that [may wait](may_wait) found no space.
    pub(super) fn put_off(&mut self, token: u64, job: Job, ops: Vec<DiskOp>, error: &DiskError) {
        debug_assert!(may_wait(&job) && !error.is_fatal());
        tracing::debug!(%error, "disk.full: it is tried again");
        let is_gone = matches!(job, Job::Segment(group) if !self.groups.contains_key(&group));
        self.space.put_off(token, job, ops, is_gone);
    }

    /// A job is done.
    pub(super) fn space_found(&mut self, token: u64) {
        self.space.found(token);
    }

    /// Whether the journal asks for a checkpoint, as that frees files, and there is no space for another. Not all the
    /// time: it may free none.
    pub(super) const fn is_checkpoint_the_way_out(&self) -> bool {
        self.journal.finds_no_space() && self.space.ticks >= self.space.checkpoint_ticks
    }

    /// A checkpoint begins.
    pub(super) const fn checkpoint_begins(&mut self) {
        self.space.checkpoint_ticks = self.space.ticks + RETRY_TICKS;
    }

    /// The reserve has been made, or given up.
    pub(super) fn reserve_changed(&mut self, is_kept: bool) {
        self.space.reserve = if is_kept { Reserve::Kept } else { Reserve::Gone };
        // What was kept is free now.
        self.space.may_try |= !is_kept;
    }

    /// Hands out what waits, if it is time, and sees to the reserve.
    pub(super) fn poll_space(&mut self, effects: &mut Vec<StoreEffect>) {
        self.poll_reserve(effects);
        if !std::mem::take(&mut self.space.may_try) || self.space.probe.is_some() {
            return;
        }
        let Some((job, ops)) = self.space.waiting.pop_front() else { return };
        let effect = self.effect(Lane::Segments, job, ops);
        self.space.probe = Some(self.last_token);
        effects.push(effect);
    }

    fn poll_reserve(&mut self, effects: &mut Vec<StoreEffect>) {
        let len = self.config.reserve_bytes;
        let lacks = self.lacks_space();
        let (is_kept, ops) = match self.space.reserve {
            Reserve::Kept if lacks => {
                tracing::warn!("disk.reserve.used: the space kept for checkpoints is given up");
                // Its blocks are free for certain when its name is gone for good.
                (false, vec![DiskOp::Remove { file: reserve_file() }, DiskOp::SyncDir { dir: String::new() }])
            }
            Reserve::Gone if len > 0 && self.space.is_plenty && !lacks => {
                let file = reserve_file();
                (true, vec![DiskOp::Create { file: file.clone() }, DiskOp::Preallocate { file, len }])
            }
            _ => return,
        };
        self.space.reserve = Reserve::Changing;
        effects.push(self.effect(Lane::Segments, Job::Reserve { is_kept }, ops));
    }
}
