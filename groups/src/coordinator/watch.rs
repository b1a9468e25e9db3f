//! Until when members must be heard and have let go. Nothing of it is written down: a new leader begins anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    command::Now,
    state::{Member, MemberId},
};

/// What a member has not done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It was not heard.
    Session,
    /// It has not let go of what it is to let go of.
    Rebalance,
}

type Key = (String, MemberId, Why);

/// The times, by member and in order.
///
/// Invariant: `order` is `until` turned around.
#[derive(Debug, Default)]
pub(super) struct Watch {
    until: BTreeMap<Key, u64>,
    order: BTreeSet<(u64, Key)>,
}

impl Watch {
    /// A member was heard.
    pub(super) fn heard(&mut self, group: &str, id: &MemberId, member: &Member, now: Now) {
        let key = |why| (group.to_owned(), id.clone(), why);
        self.set(key(Why::Session), now.mono_ms + u64::from(member.session_timeout_ms));
        let key = key(Why::Rebalance);
        if member.revoking.is_empty() {
            self.clear(&key);
        } else if !self.until.contains_key(&key) {
            self.set(key, now.mono_ms + u64::from(member.rebalance_timeout_ms));
        }
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, group: &str, id: &MemberId) {
        for why in [Why::Session, Why::Rebalance] {
            self.clear(&(group.to_owned(), id.clone(), why));
        }
    }

    /// The first time that something is due.
    pub(super) fn first_ms(&self) -> Option<u64> {
        self.order.first().map(|(until, _)| *until)
    }

    /// Whose time is over first, if it is over. It stays until the member is forgotten.
    pub(super) fn overdue(&self, now: Now) -> Option<(String, MemberId, Why)> {
        self.order.first().filter(|(until, _)| *until <= now.mono_ms).map(|(_, key)| key.clone())
    }

    fn set(&mut self, key: Key, until: u64) {
        self.clear(&key);
        self.order.insert((until, key.clone()));
        self.until.insert(key, until);
    }

    fn clear(&mut self, key: &Key) {
        if let Some(until) = self.until.remove(key) {
            self.order.remove(&(until, key.clone()));
        }
    }
}
