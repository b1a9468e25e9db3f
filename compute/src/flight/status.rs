//! Errors as gRPC statuses.
//!
//! The gRPC code is for clients that know nothing of Levada; ours read the stable code and the leader's address from
//! the metadata ([`GRPC_ERROR_KEY`]). The message begins with the code's name either way.

use levada_protocol::error::{Error, ErrorCode, GRPC_ERROR_CODE_KEY, GRPC_ERROR_KEY};
use prost::Message;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use crate::metrics::FLIGHT_ERRORS_TOTAL;

/// The error as a status.
#[must_use]
pub fn status_of(error: &Error) -> Status {
    let mut metadata = MetadataMap::new();
    if let Ok(name) = error.code.name().parse() {
        metadata.insert(GRPC_ERROR_CODE_KEY, name);
    }
    let wire = error.to_wire();
    metadata.insert_bin(GRPC_ERROR_KEY, MetadataValue::from_bytes(&wire.encode_to_vec()));
    // In words as short as on the wire: a client takes only so much of headers.
    Status::with_metadata(grpc_code(error.code), Error::from_wire(wire).to_string(), metadata)
}

/// The same error, counted as the end of a call.
pub(crate) fn counted(error: Error) -> Error {
    metrics::counter!(FLIGHT_ERRORS_TOTAL.name, "code" => error.code.name()).increment(1);
    error
}

const fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::Internal | ErrorCode::StorageFailed => Code::Internal,
        ErrorCode::NotReady
        | ErrorCode::Timeout
        | ErrorCode::OutcomeUnknown
        | ErrorCode::ShuttingDown
        | ErrorCode::Disconnected => Code::Unavailable,
        ErrorCode::Busy | ErrorCode::DiskFull | ErrorCode::RecordTooLarge | ErrorCode::GroupQuota => {
            Code::ResourceExhausted
        }
        ErrorCode::NotLeader
        | ErrorCode::NotController
        | ErrorCode::NotEnoughNodes
        | ErrorCode::WrongCluster
        | ErrorCode::WrongIncarnation
        | ErrorCode::FeatureLevel
        | ErrorCode::NotNeeded
        | ErrorCode::NotAdmitted
        | ErrorCode::NodeRemoved
        | ErrorCode::GroupNotEmpty => Code::FailedPrecondition,
        ErrorCode::ProducerFenced
        | ErrorCode::OutOfOrderSequence
        | ErrorCode::MemberFenced
        | ErrorCode::NotAssigned => Code::Aborted,
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidName
        | ErrorCode::InvalidConfig
        | ErrorCode::CorruptBatch
        | ErrorCode::SchemaMismatch
        | ErrorCode::BadFrame
        | ErrorCode::InvalidTicket => Code::InvalidArgument,
        ErrorCode::UnknownTopic | ErrorCode::UnknownPartition | ErrorCode::UnknownNode | ErrorCode::UnknownGroup => {
            Code::NotFound
        }
        ErrorCode::OffsetOutOfRange => Code::OutOfRange,
        ErrorCode::TopicExists | ErrorCode::InstanceInUse => Code::AlreadyExists,
        ErrorCode::UnsupportedVersion | ErrorCode::UnknownApi => Code::Unimplemented,
        ErrorCode::Unauthorized => Code::PermissionDenied,
        ErrorCode::Damaged => Code::DataLoss,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_as_a_status() {
        for &code in ErrorCode::ALL {
            let error = Error::new(code, "why");
            let status = status_of(&error);
            assert_ne!(status.code(), Code::Ok);
            assert!(status.message().starts_with(code.name()));
            assert_eq!(status.metadata().get(GRPC_ERROR_CODE_KEY).unwrap(), code.name());
            let wire = status.metadata().get_bin(GRPC_ERROR_KEY).unwrap().to_bytes().unwrap();
            assert_eq!(Error::decode(wire), error);
        }
    }
}
