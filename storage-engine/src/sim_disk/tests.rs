use super::*;

fn name(name: &str) -> FileName {
    FileName::new(name)
}

fn create(disk: &SimDisk, file: &str) {
    disk.perform(&DiskOp::Create { file: name(file) }).unwrap();
}

fn write(disk: &SimDisk, file: &str, pos: u64, bytes: &[u8]) {
    let bufs = vec![Bytes::copy_from_slice(bytes)];
    disk.perform(&DiskOp::Write { file: name(file), pos, bufs }).unwrap();
}

fn sync(disk: &SimDisk, file: &str) -> Result<(), DiskError> {
    disk.perform(&DiskOp::Sync { file: name(file) })
}

fn sync_dir(disk: &SimDisk, dir: &str) {
    disk.perform(&DiskOp::SyncDir { dir: dir.into() }).unwrap();
}

fn content(disk: &SimDisk, file: &str) -> Vec<u8> {
    disk.read(&name(file), 0, 1 << 20).unwrap().to_vec()
}

/// A disk with the durable file `f` of 8 sectors of ones.
fn disk_with_file() -> SimDisk {
    let disk = SimDisk::new(1);
    create(&disk, "f");
    write(&disk, "f", 0, &[1; 4096]);
    sync(&disk, "f").unwrap();
    sync_dir(&disk, "");
    disk
}

#[test]
fn what_was_synced_survives_and_what_was_not_may() {
    let disk = disk_with_file();
    write(&disk, "f", 1024, &[2; 4096]);
    assert_eq!(content(&disk.crash_image(&CrashPlan::LOSE_ALL), "f"), [1; 4096]);
    let kept = [vec![1; 1024], vec![2; 4096]].concat();
    assert_eq!(content(&disk.crash_image(&CrashPlan::KEEP_ALL), "f"), kept);

    let (mut mixed, mut garbage, mut lengths) = (0, 0, std::collections::BTreeSet::new());
    for seed in 0..200 {
        let image = disk.crash_image(&CrashPlan::seeded(seed));
        let bytes = content(&image, "f");
        assert_eq!(bytes[..1024], [1; 1024]);
        lengths.insert(bytes.len());
        let sectors: Vec<&[u8]> = bytes[1024..4096].chunks(512).collect();
        garbage += sectors.iter().filter(|s| **s != [1; 512] && **s != [2; 512]).count();
        mixed += usize::from(sectors.contains(&[1; 512].as_slice()) && sectors.contains(&[2; 512].as_slice()));
        assert_eq!(bytes, content(&disk.crash_image(&CrashPlan::seeded(seed)), "f"), "same seed, same image");
    }
    assert!(mixed > 20 && garbage > 20 && lengths.len() > 10, "{mixed} {garbage} {lengths:?}");
    assert_eq!(content(&disk, "f"), kept, "images do not touch the disk they are made of");
}

#[test]
fn names_are_durable_after_the_sync_of_their_directory_only() {
    let disk = SimDisk::new(1);
    disk.perform(&DiskOp::CreateDir { dir: "a/b".into() }).unwrap();
    create(&disk, "a/b/f");
    write(&disk, "a/b/f", 0, b"x");
    sync(&disk, "a/b/f").unwrap();
    assert_eq!(disk.crash_image(&CrashPlan::LOSE_ALL).list("a/b").unwrap(), [""; 0]);
    sync_dir(&disk, "a/b");
    assert_eq!(disk.crash_image(&CrashPlan::LOSE_ALL).list("a/b").unwrap(), [""; 0], "its parents are not there");
    sync_dir(&disk, "a");
    sync_dir(&disk, "");
    assert_eq!(disk.crash_image(&CrashPlan::LOSE_ALL).list("a/b").unwrap(), ["f"]);

    create(&disk, "a/b/g");
    disk.perform(&DiskOp::Rename { from: name("a/b/g"), to: name("a/b/f") }).unwrap();
    assert_eq!(disk.list("a/b").unwrap(), ["f"]);
    assert_eq!(disk.len(&name("a/b/f")).unwrap(), Some(0));
    let lost = disk.crash_image(&CrashPlan::LOSE_ALL);
    assert_eq!(content(&lost, "a/b/f"), b"x", "the old file is back");

    disk.perform(&DiskOp::Remove { file: name("a/b/f") }).unwrap();
    let back = disk.crash_image(&CrashPlan::LOSE_ALL);
    assert_eq!(content(&back, "a/b/f"), b"x", "removed, not synced");
    disk.perform(&DiskOp::SyncAll).unwrap();
    assert_eq!(disk.crash_image(&CrashPlan::LOSE_ALL).list("a/b").unwrap(), [""; 0]);
    assert_eq!(disk.lock().inodes.len(), 0);
    assert!(disk.perform(&DiskOp::Create { file: name("no/such/dir") }).is_err());
}

#[test]
fn a_failed_sync_drops_the_content_and_calls_it_clean() {
    let mut forgotten_at_once = 0;
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        create(&disk, "f");
        write(&disk, "f", 0, &[1; 4096]);
        sync(&disk, "f").unwrap();
        sync_dir(&disk, "");
        write(&disk, "f", 0, &[2; 4096]);
        disk.inject(Fault::fail("fdatasync").on("f"));
        assert_eq!(sync(&disk, "f").unwrap_err().op, "fdatasync");
        sync(&disk, "f").unwrap();
        assert!(disk.lock().inode(&name("f")).unwrap().is_clean());
        forgotten_at_once += usize::from(content(&disk, "f").contains(&1));
        let bytes = content(&disk.crash_image(&CrashPlan::KEEP_ALL), "f");
        assert!(bytes.contains(&1), "a part is lost although the second sync succeeded");
    }
    assert!((1..20).contains(&forgotten_at_once), "on some disks at once, on others with the page cache");
}

#[test]
fn faults_strike_the_operation_they_were_planted_for() {
    let disk = disk_with_file();
    create(&disk, "g");
    disk.inject(Fault::fail("write").on("g").after(1));
    disk.inject(Fault::lie("fdatasync").on("f"));
    write(&disk, "g", 0, b"first");
    write(&disk, "f", 0, b"lost");
    let torn = disk.perform(&DiskOp::Write { file: name("g"), pos: 5, bufs: vec![Bytes::from_static(b"second")] });
    assert_eq!(torn.unwrap_err().kind, io::ErrorKind::Other);
    assert!(b"firstsecond".starts_with(&content(&disk, "g")));
    sync(&disk, "f").unwrap();
    assert_eq!(content(&disk.crash_image(&CrashPlan::LOSE_ALL), "f"), [1; 4096], "the disk lied");
}

#[test]
fn space_runs_out() {
    let disk = disk_with_file();
    disk.set_capacity(Some(8192));
    create(&disk, "g");
    let reserve = |len| disk.perform(&DiskOp::Preallocate { file: name("g"), len });
    reserve(4097).unwrap();
    reserve(4096).unwrap();
    assert_eq!(disk.len(&name("g")).unwrap(), Some(0));
    write(&disk, "g", 0, &[1; 4096]);
    let full = disk.perform(&DiskOp::Write { file: name("g"), pos: 4096, bufs: vec![Bytes::from_static(b"x")] });
    assert_eq!(full.unwrap_err().kind, io::ErrorKind::StorageFull);
    disk.set_capacity(Some(1));
    write(&disk, "g", 0, &[2; 4096]);
    disk.set_capacity(Some(8192));
    disk.perform(&DiskOp::Truncate { file: name("g"), len: 0 }).unwrap();
    disk.perform(&DiskOp::ZeroFill { file: name("g"), len: 4096 }).unwrap();
    assert_eq!(content(&disk.crash_image(&CrashPlan::LOSE_ALL), "f"), [1; 4096]);
}

#[test]
fn bits_flip_and_sectors_become_unreadable() {
    let disk = disk_with_file();
    disk.flip_bit(&name("f"), 700, 1);
    assert_eq!(content(&disk, "f")[700], 3);
    assert_eq!(content(&disk.crash_image(&CrashPlan::LOSE_ALL), "f")[700], 3);
    disk.make_unreadable(&name("f"), 512, 1);
    assert!(disk.read(&name("f"), 1023, 1).is_err());
    assert!(disk.map(&name("f"), 0, 4096).is_err());
    assert!(disk.map(&name("f"), 1024, 3072).is_ok());
    write(&disk, "f", 512, &[5; 512]);
    assert_eq!(content(&disk, "f")[512..1024], [5; 512]);
}

#[test]
fn truncated_bytes_stay_away_and_an_unsynced_truncation_may_not() {
    let disk = disk_with_file();
    disk.perform(&DiskOp::Truncate { file: name("f"), len: 700 }).unwrap();
    disk.perform(&DiskOp::Truncate { file: name("f"), len: 2000 }).unwrap();
    assert_eq!(content(&disk, "f"), [vec![1; 700], vec![0; 1300]].concat());
    assert_eq!(content(&disk.crash_image(&CrashPlan::LOSE_ALL), "f"), [1; 4096]);
    sync(&disk, "f").unwrap();
    let cut = disk.crash_image(&CrashPlan::LOSE_ALL);
    assert_eq!(content(&cut, "f"), [vec![1; 700], vec![0; 1300]].concat());
    disk.perform_interrupted(&DiskOp::ZeroFill { file: name("f"), len: 600 }).unwrap();
    assert_eq!(content(&disk, "f"), [0; 600]);
    assert_eq!(content(&disk.crash_image(&CrashPlan::LOSE_ALL), "f"), content(&cut, "f"));
}

#[test]
fn without_power_nothing_happens() {
    let disk = disk_with_file();
    disk.record_trace(true);
    disk.halt_after(1);
    write(&disk, "f", 0, &[3; 512]);
    assert!(sync(&disk, "f").is_err());
    assert!(disk.read(&name("f"), 0, 1).is_err());
    assert_eq!(disk.trace().len(), 1);
    disk.crash(&CrashPlan::LOSE_ALL);
    assert_eq!(content(&disk, "f"), [1; 4096]);
    assert_eq!(disk.performed(), 5);
}
