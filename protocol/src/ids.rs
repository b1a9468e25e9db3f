//! Newtypes for every number that names something, so that an offset is never passed for an index.
//!
//! All of them are plain integers on the wire and on disk; `docs/format.md` says how wide.

use std::fmt;

use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$repr> for $name {
            fn from(value: $repr) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// A node of the cluster: one `levada server` process with its data directory. Chosen by the operator, from 1.
    NodeId, u64
);
number!(
    /// A raft group. 0 is the metadata group; every partition has one of its own. Never reused.
    GroupId, u64
);
number!(
    /// A replica of a raft group (raft's peer id). Never reused: a replaced replica gets a new id.
    ReplicaId, u64
);
number!(
    /// A partition's number within its topic, from 0.
    PartitionId, u32
);
number!(
    /// A record's number in its partition, from 0. Never changes.
    Offset, u64
);
number!(
    /// A raft log position of a group, from 1. Control entries have an index but no offset.
    LogIndex, u64
);
number!(
    /// A raft term.
    Term, u64
);
number!(
    /// The number of a journal block, from 1, over all files of one data directory.
    Lsn, u64
);
number!(
    /// An idempotent producer.
    ProducerId, i64
);
number!(
    /// The incarnation of an idempotent producer; a higher one fences the lower ones off.
    ProducerEpoch, i16
);

impl GroupId {
    /// The metadata group.
    pub const METADATA: Self = Self(0);
}

impl Offset {
    /// The offset `count` records further.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl LogIndex {
    /// The next index.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! unique {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes, big-endian, as they stand on the wire and on disk.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// From the 16 bytes of the wire.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// From a slice of the wire, if it is 16 bytes long.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unique!(
    /// A topic's identity. A topic deleted and created again under the same name, by another request, has another one.
    TopicId
);

impl TopicId {
    /// The id of the topic that a request made: it follows from what the client drew for the request and the topic's name (UUID
    /// version 5, RFC 9562). Nobody can have a topic get the id of another topic; a request that comes once more, late, makes one with
    /// the same id again, if the topic was deleted meanwhile.
    #[must_use]
    pub fn of_request(request: Uuid, name: &str) -> Self {
        Self(Uuid::new_v5(&request, name.as_bytes()))
    }
}

unique!(
    /// A cluster's identity, drawn when it is founded and carried by every directory and handshake.
    ClusterId
);
unique!(
    /// A data directory's identity, drawn when the directory is formatted. A wiped node comes back with another one.
    IncarnationId
);

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: PartitionId,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
