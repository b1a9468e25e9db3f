//! The coordinator of a coordinator partition's groups: it decides, as the leader of that partition.
//!
//! **How it works.** A command comes in, [`Coordinator::step`] changes the state at once and gives the records that say so and
//! the answer. Whoever drives it writes these records to the partition's log, and answers when they are durable on a quorum
//! and it is still known to lead (an answer without records waits for what was decided before, and for a quorum's word that
//! nobody else leads). A follower applies the records ([`State::apply`]) and decides nothing: so an assignor may change
//! between builds, and a new leader begins with the state that it has, without reading history.
//!
//! **Who has a partition.** A member has what it was given until it has said that it let go, or was fenced; nobody else gets it before.
//! Three numbers see to it:
//! - the group's *epoch* rises whenever it changes who wants what; a target is computed for it at once;
//! - a member's *epoch* is the group's whose target it has come up to. It comes up only after it has let go of what is not in
//!   the target. What it says under another epoch than its last two is refused ([`ErrorCode::MemberFenced`]);
//! - a member's *version* rises with every change of what it has. It confirms by naming the version that it follows: a
//!   heartbeat that was under way for long, from before it was told to let go, confirms nothing.
//!
//! A member that a coordinator has not heard for its session timeout is fenced. A member must stop by itself when it has not been
//! answered for so long, counted from when it sent what was answered last, and then says that it has seen version 0: it is
//! told anew. As it sends before the coordinator hears it, it stops first. One that does not let go in time is not answered any more: it stops
//! when it hears of that, or when its session ends, and is fenced then and not sooner. Both count with clocks that never jump. A new leader begins to count anew when it begins to lead; that too
//! is after everything that the leader before it has answered.
//!
//! **Commits.** A member may commit for a partition that it has, with an epoch from the one in which the partition was given
//! to it up to its own: a rebalance that does not take the partition away does not make a commit fail, and an epoch in which
//! somebody else had it does.

mod admin;
mod membership;
mod offsets;
mod reconcile;
mod upkeep;
mod watch;

use std::collections::BTreeMap;

use levada_protocol::error::{Error, ErrorCode, Result};

pub use self::upkeep::{Fenced, Upkeep};
use self::watch::{Watch, Why};
use crate::{
    command::{Answer, Command, Now, Outcome},
    limits::{NAME_BYTES_MAX, STATE_BYTES_QUOTA},
    record::Record,
    state::{Group, State},
    topics::Topics,
};

/// The leader of a coordinator partition, as far as groups go.
///
/// Invariants: `state` is what the partition's log says up to its last entry; `watch` has a session for every member of it, and a
/// time to let go for those that are to let go of something.
#[derive(Debug)]
pub struct Coordinator {
    state: State,
    watch: Watch,
    /// The group that was looked at last.
    looked_at: String,
    /// From when on it has counted groups as idle, beyond the hours that are written down.
    idle: BTreeMap<String, u64>,
}

impl Coordinator {
    /// Begins to decide, with everything that was written down. Every member has a whole session before it.
    #[must_use]
    pub fn new(state: State, now: Now) -> Self {
        let mut watch = Watch::default();
        for (name, group) in state.groups() {
            for (id, member) in &group.members {
                watch.heard(name, id, member, now);
            }
        }
        Self { state, watch, looked_at: String::new(), idle: BTreeMap::new() }
    }

    /// What it has decided so far. Not all of it need be durable.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Carries out a command. What it gives must be written down before anything else that it gives.
    ///
    /// # Errors
    /// The command is refused, and nothing has changed.
    pub fn step(&mut self, now: Now, command: Command, topics: &impl Topics) -> Result<Outcome> {
        let mut records = Vec::new();
        let answer = match command {
            Command::Heartbeat(heartbeat) => Answer::Beat(self.heartbeat(now, heartbeat, topics, &mut records)?),
            Command::Leave { group, member, epoch, returns } => {
                self.leave(now, &group, &member, epoch, returns, topics, &mut records)?;
                Answer::Done
            }
            Command::Commit { group, member, offsets } => {
                self.commit(now, &group, member, offsets, &mut records)?;
                Answer::Done
            }
            Command::DeleteOffsets { group, places } => {
                self.delete_offsets(&group, places, &mut records)?;
                Answer::Done
            }
            Command::DeleteGroup { group } => {
                self.delete_group(&group, &mut records)?;
                Answer::Done
            }
        };
        Ok(Outcome { records, answer })
    }

    fn write(&mut self, record: Record, out: &mut Vec<Record>) {
        if let Record::GroupGone { group } = &record {
            self.idle.remove(group);
        }
        self.state.apply(&record);
        out.push(record);
    }

    /// How many bytes more have room.
    fn room_bytes(&self) -> usize {
        STATE_BYTES_QUOTA.saturating_sub(self.state.bytes())
    }

    /// Whether so many bytes more have room.
    fn check_bytes(&self, more: usize) -> Result<()> {
        if more > self.room_bytes() {
            return Err(quota("bytes of groups", STATE_BYTES_QUOTA));
        }
        Ok(())
    }

    fn group(&self, name: &str) -> Result<&Group> {
        self.state.group(name).ok_or_else(|| unknown_group(name))
    }
}

/// There is no group of this name.
#[must_use]
pub fn unknown_group(name: &str) -> Error {
    Error::new(
        ErrorCode::UnknownGroup,
        format!("there is no consumer group {name:?}: it never had a member or an offset, or they have expired"),
    )
}

/// Names of groups and members, and static ids: anything that a person could read and a log could hold.
fn check_name(what: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(64).collect();
        let why = format!("{shown:?} is not {what}: use 1 to {NAME_BYTES_MAX} bytes without control characters");
        return Err(Error::new(ErrorCode::InvalidName, why));
    }
    Ok(())
}

fn quota(what: &str, max: usize) -> Error {
    let why = format!(
        "the coordinator has {max} {what}, as many as it may; delete groups that nobody uses, or use other names"
    );
    Error::new(ErrorCode::GroupQuota, why)
}
