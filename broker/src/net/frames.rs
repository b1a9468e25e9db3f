//! Frames off a socket: heads first, so that a frame is paid for before it is read.
//!
//! Small frames are cut out of a shared buffer. The payload of a large one gets a buffer of its own, of its exact size:
//! nothing else shares it, so the leader can stamp the batch in it without copying. Memory is taken for what a
//! length field claims only after it was checked against the limits and charged to a budget, and the pages of a buffer
//! that is never filled are never touched.
#![deny(clippy::indexing_slicing)]

use std::{io, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use levada_protocol::{
    error::{Error, ErrorCode},
    frame::{Frame, FrameDecoder, HEAD_BYTES, PREFACE_BYTES},
    limits::HANDSHAKE_BYTES_MAX,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::patience::Patience;

/// Read at once; frames up to this share buffers.
const READ_BYTES: usize = 16 * 1024;

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
    decoder: FrameDecoder,
    header_bytes_max: usize,
}

/// What is known of a frame before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// What it asks for.
    pub(crate) api: u16,
    /// All its bytes.
    pub(crate) bytes: usize,
    header_bytes: usize,
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The other side broke the rules, and can be told so.
    #[error(transparent)]
    Protocol(#[from] Error),
    /// The connection broke, or went silent in the middle of a frame.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// On a connection, for frames of a handshake's size until [`FrameReader::allow`].
    pub(crate) const fn new(reader: R, buffer: BytesMut) -> Self {
        let decoder = FrameDecoder::new(HANDSHAKE_BYTES_MAX);
        Self { reader, buffer, decoder, header_bytes_max: HANDSHAKE_BYTES_MAX }
    }

    /// Allows larger frames, with headers of this size at most.
    pub(crate) const fn allow(&mut self, frame_bytes_max: usize, header_bytes_max: usize) {
        self.decoder = FrameDecoder::new(frame_bytes_max);
        self.header_bytes_max = header_bytes_max;
    }

    /// The eight bytes that open a connection.
    pub(crate) async fn preface(&mut self) -> Result<[u8; PREFACE_BYTES], ReadError> {
        self.fill(PREFACE_BYTES).await?;
        let mut preface = [0; PREFACE_BYTES];
        self.buffer.copy_to_slice(&mut preface);
        Ok(preface)
    }

    /// Waits for the first byte of the next frame, for as long as it takes; `false` when the other side has closed. May be
    /// dropped and called again.
    pub(crate) async fn begin(&mut self) -> io::Result<bool> {
        Ok(!self.buffer.is_empty() || self.read().await? > 0)
    }

    /// Reads the head of the next frame.
    pub(crate) async fn head(&mut self, frame: Duration) -> Result<Head, ReadError> {
        timeout(frame, self.fill(HEAD_BYTES)).await.map_err(|_| silent(frame))??;
        let bytes = self.decoder.frame_bytes(&self.buffer)?.unwrap_or(HEAD_BYTES);
        let mut fields = self.buffer.get(4..HEAD_BYTES).unwrap_or_default();
        let api = fields.get_u16_le();
        fields.advance(2 + 8);
        let header_bytes = fields.get_u32_le() as usize;
        if header_bytes > self.header_bytes_max || header_bytes > bytes - HEAD_BYTES {
            let why = format!(
                "a frame of {bytes} bytes announces a header of {header_bytes}; at most {} are taken",
                self.header_bytes_max
            );
            return Err(Error::new(ErrorCode::BadFrame, why).into());
        }
        Ok(Head { api, bytes, header_bytes })
    }

    /// Reads the frame whose head was given: all of it in the time that there is patience for, and each piece, too.
    pub(crate) async fn body<'b>(&mut self, head: Head, patience: impl Into<Patience<'b>>) -> Result<Frame, ReadError> {
        let patience = patience.into();
        let frame = patience.most();
        timeout(frame, self.read_body(head, &patience)).await.map_err(|_| silent(frame))?
    }

    async fn read_body(&mut self, head: Head, patience: &Patience<'_>) -> Result<Frame, ReadError> {
        if head.bytes <= READ_BYTES {
            self.fill_with(head.bytes, patience).await?;
            return self
                .decoder
                .decode(&mut self.buffer)?
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.fill_with(HEAD_BYTES + head.header_bytes, patience).await?;
        let mut fields = self.buffer.split_to(HEAD_BYTES + head.header_bytes).freeze();
        fields.advance(4);
        let (api, flags, correlation_id) = (fields.get_u16_le(), fields.get_u16_le(), fields.get_u64_le());
        fields.advance(4);
        let payload = self.payload(head.bytes - HEAD_BYTES - head.header_bytes, patience).await?;
        Ok(Frame { api, flags, correlation_id, header: fields, payload })
    }

    /// Reads a payload into a buffer of exactly its size.
    async fn payload(&mut self, bytes: usize, patience: &Patience<'_>) -> io::Result<Bytes> {
        let mut payload = BytesMut::with_capacity(bytes);
        let there = self.buffer.len().min(bytes);
        payload.put(self.buffer.split_to(there));
        while payload.len() < bytes {
            let mut rest = (&mut payload).limit(bytes - there);
            rest.set_limit(bytes - rest.get_ref().len());
            let read = patience.wait(self.reader.read_buf(&mut rest)).await;
            if read.ok_or_else(|| silent(patience.most()))?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(payload.freeze())
    }

    /// Reads until this many bytes are buffered.
    async fn fill(&mut self, bytes: usize) -> io::Result<()> {
        while self.buffer.len() < bytes {
            self.buffer.reserve(bytes - self.buffer.len());
            if self.read().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The same, with patience for each piece.
    async fn fill_with(&mut self, bytes: usize, patience: &Patience<'_>) -> io::Result<()> {
        while self.buffer.len() < bytes {
            self.buffer.reserve(bytes - self.buffer.len());
            if patience.wait(self.read()).await.ok_or_else(|| silent(patience.most()))?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 8 {
            self.buffer.reserve(READ_BYTES);
        }
        self.reader.read_buf(&mut self.buffer).await
    }

    /// Reads and drops what still comes, so that closing does not reset the connection before the other side has read
    /// the last answer.
    pub(crate) async fn drain(&mut self, bytes_max: usize) {
        let mut drained = 0;
        while drained < bytes_max {
            self.buffer.clear();
            match self.read().await {
                Ok(0) | Err(_) => return,
                Ok(n) => drained += n,
            }
        }
    }
}

fn silent(after: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {after:?}, or others wait"))
}

#[cfg(test)]
mod tests {
    use levada_protocol::{
        frame::{self, Api},
        limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX},
        messages::native::ProduceRequest,
    };
    use tokio::io::AsyncWriteExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    fn frame_bytes(payload: &[u8]) -> Vec<u8> {
        let request = ProduceRequest { topic_id: Bytes::from_static(&[7; 16]), partition: 3, ..Default::default() };
        [&frame::encode_request(Api::Produce, 9, &request, payload.len()), payload].concat()
    }

    async fn next<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Option<Frame>, ReadError> {
        if !reader.begin().await? {
            return Ok(None);
        }
        let head = reader.head(SHORT).await?;
        reader.body(head, SHORT).await.map(Some)
    }

    #[tokio::test]
    async fn frames_of_all_sizes_come_back_however_they_are_cut() {
        let sizes = [0, 1, 100, READ_BYTES - 100, READ_BYTES, READ_BYTES + 1, 200_000, 3, 1 << 20, 0];
        let payloads: Vec<Vec<u8>> = (0u8..).zip(sizes).map(|(n, size)| vec![n; size]).collect();
        for cut in [1 << 20, 64 * 1024, 4093] {
            let (mut there, here) = tokio::io::duplex(64 * 1024);
            let sent: Vec<u8> = payloads.iter().flat_map(|payload| frame_bytes(payload)).collect();
            let send = async move {
                for piece in sent.chunks(cut) {
                    there.write_all(piece).await.unwrap();
                }
            };
            let receive = async {
                let mut reader = FrameReader::new(here, BytesMut::new());
                reader.allow(FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX);
                for payload in &payloads {
                    let frame = next(&mut reader).await.unwrap().unwrap();
                    assert_eq!((frame.api, frame.correlation_id), (2, 9));
                    assert_eq!(frame.message::<ProduceRequest>().unwrap().partition, 3);
                    assert!(frame.payload == payload[..], "{} bytes", payload.len());
                    if payload.len() > READ_BYTES {
                        let mine = frame.payload.try_into_mut().expect("nobody shares a large payload");
                        assert_eq!(mine.capacity(), payload.len());
                    }
                }
                assert!(next(&mut reader).await.unwrap().is_none(), "the end");
            };
            tokio::join!(send, receive);
        }
    }

    #[tokio::test]
    async fn lies_about_lengths_are_told_apart_from_a_broken_connection() {
        let read = |bytes: Vec<u8>| async move {
            let mut reader = FrameReader::new(&bytes[..], BytesMut::new());
            next(&mut reader).await
        };
        let protocol = |result| matches!(result, Err(ReadError::Protocol(error)) if error.code == ErrorCode::BadFrame);
        assert!(protocol(read([&[0xff; 4][..], &[0; 16]].concat()).await), "4 GiB");
        assert!(protocol(read(vec![0; 20]).await), "no room for a head");
        let mut lie = frame_bytes(b"x");
        lie[16..20].copy_from_slice(&1000u32.to_le_bytes());
        assert!(protocol(read(lie).await), "a header longer than its frame");
        let whole = frame_bytes(b"payload");
        for cut in 1..whole.len() {
            let result = read(whole[..cut].to_vec()).await;
            assert!(matches!(result, Err(ReadError::Io(_))), "{cut}: {result:?}");
        }
        assert!(read(Vec::new()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn silence_in_the_middle_of_a_frame_is_not_waited_out() {
        let (mut there, here) = tokio::io::duplex(1024);
        let mut reader = FrameReader::new(here, BytesMut::new());
        there.write_all(&frame_bytes(b"payload")[..30]).await.unwrap();
        let error = next(&mut reader).await.unwrap_err();
        assert!(matches!(&error, ReadError::Io(error) if error.kind() == io::ErrorKind::TimedOut), "{error}");
    }
}
