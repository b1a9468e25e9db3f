//! The topics that a producer writes to.

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{PartitionId, TopicId, TopicPartition},
};

use super::{Core, Time, partition::Partition};
use crate::topology::Topic;

/// A topic that is written to.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: String,
    pub(super) id: TopicId,
    /// Where its partitions begin among all.
    pub(super) first: usize,
    pub(super) partitions: u32,
    /// Where records without a key go until that batch is closed.
    pub(super) sticky: u32,
    /// The largest batch.
    pub(super) batch_bytes_max: usize,
    /// A leader said that it does not exist.
    pub(super) denied: bool,
    /// It does not.
    pub(super) gone: bool,
}

impl<D: Clone + Default> Core<D> {
    /// Adds a topic, or takes note of its leaders.
    pub(crate) fn add_topic(&mut self, now: Time, topic: &Topic) {
        self.cx.now = now;
        if let Some(&known) = self.by_name.get(&topic.name) {
            self.update_topic(known, topic);
            if !self.topics[known].gone {
                return;
            }
        }
        let first = self.partitions.len();
        for (number, partition) in (0..).zip(&topic.partitions) {
            let name = TopicPartition { topic: topic.id, partition: PartitionId(number) };
            let position = self.partitions.len();
            self.partitions.push(Partition::new(position, name, partition.leader, partition.leader_epoch));
            self.timer_of.push(None);
        }
        let partitions = topic.partition_count();
        let sticky = u32::try_from(self.cx.rng.below(partitions.into())).unwrap_or_default();
        self.by_name.insert(topic.name.clone(), self.topics.len());
        self.topics.push(TopicState {
            name: topic.name.clone(),
            id: topic.id,
            first,
            partitions,
            sticky,
            batch_bytes_max: topic.batch_bytes_max(),
            denied: false,
            gone: false,
        });
    }

    /// Takes note of a topic's leaders and limits, or of its end.
    pub(super) fn update_topic(&mut self, known: usize, topic: &Topic) {
        if self.topics[known].id != topic.id || self.topics[known].partitions != topic.partition_count() {
            return self.remove_topic(known);
        }
        self.topics[known].denied = false;
        self.topics[known].batch_bytes_max = topic.batch_bytes_max();
        let first = self.topics[known].first;
        for (position, partition) in (first..).zip(&topic.partitions) {
            self.partitions[position].set_leader(partition.leader, partition.leader_epoch, &mut self.cx);
            if self.partitions[position].backlog() > 0 || self.partitions[position].open.is_some() {
                self.dirty.insert(position);
            }
        }
    }

    /// The topic was deleted (and perhaps made anew: then the next record finds the new one).
    pub(super) fn remove_topic(&mut self, known: usize) {
        let topic = &mut self.topics[known];
        topic.gone = true;
        self.by_name.remove(&topic.name);
        let error = Error::new(ErrorCode::UnknownTopic, format!("topic {:?} ({}) was deleted", topic.name, topic.id));
        for position in topic.first..topic.first + topic.partitions as usize {
            self.partitions[position].abort(&error, &mut self.cx);
            self.dirty.insert(position);
        }
    }

    /// Takes note of what leaders said about topics.
    pub(super) fn note_denied(&mut self) {
        for id in self.cx.denied.drain(..) {
            self.topics.iter_mut().filter(|topic| topic.id == id).for_each(|topic| topic.denied = true);
        }
    }

    /// Moves the sticky partition on where its batch was closed: to the next one that is not held up.
    pub(super) fn after_close(&mut self) {
        while let Some(position) = self.cx.closed.pop() {
            let of =
                |topic: &&mut TopicState| (topic.first..topic.first + topic.partitions as usize).contains(&position);
            let Some(topic) = self.topics.iter_mut().find(of) else { continue };
            if topic.first + topic.sticky as usize != position {
                continue;
            }
            let (first, sticky, count) = (topic.first, topic.sticky, topic.partitions);
            let mut others = (1..=count).map(|step| (sticky + step) % count);
            let flowing = |number: &u32| self.partitions[first + *number as usize].is_flowing();
            topic.sticky = others.find(flowing).unwrap_or((sticky + 1) % count);
        }
    }
}
