//! A replica in doubt that is to be replaced keeps its segments until the new one has what is in them.
//!
//! They may be the last sound ones: another node's may have rotted, and a third may be behind. What the store does with them stands in
//! `storage-engine/src/store/replacing.rs`. Here:
//!
//! - Its node **lends** them, from the start on, to whoever mends a segment or makes a replica. It tells nobody where the group
//!   stands, though: that is for sound replicas.
//! - The copy that replaces it (`copying.rs`) **adopts** what is the same as the others have, instead of fetching it.
//! - The copy **goes as far** as they do ([`Offers`]). A node may offer less: its last checkpoint is older, or it is behind. What is
//!   in between would be gone with the old replica. So it is asked how far it has to go, which makes it begin a checkpoint, and
//!   asked again. Less is taken when every node has offered, which was given time for that, and it is the most that anybody has.
//!   (Where somebody said that a group goes on without its end, `cluster/recovery.rs`, no more than that will ever come.) And after
//!   long enough, whatever there is is taken, as for retention: a node that is gone for good keeps nobody from having replicas.
//! - A disk that stays **full** gets rid of them, as it needs what they take for more than one group.
//!
//! The old replica takes no part in anything meanwhile, under any number. It goes at once where its topic is deleted or the
//! group has arrived elsewhere.

use std::collections::BTreeMap;

use levada_protocol::ids::{LogIndex, NodeId};

use crate::raft::TICK_MS;

/// So long nodes that offer less have time for a checkpoint.
const CHECKPOINT_TICKS: u64 = 20_000 / TICK_MS;
/// After so long what is offered is taken.
const PATIENCE_TICKS: u64 = 600_000 / TICK_MS;
/// A disk that is full for so long lets kept replicas go.
pub(super) const FULL_TICKS: u64 = 60_000 / TICK_MS;

/// How far the nodes go that offer a copy less than what is kept here.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// Since the first of them.
    since: Option<u64>,
    offers: BTreeMap<NodeId, LogIndex>,
}

impl Offers {
    /// Whether a copy of what `from` has, which ends with the entry `applied`, may take the place of a replica that is kept, and
    /// has everything to `kept_to`. `nodes` can be asked.
    pub(super) fn is_enough(
        &mut self,
        (from, applied): (NodeId, LogIndex),
        kept_to: LogIndex,
        nodes: &[NodeId],
        now: u64,
    ) -> bool {
        if applied >= kept_to {
            return true;
        }
        let since = *self.since.get_or_insert(now);
        self.offers.retain(|node, _| nodes.contains(node));
        self.offers.insert(from, applied);
        let is_most = self.offers.values().all(|offer| *offer <= applied);
        let have_all_offered = nodes.iter().all(|node| self.offers.contains_key(node));
        now >= since + PATIENCE_TICKS || now >= since + CHECKPOINT_TICKS && have_all_offered && is_most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

    fn is_enough(offers: &mut Offers, node: u64, applied: u64, now: u64) -> bool {
        offers.is_enough((NodeId(node), LogIndex(applied)), LogIndex(100), &NODES, now)
    }

    #[test]
    fn what_goes_as_far_is_taken_at_once() {
        assert!(is_enough(&mut Offers::default(), 1, 100, 0) && is_enough(&mut Offers::default(), 1, 101, 0));
    }

    #[test]
    fn less_is_taken_when_it_is_the_most_that_anybody_has() {
        let mut offers = Offers::default();
        assert!(!is_enough(&mut offers, 1, 50, 10));
        assert!(!is_enough(&mut offers, 1, 60, 10 + CHECKPOINT_TICKS), "node 2 has not said anything");
        assert!(!is_enough(&mut offers, 2, 59, 11 + CHECKPOINT_TICKS), "node 1 has more");
        assert!(is_enough(&mut offers, 1, 60, 12 + CHECKPOINT_TICKS));
        let mut hasty = Offers::default();
        assert!(!is_enough(&mut hasty, 1, 50, 10) && !is_enough(&mut hasty, 2, 50, 11));
        assert!(!is_enough(&mut hasty, 2, 50, 9 + CHECKPOINT_TICKS), "they may have more soon");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut offers = Offers::default();
        assert!(!is_enough(&mut offers, 1, 50, 0) && !is_enough(&mut offers, 1, 50, PATIENCE_TICKS - 1));
        assert!(is_enough(&mut offers, 1, 40, PATIENCE_TICKS));
    }

    #[test]
    fn a_node_that_has_nothing_to_do_with_it_any_more_is_forgotten() {
        let mut offers = Offers::default();
        assert!(!offers.is_enough((NodeId(3), LogIndex(90)), LogIndex(100), &[NodeId(3)], 0));
        assert!(!is_enough(&mut offers, 2, 50, CHECKPOINT_TICKS));
        assert!(is_enough(&mut offers, 1, 50, CHECKPOINT_TICKS), "node 3 had more, and cannot be asked");
    }
}
