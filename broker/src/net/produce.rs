//! Produce: from the frame to the worker, and the answer when the batch is durable on a quorum.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{Error, ErrorCode, Result},
    ids::{PartitionId, TopicId, TopicPartition},
    messages::native::{InitProducerRequest, InitProducerResponse, ProduceRequest, ProduceResponse},
    source::Appended,
    trace::{Followed, SpanKind},
};
use metrics::{counter, histogram};

use super::{connection::Session, door::Admitted, responder::Responder};
use crate::{
    broker::{Broker, DEFAULT_WAIT},
    follow::{Admission, ProduceStory},
    metrics as names,
    node::event::{Answer, Request},
    runtime::{budget::Charge, clock},
};

/// Appends a batch. Must be awaited before the next request of the connection is looked at, so that batches reach the
/// worker in the order in which they were sent; the answer comes later.
pub(crate) async fn produce(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: ProduceRequest,
    batch: bytes::Bytes,
    mut responder: Responder,
) {
    let admitted = async {
        let place = place(&request.topic_id, request.partition)?;
        Ok::<_, Error>((place, broker.admit(&session.context(), place, batch).await?))
    };
    let followed = broker.follow(&request.traceparent);
    let (place, admitted) = match admitted.await {
        Ok(admitted) => admitted,
        Err(error) => {
            if let Some(followed) = followed {
                let about = vec![("levada.node", broker.node().get().into())];
                let (whole, words) = (("produce", SpanKind::Server), error.to_string());
                followed.end(whole, responder.begun(), clock::instant(), about, Some(words));
            }
            return responder.error(&error);
        }
    };
    let asked = Duration::from_millis(request.timeout_ms.into());
    let most = broker.limits.get().produce();
    let wait = if asked.is_zero() { most } else { asked.min(most) };
    let (begun, charge) = (responder.begun(), responder.take_charge());
    let (bytes, records) = (admitted.batch.len(), admitted.records);
    let story = followed.map(|followed| broker.story(followed, &session.client, (place, &admitted), begun));
    let told = story.clone();
    let reply = move |result: Result<Answer>| {
        let answered = told.as_ref().map(|_| clock::instant());
        let result = result.and_then(appended);
        if result.as_ref().is_ok_and(|appended| !appended.duplicate) {
            count(bytes, records, begun);
        }
        let answer = |appended: Appended| ProduceResponse {
            base_offset: appended.base_offset.get(),
            duplicate: appended.duplicate,
        };
        let flush = responder.answer_later(result.clone().map(answer));
        if let (Some(story), Some(answered)) = (told, answered) {
            story.end(&result, answered);
        }
        flush
    };
    let request = Request::Produce { partition: place, batch: admitted.batch };
    broker.worker.submit_followed(request, clock::instant() + wait, charge, Box::new(reply), story).await;
}

/// Counts a batch that was acknowledged.
pub(crate) fn count(bytes: usize, records: u32, begun: std::time::Instant) {
    histogram!(names::PRODUCE_SECONDS.name).record(begun.elapsed());
    counter!(names::PRODUCE_BYTES.name).increment(bytes as u64);
    counter!(names::PRODUCE_RECORDS.name).increment(u64::from(records));
}

/// A partition as requests name it.
pub(crate) fn place(topic_id: &[u8], partition: u32) -> Result<TopicPartition> {
    let topic = TopicId::from_slice(topic_id)
        .ok_or_else(|| Error::new(ErrorCode::InvalidRequest, "topic_id is not 16 bytes"))?;
    Ok(TopicPartition { topic, partition: PartitionId(partition) })
}

/// The answer to a produce.
pub(crate) fn appended(answer: Answer) -> Result<Appended> {
    match answer {
        Answer::Appended(appended) => Ok(appended),
        _ => Err(unexpected()),
    }
}

/// An answer of another request's kind.
pub(crate) fn unexpected() -> Error {
    Error::new(ErrorCode::Internal, "the node core gave the answer of another request")
}

impl Broker {
    /// Begins to follow a produce, if it is to be.
    fn follow(&self, traceparent: &str) -> Option<Followed> {
        // What is no traceparent is none, as W3C wants it.
        self.tracer.as_ref()?.follow(traceparent.parse().ok())
    }

    /// The story of a followed produce that was admitted just now.
    pub(crate) fn story(
        &self,
        followed: Followed,
        client: &str,
        (place, admitted): (TopicPartition, &Admitted),
        begun: Instant,
    ) -> Arc<ProduceStory> {
        let topic = self.metadata().topic_by_id(place.topic).map(|topic| topic.name.clone()).unwrap_or_default();
        let (bytes, records, client) = (admitted.batch.len(), admitted.records, client.to_owned());
        let of = Admission { node: self.node(), place, topic, client, bytes, records, begun };
        Arc::new(ProduceStory::new(followed, of))
    }

    /// A producer id, if this node is the controller.
    pub(crate) async fn init_producer_here(&self, ctx: &RequestContext) -> Result<i64> {
        self.authorize(ctx, Action::Write, Resource::Cluster)?;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        match self.worker.ask(Request::InitProducer, deadline, Charge::default()).await? {
            Answer::ProducerId(id) => Ok(id),
            _ => Err(unexpected()),
        }
    }
}

/// A producer id, on the native door.
pub(crate) async fn init_producer(
    broker: Arc<Broker>,
    session: Arc<Session>,
    _request: InitProducerRequest,
    responder: Responder,
) {
    let id = broker.init_producer_here(&session.context()).await;
    responder.answer(id.map(|producer_id| InitProducerResponse { producer_id, producer_epoch: 0 }));
}
