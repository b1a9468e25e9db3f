//! Many buffers to a socket with few calls, without copying them together.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Slices handed to one call.
const SLICES: usize = 64;

/// Writes all chunks, and empties the queue. Fails when the socket takes nothing for `stall`.
pub(crate) async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    chunks: &mut VecDeque<Bytes>,
    stall: Duration,
) -> io::Result<()> {
    while !chunks.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        let call = writer.write_vectored(slices.get(..count).unwrap_or_default());
        let mut written = timeout(stall, call).await.map_err(|_| stalled(stall))??;
        if written == 0 && chunks.iter().any(|chunk| !chunk.is_empty()) {
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

fn stalled(after: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the other side takes nothing for {after:?}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn all_of_it_arrives_in_order_and_a_stall_ends_it() {
        let stall = Duration::from_millis(50);
        let (mut here, mut there) = tokio::io::duplex(1000);
        let mut chunks: VecDeque<Bytes> =
            (0..300u32).map(|n| Bytes::from(n.to_le_bytes().repeat(n as usize % 7))).collect();
        let expected = chunks.iter().flatten().copied().collect::<Vec<u8>>();
        let mut read = vec![0; expected.len()];
        let (written, _) = tokio::join!(write_all(&mut here, &mut chunks, stall), there.read_exact(&mut read));
        written.unwrap();
        assert_eq!(read, expected);
        chunks.push_back(Bytes::from(vec![0; 2000]));
        let error = write_all(&mut here, &mut chunks, stall).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
