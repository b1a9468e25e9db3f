//! Two directories have a file of the same name: one of them was away, or a crash came between putting a file in the place of
//! another directory's and removing that.
//!
//! The one in the directory that was used last stays, however long the other is: it was mended and synced while the other's
//! directory was away, and what a directory holds after a failed sync may be in the page cache only. But it may be the end of a
//! segment alone. Where no node has the beginning, a segment is written on without (`store/repair.rs`), and that is a hole
//! in a new file. Then the beginning comes from the other one, before that goes: bytes of a segment never change, so what
//! stands there is what belongs there.

use super::{Place, Volume};
use crate::{
    codec::to_usize,
    disk::{Disk, DiskError, DiskOp, FileName},
    segment::DIRECTORY,
};

const PIECE_BYTES: usize = 1 << 20;
/// Frames begin at multiples of it, and are not zeros.
const ALIGN: u64 = 64;

/// Of all that were found one stays: where. Nothing goes while not all can be read; the error says where.
pub(super) fn settle(
    volumes: &[Volume],
    file: &FileName,
    places: &[Place],
) -> Result<Option<Place>, (Place, DiskError)> {
    let mut found = Vec::new();
    for &place in places {
        let Volume { disk, last_used, .. } = &volumes[place];
        let failed = |error| (place, error);
        let len = disk.len(file).map_err(failed)?.unwrap_or(0);
        let hole = hole(&**disk, file, len).map_err(failed)?;
        // One that holds nothing is nobody's.
        found.push((hole < len, *last_used, len, hole, place));
    }
    found.sort_unstable();
    let Some((_, _, _, hole, kept)) = found.pop() else { return Ok(None) };
    let mut hole = hole;
    while let Some((_, _, len, begins, gone)) = found.pop() {
        let (from, to) = (&*volumes[gone].disk, &*volumes[kept].disk);
        let fills = hole > 0 && begins == 0 && len >= hole;
        if fills {
            fill(from, to, file, hole).map_err(|error| (kept, error))?;
            hole = 0;
        }
        let path = |place: Place| volumes[place].path.display();
        tracing::warn!(%file, gone = %path(gone), kept = %path(kept), fills, "directory.twice: one of two files of the same name goes");
        from.perform(&DiskOp::Remove { file: file.clone() }).map_err(|error| (gone, error))?;
    }
    Ok(Some(kept))
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

/// Puts a file in the place of the one with the hole that has all of it: durably, or not at all.
fn fill(from: &dyn Disk, to: &dyn Disk, file: &FileName, hole: u64) -> Result<(), DiskError> {
    // Whoever finds one of these at a start removes it (`store/incoming.rs`).
    let whole = FileName::new(format!("{}.part", file.as_str().trim_end_matches(".seg")));
    let len = to.len(file)?.unwrap_or(0);
    to.perform(&DiskOp::Create { file: whole.clone() })?;
    let mut pos = 0;
    while pos < len {
        let (source, end) = if pos < hole { (from, hole) } else { (to, len) };
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
