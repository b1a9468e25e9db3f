//! Partitions that cannot be read at the moment, as nobody leads them.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use levada_protocol::ids::PartitionId;

/// Which they are: readers say so, the consumer tells.
#[derive(Debug, Default)]
pub(super) struct Leaderless(Mutex<BTreeSet<PartitionId>>);

impl Leaderless {
    /// Whether a partition is one, from now on.
    pub(super) fn set(&self, partition: PartitionId, is_leaderless: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_leaderless {
            known.insert(partition);
        } else {
            known.remove(&partition);
        }
    }

    pub(super) fn all(&self) -> Vec<PartitionId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
