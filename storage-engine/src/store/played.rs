//! A group's entries as a recovery plays them.

use std::collections::{BTreeMap, VecDeque};

use levada_protocol::ids::{LogIndex, Lsn, Offset, Term};

use super::group::Group;
use crate::{
    entry::Entry,
    payload,
    planted::{self, Planted},
};

/// What the journal has of a group's log above its segments.
///
/// Blocks have entries in the order in which they were written, so one that comes later replaces what stood in its place and behind.
/// But they may also be written again, unchanged, and a power cut may have ended that anywhere ([`Group::submit_again`]). Such a run
/// begins with entry 0. Of it, only what differs from what was heard before, or is of a later term than everything behind it,
/// replaces anything. (An entry of an earlier term may replace one of a later, as figure 8 of the raft paper shows.)
///
/// Invariant: `entries` are without gaps, and above the checkpoint's end.
#[derive(Debug, Default)]
pub(super) struct Played {
    entries: VecDeque<(Lsn, Entry)>,
    /// The terms of entries that segments have, as the journal said last.
    below: BTreeMap<LogIndex, Term>,
    /// Entries are being written again; the index that follows, if one was.
    again: Option<Option<LogIndex>>,
}

impl Played {
    fn first(&self) -> Option<LogIndex> {
        self.entries.front().map(|(_, entry)| entry.index)
    }

    /// What follows is written again.
    pub(super) const fn begins_again(&mut self) {
        self.again = Some(None);
    }

    /// The next entry in the order of writing. One that is there changes nothing, one that differs replaces all from
    /// there on.
    pub(super) fn play(&mut self, lsn: Lsn, entry: Entry, applied: LogIndex) {
        let is_again = self.again.is_some_and(|next| next.is_none_or(|next| next == entry.index));
        self.again = is_again.then(|| Some(entry.index.next()));
        if entry.index <= applied {
            return self.play_below(&entry, is_again);
        }
        let at = self.first().and_then(|first| entry.index.get().checked_sub(first.get()));
        let at = at.map_or(0, crate::codec::to_usize);
        let is_there = |there: &Entry| {
            there.index == entry.index && (there.term == entry.term || planted::is(Planted::ReplacedEntriesReplayed))
        };
        if self.entries.get(at).is_some_and(|(_, there)| is_there(there)) {
            return;
        }
        // Behind a gap it begins anew: what is missing is written again behind it, or missed in the end.
        self.entries.truncate(if at > self.entries.len() { 0 } else { at });
        self.entries.push_back((lsn, entry));
    }

    /// A segment has this one. What stands above may have been replaced with it.
    fn play_below(&mut self, entry: &Entry, is_again: bool) {
        let known = self.below.insert(entry.index, entry.term);
        if known == Some(entry.term) {
            return;
        }
        self.below.split_off(&entry.index.next());
        let is_later = self.entries.front().is_some_and(|(_, first)| first.term < entry.term);
        let is_replaced = is_later || known.is_some() || !is_again;
        if is_replaced && !planted::is(Planted::ReplacedEntriesReplayed) {
            self.entries.clear();
        }
    }

    /// Where the records end that it has.
    pub(super) fn end(&self) -> Option<Offset> {
        self.entries.iter().filter_map(|(_, entry)| payload::end_of(entry)).max()
    }

    /// What stands above the group's segments becomes its tail.
    pub(super) fn into_tail(self, group: &mut Group) -> Result<(), &'static str> {
        let (applied, mut term) = group.log.last();
        if self.first().is_some_and(|first| first > applied.next()) {
            return Err("entries are missing");
        }
        let known = group.log.log().term(applied).unwrap_or(Term(0));
        if self.below.get(&applied).is_some_and(|below| *below != known) {
            return Err("the entry that the checkpoint ends with is another");
        }
        for (lsn, entry) in self.entries {
            if entry.term < term {
                return Err("terms fall");
            }
            term = entry.term;
            let (index, term) = (entry.index, entry.term);
            group.log.append(&[entry]).map_err(|_| "an entry is not one of this log")?;
            group.log.persist(index, term);
            group.in_block(index, lsn);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::EntryKind;

    /// Entry 0 of a run that is written again.
    const AGAIN: (u64, u64) = (0, 0);

    /// What is left of entries, by index and term, of which a segment has those up to `applied`.
    fn left(applied: u64, entries: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut played = Played::default();
        for (lsn, &(index, term)) in (1..).zip(entries) {
            if (index, term) == AGAIN {
                played.begins_again();
                continue;
            }
            let (index, term, payload) = (LogIndex(index), Term(term), Bytes::new());
            let entry = Entry { index, term, kind: EntryKind::Command, payload };
            played.play(Lsn(lsn), entry, LogIndex(applied));
        }
        played.entries.iter().map(|(_, entry)| (entry.index.get(), entry.term.get())).collect()
    }

    #[test]
    fn what_differs_replaces_what_stood_there_and_behind() {
        assert_eq!(left(0, &[(1, 1), (2, 1), (3, 1), (2, 2)]), [(1, 1), (2, 2)]);
        assert_eq!(left(2, &[(1, 1), (2, 1), (3, 1), (2, 2)]), [], "also what a segment has");
        assert_eq!(left(2, &[(3, 1), (2, 2)]), [], "also where what it replaced is not heard of any more");
        assert_eq!(left(2, &[(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)]), [(3, 2)]);
    }

    /// Figure 8 of the raft paper: a leader of term 4 has its entries of term 2 replace those of term 3.
    #[test]
    fn an_entry_of_an_earlier_term_may_replace_one_of_a_later() {
        assert_eq!(left(0, &[(5, 3), (6, 3), (5, 2)]), [(5, 2)]);
        assert_eq!(left(5, &[(5, 3), (6, 3), (5, 2)]), []);
        assert_eq!(left(5, &[(6, 3), (5, 2)]), []);
        assert_eq!(left(5, &[(5, 3), (6, 3), (5, 2), (6, 4)]), [(6, 4)]);
        let run = [(4, 2), (5, 3), (6, 3), AGAIN, (4, 2), (5, 2)];
        assert_eq!(left(5, &run), [], "at the very place where a run that was cut short would go on");
    }

    #[test]
    fn what_is_written_again_replaces_nothing_however_much_of_it_there_is() {
        let (log, again) = ([(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)], [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]);
        for applied in 0..=5_usize {
            for (from, to) in (0..=5).flat_map(|from| (0..=5).map(move |to| (from, to))) {
                // The journal still has what is needed, at the old place.
                if from > applied {
                    continue;
                }
                let entries = [&log[from..], &[AGAIN], &again[..to], &[(6, 2)]].concat();
                let expected: Vec<_> = log.into_iter().chain([(6, 2)]).skip(applied).collect();
                assert_eq!(left(applied as u64, &entries), expected, "from {from}, again to {to}, applied {applied}");
            }
        }
    }

    /// Of the old place nothing is left, of the new one all; between them stands what was written when the power came back.
    #[test]
    fn a_gap_is_none_when_what_is_missing_comes_behind() {
        let twice = [AGAIN, (1, 1), (2, 1), (6, 2), AGAIN, (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2)];
        assert_eq!(left(0, &twice).len(), 6);
        assert_eq!(left(3, &twice), [(4, 1), (5, 1), (6, 2)]);
        assert_eq!(left(1, &[(2, 1), (4, 1)]), [(4, 1)], "this one is missed: it does not follow the segments");
    }
}
