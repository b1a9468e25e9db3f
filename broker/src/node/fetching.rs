//! One segment's way from another node: which piece is wanted next, and whether what came is what it must be.
//!
//! Every byte is checked against what is known of the segment before anybody relies on it. A copy that is there from before a
//! restart is read again first; a file that is here already, of a replica in doubt that is kept, only has to be read.

use levada_protocol::ids::LogIndex;
use levada_storage_engine::{
    error::DamageCause,
    planted::{self, Planted},
    store::{SegmentCheck, SegmentSpec},
};

use crate::raft::TICK_MS;

/// What is asked for at once.
pub(super) const PIECE_BYTES: u32 = 256 << 10;
/// Pieces of one segment that wait for the disk.
pub(super) const PIECES_WRITING_MAX: u64 = 4;
/// A question is asked again after so many ticks.
pub(super) const PATIENCE_TICKS: u64 = 1_000 / TICK_MS;
/// After so many questions without an answer another node is asked.
pub(super) const TRIES_MAX: u32 = 3;
/// The budget saves up this many ticks.
const BUDGET_TICKS: i64 = 20;

/// Bytes per second that may be asked for.
#[derive(Debug, Default)]
pub(super) struct Budget {
    bytes: i64,
    bytes_per_tick: i64,
    /// The disk is full.
    is_closed: bool,
}

impl Budget {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        let mut budget = Self::default();
        budget.set_rate(bytes_per_s);
        budget
    }

    /// From now on it grows by this.
    pub(super) fn set_rate(&mut self, bytes_per_s: u64) {
        let bytes_per_tick = i64::try_from(bytes_per_s / 1_000 * TICK_MS).unwrap_or(i64::MAX / BUDGET_TICKS);
        self.bytes_per_tick = bytes_per_tick.max(1);
    }

    /// 50 ms have passed. Unless it `has_room`, only what is needed is asked for: the disk is full.
    pub(super) fn tick(&mut self, has_room: bool) {
        self.bytes = (self.bytes + self.bytes_per_tick).min(self.bytes_per_tick * BUDGET_TICKS);
        self.is_closed = !has_room;
    }

    /// Whether the disk is full.
    pub(super) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether something may be asked for. It may be in debt by a piece: so a budget below that lets things go on, too.
    pub(super) fn take(&mut self, bytes: u32) -> bool {
        !self.is_closed && self.take_needed(bytes)
    }

    /// The same for what a full disk waits for: nothing is freed before it is there.
    pub(super) fn take_needed(&mut self, bytes: u32) -> bool {
        let may = self.bytes > 0;
        self.bytes -= if may { i64::from(bytes) } else { 0 };
        may
    }
}

/// A segment that is fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    spec: SegmentSpec,
    check: SegmentCheck,
    /// How long the copy is that is there from before a restart.
    reread_to: u64,
    /// The file is here, and may stay.
    is_own: bool,
}

/// What it needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// From the copy that is there.
    Reread { position: u64, bytes: usize },
    /// From the file that is here.
    Own { position: u64, bytes_max: u32 },
    /// From another node.
    Ask { position: u64, bytes_max: u32 },
}

impl Fetch {
    /// Begins one of which a copy of so many bytes is there.
    pub(super) fn new(spec: SegmentSpec, reread_to: u64) -> Self {
        Self { check: spec.check(), spec, reread_to, is_own: false }
    }

    /// Begins one whose file is here.
    pub(super) fn own(spec: SegmentSpec) -> Self {
        Self { is_own: true, ..Self::new(spec, 0) }
    }

    pub(super) const fn first_index(&self) -> LogIndex {
        self.spec.first_index()
    }

    pub(super) fn next(&self) -> Piece {
        let position = self.check.position();
        if position < self.reread_to {
            let bytes = usize::try_from(self.reread_to - position).unwrap_or(usize::MAX).min(PIECE_BYTES as usize);
            return Piece::Reread { position, bytes };
        }
        let bytes_max = self.piece_bytes();
        if self.is_own { Piece::Own { position, bytes_max } } else { Piece::Ask { position, bytes_max } }
    }

    /// Whether an answer of another node is the one that is waited for.
    pub(super) fn asks(&self, first_index: LogIndex, position: u64) -> bool {
        self.waits_for(first_index, position) && position >= self.reread_to && !self.is_own
    }

    /// Whether bytes of the copy are those that are waited for.
    pub(super) fn rereads(&self, first_index: LogIndex, position: u64) -> bool {
        self.waits_for(first_index, position) && position < self.reread_to
    }

    /// Whether bytes of the file that is here are those that are waited for.
    pub(super) fn adopts(&self, first_index: LogIndex, position: u64) -> bool {
        self.waits_for(first_index, position) && self.is_own
    }

    fn waits_for(&self, first_index: LogIndex, position: u64) -> bool {
        self.first_index() == first_index && self.check.position() == position
    }

    /// How much is asked for next: of a segment that is not complete, nothing behind what is spoken for.
    fn piece_bytes(&self) -> u32 {
        if self.spec.is_sealed() {
            return PIECE_BYTES;
        }
        let rest = self.spec.bytes().saturating_sub(self.check.position());
        u32::try_from(rest).unwrap_or(u32::MAX).min(PIECE_BYTES)
    }

    /// Takes what another node sent, or the file here holds; whether the segment is complete then.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, DamageCause> {
        let is_end = bytes.len() < self.piece_bytes() as usize;
        self.check(bytes, is_end)
    }

    /// Takes what was read of the copy; whether the segment is complete then.
    pub(super) fn take_again(&mut self, bytes: &[u8]) -> Result<bool, DamageCause> {
        let is_end = self.check.position() + bytes.len() as u64 >= self.reread_to;
        self.check(bytes, is_end)
    }

    fn check(&mut self, bytes: &[u8], is_end: bool) -> Result<bool, DamageCause> {
        self.check.update(bytes)?;
        if self.check.wants_more() && !is_end {
            return Ok(false);
        }
        let found = self.check.finish();
        if planted::is(Planted::CopyUnchecked) { Ok(true) } else { found.map(|()| true) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_fetches_what_it_waits_for_alone() {
        let mut budget = Budget::new(1_000_000);
        budget.tick(false);
        assert!(!budget.take(10) && budget.take_needed(10));
        assert!(budget.take_needed(1_000_000) && !budget.take_needed(10), "not more than there is");
        (0..30).for_each(|_| budget.tick(true));
        assert!(budget.take(10));
    }
}
