//! A segment as its readers hold it. Shared between the writer and any number of readers on other threads.
#![deny(clippy::indexing_slicing)]

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

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
    planted::{self, Planted},
};

/// How much is mapped at a time where only headers are looked at.
const SCAN_BYTES: usize = 256 * 1024;
/// How much is mapped at once where headers are all that is looked at.
const OUTLINE_BYTES: usize = 4 * 1024;
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
    /// Something of it could not be read.
    is_suspect: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    end: Mark,
    sealed: bool,
    index: Option<Arc<SegmentIndex>>,
    outlined: Option<Outlined>,
}

/// A stretch of a segment of which the index knows what the headers of its batches say, and nobody has verified them yet.
/// Where entries stand is proven by themselves; how old they are is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outlined {
    from: Place,
    to: Place,
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
        let (file, is_suspect) = (header.file(), AtomicBool::new(false));
        let state = Mutex::new(State { end, sealed, index, outlined: None });
        Self { file, header, index_interval_bytes, is_suspect, state }
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
        *state = State { end, sealed, index: Some(Arc::new(index)), outlined: state.outlined };
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
        let view = self.view(disk);
        let start = view.start(view.index.find_offset(offset), |point| point.offset <= offset);
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
        let view = self.view(disk);
        let start = view.start(view.index.find_index(low), |point| point.index <= low);
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
        let view = self.view(disk);
        let verified = self.verify_outlined(disk);
        if verified.as_ref().is_err_and(|cause| !cause.is_want()) {
            self.is_suspect.store(true, Ordering::Relaxed);
        }
        let is_sound = verified.is_ok();
        let mut start = match if is_sound { view.index.find_time(timestamp_ms) } else { Lookup::Start } {
            Lookup::Nothing => return Ok(None),
            Lookup::Frame(at) => {
                view.within(at.position, |points| points.iter().find(|p| p.max_timestamp_ms >= timestamp_ms).copied())
            }
            other => view.start(other, |_| true),
        };
        if start.offset < min_offset {
            start = view.start(view.index.find_offset(min_offset), |point| point.offset <= min_offset);
        }
        let mut cursor = view.cursor(start, SCAN_BYTES);
        find_time(&mut cursor, timestamp_ms, min_offset, max_offset).map_err(|cause| view.damage(&mut cursor, cause))
    }

    /// The index, loaded and verified if it is not.
    #[cfg(test)]
    pub(crate) fn index(&self, disk: &dyn Disk) -> Arc<SegmentIndex> {
        self.view(disk).index
    }

    /// The index, loaded if it is not, without reading much: for who writes on. It may turn out to be lost. `None` if there
    /// is nothing to look with.
    pub(crate) fn outline(&self, disk: &dyn Disk) -> Option<Arc<SegmentIndex>> {
        let (end, sealed, index) = {
            let state = self.state();
            (state.end, state.sealed, state.index.clone())
        };
        if index.is_some() {
            return index;
        }
        let view = View { disk, segment: self, end, index: Arc::default() };
        let loaded = view.load_index(sealed, Reading::Outlines);
        if loaded.in_want {
            return None;
        }
        let index = Arc::new(loaded.index);
        let mut state = self.state();
        if state.end == end && !loaded.again && state.index.is_none() {
            (state.index, state.outlined) = (Some(Arc::clone(&index)), loaded.outlined);
        }
        Some(index)
    }

    /// Whether the index says something that nobody has verified.
    pub(crate) fn is_outlined(&self) -> bool {
        self.state().outlined.is_some()
    }

    /// Verifies what the index was told by headers alone.
    ///
    /// # Errors
    /// It is damaged there.
    pub(crate) fn verify_outlined(&self, disk: &dyn Disk) -> Result<(), DamageCause> {
        let Some(outlined) = self.state().outlined else { return Ok(()) };
        let ahead = SCAN_BYTES;
        let mut cursor = Cursor::new(disk, &self.file, &self.header, outlined.from, outlined.to.position, ahead);
        while let Some(header) = cursor.header()? {
            match header.kind {
                FrameKind::Entry(kind) => drop(cursor.whole_entry(kind, &header)?),
                FrameKind::Index => return Err(DamageCause::Magic("entry")),
            }
            cursor.advance(&header);
        }
        if cursor.place() != outlined.to {
            return Err(DamageCause::Short("the segment"));
        }
        self.state().outlined = None;
        Ok(())
    }

    /// What the index was told is not so: nothing of it counts any more.
    pub(crate) fn lose_index(&self) {
        let mut state = self.state();
        (state.index, state.outlined) = (Some(Arc::new(SegmentIndex::lost())), None);
        self.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Whether something of it could not be read since this was asked last.
    pub(crate) fn take_suspicion(&self) -> bool {
        self.is_suspect.load(Ordering::Relaxed) && self.is_suspect.swap(false, Ordering::Relaxed)
    }

    fn view<'a>(&'a self, disk: &'a dyn Disk) -> View<'a> {
        let (end, sealed, index) = {
            let state = self.state();
            (state.end, state.sealed, state.index.clone())
        };
        if let Some(index) = index {
            return View { disk, segment: self, end, index };
        }
        let view = View { disk, segment: self, end, index: Arc::default() };
        let loaded = view.load_index(sealed, Reading::Entries);
        let index = Arc::new(loaded.index);
        let mut state = self.state();
        if state.end == end && !loaded.again && state.index.is_none() {
            state.index = Some(Arc::clone(&index));
        }
        View { index, ..view }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an index is made of frames that no index frame covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// They are read and verified.
    Entries,
    /// What the headers of their batches say is taken for true.
    Outlines,
}

/// An index as it could be loaded.
#[derive(Debug)]
struct Loaded {
    index: SegmentIndex,
    outlined: Option<Outlined>,
    /// Another attempt may find more.
    again: bool,
    /// There was nothing to look with.
    in_want: bool,
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
    fn start(&self, lookup: Lookup, is_before: impl Fn(&IndexPoint) -> bool) -> Place {
        match lookup {
            Lookup::Point(point) => Place::from(&point),
            Lookup::Frame(at) => self.within(at.position, |points| last_before(points, is_before)),
            Lookup::Start | Lookup::Nothing => self.first(),
        }
    }

    /// The place of the point that is picked from the index frame at `position`. Without that frame, which is damaged then,
    /// the stretch that it covers is walked through from its start.
    fn within(&self, position: u64, pick: impl FnOnce(&[IndexPoint]) -> Option<IndexPoint>) -> Place {
        let frame_at = |position| self.cursor(self.first(), 0).index_frame_at(position);
        match frame_at(position) {
            Ok((frame, _)) => pick(&frame.points).map_or_else(|| self.first(), |point| Place::from(&point)),
            Err(cause) => {
                if !cause.is_want() {
                    self.segment.is_suspect.store(true, Ordering::Relaxed);
                    tracing::error!(file = %self.segment.file, position, %cause, "segment.index.damaged");
                }
                let before = self.index.directory().iter().map(|frame| frame.position).rfind(|&frame| frame < position);
                before.and_then(|before| frame_at(before).ok()).map_or_else(|| self.first(), |(_, behind)| behind)
            }
        }
    }

    /// Where the first frame stands.
    fn first(&self) -> Place {
        Place::from(&Mark::start(&self.segment.header))
    }

    /// The index, from where it is quickest to get. Frames prove themselves, so without header and footer everything can
    /// still be found and read, and without an index frame from the start on.
    fn load_index(&self, sealed: bool, reading: Reading) -> Loaded {
        let file = &self.segment.file;
        let mut in_want = false;
        let mut report = |cause: &DamageCause, what| {
            if cause.is_want() {
                in_want = true;
                return;
            }
            self.segment.is_suspect.store(true, Ordering::Relaxed);
            tracing::error!(%file, %cause, what, "segment.frame.damaged: outside of its entries; it is read without that");
        };
        if let Err(cause) = self.check_header() {
            report(&cause, "header");
        }
        if sealed {
            match self.load_footer() {
                Ok(index) => return Loaded { index, outlined: None, again: false, in_want: false },
                Err(cause) => report(&cause, "footer"),
            }
        }
        match self.load_frames(reading) {
            Ok((index, outlined)) => Loaded { index, outlined, again: false, in_want: false },
            Err(cause) => {
                report(&cause, "index");
                let again = in_want || matches!(cause, DamageCause::Disk(_));
                Loaded { index: SegmentIndex::lost(), outlined: None, again, in_want: cause.is_want() }
            }
        }
    }

    fn load_footer(&self) -> Result<SegmentIndex, DamageCause> {
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

    /// From the last index frame back to the first, and then over the frames behind the last. There may be hundreds of
    /// megabytes of these; of their outlines, little has to be read.
    fn load_frames(&self, reading: Reading) -> Result<(SegmentIndex, Option<Outlined>), DamageCause> {
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
        let from = behind.unwrap_or(first);
        let mut cursor = match reading {
            Reading::Entries => self.cursor(from, SCAN_BYTES),
            Reading::Outlines => {
                let Self { disk, segment, end, .. } = self;
                Cursor::new(*disk, &segment.file, &segment.header, from, end.position, OUTLINE_BYTES)
            }
        };
        while let Some(header) = cursor.header()? {
            let at = cursor.place();
            let FrameKind::Entry(kind) = header.kind else { return Err(DamageCause::Magic("entry")) };
            let entry = match reading {
                Reading::Entries => cursor.whole_entry(kind, &header)?.1,
                Reading::Outlines => cursor.outline(kind, &header)?,
            };
            let mut point = IndexPoint::new(at.offset, at.index, at.position, at.previous_crc);
            point.add(entry.max_timestamp_ms, entry.records);
            index.add(point, self.segment.index_interval_bytes);
            cursor.advance(&header);
        }
        if cursor.place() != Place::from(&self.end) {
            return Err(DamageCause::Short("the segment"));
        }
        let outlined = Outlined { from, to: cursor.place() };
        let is_outlined = reading == Reading::Outlines && outlined.from != outlined.to;
        Ok((index, is_outlined.then_some(outlined)))
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
        if !cause.is_want() {
            self.segment.is_suspect.store(true, Ordering::Relaxed);
        }
        let behind = || self.index.offset_behind(place.position).unwrap_or(self.end.offset);
        let end = span.map_or_else(behind, |span| place.offset.plus(span));
        let file = self.segment.file.clone();
        Box::new(Damage { file, position: place.position, index: place.index, offsets: place.offset..end, cause })
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
            if !planted::is(Planted::SegmentUnchecked) {
                verify_crc(batch.bytes)?;
            }
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
