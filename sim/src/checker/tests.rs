//! Histories made by hand: for every rule one that keeps it and one that breaks it.

use levada_protocol::ids::{PartitionId, TopicId};
use uuid::Uuid;

use super::*;

const PARTITION: TopicPartition = TopicPartition { topic: TopicId(Uuid::from_u128(7)), partition: PartitionId(0) };
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

fn value(stream: u32, number: u32) -> Value {
    Value { stream, number }
}

/// A batch as a log has it.
fn batch_of(first: Value, count: u32, base: u64, epoch: i32) -> Bytes {
    let mut bytes = batches::encode(ProducerId(1), first, count, 3, 0).to_vec();
    batch::stamp(&mut bytes, Offset(base), epoch).unwrap();
    bytes.into()
}

fn batch(stream: u32, number: u32, count: u32, base: u64) -> Bytes {
    batch_of(value(stream, number), count, base, 1)
}

fn chunk(high_watermark: u64, batches: &[Bytes]) -> Chunk {
    Chunk { log_start: Offset(0), high_watermark: Offset(high_watermark), batches: batches.to_vec() }
}

/// Two streams of ten values were sent.
fn checker() -> Checker {
    let mut checker = Checker::default();
    checker.sent(PARTITION, value(1, 0), 10);
    checker.sent(PARTITION, value(2, 0), 10);
    checker
}

fn finish(checker: &mut Checker, logs: [Chunk; 3]) {
    let replicas: Vec<FinalLog> = NODES.into_iter().zip(logs).map(|(node, log)| FinalLog { node, log }).collect();
    checker.finish(PARTITION, &replicas);
}

/// All replicas end alike.
fn finish_alike(checker: &mut Checker, log: Chunk) {
    finish(checker, [log.clone(), log.clone(), log]);
}

fn kinds(checker: &Checker) -> Vec<Kind> {
    checker.anomalies().iter().map(|anomaly| anomaly.kind).collect()
}

#[test]
fn a_sound_history_is_sound() {
    let mut checker = checker();
    checker.acked(PARTITION, value(1, 0), 2, Offset(0));
    let known = checker.asks_bounds(PARTITION);
    checker.acked(PARTITION, value(2, 0), 1, Offset(2));
    checker.bounds(PARTITION, known, Offset(2));
    let log = [batch(1, 0, 2, 0), batch(2, 0, 1, 2), batch(1, 2, 3, 3)];
    assert_eq!(checker.read(PARTITION, NODES[0], Offset(0), &chunk(3, &log[..2])), Offset(3));
    assert_eq!(checker.read(PARTITION, NODES[1], Offset(1), &chunk(2, &log[..1])), Offset(2), "from within a batch");
    assert_eq!(checker.read(PARTITION, NODES[1], Offset(2), &chunk(2, &[])), Offset(2));
    checker.acked(PARTITION, value(2, 0), 1, Offset(2));
    finish_alike(&mut checker, chunk(6, &log));
    assert_eq!(checker.anomalies(), []);
    assert_eq!(checker.counts(), Counts { acked: 4, read: 5 + 18, bounds: 1 });
}

#[test]
fn what_was_acknowledged_must_be_there() {
    let mut checker = checker();
    checker.acked(PARTITION, value(1, 0), 2, Offset(0));
    finish_alike(&mut checker, chunk(0, &[]));
    assert_eq!(kinds(&checker), [Kind::Lost]);
}

#[test]
fn what_was_acknowledged_must_be_where_it_was_said_to_be() {
    let mut other = checker();
    other.acked(PARTITION, value(1, 0), 1, Offset(0));
    finish_alike(&mut other, chunk(1, &[batch(2, 0, 1, 0)]));
    assert_eq!(kinds(&other)[0], Kind::TwoValues);

    let mut moved = checker();
    moved.acked(PARTITION, value(1, 0), 1, Offset(0));
    finish_alike(&mut moved, chunk(2, &[batch(2, 0, 1, 0), batch(1, 0, 1, 1)]));
    assert!(kinds(&moved).contains(&Kind::TwoValues));
}

#[test]
fn what_was_read_must_stay() {
    let mut checker = checker();
    checker.read(PARTITION, NODES[0], Offset(0), &chunk(1, &[batch(1, 0, 1, 0)]));
    finish_alike(&mut checker, chunk(0, &[]));
    assert_eq!(kinds(&checker), [Kind::Lost]);
}

#[test]
fn what_an_answered_bound_covers_must_stay() {
    let mut checker = checker();
    checker.bounds(PARTITION, Offset(0), Offset(1));
    finish_alike(&mut checker, chunk(0, &[]));
    assert_eq!(kinds(&checker), [Kind::Lost]);
}

#[test]
fn a_value_stands_once() {
    let mut twice = checker();
    finish_alike(&mut twice, chunk(2, &[batch(1, 0, 1, 0), batch(1, 0, 1, 1)]));
    assert_eq!(kinds(&twice)[0], Kind::Duplicate);

    let mut acked_twice = checker();
    acked_twice.acked(PARTITION, value(1, 0), 1, Offset(0));
    acked_twice.acked(PARTITION, value(1, 0), 1, Offset(5));
    assert_eq!(kinds(&acked_twice), [Kind::Duplicate]);
}

#[test]
fn a_producer_id_is_given_once() {
    let mut checker = checker();
    checker.producer_id(ProducerId(1));
    checker.producer_id(ProducerId(2));
    assert_eq!(checker.anomalies(), []);
    checker.producer_id(ProducerId(1));
    assert_eq!(kinds(&checker), [Kind::Duplicate]);
}

#[test]
fn nothing_comes_from_nowhere() {
    let mut checker = checker();
    checker.read(PARTITION, NODES[0], Offset(0), &chunk(1, &[batch(3, 0, 1, 0)]));
    assert_eq!(kinds(&checker), [Kind::Phantom]);
    checker.read(PARTITION, NODES[0], Offset(1), &chunk(12, &[batch(1, 9, 2, 1)]));
    assert_eq!(kinds(&checker), [Kind::Phantom; 2], "number 10 was not sent");
}

#[test]
fn a_stream_is_in_order_and_whole() {
    for log in [
        [batch(1, 1, 1, 0), batch(1, 0, 1, 1)],
        [batch(1, 0, 1, 0), batch(1, 2, 1, 1)],
        [batch(2, 0, 1, 0), batch(1, 1, 1, 1)],
    ] {
        let mut checker = checker();
        finish_alike(&mut checker, chunk(2, &log));
        assert_eq!(kinds(&checker), [Kind::Order]);
    }
}

#[test]
fn what_is_below_the_log_start_may_be_gone() {
    let mut checker = checker();
    let log = [batch(1, 0, 2, 0), batch(1, 2, 2, 2)];
    checker.acked(PARTITION, value(1, 0), 2, Offset(0));
    checker.read(PARTITION, NODES[0], Offset(0), &chunk(4, &log));
    finish_alike(&mut checker, Chunk { log_start: Offset(2), ..chunk(4, &log[1..]) });
    assert_eq!(checker.anomalies(), []);
}

#[test]
fn replicas_have_the_same_bytes() {
    let mut epochs = checker();
    let log = |epoch| chunk(1, &[batch_of(value(1, 0), 1, 0, epoch)]);
    finish(&mut epochs, [log(1), log(1), log(2)]);
    assert_eq!(kinds(&epochs)[0], Kind::Diverged);

    let mut cuts = checker();
    let (whole, halves) = ([batch(1, 0, 2, 0)], [batch(1, 0, 1, 0), batch(1, 1, 1, 1)]);
    finish(&mut cuts, [chunk(2, &whole), chunk(2, &whole), chunk(2, &halves)]);
    assert_eq!(kinds(&cuts)[0], Kind::Diverged);

    let mut lengths = checker();
    finish(&mut lengths, [chunk(2, &whole), chunk(2, &whole), chunk(0, &[])]);
    assert_eq!(kinds(&lengths)[0], Kind::Diverged);
}

#[test]
fn a_read_has_no_holes_and_ends_at_the_high_watermark() {
    for (from, high_watermark, log) in [
        (0, 2, vec![batch(1, 0, 1, 1)]),
        (1, 1, vec![batch(1, 0, 1, 0)]),
        (0, 9, vec![batch(1, 0, 1, 0), batch(1, 1, 1, 2)]),
        (0, 1, vec![batch(1, 0, 2, 0)]),
    ] {
        let mut checker = checker();
        checker.read(PARTITION, NODES[0], Offset(from), &chunk(high_watermark, &log));
        assert_eq!(kinds(&checker), [Kind::Hole], "{from} {high_watermark}");
    }
    let mut short = checker();
    finish_alike(&mut short, chunk(3, &[batch(1, 0, 1, 0)]));
    assert!(kinds(&short).contains(&Kind::Hole), "less than the high watermark says");
}

#[test]
fn damage_is_noticed_also_in_what_was_seen_before() {
    let sound = batch(1, 0, 1, 0);
    let mut damaged = sound.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut checker = checker();
    checker.read(PARTITION, NODES[0], Offset(0), &chunk(1, &[sound]));
    checker.read(PARTITION, NODES[1], Offset(0), &chunk(1, &[damaged.into()]));
    assert_eq!(kinds(&checker), [Kind::Damaged]);
}

#[test]
fn bounds_are_not_older_than_the_question() {
    let mut after_ack = checker();
    after_ack.acked(PARTITION, value(1, 0), 2, Offset(0));
    let known = after_ack.asks_bounds(PARTITION);
    after_ack.bounds(PARTITION, known, Offset(1));
    assert_eq!(kinds(&after_ack), [Kind::Stale]);

    let mut after_read = checker();
    after_read.read(PARTITION, NODES[0], Offset(0), &chunk(2, &[batch(1, 0, 2, 0)]));
    let known = after_read.asks_bounds(PARTITION);
    after_read.bounds(PARTITION, known, Offset(0));
    assert_eq!(kinds(&after_read), [Kind::Stale]);

    let mut after_bounds = checker();
    after_bounds.bounds(PARTITION, Offset(0), Offset(2));
    let known = after_bounds.asks_bounds(PARTITION);
    after_bounds.bounds(PARTITION, known, Offset(1));
    assert_eq!(kinds(&after_bounds), [Kind::Stale]);

    let mut meanwhile = checker();
    let known = meanwhile.asks_bounds(PARTITION);
    meanwhile.acked(PARTITION, value(1, 0), 2, Offset(0));
    meanwhile.bounds(PARTITION, known, Offset(0));
    assert_eq!(meanwhile.anomalies(), [], "what came after the question may be missing");
}

#[test]
fn a_process_does_not_take_its_high_watermark_back() {
    let mut checker = checker();
    checker.high_watermark(NODES[0], (1, ReplicaId(1)), PARTITION, Offset(5));
    checker.high_watermark(NODES[1], (1, ReplicaId(1)), PARTITION, Offset(3));
    checker.high_watermark(NODES[0], (2, ReplicaId(1)), PARTITION, Offset(4));
    assert_eq!(checker.anomalies(), [], "another node and another process may know less");
    checker.high_watermark(NODES[0], (2, ReplicaId(7)), PARTITION, Offset(1));
    assert!(checker.anomalies().is_empty(), "another replica has a high watermark of its own");
    checker.high_watermark(NODES[0], (2, ReplicaId(1)), PARTITION, Offset(3));
    assert_eq!(kinds(&checker), [Kind::Regressed]);
}
