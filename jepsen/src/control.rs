//! What nemeses ask the cluster, from threads of their own. Under faults nobody may answer: then they do without.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use levada_client::{Admin, NodeId, PartitionId, Result};
use levada_protocol::messages::native::{ClusterStatusResponse, NodeStatus, PartitionStatus};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    net::Host,
    stage::{Flag, Stage},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often something is asked for that may be under way.
const ASK_AGAIN_INTERVAL: Duration = Duration::from_secs(2);
/// How long something may take to come about when nothing disturbs it any more.
const CALM_PATIENCE: Duration = Duration::from_secs(120);

/// Asks.
#[derive(Clone)]
pub struct Control {
    runtime: Handle,
    admin: Admin,
    expected: Expected,
    stage: Arc<Stage>,
}

/// What there is when nothing is missing, on the nodes that belong to the cluster.
#[derive(Clone, Debug)]
pub struct Expected {
    /// As many nodes at least,
    pub nodes: usize,
    /// a topic,
    pub topic: String,
    /// its partitions,
    pub partitions: usize,
    /// and replicas of each.
    pub replicas: usize,
}

impl Control {
    /// Asks.
    #[must_use]
    pub const fn new(runtime: Handle, admin: Admin, expected: Expected, stage: Arc<Stage>) -> Self {
        Self { runtime, admin, expected, stage }
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Option<T> {
        self.runtime.block_on(async { timeout(PATIENCE, question).await.ok()?.ok() })
    }

    fn status(&self, all_nodes: bool) -> Option<ClusterStatusResponse> {
        self.ask(self.admin.cluster_status(all_nodes))
    }

    /// A node that leads a partition.
    pub fn some_leader(&self, dice: &mut StdRng) -> Option<Host> {
        // Drawn whether somebody answers or not, so that what is drawn next is the same.
        let mut own = StdRng::seed_from_u64(dice.random());
        let status = self.status(false)?;
        let leaders: Vec<u64> = status.partitions.iter().filter_map(|partition| partition.leader).collect();
        leaders.choose(&mut own).copied()
    }

    /// Asks another replica of some partitions to lead. What was asked for and who is to lead now, if one did.
    pub fn move_leaders(&self, dice: &mut StdRng) -> Option<(String, Vec<Host>)> {
        let status = self.status(false)?;
        let mut moved = Vec::new();
        for partition in &status.partitions {
            let others = partition.replicas.iter().map(|replica| replica.node_id);
            let others: Vec<u64> = others.filter(|&node| Some(node) != partition.leader).collect();
            let Some(&to) = others.choose(dice) else { continue };
            let number = PartitionId(partition.partition);
            let asked = self.admin.transfer_leader(&partition.topic, number, NodeId(to));
            if self.ask(asked).is_some() {
                moved.push((partition.partition, to));
            }
        }
        let names: Vec<String> = moved.iter().map(|(partition, to)| format!("{partition} to node {to}")).collect();
        (!moved.is_empty()).then(|| {
            (format!("leadership moved: partition {}", names.join(", ")), moved.iter().map(|&(_, to)| to).collect())
        })
    }

    /// Whether all nodes are there, and every partition has all its replicas, none behind and none moving.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.status(true).is_some_and(|status| status.admitted.is_empty() && self.lacks(&status).is_none())
    }

    /// What is missing or moves; `None` if nothing does.
    fn lacks(&self, status: &ClusterStatusResponse) -> Option<String> {
        let is_whole = |partition: &PartitionStatus| {
            partition.leader.is_some()
                && partition.moving_to.is_empty()
                && partition.replicas.len() >= self.expected.replicas
                && partition
                    .replicas
                    .iter()
                    .all(|replica| !replica.lost && replica.entries_behind.is_some_and(|behind| behind < 1_000))
        };
        let Expected { topic, partitions, .. } = &self.expected;
        let (there, ours) = (named(status), self.stage.ids());
        if !there.keys().eq(&ours) {
            return Some(format!("the cluster names the nodes {:?}, not {ours:?}", Vec::from_iter(there.keys())));
        }
        if let Some(node) = there.values().find(|node| !node.alive || node.draining || node.copying > 0) {
            return Some(format!("a node is down, on its way or copies: {node:?}"));
        }
        let count = status.partitions.iter().filter(|partition| partition.topic == *topic).count();
        if count != *partitions {
            return Some(format!("{count} partitions are there, not {partitions}"));
        }
        let partition = status.partitions.iter().find(|partition| !is_whole(partition))?;
        Some(format!("a partition is not whole: {partition:?}"))
    }

    /// Waits until everything is whole and nothing is to move any more, so that what is read afterwards is where it stays.
    ///
    /// # Errors
    /// What is missing, when it takes too long.
    pub fn wait_settled(&self, within: Duration) -> std::result::Result<(), String> {
        let deadline = Instant::now() + within;
        loop {
            let lacks = match self.status(true) {
                None => "nobody says how the cluster is".to_owned(),
                Some(status) => match (self.lacks(&status), self.ask(self.admin.balance(true))) {
                    (Some(lacks), _) => lacks,
                    (None, Some(moves)) if moves.is_empty() => return Ok(()),
                    (None, moves) => {
                        self.balance();
                        format!("this is to move: {moves:?}")
                    }
                },
            };
            if Instant::now() > deadline {
                return Err(lacks);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// The fewest nodes that there are to be.
    #[must_use]
    pub const fn nodes_min(&self) -> usize {
        self.expected.nodes
    }

    /// The nodes that the cluster names, and how many replicas each has.
    #[must_use]
    pub fn members(&self) -> Option<BTreeMap<Host, u32>> {
        let status = self.status(false)?;
        Some(named(&status).into_iter().map(|(node, status)| (node, status.replicas)).collect())
    }

    /// Whether a node may join that has not.
    #[must_use]
    pub fn is_admitted(&self, node: Host) -> bool {
        self.status(false).is_some_and(|status| status.admitted.contains(&node))
    }

    /// Lets a new node join.
    pub fn admit(&self, node: Host) {
        self.ask(self.admin.admit_node(NodeId(node), false));
    }

    /// Has a node give up its replicas and leave.
    pub fn decommission(&self, node: Host) {
        self.ask(self.admin.decommission_node(NodeId(node)));
    }

    /// Spreads replicas over the nodes that there are.
    pub fn balance(&self) {
        self.ask(self.admin.balance(false));
    }

    /// Asks for something again and again until it has come about. Gives up only when it takes too long though all faults are over.
    /// Whether it has.
    pub fn see_through(&self, calm: &Flag, ask: impl Fn(), is_so: impl Fn() -> bool) -> bool {
        let (mut asked, mut calm_since) = (None::<Instant>, None::<Instant>);
        while !is_so() {
            if asked.is_none_or(|at| at.elapsed() > ASK_AGAIN_INTERVAL) {
                ask();
                asked = Some(Instant::now());
            }
            if calm.sleep(LOOK_INTERVAL) {
                if calm_since.get_or_insert_with(Instant::now).elapsed() > CALM_PATIENCE {
                    return false;
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
        true
    }

    /// Waits until everything is whole, for a time, or until all faults are to end.
    pub fn wait_whole(&self, within: Duration, calm: &Flag) {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline && !calm.sleep(LOOK_INTERVAL) && !self.is_whole() {}
    }

    /// Which incarnation of a node the cluster knows, in hexadecimal.
    #[must_use]
    pub fn incarnation(&self, node: Host) -> Option<String> {
        let status = self.status(false)?;
        let found = named(&status).remove(&node);
        let hex = |bytes: &[u8]| bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
        Some(hex(&found?.incarnation))
    }

    /// Lets a node that lost its data join again. Asked again when nobody answers.
    pub fn replace(&self, node: Host) {
        for _ in 0..5 {
            if self.ask(self.admin.admit_node(NodeId(node), true)).is_some() {
                return;
            }
        }
    }

    /// Waits until another incarnation of a node is there, and everything is whole again; the new one, if there is one. Asks for
    /// it again now and then: whoever was asked may have died.
    pub fn wait_replaced(&self, node: Host, before: Option<&str>, within: Duration, calm: &Flag) -> Option<String> {
        let mut asked = Instant::now();
        let deadline = asked + within;
        let mut after = None;
        while Instant::now() < deadline {
            after = self.incarnation(node).filter(|now| Some(now.as_str()) != before);
            if after.is_some() && self.is_whole() {
                break;
            }
            if after.is_none() && asked.elapsed() > ASK_AGAIN_INTERVAL {
                asked = Instant::now();
                self.replace(node);
            }
            if calm.sleep(LOOK_INTERVAL) {
                if after.is_some() {
                    break;
                }
                std::thread::sleep(ASK_AGAIN_INTERVAL);
            }
        }
        after
    }
}

/// The nodes that a status names.
fn named(status: &ClusterStatusResponse) -> BTreeMap<Host, &NodeStatus> {
    status.nodes.iter().filter_map(|node| Some((node.addresses.as_ref()?.node_id, node))).collect()
}
