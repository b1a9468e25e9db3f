//! The command line as a whole: what every command takes, and which commands there are.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use levada_client::{Admin, ClientConfig};

use crate::{
    bench, cluster, completions, config, consume, debug, dev, doctor, exit, partition, produce, server, telemetry, top,
    topic, units,
};

/// Levada: a replicated log whose readers get columns.
#[derive(Parser)]
#[command(name = "levada", version, after_help = exit::HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where a cluster is looked for if nothing is said about it: the first node of `levada dev`.
pub(crate) const BOOTSTRAP: &str = "127.0.0.1:9170";
/// How long an operation may take if nothing is said about it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    // By clap's own means, usage lines would name it as required once the variable is set.
    /// Some nodes of the cluster, separated by commas; one that answers is enough [env: LEVADA_BOOTSTRAP] [default: 127.0.0.1:9170]
    #[arg(long, global = true, value_name = "HOST:PORT,..", help_heading = "Everywhere")]
    bootstrap: Option<String>,
    /// How results are shown: for a person, or as JSON for a program
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM", help_heading = "Everywhere")]
    pub(crate) output: Output,
    /// How long an operation may take in all, tries again included [default: 30s]. A command that watches the cluster do something
    /// ends after it only if it is given
    #[arg(long, global = true, value_parser = units::duration, value_name = "TIME", help_heading = "Everywhere")]
    pub(crate) timeout: Option<Duration>,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table for a person.
    #[default]
    Table,
    /// One line of JSON.
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs one node
    Server(server::ServerArgs),
    /// Runs a cluster of several nodes on this machine, to develop against
    Dev(dev::DevArgs),
    /// Creates, lists, describes, changes and deletes topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Writes records from standard input; succeeds only if every one was acknowledged
    Produce(produce::ProduceArgs),
    /// Reads records over Arrow Flight
    Consume(consume::ConsumeArgs),
    /// Looks after partitions that cannot help themselves
    #[command(subcommand)]
    Partition(partition::PartitionCommand),
    /// Looks after the cluster
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Shows the configuration of nodes, and has them read it again
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Shows nodes, partitions, throughput, latency, lag and disks, until q is pressed
    Top(top::TopArgs),
    /// Looks for what is wrong with a machine, a configuration or a cluster, and says what to do
    Doctor(doctor::DoctorArgs),
    /// Gathers what is needed to find out what is wrong
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// Measures throughput and latency
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Prints a completion script for a shell
    Completions(completions::CompletionsArgs),
}

impl Global {
    /// Some nodes of the cluster.
    pub(crate) fn bootstrap(&self) -> String {
        let given = self.bootstrap.clone().or_else(|| std::env::var("LEVADA_BOOTSTRAP").ok());
        given.unwrap_or_else(|| BOOTSTRAP.to_owned())
    }

    /// How to reach the cluster.
    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        let mut config =
            ClientConfig::new(&self.bootstrap()).map_err(|error| exit::usage(format!("--bootstrap: {error}")))?;
        config = config.with_client_id("levada-cli");
        config.operation_timeout = self.timeout();
        config.connect_timeout = config.connect_timeout.min(self.timeout());
        config.tracing.parent = telemetry::parent();
        Ok(config)
    }

    /// How long an operation may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// A connection to look after the cluster with.
    pub(crate) async fn admin(&self) -> Result<Admin> {
        let connected = Admin::with_config(self.client_config()?).await;
        connected.with_context(|| format!("cannot reach a cluster at {}", self.bootstrap()))
    }

    /// Whether a program reads the results.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Output::Json
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
