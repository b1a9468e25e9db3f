//! The metadata goes on from what this node has of it, when an operator has said so: a majority of those who vote on it is gone
//! for good.
//!
//! It is done as for a partition (`alone.rs`), but nobody stands above the metadata who could say so to all. So:
//!
//! 1. What is in the log here counts as committed, and is applied. There is nobody who could say otherwise.
//! 2. A checkpoint has the new membership, this replica alone, and metadata in which every other node has another replica
//!    (`Metadata::go_on_alone`). It is durable before raft has it, so this node never forgets it.
//! 3. Then raft goes on alone, in a term far above all others, and leads.
//! 4. The others hear that their replicas are lost, from a controller in a later term, as soon as they say anything to it. Each gets
//!    another (`renewal.rs`), a copy of the survivor's, even if it had been part of a majority that came back: there is one
//!    metadata again.

use levada_protocol::{
    error::{Error, ErrorCode, Result},
    ids::{GroupId, LogIndex},
};
use levada_storage_engine::store::GroupCheckpoint;

use super::{
    Node,
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
    /// Until everything is applied, and a checkpoint can begin.
    Waiting,
    /// The checkpoint under way has it, as of this entry.
    Captured(LogIndex),
}

impl Regaining {
    /// What the checkpoint that begins is to have of the metadata.
    pub(super) fn capture(&mut self, controller: &Controller) -> GroupCheckpoint {
        let group = &controller.group;
        let is_ready = self.stage == Stage::Waiting
            && group.is_leaderless()
            && controller.applied() == group.last_index()
            && controller.current().feature_level() >= LEVEL_RECOVERY;
        if !is_ready {
            return controller.checkpoint();
        }
        self.stage = Stage::Captured(controller.applied());
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
        let group = &mut self.controller.group;
        if !group.is_leaderless() {
            return Err(led());
        }
        if self.regaining.stage == Stage::Nothing {
            tracing::warn!(replica = %group.replica(), conf = ?group.conf(), last = %group.last_index(), "metadata.recover: it is to go on from what is here");
            group.skip_terms();
            group.commit_all();
            self.regaining.stage = Stage::Waiting;
            self.dirty.insert(GroupId::METADATA);
        }
        Ok(())
    }

    /// Every half second: begins the checkpoint, if one was under way before.
    pub(super) fn go_on_regaining(&mut self, out: &mut Vec<Effect>) {
        if self.regaining.stage != Stage::Waiting {
            return;
        }
        // What was not known to be committed before may have raised it.
        let allowed = if self.controller.applied() == self.controller.group.last_index() {
            self.needs(LEVEL_RECOVERY)
        } else {
            Ok(())
        };
        if let Err(error) = allowed {
            self.end_regaining(Err(error), out);
        } else if self.controller.group.is_leaderless() {
            self.store.recapture(GroupId::METADATA);
            self.begin_checkpoint();
        } else {
            self.end_regaining(Err(led()), out);
        }
    }

    /// The checkpoint under way is durable.
    pub(super) fn go_on_with_metadata_alone(&mut self, out: &mut Vec<Effect>) {
        let Stage::Captured(applied) = self.regaining.stage else { return };
        let group = &self.controller.group;
        if !group.is_leaderless() || self.controller.applied() != applied {
            // Somebody leads it again: the next checkpoint is to say what is so.
            self.end_regaining(Err(led()), out);
            self.store.recapture(GroupId::METADATA);
            self.begin_checkpoint();
            return;
        }
        tracing::warn!(replica = %group.replica(), last = %group.last_index(), "metadata.recovered: this replica goes on alone, the others are given up");
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
    Error::new(ErrorCode::InvalidRequest, "somebody leads the metadata: there is nothing to recover")
}
