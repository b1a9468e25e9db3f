//! Processes that end or stand still.

use anyhow::Result;
use rustix::process::Signal;

use super::{Done, Hand, name_nodes};
use crate::{net::Host, stage::Stage};

pub(super) fn kill(hand: &mut Hand) -> Result<Option<Done>> {
    let victims = hand.victims();
    let nodes: Vec<Host> = victims.iter().map(|taken| taken.node).collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let what = format!("{} killed", name_nodes(&nodes, hand.stage.ids().len()));
    hand.stage.say(&what);
    let before = pids(&hand.stage, &nodes);
    nodes.iter().try_for_each(|&node| hand.stage.kill(node))?;
    hand.last();
    let evidence = start_again(&hand.stage, &nodes, &before)?;
    Ok(Some(Done { what, nodes, evidence }))
}

/// Starts them; that all of them had a process, and have another one now.
pub(super) fn start_again(stage: &Stage, nodes: &[Host], before: &[Option<u32>]) -> Result<Option<String>> {
    let mut changes = Vec::new();
    for (&node, before) in nodes.iter().zip(before) {
        let now = stage.spawn(node)?;
        if let Some(before) = before.filter(|&before| before != now) {
            changes.push(format!("{node}: {before} → {now}"));
        }
    }
    Ok((changes.len() == nodes.len()).then(|| format!("process ids {}", changes.join(", "))))
}

pub(super) fn pids(stage: &Stage, nodes: &[Host]) -> Vec<Option<u32>> {
    let processes = stage.nodes();
    nodes.iter().map(|&node| processes.pid(node)).collect()
}

pub(super) fn pause(hand: &mut Hand) -> Result<Option<Done>> {
    let victims = hand.victims();
    let nodes: Vec<Host> = victims.iter().map(|taken| taken.node).collect();
    if nodes.is_empty() {
        return Ok(None);
    }
    let what = format!("{} paused", name_nodes(&nodes, hand.stage.ids().len()));
    hand.stage.say(&what);
    // One that has died meanwhile cannot be stopped; it is found elsewhere.
    let stopped: Vec<Host> =
        nodes.iter().copied().filter(|&node| hand.stage.signal(node, Signal::STOP).is_ok()).collect();
    hand.last();
    let standing: Vec<&Host> = stopped.iter().filter(|&&node| is_stopped(&hand.stage, node)).collect();
    let evidence = (standing.len() == nodes.len()).then(|| format!("state T of all {}", nodes.len()));
    for &node in &stopped {
        let _ = hand.stage.signal(node, Signal::CONT);
    }
    Ok(Some(Done { what, nodes, evidence }))
}

/// Whether the kernel says that a process stands still.
fn is_stopped(stage: &Stage, node: Host) -> bool {
    let Some(pid) = stage.nodes().pid(node) else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// The sequence that split NATS 2.12: a leader stands still, the others go on without it and are killed, and when they are back the
/// old leader, which believes that no time has passed, goes on.
pub(super) fn pause_kill(hand: &mut Hand) -> Result<Option<Done>> {
    let Some(leader) = hand.control.some_leader(&mut hand.dice) else { return Ok(None) };
    let Some(leader) = hand.stage.take(leader) else { return Ok(None) };
    let ids = hand.stage.ids();
    let others: Vec<_> = ids.iter().filter_map(|&node| hand.stage.take(node)).collect();
    let nodes: Vec<Host> = others.iter().map(|taken| taken.node).collect();
    if nodes.len() + 1 < ids.len() {
        return Ok(None);
    }
    let what = format!("node {} paused, then all others killed, then all go on", leader.node);
    hand.stage.say(&what);
    if hand.stage.signal(leader.node, Signal::STOP).is_err() {
        return Ok(None);
    }
    let whole = hand.lasts;
    hand.lasts = whole / 2;
    hand.last();
    let before = pids(&hand.stage, &nodes);
    nodes.iter().try_for_each(|&node| hand.stage.kill(node))?;
    hand.last();
    hand.lasts = whole;
    let stood = is_stopped(&hand.stage, leader.node);
    let changed = start_again(&hand.stage, &nodes, &before)?;
    let _ = hand.stage.signal(leader.node, Signal::CONT);
    let evidence = changed.filter(|_| stood).map(|changed| format!("state T of node {}, {changed}", leader.node));
    Ok(Some(Done { what, nodes: [vec![leader.node], nodes].concat(), evidence }))
}
