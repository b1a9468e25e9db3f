//! Raft messages between nodes: many groups' in one frame, entry payloads outside protobuf and never copied.
//!
//! The `raft` crate's own messages are built on protobuf 2.28, which must not parse bytes from a peer
//! (RUSTSEC-2024-0437); here they are translated to and from `peer.proto`.
#![deny(clippy::indexing_slicing)]

use bytes::{Buf, Bytes};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, LogIndex, ReplicaId, Term},
    limits::ENTRY_BYTES_MAX,
    messages::peer,
};
use levada_storage_engine::entry::EntryKind;
use raft::eraftpb::{self, MessageType};

use super::hibernation::Notice;
use crate::{cluster::health::Health, node::MemberLoss};

/// No index or term comes near: raft adds to them without looking.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// What one node says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    /// A raft message of one group.
    Raft {
        /// The group.
        group: GroupId,
        /// The message.
        message: Box<eraftpb::Message>,
    },
    /// The sender leads a group in a term.
    Leadership {
        /// The group.
        group: GroupId,
        /// The term.
        term: Term,
    },
    /// To the controller, from a group's leader: these vote, and nobody else belongs to it.
    Placed {
        /// The group.
        group: GroupId,
        /// Who votes.
        voters: Vec<ReplicaId>,
        /// Which target this is, by the metadata's count.
        targets_given: u64,
    },
    /// To a group's leader: a replica has lost what it had.
    Lost {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// From the leader of the metadata group: the receiver's replica of it cannot go on as it is.
    MemberLost {
        /// The replica.
        replica: ReplicaId,
        /// Why.
        loss: MemberLoss,
        /// The term in which the sender leads.
        term: Term,
    },
    /// To the controller, from a group's leader: a replica is to be replaced by a new one. As there is a leader, the others
    /// have what it has lost.
    Replace {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// Only as long as the group has what it is to have, and that is this target, by the metadata's count.
        settled_at: Option<u64>,
    },
    /// To a group's leader: a replica has damaged segments.
    Damaged {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// Nobody can mend them: the sound files that others have of them are not this replica's.
        is_unsound: bool,
    },
    /// To a group's leader: a replica's segment that is written is damaged, and is to end so that it can be mended.
    Roll {
        /// The group.
        group: GroupId,
    },
    /// How a new replica gets what the others have.
    CatchUp {
        /// The group.
        group: GroupId,
        /// What is said.
        what: CatchUp,
    },
    /// The sender's node is there: what heartbeats of its sleeping groups would say.
    Beat {
        /// Its process, by a number of its own.
        run: u64,
    },
    /// The sender leads these groups, and they sleep.
    Asleep {
        /// Them.
        notices: Vec<Notice>,
    },
    /// How the sender is: whether it should lead anything.
    Health(Health),
}

/// Between a new replica and one that has what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Where does the group stand?
    AskSnapshot {
        /// What ends before this entry is of little use.
        wanted_to: LogIndex,
    },
    /// There ([`levada_storage_engine::store::Snapshot`]), or unknown here.
    Snapshot(Option<Bytes>),
    /// What is in a segment?
    AskSegment {
        /// Its first entry.
        first_index: LogIndex,
        /// From there on in its file.
        position: u64,
        /// Not more than this.
        bytes_max: u32,
    },
    /// That: fewer bytes than asked for at the end of the file; `None` when there is no such segment (any more).
    Segment {
        /// Its first entry.
        first_index: LogIndex,
        /// Where the bytes stand in its file.
        position: u64,
        /// They.
        bytes: Option<Bytes>,
    },
}

impl CatchUp {
    /// The bytes that do not stand in the header.
    fn take_payload(&mut self) -> Option<Bytes> {
        match self {
            Self::Snapshot(bytes) | Self::Segment { bytes, .. } => bytes.take(),
            Self::AskSnapshot { .. } | Self::AskSegment { .. } => None,
        }
    }
}

impl PeerMessage {
    /// The group that the sender leads, and the term, if it is a message that only leaders send.
    #[must_use]
    pub fn led(&self) -> Option<(GroupId, Term)> {
        let Self::Raft { group, message } = self else { return None };
        let leads = matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat);
        leads.then(|| (*group, Term(message.get_term())))
    }

    /// Whether the sender gives the receiver its vote.
    #[must_use]
    pub fn gives_vote(&self) -> bool {
        let Self::Raft { message, .. } = self else { return false };
        message.get_msg_type() == MessageType::MsgRequestVoteResponse && !message.get_reject()
    }

    /// Whether it has a change of the group's membership that lets its receiver vote.
    #[must_use]
    pub fn makes_voter(&self) -> bool {
        let Self::Raft { message, .. } = self else { return false };
        let changes = message.get_entries().iter().filter(|e| kind_of(e, &e.data) == EntryKind::ConfChange);
        let mut changes = changes.filter_map(|entry| super::membership::read_change(&entry.data).ok());
        let adds = |single: &eraftpb::ConfChangeSingle| {
            single.get_change_type() == eraftpb::ConfChangeType::AddNode && single.node_id == message.get_to()
        };
        changes.any(|change| change.get_changes().iter().any(adds))
    }

    /// About how many bytes it takes on the wire, for budgets.
    #[must_use]
    pub fn wire_bytes(&self) -> usize {
        match self {
            Self::Raft { message, .. } => {
                64 + message.get_entries().iter().map(|entry| entry.get_data().len() + 16).sum::<usize>()
            }
            Self::Leadership { .. } => 16,
            Self::Placed { voters, .. } => 24 + 8 * voters.len(),
            Self::Lost { .. }
            | Self::MemberLost { .. }
            | Self::Damaged { .. }
            | Self::Roll { .. }
            | Self::Health(_) => 24,
            Self::Replace { .. } => 32,
            Self::CatchUp { what, .. } => match what {
                CatchUp::Snapshot(Some(bytes)) | CatchUp::Segment { bytes: Some(bytes), .. } => 48 + bytes.len(),
                _ => 48,
            },
            Self::Beat { .. } => 16,
            Self::Asleep { notices } => 8 + 24 * notices.len(),
        }
    }
}

/// A frame's header and the payload pieces that follow it.
#[must_use]
pub fn encode(messages: Vec<PeerMessage>) -> (peer::RaftFrame, Vec<Bytes>) {
    let mut frame = peer::RaftFrame::default();
    let (mut payload, mut behind) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            PeerMessage::Raft { group, message } => {
                frame.messages.push(encode_raft(group, *message, &mut payload));
            }
            PeerMessage::Leadership { group, term } => {
                frame.leaderships.push(peer::Leadership { group: group.get(), term: term.get() });
            }
            PeerMessage::Placed { group, voters, targets_given } => frame.placements.push(peer::Placement {
                group: group.get(),
                voters: voters.into_iter().map(ReplicaId::get).collect(),
                targets_given,
                ..peer::Placement::default()
            }),
            PeerMessage::Lost { group, replica } => frame.placements.push(peer::Placement {
                group: group.get(),
                lost_replica: replica.get(),
                ..peer::Placement::default()
            }),
            PeerMessage::MemberLost { replica, loss, term } => frame.placements.push(peer::Placement {
                group: GroupId::METADATA.get(),
                lost_replica: replica.get(),
                behind: matches!(loss, MemberLoss::Behind { .. }),
                first_index: if let MemberLoss::Behind { first } = loss { first.get() } else { 0 },
                term: term.get(),
                ..peer::Placement::default()
            }),
            PeerMessage::Replace { group, replica, settled_at } => frame.placements.push(peer::Placement {
                group: group.get(),
                replace_replica: replica.get(),
                only_settled: settled_at.is_some(),
                targets_given: settled_at.unwrap_or_default(),
                ..peer::Placement::default()
            }),
            PeerMessage::Damaged { group, replica, is_unsound } => frame.placements.push(peer::Placement {
                group: group.get(),
                damaged_replica: replica.get(),
                unsound: is_unsound,
                ..peer::Placement::default()
            }),
            PeerMessage::Roll { group } => {
                frame.placements.push(peer::Placement { group: group.get(), roll: true, ..peer::Placement::default() })
            }
            PeerMessage::CatchUp { group, what } => frame.catch_ups.push(encode_catch_up(group, what, &mut behind)),
            // One after another says the same.
            PeerMessage::Beat { run } => frame.beat = Some(peer::Beat { run }),
            PeerMessage::Asleep { notices } => frame.asleep.extend(notices.iter().map(|notice| peer::Asleep {
                group: notice.group.get(),
                term: notice.term.get(),
                last_index: notice.last_index.get(),
            })),
            PeerMessage::Health(health) => frame.health.push(health.to_wire()),
        }
    }
    payload.append(&mut behind);
    (frame, payload)
}

fn encode_catch_up(group: GroupId, mut what: CatchUp, payload: &mut Vec<Bytes>) -> peer::CatchUp {
    use peer::catch_up::Kind;
    let bytes = what.take_payload();
    let payload_bytes = bytes.as_ref().map(|bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    payload.extend(bytes.filter(|bytes| !bytes.is_empty()));
    let kind = match what {
        CatchUp::AskSnapshot { wanted_to } => Kind::AskSnapshot(peer::AskSnapshot { wanted_to: wanted_to.get() }),
        CatchUp::Snapshot(_) => Kind::Snapshot(peer::SnapshotBytes { payload_bytes }),
        CatchUp::AskSegment { first_index, position, bytes_max } => {
            Kind::AskSegment(peer::AskSegment { first_index: first_index.get(), position, bytes_max })
        }
        CatchUp::Segment { first_index, position, .. } => {
            Kind::Segment(peer::SegmentBytes { first_index: first_index.get(), position, payload_bytes })
        }
    };
    peer::CatchUp { group: group.get(), kind: Some(kind) }
}

fn decode_catch_up(message: peer::CatchUp, payload: &mut Bytes) -> Result<PeerMessage> {
    use peer::catch_up::Kind;
    let mut take = |bytes: Option<u32>| match bytes {
        None => Ok(None),
        Some(bytes) if bytes as usize <= payload.len() => Ok(Some(payload.split_to(bytes as usize))),
        Some(bytes) => Err(bad(format!("a replica's copy announces {bytes} bytes, there are {}", payload.len()))),
    };
    let what = match message.kind {
        Some(Kind::AskSnapshot(ask)) => CatchUp::AskSnapshot { wanted_to: LogIndex(ask.wanted_to) },
        Some(Kind::Snapshot(snapshot)) => CatchUp::Snapshot(take(snapshot.payload_bytes)?),
        Some(Kind::AskSegment(ask)) => CatchUp::AskSegment {
            first_index: LogIndex(ask.first_index),
            position: ask.position,
            bytes_max: ask.bytes_max,
        },
        Some(Kind::Segment(segment)) => CatchUp::Segment {
            first_index: LogIndex(segment.first_index),
            position: segment.position,
            bytes: take(segment.payload_bytes)?,
        },
        None => return Err(bad("a message about a replica's copy has no content".to_owned())),
    };
    Ok(PeerMessage::CatchUp { group: GroupId(message.group), what })
}

fn encode_raft(group: GroupId, mut message: eraftpb::Message, payload: &mut Vec<Bytes>) -> peer::RaftMessage {
    let entries = message
        .take_entries()
        .into_iter()
        .map(|mut entry| {
            let data = std::mem::take(&mut entry.data);
            let head = peer::EntryHead {
                term: entry.get_term(),
                index: entry.get_index(),
                kind: u32::from(kind_of(&entry, &data) as u8),
                payload_bytes: u32::try_from(data.len()).unwrap_or(u32::MAX),
            };
            if !data.is_empty() {
                payload.push(data);
            }
            head
        })
        .collect();
    peer::RaftMessage {
        group: group.get(),
        from: message.get_from(),
        to: message.get_to(),
        r#type: u32::try_from(message.get_msg_type() as i32).unwrap_or(u32::MAX),
        term: message.get_term(),
        log_term: message.get_log_term(),
        index: message.get_index(),
        entries,
        commit: message.get_commit(),
        commit_term: message.get_commit_term(),
        reject: message.get_reject(),
        reject_hint: message.get_reject_hint(),
        request_snapshot: message.get_request_snapshot(),
        priority: message.get_priority(),
        context: std::mem::take(&mut message.context),
    }
}

/// Takes a frame apart again.
///
/// # Errors
/// [`ErrorCode::BadFrame`] when its parts contradict each other; nothing of it is used then.
pub fn decode(frame: peer::RaftFrame, mut payload: Bytes) -> Result<Vec<PeerMessage>> {
    let mut messages = Vec::with_capacity(frame.messages.len() + frame.leaderships.len());
    for message in frame.messages {
        let group = GroupId(message.group);
        messages.push(PeerMessage::Raft { group, message: Box::new(decode_raft(message, &mut payload)?) });
    }
    for catch_up in frame.catch_ups {
        messages.push(decode_catch_up(catch_up, &mut payload)?);
    }
    if payload.has_remaining() {
        return Err(bad(format!("{} bytes of payload belong to no entry", payload.remaining())));
    }
    messages.extend(
        frame
            .leaderships
            .into_iter()
            .map(|lead| PeerMessage::Leadership { group: GroupId(lead.group), term: Term(lead.term) }),
    );
    messages.extend(frame.placements.into_iter().map(|placement| {
        let group = GroupId(placement.group);
        match (placement.lost_replica, placement.replace_replica, placement.damaged_replica) {
            (0, 0, 0) if placement.roll => PeerMessage::Roll { group },
            (0, 0, 0) => PeerMessage::Placed {
                group,
                voters: placement.voters.into_iter().map(ReplicaId).collect(),
                targets_given: placement.targets_given,
            },
            (0, 0, damaged) => {
                PeerMessage::Damaged { group, replica: ReplicaId(damaged), is_unsound: placement.unsound }
            }
            (0, replace, _) => PeerMessage::Replace {
                group,
                replica: ReplicaId(replace),
                settled_at: placement.only_settled.then_some(placement.targets_given),
            },
            (lost, _, _) if group == GroupId::METADATA => {
                let term = Term(placement.term);
                let behind = MemberLoss::Behind { first: LogIndex(placement.first_index) };
                let loss = if placement.behind { behind } else { MemberLoss::GivenUp { term } };
                PeerMessage::MemberLost { replica: ReplicaId(lost), loss, term }
            }
            (lost, _, _) => PeerMessage::Lost { group, replica: ReplicaId(lost) },
        }
    }));
    messages.extend(frame.beat.map(|beat| PeerMessage::Beat { run: beat.run }));
    if !frame.asleep.is_empty() {
        let notices = frame.asleep.into_iter().map(|asleep| Notice {
            group: GroupId(asleep.group),
            term: Term(asleep.term),
            last_index: LogIndex(asleep.last_index),
        });
        // Behind the messages of raft, which it must not overtake.
        messages.push(PeerMessage::Asleep { notices: notices.collect() });
    }
    messages.extend(frame.health.last().map(|health| PeerMessage::Health(Health::from_wire(health))));
    Ok(messages)
}

fn decode_raft(wire: peer::RaftMessage, payload: &mut Bytes) -> Result<eraftpb::Message> {
    use protobuf::ProtobufEnum as _;
    let kind = i32::try_from(wire.r#type).ok().and_then(eraftpb::MessageType::from_i32);
    let kind = kind.ok_or_else(|| bad(format!("raft message type {} is unknown", wire.r#type)))?;
    // Who needs more than entries copies it before raft knows (`node/copying.rs`).
    if kind == eraftpb::MessageType::MsgSnapshot || raft::raw_node::is_local_msg(kind) {
        return Err(bad(format!("raft message {kind:?} does not come from a peer")));
    }
    for number in [wire.term, wire.log_term, wire.index, wire.commit, wire.commit_term, wire.reject_hint] {
        if number > NUMBER_MAX {
            return Err(bad(format!("{number} is neither an index nor a term")));
        }
    }
    let mut message = eraftpb::Message::default();
    message.set_msg_type(kind);
    message.set_from(wire.from);
    message.set_to(wire.to);
    message.set_term(wire.term);
    message.set_log_term(wire.log_term);
    message.set_index(wire.index);
    message.set_commit(wire.commit);
    message.set_commit_term(wire.commit_term);
    message.set_reject(wire.reject);
    message.set_reject_hint(wire.reject_hint);
    message.set_request_snapshot(wire.request_snapshot);
    message.set_priority(wire.priority);
    message.context = wire.context;
    let mut entries = Vec::with_capacity(wire.entries.len());
    for (index, head) in (wire.index + 1..).zip(wire.entries) {
        let bytes = head.payload_bytes as usize;
        if bytes > payload.len() || bytes > ENTRY_BYTES_MAX {
            return Err(bad(format!("entry {} announces {bytes} bytes, there are {}", head.index, payload.len())));
        }
        if head.index != index {
            return Err(bad(format!("entry {} stands where {index} belongs", head.index)));
        }
        let kind = u8::try_from(head.kind).ok().and_then(EntryKind::from_u8);
        let kind = kind.ok_or_else(|| bad(format!("entry kind {} is unknown", head.kind)))?;
        entries.push(raft_entry(head.index, head.term, kind, payload.split_to(bytes)));
    }
    message.set_entries(entries.into());
    Ok(message)
}

fn bad(why: String) -> Error {
    Error::new(ErrorCode::BadFrame, format!("a frame of raft messages is malformed: {why}"))
}

/// An entry as raft has it. Raft knows no kinds beyond its own; ours rides in the entry's context.
#[must_use]
pub fn raft_entry(index: u64, term: u64, kind: EntryKind, data: Bytes) -> eraftpb::Entry {
    let mut entry = eraftpb::Entry::default();
    entry.set_index(index);
    entry.set_term(term);
    entry.data = data;
    match kind {
        EntryKind::ConfChange => entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2),
        EntryKind::Command => entry.context = Bytes::from_static(&[EntryKind::Command as u8]),
        EntryKind::Empty | EntryKind::Batches => {}
    }
    entry
}

/// The kind of an entry that raft has.
#[must_use]
pub fn kind_of(entry: &eraftpb::Entry, data: &[u8]) -> EntryKind {
    if entry.get_entry_type() != eraftpb::EntryType::EntryNormal {
        EntryKind::ConfChange
    } else if !entry.context.is_empty() {
        EntryKind::Command
    } else if data.is_empty() {
        EntryKind::Empty
    } else {
        EntryKind::Batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> PeerMessage {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgAppend);
        message.set_from(1);
        message.set_to(2);
        message.set_term(5);
        message.set_index(10);
        message.set_log_term(4);
        message.set_commit(9);
        message.context = Bytes::from_static(b"ctx");
        message.set_entries(
            vec![
                raft_entry(11, 5, EntryKind::Empty, Bytes::new()),
                raft_entry(12, 5, EntryKind::Batches, Bytes::from_static(b"batches")),
                raft_entry(13, 5, EntryKind::Command, Bytes::from_static(b"command")),
                raft_entry(14, 5, EntryKind::ConfChange, Bytes::from_static(b"change")),
            ]
            .into(),
        );
        PeerMessage::Raft { group: GroupId(3), message: Box::new(message) }
    }

    fn whole(payload: Vec<Bytes>) -> Bytes {
        Bytes::from(payload.concat())
    }

    #[test]
    fn messages_survive_the_wire() {
        let group = GroupId(4);
        let segment = |bytes: Option<&'static [u8]>| CatchUp::Segment {
            first_index: LogIndex(7),
            position: 64,
            bytes: bytes.map(Bytes::from_static),
        };
        let copies = [
            CatchUp::AskSnapshot { wanted_to: LogIndex(0) },
            CatchUp::AskSnapshot { wanted_to: LogIndex(70) },
            CatchUp::Snapshot(Some(Bytes::from_static(b"snapshot"))),
            CatchUp::Snapshot(None),
            CatchUp::AskSegment { first_index: LogIndex(7), position: 64, bytes_max: 1000 },
            segment(Some(b"segment")),
            segment(Some(b"")),
            segment(None),
        ];
        let mut messages = vec![append()];
        messages.push(PeerMessage::Roll { group });
        messages.extend(copies.map(|what| PeerMessage::CatchUp { group, what }));
        messages.push(PeerMessage::Leadership { group, term: Term(9) });
        messages.push(PeerMessage::Placed { group, voters: vec![ReplicaId(1), ReplicaId(5)], targets_given: 2 });
        messages.push(PeerMessage::Lost { group, replica: ReplicaId(5) });
        for loss in [MemberLoss::Behind { first: LogIndex(9) }, MemberLoss::GivenUp { term: Term(8) }] {
            messages.push(PeerMessage::MemberLost { replica: ReplicaId(5), loss, term: Term(8) });
        }
        for settled_at in [None, Some(0), Some(3)] {
            messages.push(PeerMessage::Replace { group, replica: ReplicaId(6), settled_at });
        }
        for is_unsound in [false, true] {
            messages.push(PeerMessage::Damaged { group, replica: ReplicaId(7), is_unsound });
        }
        let mixed: Vec<PeerMessage> = messages.iter().rev().cloned().collect();
        let (frame, payload) = encode(mixed);
        let mut decoded = decode(frame, whole(payload)).unwrap();
        for message in messages {
            let at = decoded.iter().position(|other| *other == message).expect("it arrived");
            decoded.remove(at);
        }
        assert!(decoded.is_empty(), "{decoded:?}");
    }

    #[test]
    fn contradictions_are_refused() {
        let (frame, payload) = encode(vec![append()]);
        let payload = whole(payload);
        assert!(decode(frame.clone(), payload.slice(1..)).is_err(), "too little payload");
        assert!(decode(frame.clone(), Bytes::from([&payload[..], b"x"].concat())).is_err(), "too much payload");
        for spoil in [
            |m: &mut peer::RaftMessage| m.r#type = 77,
            |m: &mut peer::RaftMessage| m.r#type = eraftpb::MessageType::MsgSnapshot as u32,
            |m: &mut peer::RaftMessage| m.r#type = eraftpb::MessageType::MsgHup as u32,
            |m: &mut peer::RaftMessage| m.index = u64::MAX,
            |m: &mut peer::RaftMessage| m.term = u64::MAX,
            |m: &mut peer::RaftMessage| m.reject_hint = u64::MAX,
            |m: &mut peer::RaftMessage| m.entries[1].kind = 200,
            |m: &mut peer::RaftMessage| m.entries[1].index = 99,
            |m: &mut peer::RaftMessage| m.entries[1].payload_bytes = u32::MAX,
        ] {
            let mut frame = frame.clone();
            spoil(&mut frame.messages[0]);
            assert_eq!(decode(frame, payload.clone()).unwrap_err().code, ErrorCode::BadFrame);
        }
    }
}
