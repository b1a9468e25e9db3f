//! Walks the frames of a segment and checks that each is the one that belongs there.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use levada_protocol::{
    batch::{
        BatchIter,
        header::{BatchHeader, HEADER_BYTES as BATCH_HEADER_BYTES},
        verify_crc,
    },
    ids::{LogIndex, Offset},
    limits::BATCH_ALIGN,
};

use super::{
    Mark,
    format::{FIRST_FRAME, FrameHeader, FrameKind, HEADER_BYTES, SegmentHeader},
    index::{IndexFrame, IndexPoint},
};
use crate::{
    codec::to_usize,
    disk::{Disk, FileName},
    entry::EntryKind,
    error::DamageCause,
    payload::Summary,
    planted::{self, Planted},
};

/// Where a cursor stands, and what the frame there must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) index: LogIndex,
    pub(crate) offset: Offset,
    pub(crate) previous_crc: u32,
}

impl From<&IndexPoint> for Place {
    fn from(point: &IndexPoint) -> Self {
        Self { position: point.position, index: point.index, offset: point.offset, previous_crc: point.previous_crc }
    }
}

impl From<&Mark> for Place {
    fn from(mark: &Mark) -> Self {
        Self { position: mark.position, index: mark.index, offset: mark.offset, previous_crc: mark.previous_crc }
    }
}

/// Goes from frame to frame. Maps a window of the file at a time.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    disk: &'a dyn Disk,
    file: &'a FileName,
    segment: &'a SegmentHeader,
    /// How far the file is written.
    end: u64,
    at: Place,
    window: Bytes,
    window_start: u64,
    /// How much to map ahead.
    ahead: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(
        disk: &'a dyn Disk,
        file: &'a FileName,
        segment: &'a SegmentHeader,
        at: Place,
        end: u64,
        ahead: usize,
    ) -> Self {
        Self { disk, file, segment, end, at, window: Bytes::new(), window_start: 0, ahead }
    }

    /// Where it stands.
    pub(crate) const fn place(&self) -> Place {
        self.at
    }

    /// The header of the frame that stands here, or `None` at the end. It fits the place, but its CRC is not verified.
    pub(crate) fn header(&mut self) -> Result<Option<FrameHeader>, DamageCause> {
        if self.at.position >= self.end {
            return Ok(None);
        }
        let header = self.header_at(self.at.position)?;
        let index = match header.kind {
            FrameKind::Entry(_) => self.at.index,
            FrameKind::Index => LogIndex(self.at.index.get().saturating_sub(1)),
        };
        same("a frame's index", index.get(), header.index.get())?;
        same("the CRC of the frame before", self.at.previous_crc, header.previous_crc)?;
        Ok(Some(header))
    }

    /// Verifies the frame that stands here, and steps over it. Where an unsound frame is only passed by, what follows
    /// would be blamed for it.
    pub(crate) fn skip(&mut self, header: &FrameHeader) -> Result<(), DamageCause> {
        self.payload_at(self.at.position, header)?;
        self.advance(header);
        Ok(())
    }

    /// Steps over the frame that stands here and was verified.
    pub(crate) fn advance(&mut self, header: &FrameHeader) {
        self.at.position += header.frame_bytes();
        self.at.previous_crc = header.crc;
        if let FrameKind::Entry(_) = header.kind {
            self.at.index = header.index.next();
            self.at.offset = self.at.offset.plus(u64::from(header.offset_span));
        }
    }

    /// Like [`Cursor::entry`], with the batches' CRCs verified too.
    pub(crate) fn whole_entry(
        &mut self,
        kind: EntryKind,
        header: &FrameHeader,
    ) -> Result<(Bytes, Summary), DamageCause> {
        let (payload, summary) = self.entry(kind, header)?;
        if kind == EntryKind::Batches {
            BatchIter::packed(&payload).try_for_each(|batch| verify_crc(batch?.bytes))?;
        }
        Ok((payload, summary))
    }

    /// How many offsets the frame occupies that stands here, if it can be passed by.
    pub(crate) fn sound_span(&mut self) -> Option<u64> {
        let header = self.header().ok()??;
        self.payload_at(self.at.position, &header).ok()?;
        Some(u64::from(header.offset_span))
    }

    /// The payload of the entry's frame that stands here, and what it says in numbers. Its CRC is verified (those of the
    /// batches are not), and that it continues the offsets.
    pub(crate) fn entry(&mut self, kind: EntryKind, header: &FrameHeader) -> Result<(Bytes, Summary), DamageCause> {
        let payload = self.payload_at(self.at.position, header)?;
        let summary = Summary::of_payload(header.index, kind, &payload, self.at.offset)?;
        same("a frame's offset span", summary.offset_span, header.offset_span)?;
        Ok((payload, summary))
    }

    /// The entry's frame that stands here in numbers, from the headers of its batches: of a frame of a megabyte, little is
    /// read. What it says is verified where it is read; here only that it continues the offsets, and fills the frame.
    pub(crate) fn outline(&mut self, kind: EntryKind, header: &FrameHeader) -> Result<Summary, DamageCause> {
        let none = Summary { next_offset: self.at.offset, offset_span: 0, max_timestamp_ms: i64::MIN, records: 0 };
        let mut summary = none;
        let start = self.at.position + HEADER_BYTES as u64;
        let len = if kind == EntryKind::Batches { u64::from(header.payload_bytes) } else { 0 };
        let mut position = 0;
        while position < len {
            let batch = BatchHeader::parse(&self.bytes(start + position, BATCH_HEADER_BYTES)?)?;
            let end = position + batch.batch_bytes() as u64;
            if end > len {
                return Err(DamageCause::Short("a batch"));
            }
            same("a batch's base offset", summary.next_offset, batch.base_offset)?;
            summary.next_offset = batch.next_offset();
            summary.max_timestamp_ms = summary.max_timestamp_ms.max(batch.max_timestamp_ms);
            summary.records = summary.records.saturating_add(batch.record_count);
            position = end.next_multiple_of(BATCH_ALIGN as u64);
        }
        let span = summary.next_offset.get() - self.at.offset.get();
        same("a frame's offset span", u64::from(header.offset_span), span)?;
        Ok(Summary { offset_span: header.offset_span, ..summary })
    }

    /// The index frame at `position`, verified, and the place behind it.
    pub(crate) fn index_frame_at(&mut self, position: u64) -> Result<(IndexFrame, Place), DamageCause> {
        if position < FIRST_FRAME {
            return Err(DamageCause::Field { field: "an index frame's position", value: position });
        }
        let header = self.header_at(position)?;
        if header.kind != FrameKind::Index {
            return Err(DamageCause::Magic("index frame"));
        }
        let frame = IndexFrame::decode(&self.payload_at(position, &header)?)?;
        let place = Place {
            position: position + header.frame_bytes(),
            index: header.index.next(),
            offset: frame.next_offset,
            previous_crc: header.crc,
        };
        Ok((frame, place))
    }

    fn header_at(&mut self, position: u64) -> Result<FrameHeader, DamageCause> {
        let header = FrameHeader::decode(&self.bytes(position, HEADER_BYTES)?)?;
        same("a frame's topic", self.segment.topic_partition.topic, header.topic_partition.topic)?;
        same("a frame's partition", self.segment.topic_partition.partition, header.topic_partition.partition)?;
        same("a frame's generation", self.segment.generation, header.generation)?;
        if header.frame_bytes() > self.end - position {
            return Err(DamageCause::Field {
                field: "a frame's payload length",
                value: u64::from(header.payload_bytes),
            });
        }
        Ok(header)
    }

    fn payload_at(&mut self, position: u64, header: &FrameHeader) -> Result<Bytes, DamageCause> {
        let frame = self.bytes(position, to_usize(header.frame_bytes()))?;
        let payload = frame.slice(HEADER_BYTES..HEADER_BYTES + to_usize(u64::from(header.payload_bytes)));
        let bytes = frame.first_chunk().ok_or(DamageCause::Short("a frame header"))?;
        if planted::is(Planted::SegmentUnchecked) {
            return Ok(payload);
        }
        header.verify(bytes, &payload)?;
        if frame.iter().skip(HEADER_BYTES + payload.len()).any(|&byte| byte != 0) {
            return Err(DamageCause::Field { field: "the padding behind a frame", value: position });
        }
        Ok(payload)
    }

    fn bytes(&mut self, position: u64, len: usize) -> Result<Bytes, DamageCause> {
        let end = position.checked_add(len as u64).filter(|&end| end <= self.end);
        let end = end.ok_or(DamageCause::Short("the segment"))?;
        if position < self.window_start || end > self.window_start + self.window.len() as u64 {
            self.window = self.map(position, len)?;
            self.window_start = position;
        }
        let start = to_usize(position - self.window_start);
        Ok(self.window.slice(start..start + len))
    }

    /// At least `len` bytes, and what is wanted ahead. A bad sector ahead is none of this frame's business: then nothing is
    /// mapped ahead any more, so that every frame before the sector is found sound, and the sector is not asked again.
    fn map(&mut self, position: u64, len: usize) -> Result<Bytes, DamageCause> {
        let ahead = self.ahead.min(to_usize(self.end - position));
        if ahead > len {
            match self.disk.map(self.file, position, ahead) {
                Ok(window) if window.len() == ahead => return Ok(window),
                _ => self.ahead = 0,
            }
        }
        let window = self.disk.map(self.file, position, len)?;
        if window.len() == len { Ok(window) } else { Err(DamageCause::Short("the segment")) }
    }
}

fn same<T: PartialEq + std::fmt::Display>(field: &'static str, expected: T, found: T) -> Result<(), DamageCause> {
    if expected == found {
        return Ok(());
    }
    Err(DamageCause::Foreign { field, expected: expected.to_string(), found: found.to_string() })
}
