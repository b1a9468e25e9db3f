//! What coordinators of groups see of the metadata.

use levada_groups::topics::{TopicShape, Topics, Version};
use levada_protocol::ids::LogIndex;

use super::metadata::Metadata;

/// The topics of the metadata, as of its last entry that is applied here.
#[derive(Clone, Copy, Debug)]
pub struct KnownTopics<'a> {
    /// The metadata.
    pub metadata: &'a Metadata,
    /// That entry.
    pub applied: LogIndex,
}

impl Topics for KnownTopics<'_> {
    fn version(&self) -> Version {
        Version { branch: self.metadata.alone_term().get(), applied: self.applied.get() }
    }

    fn shape(&self, name: &str) -> Option<TopicShape> {
        let topic = self.metadata.topic(name)?;
        Some(TopicShape { id: topic.id, partitions: u32::try_from(topic.partitions.len()).ok()? })
    }
}
