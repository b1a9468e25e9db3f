//! How far replicas are behind in time: since when the leader has had the oldest entry that a replica lacks.
//!
//! The log does not say when an entry came. So the leader keeps, of a partition with a replica that is behind, where the
//! log ended at each look (once a second). The first look at which it ended above what the replica has says when the
//! oldest entry that it lacks was there, to within one look. Partitions whose replicas have everything cost nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use levada_protocol::ids::{LogIndex, TopicPartition};

/// Looks that are kept of one partition; past it every other one goes, so that a day costs no more than an hour.
const LOOKS_MAX: usize = 256;

/// What was seen of one partition.
#[derive(Debug, Default)]
struct History {
    /// When, and where the log ended. The oldest first; both rise.
    looks: VecDeque<(Instant, LogIndex)>,
    /// At the last look it was still behind.
    seen: bool,
}

/// What was seen of partitions that are led here and of which a replica is behind.
#[derive(Debug, Default)]
pub(super) struct Lags(BTreeMap<TopicPartition, History>);

impl Lags {
    /// Looks at a partition: its log ends at `last`, and its worst replica lacks `behind` entries. By how much that replica
    /// is behind in time.
    pub(super) fn look(&mut self, partition: TopicPartition, now: Instant, last: LogIndex, behind: u64) -> Duration {
        if behind == 0 {
            return Duration::ZERO;
        }
        let History { looks, seen } = self.0.entry(partition).or_default();
        *seen = true;
        if looks.back().is_none_or(|(_, index)| *index < last) {
            looks.push_back((now, last));
        }
        if looks.len() > LOOKS_MAX {
            let mut keep = false;
            looks.retain(|_| {
                keep = !keep;
                keep
            });
        }
        // What the replica has by now needs no look any more.
        let matched = LogIndex(last.get().saturating_sub(behind));
        while looks.front().is_some_and(|(_, index)| *index <= matched) {
            looks.pop_front();
        }
        looks.front().map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since))
    }

    /// Forgets the partitions that were not behind, or not led here, at this look.
    pub(super) fn end_of_look(&mut self) {
        self.0.retain(|_, history| std::mem::take(&mut history.seen));
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::{PartitionId, TopicId};

    use super::*;

    #[test]
    fn a_replica_is_behind_since_the_oldest_entry_that_it_lacks_was_there() {
        let place = TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: PartitionId(0) };
        let (mut lags, begin) = (Lags::default(), crate::runtime::clock::instant());
        let mut look = |second: u64, last: u64, behind: u64| {
            let lag = lags.look(place, begin + Duration::from_secs(second), LogIndex(last), behind).as_secs();
            lags.end_of_look();
            (lag, lags.0.len())
        };
        assert_eq!(look(0, 100, 0), (0, 0), "who has everything costs nothing");
        // It stops at 100, while ten more come every second.
        assert_eq!(look(1, 110, 10), (0, 1));
        assert_eq!(look(2, 120, 20), (1, 1));
        assert_eq!(look(10, 200, 100), (9, 1));
        // It goes on, and has what was there at second 1 and 2.
        assert_eq!(look(11, 210, 90), (1, 1), "what it lacks came after second 2: seen at second 10");
        // Nothing more comes, and it stands still again.
        assert_eq!(look(12, 210, 10), (1, 1));
        assert_eq!(look(50, 210, 10), (39, 1));
        assert_eq!(look(51, 210, 0), (0, 0));
    }

    #[test]
    fn a_day_behind_costs_no_more_than_an_hour() {
        let place = TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: PartitionId(0) };
        let (mut lags, begin) = (Lags::default(), crate::runtime::clock::instant());
        for second in 0..86_400_u64 {
            let lag = lags.look(place, begin + Duration::from_secs(second), LogIndex(100 + second), 100 + second);
            assert_eq!(lag.as_secs(), second);
            assert!(lags.0[&place].looks.len() <= LOOKS_MAX);
        }
    }
}
