//! `levada cluster`: its state, and its nodes as they come and go.
//!
//! What changes the cluster is carried out by its controller, step by step, and goes on whatever becomes of the command:
//! that only begins it, watches (`watch.rs`), and says at the end what was moved in what time. Begun again it watches on.

mod progress;
mod recover;
mod status;
mod verdict;
mod watch;

pub(crate) use self::verdict::damage_words;
use anyhow::{Context, Result};
use clap::Subcommand;
use levada_client::{Admin, NodeId, PartitionId};
use levada_protocol::{error::ErrorCode, messages::native::MoveInfo};
use serde_json::json;

use crate::{
    args::Global,
    print::{self, Column},
};

/// What to do with the cluster.
#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Shows whether the data is safe, nodes and partitions
    Status {
        /// Only the nodes
        #[arg(long)]
        nodes: bool,
    },
    /// Lets a new node join; it is started with the other nodes as its seed_nodes, before or after
    Add {
        /// The node's id, one that the cluster does not have
        node: u64,
        /// Only says what would move
        #[arg(long, conflicts_with = "no_wait")]
        dry_run: bool,
        /// Returns at once, without watching it join and get its share of replicas
        #[arg(long)]
        no_wait: bool,
    },
    /// Lets a node come back that has lost its data directory; it gets all its replicas anew
    Replace {
        /// The node's id
        node: u64,
        /// Only says what would be made anew
        #[arg(long, conflicts_with = "no_wait")]
        dry_run: bool,
        /// Returns at once, without watching it get its replicas
        #[arg(long)]
        no_wait: bool,
    },
    /// Has a node give up all its replicas to others, and leave the cluster; one that was added and has not come is not
    /// expected any more
    Decommission {
        /// The node's id
        node: u64,
        /// Only says what would move
        #[arg(long, conflicts_with = "cancel")]
        dry_run: bool,
        /// Has a node stay that was about to leave
        #[arg(long)]
        cancel: bool,
        /// Returns at once, without watching
        #[arg(long)]
        no_wait: bool,
    },
    /// Spreads replicas and leaders evenly over the nodes now; the cluster does so by itself after a while
    Balance {
        /// Only says what would move
        #[arg(long)]
        dry_run: bool,
        /// Returns at once, without watching
        #[arg(long)]
        no_wait: bool,
    },
    /// Shows what is left of the cluster's metadata when a majority of the nodes that vote on it is gone for good, and lets it go
    /// on with that
    Recover {
        /// Does it: changes that only those knew that are lost are gone. Otherwise it is only said what would be
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Moves the leadership of a partition to another node that has a replica of it
    MoveLeader {
        /// The topic
        topic: String,
        /// The partition
        partition: u32,
        /// The node
        node: u64,
    },
}

pub(crate) async fn run(global: &Global, command: ClusterCommand) -> Result<()> {
    let admin = global.admin().await?;
    match command {
        ClusterCommand::Status { nodes } => status::run(global, &admin, nodes).await,
        ClusterCommand::Add { node, dry_run: true, .. } => {
            let moves = admin.plan_admission(NodeId(node), false).await;
            plan(global, &moves.with_context(|| format!("node {node} cannot be added"))?)
        }
        ClusterCommand::Replace { node, dry_run: true, .. } => {
            let moves = admin.plan_admission(NodeId(node), true).await;
            plan(global, &moves.with_context(|| format!("node {node} cannot be replaced"))?)
        }
        ClusterCommand::Add { node, no_wait, .. } => add(global, &admin, NodeId(node), no_wait).await,
        ClusterCommand::Replace { node, no_wait, .. } => replace(global, &admin, NodeId(node), no_wait).await,
        ClusterCommand::Decommission { node, dry_run: true, .. } => {
            let moves = admin.plan_decommission(NodeId(node)).await;
            plan(global, &moves.with_context(|| format!("node {node} cannot be decommissioned"))?)
        }
        ClusterCommand::Decommission { node, cancel: true, .. } => {
            admin.cancel_decommission(NodeId(node)).await.with_context(|| format!("cannot keep node {node}"))?;
            said(global, &json!({"node": node, "leaving": false}), &format!("node {node} stays"))
        }
        ClusterCommand::Decommission { node, no_wait, .. } => decommission(global, &admin, NodeId(node), no_wait).await,
        ClusterCommand::Balance { dry_run, no_wait } => balance(global, &admin, dry_run, no_wait).await,
        ClusterCommand::Recover { accept_data_loss } => recover::run(global, &admin, accept_data_loss).await,
        ClusterCommand::MoveLeader { topic, partition, node } => {
            admin
                .transfer_leader(&topic, PartitionId(partition), NodeId(node))
                .await
                .with_context(|| format!("cannot move partition {partition} of {topic:?} to node {node}"))?;
            let words = format!("node {node} leads partition {partition} of {topic}");
            said(global, &json!({"topic": topic, "partition": partition, "leader": node}), &words)
        }
    }
}

fn said(global: &Global, value: &serde_json::Value, words: &str) -> Result<()> {
    if global.is_json() { print::json(value) } else { print::line(words) }
}

async fn add(global: &Global, admin: &Admin, node: NodeId, no_wait: bool) -> Result<()> {
    let before = watch::Watch::begin(global, admin).await?;
    // Begun before, it may have joined by now: then there is something to watch all the same.
    if !before.has(node)
        && let Err(error) = admin.admit_node(node, false).await
    {
        return Err(before.why(error).await).with_context(|| format!("node {node} cannot be added"));
    }
    if no_wait {
        let words = format!("node {node} may join; start it with seed_nodes that name nodes of this cluster");
        return said(global, &json!({"node": node.get(), "admitted": true}), &words);
    }
    before.until_joined(node, None).await?;
    // The controller would spread replicas by itself, a little later.
    admin.balance(false).await.context("the node has joined, but replicas cannot be spread")?;
    before.until_settled(&format!("node {node} has joined and has its share")).await
}

async fn replace(global: &Global, admin: &Admin, node: NodeId, no_wait: bool) -> Result<()> {
    let before = watch::Watch::begin(global, admin).await?;
    let settled = format!("node {node} has come back and has all its replicas");
    // Begun before, it may be on its way: then there is something to watch all the same.
    if before.is_up(node) && before.is_moving() {
        return before.until_settled(&settled).await;
    }
    if before.is_up(node) {
        anyhow::bail!("node {node} is up; only one whose data directory is lost can be replaced");
    }
    if let Err(error) = admin.admit_node(node, true).await {
        return Err(before.why(error).await).with_context(|| format!("node {node} cannot be replaced"));
    }
    if no_wait {
        let words = format!("node {node} may come back; start it with an empty data directory");
        return said(global, &json!({"node": node.get(), "admitted": true}), &words);
    }
    before.until_joined(node, before.incarnation(node)).await?;
    before.until_settled(&settled).await
}

async fn decommission(global: &Global, admin: &Admin, node: NodeId, no_wait: bool) -> Result<()> {
    let before = watch::Watch::begin(global, admin).await?;
    match admin.decommission_node(node).await {
        // Begun before, it may be done by now.
        Err(error) if error.code == ErrorCode::NodeRemoved => {
            let words = format!("node {node} has left the cluster already");
            return said(global, &json!({"node": node.get(), "left": true}), &words);
        }
        Err(error) => {
            return Err(before.why(error).await).with_context(|| format!("node {node} cannot be decommissioned"));
        }
        Ok(()) => {}
    }
    if no_wait {
        let words = format!("node {node} gives up its replicas; `levada cluster status` shows when it has left");
        return said(global, &json!({"node": node.get(), "leaving": true}), &words);
    }
    before.until_gone(node).await?;
    before.until_settled(&format!("node {node} has left the cluster; its process has ended or may be stopped")).await
}

async fn balance(global: &Global, admin: &Admin, dry_run: bool, no_wait: bool) -> Result<()> {
    let before = watch::Watch::begin(global, admin).await?;
    let moves = match admin.balance(true).await {
        Ok(moves) => moves,
        Err(error) => return Err(before.why(error).await).context("cannot ask for a plan"),
    };
    if dry_run || moves.is_empty() && !before.is_moving() {
        return plan(global, &moves);
    }
    if !moves.is_empty() {
        admin.balance(false).await.context("cannot spread replicas")?;
    }
    if no_wait {
        return plan(global, &moves);
    }
    before.until_settled("replicas and leaders are spread evenly").await
}

/// What would move.
fn plan(global: &Global, moves: &[MoveInfo]) -> Result<()> {
    let nodes = |nodes: &[u64]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if global.is_json() {
        let moves: Vec<_> = moves
            .iter()
            .map(|planned| {
                let (topic, partition) = (&planned.topic, planned.partition);
                json!({"topic": topic, "partition": partition, "from": planned.from, "to": planned.to})
            })
            .collect();
        return print::json(&json!({ "moves": moves }));
    }
    if moves.is_empty() {
        return print::line("nothing is to move");
    }
    let columns =
        [Column::Text("topic"), Column::Number("partition"), Column::Text("from nodes"), Column::Text("to nodes")];
    let rows = moves.iter().map(|planned| {
        let partition = planned.partition.to_string();
        vec![planned.topic.clone(), partition, nodes(&planned.from), nodes(&planned.to)]
    });
    print::line(&print::table(&columns, rows))
}
