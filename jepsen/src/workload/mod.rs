//! What clients do.

mod finale;
mod flight;
mod log;
mod queue;
mod records;
mod register;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use levada_checkers::{
    history::{Event, Key},
    liveness::Served,
    log as log_checker,
    verdict::Check,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::stage::Stage;

/// The topic that all of them use.
pub const TOPIC: &str = "jepsen";

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Producers, readers over the native protocol, questions for the end; at the end every node's whole log.
    Queue,
    /// The same with readers that compare what Flight shows with what the native protocol does, on any node.
    Flight,
    /// Settings of topics as registers: created, written and read by many at once.
    Register,
}

/// Nothing of the topic is removed, and every offset holds a record. A process goes on after a record that it gave up, so what it sent
/// may have gaps.
pub(crate) const LOG: log_checker::Options =
    log_checker::Options { linearizable_polls: false, dense: true, retention: false, whole_streams: false };
/// The same for histories out of which records were left.
pub const WITH_GAPS: log_checker::Options = log_checker::Options { dense: false, ..LOG };

/// What clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// Partitions.
    pub keys: Key,
    /// Replicas of each.
    pub replicas: u32,
    /// Processes that send.
    pub clients: u32,
    /// Sends begun in a second by all of them; 0: as many as they can.
    pub rate: u64,
    /// Everything drawn follows from it.
    pub seed: u64,
}

impl Workload {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Flight => "flight",
            Self::Register => "register",
        }
    }

    /// Makes what clients need.
    ///
    /// # Errors
    /// The cluster does not let them.
    pub async fn set_up(self, stage: &Stage, orders: &Orders) -> Result<()> {
        log::create_topic(stage, orders).await
    }

    /// Clients at work, until they are told to stop ([`Work::stop`]).
    #[must_use]
    pub fn begin(self, stage: &Arc<Stage>, orders: &Orders) -> Work {
        let mut work = Work { clients: JoinSet::new(), stop: Arc::default() };
        match self {
            Self::Queue => queue::begin(&mut work, stage, orders),
            Self::Flight => {
                queue::begin(&mut work, stage, orders);
                flight::begin(&mut work, stage, orders);
            }
            Self::Register => register::begin(&mut work, stage, orders),
        }
        work
    }

    /// Reads everything, when nothing happens any more.
    ///
    /// # Errors
    /// The harness cannot go on. That a node does not show its log is for the checkers to see.
    pub async fn finale(self, stage: &Arc<Stage>, orders: &Orders, within: Duration) -> Result<()> {
        match self {
            Self::Queue | Self::Flight => finale::read_all(stage, orders, within).await,
            Self::Register => Ok(()),
        }
    }

    /// What must go on when nothing is wrong.
    #[must_use]
    pub const fn served(self) -> Served {
        match self {
            Self::Queue | Self::Flight => Served::EachKey,
            Self::Register => Served::Whole,
        }
    }

    /// What its checkers say.
    #[must_use]
    pub fn check(self, events: &[Event]) -> Vec<Check> {
        match self {
            Self::Queue | Self::Flight => vec![log_checker::check_with(events, &LOG)],
            Self::Register => vec![levada_checkers::register::check(events)],
        }
    }
}

/// Clients at work.
pub struct Work {
    clients: JoinSet<()>,
    stop: Arc<tokio::sync::watch::Sender<bool>>,
}

impl Work {
    /// Has a client do something, again and again.
    fn spawn(&mut self, client: impl Future<Output = ()> + Send + 'static) {
        self.clients.spawn(client);
    }

    /// Whether they are to stop.
    fn stopped(&self) -> Stopped {
        Stopped(self.stop.subscribe())
    }

    /// Lets all of them come to an end; ends those that do not in time. What these had under way nobody knows.
    pub async fn stop(mut self, within: Duration) {
        let _ = self.stop.send(true);
        let all = async { while self.clients.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(within, all).await;
        self.clients.shutdown().await;
    }
}

/// What a client looks at.
#[derive(Clone)]
struct Stopped(tokio::sync::watch::Receiver<bool>);

impl Stopped {
    fn is(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is so.
    async fn wait(&mut self) {
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}
