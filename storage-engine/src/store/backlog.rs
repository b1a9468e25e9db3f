//! What is committed and in no segment yet, and which group's turn it is to be written.
//!
//! The journal has all of it, and readers get it from memory. So it waits until a group has enough for one large write:
//! a small write costs the disk and both threads nearly as much as a large one, and with hundreds of partitions that is
//! what the journal would have to wait for. It does not wait for ever: past a bound for all groups together, or after a
//! time, the group that has waited longest is written, however little it has. (A checkpoint, and the end of a segment,
//! have their groups written at once.)

use std::collections::VecDeque;

use levada_protocol::ids::GroupId;

use super::group::Group;
use crate::config::StoreConfig;

/// Of all groups.
///
/// * `led_bytes`, `followed_bytes` and `writing_bytes` are sums over the groups: a group changes within
///   [`Backlog::follow`].
/// * A group that waits stands in `queue`, with the tick since which it does. What stands there otherwise is void: the
///   group was written, or is gone.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    led_bytes: u64,
    followed_bytes: u64,
    /// How much of both is on its way to a segment.
    writing_bytes: u64,
    /// Groups that had too little for a write of their own, and since which tick.
    queue: VecDeque<(GroupId, u64)>,
    ticks: u64,
}

impl Backlog {
    /// Of groups that others lead.
    pub(super) const fn followed_bytes(&self) -> u64 {
        self.followed_bytes
    }

    /// Keeps the sums while a group changes.
    pub(super) fn follow<R>(&mut self, group: &mut Group, change: impl FnOnce(&mut Group) -> R) -> R {
        self.forget(group);
        let result = change(group);
        *self.side(group) += group.log.backlog_bytes();
        self.writing_bytes += group.log.writing_bytes();
        result
    }

    /// A group is gone.
    pub(super) fn forget(&mut self, group: &Group) {
        *self.side(group) -= group.log.backlog_bytes();
        self.writing_bytes -= group.log.writing_bytes();
    }

    const fn side(&mut self, group: &Group) -> &mut u64 {
        if group.led { &mut self.led_bytes } else { &mut self.followed_bytes }
    }

    /// A group waits for more, unless it has nothing, or nothing that is worth a write.
    pub(super) fn queue(&mut self, group: &mut Group) {
        let has_some = group.log.backlog_bytes() > group.log.writing_bytes();
        if group.waits_since.is_none() && has_some && !group.log.rests() {
            group.waits_since = Some(self.ticks);
            self.queue.push_back((group.id(), self.ticks));
        }
    }

    /// The next of the queue, if it must be written though it has little.
    pub(super) fn next_urgent(&mut self, config: &StoreConfig) -> Option<(GroupId, u64)> {
        let too_much = self.led_bytes + self.followed_bytes > self.writing_bytes + config.unwritten_bytes_max();
        let is_urgent = |(_, since): &mut (GroupId, u64)| too_much || self.ticks - *since >= config.unwritten_ticks_max;
        self.queue.pop_front_if(is_urgent)
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }
}
