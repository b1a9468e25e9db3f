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

impl LogSource for Broker {
    fn bounds<'a>(&'a self, ctx: &'a RequestContext, partition: TopicPartition) -> BoxFuture<'a, Result<LogBounds>> {
        Box::pin(async move {
            let topic = self.topic(ctx, Action::Read, partition.topic)?;
            let group = partition_of(&topic, partition)?.group;
            let deadline = clock::deadline(ctx, DEFAULT_WAIT);
            loop {
                let leader = self.find_leader(group, deadline).await?;
                let asked = if leader == self.node() {
                    self.bounds_here(ctx, partition).await.map_err(|error| CallError { error, in_doubt: false })
                } else {
                    let request = ListOffsetsRequest {
                        topic_id: Bytes::copy_from_slice(&partition.topic.to_bytes()),
                        partition: partition.partition.get(),
                        timestamp_ms: None,
                    };
                    let answer: std::result::Result<ListOffsetsResponse, CallError> =
                        self.forwarder.call(leader, Api::ListOffsets, request, Bytes::new(), deadline).await;
                    answer.map(|answer| LogBounds {
                        log_start: Offset(answer.log_start_offset),
                        high_watermark: Offset(answer.high_watermark),
                        bytes: answer.bytes,
                        leader_epoch: Term(answer.leader_epoch),
                    })
                };
                match asked {
                    Ok(bounds) => return Ok(bounds),
                    // Asking twice does no harm.
                    Err(failed) => self.retry(failed.harmless(), deadline).await?,
                }
            }
        })
    }

    fn offset_for_time<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        timestamp_ms: i64,
    ) -> BoxFuture<'a, Result<Offset>> {
        Box::pin(self.offset_for_time_here(ctx, partition, timestamp_ms))
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
