//! The metadata goes on from what this node has of it, when an operator has said so: a majority of those who vote on it is gone
//! for good.
//!
//! It is done as for a partition (`alone.rs`), but nobody stands above the metadata who could say so to all. So:
//!
//! 1. Raft goes to a term far above all others, durably.
//! 2. A checkpoint has the new membership, this replica alone, and which entry is the last of the log from before
//!    (`Metadata::go_on_alone`). It is durable before raft has it, so this node never forgets it. Until it is, nothing has happened:
//!    a majority that comes back finds the replica that it knew.
//! 3. Then raft goes on alone, leads, and commits what is left of the log. It is applied as it would have been, but for what it
//!    says of the membership. With its last entry every other node gets another replica (`Metadata::give_up_others`).
//! 4. The others hear that their replicas are lost, from a controller in a later term, as soon as they say anything to it, or it to
//!    them. Each gets another (`renewal.rs`), a copy of the survivor's, even if it had been part of a majority that came back, or had
//!    gone on alone itself: there is one metadata again.

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, LogIndex, Term},
};
use levada_storage_engine::store::GroupCheckpoint;

use super::{
    MemberLoss, Node,
    controller::Controller,
    event::{Answer, Effect, RequestId},
};
use crate::cluster::feature::LEVEL_RECOVERY;

/// How far this node is, and who asked for it.
#[derive(Debug, Default)]
pub(super) struct Regaining {
    asked: Vec<RequestId>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Nothing,
    /// Until a checkpoint can begin.
    Waiting,
    /// The checkpoint under way has it, with this entry applied, and this one the last.
    Captured(LogIndex, LogIndex),
}

impl Regaining {
    /// Whether the next checkpoint is to have it.
    pub(super) fn is_waiting(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// Whether it can have it now. To be asked at the end of a round, as for partitions: raft has nothing to hand out then.
    pub(super) fn is_ready(&self, controller: &Controller) -> bool {
        self.is_waiting() && controller.group.is_leaderless() && controller.group.is_durable()
    }

    /// What the checkpoint that begins is to have of the metadata.
    pub(super) fn capture(&mut self, controller: &Controller) -> GroupCheckpoint {
        let group = &controller.group;
        if !self.is_ready(controller) {
            return controller.checkpoint();
        }
        self.stage = Stage::Captured(controller.applied(), group.last_index());
        GroupCheckpoint {
            conf_state: group.alone().encode(),
            app_state: controller.alone().encode(),
            ..controller.checkpoint()
        }
    }
}

impl Node {
    /// The metadata is to go on from what this node has. The answer comes when it does.
    pub(super) fn regain_metadata(&mut self, id: RequestId, out: &mut Vec<Effect>) {
        match self.begin_to_regain() {
            Ok(()) => self.regaining.asked.push(id),
            Err(error) => out.push(Effect::Reply { id, result: Err(error) }),
        }
    }

    fn begin_to_regain(&mut self) -> Result<()> {
        let group = &self.controller.group;
        if !group.is_leaderless() {
            return Err(led());
        }
        // What is not known to be committed may have raised it.
        if self.controller.applied() == group.last_index() {
            self.needs(LEVEL_RECOVERY)?;
        }
        if self.regaining.stage == Stage::Nothing {
            let ordinal = self.controller.ordinal();
            let group = &mut self.controller.group;
            tracing::warn!(replica = %group.replica(), conf = ?group.conf(), last = %group.last_index(), "metadata.recover: it is to go on from what is here");
            // Not the term of another one that does the same.
            group.skip_terms(ordinal);
            self.regaining.stage = Stage::Waiting;
            self.dirty.insert(GroupId::METADATA);
        }
        Ok(())
    }

    /// Every half second: whether there is still something to do.
    pub(super) fn go_on_regaining(&mut self, out: &mut Vec<Effect>) {
        if self.regaining.is_waiting() && !self.controller.group.is_leaderless() {
            self.end_regaining(Err(led()), out);
        }
    }

    /// The checkpoint under way is durable.
    pub(super) fn go_on_with_metadata_alone(&mut self, out: &mut Vec<Effect>) {
        let Stage::Captured(applied, last) = self.regaining.stage else { return };
        let group = &self.controller.group;
        if !group.is_leaderless() || self.controller.applied() != applied || group.last_index() != last {
            // Somebody leads it again, and the checkpoint says that nobody can.
            let why = "others have come back, and lead the metadata; this node gets another replica of it";
            self.end_regaining(Err(Error::new(ErrorCode::InvalidRequest, why)), out);
            let loss = MemberLoss::GivenUp { term: Term(0) };
            out.push(Effect::GiveUpMetadata { loss, message: why.to_owned() });
            return;
        }
        tracing::warn!(replica = %group.replica(), %last, "metadata.recovered: this replica goes on alone, the others are given up");
        self.controller.go_on_alone();
        self.view.metadata.send_replace(self.controller.metadata());
        self.dirty.insert(GroupId::METADATA);
        self.end_regaining(Ok(Answer::Done), out);
    }

    fn end_regaining(&mut self, result: Result<Answer>, out: &mut Vec<Effect>) {
        let Regaining { asked, .. } = std::mem::take(&mut self.regaining);
        out.extend(asked.into_iter().map(|id| Effect::Reply { id, result: result.clone() }));
    }
}

fn led() -> Error {
    Error::new(ErrorCode::NotNeeded, "somebody leads the metadata: there is nothing to recover")
}
