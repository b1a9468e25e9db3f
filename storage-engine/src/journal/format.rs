//! The bytes of a block. All integers are little-endian.
//!
//! ```text
//! block     header | table entry * groups | (frame header | payload) * frames | zeros up to a multiple of 4 KiB
//!
//! header    0 crc        u32   CRC-32 (IEEE) of bytes 4 to `length`
//!           4 magic      "LVJB"
//!           8 version    u16   1
//!          10 reserved   u16   0
//!          12 length     u32   of the header with its table: 96 + 56 * groups
//!          16 journal    16    the directory's secret, see `JournalId`
//!          32 generation u64   which use of the file; rises over all files of the directory
//!          40 lsn        u64   this block
//!          48 synced_lsn u64   every block up to this one was durable when this one was written
//!          56 first_lsn  u64   the first block of this generation, at position 0 of the file
//!          64 file       u32   the file's number
//!          68 page       u32   position in the file / 4096
//!          72 frames     u32   number of frames
//!          76 bytes      u32   length of all frames
//!          80 crc        u32   CRC-32 of all frame headers: ties the frames to this block
//!          84 file pages u32   length of the file / 4096, so that one that is cut is known; 0: an earlier build wrote it
//!          88 reserved   8     0
//!
//! table     0 group      u64
//! entry     8 first      u64   lowest index of the group's entries in this block; 0 without entries
//!          16 last       u64   highest index; 0 without entries
//!          24 flags      u32   bit 0: the hard state is valid
//!          28 reserved   u32   0
//!          32 term, vote, commit  3 × u64
//!
//! frame     0 crc        u32   CRC-32 of bytes 4..40 and the payload
//! header    4 length     u32   of the payload
//!           8 group      u64
//!          16 index      u64
//!          24 term       u64
//!          32 kind       u8    as `EntryKind`
//!          33 reserved   7     0
//! ```
//!
//! The header is sound on its own: whose entries a block holds is known even when its frames are not. Every version
//! keeps the meaning of the first 32 bytes, so that one that is too new is told from one that is damaged.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use levada_protocol::{
    ids::{GroupId, LogIndex, Lsn, Term},
    limits::{ENTRY_BYTES_MAX, JOURNAL_BLOCK_ALIGN, JOURNAL_BLOCK_BYTES_MAX, JOURNAL_BLOCK_FRAMES_MAX},
};

use super::JournalId;
use crate::{
    entry::{Entry, EntryKind, HardState},
    planted::{self, Planted},
};

const MAGIC: &[u8; 4] = b"LVJB";
const VERSION: u16 = 1;
/// The header without its table.
pub(super) const FIXED_BYTES: usize = 96;
pub(super) const TABLE_ENTRY_BYTES: usize = 56;
pub(super) const FRAME_HEADER_BYTES: usize = 40;
/// A block stands on a multiple of this.
pub(crate) const PAGE_BYTES: usize = JOURNAL_BLOCK_ALIGN;

const HAS_HARD_STATE: u32 = 1;
static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

// Every length in a block fits its field.
const _: () = assert!(JOURNAL_BLOCK_BYTES_MAX < u32::MAX as usize);
const _: () =
    assert!(FIXED_BYTES + TABLE_ENTRY_BYTES + FRAME_HEADER_BYTES + ENTRY_BYTES_MAX <= JOURNAL_BLOCK_BYTES_MAX);

/// What a block holds of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// Lowest and highest index of its entries.
    pub(super) indexes: Option<(LogIndex, LogIndex)>,
    pub(super) hard_state: Option<HardState>,
}

impl TableEntry {
    pub(super) fn cover(&mut self, index: LogIndex) {
        let (first, last) = self.indexes.unwrap_or((index, index));
        self.indexes = Some((first.min(index), last.max(index)));
    }
}

pub(super) type Table = BTreeMap<GroupId, TableEntry>;

/// Where a block stands, in the directory and in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockId {
    pub(super) journal: JournalId,
    pub(super) generation: u64,
    pub(super) lsn: Lsn,
    pub(super) synced_lsn: Lsn,
    pub(super) first_lsn: Lsn,
    pub(super) file: u32,
    pub(super) page: u32,
    /// Of the whole file; 0: not known, an earlier build wrote the block.
    pub(super) file_pages: u32,
}

impl BlockId {
    pub(super) const fn pos(&self) -> u64 {
        self.page as u64 * PAGE_BYTES as u64
    }

    /// The length that the file had; 0: not known.
    pub(super) const fn file_bytes(&self) -> u64 {
        self.file_pages as u64 * PAGE_BYTES as u64
    }
}

/// A block's header as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) id: BlockId,
    pub(super) table: Table,
    header_bytes: u32,
    frames: u32,
    frames_bytes: u32,
    frames_crc: u32,
}

fn u32_len(len: usize) -> u32 {
    u32::try_from(len).expect("lengths in a block are bounded by limits")
}

fn usize_len(len: u32) -> usize {
    usize::try_from(len).expect("usize has at least 32 bits")
}

const fn header_bytes(groups: usize) -> usize {
    FIXED_BYTES + groups * TABLE_ENTRY_BYTES
}

/// The length of a block without its padding.
pub(super) const fn block_bytes(groups: usize, frames: usize, payload_bytes: usize) -> usize {
    header_bytes(groups) + frames * FRAME_HEADER_BYTES + payload_bytes
}

/// The buffers of a block, padded to whole pages. Payloads are shared, not copied.
pub(super) fn encode(id: &BlockId, table: &Table, frames: &[(GroupId, Entry)]) -> Vec<Bytes> {
    let payload_bytes: usize = frames.iter().map(|(_, entry)| entry.payload.len()).sum();
    let mut frame_headers = BytesMut::with_capacity(frames.len() * FRAME_HEADER_BYTES);
    for (group, entry) in frames {
        put_frame_header(&mut frame_headers, *group, entry);
    }
    let mut headers = BytesMut::with_capacity(header_bytes(table.len()) + frame_headers.len());
    headers.put_u32_le(0);
    headers.put_slice(MAGIC);
    headers.put_u16_le(VERSION);
    headers.put_u16_le(0);
    headers.put_u32_le(u32_len(header_bytes(table.len())));
    headers.put_slice(&id.journal.to_bytes());
    headers.put_u64_le(id.generation);
    headers.put_u64_le(id.lsn.get());
    headers.put_u64_le(id.synced_lsn.get());
    headers.put_u64_le(id.first_lsn.get());
    headers.put_u32_le(id.file);
    headers.put_u32_le(id.page);
    headers.put_u32_le(u32_len(frames.len()));
    headers.put_u32_le(u32_len(frame_headers.len() + payload_bytes));
    headers.put_u32_le(crc32fast::hash(&frame_headers));
    headers.put_u32_le(id.file_pages);
    headers.put_bytes(0, 8);
    for (group, entry) in table {
        put_table_entry(&mut headers, *group, entry);
    }
    if let Some((crc, rest)) = headers.split_first_chunk_mut::<4>() {
        *crc = crc32fast::hash(rest).to_le_bytes();
    }
    headers.put_slice(&frame_headers);

    let mut headers = headers.freeze();
    let mut bufs = Vec::with_capacity(2 * frames.len() + 2);
    let mut held = header_bytes(table.len());
    for (_, entry) in frames {
        held += FRAME_HEADER_BYTES;
        if !entry.payload.is_empty() {
            bufs.push(headers.split_to(held));
            bufs.push(entry.payload.clone());
            held = 0;
        }
    }
    if held > 0 {
        bufs.push(headers);
    }
    let unpadded = block_bytes(table.len(), frames.len(), payload_bytes);
    let padding = unpadded.next_multiple_of(PAGE_BYTES) - unpadded;
    if padding > 0 {
        bufs.push(Bytes::from_static(&ZEROS).slice(..padding));
    }
    bufs
}

fn put_table_entry(out: &mut BytesMut, group: GroupId, entry: &TableEntry) {
    let (first, last) = entry.indexes.unwrap_or_default();
    let hard_state = entry.hard_state.unwrap_or_default();
    out.put_u64_le(group.get());
    out.put_u64_le(first.get());
    out.put_u64_le(last.get());
    out.put_u32_le(if entry.hard_state.is_some() { HAS_HARD_STATE } else { 0 });
    out.put_u32_le(0);
    out.put_u64_le(hard_state.term.get());
    out.put_u64_le(hard_state.vote);
    out.put_u64_le(hard_state.commit.get());
}

fn put_frame_header(out: &mut BytesMut, group: GroupId, entry: &Entry) {
    let mut fields = [0_u8; FRAME_HEADER_BYTES - 4];
    let mut cursor = fields.as_mut_slice();
    cursor.put_u32_le(u32_len(entry.payload.len()));
    cursor.put_u64_le(group.get());
    cursor.put_u64_le(entry.index.get());
    cursor.put_u64_le(entry.term.get());
    cursor.put_u8(entry.kind as u8);
    out.put_u32_le(frame_crc(&fields, &entry.payload));
    out.put_slice(&fields);
}

fn frame_crc(fields: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(fields);
    crc.update(payload);
    crc.finalize()
}

/// The length of the header that may begin here, from the first bytes of a page, before anything is read or allocated on
/// its word.
pub(super) fn peek(mut page: &[u8], journal: JournalId) -> Option<usize> {
    let _crc = page.try_get_u32_le().ok()?;
    let mut magic = [0; 4];
    page.try_copy_to_slice(&mut magic).ok()?;
    let _version = page.try_get_u32_le().ok()?;
    let len = usize_len(page.try_get_u32_le().ok()?);
    let mut id = [0; 16];
    page.try_copy_to_slice(&mut id).ok()?;
    let plausible = (FIXED_BYTES..=header_bytes(JOURNAL_BLOCK_FRAMES_MAX)).contains(&len);
    (magic == *MAGIC && id == journal.to_bytes() && plausible).then_some(len)
}

/// Why a header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It is not, or not any more, one of ours.
    Unsound,
    /// It is sound, and of a later version.
    Later(u16),
}

impl BlockHeader {
    /// From exactly the bytes that [`peek`] asked for.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (crc, mut fields) = bytes.split_first_chunk::<4>().ok_or(HeaderError::Unsound)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(fields) {
            return Err(HeaderError::Unsound);
        }
        fields = fields.get(MAGIC.len()..).unwrap_or_default();
        match fields.try_get_u16_le() {
            Ok(VERSION) => Self::decode_fields(fields).ok_or(HeaderError::Unsound),
            Ok(version) if version > VERSION => Err(HeaderError::Later(version)),
            _ => Err(HeaderError::Unsound),
        }
    }

    fn decode_fields(mut fields: &[u8]) -> Option<Self> {
        let _reserved = fields.try_get_u16_le().ok()?;
        let header_bytes = fields.try_get_u32_le().ok()?;
        let mut journal = [0; 16];
        fields.try_copy_to_slice(&mut journal).ok()?;
        let mut id = BlockId {
            journal: JournalId::from_bytes(journal),
            generation: fields.try_get_u64_le().ok()?,
            lsn: Lsn(fields.try_get_u64_le().ok()?),
            synced_lsn: Lsn(fields.try_get_u64_le().ok()?),
            first_lsn: Lsn(fields.try_get_u64_le().ok()?),
            file: fields.try_get_u32_le().ok()?,
            page: fields.try_get_u32_le().ok()?,
            file_pages: 0,
        };
        let frames = fields.try_get_u32_le().ok()?;
        let frames_bytes = fields.try_get_u32_le().ok()?;
        let frames_crc = fields.try_get_u32_le().ok()?;
        id.file_pages = fields.try_get_u32_le().ok()?;
        fields.advance(8.min(fields.len()));
        let mut table = Table::new();
        while !fields.is_empty() {
            let (group, entry) = get_table_entry(&mut fields)?;
            table.insert(group, entry);
        }
        let sane = self::header_bytes(table.len()) == usize_len(header_bytes)
            && usize_len(frames) <= JOURNAL_BLOCK_FRAMES_MAX
            && usize_len(header_bytes) + usize_len(frames_bytes) <= JOURNAL_BLOCK_BYTES_MAX
            && id.first_lsn <= id.lsn
            && id.synced_lsn < id.lsn;
        sane.then_some(Self { id, table, header_bytes, frames, frames_bytes, frames_crc })
    }

    /// Where the frames begin within the block.
    pub(super) fn header_bytes(&self) -> usize {
        usize_len(self.header_bytes)
    }

    /// Frees the memory of the table, for when only the rest is of interest.
    pub(super) fn forget_table(&mut self) {
        self.table = Table::new();
    }

    /// The block's length without its padding.
    pub(super) fn block_bytes(&self) -> usize {
        self.header_bytes() + usize_len(self.frames_bytes)
    }

    /// The block's length in the file.
    pub(super) fn padded_bytes(&self) -> u64 {
        self.block_bytes().next_multiple_of(PAGE_BYTES) as u64
    }

    /// The entries, from exactly the bytes of the frames; `None` unless all of them are sound. Payloads are slices.
    pub(super) fn decode_frames(&self, mut bytes: Bytes) -> Option<Vec<(GroupId, Entry)>> {
        // No more frames than bytes for their headers: the count is bounded before anything is allocated for it.
        if bytes.len() != usize_len(self.frames_bytes) || bytes.len() / FRAME_HEADER_BYTES < usize_len(self.frames) {
            return None;
        }
        let mut entries = Vec::with_capacity(usize_len(self.frames));
        let mut headers = crc32fast::Hasher::new();
        for _ in 0..self.frames {
            headers.update(bytes.get(..FRAME_HEADER_BYTES)?);
            entries.push(get_frame(&mut bytes)?);
        }
        (bytes.is_empty() && headers.finalize() == self.frames_crc).then_some(entries)
    }
}

fn get_table_entry(bytes: &mut &[u8]) -> Option<(GroupId, TableEntry)> {
    let group = GroupId(bytes.try_get_u64_le().ok()?);
    let first = LogIndex(bytes.try_get_u64_le().ok()?);
    let last = LogIndex(bytes.try_get_u64_le().ok()?);
    let flags = bytes.try_get_u32_le().ok()?;
    let _reserved = bytes.try_get_u32_le().ok()?;
    let hard_state = HardState {
        term: Term(bytes.try_get_u64_le().ok()?),
        vote: bytes.try_get_u64_le().ok()?,
        commit: LogIndex(bytes.try_get_u64_le().ok()?),
    };
    let indexes = (last.get() > 0).then_some((first, last));
    let hard_state = (flags & HAS_HARD_STATE != 0).then_some(hard_state);
    Some((group, TableEntry { indexes, hard_state }))
}

fn get_frame(bytes: &mut Bytes) -> Option<(GroupId, Entry)> {
    let crc = bytes.try_get_u32_le().ok()?;
    let fields: [u8; FRAME_HEADER_BYTES - 4] = *bytes.first_chunk()?;
    let len = usize_len(bytes.try_get_u32_le().ok()?);
    let group = GroupId(bytes.try_get_u64_le().ok()?);
    let index = LogIndex(bytes.try_get_u64_le().ok()?);
    let term = Term(bytes.try_get_u64_le().ok()?);
    let kind = EntryKind::from_u8(bytes.try_get_u8().ok()?);
    bytes.advance(7);
    if len > bytes.len() {
        return None;
    }
    let payload = bytes.split_to(len);
    let entry = Entry { index, term, kind: kind?, payload };
    (planted::is(Planted::FramesUnchecked) || frame_crc(&fields, &entry.payload) == crc).then_some((group, entry))
}

#[cfg(test)]
mod tests;
