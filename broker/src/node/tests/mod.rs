//! Three node cores over simulated disks, with a network and a disk that answer at once: the shortest proof that the
//! parts fit. The simulator does the same with time, faults and many seeds.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, BatchProducer, NewRecord, RowsBuilder},
    ids::{Offset, ProducerEpoch, ProducerId, Term},
    source::NewTopic,
};
use levada_storage_engine::{
    disk::{DiskOp, FileName},
    entry::EntryKind,
};

mod coordinating;
mod full;
mod hibernation;
mod keeping;
mod membership;
mod mending;
mod reclaiming;
mod recovery;
mod regaining;
mod scripts;
mod shortening;
mod slow;
mod turns;
mod world;

use self::world::*;
use super::*;
use crate::{
    cluster::feature::LEVEL_MAX,
    node::{
        event::{Answer, Settings, Stage},
        sleeping::SleepTotals,
    },
    raft::{membership::Membership, wire},
};

fn batch(values: &[&str], sequence: i32) -> Bytes {
    batch_of(7, values, sequence)
}

fn batch_of(producer: i64, values: &[&str], sequence: i32) -> Bytes {
    let mut builder = RowsBuilder::new();
    for value in values {
        builder
            .push(&NewRecord { timestamp_ms: 1_700_000_000_000, value: Some(value.as_bytes()), ..NewRecord::default() })
            .unwrap();
    }
    let producer = BatchProducer { id: ProducerId(producer), epoch: ProducerEpoch(0), base_sequence: sequence };
    builder.finish(Attributes::default(), producer).unwrap()
}

fn appended(base_offset: u64, duplicate: bool) -> Result<Answer, Error> {
    Ok(Answer::Appended(levada_protocol::source::Appended { base_offset: Offset(base_offset), duplicate }))
}

#[test]
fn records_are_replicated_and_survive_the_loss_of_their_leader() {
    let mut world = World::new(3);
    let place = world.create_topic(3, &[])[1];
    assert_eq!(world.produce(place, batch(&["a", "b"], 0)), appended(0, false));
    assert_eq!(world.produce(place, batch(&["c"], 2)), appended(2, false));
    assert_eq!(world.produce(place, batch(&["c"], 2)), appended(2, true));
    assert_eq!(world.produce(place, batch(&["e"], 9)).unwrap_err().code, ErrorCode::OutOfOrderSequence);

    let first = world.leader(place).unwrap();
    world.crash(first);
    world.until(|world| world.leader(place).is_some());
    assert_eq!(world.produce(place, batch(&["c"], 2)), appended(2, true), "the new leader knows the producer");
    assert_eq!(world.produce(place, batch(&["d"], 3)), appended(3, false));

    world.restart(first);
    world.until(|world| world.values(first, place).len() == 4);
    for node in (1..=3).map(NodeId) {
        assert_eq!(world.values(node, place), ["a", "b", "c", "d"], "node {node}");
    }
}

#[test]
fn nothing_is_acknowledged_or_shown_without_a_quorum() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let leader = world.leader(place).unwrap();
    world.cut = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    let id = world.send(leader, Request::Produce { partition: place, batch: batch(&["x"], 0) });
    for _ in 0..5 {
        world.step();
    }
    assert!(!world.replies.contains_key(&id));
    assert_eq!(world.values(leader, place), Vec::<String>::new());
    // The leader gives up without its quorum, and says that it does not know.
    world.until(|world| world.replies.contains_key(&id));
    assert_eq!(world.replies[&id].as_ref().unwrap_err().code, ErrorCode::OutcomeUnknown);
    let read = world.ask(leader, Request::Bounds { partition: place });
    assert_eq!(read.unwrap_err().code, ErrorCode::NotLeader);
}

#[test]
fn all_nodes_at_once_lose_power_and_nothing_is_lost() {
    let mut world = World::new(3);
    let places = world.create_topic(2, &[("segment.bytes", "1048576")]);
    let value = "v".repeat(100_000);
    for sequence in 0..30 {
        for place in &places {
            let expected = u64::try_from(sequence).unwrap();
            assert_eq!(world.produce(*place, batch(&[&value], sequence)), appended(expected, false));
            world.step();
        }
    }
    let segments = world.nodes[&NodeId(1)].view.partition(places[0]).unwrap().log.segments().len();
    assert!(segments > 1, "segments roll: {segments}");
    for node in (1..=3).map(NodeId) {
        world.crash(node);
        world.restart(node);
    }
    for place in places {
        world.until(|world| world.leader(place).is_some());
        assert_eq!(world.produce(place, batch(&[&value], 29)), appended(29, true));
        let leader = world.leader(place).unwrap();
        let Answer::Bounds(bounds) = world.ask(leader, Request::Bounds { partition: place }).unwrap() else { panic!() };
        assert_eq!(bounds.high_watermark, Offset(30));
        assert_eq!(world.values(leader, place).len(), 30);
    }
}

#[test]
fn a_node_that_goes_down_hands_over_what_it_leads() {
    let mut world = World::new(3);
    let places = world.create_topic(6, &[]);
    let going = world.leader(places[0]).unwrap();
    world.events.push_back((going, Event::Shutdown));
    world.until(|world| !world.nodes.contains_key(&going));
    assert!(places.iter().all(|place| world.leader(*place).is_some()), "others lead before it is gone");
    assert!(world.controller().is_some_and(|controller| controller != going));
}

#[test]
fn a_topic_that_is_deleted_takes_its_partitions_along() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.ask_controller(Request::DeleteTopic { name: "orders".into(), id: None }).unwrap();
    world.until(|world| world.nodes.values().all(|node| node.view.partition(place).is_none()));
    let again = world.create_topic(1, &[])[0];
    assert_ne!(place, again);
    assert_eq!(world.produce(again, batch(&["b"], 0)), appended(0, false));
    let gone = world.ask(NodeId(1), Request::Produce { partition: place, batch: batch(&["x"], 1) });
    assert_eq!(gone.unwrap_err().code, ErrorCode::UnknownTopic);
}

/// The news of a new term and the question arrive in one round.
#[test]
fn a_read_is_not_passed_on_by_a_leader_that_was_just_deposed() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let leader = world.leader(place).unwrap();
    let group = &world.nodes[&leader].partitions.values().next().unwrap().group;
    let (own, other) = group.replicas().iter().partition::<Vec<_>, _>(|(_, node)| **node == leader);
    let mut news = raft::eraftpb::Message::default();
    news.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    news.set_from(other[0].0.get());
    news.set_to(own[0].0.get());
    news.set_term(group.term().get() + 1);
    let message = PeerMessage::Raft { group: group.id(), message: Box::new(news) };
    world.events.push_back((leader, Event::Peer { from: *other[0].1, message }));
    let id = world.send(leader, Request::Bounds { partition: place });
    world.settle();
    assert_eq!(world.replies[&id].as_ref().unwrap_err().code, ErrorCode::NotLeader);
}

/// It may be deposed without having heard of it, and judge by an old log.
#[test]
fn a_leader_refuses_a_sequence_only_with_its_quorum() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    let leader = world.leader(place).unwrap();
    world.cut = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    let id = world.send(leader, Request::Produce { partition: place, batch: batch(&["x"], 9) });
    for _ in 0..5 {
        world.step();
    }
    assert!(!world.replies.contains_key(&id));
    world.until(|world| world.replies.contains_key(&id));
    assert_eq!(world.replies[&id].as_ref().unwrap_err().code, ErrorCode::NotLeader);
}

/// Of a replica whose journal is damaged, nobody knows what it had promised. It takes no part any more; with a leader to say
/// that the others have everything, another replica takes its place, which copies what they have.
#[test]
fn a_damaged_replica_is_replaced_by_another() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["the one that will be lost"], 0)).unwrap();
    world.produce(place, batch(&["another"], 1)).unwrap();
    for _ in 0..40 {
        world.step();
    }
    let leader = world.leader(place).unwrap();
    let damaged = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
    let other = (1..=3).map(NodeId).find(|node| *node != leader && *node != damaged).unwrap();
    let group = world.nodes[&damaged].places[&place];
    let replica = world.nodes[&damaged].partitions[&group].group.replica();
    world.crash(damaged);
    damage_journal(&world.disks[&damaged], b"will be lost");
    world.restart(damaged);
    assert!(world.nodes[&damaged].store.log(group).is_some(), "something of it was recovered");

    // Without a quorum nobody can say that the others have what it has lost: it stays out, and what it has stays.
    world.cut = [other].into();
    for _ in 0..200 {
        world.step();
        assert!(!world.nodes[&damaged].partitions.contains_key(&group), "it came back to life");
        assert!(world.nodes[&damaged].store.log(group).is_some(), "it was removed");
    }
    world.cut.clear();
    world.until(|world| world.values(damaged, place).len() == 2);
    let renewed = world.nodes[&damaged].partitions[&group].group.replica();
    assert!(renewed > replica, "{renewed} is another than {replica}");
    world.until(|world| {
        let leader = world.leader(place).unwrap();
        let conf = world.nodes[&leader].partitions[&group].group.conf().clone();
        conf.voters.contains(&renewed) && conf.everybody().len() == 3 && !conf.is_joint()
    });
    assert!(!world.nodes[&damaged].store.doubts(group));
    // It counts: with one of the others gone it makes the quorum, and it goes on after a restart.
    world.crash(other);
    world.produce(place, batch(&["more"], 2)).unwrap();
    world.crash(damaged);
    world.restart(damaged);
    world.until(|world| world.values(damaged, place).len() == 3);
    assert_eq!(world.nodes[&damaged].partitions[&group].group.replica(), renewed);
}

/// Its creation is lost along with all else: it must not begin anew, and vote for a second time in a term.
#[test]
fn a_group_that_is_lost_as_a_whole_does_not_begin_anew() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    for _ in 0..40 {
        world.step();
    }
    let group = world.nodes[&NodeId(1)].places[&place];
    let replica = world.nodes[&NodeId(1)].partitions[&group].group.replica();
    world.crash(NodeId(1));
    damage_journal(&world.disks[&NodeId(1)], &place.topic.to_bytes());
    world.restart(NodeId(1));
    assert!(world.nodes[&NodeId(1)].store.log(group).is_none(), "nothing of it was recovered");
    for _ in 0..200 {
        world.step();
        let open = world.nodes[&NodeId(1)].partitions.get(&group);
        assert!(open.is_none_or(|open| open.group.replica() > replica), "it began anew");
    }
    assert_eq!(world.values(NodeId(1), place), ["a"], "another took its place");
    assert!(world.nodes[&NodeId(1)].lost.is_empty() && !world.nodes[&NodeId(1)].store.doubts(group));
    let renewed = world.nodes[&NodeId(1)].partitions[&group].group.replica();
    world.nodes.get_mut(&NodeId(1)).unwrap().begin_checkpoint();
    (0..10).for_each(|_| world.step());
    world.crash(NodeId(1));
    world.restart(NodeId(1));
    assert_eq!(world.nodes[&NodeId(1)].partitions[&group].group.replica(), renewed, "for good");
}

/// The node stays who it is: the controller gives it another replica of the metadata, and the rest follows from that.
#[test]
fn a_node_that_lost_metadata_gets_another_replica_of_it() {
    for damage in [damage_journal, damage_header] {
        let mut world = World::new(3);
        let place = world.create_topic(1, &[])[0];
        world.produce(place, batch(&["a"], 0)).unwrap();
        for _ in 0..40 {
            world.step();
        }
        let controller = world.controller().unwrap();
        let damaged = (1..=3).map(NodeId).find(|node| *node != controller).unwrap();
        let group = world.nodes[&damaged].places[&place];
        world.crash(damaged);
        damage(&world.disks[&damaged], b"orders");
        let disk = Arc::clone(&world.disks[&damaged]);
        let lost = ReplicaId(damaged.get());
        let opened = Node::open(disk.clone(), config(damaged, 3));
        assert!(matches!(opened, Err(NodeOpenError::MetadataDamaged { replica, .. }) if replica == lost));
        world.produce(place, batch(&["b"], 1)).unwrap();

        let incarnation = config(damaged, 3).incarnation;
        let renew = Request::RenewMember { node: damaged, incarnation, lost };
        // The first answer gets lost: there is no third replica.
        let given = [renew.clone(), renew].map(|renew| {
            let answer = world.ask_controller(renew).unwrap();
            let Answer::Joined(state) = answer else { panic!("{answer:?}") };
            (Membership::decode(&state.conf_state).unwrap().unwrap().replica, *state)
        });
        assert_eq!(given[0].0, given[1].0);
        let [_, (_, state)] = given;
        Node::renew_metadata(disk, &config(damaged, 3), state).unwrap();
        world.restart(damaged);
        let renewed = world.nodes[&damaged].controller.group.replica();
        assert!(renewed > lost, "{renewed}");
        world.until(|world| {
            let conf = world.nodes[&world.controller().unwrap()].controller.group.conf().clone();
            conf.voters.contains(&renewed) && conf.everybody().len() == 3 && !conf.is_joint()
        });
        world.until(|world| world.values(damaged, place) == ["a", "b"]);
        world.until(|world| world.nodes.values().all(Node::is_settled));
        assert!(!world.nodes[&damaged].store.doubts(group) && !world.nodes[&damaged].store.doubts(GroupId::METADATA));
        // It counts, before a restart and after it.
        let other = (1..=3).map(NodeId).find(|node| *node != controller && *node != damaged).unwrap();
        world.crash(other);
        world.until(|world| world.controller().is_some());
        world.ask_controller(Request::InitProducer).unwrap();
        world.crash(damaged);
        world.restart(damaged);
        world.until(|world| world.controller().is_some() && world.leader(place).is_some());
        world.produce(place, batch(&["c"], 2)).unwrap();
        world.until(|world| world.values(damaged, place) == ["a", "b", "c"]);
        assert_eq!(world.nodes[&damaged].controller.group.replica(), renewed);
    }
}

/// Its journal could not be read, and then it could: by that time the cluster had given it another replica.
#[test]
fn a_node_that_was_given_another_replica_ends_and_finds_it_at_its_next_start() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    let controller = world.controller().unwrap();
    let renewed = (1..=3).map(NodeId).find(|node| *node != controller).unwrap();
    let (lost, incarnation) = (ReplicaId(renewed.get()), config(renewed, 3).incarnation);
    world.may_end.insert(renewed);
    let renew = Request::RenewMember { node: renewed, incarnation, lost };
    world.ask_controller(renew).unwrap();
    world.until(|world| !world.nodes.contains_key(&renewed));
    let opened = Node::open(world.disks[&renewed].clone(), config(renewed, 3));
    assert!(matches!(opened, Err(NodeOpenError::MetadataDamaged { replica, .. }) if replica == lost), "for good");
    assert_eq!(world.renew(renewed), lost);
    world.produce(place, batch(&["a"], 0)).unwrap();
    world.until(|world| world.values(renewed, place) == ["a"] && world.nodes.values().all(Node::is_settled));
    assert!(world.nodes[&renewed].controller.group.replica() > lost);
}

#[test]
fn nobody_gets_a_replica_of_the_metadata_that_is_not_the_node_it_says() {
    let mut world = World::new(3);
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() == LEVEL_MAX));
    let renew = |node: u64, incarnation: u64| Request::RenewMember {
        node: NodeId(node),
        incarnation: config(NodeId(incarnation), 3).incarnation,
        lost: ReplicaId(node),
    };
    let refused = |world: &mut World, request| world.ask_controller(request).unwrap_err().code;
    assert_eq!(refused(&mut world, renew(2, 3)), ErrorCode::WrongIncarnation);
    assert_eq!(refused(&mut world, renew(9, 9)), ErrorCode::UnknownNode);
}

#[test]
fn a_topic_waits_for_the_nodes_that_its_replicas_need() {
    let mut world = World::founded(3);
    world.register(NodeId(1), 3);
    let new = |replicas| NewTopic {
        name: "orders".into(),
        partitions: 1,
        replicas,
        config: BTreeMap::new(),
        schema_json: None,
    };
    for (replicas, code) in [(0, ErrorCode::NotReady), (3, ErrorCode::NotReady), (4, ErrorCode::NotEnoughNodes)] {
        let refused = world.ask_controller(Request::CreateTopic { new: new(replicas), dry_run: false, id: None });
        assert_eq!(refused.unwrap_err().code, code, "{replicas} replicas");
    }
    world.ask_controller(Request::CreateTopic { new: new(1), dry_run: true, id: None }).unwrap();
    world.register(NodeId(2), 3);
    world.register(NodeId(3), 3);
    let created = world.ask_controller(Request::CreateTopic { new: new(0), dry_run: false, id: None });
    let Answer::Topic(topic) = created.unwrap() else { panic!() };
    assert_eq!(topic.partitions[0].replicas.len(), 3);
    let (id, new) = (
        levada_protocol::ids::TopicId::of_request(uuid::Uuid::from_u128(7), "mine"),
        NewTopic { name: "mine".into(), ..new(1) },
    );
    let created = world.ask_controller(Request::CreateTopic { new, dry_run: false, id: Some(id) });
    let Answer::Topic(topic) = created.unwrap() else { panic!() };
    assert_eq!(topic.id, id, "whoever asked for it knows it again");
}

#[test]
fn leadership_stays_where_an_operator_put_it_until_it_is_lost() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    let preferred = world.leader(place).unwrap();
    let group = world.nodes[&preferred].places[&place];
    let other = (1..=3).map(NodeId).find(|node| *node != preferred).unwrap();
    assert_eq!(world.ask(preferred, Request::TransferLeader { group, to: other }), Ok(Answer::Done));
    world.until(|world| world.leader(place) == Some(other));
    for _ in 0..210 {
        world.step();
        assert!(world.leader(place).is_none_or(|leader| leader == other), "it was taken back");
    }
    world.crash(other);
    world.until(|world| world.leader(place) == Some(preferred));
}

#[test]
fn a_node_that_goes_down_answers_what_it_has_taken() {
    for nodes in [1, 3] {
        let mut world = World::new(nodes);
        let place = world.create_topic(1, &[])[0];
        let going = world.leader(place).unwrap();
        let id = world.send(going, Request::Produce { partition: place, batch: batch(&["a"], 0) });
        world.round();
        assert!(!world.replies.contains_key(&id), "it is on its way to the disk");
        world.events.push_front((going, Event::Shutdown));
        world.until(|world| !world.nodes.contains_key(&going));
        assert_eq!(world.replies.get(&id), Some(&appended(0, false)), "{nodes} nodes");
    }
}

/// Each of these made raft, or the state machine behind it, end the process.
#[test]
fn no_message_of_a_peer_ends_the_process() {
    use raft::eraftpb::MessageType;

    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    for sequence in 0..3 {
        world.produce(place, batch(&["a"], sequence)).unwrap();
    }
    let leader = world.leader(place).unwrap();
    let follower = (1..=3).map(NodeId).find(|node| *node != leader).unwrap();
    world.until(|world| world.values(follower, place).len() == 3);
    let raft = &world.nodes[&follower].partitions.values().next().unwrap().group;
    let (group, term, last) = (raft.id(), raft.term().get(), raft.last_index());
    let replica = |at: NodeId| raft.replicas().iter().find(|(_, node)| **node == at).unwrap().0.get();
    let (from, to) = (replica(leader), replica(follower));
    let message = |kind: MessageType, entry: Option<(EntryKind, &[u8])>| {
        let mut message = raft::eraftpb::Message::default();
        message.set_msg_type(kind);
        message.set_from(from);
        message.set_to(to);
        message.set_term(term);
        message.set_index(last.get());
        message.set_log_term(term);
        let entry =
            entry.map(|(kind, data)| wire::raft_entry(last.next().get(), term, kind, Bytes::copy_from_slice(data)));
        message.set_entries(entry.into_iter().collect::<Vec<_>>().into());
        message
    };
    let mut messages = vec![
        message(MessageType::MsgReadIndex, None),
        message(MessageType::MsgAppend, Some((EntryKind::Batches, b"no batches"))),
        message(MessageType::MsgAppend, Some((EntryKind::Batches, &batch(&["offset 0 again"], 0)))),
        message(MessageType::MsgAppend, Some((EntryKind::Command, b"no command"))),
        message(MessageType::MsgAppend, Some((EntryKind::Command, b""))),
        message(MessageType::MsgAppend, Some((EntryKind::ConfChange, b"no change"))),
    ];
    let heartbeat = message(MessageType::MsgHeartbeat, None);
    let append = message(MessageType::MsgAppend, Some((EntryKind::Empty, b"")));
    for spoil in [
        |m: &mut raft::eraftpb::Message| m.set_commit(1000),
        |m: &mut raft::eraftpb::Message| m.set_from(m.get_to()),
        |m: &mut raft::eraftpb::Message| m.set_from(99),
    ] {
        let mut spoiled = heartbeat.clone();
        spoil(&mut spoiled);
        messages.push(spoiled);
    }
    for spoil in [
        |m: &mut raft::eraftpb::Message| m.mut_entries()[0].set_index(1000),
        |m: &mut raft::eraftpb::Message| m.mut_entries()[0].set_term(1000),
        |m: &mut raft::eraftpb::Message| m.mut_entries()[0].set_term(0),
        |m: &mut raft::eraftpb::Message| {
            m.set_index(1000);
            m.set_log_term(0);
            m.mut_entries()[0].set_index(1001);
        },
    ] {
        let mut spoiled = append.clone();
        spoil(&mut spoiled);
        messages.push(spoiled);
    }
    for mut message in messages {
        // What it appends is committed at once, and so would be applied.
        if !message.get_entries().is_empty() {
            message.set_commit(last.next().get());
        }
        let message = PeerMessage::Raft { group, message: Box::new(message) };
        world.events.push_back((follower, Event::Peer { from: leader, message }));
        world.settle();
        assert_eq!(world.nodes[&follower].partitions[&group].group.last_index(), last);
    }
    let response = |at: NodeId| {
        let mut response = message(MessageType::MsgAppendResponse, None);
        response.set_index(1000);
        response.set_from(to);
        response.set_to(from);
        (leader, Event::Peer { from: at, message: PeerMessage::Raft { group, message: Box::new(response) } })
    };
    let responses = [response(follower), response(NodeId(7))];
    world.events.extend(responses);
    assert_eq!(world.produce(place, batch(&["b"], 3)), appended(3, false));
    world.until(|world| world.values(follower, place).len() == 4);
}

/// By its own time the record is ancient, and its segment is never full.
#[test]
fn a_record_goes_when_it_was_there_for_its_time_and_not_before() {
    const RETENTION_MS: i64 = 3_600_000;
    let mut world = World::new(3);
    world.now.wall_ms = 1_800_000_000_000;
    let place = world.create_topic(1, &[("retention.ms", "3600000")])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    let leader = world.leader(place).unwrap();
    let mut segments_after = |wait_ms: i64| {
        world.now.wall_ms += wait_ms;
        for _ in 0..420 {
            world.step();
        }
        let log = &world.nodes[&leader].view.partition(place).unwrap().log;
        (log.log_start(), log.segments().iter().filter(|segment| segment.sealed).count())
    };
    assert_eq!(segments_after(0), (Offset(0), 0));
    assert_eq!(segments_after(RETENTION_MS), (Offset(0), 1), "the segment is old, but not how long its end is ago");
    assert_eq!(segments_after(RETENTION_MS), (Offset(1), 0));
    assert_eq!(segments_after(RETENTION_MS), (Offset(1), 0), "a segment without records stays");
    for node in (1..=3).map(NodeId) {
        assert_eq!(world.nodes[&node].view.partition(place).unwrap().log.log_start(), Offset(1));
    }
}

/// Raft would end the process at any error but one.
#[test]
fn a_leader_whose_segment_is_damaged_lets_another_lead() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["a"], 0)).unwrap();
    let damaged = world.leader(place).unwrap();
    let behind = (1..=3).map(NodeId).find(|node| *node != damaged).unwrap();
    world.until(|world| world.values(behind, place).len() == 1);
    world.cut = BTreeSet::from([behind]);
    world.produce(place, batch(&["the damaged one"], 1)).unwrap();
    world.step();
    world.nodes.get_mut(&damaged).unwrap().begin_checkpoint();
    for _ in 0..5 {
        world.step();
    }
    world.crash(damaged);
    damage(&world.disks[&damaged], "segments", b"the damaged one");
    world.restart(damaged);
    world.until(|world| world.leader(place) == Some(damaged));
    world.produce(place, batch(&["c"], 2)).unwrap();

    world.cut.clear();
    world.until(|world| world.values(behind, place).len() == 3);
    let sound = world.leader(place).unwrap();
    assert!(sound != damaged && sound != behind);
    for _ in 0..210 {
        world.step();
        assert_eq!(world.leader(place), Some(sound), "it does not go back");
    }
}

/// A produce that is followed is told of twice, in order, and then forgotten; others are not told of.
#[test]
fn a_followed_produce_says_how_far_it_has_come() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.produce(place, batch(&["unfollowed"], 0)).unwrap();
    assert_eq!(world.reached, []);
    let leader = world.leader(place).unwrap();
    let id = RequestId(world.next_request);
    world.events.push_back((leader, Event::Follow { id }));
    world.produce(place, batch(&["followed"], 1)).unwrap();
    // Entry 1 began the leader's term.
    let proposed = Stage::Proposed { index: LogIndex(3) };
    assert_eq!(world.reached, [(id, proposed), (id, Stage::Durable)]);
    world.produce(place, batch(&["after it"], 2)).unwrap();
    assert_eq!(world.reached.len(), 2);
    // One that is refused before it is proposed is not kept for ever.
    let id = RequestId(world.next_request);
    world.events.push_back((leader, Event::Follow { id }));
    world.produce(place, batch(&["out of order"], 7)).unwrap_err();
    assert_eq!(world.nodes[&leader].followed.len(), 1);
    (0..1_300).for_each(|_| world.step());
    assert_eq!((world.nodes[&leader].followed.len(), world.reached.len()), (0, 2));
}
