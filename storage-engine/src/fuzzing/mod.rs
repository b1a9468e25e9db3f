//! Doors for fuzzers: one function for each decoder, which takes any bytes and panics where the decoder breaks its word.
//!
//! `fuzz/` calls them, with bytes that a fuzzer makes up and with those that it once found interesting. What a checksum
//! guards is decoded twice: as it is, and with the checksum put right, as a fuzzer does not guess one.

#![allow(clippy::unwrap_used, reason = "a panic is the answer")]

mod reading;
pub mod seeds;
mod segments;

use crate::{
    checkpoint::Checkpoint,
    identity::DirIdentity,
    segment::index::{IndexFrame, decode_points},
    store::Snapshot,
    volumes::Owner,
};

pub use reading::read_segment;
pub use segments::segment;

/// A block of the journal.
pub fn journal(bytes: &[u8]) {
    crate::journal::fuzzing::block(bytes);
}

/// An index frame's payload, and a directory of them.
pub fn index(bytes: &[u8]) {
    if let Ok(frame) = IndexFrame::decode(bytes) {
        assert_eq!(frame.encode(), bytes);
    }
    if let Ok(points) = decode_points(bytes) {
        let mut again = Vec::new();
        points.iter().for_each(|point| point.encode(&mut again));
        assert_eq!(again, bytes);
    }
}

/// A checkpoint.
pub fn checkpoint(bytes: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok(checkpoint) = Checkpoint::decode(bytes) {
            let again = checkpoint.encode();
            assert_eq!(Checkpoint::decode(&again).unwrap(), checkpoint);
        }
    };
    check(bytes);
    // The fuzzer's bytes are the format and the body.
    let Some((format, body)) = bytes.split_first() else { return };
    let mut whole = [b"LVDACKP", &[1 + format % 3][..], &(body.len() as u64).to_le_bytes(), body].concat();
    whole.extend_from_slice(&crc32fast::hash(&whole).to_le_bytes());
    check(&whole);
}

/// The file that says whose a data directory is.
pub fn identity(bytes: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok((identity, journal)) = DirIdentity::decode(bytes) {
            assert_eq!(identity.encode(journal), bytes[..68]);
        }
    };
    check(bytes);
    let mut sealed = bytes.to_vec();
    if let Some((front, crc)) = sealed.get_mut(..68).and_then(<[u8]>::split_last_chunk_mut) {
        *crc = crc32fast::hash(front).to_le_bytes();
        check(&sealed);
    }
}

/// The file that says whose a directory for segments is.
pub fn owner(bytes: &[u8]) {
    let check = |bytes: &[u8]| {
        if let Ok((owner, start)) = Owner::decode(bytes) {
            assert_eq!(owner.encode(start), bytes[..44]);
        }
    };
    check(bytes);
    let mut sealed = bytes.to_vec();
    if let Some((front, crc)) = sealed.get_mut(..44).and_then(<[u8]>::split_last_chunk_mut) {
        *crc = crc32fast::hash(front).to_le_bytes();
        check(&sealed);
    }
}

/// Where a group stands, as another node says it, and the files of the segments that it names.
pub fn snapshot(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::decode(bytes) else { return };
    assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
    let _ = (snapshot.next_offset(), snapshot.first_index());
    for segment in snapshot.segments() {
        let mut check = segment.check();
        if check.update(bytes).is_ok() {
            let _ = check.finish();
        }
    }
}
