//! What the file of a segment must be, byte for byte, and looking whether one is.
//!
//! Segments are equal on all replicas. So what one node knows of a segment without looking at its file (where it begins,
//! where it ends, the checksum of all before) is enough to check any node's file of it: one that arrives for a new replica,
//! one that is to take the place of a damaged one, and one's own, whether it is still what was written.

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
    /// It is not.
    pub fn finish(&self) -> Result<(), DamageCause> {
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
