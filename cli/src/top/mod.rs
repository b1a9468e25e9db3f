//! `levada top`: a cluster at a glance, again and again.
//!
//! [`sample`] asks the cluster for its status and every node for its metrics; [`view`] makes of two samples what is worth
//! seeing, rates among it; [`frame`] writes that as lines of text; [`screen`] shows them on a terminal. Only the first and
//! the last touch the world.

mod frame;
mod sample;
mod screen;
mod view;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use levada_client::Admin;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use self::{
    frame::{Frame, Order},
    sample::Sample,
    screen::{Key, Screen},
    view::View,
};
use crate::{args::Global, exit, print, units};

/// Shows nodes, partitions, throughput, latency, lag and disks, until q is pressed.
#[derive(Args)]
#[command(after_help = "\
Keys: q ends, s orders partitions by how busy they are or by how far a replica is behind.
Needs the native address of one node and the HTTP addresses of all. Rates and latencies are of
the last interval; ! marks what is wrong.")]
pub(crate) struct TopArgs {
    /// Prints one view as plain text, and ends
    #[arg(long)]
    once: bool,
    /// How long from one view to the next
    #[arg(long, value_parser = units::duration, default_value = "2s", value_name = "TIME")]
    interval: Duration,
}

/// A view takes a moment: asked more often, nodes would do little else.
const INTERVAL_MIN: Duration = Duration::from_millis(200);
/// Whoever looks wants to see now that nobody answers,
const STATUS_WITHIN: Duration = Duration::from_secs(6);
/// and what the others say while one node hangs: then the next is asked. (Nodes wait a second for each other.)
const NODE_WITHIN: Duration = Duration::from_secs(2);
/// Where the size of a terminal does not matter.
const WIDTH_ONCE: usize = 100;

pub(crate) async fn run(global: &Global, args: TopArgs) -> Result<()> {
    if !args.once && (global.is_json() || !screen::is_terminal()) {
        return Err(exit::usage("standard output is no terminal, or is to be JSON: levada top --once prints one view"));
    }
    let interval = args.interval.max(INTERVAL_MIN);
    let mut config = global.client_config()?;
    config.operation_timeout = config.operation_timeout.min(STATUS_WITHIN);
    config.connect_timeout = config.connect_timeout.min(NODE_WITHIN);
    config.request_timeout = config.request_timeout.min(NODE_WITHIN);
    let connected = Admin::with_config(config).await;
    let admin = connected.with_context(|| format!("cannot reach a cluster at {}", global.bootstrap()))?;
    if args.once {
        let first = Sample::take(&admin).await.context("cannot ask for the cluster's status")?;
        sleep(interval).await;
        let second = Sample::take(&admin).await.context("cannot ask for the cluster's status")?;
        let view = View::of(&first, &second);
        if global.is_json() {
            return print::json(&view);
        }
        let frame = Frame { view: &view, order: Order::default(), width: WIDTH_ONCE, height: usize::MAX };
        let lines: Vec<String> = frame.lines().into_iter().map(|line| line.text.trim_end().to_owned()).collect();
        return print::line(&lines.join("\n"));
    }
    live(admin, interval).await
}

async fn live(admin: Admin, interval: Duration) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut before = Sample::take(&admin).await.context("cannot ask for the cluster's status")?;
    let mut screen = Screen::open()?;
    let mut order = Order::default();
    let mut samples = sample_again_and_again(admin, interval);
    let mut shown: Option<Result<View, String>> = None;
    loop {
        if let Some(shown) = &shown {
            screen.show(shown.as_ref().map_err(String::as_str), order)?;
        }
        tokio::select! {
            key = screen.key() => match key {
                Key::Quit => return Ok(()),
                Key::Order => order = order.other(),
                Key::Other => {}
            },
            _ = terminate.recv() => return Ok(()),
            sample = samples.recv() => match sample.context("nobody looks at the cluster any more")? {
                Ok(sample) => {
                    shown = Some(Ok(View::of(&before, &sample)));
                    before = sample;
                }
                Err(error) => shown = Some(Err(format!("{error:#}"))),
            },
        }
    }
}

/// In a task of its own: keys do not wait for a cluster that is silent.
fn sample_again_and_again(admin: Admin, interval: Duration) -> mpsc::Receiver<Result<Sample>> {
    let (taken, samples) = mpsc::channel(1);
    tokio::spawn(async move {
        // The first soon: without a second sample there are no rates.
        let mut next = Instant::now() + INTERVAL_MIN;
        loop {
            sleep_until(next).await;
            next = Instant::now() + interval;
            if taken.send(Sample::take(&admin).await).await.is_err() {
                return;
            }
        }
    });
    samples
}
