//! Watching the cluster do what it was told.
//!
//! Without `--timeout` that goes on for as long as it takes, as it may be for an operator to start a node; with it, it ends then
//! with what is still waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use levada_client::{Admin, Error, ErrorClass, ErrorCode, NodeId};
use levada_protocol::messages::native::{ClusterStatusResponse, NodeStatus, PartitionStatus};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::progress::{Progress, Waiting};
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
    progress: Progress,
}

fn id(node: &NodeStatus) -> Option<u64> {
    Some(node.addresses.as_ref()?.node_id)
}

fn node(status: &ClusterStatusResponse, wanted: NodeId) -> Option<&NodeStatus> {
    status.nodes.iter().find(|node| id(node) == Some(wanted.get()))
}

/// What keeps these partitions from moving, if something does.
fn held_up<'a>(
    status: &ClusterStatusResponse,
    mut moving: impl Iterator<Item = &'a PartitionStatus>,
) -> Option<String> {
    if status.controller.is_none() {
        let words =
            "the cluster has no controller, and nothing moves without one: `levada cluster status` says what to do";
        return Some(words.to_owned());
    }
    let first = moving.find(|partition| partition.leader.is_none())?;
    let named = format!("partition {} of {}", first.partition, first.topic);
    let named = match moving.filter(|partition| partition.leader.is_none()).count() {
        0 => format!("{named} has no leader, and moves when it has"),
        more => format!("{named} and {more} more have no leader, and move when they have"),
    };
    Some(format!("{named}: `levada cluster status` says what to do"))
}

/// Until a node is there: one that was there before, with another directory than this.
fn joining(status: &ClusterStatusResponse, wanted: NodeId, other: Option<&Bytes>) -> Option<Waiting> {
    if node(status, wanted).is_some_and(|node| node.alive && Some(&node.incarnation) != other) {
        return None;
    }
    let what = match other {
        _ if status.controller.is_none() => {
            return Some(Waiting { what: held_up(status, [].iter())?, ..Default::default() });
        }
        None => format!("node {wanted} has not joined yet: start it with seed_nodes that name nodes of this cluster"),
        Some(_) => format!("node {wanted} has not come back yet: start it with an empty data directory"),
    };
    Some(Waiting { what, how_far: String::new() })
}

/// Until a node is not there any more.
fn leaving(status: &ClusterStatusResponse, wanted: NodeId, copied: impl FnOnce() -> String) -> Option<Waiting> {
    let left = node(status, wanted)?;
    let is_held = |partition: &&PartitionStatus| partition.replicas.iter().any(|held| held.node_id == wanted.get());
    let what = held_up(status, status.partitions.iter().filter(is_held)).unwrap_or_else(|| match left.replicas {
        0 => format!("node {wanted} holds nothing any more, and is taken out of the cluster"),
        _ => format!("node {wanted} gives up its replicas"),
    });
    let replicas = units::some(u64::from(left.replicas), "replica", "replicas");
    Some(Waiting { what, how_far: format!("it holds {replicas}; {}", copied()) })
}

/// Until nothing moves any more.
fn moving(status: &ClusterStatusResponse, copied: impl FnOnce() -> String) -> Option<Waiting> {
    let moving = || status.partitions.iter().filter(|partition| !partition.moving_to.is_empty());
    let count = moving().count();
    if count == 0 {
        return None;
    }
    let what = held_up(status, moving()).unwrap_or_else(|| "replicas are on their way".to_owned());
    let partitions = units::some(count as u64, "partition", "partitions");
    Some(Waiting { what, how_far: format!("{partitions} to go; {}", copied()) })
}

impl<'a> Watch<'a> {
    pub(super) async fn begin(global: &'a Global, admin: &'a Admin) -> Result<Self> {
        let before = admin.cluster_status(true).await.context("cannot ask for the cluster's status")?;
        Ok(Self { global, admin, before, progress: Progress::begin(global.is_json()) })
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

    /// Why nothing could be begun: without a controller nobody answers, and the last error says little.
    pub(super) async fn why(&self, error: Error) -> Error {
        let status = self.admin.cluster_status(true).await;
        if !matches!(error.class(), ErrorClass::Retry | ErrorClass::Redirect)
            || status.is_ok_and(|status| status.controller.is_some())
        {
            return error;
        }
        let why = "the cluster has no controller, and only that can do this: `levada cluster status` says what to do";
        Error::new(ErrorCode::NotController, why)
    }

    /// The data directory that a node had.
    pub(super) fn incarnation(&self, wanted: NodeId) -> Option<Bytes> {
        node(&self.before, wanted).map(|node| node.incarnation.clone())
    }

    /// Waits until a node is there, with another data directory than this.
    pub(super) async fn until_joined(&self, wanted: NodeId, other: Option<Bytes>) -> Result<()> {
        self.until(|status| joining(status, wanted, other.as_ref())).await
    }

    /// Waits until a node is not there any more.
    pub(super) async fn until_gone(&self, wanted: NodeId) -> Result<()> {
        self.until(|status| leaving(status, wanted, || self.copied(status))).await
    }

    /// Waits until nothing moves any more, and says what was moved.
    pub(super) async fn until_settled(&self, what: &str) -> Result<()> {
        let mut calm = 0;
        let mut last = self.before.clone();
        let mut waiting = Waiting::default();
        self.until(|status| {
            last.clone_from(status);
            if let Some(now) = moving(status, || self.copied(status)) {
                (calm, waiting) = (0, now);
            } else {
                calm += 1;
            }
            (calm < CALM_LOOKS).then(|| waiting.clone())
        })
        .await?;
        self.progress.end();
        let seconds = self.progress.begun().elapsed().saturating_sub(PAUSE * CALM_LOOKS).as_secs_f64();
        let bytes = self.copied_bytes(&last);
        if self.global.is_json() {
            return print::json(&json!({"done": what, "seconds": seconds, "copied_bytes": bytes}));
        }
        print::line(&format!("{what} ({} copied in {seconds:.1} s)", units::size(bytes)))
    }

    /// Looks again and again, until nothing is waited for any more, or the time is over that was given for it.
    async fn until(&self, look: impl FnMut(&ClusterStatusResponse) -> Option<Waiting>) -> Result<()> {
        let mut last = Waiting { what: "the cluster has not answered yet".to_owned(), ..Waiting::default() };
        let Some(limit) = self.global.timeout else { return self.watch(look, &mut last).await };
        let left = limit.saturating_sub(self.progress.begun().elapsed());
        let watched = timeout(left, self.watch(look, &mut last)).await;
        watched.unwrap_or_else(|_| Err(self.late(limit, &last).into()))
    }

    fn late(&self, limit: Duration, last: &Waiting) -> Error {
        self.progress.end();
        let why = format!(
            "it is not done after {limit:?}: {}. It goes on in the cluster; `levada cluster status` shows how far it is",
            last.words()
        );
        Error::new(ErrorCode::Timeout, why)
    }

    async fn watch(
        &self,
        mut look: impl FnMut(&ClusterStatusResponse) -> Option<Waiting>,
        last: &mut Waiting,
    ) -> Result<()> {
        let mut heard = Instant::now();
        loop {
            match self.admin.cluster_status(true).await {
                Ok(status) => {
                    heard = Instant::now();
                    match look(&status) {
                        None => return Ok(()),
                        Some(waiting) => *last = waiting,
                    }
                }
                // A node that is asked may be the one that leaves.
                Err(error) if heard.elapsed() > SILENCE_MAX => {
                    return Err(error).context("the cluster does not answer any more; what was begun goes on");
                }
                Err(error) => last.how_far = format!("no node answers ({error})"),
            }
            if !last.what.is_empty() {
                self.progress.say(last);
            }
            sleep(PAUSE).await;
        }
    }

    fn copied(&self, status: &ClusterStatusResponse) -> String {
        let bytes = self.copied_bytes(status);
        let seconds = self.progress.begun().elapsed().as_secs_f64().max(0.001);
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

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::{NodeAddresses, ReplicaStatus};

    use super::*;

    fn status(nodes: &[(u64, bool)], partitions: &[(Option<u64>, &[u64])]) -> ClusterStatusResponse {
        let node = |&(node_id, alive): &(u64, bool)| NodeStatus {
            addresses: Some(NodeAddresses { node_id, ..NodeAddresses::default() }),
            incarnation: Bytes::from_static(b"old"),
            alive,
            replicas: 1,
            ..NodeStatus::default()
        };
        let partition = |(partition, &(leader, moving_to)): (u32, &(Option<u64>, &[u64]))| PartitionStatus {
            topic: "orders".to_owned(),
            partition,
            leader,
            moving_to: moving_to.to_vec(),
            replicas: vec![ReplicaStatus { node_id: 1, ..ReplicaStatus::default() }],
            ..PartitionStatus::default()
        };
        ClusterStatusResponse {
            controller: Some(2),
            nodes: nodes.iter().map(node).collect(),
            partitions: (0..).zip(partitions).map(partition).collect(),
            ..ClusterStatusResponse::default()
        }
    }

    fn nothing() -> String {
        "0 B copied".to_owned()
    }

    #[test]
    fn a_node_that_has_not_come_is_to_be_started() {
        let (old, new) = (Bytes::from_static(b"old"), Bytes::from_static(b"new"));
        let says = |status: &_, other| joining(status, NodeId(1), other).map(|waiting| waiting.words());
        let down = status(&[(1, false), (2, true)], &[]);
        let words = says(&down, Some(&old)).expect("it is down");
        assert_eq!(words, "node 1 has not come back yet: start it with an empty data directory");
        let back = status(&[(1, true), (2, true)], &[]);
        assert!(says(&back, Some(&old)).is_some() && says(&back, Some(&new)).is_none() && says(&back, None).is_none());
        let alone = ClusterStatusResponse { controller: None, ..down };
        assert!(says(&alone, None).is_some_and(|words| words.starts_with("the cluster has no controller")));
    }

    #[test]
    fn a_partition_without_a_leader_holds_a_move_up_and_is_named() {
        let says = |status: &_| moving(status, nothing).map(|waiting| waiting.words());
        assert_eq!(says(&status(&[], &[(None, &[])])), None, "it does not move");
        let on_their_way = says(&status(&[], &[(Some(2), &[1]), (Some(2), &[2])]));
        assert_eq!(on_their_way.as_deref(), Some("replicas are on their way; 2 partitions to go; 0 B copied"));
        let words = says(&status(&[], &[(Some(2), &[1]), (None, &[1])])).expect("they move");
        assert!(words.starts_with("partition 1 of orders has no leader, and moves when it has: `levada"), "{words}");
        let words = says(&status(&[], &[(None, &[1]), (None, &[1])])).expect("they move");
        assert!(words.starts_with("partition 0 of orders and 1 more have no leader"), "{words}");
    }

    #[test]
    fn a_node_that_leaves_holds_less_and_less() {
        let says = |status: &_| leaving(status, NodeId(1), nothing).map(|waiting| waiting.words());
        let words = says(&status(&[(1, true)], &[(Some(2), &[])]));
        assert_eq!(words.as_deref(), Some("node 1 gives up its replicas; it holds 1 replica; 0 B copied"));
        let words = says(&status(&[(1, true)], &[(None, &[])])).expect("it is there");
        assert!(words.starts_with("partition 0 of orders has no leader"), "{words}");
        assert_eq!(says(&status(&[(2, true)], &[])), None);
    }
}
