//! Neighbouring partitions, the same numbers of every topic that the same members want.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::ids::TopicPartition;

use super::{Wish, in_order};
use crate::{state::MemberId, topics::TopicShape};

/// Of each topic, its `n` partitions go to its `m` members in runs; the first `n mod m` of them have one more.
pub(super) fn assign(
    members: &BTreeMap<MemberId, Wish<'_>>,
    topics: &BTreeMap<String, TopicShape>,
) -> BTreeMap<MemberId, BTreeSet<TopicPartition>> {
    let mut targets: BTreeMap<MemberId, BTreeSet<TopicPartition>> =
        members.keys().map(|id| (id.clone(), BTreeSet::new())).collect();
    let ordered = in_order(members);
    for (name, shape) in topics {
        let wanting: Vec<&MemberId> =
            ordered.iter().filter(|(_, wish)| wish.topics.contains(name)).map(|(id, _)| *id).collect();
        if wanting.is_empty() {
            continue;
        }
        let (each, more) = (shape.partitions as usize / wanting.len(), shape.partitions as usize % wanting.len());
        let mut places = shape.places();
        for (position, id) in wanting.into_iter().enumerate() {
            let share = each + usize::from(position < more);
            targets.entry(id.clone()).or_default().extend(places.by_ref().take(share));
        }
    }
    targets
}
