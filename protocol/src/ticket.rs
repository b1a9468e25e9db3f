//! Flight tickets: which records of one partition, and how to give them.
//!
//! A ticket names the topic by its UUID, so that one kept over a delete and recreate reads nothing of the new topic.
//! Clients get tickets from `GetFlightInfo` and hand them back as they are. Bytes: a version, then protobuf.
#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::{
    error::{Error, ErrorCode, Result},
    ids::{Offset, PartitionId, TopicId, TopicPartition},
    limits::{KIB, SCHEMA_FIELDS_MAX},
    messages::ticket as wire,
};

/// First byte of a ticket.
const VERSION: u8 = 1;
/// The longest ticket accepted.
pub const TICKET_BYTES_MAX: usize = 256 * KIB;

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this offset.
    Offset(Offset),
    /// At the first record not older than this, in milliseconds since the epoch.
    Time(i64),
    /// At the end of the log as it is when the read begins.
    Latest,
}

/// Where a read ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before this offset.
    Offset(Offset),
    /// Before the first record not older than this, in milliseconds since the epoch.
    Time(i64),
    /// Never: wait for what comes.
    Follow,
}

/// Which records of one partition, and how to give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The partition.
    pub partition: TopicPartition,
    /// Where to begin.
    pub start: Start,
    /// Where to end.
    pub end: End,
    /// Which columns, in this order; empty for all.
    pub columns: Vec<String>,
    /// The most rows of one record batch; 0 leaves it to the server.
    pub max_batch_rows: u32,
}

impl Ticket {
    /// Everything from `start` to `end`, all columns.
    #[must_use]
    pub const fn new(partition: TopicPartition, start: Start, end: End) -> Self {
        Self { partition, start, end, columns: Vec::new(), max_batch_rows: 0 }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use wire::ticket::{End as WireEnd, Start as WireStart};
        let message = wire::Ticket {
            topic_id: Bytes::copy_from_slice(&self.partition.topic.to_bytes()),
            partition: self.partition.partition.get(),
            start: Some(match self.start {
                Start::Offset(offset) => WireStart::StartOffset(offset.get()),
                Start::Time(time) => WireStart::StartTimeMs(time),
                Start::Latest => WireStart::StartLatest(true),
            }),
            end: Some(match self.end {
                End::Offset(offset) => WireEnd::EndOffset(offset.get()),
                End::Time(time) => WireEnd::EndTimeMs(time),
                End::Follow => WireEnd::Follow(true),
            }),
            columns: self.columns.clone(),
            max_batch_rows: self.max_batch_rows,
        };
        let mut out = BytesMut::with_capacity(1 + message.encoded_len());
        out.put_u8(VERSION);
        message.encode_raw(&mut out);
        out.freeze()
    }

    /// From the bytes.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidTicket`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        use wire::ticket::{End as WireEnd, Start as WireStart};
        let invalid = |why: &str| {
            Error::new(ErrorCode::InvalidTicket, format!("not a ticket ({why}); ask GetFlightInfo for a new one"))
        };
        if bytes.len() > TICKET_BYTES_MAX {
            return Err(invalid("it is too long"));
        }
        let (&version, body) = bytes.split_first().ok_or_else(|| invalid("it is empty"))?;
        if version != VERSION {
            return Err(invalid("its version is unknown"));
        }
        let message = wire::Ticket::decode(body).map_err(|error| invalid(&error.to_string()))?;
        if message.columns.len() > SCHEMA_FIELDS_MAX {
            return Err(invalid("it names too many columns"));
        }
        Ok(Self {
            partition: TopicPartition {
                topic: TopicId::from_slice(&message.topic_id).ok_or_else(|| invalid("it names no topic"))?,
                partition: PartitionId(message.partition),
            },
            start: match message.start.ok_or_else(|| invalid("it has no start"))? {
                WireStart::StartOffset(offset) => Start::Offset(Offset(offset)),
                WireStart::StartTimeMs(time) => Start::Time(time),
                WireStart::StartLatest(_) => Start::Latest,
            },
            end: match message.end.ok_or_else(|| invalid("it has no end"))? {
                WireEnd::EndOffset(offset) => End::Offset(Offset(offset)),
                WireEnd::EndTimeMs(time) => End::Time(time),
                WireEnd::Follow(_) => End::Follow,
            },
            columns: message.columns,
            max_batch_rows: message.max_batch_rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            columns: vec!["a".into(), "b".into()],
            max_batch_rows: 7,
            ..Ticket::new(
                TopicPartition { topic: TopicId::from_bytes([9; 16]), partition: PartitionId(4) },
                Start::Time(-5),
                End::Offset(Offset(1 << 40)),
            )
        }
    }

    #[test]
    fn golden_bytes_and_back() {
        let bytes = ticket().encode();
        let expected = [
            &[1, 0x0a, 16][..],
            &[9; 16],
            &[0x10, 4, 0x20, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x30, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0x4a, 1, b'a', 0x4a, 1, b'b', 0x50, 7],
        ]
        .concat();
        assert_eq!(bytes.as_ref(), expected);
        assert_eq!(Ticket::decode(&bytes).unwrap(), ticket());
    }

    #[test]
    fn no_bytes_panic_and_wrong_ones_say_so() {
        let bytes = ticket().encode();
        for cut in 0..bytes.len() {
            let _ = Ticket::decode(&bytes[..cut]);
        }
        for wrong in [&b""[..], b"\x02", b"\x01\xff\xff", &vec![1; TICKET_BYTES_MAX + 1]] {
            assert_eq!(Ticket::decode(wrong).unwrap_err().code, ErrorCode::InvalidTicket);
        }
    }
}
