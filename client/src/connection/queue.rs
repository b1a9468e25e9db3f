//! The requests of one connection: waiting to be written, or written and waiting for an answer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode},
    frame::Frame,
};
use tokio::{sync::Notify, time::Instant};

use super::OnAnswer;
use crate::error::CallError;

/// A request on its way.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) api: u16,
    pub(super) head: Bytes,
    pub(super) payload: Bytes,
    pub(super) deadline: Instant,
    pub(super) on_answer: OnAnswer,
}

/// A request that was written, at least in part.
struct Pending {
    api: u16,
    bytes: usize,
    deadline: Instant,
    on_answer: OnAnswer,
}

/// Both kinds of requests, behind one lock.
///
/// Invariants:
/// - `in_flight_bytes` is the sum over `pending`;
/// - once `closed` is set, both collections are empty and stay so.
#[derive(Default)]
struct State {
    last_id: u64,
    waiting: VecDeque<Request>,
    pending: BTreeMap<u64, Pending>,
    in_flight_bytes: usize,
    closed: Option<Error>,
}

pub(super) struct Queue {
    state: Mutex<State>,
    in_flight_bytes_max: usize,
    /// Something can be written that could not before.
    work: Notify,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Queue")
            .field("waiting", &state.waiting.len())
            .field("pending", &state.pending.len())
            .field("in_flight_bytes", &state.in_flight_bytes)
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

impl Queue {
    pub(super) fn new(in_flight_bytes_max: usize) -> Self {
        Self { state: Mutex::default(), in_flight_bytes_max, work: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code of others runs under this lock, so a panic cannot have left the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Appends the request that `make` gives for its correlation id. A closed queue gives it back with the reason.
    pub(super) fn push(&self, make: impl FnOnce(u64) -> Request) -> Option<(Error, Request)> {
        {
            let mut state = self.lock();
            state.last_id += 1;
            let request = make(state.last_id);
            if let Some(error) = &state.closed {
                return Some((error.clone(), request));
            }
            state.waiting.push_back(request);
        }
        self.work.notify_one();
        None
    }

    /// Completes when [`Queue::take`] may have something.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Moves what may be written now to `chunks`. One request is always allowed, however large.
    pub(super) fn take(&self, chunks: &mut VecDeque<Bytes>) {
        let mut state = self.lock();
        while let Some(request) = state.waiting.front() {
            let bytes = request.head.len() + request.payload.len();
            if !state.pending.is_empty() && state.in_flight_bytes + bytes > self.in_flight_bytes_max {
                break;
            }
            let Some(Request { id, api, head, payload, deadline, on_answer }) = state.waiting.pop_front() else {
                break;
            };
            state.in_flight_bytes += bytes;
            state.pending.insert(id, Pending { api, bytes, deadline, on_answer });
            chunks.push_back(head);
            if !payload.is_empty() {
                chunks.push_back(payload);
            }
        }
    }

    /// Hands an answer to its request.
    ///
    /// # Errors
    /// If nothing of that kind was asked: the other side is confused.
    pub(super) fn answer(&self, frame: Frame) -> Result<(), Error> {
        let (pending, more) = {
            let mut state = self.lock();
            let known = state.pending.get(&frame.correlation_id).is_some_and(|pending| pending.api == frame.api);
            let Some(pending) = known.then(|| state.pending.remove(&frame.correlation_id)).flatten() else {
                if frame.is_error() {
                    // The server's last words about the connection as a whole.
                    return Err(Error::decode(frame.header));
                }
                return Err(Error::new(
                    ErrorCode::BadFrame,
                    format!("an answer (api {}, id {}) to no request", frame.api, frame.correlation_id),
                ));
            };
            state.in_flight_bytes -= pending.bytes;
            (pending, !state.waiting.is_empty())
        };
        if more {
            self.work.notify_one();
        }
        let answer = if frame.is_error() { Err(CallError::sent(Error::decode(frame.header))) } else { Ok(frame) };
        (pending.on_answer)(answer);
        Ok(())
    }

    /// Whether a request has waited for longer than it wants to.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let state = self.lock();
        state.pending.values().map(|pending| pending.deadline).any(|deadline| deadline <= now)
            || state.waiting.iter().any(|request| request.deadline <= now)
    }

    /// Answers every request with the error; later ones get it at once.
    pub(super) fn close(&self, error: &Error) {
        let (waiting, pending) = {
            let mut state = self.lock();
            state.closed.get_or_insert_with(|| error.clone());
            state.in_flight_bytes = 0;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.pending))
        };
        for pending in pending.into_values() {
            (pending.on_answer)(Err(CallError::sent(error.clone())));
        }
        for request in waiting {
            (request.on_answer)(Err(CallError::unsent(error.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    use levada_protocol::frame::FLAG_ERROR;

    use super::*;

    type Heard = mpsc::Receiver<(u64, Result<Frame, CallError>)>;

    /// A queue with three requests of 10 bytes, and what their senders hear.
    fn three(in_flight_bytes_max: usize) -> (Queue, Heard) {
        let queue = Queue::new(in_flight_bytes_max);
        let (tell, heard) = mpsc::channel();
        for _ in 0..3 {
            let tell = tell.clone();
            let refused = queue.push(|id| Request {
                id,
                api: 2,
                head: Bytes::from_static(b"head"),
                payload: Bytes::from_static(b"batch!"),
                deadline: Instant::now() + Duration::from_secs(1),
                on_answer: Box::new(move |result| tell.send((id, result)).unwrap()),
            });
            assert!(refused.is_none());
        }
        (queue, heard)
    }

    fn answer(correlation_id: u64, api: u16) -> Frame {
        Frame { api, flags: 0, correlation_id, header: Bytes::new(), payload: Bytes::new() }
    }

    fn taken(queue: &Queue) -> usize {
        let mut chunks = VecDeque::new();
        queue.take(&mut chunks);
        chunks.len() / 2
    }

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let (queue, heard) = three(20);
        assert_eq!((taken(&queue), taken(&queue)), (2, 0));
        queue.answer(answer(2, 2)).unwrap();
        assert_eq!(heard.try_recv().unwrap().0, 2, "answers may come in any order");
        assert_eq!(taken(&queue), 1);
        assert_eq!(taken(&three(1).0), 1, "one may always go, however large");
    }

    #[tokio::test]
    async fn room_wakes_the_writer() {
        let (queue, _heard) = three(20);
        let queue = Arc::new(queue);
        queue.work().await;
        assert_eq!(taken(&queue), 2);
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.work().await }
        });
        queue.answer(answer(1, 2)).unwrap();
        waiting.await.unwrap();
    }

    #[test]
    fn answers_that_nobody_asked_for_are_an_error() {
        let (queue, _heard) = three(10);
        assert_eq!(taken(&queue), 1);
        for (id, api) in [(9, 2), (1, 3), (2, 2)] {
            assert_eq!(queue.answer(answer(id, api)).unwrap_err().code, ErrorCode::BadFrame, "{id} {api}");
        }
        queue.answer(answer(1, 2)).unwrap();
        assert!(queue.answer(answer(1, 2)).is_err(), "once is enough");
        let header = prost::Message::encode_to_vec(&Error::new(ErrorCode::Busy, "too many connections").to_wire());
        let last_words = Frame { flags: FLAG_ERROR, header: header.into(), ..answer(0, 0) };
        assert_eq!(queue.answer(last_words).unwrap_err().message, "too many connections");
    }

    #[test]
    fn an_error_frame_is_an_error() {
        let (queue, heard) = three(10);
        assert_eq!(taken(&queue), 1);
        let wire = Error::new(ErrorCode::Busy, "later").to_wire();
        let header = prost::Message::encode_to_vec(&wire).into();
        queue.answer(Frame { flags: FLAG_ERROR, header, ..answer(1, 2) }).unwrap();
        let failed = heard.try_recv().unwrap().1.unwrap_err();
        assert_eq!((failed.error.code, failed.sent), (ErrorCode::Busy, true));
    }

    #[test]
    fn a_closed_connection_answers_everybody_and_knows_what_was_sent() {
        let (queue, heard) = three(20);
        assert_eq!(taken(&queue), 2);
        assert!(!queue.is_overdue(Instant::now()));
        assert!(queue.is_overdue(Instant::now() + Duration::from_secs(2)));
        queue.close(&Error::new(ErrorCode::Disconnected, "gone"));
        let sent: Vec<(u64, bool)> = heard.try_iter().map(|(id, result)| (id, result.unwrap_err().sent)).collect();
        assert_eq!(sent, [(1, true), (2, true), (3, false)]);
        queue.close(&Error::new(ErrorCode::Disconnected, "again"));
        let (error, _) = queue
            .push(|id| Request {
                id,
                api: 2,
                head: Bytes::new(),
                payload: Bytes::new(),
                deadline: Instant::now(),
                on_answer: Box::new(|_| {}),
            })
            .unwrap();
        assert_eq!(error.message, "gone");
        assert!(heard.try_recv().is_err());
    }
}
