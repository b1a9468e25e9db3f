//! `levada`: the server, the development cluster, and the tools of whoever runs or uses one.
//!
//! One file or folder a command family. What a command does to a cluster it does through `levada-client`; only
//! [`server`] knows the broker and compute, and puts them together. Results go to standard output, everything said to
//! a person beside them to standard error. Exit codes are in [`exit`].

mod args;
mod bench;
mod cluster;
mod completions;
mod config;
mod consume;
mod debug;
mod dev;
mod disk;
mod doctor;
mod exit;
mod partition;
mod print;
mod produce;
mod scrape;
mod server;
mod telemetry;
mod top;
mod topic;
mod units;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};

fn main() -> ExitCode {
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::report_parsing(&error, std::env::args_os()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::new(error).context("cannot start the runtime"), &global),
    };
    let done = runtime.block_on(async {
        match command {
            Command::Server(args) => server::run(args).await,
            Command::Dev(args) => dev::run(&global, args).await,
            Command::Topic(command) => topic::run(&global, command).await,
            Command::Produce(args) => produce::run(&global, args).await,
            Command::Consume(args) => consume::run(&global, args).await,
            Command::Partition(command) => partition::run(&global, command).await,
            Command::Cluster(command) => cluster::run(&global, command).await,
            Command::Config(command) => config::run(&global, command).await,
            Command::Top(args) => top::run(&global, args).await,
            Command::Debug(command) => debug::run(&global, command).await,
            Command::Doctor(args) => doctor::run(&global, args).await,
            Command::Bench(command) => bench::run(&global, command).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    // A thread that still reads standard input must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, &global),
    }
}
