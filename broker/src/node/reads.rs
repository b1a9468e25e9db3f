//! What waits until a quorum has said that this node still leads a group.

use std::collections::BTreeMap;

use levada_protocol::{
    error::Error,
    ids::{GroupId, LogIndex},
};

use super::event::{Answer, Effect, RequestId};

/// An answer that must not come from a leader that leads no more.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// Whose.
    pub(super) id: RequestId,
    /// The group that leads here.
    pub(super) group: GroupId,
    /// What was decided by this node's log; `None` asks for what is true once the read is confirmed.
    pub(super) decided: Option<Result<Answer, Error>>,
}

/// Linearizable reads under way, by the context that raft gives back.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: BTreeMap<u64, Read>,
    next_context: u64,
}

impl Reads {
    /// Begins a read. Answers the context to hand to raft.
    pub(super) fn begin(&mut self, read: Read) -> u64 {
        let context = self.next_context;
        self.next_context += 1;
        self.waiting.insert(context, read);
        context
    }

    /// The read that raft has confirmed, unless it has failed meanwhile.
    pub(super) fn confirmed(&mut self, state: &raft::ReadState) -> Option<(Read, LogIndex)> {
        let context = u64::from_be_bytes(state.request_ctx.as_slice().try_into().ok()?);
        Some((self.waiting.remove(&context)?, LogIndex(state.index)))
    }

    /// Leadership of a group is lost: its reads cannot be answered here.
    pub(super) fn fail(&mut self, group: GroupId, error: &Error, out: &mut Vec<Effect>) {
        let failed = self.waiting.extract_if(.., |_, read| read.group == group);
        out.extend(failed.map(|(_, read)| Effect::Reply { id: read.id, result: Err(error.clone()) }));
    }
}
