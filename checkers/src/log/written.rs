//! What must be true of what was sent: it is there, in the order in which it was sent.

use crate::{
    history::{Index, Offset},
    verdict::Check,
};

use super::{
    Log, Options,
    sends::{Outcome, Sent},
    versions::Marks,
};

impl Log<'_> {
    /// What must be there is there, in order.
    pub(super) fn judge_sends(&self, options: &Options, check: &mut Check) {
        self.judge_presence(options, check);
        let sends = self.sends.by_process();
        for stream in sends.chunk_by(|one, next| one.process == next.process) {
            self.judge_stream(stream, options, check);
            if options.whole_streams && self.finals.last().next().is_some() {
                self.judge_wholeness(stream, options, check);
            }
        }
    }

    fn judge_presence(&self, options: &Options, check: &mut Check) {
        let finals = self.finals.events();
        if finals.is_empty() {
            return;
        }
        let bound = self.bound();
        for sent in self.sends.iter() {
            if !sent.must_be_there() || sent.marks.has(Marks::FINAL) || self.dropped(sent, options) {
                continue;
            }
            let (value, key) = (sent.value, Some(self.key));
            let told = if sent.acked_at.is_some() { "was acknowledged" } else { "was read" };
            let place = sent.offset().map_or_else(String::new, |offset| format!(" at offset {offset}"));
            let reader = self.reader(sent);
            let events = std::iter::once(sent.completed).chain(reader).chain(finals.iter().copied());
            check.found("unseen", key, events.collect(), format!("{value} {told}{place}, and no final read shows it"));

            let highest = sent.places.map(|(_, highest)| highest).filter(|_| !sent.marks.has(Marks::READ_OK));
            if let (Some(highest), Some((bound, read_by))) = (highest, bound)
                && highest <= bound
            {
                let what = format!("{value} {told}{place}, no read shows it, but one shows offset {bound}");
                check.found("lost-write", key, vec![sent.completed, read_by], what);
            }
        }
    }

    /// The highest place of a value that was read, and who read it.
    fn bound(&self) -> Option<(Offset, Index)> {
        let read = self.sends.iter().filter(|sent| sent.marks.has(Marks::READ_OK));
        let highest = read.max_by_key(|sent| sent.places.map(|(lowest, _)| lowest))?;
        let (lowest, _) = highest.places?;
        Some((lowest, self.reader(highest)?))
    }

    /// The first read that shows a value.
    fn reader(&self, sent: &Sent) -> Option<Index> {
        let (low, high) = sent.places?;
        let cells = [low, high].into_iter().filter_map(|offset| self.versions.of(offset, sent.value));
        cells.filter(|cell| cell.marks.has(Marks::READ)).map(|cell| cell.read_by).min()
    }

    /// Whether a value may be gone with the beginning of the log.
    fn dropped(&self, sent: &Sent, options: &Options) -> bool {
        let below = |(start, (_, high)): (Offset, (Offset, Offset))| high < start;
        options.retention && self.finals.start().zip(sent.places).is_some_and(below)
    }

    /// What one process sent stands in the order in which it sent it.
    fn judge_stream(&self, stream: &[&Sent], options: &Options, check: &mut Check) {
        let mut last: Option<(Offset, &Sent)> = None;
        for sent in stream {
            let offset = if options.whole_streams { sent.offset() } else { sent.acked_at };
            let Some(offset) = offset else { continue };
            if let Some((before, earlier)) = last.filter(|&(before, _)| offset <= before) {
                let what = format!(
                    "process {} sent {} and then {}, they stand at offsets {before} and {offset}",
                    sent.process, earlier.value, sent.value
                );
                check.found("nonmonotonic-send", Some(self.key), vec![earlier.completed, sent.completed], what);
            }
            last = Some((offset, sent));
        }
    }

    /// Of what one process sent, nothing is missing between two others.
    fn judge_wholeness(&self, stream: &[&Sent], options: &Options, check: &mut Check) {
        let there = |sent: &&Sent| sent.marks.has(Marks::FINAL);
        // The beginning may have gone with that of the log.
        let may_be_gone = options.retention && self.finals.start() != Some(0);
        let first = if may_be_gone { stream.iter().position(there).unwrap_or(stream.len()) } else { 0 };
        let Some(last) = stream.iter().rposition(there) else { return };
        for sent in stream.get(first..last).into_iter().flatten() {
            // What must be there is missed by itself, and what failed is not to be there.
            if !there(sent) && !sent.must_be_there() && sent.outcome == Outcome::Unknown {
                let after = stream[last];
                let what = format!(
                    "of what process {} sent, {} is missing, but {} after it is there",
                    sent.process, sent.value, after.value
                );
                check.found("send-skip", Some(self.key), vec![sent.completed, after.completed], what);
            }
        }
    }
}
