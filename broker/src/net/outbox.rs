//! Answers on their way to a connection's socket.

use std::{
    collections::VecDeque,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::AsyncWrite,
    sync::{Notify, OwnedSemaphorePermit},
};

use super::write::write_all;
use crate::runtime::budget::Charge;

/// Answers that are written with one call, at most.
const ANSWERS_AT_ONCE: usize = 64;

/// One answer: its head, its payload as it lies, and what it holds until it is written.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) head: Bytes,
    pub(crate) payload: Vec<Bytes>,
    /// The request's place on the connection.
    pub(crate) place: Option<OwnedSemaphorePermit>,
    /// The bytes it is charged with.
    pub(crate) charge: Charge,
}

/// Answers in the order in which they were ready. Anybody may add some; the connection's task writes them.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Outgoing>,
    closed: bool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer; after [`Outbox::close`] it is dropped.
    pub(crate) fn push(&self, outgoing: Outgoing) {
        let mut state = self.lock();
        if !state.closed {
            state.waiting.push_back(outgoing);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Takes no more; [`Outbox::run`] ends when all is written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// Writes until closed and empty, or the socket breaks or takes nothing for `stall`.
    pub(crate) async fn run(&self, mut writer: impl AsyncWrite + Unpin, stall: Duration) -> io::Result<()> {
        let mut chunks = VecDeque::new();
        // Places and charges of the answers being written.
        let mut held = Vec::new();
        loop {
            let closed = {
                let mut state = self.lock();
                let count = state.waiting.len().min(ANSWERS_AT_ONCE);
                for outgoing in state.waiting.drain(..count) {
                    chunks.push_back(outgoing.head);
                    chunks.extend(outgoing.payload);
                    held.push((outgoing.place, outgoing.charge));
                }
                state.closed
            };
            if chunks.is_empty() {
                if closed {
                    return Ok(());
                }
                self.work.notified().await;
                continue;
            }
            write_all(&mut writer, &mut chunks, stall).await?;
            held.clear();
        }
    }
}
