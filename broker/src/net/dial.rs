//! Opening a native connection to another node.

use std::{collections::VecDeque, io, time::Duration};

use bytes::{Bytes, BytesMut};
use levada_protocol::{
    error::{Error, ErrorCode, Result},
    frame::{self, Api, Preface},
    ids::{ClusterId, IncarnationId, NodeId, ReplicaId},
    limits::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX},
    messages::native::{HandshakeRequest, HandshakeResponse, PeerIdentity},
};
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    frames::{FrameReader, ReadError},
    write::write_all,
};
use crate::bootstrap::Identity;

/// How long connecting and shaking hands may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The kernel gives a connection up when sent bytes are not acknowledged for this long. By itself it would try for a
/// quarter of an hour, and after a partition heals pause for as long as the partition had lasted.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);

/// How long the answer to a single request may take to begin, and then to end.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// Who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The cluster it belongs to, if it does.
    pub(crate) cluster: Option<ClusterId>,
    /// The node.
    pub(crate) node: NodeId,
    /// Its data directory.
    pub(crate) incarnation: IncarnationId,
    /// For a node that joined later: its replica of group 0.
    pub(crate) joined: Option<ReplicaId>,
}

impl Caller {
    /// A node that belongs to a cluster.
    pub(crate) fn of(identity: &Identity) -> Self {
        let Identity { cluster, node, incarnation, joined, .. } = *identity;
        Self { cluster: Some(cluster), node, incarnation, joined }
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) reader: FrameReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
    /// Who answered.
    pub(crate) hello: HandshakeResponse,
}

impl Connection {
    /// One request, the only one that the connection is for.
    ///
    /// # Errors
    /// What the node says; `Disconnected`.
    pub(crate) async fn ask<M: prost::Message + Default>(
        mut self,
        address: &str,
        api: Api,
        request: &impl prost::Message,
    ) -> Result<M> {
        let mut chunks = [frame::encode_request(api, 1, request, 0)].into();
        write_all(&mut self.writer, &mut chunks, ANSWER_WAIT).await.map_err(|error| lost(address, &error))?;
        let read = async {
            let head = self.reader.head(ANSWER_WAIT).await?;
            self.reader.body(head, ANSWER_WAIT).await
        };
        read.await.map_err(|error| unread(address, error))?.answer()
    }
}

/// Connects to a node, and checks that it is this one and of the same cluster.
///
/// # Errors
/// `Disconnected` when it cannot be reached; what it says to the handshake; `WrongCluster`.
pub(crate) async fn dial(address: &str, node: NodeId, caller: Caller) -> Result<Connection> {
    timeout(DIAL_TIMEOUT, open(address, node, caller))
        .await
        .unwrap_or_else(|_| Err(lost(address, &format!("no connection within {DIAL_TIMEOUT:?}"))))
}

async fn open(address: &str, node: NodeId, caller: Caller) -> Result<Connection> {
    let broken = |error: io::Error| lost(address, &error);
    let stream = TcpStream::connect(address).await.map_err(broken)?;
    prepare(&stream).map_err(broken)?;
    let (reader, mut writer) = stream.into_split();
    let request = HandshakeRequest {
        client_id: format!("node-{}", caller.node),
        cluster_id: caller.cluster.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
        peer: Some(PeerIdentity {
            node_id: caller.node.get(),
            incarnation: Bytes::copy_from_slice(&caller.incarnation.to_bytes()),
            member_id: caller.joined.map_or(0, ReplicaId::get),
        }),
    };
    let mut hello = VecDeque::from([
        Bytes::copy_from_slice(&Preface::OURS.encode()),
        frame::encode_request(Api::Handshake, 0, &request, 0),
    ]);
    write_all(&mut writer, &mut hello, DIAL_TIMEOUT).await.map_err(broken)?;
    let mut reader = FrameReader::new(reader, BytesMut::new());
    let head = reader.head(DIAL_TIMEOUT).await.map_err(|error| unread(address, error))?;
    let answer = reader.body(head, DIAL_TIMEOUT).await.map_err(|error| unread(address, error))?;
    let hello: HandshakeResponse = answer.answer()?;
    if hello.node_id != node.get() {
        let why = format!("node {} answers at {address}, where node {node} should be", hello.node_id);
        return Err(Error::new(ErrorCode::InvalidRequest, why));
    }
    let theirs = ClusterId::from_slice(&hello.cluster_id);
    if caller.cluster.is_some() && theirs.is_some() && theirs != caller.cluster {
        return Err(Error::new(ErrorCode::WrongCluster, format!("node {node} at {address} is of another cluster")));
    }
    reader.allow(FRAME_BYTES_MAX, FRAME_HEADER_BYTES_MAX);
    Ok(Connection { reader, writer, hello })
}

/// Sets what every connection between nodes needs.
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// Why there is no answer from an address.
fn unread(address: &str, error: ReadError) -> Error {
    match error {
        ReadError::Protocol(error) => error,
        ReadError::Io(error) => lost(address, &error),
    }
}

/// The connection to an address broke, or was never there.
pub(crate) fn lost(address: &str, why: &impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::Disconnected, format!("{address}: {why}"))
}
