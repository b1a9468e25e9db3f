//! The task of one connection: opens it, then reads and writes until one of them fails.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::{self, Api, Frame, FrameDecoder, Preface},
    ids::{ClusterId, NodeId},
    limits::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX},
    messages::native::{HandshakeRequest, HandshakeResponse},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{config::ClientConfig, error::disconnected};

/// The correlation id of the handshake; requests count from 1.
const HANDSHAKE_ID: u64 = 0;
/// How often overdue answers are looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Read at once from the socket.
const READ_BYTES: usize = 64 << 10;
/// Slices handed to one write.
const WRITE_SLICES: usize = 64;

/// Runs the connection until it breaks or is no longer wanted, and answers whatever is left.
pub(super) async fn run(
    shared: Arc<Shared>,
    config: ClientConfig,
    cluster: Arc<OnceLock<ClusterId>>,
    stop: CancellationToken,
) {
    // Also when the runtime drops this task in the middle.
    let closer = Closer(Arc::clone(&shared));
    let error = tokio::select! {
        error = drive(&shared, &config, &cluster) => error,
        () = stop.cancelled() => disconnected(&shared.address, "the client closed the connection"),
    };
    tracing::debug!(address = shared.address, %error, "client.disconnected");
    shared.queue.close(&error);
    drop(closer);
}

struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.queue.close(&disconnected(&self.0.address, "the connection's task ended"));
    }
}

async fn drive(shared: &Shared, config: &ClientConfig, cluster: &OnceLock<ClusterId>) -> Error {
    let address = &shared.address;
    let (mut stream, input, peer) = match timeout(config.connect_timeout, open(address, config, cluster)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error,
        Err(_) => return disconnected(address, format_args!("no connection after {:?}", config.connect_timeout)),
    };
    tracing::debug!(address, node = peer.get(), "client.connected");
    let (reader, writer) = stream.split();
    tokio::select! {
        error = read(shared, reader, input) => error,
        error = write(shared, writer) => error,
        () = watch(shared) => disconnected(
            address,
            format_args!("no answer within the time allowed ({:?}); the node hangs", config.request_timeout),
        ),
    }
}

/// Connects and shakes hands. Also answers the bytes that were read beyond the handshake.
async fn open(
    address: &str,
    config: &ClientConfig,
    cluster: &OnceLock<ClusterId>,
) -> Result<(TcpStream, BytesMut, NodeId)> {
    let broken = |error: io::Error| disconnected(address, error);
    let mut stream = TcpStream::connect(address).await.map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;

    let expected = cluster.get().copied();
    let request = HandshakeRequest {
        client_id: config.client_id.clone(),
        cluster_id: expected.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
        peer: None,
    };
    let mut hello = Preface::OURS.encode().to_vec();
    hello.extend_from_slice(&frame::encode_request(Api::Handshake, HANDSHAKE_ID, &request, 0));
    stream.write_all(&hello).await.map_err(broken)?;

    let decoder = FrameDecoder::new(HANDSHAKE_BYTES_MAX);
    let mut input = BytesMut::with_capacity(1024);
    let answer = loop {
        match decoder.decode(&mut input) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(error) => return Err(not_levada(address, &error)),
        }
        if stream.read_buf(&mut input).await.map_err(broken)? == 0 {
            return Err(disconnected(address, "the server closed the connection during the handshake"));
        }
    };
    let peer = check(address, &answer, cluster)?;
    Ok((stream, input, peer))
}

/// Checks who answered, and remembers the cluster if this is the first node of it.
fn check(address: &str, answer: &Frame, cluster: &OnceLock<ClusterId>) -> Result<NodeId> {
    if answer.api != Api::Handshake as u16 || answer.correlation_id != HANDSHAKE_ID {
        return Err(not_levada(address, &"its first frame is not a handshake"));
    }
    let response: HandshakeResponse = answer.answer()?;
    let version = u16::try_from(response.version).unwrap_or(u16::MAX);
    if !(frame::VERSION_MIN..=frame::VERSION).contains(&version) {
        return Err(Error::new(
            ErrorCode::UnsupportedVersion,
            format!(
                "{address} chose protocol version {version}, which this client does not speak; upgrade the older side"
            ),
        ));
    }
    let theirs = ClusterId::from_slice(&response.cluster_id).ok_or_else(|| {
        let waiting = if response.waiting.is_empty() { String::new() } else { format!(" ({})", response.waiting) };
        Error::new(ErrorCode::NotReady, format!("{address}: the node belongs to no cluster yet{waiting}"))
    })?;
    let ours = *cluster.get_or_init(|| theirs);
    if ours != theirs {
        return Err(Error::new(
            ErrorCode::WrongCluster,
            format!("{address} belongs to cluster {theirs}, the other nodes to {ours}; check the bootstrap addresses"),
        ));
    }
    Ok(NodeId(response.node_id))
}

fn not_levada(address: &str, why: &impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::BadFrame, format!("{address} does not speak Levada's native protocol: {why}"))
}

/// Hands answers to their requests until the other side ends or breaks the rules.
async fn read(shared: &Shared, mut reader: ReadHalf<'_>, mut input: BytesMut) -> Error {
    let decoder = FrameDecoder::new(FRAME_BYTES_MAX);
    loop {
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if let Err(error) = shared.queue.answer(frame) {
                        return disconnected(&shared.address, error);
                    }
                }
                Err(error) => return disconnected(&shared.address, error),
            }
        }
        // Grows with what has arrived, never at once with what a length field claims.
        input.reserve(READ_BYTES);
        match reader.read_buf(&mut input).await {
            Ok(0) => return disconnected(&shared.address, "the server closed the connection"),
            Ok(_) => {}
            Err(error) => return disconnected(&shared.address, error),
        }
    }
}

/// Writes requests until the socket breaks.
async fn write(shared: &Shared, mut writer: WriteHalf<'_>) -> Error {
    let mut chunks = VecDeque::new();
    loop {
        shared.queue.take(&mut chunks);
        if chunks.is_empty() {
            shared.queue.work().await;
        } else if let Err(error) = write_all(&mut writer, &mut chunks).await {
            return disconnected(&shared.address, error);
        }
    }
}

/// Writes many buffers with few calls and without copying them together.
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), chunks: &mut VecDeque<Bytes>) -> io::Result<()> {
    while !chunks.is_empty() {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        let mut written = writer.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(chunk) = chunks.front_mut() {
            let step = written.min(chunk.len());
            chunk.advance(step);
            written -= step;
            if !chunk.is_empty() {
                break;
            }
            chunks.pop_front();
        }
    }
    Ok(())
}

/// Completes when an answer is overdue.
async fn watch(shared: &Shared) {
    while !shared.queue.is_overdue(Instant::now()) {
        sleep(WATCH_INTERVAL).await;
    }
}
