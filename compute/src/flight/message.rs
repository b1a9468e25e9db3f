//! A `FlightData` message as the bytes that go over the wire, its buffers where they are.
//!
//! ```text
//! gRPC:      0 | length u32     | protobuf
//! protobuf:  2: data_header     | 3: app_metadata | 1000: data_body
//! ```
//! All but the body is a few hundred bytes and written here; the body is a list of buffers that are only pointed at.

use bytes::{BufMut, Bytes, BytesMut};
use levada_protocol::{ids::Offset, limits::KIB};
use prost::encoding::encode_varint;

use crate::ipc::parts::Encoded;

/// Pieces up to this size are copied together: each frame has a cost of its own.
const JOINED_BYTES_MAX: usize = 8 * KIB;

const HEADER_TAG: u64 = 2 << 3 | 2;
const APP_METADATA_TAG: u64 = 3 << 3 | 2;
const BODY_TAG: u64 = 1000 << 3 | 2;

/// The message that begins a stream: the schema alone.
pub(crate) fn schema_frames(schema_message: &[u8]) -> Vec<Bytes> {
    frames(schema_message, &[], Vec::new(), 0)
}

/// A record batch; says where to read on, and how far the log reached.
pub(crate) fn batch_frames(encoded: Encoded, next: Offset, high_watermark: Offset) -> Vec<Bytes> {
    let progress = format!(r#"{{"next_offset":{next},"high_watermark":{high_watermark}}}"#);
    frames(&encoded.metadata, progress.as_bytes(), encoded.body, encoded.body_bytes)
}

fn frames(header: &[u8], app_metadata: &[u8], body: Vec<Bytes>, body_bytes: usize) -> Vec<Bytes> {
    const GRPC_PREFIX_BYTES: usize = 5;
    const TAGS_AND_LENGTHS_BYTES_MAX: usize = 48;
    let small: usize = body.iter().map(Bytes::len).filter(|length| *length <= JOINED_BYTES_MAX).sum();
    let mut out = BytesMut::with_capacity(
        GRPC_PREFIX_BYTES + TAGS_AND_LENGTHS_BYTES_MAX + header.len() + app_metadata.len() + small,
    );
    out.put_bytes(0, GRPC_PREFIX_BYTES);
    begin_field(HEADER_TAG, header.len(), &mut out);
    out.put_slice(header);
    if !app_metadata.is_empty() {
        begin_field(APP_METADATA_TAG, app_metadata.len(), &mut out);
        out.put_slice(app_metadata);
    }
    if body_bytes > 0 {
        begin_field(BODY_TAG, body_bytes, &mut out);
    }
    // A message holds a batch, which is far below 4 GiB.
    let length = u32::try_from(out.len() - GRPC_PREFIX_BYTES + body_bytes).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(1..GRPC_PREFIX_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    let mut frames = Vec::with_capacity(body.len() + 1);
    for piece in body {
        if piece.len() <= JOINED_BYTES_MAX {
            out.put_slice(&piece);
        } else {
            if !out.is_empty() {
                frames.push(out.split().freeze());
            }
            frames.push(piece);
        }
    }
    if !out.is_empty() {
        frames.push(out.freeze());
    }
    frames
}

fn begin_field(tag: u64, length: usize, out: &mut BytesMut) {
    encode_varint(tag, out);
    encode_varint(length as u64, out);
}

#[cfg(test)]
mod tests {
    use arrow_flight::FlightData;
    use prost::Message;

    use super::*;

    #[test]
    fn prost_reads_what_is_written() {
        let sizes = [10, 0, 9000, 64, 20_000, JOINED_BYTES_MAX, 1];
        let body: Vec<Bytes> = sizes.iter().zip(1..).map(|(size, fill)| vec![fill; *size].into()).collect();
        let whole = body.concat();
        let encoded = Encoded { metadata: b"metadata".to_vec(), body: body.clone(), body_bytes: whole.len() };
        let frames = batch_frames(encoded, Offset(5), Offset(7));
        assert!(frames.iter().any(|frame| frame.as_ptr() == body[2].as_ptr()), "large pieces are not copied");
        assert_eq!(frames.len(), 5, "small ones are joined");
        let bytes = frames.concat();
        let (prefix, message) = bytes.split_at(5);
        assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
        let data = FlightData::decode(message).unwrap();
        assert_eq!(data.data_header, b"metadata"[..]);
        assert_eq!(data.app_metadata, br#"{"next_offset":5,"high_watermark":7}"#[..]);
        assert_eq!(data.data_body, whole);

        let data = FlightData::decode(&schema_frames(b"schema").concat()[5..]).unwrap();
        assert_eq!((data.data_header, data.data_body), (Bytes::from_static(b"schema"), Bytes::new()));
    }
}
