//! Machines come and go, and how the cluster stands as a whole.

use levada_protocol::ids::NodeId;

use super::{Happening, LOOK_US, World};
use crate::{
    clients::mover::{Sight, Wish},
    process::Process,
};

impl World {
    /// Looks at the cluster as a whole, and goes on doing so.
    pub(super) fn look(&mut self) {
        self.queue.after(LOOK_US, Happening::Look);
        self.sight = self.see();
    }

    /// The cluster as it stands now.
    pub(super) fn see(&mut self) -> Sight {
        let mut sight = Sight::default();
        let mut metadata = None;
        let (mut is_calm, mut has_controller) = (true, false);
        for process in self.processes.values() {
            let Some(running) = &process.running else {
                is_calm = false;
                continue;
            };
            let ours = running.node.view().metadata.borrow().clone();
            is_calm &= running.node.is_settled() && *metadata.get_or_insert_with(|| ours.clone()) == ours;
            has_controller |= running.node.is_controller();
            sight.removed.extend(ours.removed());
        }
        let is_still = metadata.is_some_and(|metadata| {
            let partitions = metadata.topics().flat_map(|topic| &topic.partitions).cloned();
            let known: Vec<NodeId> = metadata.nodes().keys().copied().collect();
            metadata.admitted().is_empty()
                && known == self.nodes
                && metadata.nodes().values().all(|node| !node.draining)
                && partitions.into_iter().all(|partition| partition.target.is_empty())
        });
        // Without one, all may have forgotten the same until there is one again.
        sight.is_calm = is_calm && is_still && has_controller;
        // Who was removed and came back is not removed any more.
        sight.removed.retain(|node| self.nodes.contains(node));
        if self.options.losses {
            self.note_homes();
            sight.bereft = self.bereft();
            sight.is_calm &= sight.bereft.is_empty();
        }
        sight
    }

    /// Something becomes of a machine.
    pub(super) fn fulfil(&mut self, wish: Wish) {
        self.tell(format_args!("MACHINE {wish:?}"));
        match wish {
            Wish::Wipe(node) => {
                self.count("lost disk");
                self.lose(node);
            }
            Wish::WipeAll(nodes) => {
                if self.may_lose(&nodes) {
                    self.count("lost majority");
                    self.tell(format_args!("LOSS {nodes:?}"));
                    nodes.into_iter().for_each(|node| self.lose(node));
                    self.sight = self.see();
                }
            }
            Wish::LookAgain => {}
            Wish::Renew { node, state } => {
                self.renewing.remove(&node);
                let Some(process) = self.processes.get_mut(&node) else { return };
                let renewed = process.renew_metadata(*state);
                if renewed.is_ok() {
                    self.count("renewed metadata");
                } else {
                    // Without space, say: it asks again.
                    self.tell(format_args!("n{node} could not write that down: {renewed:?}"));
                }
                self.start(node);
            }
            Wish::Gone(node) => {
                self.count("decommissioned node");
                self.lose(node);
            }
            Wish::Begin { node, incarnation, state } => {
                self.count("joined node");
                let run = self.runs.get(&node).copied().unwrap_or(0);
                let process = Process::joining(&self.options, (node, incarnation), &self.founders, run, *state);
                self.processes.insert(node, process);
                self.nodes.push(node);
                self.nodes.sort_unstable();
                self.nemesis.set_nodes(self.nodes.clone());
                self.start(node);
            }
        }
        self.sight.is_calm = false;
    }

    fn lose(&mut self, node: NodeId) {
        if let Some(process) = self.processes.remove(&node) {
            self.runs.insert(node, process.run);
        }
        self.nodes.retain(|there| *there != node);
        self.nemesis.set_nodes(self.nodes.clone());
    }
}
