//! Turns: each of many gets its turn once in a period, a few with each tick.

use std::{collections::BTreeMap, ops::Bound};

/// How far the round has come.
#[derive(Debug)]
pub(super) struct Rota<K = levada_protocol::ids::GroupId> {
    last: Option<K>,
}

impl<K: Copy + Ord> Rota<K> {
    pub(super) const fn new() -> Self {
        Self { last: None }
    }

    /// Whose turn it is in this tick, so that everybody has one in about `period_ticks`. Who comes or goes meanwhile costs
    /// nobody else a turn.
    pub(super) fn next<V>(&mut self, all: &BTreeMap<K, V>, period_ticks: u64) -> Vec<K> {
        let period = usize::try_from(period_ticks).unwrap_or(usize::MAX).max(1);
        let count = all.len().div_ceil(period);
        let from = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let due: Vec<K> = all.range((from, Bound::Unbounded)).take(count).map(|(key, _)| *key).collect();
        // At the end it begins anew with the next tick.
        self.last = if due.len() < count { None } else { due.last().copied() };
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_in_a_period() {
        for count in [0, 1, 9, 10, 11, 95] {
            let all: BTreeMap<u32, ()> = (0..count).map(|key| (key, ())).collect();
            let mut rota = Rota::new();
            let mut turns = BTreeMap::new();
            let mut most = 0;
            // A tick more for the end of the round.
            for _ in 0..11 {
                let due = rota.next(&all, 10);
                most = most.max(due.len());
                due.into_iter().for_each(|key| *turns.entry(key).or_insert(0) += 1);
            }
            assert_eq!(turns.len(), count as usize, "of {count}");
            assert!(most <= (count as usize).div_ceil(10), "{most} at once, of {count}");
        }
    }

    #[test]
    fn who_goes_costs_nobody_a_turn() {
        let mut all: BTreeMap<u32, ()> = (0..6).map(|key| (key, ())).collect();
        let mut rota = Rota::new();
        assert_eq!(rota.next(&all, 3), [0, 1]);
        all.remove(&1);
        all.remove(&2);
        assert_eq!(rota.next(&all, 2), [3, 4]);
    }
}
