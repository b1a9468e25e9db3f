//! What readers hold while they stall, and who takes it from them.
//!
//! A message is handed to HTTP piece by piece, as the client makes room. If the client stops in the middle, the rest of
//! the message and the batches read ahead wait here: megabytes of memory, or a mapped segment that cannot go. After a
//! while ([`super::FlightConfig::stalled`]) they are dropped. The log does not change, so when the client goes on, the
//! same message is made again, and what was sent of it skipped.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use metrics::{counter, gauge};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    progress::Progress,
    server::FlightConfig,
    stream::{Chunk, MadeOf},
};
use crate::{
    convert::view::Waiting,
    metrics::{FLIGHT_HELD_BYTES, FLIGHT_READER_SECONDS_BEHIND_MAX, FLIGHT_STALLED_DROPPED_TOTAL},
};

/// How often readers are looked at: a few times while one may stall, and as often as the gauge of their lag is worth.
const SWEPT_MIN: Duration = Duration::from_millis(10);
const SWEPT_MAX: Duration = Duration::from_secs(1);
/// Whoever has not moved for so long loses what it holds when all together hold too much.
const MOMENT: Duration = Duration::from_secs(1);

/// What one reader holds.
///
/// Invariant: `frames` is the rest of the message after `sent` bytes, or empty with `sent < message_bytes`: dropped.
#[derive(Debug)]
pub(crate) struct Held {
    frames: VecDeque<Bytes>,
    /// How to make the message under way again; `None` if it is not made of the log.
    made_of: Option<MadeOf>,
    message_bytes: usize,
    sent: usize,
    /// Batches read and not yet made into messages.
    pub(crate) waiting: Waiting,
    touched: Instant,
}

impl Held {
    /// For a stream that begins with these frames.
    pub(crate) fn new(frames: Vec<Bytes>) -> Self {
        let message_bytes = total(&frames);
        let (frames, waiting) = (frames.into(), Waiting::default());
        Self { frames, made_of: None, message_bytes, sent: 0, waiting, touched: Instant::now() }
    }

    /// The next piece of the message under way.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.touched = Instant::now();
        let frame = self.frames.pop_front()?;
        self.sent += frame.len();
        Some(frame)
    }

    /// The message under way, if its rest was dropped.
    pub(crate) fn lost(&self) -> Option<MadeOf> {
        self.made_of.filter(|_| self.frames.is_empty() && self.sent < self.message_bytes)
    }

    /// The next message, and the batches left over.
    pub(crate) fn put(&mut self, chunk: Chunk, waiting: Waiting) {
        self.message_bytes = total(&chunk.frames);
        self.frames = chunk.frames.into();
        self.made_of = Some(chunk.made_of);
        self.sent = 0;
        self.waiting = waiting;
        self.touched = Instant::now();
    }

    /// The message under way again, from its beginning. False if it is another one.
    pub(crate) fn put_again(&mut self, frames: Vec<Bytes>) -> bool {
        if total(&frames) != self.message_bytes {
            return false;
        }
        self.frames = frames.into();
        let mut skip = self.sent;
        while let Some(frame) = self.frames.front_mut().filter(|_| skip > 0) {
            let part = skip.min(frame.len());
            frame.advance(part);
            skip -= part;
            if frame.is_empty() {
                self.frames.pop_front();
            }
        }
        self.touched = Instant::now();
        true
    }

    /// What it holds, about, in bytes: batches are in memory only as far as they have been read.
    fn bytes(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum::<usize>() + self.waiting.bytes()
    }

    /// Whether it has stalled for so long; then it holds nothing any more that can be made again.
    fn drop_if_stalled(&mut self, stalled: Duration) -> bool {
        if self.touched.elapsed() < stalled {
            return false;
        }
        let can_drop = self.made_of.is_some() && !self.frames.is_empty();
        if can_drop || !self.waiting.is_empty() {
            counter!(FLIGHT_STALLED_DROPPED_TOTAL.name).increment(1);
        }
        if can_drop {
            self.frames = VecDeque::new();
        }
        self.waiting = Waiting::default();
        true
    }
}

fn total(frames: &[Bytes]) -> usize {
    frames.iter().map(Bytes::len).sum()
}

/// [`Held`], seen by the reader and by who watches it.
#[derive(Clone, Debug)]
pub(crate) struct SharedHeld(Arc<Mutex<Held>>);

impl SharedHeld {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All readers of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stalls(Arc<Mutex<Vec<Watched>>>);

/// A reader: what it holds, and how far it has come.
type Watched = (Weak<Mutex<Held>>, Arc<Progress>);

impl Stalls {
    /// Watches a reader from now on.
    pub(crate) fn watch(&self, held: Held, progress: Arc<Progress>) -> SharedHeld {
        let held = Arc::new(Mutex::new(held));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Arc::downgrade(&held), progress));
        SharedHeld(held)
    }

    /// Takes what stalled readers hold, until the server goes down.
    pub(crate) async fn run(self, mut config: watch::Receiver<FlightConfig>, shutdown: CancellationToken) {
        loop {
            let (stalled, held_bytes_max) = {
                let config = config.borrow_and_update();
                (config.stalled, config.held_bytes_max)
            };
            self.sweep(stalled, held_bytes_max);
            tokio::select! {
                () = tokio::time::sleep((stalled / 6).clamp(SWEPT_MIN, SWEPT_MAX)) => {}
                Ok(()) = config.changed() => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Those go first that have stood still for longest, and only as many as there must when it is for want of memory.
    fn sweep(&self, stalled: Duration, held_bytes_max: usize) {
        let readers = {
            let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            readers.retain(|(reader, _)| reader.strong_count() > 0);
            readers.clone()
        };
        let mut behind_max = Duration::ZERO;
        let mut holding = Vec::new();
        for (reader, progress) in &readers {
            if let Some(reader) = reader.upgrade().map(SharedHeld) {
                behind_max = behind_max.max(progress.behind());
                let held = reader.lock();
                let (touched, bytes) = (held.touched, held.bytes());
                drop(held);
                holding.push((touched, bytes, reader));
            }
        }
        holding.sort_by_key(|(touched, ..)| *touched);
        let mut held_bytes: usize = holding.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, reader) in holding {
            let patience = if held_bytes > held_bytes_max { stalled.min(MOMENT) } else { stalled };
            if reader.lock().drop_if_stalled(patience) {
                held_bytes -= bytes;
            }
        }
        gauge!(FLIGHT_READER_SECONDS_BEHIND_MAX.name).set(behind_max.as_secs_f64());
        #[allow(clippy::cast_precision_loss, reason = "what is in memory is far below 2^52")]
        gauge!(FLIGHT_HELD_BYTES.name).set(held_bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(sizes: &[usize]) -> Vec<Bytes> {
        let mut bytes = (0..=255_u8).cycle();
        sizes.iter().map(|size| bytes.by_ref().take(*size).collect()).collect()
    }

    fn rest(held: &mut Held) -> Vec<u8> {
        std::iter::from_fn(|| held.pop()).flatten().collect()
    }

    #[test]
    fn a_dropped_message_goes_on_where_it_was() {
        let whole: Vec<u8> = frames(&[100, 5, 300]).concat();
        for sent in 0..=3 {
            for again in [vec![405], vec![1, 100, 304], vec![105, 300]] {
                let mut held = Held::new(Vec::new());
                let made_of = MadeOf::default();
                held.put(Chunk { frames: frames(&[100, 5, 300]), made_of, rows: 1 }, Waiting::default());
                let mut got: Vec<u8> = (0..sent).flat_map(|_| held.pop().unwrap()).collect();
                assert_eq!(held.lost(), None);
                assert!(!held.drop_if_stalled(Duration::from_secs(60)));
                assert_eq!(held.lost(), None, "not stalled for so long");
                assert!(held.drop_if_stalled(Duration::ZERO));
                assert_eq!(held.lost(), (sent < 3).then_some(made_of));
                assert!(!held.put_again(frames(&[404])), "another message is refused");
                assert!(held.put_again(frames(&again)));
                got.extend(rest(&mut held));
                assert_eq!(got, whole);
            }
        }
    }

    #[test]
    fn what_is_not_made_of_the_log_is_kept() {
        let mut held = Held::new(frames(&[10]));
        assert!(held.drop_if_stalled(Duration::ZERO));
        assert_eq!((held.lost(), rest(&mut held).len()), (None, 10));
    }

    #[test]
    fn readers_that_are_gone_are_forgotten() {
        let stalls = Stalls::default();
        drop(stalls.watch(Held::new(Vec::new()), Arc::new(Progress::new(true))));
        let _kept = stalls.watch(Held::new(Vec::new()), Arc::new(Progress::new(true)));
        stalls.sweep(Duration::ZERO, 0);
        assert_eq!(stalls.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn too_much_of_all_is_taken_from_who_has_stood_still_longest() {
        let stalls = Stalls::default();
        let held: Vec<SharedHeld> = (1..=4_u64)
            .map(|age| {
                let mut held = Held::new(Vec::new());
                held.put(Chunk { frames: frames(&[100]), made_of: MadeOf::default(), rows: 1 }, Waiting::default());
                let secs = if age == 4 { 0 } else { 2 * age };
                held.touched = Instant::now().checked_sub(Duration::from_secs(secs)).unwrap();
                stalls.watch(held, Arc::new(Progress::new(true)))
            })
            .collect();
        let who_holds = || held.iter().map(|held| !held.lock().frames.is_empty()).collect::<Vec<_>>();
        stalls.sweep(Duration::from_secs(60), 400);
        assert_eq!(who_holds(), [true; 4], "there is room");
        stalls.sweep(Duration::from_secs(60), 200);
        assert_eq!(who_holds(), [true, false, false, true], "the two that have stood still longest");
        stalls.sweep(Duration::from_secs(60), 0);
        assert_eq!(who_holds(), [false, false, false, true], "who moves keeps what it has");
    }
}
