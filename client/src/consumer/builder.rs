//! How a consumer is made.

use std::sync::{Arc, OnceLock};

use futures::{StreamExt, TryStreamExt, stream};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::PartitionId,
};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    BUFFERED_BATCHES, Consumer,
    flight::Channels,
    position::{End, Position, Start},
    reader::{Projection, Reader},
};
use crate::{cluster::Cluster, config::ClientConfig};

/// Partitions that are asked for their offsets at the same time.
const RESOLVED_AT_ONCE: usize = 64;

/// Makes a [`Consumer`].
#[derive(Clone, Debug)]
#[must_use = "call build()"]
pub struct ConsumerBuilder {
    config: Result<ClientConfig>,
    topic: Option<String>,
    partitions: Vec<PartitionId>,
    start: Start,
    end: End,
    columns: Vec<String>,
    batch_rows_max: u32,
}

impl ConsumerBuilder {
    pub(super) fn new(bootstrap: &str) -> Self {
        Self {
            config: ClientConfig::new(bootstrap),
            topic: None,
            partitions: Vec::new(),
            start: Start::default(),
            end: End::default(),
            columns: Vec::new(),
            batch_rows_max: 0,
        }
    }

    /// Settings of your own for reaching the cluster, in place of the bootstrap addresses.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = Ok(config);
        self
    }

    /// The topic to read.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only these partitions; all when none is named.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = PartitionId>) -> Self {
        self.partitions = partitions.into_iter().collect();
        self
    }

    /// Where to begin: at [`Start::Earliest`] when not given.
    pub const fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Where to end: at [`End::Latest`] when not given.
    pub const fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    /// Never ends: waits for what comes.
    pub const fn follow(self) -> Self {
        self.end(End::Follow)
    }

    /// Only these columns, in this order; all when none is named.
    pub fn columns(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.columns = columns.into_iter().map(Into::into).collect();
        self
    }

    /// The most rows of a batch; left to the server when not given.
    pub const fn batch_rows_max(mut self, rows: u32) -> Self {
        self.batch_rows_max = rows;
        self
    }

    /// Finds the topic and begins to read.
    ///
    /// # Errors
    /// No topic was named or there is none of that name; it has no such partition; no node answers.
    pub async fn build(self) -> Result<Consumer> {
        let name =
            self.topic.ok_or_else(|| Error::new(ErrorCode::InvalidConfig, "no topic was named; call topic()"))?;
        let cluster = Cluster::connect(self.config?).await?;
        let topic = cluster.fresh_topic(&name).await?;
        let mut partitions = self.partitions;
        if partitions.is_empty() {
            partitions = (0..topic.partition_count()).map(PartitionId).collect();
        }
        partitions.sort_unstable();
        partitions.dedup();

        let resolve = |partition| {
            let (cluster, topic) = (&cluster, &topic);
            async move {
                let known = topic.topic_partition(partition)?;
                Ok::<_, Error>((known, Position::resolve(cluster, &topic.name, partition, self.start, self.end).await?))
            }
        };
        let positions: Vec<_> = stream::iter(partitions).map(resolve).buffered(RESOLVED_AT_ONCE).try_collect().await?;

        let (sender, batches) = mpsc::channel(BUFFERED_BATCHES);
        let schema = Arc::new(OnceLock::new());
        let channels = Arc::new(Channels::new(cluster.config()));
        let projection = Projection::new(&topic, self.columns);
        let mut readers = JoinSet::new();
        for (partition, position) in positions {
            let reader = Reader {
                cluster: Arc::clone(&cluster),
                channels: Arc::clone(&channels),
                topic: topic.name.clone(),
                partition,
                position,
                from_earliest: self.start == Start::Earliest,
                projection: projection.clone(),
                batch_rows_max: self.batch_rows_max,
                schema: Arc::clone(&schema),
                batches: sender.clone(),
            };
            readers.spawn(reader.run());
        }
        Ok(Consumer { topic, batches, schema, _readers: readers })
    }
}
