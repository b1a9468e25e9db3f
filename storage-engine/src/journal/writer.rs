//! Gathers what groups submit into blocks, one in flight at a time.

use std::collections::VecDeque;

use levada_protocol::{ids::Lsn, limits::JOURNAL_BLOCK_BYTES_MAX};

use super::{
    Append, Completed, JOURNAL_DIR, JournalConfig, JournalId, JournalIo,
    block::{Block, Pending},
    files::{self, Files},
    format::{BlockId, PAGE_BYTES},
    replay::JournalEnd,
};
use crate::{
    disk::{Disk, DiskError, DiskOp},
    planted::{self, Planted},
    poison::Poisoned,
};

#[derive(Debug)]
struct InFlight {
    token: u64,
    block: Block,
    id: BlockId,
    /// It found no space, and is to be written again; `true` as soon as it may be.
    again: Option<bool>,
}

/// The writing side of the journal. A core: it returns what the disk has to do.
///
/// * `next_lsn` is the lsn of the block in flight, or of the next one.
/// * With nothing in flight, `synced_lsn + 1 == next_lsn`: every block written is durable.
/// * A block that is staged or in flight is not in `pending`.
/// * Once poisoned, it hands out nothing.
#[derive(Debug)]
pub struct JournalWriter {
    journal: JournalId,
    gather_bytes: usize,
    entry_bytes_max: usize,
    files: Files,
    pending: VecDeque<Pending>,
    /// Payloads of what was submitted and is not durable.
    waiting_bytes: u64,
    /// What all blocks took in their files, padding included.
    written_bytes: u64,
    /// The next block, when it was gathered before a file was ready for it, or is the tail that replay found.
    staged: Option<Block>,
    in_flight: Option<InFlight>,
    next_lsn: Lsn,
    /// Names made by an earlier process may not be durable yet: the first block is preceded by a sync of the directory.
    names_synced: bool,
    /// The last block carries something and no later one proves that it is durable.
    unproven: bool,
    busy_since_tick: bool,
    idle_block_wanted: bool,
    upkeep_token: Option<u64>,
    tokens: u64,
    poisoned: Option<Poisoned>,
}

impl JournalWriter {
    /// Goes on where replay ended. Call [`JournalWriter::settle`] before anyone relies on what was replayed.
    ///
    /// # Panics
    /// When a file of the configured length could not hold a block: a mistake in the configuration.
    #[must_use]
    pub fn resume(config: &JournalConfig, end: JournalEnd) -> Self {
        let JournalEnd { journal, next_lsn, mut files, tail } = end;
        assert!(
            config.file_bytes.is_multiple_of(PAGE_BYTES as u64) && config.entry_bytes_max() > 0,
            "a journal file is a number of pages of {PAGE_BYTES} bytes, not {} bytes",
            config.file_bytes
        );
        files.configure(config);
        let block_bytes_max = usize::try_from(config.file_bytes).unwrap_or(usize::MAX).min(JOURNAL_BLOCK_BYTES_MAX);
        Self {
            journal,
            gather_bytes: config.gather_bytes.min(block_bytes_max),
            entry_bytes_max: config.entry_bytes_max(),
            files,
            pending: VecDeque::new(),
            waiting_bytes: tail.as_ref().map_or(0, |tail| tail.payload_bytes() as u64),
            written_bytes: 0,
            staged: tail,
            in_flight: None,
            next_lsn,
            names_synced: false,
            unproven: false,
            busy_since_tick: false,
            idle_block_wanted: false,
            upkeep_token: None,
            tokens: 0,
            poisoned: None,
        }
    }

    /// Makes durable what replay found at the journal's end, blocking. Until then it may be gone with the next power cut.
    ///
    /// # Errors
    /// When the disk refuses, or has no space: the directory cannot be opened.
    pub fn settle(&mut self, disk: &dyn Disk) -> Result<Option<Completed>, Poisoned> {
        let mut completed = None;
        while self.staged.is_some() || self.in_flight.is_some() {
            if let Some(JournalIo { token, ops }) = self.poll() {
                completed = self.complete(token, ops.iter().try_for_each(|op| disk.perform(op)))?;
            } else if let Some(JournalIo { token, ops }) = self.poll_upkeep() {
                self.complete_upkeep(token, ops.iter().try_for_each(|op| disk.perform(op)))?;
            } else {
                let full = std::io::ErrorKind::StorageFull.into();
                return Err(Poisoned::new(DiskError::new("zero-fill", JOURNAL_DIR, &full)));
            }
        }
        Ok(completed)
    }

    /// Takes something to be made durable with the next block. Nothing is copied.
    ///
    /// # Panics
    /// When an entry is larger than [`JournalConfig::entry_bytes_max`]: such entries are refused where they come in.
    pub fn submit(&mut self, append: Append) {
        for entry in &append.entries {
            let bytes = entry.payload.len();
            assert!(bytes <= self.entry_bytes_max, "an entry of {bytes} bytes does not fit a journal block");
        }
        if self.poisoned.is_none() && (!append.entries.is_empty() || append.hard_state.is_some()) {
            self.busy_since_tick = true;
            self.waiting_bytes += append.entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
            self.pending.push_back(append.into());
        }
    }

    /// The next block, if there is something to write, nothing in flight, and a file ready. For the journal lane.
    pub fn poll(&mut self) -> Option<JournalIo> {
        if self.poisoned.is_some() {
            return None;
        }
        if let Some(InFlight { token, block, id, again }) = &mut self.in_flight {
            again.take_if(|may| *may)?;
            return Some(JournalIo { token: *token, ops: block_ops(self.names_synced, block, id) });
        }
        let block = self.staged.take().or_else(|| self.gather()).or_else(|| {
            // Nothing to do: an empty block proves the last one.
            std::mem::take(&mut self.idle_block_wanted).then(Block::default)
        })?;
        let bytes = block.padded_bytes();
        let Some(place) = self.files.place(self.next_lsn, bytes) else {
            self.staged = Some(block);
            return None;
        };
        debug_assert!(place.first_lsn <= self.next_lsn && place.pos.is_multiple_of(PAGE_BYTES as u64));
        let id = BlockId {
            journal: self.journal,
            generation: place.generation,
            lsn: self.next_lsn,
            synced_lsn: self.synced_lsn(),
            first_lsn: place.first_lsn,
            file: place.file.number,
            page: pages(place.pos),
            file_pages: pages(place.file.bytes),
        };
        let ops = block_ops(self.names_synced, &block, &id);
        self.idle_block_wanted = false;
        self.written_bytes += bytes;
        self.tokens += 1;
        self.in_flight = Some(InFlight { token: self.tokens, block, id, again: None });
        Some(JournalIo { token: self.tokens, ops })
    }

    fn gather(&mut self) -> Option<Block> {
        let mut block = Block::default();
        while let Some(pending) = self.pending.front_mut() {
            if !block.gather(pending, self.gather_bytes) {
                break;
            }
            self.pending.pop_front();
        }
        (!block.is_empty()).then_some(block)
    }

    /// Takes the answer to what [`JournalWriter::poll`] handed out: what is durable now. Nothing is if the block found no
    /// space (a file system that copies what it overwrites needs some): it is written again after the next
    /// [`JournalWriter::tick`].
    ///
    /// # Errors
    /// When it failed, now or before. Nothing that was not reported durable may be relied on, and nothing is retried.
    ///
    /// # Panics
    /// When the token is not the one in flight.
    pub fn complete(&mut self, token: u64, result: Result<(), DiskError>) -> Result<Option<Completed>, Poisoned> {
        let result = if planted::is(Planted::SyncFailureIgnored) { Ok(()) } else { result };
        if let (None, Err(error), Some(in_flight)) = (&self.poisoned, &result, &mut self.in_flight)
            && !error.is_fatal()
        {
            assert_eq!(token, in_flight.token, "an answer to another question");
            in_flight.again = Some(false);
            return Ok(None);
        }
        self.check(result)?;
        let InFlight { token: expected, block, .. } = self.in_flight.take().expect("an answer without a question");
        assert_eq!(token, expected, "an answer to another question");
        self.names_synced = true;
        self.unproven = !block.is_empty();
        self.waiting_bytes -= block.payload_bytes() as u64;
        let lsn = self.next_lsn;
        self.next_lsn = Lsn(lsn.get() + 1);
        Ok(Some(Completed { lsn, durable: block.durable() }))
    }

    /// Makes a file ready or removes one, if that is due. For the segments lane; nobody waits for it unless all files
    /// are full.
    pub fn poll_upkeep(&mut self) -> Option<JournalIo> {
        if self.poisoned.is_some() {
            return None;
        }
        let ops = self.files.poll_upkeep()?;
        self.tokens += 1;
        self.upkeep_token = Some(self.tokens);
        Some(JournalIo { token: self.tokens, ops })
    }

    /// Takes the answer to what [`JournalWriter::poll_upkeep`] handed out. Lack of space is no failure: it is tried again
    /// after the next [`JournalWriter::tick`].
    ///
    /// # Errors
    /// When it failed otherwise.
    ///
    /// # Panics
    /// When the token is not the one in flight.
    pub fn complete_upkeep(&mut self, token: u64, result: Result<(), DiskError>) -> Result<(), Poisoned> {
        let succeeded = result.is_ok();
        self.check(result.or_else(|error| if error.is_fatal() { Err(error) } else { Ok(()) }))?;
        assert_eq!(Some(token), self.upkeep_token.take(), "an answer to another question");
        self.files.upkeep_done(succeeded);
        Ok(())
    }

    fn check(&mut self, result: Result<(), DiskError>) -> Result<(), Poisoned> {
        if let (None, Err(error)) = (&self.poisoned, result) {
            self.poisoned = Some(Poisoned::new(error));
            self.pending.clear();
        }
        self.poisoned.clone().map_or(Ok(()), Err)
    }

    /// To be called every now and then (50 ms or so). A writer that had nothing to do since the last call writes an empty
    /// block, which proves the last one; a file that found no space is tried again.
    pub fn tick(&mut self) {
        self.files.tick();
        if let Some(again) = self.in_flight.as_mut().and_then(|in_flight| in_flight.again.as_mut()) {
            *again = true;
        }
        if !std::mem::take(&mut self.busy_since_tick) && self.unproven && self.pending.is_empty() {
            self.idle_block_wanted = true;
        }
    }

    /// Asks for an empty block, if there is nothing else to write.
    pub const fn prove(&mut self) {
        self.idle_block_wanted = true;
    }

    /// Frees the files whose blocks all have an lsn below `up_to`: a durable checkpoint covers them.
    pub fn recycle(&mut self, up_to: Lsn) {
        self.files.recycle(up_to);
    }

    /// The last block that is durable. A checkpoint notes it: replay then misses what is gone up to there.
    #[must_use]
    pub const fn synced_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
    }

    /// The block that what is submitted now will be in, at the earliest.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.get() + u64::from(self.in_flight.is_some()))
    }

    /// Bytes of the files that a checkpoint would free, roughly; replay reads them.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.files.used_bytes()
    }

    /// What the blocks of this writer took in their files, padding included.
    #[must_use]
    pub const fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// What entries take that were submitted and are not durable, in bytes of payload.
    #[must_use]
    pub const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Whether a block waits for a file to be made ready: writing is not keeping up with zeroing, or the disk is full.
    #[must_use]
    pub const fn is_stalled(&self) -> bool {
        self.staged.is_some() && self.in_flight.is_none()
    }

    /// Whether nothing becomes durable for want of space: a block waits for a file, and the last attempt to make one found
    /// none, or the block itself found none.
    #[must_use]
    pub fn lacks_space(&self) -> bool {
        let is_put_off = self.in_flight.as_ref().is_some_and(|in_flight| in_flight.again.is_some());
        is_put_off || self.is_stalled() && self.files.lacks_space()
    }

    /// Whether the last attempt to make a file found no space.
    #[must_use]
    pub const fn finds_no_space(&self) -> bool {
        self.files.lacks_space()
    }
}

/// What writes a block, durably.
fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE_BYTES as u64).expect("a journal file has fewer than 2^32 pages")
}

fn block_ops(names_synced: bool, block: &Block, id: &BlockId) -> Vec<DiskOp> {
    let file = files::name(id.file);
    let mut ops = Vec::with_capacity(3);
    if !names_synced {
        ops.push(DiskOp::SyncDir { dir: JOURNAL_DIR.to_owned() });
    }
    let pos = u64::from(id.page) * PAGE_BYTES as u64;
    ops.push(DiskOp::Write { file: file.clone(), pos, bufs: block.encode(id) });
    if !planted::is(Planted::JournalNotSynced) {
        ops.push(DiskOp::Sync { file });
    }
    ops
}
