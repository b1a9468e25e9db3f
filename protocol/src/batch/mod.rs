//! The record batch: records written together, and the unit in which they are sent, stored, replicated and read.
//!
//! A batch is a [`header`] of 61 bytes and a payload in one of two formats. **Rows** are Kafka's record batch v2 as it
//! is: what a Kafka client sends is stored and served without a change. **Columns** have the same header under a magic
//! of our own, and an Arrow IPC message as payload, aligned so that a mapped file hands out usable buffers.
//!
//! What everybody relies on:
//! - A batch knows its size, offsets and record count from its header alone. Journal, log and raft never look further.
//! - Its CRC covers everything but base offset and leader epoch, so the one thing that changes after a producer made a
//!   batch, the leader's [`stamp`], needs no second pass over it.
//! - Bytes from elsewhere are never trusted: every length is checked against the bytes that are there and the bounds
//!   of [`crate::limits`] before anything is allocated, and no input panics.

mod attributes;
mod builder;
pub mod columns;
mod compression;
mod error;
pub mod header;
mod iter;
mod producer;
pub mod rows;
pub mod validate;
mod varint;

pub use attributes::{Attributes, Compression, TimestampType};
pub use builder::{NewRecord, RowsBuilder};
pub use columns::{ColumnsInfo, ColumnsPayload};
pub use compression::decompressed_bytes_max;
pub use error::BatchError;
pub use header::{
    BatchHeader, HEADER_BYTES, MAGIC_COLUMNS, MAGIC_ROWS, NO_LEADER_EPOCH, UNCRCED_BYTES, batch_bytes, seal, stamp,
    verify_crc,
};
pub use iter::{BatchIter, BatchRef, padded_bytes};
pub use producer::{BatchProducer, sequence_plus};
pub use rows::{Record, RecordHeaders, Records, Rows};
pub use validate::{validate_envelope, validate_produced, validate_records};
