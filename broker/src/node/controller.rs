//! Group 0 on this node: the metadata, and on its leader who waits for a change of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use levada_protocol::{
    error::{Error, ErrorCode, NodeAddresses, Result},
    ids::{GroupId, IncarnationId, LogIndex, NodeId, PartitionId, ReplicaId, Term, TopicId},
    messages::metadata as wire,
};
use levada_storage_engine::{
    entry::EntryKind,
    planted::{self, Planted},
    store::{GroupCheckpoint, GroupInit, GroupState, RecoveredGroup, Store},
};
use prost::Message as _;

use super::{
    Node, NodeConfig, NodeOpenError,
    event::{Answer, Effect, RequestId},
    placing::Duty,
    reads::Read,
    recovered_applied,
    renewal::Need,
};
use crate::{
    cluster::{
        feature::LEVEL_MAX,
        metadata::{self, Applied, Metadata, command, unknown_topic},
        view::Leadership,
    },
    raft::{
        group::{Group, GroupStart},
        membership::{Conf, Membership},
        wire::kind_of,
    },
};

/// Producer ids that the controller takes from the metadata at once.
const PRODUCER_IDS_AT_ONCE: u32 = 1000;

/// Group 0's replica, its state, and who waits for it.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) group: Group,
    node: NodeId,
    metadata: Metadata,
    shown: Arc<Metadata>,
    applied: LogIndex,
    /// The term in which this node is the controller: it leads group 0 and has applied all before its term.
    leading: Option<Term>,
    waiters: BTreeMap<LogIndex, Waiter>,
    /// Barriers whose index is not applied yet.
    barriers: Vec<(LogIndex, Read)>,
    producer_ids: std::ops::Range<i64>,
    wants_producer_id: Vec<RequestId>,
    founders: BTreeSet<NodeId>,
    /// What the controller does by itself and has proposed.
    duties: BTreeSet<Duty>,
}

#[derive(Debug)]
pub(super) enum Waiter {
    Request(RequestId),
    ProducerIds,
    Duty(Duty),
}

impl Controller {
    /// Starts group 0 from what was recovered of it, or as the first of a new cluster.
    pub(super) fn start(
        config: &NodeConfig,
        store: &mut Store,
        recovered: Option<RecoveredGroup>,
        logger: &slog::Logger,
    ) -> std::result::Result<Self, NodeOpenError> {
        let group = GroupId::METADATA;
        if store.doubts(group) && !planted::is(Planted::DoubtIgnored) || config.member_loss.is_some() {
            let (conf_state, state) = recovered.map(|found| (found.conf_state, found.app_state)).unwrap_or_default();
            let unreadable = |why: String| NodeOpenError::State { group, why };
            let membership = Membership::decode(&conf_state).map_err(|error| unreadable(error.to_string()))?;
            let metadata = Metadata::decode(state).map_err(|error| unreadable(error.to_string()))?;
            let replica = membership.map_or(ReplicaId(config.node.get()), |membership| membership.replica);
            let loss = config.member_loss.filter(|_| !store.doubts(group));
            let need = Need::of(loss, store.log(group));
            return Err(NodeOpenError::metadata_damaged(replica, need, &metadata));
        }
        let applied = recovered_applied(recovered.as_ref());
        let log = store.create_group(GroupInit { group, topic: TopicId::default(), partition: PartitionId(0) });
        let (hard_state, conf_state, state) =
            recovered.map_or_else(Default::default, |found| (found.hard_state, found.conf_state, found.app_state));
        let unsound = |why: String| NodeOpenError::State { group, why };
        let metadata = Metadata::decode(state).map_err(|error| unsound(error.to_string()))?;
        if metadata.feature_level() > LEVEL_MAX {
            return Err(NodeOpenError::TooOld { cluster: metadata.feature_level(), build: LEVEL_MAX });
        }
        let membership = Membership::decode(&conf_state).map_err(|error| unsound(error.to_string()))?;
        let first = config.founders.iter().map(|node| ReplicaId(node.get()));
        let membership =
            membership.unwrap_or_else(|| Membership { replica: ReplicaId(config.node.get()), conf: Conf::of(first) });
        let start = GroupStart {
            group,
            replica: membership.replica,
            conf: membership.conf,
            replicas: metadata.members(config.founders.iter().copied()),
            log,
            hard_state,
            applied,
        };
        let raft =
            Group::start(start, logger).map_err(|error| NodeOpenError::Raft { group, why: error.to_string() })?;
        Ok(Self {
            group: raft,
            node: config.node,
            shown: Arc::new(metadata.clone()),
            metadata,
            applied,
            leading: None,
            waiters: BTreeMap::new(),
            barriers: Vec::new(),
            producer_ids: 0..0,
            wants_producer_id: Vec::new(),
            founders: config.founders.clone(),
            duties: BTreeSet::new(),
        })
    }

    /// The metadata as applied here.
    pub(super) fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&self.shown)
    }

    /// Whether this node is the controller.
    pub(super) const fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// Whether somebody waits for what is proposed.
    pub(super) fn owes_answers(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Where a node listens, once it has registered.
    pub(super) fn addresses(&self, node: NodeId) -> Option<NodeAddresses> {
        self.metadata.nodes().get(&node).map(|node| node.addresses.clone())
    }

    /// The last entry of the metadata that is applied here.
    pub(super) const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Whether a replica of group 0 is gone for good: its node has another, or was removed. (Who does not know of a number that
    /// was given out says nothing against it: it has old metadata itself.)
    pub(super) fn has_given_up(&self, replica: ReplicaId) -> bool {
        !self.group.has_member(replica)
            && self.metadata.has_given_member(replica)
            && !self.members().contains_key(&replica)
    }

    /// The metadata as it is at this moment.
    pub(super) const fn current(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether this node was given another replica of group 0 than this one.
    pub(super) fn is_renewed(&self) -> bool {
        let member = self.metadata.nodes().get(&self.node).and_then(|known| known.member);
        member.is_some_and(|member| member != self.group.replica())
    }

    /// Whether a replica of group 0 may have done something already: then nobody else gets its number.
    pub(super) fn has_begun(&self, replica: ReplicaId) -> bool {
        let conf = self.group.conf();
        conf.voters.contains(&replica)
            || conf.outgoing.contains(&replica)
            || self.group.matched().into_iter().any(|(known, matched)| known == replica && matched > LogIndex(0))
    }

    /// Whether this node is known with another data directory than this one.
    pub(super) fn is_superseded(&self, incarnation: IncarnationId) -> bool {
        self.metadata.nodes().get(&self.node).is_some_and(|known| known.incarnation != incarnation)
    }

    /// All nodes there are.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let registered = self.metadata.nodes().keys();
        let all: BTreeSet<NodeId> = self.founders.iter().chain(registered).copied().collect();
        all.into_iter().filter(|node| !self.metadata.removed().contains(node))
    }

    /// Which replicas of group 0 there are, and where.
    pub(super) fn members(&self) -> BTreeMap<ReplicaId, NodeId> {
        self.metadata.members(self.founders.iter().copied())
    }

    /// Proposes what the controller does by itself, unless it has and that is not applied yet.
    pub(super) fn do_duty(&mut self, duty: Duty, command: &wire::Command) -> bool {
        let is_new = self.duties.insert(duty);
        if is_new && self.propose(command, Waiter::Duty(duty)).is_err() {
            self.duties.remove(&duty);
            return false;
        }
        is_new
    }

    /// What a checkpoint keeps of group 0.
    pub(super) fn checkpoint(&self) -> GroupCheckpoint {
        GroupCheckpoint {
            group: GroupId::METADATA,
            applied: self.applied,
            conf_state: self.group.membership().encode(),
            app_state: self.metadata.encode(),
        }
    }

    /// Which of the nodes this one is.
    pub(super) fn ordinal(&self) -> u64 {
        self.metadata.ordinal(self.node, &self.founders)
    }

    /// The metadata with this replica alone.
    pub(super) fn alone(&self) -> Metadata {
        let mut metadata = self.metadata.clone();
        let last = self.group.last_index();
        metadata.go_on_alone(last, self.group.term());
        if self.applied == last {
            metadata.give_up_others(self.node, self.founders.iter().copied());
        }
        metadata
    }

    /// From now on this replica alone belongs to group 0, and that is the metadata.
    pub(super) fn go_on_alone(&mut self) {
        self.metadata = self.alone();
        self.shown = Arc::new(self.metadata.clone());
        self.group.go_alone();
        self.group.set_replicas(self.members());
    }

    /// The error of a node that is not the controller.
    pub(super) fn not_controller(&self) -> Error {
        if self.group.is_leader() {
            return Error::new(ErrorCode::NotReady, "the new controller is not ready yet; try again");
        }
        let leader = self.group.leader().and_then(|node| self.addresses(node));
        Error::new(ErrorCode::NotController, format!("node {} is not the controller", self.node)).redirect(leader)
    }

    pub(super) fn propose(&mut self, command: &wire::Command, waiter: Waiter) -> Result<()> {
        let index = self.group.propose(EntryKind::Command, command.encode_to_vec().into());
        let index = index.ok_or_else(|| Error::new(ErrorCode::NotReady, "leadership is moving; try again"))?;
        self.waiters.insert(index, waiter);
        Ok(())
    }

    pub(super) fn known_topic(&self, name: &str) -> Result<&Arc<metadata::Topic>> {
        self.metadata.topic(name).ok_or_else(|| unknown_topic(&format!("{name:?}")))
    }

    pub(super) fn give_producer_ids(&mut self, out: &mut Vec<Effect>) {
        while let Some(&id) = self.wants_producer_id.first() {
            let Some(producer) = self.producer_ids.next() else { break };
            self.wants_producer_id.remove(0);
            out.push(Effect::Reply { id, result: Ok(Answer::ProducerId(producer)) });
        }
        let asked = self.waiters.values().any(|waiter| matches!(waiter, Waiter::ProducerIds));
        if !self.wants_producer_id.is_empty() && !asked {
            let allocate = wire::AllocateProducerIds { node_id: self.node.get(), count: PRODUCER_IDS_AT_ONCE };
            let allocate = command(wire::command::Kind::AllocateProducerIds(allocate));
            if let Err(error) = self.propose(&allocate, Waiter::ProducerIds) {
                self.fail_producer_ids(&error, out);
            }
        }
    }

    /// Gives a producer id, as soon as there is one.
    pub(super) fn give_producer_id(&mut self, id: RequestId, out: &mut Vec<Effect>) {
        self.wants_producer_id.push(id);
        self.give_producer_ids(out);
    }

    fn fail_producer_ids(&mut self, error: &Error, out: &mut Vec<Effect>) {
        for id in std::mem::take(&mut self.wants_producer_id) {
            out.push(Effect::Reply { id, result: Err(error.clone()) });
        }
    }

    /// Applies an entry, and answers who waited for it.
    fn apply(&mut self, index: LogIndex, kind: EntryKind, payload: Bytes, out: &mut Vec<Effect>) -> Option<Applied> {
        assert_eq!(index, self.applied.next(), "entries are applied in order");
        self.applied = index;
        let is_last_before = self.metadata.is_from_before(index) && !self.metadata.is_from_before(index.next());
        let applied = self.apply_kind(index, kind, payload, out);
        if is_last_before {
            self.metadata.give_up_others(self.node, self.founders.iter().copied());
        }
        applied.or(is_last_before.then_some(Applied::NodesChanged))
    }

    fn apply_kind(
        &mut self,
        index: LogIndex,
        kind: EntryKind,
        payload: Bytes,
        out: &mut Vec<Effect>,
    ) -> Option<Applied> {
        match kind {
            EntryKind::Command => {}
            EntryKind::ConfChange => {
                if !self.metadata.is_from_before(index) {
                    self.group.apply_change(&payload);
                }
                return None;
            }
            EntryKind::Empty | EntryKind::Batches => {
                assert_eq!(kind, EntryKind::Empty, "group 0 holds commands only");
                return None;
            }
        }
        let command = wire::Command::decode(payload).expect("the controller made this command");
        let (level, is_known) = (self.metadata.feature_level(), command.kind.is_some());
        // Whoever goes on without a command has another state than the others from then on.
        assert!(
            is_known,
            "entry {index} of the metadata is of a kind that this build does not know, at feature level {level}; run a newer build"
        );
        let result = self.metadata.apply(command);
        let level = self.metadata.feature_level();
        assert!(
            level <= LEVEL_MAX,
            "the cluster is at feature level {level} now, this build knows up to {LEVEL_MAX}; run a newer one"
        );
        match (self.waiters.remove(&index), &result) {
            (Some(Waiter::Request(id)), result) => {
                let result = result.as_ref().map_err(Clone::clone).map(|applied| self.answer(applied));
                out.push(Effect::Reply { id, result });
            }
            (Some(Waiter::Duty(duty)), result) => {
                self.duties.remove(&duty);
                if let Err(error) = result {
                    tracing::info!(?duty, %error, "controller.duty.void");
                }
            }
            (Some(Waiter::ProducerIds), Ok(Applied::ProducerIds(ids))) => self.producer_ids = ids.clone(),
            _ => {}
        }
        result.ok()
    }

    /// What a request is told that led to this.
    fn answer(&self, applied: &Applied) -> Answer {
        match applied {
            Applied::Topic(topic) | Applied::TopicDeleted(topic) => Answer::Topic(Arc::clone(topic)),
            Applied::NodeJoined { node, .. } => match self.metadata.nodes().get(node).and_then(|node| node.member) {
                Some(replica) => Answer::Joined(Box::new(self.state_for(replica))),
                None => Answer::Done,
            },
            Applied::NodesChanged | Applied::Topics(_) | Applied::ProducerIds(_) => Answer::Done,
        }
    }

    /// Group 0 as a new replica begins with it.
    pub(super) fn state_for(&self, replica: ReplicaId) -> GroupState {
        let log = self.group.log();
        GroupState {
            group: GroupId::METADATA,
            topic_partition: log.topic_partition(),
            applied: self.applied,
            term: log.term(self.applied).unwrap_or_default(),
            conf_state: Membership { replica, conf: self.group.conf().clone() }.encode(),
            app_state: self.metadata.encode(),
        }
    }

    fn step_down(&mut self, out: &mut Vec<Effect>) {
        self.leading = None;
        self.producer_ids = 0..0;
        self.duties.clear();
        let leader = self.group.leader().and_then(|node| self.addresses(node));
        for waiter in std::mem::take(&mut self.waiters).into_values() {
            if let Waiter::Request(id) = waiter {
                let error = Error::new(
                    ErrorCode::OutcomeUnknown,
                    "the controller changed before the request was committed; look whether it happened, or try again",
                );
                out.push(Effect::Reply { id, result: Err(error.redirect(leader.clone())) });
            }
        }
        let moved = self.not_controller();
        self.fail_producer_ids(&moved, out);
        for (_, Read { id, .. }) in std::mem::take(&mut self.barriers) {
            out.push(Effect::Reply { id, result: Err(moved.clone()) });
        }
    }
}

impl Node {
    /// Lets group 0 work, applies what is committed, and follows what that changes on this node.
    pub(super) fn drive_controller(&mut self, out: &mut Vec<Effect>) {
        let driven = self.controller.group.drive(&mut self.store, out);
        let mut changes = Vec::new();
        if let Some(last) = driven.committed.last() {
            let last = LogIndex(last.get_index());
            for entry in driven.committed {
                let (kind, index) = (kind_of(&entry, &entry.data), LogIndex(entry.get_index()));
                changes.extend(self.controller.apply(index, kind, entry.data.clone(), out));
            }
            self.store.commit(GroupId::METADATA, last);
            self.controller.group.applied(last);
        }
        if !changes.is_empty() {
            let members = self.controller.members();
            self.controller.group.set_replicas(members);
            self.controller.shown = Arc::new(self.controller.metadata.clone());
            self.view.metadata.send_replace(self.controller.metadata());
        }
        for change in changes {
            self.follow(change, out);
        }
        let (leads, term) = (self.controller.group.is_leader(), self.controller.group.term());
        if self.controller.leading.is_some_and(|led| !leads || led != term) {
            self.controller.step_down(out);
            let moved = self.controller.not_controller();
            self.reads.fail(GroupId::METADATA, &moved, out);
        }
        if leads && self.controller.group.log().term(self.controller.applied) == Ok(term) {
            self.controller.leading = Some(term);
        }
        for read in driven.reads {
            if let Some((read, index)) = self.reads.confirmed(&read) {
                self.controller.barriers.push((index, read));
            }
        }
        let applied = self.controller.applied;
        for (_, Read { id, refusal, .. }) in self.controller.barriers.extract_if(.., |(index, _)| *index <= applied) {
            out.push(Effect::Reply { id, result: refusal.map_or(Ok(Answer::Done), Err) });
        }
        if self.controller.is_leading() {
            self.controller.give_producer_ids(out);
        }
        let leadership = Leadership { term, node: self.controller.group.leader() };
        self.show_leader(GroupId::METADATA, leadership, out);
        if self.controller.group.has_ready() {
            self.dirty.insert(GroupId::METADATA);
        }
    }

    /// Makes a change of the metadata true on this node.
    fn follow(&mut self, change: Applied, out: &mut Vec<Effect>) {
        match change {
            Applied::Topic(topic) => self.follow_topics(vec![topic], out),
            Applied::Topics(topics) => self.follow_topics(topics, out),
            Applied::NodeJoined { node, topics } => self.follow_joined(node, topics, out),
            Applied::TopicDeleted(topic) => self.remove_topic(&topic, out),
            Applied::NodesChanged | Applied::ProducerIds(_) => {}
        }
    }

    /// A node joined, with a new data directory.
    fn follow_joined(&mut self, node: NodeId, topics: Vec<Arc<metadata::Topic>>, out: &mut Vec<Effect>) {
        if node == self.config.node && self.controller.is_superseded(self.config.incarnation) {
            let message = NodeOpenError::Superseded { node }.to_string();
            out.push(Effect::Fatal { message });
        } else if node == self.config.node && self.controller.is_renewed() {
            // It ends when it knows that at its next start.
            self.renewed_at = Some(self.controller.applied);
            self.begin_checkpoint();
        } else {
            // It has just asked to.
            self.view.hear(node, self.now.mono_ms);
            self.follow_topics(topics, out);
        }
    }

    fn follow_topics(&mut self, topics: Vec<Arc<metadata::Topic>>, out: &mut Vec<Effect>) {
        for topic in topics {
            // It may be another by now, or gone: then another change says so.
            if let Err(error) = self.open_topic(&topic, out) {
                out.push(Effect::Fatal { message: error.to_string() });
            }
        }
    }
}
