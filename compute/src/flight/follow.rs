//! The story of one followed read: from its ticket to its last byte, as spans.
//!
//! ```text
//! read                 from the call to the end of its body
//! ├ read.ticket        the ticket, rights, and where the read begins and ends
//! ├ read.first_batch   until the first batch can be sent
//! └ read.stream        until the end, however that came
//! ```

use std::time::Instant;

use levada_protocol::{
    error::Error,
    ticket::Ticket,
    trace::{Followed, SpanKind, SpanValue},
};

/// A read that is followed. Told when it is dropped: a reader may go away at any time.
#[derive(Debug)]
pub(crate) struct ReadStory {
    followed: Option<Followed>,
    begun: Instant,
    opened: Option<Instant>,
    first_batch: Option<Instant>,
    about: Vec<(&'static str, SpanValue)>,
    batches: u64,
    records: usize,
    bytes: usize,
    /// It has come to its end, or failed.
    complete: bool,
    error: Option<String>,
}

impl ReadStory {
    pub(crate) fn new(followed: Followed, client: &str) -> Self {
        Self {
            followed: Some(followed),
            begun: Instant::now(),
            opened: None,
            first_batch: None,
            about: vec![("levada.client", client.to_owned().into())],
            batches: 0,
            records: 0,
            bytes: 0,
            complete: false,
            error: None,
        }
    }

    /// The ticket can be used.
    pub(crate) fn opened(&mut self, ticket: &Ticket) {
        self.opened = Some(Instant::now());
        self.about.push(("levada.topic_id", ticket.partition.topic.to_string().into()));
        self.about.push(("levada.partition", u64::from(ticket.partition.partition.get()).into()));
    }

    /// A batch can be sent.
    pub(crate) fn batch(&mut self, records: usize) {
        self.first_batch.get_or_insert_with(Instant::now);
        self.batches += 1;
        self.records += records;
    }

    /// Bytes were handed over to be sent.
    pub(crate) const fn sent(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The read has come to its end, or failed.
    pub(crate) fn ended(&mut self, error: Option<&Error>) {
        self.complete = true;
        self.error = error.map(ToString::to_string);
    }
}

impl Drop for ReadStory {
    fn drop(&mut self) {
        let Some(followed) = self.followed.take() else { return };
        let now = Instant::now();
        followed.stage("read.ticket", self.begun, self.opened.unwrap_or(now), vec![]);
        if let Some(opened) = self.opened {
            followed.stage("read.first_batch", opened, self.first_batch.unwrap_or(now), vec![]);
        }
        let (batches, records) = (("levada.batches", self.batches.into()), ("levada.records", self.records.into()));
        let bytes = ("levada.bytes", self.bytes.into());
        if let Some(first) = self.first_batch {
            followed.stage("read.stream", first, now, vec![bytes.clone(), records.clone(), batches.clone()]);
        }
        let mut about = std::mem::take(&mut self.about);
        about.extend([bytes, records, batches]);
        if !self.complete {
            // No fault of anybody's: a reader that follows ends so.
            about.push(("levada.left", "the reader went away before the end".to_owned().into()));
        }
        followed.end(("read", SpanKind::Server), self.begun, now, about, self.error.take());
    }
}
