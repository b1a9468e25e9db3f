//! Packets that get lost.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Done, Hand};
use crate::net::{CLIENTS, Counter, between};

pub(super) fn strike(hand: &mut Hand) -> Result<Option<Done>> {
    let all: BTreeSet<_> = hand.stage.ids().into_iter().chain([CLIENTS]).collect();
    let what = "every fifth packet is lost, everywhere".to_owned();
    hand.stage.say(&what);
    let before = hand.stage.net.dropped(Counter::Lost)?;
    hand.stage.net.lose(&between(&all, &all))?;
    hand.last();
    hand.stage.net.lose(&BTreeSet::new())?;
    let lost = hand.stage.net.dropped(Counter::Lost)? - before;
    let evidence = (lost > 0).then(|| format!("{lost} packets lost"));
    Ok(Some(Done { what, nodes: hand.stage.ids(), evidence }))
}
