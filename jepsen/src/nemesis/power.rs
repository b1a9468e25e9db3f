//! Power cuts: what was not synced is gone.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{
    Done, Hand, name_nodes,
    process::{pids, start_again},
};
use crate::net::Host;

pub(super) fn strike(hand: &mut Hand) -> Result<Option<Done>> {
    let victims = hand.victims();
    let nodes: Vec<Host> = victims.iter().map(|taken| taken.node).collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let set: BTreeSet<Host> = nodes.iter().copied().collect();
    let what = format!("power of {} cut", name_nodes(&nodes, hand.stage.ids().len()));
    hand.stage.say(&what);
    let before = pids(&hand.stage, &nodes);
    hand.stage.cut_power(&set)?;
    hand.last();
    hand.stage.restore_power(&set)?;
    let changed = start_again(&hand.stage, &nodes, &before)?;
    let evidence = changed.map(|changed| format!("file systems shut down without their journals, {changed}"));
    Ok(Some(Done { what, nodes, evidence }))
}
