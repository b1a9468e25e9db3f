//! The body of a `DoGet` response: pulled by HTTP when the client has room, never ahead of it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use levada_protocol::error::{Error, ErrorCode, Result};
use metrics::{counter, gauge};
use tonic::Status;

use super::{
    follow::ReadStory,
    message::schema_frames,
    stalls::{Held, SharedHeld, Stalls},
    status::{counted, status_of},
    stream::{Chunk, MadeOf, PartitionReader},
};
use crate::{
    convert::view::Waiting,
    ipc::schema,
    metrics::{FLIGHT_READ_BYTES_TOTAL, FLIGHT_READ_RECORDS_TOTAL, FLIGHT_READERS},
};

type Working<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum State {
    /// Pieces of a message are there, or the next one must be made.
    Ready(Box<PartitionReader>),
    /// The next message is being made.
    Making(Working<(Box<PartitionReader>, Waiting, Result<Option<Chunk>>)>),
    /// A message that was dropped is being made again.
    Again(Working<(Box<PartitionReader>, Result<Vec<Bytes>>)>),
    Ended,
}

/// The messages of one reader, then the gRPC status.
pub(crate) struct DoGetBody {
    state: State,
    held: SharedHeld,
    /// Of a read that is followed.
    story: Option<Box<ReadStory>>,
}

impl DoGetBody {
    /// Begins with the schema.
    pub(crate) fn new(reader: PartitionReader, stalls: &Stalls, story: Option<Box<ReadStory>>) -> Self {
        gauge!(FLIGHT_READERS.name).increment(1);
        let head = schema_frames(&schema::write(reader.view().output()));
        let held = stalls.watch(Held::new(head), reader.progress());
        Self { state: State::Ready(Box::new(reader)), held, story }
    }

    fn end(&mut self, result: &Result<()>) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        self.state = State::Ended;
        if let Some(story) = &mut self.story {
            story.ended(result.as_ref().err());
        }
        let status = match result {
            Ok(()) => Status::ok(""),
            Err(error) => status_of(&counted(error.clone())),
        };
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    /// The client has half a message: only a broken stream tells it so.
    fn break_off(&mut self, error: Error) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        self.state = State::Ended;
        if let Some(story) = &mut self.story {
            story.ended(Some(&error));
        }
        Poll::Ready(Some(Err(status_of(&counted(error)))))
    }
}

impl Body for DoGetBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Ended) {
                State::Ready(reader) => {
                    let mut held = this.held.lock();
                    if let Some(made_of) = held.lost() {
                        this.state = State::Again(Box::pin(again(reader, made_of)));
                    } else if let Some(frame) = held.pop() {
                        counter!(FLIGHT_READ_BYTES_TOTAL.name).increment(frame.len() as u64);
                        if let Some(story) = &mut this.story {
                            story.sent(frame.len());
                        }
                        this.state = State::Ready(reader);
                        return Poll::Ready(Some(Ok(Frame::data(frame))));
                    } else {
                        let waiting = std::mem::take(&mut held.waiting);
                        this.state = State::Making(Box::pin(next(reader, waiting)));
                    }
                }
                State::Making(mut working) => {
                    let Poll::Ready((reader, waiting, result)) = working.as_mut().poll(cx) else {
                        this.state = State::Making(working);
                        return Poll::Pending;
                    };
                    match result {
                        Ok(Some(chunk)) => {
                            counter!(FLIGHT_READ_RECORDS_TOTAL.name).increment(chunk.rows as u64);
                            if let Some(story) = &mut this.story {
                                story.batch(chunk.rows);
                            }
                            this.held.lock().put(chunk, waiting);
                            this.state = State::Ready(reader);
                        }
                        Ok(None) => return this.end(&Ok(())),
                        Err(error) => return this.end(&Err(error)),
                    }
                }
                State::Again(mut working) => {
                    let Poll::Ready((reader, result)) = working.as_mut().poll(cx) else {
                        this.state = State::Again(working);
                        return Poll::Pending;
                    };
                    let frames = match result {
                        Ok(frames) => frames,
                        Err(error) => return this.break_off(error),
                    };
                    if !this.held.lock().put_again(frames) {
                        let why = "the records under way have changed; read on by offset";
                        return this.break_off(Error::new(ErrorCode::OffsetOutOfRange, why));
                    }
                    this.state = State::Ready(reader);
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for DoGetBody {
    fn drop(&mut self) {
        gauge!(FLIGHT_READERS.name).decrement(1);
    }
}

async fn next(
    mut reader: Box<PartitionReader>,
    mut waiting: Waiting,
) -> (Box<PartitionReader>, Waiting, Result<Option<Chunk>>) {
    let result = reader.next(&mut waiting).await;
    (reader, waiting, result)
}

async fn again(reader: Box<PartitionReader>, made_of: MadeOf) -> (Box<PartitionReader>, Result<Vec<Bytes>>) {
    let result = reader.again(made_of).await;
    (reader, result)
}
