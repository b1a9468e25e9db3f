//! What a failed try means for its batch.

use levada_protocol::error::{ErrorClass, ErrorCode};

use crate::error::CallError;

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same again where it was, after a pause.
    Busy,
    /// The same again where the leader is, or will be.
    Elsewhere,
    /// The sequence does not follow.
    OutOfOrder,
    /// The topic is gone, or the node has not heard of it yet.
    UnknownTopic,
    /// No try will do.
    Final,
}

impl Verdict {
    pub(super) const fn of(failed: &CallError) -> Self {
        let code = failed.error.code;
        if !failed.sent {
            // No such server there. Leaders move; versions and permissions do not.
            return match code {
                ErrorCode::UnsupportedVersion | ErrorCode::Unauthorized => Self::Final,
                _ => Self::Elsewhere,
            };
        }
        match code {
            ErrorCode::OutOfOrderSequence => Self::OutOfOrder,
            ErrorCode::UnknownTopic => Self::UnknownTopic,
            ErrorCode::Busy | ErrorCode::Timeout => Self::Busy,
            ErrorCode::Internal => Self::Final,
            _ => match code.class() {
                ErrorClass::Retry | ErrorClass::Redirect => Self::Elsewhere,
                // The node is of no use any more; the partition moves to another.
                ErrorClass::Stop => Self::Elsewhere,
                ErrorClass::Fence | ErrorClass::FixRequest => Self::Final,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::error::Error;

    use super::*;

    #[test]
    fn verdicts() {
        let of = |code| Verdict::of(&CallError::sent(Error::new(code, "")));
        assert_eq!(of(ErrorCode::Busy), Verdict::Busy);
        assert_eq!(of(ErrorCode::Disconnected), Verdict::Elsewhere);
        // Another replica may lead in a moment.
        assert_eq!(of(ErrorCode::DiskFull), Verdict::Elsewhere);
        assert_eq!(of(ErrorCode::NotLeader), Verdict::Elsewhere);
        assert_eq!(of(ErrorCode::StorageFailed), Verdict::Elsewhere);
        assert_eq!(of(ErrorCode::SchemaMismatch), Verdict::Final);
        assert_eq!(of(ErrorCode::ProducerFenced), Verdict::Final);
        assert_eq!(of(ErrorCode::BadFrame), Verdict::Final);
        let unsent = Verdict::of(&CallError::unsent(Error::new(ErrorCode::BadFrame, "another program has the port")));
        assert_eq!(unsent, Verdict::Elsewhere);
    }
}
