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
/// Invariants: `order` is `until` turned around; who is in `refused` has a session, and no time to let go.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Until when, and for which version of the member.
    until: BTreeMap<Key, (u64, u64)>,
    order: BTreeSet<(u64, Key)>,
    /// Who has not let go in time: it is not answered any more, so it stops when its session ends, and is fenced then.
    refused: BTreeSet<(String, MemberId)>,
}

impl Watch {
    /// A member was heard.
    pub(super) fn heard(&mut self, group: &str, id: &MemberId, member: &Member, now: Now) {
        let key = |why| (group.to_owned(), id.clone(), why);
        self.set(key(Why::Session), now.mono_ms + u64::from(member.session_timeout_ms), 0);
        let key = key(Why::Rebalance);
        if member.revoking.is_empty() {
            self.clear(&key);
        } else if self.until.get(&key).is_none_or(|(_, version)| *version != member.version) {
            self.set(key, now.mono_ms + u64::from(member.rebalance_timeout_ms), member.version);
        }
    }

    /// A member has not let go in time: from now on it is not answered.
    pub(super) fn refuse(&mut self, group: &str, id: &MemberId) {
        self.clear(&(group.to_owned(), id.clone(), Why::Rebalance));
        self.refused.insert((group.to_owned(), id.clone()));
    }

    /// Whether that is so.
    pub(super) fn is_refused(&self, group: &str, id: &MemberId) -> bool {
        !self.refused.is_empty() && self.refused.contains(&(group.to_owned(), id.clone()))
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, group: &str, id: &MemberId) {
        for why in [Why::Session, Why::Rebalance] {
            self.clear(&(group.to_owned(), id.clone(), why));
        }
        self.refused.remove(&(group.to_owned(), id.clone()));
    }

    /// Whose time is over first, if it is over. It stays until the member is forgotten, or refused.
    pub(super) fn overdue(&self, now: Now) -> Option<(String, MemberId, Why)> {
        self.order.first().filter(|(until, _)| *until <= now.mono_ms).map(|(_, key)| key.clone())
    }

    fn set(&mut self, key: Key, until: u64, version: u64) {
        self.clear(&key);
        self.order.insert((until, key.clone()));
        self.until.insert(key, (until, version));
    }

    fn clear(&mut self, key: &Key) {
        if let Some((until, _)) = self.until.remove(key) {
            self.order.remove(&(until, key.clone()));
        }
    }
}
