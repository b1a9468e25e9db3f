//! What the file of a segment must be, byte for byte, and looking whether one is.
//!
//! Segments are equal on all replicas. So what one node knows of a segment without looking at its file (where it begins,
//! where it ends, the checksum of all before) is enough to check any node's file of it: one that arrives for a new replica,
//! one that is to take the place of a damaged one, and one's own, whether it is still what was written.
//!
//! Where a replica has written on behind a lost index (`repair.rs`), its segments are its own from there on. Another node's file
//! is refused then like a damaged one, but with a cause of its own: [`DamageCause::Diverged`].

use levada_protocol::ids::{GroupId, LogIndex};

use crate::{
    codec::to_usize,
    disk::FileName,
    error::DamageCause,
    segment::{
        self, Mark, footer,
        format::{HEADER_BYTES, SegmentHeader},
    },
};

const SIZE: &str = "the length of the segment's file";
/// No footer is larger: a directory has a point for each index frame, which stands for about a megabyte.
const FOOTER_BYTES_MAX: usize = 16 << 20;
/// What is kept of the end of a file to find its own footer in it: enough for the largest segments.
const TAIL_BYTES_MAX: usize = 1 << 20;

/// What the file of a segment must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSpec {
    pub(super) header: SegmentHeader,
    pub(super) end: Mark,
    pub(super) sealed: bool,
}

impl SegmentSpec {
    /// If it is not sealed, the same as far as `end`, if that lies in it.
    pub(crate) fn up_to(self, end: Option<Mark>) -> Option<Self> {
        if self.sealed {
            return Some(self);
        }
        let end = end.filter(|end| end.index > self.header.first_index && end.position <= self.end.position)?;
        Some(Self { end, ..self })
    }

    /// Its first entry.
    #[must_use]
    pub const fn first_index(&self) -> LogIndex {
        self.header.first_index
    }

    /// The name of its file in a group.
    pub(super) fn file(&self, group: GroupId) -> FileName {
        segment_file(group, self.first_index())
    }

    /// How many bytes of its file are spoken for. A sealed segment's footer follows, up to the end of the file.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end.position
    }

    /// Whether it is complete.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Checks its file, piece by piece.
    #[must_use]
    pub fn check(&self) -> SegmentCheck {
        SegmentCheck {
            segment: self.clone(),
            position: 0,
            header: Vec::with_capacity(HEADER_BYTES),
            checksum: crc32fast::Hasher::new_with_initial(self.header.crc()),
            footer: Vec::new(),
            itself: None,
            tail: Vec::new(),
        }
    }
}

/// Looks at a segment's file from its first byte to its last.
#[derive(Clone, Debug)]
pub struct SegmentCheck {
    segment: SegmentSpec,
    position: u64,
    header: Vec<u8>,
    checksum: crc32fast::Hasher,
    footer: Vec<u8>,
    /// Of a segment that is sealed: the checksum of the whole file, going by its own header, and its last bytes.
    itself: Option<crc32fast::Hasher>,
    tail: Vec<u8>,
}

impl SegmentCheck {
    /// How far it has looked.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Whether there may be more to look at: of a sealed segment nobody knows before the end of the file.
    #[must_use]
    pub const fn wants_more(&self) -> bool {
        self.segment.sealed || self.position < self.segment.bytes()
    }

    /// Looks at the next bytes.
    ///
    /// # Errors
    /// There are more than there can be.
    pub fn update(&mut self, mut bytes: &[u8]) -> Result<(), DamageCause> {
        let frames_end = self.segment.bytes();
        self.position += bytes.len() as u64;
        let head = bytes.len().min(HEADER_BYTES.saturating_sub(self.header.len()));
        self.header.extend(bytes.split_off(..head).unwrap_or_default());
        self.look_at_itself(bytes);
        let before = self.position - bytes.len() as u64;
        let frames = bytes.len().min(to_usize(frames_end.saturating_sub(before)));
        self.checksum.update(bytes.split_off(..frames).unwrap_or_default());
        self.footer.extend(bytes);
        let is_too_long =
            if self.segment.sealed { self.footer.len() > FOOTER_BYTES_MAX } else { self.position > frames_end };
        if is_too_long { Err(DamageCause::Field { field: SIZE, value: self.position }) } else { Ok(()) }
    }

    /// At the end of the file: whether it is this segment.
    ///
    /// # Errors
    /// It is not. [`DamageCause::Diverged`] if it is a sound file of the same entries nevertheless.
    pub fn finish(&self) -> Result<(), DamageCause> {
        self.is_this_one().map_err(|cause| if self.is_another() { DamageCause::Diverged } else { cause })
    }

    /// Takes note of what stands behind the header, for [`SegmentCheck::is_another`].
    fn look_at_itself(&mut self, bytes: &[u8]) {
        let Some(crc) = self.header.last_chunk().filter(|_| self.segment.sealed && self.header.len() == HEADER_BYTES)
        else {
            return;
        };
        let initial = u32::from_le_bytes(*crc);
        self.itself.get_or_insert_with(|| crc32fast::Hasher::new_with_initial(initial)).update(bytes);
        self.tail.extend(bytes);
        if self.tail.len() > 2 * TAIL_BYTES_MAX {
            self.tail.drain(..self.tail.len() - TAIL_BYTES_MAX);
        }
    }

    /// Whether the file is that of a segment of the same entries, which differs in the chain of CRCs or in its index only.
    fn is_another(&self) -> bool {
        let SegmentSpec { header, end, .. } = &self.segment;
        let (Some(itself), Ok(found)) = (&self.itself, SegmentHeader::decode(&self.header)) else { return false };
        let is_same = found == SegmentHeader { previous_crc: found.previous_crc, ..*header };
        let found_end = footer::decode_end(&self.tail, self.position, &found, itself.clone().finalize());
        is_same && found_end.is_ok_and(|found| found.index == end.index && found.offset == end.offset)
    }

    fn is_this_one(&self) -> Result<(), DamageCause> {
        let SegmentSpec { end, sealed, .. } = &self.segment;
        if self.position < end.position {
            return Err(DamageCause::Short("a segment as a whole"));
        }
        let expected = self.segment.header.encode();
        if self.header != expected {
            let (stored, computed) = (crc32fast::hash(&self.header), crc32fast::hash(&expected));
            return Err(DamageCause::Checksum { what: "the header of a segment", stored, computed });
        }
        let computed = self.checksum.clone().finalize();
        if computed != end.checksum {
            return Err(DamageCause::Checksum { what: "a segment as a whole", stored: end.checksum, computed });
        }
        if *sealed { footer::decode(&self.footer, &self.segment.header, end).map(drop) } else { Ok(()) }
    }
}

/// The name of a group's segment.
#[must_use]
pub fn segment_file(group: GroupId, first_index: LogIndex) -> FileName {
    segment::file_name(group, first_index)
}
