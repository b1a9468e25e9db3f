//! The simulated partitions.

use std::collections::{BTreeMap, VecDeque};

use levada_protocol::{
    batch::{BatchHeader, Rows, sequence_plus, verify_crc},
    error::ErrorCode,
    ids::{GroupId, NodeId, Offset, Term, TopicId},
    limits::PRODUCER_BATCHES_REMEMBERED,
};

use crate::topology::{Partition, Topic};

/// A record whose value begins with this does not fit the topic's schema.
pub(super) const POISON: u64 = 1 << 63;

/// What the broker remembers of one producer in one partition.
#[derive(Debug, Default)]
struct ProducerState {
    next_sequence: i32,
    batches: VecDeque<(i32, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    /// 0 while there is none.
    pub(super) leader: u64,
    pub(super) epoch: u64,
    pub(super) records: Vec<u64>,
    producers: BTreeMap<i64, ProducerState>,
}

impl Log {
    pub(super) fn led_by(leader: u64) -> Self {
        Self { leader, epoch: 1, ..Self::default() }
    }

    /// Kafka's rule: what follows is taken, what is remembered is acknowledged again, the rest is refused.
    pub(super) fn produce(&mut self, bytes: &[u8]) -> Result<Offset, ErrorCode> {
        verify_crc(bytes).unwrap();
        let header = BatchHeader::parse(bytes).unwrap();
        let rows = Rows::open(&bytes.to_vec().into()).unwrap();
        let ids: Vec<u64> =
            rows.iter().map(|record| u64::from_be_bytes(record.unwrap().value.unwrap().try_into().unwrap())).collect();
        if ids.iter().any(|id| id & POISON != 0) {
            return Err(ErrorCode::SchemaMismatch);
        }
        let producer = self.producers.entry(header.producer_id.get()).or_default();
        if let Some(&(_, offset)) = producer.batches.iter().find(|(sequence, _)| *sequence == header.base_sequence) {
            return Ok(Offset(offset));
        }
        if header.base_sequence != producer.next_sequence {
            return Err(ErrorCode::OutOfOrderSequence);
        }
        let offset = self.records.len() as u64;
        producer.next_sequence = sequence_plus(header.base_sequence, header.record_count);
        producer.batches.push_back((header.base_sequence, offset));
        if producer.batches.len() > PRODUCER_BATCHES_REMEMBERED {
            producer.batches.pop_front();
        }
        self.records.extend(ids);
        Ok(Offset(offset))
    }
}

/// As metadata describes them.
pub(super) fn topic(logs: &[Log]) -> Topic {
    let partition = |log: &Log| Partition {
        group: GroupId(1),
        leader: (log.leader > 0).then_some(NodeId(log.leader)),
        leader_epoch: Term(log.epoch),
        replicas: Vec::new(),
    };
    Topic {
        name: "t".into(),
        id: TopicId::from_bytes([7; 16]),
        partitions: logs.iter().map(partition).collect(),
        config: BTreeMap::new(),
        schema: None,
    }
}
