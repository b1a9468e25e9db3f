//! Reading files through memory maps, and the other system call that has no safe wrapper: the only `unsafe` of the
//! workspace.
//!
//! A map is read-only and shared by everyone who holds a slice of it. Three things could go wrong when its memory is
//! touched, and each has its answer here:
//!
//! * *Beyond the file's end* the kernel answers with SIGBUS. A slice is only handed out below the length that `fstat`
//!   gave, and a file never becomes shorter than what is asked for: readers ask for nothing beyond the published `end` of
//!   a segment, and what cuts its file (a seal, after leftovers of a crash) cuts behind that.
//! * *A sector that cannot be read* would be a SIGBUS too. Every range is populated with `MADV_POPULATE_READ` first,
//!   which reports the failure as an error. A page that is evicted and then fails ends the process; [`report_faults`] has
//!   it say first which file it was, and where.
//! * *Bytes that change* under a slice. Only ranges that are written once are mapped; what is appended lies behind them.
//!
//! A map is longer than its file, up to the next window (`window_bytes`), so that a growing segment is mapped anew
//! only when it leaves its window. A map lives as long as the cached descriptor of its file, which bounds how many there
//! are (`vm.max_map_count` bounds them too), and as long as anyone holds a slice of it.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

const WINDOW_BYTES_MIN: u64 = 64 * 1024;
const WINDOW_BYTES_STEP: u64 = 64 * 1024 * 1024;

/// How much address space a map of a file of this length takes: doubling up to 64 MiB, then in steps of it.
const fn window_bytes(file_len: u64) -> u64 {
    if file_len <= WINDOW_BYTES_MIN {
        WINDOW_BYTES_MIN
    } else if file_len <= WINDOW_BYTES_STEP {
        file_len.next_power_of_two()
    } else {
        file_len.next_multiple_of(WINDOW_BYTES_STEP)
    }
}

#[derive(Debug)]
struct Mapping {
    map: Mmap,
    /// The file's length when last asked. Nothing beyond it is touched.
    file_len: AtomicU64,
    place: Option<&'static Place>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.len.store(0, Ordering::Relaxed);
            place.start.store(0, Ordering::Release);
        }
    }
}

/// Where a map lies, for the signal handler, which may neither lock nor allocate. Free while `start` is 0.
#[derive(Debug)]
struct Place {
    start: AtomicUsize,
    len: AtomicUsize,
    inode: AtomicU64,
}

/// More maps than this at once are not named when they fault.
const PLACES: usize = 4096;
static MAPS: [Place; PLACES] =
    [const { Place { start: AtomicUsize::new(0), len: AtomicUsize::new(0), inode: AtomicU64::new(0) } }; PLACES];

/// Notes where a map lies.
fn note(map: &Mmap, inode: u64) -> Option<&'static Place> {
    let start = map.as_ptr() as usize;
    let is_ours = |place: &&Place| place.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    let place = MAPS.iter().find(is_ours)?;
    place.inode.store(inode, Ordering::Relaxed);
    place.len.store(map.len(), Ordering::Release);
    Some(place)
}

/// From now on, before a page of a map that cannot be read ends the process (SIGBUS), it says on standard error which file
/// it was, by inode, and where. To be called once, when a process starts.
pub fn report_faults() {
    // SAFETY: `action` is all zeros but for what is set; the handler only does what is allowed in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Only atomics, memory on the stack, and system calls that are allowed in a signal handler.
extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a sound `info` to a handler that was installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut text = Line { bytes: [0; 320], len: 0 };
    text.push(b"segment.fault: SIGBUS at a mapped file");
    for place in &MAPS {
        let (start, len) = (place.start.load(Ordering::Acquire), place.len.load(Ordering::Acquire));
        if start != 0 && (start..start + len).contains(&address) {
            text.push(b", inode ");
            text.push_number(place.inode.load(Ordering::Relaxed));
            text.push(b", byte ");
            text.push_number((address - start) as u64);
        }
    }
    text.push(b": the disk does not give it back, or somebody cut the file (find DATA_DIR -inum INODE). ");
    text.push(b"The process ends; start it again once the disk is sound\n");
    // SAFETY: `bytes` is `len` bytes at least. With the default action restored, the same access ends the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.bytes.as_ptr().cast(), text.len);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

/// A line that is put together without allocating; what does not fit is left out.
struct Line {
    bytes: [u8; 320],
    len: usize,
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text) {
            *to = *from;
            self.len += 1;
        }
    }

    fn push_number(&mut self, number: u64) {
        let mut digits = [0; 20];
        let (mut rest, mut at) = (number, digits.len());
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }
}

/// A range of a map that lies within its file.
struct Slice {
    mapping: Arc<Mapping>,
    pos: usize,
    len: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.mapping.map[self.pos..self.pos + self.len]
    }
}

/// The map of one open file; made when first read, replaced when outgrown.
#[derive(Debug, Default)]
pub(crate) struct FileMap(Mutex<Option<Arc<Mapping>>>);

impl FileMap {
    /// Forgets the map: the file is about to get another content.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    /// The bytes `pos..pos + len`, present in memory.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file is shorter, `Unsupported` when this kernel cannot populate a map (read instead),
    /// and whatever the disk says when a page cannot be read.
    pub(crate) fn slice(&self, file: &File, pos: u64, len: usize) -> io::Result<Bytes> {
        let end = pos.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mapping = self.mapping(file, end)?;
        let pos = usize::try_from(pos).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            match mapping.map.advise_range(Advice::PopulateRead, pos, len) {
                Ok(()) => return Ok(Bytes::from_owner(Slice { mapping, pos, len })),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                    return Err(io::Error::other("the range cannot be read into memory (bad sector?)"));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A map of the file that covers it up to `end`, which lies within the file.
    fn mapping(&self, file: &File, end: u64) -> io::Result<Arc<Mapping>> {
        let known = self.lock().clone();
        if let Some(mapping) = &known
            && end <= mapping.file_len.load(Ordering::Relaxed)
        {
            return Ok(Arc::clone(mapping));
        }
        let metadata = file.metadata()?;
        let file_len = metadata.len();
        if end > file_len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(mapping) = known
            && end <= mapping.map.len() as u64
        {
            mapping.file_len.store(file_len.min(mapping.map.len() as u64), Ordering::Relaxed);
            return Ok(mapping);
        }
        let window = usize::try_from(window_bytes(file_len)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the map is read-only, and the module's essay says why its bytes neither vanish nor change below
        // `file_len`; no reference beyond `file_len` is ever handed out.
        let map = unsafe { MmapOptions::new().len(window).map(file)? };
        let place = note(&map, metadata.ino());
        let mapping = Arc::new(Mapping { map, file_len: AtomicU64::new(file_len), place });
        *self.lock() = Some(Arc::clone(&mapping));
        Ok(mapping)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Mapping>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the kernel to start writing a range back and returns at once (`sync_file_range`). Promises nothing; a file
/// system that does not know it is no error.
pub(crate) fn start_writeback(file: &File, pos: u64, len: u64) -> io::Result<()> {
    sync_range(file, pos, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes a range back and waits for it, without the promises of a sync: for pacing.
pub(crate) fn finish_writeback(file: &File, pos: u64, len: u64) -> io::Result<()> {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_range(file, pos, len, wait)
}

fn sync_range(file: &File, pos: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
    let (Ok(pos), Ok(len)) = (i64::try_from(pos), i64::try_from(len)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    loop {
        // SAFETY: plain integers and a descriptor that `file` keeps open; the call touches no memory of ours.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), pos, len, flags) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ESPIPE) => return Ok(()),
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn numbers_are_written_without_allocating() {
        let mut line = Line { bytes: [0; 320], len: 0 };
        for number in [0, 7, 4096, u64::MAX] {
            line.push_number(number);
            line.push(b" ");
        }
        line.push(&[b'x'; 400]);
        assert!(line.bytes.starts_with(b"0 7 4096 18446744073709551615 xxx"));
        assert_eq!(line.len, 320);
    }

    /// Not a test of its own: what the next one runs in a process that may end.
    #[test]
    #[ignore = "it ends the process"]
    fn touch_what_is_gone() {
        report_faults();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 20_000]).unwrap();
        let bytes = FileMap::default().slice(&file, 0, 20_000).unwrap();
        eprintln!("the inode is {}", file.metadata().unwrap().ino());
        file.set_len(0).unwrap();
        assert_eq!(bytes[12_345], 7);
    }

    #[test]
    fn a_fault_says_which_file_and_where_before_the_process_ends() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "mmap::tests::touch_what_is_gone", "--nocapture"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
        let said = String::from_utf8_lossy(&child.stderr);
        let inode = said.lines().find_map(|line| line.split("the inode is ").nth(1)).unwrap();
        assert!(
            said.contains(&format!("segment.fault: SIGBUS at a mapped file, inode {inode}, byte 12345:")),
            "{said}"
        );
    }

    #[test]
    fn a_map_follows_its_growing_file_and_never_passes_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let map = FileMap::default();
        let early = map.slice(&file, 4000, 1000).unwrap();
        assert_eq!(early, vec![7; 1000]);
        assert_eq!(map.slice(&file, 4000, 1001).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

        file.write_all(&[8; 50_000]).unwrap();
        assert_eq!(map.slice(&file, 4999, 2).unwrap(), [7, 8].as_slice());
        assert_eq!(map.lock().as_ref().unwrap().map.len() as u64, WINDOW_BYTES_MIN);

        file.write_all(&[9; 100_000]).unwrap();
        assert_eq!(map.slice(&file, 154_999, 1).unwrap(), [9].as_slice());
        assert_eq!(map.slice(&file, u64::MAX, 1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        map.forget();
        assert_eq!(early, vec![7; 1000]);
    }

    #[test]
    fn windows_double_and_then_step() {
        assert_eq!(window_bytes(1), WINDOW_BYTES_MIN);
        assert_eq!(window_bytes(WINDOW_BYTES_MIN + 1), 2 * WINDOW_BYTES_MIN);
        assert_eq!(window_bytes(WINDOW_BYTES_STEP), WINDOW_BYTES_STEP);
        assert_eq!(window_bytes(WINDOW_BYTES_STEP + 1), 2 * WINDOW_BYTES_STEP);
    }
}
