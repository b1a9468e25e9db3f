//! A segment: the file that holds a stretch of one group's committed entries, for good.
//!
//! **What stands in it.** One frame for every entry, in order and without gaps: batches, but also the empty entries,
//! commands and membership changes, so that raft can read its log back. Between them stand frames of the sparse index
//! (`index.rs`). A frame names its topic, partition, segment and index, and the CRC of the frame before, so that bytes
//! of another place or an earlier time are found out even when they are sound in themselves (`format.rs`). Frames start
//! at multiples of 64, and a frame's payload directly behind its 64 bytes of header, so a batch's columns are aligned in
//! a map.
//!
//! **What never happens.** A byte that was written never changes: only committed entries come here, and a committed
//! entry is final. So a reader needs no lock while it looks at a map; it needs to know only how far the file is written,
//! which [`reader::Segment`] says. And every replica has the same bytes, as leaders stamp entries before they are
//! replicated and segments roll at an entry that all replicas apply: generation, chain of CRCs and footer are equal
//! (given the same index interval).
//!
//! **How it is written** (`writer.rs`): appended behind the journal, never synced on its own. How far it can be trusted
//! after a crash is what the checkpoint says, a [`Mark`]: what stands behind it is written again from the journal, with
//! the same bytes. Sealing appends the footer (`footer.rs`) and syncs.
//!
//! **How it is read** (`reader.rs`, `cursor.rs`): through a map, with every checksum of what is served verified on every
//! read. What does not verify is [`crate::error::Damage`], and is never served. The index is only a hint where to start:
//! a frame is taken for what it says and proves itself, not for where the index found it.
//!
//! After a restart the index is loaded when it is first needed, by its readers or the writer: from the footer of a sealed
//! segment; else from the last index frame back, and forward over the frames behind it, at most
//! [`index::POINTS_PER_FRAME`] intervals. So opening a store reads no segment at all, and recovery is bounded by the
//! journal.

mod cursor;
pub(crate) mod footer;
pub(crate) mod format;
pub(crate) mod index;
pub(crate) mod reader;
pub(crate) mod writer;

pub(crate) use format::{DIRECTORY, file_name, parse_stem};
use format::{FIRST_FRAME, SegmentHeader};
use levada_protocol::ids::{LogIndex, Offset};

/// A place between two frames of a segment: where the next frame goes, and what it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// In the file.
    pub(crate) position: u64,
    /// The index of the next entry.
    pub(crate) index: LogIndex,
    /// The offset of the next record.
    pub(crate) offset: Offset,
    /// The CRC of the frame before.
    pub(crate) previous_crc: u32,
    /// CRC-32 of all bytes of the file up to here.
    pub(crate) checksum: u32,
    /// Where the last index frame stands; 0 for nowhere.
    pub(crate) index_frame: u64,
    /// The highest timestamp of the batches before; `i64::MIN` without batches.
    pub(crate) max_timestamp_ms: i64,
}

impl Mark {
    /// Behind the header of an empty segment.
    pub(crate) fn start(header: &SegmentHeader) -> Self {
        Self {
            position: FIRST_FRAME,
            index: header.first_index,
            offset: header.base_offset,
            previous_crc: header.previous_crc,
            checksum: header.crc(),
            index_frame: 0,
            max_timestamp_ms: i64::MIN,
        }
    }
}

#[cfg(test)]
mod tests;
