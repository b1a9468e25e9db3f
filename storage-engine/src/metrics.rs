//! The metrics of this crate. What each means stands in the constant, and `docs/metrics.md` is made from it.
#![allow(missing_docs, reason = "each constant says what it means")]

use levada_protocol::metric::Metric;

pub const JOURNAL_WRITE_SECONDS: Metric = Metric::histogram("levada_journal_write_seconds", "seconds")
    .means("one write to the journal, without its sync")
    .when_high("as for `levada_journal_sync_seconds`");
pub const JOURNAL_SYNC_SECONDS: Metric = Metric::histogram("levada_journal_sync_seconds", "seconds")
    .means("one fdatasync of the journal; every acknowledgement waits for one")
    .when_high(
        "the disk is slow, or shared: `levada doctor --data-dir DIR` measures it beside Levada. Take others off it, or \
         move leaders away with `levada cluster move-leader`",
    );
pub const JOURNAL_BLOCK_BYTES: Metric = Metric::histogram("levada_journal_block_bytes", "bytes")
    .means("one block of the journal, which is one group commit")
    .when_high("nothing: large blocks are what a busy node writes");
pub const SEGMENT_WRITE_SECONDS: Metric = Metric::histogram("levada_segment_write_seconds", "seconds")
    .means("one write to a segment; nobody waits for it, unless it falls far behind")
    .when_high("the disk does not keep up: see whether `levada_tail_bytes` or `levada_backlog_bytes` grows");
pub const SEGMENT_SYNC_SECONDS: Metric = Metric::histogram("levada_segment_sync_seconds", "seconds")
    .means("one fdatasync of a segment or of a checkpoint; journal files are used again after it")
    .when_high("as for `levada_segment_write_seconds`");

/// All metrics of this crate.
pub const ALL: &[Metric] =
    &[JOURNAL_WRITE_SECONDS, JOURNAL_SYNC_SECONDS, JOURNAL_BLOCK_BYTES, SEGMENT_WRITE_SECONDS, SEGMENT_SYNC_SECONDS];
