//! The network between nodes and clients, and what can be done to it.

mod netns;
pub mod proxy;

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use levada_tests::nodes::Nodes;
use serde::{Deserialize, Serialize};

pub use netns::Netns;

use self::proxy::Proxies;
use crate::keeper::Keeper;

/// An end of a link: a node, or [`CLIENTS`].
pub type Host = u64;
/// Where all clients are.
pub const CLIENTS: Host = 0;

/// One direction of a link: from whom to whom.
pub type Link = (Host, Host);

/// Both directions between everybody in one set and everybody in the other.
#[must_use]
pub fn between(one: &BTreeSet<Host>, other: &BTreeSet<Host>) -> BTreeSet<Link> {
    let pairs = one.iter().flat_map(|&a| other.iter().map(move |&b| (a, b)));
    pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// What the network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Env {
    /// A network namespace each; needs root, or a kernel that lets users have namespaces.
    Netns,
    /// Loopback, and a proxy in front of each node; needs nothing.
    Proxy,
}

/// What is counted, to prove that a fault bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// What did not pass cut links.
    Cut,
    /// What was lost on lossy ones.
    Lost,
    /// What passed slow ones late.
    Late,
}

/// A network between so many nodes and the clients.
#[derive(Debug)]
pub enum Net {
    /// Of namespaces.
    Netns(Netns),
    /// Of proxies.
    Proxy {
        /// What everything passes.
        proxies: Proxies,
        /// Who ends the nodes when this process does not.
        keeper: Keeper,
    },
}

impl Net {
    /// Makes one for so many nodes, with ids from 1.
    ///
    /// # Errors
    /// A program is missing, or the system refuses.
    pub fn create(env: Env, nodes: u64, seed: u64) -> Result<Self> {
        Ok(match env {
            Env::Netns => Self::Netns(Netns::create(nodes)?),
            Env::Proxy => Self::Proxy { proxies: Proxies::new(seed), keeper: Keeper::start()? },
        })
    }

    /// Where a node listens.
    #[must_use]
    pub fn address(&self, node: Host) -> String {
        match self {
            Self::Netns(net) => net.address(node),
            Self::Proxy { .. } => "127.0.0.1".to_owned(),
        }
    }

    /// What to put in front of a command that is to run where a node is. It becomes the command.
    #[must_use]
    pub fn enter(&self, node: Host) -> Vec<String> {
        match self {
            Self::Netns(net) => net.enter(node),
            Self::Proxy { keeper, .. } => keeper.enter(),
        }
    }

    /// Puts itself between nodes that do not run yet.
    ///
    /// # Errors
    /// The system refuses.
    pub fn connect(&mut self, nodes: &mut Nodes) -> Result<()> {
        match self {
            Self::Netns(_) => Ok(()),
            Self::Proxy { proxies, .. } => proxies.stand_before(nodes),
        }
    }

    /// From now on nothing comes through on these links, and everything on all others.
    ///
    /// # Errors
    /// The system refuses.
    pub fn cut(&self, links: &BTreeSet<Link>) -> Result<()> {
        match self {
            Self::Netns(net) => net.cut(links),
            Self::Proxy { proxies, .. } => {
                proxies.cut(links);
                Ok(())
            }
        }
    }

    /// From now on a fifth of what passes these links is lost at first, and nothing on others.
    ///
    /// # Errors
    /// The system refuses.
    pub fn lose(&self, links: &BTreeSet<Link>) -> Result<()> {
        match self {
            Self::Netns(net) => net.lose(links),
            Self::Proxy { proxies, .. } => {
                proxies.lose(links);
                Ok(())
            }
        }
    }

    /// From now on these links are slow, and no others.
    ///
    /// # Errors
    /// This network has no slow links.
    pub fn delay(&self, links: &BTreeSet<Link>) -> Result<()> {
        match self {
            Self::Netns(_) => bail!("a network of namespaces has no slow links: --env proxy"),
            Self::Proxy { proxies, .. } => {
                proxies.delay(links);
                Ok(())
            }
        }
    }

    /// How much was hit by one kind of fault so far.
    ///
    /// # Errors
    /// The system does not say.
    pub fn counted(&self, counter: Counter) -> Result<u64> {
        match self {
            Self::Netns(net) => net.dropped(counter),
            Self::Proxy { proxies, .. } => Ok(proxies.counted(counter)),
        }
    }

    /// That so much was hit since it was counted before, if anything was.
    ///
    /// # Errors
    /// The system does not say.
    pub fn evidence(&self, counter: Counter, before: u64) -> Result<Option<String>> {
        let count = self.counted(counter)?.saturating_sub(before);
        let what = match (self, counter) {
            (Self::Netns(_), Counter::Cut) => "packets dropped",
            (Self::Netns(_), Counter::Lost | Counter::Late) => "packets lost",
            (Self::Proxy { .. }, Counter::Cut) => "pieces and connections held up",
            (Self::Proxy { .. }, Counter::Lost) => "pieces lost and sent again",
            (Self::Proxy { .. }, Counter::Late) => "pieces late",
        };
        Ok((count > 0).then(|| format!("{count} {what}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_two_sides_is_cut_in_both_directions_and_nothing_else() {
        let cut = between(&BTreeSet::from([1]), &BTreeSet::from([1, 2, 3]));
        assert_eq!(cut, BTreeSet::from([(1, 2), (2, 1), (1, 3), (3, 1)]));
    }
}
