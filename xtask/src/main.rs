//! The project's own commands: `cargo xtask test`, `cargo xtask demo`, `cargo xtask sim`, `cargo xtask selftest`,
//! `cargo xtask tidy`, `cargo xtask metrics`.
//!
//! What a newcomer types after cloning. Each command prints what it does and how long that took, installs what it
//! needs beyond Rust, and says exactly what is missing when it cannot.
#![allow(clippy::print_stdout, reason = "these programs talk to a person")]

mod deny;
mod process;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format check, tidy check, dependencies' licences, clippy, all tests, documentation: what CI runs.
    Test,
    /// Looks for what the compiler does not: leftovers, dead files, long files and functions.
    Tidy,
    /// Writes docs/metrics.md anew from the constants in the code.
    Metrics,
    /// Real data through three nodes, one of which is killed: nothing acknowledged is lost.
    Demo {
        /// As `cargo xtask demo -- --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The simulator: a whole cluster on one thread. Arguments go to `levada-sim`, `--help` lists them.
    #[command(disable_help_flag = true)]
    Sim {
        /// As `cargo xtask sim --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// The simulator's test of itself: bugs are planted in the product, one after the other, and each must be found.
    #[command(disable_help_flag = true)]
    Selftest {
        /// As `cargo xtask selftest --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Test => test::run(),
        Command::Tidy => tidy::run(),
        Command::Metrics => process::metrics(),
        Command::Demo { arguments } => process::demo(&arguments),
        Command::Sim { arguments } => process::sim(&arguments),
        Command::Selftest { arguments } => process::selftest(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
