//! Writing, behind [`LogSink`].

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::Result,
    frame::Api,
    ids::{GroupId, Offset, ProducerEpoch, ProducerId, TopicPartition},
    messages::native::{InitProducerRequest, InitProducerResponse, ProduceRequest, ProduceResponse},
    source::{Appended, BoxFuture, LogSink, ProducerIdentity},
    trace::{Followed, SpanKind},
};

use crate::{
    broker::{Broker, DEFAULT_WAIT, partition_of},
    forward::CallError,
    net::produce::{appended, count},
    node::event::Request,
    runtime::{clock, worker::timed_out},
};

impl LogSink for Broker {
    fn init_producer<'a>(&'a self, ctx: &'a RequestContext) -> BoxFuture<'a, Result<ProducerIdentity>> {
        Box::pin(async move {
            self.authorize(ctx, Action::Write, Resource::Cluster)?;
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            loop {
                let controller = self.find_leader(GroupId::METADATA, deadline).await?;
                let asked = if controller == self.node() {
                    self.init_producer_here(ctx).await.map_err(|error| CallError { error, in_doubt: false })
                } else {
                    let (api, request) = (Api::InitProducer, InitProducerRequest {});
                    let answer = self.forwarder.call(controller, api, request, Bytes::new(), deadline).await;
                    answer.map(|answer: InitProducerResponse| answer.producer_id)
                };
                match asked {
                    Ok(id) => return Ok(ProducerIdentity { id: ProducerId(id), epoch: ProducerEpoch(0) }),
                    // An id that nobody hears of is just not used.
                    Err(failed) => self.retry(failed.harmless(), deadline).await?,
                }
            }
        })
    }

    fn append<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        batch: Bytes,
    ) -> BoxFuture<'a, Result<Appended>> {
        Box::pin(async move {
            let begun = clock::instant();
            let mut followed = self.tracer.as_ref().and_then(|tracer| tracer.follow(ctx.trace));
            let deadline = clock::deadline(ctx, self.limits.get().produce());
            let charge = self.requests.take(batch.len());
            let charge = tokio::time::timeout(clock::left(deadline), charge).await.map_err(|_| timed_out())?;
            // Judged here even when the leader does it again: the caller is told by the node that it asked.
            let admitted = self.admit(ctx, partition, batch).await?;
            let topic = self.topic(ctx, Action::Write, partition.topic)?;
            let group = partition_of(&topic, partition)?.group;
            let mut charge = Some(charge);
            loop {
                let leader = self.find_leader(group, deadline).await?;
                let sent = if leader == self.node() {
                    let request = Request::Produce { partition, batch: admitted.batch.clone() };
                    let charge = charge.take().unwrap_or_default();
                    let of = (partition, &admitted);
                    let story = followed.take().map(|followed| self.story(followed, &ctx.client, of, begun));
                    let answer = self.worker.ask_followed(request, deadline, charge, story.clone()).await;
                    let answer = answer.and_then(appended);
                    if let Some(story) = story {
                        story.end(&answer, clock::instant());
                    }
                    if answer.as_ref().is_ok_and(|appended| !appended.duplicate) {
                        count(admitted.batch.len(), admitted.records, begun);
                    }
                    answer.map_err(|error| CallError { error, in_doubt: false })
                } else {
                    let request = ProduceRequest {
                        topic_id: Bytes::copy_from_slice(&partition.topic.to_bytes()),
                        partition: partition.partition.get(),
                        timeout_ms: u32::try_from(clock::left(deadline).as_millis()).unwrap_or(u32::MAX).max(1),
                        traceparent: traced(followed.as_ref(), ctx),
                    };
                    let answer =
                        self.forwarder.call(leader, Api::Produce, request, admitted.batch.clone(), deadline).await;
                    if let Some(followed) = followed.take() {
                        let error = answer.as_ref().err().map(|failed: &CallError| failed.error.to_string());
                        let about =
                            vec![("levada.node", self.node().get().into()), ("levada.leader", leader.get().into())];
                        followed.end(("produce.forward", SpanKind::Client), begun, clock::instant(), about, error);
                    }
                    answer.map(|answer: ProduceResponse| Appended {
                        base_offset: Offset(answer.base_offset),
                        duplicate: answer.duplicate,
                    })
                };
                match sent {
                    Ok(appended) => return Ok(appended),
                    Err(failed) => self.retry(failed, deadline).await?,
                }
            }
        })
    }
}

/// The trace that another node is to go on with.
fn traced(followed: Option<&Followed>, ctx: &RequestContext) -> String {
    let context = followed.map(Followed::context).or(ctx.trace);
    context.map(|context| context.to_string()).unwrap_or_default()
}
