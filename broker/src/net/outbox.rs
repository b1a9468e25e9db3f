//! Answers on their way to a connection's socket.
//!
//! Anybody may add some. The connection's task writes them; while it waits for work, whoever calls [`Flush::flush`] may
//! write little answers itself, if the socket takes them at once: an acknowledgement then need not wait for a task to
//! wake up. What the socket did not take is the task's again, before everything else.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{
    net::tcp::OwnedWriteHalf,
    sync::{Notify, OwnedSemaphorePermit},
};

use super::{
    patience::Patience,
    write::{try_write, write_all_shared},
};
use crate::runtime::{budget::Charge, worker::Flush};

/// Answers that are written with one call, at most.
const ANSWERS_AT_ONCE: usize = 64;
/// The most that is written without the task.
const DIRECT_BYTES_MAX: usize = 64 * 1024;

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

impl Outgoing {
    fn bytes(&self) -> usize {
        self.head.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Answers in the order in which they were ready.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    work: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Outgoing>,
    /// What of them is being written, by whoever has the socket.
    current: Current,
    /// The socket, while the task waits for work.
    idle: Option<Arc<OwnedWriteHalf>>,
    closed: bool,
}

/// Answers that are being written.
#[derive(Debug, Default)]
struct Current {
    chunks: VecDeque<Bytes>,
    /// Their places and charges.
    held: Vec<(Option<OwnedSemaphorePermit>, Charge)>,
}

impl State {
    /// The next answers, or what is left of the ones before.
    fn next(&mut self) -> Current {
        let mut current = std::mem::take(&mut self.current);
        if current.chunks.is_empty() {
            let count = self.waiting.len().min(ANSWERS_AT_ONCE);
            for outgoing in self.waiting.drain(..count) {
                current.chunks.push_back(outgoing.head);
                current.chunks.extend(outgoing.payload);
                current.held.push((outgoing.place, outgoing.charge));
            }
        }
        current
    }

    /// Writes what waits if the socket is free and it is little. Whether the task has nothing to do.
    fn write_directly(&mut self) -> bool {
        let is_little = self.waiting.len() <= ANSWERS_AT_ONCE
            && self.waiting.iter().map(Outgoing::bytes).sum::<usize>() <= DIRECT_BYTES_MAX;
        let Some(idle) = self.idle.take_if(|_| is_little) else { return false };
        let mut current = self.next();
        // The task meets the error, if there is one.
        let done = try_write(&idle, &mut current.chunks).unwrap_or(false);
        if done {
            self.idle = Some(idle);
        } else {
            self.current = current;
        }
        done
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an answer; after [`Outbox::close`] it is dropped. [`Flush::flush`] sends it off.
    pub(crate) fn push(&self, outgoing: Outgoing) {
        let mut state = self.lock();
        if !state.closed {
            state.waiting.push_back(outgoing);
        }
    }

    /// Takes no more; [`Outbox::run`] ends when all is written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// Writes until closed and empty, or the socket breaks or takes nothing for longer than there is patience.
    pub(crate) async fn run<'b>(&self, writer: OwnedWriteHalf, patience: impl Into<Patience<'b>>) -> io::Result<()> {
        let patience = patience.into();
        let writer = Arc::new(writer);
        let _back = TakeBack(self);
        loop {
            let (mut current, closed) = {
                let mut state = self.lock();
                state.idle = None;
                let current = state.next();
                if current.chunks.is_empty() && !state.closed {
                    state.idle = Some(Arc::clone(&writer));
                }
                (current, state.closed)
            };
            if !current.chunks.is_empty() {
                write_all_shared(&writer, &mut current.chunks, &patience).await?;
            } else if closed {
                return Ok(());
            } else {
                self.work.notified().await;
            }
        }
    }
}

impl Flush for Outbox {
    fn flush(&self, directly: bool) {
        if !(directly && self.lock().write_directly()) {
            self.work.notify_one();
        }
    }
}

/// However the task ends, nobody else keeps its socket open, or memory for answers that nobody gets.
struct TakeBack<'o>(&'o Outbox);

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.closed = true;
            (state.idle.take(), std::mem::take(&mut state.waiting), std::mem::take(&mut state.current))
        };
        drop(left);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests spawn")]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const STALL: Duration = Duration::from_secs(5);

    async fn sockets() -> (TcpStream, OwnedWriteHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (there, listener.accept().await.unwrap().0.into_split().1)
    }

    fn outgoing(bytes: usize, fill: u8) -> Outgoing {
        Outgoing {
            head: Bytes::from(vec![fill; 1]),
            payload: vec![Bytes::from(vec![fill; bytes - 1])],
            place: None,
            charge: Charge::default(),
        }
    }

    async fn wait_until(outbox: &Outbox, what: impl Fn(&State) -> bool) {
        while !what(&outbox.lock()) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn little_answers_are_written_by_whoever_flushes() {
        let (mut there, writer) = sockets().await;
        let outbox = Arc::new(Outbox::default());
        let task = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.run(writer, STALL).await }
        });
        wait_until(&outbox, |state| state.idle.is_some()).await;
        outbox.push(outgoing(10, 1));
        outbox.push(outgoing(10, 2));
        assert!(outbox.lock().write_directly(), "at once");
        assert!(outbox.lock().waiting.is_empty());
        // Too much for that: the task does it.
        outbox.push(outgoing(DIRECT_BYTES_MAX + 1, 3));
        assert!(!outbox.lock().write_directly());
        outbox.flush(true);
        outbox.push(outgoing(10, 4));
        outbox.flush(false);
        outbox.close();
        let mut read = Vec::new();
        there.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, [vec![1; 10], vec![2; 10], vec![3; DIRECT_BYTES_MAX + 1], vec![4; 10]].concat());
        task.await.unwrap().unwrap();
        assert!(outbox.lock().idle.is_none(), "the socket is closed though the outbox lives");
        outbox.push(outgoing(10, 5));
        assert!(outbox.lock().waiting.is_empty(), "nobody would write it");
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_comes_first_later() {
        let (mut there, writer) = sockets().await;
        let outbox = Arc::new(Outbox::default());
        let task = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.run(writer, STALL).await }
        });
        let mut expected = Vec::new();
        // The test's only thread does not let the task run: all of this is written from here, until nothing fits.
        wait_until(&outbox, |state| state.idle.is_some()).await;
        for fill in (0..=255).cycle() {
            outbox.push(outgoing(DIRECT_BYTES_MAX, fill));
            expected.extend(vec![fill; DIRECT_BYTES_MAX]);
            if !outbox.lock().write_directly() {
                break;
            }
        }
        assert!(!outbox.lock().current.chunks.is_empty(), "the socket took a part at most");
        outbox.push(outgoing(10, 7));
        assert!(!outbox.lock().write_directly(), "the task has to write the rest first");
        expected.extend([7; 10]);
        outbox.flush(true);
        outbox.close();
        let mut read = Vec::new();
        there.read_to_end(&mut read).await.unwrap();
        assert!(read == expected);
        task.await.unwrap().unwrap();
    }
}
