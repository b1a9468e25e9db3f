//! The topics that a producer writes to.

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{PartitionId, TopicId, TopicPartition},
};

use super::{Core, Time, partition::Partition};
use crate::topology::{self, Topic};

/// A topic that is written to.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: String,
    pub(super) id: TopicId,
    /// Where its partitions stand among all, by their numbers.
    pub(super) positions: Vec<usize>,
    /// Where records without a key go until that batch is closed.
    pub(super) sticky: u32,
    /// The largest batch.
    pub(super) batch_bytes_max: usize,
    /// A leader said that it does not exist.
    pub(super) denied: bool,
    /// It does not.
    pub(super) gone: bool,
}

impl TopicState {
    /// How many partitions it has.
    pub(super) fn partition_count(&self) -> u32 {
        u32::try_from(self.positions.len()).unwrap_or(u32::MAX)
    }

    /// Where a partition stands among all. It is one of this topic's.
    pub(super) fn position(&self, number: u32) -> usize {
        self.positions[number as usize]
    }
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
        let sticky = u32::try_from(self.cx.rng.below(topic.partition_count().into())).unwrap_or_default();
        self.by_name.insert(topic.name.clone(), self.topics.len());
        self.topics.push(TopicState {
            name: topic.name.clone(),
            id: topic.id,
            positions: Vec::new(),
            sticky,
            batch_bytes_max: topic.batch_bytes_max(),
            denied: false,
            gone: false,
        });
        topic.partitions.iter().for_each(|partition| self.add_partition(self.topics.len() - 1, partition));
    }

    fn add_partition(&mut self, topic: usize, partition: &topology::Partition) {
        let state = &mut self.topics[topic];
        let name = TopicPartition { topic: state.id, partition: PartitionId(state.partition_count()) };
        let position = self.partitions.len();
        state.positions.push(position);
        self.partitions.push(Partition::new(position, name, partition.leader, partition.leader_epoch));
        self.topic_of.push(topic);
        self.timer_of.push(None);
    }

    /// Takes note of a topic's leaders, limits and new partitions, or of its end. A node that has not heard of the latest
    /// partitions proves nothing: there never are fewer.
    pub(super) fn update_topic(&mut self, known: usize, topic: &Topic) {
        if self.topics[known].id != topic.id {
            return self.remove_topic(known);
        }
        self.topics[known].denied = false;
        self.topics[known].batch_bytes_max = topic.batch_bytes_max();
        for (number, partition) in topic.partitions.iter().enumerate() {
            let Some(&position) = self.topics[known].positions.get(number) else {
                self.add_partition(known, partition);
                continue;
            };
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
        for &position in &topic.positions {
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
            let topic = &mut self.topics[self.topic_of[position]];
            if topic.position(topic.sticky) != position {
                continue;
            }
            let (sticky, count) = (topic.sticky, topic.partition_count());
            let mut others = (1..=count).map(|step| (sticky + step) % count);
            let flowing = |number: &u32| self.partitions[topic.position(*number)].is_flowing();
            topic.sticky = others.find(flowing).unwrap_or((sticky + 1) % count);
        }
    }
}
