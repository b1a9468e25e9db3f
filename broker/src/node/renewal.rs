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
//! other node gives it: what a node has applied is committed, and if that does not end before the log here does, or ends in a later
//! term, no promise is broken by leaving out what is before it (Raft §7).

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use levada_protocol::{
    error::{Error, ErrorCode},
    ids::{GroupId, IncarnationId, LogIndex, NodeId, ReplicaId, Term},
};
use levada_storage_engine::{
    disk::Disk,
    log::Log,
    store::{DirIdentity, GroupState, Store},
};

use raft::eraftpb;

use super::{
    Node, NodeConfig, NodeOpenError,
    event::{Answer, Effect},
    placing::stranded,
};
use crate::{
    cluster::metadata::{Metadata, unknown_node},
    raft::{TICK_MS, membership::Membership, wire::PeerMessage},
};

/// A member that is asked whether it has come further answers within so many ticks.
const ANSWER_TICKS: u64 = 500 / TICK_MS;
/// What it answered longer ago holds no more.
const ASKED_TICKS: u64 = 3_000 / TICK_MS;

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
            let message =
                NodeOpenError::metadata_damaged(self.controller.group.replica(), Need::default(), metadata).to_string();
            out.push(Effect::GiveUpMetadata { loss: MemberLoss::GivenUp { term: Term(0) }, message });
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
        let now = self.ticks;
        self.asked_further.retain(|_, asked| now < *asked + ASKED_TICKS);
        let group = &mut self.controller.group;
        let stranded = if group.is_leader() { stranded(group) } else { Vec::new() };
        let first = group.log().first_index();
        for replica in stranded {
            let Some(asked) = self.asked_further.get(&replica) else {
                self.asked_further.insert(replica, now);
                self.controller.group.ask_further(replica);
                self.dirty.insert(GroupId::METADATA);
                continue;
            };
            if now < asked + ANSWER_TICKS {
                continue;
            }
            self.asked_further.remove(&replica);
            if let Some(&node) = self.controller.group.replicas().get(&replica) {
                tracing::warn!(%replica, %node, "metadata.member.stranded: it needs what is not in the log here any more, and goes on from a later state");
                self.tell_member_that_it_is_lost(node, replica, MemberLoss::Behind { first }, out);
            }
        }
    }

    /// The metadata as it is here, for a replica that goes on from it.
    ///
    /// # Errors
    /// The replica is not that node's (any more), or the metadata here is not what it needs.
    pub(super) fn state_for_member(
        &self,
        node: NodeId,
        incarnation: IncarnationId,
        replica: ReplicaId,
        need: &Need,
    ) -> Result<Answer, Error> {
        let metadata = self.controller.current();
        let known = metadata.nodes().get(&node).ok_or_else(|| unknown_node(node))?;
        let is_its = known.incarnation == incarnation && known.member.unwrap_or(ReplicaId(node.get())) == replica;
        let state = self.controller.state_for(replica);
        if !is_its || !metadata.is_settled() || !need.is_met_by(&state) {
            let why =
                format!("node {} has nothing for replica {replica} of the metadata; ask another", self.config.node);
            return Err(Error::new(ErrorCode::NotReady, why));
        }
        Ok(Answer::Joined(Box::new(state)))
    }

    /// Whether a message of group 0 comes from somebody who knows the same metadata, or an earlier state of it. Where it has gone on
    /// without a majority, there may be others who do not know it, or that did so themselves: then one of us is given up.
    pub(super) fn is_of_one_history(&self, from: NodeId, message: &eraftpb::Message, out: &mut Vec<Effect>) -> bool {
        let group = &self.controller.group;
        let (sender, to, term) = (ReplicaId(message.get_from()), ReplicaId(message.get_to()), Term(message.get_term()));
        // Numbers rise with terms: where this node has a higher one, more is known than here.
        if to > group.replica() && term > group.term() {
            let message = format!("node {from} takes this node for replica {to} of the metadata, in a later term");
            out.push(Effect::GiveUpMetadata { loss: MemberLoss::GivenUp { term }, message });
            return false;
        }
        let is_member = group.has_member(sender) || self.controller.members().contains_key(&sender);
        if self.controller.has_given_up(sender) || to != group.replica() && !is_member {
            let term = group.term();
            self.tell_member_that_it_is_lost(from, sender, MemberLoss::GivenUp { term }, out);
            return false;
        }
        to == group.replica()
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
        // Two that went on alone may do so in one term: then one of them has to give way.
        let is_above = term > group.term() || term == group.term() && group.is_leader() && from > self.config.node;
        let is_believed = is_above || !group.is_leader() && group.leader().is_none_or(|leader| leader == from);
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
    /// It is sound, and needs entries that its leader does not have any more.
    Behind {
        /// The first that the leader has.
        first: LogIndex,
    },
    /// It must not vote any more.
    GivenUp {
        /// Who says so leads in this term.
        term: Term,
    },
}

/// As a process tells the next one.
impl fmt::Display for MemberLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind { first } => write!(f, "behind:{first}"),
            Self::GivenUp { term } => write!(f, "lost:{term}"),
        }
    }
}

impl FromStr for MemberLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (what, number) = text.split_once(':')?;
            let number = number.parse().ok()?;
            match what {
                "behind" => Some(Self::Behind { first: LogIndex(number) }),
                "lost" => Some(Self::GivenUp { term: Term(number) }),
                _ => None,
            }
        };
        read().ok_or_else(|| format!("{text:?} is neither behind:INDEX nor lost:TERM"))
    }
}

/// What a state of the metadata must be for a node to go on from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Term and index of the last entry of a log that is sound: its replica goes on. Otherwise another one does.
    pub sound_to: Option<(Term, LogIndex)>,
    /// It must be as of this entry, or a later one,
    pub applied: LogIndex,
    /// and this term, or a later one.
    pub term: Term,
}

impl Need {
    /// Of a replica with this log, if it is sound.
    pub(super) fn of(loss: Option<MemberLoss>, log: Option<&Log>) -> Self {
        match loss {
            None => Self::default(),
            Some(MemberLoss::GivenUp { term }) => Self { term, ..Self::default() },
            Some(MemberLoss::Behind { first }) => {
                let last = log.map_or(LogIndex(0), Log::last_index);
                let term = log.and_then(|log| log.term(last).ok()).unwrap_or_default();
                let applied = LogIndex(first.get().saturating_sub(1));
                Self { sound_to: Some((term, last)), applied, ..Self::default() }
            }
        }
    }

    /// Whether a state is what is needed.
    #[must_use]
    pub fn is_met_by(&self, state: &GroupState) -> bool {
        let replaces = |(term, last): (Term, LogIndex)| state.term > term || state.applied >= last;
        self.sound_to.is_none_or(replaces) && state.applied >= self.applied && state.term >= self.term
    }
}

impl NodeConfig {
    /// Whose data directory it is.
    pub(super) const fn identity(&self) -> DirIdentity {
        DirIdentity { cluster: self.cluster, node: self.node, incarnation: self.incarnation }
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::ids::{PartitionId, TopicId, TopicPartition};

    use super::*;

    #[test]
    fn a_process_can_tell_the_next_one() {
        for loss in [MemberLoss::Behind { first: LogIndex(42) }, MemberLoss::GivenUp { term: Term(2_001) }] {
            assert_eq!(loss.to_string().parse(), Ok(loss));
        }
        assert!("behind".parse::<MemberLoss>().is_err() && "lost:x".parse::<MemberLoss>().is_err());
    }

    #[test]
    fn a_state_is_later_by_its_entry_or_its_term() {
        let state = |term, applied| GroupState {
            group: GroupId::METADATA,
            topic_partition: TopicPartition { topic: TopicId::default(), partition: PartitionId(0) },
            applied: LogIndex(applied),
            term: Term(term),
            conf_state: Vec::new().into(),
            app_state: Vec::new().into(),
        };
        let need = Need { sound_to: Some((Term(5), LogIndex(90))), applied: LogIndex(41), term: Term(0) };
        let met =
            [(5, 90), (5, 89), (6, 41), (6, 40), (4, 95)].map(|(term, index)| need.is_met_by(&state(term, index)));
        assert_eq!(met, [true, false, true, false, true]);
        let other = Need { term: Term(2_000), ..Need::default() };
        assert!(!other.is_met_by(&state(1_999, 1_000)) && other.is_met_by(&state(2_000, 1)));
    }
}
