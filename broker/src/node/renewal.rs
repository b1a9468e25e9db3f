//! A node whose replica of the metadata group is lost begins with another, which the controller has given it.
//!
//! What is lost is that replica, not the data directory: the node stays who it is, replicas that are not in doubt go on, and
//! those that are say so to their leaders, as ever. But all of that needs the metadata first, and its replica may not vote
//! again under its old number. So before anything of it runs, it is exchanged on the disk
//! (`levada_storage_engine::store::Store::renew_metadata`).
//!
//! It is lost when the journal has lost its word, or when the cluster has given it up (`regaining.rs`). The first is seen at a start.
//! The second the controller tells the node, which ends, and begins again without the replica
//! ([`NodeConfig::member_loss`]). That is told again and again, so nothing has to be remembered on the way.
//!
//! A replica that only needs entries that its leader does not have any more (`shortening.rs`) is told so, too. It is sound, and may
//! be needed for the majority without which nobody is given another. So it goes on under its number, from a state that any
//! other node gives it: what a node has applied is committed, and if that is not older than the last entry here, no promise is
//! broken by leaving out what is before it (Raft §7).

use std::{collections::BTreeSet, sync::Arc};

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{GroupId, IncarnationId, LogIndex, NodeId, ReplicaId, Term},
};
use levada_storage_engine::{
    disk::Disk,
    store::{DirIdentity, GroupState, Store},
};

use super::{
    Node, NodeConfig, NodeOpenError,
    event::{Answer, Effect},
    placing::stranded,
};
use crate::{
    cluster::metadata::{Metadata, unknown_node},
    raft::{membership::Membership, wire::PeerMessage},
};

impl Node {
    /// Lets the metadata group of a data directory go on from what another node says, durably: as the replica that it is, or as
    /// another, if that is what it says.
    ///
    /// # Errors
    /// That is no metadata, or the directory cannot be written.
    pub fn renew_metadata(disk: Arc<dyn Disk>, config: &NodeConfig, state: GroupState) -> Result<(), NodeOpenError> {
        let (group, identity) = (GroupId::METADATA, config.identity());
        let unsound = |why: String| NodeOpenError::State { group, why };
        let recovered = Store::open(disk, config.store, &identity)?;
        let known = recovered.groups.iter().find(|known| known.group == group).map(|known| known.conf_state.clone());
        let known = Membership::decode(&known.unwrap_or_default()).map_err(|error| unsound(error.to_string()))?;
        let known = known.map_or(ReplicaId(config.node.get()), |membership| membership.replica);
        let given = Membership::decode(&state.conf_state).map_err(|error| unsound(error.to_string()))?;
        if given.is_some_and(|given| given.replica == known) {
            return Ok(recovered.store.catch_up_metadata(state)?);
        }
        let metadata = Metadata::decode(state.app_state.clone());
        let metadata = metadata.map_err(|error| unsound(error.to_string()))?;
        let partitions = metadata.topics().flat_map(|topic| &topic.partitions);
        let replicated: BTreeSet<GroupId> = partitions
            .filter(|partition| partition.known().any(|replica| replica.node == config.node))
            .map(|partition| partition.group)
            .collect();
        Ok(recovered.store.renew_metadata(state, replicated)?)
    }

    /// A checkpoint is durable: ends the node if it has another replica of group 0 now, and the checkpoint says so.
    pub(super) fn end_renewed(&mut self, out: &mut Vec<Effect>) {
        let Some(renewed_at) = self.renewed_at else { return };
        let is_known = self.store.snapshot(GroupId::METADATA).is_some_and(|known| known.applied() >= renewed_at);
        if is_known {
            let metadata = self.controller.current();
            let message = NodeOpenError::metadata_damaged(self.controller.group.replica(), None, metadata).to_string();
            out.push(Effect::GiveUpMetadata { loss: MemberLoss::GivenUp, message });
        } else {
            self.begin_checkpoint();
        }
    }

    /// As leader of group 0: a replica has no place in it any more, or cannot be brought up to date. (Nodes that are not in the
    /// cluster any more get no other: they end when they register.)
    pub(super) fn tell_member_that_it_is_lost(
        &self,
        node: NodeId,
        replica: ReplicaId,
        loss: MemberLoss,
        out: &mut Vec<Effect>,
    ) {
        let is_known = self.controller.current().nodes().contains_key(&node);
        let group = &self.controller.group;
        if group.is_leader() && is_known && node != self.config.node {
            let term = group.term();
            out.push(Effect::Send { to: node, message: PeerMessage::MemberLost { replica, loss, term } });
        }
    }

    /// As leader of group 0: members that need entries which are not here any more are told so. It may be that nothing is
    /// committed without them. Each is asked first whether it still does: it may have come back with a later state.
    pub(super) fn see_to_stranded_members(&mut self, out: &mut Vec<Effect>) {
        let group = &mut self.controller.group;
        let stranded = if group.is_leader() { stranded(group) } else { Vec::new() };
        let told: Vec<ReplicaId> =
            stranded.iter().copied().filter(|replica| self.asked_further.contains(replica)).collect();
        self.asked_further = stranded.into_iter().filter(|replica| !told.contains(replica)).collect();
        for replica in &self.asked_further {
            group.ask_further(*replica);
            self.dirty.insert(GroupId::METADATA);
        }
        for replica in told {
            if let Some(&node) = self.controller.group.replicas().get(&replica) {
                tracing::warn!(%replica, %node, "metadata.member.stranded: it needs what no log has any more, and goes on from a later state");
                self.tell_member_that_it_is_lost(node, replica, MemberLoss::Behind, out);
            }
        }
    }

    /// The metadata as it is here, for a replica that has its log up to an entry and needs what follows.
    ///
    /// # Errors
    /// The replica is not that node's (any more), or this node knows no more than it does.
    pub(super) fn state_for_member(
        &self,
        node: NodeId,
        incarnation: IncarnationId,
        replica: ReplicaId,
        sound_to: LogIndex,
    ) -> Result<Answer, Error> {
        let known = self.controller.current().nodes().get(&node).ok_or_else(|| unknown_node(node))?;
        let is_its = known.incarnation == incarnation && known.member.unwrap_or(ReplicaId(node.get())) == replica;
        if !is_its || self.controller.applied() < sound_to {
            let why =
                format!("node {} has nothing for replica {replica} of the metadata; ask another", self.config.node);
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        Ok(Answer::Joined(Box::new(self.controller.state_for(replica))))
    }

    /// The controller says that this node's replica of group 0 is lost. Nobody else is believed in the same term, as long as it
    /// follows somebody; in a later one, this replica may well be one of those that are given up and do not know it.
    pub(super) fn on_member_lost(
        &self,
        (from, term): (NodeId, Term),
        replica: ReplicaId,
        loss: MemberLoss,
        out: &mut Vec<Effect>,
    ) {
        let group = &self.controller.group;
        let is_believed =
            term > group.term() || !group.is_leader() && group.leader().is_none_or(|leader| leader == from);
        if replica == group.replica() && is_believed {
            let message =
                format!("node {from} says that replica {replica} of the metadata cannot go on with what it has");
            out.push(Effect::GiveUpMetadata { loss, message });
        }
    }

    /// Groups of topics that were deleted before the metadata begins that this node has: no command says so any more. Numbers of
    /// groups are given in order and once, so who is not named by now never will be.
    pub(super) fn forget_deleted(&mut self, metadata: &Metadata) {
        let is_deleted = |group: &GroupId| {
            *group != GroupId::METADATA && *group < metadata.next_group() && metadata.partition_of(*group).is_none()
        };
        let here = self.dormant.keys().copied().chain(self.store.doubted());
        let deleted: BTreeSet<GroupId> = here.filter(is_deleted).collect();
        for group in deleted {
            self.dormant.remove(&group);
            self.store.remove_group(group);
        }
    }
}

/// Why a node does not go on with its replica of the metadata group as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberLoss {
    /// It is sound, and needs entries that no log has any more.
    Behind,
    /// It must not vote any more.
    GivenUp,
}

impl NodeConfig {
    /// Whose data directory it is.
    pub(super) const fn identity(&self) -> DirIdentity {
        DirIdentity { cluster: self.cluster, node: self.node, incarnation: self.incarnation }
    }
}
