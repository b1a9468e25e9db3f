//! The network between nodes and clients, and what can be done to it.

mod netns;

use std::collections::BTreeSet;

pub use netns::{Counter, Netns};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_two_sides_is_cut_in_both_directions_and_nothing_else() {
        let cut = between(&BTreeSet::from([1]), &BTreeSet::from([1, 2, 3]));
        assert_eq!(cut, BTreeSet::from([(1, 2), (2, 1), (1, 3), (3, 1)]));
    }
}
