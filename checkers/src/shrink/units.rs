//! What can be left out of a history, and what is left then.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Event, Index, Key, Offset, Op, Phase, Process, Value};

/// The units of the part of a history that is about one key, or of all of it.
pub(super) struct Units<'a> {
    /// The events that are about it, and which unit each belongs to.
    events: Vec<(&'a Event, usize)>,
    /// Of each unit, whose it is.
    processes: Vec<Process>,
    /// Of each operation, its unit.
    operations: Vec<usize>,
    /// The units of values of logs.
    values: BTreeMap<(Key, Value), usize>,
}

/// How many are kept.
pub(super) fn count(kept: &[bool]) -> usize {
    kept.iter().filter(|kept| **kept).count()
}

impl<'a> Units<'a> {
    pub(super) fn new(events: &'a [Event], key: Option<Key>) -> Self {
        let about = |event: &&Event| key.is_none_or(|key| event.op.key() == key);
        let mut units =
            Self { events: Vec::new(), processes: Vec::new(), operations: Vec::new(), values: BTreeMap::new() };
        let mut operations: BTreeMap<Index, usize> = BTreeMap::new();
        for event in events.iter().filter(about) {
            let unit = match event.op {
                Op::Send { key, value, .. } => units.value(key, value, event.process),
                _ => *operations.entry(event.invocation).or_insert_with(|| {
                    units.processes.push(event.process);
                    units.processes.len() - 1
                }),
            };
            if event.phase == Phase::Invoke {
                units.operations.push(unit);
            }
            units.events.push((event, unit));
            for &(_, value) in records(&event.op).iter().flat_map(|records| records.iter()) {
                units.value(event.op.key(), value, event.process);
            }
        }
        units
    }

    /// The unit of a value. One that nobody sent belongs to who was shown it.
    fn value(&mut self, key: Key, value: Value, process: Process) -> usize {
        let processes = &mut self.processes;
        *self.values.entry((key, value)).or_insert_with(|| {
            processes.push(process);
            processes.len() - 1
        })
    }

    /// Everything is kept.
    pub(super) fn all(&self) -> Vec<bool> {
        vec![true; self.processes.len()]
    }

    /// How many operations are left.
    pub(super) fn operations(&self, kept: &[bool]) -> usize {
        self.operations.iter().filter(|unit| kept[**unit]).count()
    }

    /// Those that are kept, by process.
    pub(super) fn by_process(&self, kept: &[bool]) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<Process, Vec<usize>> = BTreeMap::new();
        for (unit, process) in self.processes.iter().enumerate().filter(|(unit, _)| kept[*unit]) {
            groups.entry(*process).or_default().push(unit);
        }
        groups.into_values().collect()
    }

    /// Those that are kept, each alone, in the order in which they began.
    pub(super) fn one_by_one(&self, kept: &[bool]) -> Vec<Vec<usize>> {
        (0..self.processes.len()).filter(|unit| kept[*unit]).map(|unit| vec![unit]).collect()
    }

    /// What is left.
    pub(super) fn build(&self, kept: &[bool]) -> Vec<Event> {
        let left = self.events.iter().filter(|(_, unit)| kept[*unit]);
        left.map(|(event, _)| Event { op: self.without(&event.op, kept), ..(*event).clone() }).collect()
    }

    /// An operation that shows nothing of the values that are left out.
    fn without(&self, op: &Op, kept: &[bool]) -> Op {
        let key = op.key();
        let left = |records: &[(Offset, Value)]| {
            let is_left =
                |&&(_, value): &&(Offset, Value)| self.values.get(&(key, value)).is_some_and(|&unit| kept[unit]);
            records.iter().filter(is_left).copied().collect()
        };
        match op {
            Op::Poll { from, records, .. } => Op::Poll { key, from: *from, records: left(records) },
            Op::Final { range, records, .. } => Op::Final { key, range: range.clone(), records: left(records) },
            Op::Snapshot { from, columns, rows, .. } => {
                Op::Snapshot { key, from: *from, columns: left(columns), rows: left(rows) }
            }
            other => other.clone(),
        }
    }

    /// Whether of every value that is read from a register all that wrote it are kept; where one was found to hold something else,
    /// all that wrote anything. If all operations had an order, then what is kept would have the same one.
    pub(super) fn keeps_what_is_read(&self, kept: &[bool]) -> bool {
        let (mut read, mut all) = (BTreeSet::new(), BTreeSet::new());
        for (event, _) in self.events.iter().filter(|(event, unit)| kept[*unit] && event.phase != Phase::Invoke) {
            match event.op {
                Op::Read { key, value: Some(value) } | Op::Cas { key, expected: Some(value), .. } => {
                    read.insert((key, value));
                }
                _ => {}
            }
            if event.phase == Phase::Fail && event.answers() {
                all.insert(event.op.key());
            }
        }
        let mut left_out = self.events.iter().filter(|(_, unit)| !kept[*unit]);
        left_out.all(|(event, _)| match event.op {
            Op::Write { key, value } | Op::Cas { key, value, .. } => {
                !read.contains(&(key, value)) && !all.contains(&key)
            }
            _ => true,
        })
    }
}

/// What an operation shows of a log.
fn records(op: &Op) -> [&[(Offset, Value)]; 2] {
    match op {
        Op::Poll { records, .. } | Op::Final { records, .. } => [records, &[]],
        Op::Snapshot { columns, rows, .. } => [columns, rows],
        _ => [&[], &[]],
    }
}
