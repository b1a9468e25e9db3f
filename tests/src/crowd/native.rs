//! The native protocol, as far as such connections speak it.

use std::io;

use bytes::{Bytes, BytesMut};
use levada_protocol::{
    frame::{Api, FrameDecoder, Preface, encode_head, encode_request},
    ids::TopicPartition,
    limits::HANDSHAKE_BYTES_MAX,
    messages::native::{FetchRequest, HandshakeRequest, ProduceRequest},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How often a stalled reader asks.
const FETCHES: u64 = 16;
/// What is sent of a frame that does not come.
const PART_BYTES: usize = 64 << 10;

fn hello() -> Vec<u8> {
    let request = HandshakeRequest { client_id: "crowd".to_owned(), ..HandshakeRequest::default() };
    [&Preface::OURS.encode()[..], &encode_request(Api::Handshake, 0, &request, 0)].concat()
}

/// A connection that was welcomed.
pub(super) async fn shaken_hands(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&hello()).await?;
    let (decoder, mut input) = (FrameDecoder::new(HANDSHAKE_BYTES_MAX), BytesMut::new());
    loop {
        match decoder.decode(&mut input).map_err(io::Error::other)? {
            Some(answer) if answer.is_error() => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(_) => return Ok(stream),
            None if stream.read_buf(&mut input).await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    }
}

/// The preface, and a frame without its end.
pub(super) fn half_of_a_handshake() -> Bytes {
    let mut hello = hello();
    hello.truncate(hello.len() - 2);
    hello.into()
}

/// The beginning of a batch of so many bytes, as if the rest were on its way.
pub(super) fn half_of_a_frame(bytes: usize) -> Bytes {
    let head = encode_head(Api::Produce as u16, 0, 1, &ProduceRequest::default(), bytes);
    [&head[..], &vec![0; PART_BYTES.min(bytes / 2)]].concat().into()
}

/// The same large read again and again.
pub(super) fn fetches(partition: TopicPartition, max_bytes: u32) -> Bytes {
    let fetch = FetchRequest {
        topic_id: Bytes::copy_from_slice(&partition.topic.to_bytes()),
        partition: partition.partition.get(),
        offset: 0,
        max_bytes,
        wait_ms: 0,
    };
    let fetches: Vec<Bytes> = (1..=FETCHES).map(|id| encode_request(Api::Fetch, id, &fetch, 0)).collect();
    fetches.concat().into()
}
