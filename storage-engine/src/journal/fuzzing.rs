//! The journal's door for fuzzers, and where they begin.

#![allow(clippy::unwrap_used, reason = "a panic is the answer")]

use std::ops::Range;

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Lsn, Term};

use super::{
    JournalId,
    format::{BlockHeader, BlockId, FIXED_BYTES, FRAME_HEADER_BYTES, Table, TableEntry, encode, peek},
};
use crate::entry::{Entry, EntryKind, HardState};

const JOURNAL: JournalId = JournalId::from_bytes(*b"the journal's id");
const HEADER_CRC: Range<usize> = 0..4;
const HEADER_LENGTH: Range<usize> = 12..16;
const FRAMES: Range<usize> = 72..76;
const FRAMES_BYTES: Range<usize> = 76..80;
const FRAMES_CRC: Range<usize> = 80..84;

/// One block, as it is and with its lengths and checksums put right.
pub(crate) fn block(bytes: &[u8]) {
    check(bytes);
    if let Some(sealed) = sealed(bytes) {
        check(&sealed);
    }
}

fn check(bytes: &[u8]) {
    let Some(length) = peek(bytes, JOURNAL) else { return };
    let Some(Ok(header)) = bytes.get(..length).map(BlockHeader::decode) else { return };
    assert!(header.block_bytes() >= header.header_bytes() && header.padded_bytes() >= header.block_bytes() as u64);
    let Some(frames) = bytes.get(header.header_bytes()..header.block_bytes()) else { return };
    let Some(entries) = header.decode_frames(Bytes::copy_from_slice(frames)) else { return };
    let payloads: usize = entries.iter().map(|(_, entry)| entry.payload.len()).sum();
    assert_eq!(payloads + entries.len() * FRAME_HEADER_BYTES, frames.len());
    let again = Bytes::from(encode(&header.id, &header.table, &entries).concat());
    let length = peek(&again, JOURNAL).unwrap();
    let decoded = BlockHeader::decode(&again[..length]).unwrap();
    assert_eq!((&decoded.id, &decoded.table), (&header.id, &header.table));
    let frames = again.slice(decoded.header_bytes()..decoded.block_bytes());
    assert_eq!(decoded.decode_frames(frames).unwrap(), entries);
    assert_eq!(again.len() as u64, header.padded_bytes());
}

fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut block = bytes.to_vec();
    block.get_mut(4..12)?.copy_from_slice(b"LVJB\x01\0\0\0");
    block.get_mut(16..32)?.copy_from_slice(&JOURNAL.to_bytes());
    let header_bytes = number(&block, HEADER_LENGTH)?;
    if !(FIXED_BYTES..=block.len()).contains(&header_bytes) {
        return None;
    }
    let (mut at, mut frames, mut headers) = (header_bytes, 0, crc32fast::Hasher::new());
    while let Some(frame) = block.get_mut(at..).filter(|frame| frame.len() >= FRAME_HEADER_BYTES) {
        let payload = number(frame, 4..8)? % (frame.len() - FRAME_HEADER_BYTES + 1);
        put(frame, 4..8, payload);
        let frame = &mut frame[..FRAME_HEADER_BYTES + payload];
        let crc = crc32fast::hash(&frame[4..]) as usize;
        // The frame's reserved bytes are not covered twice: header and payload lie together.
        put(frame, 0..4, crc);
        headers.update(&frame[..FRAME_HEADER_BYTES]);
        at += frame.len();
        frames += 1;
    }
    block.truncate(at);
    put(&mut block, FRAMES, frames);
    put(&mut block, FRAMES_BYTES, at - header_bytes);
    put(&mut block, FRAMES_CRC, headers.finalize() as usize);
    let crc = crc32fast::hash(&block[4..header_bytes]) as usize;
    put(&mut block, HEADER_CRC, crc);
    Some(block)
}

fn number(bytes: &[u8], at: Range<usize>) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at)?.try_into().ok()?) as usize)
}

fn put(bytes: &mut [u8], at: Range<usize>, number: usize) {
    bytes[at].copy_from_slice(&u32::try_from(number).unwrap().to_le_bytes());
}

/// Blocks as the writer makes them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let id = BlockId {
        journal: JOURNAL,
        generation: 7,
        lsn: Lsn(0x29),
        synced_lsn: Lsn(0x28),
        first_lsn: Lsn(0x21),
        file: 3,
        page: 5,
        file_pages: 64,
    };
    let entry = |index, kind, payload: &'static [u8]| Entry {
        index: LogIndex(index),
        term: Term(9),
        kind,
        payload: Bytes::from_static(payload),
    };
    let frames = [
        (GroupId(7), entry(100, EntryKind::Batches, b"payload")),
        (GroupId(7), entry(101, EntryKind::Empty, b"")),
        (GroupId(8), entry(5, EntryKind::Command, b"a command")),
        (GroupId(8), entry(6, EntryKind::ConfChange, b"another membership")),
    ];
    let hard_state = HardState { term: Term(9), vote: 2, commit: LogIndex(99) };
    let covered = |first, last| Some((LogIndex(first), LogIndex(last)));
    let table = Table::from([
        (GroupId(7), TableEntry { indexes: covered(100, 101), hard_state: None }),
        (GroupId(8), TableEntry { indexes: covered(5, 6), hard_state: Some(hard_state) }),
    ]);
    let only_states = Table::from([(GroupId(8), TableEntry { indexes: None, hard_state: Some(hard_state) })]);
    let blocks = [encode(&id, &table, &frames), encode(&id, &only_states, &[]), encode(&id, &table, &frames[..1])];
    let unpadded = |block: Vec<Bytes>| {
        let block = block.concat();
        let end = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        block[..end].to_vec()
    };
    blocks.into_iter().map(unpadded).collect()
}
