//! Looking at every page of every file for blocks.
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use levada_protocol::{
    ids::{GroupId, Lsn},
    limits::MIB,
};

use super::{
    JOURNAL_DIR, JournalId,
    files::{self, JournalFile},
    format::{BlockHeader, HeaderError, PAGE_BYTES, Table, peek},
    replay::ReplayError,
};
use crate::{
    disk::{Disk, DiskError, FileName},
    entry::Entry,
};

/// How much is read at once. Larger blocks are read one by one.
const WINDOW_BYTES: usize = MIB;

/// A block whose header is sound.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) header: BlockHeader,
    pub(super) frames: Frames,
}

/// What the frames of a block look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    /// All there, all sound.
    Whole,
    /// Not as they were written, or not written.
    Unsound,
    /// The disk does not give them back.
    Unreadable,
}

impl Found {
    pub(super) fn is_whole(&self) -> bool {
        self.frames == Frames::Whole
    }
}

/// What the directory holds.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) files: Vec<JournalFile>,
    pub(super) found: Vec<Found>,
    /// What misplaced blocks (a file was renamed, a write went astray) say was durable.
    pub(super) misplaced_synced: Lsn,
    /// Files and positions that the disk did not give back, where the header of a block may stand.
    pub(super) unreadable: Vec<(u32, u64)>,
}

impl Survey {
    /// The file that was written last, as long as it was, if it is shorter now: files are made in their full length before a
    /// block goes into them, so its end is lost, with whatever stood there. No later block tells of it.
    pub(super) fn cut_file(&self) -> Option<JournalFile> {
        let newest = self.found.iter().map(|found| &found.header.id).max_by_key(|id| id.generation)?;
        let there = self.files.iter().find(|file| file.number == newest.file)?;
        (there.bytes < newest.file_bytes()).then(|| JournalFile { bytes: newest.file_bytes(), ..*there })
    }
}

/// Reads a file from its start to its end, most of it only once.
struct Pages<'a> {
    disk: &'a dyn Disk,
    file: FileName,
    file_bytes: u64,
    window_pos: u64,
    window: Bytes,
    /// There was no memory or descriptor to read with: what a file holds is not known then, and nothing of it is damaged.
    in_want: Option<DiskError>,
}

impl Pages<'_> {
    /// The bytes at `pos`; `None` when the file ends before or the disk does not give them back.
    fn bytes(&mut self, pos: u64, len: usize) -> Option<Bytes> {
        if !self.contains(pos, len) {
            return None;
        }
        if let Some(bytes) = self.within(pos, len) {
            return Some(bytes);
        }
        if len < WINDOW_BYTES
            && let Ok(window) = self.disk.read(&self.file, pos, WINDOW_BYTES)
        {
            (self.window_pos, self.window) = (pos, window);
            return self.within(pos, len);
        }
        // Too large, or a sector in the window is bad: then page by page.
        match self.disk.read(&self.file, pos, len) {
            Ok(bytes) => Some(bytes).filter(|bytes| bytes.len() == len),
            Err(error) => {
                if error.is_want() {
                    self.in_want = Some(error);
                }
                None
            }
        }
    }

    fn contains(&self, pos: u64, len: usize) -> bool {
        pos.checked_add(len as u64).is_some_and(|end| end <= self.file_bytes)
    }

    fn within(&self, pos: u64, len: usize) -> Option<Bytes> {
        let start = usize::try_from(pos.checked_sub(self.window_pos)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.window.len()).then(|| self.window.slice(start..end))
    }
}

/// What of the journal's space is not there.
#[derive(Debug)]
pub(crate) struct Lacking {
    /// Pages that the disk does not give back.
    pub(crate) pages: Vec<(FileName, u64)>,
    /// A file that is shorter than it was, and how long that was.
    pub(crate) end: Option<(FileName, u64)>,
}

/// Looks for it.
pub(crate) fn lacking(disk: &dyn Disk, journal: JournalId) -> Result<Lacking, ReplayError> {
    let survey = survey(disk, journal)?;
    let end = survey.cut_file().map(|file| (files::name(file.number), file.bytes));
    let pages = survey.unreadable.into_iter().map(|(file, pos)| (files::name(file), pos)).collect();
    Ok(Lacking { pages, end })
}

/// Looks at all files.
pub(super) fn survey(disk: &dyn Disk, journal: JournalId) -> Result<Survey, ReplayError> {
    let mut survey = Survey::default();
    for name in disk.list(JOURNAL_DIR)? {
        let Some(number) = files::number(&name) else { continue };
        let file = files::name(number);
        let bytes = disk.len(&file)?.unwrap_or(0);
        survey.files.push(JournalFile { number, bytes });
        let mut pages = Pages { disk, file, file_bytes: bytes, window_pos: 0, window: Bytes::new(), in_want: None };
        survey_file(&mut survey, &mut pages, number, journal)?;
        if let Some(error) = pages.in_want {
            return Err(error.into());
        }
    }
    Ok(survey)
}

fn survey_file(survey: &mut Survey, pages: &mut Pages<'_>, number: u32, journal: JournalId) -> Result<(), ReplayError> {
    let mut pos = 0;
    while pos + PAGE_BYTES as u64 <= pages.file_bytes {
        let Some(page) = pages.bytes(pos, PAGE_BYTES) else {
            survey.unreadable.push((number, pos));
            pos += PAGE_BYTES as u64;
            continue;
        };
        let header = peek(&page, journal).map(|len| pages.bytes(pos, len).ok_or(len));
        let header = match header.map(|bytes| bytes.map(|bytes| BlockHeader::decode(&bytes))) {
            // At the start of a file only: elsewhere it may be anything's payload.
            Some(Ok(Err(HeaderError::Later(version)))) if pos == 0 => {
                return Err(ReplayError::LaterVersion { file: pages.file.clone(), version });
            }
            Some(Ok(Ok(header))) if header.id.file == number && header.id.pos() == pos => Some(header),
            Some(Ok(Ok(misplaced))) => {
                survey.misplaced_synced = survey.misplaced_synced.max(misplaced.id.synced_lsn);
                None
            }
            Some(Err(len)) if pages.contains(pos, len) => {
                survey.unreadable.push((number, pos));
                None
            }
            _ => None,
        };
        let Some(mut header) = header else {
            pos += PAGE_BYTES as u64;
            continue;
        };
        let block = pages.bytes(pos, header.block_bytes());
        let decode = |block: Bytes| header.decode_frames(block.slice(header.header_bytes()..));
        let frames = match block.map(decode) {
            Some(Some(_)) => Frames::Whole,
            None if pages.contains(pos, header.block_bytes()) => Frames::Unreadable,
            Some(None) | None => Frames::Unsound,
        };
        // What a whole block covers is its own payload; what a torn one would cover may be anything.
        if frames == Frames::Whole {
            pos += header.padded_bytes();
            header.forget_table();
        } else {
            pos += PAGE_BYTES as u64;
        }
        survey.found.push(Found { header, frames });
    }
    Ok(())
}

/// Reads a block again that the survey found whole.
pub(super) fn load(disk: &dyn Disk, found: &Found) -> Result<(Table, Vec<(GroupId, Entry)>), ReplayError> {
    let BlockHeader { id, .. } = found.header;
    let file = files::name(id.file);
    let bytes = disk.read(&file, id.pos(), found.header.block_bytes())?;
    let decode = || {
        let header = BlockHeader::decode(bytes.get(..found.header.header_bytes())?).ok()?;
        let frames = header.decode_frames(bytes.slice(header.header_bytes()..))?;
        (header.id == id).then_some((header.table, frames))
    };
    decode().ok_or(ReplayError::Unstable { lsn: id.lsn, file })
}
