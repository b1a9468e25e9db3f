//! One direction of a connection: what one side sends, as its link lets it pass to the other.

use std::{io, net::Shutdown, time::Duration};

use bytes::{Bytes, BytesMut};
use rand::{Rng as _, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::rules::Rules;
use crate::net::{Counter, Link};

/// A piece that is passed on as a whole.
const PIECE_BYTES_MAX: usize = 16 << 10;
/// Pieces on their way. Whoever sends more waits.
const PIECES_MAX: usize = 64;
/// Half of those who are not heard give up after so long, as kernels do for connections between nodes.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(3);
/// How long a lost piece takes until it is sent again.
const SENT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How late pieces on slow links are.
const LATE_MS: std::ops::Range<u64> = 50..250;

/// Such a direction.
pub(super) struct Pipe<'a> {
    /// From whom to whom.
    pub(super) link: Link,
    /// What its link does.
    pub(super) rules: &'a Rules,
    /// How it draws.
    pub(super) dice: StdRng,
    /// Who sends.
    pub(super) from: &'a TcpStream,
    /// Who receives.
    pub(super) to: &'a TcpStream,
}

impl Pipe<'_> {
    /// Passes on what was read already, and then everything up to the end.
    ///
    /// # Errors
    /// The connection is broken, and both sides may hear of it.
    pub(super) async fn carry(mut self, first: Bytes) -> io::Result<()> {
        let (queue, pieces) = mpsc::channel(PIECES_MAX);
        let read = read_all(self.from, first, queue, self.rules, self.link);
        let write = self.write_all(pieces);
        tokio::try_join!(read, write).map(drop)
    }

    async fn write_all(&mut self, mut pieces: mpsc::Receiver<(Instant, Bytes)>) -> io::Result<()> {
        while let Some((read_at, piece)) = pieces.recv().await {
            self.pass(read_at).await?;
            if let Err(error) = write(self.to, &piece).await {
                // What tells of it comes back on the other direction.
                let (from, to) = self.link;
                self.rules.healed((to, from)).await;
                return Err(error);
            }
        }
        self.rules.healed(self.link).await;
        SockRef::from(self.to).shutdown(Shutdown::Write)
    }

    /// Waits until a piece may pass.
    async fn pass(&mut self, read_at: Instant) -> io::Result<()> {
        if self.rules.is_slow(self.link) {
            self.rules.count(Counter::Late);
            sleep_until(read_at + Duration::from_millis(self.dice.random_range(LATE_MS))).await;
        }
        while self.rules.is_lossy(self.link) && self.dice.random_ratio(1, 5) {
            self.rules.count(Counter::Lost);
            sleep(SENT_AGAIN_AFTER).await;
        }
        if !self.rules.is_cut(self.link) {
            return Ok(());
        }
        self.rules.count(Counter::Cut);
        let gives_up = self.dice.random_bool(0.5);
        if gives_up && timeout(GIVEN_UP_AFTER, self.rules.healed(self.link)).await.is_err() {
            let _ = SockRef::from(self.from).shutdown(Shutdown::Both);
            self.rules.healed(self.link).await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.rules.healed(self.link).await;
        Ok(())
    }
}

/// Reads pieces until the sender ends.
async fn read_all(
    from: &TcpStream,
    first: Bytes,
    queue: mpsc::Sender<(Instant, Bytes)>,
    rules: &Rules,
    link: Link,
) -> io::Result<()> {
    let mut piece = BytesMut::from(first);
    loop {
        if !piece.is_empty() && queue.send((Instant::now(), piece.split().freeze())).await.is_err() {
            return Ok(());
        }
        match read_some(from, &mut piece).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                rules.healed(link).await;
                return Err(error);
            }
        }
    }
}

/// Reads what is there, or waits for something; 0 at the end.
pub(super) async fn read_some(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    buffer.reserve(PIECE_BYTES_MAX);
    loop {
        stream.readable().await?;
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
