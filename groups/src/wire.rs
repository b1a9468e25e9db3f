//! Records and states as bytes (`groups.proto`), and back.
//!
//! Nothing is taken on trust: sizes are looked at before anything is decoded, and what decodes is built up through the same
//! [`State::apply`] that made it, after a check of everything that this would refuse. The decoder itself takes no length
//! without the bytes for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use levada_protocol::{
    ids::{PartitionId, TopicId, TopicPartition},
    messages::groups as wire,
};
use prost::Message as _;

use crate::{
    assign::Assignor,
    limits::{CHANGE_BYTES_MAX, STATE_BYTES_MAX},
    record::Record,
    state::{Committed, Head, Held, Member, MemberId, State},
    topics::{TopicShape, Version},
};

/// Bytes that are no records, or records that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "records of a coordinator are malformed: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

fn malformed(why: impl Into<String>) -> Malformed {
    Malformed(why.into())
}

/// Records that hold together, as bytes.
#[must_use]
pub fn encode_change(records: &[Record]) -> Bytes {
    wire::Change { records: records.iter().map(to_wire).collect() }.encode_to_vec().into()
}

/// Records from bytes.
///
/// # Errors
/// There are too many bytes, or they are no records.
pub fn decode_change(bytes: Bytes) -> Result<Vec<Record>, Malformed> {
    if bytes.len() > CHANGE_BYTES_MAX {
        return Err(malformed(format!("{} bytes are more than one change may have", bytes.len())));
    }
    let change = wire::Change::decode(bytes).map_err(|error| malformed(error.to_string()))?;
    change.records.into_iter().map(from_wire).collect()
}

/// A state as bytes.
#[must_use]
pub fn encode_state(state: &State) -> Bytes {
    wire::State { records: state.records().map(|record| to_wire(&record)).collect() }.encode_to_vec().into()
}

/// A state from bytes.
///
/// # Errors
/// There are too many bytes, they are no records, or not those of a state.
pub fn decode_state(bytes: Bytes) -> Result<State, Malformed> {
    if bytes.len() > STATE_BYTES_MAX {
        return Err(malformed(format!("{} bytes are more than a state may have", bytes.len())));
    }
    let wire = wire::State::decode(bytes).map_err(|error| malformed(error.to_string()))?;
    let mut state = State::default();
    for record in wire.records {
        let record = from_wire(record)?;
        check(&state, &record)?;
        state.apply(&record);
    }
    Ok(state)
}

/// A state's records are about groups and members that came before, and give nothing to two.
fn check(state: &State, record: &Record) -> Result<(), Malformed> {
    let group = match (record, state.group(record.group())) {
        (Record::Head { .. }, None) => return Ok(()),
        (Record::Head { .. }, Some(_)) => return Err(malformed(format!("group {:?} is there twice", record.group()))),
        (_, None) => return Err(malformed(format!("group {:?} is not there", record.group()))),
        (_, Some(group)) => group,
    };
    match record {
        Record::Member { id, member, .. } => {
            let mut places = member.owned.keys().chain(member.revoking.keys());
            let is_twice = member.owned.keys().any(|place| member.revoking.contains_key(place));
            if is_twice || group.members.contains_key(id) || places.any(|place| group.owner(*place).is_some()) {
                return Err(malformed(format!("member {id}, or something of it, is there twice")));
            }
            if member.epoch > group.head.epoch {
                return Err(malformed(format!("member {id} is ahead of its group")));
            }
        }
        Record::Target { id, .. } if !group.members.contains_key(id) => {
            return Err(malformed(format!("{id} is no member")));
        }
        Record::Target { .. } | Record::Offset { .. } => {}
        Record::Head { .. } | Record::GroupGone { .. } | Record::MemberGone { .. } | Record::OffsetGone { .. } => {
            return Err(malformed("a state has only what is there"));
        }
    }
    Ok(())
}

fn to_wire(record: &Record) -> wire::Record {
    use wire::record::Kind;
    let kind = match record {
        Record::Head { head, .. } => Kind::Head(wire::GroupHead {
            epoch: head.epoch,
            assignor: u32::from(head.assignor as u8),
            topics: head
                .topics
                .iter()
                .map(|(name, shape)| wire::Topic {
                    name: name.clone(),
                    topic_id: id_bytes(shape.id),
                    partitions: shape.partitions,
                })
                .collect(),
            idle_hours: head.idle_hours,
            metadata_branch: head.seen.branch,
            metadata_applied: head.seen.applied,
        }),
        Record::GroupGone { .. } => Kind::GroupGone(wire::Gone {}),
        Record::Member { id, member, .. } => Kind::Member(wire::Member {
            id: id.as_str().to_owned(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            session_timeout_ms: member.session_timeout_ms,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            topics: member.topics.iter().cloned().collect(),
            wish: member.wish,
            assignor: member.assignor.map_or(0, |assignor| u32::from(assignor as u8)),
            epoch: member.epoch,
            previous_epoch: member.previous_epoch,
            owned: held_to_wire(&member.owned),
            revoking: held_to_wire(&member.revoking),
            away: member.away,
            version: member.version,
        }),
        Record::MemberGone { id, .. } => Kind::MemberGone(id.as_str().to_owned()),
        Record::Target { id, places, .. } => {
            Kind::Target(wire::Target { member: id.as_str().to_owned(), partitions: places_to_wire(places) })
        }
        Record::Offset { place, committed, .. } => Kind::Offset(wire::CommittedOffset {
            place: Some(place_to_wire(*place)),
            offset: committed.offset,
            leader_epoch: committed.leader_epoch,
            metadata: committed.metadata.clone(),
            committed_ms: committed.committed_ms,
        }),
        Record::OffsetGone { place, .. } => Kind::OffsetGone(place_to_wire(*place)),
    };
    wire::Record { group: record.group().to_owned(), kind: Some(kind) }
}

fn from_wire(record: wire::Record) -> Result<Record, Malformed> {
    use wire::record::Kind;
    let group = record.group;
    Ok(match record.kind.ok_or_else(|| malformed("a record without content"))? {
        Kind::Head(head) => Record::Head { group, head: head_from_wire(head)? },
        Kind::GroupGone(_) => Record::GroupGone { group },
        Kind::Member(member) => {
            Record::Member { group, id: MemberId::new(&member.id), member: member_from_wire(member)? }
        }
        Kind::MemberGone(id) => Record::MemberGone { group, id: MemberId::new(&id) },
        Kind::Target(target) => {
            Record::Target { group, id: MemberId::new(&target.member), places: places_from_wire(&target.partitions)? }
        }
        Kind::Offset(offset) => Record::Offset {
            group,
            place: place_from_wire(offset.place)?,
            committed: Committed {
                offset: offset.offset,
                leader_epoch: offset.leader_epoch,
                metadata: offset.metadata,
                committed_ms: offset.committed_ms,
            },
        },
        Kind::OffsetGone(place) => Record::OffsetGone { group, place: place_from_wire(Some(place))? },
    })
}

fn head_from_wire(head: wire::GroupHead) -> Result<Head, Malformed> {
    let mut topics = BTreeMap::new();
    for topic in head.topics {
        topics.insert(topic.name, TopicShape { id: topic_id(&topic.topic_id)?, partitions: topic.partitions });
    }
    Ok(Head {
        epoch: head.epoch,
        assignor: Assignor::from_number(head.assignor).ok_or_else(|| malformed("an assignor that nobody knows"))?,
        topics,
        idle_hours: head.idle_hours,
        seen: Version { branch: head.metadata_branch, applied: head.metadata_applied },
    })
}

fn member_from_wire(member: wire::Member) -> Result<Member, Malformed> {
    let assignor = match member.assignor {
        0 => None,
        number => Some(Assignor::from_number(number).ok_or_else(|| malformed("an assignor that nobody knows"))?),
    };
    Ok(Member {
        instance: member.instance,
        client: member.client,
        session_timeout_ms: member.session_timeout_ms,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        topics: member.topics.into_iter().collect(),
        wish: member.wish,
        assignor,
        epoch: member.epoch,
        previous_epoch: member.previous_epoch,
        version: member.version,
        owned: held_from_wire(&member.owned)?,
        revoking: held_from_wire(&member.revoking)?,
        away: member.away,
    })
}

fn held_to_wire(held: &Held) -> Vec<wire::Holding> {
    let mut holdings: Vec<wire::Holding> = Vec::new();
    for (place, epoch) in held {
        let id = id_bytes(place.topic);
        match holdings.last_mut().filter(|last| last.topic_id == id) {
            Some(last) => {
                last.partitions.push(place.partition.get());
                last.epochs.push(*epoch);
            }
            None => holdings.push(wire::Holding {
                topic_id: id,
                partitions: vec![place.partition.get()],
                epochs: vec![*epoch],
            }),
        }
    }
    holdings
}

fn held_from_wire(holdings: &[wire::Holding]) -> Result<Held, Malformed> {
    let mut held = Held::new();
    for holding in holdings {
        if holding.partitions.len() != holding.epochs.len() {
            return Err(malformed("a partition without its epoch"));
        }
        let topic = topic_id(&holding.topic_id)?;
        for (partition, epoch) in holding.partitions.iter().zip(&holding.epochs) {
            held.insert(TopicPartition { topic, partition: PartitionId(*partition) }, *epoch);
        }
    }
    Ok(held)
}

fn places_to_wire(places: &BTreeSet<TopicPartition>) -> Vec<wire::Partitions> {
    let mut topics: Vec<wire::Partitions> = Vec::new();
    for place in places {
        let id = id_bytes(place.topic);
        match topics.last_mut().filter(|last| last.topic_id == id) {
            Some(last) => last.partitions.push(place.partition.get()),
            None => topics.push(wire::Partitions { topic_id: id, partitions: vec![place.partition.get()] }),
        }
    }
    topics
}

fn places_from_wire(topics: &[wire::Partitions]) -> Result<BTreeSet<TopicPartition>, Malformed> {
    let mut places = BTreeSet::new();
    for topic in topics {
        let id = topic_id(&topic.topic_id)?;
        places.extend(topic.partitions.iter().map(|p| TopicPartition { topic: id, partition: PartitionId(*p) }));
    }
    Ok(places)
}

fn place_to_wire(place: TopicPartition) -> wire::Place {
    wire::Place { topic_id: id_bytes(place.topic), partition: place.partition.get() }
}

fn place_from_wire(place: Option<wire::Place>) -> Result<TopicPartition, Malformed> {
    let place = place.ok_or_else(|| malformed("an offset of no partition"))?;
    Ok(TopicPartition { topic: topic_id(&place.topic_id)?, partition: PartitionId(place.partition) })
}

fn id_bytes(topic: TopicId) -> Bytes {
    Bytes::copy_from_slice(&topic.to_bytes())
}

fn topic_id(bytes: &[u8]) -> Result<TopicId, Malformed> {
    TopicId::from_slice(bytes).ok_or_else(|| malformed("a topic's id has 16 bytes"))
}
