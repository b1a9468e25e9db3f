//! Histories made by hand: for every rule one that keeps it and one that breaks it. Those of the shared rules have more of them where
//! they stand; here it is shown that what clients of the simulator tell reaches them.

use levada_protocol::{
    batch,
    ids::{PartitionId, TopicId},
};
use uuid::Uuid;

use super::*;
use crate::batches;

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

/// What two streams of ten values tell.
struct Told {
    checker: Checker,
    streams: [Begun; 2],
}

impl Told {
    fn new() -> Self {
        let mut checker = Checker::default();
        let streams = [1, 2].map(|stream| checker.sends(PARTITION, value(stream, 0), 10));
        Self { checker, streams }
    }

    /// The first of a stream are acknowledged.
    fn acked(&mut self, stream: u32, count: u32, base: u64) -> &mut Self {
        let begun = self.streams[stream as usize - 1];
        self.checker.acked(begun, value(stream, 0), count, Offset(base));
        self
    }

    fn read(&mut self, node: NodeId, from: u64, chunk: &Chunk) -> u64 {
        let begun = self.checker.reads(PARTITION, node, Offset(from));
        self.checker.read(begun, Offset(from), chunk).get()
    }

    fn bounds(&mut self, end: u64) -> &mut Self {
        let begun = self.checker.asks_bounds(PARTITION);
        self.checker.bounds(begun, Offset(end));
        self
    }

    fn finish(&mut self, logs: [Chunk; 3]) -> &mut Self {
        let replicas: Vec<FinalLog> = NODES.into_iter().zip(logs).map(|(node, log)| FinalLog { node, log }).collect();
        self.checker.finish(PARTITION, &replicas);
        self
    }

    /// All replicas end alike.
    fn finish_alike(&mut self, log: Chunk) -> &mut Self {
        self.finish([log.clone(), log.clone(), log])
    }

    /// The kinds of what is found in the end, each once.
    fn kinds(&mut self) -> Vec<Kind> {
        self.checker.judge();
        let kinds: BTreeSet<Kind> = self.checker.anomalies().iter().map(|anomaly| anomaly.kind).collect();
        kinds.into_iter().collect()
    }
}

#[test]
fn a_sound_history_is_sound() {
    let mut told = Told::new();
    told.acked(1, 2, 0);
    let asked = told.checker.asks_bounds(PARTITION);
    told.acked(2, 1, 2);
    told.checker.bounds(asked, Offset(2));
    let log = [batch(1, 0, 2, 0), batch(2, 0, 1, 2), batch(1, 2, 3, 3)];
    assert_eq!(told.read(NODES[0], 0, &chunk(3, &log[..2])), 3);
    assert_eq!(told.read(NODES[1], 1, &chunk(2, &log[..1])), 2, "from within a batch");
    assert_eq!(told.read(NODES[1], 2, &chunk(2, &[])), 2);
    assert_eq!(told.acked(2, 1, 2).finish_alike(chunk(6, &log)).kinds(), []);
    assert_eq!(told.checker.counts(), Counts { acked: 4, read: 5 + 18, bounds: 1 });
    assert_eq!(told.checker.known_end(PARTITION), Offset(6));
}

#[test]
fn what_was_told_must_be_there() {
    assert_eq!(Told::new().acked(1, 2, 0).finish_alike(chunk(0, &[])).kinds(), [Kind::Lost]);
    assert_eq!(Told::new().bounds(1).finish_alike(chunk(0, &[])).kinds(), [Kind::Lost]);
    let mut read = Told::new();
    read.read(NODES[0], 0, &chunk(1, &[batch(1, 0, 1, 0)]));
    assert_eq!(read.finish_alike(chunk(0, &[])).kinds(), [Kind::Lost]);
}

#[test]
fn when_it_was_told_is_said() {
    let mut told = Told::new();
    told.checker.time_is(1_500_000);
    told.acked(1, 1, 0).finish_alike(chunk(0, &[])).kinds();
    let what = told.checker.anomalies()[0].to_string();
    assert!(what.contains("10000000000 was acknowledged at offset 0") && what.contains("1.500000 s"), "{what}");
}

#[test]
fn what_was_acknowledged_must_be_where_it_was_said_to_be() {
    let other = Told::new().acked(1, 1, 0).finish_alike(chunk(1, &[batch(2, 0, 1, 0)])).kinds();
    assert_eq!(other, [Kind::Lost, Kind::TwoValues]);
    let log = chunk(2, &[batch(2, 0, 1, 0), batch(1, 0, 1, 1)]);
    assert_eq!(Told::new().acked(1, 1, 0).finish_alike(log).kinds(), [Kind::TwoValues, Kind::Duplicate]);
}

#[test]
fn a_value_stands_once() {
    let twice = chunk(2, &[batch(1, 0, 1, 0), batch(1, 0, 1, 1)]);
    assert_eq!(Told::new().finish_alike(twice).kinds(), [Kind::Duplicate]);
    let log = chunk(1, &[batch(1, 0, 1, 0)]);
    let acked_twice = Told::new().acked(1, 1, 0).acked(1, 1, 5).finish_alike(log).kinds();
    assert!(acked_twice.contains(&Kind::Duplicate), "{acked_twice:?}");
}

#[test]
fn a_producer_id_is_given_once() {
    let mut told = Told::new();
    told.checker.producer_id(ProducerId(1));
    told.checker.producer_id(ProducerId(2));
    assert_eq!(told.kinds(), []);
    told.checker.producer_id(ProducerId(1));
    assert_eq!(told.kinds(), [Kind::Duplicate]);
}

#[test]
fn nothing_comes_from_nowhere() {
    let mut nobodys = Told::new();
    nobodys.read(NODES[0], 0, &chunk(1, &[batch(3, 0, 1, 0)]));
    assert_eq!(nobodys.kinds(), [Kind::Phantom]);
    let mut beyond = Told::new();
    beyond.read(NODES[0], 1, &chunk(12, &[batch(1, 9, 2, 1)]));
    assert_eq!(beyond.kinds(), [Kind::Phantom], "number 10 was not sent");
}

#[test]
fn a_stream_is_in_order_and_whole() {
    for log in [
        [batch(1, 1, 1, 0), batch(1, 0, 1, 1)],
        [batch(1, 0, 1, 0), batch(1, 2, 1, 1)],
        [batch(2, 0, 1, 0), batch(1, 1, 1, 1)],
    ] {
        assert_eq!(Told::new().finish_alike(chunk(2, &log)).kinds(), [Kind::Order]);
    }
}

#[test]
fn what_is_below_the_log_start_may_be_gone() {
    let log = [batch(1, 0, 2, 0), batch(1, 2, 2, 2)];
    let mut told = Told::new();
    told.acked(1, 2, 0).read(NODES[0], 0, &chunk(4, &log));
    assert_eq!(told.finish_alike(Chunk { log_start: Offset(2), ..chunk(4, &log[1..]) }).kinds(), []);
    let emptied = |log_start| Chunk { log_start: Offset(log_start), ..chunk(2, &[]) };
    assert_eq!(Told::new().acked(1, 2, 0).finish_alike(emptied(2)).kinds(), []);
    assert!(Told::new().acked(1, 2, 0).finish_alike(emptied(1)).kinds().contains(&Kind::Lost));
}

#[test]
fn replicas_have_the_same_bytes() {
    let log = |epoch| chunk(1, &[batch_of(value(1, 0), 1, 0, epoch)]);
    assert!(Told::new().finish([log(1), log(1), log(2)]).kinds().contains(&Kind::Diverged), "epochs");

    let (whole, halves) = ([batch(1, 0, 2, 0)], [batch(1, 0, 1, 0), batch(1, 1, 1, 1)]);
    let cuts = [chunk(2, &whole), chunk(2, &whole), chunk(2, &halves)];
    assert!(Told::new().finish(cuts).kinds().contains(&Kind::Diverged), "cuts");

    let lengths = [chunk(2, &whole), chunk(2, &whole), chunk(0, &[])];
    assert_eq!(Told::new().finish(lengths).kinds(), [Kind::Diverged]);
}

#[test]
fn a_read_has_no_holes_and_ends_at_the_high_watermark() {
    for (from, high_watermark, log) in [
        (0, 2, vec![batch(1, 0, 1, 1)]),
        (1, 1, vec![batch(1, 0, 1, 0)]),
        (0, 9, vec![batch(1, 0, 1, 0), batch(1, 1, 1, 2)]),
        (0, 1, vec![batch(1, 0, 2, 0)]),
    ] {
        let mut told = Told::new();
        told.read(NODES[0], from, &chunk(high_watermark, &log));
        assert_eq!(told.kinds(), [Kind::Hole], "{from} {high_watermark}");
    }
    let short = Told::new().finish_alike(chunk(3, &[batch(1, 0, 1, 0)])).kinds();
    assert!(short.contains(&Kind::Hole), "less than the high watermark says");
}

#[test]
fn damage_is_noticed_also_in_what_was_seen_before() {
    let sound = batch(1, 0, 1, 0);
    let mut damaged = sound.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut told = Told::new();
    told.read(NODES[0], 0, &chunk(1, &[sound]));
    told.read(NODES[1], 0, &chunk(1, &[damaged.into()]));
    assert_eq!(told.kinds(), [Kind::Damaged]);
}

#[test]
fn bounds_are_not_older_than_the_question() {
    assert_eq!(Told::new().acked(1, 2, 0).bounds(1).kinds(), [Kind::Stale]);
    assert_eq!(Told::new().bounds(2).bounds(1).kinds(), [Kind::Stale]);
    let mut after_read = Told::new();
    after_read.read(NODES[0], 0, &chunk(2, &[batch(1, 0, 2, 0)]));
    assert_eq!(after_read.bounds(0).kinds(), [Kind::Stale]);

    let mut meanwhile = Told::new();
    let asked = meanwhile.checker.asks_bounds(PARTITION);
    meanwhile.acked(1, 2, 0).checker.bounds(asked, Offset(0));
    assert_eq!(meanwhile.kinds(), [], "what came after the question may be missing");
}

#[test]
fn a_process_does_not_take_its_high_watermark_back() {
    let mut told = Told::new();
    let checker = &mut told.checker;
    checker.high_watermark(NODES[0], (1, ReplicaId(1)), PARTITION, Offset(5));
    checker.high_watermark(NODES[1], (1, ReplicaId(1)), PARTITION, Offset(3));
    checker.high_watermark(NODES[0], (2, ReplicaId(1)), PARTITION, Offset(4));
    assert_eq!(checker.anomalies(), [], "another node and another process may know less");
    checker.high_watermark(NODES[0], (2, ReplicaId(7)), PARTITION, Offset(1));
    assert!(checker.anomalies().is_empty(), "another replica has a high watermark of its own");
    checker.high_watermark(NODES[0], (2, ReplicaId(1)), PARTITION, Offset(3));
    assert_eq!(told.kinds(), [Kind::Regressed]);
}
