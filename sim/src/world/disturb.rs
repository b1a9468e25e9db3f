//! Faults, as they happen to the world, and their end.

use levada_broker::node::{MemberLoss, NodeOpenError, event::Event};
use levada_protocol::ids::NodeId;
use levada_storage_engine::{
    disk::{Disk, DiskError, DiskOp, FileName, Lane},
    sim_disk::{CrashPlan, Fault as DiskFault, SimDisk},
};

use super::{Armed, Happening, World};
use crate::{
    checker::Kind,
    clients::renewal::Renewal,
    dice::Dice,
    disks::Speed,
    faults::{Decay, Fault},
    journal,
    network::{ClientId, Place, Weather},
    process::{NotStarted, Process},
};

/// How much slower a slow disk is.
const SLOW_FACTOR: u64 = 100;
/// What a disk writes at once, and loses at once.
const SECTOR: u64 = 4096;
/// How long a machine is down whose power went while it started.
const RESTART_US: u64 = 50_000;

impl World {
    pub(super) fn next_fault(&mut self) {
        if self.settling {
            return;
        }
        if let Some(fault) = self.nemesis.next_fault() {
            self.perform(fault);
        }
        let rest_us = self.nemesis.rest_us();
        self.queue.after(rest_us, Happening::Fault);
    }

    pub(super) fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(super) fn perform(&mut self, fault: Fault) {
        self.tell(format_args!("FAULT {fault:?}"));
        match fault {
            Fault::PowerCut { victims } => self.cut_power(&victims),
            Fault::PowerCutAt { victims, operation, performed } => {
                self.armed = Some(Armed { victims, operation, performed });
            }
            Fault::Kill { victim, down_us } => {
                self.count("kill");
                self.end(victim, down_us);
            }
            Fault::Restart { victim, down_us } => {
                if let Some(process) = self.processes.get_mut(&victim)
                    && process.running.is_some()
                    && process.stopping_us.is_none()
                {
                    process.stopping_us = Some(down_us);
                    self.count("restart");
                    self.give(victim, Event::Shutdown);
                }
            }
            Fault::Pause { victim, for_us } => self.pause(victim, for_us),
            Fault::ClockJump { victim, by_ms } => {
                if let Some(process) = self.processes.get_mut(&victim) {
                    process.jump(by_ms);
                    self.count("clock jump");
                }
            }
            Fault::Partition { ways, deaf, for_us } => {
                self.network.heal();
                for (from, to) in ways {
                    self.network.cut(Place::Node(from), Place::Node(to));
                }
                for node in deaf {
                    for client in (0..self.clients.len()).map(|id| Place::Client(ClientId(id))) {
                        self.network.cut(client, Place::Node(node));
                        self.network.cut(Place::Node(node), client);
                    }
                }
                self.partition += 1;
                self.count("partition");
                self.queue.after(for_us, Happening::Heal { partition: self.partition });
            }
            Fault::VoteCut { voter, ways, victims, for_us } => {
                self.network.heal();
                ways.into_iter().for_each(|(from, to)| self.network.cut(Place::Node(from), Place::Node(to)));
                self.partition += 1;
                self.queue.after(for_us, Happening::Heal { partition: self.partition });
                victims.into_iter().for_each(|(victim, down_us)| self.end(victim, down_us));
                self.vote_awaited = Some(voter);
            }
            Fault::SlowDisk { victim, for_us } => {
                let Some(process) = self.processes.get_mut(&victim) else { return };
                let usual = usize::try_from(victim.get() - 1).ok().and_then(|at| self.options.disks.get(at).copied());
                // Not by what it is now: it may be slow already.
                let speed = usual.unwrap_or(Speed::QUICK);
                process.set_speed(Speed {
                    base_us: speed.base_us * SLOW_FACTOR,
                    sync_us: (speed.sync_us * SLOW_FACTOR).min(500_000),
                    ..speed
                });
                self.count("slow disk");
                self.queue.after(for_us, Happening::DiskSpeed { node: victim, speed });
            }
            Fault::FullDisk { victim, free_bytes, for_us } => {
                let Some(process) = self.processes.get_mut(&victim) else { return };
                process.is_full = true;
                let disk = process.disk();
                disk.set_capacity(Some(free_bytes.map_or(1, |free_bytes| disk.used() + free_bytes)));
                self.count("full disk");
                self.queue.after(for_us, Happening::DiskSpace(victim));
            }
            Fault::Misread { victim, for_us } => {
                let Some(process) = self.processes.get_mut(&victim) else { return };
                process.misreads = true;
                self.harmed.insert(victim);
                self.count("misread");
                self.queue.after(for_us, Happening::ReadsWell(victim));
            }
            Fault::Rot { victim, at, decay } => self.rot(victim, at, decay),
            Fault::JournalRots { victim, at, down_us } => self.rot_journal(victim, at, down_us),
            Fault::DirectoryGone { victim, which, down_us } => self.lose_directory(victim, which, down_us),
            Fault::DiskFails { victims, call } => {
                for (victim, down_us) in victims {
                    let Some(process) = self.processes.get_mut(&victim) else { continue };
                    if process.running.is_some() && process.excused_us.is_none() {
                        process.excused_us = Some(down_us);
                        process.disk().inject(DiskFault::fail(call));
                        self.count("disk failure");
                    }
                }
            }
        }
    }

    /// A segment of a partition decays. One that may be written still only has a bit flipped: nobody loses a file that is open.
    fn rot(&mut self, victim: NodeId, (which, at): (u64, u64), decay: Decay) {
        let Some(process) = self.processes.get(&victim) else { return };
        let disk = process.disk();
        let group = |name: &str| name.split('-').next().map(str::to_owned);
        let Ok(mut names) = disk.list("segments") else { return };
        names.retain(|name| name.ends_with(".seg") && group(name) != Some("0".repeat(20)));
        let Some(index) = usize::try_from(part(names.len() as u64, which)).ok() else { return };
        let Some(name) = names.get(index) else { return };
        let may_be_open = names.get(index + 1).is_none_or(|next| group(next) != group(name));
        let file = FileName::new(format!("segments/{name}"));
        let Some(len) = disk.len(&file).ok().flatten().filter(|len| *len > 0) else { return };
        self.harmed.insert(victim);
        let done = match decay {
            Decay::Cut if !may_be_open => disk.perform(&DiskOp::Truncate { file, len: part(len, at) }),
            Decay::Gone if !may_be_open => disk.perform(&DiskOp::Remove { file }),
            Decay::Unreadable => {
                disk.make_unreadable(&file, part(len, at) / SECTOR * SECTOR, SECTOR);
                Ok(())
            }
            Decay::Misdirected if len > SECTOR => misdirect(disk, &file, part(len / SECTOR, at)),
            _ => {
                disk.flip_bit(&file, part(len, at), u8::try_from(at % 8).unwrap_or(0));
                Ok(())
            }
        };
        // Without space, say.
        if done.is_ok() {
            self.count("rot");
        }
    }

    /// A process ends, and about half of the files that are segments, or are to become some, are not there when it is back. Those
    /// of the metadata are elsewhere.
    fn lose_directory(&mut self, victim: NodeId, which: u64, down_us: u64) {
        let Some(process) = self.processes.get(&victim).filter(|process| process.running.is_some()) else { return };
        let disk = std::sync::Arc::clone(process.disk());
        self.harmed.insert(victim);
        self.end(victim, down_us);
        let Ok(mut names) = disk.list("segments") else { return };
        names.retain(|name| !name.starts_with(&"0".repeat(20)) && Dice::new(which, name).chance(50));
        // One after the other, and not at all where the power goes meanwhile.
        let done = names.iter().map(|name| FileName::new(format!("segments/{name}")));
        if done.map(|file| disk.perform(&DiskOp::Remove { file })).all(|removed| removed.is_ok()) {
            self.count("directory gone");
        }
    }

    /// A process ends, and a block of its journal is damaged, in its header or behind it. One that nothing proves to have been
    /// durable stays: damaged, it looks as if it had never been written.
    fn rot_journal(&mut self, victim: NodeId, (which, at): (u64, u64), down_us: u64) {
        let Some(process) = self.processes.get(&victim).filter(|process| process.running.is_some()) else { return };
        let disk = std::sync::Arc::clone(process.disk());
        self.end(victim, down_us);
        let blocks = journal::blocks(&disk);
        let proven = blocks.iter().map(|block| block.synced).max().unwrap_or(0);
        let mut proven: Vec<_> = blocks.into_iter().filter(|block| block.lsn <= proven).collect();
        // Of the newest: what a checkpoint covers, nobody reads.
        proven.sort_by_key(|block| std::cmp::Reverse(block.lsn));
        proven.truncate(16);
        let Some(block) = proven.get(usize::try_from(part(proven.len() as u64, which)).unwrap_or(0)) else { return };
        let within =
            if at % 2 == 0 { part(block.header_bytes, at) } else { block.header_bytes + part(block.frame_bytes, at) };
        self.tell(format_args!("byte {within} of {block:?} is damaged"));
        // Or the disk does not give it back.
        if at % 3 == 2 {
            disk.make_unreadable(&block.file, block.position, 4096);
        } else {
            disk.flip_bit(&block.file, block.position + within, u8::try_from(at % 8).unwrap_or(0));
        }
        self.doubtful.insert(victim);
        self.count("journal rot");
    }

    /// The disk has space again.
    pub(super) fn free_space(&mut self, node: NodeId) {
        if let Some(process) = self.processes.get_mut(&node) {
            process.is_full = false;
            process.disk().set_capacity(None);
        }
    }

    /// What a node reads is what stands there again.
    pub(super) fn read_well(&mut self, node: NodeId) {
        if let Some(process) = self.processes.get_mut(&node) {
            process.misreads = false;
        }
    }

    fn pause(&mut self, node: NodeId, for_us: u64) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let run = process.run;
        let Some(running) = &mut process.running else { return };
        if running.held.is_none() {
            running.held = Some(Vec::new());
            self.count("pause");
            self.queue.after(for_us, Happening::Resume { node, run });
        }
    }

    /// A paused process goes on: what it missed happens to it now, in order.
    pub(super) fn resume(&mut self, node: NodeId) {
        let running = self.processes.get_mut(&node).and_then(|process| process.running.as_mut());
        let Some(held) = running.and_then(|running| running.held.take()) else { return };
        self.tell(format_args!("n{node} goes on, {} things were waiting", held.len()));
        for happening in held {
            match happening {
                // Its clock goes on already.
                Happening::Tick { .. } => self.give(node, Event::Tick),
                other => self.happen(other),
            }
        }
        for lane in [Lane::Journal, Lane::Segments] {
            self.begin_disk_op(node, lane);
        }
    }

    pub(super) fn heal_network(&mut self) {
        self.tell(format_args!("the network is whole"));
        self.network.heal();
    }

    /// Whether an armed power cut strikes at this operation of this node: before or after it is performed.
    pub(super) fn power_strikes(&mut self, node: NodeId) -> Option<bool> {
        let armed =
            self.armed.as_mut().filter(|armed| armed.victims.first().is_some_and(|(first, _)| *first == node))?;
        let strikes = armed.operation == 0;
        armed.operation = armed.operation.saturating_sub(1);
        strikes.then_some(armed.performed)
    }

    pub(super) fn strike(&mut self) {
        if let Some(armed) = self.armed.take() {
            self.cut_power(&armed.victims);
        }
    }

    fn cut_power(&mut self, victims: &[(NodeId, u64)]) {
        self.count(if victims.len() == self.nodes.len() { "power cut of all" } else { "power cut" });
        for &(node, down_us) in victims {
            if let Some(plan) = self.processes.get_mut(&node).map(Process::crash_plan) {
                self.cut_power_of(node, &plan, down_us);
            }
        }
    }

    fn cut_power_of(&mut self, node: NodeId, plan: &CrashPlan, down_us: u64) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        let was_up = process.running.is_some();
        process.cut_power(plan);
        let (kept, garbage) = (plan.kept_percent, plan.garbage_percent);
        self.tell(format_args!("n{node} without power: {kept} % of what was not synced stays, {garbage} % is garbage"));
        if was_up {
            self.queue.after(down_us, Happening::Start(node));
        }
    }

    /// A node whose vote was awaited has given it: its power goes, and its candidate is alone.
    pub(super) fn voted(&mut self, voter: NodeId, candidate: NodeId) {
        self.count("power cut of a voter");
        self.cut_power_of(voter, &CrashPlan::LOSE_ALL, RESTART_US);
        for node in self.nodes.iter().copied().filter(|node| *node != candidate) {
            self.network.cut(Place::Node(candidate), Place::Node(node));
            self.network.cut(Place::Node(node), Place::Node(candidate));
        }
    }

    /// A process ends; the disk keeps what was written.
    fn end(&mut self, node: NodeId, down_us: u64) {
        let Some(process) = self.processes.get_mut(&node) else { return };
        if process.running.is_some() {
            process.kill();
            self.tell(format_args!("n{node} has ended"));
            self.queue.after(down_us, Happening::Start(node));
        }
    }

    /// A core says that its disk has failed.
    pub(super) fn failed(&mut self, node: NodeId, message: &str) {
        self.tell(format_args!("n{node} fails: {message}"));
        let excused_us = self.processes.get_mut(&node).and_then(Process::excuse);
        match excused_us {
            Some(down_us) => self.end(node, down_us),
            None => self.checker.report(Kind::Died, format!("node {node} gave up without a reason: {message}")),
        }
    }

    /// A core needs another replica of the metadata, and begins again at once.
    pub(super) fn gave_up_metadata(&mut self, node: NodeId, loss: MemberLoss, message: &str) {
        self.tell(format_args!("n{node} begins again: {message}"));
        self.count(match loss {
            MemberLoss::Behind { .. } => "replica of the metadata behind all logs",
            MemberLoss::GivenUp { .. } => "replica of the metadata given up",
        });
        self.doubtful.insert(node);
        if let Some(process) = self.processes.get_mut(&node) {
            process.give_up_metadata(loss);
        }
        self.end(node, 0);
    }

    /// A core has handed over what it led.
    pub(super) fn stopped(&mut self, node: NodeId) {
        let stopping_us = self.processes.get_mut(&node).and_then(|process| process.stopping_us.take());
        match stopping_us {
            Some(down_us) => {
                self.end(node, down_us);
                if let Some(process) = self.processes.get_mut(&node) {
                    process.stopped();
                }
            }
            None => self.checker.report(Kind::Died, format!("node {node} stopped without being asked to")),
        }
    }

    pub(super) fn start(&mut self, node: NodeId) {
        let now_us = self.queue.now_us();
        let Some(process) = self.processes.get_mut(&node) else { return };
        if process.running.is_some() || self.renewing.contains(&node) {
            return;
        }
        let was_clean = process.was_stopped();
        match process.start(now_us, !self.settling && !self.partitions.is_empty()) {
            Ok(()) => self.recoveries += u64::from(!was_clean),
            Err(NotStarted::Power(plan)) => {
                self.count("power cut of a start");
                self.tell(format_args!("n{node} without power while it starts: {plan:?}"));
                return self.queue.after(RESTART_US, Happening::Start(node));
            }
            Err(NotStarted::Failed { error: NodeOpenError::MetadataDamaged { replica, need, .. }, .. }) => {
                let incarnation = process.incarnation();
                self.tell(format_args!("n{node} has lost its replica {replica} of the metadata"));
                if !self.doubtful.contains(&node) {
                    let what =
                        format!("node {node} has lost its replica of the metadata, and its journal was not harmed");
                    self.checker.report(Kind::Damaged, what);
                }
                self.renewing.insert(node);
                return self.employ(Box::new(Renewal::new(node, incarnation, replica, need)));
            }
            Err(NotStarted::Failed { excused_us: Some(down_us), error }) => {
                self.tell(format_args!("n{node} does not start: {error}"));
                return self.queue.after(down_us, Happening::Start(node));
            }
            Err(NotStarted::Failed { excused_us: None, error }) => {
                return self.checker.report(Kind::Unopened, format!("node {node} does not start: {error}"));
            }
        }
        let (run, tick_us) = (process.run, process.tick_us);
        self.tell(format_args!("n{node} starts, run {run}"));
        self.queue.after(tick_us, Happening::Tick { node, run });
        self.give(node, Event::Tick);
    }

    /// No more faults, and those that last end.
    pub(super) fn heal(&mut self) {
        self.tell(format_args!("everything heals"));
        self.settling = true;
        self.armed = None;
        self.vote_awaited = None;
        self.network.weather = Weather::CALM;
        self.heal_network();
        for node in self.nodes.clone() {
            self.resume(node);
            self.free_space(node);
            self.read_well(node);
            if let Some(process) = self.processes.get_mut(&node) {
                process.set_speed(Speed::QUICK);
            }
            self.start(node);
        }
    }

    /// A node is away for two days, from the middle of a night on: what sleeps must notice, and go on without it.
    pub(super) fn absence(&mut self) {
        let Some(day_us) = self.options.day_us else { return };
        let Some(absent) = Dice::new(self.options.seed, "absent").pick(&self.nodes) else { return };
        self.settling = false;
        let night = (self.queue.now_us() / day_us + 1) | 1;
        self.run_until(night * day_us + day_us * 3 / 4);
        if let Some(process) = self.processes.get_mut(&absent) {
            process.kill();
            self.tell(format_args!("n{absent} is away"));
            self.count("absence");
        }
        self.run_until((night + 1) * day_us);
        let ends =
            |world: &Self| world.partitions.iter().map(|p| (*p, world.checker.known_end(*p))).collect::<Vec<_>>();
        let before = ends(self);
        self.run_until((night + 4) * day_us);
        let still = before.into_iter().zip(ends(self)).find(|(before, now)| before == now);
        if let (Some(((partition, _), _)), true) = (still, self.is_sound()) {
            self.describe();
            let what = format!("{partition} stood still for two days while node {absent} was away");
            self.checker.report(Kind::Stuck, what);
        }
        self.heal();
        if self.is_sound() {
            self.settle(self.options.settle_us);
        }
    }

    /// The power of all nodes goes once more, and takes everything that was not synced.
    pub(super) fn last_night(&mut self) {
        for node in self.nodes.clone() {
            self.cut_power_of(node, &CrashPlan::LOSE_ALL, 0);
        }
    }
}

/// What was meant for the sector before this one stands here, too.
fn misdirect(disk: &SimDisk, file: &FileName, sector: u64) -> Result<(), DiskError> {
    let from = sector.saturating_sub(1) * SECTOR;
    let bytes = disk.read(file, from, usize::try_from(SECTOR).unwrap_or(0))?;
    disk.perform(&DiskOp::Write { file: file.clone(), pos: from + SECTOR, bufs: vec![bytes] })
}

/// A part of so many, in parts of 2^32.
fn part(of: u64, fraction: u64) -> u64 {
    u64::try_from((u128::from(of) * u128::from(fraction)) >> 32).unwrap_or(0)
}
