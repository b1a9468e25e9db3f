//! Groups that sleep, and what wakes them: each case of the essay in `raft/hibernation.rs`.

use super::*;
use crate::{cluster::feature::LEVEL_HIBERNATION, node::sleeping::Wake, raft::hibernation::Notice};

/// Longer than a group is quiet before it sleeps, and than a leader takes to say so.
const NIGHT_TICKS: u32 = 120;
/// What the journal alone has, where it is to be damaged.
const LOST: &str = "this is going to be lost";

fn ticks(world: &mut World, count: u32) {
    (0..count).for_each(|_| world.step());
}

/// A cluster whose groups all sleep.
fn asleep(partitions: u32) -> (World, Vec<TopicPartition>) {
    let mut world = World::new(3);
    let places = world.create_topic(partitions, &[]);
    let level = |node: &Node| node.controller.current().feature_level() >= LEVEL_HIBERNATION;
    world.until(|world| world.nodes.values().all(level));
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, partitions);
    (world, places)
}

fn all_sleep(world: &World, partitions: u32) {
    for (id, node) in &world.nodes {
        assert_eq!(node.asleep(), partitions as usize, "node {id}: {:#?}", node.describe());
    }
}

fn group_of(world: &World, place: TopicPartition) -> GroupId {
    world.nodes.values().find_map(|node| node.places.get(&place)).copied().unwrap()
}

fn term(world: &World, node: NodeId, place: TopicPartition) -> Term {
    world.nodes[&node].partitions[&group_of(world, place)].group.term()
}

fn sleeps(world: &World, node: NodeId, place: TopicPartition) -> bool {
    world.nodes[&node].sleepers.is_asleep(group_of(world, place))
}

/// The leader of a partition and its followers.
fn roles(world: &World, place: TopicPartition) -> (NodeId, [NodeId; 2]) {
    let leader = world.leader(place).unwrap();
    let followers: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    (leader, [followers[0], followers[1]])
}

fn leads(world: &World, node: NodeId, place: TopicPartition) -> bool {
    world.nodes[&node].view.partition(place).unwrap().state.borrow().leading
}

fn woken(world: &World, node: NodeId, why: Wake) -> u64 {
    world.nodes[&node].sleep_totals().woken.get(&why).copied().unwrap_or(0)
}

#[test]
fn groups_in_which_nothing_happens_sleep_and_say_nothing() {
    let (mut world, places) = asleep(4);
    let terms: Vec<Term> = places.iter().map(|place| term(&world, NodeId(1), *place)).collect();
    let before: Vec<SleepTotals> = world.nodes.values().map(|node| node.sleep_totals().clone()).collect();
    // Longer than a follower waits to hear of its leader.
    for _ in 0..1_500 {
        world.now.mono_ms += 50;
        let ids: Vec<NodeId> = world.nodes.keys().copied().collect();
        for id in ids {
            let mut out = Vec::new();
            let node = world.nodes.get_mut(&id).unwrap();
            node.handle(world.now, Event::Tick, &mut out);
            node.flush(&mut out);
            let of_partitions = |effect: &Effect| matches!(effect, Effect::Send { message: PeerMessage::Raft { group, .. }, .. } if *group != GroupId::METADATA);
            assert!(!out.iter().any(of_partitions), "{out:?}");
            world.perform(id, out);
        }
        world.settle();
    }
    all_sleep(&world, 4);
    let after: Vec<SleepTotals> = world.nodes.values().map(|node| node.sleep_totals().clone()).collect();
    assert_eq!(before, after, "nobody woke up meanwhile");
    assert!(terms.into_iter().eq(places.iter().map(|place| term(&world, NodeId(1), *place))));
}

#[test]
fn a_record_and_a_read_wake_a_group_and_it_sleeps_again() {
    let (mut world, places) = asleep(2);
    let (leader, followers) = roles(&world, places[0]);
    let before = term(&world, leader, places[0]);
    assert_eq!(world.produce(places[0], batch(&["a"], 0)), appended(0, false));
    for node in [leader, followers[0], followers[1]] {
        assert!(!sleeps(&world, node, places[0]), "node {node}");
        assert!(sleeps(&world, node, places[1]), "node {node}: the other group sleeps on");
    }
    assert_eq!((woken(&world, leader, Wake::Request), woken(&world, followers[0], Wake::Message)), (1, 1));
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, 2);
    assert!(followers.iter().all(|node| world.values(*node, places[0]) == ["a"]), "they know that it is committed");

    let (other, _) = roles(&world, places[1]);
    let read = world.ask(other, Request::Bounds { partition: places[1] }).unwrap();
    assert!(matches!(read, Answer::Bounds(bounds) if bounds.high_watermark == Offset(0)));
    assert!(!sleeps(&world, other, places[1]));
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, 2);
    assert_eq!(term(&world, leader, places[0]), before);
}

/// It ticks, hears nothing and asks for votes: that wakes the leader, and deposes nobody.
#[test]
fn a_follower_that_missed_the_notice_does_not_depose_the_leader() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.drops = Some(|to, message| to == NodeId(3) && matches!(message, PeerMessage::Asleep { .. }));
    let (leader, _) = roles(&world, place);
    assert_ne!(leader, NodeId(3));
    let before = term(&world, leader, place);
    world.until(|world| sleeps(world, leader, place));
    world.story.clear();
    ticks(&mut world, 15 * NIGHT_TICKS);
    assert!(world.story.iter().any(|line| line.contains("would you vote")), "nobody asked for votes");
    let agrees = |line: &String| line.ends_with("yes") || line.contains(": vote in term");
    assert_eq!(world.story.iter().find(|line| agrees(line)), None);
    assert!(leads(&world, leader, place));
    assert_eq!(term(&world, leader, place), before);
    assert!(woken(&world, leader, Wake::Message) > 1);
    world.drops = None;
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, 1);
}

#[test]
fn all_groups_of_a_node_that_dies_have_leaders_soon() {
    let (mut world, places) = asleep(60);
    let dead = NodeId(2);
    let led = places.iter().filter(|place| world.leader(**place) == Some(dead)).count();
    assert!(led > 10);
    world.crash(dead);
    // A second until it is missed, another until its groups' turn has come, and an election.
    ticks(&mut world, 50);
    for place in &places {
        assert!(world.leader(*place).is_some(), "{:#?}", world.nodes.values().map(Node::describe).collect::<Vec<_>>());
    }
    // Who came second found a leader there.
    let second = places.iter().filter(|place| {
        let leader = world.leader(**place).unwrap();
        term(&world, leader, **place) > Term(2)
    });
    assert_eq!(second.count(), 0, "votes were split");
    world.restart(dead);
    world.until(|world| world.nodes.values().all(|node| node.asleep() == 60));
}

/// Cut off from both, it steps down, and finds out about its successor when it is back.
#[test]
fn a_sleeping_leader_that_is_cut_off_is_succeeded_and_steps_down() {
    let (mut world, places) = asleep(1);
    let (leader, _) = roles(&world, places[0]);
    world.cut.insert(leader);
    ticks(&mut world, 60);
    assert!(!leads(&world, leader, places[0]), "it has noticed");
    let next = world.leader(places[0]).unwrap();
    assert_ne!(next, leader);
    assert_eq!(world.produce(places[0], batch(&["a"], 0)), appended(0, false));
    // It sleeps by the time the other is back.
    ticks(&mut world, NIGHT_TICKS);
    assert!(sleeps(&world, next, places[0]));
    world.cut.clear();
    world.until(|world| world.nodes.values().all(|node| node.asleep() == 1));
    assert_eq!(world.values(leader, places[0]), ["a"]);
}

/// The process was stopped and goes on: it believes that it leads, asleep.
#[test]
fn a_sleeping_leader_that_was_paused_is_deposed_by_its_successor() {
    let (mut world, places) = asleep(1);
    let (leader, _) = roles(&world, places[0]);
    let paused = world.nodes.remove(&leader).unwrap();
    world.until(|world| world.leader(places[0]).is_some());
    assert_eq!(world.produce(places[0], batch(&["a"], 0)), appended(0, false));
    ticks(&mut world, NIGHT_TICKS);
    let next = world.leader(places[0]).unwrap();
    assert!(sleeps(&world, next, places[0]), "without the one that is paused");
    world.nodes.insert(leader, paused);
    assert!(sleeps(&world, leader, places[0]) && leads(&world, leader, places[0]));
    ticks(&mut world, 8);
    assert!(!leads(&world, leader, places[0]), "its successor's heartbeat");
    world.until(|world| world.nodes.values().all(|node| node.asleep() == 1));
    assert_eq!(world.values(leader, places[0]), ["a"]);
}

/// Between two beats: nobody misses it, but nobody leads its groups any more.
#[test]
fn a_leaders_node_that_restarts_quickly_does_not_leave_its_groups_without_one() {
    let (mut world, places) = asleep(6);
    let (leader, followers) = roles(&world, places[0]);
    let led: Vec<TopicPartition> = places.into_iter().filter(|place| leads(&world, leader, *place)).collect();
    world.crash(leader);
    world.restart(leader);
    for _ in 0..45 {
        world.step();
        // Its replicas do nothing by themselves: the others must find out.
        let node = world.nodes.get_mut(&leader).unwrap();
        node.partitions.keys().for_each(|group| node.sleepers.close(*group));
    }
    for place in led {
        assert!(
            world.leader(place).is_some_and(|leads| leads != leader),
            "{:#?}",
            world.nodes[&followers[0]].describe()
        );
    }
    assert!(woken(&world, followers[0], Wake::NodeLost) > 0);
}

#[test]
fn a_followers_node_that_restarts_finds_the_sleeping_leader() {
    let (mut world, places) = asleep(3);
    let (leader, followers) = roles(&world, places[0]);
    let before = term(&world, leader, places[0]);
    world.crash(followers[0]);
    world.restart(followers[0]);
    ticks(&mut world, 30);
    let group = group_of(&world, places[0]);
    assert_eq!(world.nodes[&followers[0]].partitions[&group].group.leader(), Some(leader));
    assert_eq!(term(&world, leader, places[0]), before, "and does not depose it");
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, 3);
}

/// As after a replacement: the node is there and says so, but its replica is not.
#[test]
fn followers_whose_leader_forgot_them_wake_up() {
    let (mut world, places) = asleep(1);
    let (leader, followers) = roles(&world, places[0]);
    let group = group_of(&world, places[0]);
    let node = world.nodes.get_mut(&leader).unwrap();
    node.partitions.remove(&group);
    node.places.remove(&places[0]);
    node.sleepers.close(group);
    node.view.remove(places[0]);
    ticks(&mut world, 1_000);
    assert!(world.leader(places[0]).is_some());
    assert!(followers.iter().any(|node| woken(&world, *node, Wake::Unconfirmed) == 1));
}

/// A node comes back, and its replica is in doubt.
fn damage(world: &mut World, node: NodeId, place: TopicPartition) {
    world.crash(node);
    damage_journal(&world.disks[&node], LOST.as_bytes());
    world.restart(node);
    assert!(world.nodes[&node].store.doubts(group_of(world, place)));
}

/// Its group is about to fall asleep when its node is back, and has the answers of the process before.
#[test]
fn nobody_sleeps_by_what_a_process_said_that_is_gone() {
    let mut were_awake = 0;
    for quiet_ticks in 36..46 {
        let (mut world, places) = asleep(1);
        let (leader, followers) = roles(&world, places[0]);
        assert_eq!(world.produce(places[0], batch(&[LOST], 0)), appended(0, false));
        ticks(&mut world, quiet_ticks);
        were_awake += u32::from(!sleeps(&world, leader, places[0]));
        world.drops = Some(|_, message| matches!(message, PeerMessage::Lost { .. }));
        damage(&mut world, followers[0], places[0]);
        ticks(&mut world, NIGHT_TICKS);
        assert!(!sleeps(&world, leader, places[0]), "{quiet_ticks} ticks after the record");
    }
    assert!((1..10).contains(&were_awake), "it fell asleep in between");
}

/// What the process before answered comes late, so that the leader takes the replica for one that is there, and sleeps. Who
/// it is, it says with its notices only.
#[test]
fn a_replica_in_doubt_hears_of_a_leader_that_sleeps() {
    let (mut world, places) = asleep(1);
    let (leader, followers) = roles(&world, places[0]);
    assert_eq!(world.produce(places[0], batch(&[LOST], 0)), appended(0, false));
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, 1);
    let group = group_of(&world, places[0]);
    let replica_on = |node: NodeId| world.nodes[&node].partitions[&group].group.replica().get();
    let mut late = raft::eraftpb::Message::default();
    late.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeatResponse);
    late.set_from(replica_on(followers[0]));
    late.set_to(replica_on(leader));
    late.set_term(term(&world, leader, places[0]).get());
    world.drops = Some(|_, message| matches!(message, PeerMessage::Leadership { .. } | PeerMessage::Asleep { .. }));
    damage(&mut world, followers[0], places[0]);
    world.until(|world| !sleeps(world, leader, places[0]));
    for _ in 0..NIGHT_TICKS {
        if sleeps(&world, leader, places[0]) {
            break;
        }
        let message = PeerMessage::Raft { group, message: Box::new(late.clone()) };
        world.events.push_back((leader, Event::Peer { from: followers[0], message }));
        world.step();
    }
    assert!(sleeps(&world, leader, places[0]) && !world.nodes[&followers[0]].lost.is_empty());
    world.drops = Some(|_, message| matches!(message, PeerMessage::Leadership { .. }));
    world.until(|world| world.values(followers[0], places[0]) == [LOST]);
    world.until(|world| world.nodes.values().all(|node| node.asleep() == 1));
}

/// Its node is there, and it says nothing.
#[test]
fn nobody_sleeps_while_a_replica_does_not_answer() {
    let mut world = World::new(3);
    let place = world.create_topic(1, &[])[0];
    world.drops = Some(|to, message| {
        to == NodeId(3) && matches!(message, PeerMessage::Raft { group, .. } if *group != GroupId::METADATA)
    });
    let (leader, _) = roles(&world, place);
    assert_ne!(leader, NodeId(3));
    ticks(&mut world, 2 * NIGHT_TICKS);
    assert!(!sleeps(&world, leader, place));
    world.drops = None;
    ticks(&mut world, 2 * NIGHT_TICKS);
    all_sleep(&world, 1);
}

/// Otherwise everything would be awake for as long as a node is down.
#[test]
fn a_node_that_is_down_keeps_nobody_awake_and_gets_what_it_missed() {
    let (mut world, places) = asleep(6);
    let dead = NodeId(2);
    let elsewhere: Vec<TopicPartition> =
        places.iter().copied().filter(|place| world.leader(*place) != Some(dead)).collect();
    world.crash(dead);
    ticks(&mut world, 30);
    assert!(elsewhere.iter().all(|place| sleeps(&world, world.leader(*place).unwrap(), *place)), "a majority is left");
    ticks(&mut world, NIGHT_TICKS);
    assert!([1, 3].iter().all(|node| world.nodes[&NodeId(*node)].asleep() == 6), "two of three sleep");
    assert_eq!(world.produce(elsewhere[0], batch(&["a"], 0)), appended(0, false));
    ticks(&mut world, NIGHT_TICKS);
    assert!([1, 3].iter().all(|node| world.nodes[&NodeId(*node)].asleep() == 6), "and again");

    world.restart(dead);
    world.until(|world| world.nodes.values().all(|node| node.asleep() == 6));
    assert_eq!(world.values(dead, elsewhere[0]), ["a"]);
    assert!(woken(&world, world.leader(elsewhere[0]).unwrap(), Wake::NodeBack) > 0);
}

#[test]
fn a_sleeping_leader_without_a_majority_wakes_up_and_steps_down() {
    let (mut world, places) = asleep(1);
    let (leader, followers) = roles(&world, places[0]);
    world.crash(followers[0]);
    ticks(&mut world, NIGHT_TICKS);
    assert!(sleeps(&world, leader, places[0]));
    world.crash(followers[1]);
    ticks(&mut world, 60);
    assert!(!sleeps(&world, leader, places[0]) && !leads(&world, leader, places[0]));
}

/// A notice that comes late, or of somebody who does not lead, puts nobody to sleep for long.
#[test]
fn notices_that_do_not_fit_are_not_believed() {
    let (mut world, places) = asleep(1);
    let (leader, followers) = roles(&world, places[0]);
    let group = group_of(&world, places[0]);
    let notice = world.nodes[&leader].partitions[&group].group.notice();
    assert_eq!(world.produce(places[0], batch(&["a"], 0)), appended(0, false));
    let hears = |world: &mut World, from, notices| {
        world.events.push_back((followers[0], Event::Peer { from, message: PeerMessage::Asleep { notices } }));
        world.settle();
    };
    hears(&mut world, leader, vec![notice]);
    assert!(!sleeps(&world, followers[0], places[0]), "from before the record");
    let now = world.nodes[&leader].partitions[&group].group.notice();
    ticks(&mut world, 4);
    hears(&mut world, followers[1], vec![now]);
    assert!(!sleeps(&world, followers[0], places[0]), "of another follower");
    hears(&mut world, leader, vec![Notice { term: Term(now.term.get() + 1), ..now }]);
    assert!(!sleeps(&world, followers[0], places[0]), "of another term");
    hears(&mut world, leader, vec![now]);
    assert!(sleeps(&world, followers[0], places[0]));
    ticks(&mut world, 4);
    assert!(!sleeps(&world, followers[0], places[0]), "its leader is awake and says so");
}

#[test]
fn groups_that_sleep_move_and_hand_over() {
    let (mut world, places) = asleep(3);
    let (leader, followers) = roles(&world, places[0]);
    let group = group_of(&world, places[0]);
    world.ask(leader, Request::TransferLeader { group, to: followers[0] }).unwrap();
    world.until(|world| leads(world, followers[0], places[0]));
    ticks(&mut world, NIGHT_TICKS);
    all_sleep(&world, 3);
    // A node that ends hands over what sleeps, too.
    world.events.push_back((followers[0], Event::Shutdown));
    world.until(|world| !world.nodes.contains_key(&followers[0]));
    assert!(places.iter().all(|place| world.leader(*place).is_some()), "others lead before it is gone");
}

/// Nodes of builds that do not know of it keep everybody awake.
#[test]
fn nobody_sleeps_below_the_feature_level() {
    let mut world = World::founded(3);
    for id in (1..=3).map(NodeId) {
        world.register_at(id, 3, if id == NodeId(3) { LEVEL_HIBERNATION - 1 } else { LEVEL_HIBERNATION });
    }
    let place = world.create_topic(1, &[])[0];
    ticks(&mut world, 2 * NIGHT_TICKS);
    assert!((1..=3).map(NodeId).all(|node| !sleeps(&world, node, place)));
}
