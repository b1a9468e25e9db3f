use proptest::{collection::vec, option, prelude::*};

use super::*;

fn id() -> BlockId {
    BlockId {
        journal: JournalId::from_bytes(*b"0123456789abcdef"),
        generation: 0x1112_1314_1516_1718,
        lsn: Lsn(0x29),
        synced_lsn: Lsn(0x28),
        first_lsn: Lsn(0x21),
        file: 3,
        page: 5,
        file_pages: 16_384,
    }
}

fn entry(index: u64, term: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
    Entry { index: LogIndex(index), term: Term(term), kind, payload: Bytes::from_static(payload) }
}

fn sample() -> (Table, Vec<(GroupId, Entry)>) {
    let frames = vec![
        (GroupId(7), entry(100, 9, EntryKind::Batches, b"payload")),
        (GroupId(7), entry(101, 9, EntryKind::Empty, b"")),
    ];
    let hard_state = HardState { term: Term(9), vote: 2, commit: LogIndex(99) };
    let table = Table::from([
        (GroupId(7), TableEntry { indexes: Some((LogIndex(100), LogIndex(101))), hard_state: None }),
        (GroupId(8), TableEntry { indexes: None, hard_state: Some(hard_state) }),
    ]);
    (table, frames)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// These bytes stand on disks. Whoever changes them needs a new version and a reader for this one.
#[test]
fn the_bytes_of_a_block_are_pinned() {
    let (table, frames) = sample();
    let block = encode(&id(), &table, &frames).concat();
    assert_eq!(block.len(), PAGE_BYTES);
    let header = "a9146b334c564a4201000000d0000000\
        30313233343536373839616263646566\
        1817161514131211290000000000000028000000000000002100000000000000\
        03000000050000000200000057000000d10e2b4c004000000000000000000000";
    let table = "0700000000000000640000000000000065000000000000000000000000000000\
        000000000000000000000000000000000000000000000000\
        0800000000000000000000000000000000000000000000000100000000000000\
        090000000000000002000000000000006300000000000000";
    let frames = "1919370a07000000070000000000000064000000000000000900000000000000010000000000000\
        07061796c6f6164\
        2951713f0000000007000000000000006500000000000000090000000000000000000000000000\
        00";
    let expected = [header, table, frames].concat();
    assert_eq!(hex(&block[..expected.len() / 2]), expected);
    assert!(block[expected.len() / 2..].iter().all(|byte| *byte == 0));
}

#[test]
fn payloads_are_not_copied() {
    let (table, mut frames) = sample();
    let payload = Bytes::from(vec![7; 1000]);
    frames[0].1.payload = payload.clone();
    let bufs = encode(&id(), &table, &frames);
    assert!(bufs.iter().any(|buf| buf.as_ptr() == payload.as_ptr() && buf.len() == payload.len()));
    assert_eq!(bufs.len(), 4, "headers, payload, header of the empty frame, padding");
}

fn decode(block: &[u8]) -> Option<(BlockHeader, Vec<(GroupId, Entry)>)> {
    let header = BlockHeader::decode(block.get(..peek(block, id().journal)?)?).ok()?;
    let frames = block.get(header.header_bytes()..header.block_bytes())?;
    let frames = header.decode_frames(Bytes::copy_from_slice(frames))?;
    Some((header, frames))
}

#[test]
fn every_flipped_bit_is_noticed_or_in_the_padding() {
    let (table, frames) = sample();
    let block = encode(&id(), &table, &frames).concat();
    let len = decode(&block).unwrap().0.block_bytes();
    for bit in 0..block.len() * 8 {
        let mut flipped = block.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&flipped).is_none(), bit / 8 < len, "bit {bit}");
    }
}

/// A file of 64 KiB as it fills up: blocks of a page and of several, with and without entries, up to its last page.
fn file_of_64_kib() -> Vec<u8> {
    let mut file = Vec::new();
    for payload_bytes in [10, 3_500, 0, 7_700, 4_000, 150, 15_900, 1, 11_900] {
        let lsn = Lsn(41 + file.len() as u64);
        let page = u32::try_from(file.len() / PAGE_BYTES).unwrap();
        let block = BlockId { lsn, synced_lsn: Lsn(lsn.get() - 1), page, file_pages: 16, ..id() };
        let (mut table, mut frames) = sample();
        frames[0].1.payload = Bytes::from(vec![0xA5; payload_bytes]);
        if payload_bytes == 0 {
            frames.clear();
            table.remove(&GroupId(7));
        }
        file.extend(encode(&block, &table, &frames).concat());
    }
    assert_eq!(file.len(), 64 << 10);
    file
}

#[test]
fn every_flipped_bit_of_a_file_of_64_kib_is_noticed_or_in_the_padding() {
    let mut file = file_of_64_kib();
    let (mut at, mut noticed, mut padding) = (0, 0, 0);
    while at < file.len() {
        let sound = decode(&file[at..]).expect("the next block");
        let (len, next) = (sound.0.block_bytes(), at + usize::try_from(sound.0.padded_bytes()).unwrap());
        for bit in 0..8 * (next - at) {
            file[at + bit / 8] ^= 1 << (bit % 8);
            if bit / 8 < len {
                assert!(decode(&file[at..next]).is_none(), "bit {bit} of the block at {at}");
                noticed += 1;
            } else {
                padding += 1;
            }
            file[at + bit / 8] ^= 1 << (bit % 8);
        }
        // Of the padding nothing is read: whatever stands there, the block is the same.
        file[at + len..next].fill(0xFF);
        assert_eq!(decode(&file[at..next]), Some(sound), "the padding of the block at {at}");
        at = next;
    }
    assert_eq!(noticed + padding, 8 * (64 << 10));
    assert!(padding < noticed / 2, "{noticed} bits in blocks, {padding} behind them");
}

#[test]
fn frames_of_another_time_do_not_pass_under_a_new_header() {
    let (table, frames) = sample();
    let mut other = frames.clone();
    other[0].1.payload = Bytes::from_static(b"PAYLOAD");
    let new = encode(&id(), &table, &frames).concat();
    let mut mixed = encode(&id(), &table, &other).concat();
    let header = header_bytes(table.len());
    mixed[..header].copy_from_slice(&new[..header]);
    assert_eq!(decode(&mixed), None);
}

#[test]
fn other_directories_and_later_versions_are_told_apart() {
    let (table, frames) = sample();
    let mut block = encode(&id(), &table, &frames).concat();
    assert_eq!(peek(&block, JournalId::from_bytes([0; 16])), None);
    assert_eq!(peek(&[], id().journal), None);
    let len = peek(&block, id().journal).unwrap();
    block[8] = 2;
    assert_eq!(BlockHeader::decode(&block[..len]), Err(HeaderError::Unsound), "a flipped bit is no later version");
    let crc = crc32fast::hash(&block[4..len]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(BlockHeader::decode(&block[..len]), Err(HeaderError::Later(2)));
}

fn any_frames() -> impl Strategy<Value = Vec<(GroupId, Entry)>> {
    let frame = (0..5_u64, any::<u64>(), any::<u64>(), 0..4_u8, vec(any::<u8>(), 0..300));
    let frame = frame.prop_map(|(group, index, term, kind, payload)| {
        let kind = EntryKind::from_u8(kind).unwrap();
        (GroupId(group), Entry { index: LogIndex(index.max(1)), term: Term(term), kind, payload: payload.into() })
    });
    vec(frame, 0..20)
}

fn any_hard_states() -> impl Strategy<Value = Vec<(u64, HardState)>> {
    let hard_state = (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, vote, commit)| HardState {
        term: Term(term),
        vote,
        commit: LogIndex(commit),
    });
    vec((0..10_u64, hard_state), 0..10)
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frames in any_frames(), hard_states in any_hard_states()) {
        let mut table = Table::new();
        for (group, entry) in &frames {
            table.entry(*group).or_default().cover(entry.index);
        }
        for (group, hard_state) in hard_states {
            table.entry(GroupId(group)).or_default().hard_state = Some(hard_state);
        }
        let block = encode(&id(), &table, &frames).concat();
        let (header, decoded) = decode(&block).unwrap();
        prop_assert_eq!(header.id, id());
        prop_assert_eq!(header.padded_bytes(), block.len() as u64);
        prop_assert_eq!(header.table, table);
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn arbitrary_bytes_are_refused_and_nothing_panics(
        mut bytes in vec(any::<u8>(), 0..600), len in option::of(0..1000_u32), seal in any::<bool>(),
    ) {
        // Made to look like a block as far as a stranger can.
        for (at, field) in [(4, MAGIC.to_vec()), (8, vec![1, 0]), (16, id().journal.to_bytes().to_vec())] {
            if let Some(slot) = bytes.get_mut(at..at + field.len()) {
                slot.copy_from_slice(&field);
            }
        }
        if let (Some(len), Some(slot)) = (len, bytes.get_mut(12..16)) {
            slot.copy_from_slice(&len.to_le_bytes());
        }
        if seal && bytes.len() > 4 {
            let crc = crc32fast::hash(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = decode(&bytes);
        if let Ok(header) = BlockHeader::decode(&bytes) {
            let _ = header.decode_frames(Bytes::from(bytes));
        }
    }
}
