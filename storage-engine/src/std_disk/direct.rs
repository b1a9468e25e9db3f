//! Writing around the page cache (`O_DIRECT`).
//!
//! Journal and segments are written once, in order, and what is fresh is served from memory. Through the page cache such
//! writes cost twice: pages must be found and filled, and the kernel decides when they go to the disk, in bursts that
//! the journal's next sync waits behind. Written directly, a lane has one write with the disk at a time, which paces
//! it, and little is left to do for a sync: to flush the disk's own cache, and of a segment its last page and its length.
//! `docs/adr/0004` has the figures.
//!
//! The disk takes whole pages from buffers that begin at one. So of a write the whole pages go directly, copied into
//! such a buffer piece by piece; what lies before and after them goes through the cache. Reads and maps go through the
//! cache as ever: the kernel drops what it has of a range that is written directly, and nobody reads a range before it is
//! written. A file system that knows nothing of it is written to through the cache.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{descriptors::Handle, write_all_vectored};

/// What disks take from memory: position, length and buffer are multiples of it.
const PAGE_BYTES: usize = 4096;
/// What is written at once.
const PIECE_BYTES: usize = 1024 * 1024;
/// Buffers that are kept: one for each lane.
const BUFFERS_MAX: usize = 2;

/// Writes directly, where the file system lets it.
#[derive(Debug)]
pub(super) struct Direct {
    buffers: Mutex<Vec<Buffer>>,
    is_refused: AtomicBool,
}

/// Memory that begins at a page.
#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; PIECE_BYTES + PAGE_BYTES];
        let start = bytes.as_ptr().align_offset(PAGE_BYTES);
        Self { bytes, start }
    }

    fn piece(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}

impl Direct {
    /// With `wanted`, writes directly; else everything goes through the cache.
    pub(super) fn new(wanted: bool) -> Self {
        Self { buffers: Mutex::default(), is_refused: AtomicBool::new(!wanted) }
    }

    /// Writes all buffers one after the other at `pos`. `path` is the file's own.
    pub(super) fn write(&self, handle: &Handle, path: &Path, pos: u64, bufs: &[Bytes]) -> io::Result<()> {
        let len: usize = bufs.iter().map(Bytes::len).sum();
        let (head, whole) = whole_pages(pos, len);
        let direct = if whole > 0 { self.open(handle, path) } else { None };
        let Some(direct) = direct else { return write_all_vectored(&handle.file, pos, bufs) };
        let mut source = Source { bufs, taken: 0 };
        let mut buffer = self.buffer();
        if head > 0 {
            let piece = buffer.piece(head);
            source.take(piece);
            handle.file.write_all_at(piece, pos)?;
        }
        let (mut at, end) = (pos + head as u64, pos + (head + whole) as u64);
        while at < end {
            let piece = buffer.piece(PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES)));
            source.take(piece);
            self.write_piece(direct, handle, at, piece)?;
            at += piece.len() as u64;
        }
        if head + whole < len {
            let piece = buffer.piece(len - head - whole);
            source.take(piece);
            handle.file.write_all_at(piece, end)?;
        }
        self.give_back(buffer);
        Ok(())
    }

    /// Writes zeros from the start up to `len`, a multiple of pages. Answers whether it could.
    pub(super) fn write_zeros(&self, handle: &Handle, path: &Path, len: u64) -> io::Result<bool> {
        if !len.is_multiple_of(PAGE_BYTES as u64) {
            return Ok(false);
        }
        let Some(direct) = self.open(handle, path) else { return Ok(false) };
        let mut buffer = self.buffer();
        buffer.piece(PIECE_BYTES).fill(0);
        let mut at = 0;
        while at < len {
            let piece = buffer.piece(PIECE_BYTES.min(usize::try_from(len - at).unwrap_or(PIECE_BYTES)));
            self.write_piece(direct, handle, at, piece)?;
            at += piece.len() as u64;
        }
        self.give_back(buffer);
        Ok(true)
    }

    /// Reads up to `len` bytes at `pos` from the disk itself; `None` where that cannot be.
    pub(super) fn read(&self, path: &Path, pos: u64, len: usize) -> io::Result<Option<Bytes>> {
        if self.is_refused() || !pos.is_multiple_of(PAGE_BYTES as u64) || len > PIECE_BYTES {
            return Ok(None);
        }
        let mut buffer = self.buffer();
        let piece = buffer.piece(len.next_multiple_of(PAGE_BYTES));
        let result = match read_directly(path, pos, piece) {
            Ok(filled) => Ok(Some(Bytes::copy_from_slice(&piece[..filled.min(len)]))),
            Err(error) if is_refusal(&error) => Ok(None),
            Err(error) => Err(error),
        };
        self.give_back(buffer);
        result
    }

    fn write_piece(&self, direct: &File, handle: &Handle, at: u64, piece: &[u8]) -> io::Result<()> {
        if !self.is_refused() {
            match direct.write_all_at(piece, at) {
                Err(error) if is_refusal(&error) => self.refuse(),
                other => return other,
            }
        }
        handle.file.write_all_at(piece, at)
    }

    /// The file, for direct writes; `None` where there are none.
    fn open<'h>(&self, handle: &'h Handle, path: &Path) -> Option<&'h File> {
        if self.is_refused() {
            return None;
        }
        if handle.direct.get().is_none() {
            match OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path) {
                Ok(file) => drop(handle.direct.set(file)),
                Err(error) if is_refusal(&error) => self.refuse(),
                // No descriptor left, say: the other one is there.
                Err(error) => tracing::warn!(file = %path.display(), %error, "disk.buffered: not written directly"),
            }
        }
        handle.direct.get()
    }

    fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    fn refuse(&self) {
        tracing::info!("disk.buffered: the file system takes no direct writes; they go through the page cache");
        self.is_refused.store(true, Ordering::Relaxed);
    }

    fn buffer(&self) -> Buffer {
        self.lock().pop().unwrap_or_else(Buffer::new)
    }

    fn give_back(&self, buffer: Buffer) {
        let mut buffers = self.lock();
        if buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Buffer>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills a piece of whole pages, or less of it at the end of the file.
fn read_directly(path: &Path, pos: u64, piece: &mut [u8]) -> io::Result<usize> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut filled = 0;
    // Less than a page more is the end of the file.
    while filled < piece.len() && filled.is_multiple_of(PAGE_BYTES) {
        match file.read_at(&mut piece[filled..], pos + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Of a write of `len` bytes at `pos`: what lies before its first whole page, and how much its whole pages are.
fn whole_pages(pos: u64, len: usize) -> (usize, usize) {
    let within = usize::try_from(pos % PAGE_BYTES as u64).unwrap_or(0);
    let head = (PAGE_BYTES - within) % PAGE_BYTES;
    let whole = len.saturating_sub(head) / PAGE_BYTES * PAGE_BYTES;
    if whole == 0 { (0, 0) } else { (head, whole) }
}

/// Buffers, read one after the other.
struct Source<'b> {
    bufs: &'b [Bytes],
    /// Of the first of them.
    taken: usize,
}

impl Source<'_> {
    /// Fills `piece`; there is as much.
    fn take(&mut self, mut piece: &mut [u8]) {
        while !piece.is_empty()
            && let Some((first, others)) = self.bufs.split_first()
        {
            let rest = &first[self.taken..];
            let len = rest.len().min(piece.len());
            piece[..len].copy_from_slice(&rest[..len]);
            piece = &mut piece[len..];
            self.taken += len;
            if self.taken == first.len() {
                (self.bufs, self.taken) = (others, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_go_directly() {
        assert_eq!(whole_pages(0, 4096), (0, 4096));
        assert_eq!(whole_pages(0, 4095), (0, 0));
        assert_eq!(whole_pages(1, 4096), (0, 0), "two pages, neither of them whole");
        assert_eq!(whole_pages(1, 2 * 4096), (4095, 4096));
        assert_eq!(whole_pages(4000, 96 + 3 * 4096 + 7), (96, 3 * 4096));
        assert_eq!(whole_pages(8192, 0), (0, 0));
    }

    #[test]
    fn every_byte_arrives_wherever_it_is_cut() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let handle = Handle::new(file);
        let direct = Direct::new(true);
        let bytes: Vec<u8> = (0..=250_u8).cycle().take(3 * PIECE_BYTES).collect();
        let mut pos = 0;
        for (round, len) in [10, 4096, 5000, PIECE_BYTES + 77, 1, 0, 2 * PIECE_BYTES + 4096].into_iter().enumerate() {
            let part = Bytes::copy_from_slice(&bytes[round..round + len]);
            let bufs = [part.slice(..len / 3), Bytes::new(), part.slice(len / 3..len / 2), part.slice(len / 2..)];
            direct.write(&handle, &path, pos, &bufs).unwrap();
            let mut read = vec![0; len];
            handle.file.read_exact_at(&mut read, pos).unwrap();
            assert!(read == part, "{len} bytes at {pos}");
            pos += len as u64;
        }
        assert_eq!(handle.file.metadata().unwrap().len(), pos);
        assert_ne!(direct.is_refused(), handle.direct.get().is_some());
        if direct.is_refused() {
            eprintln!("SKIPPED: this file system takes no direct writes");
        }
        assert_eq!(direct.lock().len(), 1, "the buffer is used again");
    }

    /// As when the process has no descriptor left.
    #[test]
    fn a_file_that_cannot_be_opened_once_more_is_written_to_all_the_same() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let handle = Handle::new(file);
        let direct = Direct::new(true);
        direct.write(&handle, &dir.path().join("nothing"), 1, &[Bytes::from(vec![7; 10_000])]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [vec![0], vec![7; 10_000]].concat());
        assert!(handle.direct.get().is_none() && !direct.is_refused(), "the next file is tried");
    }

    #[test]
    fn a_file_system_that_refuses_is_written_to_all_the_same() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let handle = Handle::new(file);
        let direct = Direct::new(false);
        direct.write(&handle, &path, 1, &[Bytes::from(vec![7; 10_000])]).unwrap();
        assert!(!direct.write_zeros(&handle, &path, 4096).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), [vec![0], vec![7; 10_000]].concat());
        assert!(handle.direct.get().is_none());
    }
}
