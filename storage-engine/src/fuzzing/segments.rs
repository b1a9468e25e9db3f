//! The parts of a segment's file.

use levada_protocol::ids::Offset;

use crate::{
    payload::Summary,
    segment::{
        Mark, footer,
        format::{FrameHeader, FrameKind, HEADER_BYTES, SegmentHeader, padding},
        index::{IndexFrame, IndexPoint, POINT_BYTES},
    },
};

/// A segment's file: header, frames, directory and trailer, as they are and with their checksums put right.
pub fn segment(bytes: &[u8]) {
    check(bytes);
    let mut sealed = bytes.to_vec();
    if let Some(header) = seal_header(&mut sealed) {
        let (end, directory) = rechain(&mut sealed, &header);
        check(&sealed);
        let footer = footer::encode(&header, &end, &directory);
        assert_eq!(footer::decode(&footer, &header, &end).unwrap(), directory);
        let frames = &sealed[..usize::try_from(end.position).unwrap().min(sealed.len())];
        whole_file(&[frames, &footer].concat());
        // And a footer of the fuzzer's own.
        let mut file = sealed;
        if seal_trailer(&mut file, &header).is_some() {
            whole_file(&file);
        }
    }
}

fn check(bytes: &[u8]) {
    let Ok(header) = SegmentHeader::decode(bytes) else { return };
    assert_eq!(header.encode(), bytes[..HEADER_BYTES]);
    let mut at = HEADER_BYTES;
    while let Some(Ok(frame)) = bytes.get(at..).map(FrameHeader::decode) {
        let Some(payload) = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + frame.payload_bytes as usize) else {
            return;
        };
        let head: &[u8; HEADER_BYTES] = bytes[at..].first_chunk().unwrap();
        if frame.verify(head, payload).is_ok() {
            assert_eq!(&{ frame }.encode(payload).unwrap(), head);
        }
        at += usize::try_from(frame.frame_bytes()).unwrap();
    }
}

fn whole_file(file: &[u8]) {
    let Ok(header) = SegmentHeader::decode(file) else { return };
    let checksum = crc32fast::hash(file);
    if let Ok(end) = footer::decode_end(file, file.len() as u64, &header, checksum) {
        assert!(end.position <= file.len() as u64);
        let footer = &file[usize::try_from(end.position).unwrap()..];
        let directory = footer::decode(footer, &header, &end).unwrap();
        assert_eq!(footer::encode(&header, &end, &directory), footer);
    }
}

/// Puts the magic and the checksum of a segment's header right.
pub(super) fn seal_header(file: &mut [u8]) -> Option<SegmentHeader> {
    let header = file.first_chunk_mut::<HEADER_BYTES>()?;
    header[..8].copy_from_slice(b"LVDASEG\x01");
    let crc = crc32fast::hash(&header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    Some(SegmentHeader::decode(header).unwrap())
}

/// Puts right what ties frames to their place and to each other, as far as they can be frames. Answers where they end, and
/// the directory of their index frames.
pub(super) fn rechain(file: &mut [u8], segment: &SegmentHeader) -> (Mark, Vec<IndexPoint>) {
    let (mut end, mut directory) = (Mark::start(segment), Vec::new());
    loop {
        let at = usize::try_from(end.position).unwrap();
        let Some((head, rest)) = file.get_mut(at..).and_then(<[u8]>::split_first_chunk_mut::<HEADER_BYTES>) else {
            return (end, directory);
        };
        head[..5].copy_from_slice(b"LVDF\x01");
        head[6..8].fill(0);
        let Ok(mut frame) = FrameHeader::decode(head) else { return (end, directory) };
        let length = frame.payload_bytes as usize;
        let padded = length + padding(length).len();
        let Some((payload, pad)) = rest.get_mut(..padded).and_then(|rest| rest.split_at_mut_checked(length)) else {
            return (end, directory);
        };
        pad.fill(0);
        let (index, next) = match frame.kind {
            FrameKind::Entry(_) => (end.index.get(), end.index.get().checked_add(1)),
            FrameKind::Index => (end.index.get().saturating_sub(1), Some(end.index.get())),
        };
        let Some(next) = next else { return (end, directory) };
        frame.topic_partition = segment.topic_partition;
        frame.generation = segment.generation;
        frame.index = levada_protocol::ids::LogIndex(index);
        frame.previous_crc = end.previous_crc;
        let mut follows = end.offset;
        match frame.kind {
            FrameKind::Entry(kind) => {
                if let Ok(summary) = Summary::of_payload(frame.index, kind, payload, end.offset) {
                    frame.offset_span = summary.offset_span;
                    follows = summary.next_offset;
                    end.max_timestamp_ms = end.max_timestamp_ms.max(summary.max_timestamp_ms);
                } else {
                    follows = Offset(follows.get().saturating_add(u64::from(frame.offset_span)));
                }
            }
            FrameKind::Index => {
                if let Ok(index) = IndexFrame::decode(payload)
                    && let Some(mut first) = index.points.first().copied()
                {
                    first.position = end.position;
                    directory.push(first);
                }
                end.index_frame = end.position;
            }
        }
        let Ok(bytes) = frame.encode(payload) else { return (end, directory) };
        *head = bytes;
        end.offset = follows;
        end.index = levada_protocol::ids::LogIndex(next);
        end.previous_crc = frame.crc;
        end.position += frame.frame_bytes();
        let length = usize::try_from(end.position).unwrap();
        end.checksum = crc32fast::hash(&file[..length]);
    }
}

/// Makes the last bytes of a file a trailer that fits it.
fn seal_trailer(file: &mut [u8], header: &SegmentHeader) -> Option<()> {
    let trailer_start = file.len().checked_sub(footer::TRAILER_BYTES)?;
    let (before, trailer) = file.split_at_mut(trailer_start);
    let room = before.len().checked_sub(HEADER_BYTES)? / POINT_BYTES;
    let points = u32::from_le_bytes(trailer[48..52].try_into().unwrap()) as usize % (room + 1);
    let frames_end = before.len() - points * POINT_BYTES;
    trailer[..8].copy_from_slice(b"LVDAEND\x01");
    trailer[8..16].copy_from_slice(&(frames_end as u64).to_le_bytes());
    trailer[44..48].copy_from_slice(&crc32fast::hash(&before[..frames_end]).to_le_bytes());
    trailer[48..52].copy_from_slice(&u32::try_from(points).unwrap().to_le_bytes());
    trailer[52..56].copy_from_slice(&crc32fast::hash(&before[frames_end..]).to_le_bytes());
    trailer[56..60].copy_from_slice(&header.crc().to_le_bytes());
    let crc = crc32fast::hash(&trailer[..60]);
    trailer[60..].copy_from_slice(&crc.to_le_bytes());
    Some(())
}
