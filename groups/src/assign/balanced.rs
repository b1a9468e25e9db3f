//! As even as can be, with or without regard to who had what.
//!
//! First everybody keeps what it had and still wants (sticky only), then what nobody has goes to the member with the least
//! among those that want it, and at last partitions move, from who has the most, to members with at least two less, until
//! there is no such pair. A move makes the sum of the squares of the loads smaller, so this ends. Where all members want
//! the same topics, loads differ by one at most.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::ids::{PartitionId, TopicId, TopicPartition};

use super::{Wish, in_order};
use crate::{state::MemberId, topics::TopicShape};

/// The members by their places in the order, and what each has been given.
struct Shares<'a> {
    wants: Vec<BTreeSet<TopicId>>,
    ids: Vec<&'a MemberId>,
    given: Vec<BTreeSet<TopicPartition>>,
    /// Load and member, the least first.
    by_load: BTreeSet<(usize, usize)>,
}

impl Shares<'_> {
    fn give(&mut self, member: usize, place: TopicPartition) {
        let load = self.given[member].len();
        self.by_load.remove(&(load, member));
        self.given[member].insert(place);
        self.by_load.insert((load + 1, member));
    }

    fn take(&mut self, member: usize, place: TopicPartition) {
        let load = self.given[member].len();
        self.by_load.remove(&(load, member));
        self.given[member].remove(&place);
        self.by_load.insert((load - 1, member));
    }

    /// Who has the least of those that want the topic.
    fn least(&self, topic: TopicId) -> Option<(usize, usize)> {
        self.by_load.iter().copied().find(|(_, member)| self.wants[*member].contains(&topic))
    }

    /// A partition of a member that another with at least two less wants, and that other.
    fn spare(&self, member: usize) -> Option<(TopicPartition, usize)> {
        let load = self.given[member].len();
        self.wants[member].iter().find_map(|topic| {
            let from = |partition| TopicPartition { topic: *topic, partition: PartitionId(partition) };
            let place = self.given[member].range(from(0)..=from(u32::MAX)).next_back()?;
            let (least, other) = self.least(*topic)?;
            (least + 2 <= load).then_some((*place, other))
        })
    }

    /// Takes from who has the most what others with less want, one by one. Whether anything moved: then who could give nothing
    /// before perhaps can now.
    fn level(&mut self) -> bool {
        let mut moved = false;
        let mut givers = self.by_load.clone();
        while let Some((load, member)) = givers.pop_last() {
            if self.by_load.first().is_none_or(|(least, _)| least + 2 > load) {
                break;
            }
            let Some((place, other)) = self.spare(member) else { continue };
            let less = self.given[other].len();
            self.take(member, place);
            self.give(other, place);
            givers.insert((load - 1, member));
            if givers.remove(&(less, other)) {
                givers.insert((less + 1, other));
            }
            moved = true;
        }
        moved
    }
}

/// Shares out the partitions of `topics`; `sticky` leaves with members what they had.
pub(super) fn assign(
    members: &BTreeMap<MemberId, Wish<'_>>,
    topics: &BTreeMap<String, TopicShape>,
    sticky: bool,
) -> BTreeMap<MemberId, BTreeSet<TopicPartition>> {
    let ordered = in_order(members);
    let wanted =
        |wish: &Wish<'_>| wish.topics.iter().filter_map(|name| topics.get(name)).map(|shape| shape.id).collect();
    let mut shares = Shares {
        wants: ordered.iter().map(|(_, wish)| wanted(wish)).collect(),
        ids: ordered.iter().map(|(id, _)| *id).collect(),
        given: vec![BTreeSet::new(); ordered.len()],
        by_load: (0..ordered.len()).map(|member| (0, member)).collect(),
    };
    let mut free: BTreeSet<TopicPartition> = topics.values().flat_map(|shape| shape.places()).collect();
    if sticky {
        for (member, (_, wish)) in ordered.iter().enumerate() {
            for place in wish.had {
                if shares.wants[member].contains(&place.topic) && free.remove(place) {
                    shares.give(member, *place);
                }
            }
        }
    }
    for place in free {
        if let Some((_, member)) = shares.least(place.topic) {
            shares.give(member, place);
        }
    }
    while shares.level() {}
    shares.ids.into_iter().cloned().zip(shares.given).collect()
}
