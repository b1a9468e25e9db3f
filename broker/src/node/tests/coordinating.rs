//! Coordinators on three nodes: what they said holds, whoever leads, and from where a node starts again.

use std::collections::BTreeMap;

use levada_groups::{
    command::{Answer as Told, Beat, Command, Heartbeat, Position},
    coordinator_of,
    limits::COORDINATORS,
    state::MemberId,
};
use levada_protocol::{ids::PartitionId, messages::metadata::PartitionState, source::NewTopic};
use prost::Message as _;

use super::{super::*, batch, world::World};
use crate::{
    node::event::{GroupAnswer, GroupAsk},
    partition::coordinating::{GROUPS_TOPIC, GROUPS_TOPIC_ID},
};

fn coordinators(world: &mut World) -> TopicPartition {
    world.until(|world| world.nodes.values().all(|node| node.controller.current().feature_level() >= 5));
    let new = NewTopic {
        name: GROUPS_TOPIC.into(),
        partitions: COORDINATORS,
        replicas: 3,
        config: BTreeMap::from([("segment.bytes".to_owned(), "1048576".to_owned())]),
        schema_json: None,
    };
    let made = world.ask_controller(Request::CreateTopic { new, dry_run: false, id: Some(*GROUPS_TOPIC_ID) }).unwrap();
    let Answer::Topic(topic) = made else { panic!("{made:?}") };
    let place = TopicPartition { topic: topic.id, partition: PartitionId(coordinator_of("g")) };
    world.until(|world| world.leader(place).is_some());
    place
}

fn ask(world: &mut World, place: TopicPartition, ask: GroupAsk) -> Result<GroupAnswer, Error> {
    world.until(|world| world.leader(place).is_some());
    let at = world.leader(place).unwrap();
    match world.ask(at, Request::Group { partition: place.partition, ask })? {
        Answer::Group(answer) => Ok(*answer),
        other => panic!("{other:?}"),
    }
}

fn beat(world: &mut World, place: TopicPartition, member: &str, (epoch, seen): (u64, u64)) -> Result<Beat, Error> {
    let heartbeat = Heartbeat {
        group: "g".into(),
        member: MemberId::new(member),
        epoch,
        seen,
        instance: None,
        client: String::new(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 0,
        topics: (epoch == 0).then(|| ["orders".to_owned()].into()),
        wish: 0,
        assignor: None,
    };
    match ask(world, place, GroupAsk::Change(Command::Heartbeat(heartbeat)))? {
        GroupAnswer::Told(Told::Beat(beat)) => Ok(beat),
        other => panic!("{other:?}"),
    }
}

fn commit(world: &mut World, place: TopicPartition, (member, epoch): (&str, u64), at: TopicPartition, offset: u64) {
    let position = Position { offset, leader_epoch: None, metadata: String::new() };
    let member = Some((MemberId::new(member), epoch));
    let commit = Command::Commit { group: "g".into(), member, offsets: [(at, position)].into() };
    ask(world, place, GroupAsk::Change(commit)).unwrap();
}

fn shown(world: &mut World, place: TopicPartition) -> Arc<levada_groups::state::Group> {
    match ask(world, place, GroupAsk::Show { group: "g".into() }).unwrap() {
        GroupAnswer::Shown(group) => group,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_goes_on_under_another_coordinator() {
    let mut world = World::new(3);
    let place = coordinators(&mut world);
    let orders = world.create_topic(2, &[]);
    let first = beat(&mut world, place, "m1", (0, 0)).unwrap();
    assert_eq!(first.assignment.unwrap().len(), 2);
    commit(&mut world, place, ("m1", first.epoch), orders[0], 5);
    let before = shown(&mut world, place);

    let led = world.leader(place).unwrap();
    world.crash(led);
    world.until(|world| world.leader(place).is_some_and(|leader| leader != led));
    assert_eq!(shown(&mut world, place), before, "the next one knows all of it");
    let again = beat(&mut world, place, "m1", (first.epoch, first.version)).unwrap();
    assert_eq!((again.epoch, again.assignment), (first.epoch, None), "its member goes on");
    commit(&mut world, place, ("m1", again.epoch), orders[0], 6);

    // Every node starts again, from its checkpoint and journal.
    world.restart(led);
    for id in [1, 2, 3].map(NodeId) {
        world.crash(id);
        world.restart(id);
    }
    assert_eq!(shown(&mut world, place).offsets[&orders[0]].offset, 6);
    assert_eq!(beat(&mut world, place, "m1", (first.epoch, first.version)).unwrap().epoch, first.epoch);

    // Nobody is fenced before a whole session under the new leader, and then is, with nobody asking.
    world.until(|world| {
        let node = &world.nodes[&world.leader(place).unwrap()];
        let partition = &node.partitions[&node.places[&place]];
        let state = PartitionState::decode(partition.encode()).unwrap();
        let groups = levada_groups::wire::decode_state(state.groups).unwrap();
        groups.group("g").unwrap().members.is_empty()
    });
    let fenced = beat(&mut world, place, "m1", (first.epoch, first.version)).unwrap_err();
    assert_eq!(fenced.code, ErrorCode::MemberFenced);
    assert_eq!(shown(&mut world, place).offsets[&orders[0]].offset, 6, "what it committed stays");
}

#[test]
fn a_checkpoint_and_a_copy_have_the_groups() {
    let mut world = World::new(3);
    let place = coordinators(&mut world);
    let orders = world.create_topic(1, &[]);
    let first = beat(&mut world, place, "m1", (0, 0)).unwrap();
    // More than the journal holds between two checkpoints, and than a segment: history goes, the state does not.
    let words = "w".repeat(4_000);
    for offset in 0..600 {
        let position = Position { offset, leader_epoch: None, metadata: words.clone() };
        let member = Some((MemberId::new("m1"), first.epoch));
        let commit = Command::Commit { group: "g".into(), member, offsets: [(orders[0], position)].into() };
        ask(&mut world, place, GroupAsk::Change(commit)).unwrap();
        beat(&mut world, place, "m1", (first.epoch, first.version)).unwrap();
    }
    let before = shown(&mut world, place);
    assert_eq!(before.offsets[&orders[0]].offset, 599);
    let follower = [1, 2, 3].map(NodeId).into_iter().find(|id| world.leader(place) != Some(*id)).unwrap();
    world.crash(follower);
    world.restart(follower);
    for id in [1, 2, 3].map(NodeId).into_iter().filter(|id| *id != follower) {
        world.crash(id);
        world.restart(id);
    }
    assert_eq!(shown(&mut world, place), before);
}

#[test]
fn nobody_else_writes_to_a_coordinators_partition() {
    let mut world = World::new(3);
    let place = coordinators(&mut world);
    let refused = world.produce(place, batch(&["a"], 0)).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidRequest);
    for request in [
        Request::DeleteTopic { name: GROUPS_TOPIC.into(), id: None },
        Request::SetPartitions { name: GROUPS_TOPIC.into(), partitions: 17 },
    ] {
        assert_eq!(world.ask_controller(request).unwrap_err().code, ErrorCode::InvalidRequest);
    }
    for (partitions, id) in [(3, Some(*GROUPS_TOPIC_ID)), (COORDINATORS, None), (COORDINATORS, Some(place.topic))] {
        let (name, config) = (GROUPS_TOPIC.into(), BTreeMap::new());
        let new = NewTopic { name, partitions, replicas: 3, config, schema_json: None };
        let made = world.ask_controller(Request::CreateTopic { new, dry_run: true, id });
        let is_theirs = partitions == COORDINATORS && id == Some(*GROUPS_TOPIC_ID);
        let expected = if is_theirs { ErrorCode::TopicExists } else { ErrorCode::InvalidRequest };
        assert_eq!(made.unwrap_err().code, expected);
    }
    let unknown = ask(&mut world, place, GroupAsk::Show { group: "g".into() }).unwrap_err();
    assert_eq!(unknown.code, ErrorCode::UnknownGroup);
}

/// A coordinator that is cut off and does not know it yet says nothing, whether it would write or not.
#[test]
fn a_deposed_coordinator_tells_nobody_anything() {
    let mut world = World::new(3);
    let place = coordinators(&mut world);
    world.create_topic(2, &[]);
    let first = beat(&mut world, place, "m1", (0, 0)).unwrap();
    let old = world.leader(place).unwrap();
    world.cut.insert(old);
    let heartbeat = Heartbeat {
        group: "g".into(),
        member: MemberId::new("m1"),
        epoch: first.epoch,
        seen: first.version,
        instance: None,
        client: String::new(),
        session_timeout_ms: 0,
        rebalance_timeout_ms: 0,
        topics: None,
        wish: 0,
        assignor: None,
    };
    let asks = [
        GroupAsk::Change(Command::Heartbeat(heartbeat)),
        GroupAsk::Show { group: "g".into() },
        GroupAsk::Change(Command::Leave {
            group: "g".into(),
            member: MemberId::new("m1"),
            epoch: first.epoch,
            returns: false,
        }),
        // This one would rest on what the one before has not made safe.
        GroupAsk::Show { group: "h".into() },
        GroupAsk::List { after: String::new() },
    ];
    let ids = asks.map(|ask| world.send(old, Request::Group { partition: place.partition, ask }));
    world.until(|world| ids.iter().all(|id| world.replies.contains_key(id)));
    for id in ids {
        let error = world.replies[&id].clone().unwrap_err();
        assert!(
            matches!(error.code, ErrorCode::NotLeader | ErrorCode::OutcomeUnknown | ErrorCode::NotReady),
            "{error}"
        );
    }
    world.cut.clear();
    // What it had decided and nobody has is forgotten.
    assert_eq!(beat(&mut world, place, "m1", (first.epoch, first.version)).unwrap().epoch, first.epoch);
}
