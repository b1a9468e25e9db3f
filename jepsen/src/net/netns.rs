//! Each node in a network namespace of its own, all linked to the harness's, which routes between them and drops what it is told to.
//!
//! ```text
//! node 1  10.77.0.1 ---- v1 +------------------+
//! node 2  10.77.0.2 ---- v2 | harness, clients |  nft: drop what is in @cut, and a part of what is in @lossy
//! node 3  10.77.0.3 ---- v3 | 10.77.0.254      |
//!                           +------------------+
//! ```
//!
//! All of it is inside the [`sandbox`](crate::sandbox): nobody outside sees it, and it goes with its last process.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context as _, Result, bail};

use super::{CLIENTS, Counter, Host, Link};
use crate::shell::{output, run, tell};

/// The rules. A counter tells what was dropped.
const RULES: &str = "
table ip jepsen {
    set cut { type ipv4_addr . ipv4_addr; }
    set lossy { type ipv4_addr . ipv4_addr; }
    counter cut { }
    counter lost { }
    chain judge {
        ip saddr . ip daddr @cut counter name cut drop
        ip saddr . ip daddr @lossy numgen random mod 100 < 20 counter name lost drop
    }
    chain forward { type filter hook forward priority 0; policy accept; jump judge; }
    chain input { type filter hook input priority 0; policy accept; jump judge; }
    chain output { type filter hook output priority 0; policy accept; jump judge; }
}
";

/// Such a network.
#[derive(Debug)]
pub struct Netns(());

impl Netns {
    /// Makes one for so many nodes, with ids from 1. The process must be inside the sandbox.
    ///
    /// # Errors
    /// A program is missing, or the system refuses.
    pub fn create(nodes: u64) -> Result<Self> {
        let net = Self(());
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot route")?;
        for node in 1..=nodes {
            net.add(node)?;
        }
        tell("nft", &["-f", "-"], RULES).context("nft (of the package nftables) makes the rules of the network")?;
        Ok(net)
    }

    fn add(&self, node: Host) -> Result<()> {
        let (name, link, address) = (name(node), format!("v{node}"), address(node));
        let here = format!("{}/32", self::address(CLIENTS));
        let ip = |arguments: &str| run("ip", arguments.split(' '));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {link} type veth peer name eth0 netns {name}"))?;
        ip(&format!("addr add {here} dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} addr add {address}/32 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add {here} dev eth0"))?;
        ip(&format!("-n {name} route add default via {}", self::address(CLIENTS)))?;
        ip(&format!("route add {address}/32 dev {link}"))
    }

    /// The address of a node, or of the clients.
    #[must_use]
    pub fn address(&self, host: Host) -> String {
        address(host)
    }

    /// What to put in front of a command that is to run where a node is. It becomes the command.
    #[must_use]
    pub fn enter(&self, node: Host) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", name(node)), "--".to_owned()]
    }

    /// From now on nothing comes through on these links, and everything on all others.
    ///
    /// # Errors
    /// The system refuses.
    pub fn cut(&self, links: &BTreeSet<Link>) -> Result<()> {
        self.set("cut", links)
    }

    /// From now on a fifth of the packets on these links is lost, and none on others.
    ///
    /// # Errors
    /// The system refuses.
    pub fn lose(&self, links: &BTreeSet<Link>) -> Result<()> {
        self.set("lossy", links)
    }

    fn set(&self, set: &str, links: &BTreeSet<Link>) -> Result<()> {
        let mut orders = format!("flush set ip jepsen {set}\n");
        for &(from, to) in links {
            let _ = writeln!(orders, "add element ip jepsen {set} {{ {} . {} }}", address(from), address(to));
        }
        tell("nft", &["-f", "-"], &orders)
    }

    /// Packets dropped so far because of [`Netns::cut`], or lost because of [`Netns::lose`].
    ///
    /// # Errors
    /// The system does not say.
    pub fn dropped(&self, counter: Counter) -> Result<u64> {
        let name = match counter {
            Counter::Cut => "cut",
            Counter::Lost => "lost",
            Counter::Late => bail!("no packet is late in a network of namespaces"),
        };
        let said = output("nft", ["list", "counter", "ip", "jepsen", name])?;
        let mut words = said.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        Ok(words.next().context("nft says no number of packets")?.parse()?)
    }
}

fn name(node: Host) -> String {
    format!("node-{node}")
}

fn address(host: Host) -> String {
    format!("10.77.0.{}", if host == CLIENTS { 254 } else { host })
}
