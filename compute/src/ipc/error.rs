//! Why Arrow bytes are refused.

use levada_protocol::error::{Error, ErrorCode};

/// What is wrong with an Arrow message or its body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IpcError {
    /// The message as a whole.
    #[error("not a sound Arrow record batch: {0}")]
    Message(String),
    /// One column.
    #[error("field `{field}`: {why}")]
    Field {
        /// Its name.
        field: String,
        /// Words.
        why: String,
    },
    /// A null where the schema allows none.
    #[error("field `{field}`, row {row}: null, and the schema says it never is")]
    Null {
        /// The column's name.
        field: String,
        /// The row, from 0.
        row: usize,
    },
}

impl IpcError {
    pub(crate) fn message(why: impl Into<String>) -> Self {
        Self::Message(why.into())
    }

    pub(crate) fn field(field: &str, why: impl std::fmt::Display) -> Self {
        Self::Field { field: field.to_owned(), why: why.to_string() }
    }
}

impl From<IpcError> for Error {
    fn from(error: IpcError) -> Self {
        let code = match error {
            IpcError::Null { .. } => ErrorCode::SchemaMismatch,
            IpcError::Message(_) | IpcError::Field { .. } => ErrorCode::CorruptBatch,
        };
        Self::new(code, error.to_string())
    }
}
