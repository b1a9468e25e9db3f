//! Which term each entry is of, for all entries, in memory: a run for every change of leader.

use levada_protocol::ids::{LogIndex, Term};

/// The terms of a log's entries, and of the one before the first (raft asks for it).
///
/// Invariants: runs start at ascending indexes, with ascending terms, all behind `before`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TermRuns {
    /// The entry before the first: its index (0 in a whole log) and its term.
    before: (LogIndex, Term),
    /// Where each term starts.
    runs: Vec<(LogIndex, Term)>,
    last: LogIndex,
}

impl TermRuns {
    /// Of a log whose entries follow `before` and go up to `last`.
    pub(crate) const fn new(before: (LogIndex, Term), runs: Vec<(LogIndex, Term)>, last: LogIndex) -> Self {
        Self { before, runs, last }
    }

    pub(crate) const fn before(&self) -> (LogIndex, Term) {
        self.before
    }

    /// The last entry's index; that of the entry before the first when there is none.
    pub(crate) const fn last(&self) -> LogIndex {
        self.last
    }

    /// The last entry's term.
    pub(crate) fn last_term(&self) -> Term {
        self.runs.last().map_or(self.before.1, |&(_, term)| term)
    }

    /// The term of an entry that is there, or of the one before the first.
    pub(crate) fn get(&self, index: LogIndex) -> Option<Term> {
        if index == self.before.0 {
            return Some(self.before.1);
        }
        if index < self.before.0 || index > self.last {
            return None;
        }
        let runs = self.runs.partition_point(|&(first, _)| first <= index);
        runs.checked_sub(1).and_then(|run| self.runs.get(run)).map(|&(_, term)| term)
    }

    /// Counts the next entry.
    pub(crate) fn push(&mut self, index: LogIndex, term: Term) {
        assert_eq!(index, self.last.next(), "entries of a log have no gaps");
        assert!(term >= self.last_term(), "terms never fall: {term} after {}", self.last_term());
        if self.runs.is_empty() || term > self.last_term() {
            self.runs.push((index, term));
        }
        self.last = index;
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate_from(&mut self, index: LogIndex) {
        assert!(index > self.before.0, "an entry that was removed cannot be truncated");
        self.runs.retain(|&(first, _)| first < index);
        self.last = self.last.min(LogIndex(index.get() - 1));
    }

    /// Forgets the entries below `first_index`.
    pub(crate) fn remove_below(&mut self, first_index: LogIndex) {
        let before = LogIndex(first_index.get() - 1);
        let Some(term) = self.get(before).filter(|_| before > self.before.0) else { return };
        self.before = (before, term);
        let gone = self.runs.partition_point(|&(first, _)| first <= first_index).saturating_sub(1);
        self.runs.drain(..gone);
        match self.runs.first_mut() {
            Some(run) if before < self.last => run.0 = run.0.max(first_index),
            _ => self.runs.clear(),
        }
    }

    /// The runs of the entries up to `last`.
    pub(crate) fn up_to(&self, last: LogIndex) -> &[(LogIndex, Term)] {
        self.runs.get(..self.runs.partition_point(|&(first, _)| first <= last)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(terms: &[u64]) -> TermRuns {
        let mut runs = TermRuns::default();
        for (index, term) in (1..).zip(terms) {
            runs.push(LogIndex(index), Term(*term));
        }
        runs
    }

    fn all(runs: &TermRuns, up_to: u64) -> Vec<Option<u64>> {
        (0..=up_to).map(|index| runs.get(LogIndex(index)).map(Term::get)).collect()
    }

    #[test]
    fn terms_of_entries_and_of_the_one_before() {
        let runs = runs(&[1, 1, 3, 3, 7]);
        assert_eq!(all(&runs, 6), [Some(0), Some(1), Some(1), Some(3), Some(3), Some(7), None]);
        assert_eq!(runs.up_to(LogIndex(3)), [(LogIndex(1), Term(1)), (LogIndex(3), Term(3))]);
        assert_eq!(runs.up_to(LogIndex(2)), [(LogIndex(1), Term(1))]);
    }

    #[test]
    fn truncated_and_removed_entries_are_forgotten() {
        let whole = runs(&[1, 1, 3, 3, 7]);
        for from in 1..=6 {
            let mut cut = whole.clone();
            cut.truncate_from(LogIndex(from));
            let expected: Vec<_> = all(&whole, from - 1).into_iter().chain([None]).collect();
            assert_eq!(all(&cut, from), expected, "truncated from {from}");
            cut.push(LogIndex(from), Term(9));
            assert_eq!(cut.get(LogIndex(from)), Some(Term(9)));
        }
        for first in 1..=6 {
            let mut rest = whole.clone();
            rest.remove_below(LogIndex(first));
            let kept = all(&whole, 5).into_iter().enumerate();
            let expected: Vec<_> = kept.map(|(at, term)| term.filter(|_| at as u64 + 1 >= first)).collect();
            assert_eq!(all(&rest, 5), expected, "removed below {first}");
            rest.push(LogIndex(6), Term(7));
            assert_eq!((rest.get(LogIndex(6)), rest.last()), (Some(Term(7)), LogIndex(6)));
        }
    }
}
