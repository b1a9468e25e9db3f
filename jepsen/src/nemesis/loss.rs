//! Links on which things get lost, or are late.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Done, Hand};
use crate::net::{CLIENTS, Counter, Link, Net, between};

pub(super) fn lose(hand: &mut Hand) -> Result<Option<Done>> {
    everywhere(hand, "every fifth packet is lost, everywhere", Counter::Lost, Net::lose)
}

pub(super) fn delay(hand: &mut Hand) -> Result<Option<Done>> {
    everywhere(hand, "everything is late, everywhere", Counter::Late, Net::delay)
}

fn everywhere(
    hand: &Hand,
    what: &str,
    counter: Counter,
    strike: fn(&Net, &BTreeSet<Link>) -> Result<()>,
) -> Result<Option<Done>> {
    let all: BTreeSet<_> = hand.stage.ids().into_iter().chain([CLIENTS]).collect();
    let net = &hand.stage.net;
    hand.stage.say(what);
    let before = net.counted(counter)?;
    strike(net, &between(&all, &all))?;
    hand.last();
    strike(net, &BTreeSet::new())?;
    let evidence = net.evidence(counter, before)?;
    Ok(Some(Done { what: what.to_owned(), nodes: hand.stage.ids(), evidence }))
}
