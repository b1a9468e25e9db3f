//! A disk in memory that forgets like a real one, deterministically.
//!
//! It keeps apart what processes see and what a power cut leaves, for the bytes of files (in sectors of 512 bytes) and
//! for names. [`SimDisk::crash`] cuts the power: every sector that was not synced holds afterwards, independently of its
//! neighbours, its new content, its old content or garbage, and every change of a directory that was not synced is there
//! or is not. A seeded [`CrashPlan`] decides; the disk has no other source of chance.
//!
//! Besides it fails on demand: an operation fails or lies ([`SimDisk::inject`]), space runs out
//! ([`SimDisk::set_capacity`]), bits flip, sectors become unreadable, the power goes off after so many operations
//! ([`SimDisk::halt_after`]). A failed sync behaves as on Linux: what it should have written is gone, and a second sync
//! succeeds without it. Full writes of a sector never tear bytes that were not changed; whoever needs more paranoia than
//! that must not trust any disk.
//!
//! Copies are cheap ([`SimDisk::fork`] shares all sectors), so a test can make many images of one state.

mod crash;
mod dirty;
mod fault;
mod inode;
mod names;
pub(crate) mod rng;

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

pub use self::{
    crash::CrashPlan,
    fault::{Fault, FaultEffect},
};
use self::{
    inode::{Inode, SECTOR_BYTES},
    names::{InodeId, Names},
    rng::Rng,
};
use crate::disk::{Disk, DiskError, DiskOp, DiskSpace, FileName};

#[derive(Clone, Debug)]
struct State {
    rng: Rng,
    names: Names,
    inodes: BTreeMap<InodeId, Arc<Inode>>,
    inodes_made: InodeId,
    capacity: Option<u64>,
    faults: Vec<Fault>,
    performed: u64,
    halt_at: Option<u64>,
    in_want: bool,
    trace: Option<Vec<DiskOp>>,
}

/// A simulated disk. Share it as `Arc<SimDisk>`; the side that plants faults and the side that works use the same one.
pub struct SimDisk {
    state: Mutex<State>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimDisk")
            .field("files", &state.inodes.len())
            .field("performed", &state.performed)
            .finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk. The seed decides what failing operations leave behind.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::new(seed),
            names: Names::default(),
            inodes: BTreeMap::new(),
            inodes_made: 0,
            capacity: None,
            faults: Vec::new(),
            performed: 0,
            halt_at: None,
            in_want: false,
            trace: None,
        };
        Self { state: Mutex::new(state) }
    }

    /// A second disk in the same state.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Mutex::new(self.lock().clone()) }
    }

    /// Cuts the power and turns it on again. Planted faults that did not strike stay.
    pub fn crash(&self, plan: &CrashPlan) {
        self.lock().crash(plan);
    }

    /// A second disk in the state that a power cut now would leave.
    #[must_use]
    pub fn crash_image(&self, plan: &CrashPlan) -> Self {
        let image = self.fork();
        image.crash(plan);
        image
    }

    /// Begins an operation that a power cut interrupts: what it changes is there, but nothing of it is durable.
    ///
    /// # Errors
    /// As [`Disk::perform`].
    pub fn perform_interrupted(&self, op: &DiskOp) -> Result<(), DiskError> {
        self.lock().apply(op).map_err(|error| DiskError::new(op.call(), op.subject(), &error))
    }

    /// Plants a fault. The first planted that matches an operation strikes.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Takes back the faults that did not strike yet. What they did to the bytes stays.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Bounds the space of all files together; writes beyond it fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// What all files take, as [`SimDisk::set_capacity`] counts it.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Turns the power off after this many further operations: the next one and everything after it, reads too, fails
    /// and changes nothing, until [`SimDisk::crash`].
    pub fn halt_after(&self, operations: u64) {
        let mut state = self.lock();
        state.halt_at = Some(state.performed + operations);
    }

    /// How many operations were performed, failed ones included.
    #[must_use]
    pub fn performed(&self) -> u64 {
        self.lock().performed
    }

    /// Starts to record operations, or stops and forgets them.
    pub fn record_trace(&self, on: bool) {
        self.lock().trace = on.then(Vec::new);
    }

    /// The recorded operations, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<DiskOp> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// Flips one bit of a file, on the platter and in memory. Beyond the end, or of no file, it does nothing.
    pub fn flip_bit(&self, file: &FileName, pos: u64, bit: u8) {
        if let Some(inode) = self.lock().inode_mut(file)
            && pos < inode.len()
        {
            inode.flip_bit(pos, bit);
        }
    }

    /// Makes the sectors of a range unreadable until they are written again.
    pub fn make_unreadable(&self, file: &FileName, pos: u64, len: u64) {
        if let Some(inode) = self.lock().inode_mut(file) {
            inode.make_unreadable(pos, len);
        }
    }

    /// Lets every read fail for want of descriptors, or no more.
    pub fn set_want(&self, in_want: bool) {
        self.lock().in_want = in_want;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, file: &FileName) -> io::Result<InodeId> {
        self.names.lookup(file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&self, file: &FileName) -> io::Result<&Inode> {
        self.inodes.get(&self.find(file)?).map(Arc::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode_mut(&mut self, file: &FileName) -> Option<&mut Inode> {
        let inode = self.names.lookup(file)?;
        self.inodes.get_mut(&inode).map(Arc::make_mut)
    }

    fn change(&mut self, file: &FileName) -> io::Result<&mut Inode> {
        self.inode_mut(file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_off(&self) -> bool {
        self.halt_at.is_some_and(|at| self.performed >= at)
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.space()).sum()
    }

    /// Fails when the file would need more space than there is at this length.
    fn check_space(&self, file: &FileName, len: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let used = self.used();
        let more = len.next_multiple_of(SECTOR_BYTES as u64).saturating_sub(self.inode(file)?.space());
        // What is allocated can be overwritten however full the disk is.
        if more > 0 && used + more > capacity { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn write(&mut self, file: &FileName, pos: u64, bufs: &[Bytes]) -> io::Result<()> {
        let len: usize = bufs.iter().map(Bytes::len).sum();
        self.check_space(file, pos + len as u64)?;
        let inode = self.change(file)?;
        let mut pos = pos;
        for buf in bufs {
            inode.write(pos, buf);
            pos += buf.len() as u64;
        }
        Ok(())
    }

    /// Everything an operation does, but for making it durable.
    fn apply(&mut self, op: &DiskOp) -> io::Result<()> {
        match op {
            DiskOp::CreateDir { dir } => self.names.make_dir(dir),
            DiskOp::Create { file } if self.names.lookup(file).is_some() => self.change(file)?.truncate(0),
            DiskOp::Create { file } => {
                if !self.names.has_dir(file.dir()) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                self.inodes_made += 1;
                self.inodes.insert(self.inodes_made, Arc::default());
                self.names.link(file, self.inodes_made);
            }
            DiskOp::ZeroFill { file, len } => {
                self.check_space(file, *len)?;
                self.change(file)?.write_zeros(*len);
            }
            DiskOp::Preallocate { file, len } => {
                if self.check_space(file, *len).is_ok() {
                    self.change(file)?.reserve(*len);
                }
                self.find(file)?;
            }
            DiskOp::Write { file, pos, bufs } => self.write(file, *pos, bufs)?,
            DiskOp::Truncate { file, len } => self.change(file)?.truncate(*len),
            DiskOp::Rename { from, to } => {
                let inode = self.find(from)?;
                self.names.rename(from, to, inode);
                self.drop_unnamed();
            }
            DiskOp::Remove { file } if self.names.lookup(file).is_some() => {
                self.names.unlink(file);
                self.drop_unnamed();
            }
            DiskOp::Writeback { file, .. } | DiskOp::Sync { file } => {
                self.find(file)?;
            }
            DiskOp::SyncDir { dir } if !self.names.has_dir(dir) => return Err(io::ErrorKind::NotFound.into()),
            DiskOp::Remove { .. } | DiskOp::SyncAll | DiskOp::SyncDir { .. } => {}
        }
        Ok(())
    }

    fn make_durable(&mut self, op: &DiskOp) -> io::Result<()> {
        match op {
            DiskOp::Sync { file } | DiskOp::ZeroFill { file, .. } => self.change(file)?.sync(),
            DiskOp::SyncAll => {
                self.inodes.values_mut().for_each(|inode| Arc::make_mut(inode).sync());
                self.names.sync_all();
                self.drop_unnamed();
            }
            DiskOp::SyncDir { dir } => {
                self.names.sync_dir(dir);
                self.drop_unnamed();
            }
            _ => {}
        }
        Ok(())
    }

    /// What a failing operation leaves behind.
    fn fail(&mut self, op: &DiskOp) -> io::Result<()> {
        let mut rng = self.rng.clone();
        match op {
            DiskOp::Write { file, pos, bufs } => {
                let bytes = bufs.concat();
                let written = usize::try_from(rng.below(bytes.len() as u64 + 1)).unwrap_or(0);
                self.write(file, *pos, &[Bytes::from(bytes).slice(..written)])?;
            }
            DiskOp::Sync { file } | DiskOp::ZeroFill { file, .. } => {
                self.apply(op)?;
                self.change(file)?.fail_sync(&mut rng);
            }
            DiskOp::SyncAll => {
                self.inodes.values_mut().for_each(|inode| Arc::make_mut(inode).fail_sync(&mut rng));
            }
            _ => {}
        }
        self.rng = rng;
        Ok(())
    }

    fn perform(&mut self, op: &DiskOp) -> io::Result<()> {
        if self.is_off() {
            return Err(io::Error::other("the power is off"));
        }
        self.performed += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(op.clone());
        }
        let mut struck = None;
        self.faults.retain_mut(|fault| {
            if struck.is_some() || !fault.matches(op) {
                return true;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                return true;
            }
            struck = Some(fault.effect);
            false
        });
        match struck {
            None => {
                self.apply(op)?;
                self.make_durable(op)
            }
            Some(FaultEffect::Lie) => Ok(()),
            Some(FaultEffect::Fail(kind)) => {
                self.fail(op)?;
                Err(io::Error::new(kind, "injected"))
            }
        }
    }

    fn crash(&mut self, plan: &CrashPlan) {
        let mut rng = Rng::new(plan.seed);
        self.names.crash(plan.names_kept_percent, &mut rng);
        self.drop_unnamed();
        for inode in self.inodes.values_mut() {
            Arc::make_mut(inode).crash(plan, &mut rng);
        }
        self.halt_at = None;
    }

    fn drop_unnamed(&mut self) {
        let named = self.names.inodes();
        self.inodes.retain(|inode, _| named.contains(inode));
    }

    fn read(&self, file: &FileName, pos: u64, len: usize) -> io::Result<Bytes> {
        if self.is_off() {
            return Err(io::Error::other("the power is off"));
        }
        if self.in_want {
            return Err(rustix::io::Errno::MFILE.into());
        }
        let bytes = self.inode(file)?.read(pos, len);
        bytes.map(Bytes::from).ok_or_else(|| io::Error::other("sector cannot be read"))
    }
}

impl Disk for SimDisk {
    fn perform(&self, op: &DiskOp) -> Result<(), DiskError> {
        self.lock().perform(op).map_err(|error| DiskError::new(op.call(), op.subject(), &error))
    }

    fn list(&self, dir: &str) -> Result<Vec<String>, DiskError> {
        Ok(self.lock().names.list(dir))
    }

    fn len(&self, file: &FileName) -> Result<Option<u64>, DiskError> {
        Ok(self.lock().inode(file).ok().map(Inode::len))
    }

    fn read(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        self.lock().read(file, pos, len).map_err(|error| DiskError::new("read", file, &error))
    }

    fn map(&self, file: &FileName, pos: u64, len: usize) -> Result<Bytes, DiskError> {
        let read = self
            .lock()
            .read(file, pos, len)
            .and_then(|bytes| if bytes.len() == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        read.map_err(|error| DiskError::new("map", file, &error))
    }

    fn space(&self) -> Result<Option<DiskSpace>, DiskError> {
        let state = self.lock();
        let free_bytes = |total_bytes: u64| total_bytes.saturating_sub(state.used());
        Ok(state.capacity.map(|total_bytes| DiskSpace { total_bytes, free_bytes: free_bytes(total_bytes) }))
    }
}

#[cfg(test)]
mod tests;
