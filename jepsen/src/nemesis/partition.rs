//! Nodes that do not hear each other.

use std::collections::BTreeSet;

use anyhow::Result;
use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{Done, Hand, name_nodes};
use crate::net::{CLIENTS, Counter, Host, Link, between};

/// Which links are cut, and in words.
struct Cut {
    what: String,
    nodes: Vec<Host>,
    links: BTreeSet<Link>,
}

pub(super) fn strike(hand: &mut Hand) -> Result<Option<Done>> {
    let ids = hand.stage.ids();
    let leader = hand.control.some_leader(&mut hand.dice);
    let Cut { what, nodes, links } = draw(&ids, leader, &mut hand.dice);
    hand.stage.say(&what);
    let before = hand.stage.net.counted(Counter::Cut)?;
    hand.stage.net.cut(&links)?;
    hand.last();
    hand.stage.net.cut(&BTreeSet::new())?;
    let evidence = hand.stage.net.evidence(Counter::Cut, before)?;
    Ok(Some(Done { what, nodes, evidence }))
}

fn draw(ids: &[Host], leader: Option<Host>, dice: &mut StdRng) -> Cut {
    let mut order = ids.to_vec();
    order.shuffle(dice);
    if let (Some(leader), true) = (leader, dice.random_bool(0.5)) {
        // The leader of something is the one that shapes below single out.
        order.sort_by_key(|&node| node != leader);
    }
    let all: BTreeSet<Host> = ids.iter().copied().collect();
    let everybody: BTreeSet<Host> = all.iter().copied().chain([CLIENTS]).collect();
    let first = order[0];
    let alone = BTreeSet::from([first]);
    let set = |side: &[Host]| side.iter().copied().collect::<BTreeSet<_>>();
    match dice.random_range(0..7) {
        0 => Cut {
            what: format!("node {first} hears nobody, and nobody hears it, but for clients"),
            nodes: vec![first],
            links: between(&alone, &all),
        },
        1 => Cut {
            what: format!("node {first} hears nobody, and nobody hears it"),
            nodes: vec![first],
            links: between(&alone, &everybody),
        },
        2 => {
            let (one, other) = order.split_at(order.len() / 2);
            Cut {
                what: format!("{} and the others do not hear each other", name_nodes(one, ids.len())),
                nodes: one.to_vec(),
                links: between(&set(one), &set(other)),
            }
        }
        3 => ring(&order),
        4 => bridge(&order),
        5 => Cut {
            what: format!("node {first} is not heard by the others, but hears them"),
            nodes: vec![first],
            links: all.iter().filter(|&&other| other != first).map(|&other| (first, other)).collect(),
        },
        _ => Cut {
            what: format!("node {first} is heard by the others, but does not hear them"),
            nodes: vec![first],
            links: all.iter().filter(|&&other| other != first).map(|&other| (other, first)).collect(),
        },
    }
}

/// Every node hears a majority, no two the same: each hears itself and its nearest neighbours in a circle; of three, the next one.
fn ring(order: &[Host]) -> Cut {
    let count = order.len();
    if count <= 3 {
        let links = order.iter().zip(order.iter().cycle().skip(1)).map(|(&a, &b)| (a, b)).collect();
        let what = format!("each node hears the next one in the circle {order:?} only");
        return Cut { what, nodes: order.to_vec(), links };
    }
    let reach = (count / 2).div_ceil(2);
    let mut links = BTreeSet::new();
    for (i, &a) in order.iter().enumerate() {
        for (j, &b) in order.iter().enumerate() {
            let apart = i.abs_diff(j).min(count - i.abs_diff(j));
            if apart > reach {
                links.insert((a, b));
            }
        }
    }
    Cut { what: format!("each node hears its neighbours in the circle {order:?} only"), nodes: order.to_vec(), links }
}

/// Two halves, and one node between them that hears both.
fn bridge(order: &[Host]) -> Cut {
    let (first, rest) = (order[0], &order[1..]);
    let (one, other) = rest.split_at(rest.len() / 2);
    let set = |side: &[Host]| side.iter().copied().collect::<BTreeSet<_>>();
    Cut {
        what: format!("two halves hear each other through nobody, node {first} hears both"),
        nodes: rest.to_vec(),
        links: between(&set(one), &set(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_everybody_hears_a_majority_and_no_two_the_same() {
        let order = [1, 2, 3, 4, 5];
        let Cut { links, .. } = ring(&order);
        let mut seen = BTreeSet::new();
        for a in order {
            let hears: Vec<Host> = order.into_iter().filter(|&b| !links.contains(&(b, a))).collect();
            assert_eq!(hears.len(), 3, "{a} hears {hears:?}");
            seen.insert(hears);
        }
        assert_eq!(seen.len(), 5);
        assert_eq!(ring(&[2, 1, 3]).links, BTreeSet::from([(2, 1), (1, 3), (3, 2)]));
    }

    #[test]
    fn a_bridge_hears_both_halves() {
        let Cut { links, .. } = bridge(&[3, 1, 2, 4, 5]);
        assert!(links.contains(&(1, 4)) && links.contains(&(5, 2)));
        assert!(links.iter().all(|&(a, b)| a != 3 && b != 3));
    }
}
