//! What the partitions of one producer share.

use std::{collections::BTreeMap, time::Duration};

use levada_protocol::{error::Error, ids::TopicId, source::ProducerIdentity};

use super::{
    Effect, Time,
    batch::{AttemptId, BatchId},
};
use crate::retry::Rng;

/// What a producer was told about how to go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// A batch is closed when it has grown to this.
    pub(crate) batch_bytes: usize,
    /// A batch waits this long for more records.
    pub(crate) linger: Duration,
    /// A record that is not acknowledged by then has failed.
    pub(crate) delivery_timeout: Duration,
    /// An answer that takes longer makes the producer look for another leader.
    pub(crate) slow_after: Duration,
    /// Batches are compressed before they are sent.
    pub(crate) compress: bool,
}

/// The producer's identity, if it has one at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Needs to be asked for, not before this.
    None(Time),
    /// Was asked for.
    Requested,
    /// For every partition that has none of its own.
    Current(ProducerIdentity),
}

/// What a partition uses, and where it leaves what it wants.
#[derive(Debug)]
pub(super) struct Context<D> {
    pub(super) settings: Settings,
    pub(super) now: Time,
    pub(super) rng: Rng,
    pub(super) effects: Vec<Effect<D>>,
    /// The partition (by position) that waits for the answer to a try.
    pub(super) attempts: BTreeMap<AttemptId, usize>,
    /// The partition (by position) that waits for a batch to be compressed.
    pub(super) sealing: BTreeMap<BatchId, usize>,
    pub(super) identity: Identity,
    pub(super) identity_wanted: bool,
    /// Why there is none.
    pub(super) identity_error: Option<Error>,
    pub(super) refresh_wanted: bool,
    /// Topics that a leader said do not exist.
    pub(super) denied: Vec<TopicId>,
    /// Partitions (by position) whose open batch was closed.
    pub(super) closed: Vec<usize>,
    pub(super) last_attempt: AttemptId,
    pub(super) last_batch: BatchId,
}

impl<D> Context<D> {
    pub(super) const fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            now: Time::ZERO,
            rng: Rng::new(seed),
            effects: Vec::new(),
            attempts: BTreeMap::new(),
            sealing: BTreeMap::new(),
            identity: Identity::None(Time::ZERO),
            identity_wanted: false,
            identity_error: None,
            refresh_wanted: false,
            denied: Vec::new(),
            closed: Vec::new(),
            last_attempt: 0,
            last_batch: 0,
        }
    }

    pub(super) const fn next_attempt(&mut self) -> AttemptId {
        self.last_attempt += 1;
        self.last_attempt
    }

    pub(super) const fn next_batch(&mut self) -> BatchId {
        self.last_batch += 1;
        self.last_batch
    }

    /// The identity for a partition that has none; without one, one is asked for.
    pub(super) const fn identity(&mut self) -> Option<ProducerIdentity> {
        match self.identity {
            Identity::Current(identity) => Some(identity),
            Identity::None(_) | Identity::Requested => {
                self.identity_wanted = true;
                None
            }
        }
    }

    /// No partition begins with this identity any more. (Those that have it may go on: sequences are per partition.)
    pub(super) fn retire(&mut self, identity: ProducerIdentity) {
        if self.identity == Identity::Current(identity) {
            self.identity = Identity::None(self.now);
        }
    }
}
