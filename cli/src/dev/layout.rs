//! Where a development cluster keeps what, and under which addresses it comes up.

use std::{
    fs::{self, File, TryLockError},
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::exit;

const NODES_DEFAULT: u16 = 3;
const PORT_BASE_DEFAULT: u16 = 9170;
/// From one node's ports to the next one's.
const PORT_STEP: u16 = 10;

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) native: String,
    pub(super) flight: String,
    pub(super) http: String,
    pub(super) data_dir: PathBuf,
    pub(super) log: PathBuf,
}

/// `dev.json`: what must be the same the next time.
#[derive(Debug, Deserialize, Serialize)]
struct Remembered {
    /// Each node's native, Flight and HTTP port.
    ports: Vec<[u16; 3]>,
}

/// `cluster.json`, as scripts read it.
#[derive(Debug, Serialize)]
pub(super) struct ClusterFile {
    nodes: Vec<ClusterFileNode>,
}

#[derive(Debug, Serialize)]
struct ClusterFileNode {
    id: u64,
    pid: u32,
    native: String,
    flight: String,
    http: String,
    data_dir: PathBuf,
}

/// The directory of a development cluster; while this lives, nobody else opens it.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) nodes: Vec<Node>,
    directory: PathBuf,
    /// Locked.
    _lock: File,
}

impl Layout {
    /// Opens the directory: an existing cluster with its own nodes and ports, or a new one.
    pub(super) fn open(directory: &Path, nodes: Option<u16>, port_base: Option<u16>) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let directory = directory.canonicalize().with_context(|| format!("cannot open {}", directory.display()))?;
        let lock = lock(&directory)?;
        let path = directory.join("dev.json");
        let ports = match fs::read(&path) {
            Ok(bytes) => {
                let remembered: Remembered =
                    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
                let count = remembered.ports.len();
                if nodes.is_some_and(|nodes| usize::from(nodes) != count) {
                    let shown = directory.display();
                    return Err(exit::usage(format!(
                        "{shown} holds a cluster of {count} nodes: leave out --nodes, or take another directory"
                    )));
                }
                match port_base {
                    // Any will do: so those that are known already, unless somebody else has them by now.
                    Some(0) if check_free(&remembered.ports).is_err() => free_ports(count)?,
                    None | Some(0) => remembered.ports,
                    Some(base) => choose_ports(count, base)?,
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let count = usize::from(nodes.unwrap_or(NODES_DEFAULT));
                choose_ports(count, port_base.unwrap_or(PORT_BASE_DEFAULT))?
            }
            Err(error) => return Err(anyhow!(error).context(format!("cannot read {}", path.display()))),
        };
        check_free(&ports)?;
        let layout = Self { nodes: nodes_of(&directory, &ports), directory, _lock: lock };
        layout.forget_cluster();
        layout.replace("dev.json", &Remembered { ports })?;
        Ok(layout)
    }

    /// As `--seed-nodes` wants it.
    pub(super) fn seed_nodes(&self) -> String {
        let seeds: Vec<String> = self.nodes.iter().map(|node| format!("{}@{}", node.id, node.native)).collect();
        seeds.join(",")
    }

    /// Writes `cluster.json`, if it changes.
    pub(super) fn write_cluster(&self, pids: &[u32]) -> Result<ClusterFile> {
        let nodes = self.nodes.iter().zip(pids).map(|(node, &pid)| ClusterFileNode {
            id: node.id,
            pid,
            native: node.native.clone(),
            flight: node.flight.clone(),
            http: node.http.clone(),
            data_dir: node.data_dir.clone(),
        });
        let cluster = ClusterFile { nodes: nodes.collect() };
        self.replace("cluster.json", &cluster)?;
        Ok(cluster)
    }

    /// Removes `cluster.json`: there are no such processes any more.
    pub(super) fn forget_cluster(&self) {
        // It may not be there.
        let _ = fs::remove_file(self.directory.join("cluster.json"));
    }

    /// Writes a file so that readers see the old one or the new one.
    fn replace(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let path = self.directory.join(name);
        let bytes = serde_json::to_vec(value)?;
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let new = self.directory.join(format!("{name}.new"));
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("dev.lock");
    let lock = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "{} is in use by a running `levada dev`: stop that one, or take another directory",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => Err(anyhow!(error).context(format!("cannot lock {}", path.display()))),
    }
}

fn nodes_of(directory: &Path, ports: &[[u16; 3]]) -> Vec<Node> {
    let address = |port: u16| format!("127.0.0.1:{port}");
    (1..)
        .zip(ports)
        .map(|(id, &[native, flight, http])| Node {
            id,
            native: address(native),
            flight: address(flight),
            http: address(http),
            data_dir: directory.join(format!("node-{id}")),
            log: directory.join(format!("node-{id}.log")),
        })
        .collect()
}

/// Ports for so many nodes: in steps from a base, or free ones.
fn choose_ports(nodes: usize, base: u16) -> Result<Vec<[u16; 3]>> {
    if base == 0 {
        return free_ports(nodes);
    }
    let node = |number: usize| {
        let first = base.checked_add(u16::try_from(number).ok()?.checked_mul(PORT_STEP)?)?;
        Some([first, first.checked_add(1)?, first.checked_add(2)?])
    };
    let ports: Option<Vec<_>> = (0..nodes).map(node).collect();
    ports.ok_or_else(|| exit::usage(format!("--port-base {base} leaves no room for the ports of {nodes} nodes")))
}

/// Ports that nobody listens on, and that the system gives to no outgoing connection (Linux takes those from 32,768 on): a node finds its
/// own free when it starts, and when it starts again. Another process begins elsewhere.
fn free_ports(nodes: usize) -> Result<Vec<[u16; 3]>> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    let begin = std::process::id().wrapping_mul(31);
    let candidates = (0..COUNT).filter_map(|i| u16::try_from(FIRST + begin.wrapping_add(i) % COUNT).ok());
    // Held until all are found, so that they differ.
    let free: Vec<TcpListener> =
        candidates.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(3 * nodes).collect();
    ensure!(free.len() == 3 * nodes, "cannot find free ports from {FIRST} to {}", FIRST + COUNT - 1);
    let ports: Vec<u16> = free.iter().map(|one| Ok(one.local_addr()?.port())).collect::<Result<_>>()?;
    let (nodes, _) = ports.as_chunks::<3>();
    Ok(nodes.to_vec())
}

/// Says which port is taken before a node fails over it.
fn check_free(ports: &[[u16; 3]]) -> Result<()> {
    for port in ports.iter().flatten() {
        if let Err(error) = TcpListener::bind(("127.0.0.1", *port)) {
            let error = anyhow!(error).context(format!("port {port} cannot be used"));
            return Err(error.context("stop what listens there, or choose others with --port-base (0: free ones)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("levada-dev-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn a_directory_keeps_its_nodes_and_ports_and_belongs_to_one() {
        let directory = directory("layout");
        let first = Layout::open(&directory, Some(2), Some(0)).unwrap();
        let in_use = Layout::open(&directory, None, None).unwrap_err();
        assert!(in_use.to_string().contains("is in use"), "{in_use}");
        let nodes = first.nodes.clone();
        drop(first);
        let again = Layout::open(&directory, None, None).unwrap();
        assert_eq!((again.nodes.len(), &again.nodes), (2, &nodes));
        drop(again);
        let again = Layout::open(&directory, None, Some(0)).unwrap();
        assert_eq!(again.nodes, nodes, "the same command resumes the same ports");
        let cluster = directory.join("cluster.json");
        again.write_cluster(&[11, 12]).unwrap();
        let text = fs::read_to_string(&cluster).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json["nodes"][1]["pid"], &json["nodes"][0]["native"]), (&12.into(), &(*nodes[0].native).into()));
        drop(again);
        assert!(Layout::open(&directory, Some(3), None).unwrap_err().is::<exit::Usage>());
        drop(Layout::open(&directory, Some(2), None).unwrap());
        assert!(!cluster.exists(), "what is not running is not described");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn ports_come_in_steps() {
        assert_eq!(choose_ports(2, 9170).unwrap(), [[9170, 9171, 9172], [9180, 9181, 9182]]);
        assert!(choose_ports(3, 65_520).unwrap_err().is::<exit::Usage>());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_free(&[[port; 3]]).unwrap_err();
        assert!(format!("{error:#}").contains(&port.to_string()));
    }
}
