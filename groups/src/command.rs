//! What can be asked of a coordinator, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use levada_protocol::ids::TopicPartition;

use crate::{assign::Assignor, record::Record, state::MemberId};

/// The time, as the driver tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never jumps: for timeouts.
    pub mono_ms: u64,
    /// Milliseconds since 1970: for what is written down, and how long offsets are kept.
    pub wall_ms: i64,
}

/// Something that somebody wants changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A member joins, or says that it is there.
    Heartbeat(Heartbeat),
    /// A member leaves.
    Leave {
        /// Its group.
        group: String,
        /// The member.
        member: MemberId,
        /// Its epoch.
        epoch: u64,
        /// It has a static id, and will be back: what it has is kept for it until its session ends.
        returns: bool,
    },
    /// Offsets are committed, all or none.
    Commit {
        /// Of which group.
        group: String,
        /// By which member in which epoch; none for who is no member, which only a group without members lets commit.
        member: Option<(MemberId, u64)>,
        /// The offsets.
        offsets: BTreeMap<TopicPartition, Position>,
    },
    /// Committed offsets of a group without members go.
    DeleteOffsets {
        /// Of which group.
        group: String,
        /// Where.
        places: BTreeSet<TopicPartition>,
    },
    /// A group without members goes, with its offsets.
    DeleteGroup {
        /// Its name.
        group: String,
    },
}

/// An offset to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The next record to be read.
    pub offset: u64,
    /// The epoch of the leader that the record before it was read from.
    pub leader_epoch: Option<u64>,
    /// What the consumer says about it.
    pub metadata: String,
}

/// A member joins, or says that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group.
    pub group: String,
    /// The member's id. It joins once under an id: whoever was fenced joins under another.
    pub member: MemberId,
    /// Its epoch as it was told last; 0 to join.
    pub epoch: u64,
    /// The version of its assignment that it was told last, and follows: it has let go of everything else. 0 for none.
    pub seen: u64,
    /// Its static id, to join with.
    pub instance: Option<String>,
    /// What it calls itself, to join with.
    pub client: String,
    /// 0 for the default; to join with.
    pub session_timeout_ms: u32,
    /// 0 for the default; to join with.
    pub rebalance_timeout_ms: u32,
    /// The topics that it wants; `None` if they are those that it wanted before.
    pub topics: Option<BTreeSet<String>>,
    /// Rises with every change of the topics that it wants: what was under way for long changes nothing back.
    pub wish: u64,
    /// The assignor that it would have, to join with.
    pub assignor: Option<Assignor>,
}

/// What a command does and what is said of it, once what it does is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To be written down together. None: nothing changes.
    pub records: Vec<Record>,
    /// What to say.
    pub answer: Answer,
}

/// What a coordinator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Command::Heartbeat`].
    Beat(Beat),
    /// To the others.
    Done,
}

/// To a member that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Its epoch from now on.
    pub epoch: u64,
    /// The version of its assignment.
    pub version: u64,
    /// When it should say again that it is there.
    pub heartbeat_ms: u32,
    /// Its session ends when it has not been heard for so long.
    pub session_timeout_ms: u32,
    /// What it is to have, all of it; `None` if that is what it has seen.
    pub assignment: Option<BTreeSet<TopicPartition>>,
}
