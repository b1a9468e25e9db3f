//! The journal's files: which one is written, which hold blocks that are still needed, which are free.

use std::collections::VecDeque;

use levada_protocol::ids::Lsn;

use super::{JOURNAL_DIR, JournalConfig, format::PAGE_BYTES};
use crate::{
    disk::{DiskOp, FileName},
    planted::{self, Planted},
};

/// A file and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JournalFile {
    pub(super) number: u32,
    pub(super) bytes: u64,
}

/// The name of a file, such as `journal/00000003.lj`.
pub(super) fn name(number: u32) -> FileName {
    FileName::new(format!("{JOURNAL_DIR}/{number:08}.lj"))
}

/// The number of a file name without its directory.
pub(super) fn number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".lj")?;
    if digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// A file whose blocks are needed until the journal is recycled beyond the last of them.
#[derive(Clone, Copy, Debug)]
struct Full {
    file: JournalFile,
    last_lsn: Lsn,
}

/// The file that is being written.
#[derive(Clone, Copy, Debug)]
struct Current {
    file: JournalFile,
    generation: u64,
    first_lsn: Lsn,
    last_lsn: Lsn,
    pos: u64,
}

/// Where a block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: JournalFile,
    pub(super) generation: u64,
    pub(super) first_lsn: Lsn,
    pub(super) pos: u64,
}

/// What is being done to the set of files.
#[derive(Clone, Copy, Debug)]
enum Upkeep {
    Prepare(JournalFile),
    Remove,
}

/// The files. Each is in one of `current`, `full`, `free`, `unready` or being worked on by `upkeep`.
///
/// * A file becomes current only from `free`, and a free file is ready: of the wanted length and durable by name.
/// * Generations rise; a file that becomes current gets the next one.
/// * `full` holds nothing that was recycled.
#[derive(Debug)]
pub(super) struct Files {
    file_bytes: u64,
    files_keep: usize,
    current: Option<Current>,
    full: Vec<Full>,
    free: VecDeque<JournalFile>,
    /// Files to be made anew: of another length, or left half made.
    unready: Vec<u32>,
    next_number: u32,
    next_generation: u64,
    upkeep: Option<Upkeep>,
    /// The last attempt found no space; the next one waits for [`Files::retry`].
    upkeep_failed: bool,
    /// No attempt has found space since one that did not.
    lacks_space: bool,
    dir_made: bool,
    /// The largest block that found no file long enough.
    wanted_bytes: u64,
    /// Ticks of the window so far, and the fewest free files there were in it.
    window_ticks: u32,
    free_min: usize,
    /// Free files that a whole window did without: they may go.
    surplus: usize,
}

/// A file that was free for so many ticks (10 s) is not needed; one that goes earlier may have to be made again at once,
/// and making files is what a disk under load has the least time for.
const WINDOW_TICKS: u32 = 200;

impl Files {
    /// From the files found: those with a last lsn are needed.
    pub(super) fn new(found: Vec<(JournalFile, Option<Lsn>)>, next_generation: u64) -> Self {
        let mut files = Self {
            file_bytes: 0,
            files_keep: 0,
            current: None,
            full: Vec::new(),
            free: VecDeque::new(),
            unready: Vec::new(),
            next_number: found.iter().map(|(file, _)| file.number + 1).max().unwrap_or(0),
            next_generation,
            upkeep: None,
            upkeep_failed: false,
            lacks_space: false,
            dir_made: !found.is_empty(),
            wanted_bytes: 0,
            window_ticks: 0,
            free_min: usize::MAX,
            surplus: 0,
        };
        for (file, last_lsn) in found {
            match last_lsn {
                Some(last_lsn) => files.full.push(Full { file, last_lsn }),
                None => files.free.push_back(file),
            }
        }
        files
    }

    /// Sets the sizes; files of another length are made anew.
    pub(super) fn configure(&mut self, config: &JournalConfig) {
        self.file_bytes = config.file_bytes;
        self.files_keep = config.files_keep;
        for file in std::mem::take(&mut self.free) {
            self.set_free(file);
        }
    }

    fn set_free(&mut self, file: JournalFile) {
        if file.bytes == self.file_bytes {
            self.free.push_back(file);
        } else {
            self.unready.push(file.number);
        }
    }

    /// A place for the block `lsn` of this length, or none until a file is ready.
    pub(super) fn place(&mut self, lsn: Lsn, bytes: u64) -> Option<Place> {
        debug_assert!(bytes.is_multiple_of(PAGE_BYTES as u64));
        if self.current.is_none_or(|current| current.file.bytes - current.pos < bytes) {
            self.wanted_bytes = self.wanted_bytes.max(bytes);
            let fits = self.free.iter().position(|file| file.bytes >= bytes)?;
            let file = self.free.remove(fits)?;
            self.free_min = self.free_min.min(self.free.len());
            if let Some(Current { file, last_lsn, .. }) = self.current.take() {
                self.full.push(Full { file, last_lsn });
            }
            self.wanted_bytes = 0;
            self.current =
                Some(Current { file, generation: self.next_generation, first_lsn: lsn, last_lsn: lsn, pos: 0 });
            self.next_generation += 1;
        }
        let current = self.current.as_mut()?;
        let Current { file, generation, first_lsn, pos, .. } = *current;
        current.pos += bytes;
        current.last_lsn = lsn;
        Some(Place { file, generation, first_lsn, pos })
    }

    /// Frees the files whose blocks all lie below `up_to`.
    pub(super) fn recycle(&mut self, up_to: Lsn) {
        let (needed, done) = std::mem::take(&mut self.full).into_iter().partition(|full| full.last_lsn >= up_to);
        self.full = needed;
        for full in done {
            let Full { file, .. } = full;
            self.set_free(file);
        }
    }

    /// Bytes of the files that hold blocks that are still needed, the current one included.
    pub(super) fn used_bytes(&self) -> u64 {
        let full: u64 = self.full.iter().map(|full| full.file.bytes).sum();
        full + self.current.map_or(0, |current| current.file.bytes)
    }

    fn count(&self) -> usize {
        self.full.len() + self.free.len() + self.unready.len() + usize::from(self.current.is_some())
    }

    /// What is to be done next so that a file is ready when the current one is full, and no more are kept than wanted.
    pub(super) fn poll_upkeep(&mut self) -> Option<Vec<DiskOp>> {
        if self.upkeep.is_some() {
            return None;
        }
        let ready = self.free.iter().any(|file| file.bytes >= self.wanted_bytes);
        if !ready && !self.upkeep_failed {
            return Some(self.prepare());
        }
        if ready && self.count() > self.files_keep {
            let unneeded = self.unready.pop().or_else(|| self.take_surplus());
            return unneeded.map(|number| {
                self.upkeep = Some(Upkeep::Remove);
                vec![DiskOp::Remove { file: name(number) }]
            });
        }
        None
    }

    fn take_surplus(&mut self) -> Option<u32> {
        if self.surplus == 0 || self.free.len() < 2 {
            return None;
        }
        self.surplus -= 1;
        self.free.pop_back().map(|file| file.number)
    }

    fn prepare(&mut self) -> Vec<DiskOp> {
        let number = self.unready.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number - 1
        });
        let bytes = self.file_bytes.max(self.wanted_bytes);
        self.upkeep = Some(Upkeep::Prepare(JournalFile { number, bytes }));
        let dir = JOURNAL_DIR.to_owned();
        let mut ops = Vec::new();
        if !self.dir_made {
            ops.extend([DiskOp::CreateDir { dir: dir.clone() }, DiskOp::SyncDir { dir: String::new() }]);
        }
        let file = name(number);
        ops.extend([DiskOp::Create { file: file.clone() }, DiskOp::ZeroFill { file, len: bytes }]);
        if !planted::is(Planted::JournalNameNotSynced) {
            ops.push(DiskOp::SyncDir { dir });
        }
        ops
    }

    pub(super) fn upkeep_done(&mut self, succeeded: bool) {
        match self.upkeep.take() {
            Some(Upkeep::Prepare(file)) if succeeded => {
                self.dir_made = true;
                self.lacks_space = false;
                self.free.push_back(file);
            }
            Some(Upkeep::Prepare(file)) => {
                self.unready.push(file.number);
                self.upkeep_failed = true;
                self.lacks_space = true;
            }
            Some(Upkeep::Remove) | None => {}
        }
    }

    /// Whether the last attempt to make a file found no space.
    pub(super) const fn lacks_space(&self) -> bool {
        self.lacks_space
    }

    /// Allows another attempt after one that found no space, and finds out which files nobody needs.
    pub(super) fn tick(&mut self) {
        self.upkeep_failed = false;
        self.window_ticks += 1;
        if self.window_ticks >= WINDOW_TICKS {
            // One stays ready.
            self.surplus = self.free_min.min(self.free.len()).saturating_sub(1);
            self.window_ticks = 0;
            self.free_min = self.free.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn files(free: u32) -> Files {
        let mut files = Files::new((0..free).map(|number| (JournalFile { number, bytes: MB }, None)).collect(), 7);
        files.configure(&JournalConfig { file_bytes: MB, files_keep: 3, gather_bytes: 1 });
        files
    }

    #[test]
    fn names_are_numbers() {
        assert_eq!(name(3).as_str(), "journal/00000003.lj");
        assert_eq!(number("00000003.lj"), Some(3));
        for other in ["3.lj", "00000003.tmp", "+0000003.lj", "000000003.lj", ""] {
            assert_eq!(number(other), None);
        }
    }

    #[test]
    fn a_block_that_does_not_fit_opens_the_next_file_under_the_next_generation() {
        let mut files = files(2);
        let place = |number, generation, first_lsn, pos| {
            let file = JournalFile { number, bytes: MB };
            Some(Place { file, generation, first_lsn: Lsn(first_lsn), pos })
        };
        assert_eq!(files.place(Lsn(5), MB / 2), place(0, 7, 5, 0));
        assert_eq!(files.place(Lsn(6), MB / 4), place(0, 7, 5, MB / 2));
        assert_eq!(files.place(Lsn(7), MB / 2), place(1, 8, 7, 0));
        assert_eq!(files.place(Lsn(8), MB), None, "nothing is ready");
        files.recycle(Lsn(6));
        assert_eq!(files.place(Lsn(8), MB), None, "block 6 is needed");
        files.recycle(Lsn(7));
        assert_eq!(files.place(Lsn(8), MB), place(0, 9, 8, 0));
    }

    #[test]
    fn one_file_is_kept_ready_and_surplus_ones_go() {
        let mut files = files(0);
        let ops = files.poll_upkeep().unwrap();
        assert_eq!(ops[0], DiskOp::CreateDir { dir: "journal".into() });
        assert_eq!(files.poll_upkeep(), None, "one at a time");
        files.upkeep_done(true);
        assert_eq!(files.poll_upkeep(), None);
        for lsn in 1..=4 {
            files.place(Lsn(lsn), MB).unwrap();
            let ops = files.poll_upkeep().unwrap();
            assert!(matches!(&ops[0], DiskOp::Create { .. }) && ops[2] == DiskOp::SyncDir { dir: "journal".into() });
            files.upkeep_done(true);
        }
        files.recycle(Lsn(4));
        assert_eq!(files.poll_upkeep(), None, "not at once");
        (0..2 * WINDOW_TICKS).for_each(|_| files.tick());
        let mut removed = 0;
        while let Some(ops) = files.poll_upkeep() {
            assert!(matches!(ops[..], [DiskOp::Remove { .. }]));
            files.upkeep_done(true);
            removed += 1;
        }
        assert_eq!((removed, files.count()), (2, 3));
    }

    #[test]
    fn files_that_are_needed_now_and_then_stay() {
        let mut files = files(6);
        for lsn in 1..20 {
            files.place(Lsn(lsn), MB).unwrap();
            if lsn % 4 == 0 {
                files.recycle(Lsn(lsn));
            }
            (0..WINDOW_TICKS / 8).for_each(|_| files.tick());
            assert_eq!(files.poll_upkeep(), None);
        }
        assert_eq!(files.count(), 6);
    }

    #[test]
    fn without_space_it_waits_for_a_retry() {
        let mut files = files(0);
        files.poll_upkeep().unwrap();
        files.upkeep_done(false);
        assert_eq!(files.poll_upkeep(), None);
        files.tick();
        let ops = files.poll_upkeep().unwrap();
        assert!(ops.contains(&DiskOp::ZeroFill { file: name(0), len: MB }), "the same file again");
    }

    #[test]
    fn files_of_another_length_are_made_anew() {
        let mut files = files(1);
        files.configure(&JournalConfig { file_bytes: 2 * MB, files_keep: 3, gather_bytes: 1 });
        assert_eq!(files.place(Lsn(1), MB), None);
        assert!(files.poll_upkeep().unwrap().contains(&DiskOp::ZeroFill { file: name(0), len: 2 * MB }));
        files.upkeep_done(true);
        files.place(Lsn(1), MB).unwrap();
    }
}
