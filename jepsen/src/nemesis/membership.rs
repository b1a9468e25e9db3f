//! Leaders that hand over, and nodes that lose everything and are replaced.

use std::time::Duration;

use anyhow::Result;

use super::{Done, Hand};

/// How long a node may take to be replaced before the next fault may begin. It goes on afterwards.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn move_leaders(hand: &mut Hand) -> Result<Option<Done>> {
    let moved = hand.control.move_leaders(&mut hand.dice);
    let Some((what, nodes)) = moved else { return Ok(None) };
    hand.stage.say(&what);
    hand.last();
    Ok(Some(Done { evidence: Some(what.clone()), what, nodes }))
}

/// One at a time, and only where every replica is whole: whoever wipes the last one loses what no product could keep.
pub(super) fn wipe(hand: &mut Hand) -> Result<Option<Done>> {
    if !hand.control.is_whole() {
        return Ok(None);
    }
    let Some(victim) = hand.victim() else { return Ok(None) };
    let node = victim.node;
    let what = format!("node {node} wiped and replaced");
    hand.stage.say(&what);
    let before = hand.control.incarnation(node);
    hand.stage.kill(node)?;
    hand.stage.nodes().wipe(node)?;
    hand.last();
    hand.control.replace(node);
    hand.stage.spawn(node)?;
    let after = hand.control.wait_replaced(node, before.as_deref(), REPLACED_WITHIN, &hand.stage.calm);
    let evidence = before.zip(after).map(|(before, after)| format!("incarnation {before} → {after}"));
    Ok(Some(Done { what, nodes: vec![node], evidence }))
}
