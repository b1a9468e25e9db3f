//! Arrow's IPC format, read as if an enemy had written it and written without moving the data.
//!
//! arrow-ipc reads what a friend wrote: it slices without checking, allocates what a length field says, and builds one
//! body out of arrays. The doors here need more:
//!
//! - **Reading** (`message`, `schema`, `read`, `compression`): every length is checked against the bytes that
//!   are there before it is used, what a buffer unfolds to is bounded for the batch as a whole, and only what Arrow's
//!   full validation passes (offsets in bounds, text UTF-8, nulls where they may be) becomes an array. No input panics.
//! - **Writing** (`parts`, `join`, `pieces`): a batch is a list of buffers that may lie anywhere (a mapped segment, a fresh
//!   allocation); only the metadata that says where they are is new. Bodies are aligned to 64 bytes.
//!
//! The types are those of [`crate::schema`], and for what clients send also the ones that fold into them.

pub(crate) mod compression;
mod error;
pub(crate) mod join;
pub(crate) mod layout;
pub(crate) mod message;
pub(crate) mod parts;
pub(crate) mod pieces;
pub(crate) mod read;
pub(crate) mod schema;

pub(crate) use error::IpcError;

/// Where each buffer of a body starts: a multiple of this.
pub(crate) const ALIGN: usize = levada_protocol::limits::BATCH_ALIGN;
