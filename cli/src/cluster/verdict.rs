//! Is my data safe, is anyone behind: one answer from the cluster's status.

use std::fmt;

use levada_protocol::messages::native::{ClusterStatusResponse, NodeStatus, PartitionStatus};

use crate::units::some;

/// Entries that a replica may be behind in the middle of work.
const BEHIND_TOLERATED: u64 = 200;

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    partitions: usize,
    leaderless: usize,
    /// With a replica that is on a node that is down, lost, or behind.
    under_replicated: usize,
    moving: usize,
    nodes_down: Vec<u64>,
    /// Nodes with segments or replicas that the disk has lost, and how many.
    damaged: Vec<(u64, u32, u32)>,
    /// What holds up nodes that are there, though nothing is in danger.
    held_up: Vec<(u64, &'static str)>,
    has_controller: bool,
}

impl Verdict {
    pub(super) fn of(status: &ClusterStatusResponse) -> Self {
        let down = |id: u64| {
            let mut nodes = status.nodes.iter();
            let node = nodes.find(|node| node.addresses.as_ref().is_some_and(|addresses| addresses.node_id == id));
            node.is_none_or(|node| !node.alive)
        };
        let is_short = |partition: &&PartitionStatus| {
            partition.replicas.iter().any(|replica| {
                down(replica.node_id)
                    || replica.lost
                    || replica.entries_behind.is_some_and(|behind| behind > BEHIND_TOLERATED)
            })
        };
        let ids = status.nodes.iter().filter_map(|node| Some((node.addresses.as_ref()?.node_id, node.alive)));
        Self {
            partitions: status.partitions.len(),
            leaderless: status.partitions.iter().filter(|partition| partition.leader.is_none()).count(),
            under_replicated: status.partitions.iter().filter(is_short).count(),
            moving: status.partitions.iter().filter(|partition| !partition.moving_to.is_empty()).count(),
            nodes_down: ids.filter(|(_, alive)| !alive).map(|(id, _)| id).collect(),
            damaged: status.nodes.iter().filter_map(damage).collect(),
            held_up: status.nodes.iter().flat_map(held_up).collect(),
            has_controller: status.controller.is_some(),
        }
    }

    /// Whether every partition can be written and has all its replicas.
    pub(super) const fn is_safe(&self) -> bool {
        self.has_controller && self.leaderless == 0 && self.under_replicated == 0 && self.damaged.is_empty()
    }

    /// What to do if nodes that are down do not come back.
    pub(super) const fn last_resort(&self) -> Option<&'static str> {
        let all_are_up = self.nodes_down.is_empty();
        match (self.has_controller, self.leaderless) {
            (false, _) if all_are_up => Some(
                "All nodes answer, so one is elected within seconds. If none is, those that vote on metadata do not reach each other, or \
                 a majority of them has lost what it knew: their logs and /health/ready say which, and `levada cluster recover` what is \
                 left",
            ),
            (false, _) => Some(
                "Start the nodes that are down: a majority of those that vote on metadata has to be up. If they are gone for good, \
                 `levada cluster recover` says what is left",
            ),
            (true, 0) => None,
            (true, _) if all_are_up => Some(
                "All nodes are up: a partition whose replicas are sound elects a leader within seconds of their start. Where it stays \
                 without one, a majority of its replicas has lost what it had; `levada partition recover --all` says what is left",
            ),
            (true, _) => Some(
                "A partition needs a majority of its replicas: start the nodes that are down. If they are gone for good, `levada \
                 partition recover --all` says what is left",
            ),
        }
    }
}

fn damage(node: &NodeStatus) -> Option<(u64, u32, u32)> {
    let upkeep = node.upkeep.as_ref()?;
    let (segments, replicas) = (upkeep.damaged_segments, upkeep.lost_replicas);
    let id = node.addresses.as_ref().map_or(0, |addresses| addresses.node_id);
    (segments > 0 || replicas > 0).then_some((id, segments, replicas))
}

fn held_up(node: &NodeStatus) -> impl Iterator<Item = (u64, &'static str)> {
    let id = node.addresses.as_ref().map_or(0, |addresses| addresses.node_id);
    let room = match node.disk_fullness {
        0 => None,
        1 => Some("its disk is nearly full, it takes records slowly"),
        _ => Some("its disk is full, it takes no records"),
    };
    let speed = node.disk_slow.then_some("its disk is slow");
    let failed = node.upkeep.as_ref().is_some_and(|upkeep| upkeep.segment_dirs_failed > 0);
    let failed = failed.then_some("directories of its segment.dirs have failed");
    let words = [room, speed, failed].into_iter().flatten();
    words.filter(move |_| node.alive).map(move |words| (id, words))
}

/// So many of all partitions have something.
fn have(number: usize, all: usize) -> String {
    let verb = if number == 1 { "has" } else { "have" };
    format!("{number} of {} {verb}", some(all as u64, "partition", "partitions"))
}

/// What a disk has lost, and what that waits for.
pub(crate) fn damage_words(segments: u32, replicas: u32) -> String {
    let segments = match segments {
        0 => None,
        1 => Some("1 damaged segment waits for a sound copy from another replica".to_owned()),
        more => Some(format!("{more} damaged segments wait for sound copies from other replicas")),
    };
    let replicas = match replicas {
        0 => None,
        1 => Some("1 lost replica is to be replaced, when its partition has a leader".to_owned()),
        more => Some(format!("{more} lost replicas are to be replaced, when their partitions have leaders")),
    };
    segments.into_iter().chain(replicas).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_safe() {
            match self.partitions {
                0 => write!(f, "safe: there is no partition yet")?,
                1 => write!(f, "safe: the one partition has a leader and all its replicas")?,
                all => write!(f, "safe: all {all} partitions have a leader and all their replicas")?,
            }
        } else if self.leaderless > 0 || !self.has_controller {
            write!(f, "NOT AVAILABLE: {} no leader", have(self.leaderless, self.partitions))?;
            if !self.has_controller {
                write!(f, ", and the cluster no controller")?;
            }
        } else if self.under_replicated == 0 {
            write!(f, "AT RISK: a disk has lost something")?;
        } else {
            let short = have(self.under_replicated, self.partitions);
            write!(f, "AT RISK: {short} a replica that is down, lost or behind")?;
        }
        if !self.nodes_down.is_empty() {
            let down: Vec<String> = self.nodes_down.iter().map(ToString::to_string).collect();
            write!(f, "; down: {}", down.join(", "))?;
        }
        for (node, segments, replicas) in &self.damaged {
            write!(f, "; node {node}: {}", damage_words(*segments, *replicas))?;
        }
        for (node, words) in &self.held_up {
            write!(f, "; node {node}: {words}")?;
        }
        if self.moving > 0 {
            let (partitions, are) =
                (some(self.moving as u64, "partition", "partitions"), if self.moving == 1 { "is" } else { "are" });
            write!(f, "; {partitions} {are} on the way to other nodes")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::messages::native::{NodeAddresses, ReplicaStatus, Upkeep};

    use super::*;

    fn status(alive: &[bool], leader: Option<u64>, behind: u64) -> ClusterStatusResponse {
        let node = |(id, alive): (u64, &bool)| NodeStatus {
            addresses: Some(NodeAddresses { node_id: id, ..Default::default() }),
            alive: *alive,
            ..Default::default()
        };
        let replica = |node_id| ReplicaStatus { node_id, entries_behind: Some(behind), ..Default::default() };
        let partition =
            PartitionStatus { leader, replicas: vec![replica(1), replica(2)], ..PartitionStatus::default() };
        ClusterStatusResponse {
            controller: Some(1),
            nodes: (1..).zip(alive).map(node).collect(),
            partitions: vec![partition],
            ..Default::default()
        }
    }

    #[test]
    fn one_line_says_it() {
        let says = |status: &ClusterStatusResponse| Verdict::of(status).to_string();
        assert_eq!(
            says(&status(&[true, true], Some(1), 3)),
            "safe: the one partition has a leader and all its replicas"
        );
        let down = says(&status(&[true, false], Some(1), 3));
        assert_eq!(down, "AT RISK: 1 of 1 partition has a replica that is down, lost or behind; down: 2");
        assert!(says(&status(&[true, true], Some(1), 5_000)).starts_with("AT RISK"));
        let mut lost = status(&[true, true], Some(1), 3);
        lost.partitions[0].replicas[1].lost = true;
        assert!(says(&lost).starts_with("AT RISK: 1 of 1"));
        let mut damaged = status(&[true, true], Some(1), 3);
        damaged.nodes[1].upkeep = Some(Upkeep { damaged_segments: 3, ..Upkeep::default() });
        let words =
            "AT RISK: a disk has lost something; node 2: 3 damaged segments wait for sound copies from other replicas";
        assert_eq!(says(&damaged), words);
        let mut slow = status(&[true, true], Some(1), 3);
        slow.nodes[0].disk_slow = true;
        (slow.nodes[1].disk_fullness, slow.nodes[1].disk_slow) = (2, true);
        let words = says(&slow);
        assert!(words.starts_with("safe: ") && words.contains("; node 1: its disk is slow; node 2: its disk is full"));
        slow.nodes[1].alive = false;
        assert!(!says(&slow).contains("node 2: its disk"), "what it said last counts no more");
        let leaderless = status(&[true, true], None, 0);
        assert!(says(&leaderless).starts_with("NOT AVAILABLE: 1 of 1 partition has no leader"));
        let last_resort = |status: &ClusterStatusResponse| Verdict::of(status).last_resort().unwrap_or_default();
        for (alive, says_to_start) in [(true, false), (false, true)] {
            let mut status = leaderless.clone();
            status.nodes[0].alive = alive;
            let words = last_resort(&status);
            assert!(words.contains("levada partition recover --all"), "{words}");
            assert_eq!(words.contains("start the nodes that are down"), says_to_start, "{words}");
            let words = last_resort(&ClusterStatusResponse { controller: None, ..status });
            assert!(words.contains("levada cluster recover"), "{words}");
            assert_eq!(words.contains("Start the nodes that are down"), says_to_start, "{words}");
        }
        assert_eq!(last_resort(&damaged), "");
    }
}
