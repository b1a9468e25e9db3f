//! Reads of files that the core wants and does not wait for: a thread of their own, so that neither the core nor the
//! disk's lanes stand still for them.

use std::{io, sync::Arc, sync::mpsc, thread};

use bytes::Bytes;
use levada_storage_engine::disk::{Disk, DiskError, FileName};

/// A read ([`crate::node::event::Effect::Read`]).
#[derive(Debug)]
pub(super) struct Read {
    pub(super) token: u64,
    pub(super) file: FileName,
    pub(super) pos: u64,
    pub(super) len: usize,
    pub(super) from_disk: bool,
}

/// The way to the thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Reads {
    /// The core bounds how many there are.
    wanted: mpsc::Sender<Read>,
}

impl Reads {
    /// Starts the thread. `done` is told each outcome.
    #[allow(clippy::disallowed_methods, reason = "a driver: it spawns its thread")]
    pub(super) fn start(
        disk: &Arc<dyn Disk>,
        done: impl Fn(u64, Result<Bytes, DiskError>) + Send + 'static,
    ) -> io::Result<Self> {
        let (wanted, reads) = mpsc::channel::<Read>();
        let disk = Arc::clone(disk);
        thread::Builder::new().name("reads".to_owned()).spawn(move || {
            for Read { token, file, pos, len, from_disk } in reads {
                done(token, if from_disk { disk.read_from_disk(&file, pos, len) } else { disk.read(&file, pos, len) });
            }
        })?;
        Ok(Self { wanted })
    }

    /// Hands over a read.
    pub(super) fn read(&self, read: Read) {
        // Without the thread the process is about to end.
        let _ = self.wanted.send(read);
    }
}
