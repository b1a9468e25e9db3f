//! What must be true of every answer by itself and against what others were told.

use std::ops::Range;

use crate::{
    history::{Event, Index, Offset, Op, Phase, Value},
    verdict::Check,
};

use super::{Log, Options, versions::Marks};

impl Log<'_> {
    /// An acknowledged offset is not one that the log was known to reach before.
    pub(super) fn judge_ack(&self, event: &Event, offset: Offset, check: &mut Check) {
        if let Some((told, known)) = self.reach.before(event.invocation).filter(|&(_, known)| offset < known) {
            let what = format!("a send got offset {offset}, but the log was known to reach to {known} before it began");
            check.found("stale-send", Some(self.key), vec![told, event.invocation, event.index], what);
        }
    }

    /// An answered end is not below what was known when it was asked for.
    pub(super) fn judge_end(&self, event: &Event, offset: Offset, check: &mut Check) {
        if let Some((told, known)) = self.reach.before(event.invocation).filter(|&(_, known)| offset < known) {
            let what = format!("the end was said to be {offset}, but {known} was known before the question");
            check.found("stale-end", Some(self.key), vec![told, event.invocation, event.index], what);
        }
    }

    /// A read does not show nothing where a record was known when it began.
    pub(super) fn judge_emptiness(
        &self,
        event: &Event,
        from: Offset,
        records: &[(Offset, Value)],
        options: &Options,
        check: &mut Check,
    ) {
        if !options.linearizable_polls || event.phase != Phase::Ok || !records.is_empty() {
            return;
        }
        let known = if options.dense { &self.reach } else { &self.records };
        if let Some((told, end)) = known.before(event.invocation).filter(|&(_, end)| from < end) {
            let what = format!("a read from offset {from} shows nothing, but a record below {end} was known before it");
            check.found("stale-poll", Some(self.key), vec![told, event.invocation, event.index], what);
        }
    }

    /// Judges the order of what a read showed, now that everything is known that was ever told.
    pub(super) fn judge_read(&self, event: &Event, options: &Options, check: &mut Check) {
        match &event.op {
            Op::Poll { from, records, .. } => {
                self.judge_order(event.index, *from, records, check);
                self.judge_gaps(event.index, *from, records, options, check);
            }
            Op::Snapshot { from, columns, rows, .. } => {
                self.judge_order(event.index, *from, rows, check);
                self.judge_gaps(event.index, *from, rows, options, check);
                if event.phase == Phase::Ok {
                    self.judge_columns(event.index, *from, columns, rows, options, check);
                }
            }
            Op::Final { range, records, .. } => {
                self.judge_order(event.index, 0, records, check);
                // What is missing is told by the sends and the other nodes already.
                if options.dense {
                    self.judge_whole(event.index, range.as_ref(), records, options, check);
                }
            }
            _ => {}
        }
    }

    fn judge_order(&self, event: Index, from: Offset, records: &[(Offset, Value)], check: &mut Check) {
        let mut next = from;
        for &(offset, value) in records {
            if offset < next {
                let what = format!("a read shows {value} at offset {offset} where {next} or more follows");
                return check.found("nonmonotonic-poll", Some(self.key), vec![event], what);
            }
            next = offset.saturating_add(1);
        }
    }

    /// A node shows every offset that it says it has.
    fn judge_whole(
        &self,
        event: Index,
        range: Option<&Range<Offset>>,
        records: &[(Offset, Value)],
        options: &Options,
        check: &mut Check,
    ) {
        let Some(range) = range else { return self.judge_gaps(event, 0, records, options, check) };
        // The beginning that it says is the one that it has.
        self.judge_gaps(event, range.start, records, &Options { retention: false, ..*options }, check);
        let next = records.last().map_or(range.start, |&(offset, _)| offset.saturating_add(1));
        if next != range.end {
            let what = format!("a log is said to end at {}, and what is shown of it at {next}", range.end);
            check.found("poll-skip", Some(self.key), vec![event], what);
        }
    }

    fn judge_gaps(
        &self,
        event: Index,
        from: Offset,
        records: &[(Offset, Value)],
        options: &Options,
        check: &mut Check,
    ) {
        let Some(gap) = self.gap(from, records, options) else { return };
        let (events, what) = match gap {
            Gap::Told(offset, value, told_by) => {
                (vec![told_by, event], format!("a read leaves out offset {offset}, where {value} stands"))
            }
            Gap::Bare(offset) => (vec![event], format!("a read leaves out offset {offset}")),
        };
        check.found("poll-skip", Some(self.key), events, what);
    }

    /// The first offset that a read leaves out although it may not.
    fn gap(&self, from: Offset, records: &[(Offset, Value)], options: &Options) -> Option<Gap> {
        let mut next = from;
        for (i, &(offset, _)) in records.iter().enumerate() {
            if next < offset {
                // A beginning that is there at the end was never gone.
                let gone = options.retention && i == 0;
                let how = if gone { Marks::FINAL } else { Marks::default() };
                if let Some((missing, cell)) = self.versions.first_in(next, offset, how) {
                    return Some(Gap::Told(missing, cell.value, cell.told_by));
                }
                if options.dense && !gone {
                    return Some(Gap::Bare(next));
                }
            }
            next = next.max(offset.saturating_add(1));
        }
        None
    }

    /// The columns of a snapshot are its rows, and what others were told.
    fn judge_columns(
        &self,
        event: Index,
        from: Offset,
        columns: &[(Offset, Value)],
        rows: &[(Offset, Value)],
        options: &Options,
        check: &mut Check,
    ) {
        let apart = columns.iter().zip(rows).find(|(column, row)| column != row);
        let (events, what) = if let Some(((at, column), (row_at, row))) = apart {
            (vec![event], format!("columns show {column} at offset {at} where rows show {row} at {row_at}"))
        } else if columns.len() != rows.len() {
            (vec![event], format!("columns show {} records, rows {}", columns.len(), rows.len()))
        } else if let Some((offset, value, known, told_by)) = self.contradicted(columns) {
            (vec![told_by, event], format!("columns show {value} at offset {offset} where others were told {known}"))
        } else if let Some(Gap::Told(offset, value, told_by)) = self.gap(from, columns, options) {
            (vec![told_by, event], format!("columns leave out offset {offset}, where {value} stands"))
        } else {
            return;
        };
        check.found("flight-differs", Some(self.key), events, what);
    }

    /// A record of which others were told something else before.
    fn contradicted(&self, records: &[(Offset, Value)]) -> Option<(Offset, Value, Value, Index)> {
        records.iter().find_map(|&(offset, value)| {
            let cell = self.versions.at(offset).filter(|cell| cell.value != value)?;
            Some((offset, value, cell.value, cell.told_by))
        })
    }
}

/// An offset that a read left out.
enum Gap {
    /// Somebody was told of a record there.
    Told(Offset, Value, Index),
    /// Nobody was, but there must be one.
    Bare(Offset),
}
