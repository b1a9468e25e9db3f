//! One raft group on this node: raft, the log it writes, and what waits for the journal.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, NodeId, ReplicaId, Term};
use levada_storage_engine::{
    entry::{Entry, EntryKind, HardState},
    log::Log,
    planted::{self, Planted},
    store::Store,
};
use raft::{
    RawNode, ReadState, StateRole,
    eraftpb::{self, ConfState, MessageType},
};

use protobuf::Message as _;

use super::{
    answers::Answers,
    config::raft_config,
    guard,
    membership::{self, Conf, Membership, Step, Target},
    storage::{GroupStorage, hard_state_from_raft},
    timeout::election_timeout,
    wire::{PeerMessage, kind_of},
};
use crate::node::event::Effect;

/// Replicas of one group whose places are remembered.
const REPLICAS_KNOWN_MAX: usize = 4_096;
/// The context of the message that lets a replica take over, when it is to keep what it gets.
const ASKED: &[u8] = b"asked";

/// How a group begins: from recovery, or as new.
#[derive(Debug)]
pub struct GroupStart {
    /// Its number.
    pub group: GroupId,
    /// Which replica this node is.
    pub replica: ReplicaId,
    /// Who belongs to the group as of `applied`.
    pub conf: Conf,
    /// Where replicas are, this one included: those that belong to it, and those that will.
    pub replicas: BTreeMap<ReplicaId, NodeId>,
    /// Its log.
    pub log: Log,
    /// What raft must not forget.
    pub hard_state: HardState,
    /// Applied up to here: the state machine was restored at this index.
    pub applied: LogIndex,
}

/// A message or a ready of raft that waits until the journal has made it true.
#[derive(Debug)]
pub(super) struct Unpersisted {
    number: u64,
    /// How many appends of the group must be durable before: its own, or those of the readies before it.
    appends: u64,
    messages: Vec<eraftpb::Message>,
}

/// What driving a group brought to light.
#[derive(Debug, Default)]
pub struct Driven {
    /// Entries to apply: committed, and durable here.
    pub committed: Vec<eraftpb::Entry>,
    /// Linearizable reads that may be answered once their index is applied.
    pub reads: Vec<ReadState>,
}

/// One raft group.
///
/// Invariants: `unpersisted` is in the order of raft's readies, and its appends in the order in which the store got
/// them; what left `unpersisted` was reported to raft as persisted, and its messages were sent after that.
pub struct Group {
    id: GroupId,
    /// As of the last entry applied.
    conf: Conf,
    replicas: BTreeMap<ReplicaId, NodeId>,
    pub(super) raw: RawNode<GroupStorage>,
    log: Log,
    pub(super) unpersisted: VecDeque<Unpersisted>,
    /// Appends given to the store, and how many of them are durable.
    appends: u64,
    durable: u64,
    /// A hard state of which only the commit index changed: it travels with the next append.
    unsaved: Option<HardState>,
    /// Who gets leadership by the transfer under way is to keep it.
    transfer_is_asked: bool,
    /// The term that this replica began because it was asked to.
    asked_term: Option<Term>,
    /// The damage because of which leadership was handed over already.
    damage_left: Option<LogIndex>,
    answers: Answers,
    /// As leader: where the log ended a moment ago. Who has that has caught up.
    mark: Option<(Term, LogIndex)>,
    /// As leader in this term: an entry that was proposed when the membership was what it is to be. When it is committed, a
    /// majority has durably that it is.
    seal: Option<(Term, LogIndex)>,
    /// As follower whose leader was lost in this term: the election timeout that it has until it hears of another.
    pub(super) succession: Option<(Term, usize)>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("id", &self.id).field("replica", &self.raw.raft.id).finish_non_exhaustive()
    }
}

impl Group {
    /// Starts raft on a group.
    ///
    /// # Errors
    /// What raft says to a state it cannot start from.
    pub fn start(start: GroupStart, logger: &slog::Logger) -> raft::Result<Self> {
        let storage = GroupStorage::new(start.log.clone(), start.hard_state, start.conf.to_raft());
        let config = raft_config(start.replica, start.applied);
        let mut group = Self {
            id: start.group,
            conf: start.conf,
            replicas: start.replicas,
            raw: RawNode::new(&config, storage, logger)?,
            log: start.log,
            unpersisted: VecDeque::new(),
            appends: 0,
            durable: 0,
            unsaved: None,
            transfer_is_asked: false,
            asked_term: None,
            damage_left: None,
            answers: Answers::default(),
            mark: None,
            seal: None,
            succession: None,
        };
        group.fix_timeout();
        Ok(group)
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.id
    }

    /// Its log.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    /// Whether raft leads here (it may not have committed in its term yet).
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The node that leads, as far as is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.replicas.get(&ReplicaId(self.raw.raft.leader_id)).copied()
    }

    /// The highest index that raft knows to be committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// What is durable here.
    #[must_use]
    pub fn persisted(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.persisted)
    }

    /// Where replicas are: those that belong to it, and those that will.
    #[must_use]
    pub const fn replicas(&self) -> &BTreeMap<ReplicaId, NodeId> {
        &self.replicas
    }

    /// Where replicas are, by what the metadata says now. Those that it does not know any more stay where they were as long as
    /// they belong to the group: they are to hear that they do not.
    pub fn set_replicas(&mut self, replicas: BTreeMap<ReplicaId, NodeId>) {
        let belong = self.conf.everybody();
        self.replicas.retain(|replica, _| belong.contains(replica));
        self.replicas.extend(replicas);
    }

    /// Which replica this is.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        ReplicaId(self.raw.raft.id)
    }

    /// Who belongs to it, as of the last entry applied.
    #[must_use]
    pub const fn conf(&self) -> &Conf {
        &self.conf
    }

    /// What a checkpoint keeps of that.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership { replica: self.replica(), conf: self.conf.clone() }
    }

    /// As leader: whether a replica had everything a moment ago, and answers. Known some time after it began to lead.
    #[must_use]
    pub fn has_caught_up(&self, replica: ReplicaId) -> bool {
        let progress = self.raw.raft.prs().get(replica.get());
        self.mark.is_some_and(|(term, mark)| {
            progress.is_some_and(|progress| {
                term == self.term()
                    && progress.matched >= mark.get()
                    && (self.is_active(replica) || self.is_self(replica))
            })
        })
    }

    /// Takes note of where the log ends, every now and then.
    pub fn set_mark(&mut self) {
        self.mark = self.is_leader().then(|| (self.term(), self.last_index()));
    }

    /// Nobody asks for now: when somebody does again, the note is old.
    pub const fn clear_mark(&mut self) {
        self.mark = None;
    }

    /// As leader: goes a step towards the replicas that the group is to have. Answers whether there is nothing left to do;
    /// if others are going to `rely` on that, not before a majority has it durably.
    pub fn approach(&mut self, target: &Target, rely: bool) -> bool {
        if !self.can_propose() {
            return false;
        }
        let step = membership::next_step(&self.conf, target, self.replica(), |replica| self.has_caught_up(replica));
        match step {
            Some(Step::HandOver(to)) => {
                if let Some(to) = to.first() {
                    self.transfer_is_asked = false;
                    self.raw.transfer_leader(to.get());
                }
            }
            Some(step) if !self.raw.raft.has_pending_conf() => self.propose_change(&step),
            Some(_) => {}
            None => return self.conf.voters == target.voters && (!rely || self.is_sealed()),
        }
        false
    }

    /// Whether a majority has durably that the membership is what it is here; sees to it, if not.
    fn is_sealed(&mut self) -> bool {
        match self.seal {
            Some((term, seal)) if term == self.term() => self.committed() >= seal,
            _ => {
                self.seal = self.propose(EntryKind::Empty, Bytes::new()).map(|index| (self.term(), index));
                false
            }
        }
    }

    fn propose_change(&mut self, step: &Step) {
        let Some(change) = membership::change(step) else { return };
        let Ok(bytes) = change.write_to_bytes() else { return };
        tracing::info!(group = self.id.get(), ?step, "raft.membership.step");
        // Without effect when raft does not take it: it is tried again.
        let _ = self.propose(EntryKind::ConfChange, bytes.into());
    }

    /// Applies a change of the membership that is committed.
    ///
    /// # Panics
    /// If no leader can have written it: the guard looked at it.
    pub fn apply_change(&mut self, bytes: &[u8]) {
        let change = membership::read_change(bytes).expect("the leader made this change");
        match self.raw.apply_conf_change(&change) {
            Ok(conf) => self.take_conf(&conf),
            // Every replica has the same membership here, and says the same.
            Err(error) => tracing::error!(group = self.id.get(), %error, "raft.membership.refused"),
        }
        if planted::is(Planted::JointLeftAtOnce) && self.conf.is_joint() {
            self.force(&Step::Leave);
        }
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Follower && !self.conf.everybody().contains(&ReplicaId(raft.id)) {
            // Raft would go on leading without being able to propose anything, or panic when it gets the votes to.
            raft.become_follower(raft.term, 0);
        }
        self.fix_timeout();
    }

    /// Raft has another membership.
    pub(super) fn take_conf(&mut self, conf: &ConfState) {
        self.conf = Conf::from_raft(conf);
        self.seal = None;
    }

    /// As leader: how far each replica's log is known to match, this one's included.
    #[must_use]
    pub fn matched(&self) -> BTreeMap<ReplicaId, LogIndex> {
        let progress = self.raw.raft.prs().iter();
        progress.map(|(&replica, progress)| (ReplicaId(replica), LogIndex(progress.matched))).collect()
    }

    /// As leader: the entry that a replica is sent next. It falls only when the replica says that it lacks an earlier one.
    #[must_use]
    pub fn next_index(&self, replica: ReplicaId) -> Option<LogIndex> {
        self.raw.raft.prs().get(replica.get()).map(|progress| LogIndex(progress.next_idx))
    }

    /// As leader: asks a replica that needs earlier entries than there are whether it has come further since, by another way.
    pub fn ask_further(&mut self, replica: ReplicaId) {
        let first = self.log.first_index().get();
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(replica.get()).filter(|known| known.next_idx < first) {
            progress.become_probe();
            progress.next_idx = first;
            self.raw.raft.send_append(replica.get());
        }
    }

    /// As leader: whether a replica has answered lately.
    #[must_use]
    pub fn is_active(&self, replica: ReplicaId) -> bool {
        self.answers.is_active(replica, self.raw.raft.prs())
    }

    /// Whether a replica is this one.
    #[must_use]
    pub fn is_self(&self, replica: ReplicaId) -> bool {
        self.raw.raft.id == replica.get()
    }

    /// Whether [`Group::drive`] would find anything.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    /// 50 ms have passed.
    pub fn tick(&mut self) {
        self.answers.tick(self.is_leader(), self.raw.raft.prs());
        self.raw.tick();
        self.fix_timeout();
    }

    /// A message from the replica on a node. What no sound replica says there is dropped.
    pub fn step(&mut self, from: NodeId, mut message: eraftpb::Message) {
        let raft = &self.raw.raft;
        let is_ours = message.get_to() == raft.id;
        let sender = ReplicaId(message.get_from());
        let known = self.replicas.get(&sender).copied();
        if !is_ours {
            tracing::debug!(group = self.id.get(), %from, to = message.get_to(), "raft.message.late: to a replica that is gone");
            return;
        }
        if known.is_some_and(|known| known != from) {
            tracing::warn!(group = self.id.get(), %from, "raft.message.foreign: it is not of a replica on that node");
            return;
        }
        if let Err(why) = guard::check(self.id, raft.term, &raft.raft_log, &self.log, &message) {
            let kind = message.get_msg_type();
            tracing::warn!(group = self.id.get(), %from, ?kind, why, "raft.message.dropped");
            return;
        }
        let kind = message.get_msg_type();
        let asks_vote = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        let acknowledges = kind == MessageType::MsgAppendResponse && !message.get_reject();
        if asks_vote && planted::is(Planted::VotesForAnybody) {
            message.set_index(raft.raft_log.last_index().max(message.get_index()));
            message.set_log_term(raft.raft_log.last_term().max(message.get_log_term()));
        }
        if acknowledges && message.get_term() == raft.term && planted::is(Planted::SentCountsAsAcknowledged) {
            message.set_index(raft.raft_log.last_index().max(message.get_index()));
        }
        // One that is not known here may be known to newer metadata, which of group 0 only the leader can send: it is taken
        // to be where it speaks from.
        if known.is_none() && self.replicas.len() < REPLICAS_KNOWN_MAX {
            self.replicas.insert(sender, from);
        }
        let is_asked = message.get_msg_type() == MessageType::MsgTimeoutNow && message.context == ASKED;
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(group = self.id.get(), %error, "raft.message.ignored");
        }
        if let Some(progress) = self.raw.raft.mut_prs().get_mut(sender.get()) {
            guard::keep_acknowledged(progress);
        }
        if is_asked {
            self.asked_term = Some(self.term());
        }
        self.fix_timeout();
    }

    /// Asks for an election now (the preferred leader of a new group need not wait for a timeout).
    pub fn campaign(&mut self) {
        // Raft would let a replica win that is no voter, and panic.
        if !self.conf.voters.contains(&self.replica()) {
            return;
        }
        if let Err(error) = self.raw.campaign() {
            tracing::debug!(group = self.id.get(), %error, "raft.campaign.ignored");
        }
        self.fix_timeout();
    }

    /// Messages to a node got lost.
    pub fn report_unreachable(&mut self, node: NodeId) {
        let lost: Vec<u64> = self.replicas.iter().filter(|(_, at)| **at == node).map(|(r, _)| r.get()).collect();
        for replica in lost {
            self.raw.report_unreachable(replica);
        }
        self.fix_timeout();
    }

    /// Hands leadership to the replica on a node; `is_asked` when it must not come back by itself.
    /// Answers whether there is one.
    pub fn transfer_leader(&mut self, to: NodeId, is_asked: bool) -> bool {
        let mut voters = self.conf.voters.iter().filter(|voter| self.replicas.get(*voter) == Some(&to));
        let Some(&replica) = voters.next() else { return false };
        self.transfer_is_asked = is_asked;
        self.raw.transfer_leader(replica.get());
        true
    }

    /// Whether this replica leads because it was asked to, and keeps that. It ends with its term.
    #[must_use]
    pub fn leads_by_request(&self) -> bool {
        self.is_leader() && self.asked_term == Some(self.term())
    }

    /// As leader: the first entry that a follower needs and that cannot be read here, once for each.
    pub fn take_damage(&mut self) -> Option<LogIndex> {
        let damaged = self.raw.raft.raft_log.store.damaged();
        if !self.is_leader() || damaged == self.damage_left {
            return None;
        }
        self.damage_left = damaged;
        damaged
    }

    /// The index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.last_index())
    }

    /// Whether [`Group::propose`] will be taken: this replica leads, and leadership is not on its way to another.
    #[must_use]
    pub fn can_propose(&self) -> bool {
        let raft = &self.raw.raft;
        self.is_leader() && raft.lead_transferee.is_none() && raft.prs().get(raft.id).is_some()
    }

    /// Appends an entry as leader and answers its index, or `None` when raft does not take it (not the leader any
    /// more, leadership on its way to another, too much uncommitted): then nothing has changed.
    #[must_use]
    pub fn propose(&mut self, kind: EntryKind, payload: Bytes) -> Option<LogIndex> {
        if !self.can_propose() {
            return None;
        }
        let before = self.last_index();
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_from(self.raw.raft.id);
        message.set_entries(vec![super::wire::raft_entry(0, 0, kind, payload)].into());
        self.raw.raft.step(message).ok()?;
        let index = self.last_index();
        assert_eq!(index, before.next(), "a proposal is one entry");
        Some(index)
    }

    /// Asks for a linearizable read; its state comes back through [`Driven::reads`] with this context, unless
    /// leadership is lost first.
    pub fn read_index(&mut self, context: u64) {
        // Raft of a follower would pass the question on to the leader; here nobody but the leader answers.
        if self.is_leader() {
            self.raw.read_index(context.to_be_bytes().to_vec());
        }
    }

    /// The journal has made so many appends of this group durable since it was opened.
    pub fn on_durable(&mut self, appends: u64) {
        self.durable = self.durable.max(appends);
    }

    /// Takes everything raft has ready: sends, appends, and answers what is to be applied.
    pub fn drive(&mut self, store: &mut Store, out: &mut Vec<Effect>) -> Driven {
        let mut driven = Driven::default();
        loop {
            self.release(out);
            if !self.raw.has_ready() {
                return driven;
            }
            let mut ready = self.raw.ready();
            assert!(ready.snapshot().is_empty(), "snapshots are not accepted from peers");
            self.send(ready.take_messages(), out);
            driven.committed.append(&mut ready.take_committed_entries());
            driven.reads.append(&mut ready.take_read_states());
            if let Some(hard_state) = ready.hs() {
                self.unsaved = Some(hard_state_from_raft(hard_state));
            }
            let waits_for_entries = planted::is(Planted::VoteNotSaved) && ready.entries().is_empty();
            if ready.must_sync() && !waits_for_entries {
                let entries = ready.take_entries().into_iter().map(entry_from_raft).collect();
                let taken = store.append(self.id, entries, self.unsaved.take());
                taken.expect("the leader packs entries within the limits and gives offsets without gaps");
                self.appends += 1;
            }
            let messages = ready.take_persisted_messages();
            self.unpersisted.push_back(Unpersisted { number: ready.number(), appends: self.appends, messages });
            self.raw.advance_append_async(ready);
        }
    }

    /// Raft may count the entries up to here as applied.
    pub fn applied(&mut self, index: LogIndex) {
        self.raw.advance_apply_to(index.get());
    }

    /// Tells raft what is durable, and sends what waited for it.
    fn release(&mut self, out: &mut Vec<Effect>) {
        while let Some(front) = self.unpersisted.front() {
            let early = if self.is_leader() { Planted::LeaderCountsUnsynced } else { Planted::FollowerAcksUnsynced };
            if front.appends > self.durable && !planted::is(early) {
                return;
            }
            let Some(done) = self.unpersisted.pop_front() else { return };
            self.raw.on_persist_ready(done.number);
            self.send(done.messages, out);
        }
    }

    fn send(&self, messages: Vec<eraftpb::Message>, out: &mut Vec<Effect>) {
        for mut message in messages {
            if self.transfer_is_asked && message.get_msg_type() == MessageType::MsgTimeoutNow {
                message.context = Bytes::from_static(ASKED);
            }
            let Some(&to) = self.replicas.get(&ReplicaId(message.get_to())) else { continue };
            out.push(Effect::Send { to, message: PeerMessage::Raft { group: self.id, message: Box::new(message) } });
        }
    }

    pub(super) fn fix_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        // It has heard of a leader, given its vote, or asks for votes itself.
        let is_over =
            |(term, _)| raft.election_elapsed == 0 || raft.term != Term::get(term) || raft.state != StateRole::Follower;
        if self.succession.is_some_and(is_over) {
            self.succession = None;
        }
        let timeout = match self.succession {
            Some((_, ticks)) => ticks,
            None => election_timeout(self.id.get(), raft.id, raft.term, raft.state),
        };
        raft.set_randomized_election_timeout(timeout);
    }
}

fn entry_from_raft(mut entry: eraftpb::Entry) -> Entry {
    let payload = std::mem::take(&mut entry.data);
    Entry { index: LogIndex(entry.get_index()), term: Term(entry.get_term()), kind: kind_of(&entry, &payload), payload }
}
