//! What can go wrong, as a caller sees it: a stable code, a class that says what to do, and words for a person.
//!
//! Inside, each operation has its own error type. Where an error leaves a process it becomes an [`Error`]: its
//! [`ErrorCode`] never changes its number, and [`ErrorCode::class`] is all that a client's retry loop looks at.

use std::fmt;

use bytes::Bytes;

use crate::{ids::NodeId, limits::ERROR_MESSAGE_BYTES_MAX, messages::native};

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Try the same again after a pause.
    Retry,
    /// Ask for metadata again, or go where the error points, and try there.
    Redirect,
    /// Another instance took over; this one must stop.
    Fence,
    /// The request is wrong; trying again will not help.
    FixRequest,
    /// The server side needs an operator.
    Stop,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident, $text:literal;)*) => {
        /// A kind of error. The numbers are part of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl ErrorCode {
            /// All codes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// From the number on the wire; an unknown one is [`ErrorCode::Internal`].
            #[must_use]
            pub fn from_u32(code: u32) -> Self {
                match code {
                    $($code => Self::$name,)*
                    _ => Self::Internal,
                }
            }

            /// What to do about it.
            #[must_use]
            pub const fn class(self) -> ErrorClass {
                match self {
                    $(Self::$name => ErrorClass::$class,)*
                }
            }

            /// The stable name, such as `NOT_LEADER`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// A defect of the server; its log says more.
    Internal = 1, Stop, "INTERNAL";
    /// The node is starting, or the partition's new leader has not committed in its term yet.
    NotReady = 10, Retry, "NOT_READY";
    /// The deadline passed before an answer was there. A write may have happened or not.
    Timeout = 11, Retry, "TIMEOUT";
    /// A budget (bytes in flight, tail, queue) is used up.
    Busy = 12, Retry, "BUSY";
    /// Leadership was lost while the write was under way. It may have happened or not.
    OutcomeUnknown = 13, Retry, "OUTCOME_UNKNOWN";
    /// The node is going down.
    ShuttingDown = 14, Redirect, "SHUTTING_DOWN";
    /// The connection broke. A write may have happened or not.
    Disconnected = 15, Retry, "DISCONNECTED";
    /// The disk of the partition's leader is full, and nobody else could lead. Nothing was written.
    DiskFull = 16, Retry, "DISK_FULL";
    /// This node does not lead the partition.
    NotLeader = 20, Redirect, "NOT_LEADER";
    /// This node does not lead the metadata group.
    NotController = 21, Redirect, "NOT_CONTROLLER";
    /// A newer epoch of this producer id has written.
    ProducerFenced = 30, Fence, "PRODUCER_FENCED";
    /// A batch's sequence does not follow the last one.
    OutOfOrderSequence = 31, Fence, "OUT_OF_ORDER_SEQUENCE";
    /// The group does not know the member, or not in this epoch: others may have its partitions. It may join again.
    MemberFenced = 32, Fence, "MEMBER_FENCED";
    /// The partition is not the member's, or was given to it in a later epoch than the one it names.
    NotAssigned = 33, Fence, "NOT_ASSIGNED";
    /// The request is malformed.
    InvalidRequest = 40, FixRequest, "INVALID_REQUEST";
    /// There is no such topic.
    UnknownTopic = 41, FixRequest, "UNKNOWN_TOPIC";
    /// The topic has no such partition.
    UnknownPartition = 42, FixRequest, "UNKNOWN_PARTITION";
    /// The offset is below the log start or above the end.
    OffsetOutOfRange = 43, FixRequest, "OFFSET_OUT_OF_RANGE";
    /// A topic of that name is there.
    TopicExists = 44, FixRequest, "TOPIC_EXISTS";
    /// The name has characters or a length that names may not have.
    InvalidName = 45, FixRequest, "INVALID_NAME";
    /// A configuration key or value is wrong.
    InvalidConfig = 46, FixRequest, "INVALID_CONFIG";
    /// The batch is larger than the topic allows.
    RecordTooLarge = 47, FixRequest, "RECORD_TOO_LARGE";
    /// The batch is damaged or contradicts itself.
    CorruptBatch = 48, FixRequest, "CORRUPT_BATCH";
    /// A row or column does not fit the topic's schema.
    SchemaMismatch = 49, FixRequest, "SCHEMA_MISMATCH";
    /// The two sides speak no common protocol version.
    UnsupportedVersion = 50, FixRequest, "UNSUPPORTED_VERSION";
    /// The principal may not do this.
    Unauthorized = 51, FixRequest, "UNAUTHORIZED";
    /// A frame is larger than allowed or does not parse.
    BadFrame = 52, FixRequest, "BAD_FRAME";
    /// The ticket does not parse.
    InvalidTicket = 53, FixRequest, "INVALID_TICKET";
    /// There are fewer nodes than replicas asked for.
    NotEnoughNodes = 54, FixRequest, "NOT_ENOUGH_NODES";
    /// The server does not know this request.
    UnknownApi = 55, FixRequest, "UNKNOWN_API";
    /// There is no such node.
    UnknownNode = 56, FixRequest, "UNKNOWN_NODE";
    /// The cluster is not at the feature level that the request needs: some node runs an older build.
    FeatureLevel = 57, FixRequest, "FEATURE_LEVEL";
    /// What the request is to recover goes on, or will, without it.
    NotNeeded = 58, FixRequest, "NOT_NEEDED";
    /// The data directory failed; the node must be looked at.
    StorageFailed = 60, Stop, "STORAGE_FAILED";
    /// Stored bytes are damaged here; another replica may have them.
    Damaged = 61, Stop, "DAMAGED";
    /// The other side belongs to another cluster.
    WrongCluster = 62, Stop, "WRONG_CLUSTER";
    /// The node id is known with another data directory: a wiped node comes back only as somebody new.
    WrongIncarnation = 63, Stop, "WRONG_INCARNATION";
    /// The node is not of the cluster, and nobody has let it join.
    NotAdmitted = 64, Stop, "NOT_ADMITTED";
    /// The node was decommissioned.
    NodeRemoved = 65, Stop, "NODE_REMOVED";
    /// There is no such consumer group.
    UnknownGroup = 70, FixRequest, "UNKNOWN_GROUP";
    /// What is wanted goes only while the group has no members.
    GroupNotEmpty = 71, FixRequest, "GROUP_NOT_EMPTY";
    /// Another member has this static id.
    InstanceInUse = 72, FixRequest, "INSTANCE_IN_USE";
    /// There are as many groups, members or offsets as there may be.
    GroupQuota = 73, FixRequest, "GROUP_QUOTA";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a node listens, as a redirect or metadata names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// The node.
    pub node: NodeId,
    /// `host:port` of the native protocol.
    pub native: String,
    /// `host:port` of Arrow Flight.
    pub flight: String,
    /// `host:port` of metrics and health.
    pub http: String,
}

impl From<native::NodeAddresses> for NodeAddresses {
    fn from(wire: native::NodeAddresses) -> Self {
        Self { node: NodeId(wire.node_id), native: wire.native, flight: wire.flight, http: wire.http }
    }
}

impl From<NodeAddresses> for native::NodeAddresses {
    fn from(addresses: NodeAddresses) -> Self {
        Self { node_id: addresses.node.get(), native: addresses.native, flight: addresses.flight, http: addresses.http }
    }
}

/// An error as it crosses a process boundary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// The stable kind.
    pub code: ErrorCode,
    /// What happened, to what, and what to do next.
    pub message: String,
    /// Where to go instead, when the code redirects and the server knows.
    pub leader: Option<Box<NodeAddresses>>,
}

/// Where a gRPC status carries an [`Error`] as it stands in an error frame: binary metadata under this name.
pub const GRPC_ERROR_KEY: &str = "levada-error-bin";
/// Where a gRPC status carries the code's name, for people and for clients in other languages.
pub const GRPC_ERROR_CODE_KEY: &str = "levada-error-code";

/// The result of an operation that crosses a process boundary.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind with these words.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None }
    }

    /// The same, pointing to the node to ask instead.
    #[must_use]
    pub fn redirect(mut self, leader: Option<NodeAddresses>) -> Self {
        self.leader = leader.map(Box::new);
        self
    }

    /// What a caller should do.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        self.code.class()
    }

    /// As it stands in an error frame; words beyond [`ERROR_MESSAGE_BYTES_MAX`] are left out.
    #[must_use]
    pub fn to_wire(&self) -> native::ErrorMessage {
        native::ErrorMessage {
            code: u32::from(self.code as u16),
            message: clipped(&self.message),
            leader: self.leader.as_deref().cloned().map(Into::into),
        }
    }

    /// From an error frame.
    #[must_use]
    pub fn from_wire(wire: native::ErrorMessage) -> Self {
        Self {
            code: ErrorCode::from_u32(wire.code),
            message: wire.message,
            leader: wire.leader.map(|leader| Box::new(leader.into())),
        }
    }

    /// From the header bytes of an error frame; bytes that do not parse are an error of their own.
    #[must_use]
    pub fn decode(header: Bytes) -> Self {
        match prost::Message::decode(header) {
            Ok(wire) => Self::from_wire(wire),
            Err(error) => Self::new(ErrorCode::BadFrame, format!("the error frame itself does not parse: {error}")),
        }
    }
}

fn clipped(message: &str) -> String {
    let kept = message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX);
    let mut clipped = message.get(..kept).unwrap_or_default().to_owned();
    if kept < message.len() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_survive_the_wire() {
        let mut seen = std::collections::BTreeSet::new();
        for &code in ErrorCode::ALL {
            assert!(seen.insert(code as u16), "{code} has the number of another");
            let error = Error::new(code, "why").redirect(Some(NodeAddresses {
                node: NodeId(3),
                native: "a:1".into(),
                flight: "a:2".into(),
                http: "a:3".into(),
            }));
            assert_eq!(Error::from_wire(error.to_wire()), error);
        }
    }

    #[test]
    fn long_words_are_clipped_on_the_wire() {
        let error = Error::new(ErrorCode::InvalidName, "é".repeat(1 << 20));
        let wire = error.to_wire();
        assert_eq!(wire.message.chars().count(), ERROR_MESSAGE_BYTES_MAX / 2 + 1);
        assert!(wire.message.ends_with('…'));
    }

    #[test]
    fn the_numbers_are_pinned() {
        let pinned: Vec<(u16, &str)> = ErrorCode::ALL.iter().map(|code| (*code as u16, code.name())).collect();
        assert_eq!(
            pinned,
            [
                (1, "INTERNAL"),
                (10, "NOT_READY"),
                (11, "TIMEOUT"),
                (12, "BUSY"),
                (13, "OUTCOME_UNKNOWN"),
                (14, "SHUTTING_DOWN"),
                (15, "DISCONNECTED"),
                (16, "DISK_FULL"),
                (20, "NOT_LEADER"),
                (21, "NOT_CONTROLLER"),
                (30, "PRODUCER_FENCED"),
                (31, "OUT_OF_ORDER_SEQUENCE"),
                (32, "MEMBER_FENCED"),
                (33, "NOT_ASSIGNED"),
                (40, "INVALID_REQUEST"),
                (41, "UNKNOWN_TOPIC"),
                (42, "UNKNOWN_PARTITION"),
                (43, "OFFSET_OUT_OF_RANGE"),
                (44, "TOPIC_EXISTS"),
                (45, "INVALID_NAME"),
                (46, "INVALID_CONFIG"),
                (47, "RECORD_TOO_LARGE"),
                (48, "CORRUPT_BATCH"),
                (49, "SCHEMA_MISMATCH"),
                (50, "UNSUPPORTED_VERSION"),
                (51, "UNAUTHORIZED"),
                (52, "BAD_FRAME"),
                (53, "INVALID_TICKET"),
                (54, "NOT_ENOUGH_NODES"),
                (55, "UNKNOWN_API"),
                (56, "UNKNOWN_NODE"),
                (57, "FEATURE_LEVEL"),
                (58, "NOT_NEEDED"),
                (60, "STORAGE_FAILED"),
                (61, "DAMAGED"),
                (62, "WRONG_CLUSTER"),
                (63, "WRONG_INCARNATION"),
                (64, "NOT_ADMITTED"),
                (65, "NODE_REMOVED"),
                (70, "UNKNOWN_GROUP"),
                (71, "GROUP_NOT_EMPTY"),
                (72, "INSTANCE_IN_USE"),
                (73, "GROUP_QUOTA"),
            ]
        );
    }
}
