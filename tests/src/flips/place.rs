//! Where in a node's files a bit flips, and whether it is as it was again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _, seq::SliceRandom as _};

use crate::rot::{self, Block, PAGE_BYTES};

/// Of a segment, as `docs/format.md` draws it.
const HEADER_BYTES: usize = 64;
const TRAILER_BYTES: usize = 64;
/// What an index frame begins with, and what any frame stands on a multiple of.
const INDEX_FRAME: &[u8] = b"LVDF\x01\x80";
const FRAME_ALIGN: usize = 64;

/// What of a node's data a bit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A block of the journal that the next start needs and that a later block proves. (The very last block looks, with a flipped
    /// bit, like one whose write the crash cut off.)
    Journal,
    /// The header of a sealed segment.
    SegmentHeader,
    /// Its frames of entries.
    SegmentEntries,
    /// Its index frames.
    SegmentIndex,
    /// Its directory and trailer.
    SegmentFooter,
    /// The segment that is still written.
    OpenSegment,
    /// A segment of the metadata.
    MetadataSegment,
    /// The checkpoint.
    Checkpoint,
    /// Whose directory it is.
    Identity,
    /// To which cluster it belongs.
    Founding,
}

impl Kind {
    /// All of them: `lock` and `reserve` are left, of which nobody reads what is in them.
    pub const ALL: [Self; 10] = [
        Self::Journal,
        Self::SegmentHeader,
        Self::SegmentEntries,
        Self::SegmentIndex,
        Self::SegmentFooter,
        Self::OpenSegment,
        Self::MetadataSegment,
        Self::Checkpoint,
        Self::Identity,
        Self::Founding,
    ];

    /// Its name in a table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::SegmentHeader => "segment, header",
            Self::SegmentEntries => "segment, entries",
            Self::SegmentIndex => "segment, index",
            Self::SegmentFooter => "segment, footer",
            Self::OpenSegment => "segment, open",
            Self::MetadataSegment => "segment, metadata",
            Self::Checkpoint => "checkpoint",
            Self::Identity => "identity",
            Self::Founding => "founding",
        }
    }

    /// So many, drawn in turns in which each comes once.
    pub fn deal(count: usize, dice: &mut StdRng) -> Vec<Self> {
        let mut dealt = Vec::with_capacity(count);
        while dealt.len() < count {
            let mut turn = Self::ALL;
            turn.shuffle(dice);
            dealt.extend(turn.into_iter().take(count - dealt.len()));
        }
        dealt
    }

    /// Whether a node reads it when it starts, and only then.
    #[must_use]
    pub const fn is_read_at_start(self) -> bool {
        matches!(self, Self::Journal | Self::Checkpoint | Self::Identity | Self::Founding)
    }

    /// A bit of this kind, every one as likely as any other of the file; `None` if there is none now.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn draw(self, data_dir: &Path, dice: &mut StdRng) -> Result<Option<Place>> {
        let drawn = match self {
            Self::Journal => return draw_block(data_dir, dice),
            Self::Checkpoint | Self::Identity | Self::Founding => {
                let file = data_dir.join(self.name());
                let sound = fs::read(&file)?;
                Some((file, dice.random_range(0..sound.len()), sound))
            }
            Self::OpenSegment => draw_written(&open_segments(data_dir)?, dice)?,
            Self::MetadataSegment => draw_written(&rot::segments_of(data_dir, |group| group == 0)?.concat(), dice)?,
            _ => self.draw_in_sealed(data_dir, dice)?,
        };
        Ok(drawn.map(|(file, at, sound)| Place {
            kind: self,
            file,
            at,
            bit: dice.random_range(0..8),
            sound,
            lsn: None,
        }))
    }

    fn draw_in_sealed(self, data_dir: &Path, dice: &mut StdRng) -> Result<Option<(PathBuf, usize, Vec<u8>)>> {
        let Some(file) = rot::sealed(data_dir)?.choose(dice).cloned() else { return Ok(None) };
        let sound = fs::read(&file)?;
        let footer = footer_start(&sound).with_context(|| format!("{} has no footer", file.display()))?;
        let index = index_bytes(&sound, footer);
        let at = match self {
            Self::SegmentHeader => Some(dice.random_range(0..HEADER_BYTES)),
            Self::SegmentIndex => index.choose(dice).copied(),
            Self::SegmentFooter => Some(dice.random_range(footer..sound.len())),
            _ => {
                let entries: Vec<usize> =
                    (HEADER_BYTES..footer).filter(|at| index.binary_search(at).is_err()).collect();
                entries.choose(dice).copied()
            }
        };
        Ok(at.map(|at| (file, at, sound)))
    }
}

/// Where the frames of a sealed segment end.
fn footer_start(segment: &[u8]) -> Option<usize> {
    let trailer = segment.len().checked_sub(TRAILER_BYTES)?;
    let frames_end = segment.get(trailer + 8..trailer + 16)?.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(frames_end)).ok().filter(|end| (HEADER_BYTES..=trailer).contains(end))
}

/// The bytes of index frames, in order.
fn index_bytes(segment: &[u8], footer: usize) -> Vec<usize> {
    let mut bytes = Vec::new();
    for at in (HEADER_BYTES..footer).step_by(FRAME_ALIGN).filter(|&at| segment[at..].starts_with(INDEX_FRAME)) {
        let payload = segment[at + 48..at + 52].try_into().map_or(0, u32::from_le_bytes);
        bytes.extend(at..(at + FRAME_ALIGN + payload as usize).min(footer));
    }
    bytes
}

fn open_segments(data_dir: &Path) -> Result<Vec<PathBuf>> {
    let of_groups = rot::segments_of(data_dir, |group| group > 0)?;
    Ok(of_groups.into_iter().filter_map(|mut segments| segments.pop()).collect())
}

/// A byte of what is written of a file, which may be longer already.
fn draw_written(files: &[PathBuf], dice: &mut StdRng) -> Result<Option<(PathBuf, usize, Vec<u8>)>> {
    let Some(file) = files.choose(dice) else { return Ok(None) };
    let mut sound = fs::read(file)?;
    sound.truncate(sound.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    Ok((sound.len() > HEADER_BYTES).then(|| (file.clone(), dice.random_range(0..sound.len()), sound)))
}

fn draw_block(data_dir: &Path, dice: &mut StdRng) -> Result<Option<Place>> {
    let replay_from = rot::replay_from(data_dir)?;
    let blocks = rot::blocks(data_dir)?;
    let synced = blocks.iter().map(|block| block.synced).max().unwrap_or(0);
    // What was written twice is not lost with one of them.
    let once = |block: &&Block| blocks.iter().filter(|other| other.lsn == block.lsn).count() == 1;
    let needed = blocks.iter().filter(|block| (replay_from..synced).contains(&block.lsn)).filter(once);
    let ranges = needed.map(|block| (block, block.header_bytes + block.frame_bytes));
    let ranges: Vec<(&Block, u64)> = ranges.collect();
    let Ok((block, bytes)) = ranges.choose_weighted(dice, |(_, bytes)| *bytes) else { return Ok(None) };
    let at = block.position + dice.random_range(0..*bytes);
    let place = Place {
        kind: Kind::Journal,
        file: block.file.clone(),
        at: usize::try_from(at)?,
        bit: dice.random_range(0..8),
        sound: page(&block.file, at)?,
        lsn: Some(block.lsn),
    };
    Ok(Some(place))
}

fn page(file: &Path, at: u64) -> Result<Vec<u8>> {
    rot::read(file, at / PAGE_BYTES * PAGE_BYTES, PAGE_BYTES)
}

/// A bit of a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it belongs to.
    pub kind: Kind,
    /// Its file.
    pub file: PathBuf,
    /// Its byte.
    pub at: usize,
    /// Which of it.
    pub bit: u8,
    /// What stood there before: of the journal the page, else all that was written of the file.
    sound: Vec<u8>,
    /// The block of the journal.
    lsn: Option<u64>,
}

impl Place {
    /// It flips.
    ///
    /// # Errors
    /// The file is gone, or shorter.
    pub fn flip(&self) -> Result<()> {
        rot::flip_bit(&self.file, self.at as u64, self.bit)
    }

    /// Whether nothing wrong is there any more: the file is gone, or says again what it said; of the journal, that no start needs
    /// the page; of a checkpoint, which another follows, that both of its copies are the same.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn is_mended(&self, data_dir: &Path) -> Result<bool> {
        if !self.file.exists() {
            return Ok(true);
        }
        if let Some(lsn) = self.lsn {
            let mut flipped = self.sound.clone();
            flipped[self.at % usize::try_from(PAGE_BYTES)?] ^= 1 << self.bit;
            return Ok(page(&self.file, self.at as u64)? != flipped || lsn < rot::replay_from(data_dir)?);
        }
        let found = fs::read(&self.file)?;
        Ok(if self.kind == Kind::Checkpoint {
            let (one, other) = found.split_at(found.len() / 2);
            one == other
        } else {
            found.starts_with(&self.sound)
        })
    }
}
