//! One TCP connection to one node.
//!
//! A [`Connection`] can be used from the moment it is made: requests wait while it is being opened, go out in the order
//! in which they were enqueued, many at once without waiting for each other, and each is answered exactly once: by its
//! answer, or, when the connection breaks, by `Disconnected`. A broken connection stays broken; the pool makes
//! another. What a request carries as payload is written from where it lies.
//!
//! At most `in_flight_bytes_max` bytes are on their way without an answer; later requests wait in the queue, so a slow
//! node holds no more than that of a connection's buffers. An answer that takes longer than its request allows means
//! that the node hangs, and breaks the connection.

mod io;
mod queue;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode},
    frame::{Api, Frame},
    ids::ClusterId,
    limits::REQUEST_HEADER_BYTES_MAX,
};
use prost::Message;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    config::ClientConfig,
    error::{CallError, disconnected},
};
use queue::{Queue, Request};

/// What is called with the answer to a request, or with why there is none.
pub(crate) type OnAnswer = Box<dyn FnOnce(Result<Frame, CallError>) + Send>;

/// A connection, open or being opened. The last clone's end closes it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Ends the connection's task.
    _stop: DropGuard,
}

/// What the handle and the task share.
#[derive(Debug)]
struct Shared {
    address: String,
    queue: Queue,
}

impl Connection {
    /// Begins to open a connection. Must be called within a tokio runtime. `cluster` is the cluster that is expected
    /// at the other end; the first connection of a client finds out.
    pub(crate) fn open(address: &str, config: &ClientConfig, cluster: Arc<OnceLock<ClusterId>>) -> Self {
        let shared = Arc::new(Shared { address: address.to_owned(), queue: Queue::new(config.in_flight_bytes_max) });
        let stop = CancellationToken::new();
        tokio::spawn(io::run(Arc::clone(&shared), config.clone(), cluster, stop.clone()));
        Self { handle: Arc::new(Handle { shared, _stop: stop.drop_guard() }) }
    }

    /// Whether requests can still be enqueued.
    pub(crate) fn is_usable(&self) -> bool {
        !self.handle.shared.queue.is_closed()
    }

    /// Sends a request after those enqueued before it. `on_answer` is called exactly once, from the connection's task
    /// (or from here, when the connection is broken): it must be quick.
    pub(crate) fn enqueue(
        &self,
        api: Api,
        message: &impl Message,
        payload: Bytes,
        timeout: Duration,
        on_answer: OnAnswer,
    ) {
        if let Err(error) = check_request(message, payload.len()) {
            return on_answer(Err(CallError::unsent(error)));
        }
        let deadline = Instant::now() + timeout;
        let refused = self.handle.shared.queue.push(|id| Request {
            id,
            api: api as u16,
            head: levada_protocol::frame::encode_request(api, id, message, payload.len()),
            payload,
            deadline,
            on_answer,
        });
        if let Some((error, request)) = refused {
            (request.on_answer)(Err(CallError::unsent(error)));
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        api: Api,
        message: &impl Message,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Frame, CallError> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(api, message, payload, timeout, Box::new(move |result| drop(answer.send(result))));
        answered.await.unwrap_or_else(|_| {
            Err(CallError::sent(disconnected(&self.handle.shared.address, "the client's runtime is shutting down")))
        })
    }
}

/// A server closes the connection to who sends more.
fn check_request(message: &impl Message, payload_bytes: usize) -> Result<(), Error> {
    levada_protocol::frame::check_size(message, payload_bytes)?;
    let header_bytes = message.encoded_len();
    if header_bytes > REQUEST_HEADER_BYTES_MAX {
        let why =
            format!("a request of {header_bytes} bytes, at most {REQUEST_HEADER_BYTES_MAX} are taken; ask for less");
        return Err(Error::new(ErrorCode::InvalidRequest, why));
    }
    Ok(())
}
