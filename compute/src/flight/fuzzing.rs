//! The Flight service's doors for fuzzers.

#![allow(clippy::unwrap_used, reason = "a panic is the answer")]

use arrow_flight::{FlightData, FlightDescriptor};
use arrow_schema::Schema;
use bytes::Bytes;
use levada_protocol::error::{ErrorCode, Result};

use super::{
    incoming::Incoming,
    options::{ReadOptions, WriteOptions},
};
use crate::{ipc::message::BatchMessage, schema::TypedSchema};

/// Takes a message of records, of a client with this schema.
pub(crate) fn records(topic: Option<&TypedSchema>, client: Schema, data: &FlightData) {
    let Ok(incoming) = Incoming::new(topic, client) else { return };
    match incoming.records(data, 5) {
        Ok(records) => {
            let message = BatchMessage::parse(&data.data_header, data.data_body.len()).unwrap();
            assert_eq!(records.rows(), message.rows);
            assert!(records.own.iter().all(|column| column.len() == message.rows));
        }
        Err(error) => assert_ne!(error.code, ErrorCode::Internal, "{error}"),
    }
}

/// The ticket in a request of `DoGet`.
pub(crate) fn ticket_of(message: Bytes) -> Result<Bytes> {
    super::doget::ticket_of(message)
}

/// What a descriptor asks for.
pub(crate) fn options(descriptor: Option<&FlightDescriptor>) {
    let _ = ReadOptions::parse(descriptor);
    let _ = WriteOptions::parse(descriptor);
}
