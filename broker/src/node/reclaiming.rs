//! A replica in doubt goes on alone, when an operator has said so and no sound one is left (`cluster/recovery.rs`).
//!
//! Its journal has lost some of what it had promised, and nobody knows what: so it takes no part in anything, and is not even
//! opened ([`Node::open_replica`]). But its segments are there, and what the journal has in front of the hole. As the survivor
//! it begins with that as after a restart, from a checkpoint which says that the group is not in doubt, that nobody else belongs to
//! it, and in which term it goes on ([`Store::reclaim`]). What holds for a sound survivor (`alone.rs`) holds for it, too:
//!
//! - It is **durable first**: nothing of the group runs before that checkpoint is. A crash before it leaves a replica in doubt, and the
//!   metadata still says what to do with it.
//! - It is done **once** ([`Recovery::forgives`]): it was said of a replica that knows no later term than one. From that checkpoint on this
//!   one does. If its journal is damaged again, somebody has to accept that again.
//! - **What it has promised** before, and has forgotten, harms nobody: nobody counts on it but those that are given up, and they are not
//!   heard any more. It goes on in a term above all that anybody who was found knew of, so it does not vote, or lead, in one
//!   in which it may have done so before.
//!
//! [`Recovery::forgives`]: crate::cluster::metadata::Recovery::forgives
//! [`Store::reclaim`]: levada_storage_engine::store::Store::reclaim

use levada_protocol::ids::{GroupId, Offset, Term};
use levada_storage_engine::store::GroupInit;

use super::{Node, event::Effect, open_error::NodeOpenError};
use crate::{cluster::recovery::Doubtful, raft::membership::Membership};

impl Node {
    /// What is known of a replica in doubt: the metadata may let it go on.
    pub(super) fn doubt_about(&self, group: GroupId) -> Option<Doubtful> {
        let seen_end = self.store.seen_end(group).unwrap_or_default();
        self.store.doubts(group).then(|| Doubtful { term: self.last_term_of(group), seen_end })
    }

    /// Records of a replica in doubt that are known to be committed end here.
    pub(super) fn committed_in_doubt(&self, group: GroupId) -> Option<Offset> {
        let found = self.store.as_recovered(group)?;
        found.log.offset_after(found.hard_state.commit)
    }

    fn last_term_of(&self, group: GroupId) -> Term {
        self.store.as_recovered(group).map_or(Term(0), |found| found.hard_state.term)
    }

    /// Looks which replicas in doubt are to go on alone, and begins.
    pub(super) fn look_for_forgiven(&mut self) {
        let begun = &self.reclaimed;
        let in_doubt = self.lost.iter().filter(|(group, _)| !begun.contains_key(group) && self.store.doubts(**group));
        let in_doubt: Vec<_> = in_doubt.map(|(group, replica)| (*group, *replica)).collect();
        for (group, replica) in in_doubt {
            let recovery = self.partition_placed(group).and_then(|placed| placed.recovery);
            let term = recovery.and_then(|recovery| recovery.forgives(replica, self.last_term_of(group)));
            let (Some(term), Some(place)) = (term, self.controller.current().partition_of(group)) else { continue };
            let init = GroupInit { group, topic: place.topic, partition: place.partition };
            if let Some(number) = self.store.reclaim(init, term, Membership::alone(replica).encode()) {
                self.reclaimed.insert(group, number);
            }
        }
        if !self.reclaimed.is_empty() {
            self.begin_checkpoint();
        }
    }

    /// This checkpoint is durable: those that it says of go on.
    pub(super) fn open_reclaimed(&mut self, number: u64, out: &mut Vec<Effect>) {
        let done: Vec<GroupId> =
            self.reclaimed.iter().filter(|(_, at)| **at <= number).map(|(group, _)| *group).collect();
        for group in done {
            self.reclaimed.remove(&group);
            // Or it was removed meanwhile, or another takes its place.
            if self.lost.remove(&group).is_none() {
                continue;
            }
            if let Err(error) = self.go_on_reclaimed(group) {
                out.push(Effect::Fatal { message: error.to_string() });
            }
        }
    }

    fn go_on_reclaimed(&mut self, group: GroupId) -> Result<(), NodeOpenError> {
        let Some(replica) = self.open_as_stored(group)? else { return Ok(()) };
        if let Some(partition) = self.partitions.get_mut(&group) {
            tracing::warn!(
                group = group.get(),
                %replica,
                last = %partition.group.last_index(),
                "partition.recovered: this replica goes on alone with what is left of it, the others are given up"
            );
            partition.group.campaign();
        }
        Ok(())
    }
}
