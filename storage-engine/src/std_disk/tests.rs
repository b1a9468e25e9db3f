use std::error::Error;

use super::*;

type TestResult = Result<(), Box<dyn Error>>;

fn name(name: &str) -> FileName {
    FileName::new(name)
}

fn disk(open_files_max: usize) -> (tempfile::TempDir, StdDisk) {
    let dir = tempfile::tempdir().unwrap();
    let disk =
        StdDisk::open(dir.path().join("data"), StdDiskConfig { open_files_max, ..StdDiskConfig::default() }).unwrap();
    (dir, disk)
}

fn write(disk: &StdDisk, file: &str, pos: u64, bufs: &[&'static [u8]]) {
    let bufs = bufs.iter().map(|buf| Bytes::from_static(buf)).collect();
    disk.perform(&DiskOp::Write { file: name(file), pos, bufs }).unwrap();
}

fn create(disk: &StdDisk, file: &str) {
    disk.perform(&DiskOp::Create { file: name(file) }).unwrap();
}

#[test]
fn a_directory_has_one_owner_and_the_second_is_told_who() -> TestResult {
    let dir = tempfile::tempdir()?;
    let first = StdDisk::open(dir.path(), StdDiskConfig::default())?;
    let refused = StdDisk::open(dir.path(), StdDiskConfig::default()).unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    assert!(refused.contains(&dir.path().join("lock").display().to_string()), "{refused}");
    drop(first);
    StdDisk::open(dir.path(), StdDiskConfig::default())?;
    Ok(())
}

#[test]
fn a_directory_is_made_with_its_parents_and_found_again() -> TestResult {
    let dir = tempfile::tempdir()?;
    let deep = dir.path().join("a/b/c");
    for _ in 0..2 {
        drop(StdDisk::open(&deep, StdDiskConfig::default())?);
    }
    fs::write(dir.path().join("file"), b"")?;
    assert!(StdDisk::open(dir.path().join("file/c"), StdDiskConfig::default()).is_err());
    Ok(())
}

#[test]
fn files_come_and_go_as_the_operations_say() -> TestResult {
    let (dir, disk) = disk(8);
    assert_eq!(disk.list("a/b")?, Vec::<String>::new());
    disk.perform(&DiskOp::CreateDir { dir: "a/b".into() })?;
    create(&disk, "a/b/one");
    write(&disk, "a/b/one", 3, &[b"xy", b"", b"z"]);
    disk.perform(&DiskOp::Sync { file: name("a/b/one") })?;
    disk.perform(&DiskOp::Writeback { file: name("a/b/one"), pos: 0, len: 6 })?;
    assert_eq!(disk.read(&name("a/b/one"), 1, 100)?, b"\0\0xyz".as_slice());
    assert_eq!(disk.read(&name("a/b/one"), 100, 100)?, b"".as_slice());

    create(&disk, "a/b/two");
    disk.perform(&DiskOp::Rename { from: name("a/b/one"), to: name("a/b/two") })?;
    disk.perform(&DiskOp::SyncDir { dir: "a/b".into() })?;
    assert_eq!(disk.list("a/b")?, ["two"]);
    assert_eq!(disk.len(&name("a/b/one"))?, None);
    assert_eq!(disk.map(&name("a/b/two"), 3, 3)?, b"xyz".as_slice());

    disk.perform(&DiskOp::Truncate { file: name("a/b/two"), len: 4 })?;
    assert_eq!(disk.len(&name("a/b/two"))?, Some(4));
    assert!(disk.map(&name("a/b/two"), 3, 3).is_err());
    create(&disk, "a/b/two");
    assert_eq!(disk.len(&name("a/b/two"))?, Some(0));
    disk.perform(&DiskOp::SyncAll)?;
    disk.perform(&DiskOp::Remove { file: name("a/b/two") })?;
    disk.perform(&DiskOp::Remove { file: name("a/b/two") })?;
    assert_eq!(disk.list("a/b")?, Vec::<String>::new());

    let error = disk.perform(&DiskOp::Sync { file: name("a/b/two") }).unwrap_err();
    assert_eq!((error.op, error.kind), ("fdatasync", io::ErrorKind::NotFound));
    assert_eq!(
        error.file,
        dir.path().join("data/a/b/two").display().to_string(),
        "the whole path: which directory is it?"
    );
    Ok(())
}

#[test]
fn more_buffers_than_one_call_takes_are_all_written() -> TestResult {
    let (_dir, disk) = disk(8);
    create(&disk, "f");
    let bufs: Vec<Bytes> = (0..5000_u32).map(|i| Bytes::from(i.to_le_bytes().to_vec())).collect();
    disk.perform(&DiskOp::Write { file: name("f"), pos: 7, bufs: bufs.clone() })?;
    assert_eq!(disk.read(&name("f"), 7, 50_000)?, bufs.concat());
    Ok(())
}

#[test]
fn zero_filled_files_have_their_blocks_and_reserved_ones_keep_their_length() -> TestResult {
    use std::os::unix::fs::MetadataExt;
    let (_dir, disk) = disk(8);
    create(&disk, "j");
    write(&disk, "j", 5_000_000, &[b"old"]);
    // Whole pages, which go around the cache, and not.
    for len in [3 << 20, 3_000_000] {
        write(&disk, "j", 0, &[&[7; 100_000]]);
        disk.perform(&DiskOp::ZeroFill { file: name("j"), len })?;
        assert_eq!(disk.len(&name("j"))?, Some(len));
        assert!(disk.read(&name("j"), 0, 5_000_000)?.iter().all(|byte| *byte == 0));
        assert!(fs::metadata(disk.path(&name("j")))?.blocks() * 512 >= len);
    }

    create(&disk, "s");
    disk.perform(&DiskOp::Preallocate { file: name("s"), len: 1_000_000 })?;
    assert_eq!(disk.len(&name("s"))?, Some(0));
    // More than any disk has: nothing of it stays, and the write decides.
    disk.perform(&DiskOp::Preallocate { file: name("s"), len: 1 << 43 })?;
    assert_eq!(fs::metadata(disk.path(&name("s")))?.blocks(), 0);
    Ok(())
}

#[test]
fn descriptors_stay_bounded_and_a_file_closed_dirty_is_still_synced() -> TestResult {
    let (_dir, disk) = disk(4);
    for i in 0..10 {
        create(&disk, &format!("f{i}"));
        write(&disk, &format!("f{i}"), 0, &[b"data"]);
    }
    assert_eq!(disk.descriptors.counts(), (0, 4, 6));
    disk.perform(&DiskOp::Sync { file: name("f9") })?;
    assert_eq!(disk.descriptors.counts(), (1, 3, 6));
    disk.perform(&DiskOp::Sync { file: name("f0") })?;
    assert_eq!(disk.descriptors.counts(), (4, 0, 0));
    for i in 0..10 {
        assert_eq!(disk.map(&name(&format!("f{i}")), 0, 4)?, b"data".as_slice());
    }
    assert_eq!(disk.descriptors.counts(), (4, 0, 0));
    Ok(())
}

#[test]
fn a_reader_keeps_what_it_mapped_while_the_file_grows_and_goes() -> TestResult {
    let (_dir, disk) = disk(2);
    create(&disk, "s");
    write(&disk, "s", 0, &[b"first"]);
    let first = disk.map(&name("s"), 0, 5)?;
    std::thread::scope(|scope| {
        // Each with whole pages, which go around the cache, and parts of pages before and after them.
        const LEN: usize = 3 * 4096;
        scope.spawn(|| (0..200).for_each(|i| write(&disk, "s", 5 + i * LEN as u64, &[&[1; LEN]])));
        for i in 0..200 {
            match disk.map(&name("s"), 5 + i * LEN as u64, LEN) {
                Ok(bytes) => assert!(bytes.iter().all(|byte| *byte == 1)),
                Err(error) => assert_eq!(error.kind, io::ErrorKind::UnexpectedEof),
            }
        }
    });
    disk.perform(&DiskOp::Remove { file: name("s") })?;
    assert_eq!(first, b"first".as_slice());
    Ok(())
}

/// What was written, cached or not; and a file that takes the place of another is another from then on.
#[test]
fn the_disk_itself_says_what_the_cache_says() -> TestResult {
    let (_dir, disk) = disk(4);
    create(&disk, "s");
    let bytes: &'static [u8] = Vec::leak((0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect());
    write(&disk, "s", 0, &[bytes]);
    for (pos, len) in [(0, 4096), (0, 8192), (0, 10_000), (4096, 1 << 20), (8192, 100), (5, 100), (12_288, 10)] {
        let expected = bytes.iter().copied().skip(pos).take(len).collect::<Vec<u8>>();
        assert_eq!(disk.read_from_disk(&name("s"), pos as u64, len)?, expected, "{len} bytes at {pos}");
    }
    assert_eq!(disk.read_from_disk(&name("none"), 0, 10).unwrap_err().kind, io::ErrorKind::NotFound);
    let before = disk.map(&name("s"), 0, 4)?;
    create(&disk, "new");
    write(&disk, "new", 0, &[b"other bytes"]);
    disk.perform(&DiskOp::Rename { from: name("new"), to: name("s") })?;
    assert_eq!(disk.map(&name("s"), 0, 5)?, b"other".as_slice());
    assert_eq!(disk.read_from_disk(&name("s"), 0, 5)?, b"other".as_slice());
    assert_eq!(before, bytes[..4], "who had it mapped keeps it");
    Ok(())
}
