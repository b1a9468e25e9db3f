//! Why bytes are not a record batch.

use super::Compression;
use crate::error::{Error, ErrorCode};

/// What is wrong with a record batch. Positions and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the batch takes {needed} bytes and {available} are there")]
    Truncated {
        /// What it takes, as far as is known.
        needed: usize,
        /// What is there.
        available: usize,
    },
    /// The length field is below the smallest batch.
    #[error("batch length {0} is shorter than a header")]
    Length(i32),
    /// The batch is larger than the limit.
    #[error(
        "a batch of {bytes} bytes is larger than the {max} allowed; send smaller batches or raise max.message.bytes"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The format is neither rows nor columns.
    #[error("magic {0} is not a format of this log (2: rows, {columns}: columns)", columns = super::header::MAGIC_COLUMNS)]
    Magic(i8),
    /// The checksum does not match the bytes.
    #[error("the batch says CRC-32C {stored:#010x}, its bytes have {computed:#010x}")]
    Crc {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The attributes name a codec that does not exist.
    #[error("codec {0} does not exist (0: none, 1: gzip, 2: snappy, 3: lz4, 4: zstd)")]
    Codec(u8),
    /// The attributes are not those of such a batch.
    #[error("attributes {0:#06x} are not those of such a batch")]
    Attributes(u16),
    /// A header field contradicts the others or is out of range.
    #[error("{field} is {value}, which cannot be")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// The padding between two batches, or in front of a columns body, is not zero.
    #[error("the padding at byte {0} is not zero")]
    Padding(usize),
    /// Bytes follow where the batch, or its last record, ends.
    #[error("{0} bytes follow the end")]
    Surplus(usize),
    /// A record is malformed.
    #[error("record {number} of the batch is malformed: {fault}")]
    Record {
        /// Which one, from 0.
        number: u32,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The records do not decompress.
    #[error("the records do not decompress with {codec:?}: {reason}")]
    Decompress {
        /// The codec that the attributes name.
        codec: Compression,
        /// What it says.
        reason: String,
    },
    /// The records decompress to more than is allowed.
    #[error("the records decompress with {codec:?} to more than {max} bytes; send smaller batches")]
    Unfolds {
        /// The codec.
        codec: Compression,
        /// What is allowed for a batch of this size.
        max: usize,
    },
    /// The container of a columns batch is malformed.
    #[error("the columns are malformed: {0}")]
    Columns(&'static str),
}

impl From<BatchError> for Error {
    fn from(error: BatchError) -> Self {
        let code = match error {
            BatchError::TooLarge { .. } | BatchError::Unfolds { .. } => ErrorCode::RecordTooLarge,
            _ => ErrorCode::CorruptBatch,
        };
        Self::new(code, error.to_string())
    }
}
