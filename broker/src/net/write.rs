//! Many buffers to a socket with few calls, without copying them together.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::tcp::OwnedWriteHalf,
    time::timeout,
};

use super::patience::Patience;

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
        let call = writer.write_vectored(fill(&mut slices, chunks));
        let written = timeout(stall, call).await.map_err(|_| stalled(stall))??;
        advance(chunks, written)?;
    }
    Ok(())
}

/// As [`write_all`], to a socket that others may hold, too, as long as they do not write.
pub(crate) async fn write_all_shared(
    writer: &OwnedWriteHalf,
    chunks: &mut VecDeque<Bytes>,
    patience: &Patience<'_>,
) -> io::Result<()> {
    while !try_write(writer, chunks)? {
        patience.wait(writer.writable()).await.ok_or_else(|| stalled(patience.most()))??;
    }
    Ok(())
}

/// Writes what the socket takes at once; whether that is all.
pub(crate) fn try_write(writer: &OwnedWriteHalf, chunks: &mut VecDeque<Bytes>) -> io::Result<bool> {
    while !chunks.is_empty() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        match writer.try_write_vectored(fill(&mut slices, chunks)) {
            Ok(written) => advance(chunks, written)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn fill<'s, 'c>(slices: &'s mut [IoSlice<'c>; SLICES], chunks: &'c VecDeque<Bytes>) -> &'s [IoSlice<'c>] {
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
        count += 1;
    }
    slices.get(..count).unwrap_or_default()
}

/// So many bytes of the chunks are written.
fn advance(chunks: &mut VecDeque<Bytes>, mut written: usize) -> io::Result<()> {
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
    Ok(())
}

fn stalled(after: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the other side takes nothing for {after:?}, or others wait"))
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
