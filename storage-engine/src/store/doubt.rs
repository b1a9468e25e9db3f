//! Of which groups a damaged journal may have lost something.

use std::collections::BTreeSet;

use levada_protocol::ids::GroupId;

use super::Store;
use crate::journal::Doubt;

impl Store {
    /// A group is in doubt no more.
    pub(super) fn end_doubt(&mut self, group: GroupId) {
        self.seen.remove(&group);
        if let Doubt::Groups(groups) = &mut self.doubt {
            groups.remove(&group);
            if groups.is_empty() {
                self.doubt = Doubt::None;
            }
        }
    }

    /// Whether a group, recovered or not, may have lost something that was acknowledged: it must not vote, acknowledge
    /// or campaign. So it stays until the group is removed, another is [installed](Store::install) in its place, or it is
    /// [reclaimed](Store::reclaim).
    #[must_use]
    pub fn doubts(&self, group: GroupId) -> bool {
        self.doubt.covers(group)
    }

    /// The groups of which that is so, by name.
    #[must_use]
    pub fn doubted(&self) -> BTreeSet<GroupId> {
        match &self.doubt {
            Doubt::Groups(groups) => groups.clone(),
            Doubt::None | Doubt::All => BTreeSet::new(),
        }
    }
}
