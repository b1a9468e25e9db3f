//! Which of the blocks found count, and what is missing. Nothing is read here; the essay of [`super`] gives the rules.

use std::collections::BTreeMap;

use levada_protocol::ids::Lsn;

use super::{
    DamagedBlock, ReplayStart, files,
    survey::{Found, Frames, Survey},
};
use crate::planted::{self, Planted};

/// What replay does with what the survey found.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The blocks to replay, in order, as positions in what was found. The tail is the last.
    pub(super) blocks: Vec<usize>,
    /// The block that nothing proves to be durable, if it is whole.
    pub(super) tail: Option<usize>,
    pub(super) damaged: Vec<DamagedBlock>,
    /// Everything up to here was durable once.
    pub(super) proven: Lsn,
    pub(super) next_generation: u64,
    /// The last block of each file that is needed, by the file's number.
    pub(super) last_lsns: BTreeMap<u32, Lsn>,
}

/// Decides.
pub(super) fn plan(survey: &Survey, start: ReplayStart) -> Plan {
    let start_lsn = start.lsn.max(Lsn(1));
    let headers = || survey.found.iter().map(|found| &found.header.id);
    let known = [start.synced, Lsn(start_lsn.get() - 1), survey.misplaced_synced];
    let mut plan = Plan {
        proven: headers().map(|id| id.synced_lsn).chain(known).max().unwrap_or_default(),
        next_generation: headers().map(|id| id.generation + 1).max().unwrap_or(1),
        ..Plan::default()
    };
    for block in &survey.found {
        let id = block.header.id;
        if id.lsn >= start_lsn && (id.lsn <= plan.proven || block.frames != Frames::Unsound) {
            let last = plan.last_lsns.entry(id.file).or_default();
            *last = id.lsn.max(*last);
        }
    }
    let chain = chain(survey, plan.proven);
    plan.walk(survey, start_lsn, &chain);
    plan.end(survey, chain.last_key_value().map(|(_, i)| *i));
    plan
}

/// The blocks up to `proven`, by lsn, without those that a later generation replaced.
fn chain(survey: &Survey, proven: Lsn) -> BTreeMap<Lsn, usize> {
    let limits = generation_limits(survey);
    let mut chain = BTreeMap::new();
    for (i, block) in survey.found.iter().enumerate() {
        let id = block.header.id;
        if id.lsn <= proven && limits.get(&id.generation).is_none_or(|limit| id.lsn < *limit) {
            chain.entry(id.lsn).or_insert(i);
        }
    }
    chain
}

/// The block behind the last that is proven, of the highest generation that has one. A torn one is none.
fn tail(survey: &Survey, proven: Lsn) -> Option<usize> {
    let behind = survey.found.iter().enumerate().filter(|(_, block)| block.header.id.lsn.get() == proven.get() + 1);
    let behind = behind.filter(|(_, block)| block.frames != Frames::Unsound);
    behind.max_by_key(|(_, block)| block.header.id.generation).map(|(i, _)| i)
}

/// Whether a sector that cannot be read stands where the header of another block would: right behind the last one, or at
/// the start of a file. That is no torn write; what was there may have been acknowledged.
fn may_hide_another(survey: &Survey, last: Option<usize>) -> bool {
    let end = last.map(|last| {
        let header = &survey.found[last].header;
        (header.id.file, header.id.pos() + header.padded_bytes())
    });
    survey.unreadable.iter().any(|place| Some(*place) == end || place.1 == 0)
}

/// For every generation the first lsn that a later one claims. From there on its blocks are void.
fn generation_limits(survey: &Survey) -> BTreeMap<u64, Lsn> {
    let mut firsts: BTreeMap<u64, Lsn> = BTreeMap::new();
    for found in &survey.found {
        let id = found.header.id;
        let first = firsts.entry(id.generation).or_insert(id.first_lsn);
        *first = id.first_lsn.min(*first);
    }
    let mut limits = BTreeMap::new();
    let mut limit = None;
    for (generation, first) in firsts.into_iter().rev() {
        if let Some(limit) = limit {
            limits.insert(generation, limit);
        }
        limit = Some(limit.map_or(first, |limit: Lsn| limit.min(first)));
    }
    limits
}

impl Plan {
    /// Walks the blocks that must all be there.
    fn walk(&mut self, survey: &Survey, start: Lsn, chain: &BTreeMap<Lsn, usize>) {
        let mut expected = start;
        for (lsn, i) in chain.range(start..) {
            if planted::is(Planted::DamageCut) && (*lsn > expected || !survey.found[*i].is_whole()) {
                self.proven = Lsn(expected.get() - 1);
                break;
            }
            if *lsn > expected {
                self.damage_all(expected, Lsn(lsn.get() - 1));
            }
            expected = Lsn(lsn.get() + 1);
            let block = &survey.found[*i];
            if block.is_whole() {
                self.blocks.push(*i);
            } else {
                self.damage(block);
            }
        }
        if expected <= self.proven {
            self.damage_all(expected, self.proven);
        }
    }

    /// Decides about the tail, and about what may have been behind it. `last` is the last block that is proven.
    fn end(&mut self, survey: &Survey, mut last: Option<usize>) {
        if let Some(tail) = tail(survey, self.proven) {
            last = Some(tail);
            let block = &survey.found[tail];
            if block.is_whole() {
                self.tail = last;
                self.blocks.push(tail);
            } else {
                self.proven = block.header.id.lsn;
                self.damage(block);
            }
        }
        // A lsn that no block has, not even a torn one, is taken for proven: that leaves a gap in the lsns, and the next
        // replay comes to the same verdict.
        if survey.cut_file().is_some() || may_hide_another(survey, last) {
            if let Some(tail) = self.tail.take() {
                self.proven = survey.found[tail].header.id.lsn;
            }
            let first = Lsn(self.proven.get() + 1);
            let seen = survey.found.iter().map(|found| found.header.id.lsn).max().unwrap_or_default();
            self.proven = Lsn(first.get().max(seen.get() + 1));
            self.damage_all(first, self.proven);
        }
    }

    fn damage(&mut self, block: &Found) {
        let id = block.header.id;
        self.damaged.push(DamagedBlock {
            lsn: id.lsn,
            last: id.lsn,
            place: Some((files::name(id.file), id.pos())),
            groups: Some(block.header.table.keys().copied().collect()),
        });
    }

    fn damage_all(&mut self, lsn: Lsn, last: Lsn) {
        self.damaged.push(DamagedBlock { lsn, last, place: None, groups: None });
    }
}
