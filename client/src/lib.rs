//! Levada's native client: write records, read them as Arrow, look after topics.
//!
//! - [`Producer`] writes, idempotently: batches, retries across leader changes, never doubles a record.
//! - `Consumer` (feature `flight`, on by default) reads Arrow record batches of one or many partitions, bounded or
//!   following, and goes on where it was when nodes fail.
//! - [`Admin`] creates and describes topics, asks for offsets, moves leaders.
//!
//! All find the cluster from a few `host:port`s and follow it as leaders move. Errors carry the protocol's stable
//! codes; a failed write says whether the record may be in the log all the same ([`Written`]).
//!
//! Reading order: `connection` (one socket, many requests under way), `pool`, `cluster` (who leads what), `call` (one
//! request to whoever can answer), `producer` (its core is without I/O), `consumer`, `admin`.

mod admin;
mod call;
mod cluster;
mod config;
mod connection;
#[cfg(feature = "flight")]
mod consumer;
mod error;
mod pool;
mod producer;
mod retry;
mod topology;

pub use admin::{Admin, Fetched, Offsets};
pub use config::{ClientConfig, Tracing};
#[cfg(feature = "flight")]
pub use consumer::{Consumer, ConsumerBuilder, End, PartitionBatch, Start};
pub use error::{DeliveryError, Error, ErrorClass, ErrorCode, NodeAddresses, Result, Written};
pub use levada_protocol::{
    batch::Compression,
    ids::{NodeId, Offset, PartitionId},
    partitioner::partition_of_key,
    source::NewTopic,
    trace::{Span, SpanSink, TraceContext, Tracer},
};
pub use producer::{Callback, Delivered, Delivery, Producer, ProducerBuilder, ProducerConfig, ProducerStats, Record};
pub use topology::{Partition, Replica, Schema, Topic};
