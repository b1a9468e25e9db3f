//! Whoever makes groups, members and offsets in a loop comes to an end; and bytes that nobody wrote are refused, not believed.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use levada_groups::{
    command::{Command, Heartbeat, Now, Position},
    coordinator::Coordinator,
    coordinator_of,
    limits::{
        COMMIT_OFFSETS_MAX, COORDINATORS, GROUP_MEMBERS_MAX, GROUPS_MAX, METADATA_BYTES_MAX, STATE_BYTES_MAX,
        SUBSCRIPTION_TOPICS_MAX,
    },
    state::{MemberId, State},
    topics::TopicShape,
    wire,
};
use levada_protocol::{
    error::ErrorCode,
    ids::{PartitionId, TopicId, TopicPartition},
};
use proptest::prelude::*;
use uuid::Uuid;

const TOPIC: TopicId = TopicId(Uuid::from_u128(7));
const NOW: Now = Now { mono_ms: 0, wall_ms: 1_000_000_000_000 };

fn topics() -> BTreeMap<String, TopicShape> {
    BTreeMap::from([("a".to_owned(), TopicShape { id: TOPIC, partitions: 8 })])
}

fn place(partition: u32) -> TopicPartition {
    TopicPartition { topic: TOPIC, partition: PartitionId(partition) }
}

fn join(group: &str, member: &str) -> Command {
    Command::Heartbeat(Heartbeat {
        group: group.to_owned(),
        member: MemberId::new(member),
        epoch: 0,
        seen: 0,
        instance: None,
        client: "loop".to_owned(),
        session_timeout_ms: 0,
        rebalance_timeout_ms: 0,
        topics: Some(BTreeSet::from(["a".to_owned()])),
        wish: 0,
        assignor: None,
    })
}

fn commit(group: &str, offsets: impl IntoIterator<Item = u32>, metadata: &str) -> Command {
    let position = Position { offset: 1, leader_epoch: None, metadata: metadata.to_owned() };
    let offsets = offsets.into_iter().map(|partition| (place(partition), position.clone())).collect();
    Command::Commit { group: group.to_owned(), member: None, offsets }
}

fn refusal(coordinator: &mut Coordinator, command: Command) -> ErrorCode {
    let before = coordinator.state().clone();
    let error = coordinator.step(NOW, command, &topics()).expect_err("it is too much");
    assert_eq!(&before, coordinator.state(), "a refusal changes nothing");
    error.code
}

#[test]
fn groups_made_in_a_loop_come_to_an_end() {
    let mut coordinator = Coordinator::new(State::default(), NOW);
    for number in 0..GROUPS_MAX {
        coordinator.step(NOW, join(&format!("g{number}"), "m"), &topics()).unwrap();
    }
    assert_eq!(refusal(&mut coordinator, join("another", "m")), ErrorCode::GroupQuota);
    assert_eq!(refusal(&mut coordinator, commit("another", [0], "")), ErrorCode::GroupQuota);
    assert_fits(coordinator.state());
    // Who is there already goes on, and when one goes there is room.
    coordinator.step(NOW, join("g0", "m2"), &topics()).unwrap();
    let leave = Command::Leave { group: "g1".into(), member: MemberId::new("m"), epoch: 1, returns: false };
    coordinator.step(NOW, leave, &topics()).unwrap();
    coordinator.step(NOW, Command::DeleteGroup { group: "g1".into() }, &topics()).unwrap();
    coordinator.step(NOW, join("another", "m"), &topics()).unwrap();
}

#[test]
fn members_of_a_group_come_to_an_end() {
    let mut coordinator = Coordinator::new(State::default(), NOW);
    for number in 0..GROUP_MEMBERS_MAX {
        coordinator.step(NOW, join("g", &format!("m{number}")), &topics()).unwrap();
    }
    assert_eq!(refusal(&mut coordinator, join("g", "another")), ErrorCode::GroupQuota);
    coordinator.step(NOW, join("g2", "another"), &topics()).unwrap();
}

#[test]
fn what_one_request_says_is_bounded() {
    let mut coordinator = Coordinator::new(State::default(), NOW);
    let (many, long) = (u32::try_from(COMMIT_OFFSETS_MAX).unwrap(), "m".repeat(METADATA_BYTES_MAX));
    assert_eq!(refusal(&mut coordinator, commit("g", 0..=many, "")), ErrorCode::InvalidRequest);
    assert_eq!(refusal(&mut coordinator, commit("g", 0..many, &long)), ErrorCode::InvalidRequest);
    assert_eq!(refusal(&mut coordinator, commit("g", [0], &format!("{long}m"))), ErrorCode::InvalidRequest);
    assert_eq!(refusal(&mut coordinator, commit(&"g".repeat(250), [0], "")), ErrorCode::InvalidName);
    let Command::Heartbeat(mut heartbeat) = join("g", "m") else { unreachable!() };
    heartbeat.topics = Some((0..=SUBSCRIPTION_TOPICS_MAX).map(|number| format!("t{number}")).collect());
    assert_eq!(refusal(&mut coordinator, Command::Heartbeat(heartbeat)), ErrorCode::GroupQuota);
    coordinator.step(NOW, commit("g", 0..many, ""), &topics()).unwrap();
    assert_eq!(coordinator.state().offsets(), COMMIT_OFFSETS_MAX);
}

#[test]
fn words_of_commits_come_to_an_end() {
    let mut coordinator = Coordinator::new(State::default(), NOW);
    let long = "m".repeat(METADATA_BYTES_MAX);
    for number in 0..3 {
        coordinator.step(NOW, commit(&format!("g{number}"), 0..1_024, &long), &topics()).unwrap();
    }
    assert_eq!(refusal(&mut coordinator, commit("g3", 0..1_024, &long)), ErrorCode::GroupQuota);
    coordinator.step(NOW, commit("g4", 0..900, &long), &topics()).unwrap();
    assert_eq!(refusal(&mut coordinator, commit("g5", 0..100, &long)), ErrorCode::GroupQuota);
    assert_fits(coordinator.state());
    // Shorter ones are never refused, and make room.
    coordinator.step(NOW, commit("g0", 0..1_024, "m"), &topics()).unwrap();
    coordinator.step(NOW, commit("g5", [0], "m"), &topics()).unwrap();
}

/// A state is one message to another node, whatever members come to have without asking.
#[test]
fn partitions_that_groups_share_come_to_an_end() {
    let mut topics: BTreeMap<String, TopicShape> = topics();
    let large = TopicShape { id: TopicId(Uuid::from_u128(8)), partitions: 20_000 };
    topics.insert("large".to_owned(), large);
    let mut coordinator = Coordinator::new(State::default(), NOW);
    let join = |group: &str, epoch| {
        let Command::Heartbeat(heartbeat) = join(group, "m") else { unreachable!() };
        let topics = Some(BTreeSet::from(["a".to_owned(), "large".to_owned()]));
        Command::Heartbeat(Heartbeat { topics, epoch, ..heartbeat })
    };
    let refused = (0..60).find_map(|number| {
        let error = coordinator.step(NOW, join(&format!("g{number}"), 0), &topics).err()?;
        Some((number, error.code))
    });
    // 480 kB each that are asked for, and 320 when they are there.
    assert!(matches!(refused, Some((15..30, ErrorCode::GroupQuota))), "{refused:?}");
    assert_fits(coordinator.state());

    // More partitions, more topics: what there is no room for waits until there is.
    topics.insert("large".to_owned(), TopicShape { partitions: 49_000, ..large });
    for _ in 0..10 {
        coordinator.tick(NOW, &topics);
    }
    assert_eq!(coordinator.state().group("g0").unwrap().head.topics["large"].partitions, 20_000);
    assert_fits(coordinator.state());
    for number in 0..5 {
        let group = format!("g{number}");
        let leave = Command::Leave { group: group.clone(), member: MemberId::new("m"), epoch: 1, returns: false };
        coordinator.step(NOW, leave, &topics).unwrap();
    }
    for _ in 0..10 {
        coordinator.tick(NOW, &topics);
    }
    assert_eq!(coordinator.state().group("g10").unwrap().head.topics["large"].partitions, 49_000);
    assert_fits(coordinator.state());
}

#[track_caller]
fn assert_fits(state: &State) {
    let encoded = wire::encode_state(state);
    assert!(encoded.len() <= state.bytes(), "{} of {}", encoded.len(), state.bytes());
    assert!(state.bytes() <= STATE_BYTES_MAX, "{}", state.bytes());
    let again = wire::decode_state(encoded).unwrap();
    assert_eq!((again.bytes(), &again), (state.bytes(), state));
}

#[test]
fn groups_are_spread_over_coordinators_for_ever_the_same() {
    assert_eq!([coordinator_of("orders"), coordinator_of("g"), coordinator_of("")], PINNED);
    let mut groups = vec![0; COORDINATORS as usize];
    for number in 0..16_000 {
        groups[coordinator_of(&format!("group {number}")) as usize] += 1;
    }
    assert!(groups.iter().all(|count| (900..1_100).contains(count)), "{groups:?}");
}

/// Where groups are found that a cluster has: never to be changed.
const PINNED: [u32; 3] = [6, 12, 15];

fn some_state() -> State {
    let mut coordinator = Coordinator::new(State::default(), NOW);
    for (group, member) in [("g", "m1"), ("g", "m2"), ("h", "m1")] {
        coordinator.step(NOW, join(group, member), &topics()).unwrap();
    }
    coordinator.step(NOW, commit("i", 0..5, "words"), &topics()).unwrap();
    coordinator.state().clone()
}

proptest! {
    #[test]
    fn changed_bytes_are_a_state_or_refused(flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
        let mut bytes = wire::encode_state(&some_state()).to_vec();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(state) = wire::decode_state(bytes.into()) {
            prop_assert_eq!(wire::decode_state(wire::encode_state(&state)).unwrap(), state);
        }
    }

    #[test]
    fn any_bytes_are_records_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = bytes::Bytes::from(bytes);
        if let Ok(records) = wire::decode_change(bytes.clone()) {
            prop_assert_eq!(wire::decode_change(wire::encode_change(&records)).unwrap(), records);
        }
        let _ = wire::decode_state(bytes);
    }
}
