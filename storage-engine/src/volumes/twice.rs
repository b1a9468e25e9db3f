//! Two directories have a file of the same name: one of them was away, or a crash came between putting a file in the place of
//! another directory's and removing that.
//!
//! The one in the directory that was used last stays, however long the other is: it was mended and synced while the other's
//! directory was away, and what a directory holds after a failed sync may be in the page cache only. The data directory is always
//! used. But a file may be the end of a segment alone: where no node has the beginning, a segment is written on without
//! (`store/repair.rs`), and that is a hole in a new file. Then the beginning comes from the others: bytes of a segment never
//! change, so what stands there is what belongs there.
//!
//! What is not covered by the file that stays is not removed: it gets another name (`.aside`), for whoever looks into it. Nor is
//! anything where the disk refuses; then it is tried again at the next start.

use super::{Place, Volume};
use crate::{
    codec::to_usize,
    disk::{Disk, DiskError, DiskOp, FileName},
    segment::DIRECTORY,
};

const PIECE_BYTES: usize = 1 << 20;
/// Frames begin at multiples of it, and are not zeros.
const ALIGN: u64 = 64;

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    /// One that holds nothing is nobody's.
    has_some: bool,
    last_used: u64,
    len: u64,
    /// Up to where it begins with zeros.
    hole: u64,
    place: Place,
}

/// Of all that were found one stays: where.
///
/// # Errors
/// There was no memory or descriptor to look with.
pub(super) fn settle(volumes: &[Volume], file: &FileName, places: &[Place]) -> Result<Option<Place>, DiskError> {
    let newest = places.iter().copied().max_by_key(|place| volumes[*place].last_used);
    match try_settle(volumes, file, places) {
        Err(error) if !error.is_want() => {
            tracing::error!(%file, %error, "directory.twice.left: which of two files counts could not be settled");
            Ok(newest)
        }
        settled => settled,
    }
}

fn try_settle(volumes: &[Volume], file: &FileName, places: &[Place]) -> Result<Option<Place>, DiskError> {
    let mut found = Vec::new();
    for &place in places {
        let Volume { disk, last_used, .. } = &volumes[place];
        let len = disk.len(file)?.unwrap_or(0);
        let hole = hole(&**disk, file, len)?;
        found.push(Found { has_some: hole < len, last_used: *last_used, len, hole, place });
    }
    // The newest first: each ends where the one behind it begins.
    found.sort_unstable();
    let Some(mut kept) = found.pop() else { return Ok(None) };
    while let Some(other) = found.pop() {
        let (from, to) = (&*volumes[other.place].disk, &*volumes[kept.place].disk);
        let fills = kept.hole > other.hole && other.len >= kept.hole;
        if fills {
            fill(from, to, file, other.hole..kept.hole)?;
            kept.hole = other.hole;
        }
        let is_covered = !other.has_some || kept.hole <= other.hole && other.len <= kept.len;
        let path = |place: Place| volumes[place].path.display();
        tracing::warn!(%file, gone = %path(other.place), kept = %path(kept.place), fills, is_covered, "directory.twice: one of two files of the same name goes");
        if is_covered {
            from.perform(&DiskOp::Remove { file: file.clone() })?;
        } else {
            let aside = FileName::new(format!("{file}.aside"));
            from.perform(&DiskOp::Rename { from: file.clone(), to: aside })?;
            from.perform(&DiskOp::SyncDir { dir: DIRECTORY.to_owned() })?;
        }
    }
    Ok(Some(kept.place))
}

/// Up to where a file begins with nothing but zeros.
fn hole(disk: &dyn Disk, file: &FileName, len: u64) -> Result<u64, DiskError> {
    let mut pos = 0;
    while pos < len {
        let piece = disk.read(file, pos, PIECE_BYTES)?;
        if piece.is_empty() {
            break;
        }
        if let Some(at) = piece.iter().position(|byte| *byte != 0) {
            return Ok((pos + at as u64) / ALIGN * ALIGN);
        }
        pos += piece.len() as u64;
    }
    Ok(pos)
}

/// Puts a file in the place of the one with the hole that has what belongs there: durably, or not at all.
fn fill(from: &dyn Disk, to: &dyn Disk, file: &FileName, hole: std::ops::Range<u64>) -> Result<(), DiskError> {
    // Whoever finds one of these at a start removes it (`store/incoming.rs`).
    let whole = FileName::new(format!("{}.part", file.as_str().trim_end_matches(".seg")));
    let len = to.len(file)?.unwrap_or(0);
    to.perform(&DiskOp::Create { file: whole.clone() })?;
    let mut pos = hole.start;
    while pos < len {
        let (source, end) = if pos < hole.end { (from, hole.end) } else { (to, len) };
        let bytes = source.read(file, pos, PIECE_BYTES.min(to_usize(end - pos)))?;
        if bytes.is_empty() {
            break;
        }
        let next = pos + bytes.len() as u64;
        to.perform(&DiskOp::Write { file: whole.clone(), pos, bufs: vec![bytes] })?;
        pos = next;
    }
    let names = [
        DiskOp::Sync { file: whole.clone() },
        DiskOp::Rename { from: whole, to: file.clone() },
        DiskOp::SyncDir { dir: DIRECTORY.to_owned() },
    ];
    names.iter().try_for_each(|op| to.perform(op))
}
