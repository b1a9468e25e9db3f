//! What the node core shows to the tasks around it: metadata, leaders, and each partition's log up to its high
//! watermark. The core writes, everybody reads; nobody outside waits for the core to read a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use levada_protocol::ids::{ClusterId, GroupId, IncarnationId, NodeId, Offset, ReplicaId, Term, TopicPartition};
use levada_storage_engine::log::Log;
use tokio::sync::watch;

use super::{health::Health, metadata::Metadata};

/// A partition's state as readers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The first offset not yet known here to be committed.
    pub high_watermark: Offset,
    /// This node leads it and has committed in its term: it serves linearizable reads and produce.
    pub leading: bool,
    /// The current term.
    pub term: Term,
    /// The replica is gone from this node.
    pub removed: bool,
}

/// One partition that has a replica on this node.
#[derive(Debug)]
pub struct PartitionView {
    /// Which.
    pub partition: TopicPartition,
    /// Its raft group.
    pub group: GroupId,
    /// Which replica of it this is.
    pub replica: ReplicaId,
    /// Its records. Read below [`PartitionState::high_watermark`] only.
    pub log: Log,
    /// Changes are announced to who waits.
    pub state: watch::Sender<PartitionState>,
    /// As leader: entries that each replica is behind; empty otherwise.
    pub behind: RwLock<BTreeMap<NodeId, u64>>,
}

/// Who leads a group, in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: Term,
    /// The leader; `None` while that term has none.
    pub node: Option<NodeId>,
}

/// How a node's disk is, and what comes to it from others, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Replicas that are being copied to this node.
    pub copying: usize,
    /// What has come from other nodes for new replicas and damaged segments.
    pub copied_bytes: u64,
    /// Segments that cannot be read as a whole.
    pub damaged_segments: usize,
    /// Segments that were damaged and have a sound file now.
    pub mended_segments: u64,
    /// Replicas that may have lost what they had acknowledged, and take no part.
    pub lost_replicas: usize,
    /// Complete passes of the scrub.
    pub scrub_passes: u64,
    /// What the scrub has read.
    pub scrubbed_bytes: u64,
    /// Damaged segments that the scrub found.
    pub scrub_found: u64,
    /// How long ago its last pass ended.
    pub scrub_ended_ms_ago: Option<u64>,
}

/// Everything the core shows.
#[derive(Debug)]
pub struct ClusterView {
    /// This cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// This data directory.
    pub incarnation: IncarnationId,
    /// Metadata, and an announcement of each change.
    pub metadata: watch::Sender<Arc<Metadata>>,
    /// Partitions with a replica here.
    partitions: RwLock<BTreeMap<TopicPartition, Arc<PartitionView>>>,
    /// Leaders of all groups that this node has heard of.
    leaders: RwLock<BTreeMap<GroupId, Leadership>>,
    /// Who votes on metadata.
    metadata_voters: RwLock<BTreeSet<NodeId>>,
    upkeep: RwLock<Upkeep>,
    /// When each other node was last heard from, in milliseconds since the process began.
    heard_ms: RwLock<BTreeMap<NodeId, u64>>,
    /// How the nodes are that said so lately, this one among them.
    health: RwLock<BTreeMap<NodeId, Health>>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl ClusterView {
    /// Empty, but for who this is.
    #[must_use]
    pub fn new(cluster: ClusterId, node: NodeId, incarnation: IncarnationId) -> Self {
        Self {
            cluster,
            node,
            incarnation,
            metadata: watch::Sender::new(Arc::default()),
            partitions: RwLock::default(),
            leaders: RwLock::default(),
            metadata_voters: RwLock::default(),
            upkeep: RwLock::default(),
            heard_ms: RwLock::default(),
            health: RwLock::default(),
        }
    }

    /// A partition with a replica here.
    #[must_use]
    pub fn partition(&self, partition: TopicPartition) -> Option<Arc<PartitionView>> {
        read(&self.partitions).get(&partition).cloned()
    }

    /// All partitions with a replica here.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<PartitionView>> {
        read(&self.partitions).values().cloned().collect()
    }

    /// Who leads a group, as far as is known here.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<Leadership> {
        read(&self.leaders).get(&group).copied()
    }

    /// When a node was last heard from, in milliseconds since the process began.
    #[must_use]
    pub fn heard_ms(&self, node: NodeId) -> Option<u64> {
        read(&self.heard_ms).get(&node).copied()
    }

    /// How a node is, as it said itself.
    #[must_use]
    pub fn health(&self, node: NodeId) -> Health {
        read(&self.health).get(&node).copied().unwrap_or_default()
    }

    /// The nodes that vote on metadata.
    #[must_use]
    pub fn metadata_voters(&self) -> BTreeSet<NodeId> {
        read(&self.metadata_voters).clone()
    }

    /// How this node's disk is, and what comes to it.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        *read(&self.upkeep)
    }

    pub(crate) fn set_upkeep(&self, upkeep: Upkeep) {
        *write(&self.upkeep) = upkeep;
    }

    pub(crate) fn set_health(&self, health: BTreeMap<NodeId, Health>) {
        *write(&self.health) = health;
    }

    pub(crate) fn set_metadata_voters(&self, voters: BTreeSet<NodeId>) {
        *write(&self.metadata_voters) = voters;
    }

    pub(crate) fn insert(&self, view: Arc<PartitionView>) {
        write(&self.partitions).insert(view.partition, view);
    }

    pub(crate) fn remove(&self, partition: TopicPartition) {
        if let Some(view) = write(&self.partitions).remove(&partition) {
            view.state.send_modify(|state| state.removed = true);
        }
    }

    /// What this node's own replica of a group knows of its leader.
    pub(crate) fn set_leader(&self, group: GroupId, leadership: Leadership) {
        write(&self.leaders).insert(group, leadership);
    }

    /// Takes news of a leader from another node, unless something newer is known.
    pub(crate) fn lead(&self, group: GroupId, news: Leadership) {
        let mut leaders = write(&self.leaders);
        if leaders.get(&group).is_none_or(|known| known.term <= news.term) {
            leaders.insert(group, news);
        }
    }

    pub(crate) fn forget(&self, group: GroupId) {
        write(&self.leaders).remove(&group);
    }

    pub(crate) fn hear(&self, node: NodeId, now_ms: u64) {
        write(&self.heard_ms).insert(node, now_ms);
    }
}

impl PartitionView {
    /// How far each replica is behind, as leader.
    #[must_use]
    pub fn behind(&self) -> BTreeMap<NodeId, u64> {
        read(&self.behind).clone()
    }

    pub(crate) fn set_behind(&self, behind: BTreeMap<NodeId, u64>) {
        *write(&self.behind) = behind;
    }
}
