//! The one answer to one request.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::{check_size, encode_answer, encode_error},
};
use metrics::counter;
use tokio::sync::OwnedSemaphorePermit;

use super::outbox::{Outbox, Outgoing};
use crate::{
    metrics::{REQUESTS, api_name},
    runtime::{budget::Charge, clock, worker::Flush},
};

/// Answers a request, exactly once: dropped without an answer, it says that the outcome is unknown.
#[derive(Debug)]
pub(crate) struct Responder {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    api: u16,
    correlation_id: u64,
    begun: Instant,
    outbox: Arc<Outbox>,
    place: Option<OwnedSemaphorePermit>,
    charge: Charge,
}

impl Responder {
    pub(crate) fn new(
        api: u16,
        correlation_id: u64,
        outbox: Arc<Outbox>,
        place: Option<OwnedSemaphorePermit>,
        charge: Charge,
    ) -> Self {
        Self { open: Some(Open { api, correlation_id, begun: clock::instant(), outbox, place, charge }) }
    }

    /// When the request was there.
    pub(crate) fn begun(&self) -> Instant {
        self.open.as_ref().map_or_else(clock::instant, |open| open.begun)
    }

    /// Takes over what the request is charged with: it is not given back with the answer then.
    pub(crate) fn take_charge(&mut self) -> Charge {
        self.open.as_mut().map(|open| std::mem::take(&mut open.charge)).unwrap_or_default()
    }

    /// Holds this until the answer is written.
    pub(crate) fn hold(&mut self, charge: Charge) {
        if let Some(open) = &mut self.open {
            open.charge = std::mem::take(&mut open.charge).and(charge);
        }
    }

    /// Answers.
    pub(crate) fn answer(self, result: Result<impl prost::Message>) {
        self.answer_with(result.map(|message| (message, Vec::new())));
    }

    /// Answers; what is given back sends it off.
    pub(crate) fn answer_later(mut self, result: Result<impl prost::Message>) -> Option<Arc<dyn Flush>> {
        self.queue(result.map(|message| (message, Vec::new()))).map(|outbox| outbox as Arc<dyn Flush>)
    }

    /// Answers with a payload, which is written from where it lies.
    pub(crate) fn answer_with(mut self, result: Result<(impl prost::Message, Vec<Bytes>)>) {
        self.send(result);
    }

    /// Answers that it went wrong.
    pub(crate) fn error(mut self, error: &Error) {
        self.send::<()>(Err(error.clone()));
    }

    /// For requests that are not answered; gives what the request is charged with.
    pub(crate) fn silent(mut self) -> Charge {
        self.open.take().map(|open| open.charge).unwrap_or_default()
    }

    fn send<M: prost::Message>(&mut self, result: Result<(M, Vec<Bytes>)>) {
        if let Some(outbox) = self.queue(result) {
            outbox.flush(false);
        }
    }

    fn queue<M: prost::Message>(&mut self, result: Result<(M, Vec<Bytes>)>) -> Option<Arc<Outbox>> {
        let open = self.open.take()?;
        let result = result.and_then(|(message, payload)| {
            let payload_bytes = payload.iter().map(Bytes::len).sum();
            check_size(&message, payload_bytes)?;
            Ok((message, payload, payload_bytes))
        });
        let code = result.as_ref().err().map_or("OK", |error| error.code.name());
        counter!(REQUESTS.name, "api" => api_name(open.api), "code" => code).increment(1);
        let (head, payload) = match result {
            Ok((message, payload, payload_bytes)) => {
                (encode_answer(open.api, open.correlation_id, &message, payload_bytes), payload)
            }
            Err(error) => (encode_error(open.api, open.correlation_id, &error), Vec::new()),
        };
        open.outbox.push(Outgoing { head, payload, place: open.place, charge: open.charge });
        Some(open.outbox)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.open.is_some() {
            let why = "the node ended before the answer was there; a write may have happened or not";
            self.send::<()>(Err(Error::new(ErrorCode::OutcomeUnknown, why)));
        }
    }
}
