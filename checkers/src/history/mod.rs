//! Events, in the order in which they happened.
//!
//! Every operation has an invocation and at most one completion, which names it. A process may have several operations under way
//! (a producer does); what it sends to one key is then expected there in the order of the invocations. A client that heard nothing
//! certain completes its operation with [`Phase::Info`]: it may take effect at any later time, or never.
//!
//! Keys number partitions or registers, as the workload likes. Values sent to a log are unique within their key.

pub mod file;

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The number of an event in its history, from 0.
pub type Index = u64;
/// A client process that does one thing after another.
pub type Process = u32;
/// A partition, or a register.
pub type Key = u32;
/// What is written: unique within a key of a log.
pub type Value = u64;
/// A place in a log.
pub type Offset = u64;

/// What an event is to its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It begins.
    Invoke,
    /// It was done, and this is what the client was told.
    Ok,
    /// It was certainly not done, and never will be.
    Fail,
    /// Nobody knows: it may have been done, be done later, or never.
    Info,
}

/// What a client does. In an invocation, fields that only the answer can fill are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Appends a value to a log.
    Send {
        /// To which.
        key: Key,
        /// What.
        value: Value,
        /// Where it stands, when it was acknowledged.
        offset: Option<Offset>,
    },
    /// Reads a log from an offset on, from whoever leads it.
    Poll {
        /// Which.
        key: Key,
        /// From here on.
        from: Offset,
        /// What was shown, in order.
        records: Vec<(Offset, Value)>,
    },
    /// Asks, linearizably, how far a log reaches.
    End {
        /// Which.
        key: Key,
        /// The first offset without a committed record.
        offset: Option<Offset>,
    },
    /// Reads the whole log that one node has, after everything else: the event's node says which.
    Final {
        /// Which.
        key: Key,
        /// The offsets that the log is said to have, by that node or, where it does not say, by its leader; unknown in an
        /// invocation, and in histories of before.
        range: Option<Range<Offset>>,
        /// All of it, in order.
        records: Vec<(Offset, Value)>,
    },
    /// Reads the same offsets as Arrow over Flight and as rows over the native protocol.
    Snapshot {
        /// Of which log.
        key: Key,
        /// From here on.
        from: Offset,
        /// As Flight showed them.
        columns: Vec<(Offset, Value)>,
        /// As the native protocol showed them.
        rows: Vec<(Offset, Value)>,
    },
    /// Reads a register.
    Read {
        /// Which.
        key: Key,
        /// What it held; `None` when it was never written.
        value: Option<Value>,
    },
    /// Writes a register, whatever it holds.
    Write {
        /// Which.
        key: Key,
        /// What.
        value: Value,
    },
    /// Writes a register if it holds a certain value. [`Phase::Fail`]: it held another one.
    Cas {
        /// Which.
        key: Key,
        /// What it must hold.
        expected: Option<Value>,
        /// What it is to hold.
        value: Value,
    },
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub index: Index,
    /// When, in nanoseconds since the history began.
    pub time_ns: u64,
    /// Whose operation it is.
    pub process: Process,
    /// The node that was asked, where the client chose one.
    pub node: Option<u64>,
    /// What it is to its operation.
    pub phase: Phase,
    /// The index of the operation's invocation; its own, if it is that.
    pub invocation: Index,
    /// The operation.
    pub op: Op,
    /// Why it failed, or why nobody knows.
    pub error: Option<String>,
}

impl Op {
    /// Its name in the file.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Send { .. } => "send",
            Self::Poll { .. } => "poll",
            Self::End { .. } => "end",
            Self::Final { .. } => "final",
            Self::Snapshot { .. } => "snapshot",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Cas { .. } => "cas",
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub const fn changes(&self) -> bool {
        matches!(self, Self::Send { .. } | Self::Write { .. } | Self::Cas { .. })
    }

    /// The partition or register that it is about.
    #[must_use]
    pub const fn key(&self) -> Key {
        match *self {
            Self::Send { key, .. }
            | Self::Poll { key, .. }
            | Self::End { key, .. }
            | Self::Final { key, .. }
            | Self::Snapshot { key, .. }
            | Self::Read { key, .. }
            | Self::Write { key, .. }
            | Self::Cas { key, .. } => key,
        }
    }
}

impl Event {
    /// The invocation of its operation, if the history has it.
    pub(crate) fn begun<'a>(&self, events: &'a [Self]) -> Option<&'a Self> {
        let begun = |event: &&Self| event.index == self.invocation && event.phase == Phase::Invoke;
        // A history that begins with event 0 is its own index.
        let there = usize::try_from(self.invocation).ok().and_then(|i| events.get(i)).filter(begun);
        let search = || {
            let found = events.binary_search_by_key(&self.invocation, |event| event.index).ok()?;
            Some(&events[found]).filter(begun)
        };
        there.or_else(search)
    }

    /// Whether the client was told what it had asked for. That a register holds another value than expected is an answer, too.
    pub(crate) const fn answers(&self) -> bool {
        match self.phase {
            Phase::Ok => true,
            Phase::Fail => matches!(self.op, Op::Cas { .. }) && self.error.is_none(),
            Phase::Invoke | Phase::Info => false,
        }
    }
}
