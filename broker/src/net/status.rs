//! The state of the cluster as this node sees it, or as all nodes together do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use levada_protocol::{
    context::{Action, RequestContext, Resource},
    error::{NodeAddresses, Result},
    frame::Api,
    ids::{GroupId, NodeId, TopicPartition},
    messages::native::{self, ClusterStatusRequest, ClusterStatusResponse, NodeStatus, PartitionStatus, ReplicaStatus},
};

use super::{connection::Session, responder::Responder};
use crate::{
    broker::Broker,
    cluster::{
        metadata::{Metadata, Partition, Topic},
        view::Upkeep,
    },
    raft::{ELECTION_TICKS, TICK_MS},
    runtime::clock,
};

/// How long other nodes may take to say how they are.
const OTHERS_WAIT: Duration = Duration::from_secs(1);
/// A node that was heard from within the longest election timeout is alive.
const ALIVE_MS: u64 = 2 * ELECTION_TICKS as u64 * TICK_MS;

impl Broker {
    /// The state of the cluster; with `all_nodes`, put together from what every node says.
    pub(crate) async fn status(&self, ctx: &RequestContext, all_nodes: bool) -> Result<ClusterStatusResponse> {
        self.authorize(ctx, Action::Describe, Resource::Cluster)?;
        let own = self.own_status();
        if !all_nodes {
            return Ok(own);
        }
        let others =
            own.nodes.iter().filter_map(|node| node.addresses.as_ref()).map(|addresses| NodeId(addresses.node_id));
        let others: Vec<NodeId> = others.filter(|node| *node != self.node()).collect();
        let deadline = clock::instant() + OTHERS_WAIT;
        let asked = others.into_iter().map(|node| async move {
            let request = ClusterStatusRequest { all_nodes: false };
            let answer = self.forwarder.call(node, Api::ClusterStatus, request, Bytes::new(), deadline).await;
            (node, answer.ok())
        });
        Ok(merge(self.node(), own, join_all(asked).await))
    }

    fn own_status(&self) -> ClusterStatusResponse {
        let metadata = self.metadata();
        let counts = count(&metadata, |group| self.leader(group));
        let mut nodes: BTreeMap<NodeId, NodeStatus> = BTreeMap::new();
        let members = self.identity.members.keys().chain(metadata.nodes().keys()).copied();
        let members = members.filter(|node| !metadata.removed().contains(node));
        let voters = self.view.metadata_voters();
        let upkeep = self.view.upkeep();
        let copying = u32::try_from(upkeep.copying).unwrap_or(u32::MAX);
        for node in members {
            nodes.entry(node).or_insert_with(|| {
                let known = metadata.nodes().get(&node);
                let health = self.view.health(node);
                let (leads, replicas) = counts.get(&node).copied().unwrap_or_default();
                NodeStatus {
                    addresses: Some(
                        self.node_addresses(node).unwrap_or(NodeAddresses { node, ..Default::default() }).into(),
                    ),
                    alive: self.is_alive(node),
                    leads,
                    replicas,
                    rack: known.map(|known| known.rack.clone()).unwrap_or_default(),
                    incarnation: self
                        .book
                        .incarnation(node)
                        .map(|id| Bytes::copy_from_slice(&id.to_bytes()))
                        .unwrap_or_default(),
                    draining: known.is_some_and(|known| known.draining),
                    feature_level_max: known.map_or(0, |known| known.feature_level_max),
                    copying: if node == self.node() { copying } else { 0 },
                    copied_bytes: if node == self.node() { upkeep.copied_bytes } else { 0 },
                    upkeep: (node == self.node()).then(|| upkeep_to_wire(&upkeep, self.segment_dirs_failed)),
                    metadata_voter: voters.contains(&node),
                    disk_fullness: u32::from(health.fullness as u8),
                    disk_slow: health.slow_disk,
                    disk_sync_us: health.sync_us,
                }
            });
        }
        let topics = metadata.topics();
        let partitions = topics.flat_map(|topic| topic.partitions.iter().map(|p| self.partition_status(topic, p)));
        ClusterStatusResponse {
            cluster_id: Bytes::copy_from_slice(&self.identity.cluster.to_bytes()),
            controller: self.leader(GroupId::METADATA).map(NodeId::get),
            nodes: nodes.into_values().collect(),
            partitions: partitions.collect(),
            feature_level: metadata.feature_level(),
            admitted: metadata.admitted().keys().map(|node| node.get()).collect(),
        }
    }

    /// Whether a node was heard from lately, or is connected.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        let now_ms = self.clock.mono_ms();
        let heard = self.view.heard_ms(node).is_some_and(|heard_ms| heard_ms + ALIVE_MS >= now_ms);
        node == self.node() || heard || self.peers.is_connected(node)
    }

    fn partition_status(&self, topic: &Topic, partition: &Partition) -> PartitionStatus {
        let place = TopicPartition { topic: topic.id, partition: partition.partition };
        let replica = self.view.partition(place);
        let state = replica.as_ref().map(|replica| *replica.state.borrow()).unwrap_or_default();
        let behind = replica.as_ref().map(|replica| replica.behind()).unwrap_or_default();
        let known = self.view.leader(partition.group);
        PartitionStatus {
            topic: topic.name.clone(),
            partition: partition.partition.get(),
            group: partition.group.get(),
            leader: known
                .and_then(|known| known.node)
                .filter(|node| *node != self.node() || state.leading)
                .map(NodeId::get),
            leader_epoch: known.map_or(0, |known| known.term.get()),
            log_start_offset: state.log_start.get(),
            high_watermark: state.high_watermark.get(),
            bytes: replica.map_or(0, |replica| replica.log.stats().segment_bytes),
            replicas: partition
                .replicas
                .iter()
                .map(|replica| ReplicaStatus {
                    replica_id: replica.id.get(),
                    node_id: replica.node.get(),
                    entries_behind: behind.get(&replica.node).copied(),
                    lost: partition.lost.contains(&replica.id),
                })
                .collect(),
            moving_to: partition.target.iter().map(|replica| replica.node.get()).collect(),
        }
    }
}

fn upkeep_to_wire(upkeep: &Upkeep, segment_dirs_failed: u32) -> native::Upkeep {
    native::Upkeep {
        damaged_segments: u32::try_from(upkeep.damaged_segments).unwrap_or(u32::MAX),
        mended_segments: upkeep.mended_segments,
        lost_replicas: u32::try_from(upkeep.lost_replicas).unwrap_or(u32::MAX),
        scrub_passes: upkeep.scrub_passes,
        scrubbed_bytes: upkeep.scrubbed_bytes,
        scrub_found: upkeep.scrub_found,
        scrub_ended_s_ago: upkeep.scrub_ended_ms_ago.map(|ms| ms / 1_000),
        segment_dirs_failed,
    }
}

/// For each node, partitions led and replicas held.
fn count(metadata: &Metadata, leader: impl Fn(GroupId) -> Option<NodeId>) -> BTreeMap<NodeId, (u32, u32)> {
    let mut counts: BTreeMap<NodeId, (u32, u32)> = BTreeMap::new();
    for partition in metadata.topics().flat_map(|topic| &topic.partitions) {
        if let Some(node) = leader(partition.group) {
            counts.entry(node).or_default().0 += 1;
        }
        for replica in &partition.replicas {
            counts.entry(replica.node).or_default().1 += 1;
        }
    }
    counts
}

/// Puts together what this node and others say. Who leads, only the leader itself says: what others believe may be old, of a
/// node that is gone. Of a partition that nobody leads, who knows most of it is believed. A node that answered is alive, one
/// that did not is not.
fn merge(
    own_node: NodeId,
    own: ClusterStatusResponse,
    others: Vec<(NodeId, Option<ClusterStatusResponse>)>,
) -> ClusterStatusResponse {
    let mut merged = own;
    let own_claims = merged.controller == Some(own_node.get());
    let claims = |(node, answer): &(NodeId, Option<ClusterStatusResponse>)| {
        answer.as_ref().and_then(|answer| answer.controller).filter(|controller| *controller == node.get())
    };
    merged.controller = others.iter().find_map(claims).or(merged.controller.filter(|_| own_claims));
    let mut by_group: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, partition) in merged.partitions.iter_mut().enumerate() {
        by_group.insert(partition.group, at);
        partition.leader = partition.leader.filter(|leader| *leader == own_node.get());
    }
    for (node, answer) in others {
        for status in &mut merged.nodes {
            if status.addresses.as_ref().is_some_and(|addresses| addresses.node_id == node.get()) {
                status.alive = answer.is_some();
                let own = answer.iter().flat_map(|answer| &answer.nodes);
                let mut own = own.filter(|own| own.addresses.as_ref().is_some_and(|a| a.node_id == node.get()));
                if let Some(own) = own.next() {
                    (status.copying, status.copied_bytes) = (own.copying, own.copied_bytes);
                    status.upkeep = own.upkeep;
                }
            }
        }
        for mut theirs in answer.into_iter().flat_map(|answer| answer.partitions) {
            theirs.leader = theirs.leader.filter(|leader| *leader == node.get());
            let known = by_group.get(&theirs.group).and_then(|at| merged.partitions.get_mut(*at));
            if let Some(known) = known
                && knowledge(&theirs) > knowledge(known)
            {
                *known = theirs;
            }
        }
    }
    let mut leads: BTreeMap<u64, u32> = BTreeMap::new();
    for leader in merged.partitions.iter().filter_map(|partition| partition.leader) {
        *leads.entry(leader).or_default() += 1;
    }
    for status in &mut merged.nodes {
        let node = status.addresses.as_ref().map_or(0, |addresses| addresses.node_id);
        status.leads = leads.get(&node).copied().unwrap_or(0);
    }
    merged
}

/// How much a node knows of a partition: the newest leader most, and else who has most of it.
fn knowledge(partition: &PartitionStatus) -> (bool, u64, u64) {
    let leads = partition.leader.is_some();
    (leads, if leads { partition.leader_epoch } else { 0 }, partition.high_watermark)
}

/// The state of the cluster, on the native door.
pub(crate) async fn cluster_status(
    broker: Arc<Broker>,
    session: Arc<Session>,
    request: ClusterStatusRequest,
    responder: Responder,
) {
    responder.answer(broker.status(&session.context(), request.all_nodes).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(partitions: &[(u64, Option<u64>, u64, u64)]) -> ClusterStatusResponse {
        let node = |node_id| NodeStatus {
            addresses: Some(levada_protocol::messages::native::NodeAddresses { node_id, ..Default::default() }),
            alive: true,
            ..Default::default()
        };
        let partitions = partitions.iter().map(|&(group, leader, leader_epoch, high_watermark)| PartitionStatus {
            group,
            leader,
            leader_epoch,
            high_watermark,
            ..Default::default()
        });
        ClusterStatusResponse {
            nodes: [1, 2, 3].map(node).to_vec(),
            partitions: partitions.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn leaders_speak_for_themselves_and_silence_is_death() {
        let own = says(&[(1, Some(1), 5, 10), (2, Some(1), 5, 10), (3, Some(3), 7, 0), (4, Some(2), 8, 0)]);
        // Node 2 leads group 2 in a newer term, has an old opinion on group 1, and believes in the leader of 3, which is gone,
        // but has a replica. It has stepped down in 4.
        let other =
            says(&[(1, Some(2), 4, 99), (2, Some(2), 6, 20), (3, Some(3), 7, 5), (4, None, 8, 7), (9, Some(2), 1, 1)]);
        let merged = merge(NodeId(1), own, vec![(NodeId(2), Some(other)), (NodeId(3), None)]);
        let seen: Vec<_> = merged.partitions.iter().map(|p| (p.group, p.leader, p.high_watermark)).collect();
        assert_eq!(seen, [(1, Some(1), 10), (2, Some(2), 20), (3, None, 5), (4, None, 7)]);
        assert_eq!(
            merged.nodes.iter().map(|n| (n.alive, n.leads)).collect::<Vec<_>>(),
            [(true, 1), (true, 1), (false, 0)]
        );
    }

    #[test]
    fn so_does_the_controller() {
        let with = |controller| ClusterStatusResponse { controller, ..says(&[]) };
        let merged = |own, other| merge(NodeId(1), with(own), vec![(NodeId(2), Some(with(other))), (NodeId(3), None)]);
        assert_eq!(merged(Some(1), Some(1)).controller, Some(1));
        assert_eq!(merged(Some(3), Some(2)).controller, Some(2));
        assert_eq!(merged(Some(3), Some(3)).controller, None, "it is gone");
    }
}
