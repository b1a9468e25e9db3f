//! Nodes that join the running cluster, and nodes that leave it, as an operator has them do it: `levada cluster add`, `decommission`
//! and `balance`, seed nodes that are there, and the directory of whoever has left emptied before it joins again.
//!
//! They are in nobody's hand meanwhile. Who joins, who leaves and who takes replicas over may be killed, paused and cut off, and the
//! change must come to its end all the same.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{Done, Hand, name_nodes};
use crate::{net::Host, stage::Taken};

/// What a node says that has left, before it ends.
const LEFT: &str = "was decommissioned";
/// How long a node may take to hear that it has left, where it can be told.
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// How long the next fault waits for replicas that still move. They go on afterwards.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn strike(hand: &mut Hand) -> Result<Option<Done>> {
    let Some(before) = hand.control.members() else { return Ok(None) };
    let spare = hand.stage.spares().choose(&mut hand.dice).copied();
    let leaving = hand.some_node();
    let are_more = hand.stage.ids().len() > hand.control.nodes_min();
    let (joining, leaving) = draw(spare, leaving, are_more, &mut hand.dice);
    let what = match (joining, leaving) {
        (Some(joining), Some(leaving)) => format!("node {joining} joins and node {leaving} is decommissioned"),
        (Some(joining), None) => format!("node {joining} joins"),
        (None, Some(leaving)) => format!("node {leaving} is decommissioned"),
        (None, None) => return Ok(None),
    };
    hand.stage.say(&what);
    let mut said = Vec::new();
    let mut is_done = true;
    if let Some(node) = joining {
        is_done &= join(hand, node)?;
        if is_done && leaving.is_none() {
            let replicas = share(hand, node);
            is_done &= replicas.is_some();
            said.extend(replicas.map(|count| format!("node {node} has {count} replicas")));
        }
    }
    if let Some(node) = leaving.filter(|_| is_done) {
        let left = leave(hand, node)?;
        is_done &= left.is_some();
        said.push(format!("node {node} gave up {} replicas", before.get(&node).copied().unwrap_or_default()));
        said.extend(left.filter(|by_itself| *by_itself).map(|_| "its process ended by itself".to_owned()));
    }
    hand.control.wait_whole(WHOLE_WITHIN, &hand.stage.calm);
    let after = hand.control.members().unwrap_or_default();
    let (before, after) = (Vec::from_iter(before.into_keys()), Vec::from_iter(after.into_keys()));
    let has_changed = is_done && before != after && !after.is_empty();
    let evidence = has_changed.then(|| {
        let named = |nodes: &[Host]| name_nodes(nodes, 0);
        format!("the cluster named {}, then {}; {}", named(&before), named(&after), said.join(", "))
    });
    Ok(Some(Done { what, nodes: joining.into_iter().chain(leaving).collect(), evidence }))
}

/// Who is to join, and who is to leave: a spare node, if there is one, and one that is there, if so many are left as there were at
/// first.
fn draw(spare: Option<Host>, leaving: Option<Host>, are_more: bool, dice: &mut StdRng) -> (Option<Host>, Option<Host>) {
    match dice.random_range(0..3) {
        0 if spare.is_some() => (spare, None),
        1 if are_more => (None, leaving),
        _ if spare.is_some() => (spare, leaving),
        _ => (None, leaving.filter(|_| are_more)),
    }
}

/// Has a node join. Whether it has.
fn join(hand: &Hand, node: Host) -> Result<bool> {
    let Hand { stage, control, .. } = hand;
    if !control.see_through(&stage.calm, || control.admit(node), || control.is_admitted(node)) {
        return Ok(false);
    }
    let taken = stage.enlist(node);
    stage.spawn(node)?;
    drop(taken);
    let has_joined = || control.members().is_some_and(|members| members.contains_key(&node));
    Ok(control.see_through(&stage.calm, || {}, has_joined))
}

/// Has a node that joined get its share of replicas; how many it has then.
fn share(hand: &Hand, node: Host) -> Option<u32> {
    let Hand { stage, control, .. } = hand;
    let count = || control.members().and_then(|members| members.get(&node).copied()).filter(|count| *count > 0);
    control.see_through(&stage.calm, || control.balance(), || count().is_some()).then(count)?
}

/// Has a node leave. Once it has: whether its process ended by itself, as it is to.
fn leave(hand: &Hand, node: Host) -> Result<Option<bool>> {
    let Hand { stage, control, .. } = hand;
    stage.may_end(node, LEFT);
    let is_gone = || control.members().is_some_and(|members| !members.contains_key(&node));
    if !control.see_through(&stage.calm, || control.decommission(node), is_gone) {
        return Ok(None);
    }
    let taken = take(hand, node);
    let deadline = Instant::now() + ENDED_WITHIN;
    let mut words = stage.last_words(node)?;
    while words.is_none() && Instant::now() < deadline {
        sleep(LOOK_INTERVAL);
        words = stage.last_words(node)?;
    }
    stage.discharge(&taken)?;
    stage.must_not_end(node, LEFT);
    Ok(Some(words.is_some_and(|words| words.contains(LEFT))))
}

/// Whoever has it gives it back soon.
fn take(hand: &Hand, node: Host) -> Taken {
    loop {
        if let Some(taken) = hand.stage.take(node) {
            return taken;
        }
        sleep(LOOK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    /// All that may come out.
    fn drawn(spare: Option<Host>, are_more: bool) -> BTreeSet<(Option<Host>, Option<Host>)> {
        let mut dice = StdRng::seed_from_u64(1);
        (0..100).map(|_| draw(spare, Some(2), are_more, &mut dice)).collect()
    }

    #[test]
    fn nodes_come_and_go_and_are_never_fewer_than_at_first() {
        let (joins, leaves, both) = ((Some(6), None), (None, Some(2)), (Some(6), Some(2)));
        assert_eq!(drawn(Some(6), false), BTreeSet::from([joins, both]));
        assert_eq!(drawn(Some(6), true), BTreeSet::from([joins, leaves, both]));
        assert_eq!(drawn(None, true), BTreeSet::from([leaves]));
        assert_eq!(drawn(None, false), BTreeSet::from([(None, None)]));
    }
}
