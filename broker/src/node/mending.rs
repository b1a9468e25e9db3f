//! Damaged segments are mended from other nodes, while their replicas go on.
//!
//! Whoever cannot read a segment of this node writes that down: a reader, raft for a follower, the scrub (`scrubbing.rs`).
//! As all replicas have the same segments, another node's file of it takes the place of the damaged one, once every byte of
//! it was checked against what is known of the segment here. The replica votes, leads and takes entries all the while: its
//! journal is sound, and what it serves is checked as it is read.
//!
//! A segment that is still written first has to end: its leader is asked to roll it. One that this node cannot go on writing
//! after a restart, because its index is lost, is mended as far as it goes; what is to be written to it waits, but not for
//! long. A segment that no node has soundly stays damaged, and is tried again every few seconds; what of it can be read is
//! served. If the others have it soundly, but as
//! another file than this replica's, the replica is unsound (`unsound.rs`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, NodeId};
use levada_storage_engine::{error::DamageCause, store::Store};

use super::{
    Node,
    event::Effect,
    fetching::{Budget, Fetch, PATIENCE_TICKS, PIECES_WRITING_MAX, Piece, TRIES_MAX},
    housekeeping::{SEGMENT_TICKS, roll},
    sleeping::Wake,
};
use crate::{
    partition::machine::Partition,
    raft::{
        TICK_MS,
        group::Group,
        wire::{CatchUp, PeerMessage},
    },
};

/// Damaged segments that are remembered; others are found again.
const MENDS_MAX: usize = 1024;
/// So many of them may be segments whose files were not there at the start, when a whole directory may be gone.
const MISSING_MAX: usize = MENDS_MAX / 2;
/// Segments that are fetched at once, and how many more if entries wait for these.
const MENDS_AT_ONCE: usize = 2;
const AWAITED_AT_ONCE: usize = 2;
/// A segment for which nobody had a sound file is tried again after so many ticks.
const REST_TICKS: u64 = 5_000 / TICK_MS;
/// How long entries wait for the segment that they are to be written to, and how long if it is on its way.
const WRITER_WAITS_TICKS: u64 = 15_000 / TICK_MS;
const FETCH_WAITS_TICKS: u64 = 60_000 / TICK_MS;
/// After so many rounds in which every node answered that it has none, nobody has a sound file. (A node may be about to write
/// it.)
const HOPELESS_ROUNDS: u32 = 5;
/// After so many of them in which a node had another file than this replica's, the replica is unsound.
const DIVERGED_ROUNDS: u32 = 3;
/// How long a segment may take to end, after its leader was asked to roll it.
const ROLL_TICKS: u64 = 1_000 / TICK_MS;

/// All damaged segments of a node.
#[derive(Debug, Default)]
pub(super) struct Mends {
    mends: BTreeMap<(GroupId, LogIndex), Mend>,
    ticks: u64,
    mended: u64,
    fetched_bytes: u64,
}

/// A segment by its group and first entry.
type Key = (GroupId, LogIndex);

/// A damaged segment.
#[derive(Debug)]
struct Mend {
    /// Nodes that have the segment, too.
    nodes: Vec<NodeId>,
    /// Which of them is asked, and how many were in vain since one had an answer.
    asked: usize,
    in_vain: usize,
    /// So many times in a row all of them have answered, in vain.
    hopeless_rounds: u32,
    /// In so many of them, the last ones, a node had a sound file that is not this replica's.
    diverged_rounds: u32,
    /// How many did not answer in this round.
    silent: usize,
    /// How many had such a file in this round.
    diverged: usize,
    tries: u32,
    /// Entries wait for it since this tick.
    awaited_since: Option<u64>,
    /// A question is under way since this tick.
    since: Option<u64>,
    /// Writes that the disk has not answered.
    writing: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// For its turn, for the segment's end, or for better times: not before this tick.
    Waiting {
        not_before: u64,
    },
    Fetching(Box<Fetch>),
    /// Everything came; what is written is awaited.
    Complete,
    Replacing,
}

impl Mend {
    fn asks(&self) -> Option<NodeId> {
        self.nodes.get(self.asked % self.nodes.len().max(1)).copied()
    }

    fn ask_another(&mut self, now: u64) {
        self.asked += 1;
        self.in_vain += 1;
        self.tries = 0;
        self.since = None;
        let rests = self.in_vain >= self.nodes.len();
        if rests {
            let have_answered = self.silent == 0;
            self.hopeless_rounds = if have_answered { self.hopeless_rounds + 1 } else { 0 };
            // What was found out stays so when a node is silent now.
            if have_answered {
                self.diverged_rounds = if self.diverged > 0 { self.diverged_rounds + 1 } else { 0 };
            }
            (self.silent, self.diverged) = (0, 0);
        }
        let not_before =
            if rests { now + if self.awaited_since.is_some() { ROLL_TICKS } else { REST_TICKS } } else { 0 };
        self.stage = Stage::Waiting { not_before };
        self.in_vain = if rests { 0 } else { self.in_vain };
    }

    const fn is_going(&self) -> bool {
        !matches!(self.stage, Stage::Waiting { .. })
    }
}

impl Mends {
    /// A segment cannot be read.
    pub(super) fn note(&mut self, group: GroupId, first_index: LogIndex) {
        if self.mends.len() < MENDS_MAX && !self.mends.contains_key(&(group, first_index)) {
            tracing::error!(group = group.get(), %first_index, "segment.damaged: it is to be mended from another node");
            let stage = Stage::Waiting { not_before: 0 };
            let mend = Mend {
                nodes: Vec::new(),
                asked: 0,
                in_vain: 0,
                hopeless_rounds: 0,
                diverged_rounds: 0,
                awaited_since: None,
                silent: 0,
                diverged: 0,
                tries: 0,
                since: None,
                writing: 0,
                stage,
            };
            self.mends.insert((group, first_index), mend);
        }
    }

    /// How many are damaged.
    pub(super) fn len(&self) -> usize {
        self.mends.len()
    }

    /// How many segments whose files were not there at the start may be asked for, too. Those that nobody seems to have do not
    /// keep others out.
    fn room(&self) -> usize {
        let has_turn_to_come = |mend: &&Mend| matches!(mend.stage, Stage::Waiting { not_before: 0 }) || mend.is_going();
        let hopeful = self.mends.values().filter(has_turn_to_come).count();
        MENDS_MAX.saturating_sub(self.mends.len()).min(MISSING_MAX.saturating_sub(hopeful))
    }

    /// How many were mended since the start.
    pub(super) const fn mended(&self) -> u64 {
        self.mended
    }

    /// How many bytes came for that.
    pub(super) const fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    /// Whether this segment is known to be damaged.
    pub(super) fn is_damaged(&self, group: GroupId, first_index: LogIndex) -> bool {
        self.mends.contains_key(&(group, first_index))
    }

    /// Whether a segment of the group is being mended.
    pub(super) fn has(&self, group: GroupId) -> bool {
        self.of(group).next().is_some()
    }

    /// Groups with damaged segments, and whether one of these is sound elsewhere, but not as this replica's file.
    pub(super) fn groups(&self) -> BTreeMap<GroupId, bool> {
        let mut groups = BTreeMap::new();
        for ((group, _), mend) in &self.mends {
            *groups.entry(*group).or_default() |= mend.diverged_rounds >= DIVERGED_ROUNDS;
        }
        groups
    }

    fn of(&self, group: GroupId) -> impl Iterator<Item = (&Key, &Mend)> {
        self.mends.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)))
    }

    /// The group is gone from here.
    pub(super) fn give_up(&mut self, group: GroupId, store: &mut Store) {
        if self.has(group) {
            self.mends.retain(|(of, _), _| *of != group);
            store.discard_incoming(group);
        }
    }

    /// 50 ms have passed. `nodes` says who else has a group; answers the groups whose segment must end first.
    fn tick(
        &mut self,
        nodes: impl Fn(GroupId) -> Vec<NodeId>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) -> BTreeSet<GroupId> {
        self.ticks += 1;
        let now = self.ticks;
        let mut unsealed = BTreeSet::new();
        self.mends.retain(|(group, first_index), _| store.segment(*group, *first_index).is_some());
        let mut going: BTreeSet<GroupId> =
            self.mends.iter().filter(|(_, mend)| mend.is_going()).map(|((group, _), _)| *group).collect();
        // What entries wait for comes first.
        let (awaited, others): (Vec<_>, _) = self.mends.iter().partition(|(_, mend)| mend.awaited_since.is_some());
        let keys: Vec<Key> = awaited.into_iter().chain(others).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(mend) = self.mends.get_mut(&key) else { continue };
            let is_awaited =
                store.segment(key.0, key.1).is_some_and(|spec| !spec.is_sealed()) && store.awaits_repair(key.0);
            if is_awaited && mend.awaited_since.is_none() {
                // What nobody had before, somebody may have now.
                mend.hopeless_rounds = 0;
                mend.awaited_since = Some(now);
            }
            mend.awaited_since = mend.awaited_since.filter(|_| is_awaited);
            let is_hopeless = mend.hopeless_rounds >= HOPELESS_ROUNDS || is_awaited && nodes(key.0).is_empty();
            // Not thrown away shortly before it is there.
            let patience =
                if matches!(mend.stage, Stage::Fetching(_)) { FETCH_WAITS_TICKS } else { WRITER_WAITS_TICKS };
            let is_late = mend.awaited_since.is_some_and(|since| now >= since + patience);
            if is_awaited && (is_hopeless || is_late) && !matches!(mend.stage, Stage::Complete | Stage::Replacing) {
                tracing::error!(group = key.0.get(), first_index = %key.1, "segment.damaged: no node has it soundly; it is written on as it is");
                store.accept_damage(key.0);
                store.discard_incoming(key.0);
                mend.awaited_since = None;
                mend.since = None;
                mend.stage = Stage::Waiting { not_before: now + ROLL_TICKS };
            }
            let is_due = matches!(mend.stage, Stage::Waiting { not_before } if now >= not_before);
            if is_due
                && going.len() < MENDS_AT_ONCE + if is_awaited { AWAITED_AT_ONCE } else { 0 }
                && !going.contains(&key.0)
                && let Some(spec) = store.segment(key.0, key.1)
            {
                mend.nodes = nodes(key.0);
                if !spec.is_sealed() && mend.awaited_since.is_none() {
                    unsealed.insert(key.0);
                    mend.stage = Stage::Waiting { not_before: now + ROLL_TICKS };
                } else if mend.nodes.is_empty() {
                    mend.stage = Stage::Waiting { not_before: now + REST_TICKS };
                } else {
                    going.insert(key.0);
                    store.discard_incoming(key.0);
                    mend.stage = Stage::Fetching(Box::new(Fetch::new(spec, 0)));
                }
            }
            if mend.since.is_some_and(|since| now >= since + PATIENCE_TICKS) {
                mend.since = None;
                mend.tries += 1;
                if mend.tries >= TRIES_MAX {
                    mend.silent += 1;
                    mend.ask_another(now);
                }
            }
            self.go_on(key, budget, store, out);
        }
        unsealed
    }

    fn go_on(&mut self, key: Key, budget: &mut Budget, store: &mut Store, out: &mut Vec<Effect>) {
        let Some(mend) = self.mends.get_mut(&key) else { return };
        match &mend.stage {
            Stage::Fetching(fetch) if mend.since.is_none() => {
                let (Piece::Ask { position, bytes_max }, Some(to)) = (fetch.next(), mend.asks()) else { return };
                let is_needed = mend.awaited_since.is_some();
                let may = |budget: &mut Budget| {
                    if is_needed { budget.take_needed(bytes_max) } else { budget.take(bytes_max) }
                };
                if mend.writing < PIECES_WRITING_MAX && may(budget) {
                    mend.since = Some(self.ticks);
                    let what = CatchUp::AskSegment { first_index: key.1, position, bytes_max };
                    out.push(Effect::Send { to, message: PeerMessage::CatchUp { group: key.0, what } });
                }
            }
            Stage::Complete if mend.writing == 0 => {
                store.replace_segment(key.0, key.1);
                mend.stage = Stage::Replacing;
            }
            _ => {}
        }
    }

    /// A node says what is in a segment that is damaged here. Answers whether that is so.
    pub(super) fn on_segment(
        &mut self,
        from: NodeId,
        (group, first_index, position): (GroupId, LogIndex, u64),
        bytes: Option<&Bytes>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) -> bool {
        let key = (group, first_index);
        let Some(mend) = self.mends.get_mut(&key) else { return false };
        let is_asked = mend.asks() == Some(from) && mend.since.is_some();
        let Stage::Fetching(fetch) = &mut mend.stage else { return true };
        if !is_asked || !fetch.asks(first_index, position) {
            return true;
        }
        mend.since = None;
        mend.tries = 0;
        match bytes.map(|bytes| (bytes, fetch.take(bytes))) {
            Some((bytes, Ok(complete))) => {
                self.fetched_bytes += bytes.len() as u64;
                if !bytes.is_empty() {
                    store.write_incoming(group, first_index, bytes.clone());
                    mend.writing += 1;
                }
                if complete {
                    store.finish_incoming(group, first_index);
                    mend.writing += 1;
                    mend.stage = Stage::Complete;
                }
            }
            Some((_, Err(error))) => {
                let diverged = matches!(error, DamageCause::Diverged);
                mend.diverged += usize::from(diverged);
                tracing::warn!(group = group.get(), %from, %first_index, %error, diverged, "mend.refused: what that node has is of no use here");
                store.discard_incoming_file(group, first_index);
                mend.ask_another(self.ticks);
            }
            // It has removed it, or cannot read it.
            None => {
                store.discard_incoming_file(group, first_index);
                mend.ask_another(self.ticks);
            }
        }
        self.go_on(key, budget, store, out);
        true
    }

    /// The disk has written or synced a piece of what came for a group.
    pub(super) fn on_written(&mut self, group: GroupId, budget: &mut Budget, store: &mut Store, out: &mut Vec<Effect>) {
        let writing = self.of(group).find(|(_, mend)| mend.writing > 0).map(|(key, _)| *key);
        let Some(key) = writing else { return };
        if let Some(mend) = self.mends.get_mut(&key) {
            mend.writing -= 1;
        }
        self.go_on(key, budget, store, out);
    }

    /// A piece found no space on the disk: what is there of the file makes room, and it begins again later.
    pub(super) fn on_full(&mut self, group: GroupId, store: &mut Store) {
        store.discard_incoming(group);
        let writing = self.of(group).find(|(_, mend)| mend.writing > 0).map(|(key, _)| *key);
        let Some(mend) = writing.and_then(|key| self.mends.get_mut(&key)) else { return };
        mend.writing -= 1;
        if matches!(mend.stage, Stage::Fetching(_) | Stage::Complete) {
            tracing::warn!(group = group.get(), "mend.full: the disk has no space for it, it begins again later");
            mend.stage = Stage::Waiting { not_before: self.ticks + REST_TICKS };
            mend.since = None;
        }
    }

    /// A segment has its sound file.
    pub(super) fn on_repaired(&mut self, group: GroupId, first_index: LogIndex) {
        if self.mends.remove(&(group, first_index)).is_some() {
            self.mended += 1;
            tracing::info!(group = group.get(), %first_index, "segment.mended");
        }
    }
}

impl Node {
    /// Looks for what is damaged, and goes on mending.
    pub(super) fn mend(&mut self, out: &mut Vec<Effect>) {
        if self.ticks.is_multiple_of(SEGMENT_TICKS) {
            let partitions = &self.partitions;
            let can_be_helped = |group| {
                let has_others = |partition: &Partition| !others(&partition.group).is_empty();
                group == GroupId::METADATA || partitions.get(&group).is_some_and(has_others)
            };
            for (group, first_index) in self.store.take_suspects(self.mends.room(), can_be_helped) {
                self.note_damage(group, first_index);
            }
        }
        if self.mends.len() == 0 {
            return;
        }
        let partitions = &self.partitions;
        let nodes = |group| partitions.get(&group).map_or_else(Vec::new, |partition| others(&partition.group));
        let unsealed = self.mends.tick(nodes, &mut self.budget, &mut self.store, out);
        for group in unsealed {
            self.ask_for_roll(group, out);
        }
    }

    fn ask_for_roll(&mut self, group: GroupId, out: &mut Vec<Effect>) {
        let Some(partition) = self.partitions.get(&group) else { return };
        if partition.leading.is_some() {
            self.on_roll_wanted(group);
        } else if let Some(to) = partition.group.leader() {
            out.push(Effect::Send { to, message: PeerMessage::Roll { group } });
        }
    }

    /// As leader: a replica's segment is damaged, and is to end so that it can be mended.
    pub(super) fn on_roll_wanted(&mut self, group: GroupId) {
        let may = |partition: &Partition| partition.leading.is_some() && has_unsealed(partition);
        if !self.partitions.get(&group).is_some_and(may) {
            return;
        }
        self.wake(group, Wake::Upkeep);
        if let Some(partition) = self.partitions.get_mut(&group)
            && roll(partition, self.now.wall_ms)
        {
            self.dirty.insert(group);
        }
    }
}

/// Whether there are entries behind the last sealed segment. If they are few and empty, a replica may have written them to a
/// segment (for a checkpoint) and another not, its leader among these.
fn has_unsealed(partition: &Partition) -> bool {
    let segments = partition.view.log.segments();
    let sealed = segments.iter().rev().find(|segment| segment.sealed);
    let from = sealed.map_or_else(|| partition.group.log().first_index(), |sealed| sealed.next_index);
    from <= partition.applied()
}

/// The other nodes that have what the group has.
fn others(group: &Group) -> Vec<NodeId> {
    let everybody = group.conf().everybody();
    let others = everybody.iter().filter(|replica| !group.is_self(**replica));
    others.filter_map(|replica| group.replicas().get(replica).copied()).collect()
}
