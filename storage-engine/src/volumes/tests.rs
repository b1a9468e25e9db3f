use levada_protocol::ids::{GroupId, LogIndex};

use super::*;
use crate::{
    segment::file_name,
    sim_disk::{CrashPlan, Fault, SimDisk},
};

fn file(n: u64) -> FileName {
    file_name(GroupId(n), LogIndex(1))
}

fn create(n: u64) -> DiskOp {
    DiskOp::Create { file: file(n) }
}

fn write(n: u64, bytes: &'static [u8]) -> DiskOp {
    DiskOp::Write { file: file(n), pos: 0, bufs: vec![Bytes::from_static(bytes)] }
}

/// Three directories, the first of them the data directory.
struct Machine {
    disks: Vec<Arc<SimDisk>>,
    volumes: Volumes,
}

impl Machine {
    fn new() -> Self {
        let disks: Vec<_> = (0..3).map(|seed| Arc::new(SimDisk::new(seed))).collect();
        disks[0].perform(&DiskOp::CreateDir { dir: DIRECTORY.to_owned() }).unwrap();
        Self { volumes: Self::open(&disks).unwrap(), disks }
    }

    fn open(disks: &[Arc<SimDisk>]) -> Result<Volumes, VolumeError> {
        Self::open_used(disks, [1; 3])
    }

    /// Directories that were used last at these starts.
    fn open_used(disks: &[Arc<SimDisk>], used: [u64; 3]) -> Result<Volumes, VolumeError> {
        let volume =
            |(n, disk)| Volume { path: format!("d{n}").into(), disk: Arc::<SimDisk>::clone(disk), last_used: used[n] };
        let mut volumes = disks.iter().enumerate().map(volume);
        Volumes::open(volumes.next().unwrap(), volumes.collect())
    }

    fn reopen(&mut self) {
        self.volumes = Self::open(&self.disks).unwrap();
    }

    fn perform(&self, op: &DiskOp) {
        self.volumes.perform(op).unwrap();
    }

    fn with(&self, file: &FileName) -> Vec<usize> {
        (0..3).filter(|at| self.disks[*at].len(file).unwrap().is_some()).collect()
    }
}

#[test]
fn segments_are_spread_and_everything_else_is_at_home() {
    let mut machine = Machine::new();
    for n in 1..=9 {
        machine.perform(&create(n));
        machine.perform(&write(n, b"segment"));
    }
    let other = FileName::new("checkpoint");
    machine.perform(&DiskOp::Create { file: other.clone() });
    assert_eq!(machine.with(&other), [0]);
    let counts = |machine: &Machine| [0, 1, 2].map(|at| machine.disks[at].list(DIRECTORY).unwrap().len());
    for _ in 0..2 {
        assert_eq!(counts(&machine), [3, 3, 3]);
        assert_eq!(machine.volumes.list(DIRECTORY).unwrap().len(), 9);
        for n in 1..=9 {
            assert_eq!(machine.with(&file(n)).len(), 1);
            assert_eq!(machine.volumes.read(&file(n), 0, 99).unwrap(), "segment");
            assert_eq!(machine.volumes.map(&file(n), 1, 3).unwrap(), "egm");
            assert_eq!(machine.volumes.len(&file(n)).unwrap(), Some(7));
        }
        machine.reopen();
    }
    machine.perform(&DiskOp::Remove { file: file(3) });
    assert_eq!((machine.with(&file(3)), machine.volumes.len(&file(3)).unwrap()), (vec![], None));
}

#[test]
fn the_metadata_stays_at_home() {
    let machine = Machine::new();
    machine.disks[0].set_capacity(Some(1 << 20));
    let segment = file_name(GroupId::METADATA, LogIndex(17));
    let arriving = FileName::new(segment.as_str().replace(".seg", ".part"));
    for file in [segment, arriving] {
        machine.perform(&DiskOp::Create { file: file.clone() });
        assert_eq!(machine.with(&file), [0]);
    }
    machine.perform(&create(1));
    assert_ne!(machine.with(&file(1)), [0]);
}

#[test]
fn a_new_segment_goes_to_where_there_is_most_space() {
    let machine = Machine::new();
    let capacities = [10 << 20, 30 << 20, 20 << 20];
    for (disk, bytes) in machine.disks.iter().zip(capacities) {
        disk.set_capacity(Some(bytes));
    }
    for n in 1..=40 {
        machine.perform(&create(n));
        machine.perform(&DiskOp::ZeroFill { file: file(n), len: 1 << 20 });
    }
    let counts = machine.disks.iter().map(|disk| disk.list(DIRECTORY).unwrap().len());
    let counts: Vec<usize> = counts.collect();
    assert!(counts[0] < 6 && counts[1] > 20 && counts[2] > 10, "the rest is about equal: {counts:?}");
    assert_eq!(machine.volumes.space().unwrap().unwrap().total_bytes, 10 << 20, "the journal is there");
}

#[test]
fn one_that_found_no_space_is_made_anew_elsewhere() {
    let machine = Machine::new();
    machine.disks[0].set_capacity(Some(4 << 10));
    machine.disks[1].set_capacity(Some(64 << 10));
    machine.disks[2].set_capacity(Some(32 << 10));
    machine.perform(&create(1));
    assert_eq!(machine.with(&file(1)), [1]);
    machine.perform(&write(1, b"half"));
    machine.disks[1].set_capacity(Some(512));
    machine.perform(&create(1));
    assert_eq!((machine.with(&file(1)), machine.volumes.len(&file(1)).unwrap()), (vec![2], Some(0)));
}

/// A file that came for a damaged one takes its place in another directory.
#[test]
fn a_file_takes_the_place_of_one_elsewhere_whenever_the_power_goes() {
    let copy = FileName::new(format!("{DIRECTORY}/copy"));
    let rename = DiskOp::Rename { from: copy.clone(), to: file(1) };
    let prepared = || {
        let machine = Machine::new();
        machine.disks[1].set_capacity(Some(2 << 20));
        [0, 2].iter().for_each(|at| machine.disks[*at].set_capacity(Some(1 << 20)));
        for op in [create(1), write(1, b"old")] {
            machine.perform(&op);
        }
        machine.disks[2].set_capacity(Some(3 << 20));
        let bufs = vec![Bytes::from_static(b"newer")];
        machine.perform(&DiskOp::Create { file: copy.clone() });
        machine.perform(&DiskOp::Write { file: copy.clone(), pos: 0, bufs });
        machine.perform(&DiskOp::SyncAll);
        machine.perform(&DiskOp::SyncDir { dir: DIRECTORY.to_owned() });
        assert_eq!((machine.with(&file(1)), machine.with(&copy)), (vec![1], vec![2]));
        machine
    };
    for seed in 0..60 {
        for (first, second) in [(0, 9), (1, 9), (9, 0), (9, 9)] {
            let mut machine = prepared();
            machine.disks[2].halt_after(first);
            machine.disks[1].halt_after(second);
            let done = machine.volumes.perform(&rename).is_ok();
            assert_eq!(done, (first, second) == (9, 9));
            machine.disks.iter().for_each(|disk| disk.crash(&CrashPlan::seeded(seed)));
            machine.reopen();
            let found = machine.volumes.read(&file(1), 0, 9).unwrap();
            assert!(found == "newer" || found == "old" && !done, "{first} {second} {seed}: {found:?}");
            assert!(found == "newer" || machine.volumes.len(&copy).unwrap() == Some(5), "{first} {second} {seed}");
            assert_eq!(machine.with(&file(1)).len(), 1);
        }
    }
}

#[test]
fn of_two_the_longer_one_stays_if_both_were_used_last() {
    let mut machine = Machine::new();
    for (at, bytes) in [(0, b"1".as_slice()), (1, b"333"), (2, b"22")] {
        machine.disks[at].perform(&create(1)).unwrap();
        machine.disks[at].perform(&write(1, bytes)).unwrap();
    }
    machine.reopen();
    assert_eq!((machine.with(&file(1)), machine.volumes.read(&file(1), 0, 9).unwrap()), (vec![1], "333".into()));
}

#[test]
fn of_two_the_one_stays_whose_directory_was_used_last() {
    let machine = Machine::new();
    for (at, bytes) in [(0, b"1".as_slice()), (1, b"333"), (2, b"22")] {
        machine.disks[at].perform(&create(1)).unwrap();
        machine.disks[at].perform(&write(1, bytes)).unwrap();
    }
    let volumes = Machine::open_used(&machine.disks, [7, 4, 8]).unwrap();
    assert_eq!((machine.with(&file(1)), volumes.read(&file(1), 0, 9).unwrap()), (vec![2], "22".into()));
}

/// The directory was away, no node had the segment, and it was written on without what was there.
#[test]
fn what_was_written_on_elsewhere_gets_its_beginning_back() {
    const HOLE: usize = (2 << 20) + 192;
    let old: Bytes = (0..HOLE + 100).map(|at| u8::try_from(at % 251 + 1).unwrap()).collect::<Vec<u8>>().into();
    let new = Bytes::from_static(&[0xff; 500]);
    let write = |pos: usize, bytes: &Bytes| DiskOp::Write { file: file(1), pos: pos as u64, bufs: vec![bytes.clone()] };
    let prepared = || {
        let machine = Machine::new();
        for (at, op) in [(1, write(0, &old)), (2, write(HOLE, &new))] {
            machine.disks[at].perform(&create(1)).unwrap();
            machine.disks[at].perform(&op).unwrap();
            machine.disks[at].perform(&DiskOp::SyncAll).unwrap();
        }
        machine
    };
    let expected = [&old[..HOLE], &new[..]].concat();
    for operations in 0..12 {
        for seed in 0..3 {
            let machine = prepared();
            machine.disks[2].halt_after(operations);
            // Where the disk is gone in the middle of it, the other file stays.
            drop(Machine::open_used(&machine.disks, [ALWAYS, 5, 9]));
            machine.disks.iter().for_each(|disk| disk.crash(&CrashPlan::seeded(seed)));
            let volumes = Machine::open_used(&machine.disks, [ALWAYS, 5, 9]).unwrap();
            assert_eq!(machine.with(&file(1)), [2]);
            let found = volumes.read(&file(1), 0, 1 << 30).unwrap();
            let differs = (0..expected.len()).find(|at| found.get(*at) != expected.get(*at));
            assert!(found == expected, "cut at {operations}, {seed}: {} {} {differs:?}", found.len(), expected.len());
        }
    }
    // Made, and nothing written to it yet.
    let machine = prepared();
    machine.disks[2].perform(&create(1)).unwrap();
    let volumes = Machine::open_used(&machine.disks, [ALWAYS, 5, 9]).unwrap();
    assert!(volumes.read(&file(1), 0, 1 << 30).unwrap() == old);
}

/// One directory after the other was away: each file ends where the next begins.
#[test]
fn what_was_written_in_three_places_becomes_one_again() {
    let machine = Machine::new();
    let parts: [(usize, u64, &'static [u8]); 3] = [(1, 0, &[1; 128]), (2, 128, &[2; 128]), (0, 256, &[3; 128])];
    for (at, pos, bytes) in parts {
        machine.disks[at].perform(&create(1)).unwrap();
        let bufs = vec![Bytes::from_static(bytes)];
        machine.disks[at].perform(&DiskOp::Write { file: file(1), pos, bufs }).unwrap();
    }
    let volumes = Machine::open_used(&machine.disks, [ALWAYS, 4, 7]).unwrap();
    assert_eq!(machine.with(&file(1)), [0]);
    let expected = [[1_u8; 128], [2; 128], [3; 128]].concat();
    assert_eq!(volumes.read(&file(1), 0, 999).unwrap(), expected);
}

/// What the newest does not have is not removed, and what cannot be read settles nothing.
#[test]
fn what_is_not_covered_is_put_aside() {
    let machine = Machine::new();
    let aside = FileName::new(format!("{}.aside", file(1)));
    for (at, bytes) in [(0, b"22".as_slice()), (1, b"333")] {
        machine.disks[at].perform(&create(1)).unwrap();
        machine.disks[at].perform(&write(1, bytes)).unwrap();
    }
    machine.disks[1].make_unreadable(&file(1), 0, 1);
    let volumes = Machine::open_used(&machine.disks, [ALWAYS, 4, 4]).unwrap();
    assert_eq!((machine.with(&file(1)), volumes.read(&file(1), 0, 9).unwrap()), (vec![0, 1], "22".into()));
    machine.disks[1].perform(&write(1, b"333")).unwrap();
    let volumes = Machine::open_used(&machine.disks, [ALWAYS, 4, 4]).unwrap();
    assert_eq!((machine.with(&file(1)), volumes.read(&file(1), 0, 9).unwrap()), (vec![0], "22".into()));
    assert_eq!(machine.disks[1].read(&aside, 0, 9).unwrap(), "333");
}

#[test]
fn each_directory_has_its_reserve() {
    let machine = Machine::new();
    let reserve = reserve_file();
    machine.perform(&DiskOp::Create { file: reserve.clone() });
    machine.perform(&DiskOp::Preallocate { file: reserve.clone(), len: 64 << 10 });
    assert_eq!(machine.with(&reserve), [0, 1, 2]);
    assert!(machine.disks.iter().all(|disk| disk.used() >= 64 << 10));
    machine.perform(&DiskOp::Remove { file: reserve.clone() });
    assert_eq!(machine.with(&reserve), [0; 0]);
}

#[test]
fn want_is_no_failure_of_a_directory() {
    let machine = Machine::new();
    machine.perform(&create(1));
    machine.disks[0].set_want(true);
    machine.volumes.read(&file(1), 0, 1).unwrap_err();
    machine.volumes.note::<()>(1, &Err(DiskError::new("open", "f", &std::io::ErrorKind::OutOfMemory.into())));
    assert!(machine.volumes.end().is_empty());
}

#[test]
fn everything_is_synced_everywhere() {
    let mut machine = Machine::new();
    (0..3).for_each(|at| machine.disks[at].set_capacity(Some(1 << 20)));
    for n in 1..=6 {
        let (at, bytes) = (usize::try_from(n % 3).unwrap(), 2 << 20);
        machine.disks[at].set_capacity(Some(bytes));
        machine.perform(&create(n));
        machine.perform(&write(n, b"x"));
        machine.disks[at].set_capacity(Some(1 << 20));
        assert_eq!(machine.with(&file(n)), [at]);
    }
    machine.perform(&DiskOp::SyncAll);
    machine.perform(&DiskOp::SyncDir { dir: DIRECTORY.to_owned() });
    machine.disks.iter().for_each(|disk| disk.crash(&CrashPlan::LOSE_ALL));
    machine.reopen();
    for n in 1..=6 {
        assert_eq!(machine.volumes.read(&file(n), 0, 9).unwrap(), "x");
    }
}

#[test]
fn which_directory_failed_is_known() {
    let full = |machine: &Machine| {
        [0, 2].iter().for_each(|at| machine.disks[*at].set_capacity(Some(1 << 20)));
        machine.perform(&create(1));
        assert_eq!(machine.with(&file(1)), [1]);
        machine.disks[1].set_capacity(Some(0));
        let error = machine.volumes.perform(&write(1, b"x")).unwrap_err();
        assert!(!error.is_fatal());
        machine.disks[1].set_capacity(None);
    };
    let machine = Machine::new();
    full(&machine);
    assert!(machine.volumes.end().is_empty(), "a full one has not failed");
    let sync = DiskOp::Sync { file: file(1) };
    let error = machine.volumes.perform(&sync).unwrap_err();
    assert!(error.to_string().contains("ended"), "{error}");
    assert!(machine.volumes.end().is_empty(), "that is no failure");

    for is_home_failing in [false, true] {
        let machine = Machine::new();
        full(&machine);
        machine.disks[1].inject(Fault::fail("fdatasync"));
        machine.volumes.perform(&sync).unwrap_err();
        if is_home_failing {
            machine.disks[0].inject(Fault::fail("create"));
            machine.volumes.perform(&DiskOp::Create { file: FileName::new("checkpoint") }).unwrap_err();
        }
        let expected: &[PathBuf] = if is_home_failing { &[] } else { &["d1".into()] };
        assert_eq!(machine.volumes.end(), expected, "with the journal gone nobody goes on");
    }
}
