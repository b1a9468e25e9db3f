//! The metrics of this crate, by name. The operator's guide is made from these constants.

/// Histogram, seconds: one write to the journal, without its sync.
pub const JOURNAL_WRITE_SECONDS: &str = "levada_journal_write_seconds";
/// Histogram, seconds: one `fdatasync` of the journal; every acknowledgement waits for one.
pub const JOURNAL_SYNC_SECONDS: &str = "levada_journal_sync_seconds";
/// Histogram, bytes: one block of the journal, which is one group commit.
pub const JOURNAL_BLOCK_BYTES: &str = "levada_journal_block_bytes";
/// Histogram, seconds: one write to a segment; nobody waits for it, unless it falls far behind.
pub const SEGMENT_WRITE_SECONDS: &str = "levada_segment_write_seconds";
/// Histogram, seconds: one `fdatasync` of a segment or of a checkpoint; journal files are used again after it.
pub const SEGMENT_SYNC_SECONDS: &str = "levada_segment_sync_seconds";

/// Tells the installed recorder what the metrics mean.
pub fn describe() {
    use metrics::{Unit, describe_histogram};
    describe_histogram!(JOURNAL_WRITE_SECONDS, Unit::Seconds, "One write to the journal, without its sync");
    describe_histogram!(JOURNAL_SYNC_SECONDS, Unit::Seconds, "One fdatasync of the journal; acks wait for it");
    describe_histogram!(JOURNAL_BLOCK_BYTES, Unit::Bytes, "One block of the journal (a group commit)");
    describe_histogram!(SEGMENT_WRITE_SECONDS, Unit::Seconds, "One write to a segment; no ack waits for it");
    describe_histogram!(SEGMENT_SYNC_SECONDS, Unit::Seconds, "One fdatasync of a segment or a checkpoint");
}
