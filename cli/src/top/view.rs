//! What is worth seeing of two samples, and the rates between them.

use std::collections::{BTreeMap, BTreeSet};

use levada_broker::metrics::{
    DISK_FREE_BYTES, DISK_TOTAL_BYTES, PROCESS_ANONYMOUS_BYTES, PRODUCE_BYTES, PRODUCE_RECORDS, PRODUCE_SECONDS,
    READ_BYTES, READY, storage::JOURNAL_SYNC_SECONDS,
};
use levada_protocol::{
    ids::ClusterId,
    messages::native::{NodeStatus, PartitionStatus},
    metric::Metric,
};
use serde::Serialize;

use super::sample::Sample;
use crate::scrape::Scrape;

/// Entries that a replica may be behind in the middle of work, as `levada_partitions_under_replicated` has it.
const BEHIND_TOLERATED: u64 = 200;

/// A cluster at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) cluster: String,
    /// Partitions that nobody leads: they take and give nothing.
    pub(super) leaderless: usize,
    /// Partitions with a replica that is down or behind.
    pub(super) under_replicated: usize,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) partitions: Vec<PartitionRow>,
}

/// A node. What is not known is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct NodeRow {
    pub(super) node: u64,
    pub(super) state: NodeState,
    pub(super) controller: bool,
    pub(super) leads: u32,
    pub(super) in_records_per_s: Option<f64>,
    pub(super) in_bytes_per_s: Option<f64>,
    pub(super) out_bytes_per_s: Option<f64>,
    /// From a produce request to its acknowledgement.
    pub(super) produce_p50_s: Option<f64>,
    pub(super) produce_p99_s: Option<f64>,
    /// The journal's fdatasync.
    pub(super) sync_p99_s: Option<f64>,
    pub(super) disk_free_bytes: Option<f64>,
    pub(super) disk_total_bytes: Option<f64>,
    pub(super) anonymous_bytes: Option<f64>,
}

/// Whether a node works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NodeState {
    /// It serves.
    Up,
    /// It runs, and does not serve yet, or any more.
    NotReady,
    /// The other nodes have it, but its HTTP address does not answer.
    Silent,
    /// It is not there.
    #[default]
    Down,
}

/// A partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct PartitionRow {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) leader: Option<u64>,
    pub(super) records_per_s: Option<f64>,
    pub(super) high_watermark: u64,
    pub(super) bytes: u64,
    /// By how many entries the worst replica is behind.
    pub(super) behind: Option<u64>,
    /// Nodes of replicas that are down.
    pub(super) down: Vec<u64>,
}

impl PartitionRow {
    pub(super) fn is_under_replicated(&self) -> bool {
        !self.down.is_empty() || self.behind.is_some_and(|behind| behind > BEHIND_TOLERATED)
    }
}

impl View {
    /// Of two samples, one after the other.
    pub(super) fn of(before: &Sample, now: &Sample) -> Self {
        let status = &now.status;
        let nodes: Vec<NodeRow> = status
            .nodes
            .iter()
            .map(|node| {
                let id = node.addresses.as_ref().map_or(0, |addresses| addresses.node_id);
                node_row(id, node, status.controller == Some(id), before.nodes.get(&id), now.nodes.get(&id))
            })
            .collect();
        let down: BTreeSet<u64> =
            nodes.iter().filter(|node| node.state == NodeState::Down).map(|node| node.node).collect();
        let earlier: BTreeMap<u64, u64> =
            before.status.partitions.iter().map(|partition| (partition.group, partition.high_watermark)).collect();
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let partitions: Vec<PartitionRow> = status
            .partitions
            .iter()
            .map(|partition| partition_row(partition, &down, earlier.get(&partition.group).copied(), seconds))
            .collect();
        Self {
            cluster: ClusterId::from_slice(&status.cluster_id).map_or_else(String::new, |id| id.to_string()),
            leaderless: partitions.iter().filter(|partition| partition.leader.is_none()).count(),
            under_replicated: partitions.iter().filter(|partition| partition.is_under_replicated()).count(),
            nodes,
            partitions,
        }
    }

    pub(super) fn nodes_down(&self) -> usize {
        self.nodes.iter().filter(|node| node.state == NodeState::Down).count()
    }

    /// The most that any replica is behind.
    pub(super) fn behind_max(&self) -> u64 {
        self.partitions.iter().filter_map(|partition| partition.behind).max().unwrap_or(0)
    }
}

fn node_row(id: u64, node: &NodeStatus, controller: bool, before: Option<&Scrape>, now: Option<&Scrape>) -> NodeRow {
    let state = match now {
        _ if !node.alive && now.is_none() => NodeState::Down,
        None => NodeState::Silent,
        Some(now) if now.samples.get(READY) == Some(0.0) => NodeState::NotReady,
        Some(_) => NodeState::Up,
    };
    let row = NodeRow { node: id, state, controller, leads: node.leads, ..NodeRow::default() };
    let Some(now) = now else { return row };
    let rate = |metric: Metric| {
        let before = before?;
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        // What was never counted is not shown by the node. One that was started again counts from 0.
        let count = now.samples.get(metric).unwrap_or(0.0) - before.samples.get(metric).unwrap_or(0.0);
        (seconds > 0.0).then_some(count.max(0.0) / seconds)
    };
    let quantile = |metric, quantile| now.samples.quantile(metric, quantile, Some(&before?.samples));
    NodeRow {
        in_records_per_s: rate(PRODUCE_RECORDS),
        in_bytes_per_s: rate(PRODUCE_BYTES),
        out_bytes_per_s: rate(READ_BYTES),
        produce_p50_s: quantile(PRODUCE_SECONDS, 0.5),
        produce_p99_s: quantile(PRODUCE_SECONDS, 0.99),
        sync_p99_s: quantile(JOURNAL_SYNC_SECONDS, 0.99),
        disk_free_bytes: now.samples.get(DISK_FREE_BYTES),
        disk_total_bytes: now.samples.get(DISK_TOTAL_BYTES),
        anonymous_bytes: now.samples.get(PROCESS_ANONYMOUS_BYTES),
        ..row
    }
}

fn partition_row(
    partition: &PartitionStatus,
    down: &BTreeSet<u64>,
    earlier: Option<u64>,
    seconds: f64,
) -> PartitionRow {
    let followers = partition.replicas.iter().filter(|replica| Some(replica.node_id) != partition.leader);
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let rate = earlier.map(|earlier| partition.high_watermark.saturating_sub(earlier) as f64 / seconds);
    PartitionRow {
        topic: partition.topic.clone(),
        partition: partition.partition,
        leader: partition.leader,
        records_per_s: rate.filter(|rate| rate.is_finite()),
        high_watermark: partition.high_watermark,
        bytes: partition.bytes,
        behind: followers.filter_map(|replica| replica.entries_behind).max(),
        down: partition.replicas.iter().map(|replica| replica.node_id).filter(|node| down.contains(node)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use levada_protocol::messages::native::{ClusterStatusResponse, NodeAddresses, ReplicaStatus};

    use super::*;
    use crate::scrape::samples::Samples;

    fn scrape(at: Instant, text: &str) -> Scrape {
        let samples = Samples::parse(text);
        Scrape { samples, at, took: Duration::ZERO, clock_s: 0.0 }
    }

    fn sample(at: Instant, high_watermark: u64, scrapes: &[(u64, &str)]) -> Sample {
        let node = |node_id| NodeStatus {
            addresses: Some(NodeAddresses { node_id, ..NodeAddresses::default() }),
            alive: node_id != 3,
            ..NodeStatus::default()
        };
        let replica = |node_id, entries_behind| ReplicaStatus { node_id, entries_behind, ..ReplicaStatus::default() };
        let partition = PartitionStatus {
            leader: Some(1),
            high_watermark,
            replicas: vec![replica(1, Some(0)), replica(2, Some(7)), replica(4, None)],
            ..PartitionStatus::default()
        };
        let lame = PartitionStatus { group: 1, replicas: vec![replica(3, None)], ..PartitionStatus::default() };
        let status = ClusterStatusResponse {
            controller: Some(2),
            nodes: [1, 2, 3, 4].map(node).to_vec(),
            partitions: vec![partition, lame],
            ..ClusterStatusResponse::default()
        };
        Sample { status, at, nodes: scrapes.iter().map(|(node, text)| (*node, scrape(at, text))).collect() }
    }

    #[test]
    fn rates_are_between_two_samples() {
        let began = Instant::now();
        let before = sample(began, 100, &[(1, "levada_produce_bytes_total 1000\n")]);
        let later = began + Duration::from_secs(2);
        let one = "levada_produce_bytes_total 5000\nlevada_produce_records_total 10\nlevada_ready 1\n";
        let now = sample(later, 160, &[(1, one), (2, "levada_ready 0\n")]);
        let view = View::of(&before, &now);
        let states: Vec<_> = view.nodes.iter().map(|node| (node.state, node.controller)).collect();
        use NodeState::{Down, NotReady, Silent, Up};
        assert_eq!(states, [(Up, false), (NotReady, true), (Down, false), (Silent, false)]);
        let node = &view.nodes[0];
        assert_eq!((node.in_bytes_per_s, node.in_records_per_s), (Some(2000.0), Some(5.0)));
        assert_eq!((node.produce_p99_s, node.disk_free_bytes), (None, None));
        assert_eq!(view.nodes[1].in_bytes_per_s, None, "it was not seen before");
        let partition = &view.partitions[0];
        assert_eq!((partition.records_per_s, partition.behind), (Some(30.0), Some(7)));
        assert!(!partition.is_under_replicated() && view.partitions[1].down == [3]);
        assert_eq!((view.leaderless, view.under_replicated, view.nodes_down(), view.behind_max()), (1, 1, 1, 7));
    }

    #[test]
    fn who_was_started_again_has_no_negative_rates() {
        let began = Instant::now();
        let before = sample(began, 100, &[(1, "levada_produce_bytes_total 1000\n")]);
        let now = sample(began + Duration::from_secs(1), 90, &[(1, "levada_produce_bytes_total 10\n")]);
        let view = View::of(&before, &now);
        assert_eq!((view.nodes[0].in_bytes_per_s, view.partitions[0].records_per_s), (Some(0.0), Some(0.0)));
        let same = View::of(&before, &before);
        assert_eq!(same.partitions[0].records_per_s, None, "no time has passed");
    }
}
