//! What must be true of logs: nothing that was told of them is taken back.
//!
//! An acknowledgement claims an offset for a value, a read claims what it showed, an answered end claims that the log reaches so
//! far; and every claim is for ever. The names are those of Jepsen's Kafka workload where it has one.
//!
//! | Kind | What must not be |
//! |---|---|
//! | `inconsistent-offsets` | one offset has two values, whoever tells of it |
//! | `duplicate` | one value has two offsets |
//! | `phantom` | a value that nobody ever sent |
//! | `aborted-read` | a value is read whose send certainly failed |
//! | `time-travel` | a value is read before its send began |
//! | `lost-write` | of what must be there, something below the highest value that was read is read by nobody |
//! | `unseen` | something that must be there is in none of the final reads |
//! | `lost-end` | the log was told to reach farther than it does at the end ([`Options::dense`]) |
//! | `divergence` | the final reads of two nodes differ |
//! | `nonmonotonic-send` | what one process sent stands in another order |
//! | `send-skip` | of what one process sent, something between two others is missing ([`Options::whole_streams`]) |
//! | `stale-send` | an acknowledgement names an offset that the log was known to reach before the send began |
//! | `nonmonotonic-poll` | a read shows records out of order, or below where it was to begin |
//! | `poll-skip` | a read leaves out a record that somebody else was told of, or a final one what its node says it has ([`Options::dense`]) |
//! | `stale-end` | an answered end is below what was known before it was asked for |
//! | `stale-poll` | a read shows nothing although a record was known before it began ([`Options::linearizable_polls`]) |
//! | `flight-differs` | the columns of a snapshot are not its rows, or not what others were told |
//!
//! A value **must be there** if its send was acknowledged, or if nobody knows what became of it but a read that was done has shown
//! it. Where offsets are missing between records, something is wrong only if somebody was told of a record there: retention takes
//! beginnings away, and markers of transactions take offsets.
//!
//! The final reads are what everything else is measured by. Where one is missing, nothing can be said to be well.

mod finals;
mod known;
mod reads;
mod sends;
#[cfg(test)]
mod tests;
mod versions;
mod written;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    history::{Event, Index, Key, Offset, Op, Phase, Value},
    verdict::Check,
};

use self::{
    finals::Finals,
    known::Known,
    sends::{Outcome, Sends},
    versions::{Marks, News, Place, Versions},
};

/// What is promised beyond what every log promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Polls are linearizable: one that begins after a record is known to be there shows something.
    pub linearizable_polls: bool,
    /// Every offset has a record: there are no transactions and no compaction.
    pub dense: bool,
    /// A log may lose its beginning meanwhile. What stood below the lowest start of all final reads may be gone, and a read may begin
    /// later than it was asked to.
    pub retention: bool,
    /// What a process sends to a key is one stream whose order holds also for sends of which it heard nothing certain, and of which
    /// nothing is missing between two that are there: idempotent producers that go on only where they stopped.
    pub whole_streams: bool,
}

/// Checks all logs of a history, by what every log promises.
#[must_use]
pub fn check(events: &[Event]) -> Check {
    check_with(events, &Options::default())
}

/// Checks all logs of a history.
#[must_use]
pub fn check_with(events: &[Event], options: &Options) -> Check {
    let mut check = Check::new("log");
    let mut logs = gather(events, &mut check);
    for event in events.iter().filter(|event| event.phase != Phase::Invoke) {
        if let Some(log) = logs.get_mut(&event.op.key()) {
            log.hear(event, options, &mut check);
        }
    }
    for log in logs.values_mut() {
        log.settle();
    }
    for event in events.iter().filter(|event| event.phase != Phase::Invoke) {
        if let Some(log) = logs.get(&event.op.key()) {
            log.judge_read(event, options, &mut check);
        }
    }
    for log in logs.values() {
        log.judge_sends(options, &mut check);
        log.judge_finals(options, &mut check);
    }
    figures(&logs, &mut check);
    check
}

/// Everything about one log.
struct Log<'a> {
    key: Key,
    sends: Sends,
    versions: Versions,
    /// How far it reached, by all that was told.
    reach: Known,
    /// How far its records reached.
    records: Known,
    /// Where values stand that nobody sent.
    phantoms: BTreeMap<Value, Offset>,
    finals: Finals<'a>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    polls: u64,
    ends: u64,
    snapshots: u64,
    read: u64,
    /// Records in the longest read.
    longest: usize,
    /// The last offset of any read, or acknowledged.
    last: Offset,
}

impl Log<'_> {
    fn new(key: Key) -> Self {
        Self {
            key,
            sends: Sends::default(),
            versions: Versions::default(),
            reach: Known::default(),
            records: Known::default(),
            phantoms: BTreeMap::new(),
            finals: Finals::default(),
            counts: Counts::default(),
        }
    }

    /// Makes room for what will be told.
    fn prepare(&mut self, check: &mut Check) {
        if let Some(value) = self.sends.sort() {
            check.doubt(format!("value {value} was sent twice to key {}, values must be unique", self.key));
        }
        let all = usize::try_from(self.counts.last.saturating_add(1)).unwrap_or(usize::MAX);
        let plausible = 4 * (self.sends.iter().len() + self.counts.longest) + 1024;
        self.versions = Versions::with_room(all.min(plausible));
    }

    /// Somebody was told something, and so far nobody was told more.
    fn hear(&mut self, event: &Event, options: &Options, check: &mut Check) {
        let read = if event.phase == Phase::Ok { Marks::READ.and(Marks::READ_OK) } else { Marks::READ };
        match &event.op {
            Op::Send { value, offset: Some(offset), .. } if event.phase == Phase::Ok => {
                self.judge_ack(event, *offset, check);
                self.claim(event.index, *offset, *value, Marks::ACKED, check);
            }
            Op::Poll { from, records, .. } => {
                self.judge_emptiness(event, *from, records, options, check);
                self.claim_all(event.index, records, read, check);
            }
            Op::Snapshot { columns, rows, .. } => {
                self.claim_all(event.index, rows, read, check);
                self.claim_all(event.index, columns, read, check);
            }
            Op::Final { records, .. } => {
                let last = if self.finals.has(event) { read.and(Marks::FINAL) } else { read };
                self.claim_all(event.index, records, last, check);
            }
            Op::End { offset: Some(offset), .. } if event.phase == Phase::Ok => {
                self.judge_end(event, *offset, check);
                self.reach.told(event.index, *offset);
            }
            _ => {}
        }
    }

    fn claim_all(&mut self, event: Index, records: &[(Offset, Value)], how: Marks, check: &mut Check) {
        for &(offset, value) in records {
            self.claim(event, offset, value, how, check);
        }
    }

    /// Somebody is told that a value stands at an offset.
    fn claim(&mut self, event: Index, offset: Offset, value: Value, how: Marks, check: &mut Check) {
        self.reach.told(event, offset.saturating_add(1));
        self.records.told(event, offset.saturating_add(1));
        let news = self.versions.claim(offset, value, how, event, || self.sends.find(value));
        if news == News::Known {
            return;
        }
        if let News::Contradiction(known, told_by) = news {
            let what = format!("at offset {offset} stands {known}, and then {value}");
            check.found("inconsistent-offsets", Some(self.key), vec![told_by, event], what);
        }
        let sent = self.versions.of(offset, value).and_then(|cell| cell.sent);
        if news != News::FirstRead {
            self.judge_place(event, offset, value, sent, check);
        }
        if how.has(Marks::READ) {
            self.judge_origin(event, offset, value, sent, check);
        }
    }

    /// A value stands at an offset where nobody had seen it.
    fn judge_place(&mut self, event: Index, offset: Offset, value: Value, sent: Option<Place>, check: &mut Check) {
        let known = match sent {
            Some(place) => {
                let sent = self.sends.get_mut(place);
                let known = sent.places.map(|(low, _)| low);
                sent.stands_at(offset);
                known
            }
            None => self.phantoms.insert(value, offset),
        };
        if let Some(known) = known {
            let told_by = self.versions.of(known, value).map_or(event, |cell| cell.told_by);
            let what = format!("{value} stands at offset {known}, and at {offset} too");
            check.found("duplicate", Some(self.key), vec![told_by, event], what);
        }
    }

    /// A value is read for the first time: somebody must have sent it, before, and may not have been told that it failed.
    fn judge_origin(&self, event: Index, offset: Offset, value: Value, sent: Option<Place>, check: &mut Check) {
        let Some(sent) = sent.map(|place| self.sends.get(place)) else {
            let what = format!("{value} is read at offset {offset}, but nobody ever sent it");
            return check.found("phantom", Some(self.key), vec![event], what);
        };
        if sent.outcome == Outcome::Failed {
            let what = format!("{value} is read at offset {offset}, but its send failed");
            check.found("aborted-read", Some(self.key), vec![sent.completed, event], what);
        }
        if event < sent.invoked {
            let what = format!("{value} is read at offset {offset} before its send begins");
            check.found("time-travel", Some(self.key), vec![event, sent.invoked], what);
        }
    }

    /// Everything was told.
    fn settle(&mut self) {
        for cell in self.versions.all() {
            if let Some(place) = cell.sent {
                let sent = self.sends.get_mut(place);
                sent.marks = sent.marks.and(cell.marks);
            }
        }
    }
}

/// All logs of a history, their sends, and which reads are their last ones.
fn gather<'a>(events: &'a [Event], check: &mut Check) -> BTreeMap<Key, Log<'a>> {
    let mut logs = BTreeMap::new();
    for event in events {
        if matches!(event.op, Op::Read { .. } | Op::Write { .. } | Op::Cas { .. }) {
            continue;
        }
        let key = event.op.key();
        let log = logs.entry(key).or_insert_with(|| Log::new(key));
        let done = u64::from(event.phase == Phase::Ok);
        let mut shown = |records: &[(Offset, Value)]| {
            log.counts.read += records.len() as u64 * done;
            log.counts.longest = log.counts.longest.max(records.len());
            log.counts.last = log.counts.last.max(records.last().map_or(0, |&(offset, _)| offset));
        };
        match &event.op {
            Op::Send { value, offset, .. } => {
                log.counts.last = log.counts.last.max(offset.unwrap_or(0));
                log.sends.note(event, *value, *offset);
            }
            Op::Poll { records, .. } => {
                shown(records);
                log.counts.polls += done;
            }
            Op::Snapshot { columns, rows, .. } => {
                shown(columns);
                shown(rows);
                log.counts.snapshots += done;
            }
            Op::Final { records, .. } => {
                shown(records);
                log.finals.note(event);
            }
            Op::End { .. } => log.counts.ends += done,
            Op::Read { .. } | Op::Write { .. } | Op::Cas { .. } => {}
        }
    }
    for log in logs.values_mut() {
        log.prepare(check);
    }
    logs
}

fn figures(logs: &BTreeMap<Key, Log<'_>>, check: &mut Check) {
    let outcomes = [("acked", Outcome::Acked), ("unknown", Outcome::Unknown), ("failed", Outcome::Failed)];
    let sends = || logs.values().flat_map(|log| log.sends.iter());
    let mut figure = |name: &str, count: u64| {
        #[expect(clippy::cast_precision_loss, reason = "counts of events")]
        check.figure(name, count as f64);
    };
    for (name, outcome) in outcomes {
        figure(name, sends().filter(|sent| sent.outcome == outcome).count() as u64);
    }
    figure("recovered", sends().filter(|sent| sent.recovered()).count() as u64);
    let unseen_recovered = sends().filter(|sent| sent.recovered() && !sent.marks.has(Marks::FINAL)).count();
    figure("unseen_recovered", unseen_recovered as u64);
    figure("keys", logs.len() as u64);
    let sum = |of: fn(&Log<'_>) -> u64| logs.values().map(of).sum::<u64>();
    figure("read", sum(|log| log.counts.read));
    figure("polls", sum(|log| log.counts.polls));
    figure("ends", sum(|log| log.counts.ends));
    figure("snapshots", sum(|log| log.counts.snapshots));
    figure("finals", sum(|log| log.finals.last().count() as u64));
    let processes: BTreeSet<_> = sends().map(|sent| sent.process).collect();
    figure("senders", processes.len() as u64);
}
