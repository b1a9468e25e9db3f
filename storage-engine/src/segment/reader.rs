//! A segment as its readers hold it. Shared between the writer and any number of readers on other threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use levada_protocol::{
    batch::{BatchIter, verify_crc},
    ids::{LogIndex, Offset},
};

use super::{
    Mark,
    cursor::{Cursor, Place},
    footer::{self, TRAILER_BYTES},
    format::{FrameKind, HEADER_BYTES, SegmentHeader},
    index::{IndexPoint, Lookup, SegmentIndex, last_before, summary},
};
use crate::{
    codec::to_usize,
    disk::{Disk, FileName},
    entry::{Entry, EntryKind},
    error::{Damage, DamageCause},
};

/// How much is mapped at a time where only headers are looked at.
const SCAN_BYTES: usize = 256 * 1024;
/// How much is mapped at a time, at most, unless a frame is larger.
const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Whole batches, and where to read on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batches {
    pub(crate) batches: Vec<Bytes>,
    pub(crate) bytes: usize,
    pub(crate) next_offset: Offset,
}

impl Batches {
    /// Whether a batch still belongs to a read of `max_bytes`. The first always does.
    pub(crate) const fn has_room(&self, bytes: usize, max_bytes: usize) -> bool {
        self.batches.is_empty() || self.bytes + bytes <= max_bytes
    }

    pub(crate) fn push(&mut self, batch: Bytes, next_offset: Offset) {
        self.bytes += batch.len();
        self.batches.push(batch);
        self.next_offset = next_offset;
    }
}

/// A segment's file, how far it is written, and its index.
///
/// Invariants:
/// - what stands before `end` is written and never changes;
/// - the index, if it is loaded, covers exactly what stands before `end`.
#[derive(Debug)]
pub(crate) struct Segment {
    file: FileName,
    header: SegmentHeader,
    index_interval_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    end: Mark,
    sealed: bool,
    index: Option<Arc<SegmentIndex>>,
}

impl Segment {
    /// One that is about to be written.
    pub(crate) fn create(header: SegmentHeader, index_interval_bytes: u64) -> Self {
        Self::with_index(header, Mark::start(&header), false, index_interval_bytes, Some(Arc::default()))
    }

    /// One that the checkpoint names.
    pub(crate) fn recovered(header: SegmentHeader, end: Mark, sealed: bool, index_interval_bytes: u64) -> Self {
        Self::with_index(header, end, sealed, index_interval_bytes, None)
    }

    fn with_index(
        header: SegmentHeader,
        end: Mark,
        sealed: bool,
        index_interval_bytes: u64,
        index: Option<Arc<SegmentIndex>>,
    ) -> Self {
        Self { file: header.file(), header, index_interval_bytes, state: Mutex::new(State { end, sealed, index }) }
    }

    pub(crate) const fn file(&self) -> &FileName {
        &self.file
    }

    pub(crate) const fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// How far it is written.
    pub(crate) fn end(&self) -> Mark {
        self.state().end
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.state().sealed
    }

    /// More of it is written.
    pub(crate) fn publish(&self, end: Mark, sealed: bool, index: SegmentIndex) {
        let mut state = self.state();
        assert!(!state.sealed && end.position >= state.end.position, "segments only grow");
        *state = State { end, sealed, index: Some(Arc::new(index)) };
    }

    /// Batches from the one that contains `offset`, up to `max_bytes` but at least one, of those that end before
    /// `max_offset`. Damage behind the first batch is left to the next call.
    pub(crate) fn read(
        &self,
        disk: &dyn Disk,
        offset: Offset,
        max_bytes: usize,
        max_offset: Offset,
    ) -> Result<Batches, Box<Damage>> {
        let view = self.view(disk)?;
        let start = view.start(view.index.find_offset(offset), |point| point.offset <= offset)?;
        let mut cursor = view.cursor(start, max_bytes);
        let mut read = Batches { next_offset: offset, ..Batches::default() };
        match fill(&mut cursor, offset, max_bytes, max_offset, &mut read) {
            Err(cause) if read.batches.is_empty() => Err(view.damage(&mut cursor, cause)),
            _ => Ok(read),
        }
    }

    /// Entries from `low` up to but not including `high`, up to `max_bytes` of payload but at least one.
    pub(crate) fn entries(
        &self,
        disk: &dyn Disk,
        low: LogIndex,
        high: LogIndex,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Box<Damage>> {
        let view = self.view(disk)?;
        let start = view.start(view.index.find_index(low), |point| point.index <= low)?;
        let mut cursor = view.cursor(start, max_bytes);
        let mut entries = Vec::new();
        match fill_entries(&mut cursor, low, high, max_bytes, &mut entries) {
            Err(cause) if entries.is_empty() => Err(view.damage(&mut cursor, cause)),
            _ => Ok(entries),
        }
    }

    /// The base offset of the first batch with a timestamp of at least `timestamp_ms`, among those that end behind
    /// `min_offset` and not behind `max_offset`.
    pub(crate) fn offset_for_time(
        &self,
        disk: &dyn Disk,
        timestamp_ms: i64,
        min_offset: Offset,
        max_offset: Offset,
    ) -> Result<Option<Offset>, Box<Damage>> {
        let view = self.view(disk)?;
        let mut start = match view.index.find_time(timestamp_ms) {
            Lookup::Nothing => return Ok(None),
            Lookup::Frame(at) => {
                let points = view.points(at.position)?;
                let late = points.iter().find(|point| point.max_timestamp_ms >= timestamp_ms);
                late.map_or_else(|| view.first(), Place::from)
            }
            other => view.start(other, |_| true)?,
        };
        if start.offset < min_offset {
            start = view.start(view.index.find_offset(min_offset), |point| point.offset <= min_offset)?;
        }
        let mut cursor = view.cursor(start, SCAN_BYTES);
        find_time(&mut cursor, timestamp_ms, min_offset, max_offset).map_err(|cause| view.damage(&mut cursor, cause))
    }

    /// The index, loaded if it is not. One of a segment that is still written may turn out to be lost.
    pub(crate) fn index(&self, disk: &dyn Disk) -> Result<Arc<SegmentIndex>, Box<Damage>> {
        Ok(self.view(disk)?.index)
    }

    fn view<'a>(&'a self, disk: &'a dyn Disk) -> Result<View<'a>, Box<Damage>> {
        let (end, sealed, index) = {
            let state = self.state();
            (state.end, state.sealed, state.index.clone())
        };
        if let Some(index) = index {
            return Ok(View { disk, segment: self, end, index });
        }
        let view = View { disk, segment: self, end, index: Arc::default() };
        let index = if sealed { view.load_footer() } else { view.load_frames() };
        let index = match index {
            Ok(index) => index,
            Err(cause) if sealed => return Err(view.damage_at(&Place::from(&end), None, cause)),
            Err(cause) => {
                tracing::error!(file = %self.file, %cause, "the index of a segment cannot be read back");
                SegmentIndex::lost()
            }
        };
        let index = Arc::new(index);
        let mut state = self.state();
        if state.end == end {
            state.index = Some(Arc::clone(&index));
        }
        Ok(View { index, ..view })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A segment as it was when a read began.
#[derive(Debug)]
struct View<'a> {
    disk: &'a dyn Disk,
    segment: &'a Segment,
    end: Mark,
    index: Arc<SegmentIndex>,
}

impl<'a> View<'a> {
    /// A cursor for about `bytes` from a place on; a point of the index may be an interval before what is wanted.
    fn cursor(&self, at: Place, bytes: usize) -> Cursor<'a> {
        let interval = to_usize(self.segment.index_interval_bytes);
        let ahead = bytes.saturating_add(interval).min(WINDOW_BYTES_MAX);
        Cursor::new(self.disk, &self.segment.file, &self.segment.header, at, self.end.position, ahead)
    }

    /// The place that a lookup leads to; within an index frame, the last point for which `is_before` holds.
    fn start(&self, lookup: Lookup, is_before: impl Fn(&IndexPoint) -> bool) -> Result<Place, Box<Damage>> {
        Ok(match lookup {
            Lookup::Point(point) => Place::from(&point),
            Lookup::Frame(at) => {
                let point = last_before(&self.points(at.position)?, is_before);
                point.map_or_else(|| self.first(), |point| Place::from(&point))
            }
            Lookup::Start | Lookup::Nothing => self.first(),
        })
    }

    /// Where the first frame stands.
    fn first(&self) -> Place {
        Place::from(&Mark::start(&self.segment.header))
    }

    /// The points of the index frame at `position`.
    fn points(&self, position: u64) -> Result<Vec<IndexPoint>, Box<Damage>> {
        let place = Place { position, ..self.first() };
        let frame = self.cursor(place, 0).index_frame_at(position);
        frame.map(|(frame, _)| frame.points).map_err(|cause| self.damage_at(&place, None, cause))
    }

    fn load_footer(&self) -> Result<SegmentIndex, DamageCause> {
        self.check_header()?;
        let (file, end) = (&self.segment.file, self.end.position);
        let bytes = self.disk.len(file)?.unwrap_or(0).saturating_sub(end);
        if bytes > end + TRAILER_BYTES as u64 {
            return Err(DamageCause::Field { field: "the length of the segment's footer", value: bytes });
        }
        let footer = self.disk.read(file, end, to_usize(bytes))?;
        Ok(SegmentIndex::new(
            footer::decode(&footer, &self.segment.header, &self.end)?,
            self.segment.header.first_index,
        ))
    }

    /// From the last index frame back to the first, and then over the frames behind the last.
    fn load_frames(&self) -> Result<SegmentIndex, DamageCause> {
        self.check_header()?;
        let first = self.first();
        let mut directory = Vec::new();
        let mut behind = None;
        let mut position = self.end.index_frame;
        while position != 0 {
            let (frame, place) = self.cursor(first, 0).index_frame_at(position)?;
            directory.push(summary(position, &frame.points).ok_or(DamageCause::Short("an index frame"))?);
            behind = behind.or(Some(place));
            if frame.previous >= position {
                return Err(DamageCause::Field { field: "the position of the index frame before", value: position });
            }
            position = frame.previous;
        }
        directory.reverse();
        let mut index = SegmentIndex::new(directory, first.index);
        let mut cursor = self.cursor(behind.unwrap_or(first), SCAN_BYTES);
        while let Some(header) = cursor.header()? {
            let at = cursor.place();
            let FrameKind::Entry(kind) = header.kind else { return Err(DamageCause::Magic("entry")) };
            let (_, entry) = cursor.whole_entry(kind, &header)?;
            let mut point = IndexPoint::new(at.offset, at.index, at.position, at.previous_crc);
            point.add(entry.max_timestamp_ms, entry.records);
            index.add(point, self.segment.index_interval_bytes);
            cursor.advance(&header);
        }
        if cursor.place() != Place::from(&self.end) {
            return Err(DamageCause::Short("the segment"));
        }
        Ok(index)
    }

    fn check_header(&self) -> Result<(), DamageCause> {
        self.segment.header.check(&self.disk.read(&self.segment.file, 0, HEADER_BYTES)?)
    }

    /// Damage where the cursor stands: of one frame's batches, or of all up to the next point of the index.
    fn damage(&self, cursor: &mut Cursor<'_>, cause: DamageCause) -> Box<Damage> {
        let place = cursor.place();
        let span = cursor.sound_span();
        self.damage_at(&place, span, cause)
    }

    fn damage_at(&self, place: &Place, span: Option<u64>, cause: DamageCause) -> Box<Damage> {
        let behind = || self.index.offset_behind(place.position).unwrap_or(self.end.offset);
        let end = span.map_or_else(behind, |span| place.offset.plus(span));
        let file = self.segment.file.clone();
        let (start, is_footer) = (place.offset, place.position >= self.end.position);
        let offsets = if is_footer { self.segment.header.base_offset..self.end.offset } else { start..end };
        Box::new(Damage { file, position: place.position, index: place.index, offsets, cause })
    }
}

fn fill(
    cursor: &mut Cursor<'_>,
    offset: Offset,
    max_bytes: usize,
    max_offset: Offset,
    out: &mut Batches,
) -> Result<(), DamageCause> {
    while let Some(header) = cursor.header()? {
        let at = cursor.place();
        if at.offset >= max_offset {
            break;
        }
        if header.kind != FrameKind::Entry(EntryKind::Batches)
            || at.offset.plus(u64::from(header.offset_span)) <= offset
        {
            cursor.skip(&header)?;
            continue;
        }
        let (payload, _) = cursor.entry(EntryKind::Batches, &header)?;
        for batch in BatchIter::packed(&payload) {
            let batch = batch?;
            let next_offset = batch.header.next_offset();
            if next_offset <= offset {
                continue;
            }
            if !out.has_room(batch.bytes.len(), max_bytes) || next_offset > max_offset {
                return Ok(());
            }
            verify_crc(batch.bytes)?;
            out.push(payload.slice_ref(batch.bytes), next_offset);
        }
        cursor.advance(&header);
    }
    Ok(())
}

fn fill_entries(
    cursor: &mut Cursor<'_>,
    low: LogIndex,
    high: LogIndex,
    max_bytes: usize,
    out: &mut Vec<Entry>,
) -> Result<(), DamageCause> {
    let mut bytes = 0;
    while let Some(header) = cursor.header()? {
        let FrameKind::Entry(kind) = header.kind else {
            cursor.skip(&header)?;
            continue;
        };
        if header.index < low {
            cursor.skip(&header)?;
            continue;
        }
        bytes += to_usize(u64::from(header.payload_bytes));
        if header.index >= high || (!out.is_empty() && bytes > max_bytes) {
            break;
        }
        let (payload, _) = cursor.whole_entry(kind, &header)?;
        out.push(Entry { index: header.index, term: header.term, kind, payload });
        cursor.advance(&header);
    }
    Ok(())
}

fn find_time(
    cursor: &mut Cursor<'_>,
    timestamp_ms: i64,
    min_offset: Offset,
    max_offset: Offset,
) -> Result<Option<Offset>, DamageCause> {
    while let Some(header) = cursor.header()? {
        if header.kind != FrameKind::Entry(EntryKind::Batches) {
            cursor.skip(&header)?;
            continue;
        }
        let (payload, _) = cursor.whole_entry(EntryKind::Batches, &header)?;
        for batch in BatchIter::packed(&payload) {
            let batch = batch?.header;
            if batch.max_timestamp_ms >= timestamp_ms && batch.next_offset() > min_offset {
                return Ok((batch.next_offset() <= max_offset).then_some(batch.base_offset));
            }
        }
        cursor.advance(&header);
    }
    Ok(None)
}
