//! What clients did and were told, written down as the harness does it, and judged by the same rules.

use std::collections::BTreeMap;

use levada_checkers::{
    history::{Event, Index, Key, Op, Phase, Process},
    log::{self, Options},
    verdict::{self, Verdict},
};
use levada_protocol::ids::{NodeId, TopicPartition};

use super::{Anomaly, Kind};

/// A history in the making.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The time.
    pub(super) now_us: u64,
    keys: BTreeMap<TopicPartition, Key>,
    events: Vec<Event>,
}

impl History {
    /// The key of a partition.
    pub(super) fn key(&mut self, partition: TopicPartition) -> Key {
        let next = Key::try_from(self.keys.len()).unwrap_or(Key::MAX);
        *self.keys.entry(partition).or_insert(next)
    }

    /// A process begins an operation.
    pub(super) fn begin(&mut self, process: Process, node: Option<NodeId>, op: Op) -> Index {
        let invocation = self.events.len() as Index;
        self.push(process, node.map(NodeId::get), Phase::Invoke, invocation, op)
    }

    /// An operation was done, and this is what its client was told. One that is told again is heard again.
    pub(super) fn end(&mut self, invocation: Index, op: Op) {
        let begun = usize::try_from(invocation).ok().and_then(|at| self.events.get(at));
        let Some((process, node)) = begun.map(|begun| (begun.process, begun.node)) else { return };
        self.push(process, node, Phase::Ok, invocation, op);
    }

    /// Which node an operation asks.
    pub(super) fn node(&self, invocation: Index) -> Option<NodeId> {
        self.events.get(usize::try_from(invocation).ok()?)?.node.map(NodeId)
    }

    fn push(&mut self, process: Process, node: Option<u64>, phase: Phase, invocation: Index, op: Op) -> Index {
        let index = self.events.len() as Index;
        let time_ns = self.now_us * 1_000;
        self.events.push(Event { index, time_ns, process, node, phase, invocation, op, error: None });
        index
    }

    /// What must not be. Without final reads, that is what is wrong with or without them.
    pub(super) fn judge(&self) -> Vec<Anomaly> {
        // There are no transactions and no compaction here. Logs may lose their beginnings in any world: topics keep records for
        // a week if nothing else is said, and clocks jump. A producer that lost its identity begins another stream.
        let options = Options { dense: true, retention: true, whole_streams: true, linearizable_polls: false };
        let check = log::check_with(&self.events, &options);
        let mut found: Vec<Anomaly> = check.anomalies.iter().map(|anomaly| self.tell(anomaly)).collect();
        let has_finals = self.events.iter().any(|event| matches!(event.op, Op::Final { .. }));
        if check.verdict == Verdict::Inconclusive && has_finals {
            found.push(Anomaly { kind: Kind::Unjudged, what: check.why.unwrap_or_default() });
        }
        found
    }

    fn tell(&self, anomaly: &verdict::Anomaly) -> Anomaly {
        let partition = self.keys.iter().find(|(_, key)| Some(**key) == anomaly.key);
        let partition = partition.map_or_else(String::new, |(partition, _)| partition.to_string());
        let event = |index: &Index| self.events.get(usize::try_from(*index).ok()?);
        let at =
            |event: &Event| format!("{}.{:06} s", event.time_ns / 1_000_000_000, event.time_ns / 1_000 % 1_000_000);
        let times: Vec<String> = anomaly.events.iter().filter_map(event).map(at).collect();
        let what = format!("{partition}: {} ({}, {})", anomaly.what, anomaly.kind, times.join(", "));
        Anomaly { kind: kind(&anomaly.kind), what }
    }
}

/// What a rule is called here.
fn kind(rule: &str) -> Kind {
    match rule {
        "lost-write" | "unseen" | "lost-end" => Kind::Lost,
        "inconsistent-offsets" => Kind::TwoValues,
        "duplicate" => Kind::Duplicate,
        "phantom" | "aborted-read" | "time-travel" => Kind::Phantom,
        "nonmonotonic-send" | "send-skip" => Kind::Order,
        "divergence" => Kind::Diverged,
        "nonmonotonic-poll" | "poll-skip" => Kind::Hole,
        "stale-send" | "stale-end" | "stale-poll" => Kind::Stale,
        _ => Kind::Unjudged,
    }
}
