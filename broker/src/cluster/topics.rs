//! What coordinators of groups see of the metadata.

use levada_groups::topics::{TopicShape, Topics};

use super::metadata::Metadata;

impl Topics for Metadata {
    fn shape(&self, name: &str) -> Option<TopicShape> {
        let topic = self.topic(name)?;
        Some(TopicShape { id: topic.id, partitions: u32::try_from(topic.partitions.len()).ok()? })
    }
}
