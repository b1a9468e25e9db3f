//! `levada debug`: what somebody who is not there needs to find out what is wrong.

mod archive;
mod bundle;
mod secrets;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use self::bundle::Bundle;
use crate::{args::Global, print, units};

/// What to do.
#[derive(Subcommand)]
pub(crate) enum DebugCommand {
    /// Gathers status, topics, metrics, health, versions and configuration in one file
    Bundle(BundleArgs),
}

/// Gathers what is needed to find out what is wrong, in one .tar.gz.
#[derive(Args)]
#[command(after_help = "\
Holds no records and no logs. Passwords and the like are taken out of what it holds. What could
not be had is listed in missing.txt. Made beside a node, with its configuration, it says most.")]
pub(crate) struct BundleArgs {
    /// Where to; a new file in this directory if not given
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The configuration file of the node on this machine
    #[arg(long, env = "LEVADA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// HTTP addresses of nodes, if no node tells those of the others any more
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    http: Vec<String>,
}

pub(crate) async fn run(global: &Global, command: DebugCommand) -> Result<()> {
    let DebugCommand::Bundle(args) = command;
    let made = Timestamp::now();
    let name = format!("levada-debug-{}", made.strftime("%Y%m%dT%H%M%SZ"));
    let file = args.file.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    // Now as well as at the end, so that no work is done in vain; only then, so that whoever interrupts it leaves nothing.
    archive::check_free(&file)?;
    let Bundle { files, missing } = &Bundle::gather(global, args.config, &args.http, made).await;
    let written = archive::write(archive::create(&file)?, &name, files, made.as_second());
    let bytes = written.with_context(|| format!("cannot write {}", file.display()))?;
    if global.is_json() {
        return print::json(&json!({"file": file, "bytes": bytes, "files": files.len(), "missing": missing}));
    }
    let lack = match missing.len() {
        0 => "nothing is missing".to_owned(),
        1 => "one thing is missing, see missing.txt in it".to_owned(),
        lack => format!("{lack} things are missing, see missing.txt in it"),
    };
    print::line(&format!("{} ({}, {} files); {lack}", file.display(), units::size(bytes), files.len()))
}
