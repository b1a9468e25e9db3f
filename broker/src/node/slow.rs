//! Whether this node's disk is slow: measured where it matters, at the journal's blocks.
//!
//! Every acknowledgement waits for a block to be durable on a majority of disks. A leader with a slow disk answers as
//! soon as others have the entry, but a slow disk is behind with everything else, and often on its way to failing. So
//! when the median of what blocks took in the last ten seconds is above a bound, and far above what other nodes say of
//! theirs, the disk counts as slow. Where all are slow none is: nobody would be better.
//!
//! A block that is large may take longer: what its bytes take at a modest rate is not counted. A block that is not done
//! yet counts with its age, so a disk that hangs is noticed, too. A disk that was slow stays so for a while, and for longer
//! each time: leadership is not to go back and forth.

use std::collections::VecDeque;

use levada_storage_engine::disk::DiskOp;

/// How far back it looks, in seconds.
const WINDOW_S: usize = 10;
/// Blocks of a second that are looked at; a disk that does more is not slow.
const SAMPLES_PER_S: usize = 64;
/// Fewer blocks say nothing.
const SAMPLES_MIN: usize = 8;
/// It must take so many times as long as others.
const TIMES_OTHERS: u64 = 4;
/// What a disk must manage, in bytes per millisecond (50 MB/s).
const BYTES_PER_MS: u64 = 50_000;
/// For how long a disk counts as slow at least, at first and at most.
const HOLD_S_MIN: u64 = 30;
const HOLD_S_MAX: u64 = 480;
/// After so long without being slow it is as if it never was.
const FORGIVEN_S: u64 = 600;
/// What is told of a disk whose blocks take less than can be measured, in microseconds.
const TOLD_US_MIN: u64 = 500;

/// What blocks take.
#[derive(Debug, Default)]
pub(super) struct SlowDisk {
    /// Medians below this are never slow; 0: none is.
    bound_ms: u64,
    /// The block that is with the disk: its token, since when, and what it may take for its bytes.
    under_way: Option<(u64, u64, u64)>,
    /// What blocks took in each second, the last one being under way.
    seconds: VecDeque<Vec<u64>>,
    median_ms: Option<u64>,
    /// When it became slow, if it is.
    since_s: Option<u64>,
    ended_s: Option<u64>,
    hold_s: u64,
    now_s: u64,
}

impl SlowDisk {
    pub(super) fn new(bound_ms: u64) -> Self {
        Self { bound_ms, hold_s: HOLD_S_MIN, seconds: VecDeque::from([Vec::new()]), ..Self::default() }
    }

    /// A block goes to the disk.
    pub(super) fn begin(&mut self, token: u64, ops: &[DiskOp], now_ms: u64) {
        let bytes = |op: &DiskOp| match op {
            DiskOp::Write { bufs, .. } => bufs.iter().map(|buf| buf.len() as u64).sum(),
            _ => 0,
        };
        let allowed_ms = ops.iter().map(bytes).sum::<u64>() / BYTES_PER_MS;
        self.under_way = Some((token, now_ms, allowed_ms));
    }

    /// Something is done: if it is the block, it is measured.
    pub(super) fn end(&mut self, token: u64, now_ms: u64) {
        if let Some((_, since_ms, allowed_ms)) = self.under_way.take_if(|(block, ..)| *block == token) {
            self.note(now_ms.saturating_sub(since_ms + allowed_ms));
        }
    }

    fn note(&mut self, took_ms: u64) {
        if let Some(second) = self.seconds.back_mut().filter(|second| second.len() < SAMPLES_PER_S) {
            second.push(took_ms);
        }
    }

    /// A second has passed. `others_us` are the medians of other nodes. Answers whether it has become slow, or stopped
    /// being so.
    pub(super) fn second(&mut self, now_ms: u64, mut others_us: Vec<u64>) -> bool {
        self.now_s += 1;
        if let Some((_, since_ms, allowed_ms)) = self.under_way {
            let age_ms = now_ms.saturating_sub(since_ms + allowed_ms);
            if age_ms > 1_000 {
                // One every second would be few beside those that were quick before; it has kept out many.
                (0..SAMPLES_MIN).for_each(|_| self.note(age_ms));
            }
        }
        let mut samples: Vec<u64> = self.seconds.iter().flatten().copied().collect();
        self.median_ms = (samples.len() >= SAMPLES_MIN).then(|| median(&mut samples)).flatten();
        if self.seconds.len() >= WINDOW_S {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Vec::new());
        let others_ms = median(&mut others_us).map(|us| us / 1_000);
        let was_slow = self.is_slow();
        match (self.since_s, self.median_ms) {
            (None, Some(median_ms)) => {
                let is_far_above = others_ms.is_some_and(|others_ms| median_ms >= TIMES_OTHERS * others_ms);
                if self.bound_ms > 0 && median_ms >= self.bound_ms && is_far_above {
                    self.begin_slow();
                }
            }
            (Some(since_s), Some(median_ms)) => {
                let is_quick = median_ms < self.bound_ms / 2 || others_ms.is_some_and(|ms| median_ms < 2 * ms);
                if is_quick && self.now_s >= since_s + self.hold_s {
                    (self.since_s, self.ended_s) = (None, Some(self.now_s));
                }
            }
            _ => {}
        }
        was_slow != self.is_slow()
    }

    fn begin_slow(&mut self) {
        self.since_s = Some(self.now_s);
        self.hold_s = match self.ended_s {
            Some(ended_s) if self.now_s < ended_s + FORGIVEN_S => (2 * self.hold_s).min(HOLD_S_MAX),
            _ => HOLD_S_MIN,
        };
    }

    /// Whether it is slow.
    pub(super) const fn is_slow(&self) -> bool {
        self.since_s.is_some()
    }

    /// Whether it is slow, and nothing is written that could show that it is not any more.
    pub(super) fn wants_proof(&self) -> bool {
        self.is_slow()
            && self.under_way.is_none()
            && self.seconds.back().is_some_and(|second| second.len() < SAMPLES_MIN)
    }

    /// The median of late, in microseconds; 0 if it is not known.
    pub(super) fn told_us(&self) -> u64 {
        self.median_ms.map_or(0, |ms| (ms * 1_000).max(TOLD_US_MIN))
    }
}

/// Of two in the middle the lower one: a node is measured against the better ones.
fn median(samples: &mut [u64]) -> Option<u64> {
    samples.sort_unstable();
    samples.get(samples.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levada_storage_engine::disk::FileName;

    use super::*;

    const QUICK: [u64; 2] = [1_000, 2_000];

    struct Fixture {
        slow: SlowDisk,
        now_ms: u64,
        token: u64,
    }

    impl Fixture {
        fn new() -> Self {
            Self { slow: SlowDisk::new(20), now_ms: 0, token: 0 }
        }

        /// So many seconds with a block after the other, each of which takes so long.
        fn seconds(&mut self, seconds: u64, took_ms: u64, others_us: &[u64]) -> bool {
            for _ in 0..seconds {
                let end_ms = self.now_ms + 1_000;
                while self.now_ms + took_ms <= end_ms {
                    self.token += 1;
                    self.slow.begin(self.token, &[], self.now_ms);
                    self.now_ms += took_ms;
                    self.slow.end(self.token, self.now_ms);
                    self.now_ms += 1;
                }
                self.now_ms = end_ms;
                self.slow.second(end_ms, others_us.to_vec());
            }
            self.slow.is_slow()
        }
    }

    #[test]
    fn ten_times_slower_than_others_is_slow_within_seconds() {
        let mut disk = Fixture::new();
        assert!(!disk.seconds(20, 2, &QUICK));
        assert!(!disk.seconds(3, 100, &QUICK), "a stall is no slow disk");
        assert!(disk.seconds(9, 100, &QUICK));
        assert_eq!(disk.slow.told_us(), 100_000);
    }

    #[test]
    fn where_all_are_slow_or_nobody_says_anything_nobody_is() {
        assert!(!Fixture::new().seconds(30, 100, &[40_000, 90_000]));
        assert!(!Fixture::new().seconds(30, 100, &[]));
        assert!(Fixture::new().seconds(30, 100, &[2_000, 90_000]), "one is better");
        assert!(!Fixture::new().seconds(30, 19, &[1, 1]), "the bound");
        let mut off = Fixture::new();
        off.slow = SlowDisk::new(0);
        assert!(!off.seconds(30, 300, &QUICK));
    }

    #[test]
    fn it_stays_slow_for_a_while_and_longer_each_time() {
        let mut disk = Fixture::new();
        let slow_for = |disk: &mut Fixture| {
            while !disk.seconds(1, 100, &QUICK) {}
            let mut seconds = 1;
            while disk.seconds(1, 2, &QUICK) {
                seconds += 1;
            }
            seconds
        };
        assert_eq!((slow_for(&mut disk), slow_for(&mut disk), slow_for(&mut disk)), (30, 60, 120));
        disk.seconds(FORGIVEN_S, 2, &QUICK);
        assert_eq!(slow_for(&mut disk), 30);
    }

    #[test]
    fn a_disk_that_hangs_is_noticed_though_nothing_is_measured() {
        let mut disk = Fixture::new();
        disk.seconds(20, 2, &QUICK);
        disk.slow.begin(0, &[], disk.now_ms);
        for _ in 0..15 {
            disk.now_ms += 1_000;
            disk.slow.second(disk.now_ms, QUICK.to_vec());
        }
        assert!(disk.slow.is_slow());
        assert!(!disk.slow.wants_proof(), "the block that hangs is the proof");
        disk.slow.end(0, disk.now_ms);
        assert!(disk.slow.wants_proof());
    }

    #[test]
    fn large_blocks_may_take_longer() {
        let mut disk = SlowDisk::new(20);
        let bufs = vec![Bytes::from(vec![0; 4 << 20])];
        let ops = [DiskOp::Write { file: FileName::new("journal/1"), pos: 0, bufs }];
        for token in 0..100 {
            disk.begin(token, &ops, token * 100);
            disk.end(token, token * 100 + 90);
            if token % 10 == 9 {
                disk.second(token * 100 + 100, QUICK.to_vec());
            }
        }
        assert!(!disk.is_slow() && disk.told_us() < 10_000, "{}", disk.told_us());
    }

    #[test]
    fn too_few_blocks_say_nothing_and_change_nothing() {
        let mut disk = Fixture::new();
        disk.seconds(12, 100, &QUICK);
        assert!(disk.slow.is_slow());
        for _ in 0..100 {
            disk.now_ms += 1_000;
            disk.slow.second(disk.now_ms, QUICK.to_vec());
        }
        assert!(disk.slow.is_slow() && disk.slow.wants_proof());
        assert_eq!(disk.slow.told_us(), 0);
    }
}
