//! The metadata of a record batch message: how many rows, and where in the body each buffer lies.
#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use arrow_ipc::{
    BodyCompressionBuilder, BodyCompressionMethod, Buffer, FieldNode, MessageBuilder, MessageHeader, MetadataVersion,
    RecordBatchBuilder,
};
use flatbuffers::FlatBufferBuilder;
use levada_protocol::limits::{BATCH_DECOMPRESSED_BYTES_MAX, BATCH_RECORDS_MAX};

use super::{compression::Codec, error::IpcError};

/// The most elements of one node: no element takes less than a bit.
const ELEMENTS_MAX: usize = BATCH_DECOMPRESSED_BYTES_MAX * 8;

/// An array's length and how many of its elements are null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) length: usize,
    pub(crate) nulls: usize,
}

/// What a record batch message says. Every range lies within the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchMessage {
    pub(crate) rows: usize,
    pub(crate) nodes: Vec<Node>,
    pub(crate) buffers: Vec<Range<usize>>,
    pub(crate) codec: Option<Codec>,
}

impl BatchMessage {
    /// Reads the metadata of a body of `body_bytes`, as it is stored.
    pub(crate) fn parse(metadata: &[u8], body_bytes: usize) -> Result<Self, IpcError> {
        Self::parse_rows(metadata, body_bytes, BATCH_RECORDS_MAX)
    }

    /// The same with at most `rows_max` rows.
    pub(crate) fn parse_rows(metadata: &[u8], body_bytes: usize, rows_max: usize) -> Result<Self, IpcError> {
        let fail = |why: String| IpcError::Message(why);
        let message = arrow_ipc::root_as_message(metadata).map_err(|error| fail(format!("its metadata: {error}")))?;
        if !matches!(message.version(), MetadataVersion::V4 | MetadataVersion::V5) {
            return Err(fail(format!("metadata version {:?} is unknown", message.version())));
        }
        let batch = message
            .header_as_record_batch()
            .ok_or_else(|| fail(format!("the message is a {:?}", message.header_type())))?;
        if usize::try_from(message.bodyLength()) != Ok(body_bytes) {
            return Err(fail(format!("the body is {body_bytes} bytes, not {}", message.bodyLength())));
        }
        let rows = count(batch.length(), rows_max)
            .ok_or_else(|| fail(format!("{} rows; at most {rows_max} make a batch", batch.length())))?;
        if batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
            return Err(fail("views are not supported; cast them to plain strings or binaries".to_owned()));
        }
        let codec = match batch.compression() {
            None => None,
            Some(compression) if compression.method() == BodyCompressionMethod::BUFFER => {
                Some(Codec::from_wire(compression.codec()).map_err(fail)?)
            }
            Some(compression) => return Err(fail(format!("compression method {:?}", compression.method()))),
        };
        let nodes = batch.nodes().into_iter().flatten().map(node).collect::<Result<_, _>>()?;
        let buffers = batch
            .buffers()
            .into_iter()
            .flatten()
            .map(|buffer| range(buffer, body_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        check_apart(&buffers)?;
        Ok(Self { rows, nodes, buffers, codec })
    }

    /// The metadata of a body of `body_bytes`.
    pub(crate) fn write(&self, body_bytes: usize) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::with_capacity(256 + 16 * (self.nodes.len() + self.buffers.len()));
        let nodes: Vec<_> =
            self.nodes.iter().map(|node| FieldNode::new(signed(node.length), signed(node.nulls))).collect();
        let buffers: Vec<_> =
            self.buffers.iter().map(|range| Buffer::new(signed(range.start), signed(range.len()))).collect();
        let nodes = builder.create_vector(&nodes);
        let buffers = builder.create_vector(&buffers);
        let compression = self.codec.map(|codec| {
            let mut compression = BodyCompressionBuilder::new(&mut builder);
            compression.add_method(BodyCompressionMethod::BUFFER);
            compression.add_codec(codec.to_wire());
            compression.finish()
        });
        let mut batch = RecordBatchBuilder::new(&mut builder);
        batch.add_length(signed(self.rows));
        batch.add_nodes(nodes);
        batch.add_buffers(buffers);
        if let Some(compression) = compression {
            batch.add_compression(compression);
        }
        let batch = batch.finish().as_union_value();
        let mut message = MessageBuilder::new(&mut builder);
        message.add_version(MetadataVersion::V5);
        message.add_header_type(MessageHeader::RecordBatch);
        message.add_bodyLength(signed(body_bytes));
        message.add_header(batch);
        let message = message.finish();
        builder.finish(message, None);
        builder.finished_data().to_vec()
    }
}

fn node(node: &FieldNode) -> Result<Node, IpcError> {
    let length = count(node.length(), ELEMENTS_MAX);
    let nulls = length.and_then(|length| count(node.null_count(), length));
    match (length, nulls) {
        (Some(length), Some(nulls)) => Ok(Node { length, nulls }),
        _ => Err(IpcError::message(format!("{} nulls among {} elements", node.null_count(), node.length()))),
    }
}

fn range(buffer: &Buffer, body_bytes: usize) -> Result<Range<usize>, IpcError> {
    let start = count(buffer.offset(), body_bytes);
    let end = start.and_then(|start| count(buffer.length(), body_bytes - start).map(|length| start + length));
    match (start, end) {
        (Some(start), Some(end)) => Ok(start..end),
        _ => Err(IpcError::message(format!(
            "a buffer of {} bytes at {} does not lie within {body_bytes} bytes of body",
            buffer.length(),
            buffer.offset()
        ))),
    }
}

/// Buffers share no bytes: a small body could be read as columns without end.
fn check_apart(buffers: &[Range<usize>]) -> Result<(), IpcError> {
    let mut sorted: Vec<_> = buffers.iter().filter(|buffer| !buffer.is_empty()).collect();
    sorted.sort_unstable_by_key(|buffer| buffer.start);
    let mut end = 0;
    for buffer in sorted {
        if buffer.start < end {
            let why = format!("a buffer starts at {} of the body, where another goes on until {end}", buffer.start);
            return Err(IpcError::message(why));
        }
        end = buffer.end;
    }
    Ok(())
}

fn count(value: i64, max: usize) -> Option<usize> {
    usize::try_from(value).ok().filter(|value| *value <= max)
}

/// Lengths of what is in memory; they fit.
fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> BatchMessage {
        BatchMessage {
            rows: 3,
            nodes: vec![Node { length: 3, nulls: 1 }, Node { length: 9, nulls: 0 }],
            buffers: vec![0..1, 64..88, 128..128],
            codec: Some(Codec::Zstd),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for codec in [None, Some(Codec::Lz4), Some(Codec::Zstd)] {
            let message = BatchMessage { codec, ..message() };
            assert_eq!(BatchMessage::parse(&message.write(128), 128), Ok(message));
        }
    }

    #[test]
    fn what_does_not_fit_its_body_is_refused() {
        let says = |message: BatchMessage, body_bytes, text: &str| {
            let error = BatchMessage::parse(&message.write(body_bytes), body_bytes).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says(message(), 127, "does not lie within");
        says(BatchMessage { buffers: vec![0..0, 0..usize::MAX / 2], ..message() }, 128, "does not lie within");
        says(BatchMessage { buffers: vec![0..8, 0..8], ..message() }, 128, "where another goes on until 8");
        says(BatchMessage { buffers: vec![64..128, 0..65], ..message() }, 128, "goes on until 65");
        says(BatchMessage { rows: BATCH_RECORDS_MAX + 1, ..message() }, 128, "rows; at most");
        says(BatchMessage { nodes: vec![Node { length: 1, nulls: 2 }], ..message() }, 128, "2 nulls among 1");
        says(BatchMessage { nodes: vec![Node { length: usize::MAX / 2, nulls: 2 }], ..message() }, 128, "nulls among");
        assert!(BatchMessage::parse(&message().write(128), 64).unwrap_err().to_string().contains("not 128"));
    }

    #[test]
    fn damaged_metadata_never_panics() {
        let good = message().write(128);
        for position in 0..good.len() {
            let _ = BatchMessage::parse(&good[..position], 128);
            for bit in 0..8 {
                let mut damaged = good.clone();
                damaged[position] ^= 1 << bit;
                let _ = BatchMessage::parse(&damaged, 128);
            }
        }
    }
}
