//! Whether a node serves, and if not, why.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use levada_protocol::ids::{GroupId, NodeId};
use serde::Serialize;

use crate::{broker::Broker, runtime::worker::WorkerState};

/// What `/health/ready` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the node serves.
    pub ready: bool,
    /// If not, why.
    pub reasons: Vec<String>,
    /// The node.
    pub node: u64,
    /// Its cluster, once known.
    pub cluster: Option<String>,
}

/// How far a node is.
pub(crate) struct Readiness {
    node: NodeId,
    /// What the start waits for.
    waiting: Mutex<String>,
    broker: OnceLock<Arc<Broker>>,
    stopping: OnceLock<()>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness").field("report", &self.report()).finish()
    }
}

impl Readiness {
    pub(crate) fn new(node: NodeId) -> Self {
        let waiting = Mutex::new("opening the data directory".to_owned());
        Self { node, waiting, broker: OnceLock::new(), stopping: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The start waits for this.
    pub(super) fn waiting(&self, what: &str) {
        what.clone_into(&mut self.lock());
    }

    /// What the start waits for, as long as it is not over.
    pub(crate) fn waits_for(&self) -> String {
        self.lock().clone()
    }

    /// The start is over.
    pub(super) fn started(&self, broker: Arc<Broker>) {
        let _ = self.broker.set(broker);
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        let _ = self.stopping.set(());
    }

    /// How it is now.
    pub(crate) fn report(&self) -> Report {
        let mut reasons = Vec::new();
        if self.stopping.get().is_some() {
            reasons.push("the node is stopping".to_owned());
        }
        match self.broker.get() {
            None => reasons.push(format!("starting: {}", self.lock())),
            Some(broker) => {
                match &*broker.worker.state().borrow() {
                    WorkerState::Failed(why) => reasons.push(format!("the node core has failed: {why}")),
                    WorkerState::GaveUpMetadata(_, why) => reasons.push(why.to_string()),
                    WorkerState::Stopped => reasons.push("the node core has ended".to_owned()),
                    WorkerState::Running | WorkerState::ReadyToStop => {}
                }
                if broker.leader(GroupId::METADATA).is_none() {
                    reasons.push("no controller is known: fewer than a majority of the nodes that vote on metadata are up, or an election is under way".to_owned());
                }
                if !broker.is_registered() {
                    reasons.push("not registered with the controller yet".to_owned());
                }
            }
        }
        Report {
            ready: reasons.is_empty(),
            reasons,
            node: self.node.get(),
            cluster: self.broker.get().map(|broker| broker.identity.cluster.to_string()),
        }
    }

    /// Whether the process works at all: restarting it is the only help when not.
    pub(crate) fn is_alive(&self) -> bool {
        self.broker.get().is_none_or(|broker| {
            matches!(&*broker.worker.state().borrow(), WorkerState::Running | WorkerState::ReadyToStop)
        })
    }
}
