//! What was submitted and what was acknowledged, to compare with what is replayed.

use std::collections::BTreeMap;

use levada_protocol::ids::{GroupId, LogIndex, Lsn, Term};
use levada_storage_engine::{
    disk::Disk,
    entry::{Entry, HardState},
    journal::{Append, Completed, Doubt, JournalEnd, Replay, ReplayStart},
};

use crate::world::JOURNAL;

/// A hard state, the number of entries submitted up to it, and its block once that is durable.
#[derive(Clone, Debug)]
struct SubmittedState {
    group: GroupId,
    state: HardState,
    after: usize,
    lsn: Option<Lsn>,
}

/// The entries of all groups in the order they were submitted; the first `acked` were reported durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    entries: Vec<(GroupId, Entry)>,
    positions: BTreeMap<(GroupId, LogIndex, Term), usize>,
    states: Vec<SubmittedState>,
    acked: usize,
    /// How many entries were there when a block began.
    block_starts: BTreeMap<Lsn, usize>,
    pub(crate) start: ReplayStart,
}

/// What a replay gave.
pub(crate) struct Replayed {
    pub(crate) entries: Vec<(GroupId, Entry)>,
    pub(crate) states: BTreeMap<GroupId, HardState>,
    pub(crate) end: JournalEnd,
}

pub(crate) fn replay(disk: &dyn Disk, start: ReplayStart) -> Result<Replayed, String> {
    let mut replay = Replay::open(disk, JOURNAL, start).map_err(|error| error.to_string())?;
    if replay.doubt() != Doubt::None {
        return Err(format!("doubt without damage: {:?}", replay.damaged()));
    }
    let (mut entries, mut states, mut last) = (Vec::new(), BTreeMap::new(), Lsn(0));
    while let Some(block) = replay.next_block().map_err(|error| error.to_string())? {
        if block.lsn <= last {
            return Err(format!("block {} after {last}", block.lsn));
        }
        last = block.lsn;
        entries.extend(block.entries);
        states.extend(block.hard_states);
    }
    Ok(Replayed { entries, states, end: replay.finish() })
}

impl Model {
    pub(crate) fn submit(&mut self, append: &Append) {
        for entry in &append.entries {
            self.positions.insert((append.group, entry.index, entry.term), self.entries.len());
            self.entries.push((append.group, entry.clone()));
        }
        if let Some(state) = append.hard_state {
            let after = self.entries.len();
            self.states.push(SubmittedState { group: append.group, state, after, lsn: None });
        }
    }

    pub(crate) fn complete(&mut self, completed: &Completed) {
        // Not when the tail, acknowledged before the crash, is written again.
        self.block_starts.entry(completed.lsn).or_insert(self.acked);
        for durable in &completed.durable {
            if let Some((index, term)) = durable.last {
                self.acked = self.acked.max(self.positions[&(durable.group, index, term)] + 1);
            }
            for state in self.states.iter_mut().filter(|state| Some(state.state) == durable.hard_state) {
                state.lsn = Some(completed.lsn);
            }
        }
    }

    pub(crate) fn has_unacked(&self) -> bool {
        self.acked < self.entries.len()
    }

    /// Takes everything submitted for acknowledged, as a broken recovery might.
    pub(crate) fn trust_everything(&mut self) {
        self.acked = self.entries.len();
    }

    /// A checkpoint that covers all blocks below `lsn`.
    pub(crate) fn checkpoint(&mut self, lsn: Lsn, synced: Lsn) {
        self.start = ReplayStart { lsn, synced };
    }

    /// Compares: what was acknowledged is there, what is there was submitted, nothing is missing in between.
    pub(crate) fn check(&self, disk: &dyn Disk) -> Result<Replayed, String> {
        let replayed = replay(disk, self.start)?;
        let skipped = self.skipped();
        let expected = &self.entries[skipped..];
        let count = replayed.entries.len();
        if let Some(i) = (0..count).find(|i| expected.get(*i) != Some(&replayed.entries[*i])) {
            let name = |(group, entry): &(GroupId, Entry)| {
                format!("{}/{} of term {}, {} bytes", group, entry.index, entry.term, entry.payload.len())
            };
            let (found, expected) = (name(&replayed.entries[i]), expected.get(i).map(name));
            return Err(format!("entry {i} of {count} is {found}, not {expected:?}"));
        }
        if skipped + count < self.acked {
            return Err(format!("{} entries were acknowledged, {} are there", self.acked, skipped + count));
        }
        for submitted in self.states.iter().filter(|state| state.lsn.is_some_and(|lsn| lsn >= self.start.lsn)) {
            // A later one of the same group may stand in its place; commits rise from one to the next.
            let there = replayed.states.get(&submitted.group);
            if there.is_none_or(|there| there.commit < submitted.state.commit) {
                return Err(format!("{submitted:?} was acknowledged, {there:?} is there"));
            }
        }
        for (group, state) in &replayed.states {
            let submitted = self.states.iter().find(|submitted| submitted.group == *group && submitted.state == *state);
            let Some(submitted) = submitted else { return Err(format!("{state:?} was never submitted")) };
            if submitted.after > skipped + count {
                return Err(format!("{submitted:?} is there before its entries, of which {} are", skipped + count));
            }
        }
        Ok(replayed)
    }

    fn skipped(&self) -> usize {
        self.block_starts.get(&self.start.lsn).copied().unwrap_or(if self.start.lsn <= Lsn(1) { 0 } else { self.acked })
    }

    /// After a restart: what was not replayed is gone for good.
    pub(crate) fn restart(&mut self, replayed: &Replayed) {
        let kept = self.skipped() + replayed.entries.len();
        self.entries.truncate(kept);
        self.positions.retain(|_, position| *position < kept);
        self.states.retain(|state| {
            state.lsn.is_some()
                || replayed.states.get(&state.group).is_some_and(|last| state.state.commit <= last.commit)
        });
    }
}
