//! What `cargo xtask demo` shows, in under a minute once the data is there:
//!
//! 1. Three nodes on this machine, each a process of its own (`levada dev`).
//! 2. Real purchases go to a typed topic and real flights to an untyped one, through the native client; a record counts
//!    once it is acknowledged, which means fsynced by a quorum.
//! 3. A reader follows the purchases over Arrow Flight from the first record on.
//! 4. In the middle, the node that leads the most partitions is killed with SIGKILL. It stays dead.
//! 5. At the end everything is read again, and compared with every single acknowledgement: nothing may be missing, stand
//!    elsewhere, or stand twice.
//!
//! Without network it says so and writes generated events, labelled as such.
#![allow(clippy::print_stdout, reason = "this program talks to a person")]

mod data;
mod ledger;
mod read;
mod screen;
mod topics;
mod write;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Parser;
use levada_client::Admin;
use levada_tests::{dev::Dev, tools};

use self::{
    data::Source,
    ledger::Ledger,
    read::Verdict,
    screen::Screen,
    topics::{FLIGHTS, PURCHASES},
};

/// Real data through three nodes, one of which is killed.
#[derive(Parser)]
struct Arguments {
    /// Writes generated events, as without network
    #[arg(long)]
    generated: bool,
    /// The levada binary
    #[arg(long)]
    levada: Option<PathBuf>,
}

/// The node is killed when this part of the purchases is acknowledged.
const KILL_AT: f64 = 0.4;
/// The following reader must have seen the last record this soon after its acknowledgement.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let screen = Screen::new();
    let source = data::prepare(&screen, arguments.generated)?;
    let directory = tempfile::tempdir_in(tools::cache()?).context("cannot make a directory for the nodes")?;
    let binary = arguments.levada.unwrap_or_else(|| tools::levada().to_owned());
    let step = screen.step("starting three nodes");
    let began = Instant::now();
    let dev = Dev::start(&binary, directory.path(), &["--nodes", "3", "--port-base", "0"])?;
    step.done(format!("three nodes serve after {:.1} s", began.elapsed().as_secs_f64()));

    let shown = tokio::select! {
        shown = show(&screen, &source, &dev) => shown,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let step = screen.step("cleaning up");
    let ended = dev.stop().context("cannot stop the nodes")?;
    directory.close().context("cannot remove the nodes' directory")?;
    step.done("no process, no port and no file of the demo is left");
    let all_is_well = shown?;
    ensure!(ended.success(), "the nodes did not stop as they should: {ended}");
    ensure!(all_is_well, "something acknowledged is not where it should be: see above");
    Ok(())
}

async fn show(screen: &Screen, source: &Source, dev: &Dev) -> Result<bool> {
    let admin = Admin::connect(&dev.bootstrap()).await.context("cannot reach the nodes")?;
    topics::create(&admin).await?;
    let purchases = Arc::new(Ledger::new(source.purchases.rows, PURCHASES.partitions));
    let flights = Arc::new(Ledger::new(source.flights.rows, FLIGHTS.partitions));

    let following = screen.bar("read while following", source.purchases.rows);
    let follower = read::follow(dev.bootstrap(), Arc::clone(&purchases), following).await?;
    let began = Instant::now();
    let writing = {
        let purchases_bar = screen.bar("purchases acknowledged", source.purchases.rows);
        let flights_bar = screen.bar("flights acknowledged", source.flights.rows);
        let purchases = write::write(
            dev.bootstrap(),
            PURCHASES.name,
            &source.purchases.path,
            Arc::clone(&purchases),
            purchases_bar,
        );
        let flights =
            write::write(dev.bootstrap(), FLIGHTS.name, &source.flights.path, Arc::clone(&flights), flights_bar);
        async { tokio::try_join!(purchases, flights) }
    };
    let killing = kill_in_the_middle(screen, &admin, dev, &purchases, &flights);
    let (_, killed) = tokio::try_join!(writing, killing)?;
    let wrote = began.elapsed();
    let seen = tokio::time::timeout(CATCH_UP_WITHIN, follower).await.context("the following reader stopped")??;
    let caught_up = began.elapsed().saturating_sub(wrote);
    let seen = seen?;

    let step = screen.step("reading everything again and comparing it with every acknowledgement");
    let purchases_read = read::verify(&dev.bootstrap(), &PURCHASES, &purchases).await?;
    let flights_read = read::verify(&dev.bootstrap(), &FLIGHTS, &flights).await?;
    step.done("everything was read again over Arrow Flight and compared with every acknowledgement");
    screen.clear();

    let verdicts: [(&Verdict, &Ledger, &data::DataSet); 2] =
        [(&purchases_read, &purchases, &source.purchases), (&flights_read, &flights, &source.flights)];
    screen::results(source, &verdicts, wrote);
    screen::departments(&purchases_read);
    let pause = purchases.pause().max(flights.pause());
    screen::promises(&killed, pause, &seen, caught_up, &verdicts);
    Ok(verdicts.iter().all(|(verdict, _, data)| verdict.is_well(data)) && seen.records == source.purchases.rows)
}

/// What was killed.
struct Killed {
    node: u64,
    led: usize,
}

async fn kill_in_the_middle(
    screen: &Screen,
    admin: &Admin,
    dev: &Dev,
    purchases: &Ledger,
    flights: &Ledger,
) -> Result<Killed> {
    purchases.wait_for(KILL_AT).await;
    let (node, led) = topics::busiest_node(admin).await?;
    for (ledger, topic) in [(purchases, &PURCHASES), (flights, &FLIGHTS)] {
        ledger.watch_pauses(&topics::led_by(admin, topic, node).await?);
    }
    dev.kill(node)?;
    screen.say(format!("killed node {node} (SIGKILL), which led {led} of {} partitions", topics::partitions()));
    Ok(Killed { node, led })
}
