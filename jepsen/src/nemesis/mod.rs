//! What goes wrong, and the proof that it did.
//!
//! A nemesis of a [`Family`] does one thing for some seconds and mends it again. It answers with **evidence** that the fault bit: packets that
//! were dropped, another process under the node's id, the offset of a clock as the node itself tells it. A fault without evidence was
//! none, and a run whose faults were none is no proof ([`crate::run`]).
//!
//! Families of one [`Domain`] strike one after the other, those of different domains at once: a node is paused while a network is
//! torn. Nodes are [taken](crate::stage::Stage::take) by whoever ends, stops or wipes them.

mod clock;
mod corrupt;
mod disk;
mod loss;
mod members;
mod membership;
mod partition;
mod power;
mod process;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};

use crate::{
    control::Control,
    net::{Env, Host},
    stage::{Stage, Taken},
};

/// What families must not do at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Domain {
    /// The network.
    Network,
    /// Processes, and the power of their disks.
    Process,
    /// Disks of nodes that run.
    Disk,
    /// Clocks.
    Clock,
    /// Who belongs to the cluster and who leads, and whatever needs all others to be whole.
    Membership,
}

/// A family of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Nodes that do not hear each other: one alone, halves, a ring, a bridge, one way only, the leader.
    Partition,
    /// A fifth of the packets lost.
    Loss,
    /// Everything on its way is late by 50 to 250 ms. Needs `--env proxy`.
    Delay,
    /// `kill -9` of one, some or all, and started again.
    Kill,
    /// Stopped in the middle of whatever they do, and let go on.
    Pause,
    /// A leader paused, the others killed, all let go on: what split NATS 2.12.
    PauseKill,
    /// What was not synced is gone: the power of one, some or all disks is cut. Needs `--disk loop`.
    Power,
    /// The time of day jumps by up to an hour.
    Clock,
    /// Leaders are asked to hand over.
    Leader,
    /// A node loses everything, and is replaced under its id.
    Wipe,
    /// Bits of a node's files flip, or a segment ends early, while it is down.
    Corrupt,
    /// Nodes join, others are decommissioned, and replicas move.
    Membership,
    /// A disk is full to the last byte for a while. Needs `--disk loop`.
    Full,
    /// A disk takes a few writes a second and no more.
    Slow,
    /// A sync fails (`EIO`): the node must end itself, and comes back.
    Eio,
}

/// How many a fault of processes or disks hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Targets {
    /// A node.
    One,
    /// As many as can be gone while the rest goes on.
    Minority,
    /// So many that the rest cannot go on.
    Majority,
    /// All of them at once.
    All,
    /// Mostly one, sometimes one of the others.
    Any,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Done {
    /// For a person.
    pub what: String,
    /// To whom.
    pub nodes: Vec<Host>,
    /// That it bit.
    pub evidence: Option<String>,
}

/// What a fault has to do its work with.
pub struct Hand {
    /// Where it strikes.
    pub stage: Arc<Stage>,
    /// What it asks the cluster.
    pub control: Control,
    /// How it draws.
    pub dice: StdRng,
    /// How long it lasts.
    pub lasts: Duration,
    /// How many it hits, where it hits several.
    pub targets: Targets,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Partition,
        Self::Loss,
        Self::Delay,
        Self::Kill,
        Self::Pause,
        Self::PauseKill,
        Self::Power,
        Self::Clock,
        Self::Leader,
        Self::Wipe,
        Self::Corrupt,
        Self::Membership,
        Self::Full,
        Self::Slow,
        Self::Eio,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::PauseKill => "pause-kill",
            Self::Power => "power",
            Self::Clock => "clock",
            Self::Leader => "leader",
            Self::Wipe => "wipe",
            Self::Corrupt => "corrupt",
            Self::Membership => "membership",
            Self::Full => "full",
            Self::Slow => "slow",
            Self::Eio => "eio",
        }
    }

    /// What it must not be done together with.
    #[must_use]
    pub const fn domain(self) -> Domain {
        match self {
            Self::Partition | Self::Loss | Self::Delay => Domain::Network,
            Self::Kill | Self::Pause | Self::PauseKill | Self::Power => Domain::Process,
            Self::Clock => Domain::Clock,
            Self::Full | Self::Slow | Self::Eio => Domain::Disk,
            Self::Leader | Self::Wipe | Self::Corrupt | Self::Membership => Domain::Membership,
        }
    }

    /// Whether it can be done there.
    #[must_use]
    pub const fn works_in(self, env: Env) -> bool {
        match env {
            Env::Netns => !matches!(self, Self::Delay),
            Env::Proxy => matches!(
                self,
                Self::Partition
                    | Self::Loss
                    | Self::Delay
                    | Self::Kill
                    | Self::Pause
                    | Self::PauseKill
                    | Self::Clock
                    | Self::Leader
                    | Self::Wipe
                    | Self::Corrupt
            ),
        }
    }

    /// Whether nodes must have disks of their own for it.
    #[must_use]
    pub const fn needs_disks(self) -> bool {
        matches!(self, Self::Power | Self::Full)
    }

    /// Does it and mends it. `None`: there was nobody to do it to.
    ///
    /// # Errors
    /// The system refuses: the harness is at fault, not the cluster.
    pub fn strike(self, hand: &mut Hand) -> Result<Option<Done>> {
        match self {
            Self::Partition => partition::strike(hand),
            Self::Loss => loss::lose(hand),
            Self::Delay => loss::delay(hand),
            Self::Kill => process::kill(hand),
            Self::Pause => process::pause(hand),
            Self::PauseKill => process::pause_kill(hand),
            Self::Power => power::strike(hand),
            Self::Clock => clock::strike(hand),
            Self::Leader => membership::move_leaders(hand),
            Self::Wipe => membership::wipe(hand),
            Self::Corrupt => corrupt::strike(hand),
            Self::Membership => members::strike(hand),
            Self::Full => disk::fill(hand),
            Self::Slow => disk::slow_down(hand),
            Self::Eio => disk::fail_sync(hand),
        }
    }
}

impl Hand {
    /// Waits as long as the fault lasts, or until all faults are to end.
    pub fn last(&self) {
        self.stage.calm.sleep(self.lasts);
    }

    /// Some nodes that nobody else has in hand.
    pub fn victims(&mut self) -> Vec<Taken> {
        let ids = self.stage.ids();
        let drawn = match self.dice.random_range(0..10) {
            0..5 => Targets::One,
            5..7 => Targets::Minority,
            7..9 => Targets::Majority,
            _ => Targets::All,
        };
        let count = match if self.targets == Targets::Any { drawn } else { self.targets } {
            Targets::One | Targets::Any => 1,
            Targets::Minority => (ids.len() - 1) / 2,
            Targets::Majority => ids.len() / 2 + 1,
            Targets::All => ids.len(),
        };
        let chosen: Vec<Host> = ids.choose_multiple(&mut self.dice, count.max(1)).copied().collect();
        chosen.into_iter().filter_map(|node| self.stage.take(node)).collect()
    }

    /// One node that nobody else has in hand: often one that leads a partition.
    pub fn victim(&mut self) -> Option<Taken> {
        let node = self.some_node()?;
        self.stage.take(node)
    }

    /// One node: often one that leads a partition.
    fn some_node(&mut self) -> Option<Host> {
        let ids = self.stage.ids();
        let leader = if self.dice.random_bool(0.5) { self.control.some_leader(&mut self.dice) } else { None };
        leader.or_else(|| ids.choose(&mut self.dice).copied())
    }
}

/// `node 2`, `nodes 1 and 4`, `all nodes`.
fn name_nodes(nodes: &[Host], all: usize) -> String {
    match nodes {
        [one] => format!("node {one}"),
        nodes if nodes.len() == all => "all nodes".to_owned(),
        nodes => {
            let mut sorted = nodes.to_vec();
            sorted.sort_unstable();
            let names: Vec<String> = sorted.iter().map(Host::to_string).collect();
            format!("nodes {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_the_name_that_the_command_line_takes() {
        for family in Family::ALL {
            let value = clap::ValueEnum::to_possible_value(&family).unwrap();
            assert_eq!(value.get_name(), family.name());
        }
    }

    #[test]
    fn nodes_are_named_as_a_person_would() {
        assert_eq!(name_nodes(&[2], 5), "node 2");
        assert_eq!(name_nodes(&[3, 1], 5), "nodes 1, 3");
        assert_eq!(name_nodes(&[1, 2, 3], 3), "all nodes");
    }
}
