//! Reading, behind [`LogSource`].

use std::time::Duration;

use bytes::Bytes;
use levada_protocol::{
    context::{Action, RequestContext},
    error::Result,
    frame::Api,
    ids::{Offset, Term, TopicPartition},
    messages::native::{ListOffsetsRequest, ListOffsetsResponse},
    source::{BoxFuture, LogBounds, LogChunk, LogSource},
};

use crate::{
    broker::{Broker, DEFAULT_WAIT, partition_of},
    forward::CallError,
    runtime::clock,
};

impl Broker {
    /// Both ends of a partition, and an offset for a time, from its leader, wherever that is.
    async fn ask_leader(
        &self,
        ctx: &RequestContext,
        place: TopicPartition,
        timestamp_ms: Option<i64>,
    ) -> Result<(LogBounds, Option<Offset>)> {
        let topic = self.topic(ctx, Action::Read, place.topic)?;
        let group = partition_of(&topic, place)?.group;
        let deadline = clock::deadline(ctx, DEFAULT_WAIT);
        loop {
            let leader = self.find_leader(group, deadline).await?;
            let asked = if leader == self.node() {
                let bounds = self.bounds_and_time_here(ctx, place, timestamp_ms).await;
                bounds.map_err(|error| CallError { error, in_doubt: false })
            } else {
                let request = ListOffsetsRequest {
                    topic_id: Bytes::copy_from_slice(&place.topic.to_bytes()),
                    partition: place.partition.get(),
                    timestamp_ms,
                };
                let answer: std::result::Result<ListOffsetsResponse, CallError> =
                    self.forwarder.call(leader, Api::ListOffsets, request, Bytes::new(), deadline).await;
                answer.map(|answer| {
                    let bounds = LogBounds {
                        log_start: Offset(answer.log_start_offset),
                        high_watermark: Offset(answer.high_watermark),
                        bytes: answer.bytes,
                        leader_epoch: Term(answer.leader_epoch),
                    };
                    (bounds, answer.offset_for_time.map(Offset))
                })
            };
            match asked {
                Ok(answer) => return Ok(answer),
                // Asking twice does no harm.
                Err(failed) => self.retry(failed.harmless(), deadline).await?,
            }
        }
    }
}

impl LogSource for Broker {
    fn bounds<'a>(&'a self, ctx: &'a RequestContext, partition: TopicPartition) -> BoxFuture<'a, Result<LogBounds>> {
        Box::pin(async move { Ok(self.ask_leader(ctx, partition, None).await?.0) })
    }

    fn offset_for_time<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        timestamp_ms: i64,
    ) -> BoxFuture<'a, Result<Offset>> {
        Box::pin(async move {
            if self.view.partition(partition).is_some() {
                // The replica here may not know yet what its leader has acknowledged.
                let (bounds, _) = self.ask_leader(ctx, partition, None).await?;
                self.catch_up(ctx, partition, bounds.high_watermark).await?;
                return self.offset_for_time_here(ctx, partition, timestamp_ms).await;
            }
            let (bounds, offset) = self.ask_leader(ctx, partition, Some(timestamp_ms)).await?;
            Ok(offset.unwrap_or(bounds.high_watermark))
        })
    }

    fn read<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<LogChunk>> {
        Box::pin(self.read_here(ctx, partition, offset, max_bytes))
    }

    fn wait_above<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        offset: Offset,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Offset>> {
        Box::pin(self.wait_here(ctx, partition, offset, wait))
    }
}
