//! The scrub: every segment of this node is read from the disk now and then, and compared with what it must be.
//!
//! Readers check what they read, so damage is never served. But what nobody reads may rot on one disk after another, until no
//! sound copy is left. So a pass reads everything, slowly, past the page cache, in the order of groups; what it finds is
//! mended (`mending.rs`). Of a segment that is still written, it reads what the last checkpoint has.

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex};
use levada_storage_engine::{
    disk::DiskError,
    store::{SegmentCheck, SegmentSpec, Store, segment_file},
};

use super::{event::Effect, fetching::Budget};
use crate::raft::TICK_MS;

/// What is read at once.
const PIECE_BYTES: usize = 256 << 10;
/// The first pass begins so long after the start.
const FIRST_TICKS: u64 = 60_000 / TICK_MS;
/// Numbers of its reads are apart from those of others.
const TOKENS: u64 = 1 << 63;

/// How often, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubConfig {
    /// Bytes read in a second; 0 for no scrub at all.
    pub bytes_per_s: u64,
    /// From the beginning of a pass to that of the next, at least.
    pub interval_ms: u64,
}

/// A segment that is read.
#[derive(Debug)]
struct Reading {
    group: GroupId,
    spec: SegmentSpec,
    check: SegmentCheck,
    /// The read under way.
    asked: Option<(u64, usize)>,
}

impl Reading {
    fn key(&self) -> (GroupId, LogIndex) {
        (self.group, self.spec.first_index())
    }

    fn piece_bytes(&self) -> usize {
        if self.spec.is_sealed() {
            return PIECE_BYTES;
        }
        let rest = self.spec.bytes().saturating_sub(self.check.position());
        usize::try_from(rest).unwrap_or(usize::MAX).min(PIECE_BYTES)
    }
}

/// Reads all segments, again and again.
#[derive(Debug)]
pub(super) struct Scrub {
    config: ScrubConfig,
    budget: Budget,
    ticks: u64,
    /// When the next pass begins.
    next_pass: u64,
    /// Behind which segment this pass goes on; `None` between two.
    at: Option<(GroupId, LogIndex)>,
    reading: Option<Reading>,
    last_token: u64,
    passes: u64,
    bytes: u64,
    found: u64,
    /// When the last pass ended.
    ended: Option<u64>,
}

impl Scrub {
    pub(super) fn new(config: ScrubConfig) -> Self {
        let first = FIRST_TICKS.min(config.interval_ms / TICK_MS);
        Self {
            budget: Budget::new(config.bytes_per_s),
            config,
            ticks: 0,
            next_pass: first,
            at: None,
            reading: None,
            last_token: TOKENS,
            passes: 0,
            bytes: 0,
            found: 0,
            ended: None,
        }
    }

    /// From now on it is as often and as fast as this.
    pub(super) fn configure(&mut self, config: ScrubConfig) {
        self.config = config;
        self.budget.set_rate(config.bytes_per_s);
        self.next_pass = self.next_pass.min(self.ticks + (config.interval_ms / TICK_MS).max(1));
    }

    /// Whether a read is one of the scrub's.
    pub(super) const fn is_its(token: u64) -> bool {
        token >= TOKENS
    }

    /// How many passes were completed since the start.
    pub(super) const fn passes(&self) -> u64 {
        self.passes
    }

    /// How many bytes were read since the start.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many segments it found damaged since the start.
    pub(super) const fn found(&self) -> u64 {
        self.found
    }

    /// How long ago the last pass ended.
    pub(super) fn ended_ms_ago(&self) -> Option<u64> {
        self.ended.map(|ended| (self.ticks - ended) * TICK_MS)
    }

    /// 50 ms have passed.
    pub(super) fn tick(&mut self, store: &Store, out: &mut Vec<Effect>) {
        self.ticks += 1;
        self.budget.tick(true);
        if self.at.is_none() && self.config.bytes_per_s > 0 && self.ticks >= self.next_pass {
            self.at = Some((GroupId(0), LogIndex(0)));
            self.next_pass = self.ticks + (self.config.interval_ms / TICK_MS).max(1);
        }
        self.go_on(store, out);
    }

    fn go_on(&mut self, store: &Store, out: &mut Vec<Effect>) {
        let Some(at) = self.at else { return };
        if self.reading.is_none() {
            let Some((group, spec)) = store.next_segment(at) else {
                self.at = None;
                self.passes += 1;
                self.ended = Some(self.ticks);
                tracing::info!(passes = self.passes, bytes = self.bytes, found = self.found, "scrub.pass.complete");
                return;
            };
            self.reading = Some(Reading { group, check: spec.check(), spec, asked: None });
        }
        let Some(reading) = self.reading.as_mut().filter(|reading| reading.asked.is_none()) else { return };
        let len = reading.piece_bytes();
        if !self.budget.take(u32::try_from(len).unwrap_or(u32::MAX)) {
            return;
        }
        self.last_token += 1;
        reading.asked = Some((self.last_token, len));
        let (file, pos) = (segment_file(reading.group, reading.spec.first_index()), reading.check.position());
        out.push(Effect::Read { token: self.last_token, file, pos, len, from_disk: true });
    }

    /// The disk has read something. Answers a segment that turns out to be damaged.
    pub(super) fn on_read(
        &mut self,
        token: u64,
        result: Result<Bytes, DiskError>,
        store: &Store,
        out: &mut Vec<Effect>,
    ) -> Option<(GroupId, LogIndex)> {
        let reading = self.reading.as_mut()?;
        let (_, len) = reading.asked.take_if(|(asked, _)| *asked == token)?;
        let key = reading.key();
        let verdict = match result {
            Ok(bytes) => {
                self.bytes += bytes.len() as u64;
                let is_end = bytes.len() < len;
                let more = reading.check.update(&bytes).map(|()| reading.check.wants_more() && !is_end);
                more.and_then(|more| if more { Ok(None) } else { reading.check.finish().map(Some) })
            }
            // Nothing was seen; the next pass looks again.
            Err(error) if error.is_want() => Ok(Some(())),
            Err(error) => Err(error.into()),
        };
        let mut damaged = None;
        match verdict {
            Ok(None) => {}
            Ok(Some(())) => self.end(key),
            Err(cause) => {
                // Of what is gone meanwhile, nothing is known.
                let is_there = store.segment(key.0, key.1).is_some();
                if is_there {
                    self.found += 1;
                    let (group, first_index) = (key.0.get(), key.1);
                    tracing::error!(group, %first_index, %cause, "scrub.damage");
                    damaged = Some(key);
                }
                self.end(key);
            }
        }
        self.go_on(store, out);
        damaged
    }

    fn end(&mut self, at: (GroupId, LogIndex)) {
        self.reading = None;
        self.at = Some(at);
    }
}
