//! Histories told by hand, so that a test reads as a story.
//!
//! Every event happens a millisecond after the one before, unless the story waits.

use std::ops::Range;

use crate::{
    history::{Event, Index, Key, Offset, Op, Phase, Process, Value},
    verdict::Check,
};

/// The key of all stories that need only one.
pub(crate) const KEY: Key = 7;
/// Where finals are read.
pub(crate) const NODES: [u64; 3] = [1, 2, 3];

/// A history in the making.
#[derive(Default)]
pub(crate) struct Story {
    events: Vec<Event>,
    now_ns: u64,
    key: Option<Key>,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What happened.
    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// What follows is about another key.
    pub(crate) fn about(&mut self, key: Key) -> &mut Self {
        self.key = Some(key);
        self
    }

    /// Nothing happens for a while.
    pub(crate) fn wait_ms(&mut self, ms: u64) -> &mut Self {
        self.now_ns += ms * 1_000_000;
        self
    }

    fn key(&self) -> Key {
        self.key.unwrap_or(KEY)
    }

    fn push(&mut self, process: Process, node: Option<u64>, phase: Phase, invocation: Option<Index>, op: Op) -> Index {
        let index = self.events.len() as Index;
        let invocation = invocation.unwrap_or(index);
        self.events.push(Event { index, time_ns: self.now_ns, process, node, phase, invocation, op, error: None });
        self.wait_ms(1);
        index
    }

    /// A process begins an operation.
    pub(crate) fn begin(&mut self, process: Process, op: Op) -> Index {
        self.push(process, None, Phase::Invoke, None, op)
    }

    /// An operation completes so.
    pub(crate) fn complete(&mut self, invocation: Index, phase: Phase, op: Op) -> Index {
        let Event { process, node, .. } = self.events[usize::try_from(invocation).unwrap()];
        self.push(process, node, phase, Some(invocation), op)
    }

    fn op(&self, invocation: Index) -> Op {
        self.events[usize::try_from(invocation).unwrap()].op.clone()
    }

    /// An operation is certainly not done.
    pub(crate) fn fails(&mut self, invocation: Index) -> Index {
        self.complete(invocation, Phase::Fail, self.op(invocation))
    }

    /// An operation fails, and the client is told why, or only that.
    pub(crate) fn fails_with(&mut self, invocation: Index, error: Option<&str>) -> Index {
        let index = self.fails(invocation);
        self.events.last_mut().unwrap().error = error.map(str::to_owned);
        index
    }

    /// Nobody knows what became of an operation.
    pub(crate) fn unsure(&mut self, invocation: Index) -> Index {
        self.complete(invocation, Phase::Info, self.op(invocation))
    }

    // --- logs

    /// A send begins.
    pub(crate) fn send(&mut self, process: Process, value: Value) -> Index {
        let key = self.key();
        self.begin(process, Op::Send { key, value, offset: None })
    }

    /// A send is acknowledged.
    pub(crate) fn acked(&mut self, invocation: Index, at: Offset) -> Index {
        let Op::Send { key, value, .. } = self.op(invocation) else { panic!("no send") };
        self.complete(invocation, Phase::Ok, Op::Send { key, value, offset: Some(at) })
    }

    /// A send, and its acknowledgement.
    pub(crate) fn sent(&mut self, process: Process, value: Value, at: Offset) -> &mut Self {
        let send = self.send(process, value);
        self.acked(send, at);
        self
    }

    /// A poll begins.
    pub(crate) fn poll(&mut self, process: Process, from: Offset) -> Index {
        let key = self.key();
        self.begin(process, Op::Poll { key, from, records: Vec::new() })
    }

    /// A poll is answered.
    pub(crate) fn shown(&mut self, invocation: Index, phase: Phase, records: &[(Offset, Value)]) -> Index {
        let Op::Poll { key, from, .. } = self.op(invocation) else { panic!("no poll") };
        self.complete(invocation, phase, Op::Poll { key, from, records: records.to_vec() })
    }

    /// A poll, and its answer.
    pub(crate) fn polled(&mut self, process: Process, from: Offset, records: &[(Offset, Value)]) -> &mut Self {
        let poll = self.poll(process, from);
        self.shown(poll, Phase::Ok, records);
        self
    }

    /// Somebody asks for the end.
    pub(crate) fn asks_end(&mut self, process: Process) -> Index {
        let key = self.key();
        self.begin(process, Op::End { key, offset: None })
    }

    /// The end is told.
    pub(crate) fn told_end(&mut self, invocation: Index, offset: Offset) -> Index {
        let Op::End { key, .. } = self.op(invocation) else { panic!("no end") };
        self.complete(invocation, Phase::Ok, Op::End { key, offset: Some(offset) })
    }

    /// A question for the end, and its answer.
    pub(crate) fn ends(&mut self, process: Process, offset: Offset) -> &mut Self {
        let end = self.asks_end(process);
        self.told_end(end, offset);
        self
    }

    /// The final read of one node begins.
    pub(crate) fn asks_final(&mut self, node: u64) -> Index {
        let op = Op::Final { key: self.key(), range: None, records: Vec::new() };
        self.push(99, Some(node), Phase::Invoke, None, op)
    }

    /// The final read of one node.
    pub(crate) fn final_of(&mut self, node: u64, records: &[(Offset, Value)]) -> &mut Self {
        self.final_in(node, None, records)
    }

    /// The final read of one node that says which offsets its log has.
    pub(crate) fn final_in(
        &mut self,
        node: u64,
        range: impl Into<Option<Range<Offset>>>,
        records: &[(Offset, Value)],
    ) -> &mut Self {
        let invocation = self.asks_final(node);
        let op = Op::Final { key: self.key(), range: range.into(), records: records.to_vec() };
        self.complete(invocation, Phase::Ok, op);
        self
    }

    /// All nodes end alike.
    pub(crate) fn finals(&mut self, records: &[(Offset, Value)]) -> &mut Self {
        for node in NODES {
            self.final_of(node, records);
        }
        self
    }

    /// A snapshot over both protocols.
    pub(crate) fn snapshot(
        &mut self,
        from: Offset,
        columns: &[(Offset, Value)],
        rows: &[(Offset, Value)],
    ) -> &mut Self {
        let key = self.key();
        let op = |columns, rows| Op::Snapshot { key, from, columns, rows };
        let invocation = self.begin(50, op(Vec::new(), Vec::new()));
        self.complete(invocation, Phase::Ok, op(columns.to_vec(), rows.to_vec()));
        self
    }
}

/// How many of each kind were found.
pub(crate) fn kinds(check: &Check) -> Vec<(&str, u64)> {
    check.counts.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
}

/// The events that the first anomaly names.
pub(crate) fn shown_by(check: &Check, kind: &str) -> Vec<Index> {
    let found = check.anomalies.iter().find(|anomaly| anomaly.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", check.anomalies)).events.clone()
}
