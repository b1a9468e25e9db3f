//! What a sealed segment ends with: the directory of its index frames, and the trailer.
//!
//! ```text
//! trailer 0 magic "LVDAEND\x01" | 8 frames end u64 | 16 next index u64 | 24 next offset u64
//!         32 max timestamp i64 | 40 last frame's crc u32 | 44 checksum u32 of bytes 0..frames end
//!         48 directory's points u32 | 52 directory's crc u32 | 56 crc u32 of the segment header | 60 crc u32 of 0..60
//! ```
//! The directory (points of `index.rs`, one for each index frame) stands between the last frame and the trailer. The
//! trailer is the last thing in the file, so that whoever has only the file finds it.

#![deny(clippy::indexing_slicing)]

use bytes::BufMut;
use levada_protocol::ids::{LogIndex, Offset};

use super::{
    Mark,
    format::{HEADER_BYTES, SegmentHeader},
    index::{IndexPoint, POINT_BYTES, decode_points},
};
use crate::{codec::Decoder, error::DamageCause};

/// The trailer's length.
pub(crate) const TRAILER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"LVDAEND\x01";
const CRC_START: usize = TRAILER_BYTES - 4;
const TRAILER: &str = "the segment's trailer";

/// How long the file of a sealed segment is.
pub(crate) const fn file_bytes(frames_end: u64, index_frames: usize) -> u64 {
    frames_end + (index_frames * POINT_BYTES + TRAILER_BYTES) as u64
}

/// Directory and trailer of a segment whose frames end at `end`.
pub(crate) fn encode(header: &SegmentHeader, end: &Mark, directory: &[IndexPoint]) -> Vec<u8> {
    let mut out = Vec::with_capacity(directory.len() * POINT_BYTES + TRAILER_BYTES);
    directory.iter().for_each(|point| point.encode(&mut out));
    let directory_crc = crc32fast::hash(&out);
    let trailer_start = out.len();
    out.put_slice(&MAGIC);
    out.put_u64_le(end.position);
    out.put_u64_le(end.index.get());
    out.put_u64_le(end.offset.get());
    out.put_i64_le(end.max_timestamp_ms);
    out.put_u32_le(end.previous_crc);
    out.put_u32_le(end.checksum);
    out.put_u32_le(u32::try_from(directory.len()).unwrap_or(u32::MAX));
    out.put_u32_le(directory_crc);
    out.put_u32_le(header.crc());
    let crc = crc32fast::hash(out.get(trailer_start..).unwrap_or_default());
    out.put_u32_le(crc);
    out
}

/// The directory from the bytes behind the last frame, for a segment that must have this header and this end.
pub(crate) fn decode(bytes: &[u8], header: &SegmentHeader, end: &Mark) -> Result<Vec<IndexPoint>, DamageCause> {
    let (directory, trailer) = bytes.split_last_chunk::<TRAILER_BYTES>().ok_or(DamageCause::Short(TRAILER))?;
    let found = Trailer::decode(trailer)?;
    let expected = Trailer::new(header, end);
    if found.0 != expected {
        let (expected, found) = (format!("{expected:?}"), format!("{:?}", found.0));
        return Err(DamageCause::Foreign { field: TRAILER, expected, found });
    }
    let (points, stored) = (found.1, found.2);
    if directory.len() != points * POINT_BYTES {
        return Err(DamageCause::Field { field: "the number of index frames", value: points as u64 });
    }
    let computed = crc32fast::hash(directory);
    if computed != stored {
        return Err(DamageCause::Checksum { what: "the segment's directory", stored, computed });
    }
    decode_points(directory)
}

/// The end of a sealed segment of which nothing is known but its file: from the last bytes of that, its length, its header, and
/// the checksum of all of it.
pub(crate) fn decode_end(
    tail: &[u8],
    file_bytes: u64,
    header: &SegmentHeader,
    checksum: u32,
) -> Result<Mark, DamageCause> {
    let short = || DamageCause::Short(TRAILER);
    let trailer = tail.last_chunk::<TRAILER_BYTES>().ok_or_else(short)?;
    let (found, points, _) = Trailer::decode(trailer)?;
    let start = tail.len().checked_sub(points * POINT_BYTES + TRAILER_BYTES).ok_or_else(short)?;
    let footer = tail.get(start..).ok_or_else(short)?;
    if found.frames_end.checked_add(footer.len() as u64) != Some(file_bytes) {
        return Err(DamageCause::Field { field: "the end of the segment's frames", value: found.frames_end });
    }
    let end = Mark {
        position: found.frames_end,
        index: found.index,
        offset: found.offset,
        previous_crc: found.last_crc,
        checksum: found.checksum,
        index_frame: 0,
        max_timestamp_ms: found.max_timestamp_ms,
    };
    decode(footer, header, &end)?;
    // With these bytes behind them, the frames have the file's checksum only if they have the trailer's.
    let mut all = crc32fast::Hasher::new_with_initial(end.checksum);
    all.update(footer);
    let stored = all.finalize();
    if stored == checksum {
        Ok(end)
    } else {
        Err(DamageCause::Checksum { what: "a segment as a whole", stored, computed: checksum })
    }
}

/// What the trailer says that is known without the directory.
#[derive(Debug, PartialEq, Eq)]
struct Trailer {
    frames_end: u64,
    index: LogIndex,
    offset: Offset,
    max_timestamp_ms: i64,
    last_crc: u32,
    checksum: u32,
    header_crc: u32,
}

impl Trailer {
    fn new(header: &SegmentHeader, end: &Mark) -> Self {
        Self {
            frames_end: end.position,
            index: end.index,
            offset: end.offset,
            max_timestamp_ms: end.max_timestamp_ms,
            last_crc: end.previous_crc,
            checksum: end.checksum,
            header_crc: header.crc(),
        }
    }

    /// The trailer, and the directory's count of points and CRC.
    fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<(Self, usize, u32), DamageCause> {
        let short = || DamageCause::Short(TRAILER);
        let mut fields = Decoder::new(bytes);
        if fields.array() != Some(MAGIC) {
            return Err(DamageCause::Magic("segment trailer"));
        }
        let computed = crc32fast::hash(bytes.get(..CRC_START).unwrap_or_default());
        let stored = bytes.last_chunk().copied().map_or(0, u32::from_le_bytes);
        if computed != stored {
            return Err(DamageCause::Checksum { what: TRAILER, stored, computed });
        }
        let (frames_end, index) = (fields.u64().ok_or_else(short)?, LogIndex(fields.u64().ok_or_else(short)?));
        let offset = Offset(fields.u64().ok_or_else(short)?);
        let max_timestamp_ms = fields.i64().ok_or_else(short)?;
        let (last_crc, checksum) = (fields.u32().ok_or_else(short)?, fields.u32().ok_or_else(short)?);
        let (points, directory_crc) = (fields.u32().ok_or_else(short)?, fields.u32().ok_or_else(short)?);
        let header_crc = fields.u32().ok_or_else(short)?;
        let trailer = Self { frames_end, index, offset, max_timestamp_ms, last_crc, checksum, header_crc };
        Ok((trailer, crate::codec::to_usize(u64::from(points)), directory_crc))
    }
}

const _: () = assert!(TRAILER_BYTES == HEADER_BYTES, "what starts and ends a file has the same size");

#[cfg(test)]
mod tests {
    use levada_protocol::ids::GroupId;

    use super::*;
    use crate::testing::TOPIC_PARTITION;

    fn header() -> SegmentHeader {
        SegmentHeader {
            topic_partition: TOPIC_PARTITION,
            generation: 3,
            group: GroupId(5),
            first_index: LogIndex(6),
            base_offset: Offset(7),
            previous_crc: 8,
        }
    }

    fn end() -> Mark {
        Mark {
            position: 0x0102_0304_0506_0740,
            index: LogIndex(0x11),
            offset: Offset(0x12),
            previous_crc: 0x0A0B_0C0D,
            checksum: 0x1A1B_1C1D,
            index_frame: 0x40,
            max_timestamp_ms: -2,
        }
    }

    fn directory() -> Vec<IndexPoint> {
        let mut first = IndexPoint::new(Offset(7), LogIndex(6), 0x40, 8);
        first.add(0x21, 0x22);
        vec![first, IndexPoint::new(Offset(9), LogIndex(8), 0x80, 10)]
    }

    fn footer() -> Vec<u8> {
        encode(&header(), &end(), &directory())
    }

    fn check(bytes: &[u8]) -> Result<Vec<IndexPoint>, DamageCause> {
        decode(bytes, &header(), &end())
    }

    #[test]
    fn golden_bytes() {
        let bytes = footer();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            // The directory: two points.
            "07000000000000000600000000000000400000000000000021000000000000002200000008000000",
            "0900000000000000080000000000000080000000000000000000000000000080000000000a000000",
            // The trailer.
            "4c564441454e4401",
            "4007060504030201",
            "1100000000000000",
            "1200000000000000",
            "feffffffffffffff",
            "0d0c0b0a",
            "1d1c1b1a",
            "02000000",
            "b5262ddd",
            "f058aa70",
            "697aafd9",
        );
        assert_eq!(hex, expected);
        assert_eq!(bytes.len() as u64, file_bytes(end().position, 2) - end().position);
        assert_eq!(check(&bytes), Ok(directory()));
    }

    #[test]
    fn every_bit_counts_and_so_does_every_byte() {
        let good = footer();
        let trailer = good.len() - TRAILER_BYTES;
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let cause = check(&bytes).unwrap_err();
            let found_out = match bit / 8 {
                at if at < trailer => matches!(cause, DamageCause::Checksum { what: "the segment's directory", .. }),
                at if at < trailer + 8 => cause == DamageCause::Magic("segment trailer"),
                _ => matches!(cause, DamageCause::Checksum { what: TRAILER, .. }),
            };
            assert!(found_out, "bit {bit}: {cause}");
        }
        for cut in 0..good.len() {
            assert!(check(&good[..cut]).is_err(), "cut to {cut} bytes");
        }
        let longer = [&good[..trailer], &[0], &good[trailer..]].concat();
        for bytes in [&good[POINT_BYTES..], &good[1..], &longer] {
            assert_eq!(check(bytes), Err(DamageCause::Field { field: "the number of index frames", value: 2 }));
        }
    }

    #[test]
    fn a_sound_footer_of_another_end_is_refused() {
        let end = end();
        for other in [
            Mark { position: end.position + 64, ..end },
            Mark { index: end.index.next(), ..end },
            Mark { offset: Offset(0x13), ..end },
            Mark { previous_crc: 0, ..end },
            Mark { checksum: 0, ..end },
            Mark { max_timestamp_ms: 2, ..end },
        ] {
            let refused = decode(&footer(), &header(), &other).unwrap_err();
            assert!(matches!(refused, DamageCause::Foreign { field: TRAILER, .. }), "{other:?}: {refused}");
        }
    }

    #[test]
    fn a_sound_footer_of_another_segment_is_refused() {
        let header = header();
        for other in [
            SegmentHeader { generation: 4, ..header },
            SegmentHeader { group: GroupId(6), ..header },
            SegmentHeader { first_index: LogIndex(5), ..header },
            SegmentHeader { base_offset: Offset(6), ..header },
            SegmentHeader { previous_crc: 9, ..header },
        ] {
            let refused = decode(&footer(), &other, &end());
            assert!(matches!(refused, Err(DamageCause::Foreign { field: TRAILER, .. })), "{other:?}: {refused:?}");
        }
    }
}
