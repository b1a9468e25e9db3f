//! Watching the cluster do what it was told.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use levada_client::{Admin, NodeId};
use levada_protocol::messages::native::{ClusterStatusResponse, NodeStatus};
use serde_json::json;

use crate::{args::Global, print, units};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);
/// So many looks in a row must find that nothing moves: the controller begins the next move when one is over.
const CALM_LOOKS: u32 = 8;
/// A cluster that does not answer for so long is not watched any more.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A look at the cluster before, and what goes on since.
pub(super) struct Watch<'a> {
    global: &'a Global,
    admin: &'a Admin,
    before: ClusterStatusResponse,
    begun: Instant,
    bar: ProgressBar,
}

fn id(node: &NodeStatus) -> Option<u64> {
    Some(node.addresses.as_ref()?.node_id)
}

fn node(status: &ClusterStatusResponse, wanted: NodeId) -> Option<&NodeStatus> {
    status.nodes.iter().find(|node| id(node) == Some(wanted.get()))
}

impl<'a> Watch<'a> {
    pub(super) async fn begin(global: &'a Global, admin: &'a Admin) -> Result<Self> {
        let before = admin.cluster_status(true).await.context("cannot ask for the cluster's status")?;
        let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}");
        let bar = ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.enable_steady_tick(PAUSE);
        Ok(Self { global, admin, before, begun: Instant::now(), bar })
    }

    /// Whether a node was there.
    pub(super) fn has(&self, wanted: NodeId) -> bool {
        node(&self.before, wanted).is_some()
    }

    /// Whether a node was up.
    pub(super) fn is_up(&self, wanted: NodeId) -> bool {
        node(&self.before, wanted).is_some_and(|node| node.alive)
    }

    /// Whether replicas were on their way.
    pub(super) fn is_moving(&self) -> bool {
        self.before.partitions.iter().any(|partition| !partition.moving_to.is_empty())
    }

    /// The data directory that a node had.
    pub(super) fn incarnation(&self, wanted: NodeId) -> Option<Bytes> {
        node(&self.before, wanted).map(|node| node.incarnation.clone())
    }

    /// Waits until a node is there, with another data directory than this.
    pub(super) async fn until_joined(&self, wanted: NodeId, other: Option<Bytes>) -> Result<()> {
        self.bar.set_message(format!(
            "node {wanted} may join: start it with seed_nodes that name nodes of this cluster (Ctrl-C ends watching only)"
        ));
        self.until(|status| {
            let joined = node(status, wanted).filter(|node| node.alive && Some(&node.incarnation) != other.as_ref());
            joined.is_some()
        })
        .await
    }

    /// Waits until a node is not there any more.
    pub(super) async fn until_gone(&self, wanted: NodeId) -> Result<()> {
        self.until(|status| {
            let left = node(status, wanted);
            let replicas = left.map_or(0, |node| node.replicas);
            self.bar.set_message(format!("node {wanted} still holds {replicas} replicas; {}", self.copied(status)));
            left.is_none()
        })
        .await
    }

    /// Waits until nothing moves any more, and says what was moved.
    pub(super) async fn until_settled(&self, what: &str) -> Result<()> {
        let mut calm = 0;
        let mut last = self.before.clone();
        self.until(|status| {
            let moving = status.partitions.iter().filter(|partition| !partition.moving_to.is_empty()).count();
            let message = format!("{moving} partitions are on their way; {}", self.copied(status));
            self.bar.set_message(message);
            calm = if moving == 0 { calm + 1 } else { 0 };
            last.clone_from(status);
            calm >= CALM_LOOKS
        })
        .await?;
        self.bar.finish_and_clear();
        let seconds = self.begun.elapsed().saturating_sub(PAUSE * CALM_LOOKS).as_secs_f64();
        let bytes = self.copied_bytes(&last);
        if self.global.is_json() {
            return print::json(&json!({"done": what, "seconds": seconds, "copied_bytes": bytes}));
        }
        print::line(&format!("{what} ({} copied in {seconds:.1} s)", units::size(bytes)))
    }

    async fn until(&self, mut done: impl FnMut(&ClusterStatusResponse) -> bool) -> Result<()> {
        let mut heard = Instant::now();
        loop {
            match self.admin.cluster_status(true).await {
                Ok(status) if done(&status) => return Ok(()),
                Ok(_) => heard = Instant::now(),
                // A node that is asked may be the one that leaves.
                Err(error) if heard.elapsed() > SILENCE_MAX => {
                    return Err(error).context("the cluster does not answer any more; what was begun goes on");
                }
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn copied(&self, status: &ClusterStatusResponse) -> String {
        let bytes = self.copied_bytes(status);
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "a rate for a person")]
        let rate = bytes as f64 / seconds;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for a person")]
        let rate = rate as u64;
        format!("{} copied, {}/s", units::size(bytes), units::size(rate))
    }

    /// What nodes have copied since this began. A node that was started meanwhile counts from then on.
    fn copied_bytes(&self, status: &ClusterStatusResponse) -> u64 {
        let before: BTreeMap<_, _> =
            self.before.nodes.iter().map(|node| ((id(node), node.incarnation.clone()), node.copied_bytes)).collect();
        let since = status.nodes.iter().map(|node| {
            let before = before.get(&(id(node), node.incarnation.clone())).copied().unwrap_or(0);
            node.copied_bytes.checked_sub(before).unwrap_or(node.copied_bytes)
        });
        since.sum()
    }
}
