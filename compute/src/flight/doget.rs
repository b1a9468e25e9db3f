//! `DoGet` in front of tonic: its codec would copy every byte of the body, so that one method is answered here and all
//! others are passed on.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arrow_flight::Ticket as FlightTicket;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use levada_protocol::{
    context::RequestContext,
    error::{Error, ErrorCode, Result},
    ticket::{TICKET_BYTES_MAX, Ticket},
};
use prost::Message;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    body::DoGetBody,
    follow::ReadStory,
    server::Shared,
    service::context_of,
    status::{counted, status_of},
    stream::PartitionReader,
};

const PATH: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// gRPC's prefix of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// How long a client may take to send its ticket.
const TICKET_WAIT: Duration = Duration::from_secs(10);

/// Answers `DoGet`.
#[derive(Clone)]
pub(crate) struct DoGetLayer(pub(crate) Arc<Shared>);

impl<S> Layer<S> for DoGetLayer {
    type Service = DoGet<S>;

    fn layer(&self, inner: S) -> DoGet<S> {
        DoGet { shared: Arc::clone(&self.0), inner }
    }
}

/// Answers `DoGet`; `inner` answers everything else.
#[derive(Clone)]
pub(crate) struct DoGet<S> {
    shared: Arc<Shared>,
    inner: S,
}

impl<S> Service<Request<Body>> for DoGet<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(self.inner.call(request));
        }
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            Ok(match answer(&shared, request).await {
                Ok(response) => response,
                Err(error) => status_of(&counted(error)).into_http(),
            })
        })
    }
}

async fn answer(shared: &Shared, request: Request<Body>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let ctx = context_of(&head.headers, &head.extensions);
    let followed = shared.deps.tracer.as_ref().and_then(|tracer| tracer.follow(ctx.trace));
    let mut story = followed.map(|followed| Box::new(ReadStory::new(followed, &ctx.client)));
    let opened = open(shared, ctx, body).await;
    if let Some(story) = &mut story {
        match &opened {
            Ok((ticket, _)) => story.opened(ticket),
            Err(error) => story.ended(Some(error)),
        }
    }
    let (_, reader) = opened?;
    let mut response = Response::new(Body::new(DoGetBody::new(reader, &shared.stalls, story)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// Takes the ticket, and opens a reader for it.
async fn open(shared: &Shared, ctx: RequestContext, body: Body) -> Result<(Ticket, PartitionReader)> {
    let limited = Limited::new(body, TICKET_BYTES_MAX + 64);
    let message = match tokio::time::timeout(TICKET_WAIT, limited.collect()).await {
        Ok(Ok(message)) => message.to_bytes(),
        Ok(Err(error)) => return Err(Error::new(ErrorCode::InvalidTicket, format!("the request broke off: {error}"))),
        Err(_) => return Err(Error::new(ErrorCode::Timeout, "no ticket came; send one with the request")),
    };
    let ticket = Ticket::decode(&ticket_of(message)?)?;
    let reader = PartitionReader::open(&shared.deps, ctx, &ticket, shared.shutdown.clone()).await?;
    Ok((ticket, reader))
}

/// The ticket in the one message of the request.
pub(super) fn ticket_of(mut message: Bytes) -> Result<Bytes> {
    let invalid = |why: &str| Error::new(ErrorCode::InvalidTicket, format!("the request is not one message: {why}"));
    let Some(&[compressed, length @ ..]) = message.first_chunk::<PREFIX_BYTES>() else {
        return Err(invalid("it is too short"));
    };
    if compressed != 0 {
        return Err(Error::new(ErrorCode::UnsupportedVersion, "compressed requests are not supported"));
    }
    let message = message.split_off(PREFIX_BYTES);
    if u32::try_from(message.len()) != Ok(u32::from_be_bytes(length)) {
        return Err(invalid("its length is another one"));
    }
    FlightTicket::decode(message).map(|ticket| ticket.ticket).map_err(|error| invalid(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_not_one_ticket() {
        let ticket = FlightTicket { ticket: Bytes::from_static(b"t") }.encode_to_vec();
        let length = u32::try_from(ticket.len()).unwrap().to_be_bytes();
        let good = [&[0], &length[..], &ticket].concat();
        assert_eq!(ticket_of(good.clone().into()), Ok(Bytes::from_static(b"t")));
        for cut in 0..good.len() {
            assert_eq!(ticket_of(good[..cut].to_vec().into()).unwrap_err().code, ErrorCode::InvalidTicket);
        }
        let compressed = [&[1], &good[1..]].concat();
        assert_eq!(ticket_of(compressed.into()).unwrap_err().code, ErrorCode::UnsupportedVersion);
        let twice = good.repeat(2);
        assert_eq!(ticket_of(twice.into()).unwrap_err().code, ErrorCode::InvalidTicket);
    }
}
