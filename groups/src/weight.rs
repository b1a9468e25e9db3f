//! What a coordinator's state takes, at most, in a checkpoint, a copy to another node, and about so much in memory.
//!
//! It must fit into one message between nodes, so it is bounded by bytes and not only by counts. A member comes to have
//! partitions without asking, heartbeat by heartbeat; so those of its group's topics count as soon as the group has the topic, and once
//! more for whoever has them.

use crate::state::{Head, Held, Member, MemberId};

/// A record's numbers, and what frames it.
const RECORD_BYTES: usize = 96;
/// What a topic takes besides its name.
const TOPIC_BYTES: usize = 40;
/// A partition in the list of who is to have it, and of who will.
const SHARED_BYTES: usize = 24;
/// A partition in the list of who has it.
const HELD_BYTES: usize = 16;
/// What a topic's partitions take in such a list besides.
const LIST_BYTES: usize = 32;

/// What a group takes without members and offsets.
pub(crate) fn head(group: &str, head: &Head) -> usize {
    let topics = head.topics.iter().map(|(name, shape)| topic(name, shape.partitions));
    name(group) + topics.sum::<usize>()
}

/// What a group takes that has nothing yet.
pub(crate) const fn name(group: &str) -> usize {
    RECORD_BYTES + group.len()
}

/// What a topic adds to a group that shares it out.
pub(crate) fn topic(name: &str, partitions: u32) -> usize {
    TOPIC_BYTES + name.len() + SHARED_BYTES * partitions as usize
}

/// What a member takes, with its target.
pub(crate) fn member(group: &str, id: &MemberId, member: &Member) -> usize {
    let names =
        2 * (group.len() + id.as_str().len()) + member.instance.as_ref().map_or(0, String::len) + member.client.len();
    let topics = member.topics.iter().map(|name| name.len() + 4 + LIST_BYTES);
    2 * RECORD_BYTES + names + topics.sum::<usize>() + held(&member.owned) + held(&member.revoking)
}

fn held(held: &Held) -> usize {
    let topics = held
        .keys()
        .map(|place| place.topic)
        .fold((None, 0), |(last, count), topic| (Some(topic), count + usize::from(last != Some(topic))));
    topics.1 * LIST_BYTES + held.len() * HELD_BYTES
}

/// What a committed offset takes, by its words.
pub(crate) const fn offset(group: &str, metadata: &str) -> usize {
    RECORD_BYTES + group.len() + metadata.len()
}
