//! `levada partition`: partitions that cannot help themselves.

mod controller;
mod many;
pub(crate) mod one;

use anyhow::Result;
use clap::Subcommand;

use crate::{args::Global, exit};

/// What to do with partitions.
#[derive(Subcommand)]
pub(crate) enum PartitionCommand {
    /// Shows what is left of partitions that have lost a majority of their replicas for good, and lets them go on with that
    ///
    /// A partition goes on from the newest sound replica. If none answers, from the newest of those whose journal was damaged: with
    /// what that has in front of the damage. What it had behind it is gone, and nobody knows how much that was.
    Recover {
        /// The topic
        topic: Option<String>,
        /// The partition; otherwise all of the topic that have no leader
        partition: Option<u32>,
        /// All partitions of all topics that have no leader
        #[arg(long, conflicts_with = "topic")]
        all: bool,
        /// Does it: what only the replicas had that are lost is gone, or was damaged. Otherwise it is only said what would be
        #[arg(long)]
        accept_data_loss: bool,
    },
}

pub(crate) async fn run(global: &Global, command: PartitionCommand) -> Result<()> {
    let PartitionCommand::Recover { topic, partition, all, accept_data_loss } = command;
    if topic.is_none() && !all {
        return Err(exit::usage("name a topic, or say --all: all partitions of all topics that have no leader"));
    }
    match (topic, partition) {
        (Some(topic), Some(partition)) => one::run(global, &topic, partition, accept_data_loss).await,
        (topic, _) => many::run(global, topic.as_deref(), accept_data_loss).await,
    }
}
