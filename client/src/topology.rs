//! Nodes, topics and leaders, as the servers describe them.

use std::collections::BTreeMap;

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, NodeId, PartitionId, ReplicaId, Term, TopicId, TopicPartition},
    limits::{BATCH_BYTES_DEFAULT, BATCH_BYTES_MAX, TOPIC_PARTITIONS_MAX},
    messages::native,
};

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity: another one after a delete and recreate under the same name.
    pub id: TopicId,
    /// Its partitions; the one at position `n` is partition `n`.
    pub partitions: Vec<Partition>,
    /// Its settings, as far as they differ from the defaults.
    pub config: BTreeMap<String, String>,
    /// The schema of a typed topic.
    pub schema: Option<Schema>,
}

/// The schema of a typed topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Its number within the topic.
    pub id: u32,
    /// The Arrow schema as JSON.
    pub json: String,
}

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its raft group.
    pub group: GroupId,
    /// The node that leads it, as far as the node that was asked knows.
    pub leader: Option<NodeId>,
    /// The term in which it leads.
    pub leader_epoch: Term,
    /// Its replicas.
    pub replicas: Vec<Replica>,
}

/// One replica of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its id, never used again.
    pub id: ReplicaId,
    /// Where it is.
    pub node: NodeId,
}

impl Topic {
    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    /// One partition, if there is one of that number.
    #[must_use]
    pub fn partition(&self, number: PartitionId) -> Option<&Partition> {
        self.partitions.get(usize::try_from(number.get()).ok()?)
    }

    /// One partition's full name, if there is one of that number.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownPartition`].
    pub fn topic_partition(&self, number: PartitionId) -> Result<TopicPartition> {
        match self.partition(number) {
            Some(_) => Ok(TopicPartition { topic: self.id, partition: number }),
            None => Err(Error::new(
                ErrorCode::UnknownPartition,
                format!(
                    "topic {:?} has partitions 0 to {}, not {number}",
                    self.name,
                    self.partition_count().saturating_sub(1)
                ),
            )),
        }
    }

    /// The largest batch the topic takes.
    #[must_use]
    pub fn batch_bytes_max(&self) -> usize {
        let set = self.config.get("max.message.bytes").and_then(|bytes| bytes.parse().ok());
        set.unwrap_or(BATCH_BYTES_DEFAULT).min(BATCH_BYTES_MAX)
    }

    /// Keeps what `older` knew better: leaders of a higher term.
    pub(crate) fn keep_newer_leaders(&mut self, older: &Self) {
        if self.id != older.id {
            return;
        }
        for (ours, theirs) in self.partitions.iter_mut().zip(&older.partitions) {
            let stale = ours.leader_epoch < theirs.leader_epoch;
            let silent = ours.leader_epoch == theirs.leader_epoch && ours.leader.is_none();
            if stale || silent {
                ours.leader = theirs.leader;
                ours.leader_epoch = theirs.leader_epoch;
            }
        }
    }
}

impl TryFrom<native::TopicInfo> for Topic {
    type Error = Error;

    fn try_from(mut wire: native::TopicInfo) -> Result<Self> {
        let senseless = |what: &str| {
            Error::new(ErrorCode::BadFrame, format!("the server describes topic {:?} with {what}", wire.name))
        };
        let id = TopicId::from_slice(&wire.topic_id).ok_or_else(|| senseless("an id that is none"))?;
        wire.partitions.sort_by_key(|partition| partition.partition);
        let complete = (0..).zip(&wire.partitions).all(|(number, partition): (u32, _)| number == partition.partition);
        if !complete || wire.partitions.is_empty() || wire.partitions.len() > TOPIC_PARTITIONS_MAX as usize {
            return Err(senseless("a list of partitions that has gaps or is empty"));
        }
        Ok(Self {
            id,
            partitions: wire.partitions.into_iter().map(Partition::from).collect(),
            config: wire.config,
            schema: (!wire.schema_json.is_empty()).then_some(Schema { id: wire.schema_id, json: wire.schema_json }),
            name: wire.name,
        })
    }
}

impl From<native::PartitionInfo> for Partition {
    fn from(wire: native::PartitionInfo) -> Self {
        let replica =
            |wire: native::ReplicaInfo| Replica { id: ReplicaId(wire.replica_id), node: NodeId(wire.node_id) };
        Self {
            group: GroupId(wire.group),
            leader: wire.leader.map(NodeId),
            leader_epoch: Term(wire.leader_epoch),
            replicas: wire.replicas.into_iter().map(replica).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn wire(partitions: &[(u32, Option<u64>, u64)]) -> native::TopicInfo {
        let partition = |&(partition, leader, leader_epoch): &(u32, Option<u64>, u64)| native::PartitionInfo {
            partition,
            leader,
            leader_epoch,
            ..native::PartitionInfo::default()
        };
        native::TopicInfo {
            name: "t".into(),
            topic_id: Bytes::from_static(&[1; 16]),
            partitions: partitions.iter().map(partition).collect(),
            ..native::TopicInfo::default()
        }
    }

    #[test]
    fn a_description_with_holes_is_refused() {
        let topic = Topic::try_from(wire(&[(1, Some(7), 3), (0, None, 0)])).unwrap();
        assert_eq!(topic.partition(PartitionId(1)).unwrap().leader, Some(NodeId(7)));
        assert_eq!(topic.topic_partition(PartitionId(2)).unwrap_err().code, ErrorCode::UnknownPartition);
        for bad in [&[][..], &[(1, None, 0)], &[(0, None, 0), (0, None, 0)], &[(0, None, 0), (2, None, 0)]] {
            assert_eq!(Topic::try_from(wire(bad)).unwrap_err().code, ErrorCode::BadFrame, "{bad:?}");
        }
        let nameless = native::TopicInfo { topic_id: Bytes::new(), ..wire(&[(0, None, 0)]) };
        assert_eq!(Topic::try_from(nameless).unwrap_err().code, ErrorCode::BadFrame);
    }

    #[test]
    fn an_old_story_does_not_replace_a_newer_one() {
        let older =
            Topic::try_from(wire(&[(0, Some(1), 5), (1, Some(1), 5), (2, Some(1), 5), (3, Some(1), 5)])).unwrap();
        let mut newer = Topic::try_from(wire(&[(0, Some(2), 4), (1, Some(2), 6), (2, None, 5), (3, None, 6)])).unwrap();
        newer.keep_newer_leaders(&older);
        let leaders: Vec<_> =
            newer.partitions.iter().map(|p| (p.leader.map(NodeId::get), p.leader_epoch.get())).collect();
        assert_eq!(leaders, [(Some(1), 5), (Some(2), 6), (Some(1), 5), (None, 6)]);
    }

    #[test]
    fn the_batch_limit_comes_from_the_settings() {
        let mut topic = Topic::try_from(wire(&[(0, None, 0)])).unwrap();
        assert_eq!(topic.batch_bytes_max(), BATCH_BYTES_DEFAULT);
        topic.config.insert("max.message.bytes".into(), "4096".into());
        assert_eq!(topic.batch_bytes_max(), 4096);
    }
}
