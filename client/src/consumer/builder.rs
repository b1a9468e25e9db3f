//! How a consumer is made.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::PartitionId,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    BUFFERED_BATCHES, Consumer,
    flight::Channels,
    leaderless::Leaderless,
    position::{End, Position, Start},
    reader::{Projection, Reader},
};
use crate::{cluster::Cluster, config::ClientConfig};

/// Partitions that are asked for their offsets at the same time.
const RESOLVED_AT_ONCE: usize = 64;

/// An election is over by then, as a rule. A partition that still has no leader is read as soon as it has one, the others at once.
const LEADER_WITHIN: Duration = Duration::from_secs(2);
/// How long a leader may take to answer when that is over.
const LEADER_ANSWERS: Duration = Duration::from_millis(500);

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

        let give_up = Instant::now() + LEADER_WITHIN;
        let resolve = |partition| {
            let (cluster, topic) = (&cluster, &topic);
            async move {
                let known = topic.topic_partition(partition)?;
                let mut resolving = pin!(Position::resolve(cluster, &topic.name, partition, self.start, self.end));
                let soon = give_up.max(Instant::now() + LEADER_ANSWERS);
                let position = match timeout_at(soon, &mut resolving).await {
                    Ok(position) => Some(position?),
                    // What is written while the latest offset is asked for must not be passed over: only without a leader nothing is.
                    Err(_) if self.start == Start::Latest && cluster.leader(&topic.name, known).is_some() => {
                        Some(resolving.await?)
                    }
                    Err(_) => None,
                };
                Ok::<_, Error>((known, position))
            }
        };
        let positions: Vec<_> = stream::iter(partitions).map(resolve).buffered(RESOLVED_AT_ONCE).try_collect().await?;

        let (sender, batches) = mpsc::channel(BUFFERED_BATCHES);
        let schema = Arc::new(OnceLock::new());
        let channels = Arc::new(Channels::new(cluster.config()));
        let projection = Projection::new(&topic, self.columns);
        let leaderless = Arc::new(Leaderless::default());
        let mut readers = JoinSet::new();
        for (partition, position) in positions {
            leaderless.set(partition.partition, position.is_none());
            let reader = Reader {
                cluster: Arc::clone(&cluster),
                channels: Arc::clone(&channels),
                topic: topic.name.clone(),
                partition,
                position: position.unwrap_or_else(|| Position::unknown(self.end)),
                from_earliest: self.start == Start::Earliest,
                projection: projection.clone(),
                batch_rows_max: self.batch_rows_max,
                schema: Arc::clone(&schema),
                leaderless: Arc::clone(&leaderless),
                batches: sender.clone(),
            };
            let to_resolve = position.is_none().then_some((self.start, self.end));
            readers.spawn(reader.run(to_resolve));
        }
        Ok(Consumer { topic, batches, schema, leaderless, _readers: readers })
    }
}
