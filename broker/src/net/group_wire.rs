//! What is said of groups, in the words of the wire (`native.proto`) and back. Long answers come a page at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_groups::{
    assign::Assignor,
    command::{Answer, Beat, Command, Heartbeat, Position},
    state::{Group, MemberId},
};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{PartitionId, TopicId, TopicPartition},
    limits::MIB,
    messages::native as wire,
};

/// A page of an answer ends when it has about so much.
const PAGE_BYTES: usize = MIB;
/// Groups that one answer of a coordinator lists, as it takes them from the core.
const LISTED_MAX: usize = crate::partition::coordinating::LISTED_MAX;

/// A command from the wire.
pub(super) fn command(ask: wire::group_request::Ask) -> Result<Command> {
    use wire::group_request::Ask;
    Ok(match ask {
        Ask::Heartbeat(heartbeat) => Command::Heartbeat(Heartbeat {
            group: heartbeat.group,
            member: MemberId::new(&heartbeat.member),
            epoch: heartbeat.epoch,
            seen: heartbeat.seen,
            instance: heartbeat.instance,
            client: heartbeat.client,
            session_timeout_ms: heartbeat.session_timeout_ms,
            rebalance_timeout_ms: heartbeat.rebalance_timeout_ms,
            topics: (!heartbeat.topics.is_empty()).then(|| heartbeat.topics.into_iter().collect()),
            wish: heartbeat.wish,
            assignor: assignor(&heartbeat.assignor)?,
        }),
        Ask::Leave(leave) => Command::Leave {
            group: leave.group,
            member: MemberId::new(&leave.member),
            epoch: leave.epoch,
            returns: leave.returns,
        },
        Ask::Commit(commit) => {
            let mut offsets = BTreeMap::new();
            for offset in commit.offsets {
                let place = place(&offset.topic_id, offset.partition)?;
                let position =
                    Position { offset: offset.offset, leader_epoch: offset.leader_epoch, metadata: offset.metadata };
                if offsets.insert(place, position).is_some() {
                    let why = format!("the commit names {place} twice");
                    return Err(Error::new(ErrorCode::InvalidRequest, why));
                }
            }
            let member = commit.member.map(|member| (MemberId::new(&member), commit.epoch));
            Command::Commit { group: commit.group, member, offsets }
        }
        Ask::DeleteOffsets(delete) => {
            let places = delete.places.iter().map(|known| place(&known.topic_id, known.partition));
            Command::DeleteOffsets { group: delete.group, places: places.collect::<Result<BTreeSet<_>>>()? }
        }
        Ask::Delete(delete) => Command::DeleteGroup { group: delete.group },
        Ask::Offsets(_) | Ask::Members(_) | Ask::List(_) => {
            return Err(Error::new(ErrorCode::Internal, "a question is no command"));
        }
    })
}

fn assignor(name: &str) -> Result<Option<Assignor>> {
    if name.is_empty() {
        return Ok(None);
    }
    let known = Assignor::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Assignor::ALL.into_iter().map(Assignor::name).collect();
        Error::new(ErrorCode::InvalidRequest, format!("there is no such assignor; use one of {}", names.join(", ")))
    })?;
    Ok(Some(known))
}

/// The place behind which a page begins.
pub(super) fn after(after: Option<wire::GroupPlace>) -> Result<Option<TopicPartition>> {
    after.map(|after| place(&after.topic_id, after.partition)).transpose()
}

fn place(topic_id: &[u8], partition: u32) -> Result<TopicPartition> {
    super::produce::place(topic_id, partition)
}

/// What a coordinator said.
pub(super) fn told(answer: Answer) -> wire::group_response::Answer {
    use wire::group_response::Answer as Told;
    match answer {
        Answer::Done => Told::Done(wire::GroupDone {}),
        Answer::Beat(Beat { epoch, version, heartbeat_ms, session_timeout_ms, assignment }) => {
            let assignment =
                assignment.map(|places| wire::GroupAssignment { partitions: partitions(places.iter().copied()) });
            Told::Beat(wire::GroupBeat { epoch, version, heartbeat_ms, session_timeout_ms, assignment })
        }
    }
}

/// A page of what a group has committed.
pub(super) fn offsets(group: &Group, after: Option<TopicPartition>) -> wire::GroupOffsets {
    use std::ops::Bound::{Excluded, Unbounded};
    let behind = group.offsets.range((after.map_or(Unbounded, Excluded), Unbounded));
    let all = behind.map(|(place, committed)| wire::GroupOffset {
        topic_id: id_bytes(place.topic),
        partition: place.partition.get(),
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        committed_ms: committed.committed_ms,
    });
    let (offsets, more) = page(all);
    wire::GroupOffsets { offsets, more }
}

/// A page of a group's members.
pub(super) fn members(name: &str, group: &Group, after: &str) -> wire::GroupMembers {
    let behind = group.members.iter().filter(|(id, _)| id.as_str() > after);
    let all = behind.map(|(id, member)| wire::GroupMember {
        id: id.as_str().to_owned(),
        instance: member.instance.clone(),
        client: member.client.clone(),
        epoch: member.epoch,
        topics: member.topics.iter().cloned().collect(),
        owned: partitions(member.owned.keys().copied()),
        revoking: partitions(member.revoking.keys().copied()),
        target: partitions(group.target(id)),
        away: member.away,
    });
    let (members, more) = page(all);
    wire::GroupMembers { group: Some(info(name, group)), members, more }
}

/// A page of a coordinator's groups.
pub(super) fn list(groups: &[(String, Arc<Group>)]) -> wire::GroupList {
    let (listed, more) = page(groups.iter().map(|(name, group)| info(name, group)));
    wire::GroupList { groups: listed, more: more || groups.len() == LISTED_MAX }
}

fn info(name: &str, group: &Group) -> wire::GroupInfo {
    let state = match (group.members.is_empty(), group.is_stable()) {
        (true, _) => "empty",
        (false, true) => "stable",
        (false, false) => "reconciling",
    };
    let count = |of: usize| u32::try_from(of).unwrap_or(u32::MAX);
    wire::GroupInfo {
        name: name.to_owned(),
        state: state.to_owned(),
        epoch: group.head.epoch,
        assignor: group.head.assignor.name().to_owned(),
        members: count(group.members.len()),
        offsets: count(group.offsets.len()),
    }
}

/// The first of these that a page has room for, one at least, and whether there are more.
fn page<M: prost::Message>(mut all: impl Iterator<Item = M>) -> (Vec<M>, bool) {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for message in all.by_ref() {
        bytes += message.encoded_len();
        taken.push(message);
        if bytes >= PAGE_BYTES {
            return (taken, all.next().is_some());
        }
    }
    (taken, false)
}

fn partitions(places: impl Iterator<Item = TopicPartition>) -> Vec<wire::TopicPartitions> {
    let mut topics: Vec<wire::TopicPartitions> = Vec::new();
    let mut last = None;
    for TopicPartition { topic, partition: PartitionId(partition) } in places {
        match topics.last_mut().filter(|_| last == Some(topic)) {
            Some(of_topic) => of_topic.partitions.push(partition),
            None => topics.push(wire::TopicPartitions { topic_id: id_bytes(topic), partitions: vec![partition] }),
        }
        last = Some(topic);
    }
    topics
}

fn id_bytes(topic: TopicId) -> Bytes {
    Bytes::copy_from_slice(&topic.to_bytes())
}
