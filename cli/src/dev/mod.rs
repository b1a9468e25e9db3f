//! `levada dev`: a cluster of several nodes on this machine, to develop and test against.
//!
//! Each node is a child process of its own (`levada server` of this very binary), so that a node can be killed, stopped
//! and looked at like a real one. A child's standard input is a pipe from here: when this process is gone, however it
//! went, the pipe closes and the child stops by itself.
//!
//! In the directory: `node-1/`, `node-2/`, … (data), `node-1.log`, … (what each said), `dev.json` (ports, to come up under
//! the same ones again), `dev.lock` (held while running), and, from the moment all nodes are ready until they are
//! stopped, `cluster.json` for scripts.

mod child;
mod layout;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};

use self::{child::Child, layout::Layout};
use crate::{
    args::Global,
    print::{self, Column},
};

/// Runs a cluster of several nodes on this machine.
#[derive(Args)]
pub(crate) struct DevArgs {
    /// How many nodes; what the directory was made with if not given, else 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: Option<u16>,
    /// Where the nodes keep everything; an existing one is resumed
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The first node's native port; Flight and HTTP follow, the next node's are ten further. 0 takes free ones
    #[arg(long, value_name = "P")]
    port_base: Option<u16>,
    /// Starts a node again when it ended by itself
    #[arg(long)]
    restart: bool,
}

/// How long the nodes may take until they serve.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long they may take to stop before they are killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A node that keeps ending is not started in a tight loop.
const RESTART_AFTER: Duration = Duration::from_secs(1);

pub(crate) async fn run(global: &Global, args: DevArgs) -> Result<()> {
    // From the first moment on, so that no signal leaves nodes behind.
    let mut stop = StopSignals::listen()?;
    let layout = Layout::open(&args.data_dir, args.nodes, args.port_base)?;
    let began = Instant::now();
    let mut children = Vec::new();
    for node in &layout.nodes {
        children.push(Child::start(node, &layout)?);
    }
    let done = tokio::select! {
        done = serve(global, &layout, &mut children, began, args.restart) => done,
        () = stop.next() => Ok(()),
    };
    layout.forget_cluster();
    eprintln!("stopping {} nodes (once more to kill them)", children.len());
    let stopped = tokio::select! {
        () = stop_all(&mut children) => true,
        () = stop.next() => false,
        () = sleep(STOP_WITHIN) => false,
    };
    if !stopped {
        for child in &mut children {
            child.kill().await;
        }
    }
    done
}

/// Until something goes wrong.
async fn serve(global: &Global, layout: &Layout, children: &mut [Child], began: Instant, restart: bool) -> Result<()> {
    ready(children, began).await?;
    tell(global, layout, children, began.elapsed())?;
    loop {
        sleep(POLL_INTERVAL).await;
        for (child, node) in children.iter_mut().zip(&layout.nodes) {
            let Some(how) = child.ended()? else { continue };
            eprintln!("node {} (process {}) {how}; its log is {}", node.id, child.pid(), node.log.display());
            if restart {
                sleep(RESTART_AFTER).await;
                *child = Child::start(node, layout)?;
                eprintln!("node {} started again as process {}", node.id, child.pid());
            }
        }
        if restart {
            layout.write_cluster(&pids(children))?;
        } else if children.iter().all(Child::has_ended) {
            bail!("all nodes have ended");
        }
    }
}

/// Waits until every node serves.
async fn ready(children: &mut [Child], began: Instant) -> Result<()> {
    for child in children {
        while !child.is_ready().await {
            if let Some(how) = child.ended()? {
                bail!("node {} {how} before it was ready. The end of its log:\n{}", child.id(), child.log_end());
            }
            if began.elapsed() > READY_WITHIN {
                let waited = READY_WITHIN.as_secs();
                bail!("node {} is not ready after {waited} s. The end of its log:\n{}", child.id(), child.log_end());
            }
            sleep(POLL_INTERVAL).await;
        }
    }
    Ok(())
}

fn tell(global: &Global, layout: &Layout, children: &[Child], took: Duration) -> Result<()> {
    let cluster = layout.write_cluster(&pids(children))?;
    if global.is_json() {
        return print::json(&cluster);
    }
    let columns = [
        Column::Number("node"),
        Column::Number("process"),
        Column::Text("native"),
        Column::Text("flight"),
        Column::Text("http"),
        Column::Text("data"),
    ];
    let rows = layout.nodes.iter().zip(children).map(|(node, child)| {
        let numbers = [node.id.to_string(), child.pid().to_string()];
        let addresses = [&node.native, &node.flight, &node.http].map(String::clone);
        numbers.into_iter().chain(addresses).chain([node.data_dir.display().to_string()]).collect()
    });
    print::line(&print::table(&columns, rows))?;
    let bootstrap: Vec<&str> = layout.nodes.iter().map(|node| node.native.as_str()).collect();
    print::line(&format!(
        "\nready in {:.1} s; Ctrl-C stops the nodes, the same command resumes\n  export LEVADA_BOOTSTRAP={}",
        took.as_secs_f64(),
        bootstrap.join(",")
    ))
}

async fn stop_all(children: &mut [Child]) {
    // All at once: one alone would hand its leaderships to a node that goes next.
    for child in children.iter_mut() {
        child.ask_to_stop();
    }
    for child in children {
        child.wait().await;
    }
}

fn pids(children: &[Child]) -> Vec<u32> {
    children.iter().map(Child::pid).collect()
}

/// The signals that end it.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
