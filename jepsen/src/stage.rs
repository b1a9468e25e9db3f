//! Where a run happens: nodes, their network, disks and clocks. Clients and nemeses share one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use levada_tests::{
    clock::FakeClock,
    disks::PowerDisk,
    nodes::{Nodes, Place},
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    endings::Endings,
    net::{Env, Host, Net},
    recorder::Recorder,
};

/// The size of a node's disk, where it has one of its own.
const DISK_MIB: u64 = 2_048;
/// The lines that a node that ended is quoted with.
const LAST_WORDS: usize = 5;
/// How often it is looked whether a node is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What nodes store their data on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Disk {
    /// A directory each on the file system of the store.
    Dir,
    /// An ext4 each, whose power can be cut.
    Loop,
}

/// All of it.
pub struct Stage {
    nodes: Mutex<Nodes>,
    /// Where they are. Clients ask for that, and must not wait for a nemesis.
    addresses: BTreeMap<Host, Addresses>,
    /// Processes that ended though nobody ended them, with the ends of their logs.
    deaths: Mutex<Vec<(Host, String)>>,
    /// Their network.
    pub net: Net,
    disks: Mutex<BTreeMap<Host, PowerDisk>>,
    clocks: BTreeMap<Host, FakeClock>,
    /// Nodes that a nemesis has in hand.
    taken: Mutex<BTreeSet<Host>>,
    /// Nodes that are to run.
    wanted: Mutex<BTreeSet<Host>>,
    /// Nodes that belong to the cluster, or are about to. The others are spare.
    members: Mutex<BTreeSet<Host>>,
    endings: Mutex<Endings>,
    /// What clients do.
    pub recorder: Recorder,
    /// Set when faults are to end.
    pub calm: Flag,
    /// Where clients begin.
    pub bootstrap: String,
    logs: PathBuf,
    quiet: bool,
}

/// Where a node is.
struct Addresses {
    flight: String,
    http: String,
    data_dir: PathBuf,
}

/// What a stage hides from the servers, to see that the checkers notice. The servers themselves are as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Lie {
    /// Every `fdatasync` and `fsync` says that it succeeded and does nothing. With power cuts, what was acknowledged is lost.
    NoSync,
}

impl Lie {
    /// What to put in front of the servers.
    const fn wrapper(self) -> &'static [&'static str] {
        match self {
            Self::NoSync => &[
                "strace",
                "--follow-forks",
                "--quiet=all",
                "--output=/dev/null",
                "--seccomp-bpf",
                "--trace=fdatasync,fsync,sync_file_range",
                "--inject=fdatasync,fsync:retval=0",
            ],
        }
    }
}

/// What makes a stage.
#[derive(Clone, Debug)]
pub struct Props {
    /// The server.
    pub binary: PathBuf,
    /// How many.
    pub nodes: u64,
    /// Between what.
    pub env: Env,
    /// What the network draws follows from it.
    pub seed: u64,
    /// How many more are prepared, and may join later.
    pub spares: u64,
    /// On what.
    pub disk: Disk,
    /// Whether their clocks can be set.
    pub clocks: bool,
    /// What is not as it seems.
    pub lie: Option<Lie>,
    /// Say nothing of what happens.
    pub quiet: bool,
}

impl Stage {
    /// Builds it below a directory, starts the nodes, and waits until they are ready.
    ///
    /// # Errors
    /// The system refuses something, or a node does not come up.
    pub fn build(props: &Props, store: &Path) -> Result<Self> {
        let Props { binary, nodes, spares, env, seed, disk, clocks, lie, quiet } = props;
        let hosts = nodes + spares;
        let mut net = Net::create(*env, hosts, *seed)?;
        let logs = store.join("nodes");
        std::fs::create_dir_all(&logs)?;
        let (mut disks, mut places, mut fakes) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for node in 1..=hosts {
            let mut dir = store.join(format!("data/node-{node}"));
            std::fs::create_dir_all(&dir)?;
            if *disk == Disk::Loop {
                let made = PowerDisk::create(&dir, "disk", DISK_MIB)?;
                made.path().clone_into(&mut dir);
                disks.insert(node, made);
            }
            places.push(Place { dir, host: net.address(node), enter: net.enter(node) });
            if *clocks {
                fakes.insert(node, FakeClock::new(&logs.join(format!("clock-{node}")))?);
            }
        }
        let mut settings = vec![("LEVADA_INSECURE", "true"), ("LEVADA_LOG_FORMAT", "json")];
        if *lie == Some(Lie::NoSync) {
            // What is written past the system's memory may be durable all the same.
            settings.push(("LEVADA_DISK_DIRECT", "false"));
        }
        let mut processes = Nodes::placed(binary, &places, &logs, &settings)?;
        net.connect(&mut processes)?;
        for (id, node) in &mut processes.nodes {
            node.environment = fakes.get(id).map(FakeClock::environment).unwrap_or_default();
            node.wrapper = lie.iter().flat_map(|lie| lie.wrapper()).map(|&word| word.to_owned()).collect();
        }
        let members: BTreeSet<Host> = (1..=*nodes).collect();
        processes.seed_with(&Vec::from_iter(members.clone()));
        members.iter().try_for_each(|&node| processes.spawn(node))?;
        processes.wait_ready()?;
        let addresses = processes.nodes.iter().map(|(&id, node)| {
            let (flight, http, data_dir) = (node.flight.clone(), node.http.clone(), node.data_dir.clone());
            (id, Addresses { flight, http, data_dir })
        });
        Ok(Self {
            addresses: addresses.collect(),
            deaths: Mutex::default(),
            bootstrap: processes.bootstrap(),
            wanted: Mutex::new(members.clone()),
            members: Mutex::new(members),
            endings: Mutex::default(),
            nodes: Mutex::new(processes),
            net,
            disks: Mutex::new(disks),
            clocks: fakes,
            taken: Mutex::default(),
            recorder: Recorder::create(&store.join("history.jsonl.zst"))?,
            calm: Flag::default(),
            logs,
            quiet: *quiet,
        })
    }

    /// Tells whoever looks on.
    #[allow(clippy::print_stderr, reason = "this is a command's progress")]
    pub fn say(&self, what: &str) {
        if !self.quiet {
            let at = Duration::from_nanos(self.recorder.now_ns()).as_secs_f64();
            eprintln!("{at:7.1} s  {what}");
        }
    }

    /// All nodes of the cluster.
    #[must_use]
    pub fn ids(&self) -> Vec<Host> {
        lock(&self.members).iter().copied().collect()
    }

    /// These, and those that may join or have left.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.addresses.keys().copied().collect()
    }

    /// Nodes that do not run, have nothing, and may join.
    #[must_use]
    pub fn spares(&self) -> Vec<Host> {
        let members = lock(&self.members);
        self.addresses.keys().copied().filter(|node| !members.contains(node)).collect()
    }

    /// A spare node is one of the cluster's from now on: it can be started, and knows whom to ask. In hand, as [`Self::take`] has it.
    pub fn enlist(self: &Arc<Self>, node: Host) -> Taken {
        self.nodes().seed_with(&self.ids());
        lock(&self.taken).insert(node);
        lock(&self.members).insert(node);
        Taken { node, stage: Arc::clone(self) }
    }

    /// A node that has left the cluster is a spare one again, with nothing.
    ///
    /// # Errors
    /// Its directory cannot be emptied.
    pub fn discharge(&self, taken: &Taken) -> Result<()> {
        self.kill(taken.node)?;
        lock(&self.members).remove(&taken.node);
        self.nodes().seed_with(&self.ids());
        self.nodes().wipe(taken.node)
    }

    /// The processes.
    pub fn nodes(&self) -> MutexGuard<'_, Nodes> {
        lock(&self.nodes)
    }

    /// Where a node serves Flight.
    #[must_use]
    pub fn flight(&self, node: Host) -> Option<String> {
        Some(self.addresses.get(&node)?.flight.clone())
    }

    /// Where a node has its data.
    #[must_use]
    pub fn data_dir(&self, node: Host) -> Option<PathBuf> {
        Some(self.addresses.get(&node)?.data_dir.clone())
    }

    /// A node's health and metrics.
    #[must_use]
    pub fn http(&self, node: Host) -> Option<String> {
        Some(self.addresses.get(&node)?.http.clone())
    }

    /// Takes a node of the cluster in hand, so that no other nemesis does; `None` if one has.
    pub fn take(self: &Arc<Self>, node: Host) -> Option<Taken> {
        let mut taken = lock(&self.taken);
        let is_ours = lock(&self.members).contains(&node) && taken.insert(node);
        is_ours.then(|| Taken { node, stage: Arc::clone(self) })
    }

    /// From now on a node may end by itself, if it says this in its last words.
    pub fn may_end(&self, node: Host, words: &'static str) {
        lock(&self.endings).allow(node, words);
    }

    /// From now on it may not, with these.
    pub fn must_not_end(&self, node: Host, words: &'static str) {
        lock(&self.endings).forbid(node, words);
    }

    /// The last words of a node that ended by itself, as it was let; `None` as long as it runs.
    ///
    /// # Errors
    /// The system does not say whether it runs.
    pub fn last_words(&self, node: Host) -> Result<Option<String>> {
        let mut nodes = self.nodes();
        Ok(nodes.has_ended(node)?.then(|| last_words(&nodes, node)))
    }

    /// Ends a node's process at once.
    ///
    /// # Errors
    /// There is none.
    pub fn kill(&self, node: Host) -> Result<()> {
        let mut nodes = self.nodes();
        self.note_if_dead(&mut nodes, node)?;
        lock(&self.wanted).remove(&node);
        nodes.kill(node)
    }

    /// Whoever is about to be ended may have ended by itself.
    fn note_if_dead(&self, nodes: &mut Nodes, node: Host) -> Result<bool> {
        let has_died = lock(&self.wanted).contains(&node) && nodes.has_ended(node)?;
        if has_died {
            let end = last_words(nodes, node);
            if lock(&self.endings).allows(node, &end) {
                lock(&self.wanted).remove(&node);
                return Ok(false);
            }
            lock(&self.deaths).push((node, end));
        }
        Ok(has_died)
    }

    /// Starts a node's process. Does not wait for it. Gives its id.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, node: Host) -> Result<u32> {
        let mut nodes = self.nodes();
        nodes.spawn(node)?;
        lock(&self.wanted).insert(node);
        nodes.process(node)
    }

    /// Stops a process where it is, or lets it go on.
    ///
    /// # Errors
    /// There is none.
    pub fn signal(&self, node: Host, signal: Signal) -> Result<()> {
        self.nodes().signal(node, signal)
    }

    /// The clock of a node, if it can be set.
    #[must_use]
    pub fn clock(&self, node: Host) -> Option<&FakeClock> {
        self.clocks.get(&node)
    }

    /// Does something to the disk of a node; `None` if it has none of its own.
    pub fn disk<T>(&self, node: Host, what: impl FnOnce(&PowerDisk) -> T) -> Option<T> {
        lock(&self.disks).get(&node).map(what)
    }

    /// A file for what a nemesis notes about a node.
    #[must_use]
    pub fn notes(&self, node: Host, about: &str) -> PathBuf {
        self.logs.join(format!("{about}-{node}"))
    }

    /// Cuts the power of some nodes' disks at once, and ends what ran on them.
    ///
    /// # Errors
    /// They have no such disks, or the system refuses.
    pub fn cut_power(&self, nodes: &BTreeSet<Host>) -> Result<()> {
        let mut processes = self.nodes();
        for &node in nodes {
            self.note_if_dead(&mut processes, node)?;
            // They may find out that their disk is dead before they are killed.
            lock(&self.wanted).remove(&node);
        }
        let disks = lock(&self.disks);
        PowerDisk::cut_all(disks.iter().filter(|(node, _)| nodes.contains(node)).map(|(_, disk)| disk))?;
        nodes.iter().try_for_each(|&node| processes.kill(node))
    }

    /// Power is back: what the disks had kept is there again. Processes are not started.
    ///
    /// # Errors
    /// The system refuses.
    pub fn restore_power(&self, nodes: &BTreeSet<Host>) -> Result<()> {
        let mut disks = lock(&self.disks);
        nodes.iter().try_for_each(|node| disks.get_mut(node).context("it has no such disk")?.restore())
    }

    /// Looks for processes that ended though nobody ended them, and starts them again. All that were found since it was asked last, by
    /// whomever, with the ends of their logs.
    ///
    /// # Errors
    /// One cannot be started, or the system does not say. What was found is told the next time.
    pub fn died(&self) -> Result<Vec<(Host, String)>> {
        let mut nodes = self.nodes();
        for node in nodes.ids() {
            if self.note_if_dead(&mut nodes, node)? {
                nodes.spawn(node)?;
            }
        }
        Ok(std::mem::take(&mut *lock(&self.deaths)))
    }

    /// Whether a node says that it serves.
    #[must_use]
    pub fn is_ready(&self, node: Host) -> bool {
        self.http(node).is_some_and(|http| levada_tests::http::get(&http, "/health/ready").is_ok())
    }

    /// Waits until all nodes of the cluster serve.
    ///
    /// # Errors
    /// Those that do not in time.
    pub fn wait_ready(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        for node in self.ids() {
            while !self.is_ready(node) {
                if Instant::now() > deadline {
                    bail!("node {node} does not become ready; its log is {}", self.logs.display());
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
        Ok(())
    }

    /// What a node has written to its log.
    #[must_use]
    pub fn log(&self, node: Host) -> String {
        self.nodes().log(node).unwrap_or_default()
    }
}

/// A node in somebody's hand. Given back when dropped.
pub struct Taken {
    /// Which.
    pub node: Host,
    stage: Arc<Stage>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.stage.taken).remove(&self.node);
    }
}

/// Something that becomes so once, and that threads wait for.
#[derive(Debug, Default)]
pub struct Flag {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    /// From now on it is so.
    pub fn set(&self) {
        *lock(&self.set) = true;
        self.changed.notify_all();
    }

    /// Waits for a time, or until it is so. Whether it is.
    pub fn sleep(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(lock(&self.set), time, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The end of what a node has written.
fn last_words(nodes: &Nodes, node: Host) -> String {
    let log = nodes.log(node).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
