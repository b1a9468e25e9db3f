//! What time brings: members that were not heard are fenced, topics change, groups that nobody uses go.
//!
//! For how long nobody used one is counted in hours, by the clock that never jumps, and written down hour by hour: a time of day that is
//! wrong, on this node or the next that leads, lets no offset go before its time. A change of leaders loses less than an hour of it.

use std::collections::BTreeSet;

use super::{Coordinator, Why, membership::shapes};
use crate::{
    command::Now,
    limits::{FENCED_PER_TICK, KEPT_HOURS, LOOKED_AT_PER_TICK},
    record::Record,
    state::{Head, MemberId},
    topics::Topics,
};

const HOUR_MS: u64 = 60 * 60 * 1000;

/// A member whose time was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// Its group.
    pub group: String,
    /// The member.
    pub member: MemberId,
    /// It had not let go in time of what it was to let go of, and was not answered since.
    pub held_on: bool,
}

/// What a tick has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// To be written down: each holds together, in this order.
    pub changes: Vec<Vec<Record>>,
    /// Who was fenced.
    pub fenced: Vec<Fenced>,
}

impl Coordinator {
    /// Does what is due. To be called often: nothing happens sooner than that. A part of the groups is looked at each time.
    pub fn tick(&mut self, now: Now, topics: &impl Topics) -> Upkeep {
        let mut upkeep = Upkeep::default();
        self.fence(now, topics, &mut upkeep);
        let from = std::mem::take(&mut self.looked_at);
        let names: Vec<String> =
            self.state.groups_after(&from).take(LOOKED_AT_PER_TICK).map(|(name, _)| name.to_owned()).collect();
        // Behind the last one it begins again.
        if names.len() == LOOKED_AT_PER_TICK {
            self.looked_at = names.last().cloned().unwrap_or_default();
        }
        for name in names {
            let mut change = Vec::new();
            self.look_at(now, &name, topics, &mut change);
            if !change.is_empty() {
                upkeep.changes.push(change);
            }
        }
        upkeep
    }

    fn fence(&mut self, now: Now, topics: &impl Topics, upkeep: &mut Upkeep) {
        // One target for all that a group loses at once.
        let mut groups: BTreeSet<String> = BTreeSet::new();
        let mut gone = Vec::new();
        for _ in 0..FENCED_PER_TICK {
            let Some((group, member, why)) = self.watch.overdue(now) else { break };
            // It may have been answered a moment ago, and believes that it has the rest of what it has.
            if why == Why::Rebalance {
                self.watch.refuse(&group, &member);
                continue;
            }
            let held_on = self.watch.is_refused(&group, &member);
            gone.push((group.clone(), Record::MemberGone { group: group.clone(), id: member.clone() }));
            self.drop_member(&group, &member, &mut Vec::new());
            groups.insert(group.clone());
            upkeep.fenced.push(Fenced { group, member, held_on });
        }
        for name in groups {
            let mut change: Vec<Record> =
                gone.iter().filter(|(group, _)| *group == name).map(|(_, record)| record.clone()).collect();
            self.rebalance(&name, topics, &mut change);
            upkeep.changes.push(change);
        }
    }

    fn look_at(&mut self, now: Now, name: &str, topics: &impl Topics, change: &mut Vec<Record>) {
        let Some(group) = self.state.group(name) else { return };
        if !group.members.is_empty() {
            if shapes(group, topics, self.room_bytes()) != group.head.topics {
                self.rebalance(name, topics, change);
            }
            self.idle.remove(name);
            return;
        }
        let since_ms = *self.idle.entry(name.to_owned()).or_insert(now.mono_ms);
        let hours = now.mono_ms.saturating_sub(since_ms) / HOUR_MS;
        let idle_hours = group.head.idle_hours.unwrap_or(0).saturating_add(u32::try_from(hours).unwrap_or(u32::MAX));
        if group.offsets.is_empty() || idle_hours >= KEPT_HOURS {
            self.write(Record::GroupGone { group: name.to_owned() }, change);
        } else if hours > 0 {
            self.idle.insert(name.to_owned(), since_ms + hours * HOUR_MS);
            let head = Head { idle_hours: Some(idle_hours), ..group.head.clone() };
            self.write(Record::Head { group: name.to_owned(), head }, change);
        }
    }
}
