//! A group in doubt goes on with what is left of it: somebody has decided that what it has lost is lost.
//!
//! What is left is what stands in its segments up to the last checkpoint, and what the journal has behind that up to the first
//! hole. Entries behind the hole are never played: what they continue is not there. So the log that is left is one that
//! the group had at some time, without its end.
//!
//! To go on it must be as sound as any other group, whatever the journal still shows. So what the journal has of it up to now is
//! to count as an earlier replica's ([`super::group::Group::born`], as for a group that was [installed](Store::install)): its damage is
//! no news at the next start, and what stands behind a hole does not come back. What is left of the tail is written to
//! the journal once more, behind that. No checkpoint is written while that is under way, and the next one says all of it at once:
//!
//! - that the group is not in doubt;
//! - before which block nothing is its own;
//! - its membership from now on, and a hard state in a later term, without a vote.
//!
//! A crash before that checkpoint leaves the group as it was, in doubt, with the same entries. Until
//! [`super::StoreEvent::Checkpointed`] says that it is durable, nothing of the group may be promised to anybody.

use bytes::Bytes;
use levada_protocol::ids::{GroupId, Offset, Term};

use super::{GroupInit, Store};
use crate::entry::HardState;

impl Store {
    /// Where the records of a group in doubt ended, as far as the journal told when the store was opened; `None` if it told
    /// of none behind those that are left. There may have been more.
    #[must_use]
    pub fn seen_end(&self, group: GroupId) -> Option<Offset> {
        self.seen.get(&group).copied()
    }

    /// Ends the doubt about a group: from now on what is left of it is all that it has, with this membership, in this term. If
    /// nothing is left, it is made anew. That is durable with the checkpoint whose number is answered, which is to be
    /// begun, and in no earlier one. `None`: not now; it is to be tried again.
    ///
    /// # Panics
    /// If the group is not in doubt by its name, knows of a later term, or is another partition's.
    pub fn reclaim(&mut self, init: GroupInit, term: Term, conf_state: Bytes) -> Option<u64> {
        assert!(self.doubted().contains(&init.group), "group {} is not in doubt", init.group);
        // The checkpoint that is found out says that the group is in doubt.
        if self.checkpointing.is_capturing() || self.is_leaving(init.group) {
            return None;
        }
        self.create_group(init);
        let synced = self.journal.synced_lsn();
        let state = self.groups.get_mut(&init.group)?;
        let (last, _) = state.log.last();
        if last > state.captured.applied && !state.submit_again(&mut self.journal) {
            return None;
        }
        assert!(term >= state.hard_state.term, "group {} knows of a later term", init.group);
        // Not what is under way: a block that is may never be, and its number come again.
        state.born = synced;
        state.hard_state = HardState { term, vote: 0, commit: state.hard_state.commit };
        state.captured.conf_state = conf_state;
        self.end_doubt(init.group);
        Some(self.checkpoints + 1)
    }
}
