//! The network: when a message arrives, how often, and whether at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use levada_protocol::ids::NodeId;

use crate::dice::Dice;

/// A client's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub usize);

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A node.
    Node(NodeId),
    /// A client.
    Client(ClientId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{node}"),
            Self::Client(client) => write!(f, "c{}", client.0),
        }
    }
}

/// How the network behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// The shortest way.
    pub delay_us_min: u64,
    /// The longest, but for stragglers.
    pub delay_us_max: u64,
    /// How many of a million messages take a hundred times as long.
    pub straggler_ppm: u32,
    /// How many of a million messages get lost.
    pub loss_ppm: u32,
    /// How many of a million messages between nodes arrive twice.
    pub duplicate_ppm: u32,
    /// Messages between two places keep their order, as on a connection.
    pub ordered: bool,
}

impl Weather {
    /// Nothing gets lost.
    pub const CALM: Self =
        Self { delay_us_min: 50, delay_us_max: 500, straggler_ppm: 0, loss_ppm: 0, duplicate_ppm: 0, ordered: true };

    /// Some weather.
    #[must_use]
    pub fn drawn(dice: &mut Dice) -> Self {
        let delay_us_min = dice.pick(&[20, 100, 1_000]).unwrap_or(100);
        Self {
            delay_us_min,
            delay_us_max: delay_us_min * dice.between(2..=10),
            straggler_ppm: dice.pick(&[0, 100, 5_000]).unwrap_or(0),
            loss_ppm: dice.pick(&[0, 0, 1_000, 20_000]).unwrap_or(0),
            duplicate_ppm: dice.pick(&[0, 0, 1_000, 20_000]).unwrap_or(0),
            ordered: dice.chance(60),
        }
    }
}

/// The network. Messages from node to node may arrive late, twice, in another order, or never; those of clients never
/// twice.
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    /// How it behaves.
    pub weather: Weather,
    /// Ways that nothing passes, by direction.
    cut: BTreeSet<(Place, Place)>,
    /// When the last message of a way arrives.
    last_us: BTreeMap<(Place, Place), u64>,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub const fn new(dice: Dice, weather: Weather) -> Self {
        Self { dice, weather, cut: BTreeSet::new(), last_us: BTreeMap::new() }
    }

    /// When a message that is sent now arrives: never, once or twice.
    pub fn send(&mut self, now_us: u64, from: Place, to: Place) -> Vec<u64> {
        let way = (from, to);
        let mut arrivals = Vec::with_capacity(1);
        if self.cut.contains(&way) || self.dice.chance_ppm(self.weather.loss_ppm) {
            return arrivals;
        }
        arrivals.push(self.arrival(now_us, way));
        let between_nodes = matches!(way, (Place::Node(_), Place::Node(_)));
        if between_nodes && self.dice.chance_ppm(self.weather.duplicate_ppm) {
            arrivals.push(self.arrival(now_us, way));
        }
        arrivals
    }

    fn arrival(&mut self, now_us: u64, way: (Place, Place)) -> u64 {
        let Weather { delay_us_min, delay_us_max, straggler_ppm, .. } = self.weather;
        let mut delay_us = self.dice.between(delay_us_min..=delay_us_max.max(delay_us_min));
        if self.dice.chance_ppm(straggler_ppm) {
            delay_us *= 100;
        }
        let mut at_us = now_us + delay_us;
        let last_us = self.last_us.entry(way).or_default();
        if self.weather.ordered {
            at_us = at_us.max(*last_us);
        }
        *last_us = at_us.max(*last_us);
        at_us
    }

    /// Nothing passes from the one to the other any more; what is under way arrives.
    pub fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    /// Whether nothing passes.
    #[must_use]
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place::Node(NodeId(1));
    const B: Place = Place::Node(NodeId(2));
    const C: Place = Place::Client(ClientId(0));

    fn network(weather: Weather) -> Network {
        Network::new(Dice::new(1, "network"), weather)
    }

    #[test]
    fn an_ordered_way_keeps_order_and_another_does_not() {
        for (ordered, inversions) in [(true, false), (false, true)] {
            let mut network = network(Weather { delay_us_max: 5_000, ordered, ..Weather::CALM });
            let arrivals: Vec<u64> = (0..1000).flat_map(|now| network.send(now, A, B)).collect();
            assert_eq!(arrivals.len(), 1000);
            assert_eq!(!arrivals.is_sorted(), inversions);
            assert!((0..).zip(&arrivals).all(|(now, at)| *at >= now + 50));
        }
    }

    #[test]
    fn some_get_lost_and_some_come_twice_but_not_to_clients() {
        let mut network = network(Weather { loss_ppm: 100_000, duplicate_ppm: 200_000, ..Weather::CALM });
        let mut count = |from, to| (0..10_000).map(|now| network.send(now, from, to).len()).fold([0; 3], tally);
        let [lost, _, twice] = count(A, B);
        assert!((800..1200).contains(&lost) && (1600..2000).contains(&twice), "{lost} {twice}");
        let [lost, _, twice] = count(C, B);
        assert!((800..1200).contains(&lost) && twice == 0, "{lost} {twice}");
    }

    fn tally(mut counts: [u32; 3], arrivals: usize) -> [u32; 3] {
        counts[arrivals] += 1;
        counts
    }

    #[test]
    fn a_cut_has_a_direction_and_heals() {
        let mut network = network(Weather::CALM);
        network.cut(A, B);
        assert!(network.send(0, A, B).is_empty());
        assert_eq!(network.send(0, B, A).len(), 1);
        assert!(network.is_cut(A, B) && !network.is_cut(B, A));
        network.heal();
        assert_eq!(network.send(0, A, B).len(), 1);
    }
}
