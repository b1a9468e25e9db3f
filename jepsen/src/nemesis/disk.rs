//! Disks of nodes that run: full, slow, or with a sync that fails.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use levada_tests::{
    disks::{PowerDisk, Throttle},
    http,
    injection::Injection,
};

use rand::Rng as _;

use super::{Done, Hand, process::start_again};
use crate::net::Host;

/// What a node frees on a full disk is taken again so often.
const FILL_INTERVAL: Duration = Duration::from_millis(250);
/// How long a node may take to see how its disk is.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// What a slow disk manages, in writes a second.
const WRITES_PER_S: u64 = 12;
/// Or how much longer a sync takes, where disks cannot be throttled.
const SYNC_DELAY: Duration = Duration::from_millis(200);
/// After so long nodes find that the disk of one is slower than theirs, and others lead: now and then it lasts so long.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);
/// A slow disk's blocks take so many times as long as before, at least.
const SLOWER_MIN: f64 = 4.0;
/// How long a sync of a node is waited for.
const SYNCED_WITHIN: Duration = Duration::from_secs(10);
/// A node that was told that a sync failed must have ended after so long.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// What a node says that cannot rely on its disk any more, and the error of whose syncs fail.
const OUT_OF_SERVICE: &str = "out of service";
const IO_ERROR: &str = "Input/output error";

/// A disk is full to the last byte, and then has room again. That of a node that serves: one that only begins may need some for its
/// first journal file, and ends without, as it says.
pub(super) fn fill(hand: &mut Hand) -> Result<Option<Done>> {
    let Some(victim) = hand.victim().filter(|victim| hand.stage.is_ready(victim.node)) else { return Ok(None) };
    let node = victim.node;
    let what = format!("the disk of node {node} is full");
    hand.stage.say(&what);
    let seen = stay_full(hand, node);
    hand.stage.disk(node, PowerDisk::unfill).transpose()?;
    Ok(Some(Done { what, nodes: vec![node], evidence: seen? }))
}

/// Keeps a disk full for a while, or a little longer, until its node has seen it. What shows that it was.
fn stay_full(hand: &Hand, node: Host) -> Result<Option<String>> {
    let (begun, mut seen) = (Instant::now(), None);
    let is_over = |seen: bool| begun.elapsed() > hand.lasts && (seen || begun.elapsed() > hand.lasts + SEEN_WITHIN);
    while !is_over(seen.is_some()) {
        hand.stage.disk(node, PowerDisk::fill_up).transpose()?;
        let refusal = hand.stage.disk(node, PowerDisk::refusal).transpose()?.flatten();
        let fullness = hand.stage.http(node).and_then(|http| http::metric(&http, "levada_disk_fullness").ok());
        if let (Some(refusal), Some(fullness)) = (refusal, fullness.filter(|fullness| *fullness > 1.5)) {
            seen = Some(format!("a block more was refused ({refusal}), levada_disk_fullness is {fullness}"));
        }
        if hand.stage.calm.sleep(FILL_INTERVAL) {
            break;
        }
    }
    Ok(seen)
}

/// A disk is slow for a while.
pub(super) fn slow_down(hand: &mut Hand) -> Result<Option<Done>> {
    let Some(victim) = hand.victim() else { return Ok(None) };
    let node = victim.node;
    let Some(process) = hand.stage.nodes().pid(node) else { return Ok(None) };
    let Some(before) = Journal::look(hand, node) else { return Ok(None) };
    let throttled = match Throttle::unavailable() {
        None => hand.stage.disk(node, |disk| Throttle::begin(disk, process, WRITES_PER_S)).transpose()?,
        Some(_) => None,
    };
    let delayed = match &throttled {
        None => Some(Injection::delay_syncs(process, &hand.stage.notes(node, "syncs"), SYNC_DELAY)?),
        Some(_) => None,
    };
    let what = match &delayed {
        None => format!("the disk of node {node} takes {WRITES_PER_S} writes a second"),
        Some(_) => format!("each sync of node {node} takes {} ms longer", SYNC_DELAY.as_millis()),
    };
    hand.stage.say(&what);
    let begun = Journal::look(hand, node);
    let notices = hand.dice.random_bool(0.5);
    hand.stage.calm.sleep(if notices { hand.lasts.max(NOTICED_WITHIN) } else { hand.lasts });
    let ended = Journal::look(hand, node);
    drop((throttled, delayed));
    let meanwhile = begun.zip(ended).and_then(|(begun, ended)| ended.since(&begun));
    let evidence = before.block_s().zip(meanwhile).filter(|(before, meanwhile)| *meanwhile > SLOWER_MIN * before);
    let evidence = evidence.map(|(before, meanwhile)| {
        format!("a block of its journal took {:.0} ms, {:.0} ms before", meanwhile * 1e3, before * 1e3)
    });
    Ok(Some(Done { what, nodes: vec![node], evidence }))
}

/// How long a node's journal took so far, as it says itself.
struct Journal {
    seconds: f64,
    blocks: f64,
}

impl Journal {
    fn look(hand: &Hand, node: Host) -> Option<Self> {
        let http = hand.stage.http(node)?;
        let of = |name: &str| http::metric(&http, name).ok();
        let written = of("levada_journal_write_seconds_sum")?;
        let synced = of("levada_journal_sync_seconds_sum")?;
        Some(Self { seconds: written + synced, blocks: of("levada_journal_sync_seconds_count")? })
    }

    /// One write and its sync, on average.
    fn block_s(&self) -> Option<f64> {
        (self.blocks > 0.0).then(|| self.seconds / self.blocks)
    }

    /// The same from a moment on.
    fn since(&self, begun: &Self) -> Option<f64> {
        Self { seconds: self.seconds - begun.seconds, blocks: self.blocks - begun.blocks }.block_s()
    }
}

/// A sync fails. The node ends itself, which is not held against it; one that went on would be.
pub(super) fn fail_sync(hand: &mut Hand) -> Result<Option<Done>> {
    let Some(victim) = hand.victim() else { return Ok(None) };
    let node = victim.node;
    let Some(process) = hand.stage.nodes().pid(node) else { return Ok(None) };
    let what = format!("a sync of node {node} fails");
    hand.stage.say(&what);
    hand.stage.may_end(node, OUT_OF_SERVICE);
    wait_ended(hand, node, process)?;
    hand.last();
    let words = hand.stage.last_words(node)?;
    if words.is_some() {
        hand.stage.kill(node)?;
        start_again(&hand.stage, &[node], &[Some(process)])?;
    }
    hand.stage.must_not_end(node, OUT_OF_SERVICE);
    let evidence = words.filter(|words| words.contains(OUT_OF_SERVICE) && words.contains(IO_ERROR));
    let evidence = evidence.map(|_| format!("process {process} said {OUT_OF_SERVICE:?} and {IO_ERROR:?}, and ended"));
    Ok(Some(Done { what, nodes: vec![node], evidence }))
}

/// Has the next sync fail, and waits until the node has ended. Without a sync it does not: that is waited for, too, but not for long.
fn wait_ended(hand: &Hand, node: Host, process: u32) -> Result<()> {
    let failing = match Injection::fail_syncs(process, &hand.stage.notes(node, "syncs")) {
        // It may have failed before strace had all threads.
        Err(_) if hand.stage.last_words(node)?.is_some() => return Ok(()),
        failing => failing?,
    };
    let (begun, mut told) = (Instant::now(), None::<Instant>);
    while hand.stage.last_words(node)?.is_none() {
        if hand.stage.nodes().pid(node) != Some(process) {
            // It ended in another way, and was started again: that is found elsewhere.
            return Ok(());
        }
        if told.is_none() && failing.count() > 0 {
            told = Some(Instant::now());
        }
        match told {
            Some(told) if told.elapsed() > ENDED_WITHIN => {
                let what = format!("node {node} was told that a sync had failed, and goes on after {ENDED_WITHIN:?}");
                hand.stage.recorder.wrong("went-on", None, None, what);
                return Ok(());
            }
            None if begun.elapsed() > SYNCED_WITHIN => return Ok(()),
            _ => sleep(LOOK_INTERVAL),
        }
    }
    Ok(())
}
