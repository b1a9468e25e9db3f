//! What goes wrong, when, and with whom: a plan drawn from the seed.

use levada_protocol::ids::NodeId;

use crate::dice::Dice;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power of these nodes goes, at once. Each comes back after its own time.
    PowerCut {
        /// The nodes, and how long each stays down.
        victims: Vec<(NodeId, u64)>,
    },
    /// The power of these nodes goes at the moment of a disk operation of the first of them.
    PowerCutAt {
        /// The nodes, and how long each stays down.
        victims: Vec<(NodeId, u64)>,
        /// Which of the operations that follow.
        operation: u32,
        /// After it was performed, but before the node hears of it; otherwise in the middle of it.
        performed: bool,
    },
    /// The process is killed; the machine, and what it has in its page cache, stays.
    Kill {
        /// The node.
        victim: NodeId,
        /// How long it stays down.
        down_us: u64,
    },
    /// The process is asked to stop, and is started again.
    Restart {
        /// The node.
        victim: NodeId,
        /// How long it stays down.
        down_us: u64,
    },
    /// The process does nothing for a while and does not notice.
    Pause {
        /// The node.
        victim: NodeId,
        /// How long.
        for_us: u64,
    },
    /// No message passes these ways.
    Partition {
        /// From whom to whom.
        ways: Vec<(NodeId, NodeId)>,
        /// These nodes do not hear their clients either.
        deaf: Vec<NodeId>,
        /// How long.
        for_us: u64,
    },
    /// All processes end and come back; meanwhile the network has parted in two, with one node in both parts. As soon as that
    /// node has given its vote in an election, its power goes, and whoever got the vote is cut off from all others: they elect
    /// somebody else, and that node, which is back by then, must not give its vote a second time.
    VoteCut {
        /// The node in the middle.
        voter: NodeId,
        /// From whom to whom no message passes.
        ways: Vec<(NodeId, NodeId)>,
        /// Who comes back after which time.
        victims: Vec<(NodeId, u64)>,
        /// How long the network has parted.
        for_us: u64,
    },
    /// A machine's clock jumps. (That by which the process measures time does not.)
    ClockJump {
        /// The node.
        victim: NodeId,
        /// By so much, ahead or back.
        by_ms: i64,
    },
    /// A disk is a hundred times slower for a while.
    SlowDisk {
        /// The node.
        victim: NodeId,
        /// How long.
        for_us: u64,
    },
    /// A disk has little or no space left for a while: what is allocated can be overwritten, little or nothing grows.
    FullDisk {
        /// The node.
        victim: NodeId,
        /// What is left; `None`: nothing, not even what is freed, as somebody else takes it.
        free_bytes: Option<u64>,
        /// How long.
        for_us: u64,
    },
    /// What was written to a segment is not what it was any more. Always on the same node's disk: so there is a sound copy.
    Rot {
        /// The node.
        victim: NodeId,
        /// Which segment and which byte of it, in parts of 2^32.
        at: (u64, u64),
        /// What happens to it.
        decay: Decay,
    },
    /// For a while, what a node reads of its files for others, or to look whether they are sound, is not what stands there. Always
    /// the same node.
    Misread {
        /// The node.
        victim: NodeId,
        /// How long.
        for_us: u64,
    },
    /// The process ends, and with it goes a directory that had a part of the segments. It may come back with the next power
    /// cut. Always on the same node's disk, as for decay.
    DirectoryGone {
        /// The node.
        victim: NodeId,
        /// Which segments.
        which: u64,
        /// How long it stays down.
        down_us: u64,
    },
    /// The process ends, and a block of its journal that was durable is not what it was any more. Always on the same node's disk,
    /// and on another than that whose segments decay.
    JournalRots {
        /// The node.
        victim: NodeId,
        /// Which block and what of it, in parts of 2^32.
        at: (u64, u64),
        /// How long it stays down.
        down_us: u64,
    },
    /// An operation of this kind fails on the disks of these nodes: the process must end, and never try it again.
    DiskFails {
        /// The nodes, and how long each stays down.
        victims: Vec<(NodeId, u64)>,
        /// The kind of operation (see `DiskOp::call`).
        call: &'static str,
    },
}

/// How a file decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// A bit is another.
    Flip,
    /// A sector was written to the wrong place: what stands there now is another one's.
    Misdirected,
    /// The disk does not give a sector back.
    Unreadable,
    /// The rest of the file is gone.
    Cut,
    /// All of it is gone.
    Gone,
}

/// How likely each kind of fault is, relative to the others, and how often one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Time between two faults, on average.
    pub interval_us: u64,
    /// Power cuts.
    pub power: u32,
    /// How many of 100 power cuts, and of disk failures, hit all nodes at once.
    pub all_percent: u32,
    /// Killed processes.
    pub kill: u32,
    /// Orderly restarts.
    pub restart: u32,
    /// Paused processes.
    pub pause: u32,
    /// Clocks that jump.
    pub clock: u32,
    /// Network partitions.
    pub partition: u32,
    /// Slow disks.
    pub slow: u32,
    /// Failing disks.
    pub fail: u32,
    /// Full disks.
    pub full: u32,
    /// Rotten segments.
    pub rot: u32,
    /// Directories of segments that go.
    pub gone: u32,
    /// Rotten journals.
    pub journal: u32,
    /// Power cuts of voters.
    pub vote: u32,
    /// Wrong reads.
    pub misread: u32,
}

impl Mix {
    /// No faults.
    pub const NONE: Self = Self {
        interval_us: 1_000_000,
        power: 0,
        all_percent: 0,
        kill: 0,
        restart: 0,
        pause: 0,
        clock: 0,
        partition: 0,
        slow: 0,
        fail: 0,
        full: 0,
        rot: 0,
        gone: 0,
        journal: 0,
        vote: 0,
        misread: 0,
    };
    /// Power cuts only.
    pub const POWER: Self = Self { interval_us: 1_500_000, power: 1, all_percent: 30, ..Self::NONE };
    /// Disks that fill up, often several at once, and now and then a power cut or a kill.
    pub const FULL: Self = Self { interval_us: 700_000, full: 6, power: 1, kill: 1, all_percent: 30, ..Self::NONE };
    /// Network partitions only.
    pub const PARTITIONS: Self = Self { interval_us: 2_000_000, partition: 1, ..Self::NONE };

    /// Some mix of everything.
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Self {
        let mut weight = || u32::try_from(dice.between(0..=4)).unwrap_or(0);
        Self {
            power: 1 + weight(),
            kill: weight(),
            restart: weight(),
            pause: weight(),
            clock: weight() / 2,
            partition: weight(),
            slow: weight(),
            fail: weight() / 2,
            full: weight() / 2,
            rot: 0,
            gone: 0,
            journal: 0,
            vote: 0,
            misread: 0,
            interval_us: dice.pick(&[500_000, 1_500_000, 4_000_000]).unwrap_or(1_500_000),
            all_percent: dice.pick(&[5, 20, 60]).unwrap_or(20),
        }
    }
}

/// Draws faults.
#[derive(Debug)]
pub struct Nemesis {
    dice: Dice,
    mix: Mix,
    nodes: Vec<NodeId>,
}

impl Nemesis {
    /// One for these nodes.
    #[must_use]
    pub const fn new(dice: Dice, mix: Mix, nodes: Vec<NodeId>) -> Self {
        Self { dice, mix, nodes }
    }

    /// From now on it is about these nodes.
    pub fn set_nodes(&mut self, nodes: Vec<NodeId>) {
        self.nodes = nodes;
    }

    /// After a message from one node to another that makes a voter of a replica there: these two are cut off from all others,
    /// after this time.
    pub fn parting(&mut self, percent: u32, ours: [NodeId; 2]) -> Option<(u64, Fault)> {
        if !self.dice.chance(percent) {
            return None;
        }
        let theirs = self.nodes.iter().copied().filter(|node| !ours.contains(node));
        let pairs: Vec<_> = theirs.flat_map(|theirs| ours.map(|ours| (ours, theirs))).collect();
        let ways = pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).collect();
        let (after_us, for_us) = (self.dice.between(1_000..=40_000), self.dice.between(1_000_000..=4_000_000));
        Some((after_us, Fault::Partition { ways, deaf: Vec::new(), for_us }))
    }

    /// How long until the next fault.
    pub fn rest_us(&mut self) -> u64 {
        self.dice.around(self.mix.interval_us)
    }

    /// The next fault; `None` when the mix has none.
    pub fn next_fault(&mut self) -> Option<Fault> {
        let Mix { power, kill, restart, pause, clock, partition, slow, fail, full, rot, gone, journal, vote, .. } =
            self.mix;
        let misread = self.mix.misread;
        let weights =
            [power, kill, restart, pause, partition, slow, full, fail, rot, gone, journal, clock, vote, misread];
        let sum: u32 = weights.iter().sum();
        let mut draw = self.dice.between(0..=u64::from(sum.checked_sub(1)?));
        let kind = weights.iter().position(|&weight| {
            let hit = draw < u64::from(weight);
            draw = draw.saturating_sub(u64::from(weight));
            hit
        })?;
        let victim = self.dice.pick(&self.nodes)?;
        Some(match kind {
            0 => self.power_cut(),
            1 => Fault::Kill { victim, down_us: self.down_us() },
            2 => Fault::Restart { victim, down_us: self.down_us() },
            3 => Fault::Pause { victim, for_us: self.dice.around(800_000) },
            4 => self.partition(),
            5 => Fault::SlowDisk { victim, for_us: self.dice.around(1_500_000) },
            6 => {
                let free_bytes = self.dice.pick(&[None, Some(0), Some(64 << 10), Some(1 << 20)]).unwrap_or(None);
                Fault::FullDisk { victim, free_bytes, for_us: self.dice.around(2_500_000) }
            }
            8 => {
                let mut draw = || self.dice.between(0..=u64::from(u32::MAX));
                let at = (draw(), draw());
                let decays = [Decay::Flip, Decay::Misdirected, Decay::Unreadable, Decay::Cut, Decay::Gone];
                let decay = self.dice.pick(&decays)?;
                Fault::Rot { victim: self.nodes.first().copied()?, at, decay }
            }
            9 => {
                let which = self.dice.between(0..=u64::from(u32::MAX));
                Fault::DirectoryGone { victim: self.nodes.first().copied()?, which, down_us: self.down_us() }
            }
            10 => {
                let mut draw = || self.dice.between(0..=u64::from(u32::MAX));
                let at = (draw(), draw());
                let victim = self.nodes.get(1).or(self.nodes.first()).copied()?;
                Fault::JournalRots { victim, at, down_us: self.down_us() }
            }
            11 => {
                let by_ms =
                    self.dice.pick(&[3_600_000, 60_000, 1_000])? + i64::try_from(self.dice.between(0..=999)).ok()?;
                Fault::ClockJump { victim, by_ms: if self.dice.chance(50) { by_ms } else { -by_ms } }
            }
            12 => self.vote_cut(),
            13 => Fault::Misread { victim: self.nodes.first().copied()?, for_us: self.dice.around(2_000_000) },
            _ => {
                let call = self.dice.pick(&["fdatasync", "write"])?;
                let all = self.dice.chance(self.mix.all_percent);
                let victims = if all { self.nodes.clone() } else { vec![victim] };
                let victims = victims.into_iter().map(|victim| (victim, self.down_us())).collect();
                Fault::DiskFails { victims, call }
            }
        })
    }

    fn down_us(&mut self) -> u64 {
        let mean_us = self.dice.pick(&[20_000, 500_000, 2_000_000]).unwrap_or(500_000);
        self.dice.around(mean_us)
    }

    fn power_cut(&mut self) -> Fault {
        let mut victims = self.nodes.clone();
        if !self.dice.chance(self.mix.all_percent) {
            self.shuffle(&mut victims);
            let minority = (self.nodes.len() as u64 - 1) / 2;
            let count = usize::try_from(self.dice.between(1..=minority.max(1))).unwrap_or(1);
            victims.truncate(count);
        }
        let victims = victims.into_iter().map(|victim| (victim, self.down_us())).collect();
        if self.dice.chance(60) {
            let operation = u32::try_from(self.dice.around(12)).unwrap_or(0);
            Fault::PowerCutAt { victims, operation, performed: self.dice.chance(50) }
        } else {
            Fault::PowerCut { victims }
        }
    }

    fn partition(&mut self) -> Fault {
        let mut nodes = self.nodes.clone();
        self.shuffle(&mut nodes);
        let for_us = self.dice.around(2_500_000);
        // Nobody sees a majority, but each sees somebody; or two halves see each other through one node only.
        if nodes.len() >= 4 && self.dice.chance(30) {
            let ways = if self.dice.chance(50) { ring(&nodes) } else { bridge(&nodes) };
            return Fault::Partition { ways, deaf: Vec::new(), for_us };
        }
        let size = if self.dice.chance(50) { 1 } else { nodes.len() / 2 };
        let (ours, theirs) = nodes.split_at(size.max(1).min(nodes.len()));
        let pairs = ours.iter().flat_map(|&a| theirs.iter().map(move |&b| (a, b)));
        // One way only, the other way only, or both.
        let ways = match self.dice.between(0..=3) {
            0 => pairs.collect(),
            1 => pairs.map(|(a, b)| (b, a)).collect(),
            _ => pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect(),
        };
        let deaf = if self.dice.chance(50) { ours.to_vec() } else { Vec::new() };
        Fault::Partition { ways, deaf, for_us }
    }

    fn vote_cut(&mut self) -> Fault {
        let mut nodes = self.nodes.clone();
        self.shuffle(&mut nodes);
        let victims = nodes.iter().map(|&node| (node, self.dice.between(20_000..=200_000))).collect();
        let voter = nodes.first().copied().unwrap_or(NodeId(1));
        Fault::VoteCut { voter, ways: bridge(&nodes), victims, for_us: self.dice.between(3_000_000..=5_000_000) }
    }

    fn shuffle(&mut self, nodes: &mut [NodeId]) {
        for last in (1..nodes.len()).rev() {
            let other = usize::try_from(self.dice.between(0..=last as u64)).unwrap_or(0);
            nodes.swap(last, other);
        }
    }
}

/// The ways between nodes that are not neighbours on a ring.
fn ring(nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let far = |a: usize, b: usize| {
        let apart = a.abs_diff(b);
        apart > 1 && apart < nodes.len() - 1
    };
    ways(nodes, far)
}

/// The ways between two halves, but for those of the first node, which belongs to both.
fn bridge(nodes: &[NodeId]) -> Vec<(NodeId, NodeId)> {
    let half = nodes.len().div_ceil(2);
    ways(nodes, |a, b| a > 0 && b > 0 && (a < half) != (b < half))
}

fn ways(nodes: &[NodeId], is_cut: impl Fn(usize, usize) -> bool) -> Vec<(NodeId, NodeId)> {
    let pairs = (0..nodes.len()).flat_map(|a| (0..nodes.len()).map(move |b| (a, b)));
    pairs.filter(|(a, b)| is_cut(*a, *b)).filter_map(|(a, b)| Some((*nodes.get(a)?, *nodes.get(b)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn nemesis(mix: Mix) -> Nemesis {
        Nemesis::new(Dice::new(1, "faults"), mix, [1, 2, 3, 4, 5].map(NodeId).to_vec())
    }

    #[test]
    fn every_kind_comes_and_none_that_was_not_asked_for() {
        let all = Mix {
            kill: 1,
            restart: 1,
            pause: 1,
            clock: 1,
            partition: 1,
            slow: 1,
            fail: 1,
            full: 1,
            rot: 1,
            gone: 1,
            journal: 1,
            vote: 1,
            misread: 1,
            ..Mix::POWER
        };
        let mut everything = nemesis(all);
        let kinds: BTreeSet<_> = (0..1000).filter_map(|_| everything.next_fault()).map(|f| kind(&f)).collect();
        assert_eq!(kinds.len(), 15, "{kinds:?}");
        let mut power = nemesis(Mix::POWER);
        assert!((0..1000).filter_map(|_| power.next_fault()).all(|f| kind(&f).starts_with("PowerCut")));
        assert_eq!(nemesis(Mix::NONE).next_fault(), None);
    }

    fn kind(fault: &Fault) -> String {
        format!("{fault:?}").chars().take_while(|c| c.is_alphabetic()).collect()
    }

    #[test]
    fn power_goes_for_minorities_and_for_all() {
        let mut power = nemesis(Mix::POWER);
        let sizes: BTreeSet<usize> = (0..1000)
            .filter_map(|_| power.next_fault())
            .map(|fault| match fault {
                Fault::PowerCut { victims } | Fault::PowerCutAt { victims, .. } => victims.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, BTreeSet::from([1, 2, 5]));
    }

    #[test]
    fn partitions_have_two_sides() {
        let mut partitions = nemesis(Mix::PARTITIONS);
        for fault in (0..1000).filter_map(|_| partitions.next_fault()) {
            let Fault::Partition { ways, .. } = fault else { panic!("{fault:?}") };
            assert!(!ways.is_empty() && ways.iter().all(|(from, to)| from != to));
        }
    }

    #[test]
    fn in_a_ring_each_has_two_neighbours_and_over_a_bridge_one_sees_all() {
        let nodes = [1, 2, 3, 4, 5].map(NodeId);
        let sees = |ways: &[(NodeId, NodeId)]| {
            nodes.map(|from| nodes.iter().filter(|to| **to != from && !ways.contains(&(from, **to))).count())
        };
        assert_eq!(sees(&ring(&nodes)), [2; 5]);
        assert_eq!(sees(&bridge(&nodes)), [4, 2, 2, 2, 2]);
    }
}
