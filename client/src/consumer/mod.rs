//! The consumer: Arrow record batches of one or many partitions over Flight.
//!
//! Each partition has a reader of its own, which asks the partition's leader for everything from its position on and
//! hands batches over. When a node fails or leadership moves, the reader goes on at the new leader from the offset
//! behind the last row it handed over: no row is missing, none comes twice. Batches of one partition come in order;
//! those of different partitions as they arrive.
//!
//! What is read ahead is bounded: [`BUFFERED_BATCHES`] batches for all readers together, one in each reader's hands,
//! and an HTTP/2 window per node. A consumer that is not asked for batches makes the servers wait.

mod builder;
mod flight;
mod leaderless;
mod position;
mod reader;

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use futures::Stream;
use levada_protocol::{
    error::Result,
    ids::{Offset, PartitionId},
};
use tokio::{sync::mpsc, task::JoinSet};

use self::leaderless::Leaderless;
use crate::topology::Topic;

pub use self::{
    builder::ConsumerBuilder,
    position::{End, Start},
};

/// Batches that wait for [`Consumer::next`].
const BUFFERED_BATCHES: usize = 8;

/// Rows of one partition, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionBatch {
    /// The partition.
    pub partition: PartitionId,
    /// The first row's offset.
    pub first_offset: Offset,
    /// Where the partition is read on; offsets in between may be missing, but never rows.
    pub next_offset: Offset,
    /// The first offset that was not committed when the server sent this, if it said so.
    pub high_watermark: Option<Offset>,
    /// The rows: the columns that were asked for.
    pub records: RecordBatch,
}

/// Reads a topic as Arrow record batches.
///
/// ```no_run
/// # async fn run() -> levada_client::Result<()> {
/// use levada_client::{Consumer, Start};
///
/// let mut consumer = Consumer::builder("localhost:9170").topic("orders").start(Start::Earliest).build().await?;
/// while let Some(batch) = consumer.next().await {
///     let batch = batch?;
///     println!("{} rows of partition {}", batch.records.num_rows(), batch.partition);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    topic: Arc<Topic>,
    batches: mpsc::Receiver<Result<PartitionBatch>>,
    schema: Arc<OnceLock<SchemaRef>>,
    leaderless: Arc<Leaderless>,
    /// Ends the readers with the consumer.
    _readers: JoinSet<()>,
}

impl Consumer {
    /// A consumer of the cluster of these nodes: `host:port` (of the native protocol), several separated by commas.
    pub fn builder(bootstrap: &str) -> ConsumerBuilder {
        ConsumerBuilder::new(bootstrap)
    }

    /// The next batch of any partition; `None` when all have been read to their end. An error ends the reading of its
    /// partition; the others go on.
    pub async fn next(&mut self) -> Option<Result<PartitionBatch>> {
        self.batches.recv().await
    }

    /// Partitions of which nothing can be read at the moment, as they have no leader. They are waited for, for
    /// `operation_timeout`, or as long as it takes if the consumer follows; the others are read meanwhile.
    #[must_use]
    pub fn without_leader(&self) -> Vec<PartitionId> {
        self.leaderless.all()
    }

    /// The topic, as it was when the consumer was built.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The columns of every batch, once a server has said so: at the latest with the first batch, and when
    /// [`Consumer::next`] has answered `None` also for a topic without rows.
    #[must_use]
    pub fn schema(&self) -> Option<SchemaRef> {
        self.schema.get().cloned()
    }
}

impl Stream for Consumer {
    type Item = Result<PartitionBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_recv(cx)
    }
}
