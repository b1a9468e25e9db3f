//! Frames of a native connection: many requests under way at once, each answered under its correlation id.
//!
//! A connection begins with a [`Preface`] from the side that opened it, naming the versions it speaks. Then both
//! sides send frames, little-endian:
//!
//! ```text
//!  0        4      6       8               16          20
//! | length | api | flags | correlation id | header len | header (protobuf) | payload |
//! ```
//!
//! `length` counts what follows it. The payload carries record batches as they are, outside protobuf. An answer
//! repeats `api` and the correlation id; with [`FLAG_ERROR`] its header is an `ErrorMessage`. This layout, the
//! preface and the error frame stay the same in every version, so that an unknown version gets a clear answer.
#![deny(clippy::indexing_slicing)]

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    error::{Error, ErrorCode, Result},
    limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX},
};

/// First four bytes of every native connection.
pub const MAGIC: [u8; 4] = *b"LVDA";
/// The protocol version this build speaks.
pub const VERSION: u16 = 1;
/// The oldest protocol version this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Bytes of the preface.
pub const PREFACE_BYTES: usize = 8;
/// Bytes before a frame's header.
pub const HEAD_BYTES: usize = 20;
/// The frame is an answer, and an error.
pub const FLAG_ERROR: u16 = 1;

/// What a frame asks for. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Api {
    /// Who is there; first frame of a connection.
    Handshake = 0,
    /// Nodes, topics, leaders.
    Metadata = 1,
    /// One record batch into one partition.
    Produce = 2,
    /// A producer id for idempotent produce.
    InitProducer = 3,
    /// Record batches out of one partition.
    Fetch = 4,
    /// Log start, high watermark, offset for a time.
    ListOffsets = 5,
    /// A new topic.
    CreateTopic = 6,
    /// Other settings for a topic.
    AlterTopic = 7,
    /// A topic's end.
    DeleteTopic = 8,
    /// Health of nodes and partitions.
    ClusterStatus = 9,
    /// A node tells the controller its addresses.
    RegisterNode = 10,
    /// Leadership of a group goes to another node.
    TransferLeader = 11,
    /// A node may join.
    AdmitNode = 12,
    /// A node is to give up its replicas and leave.
    DrainNode = 13,
    /// Replicas and leaders are to be spread evenly.
    Balance = 14,
    /// More partitions, or another number of replicas, for a topic.
    ResizeTopic = 15,
    /// What a node has of one partition.
    DescribeReplica = 16,
    /// A partition without a majority of its replicas goes on with what one of them has.
    RecoverPartition = 17,
    /// The metadata, without a majority of those who vote on it, goes on with what one node has.
    RecoverMetadata = 24,
    /// A node's configuration.
    DescribeConfig = 18,
    /// A node reads its configuration again.
    ReloadConfig = 19,
    /// Between seed nodes: state before there is a cluster.
    SeedState = 20,
    /// Between seed nodes: the founder's decision.
    FoundCluster = 21,
    /// Between nodes: raft messages of many groups. Not answered.
    Raft = 22,
    /// From a node that is none of the cluster's: it wants to join.
    JoinCluster = 23,
    /// Which node coordinates a consumer group.
    FindCoordinator = 25,
    /// Something about consumer groups.
    Group = 26,
    /// Between nodes: who has joined.
    Newcomers = 27,
}

impl Api {
    /// From the number on the wire.
    #[must_use]
    pub const fn from_u16(value: u16) -> Option<Self> {
        Some(match value {
            0 => Self::Handshake,
            1 => Self::Metadata,
            2 => Self::Produce,
            3 => Self::InitProducer,
            4 => Self::Fetch,
            5 => Self::ListOffsets,
            6 => Self::CreateTopic,
            7 => Self::AlterTopic,
            8 => Self::DeleteTopic,
            9 => Self::ClusterStatus,
            10 => Self::RegisterNode,
            11 => Self::TransferLeader,
            12 => Self::AdmitNode,
            13 => Self::DrainNode,
            14 => Self::Balance,
            15 => Self::ResizeTopic,
            16 => Self::DescribeReplica,
            17 => Self::RecoverPartition,
            18 => Self::DescribeConfig,
            19 => Self::ReloadConfig,
            20 => Self::SeedState,
            21 => Self::FoundCluster,
            22 => Self::Raft,
            23 => Self::JoinCluster,
            24 => Self::RecoverMetadata,
            25 => Self::FindCoordinator,
            26 => Self::Group,
            27 => Self::Newcomers,
            _ => return None,
        })
    }
}

/// The first bytes from the side that opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preface {
    /// Oldest version it speaks.
    pub version_min: u16,
    /// Newest version it speaks.
    pub version_max: u16,
}

impl Preface {
    /// What this build sends.
    pub const OURS: Self = Self { version_min: VERSION_MIN, version_max: VERSION };

    /// The eight bytes.
    #[must_use]
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        let mut out = bytes.as_mut_slice();
        out.put_slice(&MAGIC);
        out.put_u16_le(self.version_min);
        out.put_u16_le(self.version_max);
        bytes
    }

    /// From the eight bytes.
    ///
    /// # Errors
    /// [`ErrorCode::BadFrame`] when they are not a preface.
    pub fn decode(bytes: [u8; PREFACE_BYTES]) -> Result<Self> {
        let mut input = bytes.as_slice();
        let mut magic = [0; 4];
        input.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(Error::new(
                ErrorCode::BadFrame,
                "this port speaks Levada's native protocol; the first bytes received are something else",
            ));
        }
        Ok(Self { version_min: input.get_u16_le(), version_max: input.get_u16_le() })
    }

    /// The newest version both sides speak.
    ///
    /// # Errors
    /// [`ErrorCode::UnsupportedVersion`] when there is none.
    pub fn negotiate(self) -> Result<u16> {
        let newest = self.version_max.min(VERSION);
        if newest < self.version_min.max(VERSION_MIN) {
            return Err(Error::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "the client speaks versions {} to {}, this server {VERSION_MIN} to {VERSION}; upgrade the older side",
                    self.version_min, self.version_max
                ),
            ));
        }
        Ok(newest)
    }
}

/// One frame, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The request's number; kept as it came so that an unknown one can be answered.
    pub api: u16,
    /// [`FLAG_ERROR`] or 0.
    pub flags: u16,
    /// Chosen by the asking side, repeated in the answer.
    pub correlation_id: u64,
    /// The protobuf message.
    pub header: Bytes,
    /// What stands outside protobuf: record batches, entry payloads.
    pub payload: Bytes,
}

impl Frame {
    /// Whether it is an error answer.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        self.flags & FLAG_ERROR != 0
    }

    /// The message in the header.
    ///
    /// # Errors
    /// [`ErrorCode::BadFrame`] when it does not parse.
    pub fn message<M: prost::Message + Default>(&self) -> Result<M> {
        M::decode(self.header.clone()).map_err(|error| {
            Error::new(ErrorCode::BadFrame, format!("the header of a frame (api {}) does not parse: {error}", self.api))
        })
    }

    /// For an answer: the message in the header, or the error that it is.
    ///
    /// # Errors
    /// The error of an error frame; [`ErrorCode::BadFrame`] when the header does not parse.
    pub fn answer<M: prost::Message + Default>(&self) -> Result<M> {
        if self.is_error() { Err(Error::decode(self.header.clone())) } else { self.message() }
    }
}

/// The head and header of a frame whose payload of `payload_bytes` follows on the socket, so that the payload is not
/// copied.
#[must_use]
pub fn encode_head(
    api: u16,
    flags: u16,
    correlation_id: u64,
    message: &impl prost::Message,
    payload_bytes: usize,
) -> Bytes {
    let header_bytes = message.encoded_len();
    let length = HEAD_BYTES - 4 + header_bytes + payload_bytes;
    debug_assert!(length <= FRAME_BYTES_MAX && header_bytes <= FRAME_HEADER_BYTES_MAX);
    let mut out = BytesMut::with_capacity(HEAD_BYTES + header_bytes);
    out.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u16_le(api);
    out.put_u16_le(flags);
    out.put_u64_le(correlation_id);
    out.put_u32_le(u32::try_from(header_bytes).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}

/// Whether a message and its payload fit one frame.
///
/// # Errors
/// [`ErrorCode::InvalidRequest`] when they do not: asked for in parts they would.
pub fn check_size(message: &impl prost::Message, payload_bytes: usize) -> Result<()> {
    let header_bytes = message.encoded_len();
    if header_bytes > FRAME_HEADER_BYTES_MAX || HEAD_BYTES + header_bytes + payload_bytes > FRAME_BYTES_MAX {
        let why = format!(
            "a header of {header_bytes} bytes and {payload_bytes} of payload are more than a frame takes \
             ({FRAME_HEADER_BYTES_MAX} and {FRAME_BYTES_MAX} in all); ask for less at once"
        );
        return Err(Error::new(ErrorCode::InvalidRequest, why));
    }
    Ok(())
}

/// A request frame without payload, or the head of one whose payload follows.
#[must_use]
pub fn encode_request(api: Api, correlation_id: u64, message: &impl prost::Message, payload_bytes: usize) -> Bytes {
    encode_head(api as u16, 0, correlation_id, message, payload_bytes)
}

/// The answer to a frame, or the head of one whose payload follows.
#[must_use]
pub fn encode_answer(api: u16, correlation_id: u64, message: &impl prost::Message, payload_bytes: usize) -> Bytes {
    encode_head(api, 0, correlation_id, message, payload_bytes)
}

/// The error answer to a frame.
#[must_use]
pub fn encode_error(api: u16, correlation_id: u64, error: &Error) -> Bytes {
    encode_head(api, FLAG_ERROR, correlation_id, &error.to_wire(), 0)
}

/// Cuts frames out of a connection's bytes. Sans-IO: the caller reads into its buffer and asks for frames.
#[derive(Debug)]
pub struct FrameDecoder {
    frame_bytes_max: usize,
}

impl FrameDecoder {
    /// With the largest frame that is accepted (smaller before the handshake than after).
    #[must_use]
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max }
    }

    /// How many bytes the frame at the start of `input` has in all, once its length is known.
    ///
    /// # Errors
    /// [`ErrorCode::BadFrame`] when the length is impossible or above the limit: the connection is of no use then.
    pub fn frame_bytes(&self, input: &[u8]) -> Result<Option<usize>> {
        let Some(length) = input.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length < HEAD_BYTES - 4 || length > self.frame_bytes_max {
            return Err(Error::new(
                ErrorCode::BadFrame,
                format!("a frame announces {length} bytes; allowed are {} to {}", HEAD_BYTES - 4, self.frame_bytes_max),
            ));
        }
        Ok(Some(4 + length))
    }

    /// Takes the first frame off `input`, if it is all there.
    ///
    /// # Errors
    /// [`ErrorCode::BadFrame`] when it cannot be a frame: the connection is of no use then.
    pub fn decode(&self, input: &mut BytesMut) -> Result<Option<Frame>> {
        let Some(total) = self.frame_bytes(input)? else { return Ok(None) };
        if input.len() < total {
            return Ok(None);
        }
        let mut frame = input.split_to(total).freeze();
        frame.advance(4);
        let api = frame.get_u16_le();
        let flags = frame.get_u16_le();
        let correlation_id = frame.get_u64_le();
        let header_bytes = frame.get_u32_le() as usize;
        if header_bytes > frame.len() || header_bytes > FRAME_HEADER_BYTES_MAX {
            return Err(Error::new(
                ErrorCode::BadFrame,
                format!("a frame of {total} bytes announces a header of {header_bytes}"),
            ));
        }
        let header = frame.split_to(header_bytes);
        Ok(Some(Frame { api, flags, correlation_id, header, payload: frame }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::native::ProduceRequest;

    fn request() -> ProduceRequest {
        ProduceRequest { topic_id: Bytes::from_static(&[7; 16]), partition: 3, timeout_ms: 500, ..Default::default() }
    }

    #[test]
    fn golden_bytes() {
        let head = encode_request(Api::Produce, 0x0102, &request(), 2);
        assert_eq!(
            head.as_ref(),
            [
                &[0x29, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0x17, 0, 0, 0][..],
                &[0x0a, 16],
                &[7; 16],
                &[0x10, 3, 0x18, 0xf4, 3],
            ]
            .concat()
        );
        assert_eq!(&Preface::OURS.encode(), b"LVDA\x01\0\x01\0");
    }

    /// As they stand on the wire. A new request has no arm here.
    fn number(api: Api) -> u16 {
        match api {
            Api::Handshake => 0,
            Api::Metadata => 1,
            Api::Produce => 2,
            Api::InitProducer => 3,
            Api::Fetch => 4,
            Api::ListOffsets => 5,
            Api::CreateTopic => 6,
            Api::AlterTopic => 7,
            Api::DeleteTopic => 8,
            Api::ClusterStatus => 9,
            Api::RegisterNode => 10,
            Api::TransferLeader => 11,
            Api::AdmitNode => 12,
            Api::DrainNode => 13,
            Api::Balance => 14,
            Api::ResizeTopic => 15,
            Api::DescribeReplica => 16,
            Api::RecoverPartition => 17,
            Api::DescribeConfig => 18,
            Api::ReloadConfig => 19,
            Api::SeedState => 20,
            Api::FoundCluster => 21,
            Api::Raft => 22,
            Api::JoinCluster => 23,
            Api::RecoverMetadata => 24,
            Api::FindCoordinator => 25,
            Api::Group => 26,
            Api::Newcomers => 27,
        }
    }

    #[test]
    fn the_numbers_are_pinned() {
        let known: Vec<_> = (0..=u16::MAX).filter_map(|value| Some((value, Api::from_u16(value)?))).collect();
        let values: Vec<_> = known.iter().map(|(value, _)| *value).collect();
        assert_eq!(values, (0..=27).collect::<Vec<_>>());
        for (value, api) in known {
            assert_eq!((number(api), api as u16), (value, value), "{api:?}");
        }
    }

    #[test]
    fn a_frame_comes_back_however_it_is_cut() {
        let mut whole = BytesMut::new();
        for id in 0..3 {
            whole.extend_from_slice(&encode_request(Api::Produce, id, &request(), 5));
            whole.extend_from_slice(b"batch");
        }
        let decoder = FrameDecoder::new(1024);
        let mut input = BytesMut::new();
        let mut frames = Vec::new();
        for byte in whole {
            input.put_u8(byte);
            if let Some(frame) = decoder.decode(&mut input).unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!(frames.len(), 3);
        for (id, frame) in frames.iter().enumerate() {
            assert_eq!(frame.correlation_id, id as u64);
            assert_eq!(frame.message::<ProduceRequest>().unwrap(), request());
            assert_eq!(frame.payload.as_ref(), b"batch");
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_allocated() {
        let decoder = FrameDecoder::new(1024);
        for length in [0u32, 15, 1025, u32::MAX] {
            let mut input = BytesMut::from(&length.to_le_bytes()[..]);
            assert_eq!(decoder.decode(&mut input).unwrap_err().code, ErrorCode::BadFrame, "{length}");
        }
        let mut input = BytesMut::from(&encode_request(Api::Produce, 1, &request(), 0)[..]);
        input[16] = 0xff;
        assert_eq!(decoder.decode(&mut input).unwrap_err().code, ErrorCode::BadFrame);
    }

    #[test]
    fn errors_answer_in_any_version() {
        let error = Error::new(ErrorCode::UnknownApi, "no such request");
        let bytes = encode_error(999, 42, &error);
        let frame = FrameDecoder::new(1024).decode(&mut BytesMut::from(&bytes[..])).unwrap().unwrap();
        assert_eq!(frame.answer::<ProduceRequest>().unwrap_err(), error);
    }

    #[test]
    fn what_no_frame_takes_is_known_before_it_is_sent() {
        let header = |bytes| crate::messages::native::ErrorMessage { message: "x".repeat(bytes), ..Default::default() };
        check_size(&header(FRAME_HEADER_BYTES_MAX / 2), FRAME_BYTES_MAX / 2).unwrap();
        for (header_bytes, payload_bytes) in [(FRAME_HEADER_BYTES_MAX, 0), (0, FRAME_BYTES_MAX)] {
            let error = check_size(&header(header_bytes), payload_bytes).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
        }
    }

    #[test]
    fn versions_meet_or_say_so() {
        assert_eq!(Preface { version_min: 1, version_max: 9 }.negotiate().unwrap(), VERSION);
        let error = Preface { version_min: 7, version_max: 9 }.negotiate().unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedVersion);
        assert_eq!(Preface::decode(*b"GET / HT").unwrap_err().code, ErrorCode::BadFrame);
    }
}
