//! Which of the blocks found count, and what is missing. Nothing is read here; the essay of [`super`] gives the rules.

use std::collections::BTreeMap;

use levada_protocol::ids::{GroupId, Lsn};

use super::{DamagedBlock, ReplayStart, files, survey::Survey};

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
    let found = &survey.found;
    let start_lsn = start.lsn.max(Lsn(1));
    let known = [start.synced, Lsn(start_lsn.get() - 1), survey.misplaced_synced];
    let proven = found.iter().map(|found| found.header.id.synced_lsn).chain(known).max().unwrap_or_default();
    let mut plan = Plan { proven, ..Plan::default() };
    plan.next_generation = found.iter().map(|found| found.header.id.generation + 1).max().unwrap_or(1);

    let limits = generation_limits(survey);
    let mut chain: BTreeMap<Lsn, usize> = BTreeMap::new();
    let mut tails: BTreeMap<u64, usize> = BTreeMap::new();
    for (i, block) in found.iter().enumerate() {
        let id = block.header.id;
        if id.lsn < start_lsn {
            continue;
        }
        if id.lsn <= proven || block.whole {
            let last = plan.last_lsns.entry(id.file).or_default();
            *last = id.lsn.max(*last);
        }
        if id.lsn <= proven && limits.get(&id.generation).is_none_or(|limit| id.lsn < *limit) {
            // Two of one generation: not our writing. The whole one, else the first, is as good as any.
            let slot = chain.entry(id.lsn).or_insert(i);
            if block.whole && !found[*slot].whole {
                *slot = i;
            }
        } else if id.lsn.get() == proven.get() + 1 && block.whole {
            tails.insert(id.generation, i);
        }
    }
    plan.walk(survey, start_lsn, &chain);
    plan.tail = tails.pop_last().map(|(_, i)| i);
    match plan.tail {
        Some(tail) => plan.blocks.push(tail),
        // A sector that cannot be read is no torn write: the tail may have been there, and acknowledged. Taking it for
        // proven leaves a gap in the lsns, so that the next replay comes to the same verdict.
        None if survey.unreadable > 0 => {
            plan.proven = Lsn(proven.get() + 1);
            plan.damage_all(plan.proven);
        }
        None => {}
    }
    plan
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
        for (lsn, i) in chain {
            if *lsn > expected {
                self.damage_all(expected);
            }
            expected = Lsn(lsn.get() + 1);
            let block = &survey.found[*i];
            if block.whole {
                self.blocks.push(*i);
            } else {
                let id = block.header.id;
                let groups = block.header.table.keys().copied().collect::<Vec<GroupId>>();
                self.damaged.push(DamagedBlock {
                    lsn: *lsn,
                    place: Some((files::name(id.file), id.pos())),
                    groups: Some(groups),
                });
            }
        }
        if expected <= self.proven {
            self.damage_all(expected);
        }
    }

    fn damage_all(&mut self, lsn: Lsn) {
        self.damaged.push(DamagedBlock { lsn, place: None, groups: None });
    }
}
