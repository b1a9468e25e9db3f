//! A replica that is coming into being: it gets what the others have before raft knows it.
//!
//! A group has a history when a replica is added to it, and raft would send it entry by entry, read from the leader's disk.
//! Instead the new replica's node copies the group's segments, which are equal on all replicas, from any node that has
//! them, together with the state machine and the membership that belong to their end (a [`Snapshot`]). Only then its raft
//! group starts, and gets the little that is missing as any follower does. So raft itself never sends a snapshot.
//!
//! 1. *Clearing*: of a replica that this node had before nothing may be left, unless it is kept (`keeping.rs`).
//! 2. *Asking* a node where the group stands.
//! 3. *Copying*, segment by segment. What is there from before a restart, or of a replica that is kept, is read again
//!    instead. Every byte is checked against the snapshot before the group is made; a file that is not what it should be is
//!    thrown away, and another node asked.
//! 4. *Installing*: the group is made, and is in a checkpoint that is not durable yet.
//!
//! A question that is not answered is asked again, after some time to another node. Copies share a budget of bytes per
//! second, and few go on at once; one that no node has an answer for lets others go first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use levada_storage_engine::{
    disk::DiskError,
    error::DamageCause,
    store::{SegmentSpec, Snapshot, Store, segment_file},
};

use super::{
    event::Effect,
    fetching::{Budget, Fetch, PATIENCE_TICKS, PIECE_BYTES, PIECES_WRITING_MAX, Piece, TRIES_MAX},
    keeping::{FULL_TICKS, Offers},
};
use crate::raft::{
    TICK_MS,
    wire::{CatchUp, PeerMessage},
};

/// Copies that go on at once.
const COPIES_AT_ONCE: usize = 4;
/// A copy that nobody had an answer for is tried again after so many ticks.
const REST_TICKS: u64 = 5_000 / TICK_MS;
/// Pieces that are read for others, and for ourselves, at once.
const READS_MAX: usize = 64;

/// Where a copy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Nodes that have what is wanted, in the order in which they are asked.
    pub(super) nodes: Vec<NodeId>,
    /// The replica that comes into being.
    pub(super) replica: ReplicaId,
}

/// What a copy does at the moment.
#[derive(Debug)]
enum Stage {
    Clearing,
    /// For others to be done, and not before this tick.
    Waiting {
        not_before: u64,
    },
    Asking,
    Copying(Box<Copying>),
    Installing {
        snapshot: Box<Snapshot>,
        checkpoint: u64,
    },
}

#[derive(Debug)]
struct Copying {
    snapshot: Snapshot,
    segments: Vec<SegmentSpec>,
    /// The segment that is copied; behind the last one everything is there.
    at: usize,
    fetch: Option<Fetch>,
    /// Segments whose files are here and sound, and those whose files are not.
    adopted: BTreeSet<LogIndex>,
    refused: BTreeSet<LogIndex>,
}

impl Copying {
    /// What is fetched, if there is more.
    fn fetch(&mut self, group: GroupId, store: &mut Store) -> Option<&mut Fetch> {
        let spec = self.segments.get(self.at)?;
        Some(self.fetch.get_or_insert_with(|| {
            let first_index = spec.first_index();
            let reread_to = store.incoming(group).get(&first_index).copied().unwrap_or(0);
            if reread_to == 0 {
                // What another node began to send goes no further.
                store.discard_incoming_file(group, first_index);
                if !self.refused.contains(&first_index) && store.may_adopt(group, spec) {
                    return Fetch::own(spec.clone());
                }
            }
            Fetch::new(spec.clone(), reread_to)
        }))
    }

    /// A segment is complete.
    fn advance(&mut self) {
        self.fetch = None;
        self.at += 1;
    }
}

/// One replica that comes into being.
#[derive(Debug)]
struct Copy {
    source: Source,
    /// Which of the source's nodes is asked, and how many were in vain since one had an answer.
    asked: usize,
    in_vain: usize,
    tries: u32,
    /// A question or a read is under way since this tick.
    since: Option<u64>,
    /// Writes that the disk has not answered.
    writing: u64,
    /// Of nodes that go less far than the replica that is kept.
    offers: Offers,
    stage: Stage,
}

/// What a read is for.
#[derive(Debug)]
enum Reading {
    /// A node wants it.
    Lend { to: NodeId, group: GroupId, first_index: LogIndex, position: u64 },
    /// A file that arrived before a restart.
    Reread { group: GroupId, first_index: LogIndex, position: u64 },
    /// A file of a replica that is kept.
    Own { group: GroupId, first_index: LogIndex, position: u64 },
}

impl Reading {
    /// Whether it is read for a copy of this group.
    fn is_for(&self, group: GroupId) -> bool {
        matches!(self, Self::Reread { group: of, .. } | Self::Own { group: of, .. } if *of == group)
    }
}

/// A replica that is there, and durable.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) group: GroupId,
    pub(super) snapshot: Snapshot,
}

/// All replicas that come into being on this node, and what is read for those on others.
#[derive(Debug, Default)]
pub(super) struct Copies {
    copies: BTreeMap<GroupId, Copy>,
    reading: BTreeMap<u64, Reading>,
    last_read: u64,
    copied_bytes: u64,
    ticks: u64,
    /// Since which tick the disk has been full.
    full_since: Option<u64>,
}

impl Copies {
    /// Begins a copy, or lets one go on that may come from other nodes by now.
    pub(super) fn begin(&mut self, group: GroupId, source: Source, store: &mut Store) {
        match self.copies.get_mut(&group) {
            Some(copy) if copy.source.replica == source.replica => copy.source = source,
            _ => {
                self.give_up(group, store);
                let is_kept = store.kept_to(group).is_some();
                let stage = if is_kept { Stage::Waiting { not_before: 0 } } else { Stage::Clearing };
                let offers = Offers::default();
                let copy = Copy { source, asked: 0, in_vain: 0, tries: 0, since: None, writing: 0, offers, stage };
                self.copies.insert(group, copy);
            }
        }
    }

    /// Gives up the copy of a group, and throws away what is there of it.
    pub(super) fn give_up(&mut self, group: GroupId, store: &mut Store) {
        if let Some(copy) = self.copies.remove(&group) {
            match copy.stage {
                Stage::Installing { .. } => store.remove_group(group),
                _ => store.discard_incoming(group),
            }
        }
    }

    /// The replica that comes into being of a group.
    pub(super) fn replica(&self, group: GroupId) -> Option<ReplicaId> {
        self.copies.get(&group).map(|copy| copy.source.replica)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    /// How many bytes have come from other nodes since the start.
    pub(super) const fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    /// Whether a checkpoint is what a copy waits for.
    pub(super) fn wants_checkpoint(&self, store: &Store) -> bool {
        self.copies.iter().any(|(group, copy)| match copy.stage {
            Stage::Clearing => !store.is_gone(*group),
            Stage::Installing { .. } => true,
            _ => false,
        })
    }

    /// Throws away files that arrived for nobody.
    pub(super) fn discard_strays(&self, is_wanted: impl Fn(GroupId) -> bool, store: &mut Store) {
        for group in store.incoming_groups() {
            if !self.copies.contains_key(&group) && !is_wanted(group) {
                store.discard_incoming(group);
            }
        }
    }

    /// 50 ms have passed.
    pub(super) fn tick(&mut self, budget: &mut Budget, store: &mut Store, out: &mut Vec<Effect>) {
        self.ticks += 1;
        self.let_kept_go(budget, store);
        let mut going = self.copies.values().filter(|copy| copy.is_going()).count();
        let groups: Vec<GroupId> = self.copies.keys().copied().collect();
        for group in groups {
            let Some(copy) = self.copies.get_mut(&group) else { continue };
            if matches!(copy.stage, Stage::Clearing) && store.is_gone(group) {
                copy.stage = Stage::Waiting { not_before: 0 };
            }
            let is_due = matches!(copy.stage, Stage::Waiting { not_before } if self.ticks >= not_before);
            if is_due && going < COPIES_AT_ONCE {
                going += 1;
                copy.stage = Stage::Asking;
            }
            let is_late = copy.since.is_some_and(|since| self.ticks >= since + PATIENCE_TICKS);
            // The own disk answers, sooner or later.
            if is_late && !self.reading.values().any(|reading| reading.is_for(group)) {
                copy.since = None;
                copy.tries += 1;
                if copy.tries >= TRIES_MAX {
                    copy.ask_another(self.ticks);
                }
            }
            if matches!(copy.stage, Stage::Asking) && copy.source.nodes.is_empty() {
                copy.rest(self.ticks);
            }
            if matches!(copy.stage, Stage::Waiting { .. }) && is_due {
                tracing::warn!(group = group.get(), nodes = ?copy.source.nodes, "copy.stuck: none of these nodes has what the new replica needs, or answers; it is tried again");
            }
            self.go_on(group, budget, store, out);
        }
    }

    /// Does what can be done now for a copy.
    fn go_on(&mut self, group: GroupId, budget: &mut Budget, store: &mut Store, out: &mut Vec<Effect>) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        if copy.since.is_some() {
            return;
        }
        let Some(&to) = copy.source.nodes.get(copy.asked % copy.source.nodes.len().max(1)) else { return };
        let say = |what| Effect::Send { to, message: PeerMessage::CatchUp { group, what } };
        match &mut copy.stage {
            Stage::Clearing | Stage::Waiting { .. } | Stage::Installing { .. } => {}
            Stage::Asking => {
                copy.since = Some(self.ticks);
                out.push(say(CatchUp::AskSnapshot { wanted_to: store.kept_to(group).unwrap_or_default() }));
            }
            Stage::Copying(copying) => {
                let Some(fetch) = copying.fetch(group, store) else {
                    if copy.writing == 0 && store.may_install(group) {
                        let snapshot = copying.snapshot.clone();
                        let (_, checkpoint) = store.install(snapshot.clone(), &copying.adopted);
                        copy.stage = Stage::Installing { snapshot: Box::new(snapshot), checkpoint };
                    }
                    return;
                };
                let first_index = fetch.first_index();
                match fetch.next() {
                    Piece::Reread { position, bytes } => {
                        copy.since = Some(self.ticks);
                        self.last_read += 1;
                        self.reading.insert(self.last_read, Reading::Reread { group, first_index, position });
                        let (token, file) = (self.last_read, store.incoming_file(group, first_index));
                        out.push(Effect::Read { token, file, pos: position, len: bytes, from_disk: false });
                    }
                    // Also on a full disk: nothing is written.
                    Piece::Own { position, bytes_max } => {
                        if budget.take_needed(bytes_max) {
                            copy.since = Some(self.ticks);
                            self.last_read += 1;
                            self.reading.insert(self.last_read, Reading::Own { group, first_index, position });
                            let (token, file) = (self.last_read, segment_file(group, first_index));
                            let len = bytes_max as usize;
                            out.push(Effect::Read { token, file, pos: position, len, from_disk: true });
                        }
                    }
                    Piece::Ask { position, bytes_max } => {
                        if copy.writing < PIECES_WRITING_MAX && budget.take(bytes_max) {
                            copy.since = Some(self.ticks);
                            out.push(say(CatchUp::AskSegment { first_index, position, bytes_max }));
                        }
                    }
                }
            }
        }
    }

    /// A node says where a group stands. `adopt` makes the snapshot this replica's own, if it can be.
    pub(super) fn on_snapshot(
        &mut self,
        (from, group): (NodeId, GroupId),
        bytes: Option<Bytes>,
        adopt: impl FnOnce(ReplicaId, Snapshot) -> Option<Snapshot>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        if !matches!(copy.stage, Stage::Asking) || copy.asks() != Some(from) {
            return;
        }
        copy.since = None;
        let snapshot = bytes.and_then(|bytes| match Snapshot::decode(&bytes) {
            Ok(snapshot) if snapshot.group() == group => adopt(copy.source.replica, snapshot),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(group = group.get(), %from, %error, "copy.snapshot.refused");
                None
            }
        });
        let is_enough = |snapshot: &Snapshot| {
            let Some(kept_to) = store.kept_to(group) else { return true };
            let offer = (from, snapshot.applied());
            let is_enough = copy.offers.is_enough(offer, kept_to, &copy.source.nodes, self.ticks);
            if !is_enough {
                tracing::info!(group = group.get(), %from, applied = %snapshot.applied(), %kept_to, "copy.short: the replica in doubt here has more, which is not given away yet");
            }
            is_enough
        };
        let Some(snapshot) = snapshot.filter(is_enough) else {
            // Not at once: it may be all that there is.
            copy.since = Some(self.ticks);
            copy.tries = TRIES_MAX;
            return;
        };
        let segments = snapshot.segments();
        tracing::info!(group = group.get(), %from, segments = segments.len(), applied = %snapshot.applied(), "copy.began");
        // Of a log that starts later now, what came of its front is of no use.
        for first in store.incoming(group).into_keys() {
            if !segments.iter().any(|segment| segment.first_index() == first) {
                store.discard_incoming_file(group, first);
            }
        }
        let (adopted, refused) = (BTreeSet::new(), BTreeSet::new());
        let copying = Copying { snapshot, segments, at: 0, fetch: None, adopted, refused };
        copy.stage = Stage::Copying(Box::new(copying));
        self.go_on(group, budget, store, out);
    }

    /// A node says what is in a segment.
    pub(super) fn on_segment(
        &mut self,
        from: NodeId,
        (group, first_index, position): (GroupId, LogIndex, u64),
        bytes: Option<Bytes>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        if copy.asks() != Some(from) {
            return;
        }
        let Stage::Copying(copying) = &mut copy.stage else { return };
        let Some(fetch) = copying.fetch.as_mut().filter(|fetch| fetch.asks(first_index, position)) else { return };
        if copy.since.is_none() {
            return;
        }
        copy.since = None;
        copy.tries = 0;
        copy.in_vain = 0;
        let Some(bytes) = bytes else {
            // The log starts later by now, or that node is no replica any more.
            store.discard_incoming_file(group, first_index);
            copy.ask_another(self.ticks);
            return;
        };
        self.copied_bytes += bytes.len() as u64;
        match fetch.take(&bytes) {
            Ok(complete) => {
                if !bytes.is_empty() {
                    store.write_incoming(group, first_index, bytes);
                    copy.writing += 1;
                }
                if complete {
                    copying.advance();
                    store.finish_incoming(group, first_index);
                    copy.writing += 1;
                }
            }
            Err(error) => {
                tracing::warn!(group = group.get(), %from, %first_index, %error, "copy.segment.refused: another node is asked");
                store.discard_incoming_file(group, first_index);
                copy.ask_another(self.ticks);
            }
        }
        self.go_on(group, budget, store, out);
    }

    /// The disk has written or synced a piece.
    pub(super) fn on_written(&mut self, group: GroupId, budget: &mut Budget, store: &mut Store, out: &mut Vec<Effect>) {
        if let Some(copy) = self.copies.get_mut(&group) {
            copy.writing = copy.writing.saturating_sub(1);
        }
        self.go_on(group, budget, store, out);
    }

    /// A piece found no space on the disk: what is there of the copy makes room, and it begins again later.
    pub(super) fn on_full(&mut self, group: GroupId, store: &mut Store) {
        store.discard_incoming(group);
        let Some(copy) = self.copies.get_mut(&group) else { return };
        copy.writing = copy.writing.saturating_sub(1);
        if matches!(copy.stage, Stage::Copying(_)) {
            tracing::warn!(group = group.get(), "copy.full: the disk has no space for it, it begins again later");
            copy.stage = Stage::Waiting { not_before: self.ticks + REST_TICKS };
            copy.since = None;
        }
    }

    /// The disk has read something.
    pub(super) fn on_read(
        &mut self,
        token: u64,
        result: Result<Bytes, DiskError>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        match self.reading.remove(&token) {
            Some(Reading::Lend { to, group, first_index, position }) => {
                let bytes = result.inspect_err(|error| {
                    tracing::debug!(group = group.get(), %error, "copy.lend.failed");
                });
                let what = CatchUp::Segment { first_index, position, bytes: bytes.ok() };
                out.push(Effect::Send { to, message: PeerMessage::CatchUp { group, what } });
            }
            Some(Reading::Reread { group, first_index, position }) => {
                self.on_reread(group, (first_index, position), result, budget, store, out);
            }
            Some(Reading::Own { group, first_index, position }) => {
                self.on_own(group, (first_index, position), result, budget, store, out);
            }
            None => {}
        }
    }

    fn on_reread(
        &mut self,
        group: GroupId,
        (first_index, position): (LogIndex, u64),
        result: Result<Bytes, DiskError>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        let Stage::Copying(copying) = &mut copy.stage else { return };
        let fetch = copying.fetch.as_mut();
        let Some(fetch) = fetch.filter(|fetch| fetch.rereads(first_index, position)) else { return };
        copy.since = None;
        let taken = result.ok().filter(|bytes| !bytes.is_empty()).and_then(|bytes| fetch.take_again(&bytes).ok());
        if taken == Some(true) {
            copying.advance();
        }
        // The segment may also have grown since, then it is copied as a whole.
        if taken.is_none() {
            copying.fetch = None;
            store.discard_incoming_file(group, first_index);
        }
        self.go_on(group, budget, store, out);
    }

    /// A file of a replica that is kept: it stays where it is if it is what it should be.
    fn on_own(
        &mut self,
        group: GroupId,
        (first_index, position): (LogIndex, u64),
        result: Result<Bytes, DiskError>,
        budget: &mut Budget,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        let Stage::Copying(copying) = &mut copy.stage else { return };
        let Some(fetch) = copying.fetch.as_mut().filter(|fetch| fetch.adopts(first_index, position)) else { return };
        copy.since = None;
        match result.map_err(DamageCause::from).and_then(|bytes| fetch.take(&bytes)) {
            Ok(false) => {}
            Ok(true) => {
                copying.adopted.insert(first_index);
                copying.advance();
            }
            Err(error) => {
                tracing::warn!(group = group.get(), %first_index, %error, "copy.own.refused: the file that is here is not sound; it is copied from another node");
                copying.refused.insert(first_index);
                copying.fetch = None;
            }
        }
        self.go_on(group, budget, store, out);
    }

    /// A disk that stays full gets rid of replicas that are kept, but for those that take the place of another just now.
    fn let_kept_go(&mut self, budget: &Budget, store: &mut Store) {
        let since = *self.full_since.get_or_insert(self.ticks);
        self.full_since = budget.is_closed().then_some(since);
        if self.full_since.is_none_or(|since| self.ticks < since + FULL_TICKS) {
            return;
        }
        for (&group, copy) in &mut self.copies {
            if store.kept_to(group).is_some() {
                tracing::warn!(
                    group = group.get(),
                    "copy.full.kept: the disk stays full, and the replica in doubt that was kept goes"
                );
                store.discard_incoming(group);
                store.remove_group(group);
                copy.since = None;
                copy.stage = Stage::Clearing;
            }
        }
    }

    /// A checkpoint is durable: the replicas that it was the first to have.
    pub(super) fn on_checkpoint(&mut self, number: u64) -> Vec<Arrived> {
        let is_in = |_: &GroupId, copy: &mut Copy| matches!(copy.stage, Stage::Installing { checkpoint, .. } if checkpoint <= number);
        let arrived = self.copies.extract_if(.., is_in);
        let arrived = arrived.filter_map(|(group, copy)| match copy.stage {
            Stage::Installing { snapshot, .. } => Some(Arrived { group, snapshot: *snapshot }),
            _ => None,
        });
        arrived.collect()
    }

    /// Reads a piece of a segment for another node.
    pub(super) fn lend(
        &mut self,
        to: NodeId,
        group: GroupId,
        first_index: LogIndex,
        (position, bytes_max): (u64, u32),
        out: &mut Vec<Effect>,
    ) {
        // It asks again.
        if self.reading.len() >= READS_MAX {
            return;
        }
        self.last_read += 1;
        self.reading.insert(self.last_read, Reading::Lend { to, group, first_index, position });
        let len = bytes_max.min(PIECE_BYTES) as usize;
        let file = segment_file(group, first_index);
        out.push(Effect::Read { token: self.last_read, file, pos: position, len, from_disk: false });
    }
}

impl Copy {
    const fn is_going(&self) -> bool {
        matches!(self.stage, Stage::Asking | Stage::Copying(_) | Stage::Installing { .. })
    }

    /// Who is asked.
    fn asks(&self) -> Option<NodeId> {
        self.source.nodes.get(self.asked % self.source.nodes.len().max(1)).copied()
    }

    fn ask_another(&mut self, now: u64) {
        self.asked += 1;
        self.in_vain += 1;
        self.tries = 0;
        self.since = None;
        if self.in_vain > self.source.nodes.len() {
            self.rest(now);
        } else if matches!(self.stage, Stage::Copying(_)) {
            self.stage = Stage::Asking;
        }
    }

    /// Lets others go first.
    fn rest(&mut self, now: u64) {
        self.in_vain = 0;
        self.since = None;
        self.stage = Stage::Waiting { not_before: now + REST_TICKS };
    }
}
