//! What a coordinator knows of topics: how many partitions there are to share out.

use std::collections::BTreeMap;

use levada_protocol::ids::{PartitionId, TopicId, TopicPartition};

/// A topic as assignments see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicShape {
    /// Its identity: a topic that is made again under its name is another.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
}

impl TopicShape {
    /// Its partitions, in order.
    pub fn places(self) -> impl Iterator<Item = TopicPartition> {
        (0..self.partitions).map(move |partition| TopicPartition { topic: self.id, partition: PartitionId(partition) })
    }
}

/// How new the metadata is that somebody knows: of two, the later says more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The term in which the metadata went on without a majority of its replicas, if it ever did: what comes after is later than all
    /// that was before.
    pub branch: u64,
    /// The last change that is known.
    pub applied: u64,
}

/// The topics of the cluster, as the metadata says just now, as far as it is known here.
pub trait Topics {
    /// How far it is.
    fn version(&self) -> Version;

    /// A topic by its name, if there is one.
    fn shape(&self, name: &str) -> Option<TopicShape>;
}

impl Topics for BTreeMap<String, TopicShape> {
    fn version(&self) -> Version {
        Version::default()
    }

    fn shape(&self, name: &str) -> Option<TopicShape> {
        self.get(name).copied()
    }
}
