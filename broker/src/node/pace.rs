//! How much may stand in line before the journal's disk.
//!
//! The journal takes one block after the other, and a block takes what waits in the order in which it came: a batch waits for
//! everything before it. More than keeps the disk busy makes nothing quicker, and everybody later who is not part of it. So the
//! line is kept about as long as the disk needs some milliseconds for (`journal.queue_ms`), by how fast it has been of late;
//! what is more waits in front, where everybody has a turn (`admission.rs`).
//!
//! The other half of a long line is larger blocks, which a disk whose syncs are slow needs to be fast. Never less than
//! [`QUEUE_BYTES_MIN`] may stand in line, and every block that becomes durable lets [`TURN_BYTES`] in, whatever else there is:
//! what other nodes lead and this one follows comes in without asking, and must not keep out everything led here.

use levada_storage_engine::disk::DiskOp;

use super::admission::TURN_BYTES;

/// The least that may stand in line.
const QUEUE_BYTES_MIN: u64 = 2 << 20;
/// For how long the disk must have been at work before its speed is known anew.
const MEASURED_MS: u64 = 50;

/// The journal's pace.
#[derive(Debug)]
pub(super) struct Pace {
    /// How long the line may be; 0: as long as memory lets it.
    queue_ms: u64,
    queue_bytes: u64,
    /// The block that is with the disk: its token, since when, and its bytes.
    under_way: Option<(u64, u64, u64)>,
    /// What blocks took, and their bytes, since the speed was measured last.
    busy_ms: u64,
    bytes: u64,
    /// A block has become durable since somebody was let in.
    is_due: bool,
}

impl Pace {
    /// For a line of about so many milliseconds.
    pub(super) const fn new(queue_ms: u64) -> Self {
        Self { queue_ms, queue_bytes: QUEUE_BYTES_MIN, under_way: None, busy_ms: 0, bytes: 0, is_due: false }
    }

    /// A block goes to the disk.
    pub(super) fn begin(&mut self, token: u64, ops: &[DiskOp], now_ms: u64) {
        let bytes = |op: &DiskOp| match op {
            DiskOp::Write { bufs, .. } => bufs.iter().map(|buf| buf.len() as u64).sum(),
            _ => 0,
        };
        let bytes: u64 = ops.iter().map(bytes).sum();
        if bytes > 0 {
            self.under_way = Some((token, now_ms, bytes));
        }
    }

    /// Something is done: if it is the block, it is measured. Milliseconds are too rough for one; but while the disk is busy
    /// the next begins when one ends, so the sum is right.
    pub(super) fn end(&mut self, token: u64, now_ms: u64) {
        let Some((_, since_ms, bytes)) = self.under_way.take_if(|(block, ..)| *block == token) else { return };
        self.is_due = true;
        self.busy_ms += now_ms.saturating_sub(since_ms);
        self.bytes += bytes;
        if self.busy_ms >= MEASURED_MS {
            self.queue_bytes = (self.bytes / self.busy_ms).saturating_mul(self.queue_ms).max(QUEUE_BYTES_MIN);
            (self.busy_ms, self.bytes) = (0, 0);
        }
    }

    /// How many more bytes may be let in, where so many wait for the journal already. What is left of an answer is not there the
    /// next time, until a block is durable.
    pub(super) fn room_bytes(&mut self, waiting_bytes: u64) -> u64 {
        if self.queue_ms == 0 {
            return u64::MAX;
        }
        let due = if std::mem::take(&mut self.is_due) { TURN_BYTES } else { 0 };
        self.queue_bytes.saturating_sub(waiting_bytes).max(due)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use levada_storage_engine::disk::FileName;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// A disk that writes so fast, and needs so long for each sync, and a queue that is never empty.
    fn settled(queue_ms: u64, bytes_per_ms: u64, sync_ms: u64) -> (Pace, u64) {
        let mut pace = Pace::new(queue_ms);
        let (mut now_ms, mut line, mut written) = (0, 0, 0);
        for token in 0..1000 {
            line += pace.room_bytes(line);
            let block = (line - line / 3).min(8 * MIB);
            let bufs = vec![Bytes::from(vec![0; usize::try_from(block).unwrap()])];
            pace.begin(token, &[DiskOp::Write { file: FileName::new("j"), pos: 0, bufs }], now_ms);
            line += pace.room_bytes(line);
            now_ms += sync_ms + block / bytes_per_ms;
            pace.end(token, now_ms);
            line -= block;
            written += block;
        }
        (pace, written / now_ms)
    }

    #[test]
    fn the_line_is_as_long_as_the_disk_is_fast() {
        let (slow, speed) = settled(20, 100_000, 1);
        assert!((2 * MIB..4 * MIB).contains(&slow.queue_bytes), "{slow:?}");
        assert!(speed > 80_000, "{speed}");
        let (fast, speed) = settled(20, 1_000_000, 1);
        assert!((8 * MIB..32 * MIB).contains(&fast.queue_bytes), "{fast:?}");
        assert!(speed > 700_000, "{speed}");
        let (patient, speed) = settled(100, 1_000_000, 10);
        assert!(patient.queue_bytes > 16 * MIB && speed > 400_000, "{speed} {patient:?}");
    }

    #[test]
    fn every_block_lets_somebody_in() {
        let mut pace = Pace::new(20);
        assert_eq!(pace.room_bytes(0), QUEUE_BYTES_MIN);
        assert_eq!(pace.room_bytes(100 * MIB), 0);
        let bufs = vec![Bytes::from_static(&[0; 4096])];
        pace.begin(1, &[DiskOp::Write { file: FileName::new("j"), pos: 0, bufs }], 0);
        pace.end(2, 1);
        assert_eq!(pace.room_bytes(100 * MIB), 0, "that was another job");
        pace.end(1, 1);
        assert_eq!(pace.room_bytes(100 * MIB), TURN_BYTES);
        assert_eq!(pace.room_bytes(100 * MIB), 0);
        assert_eq!(Pace::new(0).room_bytes(100 * MIB), u64::MAX);
    }
}
