//! What storage derives from an entry: which offsets it occupies, and its batches' statistics.

use levada_protocol::{
    batch::{BatchError, BatchIter},
    ids::{LogIndex, Offset},
    limits::ENTRY_BYTES_MAX,
};

use crate::{
    entry::{Entry, EntryKind},
    error::AppendError,
};

/// An entry in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The offset that follows the entry.
    pub(crate) next_offset: Offset,
    /// How many offsets it occupies.
    pub(crate) offset_span: u32,
    /// The highest of its batches' timestamps; `i64::MIN` without batches.
    pub(crate) max_timestamp_ms: i64,
    /// Records.
    pub(crate) records: u32,
}

impl Summary {
    /// Of an entry that follows `offset`.
    ///
    /// # Errors
    /// If it is too large, does not hold the batches that its kind says, or they do not continue `offset`.
    pub(crate) fn of(entry: &Entry, offset: Offset) -> Result<Self, AppendError> {
        let bytes = entry.payload.len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(AppendError::TooLarge { index: entry.index, bytes, max: ENTRY_BYTES_MAX });
        }
        Self::of_payload(entry.index, entry.kind, &entry.payload, offset)
    }

    /// Of a payload whose size was checked.
    pub(crate) fn of_payload(
        index: LogIndex,
        kind: EntryKind,
        payload: &[u8],
        offset: Offset,
    ) -> Result<Self, AppendError> {
        let mut summary = Self { next_offset: offset, offset_span: 0, max_timestamp_ms: i64::MIN, records: 0 };
        if kind != EntryKind::Batches {
            return Ok(summary);
        }
        for batch in BatchIter::packed(payload) {
            let header = batch.map_err(|cause| AppendError::Malformed { index, cause })?.header;
            if header.base_offset != summary.next_offset {
                let (expected, found) = (summary.next_offset, header.base_offset);
                return Err(AppendError::Offsets { index, expected, found });
            }
            summary.next_offset = header.next_offset();
            summary.max_timestamp_ms = summary.max_timestamp_ms.max(header.max_timestamp_ms);
            summary.records = summary.records.saturating_add(header.record_count);
        }
        let span = summary.next_offset.get() - offset.get();
        summary.offset_span = u32::try_from(span).map_err(|_| {
            let cause = BatchError::Field { field: "offset span", value: i64::try_from(span).unwrap_or(i64::MAX) };
            AppendError::Malformed { index, cause }
        })?;
        Ok(summary)
    }
}

/// The offset behind the last record of an entry, whatever is before it; `None` if it has no records.
pub(crate) fn end_of(entry: &Entry) -> Option<Offset> {
    let batches = (entry.kind == EntryKind::Batches).then(|| BatchIter::packed(&entry.payload));
    batches?.map_while(Result::ok).map(|batch| batch.header.next_offset()).last()
}
