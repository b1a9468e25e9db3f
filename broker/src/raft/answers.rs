//! Which replicas have answered a leader lately.
//!
//! Raft forgets that of all replicas at once, in every election timeout, when it has seen that a majority has. Who looked
//! at just these moments would see nobody, and a look every half second falls together with all of them or with none. So
//! it is remembered a little longer.

use std::collections::BTreeMap;

use levada_protocol::ids::ReplicaId;
use raft::ProgressTracker;

/// How long, in ticks: enough for a heartbeat and its answer.
const ANSWER_TICKS: u64 = 4;

/// The tick at which each replica was last known to have answered, as leader.
#[derive(Debug, Default)]
pub(super) struct Answers {
    ticks: u64,
    answered: BTreeMap<u64, u64>,
}

impl Answers {
    /// A tick begins: raft may forget with it.
    pub(super) fn tick(&mut self, is_leader: bool, progress: &ProgressTracker) {
        self.ticks += 1;
        if is_leader {
            let active = progress.iter().filter(|(_, progress)| progress.recent_active);
            self.answered.extend(active.map(|(replica, _)| (*replica, self.ticks)));
        } else {
            self.answered.clear();
        }
    }

    /// Whether a replica has answered lately.
    pub(super) fn is_active(&self, replica: ReplicaId, progress: &ProgressTracker) -> bool {
        let remembered = || self.answered.get(&replica.get()).is_some_and(|at| at + ANSWER_TICKS >= self.ticks);
        progress.get(replica.get()).is_some_and(|progress| progress.recent_active || remembered())
    }
}
