//! The sparse index: where in the file to start looking for an offset, an index or a time.
//!
//! A point is made for the first frame of a file and then for the first frame that starts at least `interval` bytes
//! behind the last point, and sums up the frames up to the next one. Every [`POINTS_PER_FRAME`] points are written
//! into the file themselves, as a frame of their own that names the one before, and leave memory; what stays is one
//! point for each such frame. So an index takes little memory however long the segment, a restart finds it from the
//! position of the last such frame (which the checkpoint has), and replicas with the same interval write the same
//! bytes.

#![deny(clippy::indexing_slicing)]

use std::sync::Arc;

use bytes::BufMut;
use levada_protocol::ids::{LogIndex, Offset};

use crate::{codec::Decoder, error::DamageCause};

/// An encoded point's length.
pub(crate) const POINT_BYTES: usize = 40;
/// How many points an index frame holds (the last of a segment may hold fewer).
pub(crate) const POINTS_PER_FRAME: usize = 256;
/// What precedes the points of an index frame: the position of the index frame before, and the next offset.
const PREFIX_BYTES: usize = 16;

/// A place where a frame starts, and what the frames from there up to the next point hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexPoint {
    /// The offset that follows what stands before the frame.
    pub(crate) offset: Offset,
    /// The first entry's index.
    pub(crate) index: LogIndex,
    /// Where the frame starts (in the directory: where the index frame does).
    pub(crate) position: u64,
    /// The highest of the batches' timestamps; `i64::MIN` without batches.
    pub(crate) max_timestamp_ms: i64,
    /// Records; stays at its largest value rather than overflow.
    pub(crate) records: u32,
    /// The CRC of the frame before.
    pub(crate) previous_crc: u32,
}

impl IndexPoint {
    pub(crate) const fn new(offset: Offset, index: LogIndex, position: u64, previous_crc: u32) -> Self {
        Self { offset, index, position, max_timestamp_ms: i64::MIN, records: 0, previous_crc }
    }

    /// Counts what a frame, or another point, holds.
    pub(crate) fn add(&mut self, max_timestamp_ms: i64, records: u32) {
        self.max_timestamp_ms = self.max_timestamp_ms.max(max_timestamp_ms);
        self.records = self.records.saturating_add(records);
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64_le(self.offset.get());
        out.put_u64_le(self.index.get());
        out.put_u64_le(self.position);
        out.put_i64_le(self.max_timestamp_ms);
        out.put_u32_le(self.records);
        out.put_u32_le(self.previous_crc);
    }

    fn decode(fields: &mut Decoder<'_>) -> Option<Self> {
        Some(Self {
            offset: Offset(fields.u64()?),
            index: LogIndex(fields.u64()?),
            position: fields.u64()?,
            max_timestamp_ms: fields.i64()?,
            records: fields.u32()?,
            previous_crc: fields.u32()?,
        })
    }
}

/// Reads points that fill `bytes`.
pub(crate) fn decode_points(bytes: &[u8]) -> Result<Vec<IndexPoint>, DamageCause> {
    let mut fields = Decoder::new(bytes);
    let mut points = Vec::with_capacity(bytes.len() / POINT_BYTES);
    while fields.remaining() > 0 {
        points.push(IndexPoint::decode(&mut fields).ok_or(DamageCause::Short("a point of an index"))?);
    }
    Ok(points)
}

/// The payload of an index frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexFrame {
    /// Where the index frame before stands; 0 for nowhere.
    pub(crate) previous: u64,
    /// The offset that follows the frames before.
    pub(crate) next_offset: Offset,
    /// The points since the index frame before.
    pub(crate) points: Vec<IndexPoint>,
}

impl IndexFrame {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(PREFIX_BYTES + self.points.len() * POINT_BYTES);
        payload.put_u64_le(self.previous);
        payload.put_u64_le(self.next_offset.get());
        self.points.iter().for_each(|point| point.encode(&mut payload));
        payload
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, DamageCause> {
        let short = DamageCause::Short("an index frame");
        let (prefix, points) = payload.split_at_checked(PREFIX_BYTES).ok_or_else(|| short.clone())?;
        let mut prefix = Decoder::new(prefix);
        Ok(Self {
            previous: prefix.u64().ok_or_else(|| short.clone())?,
            next_offset: Offset(prefix.u64().ok_or(short)?),
            points: decode_points(points)?,
        })
    }
}

/// Where to start looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// At this point.
    Point(IndexPoint),
    /// In the index frame at this point's position.
    Frame(IndexPoint),
    /// At the first frame.
    Start,
    /// Nowhere: nothing in the segment is like that.
    Nothing,
}

/// The sparse index of one segment: for its full index frames a directory, and the points behind the last of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    directory: Arc<Vec<IndexPoint>>,
    points: Vec<IndexPoint>,
    /// There are frames before the first point.
    lost: bool,
}

impl SegmentIndex {
    /// Of a segment that starts with the entry `first`.
    pub(crate) fn new(directory: Vec<IndexPoint>, first: LogIndex) -> Self {
        let lost = directory.first().is_some_and(|point| point.index != first);
        Self { directory: Arc::new(directory), points: Vec::new(), lost }
    }

    /// The index of a segment that has frames, when it cannot be read back: everything is looked for from the start.
    pub(crate) fn lost() -> Self {
        Self { lost: true, ..Self::default() }
    }

    /// Whether it knows nothing of the segment's beginning.
    pub(crate) const fn is_lost(&self) -> bool {
        self.lost
    }

    pub(crate) fn directory(&self) -> &[IndexPoint] {
        &self.directory
    }

    /// The points that are in no index frame yet.
    pub(crate) fn points(&self) -> &[IndexPoint] {
        &self.points
    }

    /// Counts a frame at `at`, which becomes a point if the last one is `interval` bytes behind or more.
    pub(crate) fn add(&mut self, at: IndexPoint, interval: u64) {
        match self.points.last_mut() {
            Some(last) if at.position < last.position.saturating_add(interval) => {
                last.add(at.max_timestamp_ms, at.records);
            }
            _ => self.points.push(at),
        }
    }

    /// Whether the points fill an index frame, which must be written before the next frame.
    pub(crate) const fn is_full(&self) -> bool {
        self.points.len() >= POINTS_PER_FRAME
    }

    /// The points went into an index frame at `position`.
    pub(crate) fn points_written(&mut self, position: u64) {
        let points = std::mem::take(&mut self.points);
        if let Some(summary) = summary(position, &points) {
            Arc::make_mut(&mut self.directory).push(summary);
        }
    }

    /// Where to look for the frame with `offset`.
    pub(crate) fn find_offset(&self, offset: Offset) -> Lookup {
        self.find(|point| point.offset <= offset)
    }

    /// Where to look for the frame of the entry `index`.
    pub(crate) fn find_index(&self, index: LogIndex) -> Lookup {
        self.find(|point| point.index <= index)
    }

    /// Where the first frame may be that has a batch with a timestamp of at least `timestamp_ms`.
    pub(crate) fn find_time(&self, timestamp_ms: i64) -> Lookup {
        if self.lost {
            return Lookup::Start;
        }
        let late = |point: &&IndexPoint| point.max_timestamp_ms >= timestamp_ms;
        let frame = || self.directory.iter().find(late).copied().map(Lookup::Frame);
        let point = || self.points.iter().find(late).copied().map(Lookup::Point);
        frame().or_else(point).unwrap_or(Lookup::Nothing)
    }

    /// The offset of a point behind `position`, the nearest that is in memory.
    pub(crate) fn offset_behind(&self, position: u64) -> Option<Offset> {
        let first = self.points.first();
        let point = if first.is_some_and(|first| first.position <= position) {
            self.points.iter().find(|point| point.position > position)
        } else {
            let stretch = self.directory.partition_point(|frame| frame.position < position);
            self.directory.get(stretch + 1).or(first)
        };
        point.map(|point| point.offset)
    }

    fn find(&self, is_before: impl Fn(&IndexPoint) -> bool) -> Lookup {
        let point = || last_before(&self.points, &is_before).map(Lookup::Point);
        let frame = || last_before(&self.directory, &is_before).map(Lookup::Frame);
        point().or_else(frame).unwrap_or(Lookup::Start)
    }
}

/// The last of the points for which `is_before` holds.
pub(crate) fn last_before(points: &[IndexPoint], is_before: impl Fn(&IndexPoint) -> bool) -> Option<IndexPoint> {
    points.partition_point(is_before).checked_sub(1).and_then(|at| points.get(at)).copied()
}

/// One point for all the points of the index frame at `position`.
pub(crate) fn summary(position: u64, points: &[IndexPoint]) -> Option<IndexPoint> {
    let (first, rest) = points.split_first()?;
    let mut summary = IndexPoint { position, ..*first };
    rest.iter().for_each(|point| summary.add(point.max_timestamp_ms, point.records));
    Some(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(offset: u64, index: u64, position: u64) -> IndexPoint {
        IndexPoint::new(Offset(offset), LogIndex(index), position, 7)
    }

    #[test]
    fn golden_bytes() {
        let point = IndexPoint {
            offset: Offset(1),
            index: LogIndex(2),
            position: 3 * 64,
            max_timestamp_ms: -1,
            records: 6,
            previous_crc: 0x0A0B_0C0D,
        };
        let frame = IndexFrame { previous: 64, next_offset: Offset(9), points: vec![point] };
        let payload = frame.encode();
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "4000000000000000",
            "0900000000000000",
            "0100000000000000",
            "0200000000000000",
            "c000000000000000",
            "ffffffffffffffff",
            "06000000",
            "0d0c0b0a",
        );
        assert_eq!(hex, expected);
        assert_eq!(IndexFrame::decode(&payload), Ok(frame));
        assert_eq!(IndexFrame::decode(&payload[..55]), Err(DamageCause::Short("a point of an index")));
        assert_eq!(IndexFrame::decode(&payload[..15]), Err(DamageCause::Short("an index frame")));
    }

    #[test]
    fn a_point_for_every_interval() {
        let mut index = SegmentIndex::default();
        for (number, position) in [64, 128, 1000, 1088, 1152, 5000].into_iter().enumerate() {
            let mut at = point(number as u64 * 10, number as u64 + 1, position);
            at.add(number as i64 + 100, 10);
            index.add(at, 1024);
        }
        let positions: Vec<_> = index.points().iter().map(|p| (p.position, p.records, p.max_timestamp_ms)).collect();
        assert_eq!(positions, [(64, 30, 102), (1088, 20, 104), (5000, 10, 105)]);
    }

    #[test]
    fn finds_where_to_start() {
        let mut index = SegmentIndex::default();
        assert_eq!(index.find_offset(Offset(5)), Lookup::Start);
        for number in 0..3 {
            index.add(point(number * 10, number * 2 + 1, 64 + number * 100), 1);
        }
        index.points_written(500);
        for number in 3..6 {
            let mut at = point(number * 10, number * 2 + 1, 600 + number * 100);
            at.add(number as i64, 1);
            index.add(at, 1);
        }
        let frame = Lookup::Frame(IndexPoint { position: 500, ..point(0, 1, 0) });
        assert_eq!(index.find_offset(Offset(0)), frame);
        assert_eq!(index.find_offset(Offset(29)), frame);
        assert!(matches!(index.find_offset(Offset(30)), Lookup::Point(p) if p.position == 900));
        assert!(matches!(index.find_offset(Offset(1000)), Lookup::Point(p) if p.position == 1100));
        assert_eq!(index.find_index(LogIndex(6)), frame);
        assert!(matches!(index.find_index(LogIndex(10)), Lookup::Point(p) if p.position == 1000));
        assert!(matches!(index.find_time(4), Lookup::Point(p) if p.position == 1000));
        assert_eq!(index.find_time(6), Lookup::Nothing);
        assert_eq!(index.offset_behind(950), Some(Offset(40)));
        assert_eq!(index.offset_behind(200), Some(Offset(30)));
        assert_eq!(index.offset_behind(1100), None);

        let mut lost = SegmentIndex::lost();
        lost.add(point(50, 11, 1100), 1);
        assert_eq!((lost.find_offset(Offset(20)), lost.find_time(0)), (Lookup::Start, Lookup::Start));
        assert!(matches!(lost.find_offset(Offset(50)), Lookup::Point(_)));
    }
}
