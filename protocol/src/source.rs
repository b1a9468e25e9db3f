//! The seams between the log and everything that reads, writes or describes it.
//!
//! The broker implements them; compute is written against them alone. All calls are asynchronous, carry a
//! [`RequestContext`], and answer with [`crate::error::Error`]. What a [`LogSource`] hands out is committed.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use bytes::Bytes;

use crate::{
    context::RequestContext,
    error::{NodeAddresses, Result},
    ids::{ClusterId, Offset, PartitionId, ProducerEpoch, ProducerId, Term, TopicId, TopicPartition},
    topic::TopicConfig,
};

/// A future that crosses a seam.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a partition's log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The first offset that can still be read.
    pub log_start: Offset,
    /// The first offset not yet committed.
    pub high_watermark: Offset,
    /// Bytes of segments, for estimates.
    pub bytes: u64,
    /// The leader's term when this was read.
    pub leader_epoch: Term,
}

/// Some batches of a partition, in order.
#[derive(Clone, Debug)]
pub struct LogChunk {
    /// Whole batches; the first may begin below the offset asked for, as batches are not cut. Empty at the end of
    /// the log.
    pub batches: Vec<Bytes>,
    /// Where to read on.
    pub next_offset: Offset,
    /// As it was when this was read.
    pub high_watermark: Offset,
    /// As it was when this was read.
    pub log_start: Offset,
}

/// Reads committed records of the partitions that have a replica on this node.
pub trait LogSource: Send + Sync {
    /// Log start and high watermark. Linearizable: the answer is no older than the call.
    ///
    /// # Errors
    /// Unknown partition; no leader here.
    fn bounds<'a>(&'a self, ctx: &'a RequestContext, partition: TopicPartition) -> BoxFuture<'a, Result<LogBounds>>;

    /// The first offset whose batch holds a record not older than `timestamp_ms`; the high watermark when there is
    /// none.
    ///
    /// # Errors
    /// Unknown partition.
    fn offset_for_time<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        timestamp_ms: i64,
    ) -> BoxFuture<'a, Result<Offset>>;

    /// Batches from the one that contains `offset`, at least one if there is one, about `max_bytes` of them. Does not
    /// wait for new ones. Every batch's checksums have been verified.
    ///
    /// # Errors
    /// Offset out of range; damaged bytes; unknown partition.
    fn read<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        offset: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<LogChunk>>;

    /// Waits until the high watermark is above `offset`, at most for `wait`; answers the high watermark.
    ///
    /// # Errors
    /// Unknown partition; the node stops.
    fn wait_above<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        offset: Offset,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Offset>>;
}

/// An acknowledged append: fsynced by a quorum of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first record's offset.
    pub base_offset: Offset,
    /// The batch was there already: an earlier try had succeeded.
    pub duplicate: bool,
}

/// An idempotent producer's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerIdentity {
    /// The producer.
    pub id: ProducerId,
    /// Its incarnation.
    pub epoch: ProducerEpoch,
}

/// Writes batches.
pub trait LogSink: Send + Sync {
    /// A fresh producer id.
    ///
    /// # Errors
    /// No controller.
    fn init_producer<'a>(&'a self, ctx: &'a RequestContext) -> BoxFuture<'a, Result<ProducerIdentity>>;

    /// Appends one batch (rows or columns), wherever the leader is; completes when it is durable on a quorum.
    ///
    /// # Errors
    /// All that produce can answer. After `Timeout`, `OutcomeUnknown` and `Disconnected` the batch may be there; the
    /// same batch with the same producer identity and sequence can be sent again without doubling it.
    fn append<'a>(
        &'a self,
        ctx: &'a RequestContext,
        partition: TopicPartition,
        batch: Bytes,
    ) -> BoxFuture<'a, Result<Appended>>;
}

/// A typed topic's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSchema {
    /// Its number within the topic, as columns batches carry it.
    pub id: u32,
    /// The Arrow schema as JSON.
    pub json: String,
}

/// One partition as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// The node that leads it, as far as is known here.
    pub leader: Option<NodeAddresses>,
    /// All nodes with a replica.
    pub replicas: Vec<NodeAddresses>,
}

/// A topic as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// Its settings.
    pub config: TopicConfig,
    /// Its schema, if it is typed.
    pub schema: Option<TopicSchema>,
    /// Its partitions, by number.
    pub partitions: Vec<PartitionDescription>,
}

/// A wish for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// How many replicas of each; 0 for the cluster's default.
    pub replicas: u32,
    /// Settings that differ from the defaults.
    pub config: BTreeMap<String, String>,
    /// An Arrow schema as JSON makes it a typed topic.
    pub schema_json: Option<String>,
}

/// What topics there are, and who leads them.
pub trait Catalog: Send + Sync {
    /// The cluster's identity.
    fn cluster_id(&self) -> ClusterId;

    /// All topics, by name.
    ///
    /// # Errors
    /// The node has no metadata yet.
    fn topics<'a>(&'a self, ctx: &'a RequestContext) -> BoxFuture<'a, Result<Vec<TopicDescription>>>;

    /// One topic by its name.
    ///
    /// # Errors
    /// Unknown topic.
    fn topic<'a>(&'a self, ctx: &'a RequestContext, name: &'a str) -> BoxFuture<'a, Result<TopicDescription>>;

    /// One topic by its identity.
    ///
    /// # Errors
    /// Unknown topic.
    fn topic_by_id<'a>(&'a self, ctx: &'a RequestContext, id: TopicId) -> BoxFuture<'a, Result<TopicDescription>>;

    /// Makes a topic, wherever the controller is; completes when its partitions can be written.
    ///
    /// # Errors
    /// It exists; name, settings, schema or replica count are wrong.
    fn create_topic<'a>(&'a self, ctx: &'a RequestContext, new: NewTopic) -> BoxFuture<'a, Result<TopicDescription>>;

    /// Deletes a topic, wherever the controller is.
    ///
    /// # Errors
    /// Unknown topic.
    fn delete_topic<'a>(&'a self, ctx: &'a RequestContext, name: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// A consumer group's committed position in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// The leader epoch the consumer had seen.
    pub leader_epoch: Term,
    /// Whatever the consumer wants to remember with it.
    pub metadata: String,
}

/// Consumer groups: where readers that share a topic remember how far they are.
pub trait Groups: Send + Sync {
    /// Remembers positions; all or none.
    ///
    /// # Errors
    /// No coordinator; the member was fenced off.
    fn commit<'a>(
        &'a self,
        ctx: &'a RequestContext,
        group: &'a str,
        offsets: BTreeMap<TopicPartition, CommittedOffset>,
    ) -> BoxFuture<'a, Result<()>>;

    /// The positions remembered.
    ///
    /// # Errors
    /// No coordinator.
    fn committed<'a>(
        &'a self,
        ctx: &'a RequestContext,
        group: &'a str,
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, CommittedOffset>>>;
}
