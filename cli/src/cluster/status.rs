//! `levada cluster status`: whether the data is safe, nodes, who leads what, and how far followers are behind.

use anyhow::{Context, Result};
use levada_client::Admin;
use levada_protocol::{
    ids::{ClusterId, IncarnationId},
    messages::native::{ClusterStatusResponse, NodeAddresses, NodeStatus, PartitionStatus},
};
use serde_json::{Value, json};

use super::verdict::Verdict;
use crate::{
    args::Global,
    print::{self, Column},
    units,
};

/// Shows nodes and partitions, and first of all whether the data is safe.
pub(super) async fn run(global: &Global, admin: &Admin, only_nodes: bool) -> Result<()> {
    let mut status = admin.cluster_status(true).await.context("cannot ask for the cluster's status")?;
    let verdict = Verdict::of(&status);
    if only_nodes {
        status.partitions.clear();
    }
    if global.is_json() { print::json(&status_json(&status, &verdict)) } else { show(&status, &verdict, only_nodes) }
}

fn show(status: &ClusterStatusResponse, verdict: &Verdict, only_nodes: bool) -> Result<()> {
    let cluster = ClusterId::from_slice(&status.cluster_id).map_or_else(|| "?".to_owned(), |id| id.to_string());
    print::line(&format!("cluster {cluster}, feature level {}", status.feature_level))?;
    print::line(&format!("{verdict}\n"))?;
    if let Some(words) = verdict.last_resort() {
        print::line(&format!("{words}\n"))?;
    }
    let columns = [
        Column::Number("node"),
        Column::Text("state"),
        Column::Text("role"),
        Column::Text("disk"),
        Column::Number("sync ms"),
        Column::Number("leads"),
        Column::Number("replicas"),
        Column::Text("native"),
        Column::Text("flight"),
        Column::Text("http"),
    ];
    let nodes = status.nodes.iter().map(|node| {
        let NodeAddresses { node_id, native, flight, http } = node.addresses.clone().unwrap_or_default();
        let role = match (status.controller == Some(node_id), node.metadata_voter) {
            (true, _) => "controller",
            (false, true) => "voter",
            (false, false) => "",
        };
        let state = match (node.alive, node.draining) {
            (true, false) => "up",
            (true, true) => "leaving",
            (false, _) => "down",
        };
        let counts = [node.leads.to_string(), node.replicas.to_string()];
        let [leads, replicas] = counts;
        let disk = disk_words(node);
        let sync = match node.disk_sync_us {
            0 => "?".to_owned(),
            us => format!("{}.{}", us / 1_000, us % 1_000 / 100),
        };
        vec![node_id.to_string(), state.to_owned(), role.to_owned(), disk, sync, leads, replicas, native, flight, http]
    });
    print::line(&print::table(&columns, nodes))?;
    if only_nodes {
        return Ok(());
    }
    let columns = [
        Column::Text("topic"),
        Column::Number("partition"),
        Column::Text("leader"),
        Column::Number("epoch"),
        Column::Number("log start"),
        Column::Number("high watermark"),
        Column::Number("bytes"),
        Column::Text("entries behind"),
        Column::Text("moving to"),
    ];
    let partitions = status.partitions.iter().map(|partition| {
        let behind: Vec<String> = partition
            .replicas
            .iter()
            .filter(|replica| Some(replica.node_id) != partition.leader)
            .map(|replica| {
                let entries = match replica.entries_behind {
                    _ if replica.lost => "lost".to_owned(),
                    Some(entries) => units::count(entries),
                    None => "?".to_owned(),
                };
                format!("{}:{entries}", replica.node_id)
            })
            .collect();
        let moving: Vec<String> = partition.moving_to.iter().map(ToString::to_string).collect();
        vec![
            partition.topic.clone(),
            partition.partition.to_string(),
            partition.leader.map_or_else(|| "none".to_owned(), |node| node.to_string()),
            known(partition, partition.leader_epoch),
            known(partition, partition.log_start_offset),
            known(partition, partition.high_watermark),
            known(partition, partition.bytes),
            behind.join(" "),
            moving.join(" "),
        ]
    });
    print::line(&format!("\n{}", print::table(&columns, partitions)))
}

/// Whether anybody who answered knows how far a partition is: its leader, or a replica that has heard from one.
const fn is_known(partition: &PartitionStatus) -> bool {
    partition.leader.is_some() || partition.high_watermark > 0
}

fn known(partition: &PartitionStatus, number: u64) -> String {
    if is_known(partition) { number.to_string() } else { "?".to_owned() }
}

/// How a node's disk is, as the node says.
fn disk_words(node: &NodeStatus) -> String {
    let Some(upkeep) = &node.upkeep else { return "?".to_owned() };
    let room = match node.disk_fullness {
        0 => None,
        1 => Some("nearly full".to_owned()),
        _ => Some("full".to_owned()),
    };
    let speed = node.disk_slow.then(|| "slow".to_owned());
    let damage = match (upkeep.damaged_segments, upkeep.lost_replicas, upkeep.mended_segments) {
        (0, 0, 0) => None,
        (0, 0, mended) => Some(format!("{} mended", units::some(mended, "segment", "segments"))),
        (damaged, lost, _) => {
            let damaged =
                (damaged > 0).then(|| format!("{} damaged", units::some(damaged.into(), "segment", "segments")));
            let lost = (lost > 0).then(|| format!("{} lost", units::some(lost.into(), "replica", "replicas")));
            Some(damaged.into_iter().chain(lost).collect::<Vec<_>>().join(", "))
        }
    };
    let failed = match upkeep.segment_dirs_failed {
        0 => None,
        1 => Some("one of its segment.dirs has failed".to_owned()),
        failed => Some(format!("{failed} of its segment.dirs have failed")),
    };
    let mut words: Vec<String> = [room, speed, failed, damage].into_iter().flatten().collect();
    if words.is_empty() {
        words.push("sound".to_owned());
    }
    words.extend(upkeep.scrub_ended_s_ago.map(|ago| format!("read {} ago", units::ago(ago))));
    words.join(", ")
}

fn status_json(status: &ClusterStatusResponse, verdict: &Verdict) -> Value {
    json!({
        "safe": verdict.is_safe(),
        "verdict": verdict.to_string(),
        "last_resort": verdict.last_resort(),
        "feature_level": status.feature_level,
        "admitted": status.admitted,
        "cluster_id": ClusterId::from_slice(&status.cluster_id).map(|id| id.to_string()),
        "controller": status.controller,
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "partitions": status.partitions.iter().map(partition_json).collect::<Vec<_>>(),
    })
}

fn node_json(node: &NodeStatus) -> Value {
    let NodeAddresses { node_id, native, flight, http } = node.addresses.clone().unwrap_or_default();
    json!({
        "id": node_id,
        "native": native,
        "flight": flight,
        "http": http,
        "rack": node.rack,
        "alive": node.alive,
        "leads": node.leads,
        "replicas": node.replicas,
        "draining": node.draining,
        "metadata_voter": node.metadata_voter,
        "disk": match node.disk_fullness { 0 => "roomy", 1 => "tight", _ => "full" },
        "disk_slow": node.disk_slow,
        "disk_sync_us": (node.disk_sync_us > 0).then_some(node.disk_sync_us),
        "segment_dirs_failed": node.upkeep.as_ref().map(|upkeep| upkeep.segment_dirs_failed),
        "copying": node.copying,
        "copied_bytes": node.copied_bytes,
        "damaged_segments": node.upkeep.as_ref().map(|upkeep| upkeep.damaged_segments),
        "mended_segments": node.upkeep.as_ref().map(|upkeep| upkeep.mended_segments),
        "lost_replicas": node.upkeep.as_ref().map(|upkeep| upkeep.lost_replicas),
        "scrub": node.upkeep.as_ref().map(|upkeep| {
            json!({
                "passes": upkeep.scrub_passes,
                "bytes": upkeep.scrubbed_bytes,
                "damage": upkeep.scrub_found,
                "ended_s_ago": upkeep.scrub_ended_s_ago,
            })
        }),
        "incarnation": IncarnationId::from_slice(&node.incarnation).map(|id| id.to_string()),
    })
}

fn partition_json(partition: &PartitionStatus) -> Value {
    let replicas: Vec<Value> = partition
        .replicas
        .iter()
        .map(|replica| {
            let (id, node, behind) = (replica.replica_id, replica.node_id, replica.entries_behind);
            json!({"id": id, "node": node, "entries_behind": behind, "lost": replica.lost})
        })
        .collect();
    let known = |number| is_known(partition).then_some(number);
    json!({
        "topic": partition.topic,
        "partition": partition.partition,
        "group": partition.group,
        "leader": partition.leader,
        "leader_epoch": known(partition.leader_epoch),
        "log_start_offset": known(partition.log_start_offset),
        "high_watermark": known(partition.high_watermark),
        "bytes": known(partition.bytes),
        "replicas": replicas,
        "moving_to": partition.moving_to,
    })
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::Upkeep;

    use super::*;

    #[test]
    fn what_nobody_knows_is_not_zero() {
        let unknown = PartitionStatus { leader: None, ..PartitionStatus::default() };
        assert_eq!(known(&unknown, unknown.bytes), "?");
        let said = partition_json(&unknown);
        for field in ["high_watermark", "bytes", "log_start_offset", "leader_epoch"] {
            assert_eq!(said[field], Value::Null, "{field}");
        }
        let empty = PartitionStatus { leader: Some(1), ..PartitionStatus::default() };
        assert_eq!((known(&empty, empty.bytes).as_str(), &partition_json(&empty)["bytes"]), ("0", &json!(0)));
        // A replica that has heard from a leader knows at least that much.
        let heard = PartitionStatus { leader: None, high_watermark: 7, ..PartitionStatus::default() };
        assert_eq!(known(&heard, heard.high_watermark), "7");
    }

    #[test]
    fn a_disk_is_told_of_in_words() {
        let says = |damaged_segments, lost_replicas, mended_segments| {
            let upkeep = Upkeep { damaged_segments, lost_replicas, mended_segments, ..Upkeep::default() };
            disk_words(&NodeStatus { upkeep: Some(upkeep), ..NodeStatus::default() })
        };
        assert_eq!([says(0, 0, 0), says(0, 0, 1)], ["sound", "1 segment mended"]);
        let damaged = [says(1, 0, 0), says(0, 3, 0), says(2, 1, 5)];
        assert_eq!(damaged, ["1 segment damaged", "3 replicas lost", "2 segments damaged, 1 replica lost"]);
    }
}
