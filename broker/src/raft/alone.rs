//! A replica goes on alone, without the consent of the others: the last resort, when a majority of them is gone for good.
//!
//! Raft has no such step. It breaks what raft promises (an entry that is committed stays), and nothing else may be broken by
//! it: the membership that a replica goes on with alone stands in no log, so whoever follows must begin from a state that has
//! it already, and this replica must never forget it. `node/alone.rs` sees to both, and lets it go alone afterwards.

use levada_protocol::ids::{ReplicaId, Term};
use raft::eraftpb::ConfState;

use super::{
    ELECTION_TICKS,
    group::Group,
    membership::{Membership, Step, change},
};

/// The survivor goes on in a term that is so much higher: those that are gone may have had later ones, and nobody is to
/// believe an old leader rather than the new one, nor to see one term twice.
const TERMS_SKIPPED: u64 = 1_000;

/// The term in which a replica goes on alone that knows this one as the last.
#[must_use]
pub(crate) const fn later(term: Term) -> Term {
    Term(term.get() + TERMS_SKIPPED)
}

impl Group {
    /// Whether nobody leads it, as far as is known. A replica without a vote never asks for votes, and so does not find out
    /// by itself: it has not heard of its leader for long.
    #[must_use]
    pub fn is_leaderless(&self) -> bool {
        let raft = &self.raw.raft;
        let votes = self.conf().voters.contains(&self.replica());
        self.leader().is_none() || !votes && !self.is_leader() && raft.election_elapsed > 2 * ELECTION_TICKS
    }

    /// Whether a replica belongs to it, as raft has it.
    #[must_use]
    pub fn has_member(&self, replica: ReplicaId) -> bool {
        self.raw.raft.prs().get(replica.get()).is_some()
    }

    /// What a checkpoint keeps of the membership with this replica alone.
    #[must_use]
    pub fn alone(&self) -> Membership {
        Membership::alone(self.replica())
    }

    /// Goes on in a much later term, and `more`, without a leader. What others say in earlier ones counts no more.
    pub fn skip_terms(&mut self, more: u64) {
        self.raw.raft.become_follower(self.raw.raft.term + TERMS_SKIPPED + more, 0);
    }

    /// Whether everything is durable that raft has: its term, its vote, its log.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.unpersisted.is_empty() && !self.raw.has_ready()
    }

    /// From now on only this replica belongs to the group. It asks for votes, its own, and leads.
    ///
    /// # Panics
    /// If raft refuses what it cannot refuse.
    pub fn go_alone(&mut self) {
        let own = self.replica();
        self.skip_terms(0);
        if self.conf().is_joint() {
            self.force(&Step::Leave);
        }
        let remove = self.conf().everybody().into_iter().filter(|replica| *replica != own).collect();
        let add = if self.conf().voters.contains(&own) { [].into() } else { [own].into() };
        self.force(&Step::Enter { add, demote: [].into(), remove });
        self.force(&Step::Leave);
        assert_eq!(*self.conf(), self.alone().conf, "nobody else belongs to it");
        self.set_replicas(self.replicas().clone());
        self.campaign();
    }

    pub(super) fn force(&mut self, step: &Step) {
        let change = change(step).expect("a change");
        let conf: ConfState = self.raw.apply_conf_change(&change).expect("raft takes any change to one voter");
        self.take_conf(&conf);
    }
}
