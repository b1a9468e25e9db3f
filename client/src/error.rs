//! What can go wrong, as a caller of this crate sees it.
//!
//! Everything answers with the protocol's [`Error`]: a stable code, a class that says what to do, words for a person.
//! A failed write says one thing more, because it matters to whoever counts records: whether the record may be in the
//! log all the same ([`Written`]).

pub use levada_protocol::error::{Error, ErrorClass, ErrorCode, NodeAddresses, Result};

/// What is known of a record whose delivery failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is not in the log and never will be. Sending it again cannot double it.
    No,
    /// Nobody knows: the last answer got lost, or never came. Sending it again may double it.
    Unknown,
}

/// A record that was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}{}", match written { Written::No => "", Written::Unknown => " (the record may have been written)" })]
pub struct DeliveryError {
    /// Why.
    pub error: Error,
    /// Whether it may be in the log.
    pub written: Written,
}

impl From<DeliveryError> for Error {
    fn from(failed: DeliveryError) -> Self {
        failed.error
    }
}

/// A request that got no answer, or an error for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    /// Why.
    pub(crate) error: Error,
    /// Whether any byte of the request may have reached the server.
    pub(crate) sent: bool,
}

impl CallError {
    /// The request never left this process.
    pub(crate) const fn unsent(error: Error) -> Self {
        Self { error, sent: false }
    }

    /// The server answered, or may have got the request.
    pub(crate) const fn sent(error: Error) -> Self {
        Self { error, sent: true }
    }

    /// Whether the request may have taken effect. An answer that names a reason to refuse proves that it has not.
    pub(crate) const fn may_have_happened(&self) -> bool {
        self.sent && !is_refusal(self.error.code)
    }
}

/// Whether the code proves that the request had no effect.
const fn is_refusal(code: ErrorCode) -> bool {
    match code.class() {
        ErrorClass::FixRequest | ErrorClass::Fence => !matches!(code, ErrorCode::BadFrame),
        ErrorClass::Retry | ErrorClass::Redirect | ErrorClass::Stop => matches!(
            code,
            ErrorCode::NotReady
                | ErrorCode::Busy
                | ErrorCode::DiskFull
                | ErrorCode::NotLeader
                | ErrorCode::NotController
                | ErrorCode::WrongCluster
                | ErrorCode::WrongIncarnation
        ),
    }
}

/// The error of a connection that broke or could not be made.
pub(crate) fn disconnected(address: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Disconnected, format!("{address}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_proves_that_nothing_happened() {
        let may = |code| CallError::sent(Error::new(code, "")).may_have_happened();
        for code in [
            ErrorCode::Timeout,
            ErrorCode::OutcomeUnknown,
            ErrorCode::Disconnected,
            ErrorCode::Internal,
            ErrorCode::ShuttingDown,
            ErrorCode::StorageFailed,
            ErrorCode::BadFrame,
        ] {
            assert!(may(code), "{code}");
        }
        for code in [
            ErrorCode::Busy,
            ErrorCode::DiskFull,
            ErrorCode::NotReady,
            ErrorCode::NotLeader,
            ErrorCode::OutOfOrderSequence,
            ErrorCode::SchemaMismatch,
        ] {
            assert!(!may(code), "{code}");
        }
        assert!(!CallError::unsent(Error::new(ErrorCode::Disconnected, "")).may_have_happened());
    }
}
