//! A cluster of real `levada server` processes, each of which can be killed, stopped and started again alone.

use std::{
    collections::BTreeMap,
    fs::File,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::http;

/// A server takes no more of them.
const SEED_NODES_MAX: usize = 5;

/// One node's process, or where it would run.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its id.
    pub id: u64,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// `host:port` under which others reach its native protocol.
    pub native: String,
    /// `host:port` under which others reach its Flight service.
    pub flight: String,
    /// `host:port` of its health and metrics.
    pub http: String,
    /// What this node alone has in its environment.
    pub environment: Vec<(String, String)>,
    /// Put in front of this node's command alone.
    pub wrapper: Vec<String>,
    /// What enters the place where it runs, such as `ip netns exec NAME`, and then becomes the command itself.
    enter: Vec<String>,
    /// What it writes.
    pub log: PathBuf,
    /// Where it listens, natively and for Flight.
    listens: [String; 2],
    child: Option<Child>,
}

/// Where a node is to run.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its data directory is `data` below it.
    pub dir: PathBuf,
    /// The address of its listeners.
    pub host: String,
    /// What enters it, such as `ip netns exec NAME`, and then becomes the command itself; empty for nothing.
    pub enter: Vec<String>,
}

impl Place {
    /// On this machine, where this process is.
    #[must_use]
    pub fn here(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), host: "127.0.0.1".to_owned(), enter: Vec::new() }
    }
}

/// A cluster on this machine. All processes end when it is dropped.
#[derive(Debug)]
pub struct Nodes {
    binary: PathBuf,
    seeds: String,
    environment: Vec<(String, String)>,
    /// Put in front of the command, such as `strace …`.
    wrapper: Vec<String>,
    /// The nodes, by id.
    pub nodes: BTreeMap<u64, NodeProcess>,
}

impl NodeProcess {
    fn new(id: u64, place: &Place, logs: &Path, ports: Vec<u16>) -> Result<Self> {
        let mut ports = ports.into_iter();
        let host = &place.host;
        let mut address = || ports.next().map(|port| format!("{host}:{port}")).context("not enough free ports");
        let [native, flight] = [address()?, address()?];
        Ok(Self {
            id,
            data_dir: place.dir.join("data"),
            listens: [native.clone(), flight.clone()],
            native,
            flight,
            http: address()?,
            environment: Vec::new(),
            wrapper: Vec::new(),
            enter: place.enter.clone(),
            log: logs.join(format!("node-{id}.log")),
            child: None,
        })
    }
}

impl Nodes {
    /// Starts a node on each of these data directories, with ids from 1, and waits until all are ready. Logs go to
    /// `logs`.
    ///
    /// # Errors
    /// When a node does not come up.
    pub fn start(binary: &Path, data_dirs: &[PathBuf], logs: &Path) -> Result<Self> {
        Self::start_wrapped(binary, data_dirs, logs, &[])
    }

    /// The same with every process run through another program.
    ///
    /// # Errors
    /// When a node does not come up.
    pub fn start_wrapped(binary: &Path, data_dirs: &[PathBuf], logs: &Path, wrapper: &[&str]) -> Result<Self> {
        let mut nodes = Self::prepare(binary, &here(data_dirs), logs, wrapper)?;
        nodes.start_all()?;
        Ok(nodes)
    }

    /// The same as [`Self::unstarted`] for nodes that run elsewhere, such as each behind a network of its own.
    ///
    /// # Errors
    /// When there are no free ports.
    pub fn placed(binary: &Path, places: &[Place], logs: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let mut nodes = Self::prepare(binary, places, logs, &[])?;
        nodes.environment.extend(environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        Ok(nodes)
    }

    /// The same without starting any, so that each can be told more before it is [spawned](Self::spawn).
    ///
    /// # Errors
    /// When there are no free ports.
    pub fn unstarted(binary: &Path, data_dirs: &[PathBuf], logs: &Path) -> Result<Self> {
        Self::prepare(binary, &here(data_dirs), logs, &[])
    }

    /// Starts all nodes, and waits until they are ready.
    ///
    /// # Errors
    /// When a node does not come up.
    pub fn spawn_all(&mut self) -> Result<()> {
        self.start_all()
    }

    /// The process of a node.
    #[must_use]
    pub fn pid(&self, id: u64) -> Option<u32> {
        self.nodes.get(&id)?.child.as_ref().map(Child::id)
    }

    /// What a node has written so far.
    ///
    /// # Errors
    /// There is no such node, or it has written nothing.
    pub fn log(&self, id: u64) -> Result<String> {
        let node = self.nodes.get(&id).with_context(|| format!("no node {id}"))?;
        std::fs::read_to_string(&node.log).with_context(|| format!("node {id} has written nothing"))
    }

    fn prepare(binary: &Path, places: &[Place], logs: &Path, wrapper: &[&str]) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        let mut ports = free_ports(places.len() * 3)?;
        for (id, place) in (1..).zip(places) {
            let rest = ports.split_off(3.min(ports.len()));
            nodes.insert(id, NodeProcess::new(id, place, logs, std::mem::replace(&mut ports, rest))?);
        }
        let seeds = seeds(nodes.values());
        Ok(Self {
            binary: binary.to_owned(),
            seeds,
            // Small files: they are zeroed when a node is new, and these disks are small.
            environment: vec![("LEVADA_JOURNAL_FILES_KEEP".into(), "3".into())],
            wrapper: wrapper.iter().map(|&word| word.to_owned()).collect(),
            nodes,
        })
    }

    fn start_all(&mut self) -> Result<()> {
        for id in self.ids() {
            self.spawn(id)?;
        }
        self.wait_ready()
    }

    /// The same with more of the servers' configuration in the environment.
    ///
    /// # Errors
    /// When a node does not come up.
    pub fn start_with(binary: &Path, data_dirs: &[PathBuf], logs: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let mut nodes = Self::placed(binary, &here(data_dirs), logs, environment)?;
        nodes.start_all()?;
        Ok(nodes)
    }

    /// A founder that does not run yet is reached under other addresses than those where it listens, as behind a proxy.
    ///
    /// # Errors
    /// There is no such node.
    pub fn advertise(&mut self, id: u64, native: &str, flight: &str) -> Result<()> {
        let node = self.nodes.get_mut(&id).with_context(|| format!("no node {id}"))?;
        native.clone_into(&mut node.native);
        flight.clone_into(&mut node.flight);
        self.seeds = seeds(self.nodes.values());
        Ok(())
    }

    /// From now on nodes are started with another build.
    pub fn use_binary(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Makes room for a node more, which asks the others to let it join once it is [spawned](Self::spawn).
    ///
    /// # Errors
    /// When there are no free ports.
    pub fn prepare_joining(&mut self, data_dir: &Path, logs: &Path) -> Result<u64> {
        let id = self.nodes.keys().max().copied().unwrap_or(0) + 1;
        self.nodes.insert(id, NodeProcess::new(id, &Place::here(data_dir), logs, free_ports(3)?)?);
        Ok(id)
    }

    /// From now on nodes are started with the first few of these as their seed nodes.
    pub fn seed_with(&mut self, ids: &[u64]) {
        self.seeds = seeds(ids.iter().filter_map(|id| self.nodes.get(id)).take(SEED_NODES_MAX));
    }

    /// Asks a node to stop, and waits until its process has.
    ///
    /// # Errors
    /// When it does not run, or does not stop within half a minute.
    pub fn stop(&mut self, id: u64) -> Result<()> {
        self.signal(id, Signal::TERM)?;
        self.wait_ended(id).map(drop)
    }

    /// Waits until a node's process has ended by itself; the end of its log.
    ///
    /// # Errors
    /// When it does not within half a minute.
    pub fn wait_ended(&mut self, id: u64) -> Result<String> {
        self.wait_ended_within(id, Duration::from_secs(30))
    }

    /// The same for another time than half a minute.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_ended_within(&mut self, id: u64, within: Duration) -> Result<String> {
        let node = self.nodes.get_mut(&id).with_context(|| format!("no node {id}"))?;
        let mut child = node.child.take().with_context(|| format!("node {id} does not run"))?;
        let deadline = Instant::now() + within;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                node.child = Some(child);
                bail!("node {id} does not end:\n{}", tail(&node.log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tail(&node.log))
    }

    /// Whether a node's process has ended, though nobody stopped or killed it.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn has_ended(&mut self, id: u64) -> Result<bool> {
        let child = self.nodes.get_mut(&id).and_then(|node| node.child.as_mut());
        Ok(child.map(Child::try_wait).transpose()?.flatten().is_some())
    }

    /// Kills a node and empties its data directory.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn wipe(&mut self, id: u64) -> Result<()> {
        self.kill(id)?;
        let node = self.nodes.get(&id).with_context(|| format!("no node {id}"))?;
        std::fs::remove_dir_all(&node.data_dir).with_context(|| format!("cannot empty {}", node.data_dir.display()))
    }

    /// Forgets a node that has left.
    pub fn forget(&mut self, id: u64) {
        self.nodes.remove(&id);
    }

    /// The ids of all nodes.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Where a client may begin, as it takes it.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.nodes.values().map(|node| node.native.clone()).collect::<Vec<_>>().join(",")
    }

    /// Starts a node's process. Does not wait for it.
    ///
    /// # Errors
    /// When there is no such node or it cannot be started.
    pub fn spawn(&mut self, id: u64) -> Result<()> {
        let node = self.nodes.get_mut(&id).with_context(|| format!("no node {id}"))?;
        let log = File::options().create(true).append(true).open(&node.log)?;
        let before: Vec<&String> = node.enter.iter().chain(&self.wrapper).chain(&node.wrapper).collect();
        let mut command = match before.split_first() {
            None => Command::new(&self.binary),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        if !node.enter.is_empty() {
            // Whoever interrupts the harness does not mean the nodes.
            command.process_group(0);
        }
        command
            .arg("server")
            .env("LEVADA_NODE_ID", id.to_string())
            .env("LEVADA_DATA_DIR", &node.data_dir)
            .env("LEVADA_SEED_NODES", &self.seeds)
            .env("LEVADA_LISTEN_NATIVE", &node.listens[0])
            .env("LEVADA_LISTEN_FLIGHT", &node.listens[1])
            .env("LEVADA_ADVERTISED_NATIVE", &node.native)
            .env("LEVADA_ADVERTISED_FLIGHT", &node.flight)
            .env("LEVADA_LISTEN_HTTP", &node.http)
            .envs(self.environment.iter().chain(&node.environment).map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        node.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?);
        Ok(())
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        let node = self.nodes.get_mut(&id).with_context(|| format!("no node {id}"))?;
        if let Some(mut child) = node.child.take() {
            if !self.wrapper.is_empty() || !node.wrapper.is_empty() {
                kill_children(child.id())?;
            }
            // It may have ended by itself.
            let _ = child.kill();
            child.wait()?;
        }
        Ok(())
    }

    /// The id of a node's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self, id: u64) -> Result<u32> {
        let child = self.nodes.get(&id).and_then(|node| node.child.as_ref());
        Ok(child.with_context(|| format!("node {id} does not run"))?.id())
    }

    /// The value of a metric of a node, of its only series.
    ///
    /// # Errors
    /// When the node does not answer, or has no such metric.
    pub fn metric(&self, id: u64, name: &str) -> Result<f64> {
        let node = self.nodes.get(&id).with_context(|| format!("no node {id}"))?;
        http::metric(&node.http, name)
    }

    /// Sends a signal to a node, such as the one that stops it until another lets it go on.
    ///
    /// # Errors
    /// When it does not run, or stands behind a wrapper, which would take the signal in its place.
    pub fn signal(&self, id: u64, signal: Signal) -> Result<()> {
        let node = self.nodes.get(&id);
        let is_wrapped = !self.wrapper.is_empty() || node.is_some_and(|node| !node.wrapper.is_empty());
        ensure!(!is_wrapped, "node {id} is wrapped");
        let child = node.and_then(|node| node.child.as_ref());
        let child = child.with_context(|| format!("node {id} does not run"))?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("node {id} takes no {signal:?}"))
    }

    /// Waits until every node that runs says that it is ready.
    ///
    /// # Errors
    /// When one ends, or does not become ready within 30 seconds; with the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for node in self.nodes.values_mut() {
            let Some(child) = &mut node.child else { continue };
            while !is_ready(&node.http) {
                if let Some(status) = child.try_wait()? {
                    bail!("node {} ended with {status}:\n{}", node.id, tail(&node.log));
                }
                if Instant::now() > deadline {
                    bail!("node {} does not become ready:\n{}", node.id, tail(&node.log));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for id in self.ids() {
            let _ = self.kill(id);
        }
    }
}

fn seeds<'a>(nodes: impl Iterator<Item = &'a NodeProcess>) -> String {
    nodes.map(|node| format!("{}@{}", node.id, node.native)).collect::<Vec<_>>().join(",")
}

/// Kills what a wrapper runs.
fn kill_children(wrapper: u32) -> Result<()> {
    let status = Command::new("pkill").args(["-KILL", "-P", &wrapper.to_string()]).status();
    let status = status.context("cannot run pkill")?;
    // 1: it has no child any more.
    ensure!(matches!(status.code(), Some(0 | 1)), "pkill ended with {status}");
    Ok(())
}

/// As a server takes them.
fn here(dirs: &[PathBuf]) -> Vec<Place> {
    dirs.iter().map(|dir| Place::here(dir)).collect()
}

fn is_ready(http: &str) -> bool {
    http::get(http, "/health/ready").is_ok()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}

/// Ports that are free, and that the kernel gives to no outgoing connection (it takes those from 32,768 on): a node finds its
/// own free when it comes back.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let candidates = (0..COUNT).map(|_| {
        let next = std::process::id().wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        u16::try_from(FIRST + next)
    });
    let mut ports = Vec::with_capacity(count);
    for candidate in candidates {
        if ports.len() == count {
            break;
        }
        let port = candidate?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
    }
    Ok(ports)
}
