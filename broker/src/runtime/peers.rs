//! Messages to the other nodes: a task and a queue for each.
//!
//! A node's messages to another go over a connection of their own; what the other has to say comes over its own. All
//! that waits when the connection is free leaves as one frame (many groups', bounded), and entries are written from
//! where they lie. Messages may be lost, raft sends again: what finds the queue full or the node out of reach is
//! dropped, and the core is told.
//!
//! A small frame is written by whoever does the core's round, if the connection is free and takes it at once: an acknowledgement
//! need not wait for a task to wake up. The task writes what is large, or what the socket did not take.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::{Api, encode_request},
    ids::NodeId,
    limits::{MIB, PEER_QUEUE_BYTES_MAX},
};
use metrics::counter;
use tokio::{
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Notify, watch},
    time::sleep,
};

use super::{strangers::Strangers, tasks::Tasks, worker::Worker};
use crate::{
    cluster::addresses::AddressBook,
    metrics as names,
    net::{
        dial::{self, Caller, lost},
        frames::{FrameReader, ReadError},
        write::{try_write, write_all_shared},
    },
    raft::wire::{self, PeerMessage},
};

/// About the most in one frame; a single larger message has a frame of its own.
const FRAME_TARGET_BYTES: usize = MIB;
/// The most messages in one frame, so that its header stays far below the limit.
const FRAME_MESSAGES_MAX: usize = 4096;
/// The largest frame that is written without the task.
const DIRECT_BYTES_MAX: usize = 64 * 1024;
/// A connection that takes nothing for this long is given up.
const WRITE_STALL: Duration = Duration::from_secs(5);
/// Pauses between attempts to connect.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// The ways to all other nodes.
#[derive(Debug)]
pub struct Peers {
    caller: Caller,
    book: Arc<AddressBook>,
    tasks: Tasks,
    worker: OnceLock<Worker>,
    /// Told when the others say that this node is not of the cluster any more.
    refused: OnceLock<watch::Sender<Option<Error>>>,
    /// What the seed nodes say of this one.
    seeds: Strangers,
    queues: Mutex<BTreeMap<NodeId, Arc<Queue>>>,
}

/// What waits for one node.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    work: Notify,
    connected: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
    /// The connection, while its task waits for work: then whoever holds the lock may write.
    idle: Option<Arc<OwnedWriteHalf>>,
    /// The end of a frame that the socket did not take at once. It goes before everything else.
    rest: VecDeque<Bytes>,
}

impl Peers {
    pub(crate) fn new(caller: Caller, book: Arc<AddressBook>, tasks: Tasks, seeds: Strangers) -> Self {
        let (worker, refused) = (OnceLock::new(), OnceLock::new());
        Self { caller, book, tasks, worker, refused, seeds, queues: Mutex::default() }
    }

    /// Where losses are reported.
    pub(crate) fn report_to(&self, worker: Worker) {
        let _ = self.worker.set(worker);
    }

    /// Who is told when another node says that this one was decommissioned: it may have been down when that happened, and
    /// nobody else would tell it.
    pub(crate) fn report_refusal(&self, refused: watch::Sender<Option<Error>>) {
        let _ = self.refused.set(refused);
    }

    /// Queues a message; `false` when there is no room for it. [`Peers::wake`] sends it off.
    pub(crate) fn send(self: &Arc<Self>, to: NodeId, message: PeerMessage) -> bool {
        let queue = self.queue(to);
        let mut waiting = queue.lock();
        let bytes = message.wire_bytes();
        if waiting.bytes + bytes > PEER_QUEUE_BYTES_MAX {
            counter!(names::PEER_MESSAGES_DROPPED.name, "node" => to.to_string()).increment(1);
            return false;
        }
        waiting.bytes += bytes;
        waiting.messages.push_back(message);
        true
    }

    /// Sends off what was queued since the last call.
    pub(crate) fn wake(&self) {
        for (node, queue) in &*lock(&self.queues) {
            if !queue.lock().send_directly(*node) {
                queue.work.notify_one();
            }
        }
    }

    /// Whether there is a connection to a node.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        lock(&self.queues).get(&node).is_some_and(|queue| queue.connected.load(Ordering::Relaxed))
    }

    fn queue(self: &Arc<Self>, to: NodeId) -> Arc<Queue> {
        let mut queues = lock(&self.queues);
        let queue = queues.entry(to).or_insert_with(|| {
            let queue = Arc::new(Queue::default());
            self.tasks.spawn(Arc::clone(self).serve(to, Arc::clone(&queue)));
            queue
        });
        Arc::clone(queue)
    }

    /// Carries what is queued for a node, for ever.
    async fn serve(self: Arc<Self>, to: NodeId, queue: Arc<Queue>) {
        let mut backoff = BACKOFF_MIN;
        let mut attempt = 0;
        loop {
            queue.filled().await;
            let error = match self.connect(to, attempt).await {
                Ok(connection) => {
                    tracing::info!(node = to.get(), "peer.connected");
                    queue.connected.store(true, Ordering::Relaxed);
                    self.seeds.welcomed_by(to);
                    let error = carry(connection, &queue, to).await;
                    queue.connected.store(false, Ordering::Relaxed);
                    backoff = BACKOFF_MIN;
                    error
                }
                Err(error) => error,
            };
            let removed = (error.code == ErrorCode::NodeRemoved).then(|| error.clone());
            if let Some(why) = removed.or_else(|| self.seeds.refused_by(to, &error))
                && let Some(refused) = self.refused.get()
            {
                refused.send_replace(Some(why));
            }
            if backoff == BACKOFF_MIN {
                tracing::warn!(node = to.get(), %error, "peer.unreachable");
            }
            attempt += 1;
            queue.clear();
            if let Some(worker) = self.worker.get() {
                worker.unreachable(to);
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect(&self, to: NodeId, attempt: usize) -> Result<dial::Connection> {
        let address = self.book.native(to, attempt).ok_or_else(|| {
            Error::new(ErrorCode::Disconnected, format!("the address of node {to} is not known here"))
        })?;
        let connection = dial::dial(&address, to, self.caller).await?;
        self.book.check_answerer(to, &address, &connection.hello.incarnation)?;
        Ok(connection)
    }
}

/// Writes frames until the connection breaks.
async fn carry(connection: dial::Connection, queue: &Queue, to: NodeId) -> Error {
    let dial::Connection { mut reader, writer, .. } = connection;
    let address = writer.peer_addr().map(|address| address.to_string()).unwrap_or_default();
    let writer = Arc::new(writer);
    let write = async {
        loop {
            let mut chunks = queue.next_frame(&writer, to).await;
            if let Err(error) = write_all_shared(&writer, &mut chunks, &WRITE_STALL.into()).await {
                return lost(&address, &error);
            }
        }
    };
    tokio::select! {
        error = write => error,
        error = refusal(&mut reader) => error.unwrap_or_else(|| lost(&address, &"it closed the connection")),
    }
}

/// Messages as one frame.
fn frame(messages: Vec<PeerMessage>, to: NodeId) -> VecDeque<Bytes> {
    let (frame, payload) = wire::encode(messages);
    let payload_bytes = payload.iter().map(Bytes::len).sum();
    counter!(names::PEER_FRAMES.name, "node" => to.to_string()).increment(1);
    let mut chunks = VecDeque::with_capacity(1 + payload.len());
    chunks.push_back(encode_request(Api::Raft, 0, &frame, payload_bytes));
    chunks.extend(payload);
    chunks
}

/// Waits until the other side closes, or says why it does not want more.
async fn refusal(reader: &mut FrameReader<OwnedReadHalf>) -> Option<Error> {
    if !reader.begin().await.ok()? {
        return None;
    }
    let head = match reader.head(WRITE_STALL).await {
        Ok(head) => head,
        Err(ReadError::Protocol(error)) => return Some(error),
        Err(ReadError::Io(_)) => return None,
    };
    let frame = reader.body(head, WRITE_STALL).await.ok()?;
    frame.is_error().then(|| Error::decode(frame.header))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    /// Waits until there is something.
    async fn filled(&self) {
        while self.lock().messages.is_empty() {
            self.work.notified().await;
        }
    }

    /// Waits for something to write. Meanwhile the connection may be written to by [`Waiting::send_directly`].
    async fn next_frame(&self, writer: &Arc<OwnedWriteHalf>, to: NodeId) -> VecDeque<Bytes> {
        loop {
            {
                let mut waiting = self.lock();
                let mut chunks = std::mem::take(&mut waiting.rest);
                if chunks.is_empty() && !waiting.messages.is_empty() {
                    chunks = frame(waiting.take(), to);
                }
                if !chunks.is_empty() {
                    waiting.idle = None;
                    return chunks;
                }
                waiting.idle = Some(Arc::clone(writer));
            }
            self.work.notified().await;
        }
    }

    fn clear(&self) {
        *self.lock() = Waiting::default();
    }
}

impl Waiting {
    /// Writes what waits if the connection is free and it is little. Whether the task has nothing to do.
    fn send_directly(&mut self, to: NodeId) -> bool {
        if self.messages.is_empty() && self.rest.is_empty() {
            return true;
        }
        let Some(idle) = self.idle.take_if(|_| self.bytes <= DIRECT_BYTES_MAX && self.rest.is_empty()) else {
            return false;
        };
        let mut chunks = VecDeque::new();
        while !self.messages.is_empty() {
            chunks.extend(frame(self.take(), to));
        }
        // The task meets the error, if there is one.
        let done = try_write(&idle, &mut chunks).unwrap_or(false);
        if done {
            self.idle = Some(idle);
        } else {
            self.rest = chunks;
        }
        done
    }

    /// Takes what fits one frame, at least one message if there is one.
    fn take(&mut self) -> Vec<PeerMessage> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.messages.front() {
            let more = next.wire_bytes();
            if !taken.is_empty() && (bytes + more > FRAME_TARGET_BYTES || taken.len() == FRAME_MESSAGES_MAX) {
                break;
            }
            bytes += more;
            taken.extend(self.messages.pop_front());
        }
        self.bytes -= bytes;
        taken
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::{GroupId, Term};
    use levada_storage_engine::entry::EntryKind;
    use raft::eraftpb;

    use super::*;

    fn append(bytes: usize) -> PeerMessage {
        let mut message = eraftpb::Message::default();
        message.set_entries(vec![wire::raft_entry(1, 1, EntryKind::Batches, Bytes::from(vec![0; bytes]))].into());
        PeerMessage::Raft { group: GroupId(1), message: Box::new(message) }
    }

    fn push(queue: &Queue, message: PeerMessage) {
        let mut waiting = queue.lock();
        waiting.bytes += message.wire_bytes();
        waiting.messages.push_back(message);
    }

    #[test]
    fn frames_are_bounded_and_keep_the_order() {
        let queue = Queue::default();
        let small = || PeerMessage::Leadership { group: GroupId(1), term: Term(1) };
        for message in [small(), append(MIB / 2), append(MIB / 3), append(MIB / 3), append(5 * MIB), small()] {
            push(&queue, message);
        }
        let lengths: Vec<usize> =
            std::iter::from_fn(|| Some(queue.lock().take().len()).filter(|len| *len > 0)).collect();
        assert_eq!(lengths, [3, 1, 1, 1], "the large one alone");
        assert_eq!(queue.lock().bytes, 0);
        (0..FRAME_MESSAGES_MAX + 1).for_each(|_| push(&queue, small()));
        assert_eq!(queue.lock().take().len(), FRAME_MESSAGES_MAX);
        assert_eq!(queue.lock().take().len(), 1);
    }
}
