//! Who calls: the first frame of a native connection says whether another node does, and which.

use std::{io, time::Duration};

use bytes::BytesMut;
use levada_protocol::{
    frame::{Api, FrameDecoder, PREFACE_BYTES, Preface},
    limits::HANDSHAKE_BYTES_MAX,
    messages::native::HandshakeRequest,
};
use tokio::{net::TcpStream, time::timeout};

use super::pipe::read_some;
use crate::net::{CLIENTS, Host};

/// Whoever says nothing for so long is nobody that this cluster would listen to either.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads until it is known who calls; the caller, and what was read.
///
/// # Errors
/// The caller leaves, or says nothing.
pub(super) async fn caller(stream: &TcpStream) -> io::Result<(Host, BytesMut)> {
    timeout(PATIENCE, listen(stream)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn listen(stream: &TcpStream) -> io::Result<(Host, BytesMut)> {
    let mut said = BytesMut::new();
    loop {
        if let Some(host) = judge(&said) {
            return Ok((host, said));
        }
        if read_some(stream, &mut said).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `None`: it takes more to know. What no node would say, a client does.
fn judge(said: &[u8]) -> Option<Host> {
    let (preface, rest) = said.split_first_chunk::<PREFACE_BYTES>()?;
    if Preface::decode(*preface).is_err() {
        return Some(CLIENTS);
    }
    match FrameDecoder::new(HANDSHAKE_BYTES_MAX).decode(&mut BytesMut::from(rest)) {
        Ok(None) => None,
        Ok(Some(frame)) if frame.api == Api::Handshake as u16 => {
            let request: Option<HandshakeRequest> = frame.message().ok();
            Some(request.and_then(|request| request.peer).map_or(CLIENTS, |peer| peer.node_id))
        }
        Ok(Some(_)) | Err(_) => Some(CLIENTS),
    }
}

#[cfg(test)]
mod tests {
    use levada_protocol::{frame::encode_request, messages::native::PeerIdentity};

    use super::*;

    fn hello(peer: Option<u64>) -> Vec<u8> {
        let peer = peer.map(|node_id| PeerIdentity { node_id, ..PeerIdentity::default() });
        let request = HandshakeRequest { peer, ..HandshakeRequest::default() };
        [&Preface::OURS.encode(), &*encode_request(Api::Handshake, 0, &request, 0)].concat()
    }

    #[test]
    fn a_node_says_which_it_is_and_everybody_else_is_a_client() {
        assert_eq!(judge(&hello(Some(3))), Some(3));
        assert_eq!(judge(&hello(None)), Some(CLIENTS));
        assert_eq!(judge(b"GET / HTTP/1.1\r\n"), Some(CLIENTS));
        assert_eq!(judge(&[&Preface::OURS.encode()[..], &[0xff; 20]].concat()), Some(CLIENTS));
    }

    #[test]
    fn nothing_is_said_of_whoever_has_not_finished() {
        let whole = hello(Some(3));
        for length in 0..whole.len() {
            assert_eq!(judge(&whole[..length]), None, "{length} bytes");
        }
    }
}
