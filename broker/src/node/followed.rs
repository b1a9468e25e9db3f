//! Produce requests whose way through the core is followed: the core says when one has been proposed, and when that is
//! durable here. That it is committed its answer says.

use std::collections::BTreeMap;

use levada_protocol::ids::{GroupId, LogIndex};

use super::event::{Effect, RequestId, Stage};
use crate::partition::leading::Leading;

/// Followed at once; more are not, as they are samples anyway.
const FOLLOWED_MAX: usize = 1024;
/// After so many ticks (a minute) nobody waits for an answer any more.
const TICKS_MAX: u64 = 1200;

/// How far a request has come.
#[derive(Clone, Copy, Debug)]
enum Place {
    Waits,
    Proposed(GroupId, LogIndex),
    Durable(GroupId),
}

/// The requests that are followed. Usually none.
#[derive(Debug, Default)]
pub(super) struct FollowedRequests {
    places: BTreeMap<RequestId, (u64, Place)>,
}

impl FollowedRequests {
    /// Follows a request from now on.
    pub(super) fn follow(&mut self, id: RequestId, ticks: u64) {
        if self.places.len() < FOLLOWED_MAX {
            self.places.insert(id, (ticks, Place::Waits));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Forgets who is never answered.
    pub(super) fn tick(&mut self, ticks: u64) {
        if !self.places.is_empty() {
            self.places.retain(|_, (since, _)| ticks.saturating_sub(*since) < TICKS_MAX);
        }
    }

    /// A group's leader has proposed what was queued.
    pub(super) fn proposed(&mut self, group: GroupId, leading: &Leading, out: &mut Vec<Effect>) {
        for (id, (_, place)) in &mut self.places {
            if let Place::Waits = place
                && let Some(index) = leading.index_of(*id)
            {
                *place = Place::Proposed(group, index);
                out.push(Effect::Reached { id: *id, stage: Stage::Proposed { index } });
            }
        }
    }

    /// A group's entries up to `persisted` are durable here.
    pub(super) fn durable(&mut self, group: GroupId, persisted: LogIndex, out: &mut Vec<Effect>) {
        for (id, (_, place)) in &mut self.places {
            if let Place::Proposed(of, index) = *place
                && of == group
                && index <= persisted
            {
                *place = Place::Durable(group);
                out.push(Effect::Reached { id: *id, stage: Stage::Durable });
            }
        }
    }

    /// Forgets those of a group that have been answered.
    pub(super) fn answered(&mut self, group: GroupId, leading: Option<&Leading>) {
        if self.places.is_empty() {
            return;
        }
        self.places.retain(|id, (_, place)| match *place {
            Place::Proposed(of, _) | Place::Durable(of) if of == group => {
                leading.is_some_and(|leading| leading.index_of(*id).is_some())
            }
            _ => true,
        });
    }
}
