//! Where a partition's reading begins, is, and ends.

use levada_protocol::{
    error::Result,
    ids::{Offset, PartitionId},
    ticket,
};

use crate::cluster::Cluster;

/// Where reading begins, in each partition. What is said of the moment when the consumer is built is, in a partition that has no
/// leader then, said of the moment when it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    #[default]
    Earliest,
    /// At the end of the log as it is when the consumer is built.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record not older than this, in milliseconds since 1970.
    Time(i64),
}

/// Where reading ends, in each partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// At the end of the log as it is when the consumer is built.
    #[default]
    Latest,
    /// Before this offset, or at the end of the log if that comes first.
    Offset(Offset),
    /// Before the first record not older than this, in milliseconds since 1970.
    Time(i64),
    /// Never: waits for what comes.
    Follow,
}

/// The range that one partition's reader has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Where to begin as long as nothing was read.
    start: ticket::Start,
    /// Where to go on.
    next: Option<Offset>,
    end: ticket::End,
}

impl Position {
    /// Fixes the moving points. `Latest` must be resolved once: were it resolved again after a failure, records in
    /// between would be skipped.
    pub(super) async fn resolve(
        cluster: &Cluster,
        topic: &str,
        partition: PartitionId,
        start: Start,
        end: End,
    ) -> Result<Self> {
        let offsets = match (start, end) {
            (Start::Earliest | Start::Latest, _) | (_, End::Latest) => {
                Some(cluster.list_offsets(topic, partition, None).await?)
            }
            _ => None,
        };
        let (log_start, high_watermark) =
            offsets.map_or((Offset(0), Offset(0)), |offsets| (offsets.log_start, offsets.high_watermark));
        let start = match start {
            Start::Earliest => ticket::Start::Offset(log_start),
            Start::Latest => ticket::Start::Offset(high_watermark),
            Start::Offset(offset) => ticket::Start::Offset(offset),
            Start::Time(time) => ticket::Start::Time(time),
        };
        let end = match end {
            End::Latest => ticket::End::Offset(high_watermark),
            End::Offset(offset) => ticket::End::Offset(offset),
            End::Time(time) => ticket::End::Time(time),
            End::Follow => ticket::End::Follow,
        };
        Ok(Self { start, next: None, end })
    }

    /// Before it is resolved.
    pub(super) const fn unknown(end: End) -> Self {
        let end = match end {
            End::Follow => ticket::End::Follow,
            _ => ticket::End::Offset(Offset(0)),
        };
        Self { start: ticket::Start::Offset(Offset(0)), next: None, end }
    }

    /// Where a ticket for the rest begins.
    pub(super) fn ticket_start(&self) -> ticket::Start {
        self.next.map_or(self.start, ticket::Start::Offset)
    }

    /// Where a ticket for the rest ends.
    pub(super) const fn ticket_end(&self) -> ticket::End {
        self.end
    }

    /// The least offset that a row may have.
    pub(super) const fn expected(&self) -> Offset {
        match (self.next, self.start) {
            (Some(next), _) | (None, ticket::Start::Offset(next)) => next,
            (None, ticket::Start::Time(_) | ticket::Start::Latest) => Offset(0),
        }
    }

    /// Everything before `next` was read.
    pub(super) fn advance(&mut self, next: Offset) {
        self.next = Some(self.next.map_or(next, |known| known.max(next)));
    }

    /// Whether nothing is left.
    pub(super) fn is_at_end(&self) -> bool {
        match self.end {
            ticket::End::Offset(end) => self.expected() >= end,
            ticket::End::Time(_) | ticket::End::Follow => false,
        }
    }

    /// Whether it never ends.
    pub(super) const fn follows(&self) -> bool {
        matches!(self.end, ticket::End::Follow)
    }

    /// Begins at the log's start again, which has moved on before anything was read.
    pub(super) fn restart_at(&mut self, log_start: Offset) {
        self.start = ticket::Start::Offset(log_start);
        self.next = None;
    }

    /// Whether anything was read.
    pub(super) const fn has_begun(&self) -> bool {
        self.next.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_only_move_forward() {
        let mut position = Position { start: ticket::Start::Time(5), next: None, end: ticket::End::Offset(Offset(10)) };
        assert_eq!((position.ticket_start(), position.expected()), (ticket::Start::Time(5), Offset(0)));
        position.advance(Offset(7));
        position.advance(Offset(3));
        assert_eq!(position.ticket_start(), ticket::Start::Offset(Offset(7)));
        assert!(!position.is_at_end());
        position.advance(Offset(10));
        assert!(position.is_at_end());
        assert!(!Position { end: ticket::End::Follow, ..position }.is_at_end());
    }
}
