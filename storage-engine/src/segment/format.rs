//! The bytes of a segment file, all little-endian.
//!
//! ```text
//! file    +--------+-------+-------+- - -+-------+------------------+---------+
//!         | header | frame | frame |     | frame | frames of index  | trailer |
//!         +--------+-------+-------+- - -+-------+------------------+---------+
//!         0        64      every frame at a multiple of 64            ^ 64 bytes, see footer.rs
//!
//! header  0 magic "LVDASEG\x01" | 8 topic (16) | 24 partition u32 | 28 generation u32 | 32 group u64
//!         40 first index u64 | 48 base offset u64 | 56 previous crc u32 | 60 crc u32 of bytes 0..60
//!
//! frame   0 magic "LVDF" | 4 version u8 = 1 | 5 kind u8 | 6 zero u16 | 8 topic (16) | 24 partition u32
//!         28 generation u32 | 32 index u64 | 40 term u64 | 48 payload length u32 | 52 previous crc u32
//!         56 offset span u32 | 60 crc u32
//!         64 payload, then zeros up to the next multiple of 64
//! ```
//! A frame's CRC covers its bytes 0..60 and then, for batches, the first 21 bytes of every batch (what Kafka's own CRC
//! does not cover, and that CRC itself); for the other kinds, the whole payload. So each byte is checked once.

#![deny(clippy::indexing_slicing)]

use bytes::BufMut;
use levada_protocol::{
    batch::{BatchError, BatchIter, UNCRCED_BYTES},
    ids::{GroupId, LogIndex, Offset, PartitionId, Term, TopicId, TopicPartition},
    limits::{BATCH_ALIGN, ENTRY_BYTES_MAX},
};

use crate::{codec::Decoder, disk::FileName, entry::EntryKind, error::DamageCause};

/// Every frame starts at a multiple of this.
pub(crate) const ALIGN: u64 = BATCH_ALIGN as u64;
/// The length of the header of a file and of that of a frame.
pub(crate) const HEADER_BYTES: usize = 64;
/// Where the first frame starts.
pub(crate) const FIRST_FRAME: u64 = HEADER_BYTES as u64;
/// The directory that all segments stand in: one, so that one sync makes every new name durable.
pub(crate) const DIRECTORY: &str = "segments";

const SEGMENT_MAGIC: [u8; 8] = *b"LVDASEG\x01";
const FRAME_MAGIC: [u8; 4] = *b"LVDF";
const FRAME_VERSION: u8 = 1;
const KIND_INDEX: u8 = 0x80;
/// What stands before the CRC of either header.
const CRC_START: usize = HEADER_BYTES - 4;
const ZEROS: [u8; BATCH_ALIGN] = [0; BATCH_ALIGN];

const _: () = assert!(HEADER_BYTES.is_multiple_of(BATCH_ALIGN), "payloads must start at a multiple of 64");

/// The zeros behind `len` bytes of payload.
pub(crate) fn padding(len: usize) -> &'static [u8] {
    ZEROS.get(..len.next_multiple_of(BATCH_ALIGN) - len).unwrap_or_default()
}

/// What a frame takes in the file, from its header to the next frame.
pub(crate) const fn frame_bytes(payload_bytes: u64) -> u64 {
    HEADER_BYTES as u64 + payload_bytes.next_multiple_of(ALIGN)
}

/// Group and first index from the stem of a segment's name.
pub(crate) fn parse_stem(stem: &str) -> Option<(GroupId, LogIndex)> {
    let (group, first_index) = stem.split_once('-')?;
    let key = (GroupId(group.parse().ok()?), LogIndex(first_index.parse().ok()?));
    // A name of another form is not one of ours.
    (file_name(key.0, key.1).as_str() == format!("{DIRECTORY}/{stem}.seg")).then_some(key)
}

/// The name of the segment of `group` that starts at `first_index`.
pub(crate) fn file_name(group: GroupId, first_index: LogIndex) -> FileName {
    FileName::new(format!("{DIRECTORY}/{:020}-{:020}.seg", group.get(), first_index.get()))
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// A raft entry.
    Entry(EntryKind),
    /// Points of the sparse index; no entry, no offset.
    Index,
}

impl FrameKind {
    const fn to_u8(self) -> u8 {
        match self {
            Self::Entry(kind) => kind as u8,
            Self::Index => KIND_INDEX,
        }
    }

    fn from_u8(value: u8) -> Option<Self> {
        if value == KIND_INDEX { Some(Self::Index) } else { EntryKind::from_u8(value).map(Self::Entry) }
    }
}

/// Whose segment it is and where it stands in the group's log: the first bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) topic_partition: TopicPartition,
    /// The segment's number within its group, from 1: the same on every replica, as segments roll by raft entries.
    pub(crate) generation: u32,
    pub(crate) group: GroupId,
    pub(crate) first_index: LogIndex,
    pub(crate) base_offset: Offset,
    /// The CRC of the last frame of the segment before; 0 in the first.
    pub(crate) previous_crc: u32,
}

impl SegmentHeader {
    pub(crate) fn file(&self) -> FileName {
        file_name(self.group, self.first_index)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = fields(|out| {
            out.put_slice(&SEGMENT_MAGIC);
            put_place(out, self.topic_partition, self.generation);
            out.put_u64_le(self.group.get());
            out.put_u64_le(self.first_index.get());
            out.put_u64_le(self.base_offset.get());
            out.put_u32_le(self.previous_crc);
        });
        set_crc(&mut bytes, &[]);
        bytes
    }

    /// The CRC that it carries. (The CRC of all its bytes, this one among them, is the same number for every header.)
    pub(crate) fn crc(&self) -> u32 {
        let bytes = self.encode();
        bytes.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc))
    }

    /// Checks that `bytes` are this header.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), DamageCause> {
        let found = Self::decode(bytes)?;
        if *self == found {
            return Ok(());
        }
        Err(DamageCause::Foreign {
            field: "the segment header",
            expected: format!("{self:?}"),
            found: format!("{found:?}"),
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageCause> {
        const WHAT: &str = "the segment header";
        let short = || DamageCause::Short(WHAT);
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(short)?;
        let mut fields = Decoder::new(bytes);
        if fields.array() != Some(SEGMENT_MAGIC) {
            return Err(DamageCause::Magic("segment header"));
        }
        check_crc(WHAT, bytes, &[])?;
        let (topic_partition, generation) = place(&mut fields).ok_or_else(short)?;
        Ok(Self {
            topic_partition,
            generation,
            group: GroupId(fields.u64().ok_or_else(short)?),
            first_index: LogIndex(fields.u64().ok_or_else(short)?),
            base_offset: Offset(fields.u64().ok_or_else(short)?),
            previous_crc: fields.u32().ok_or_else(short)?,
        })
    }
}

/// The 64 bytes in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) topic_partition: TopicPartition,
    pub(crate) generation: u32,
    /// Of the entry; for an index frame, of the entry before.
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    pub(crate) payload_bytes: u32,
    /// The CRC of the frame before; in a segment's first frame, as its header says.
    pub(crate) previous_crc: u32,
    /// How many offsets the payload occupies.
    pub(crate) offset_span: u32,
    /// Set by [`FrameHeader::encode`].
    pub(crate) crc: u32,
}

impl FrameHeader {
    /// What the frame takes in the file.
    pub(crate) const fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes as u64)
    }

    /// The header's bytes; sets the CRC over them and what it covers of the payload.
    ///
    /// # Errors
    /// If a payload of batches does not hold batches.
    pub(crate) fn encode(&mut self, payload: &[u8]) -> Result<[u8; HEADER_BYTES], BatchError> {
        let mut bytes = fields(|out| {
            out.put_slice(&FRAME_MAGIC);
            out.put_u8(FRAME_VERSION);
            out.put_u8(self.kind.to_u8());
            out.put_u16_le(0);
            put_place(out, self.topic_partition, self.generation);
            out.put_u64_le(self.index.get());
            out.put_u64_le(self.term.get());
            out.put_u32_le(self.payload_bytes);
            out.put_u32_le(self.previous_crc);
            out.put_u32_le(self.offset_span);
        });
        self.crc = set_crc(&mut bytes, &covered(self.kind, payload)?);
        Ok(bytes)
    }

    /// Reads the header. The CRC is not checked: that takes the payload, see [`FrameHeader::verify`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageCause> {
        let short = || DamageCause::Short("a frame header");
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(short)?;
        let mut fields = Decoder::new(bytes);
        if fields.array() != Some(FRAME_MAGIC) {
            return Err(DamageCause::Magic("frame"));
        }
        let version = fields.u8().ok_or_else(short)?;
        if version != FRAME_VERSION {
            return Err(DamageCause::Version { what: "a frame", version });
        }
        let kind = fields.u8().ok_or_else(short)?;
        let kind =
            FrameKind::from_u8(kind).ok_or(DamageCause::Field { field: "a frame's kind", value: u64::from(kind) })?;
        let zero = fields.u16().ok_or_else(short)?;
        if zero != 0 {
            return Err(DamageCause::Field { field: "a frame's reserved field", value: u64::from(zero) });
        }
        let (topic_partition, generation) = place(&mut fields).ok_or_else(short)?;
        let header = Self {
            kind,
            topic_partition,
            generation,
            index: LogIndex(fields.u64().ok_or_else(short)?),
            term: Term(fields.u64().ok_or_else(short)?),
            payload_bytes: fields.u32().ok_or_else(short)?,
            previous_crc: fields.u32().ok_or_else(short)?,
            offset_span: fields.u32().ok_or_else(short)?,
            crc: fields.u32().ok_or_else(short)?,
        };
        if u64::from(header.payload_bytes) > ENTRY_BYTES_MAX as u64 {
            return Err(DamageCause::Field {
                field: "a frame's payload length",
                value: u64::from(header.payload_bytes),
            });
        }
        Ok(header)
    }

    /// Checks the CRC over the header's bytes and its payload. The batches' own CRCs are left to whoever serves them.
    pub(crate) fn verify(&self, bytes: &[u8; HEADER_BYTES], payload: &[u8]) -> Result<(), DamageCause> {
        check_crc("a frame", bytes, &covered(self.kind, payload)?)
    }
}

/// The parts of a payload that its frame's CRC covers.
fn covered(kind: FrameKind, payload: &[u8]) -> Result<Vec<&[u8]>, BatchError> {
    if kind == FrameKind::Entry(EntryKind::Batches) {
        BatchIter::packed(payload).map(|batch| Ok(batch?.bytes.get(..UNCRCED_BYTES).unwrap_or_default())).collect()
    } else {
        Ok(vec![payload])
    }
}

/// A header with the fields that `put` writes, and no CRC yet.
fn fields(put: impl FnOnce(&mut &mut [u8])) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let mut out = &mut bytes[..];
    put(&mut out);
    debug_assert_eq!(HEADER_BYTES - out.len(), CRC_START, "the fields fill the header but for its CRC");
    bytes
}

/// The CRC over the front of `header` and then `parts`, and the one that stands in the header.
fn crcs(header: &[u8; HEADER_BYTES], parts: &[&[u8]]) -> (u32, u32) {
    let (front, stored) = header.split_last_chunk().unwrap_or((header, &[0; 4]));
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(front);
    parts.iter().for_each(|part| hasher.update(part));
    (hasher.finalize(), u32::from_le_bytes(*stored))
}

fn set_crc(header: &mut [u8; HEADER_BYTES], parts: &[&[u8]]) -> u32 {
    let (crc, _) = crcs(header, parts);
    if let Some(place) = header.last_chunk_mut() {
        *place = crc.to_le_bytes();
    }
    crc
}

fn check_crc(what: &'static str, header: &[u8; HEADER_BYTES], parts: &[&[u8]]) -> Result<(), DamageCause> {
    let (computed, stored) = crcs(header, parts);
    if computed == stored { Ok(()) } else { Err(DamageCause::Checksum { what, stored, computed }) }
}

fn put_place(out: &mut &mut [u8], topic_partition: TopicPartition, generation: u32) {
    out.put_slice(&topic_partition.topic.to_bytes());
    out.put_u32_le(topic_partition.partition.get());
    out.put_u32_le(generation);
}

fn place(fields: &mut Decoder<'_>) -> Option<(TopicPartition, u32)> {
    let topic = TopicId::from_bytes(fields.array()?);
    let partition = PartitionId(fields.u32()?);
    Some((TopicPartition { topic, partition }, fields.u32()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TOPIC_PARTITION, batch};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn segment_header() -> SegmentHeader {
        SegmentHeader {
            topic_partition: TOPIC_PARTITION,
            generation: 3,
            group: GroupId(5),
            first_index: LogIndex(0x0102_0304_0506_0708),
            base_offset: Offset(9),
            previous_crc: 0xAABB_CCDD,
        }
    }

    fn frame(kind: EntryKind, payload: &[u8]) -> (FrameHeader, [u8; HEADER_BYTES]) {
        let mut header = FrameHeader {
            kind: FrameKind::Entry(kind),
            topic_partition: TOPIC_PARTITION,
            generation: 3,
            index: LogIndex(7),
            term: Term(2),
            payload_bytes: u32::try_from(payload.len()).unwrap(),
            previous_crc: 0x0102_0304,
            offset_span: 1,
            crc: 0,
        };
        let bytes = header.encode(payload).unwrap();
        (header, bytes)
    }

    #[test]
    fn golden_segment_header() {
        let bytes = segment_header().encode();
        let expected = concat!(
            "4c56444153454701",
            "000102030405060708090a0b0c0d0e0f",
            "04000000",
            "03000000",
            "0500000000000000",
            "0807060504030201",
            "0900000000000000",
            "ddccbbaa",
            "173b3671",
        );
        assert_eq!(hex(&bytes), expected);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(segment_header()));
    }

    #[test]
    fn golden_frame_header() {
        let (header, bytes) = frame(EntryKind::Command, b"roll");
        let expected = concat!(
            "4c564446",
            "01",
            "02",
            "0000",
            "000102030405060708090a0b0c0d0e0f",
            "04000000",
            "03000000",
            "0700000000000000",
            "0200000000000000",
            "04000000",
            "04030201",
            "01000000",
            "5ee532ce",
        );
        assert_eq!(hex(&bytes), expected);
        assert_eq!(FrameHeader::decode(&bytes), Ok(header));
        assert_eq!(header.frame_bytes(), 128);
        assert_eq!((padding(4).len(), padding(64).len(), padding(0).len()), (60, 0, 0));
    }

    #[test]
    fn every_bit_of_a_header_counts() {
        let good = segment_header().encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(segment_header().check(&bytes).is_err(), "bit {bit}");
        }
        let (header, good) = frame(EntryKind::Empty, &[]);
        header.verify(&good, &[]).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = FrameHeader::decode(&bytes).and_then(|header| header.verify(&bytes, &[]));
            assert!(found.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_crc_covers_of_batches_what_theirs_does_not() {
        let mut payload = batch(10, 2, 100);
        payload.resize(padding(payload.len()).len() + payload.len(), 0);
        let second = payload.len();
        payload.extend_from_slice(&batch(12, 1, 30));
        let (header, bytes) = frame(EntryKind::Batches, &payload);
        header.verify(&bytes, &payload).unwrap();
        for (position, kafkas) in [(0, false), (15, false), (20, false), (30, true), (90, true)] {
            for start in [0, second] {
                let mut damaged = payload.clone();
                damaged[start + position] ^= 4;
                assert_eq!(header.verify(&bytes, &damaged).is_ok(), kafkas, "byte {position} of the batch at {start}");
            }
        }
        let (header, bytes) = frame(EntryKind::Command, &payload);
        for position in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[position] ^= 4;
            assert!(header.verify(&bytes, &damaged).is_err());
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let (_, mut bytes) = frame(EntryKind::Command, b"roll");
        bytes[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            FrameHeader::decode(&bytes),
            Err(DamageCause::Field { field: "a frame's payload length", .. })
        ));
        assert_eq!(FrameHeader::decode(&bytes[..63]), Err(DamageCause::Short("a frame header")));
    }

    #[test]
    fn files_are_named_by_group_and_first_index() {
        let name = "segments/00000000000000000005-00000000000000000042.seg";
        assert_eq!(file_name(GroupId(5), LogIndex(42)).as_str(), name);
    }
}
