//! What was known of the end of a log, and since when.
//!
//! Whoever was told of a record or an end knows for ever that the log reaches so far. An answer must not be older than that: not
//! than what anybody had been told before its question was asked.

use crate::history::{Index, Offset};

/// How far the log was known to reach, from the event on that first told so.
#[derive(Debug, Default)]
pub(super) struct Known {
    steps: Vec<(Index, Offset)>,
}

impl Known {
    /// An event tells that the log reaches to here.
    pub(super) fn told(&mut self, event: Index, end: Offset) {
        if self.steps.last().is_none_or(|&(_, known)| known < end) {
            self.steps.push((event, end));
        }
    }

    /// How far the log was known to reach before an event, and who had told it.
    pub(super) fn before(&self, event: Index) -> Option<(Index, Offset)> {
        let step = self.steps.partition_point(|&(told, _)| told < event).checked_sub(1)?;
        self.steps.get(step).copied()
    }

    /// The farthest.
    pub(super) fn last(&self) -> Option<(Index, Offset)> {
        self.steps.last().copied()
    }
}
