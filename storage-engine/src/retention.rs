//! Which segments are old enough to go. A plan only: the leader proposes it as a raft entry, so that all replicas remove
//! the same segments, and the store does when that entry is applied.

use std::collections::BTreeMap;

use levada_protocol::ids::{LogIndex, Offset};

use crate::log::SegmentStats;

/// How long a partition keeps its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Records older than this may go; `None` keeps them whatever their age.
    pub retention_ms: Option<u64>,
    /// Segments beyond this many bytes may go, the oldest first; `None` keeps them however many there are.
    pub retention_bytes: Option<u64>,
}

/// Where a log would start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLogStart {
    /// The first offset that is left.
    pub offset: Offset,
    /// The first entry that is left.
    pub index: LogIndex,
}

/// Where a log of these segments should start, if it should be cut.
///
/// Only whole sealed segments go, in order, and none with an entry above `floor`, the highest that every replica has: a
/// follower that is behind must find what it lacks.
///
/// A segment's time is that of its youngest record, or of its end if that is later (`ends_ms`, by the offset behind it):
/// so a record is kept for its time from when it was appended, whatever it says itself. A time in the future is not
/// believed. A segment without a believable one counts as the next behind it that has one, and else as now: so a wrong
/// clock keeps a segment longer, but not for ever. The same goes for records without a timestamp.
#[must_use]
pub fn plan(
    segments: &[SegmentStats],
    ends_ms: &BTreeMap<Offset, i64>,
    policy: &RetentionPolicy,
    now_ms: i64,
    floor: LogIndex,
) -> Option<NewLogStart> {
    let mut bytes_left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut start = None;
    for (at, segment) in segments.iter().enumerate() {
        let age_ms = || now_ms.abs_diff(time_ms(segments.get(at..).unwrap_or_default(), ends_ms, now_ms));
        let too_many = policy.retention_bytes.is_some_and(|max| bytes_left - segment.bytes >= max);
        let too_old = policy.retention_ms.is_some_and(|max| segment.max_timestamp_ms.is_none() || age_ms() > max);
        let is_everywhere = segment.next_index.get() <= floor.get() + 1;
        if !segment.sealed || !is_everywhere || !(too_many || too_old) {
            break;
        }
        bytes_left -= segment.bytes;
        start = Some(NewLogStart { offset: segment.next_offset, index: segment.next_index });
    }
    start
}

/// The time of the first of these segments that has a believable one.
fn time_ms(segments: &[SegmentStats], ends_ms: &BTreeMap<Offset, i64>, now_ms: i64) -> i64 {
    let is_believable = |time_ms: &i64| (0..=now_ms).contains(time_ms);
    let times = segments.iter().map(|segment| {
        let youngest_ms = segment.max_timestamp_ms.filter(is_believable);
        match ends_ms.get(&segment.next_offset) {
            Some(end_ms) => is_believable(end_ms).then(|| youngest_ms.map_or(*end_ms, |time_ms| time_ms.max(*end_ms))),
            None => youngest_ms,
        }
    });
    times.flatten().next().unwrap_or(now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn segment(number: u64, bytes: u64, max_timestamp_ms: Option<i64>) -> SegmentStats {
        SegmentStats {
            first_index: LogIndex(number * 10 + 1),
            next_index: LogIndex(number * 10 + 11),
            base_offset: Offset(number * 100),
            next_offset: Offset(number * 100 + 100),
            bytes,
            max_timestamp_ms,
            sealed: true,
        }
    }

    fn of(ages_ms: &[i64]) -> Vec<SegmentStats> {
        let ages = (0..).zip(ages_ms);
        ages.map(|(number, age_ms)| segment(number, 1000, Some(NOW_MS - age_ms))).collect()
    }

    fn segments_gone(segments: &[SegmentStats], time: Option<u64>, bytes: Option<u64>, floor: u64) -> usize {
        gone(segments, &BTreeMap::new(), time, bytes, floor)
    }

    fn gone(
        segments: &[SegmentStats],
        ends_ms: &BTreeMap<Offset, i64>,
        time: Option<u64>,
        bytes: Option<u64>,
        floor: u64,
    ) -> usize {
        let policy = RetentionPolicy { retention_ms: time, retention_bytes: bytes };
        let start = plan(segments, ends_ms, &policy, NOW_MS, LogIndex(floor));
        start.map_or(0, |start| {
            let gone = segments.iter().position(|segment| segment.next_offset == start.offset).unwrap() + 1;
            assert_eq!(start.index, segments[gone - 1].next_index);
            gone
        })
    }

    #[test]
    fn by_time_up_to_the_first_that_is_young() {
        let segments = of(&[500, 301, 300, 400, 0]);
        assert_eq!(segments_gone(&segments, Some(300), None, u64::MAX - 1), 2);
        assert_eq!(segments_gone(&segments, Some(500), None, u64::MAX - 1), 0);
        assert_eq!(segments_gone(&segments, None, None, u64::MAX - 1), 0);
    }

    #[test]
    fn by_bytes_as_long_as_enough_is_left() {
        let segments = of(&[0, 0, 0, 0]);
        assert_eq!(segments_gone(&segments, None, Some(2000), u64::MAX - 1), 2);
        assert_eq!(segments_gone(&segments, None, Some(2001), u64::MAX - 1), 1);
        assert_eq!(segments_gone(&segments, None, Some(5000), u64::MAX - 1), 0);
        assert_eq!(segments_gone(&segments, Some(100), Some(0), u64::MAX - 1), 4);
    }

    #[test]
    fn never_what_a_replica_lacks_or_is_still_written() {
        let mut segments = of(&[900, 900, 900]);
        assert_eq!(segments_gone(&segments, Some(1), None, 9), 0);
        assert_eq!(segments_gone(&segments, Some(1), None, 10), 1);
        assert_eq!(segments_gone(&segments, Some(1), None, 29), 2);
        assert_eq!(segments_gone(&segments, Some(1), None, 30), 3);
        segments[1].sealed = false;
        assert_eq!(segments_gone(&segments, Some(1), None, 30), 1);
    }

    #[test]
    fn clocks_that_are_wrong_keep_nothing_for_ever() {
        for wrong in [i64::MAX, NOW_MS + 1, -1] {
            let mut segments = of(&[0, 200, 100, 0]);
            segments[0].max_timestamp_ms = Some(wrong);
            assert_eq!(segments_gone(&segments[..1], Some(0), None, 100), 0, "counts as now");
            assert_eq!(segments_gone(&segments, Some(200), None, 100), 0, "counts as what was appended next");
            assert_eq!(segments_gone(&segments, Some(199), None, 100), 2);
        }
        assert_eq!(segments_gone(&[segment(0, 1000, None)], Some(10), None, 100), 1, "no record");
    }

    #[test]
    fn old_timestamps_do_not_make_a_young_segment_old() {
        let segments = of(&[900, 900, 900]);
        let ends_ms = |ages_ms: [i64; 3]| -> BTreeMap<Offset, i64> {
            segments.iter().zip(ages_ms).map(|(segment, age_ms)| (segment.next_offset, NOW_MS - age_ms)).collect()
        };
        let gone = |ages_ms, time| gone(&segments, &ends_ms(ages_ms), Some(time), None, 100);
        assert_eq!(gone([600, 500, 400], 450), 2);
        assert_eq!(gone([600, 500, 400], 600), 0);
        assert_eq!(gone([950, 910, 900], 899), 3, "a record is younger than the segment's end: it has its own time");
        assert_eq!(gone([-5, -5, 400], 450), 0, "an end in the future is not believed: it counts as the next");
        assert_eq!(gone([-5, -5, 400], 399), 3);
        assert_eq!(gone([-5, -5, -5], 0), 0);
    }
}
