//! Where segments end, and which of them go.

use levada_protocol::ids::{GroupId, LogIndex, Offset};

use super::Store;

impl Store {
    /// Ends the group's segment behind the entry `at`: that entry said so, and nothing behind it was committed yet. Where
    /// no segment was begun since the last roll, nothing happens.
    ///
    /// # Panics
    /// If there is no such group, or entries behind `at` are in the segment.
    pub fn roll(&mut self, group: GroupId, at: LogIndex) {
        self.group(group).log.roll(at);
        self.ready.insert(group);
    }

    /// Records below `offset` are not read any more; segments wholly below it go. Without effect if the log starts there
    /// or above.
    ///
    /// # Panics
    /// If there is no such group or offset.
    pub fn set_log_start(&mut self, group: GroupId, offset: Offset) {
        let removed = self.group(group).log.set_log_start(offset);
        self.removed.extend(removed.into_iter().map(|file| (group, file)));
    }

    /// Entries of a group below `index` are needed by nobody, here or elsewhere, while this node is up; segments wholly below it
    /// go when they are sealed. For a group whose segments are each replica's own affair: of the others, all replicas have
    /// the same.
    ///
    /// # Panics
    /// If there is no such group, or the entry before `index` is not committed.
    pub fn set_needed_from(&mut self, group: GroupId, index: LogIndex) {
        let removed = self.group(group).log.set_needed_from(index);
        self.removed.extend(removed.into_iter().map(|file| (group, file)));
    }
}
