//! A store with a simulated disk, an owner that does what a broker does, and a driver that takes its time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use levada_protocol::ids::{ClusterId, GroupId, IncarnationId, LogIndex, NodeId, Offset, PartitionId, TopicId};
use uuid::Uuid;

use super::model::{Appended, GroupModel, app_state};
use crate::{
    config::{SegmentConfig, StoreConfig},
    disk::{Disk, DiskOp, Lane},
    error::OpenError,
    identity::DirIdentity,
    journal::{JournalConfig, JournalId},
    poison::Poisoned,
    sim_disk::{SimDisk, rng::Rng},
    store::{GroupCheckpoint, GroupInit, Recovered, Store, StoreEffect, StoreEvent},
};

pub(super) const IDENTITY: DirIdentity = DirIdentity {
    cluster: ClusterId(Uuid::from_bytes([1; 16])),
    node: NodeId(2),
    incarnation: IncarnationId(Uuid::from_bytes([3; 16])),
};

pub(super) const JOURNAL: JournalId = JournalId::from_bytes([4; 16]);

/// Everything small, so that a short story has many files, rolls and checkpoints.
pub(super) const CONFIG: StoreConfig = StoreConfig {
    journal: JournalConfig { file_bytes: 32 << 10, files_keep: 3, gather_bytes: 8 << 10 },
    segment: SegmentConfig {
        index_interval_bytes: 300,
        write_bytes_min: 1 << 10,
        write_bytes_max: 4 << 10,
        writeback_bytes: 2 << 10,
        preallocate_bytes_min: 1 << 10,
        preallocate_bytes_max: 8 << 10,
    },
    checkpoint_bytes: 24 << 10,
    sync_files_max: 1,
    tail_bytes_max: 1 << 20,
    tail_keep_bytes: 3 << 10,
    unwritten_ticks_max: 3,
    journal_held_bytes_max: 64 << 10,
    reserve_bytes: 16 << 10,
};

/// A group that is never committed: what a lost quorum looks like.
pub(super) const STUCK: GroupId = GroupId(3);

#[derive(Debug)]
pub(super) struct World {
    pub(super) disk: Arc<SimDisk>,
    pub(super) store: Store,
    pub(super) groups: BTreeMap<GroupId, GroupModel>,
    /// Groups whose removal may or may not be durable.
    pub(super) removed: BTreeMap<GroupId, GroupModel>,
    lanes: [VecDeque<(u64, VecDeque<DiskOp>)>; 2],
    /// Jobs whose last operation was performed.
    answers: VecDeque<u64>,
    pub(super) rng: Rng,
    pub(super) checkpoints: u64,
    /// The last checkpoint that is durable, by the store's own count.
    pub(super) checkpointed: u64,
    /// Pieces of arriving files that were answered.
    pub(super) arrived: u64,
    /// Groups of which a piece of an arriving file found no space.
    pub(super) refused: Vec<GroupId>,
    /// The journal's lane does nothing.
    pub(super) journal_pauses: bool,
}

/// Looks at the world before an operation is performed.
pub(super) type Watch<'a> = &'a mut dyn FnMut(&World, &DiskOp);

impl World {
    /// On a fresh disk.
    pub(super) fn new(seed: u64) -> Self {
        let disk = Arc::new(SimDisk::new(seed));
        IDENTITY.format(&*disk, JOURNAL).unwrap();
        let Recovered { store, groups, .. } = open(&disk).unwrap();
        assert!(groups.is_empty());
        Self::with(disk, store, BTreeMap::new(), seed)
    }

    pub(super) fn with(disk: Arc<SimDisk>, store: Store, groups: BTreeMap<GroupId, GroupModel>, seed: u64) -> Self {
        let (lanes, answers) = ([VecDeque::new(), VecDeque::new()], VecDeque::new());
        Self {
            disk,
            store,
            groups,
            removed: BTreeMap::new(),
            lanes,
            answers,
            rng: Rng::new(seed),
            checkpoints: 0,
            checkpointed: 0,
            arrived: 0,
            refused: Vec::new(),
            journal_pauses: false,
        }
    }

    pub(super) fn create(&mut self, group: GroupId) {
        let (topic, partition) = (TopicId(Uuid::from_bytes([9; 16])), PartitionId(u32::try_from(group.get()).unwrap()));
        let log = self.store.create_group(GroupInit { group, topic, partition });
        self.groups.insert(group, GroupModel::new(log.topic_partition()));
    }

    pub(super) fn remove(&mut self, group: GroupId) {
        self.store.remove_group(group);
        if let Some(model) = self.groups.remove(&group) {
            self.removed.insert(group, model);
        }
    }

    /// Appends entries behind entry `keep`.
    pub(super) fn append(&mut self, group: GroupId, keep: u64, shapes: &[u64], with_hard_state: bool) {
        let Some(model) = self.groups.get_mut(&group) else { return };
        let is_cut = keep < model.now.last();
        let term = model.now.hard_state.term.get().max(model.now.last_term()).max(1) + u64::from(is_cut);
        let entries = model.make(keep, term, shapes);
        let changed = model.hard_state(term, term % 3);
        let hard_state = (with_hard_state || is_cut || model.now.hard_state.term.get() < term).then_some(changed);
        self.store.append(group, entries.clone(), hard_state).unwrap();
        model.append(Appended { entries, hard_state });
    }

    /// Commits up to `index`, entry by entry as a broker applies them. The last may be a command.
    pub(super) fn commit(&mut self, group: GroupId, index: u64, roll: bool, log_start: Option<u64>) {
        let Some(model) = self.groups.get_mut(&group) else { return };
        if index > model.committed {
            model.committed = index;
            self.store.commit(group, LogIndex(index));
        }
        if roll {
            model.rolls.insert(index);
            self.store.roll(group, LogIndex(index));
        }
        if let Some(offset) = log_start {
            let start = model.log_starts.entry(index).or_default();
            *start = offset.max(*start);
            self.store.set_log_start(group, Offset(offset));
        }
    }

    pub(super) fn begin_checkpoint(&mut self, which: impl Fn(GroupId) -> bool) {
        if self.store.is_checkpointing() {
            return;
        }
        let groups = self.groups.iter().filter(|(group, _)| which(**group)).map(|(group, model)| GroupCheckpoint {
            group: *group,
            applied: LogIndex(model.committed),
            conf_state: format!("members of {group}").into(),
            app_state: app_state(*group, model.committed),
        });
        self.store.begin_checkpoint(groups.collect());
        self.checkpoints += 1;
    }

    fn poll(&mut self) {
        let mut effects = Vec::new();
        self.store.poll(&mut effects);
        for StoreEffect::Disk { lane, token, ops } in effects {
            let lane = usize::from(lane == Lane::Segments);
            self.lanes[lane].push_back((token, ops.into()));
        }
    }

    /// Lets one thing happen, if there is one to happen: an operation, or an answer.
    pub(super) fn drive_one(&mut self, watch: Watch<'_>) -> Result<bool, Poisoned> {
        self.poll();
        let pick = self.rng.below(3);
        let lanes: Vec<usize> =
            (usize::from(self.journal_pauses)..2).filter(|at| !self.lanes[*at].is_empty()).collect();
        if pick == 2 || lanes.is_empty() {
            let Some(token) = self.answers.pop_front() else { return Ok(!lanes.is_empty()) };
            return self.answer(token, Ok(())).map(|()| true);
        }
        let lane = lanes[usize::try_from(pick).unwrap() % lanes.len()];
        let op = self.lanes[lane].front_mut().and_then(|(_, ops)| ops.pop_front());
        let Some(op) = op else { panic!("a job has operations") };
        watch(self, &op);
        let result = self.disk.perform(&op);
        let (token, ops) = self.lanes[lane].front().unwrap();
        let (token, done) = (*token, ops.is_empty());
        if result.is_err() {
            self.lanes[lane].pop_front();
            return self.answer(token, result).map(|()| true);
        }
        if done {
            self.lanes[lane].pop_front();
            self.answers.push_back(token);
        }
        Ok(true)
    }

    fn has_work(&self) -> bool {
        !self.answers.is_empty() || self.lanes.iter().any(|lane| !lane.is_empty())
    }

    fn answer(&mut self, token: u64, result: Result<(), crate::disk::DiskError>) -> Result<(), Poisoned> {
        for event in self.store.on_disk(token, result)? {
            let (group, index, term, appends) = match event {
                StoreEvent::Persisted { group, index, term, appends } => (group, index, term, appends),
                StoreEvent::Checkpointed { number } => {
                    self.checkpointed = number;
                    continue;
                }
                StoreEvent::Repaired { .. } => continue,
                StoreEvent::Incoming { .. } => {
                    self.arrived += 1;
                    continue;
                }
                StoreEvent::IncomingFull { group } => {
                    self.refused.push(group);
                    continue;
                }
            };
            let Some(model) = self.groups.get_mut(&group) else { continue };
            let appends = usize::try_from(appends).unwrap();
            model.durable = model.durable.max(appends + model.taken_before);
            model.persisted = index.get();
            let entry = model.now.entries.get(usize::try_from(index.get().max(1) - 1).unwrap());
            assert!(index.get() == 0 || entry.unwrap().term == term);
            assert!(model.durable <= model.history.len());
        }
        Ok(())
    }

    /// Until nothing is left to do without time passing.
    pub(super) fn rest(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it never comes to rest");
            let busy = self.drive_one(&mut |_, _| {}).unwrap();
            self.poll();
            if !busy && !self.has_work() {
                return;
            }
        }
    }

    /// Until nothing is left to do, however long it takes.
    pub(super) fn settle(&mut self) {
        self.rest();
        for _ in 0..CONFIG.unwritten_ticks_max {
            self.store.tick();
            self.rest();
        }
    }

    /// One step of the story.
    pub(super) fn step(&mut self, watch: Watch<'_>) -> Result<(), Poisoned> {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        let pick = usize::try_from(self.rng.below(ids.len() as u64)).unwrap();
        let group = ids[pick];
        match self.rng.below(20) {
            0..=6 => {
                let shapes: Vec<u64> = (0..=self.rng.below(3)).map(|_| self.rng.next()).collect();
                let keep = self.groups[&group].now.last();
                let with_hard_state = self.rng.chance(30);
                self.append(group, keep, &shapes, with_hard_state);
            }
            7 => {
                let model = &self.groups[&group];
                let (committed, last) = (model.committed, model.now.last());
                let keep = committed + self.rng.below(last - committed + 1);
                let shapes: Vec<u64> = (0..self.rng.below(3)).map(|_| self.rng.next()).collect();
                if keep == last || !shapes.is_empty() {
                    self.append(group, keep, &shapes, true);
                }
            }
            8..=11 if group != STUCK => {
                let model = &self.groups[&group];
                let (committed, persisted) = (model.committed, model.persisted);
                let index = committed + self.rng.below(persisted.saturating_sub(committed) + 1);
                let end = model.now.next_offset(index);
                let roll = index > committed && self.rng.chance(25);
                let log_start = (index > committed && self.rng.chance(12)).then(|| self.rng.below(end + 1));
                self.commit(group, index, roll, log_start);
            }
            12 => {
                let all = self.rng.chance(60);
                self.begin_checkpoint(|id| all || id.get() % 2 == group.get() % 2);
            }
            13 => self.store.tick(),
            _ => {}
        }
        for _ in 0..self.rng.below(6) {
            self.drive_one(watch)?;
        }
        Ok(())
    }

    /// A story with everything in it.
    pub(super) fn story(seed: u64, steps: u64, watch: Watch<'_>) -> Self {
        let mut world = Self::new(seed);
        (1..=3).for_each(|group| world.create(GroupId(group)));
        for step in 0..steps {
            world.step(watch).unwrap();
            if step == steps / 3 {
                world.create(GroupId(4));
            }
            if step == steps * 2 / 3 {
                world.remove(GroupId(2));
                world.create(GroupId(5));
            }
        }
        world
    }
}

pub(super) fn open(disk: &Arc<SimDisk>) -> Result<Recovered, OpenError> {
    Store::open(Arc::<SimDisk>::clone(disk), CONFIG, &IDENTITY)
}
