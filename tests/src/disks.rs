//! Disks whose power can be cut: an ext4 of its own on a loop device, which can be shut down so that everything not yet
//! synced is gone, as after a power cut (`EXT4_IOC_SHUTDOWN` without flushing the journal).
//!
//! It can also be filled up, go read-only as ext4 does when it meets an error, and be slowed down for one process.
//!
//! Needs root and loop devices; [`PowerDisk::unavailable`] says why there are none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: u32 = 0x8004_587d;
/// Do not flush the file system's journal.
const SHUTDOWN_NOLOGFLUSH: u32 = 2;

/// What these file systems give out at least.
const BLOCK_BYTES: u64 = 4 << 10;

/// One such disk. Unmounted and removed when dropped.
#[derive(Debug)]
pub struct PowerDisk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

impl PowerDisk {
    /// Why this machine cannot have such disks, if it cannot.
    #[must_use]
    pub fn unavailable() -> Option<&'static str> {
        if !Path::new("/dev/loop-control").exists() {
            return Some("there are no loop devices");
        }
        let uid = Command::new("id").arg("-u").output().map(|out| out.stdout).unwrap_or_default();
        (uid.trim_ascii() != b"0").then_some("mounting needs root")
    }

    /// Makes and mounts a disk of this size below a directory.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(dir: &Path, name: &str, size_mib: u64) -> Result<Self> {
        let image = dir.join(format!("{name}.img"));
        let mount = dir.join(name);
        fs::create_dir_all(&mount)?;
        fs::File::create(&image)?.set_len(size_mib << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(&image))?;
        let mut disk = Self { image, mount, mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power of several at once: what is not synced is lost, every later operation fails. Processes go on until
    /// they notice. One helper has all disks open and a thread for each before it cuts the first: a process for each, one
    /// after the other, would leave some the time to sync what others lost.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut_all<'a>(disks: impl IntoIterator<Item = &'a Self>) -> Result<()> {
        let script = format!(
            "import fcntl, os, struct, sys\n\
             from concurrent.futures import ThreadPoolExecutor\n\
             from threading import Barrier\n\
             how = struct.pack('I', {SHUTDOWN_NOLOGFLUSH})\n\
             disks = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]\n\
             together = Barrier(len(disks))\n\
             cut = lambda disk: (together.wait(), fcntl.ioctl(disk, {EXT4_IOC_SHUTDOWN}, how))\n\
             with ThreadPoolExecutor(len(disks)) as pool: list(pool.map(cut, disks))\n"
        );
        run(Command::new("python3").args(["-c", &script]).args(disks.into_iter().map(|disk| &disk.mount)))
    }

    /// What the file system has left, in bytes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mount)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Takes all space but so much, as somebody else's files would. What is taken for this already is given back first.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn fill(&self, leave_bytes: u64) -> Result<()> {
        self.unfill()?;
        let file = fs::File::create(self.filling())?;
        // In pieces, the last ones small: others write meanwhile, and a piece too large would be refused as a whole.
        let (mut end, mut piece) = (0, 64 << 20);
        while piece >= 64 << 10 {
            if self.free_bytes()? < leave_bytes + piece {
                piece /= 2;
            } else if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, piece).is_ok() {
                end += piece;
            } else {
                piece /= 2;
            }
        }
        Ok(())
    }

    /// Takes all space to the last block, what is kept for root included, and goes on where it stopped when others have given some
    /// back since. Nobody can write anything new until it is given back.
    ///
    /// # Errors
    /// When the system refuses for another reason than that.
    pub fn fill_up(&self) -> Result<()> {
        let file = fs::File::options().create(true).append(true).open(self.filling())?;
        let (mut end, mut piece) = (file.metadata()?.len(), 64 << 20);
        while piece >= BLOCK_BYTES {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, piece) {
                Ok(()) => end += piece,
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What the system says to whoever wants to write a block more; `None` if it takes it.
    ///
    /// # Errors
    /// When it refuses for another reason than that there is no space.
    pub fn refusal(&self) -> Result<Option<String>> {
        let one_more = self.mount.join("one-more");
        let written = fs::write(&one_more, [1; 4096]);
        // The name of a file may find room where its block does not.
        let _ = fs::remove_file(one_more);
        match written {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(Some(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives back what [`PowerDisk::fill`] and [`PowerDisk::fill_up`] took.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unfill(&self) -> Result<()> {
        match fs::remove_file(self.filling()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn filling(&self) -> PathBuf {
        self.mount.join("somebody-elses")
    }

    /// The file system finds an error and lets nobody write any more, whatever is open (`errors=remount-ro` of ext4).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn go_read_only(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(&self.mount))
    }

    /// The number of its block device, `major:minor`.
    ///
    /// # Errors
    /// When it cannot be found.
    pub fn device(&self) -> Result<String> {
        let found = rustix::fs::stat(&self.mount)?.st_dev;
        Ok(format!("{}:{}", rustix::fs::major(found), rustix::fs::minor(found)))
    }

    /// Power is back: mounts what the disk had kept. All processes that used it must have ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn restore(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        // What files gave back the image gives back, too: else it grows to its full size.
        run(Command::new("mount").args(["-o", "loop,discard"]).arg(&self.image).arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        if self.mounted {
            run(Command::new("umount").arg(&self.mount))?;
            self.mounted = false;
        }
        Ok(())
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if self.mounted {
            // A process may still hold it: the lazy way never leaves the machine dirty.
            let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
        }
    }
}

/// A bound on how fast processes write to a disk: a group of the kernel's `blkio` controller (cgroup version 1). Gone when
/// dropped.
#[derive(Debug)]
pub struct Throttle {
    group: PathBuf,
    device: String,
}

/// Where the controller is mounted.
const BLKIO: &str = "/sys/fs/cgroup/blkio";

impl Throttle {
    /// Why this machine cannot slow disks down, if it cannot.
    #[must_use]
    pub fn unavailable() -> Option<&'static str> {
        let there = Path::new(BLKIO).join("blkio.throttle.write_iops_device").exists();
        PowerDisk::unavailable().or((!there).then_some("there is no blkio controller of cgroup version 1"))
    }

    /// Lets a process write to a disk so many times in a second, and no more.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn begin(disk: &PowerDisk, process: u32, writes_per_s: u64) -> Result<Self> {
        // Its device is this disk's alone, on the whole machine; a process's id need not be.
        let device = disk.device()?;
        let group = Path::new(BLKIO).join(format!("levada-test-{}", device.replace(':', "-")));
        // A process that was killed leaves its empty group to whoever has the device next.
        fs::create_dir_all(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let throttle = Self { group, device };
        throttle.set(writes_per_s)?;
        fs::write(throttle.group.join("cgroup.procs"), process.to_string())?;
        Ok(throttle)
    }

    fn set(&self, writes_per_s: u64) -> Result<()> {
        let bound = format!("{} {writes_per_s}", self.device);
        fs::write(self.group.join("blkio.throttle.write_iops_device"), bound).context("cannot bound writes")
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn end(&self) -> Result<()> {
        self.set(0)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let processes = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            let _ = fs::write(Path::new(BLKIO).join("cgroup.procs"), process);
        }
        let _ = fs::remove_dir(&self.group);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_nothing_else() {
        if let Some(why) = PowerDisk::unavailable() {
            // Not `println`, which is shown of failing tests only.
            writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut disks = ["one", "two"].map(|name| PowerDisk::create(dir.path(), name, 64).unwrap());
        for disk in &disks {
            let mut synced = fs::File::create(disk.path().join("synced")).unwrap();
            synced.write_all(b"kept").unwrap();
            synced.sync_all().unwrap();
            fs::write(disk.path().join("unsynced"), b"lost").unwrap();
        }
        PowerDisk::cut_all(&disks).unwrap();
        for disk in &disks {
            assert!(fs::write(disk.path().join("later"), b"x").is_err(), "the disk is dead");
        }
        for disk in &mut disks {
            disk.restore().unwrap();
            assert_eq!(fs::read(disk.path().join("synced")).unwrap(), b"kept");
            assert!(!disk.path().join("unsynced").exists());
        }
    }

    #[test]
    fn a_disk_fills_up_and_goes_read_only() {
        if let Some(why) = PowerDisk::unavailable() {
            writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = PowerDisk::create(dir.path(), "one", 64).unwrap();
        let left = |disk: &PowerDisk| disk.free_bytes().unwrap();
        let empty = left(&disk);
        disk.fill(5 << 20).unwrap();
        assert!((5 << 20..6 << 20).contains(&left(&disk)), "{}", left(&disk));
        // Root has what the file system keeps for it, too.
        assert!(fs::write(disk.path().join("large"), vec![0; 16 << 20]).is_err());
        fs::remove_file(disk.path().join("large")).unwrap();
        disk.fill(0).unwrap();
        assert!(left(&disk) < 1 << 20);
        disk.fill_up().unwrap();
        assert_eq!(left(&disk), 0);
        assert!(disk.refusal().unwrap().is_some(), "root has nothing, either");
        disk.unfill().unwrap();
        assert!(left(&disk) > empty - (1 << 20));
        assert_eq!(disk.refusal().unwrap(), None);
        let mut open = fs::File::create(disk.path().join("open")).unwrap();
        disk.go_read_only().unwrap();
        assert!(open.write_all(b"x").is_err() && fs::write(disk.path().join("new"), b"x").is_err());
    }
}
