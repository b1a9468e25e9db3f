//! The next step of a member from what it has to what it is to have.
//!
//! First it lets go of what is not its any more, and says so. Then its epoch rises to the group's, and it gets what is free of
//! what it is to have; the rest as others let go of it, heartbeat by heartbeat. Members that neither give nor get anything
//! only see the epoch rise.

use levada_protocol::ids::TopicPartition;

use crate::state::{Group, Held, Member, MemberId};

/// What a member is after it has said that it follows version `seen`; `None` if nothing changes.
pub(super) fn next(group: &Group, id: &MemberId, member: &Member, seen: u64) -> Option<Member> {
    let epoch = group.head.epoch;
    let target = group.targets.get(id);
    let is_target = |held: &Held| target.is_some_and(|target| held.len() == target.len());
    if member.epoch == epoch && member.revoking.is_empty() && is_target(&member.owned) {
        debug_assert!(member.owned.keys().copied().eq(group.target(id)), "{id} has come up to its target");
        return None;
    }
    let mut next = member.clone();
    if !next.revoking.is_empty() {
        if seen != member.version {
            return None;
        }
        next.revoking.clear();
    }
    let is_meant = |place: &TopicPartition| target.is_some_and(|target| target.contains(place));
    let to_revoke: Held = next.owned.extract_if(.., |place, _| !is_meant(place)).collect();
    if !to_revoke.is_empty() {
        next.revoking = to_revoke;
        next.version += 1;
        return Some(next);
    }
    let is_free = |place| group.owner(place).is_none_or(|owner| owner == id && member.revoking.contains_key(&place));
    let granted: Held = group
        .target(id)
        .filter(|place| !next.owned.contains_key(place) && is_free(*place))
        .map(|p| (p, epoch))
        .collect();
    if !granted.is_empty() {
        next.owned.extend(granted);
        next.version += 1;
    }
    if next.epoch < epoch {
        next.previous_epoch = next.epoch;
        next.epoch = epoch;
    }
    (next != *member).then_some(next)
}
