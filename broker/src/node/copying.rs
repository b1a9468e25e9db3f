//! A replica that is coming into being: it gets what the others have before raft knows it.
//!
//! A group has a history when a replica is added to it, and raft would send it entry by entry, read from the leader's disk.
//! Instead the new replica's node copies the group's segments, which are equal on all replicas, from any node that has
//! them, together with the state machine and the membership that belong to their end (a [`Snapshot`]). Only then its raft
//! group starts, and gets the little that is missing as any follower does. So raft itself never sends a snapshot.
//!
//! 1. *Clearing*: of a replica that this node had before nothing may be left.
//! 2. *Asking* a node where the group stands.
//! 3. *Copying*, segment by segment. What is there from before a restart is read again instead. Every byte is checked
//!    against the snapshot before the group is made; a file that is not what it should be is thrown away, and another
//!    node asked.
//! 4. *Installing*: the group is made, and is in a checkpoint that is not durable yet.
//!
//! A question that is not answered is asked again, after some time to another node. Copies share a budget of bytes per
//! second, and few go on at once; one that no node has an answer for lets others go first.

use std::collections::BTreeMap;

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, NodeId, ReplicaId};
use levada_storage_engine::{
    disk::DiskError,
    store::{SegmentCheck, SegmentSpec, Snapshot, Store, segment_file},
};

use super::event::Effect;
use crate::raft::{
    TICK_MS,
    wire::{CatchUp, PeerMessage},
};

/// What is asked for at once.
const PIECE_BYTES: u32 = 256 << 10;
/// Pieces of one copy that wait for the disk.
const PIECES_WRITING_MAX: u64 = 4;
/// Copies that go on at once.
const COPIES_AT_ONCE: usize = 4;
/// A question is asked again after so many ticks.
const PATIENCE_TICKS: u64 = 1_000 / TICK_MS;
/// After so many questions without an answer another node is asked.
const TRIES_MAX: u32 = 3;
/// A copy that nobody had an answer for is tried again after so many ticks.
const REST_TICKS: u64 = 5_000 / TICK_MS;
/// The budget saves up this many ticks.
const BUDGET_TICKS: i64 = 20;
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
    check: Option<SegmentCheck>,
    /// How long the copy of the segment is that is there from before a restart, and is read again.
    reread_to: u64,
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
    stage: Stage,
}

/// What a read is for.
#[derive(Debug)]
enum Reading {
    /// A node wants it.
    Lend { to: NodeId, group: GroupId, first_index: LogIndex, position: u64 },
    /// A file that arrived before a restart.
    Reread { group: GroupId, first_index: LogIndex, position: u64 },
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
    /// Bytes that may be asked for.
    budget_bytes: i64,
    bytes_per_tick: i64,
    copied_bytes: u64,
    ticks: u64,
}

impl Copies {
    /// With a budget for all copies together.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        let bytes_per_tick = i64::try_from(bytes_per_s / 1_000 * TICK_MS).unwrap_or(i64::MAX / BUDGET_TICKS).max(1);
        Self { bytes_per_tick, ..Self::default() }
    }

    /// Begins a copy, or lets one go on that may come from other nodes by now.
    pub(super) fn begin(&mut self, group: GroupId, source: Source, store: &mut Store) {
        match self.copies.get_mut(&group) {
            Some(copy) if copy.source.replica == source.replica => copy.source = source,
            _ => {
                self.give_up(group, store);
                let copy =
                    Copy { source, asked: 0, in_vain: 0, tries: 0, since: None, writing: 0, stage: Stage::Clearing };
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
    pub(super) fn discard_strays(&self, store: &mut Store) {
        for group in store.incoming_groups() {
            if !self.copies.contains_key(&group) {
                store.discard_incoming(group);
            }
        }
    }

    /// 50 ms have passed.
    pub(super) fn tick(&mut self, store: &mut Store, out: &mut Vec<Effect>) {
        self.ticks += 1;
        self.budget_bytes = (self.budget_bytes + self.bytes_per_tick).min(self.bytes_per_tick * BUDGET_TICKS);
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
            let is_reading = |reading: &Reading| matches!(reading, Reading::Reread { group: of, .. } if *of == group);
            let is_late = copy.since.is_some_and(|since| self.ticks >= since + PATIENCE_TICKS);
            // The own disk answers, sooner or later.
            if is_late && !self.reading.values().any(is_reading) {
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
            self.go_on(group, store, out);
        }
    }

    /// Does what can be done now for a copy.
    fn go_on(&mut self, group: GroupId, store: &mut Store, out: &mut Vec<Effect>) {
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
                out.push(say(CatchUp::AskSnapshot));
            }
            Stage::Copying(copying) => match copying.next(group, store) {
                Next::Reread { first_index, position, bytes } => {
                    copy.since = Some(self.ticks);
                    self.last_read += 1;
                    self.reading.insert(self.last_read, Reading::Reread { group, first_index, position });
                    let (token, file) = (self.last_read, store.incoming_file(group, first_index));
                    out.push(Effect::Read { token, file, pos: position, len: bytes });
                }
                Next::Ask { first_index, position, bytes_max } => {
                    // It may be in debt by a piece: a budget below that lets copies go on, too.
                    if self.budget_bytes > 0 && copy.writing < PIECES_WRITING_MAX {
                        self.budget_bytes -= i64::from(bytes_max);
                        copy.since = Some(self.ticks);
                        out.push(say(CatchUp::AskSegment { first_index, position, bytes_max }));
                    }
                }
                Next::Done if copy.writing == 0 => {
                    let snapshot = copying.snapshot.clone();
                    let (_, checkpoint) = store.install(snapshot.clone());
                    copy.stage = Stage::Installing { snapshot: Box::new(snapshot), checkpoint };
                }
                Next::Done => {}
            },
        }
    }

    /// A node says where a group stands. `adopt` makes the snapshot this replica's own, if it can be.
    pub(super) fn on_snapshot(
        &mut self,
        from: NodeId,
        group: GroupId,
        bytes: Option<Bytes>,
        adopt: impl FnOnce(ReplicaId, Snapshot) -> Option<Snapshot>,
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
        let Some(snapshot) = snapshot else {
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
        let copying = Copying { snapshot, segments, at: 0, check: None, reread_to: 0 };
        copy.stage = Stage::Copying(Box::new(copying));
        self.go_on(group, store, out);
    }

    /// A node says what is in a segment.
    pub(super) fn on_segment(
        &mut self,
        from: NodeId,
        group: GroupId,
        (first_index, position): (LogIndex, u64),
        bytes: Option<Bytes>,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        if copy.asks() != Some(from) {
            return;
        }
        let Stage::Copying(copying) = &mut copy.stage else { return };
        let is_asked = copying.segments.get(copying.at).is_some_and(|segment| segment.first_index() == first_index)
            && copying.check.as_ref().is_some_and(|check| check.position() == position)
            && position >= copying.reread_to;
        if !is_asked || copy.since.is_none() {
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
        let is_end = bytes.len() < copying.piece_bytes() as usize;
        match copying.take(&bytes, is_end) {
            Ok(complete) => {
                if !bytes.is_empty() {
                    store.write_incoming(group, first_index, bytes);
                    copy.writing += 1;
                }
                if complete {
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
        self.go_on(group, store, out);
    }

    /// The disk has written or synced a piece.
    pub(super) fn on_written(&mut self, group: GroupId, store: &mut Store, out: &mut Vec<Effect>) {
        if let Some(copy) = self.copies.get_mut(&group) {
            copy.writing = copy.writing.saturating_sub(1);
        }
        self.go_on(group, store, out);
    }

    /// The disk has read something.
    pub(super) fn on_read(
        &mut self,
        token: u64,
        result: Result<Bytes, DiskError>,
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
                self.on_reread(group, (first_index, position), result, store, out);
            }
            None => {}
        }
    }

    fn on_reread(
        &mut self,
        group: GroupId,
        (first_index, position): (LogIndex, u64),
        result: Result<Bytes, DiskError>,
        store: &mut Store,
        out: &mut Vec<Effect>,
    ) {
        let Some(copy) = self.copies.get_mut(&group) else { return };
        let Stage::Copying(copying) = &mut copy.stage else { return };
        let is_asked = copying.segments.get(copying.at).is_some_and(|segment| segment.first_index() == first_index)
            && copying.check.as_ref().is_some_and(|check| check.position() == position)
            && position < copying.reread_to;
        if !is_asked {
            return;
        }
        copy.since = None;
        let is_sound = match result {
            Ok(bytes) if !bytes.is_empty() => {
                let is_end = copying
                    .check
                    .as_ref()
                    .is_some_and(|check| check.position() + bytes.len() as u64 >= copying.reread_to);
                copying.take(&bytes, is_end).is_ok()
            }
            _ => false,
        };
        // The segment may also have grown since, then it is copied as a whole.
        if !is_sound {
            copying.begin_again();
            store.discard_incoming_file(group, first_index);
        }
        self.go_on(group, store, out);
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
        out.push(Effect::Read { token: self.last_read, file: segment_file(group, first_index), pos: position, len });
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

/// What a copy needs next.
enum Next {
    Reread { first_index: LogIndex, position: u64, bytes: usize },
    Ask { first_index: LogIndex, position: u64, bytes_max: u32 },
    Done,
}

impl Copying {
    fn next(&mut self, group: GroupId, store: &mut Store) -> Next {
        let Some(segment) = self.segments.get(self.at) else { return Next::Done };
        let first_index = segment.first_index();
        let position = match &self.check {
            Some(check) => check.position(),
            None => {
                self.reread_to = store.incoming(group).get(&first_index).copied().unwrap_or(0);
                if self.reread_to == 0 {
                    // What another node began to send goes no further.
                    store.discard_incoming_file(group, first_index);
                }
                self.check = Some(segment.check());
                0
            }
        };
        if position < self.reread_to {
            let bytes = usize::try_from(self.reread_to - position).unwrap_or(usize::MAX).min(PIECE_BYTES as usize);
            return Next::Reread { first_index, position, bytes };
        }
        Next::Ask { first_index, position, bytes_max: self.piece_bytes() }
    }

    /// How much is asked for next: of a segment that is not complete, nothing behind what is spoken for.
    fn piece_bytes(&self) -> u32 {
        let (Some(segment), Some(check)) = (self.segments.get(self.at), &self.check) else { return 0 };
        if segment.is_sealed() {
            return PIECE_BYTES;
        }
        u32::try_from(segment.bytes().saturating_sub(check.position())).unwrap_or(u32::MAX).min(PIECE_BYTES)
    }

    /// Takes the next bytes of the segment; whether it is complete then.
    fn take(&mut self, bytes: &[u8], is_end: bool) -> Result<bool, levada_storage_engine::error::DamageCause> {
        let Some(check) = &mut self.check else { return Ok(false) };
        check.update(bytes)?;
        if check.wants_more() && !is_end {
            return Ok(false);
        }
        check.finish()?;
        self.check = None;
        self.at += 1;
        Ok(true)
    }

    fn begin_again(&mut self) {
        self.check = None;
        self.reread_to = 0;
    }
}
