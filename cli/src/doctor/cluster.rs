//! The cluster, if one is reached: which nodes are up, whether their clocks agree, whether they run the same version.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use futures::future::join_all;
use levada_broker::metrics::NODE_INFO;
use levada_client::Admin;
use levada_protocol::messages::native::ClusterStatusResponse;

use super::Finding;
use crate::{args::Global, cluster::damage_words, scrape::Scrape, units};

/// A doctor does not wait as long as an operation does.
const REACH_WITHIN: Duration = Duration::from_secs(3);
const NODE_WITHIN: Duration = Duration::from_secs(2);
/// Nodes whose clocks differ by more than this stamp and retain records visibly differently.
const SKEW_WRONG_S: f64 = 1.0;
const SKEW_WARNING_S: f64 = 0.25;

pub(super) async fn check(reached: Result<ClusterStatusResponse>) -> Vec<Finding> {
    let status = match reached {
        Ok(status) => status,
        Err(error) => {
            let todo = "name a running node with --bootstrap to have the cluster looked at, too";
            return vec![Finding::skipped("cluster", format!("{error:#}"), todo)];
        }
    };
    let mut findings = vec![nodes(&status), partitions(&status), damage(&status)];
    let addresses = status.nodes.iter().filter_map(|node| node.addresses.as_ref());
    let asked = addresses.map(|addresses| async {
        let scrape = Scrape::take(&addresses.http, NODE_WITHIN).await;
        (addresses.node_id, scrape.ok())
    });
    let scrapes: Vec<(u64, Scrape)> =
        join_all(asked).await.into_iter().filter_map(|(node, scrape)| Some((node, scrape?))).collect();
    findings.push(clocks(
        &scrapes
            .iter()
            .filter_map(|(node, scrape)| Some((*node, scrape.clock_ahead_s()?, scrape.took.as_secs_f64() / 2.0)))
            .collect::<Vec<_>>(),
    ));
    findings
        .push(versions(&scrapes.iter().filter_map(|(_, scrape)| scrape.samples.label(NODE_INFO, "version")).collect()));
    findings
}

pub(super) async fn reach(global: &Global) -> Result<ClusterStatusResponse> {
    let mut config = global.client_config()?;
    config.operation_timeout = config.operation_timeout.min(REACH_WITHIN);
    config.connect_timeout = config.connect_timeout.min(REACH_WITHIN);
    Ok(Admin::with_config(config).await?.cluster_status(true).await?)
}

fn nodes(status: &ClusterStatusResponse) -> Finding {
    let down = status.nodes.iter().filter(|node| !node.alive);
    let down: Vec<String> = down.filter_map(|node| Some(node.addresses.as_ref()?.node_id.to_string())).collect();
    let up = status.nodes.len() - down.len();
    let saw = format!("{up} of {} nodes are up", status.nodes.len());
    if down.is_empty() {
        return Finding::ok("nodes", saw);
    }
    let saw = format!("{saw}; down: {}", down.join(", "));
    Finding::wrong(
        "nodes",
        saw,
        "start them: their log's last lines say why they ended; end one first that is there and does not answer",
    )
}

fn partitions(status: &ClusterStatusResponse) -> Finding {
    let all = units::some(status.partitions.len() as u64, "partition", "partitions");
    let leaderless = status.partitions.iter().filter(|partition| partition.leader.is_none()).count();
    if leaderless == 0 {
        return Finding::ok("partitions", format!("{all}, each with a leader"));
    }
    let saw = format!("{leaderless} of {all} {} no leader", if leaderless == 1 { "has" } else { "have" });
    let todo = if status.controller.is_none() {
        "the cluster has no controller either: `levada cluster status` says what to do"
    } else if status.nodes.iter().all(|node| node.alive) {
        "all nodes are up: if that stays so for a minute, a majority of the replicas has lost what it had; `levada partition recover \
         --all` says what is left (docs/operations.md, \"A partition without a majority\")"
    } else {
        "start the nodes of their replicas: a partition needs a majority of them"
    };
    Finding::wrong("partitions", saw, todo)
}

/// What disks have lost that is not made good yet.
fn damage(status: &ClusterStatusResponse) -> Finding {
    let nodes = status.nodes.iter().filter_map(|node| {
        let (id, upkeep) = (node.addresses.as_ref()?.node_id, node.upkeep.as_ref()?);
        let (segments, replicas) = (upkeep.damaged_segments, upkeep.lost_replicas);
        (segments > 0 || replicas > 0).then(|| format!("node {id}: {}", damage_words(segments, replicas)))
    });
    let nodes: Vec<String> = nodes.collect();
    if nodes.is_empty() {
        return Finding::ok("damage", "no node that answers knows of any damage to what it keeps");
    }
    let todo = "start nodes that are down, which may have it soundly, and look at the disk (`dmesg`, SMART); what no node has soundly stays \
                as it is (docs/operations.md, \"Damage\")";
    Finding::wrong("damage", nodes.join("; "), todo)
}

/// Of each node, by how much its clock is ahead of this one, and how sure that is.
fn clocks(ahead: &[(u64, f64, f64)]) -> Finding {
    const CHECK: &str = "clocks";
    let order = |a: &&(u64, f64, f64), b: &&(u64, f64, f64)| a.1.total_cmp(&b.1);
    let (Some(last), Some(first)) = (ahead.iter().min_by(order), ahead.iter().max_by(order)) else {
        return Finding::skipped(CHECK, "no node told its time", "open the way to the nodes' HTTP addresses");
    };
    // What the asking itself may have added counts for nobody.
    let skew = (first.1 - last.1 - first.2 - last.2).max(0.0);
    let here = ahead.iter().map(|(_, ahead, _)| ahead.abs()).fold(0.0, f64::max);
    let saw = format!(
        "of {} nodes, {} is ahead of {} by {:.0} ms; the most from this machine's is {:.0} ms",
        ahead.len(),
        first.0,
        last.0,
        skew * 1e3,
        here * 1e3
    );
    let todo =
        "mend their time synchronisation (`chronyc tracking`, `timedatectl`): retention goes by the clock of leaders";
    match skew {
        _ if skew > SKEW_WRONG_S => Finding::wrong(CHECK, saw, todo),
        _ if skew > SKEW_WARNING_S => Finding::warning(CHECK, saw, todo),
        _ => Finding::ok(CHECK, saw),
    }
}

fn versions(versions: &BTreeSet<&str>) -> Finding {
    const CHECK: &str = "versions";
    let own = env!("CARGO_PKG_VERSION");
    let all = versions.iter().copied().collect::<Vec<_>>().join(", ");
    match versions.len() {
        0 => Finding::skipped(CHECK, "no node told its version", "open the way to the nodes' HTTP addresses"),
        1 if versions.contains(own) => Finding::ok(CHECK, format!("all nodes run {all}, as this command")),
        1 => Finding::warning(CHECK, format!("the nodes run {all}, this command is {own}"), "use the same version"),
        _ => Finding::warning(CHECK, format!("nodes run {all}"), "upgrade the older ones"),
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::{NodeAddresses, NodeStatus, PartitionStatus, Upkeep};

    use super::{super::State, *};

    #[test]
    fn clocks_are_compared_with_each_other() {
        let clocks = |ahead: &[f64]| {
            let ahead: Vec<_> = (1..).zip(ahead).map(|(node, ahead)| (node, *ahead, 0.001)).collect();
            clocks(&ahead)
        };
        assert_eq!(clocks(&[]).state, State::Skipped);
        // All of them an hour off from here: that is this machine's trouble, which is told.
        let far = clocks(&[3600.0, 3600.1]);
        assert!(far.state == State::Ok && far.saw.contains("3600100 ms"), "{far:?}");
        assert_eq!(clocks(&[0.0, 0.5, 0.1]).state, State::Warning);
        let wrong = clocks(&[0.0, 5.0, -0.1]);
        assert!(wrong.state == State::Wrong && wrong.saw.contains("2 is ahead of 3 by 5098 ms"), "{wrong:?}");
    }

    #[test]
    fn nodes_and_partitions_that_are_missing_are_named() {
        let node = |node_id, alive| NodeStatus {
            addresses: Some(NodeAddresses { node_id, ..NodeAddresses::default() }),
            alive,
            ..NodeStatus::default()
        };
        let mut status = ClusterStatusResponse {
            nodes: vec![node(1, true), node(2, true)],
            partitions: vec![PartitionStatus { leader: Some(1), ..PartitionStatus::default() }],
            ..ClusterStatusResponse::default()
        };
        assert_eq!((nodes(&status).state, partitions(&status).state), (State::Ok, State::Ok));
        status.nodes.push(node(7, false));
        status.partitions.push(PartitionStatus::default());
        assert!(nodes(&status).saw.contains("2 of 3 nodes are up; down: 7"));
        let finding = partitions(&status);
        assert_eq!(finding.saw, "1 of 2 partitions has no leader");
        assert!(finding.todo.starts_with("the cluster has no controller"), "{finding:?}");
        status.controller = Some(1);
        assert!(partitions(&status).todo.starts_with("start the nodes of their replicas"));
        status.nodes.retain(|node| node.alive);
        assert!(partitions(&status).todo.contains("levada partition recover --all"));
        assert_eq!(damage(&status).state, State::Ok);
        status.nodes[1].upkeep = Some(Upkeep { damaged_segments: 1, lost_replicas: 2, ..Upkeep::default() });
        let finding = damage(&status);
        assert!(
            finding.state == State::Wrong && finding.saw.starts_with("node 2: 1 damaged segment waits"),
            "{finding:?}"
        );
    }

    #[test]
    fn versions_are_compared() {
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(versions(&BTreeSet::from([own])).state, State::Ok);
        assert_eq!(versions(&BTreeSet::from([own, "0.0.9"])).state, State::Warning);
        assert_eq!(versions(&BTreeSet::from(["0.0.9"])).state, State::Warning);
    }
}
