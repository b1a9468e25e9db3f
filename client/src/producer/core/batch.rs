//! One batch on its way from open to acknowledged.

use bytes::Bytes;
use levada_protocol::{
    batch::{self, Attributes, BatchError, BatchHeader, BatchProducer, HEADER_BYTES, RowsBuilder},
    error::{Error, ErrorCode},
    ids::NodeId,
};

use super::Time;

/// Identifies a batch within a core.
pub(crate) type BatchId = u64;
/// Identifies one try to send a batch.
pub(crate) type AttemptId = u64;

/// A batch.
///
/// Invariants:
/// - it is in flight (`attempt`) only when `signed`, and signed only when its body is `Sealed`;
/// - its bytes do not change while it is signed: a try that is repeated repeats the very same bytes, which is how a
///   broker knows it;
/// - `may_be_written` is set unless every try so far was refused.
#[derive(Debug)]
pub(super) struct Batch<D> {
    pub(super) id: BatchId,
    /// Whom to tell.
    pub(super) delivery: D,
    pub(super) body: Body,
    pub(super) records: u32,
    /// Bytes of the producer's buffer that its senders hold.
    pub(super) reserved: usize,
    pub(super) opened_at: Time,
    pub(super) signed: Option<BatchProducer>,
    /// Its number among the signed batches of its partition.
    pub(super) ordinal: u64,
    pub(super) attempt: Option<Attempt>,
    pub(super) may_be_written: bool,
    /// How often it got a new identity because the broker had forgotten the old one.
    pub(super) renewals: u32,
}

/// A batch's records.
#[derive(Debug)]
pub(super) enum Body {
    /// Not compressed (yet).
    Rows(RowsBuilder),
    /// Being compressed elsewhere.
    Sealing,
    /// As they go out, but for the signature.
    Sealed(Bytes),
}

/// A try under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) node: NodeId,
    pub(super) sent_at: Time,
    /// Nothing was in flight before it when it was sent: its sequence must follow the last acknowledged one.
    pub(super) alone: bool,
}

impl<D> Batch<D> {
    pub(super) fn open(id: BatchId, delivery: D, rows: RowsBuilder, now: Time) -> Self {
        Self {
            id,
            delivery,
            body: Body::Rows(rows),
            records: 0,
            reserved: 0,
            opened_at: now,
            signed: None,
            ordinal: 0,
            attempt: None,
            may_be_written: false,
            renewals: 0,
        }
    }

    /// Puts the producer's signature under the batch and answers its bytes.
    pub(super) fn sign(&mut self, producer: BatchProducer) -> Result<Bytes, Error> {
        debug_assert!(self.attempt.is_none());
        let signed = match std::mem::replace(&mut self.body, Body::Sealing) {
            Body::Rows(rows) => rows.finish(Attributes::default(), producer),
            Body::Sealed(bytes) => resign(bytes, producer),
            Body::Sealing => Err(BatchError::Truncated { needed: HEADER_BYTES, available: 0 }),
        };
        let bytes =
            signed.map_err(|error| Error::new(ErrorCode::Internal, format!("a batch could not be made: {error}")))?;
        self.body = Body::Sealed(bytes.clone());
        self.signed = Some(producer);
        Ok(bytes)
    }

    /// Takes the signature back: the batch is certainly not in the log, and starts anew.
    pub(super) const fn unsign(&mut self) {
        debug_assert!(self.attempt.is_none());
        self.signed = None;
        self.may_be_written = false;
    }
}

/// The same batch with another signature.
fn resign(bytes: Bytes, producer: BatchProducer) -> Result<Bytes, BatchError> {
    let header = BatchHeader {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        base_sequence: producer.base_sequence,
        ..BatchHeader::parse(&bytes)?
    };
    // Bytes of an earlier try may still lie in a socket's queue: then this is a copy.
    let mut bytes = Vec::from(bytes);
    if let Some(front) = bytes.first_chunk_mut::<HEADER_BYTES>() {
        *front = header.to_bytes();
    }
    batch::seal(&mut bytes);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use levada_protocol::{
        batch::{Compression, NewRecord, Rows, verify_crc},
        ids::{ProducerEpoch, ProducerId},
    };

    use super::*;

    fn producer(id: i64, base_sequence: i32) -> BatchProducer {
        BatchProducer { id: ProducerId(id), epoch: ProducerEpoch(0), base_sequence }
    }

    fn rows() -> RowsBuilder {
        let mut rows = RowsBuilder::new();
        for _ in 0..50 {
            rows.push(&NewRecord { value: Some(b"the same again"), ..NewRecord::default() }).unwrap();
        }
        rows
    }

    #[test]
    fn a_new_signature_changes_nothing_else() {
        let compressed = Attributes::default().with_compression(Compression::Lz4);
        for body in [Body::Rows(rows()), Body::Sealed(rows().finish(compressed, BatchProducer::NONE).unwrap())] {
            let mut batch = Batch { body, ..Batch::open(1, (), RowsBuilder::new(), Time::ZERO) };
            let first = batch.sign(producer(7, 40)).unwrap();
            batch.unsign();
            let second = batch.sign(producer(8, 0)).unwrap();
            for (bytes, id, sequence) in [(&first, 7, 40), (&second, 8, 0)] {
                verify_crc(bytes).unwrap();
                let rows = Rows::open(bytes).unwrap();
                assert_eq!((rows.header().producer_id, rows.header().base_sequence), (ProducerId(id), sequence));
                assert_eq!(rows.iter().map(|record| record.unwrap().value.unwrap().len()).sum::<usize>(), 50 * 14);
            }
            assert_eq!(first[HEADER_BYTES..], second[HEADER_BYTES..]);
        }
    }
}
