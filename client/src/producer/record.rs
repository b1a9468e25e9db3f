//! What a program hands to a producer, and what it gets back.

use levada_protocol::{
    batch::NewRecord,
    ids::{Offset, PartitionId},
};

/// A record to be written. Borrows its parts: they are copied once, into the batch that carries them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// Decides the partition, unless that is given; records of one key keep their order.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers; a name may occur more than once.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Milliseconds since 1970; the time of sending when not given.
    pub timestamp_ms: Option<i64>,
    /// The partition, when the key shall not decide it.
    pub partition: Option<PartitionId>,
}

impl<'a> Record<'a> {
    /// A record with this value.
    #[must_use]
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self { value: Some(value.as_ref()), ..Self::default() }
    }

    /// A record that says that its key is gone.
    #[must_use]
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::default().with_key(key)
    }

    /// The same with a key.
    #[must_use]
    pub fn with_key(mut self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.key = Some(key.as_ref());
        self
    }

    /// The same with headers.
    #[must_use]
    pub const fn with_headers(mut self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> Self {
        self.headers = headers;
        self
    }

    /// The same with a time of its own.
    #[must_use]
    pub const fn with_timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// The same for this partition.
    #[must_use]
    pub const fn with_partition(mut self, partition: PartitionId) -> Self {
        self.partition = Some(partition);
        self
    }

    /// What it takes of the producer's buffer.
    pub(super) fn buffered_bytes(&self) -> usize {
        let bytes = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + bytes(*value) + HEADER_OVERHEAD).sum();
        RECORD_OVERHEAD + bytes(self.key) + bytes(self.value) + headers
    }

    pub(super) fn at(&self, now_ms: i64) -> NewRecord<'a> {
        NewRecord {
            timestamp_ms: self.timestamp_ms.unwrap_or(now_ms),
            key: self.key,
            value: self.value,
            headers: self.headers,
        }
    }
}

/// What the batch format adds to a record and to one of its headers, at most.
const RECORD_OVERHEAD: usize = 32;
const HEADER_OVERHEAD: usize = 10;

/// Where an acknowledged record is: durable on a quorum of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: PartitionId,
    /// Its offset there.
    pub offset: Offset,
}
