//! Times of day that jump.

use std::time::Duration;

use anyhow::Result;
use levada_tests::clock::FakeClock;
use rand::Rng as _;

use super::{Done, Hand};

/// How long a process may take to see that its clock was set.
const SEEN_WITHIN: Duration = Duration::from_secs(3);

pub(super) fn strike(hand: &mut Hand) -> Result<Option<Done>> {
    // A dead node has no clock; a node in somebody's hand may be dead.
    let Some(victim) = hand.victim() else { return Ok(None) };
    let (node, seconds) = (victim.node, hand.dice.random_range(-3_600_i64..=3_600));
    let Some(clock) = hand.stage.clock(node) else { return Ok(None) };
    let what = format!("the clock of node {node} set by {seconds:+} s");
    hand.stage.say(&what);
    clock.set(&format!("{seconds:+}"))?;
    hand.stage.calm.sleep(SEEN_WITHIN.min(hand.lasts));
    let ahead = hand.stage.http(node).and_then(|http| FakeClock::ahead(&http).ok());
    hand.last();
    clock.set("+0")?;
    let wanted = f64::from(i32::try_from(seconds)?);
    let evidence = ahead.filter(|ahead| (ahead - wanted).abs() < 5.0 && wanted.abs() > 5.0);
    let evidence = evidence.map(|ahead| format!("the node says that it is {ahead:+.0} s ahead"));
    Ok(Some(Done { what, nodes: vec![node], evidence }))
}
