//! `levada config`: what the nodes were told, and telling them again.

use anyhow::{Context as _, Result};
use clap::Subcommand;
use levada_client::{Admin, ErrorCode, NodeId};
use levada_protocol::messages::native::{ConfigChange, ConfigValue};
use serde_json::{Value, json};

use crate::{
    args::Global,
    exit,
    print::{self, Column},
};

/// What to do with the nodes' configuration.
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Shows what is in force on a node, and where each value was set
    Show {
        /// The node; the one that answers, if not given
        #[arg(long)]
        node: Option<u64>,
        /// Only what is not the default, or will be something else after a restart
        #[arg(long)]
        changed: bool,
    },
    /// Has nodes read their configuration files again; says what took effect, and what needs a restart
    Reload {
        /// Only this node; all nodes that are up, if not given
        #[arg(long)]
        node: Option<u64>,
    },
}

pub(crate) async fn run(global: &Global, command: ConfigCommand) -> Result<()> {
    let admin = global.admin().await?;
    match command {
        ConfigCommand::Show { node, changed } => show(global, &admin, node.map(NodeId), changed).await,
        ConfigCommand::Reload { node } => reload(global, &admin, node).await,
    }
}

async fn show(global: &Global, admin: &Admin, node: Option<NodeId>, changed: bool) -> Result<()> {
    let shown = admin.describe_config(node).await.context("the configuration cannot be shown")?;
    let wanted = |value: &ConfigValue| !changed || value.origin != "default" || value.after_restart.is_some();
    let values: Vec<ConfigValue> = shown.values.into_iter().filter(wanted).collect();
    if global.is_json() {
        let values: Vec<Value> = values.iter().map(value_json).collect();
        return print::json(&json!({"node": shown.node_id, "values": values}));
    }
    let columns = [Column::Text("key"), Column::Text("value"), Column::Text("set by"), Column::Text("change takes")];
    let rows = values.into_iter().map(|value| {
        let takes = match (&value.after_restart, value.live) {
            (Some(next), _) => format!("restart; then {next}"),
            (None, true) => "reload".to_owned(),
            (None, false) => "restart".to_owned(),
        };
        vec![value.key, value.value, value.origin, takes]
    });
    print::line(&print::table(&columns, rows))
}

fn value_json(value: &ConfigValue) -> Value {
    json!({
        "key": value.key,
        "value": as_json(&value.value),
        "origin": value.origin,
        "live": value.live,
        "after_restart": value.after_restart.as_deref().map(as_json),
    })
}

fn as_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

async fn reload(global: &Global, admin: &Admin, only: Option<u64>) -> Result<()> {
    let nodes = match only {
        Some(node) => vec![node],
        None => {
            let status = admin.cluster_status(true).await?;
            let up = status.nodes.iter().filter(|node| node.alive);
            up.filter_map(|node| Some(node.addresses.as_ref()?.node_id)).collect()
        }
    };
    let mut answers = Vec::new();
    let mut failed = None;
    for node in nodes {
        match admin.reload_config(Some(NodeId(node))).await {
            Ok(done) => {
                let (applied, later) = (changes(&done.applied), changes(&done.needs_restart));
                if !global.is_json() {
                    told(node, &done.applied, &done.needs_restart)?;
                }
                answers.push(json!({"node": node, "applied": applied, "needs_restart": later}));
            }
            // Each node has a file of its own: one that is wrong is no reason to leave out the others.
            Err(error) => {
                if !global.is_json() {
                    let what = if error.code == ErrorCode::InvalidConfig { "refused" } else { "not reached" };
                    print::line(&format!("node {node}: {what}"))?;
                }
                answers.push(json!({"node": node, "error": {"code": error.code.name(), "message": error.message}}));
                failed = failed.or(Some(error));
            }
        }
    }
    if global.is_json() {
        print::json(&json!({"nodes": answers}))?;
    }
    match failed {
        None => Ok(()),
        // What exit code 2 stands for everywhere: a configuration that is wrong.
        Some(error) if error.code == ErrorCode::InvalidConfig => Err(exit::usage(error.message)),
        Some(error) => Err(error.into()),
    }
}

fn changes(changes: &[ConfigChange]) -> Vec<Value> {
    let each =
        |change: &ConfigChange| json!({"key": change.key, "from": as_json(&change.from), "to": as_json(&change.to)});
    changes.iter().map(each).collect()
}

fn told(node: u64, applied: &[ConfigChange], later: &[ConfigChange]) -> Result<()> {
    if applied.is_empty() && later.is_empty() {
        return print::line(&format!("node {node}: nothing has changed"));
    }
    for change in applied {
        print::line(&format!("node {node}: {} = {} (was {}), in force", change.key, change.to, change.from))?;
    }
    for change in later {
        let ConfigChange { key, from, to } = change;
        print::line(&format!("node {node}: {key} = {to} needs a restart (until then {from})"))?;
    }
    Ok(())
}
