//! Appends frames to a segment: entries in, operations for the disk out.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Mark, footer,
    format::{FrameHeader, FrameKind, SegmentHeader, padding},
    index::{IndexFrame, IndexPoint, POINTS_PER_FRAME, SegmentIndex},
    reader::Segment,
};
use crate::{
    config::SegmentConfig,
    disk::{Disk, DiskOp},
    entry::Entry,
    error::DamageCause,
    payload::Summary,
};

/// The one writer of a segment.
///
/// Invariants:
/// - `at` is behind the last frame pushed; what lies between what the segment's readers know and `at` was pushed, and
///   given to the disk or stands in `bufs`;
/// - `index` covers everything before `at`.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    segment: Arc<Segment>,
    config: SegmentConfig,
    at: Mark,
    index: SegmentIndex,
    /// Makes the file, if it is not there.
    first_op: Option<DiskOp>,
    bufs: Vec<Bytes>,
    /// Where the first of `bufs` goes.
    bufs_position: u64,
    /// Up to where space is reserved.
    allocated_bytes: u64,
    /// Up to where the kernel was asked to write back.
    written_back: u64,
}

impl SegmentWriter {
    /// Starts a new segment.
    pub(crate) fn create(header: SegmentHeader, config: SegmentConfig) -> Self {
        let segment = Segment::create(header, config.index_interval_bytes);
        Self {
            first_op: Some(DiskOp::Create { file: segment.file().clone() }),
            at: Mark::start(&header),
            index: SegmentIndex::default(),
            bufs: vec![Bytes::copy_from_slice(&header.encode())],
            bufs_position: 0,
            allocated_bytes: 0,
            written_back: 0,
            segment: Arc::new(segment),
            config,
        }
    }

    /// Goes on where the checkpoint says that the segment ends; what a crash left behind that is overwritten. What is lost
    /// before it (a missing file, an index that cannot be read) stays lost, and shows as damage to whoever reads it.
    pub(crate) fn resume(segment: Arc<Segment>, disk: &dyn Disk, config: SegmentConfig) -> Self {
        let at = segment.end();
        let file = segment.file().clone();
        let first_op = matches!(disk.len(&file), Ok(None)).then_some(DiskOp::Create { file });
        let index = segment.outline(disk).map_or_else(SegmentIndex::lost, Arc::unwrap_or_clone);
        let (bufs_position, allocated_bytes, written_back) = (at.position, at.position, at.position);
        Self { segment, config, at, index, first_op, bufs: Vec::new(), bufs_position, allocated_bytes, written_back }
    }

    pub(crate) const fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Behind the last frame pushed.
    pub(crate) const fn at(&self) -> &Mark {
        &self.at
    }

    /// What was pushed and not taken.
    pub(crate) const fn pending_bytes(&self) -> u64 {
        self.at.position - self.bufs_position
    }

    /// Before so many bytes are pushed, or the segment is sealed: what would go into an index frame must be verified.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn verify(&self, disk: &dyn Disk, bytes: u64, seals: bool) -> Result<(), DamageCause> {
        let points = self.index.points().len() as u64 + bytes / self.config.index_interval_bytes.max(1) + 2;
        if self.segment.is_outlined() && (seals || points >= POINTS_PER_FRAME as u64) {
            self.segment.verify_outlined(disk)?;
        }
        Ok(())
    }

    /// Appends the frame of an entry, the next one.
    pub(crate) fn push(&mut self, entry: &Entry, summary: &Summary) {
        assert_eq!(entry.index, self.at.index, "entries of a segment have no gaps");
        if self.index.is_full() {
            self.push_index();
        }
        let mut point = IndexPoint::new(self.at.offset, self.at.index, self.at.position, self.at.previous_crc);
        point.add(summary.max_timestamp_ms, summary.records);
        self.index.add(point, self.config.index_interval_bytes);
        self.put(
            FrameHeader {
                index: entry.index,
                term: entry.term,
                offset_span: summary.offset_span,
                ..self.frame(FrameKind::Entry(entry.kind))
            },
            entry.payload.clone(),
        );
        self.at.index = entry.index.next();
        self.at.offset = summary.next_offset;
        self.at.max_timestamp_ms = self.at.max_timestamp_ms.max(summary.max_timestamp_ms);
    }

    /// What must be done to the file so that everything pushed is written.
    pub(crate) fn take(&mut self) -> Vec<DiskOp> {
        let mut ops: Vec<DiskOp> = self.first_op.take().into_iter().collect();
        if self.bufs.is_empty() {
            return ops;
        }
        let file = self.segment.file();
        if self.at.position > self.allocated_bytes {
            self.allocated_bytes = self.config.allocation(self.allocated_bytes, self.at.position);
            ops.push(DiskOp::Preallocate { file: file.clone(), len: self.allocated_bytes });
        }
        let bufs = std::mem::take(&mut self.bufs);
        ops.push(DiskOp::Write { file: file.clone(), pos: self.bufs_position, bufs });
        self.bufs_position = self.at.position;
        let len = self.at.position - self.written_back;
        if len >= self.config.writeback_bytes {
            ops.push(DiskOp::Writeback { file: file.clone(), pos: self.written_back, len });
            self.written_back = self.at.position;
        }
        ops
    }

    /// What must be done to the file so that everything pushed is written, and the segment complete and durable.
    pub(crate) fn seal(&mut self) -> Vec<DiskOp> {
        if !self.index.points().is_empty() {
            self.push_index();
        }
        let mut ops = self.take();
        let file = self.segment.file();
        let footer = footer::encode(self.segment.header(), &self.at, self.index.directory());
        let len = footer::file_bytes(self.at.position, self.index.directory().len());
        ops.push(DiskOp::Write { file: file.clone(), pos: self.at.position, bufs: vec![footer.into()] });
        ops.push(DiskOp::Truncate { file: file.clone(), len });
        ops.push(DiskOp::Sync { file: file.clone() });
        ops
    }

    /// Everything taken so far is written: readers may go there.
    pub(crate) fn publish(&self, sealed: bool) {
        debug_assert!(self.bufs.is_empty(), "only what was taken can have been written");
        self.segment.publish(self.at, sealed, self.index.clone());
    }

    fn push_index(&mut self) {
        let position = self.at.position;
        let points = self.index.points().to_vec();
        let frame = IndexFrame { previous: self.at.index_frame, next_offset: self.at.offset, points };
        self.put(self.frame(FrameKind::Index), frame.encode().into());
        self.at.index_frame = position;
        self.index.points_written(position);
    }

    /// The header of a frame of no entry.
    fn frame(&self, kind: FrameKind) -> FrameHeader {
        let header = self.segment.header();
        FrameHeader {
            kind,
            topic_partition: header.topic_partition,
            generation: header.generation,
            index: levada_protocol::ids::LogIndex(self.at.index.get() - 1),
            term: levada_protocol::ids::Term(0),
            payload_bytes: 0,
            previous_crc: self.at.previous_crc,
            offset_span: 0,
            crc: 0,
        }
    }

    fn put(&mut self, mut header: FrameHeader, payload: Bytes) {
        header.payload_bytes = u32::try_from(payload.len()).expect("payloads are bounded where entries are appended");
        let bytes = header.encode(&payload).expect("batches are checked where entries are appended");
        let padding = Bytes::from_static(padding(payload.len()));
        let mut checksum = crc32fast::Hasher::new_with_initial(self.at.checksum);
        for buf in [Bytes::copy_from_slice(&bytes), payload, padding] {
            checksum.update(&buf);
            if !buf.is_empty() {
                self.bufs.push(buf);
            }
        }
        self.at.checksum = checksum.finalize();
        self.at.previous_crc = header.crc;
        self.at.position += header.frame_bytes();
    }
}
