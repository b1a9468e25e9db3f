//! Whether everything has come right, and what there is in the end.

use std::collections::BTreeMap;

use levada_protocol::ids::{NodeId, Offset, TopicPartition};

use super::{LOOK_US, World};
use crate::checker::{Chunk, FinalLog, Kind};
use crate::process::REPLICAS;

/// A request that is older than this when everything is quiet was forgotten.
const FORGOTTEN_US: u64 = 10_000_000;
/// How long everything must stay right before it is believed.
const QUIET_US: u64 = 1_000_000;
/// How much of a log is read at once, at the end.
const READ_BYTES: usize = 1 << 20;

impl World {
    /// Waits until everything has come right, at most so long.
    pub(super) fn settle(&mut self, within_us: u64) {
        let by_us = self.queue.now_us() + within_us;
        let mut quiet_us = 0;
        let scrubbed = self.scrub_passes();
        while self.is_sound() && quiet_us < QUIET_US {
            self.run_until(self.queue.now_us() + LOOK_US);
            match self.unsettled().or_else(|| self.unscrubbed(&scrubbed)) {
                None => quiet_us += LOOK_US,
                Some(why) => {
                    quiet_us = 0;
                    if self.queue.now_us() > by_us {
                        let what = format!("{} s after everything healed, {why}", within_us / 1_000_000);
                        self.describe();
                        self.checker.report(Kind::Stuck, what);
                    }
                }
            }
        }
        self.tell(format_args!("everything is settled"));
    }

    /// Tells where everything stands.
    pub(super) fn describe(&mut self) {
        let running = self.processes.iter().filter_map(|(node, process)| Some((*node, process.running.as_ref()?)));
        let lines: Vec<String> = running
            .flat_map(|(node, running)| running.node.describe().into_iter().map(move |line| format!("n{node} {line}")))
            .collect();
        lines.iter().for_each(|line| self.tell(format_args!("{line}")));
    }

    /// What has not come right yet.
    fn unsettled(&self) -> Option<String> {
        if let Some(unfinished) = self.clients.iter().find_map(|(client, _)| client.unfinished()) {
            return Some(unfinished);
        }
        if let Some(bereft) = self.sight.bereft.first() {
            return Some(format!("there is no majority of {bereft:?}"));
        }
        let mut metadata = None;
        for (node, process) in &self.processes {
            let Some(running) = &process.running else { return Some(format!("node {node} is down")) };
            let ours = running.node.view().metadata.borrow().clone();
            if *metadata.get_or_insert_with(|| ours.clone()) != ours {
                return Some(format!("node {node} has other metadata"));
            }
        }
        self.partitions.iter().find_map(|&partition| self.unsettled_partition(partition))
    }

    /// How many passes each process has ended so far; one that starts later begins anew.
    fn scrub_passes(&self) -> BTreeMap<(NodeId, u32), u64> {
        let running =
            self.processes.iter().filter_map(|(node, process)| Some((*node, process.run, process.running.as_ref()?)));
        running.map(|(node, run, running)| ((node, run), running.node.view().upkeep().scrub_passes)).collect()
    }

    /// Where segments decay: who has not read all of its own since then, or found one that is not mended yet.
    fn unscrubbed(&self, before: &BTreeMap<(NodeId, u32), u64>) -> Option<String> {
        if self.options.mix.rot == 0 {
            return None;
        }
        self.processes.iter().find_map(|(node, process)| {
            let upkeep = process.running.as_ref()?.node.view().upkeep();
            let passes = before.get(&(*node, process.run)).copied().unwrap_or(0);
            let waits = upkeep.scrub_passes < passes + 2 || upkeep.damaged_segments > 0;
            waits.then(|| format!("node {node} is not scrubbed and mended: {upkeep:?}"))
        })
    }

    /// What is damaged or in doubt on a disk that nothing has happened to, we have made so. That it is mended from other nodes
    /// is no excuse.
    pub(super) fn look_for_harm(&mut self, node: NodeId) {
        let running = self.processes.get(&node).and_then(|process| process.running.as_ref());
        let Some(upkeep) = running.map(|running| running.node.view().upkeep()) else { return };
        let is_damaged = upkeep.damaged_segments > 0 || upkeep.scrub_found > 0;
        if is_damaged && !self.harmed.contains(&node) {
            let what = format!("node {node} has damaged segments, and its disk was not harmed: {upkeep:?}");
            self.checker.report(Kind::Damaged, what);
        }
        if upkeep.lost_replicas > 0 && !self.doubtful.contains(&node) {
            let what = format!("node {node} has lost replicas, and its journal was not harmed: {upkeep:?}");
            self.checker.report(Kind::Damaged, what);
        }
    }

    /// Requests that nobody will answer any more.
    pub(super) fn look_for_forgotten(&mut self) {
        let now_us = self.queue.now_us();
        for (node, process) in &self.processes {
            let waiting = process.running.iter().flat_map(|running| running.waiting.values());
            for waiting in waiting.filter(|waiting| waiting.since_us + FORGOTTEN_US < now_us) {
                let (call, client) = (waiting.call.0, waiting.client.0);
                self.checker
                    .report(Kind::Answers, format!("node {node} never answered call {call} of client {client}"));
            }
        }
    }

    fn unsettled_partition(&self, partition: TopicPartition) -> Option<String> {
        let (mut end, mut replicas, mut leaders) = (None, 0, 0);
        for (node, process) in &self.processes {
            let view = process.running.as_ref().and_then(|running| running.node.view().partition(partition));
            let Some(view) = view else { continue };
            let state = *view.state.borrow();
            replicas += 1;
            leaders += usize::from(state.leading);
            let ends = (state.high_watermark, state.log_start);
            let first = *end.get_or_insert(ends);
            if first != ends {
                return Some(format!("node {node} has {partition} up to {ends:?}, another one up to {first:?}"));
            }
        }
        let expected = self.replicas_placed(partition);
        let sound = replicas == expected && leaders == 1;
        (!sound).then(|| format!("{partition} has {replicas} of {expected} replicas and {leaders} leaders"))
    }

    /// How many replicas a partition is to have.
    fn replicas_placed(&self, partition: TopicPartition) -> usize {
        let running = self.processes.values().find_map(|process| process.running.as_ref());
        let placed = running.and_then(|running| {
            let metadata = running.node.view().metadata.borrow().clone();
            let topic = metadata.topic_by_id(partition.topic)?;
            let placed = topic.partitions.iter().find(|placed| placed.partition == partition.partition)?;
            Some(placed.wanted().len())
        });
        placed.unwrap_or_else(|| self.nodes.len().min(REPLICAS))
    }

    /// Compares what every replica has with what clients were told.
    pub(super) fn audit(&mut self) {
        self.look_for_forgotten();
        for partition in self.partitions.clone() {
            let replicas: Vec<FinalLog> =
                self.nodes.iter().filter_map(|&node| self.final_log(node, partition)).collect();
            if replicas.is_empty() {
                let log = Chunk { log_start: Offset(0), high_watermark: Offset(0), batches: Vec::new() };
                self.checker.finish(partition, &[FinalLog { node: NodeId(0), log }]);
            }
            self.checker.finish(partition, &replicas);
        }
        self.tell(format_args!("the end"));
    }

    fn final_log(&self, node: NodeId, partition: TopicPartition) -> Option<FinalLog> {
        let view = self.processes.get(&node)?.running.as_ref()?.node.view().partition(partition)?;
        let state = *view.state.borrow();
        let mut batches = Vec::new();
        let mut next: Offset = state.log_start;
        while next < state.high_watermark {
            // What cannot be read is missing then, and the checker says so.
            let Ok(read) = view.log.read(next, READ_BYTES, state.high_watermark) else { break };
            if read.batches.is_empty() {
                break;
            }
            batches.extend(read.batches);
            next = read.next_offset;
        }
        let log = Chunk { log_start: state.log_start, high_watermark: state.high_watermark, batches };
        Some(FinalLog { node, log })
    }
}
