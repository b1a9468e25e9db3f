//! Measures group commits on a real directory: the journal with its lane's thread against a bare write + fdatasync of the
//! same bytes into one warm file, in turns.
//!
//! `cargo run --release -p levada-storage-engine --example journal_bench -- DIR [SECONDS] [ROUNDS]`
//!
//! Closed loop: every group submits its next entry when the last one is durable. Look at ratios within one run; figures
//! of different minutes do not compare.
#![allow(clippy::print_stdout, reason = "a program")]
#![allow(clippy::disallowed_methods, reason = "it measures with the clock")]

use std::{
    error::Error,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use levada_protocol::ids::{GroupId, LogIndex, Term};
use levada_storage_engine::{
    disk::{Disk, DiskError, DiskOp, Lane},
    driver::{Job, LaneDriver},
    entry::{Entry, EntryKind},
    journal::{Append, JournalConfig, JournalId, JournalIo, JournalWriter, Replay, ReplayStart},
    std_disk::{StdDisk, StdDiskConfig},
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const CELLS: [(u64, usize); 4] = [(1, 1 << 10), (64, 1 << 10), (1, 64 << 10), (64, 64 << 10)];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: journal_bench DIR [SECONDS] [ROUNDS]")?;
    let seconds: f64 = args.next().map_or(Ok(2.0), |arg| arg.parse())?;
    let rounds: usize = args.next().map_or(Ok(3), |arg| arg.parse())?;
    let duration = Duration::from_secs_f64(seconds);

    let mut bench = Bench::open(Path::new(&dir))?;
    // Until the files that are recycled exist.
    bench.run(64, 64 << 10, Duration::from_secs(1))?;
    println!("groups x bytes    what               commits/s     MB/s   p50 us   p99 us");
    for (groups, bytes) in CELLS {
        for _ in 0..rounds {
            let (figures, block_bytes) = bench.run(groups, bytes, duration)?;
            figures.print(groups, bytes, "journal");
            bare(Path::new(&dir), block_bytes, duration)?.print(groups, bytes, "write+fdatasync");
        }
    }
    Ok(())
}

struct Figures {
    elapsed: Duration,
    latencies: Vec<Duration>,
}

impl Figures {
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn print(mut self, groups: u64, bytes: usize, what: &str) {
        self.latencies.sort_unstable();
        let percentile = |percent: usize| self.latencies[(self.latencies.len() - 1) * percent / 100].as_micros();
        let commits = self.latencies.len() as f64 / self.elapsed.as_secs_f64();
        let megabytes = commits * groups as f64 * bytes as f64 / 1e6;
        println!(
            "{groups:>4} x {:>4} KiB   {what:<16} {commits:>11.0} {megabytes:>8.1} {:>8} {:>8}",
            bytes >> 10,
            percentile(50),
            percentile(99)
        );
    }
}

struct Bench {
    journal: LaneDriver,
    segments: LaneDriver,
    done: Receiver<(Lane, u64, Result<(), DiskError>)>,
    writer: JournalWriter,
    index: u64,
}

impl Bench {
    fn open(dir: &Path) -> Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(StdDisk::open(dir, StdDiskConfig::default())?);
        let start = Instant::now();
        let replay = Replay::open(&*disk, JournalId::from_bytes([1; 16]), ReplayStart::default())?;
        println!("looking at what an earlier run left took {} ms", start.elapsed().as_millis());
        let mut writer = JournalWriter::resume(&JournalConfig::default(), replay.finish());
        writer.settle(&*disk)?;
        let (sender, done) = channel();
        let lane = |lane| {
            let sender = sender.clone();
            LaneDriver::start(lane, Arc::clone(&disk), 16, move |token, result| {
                let _ = sender.send((lane, token, result));
            })
        };
        Ok(Self { journal: lane(Lane::Journal)?, segments: lane(Lane::Segments)?, done, writer, index: 0 })
    }

    /// Commits until the time is over; gives the latencies, and the length of a block.
    fn run(&mut self, groups: u64, bytes: usize, duration: Duration) -> Result<(Figures, usize)> {
        let payload = Bytes::from(vec![0x5A; bytes]);
        let mut latencies = Vec::new();
        let mut block_bytes = 0;
        let start = Instant::now();
        while start.elapsed() < duration {
            self.index += 1;
            let submitted = Instant::now();
            for group in 0..groups {
                let entry = Entry {
                    index: LogIndex(self.index),
                    term: Term(1),
                    kind: EntryKind::Batches,
                    payload: payload.clone(),
                };
                self.writer.submit(Append { group: GroupId(group), entries: vec![entry], hard_state: None });
            }
            let mut acked = 0;
            while acked < groups {
                if let Some(JournalIo { token, ops }) = self.writer.poll() {
                    block_bytes = ops.iter().map(written).sum();
                    self.journal.submit(Job { token, ops })?;
                }
                if let Some(JournalIo { token, ops }) = self.writer.poll_upkeep() {
                    self.segments.submit(Job { token, ops })?;
                }
                match self.done.recv()? {
                    (Lane::Segments, token, result) => self.writer.complete_upkeep(token, result)?,
                    (Lane::Journal, token, result) => {
                        let completed = self.writer.complete(token, result)?.expect("there is space");
                        acked += completed.durable.len() as u64;
                        self.writer.recycle(completed.lsn);
                    }
                }
            }
            latencies.push(submitted.elapsed());
        }
        Ok((Figures { elapsed: start.elapsed(), latencies }, block_bytes))
    }
}

fn written(op: &DiskOp) -> usize {
    match op {
        DiskOp::Write { bufs, .. } => bufs.iter().map(Bytes::len).sum(),
        _ => 0,
    }
}

/// The same blocks without a journal: one thread, one buffer, one file that is used again.
fn bare(dir: &Path, block_bytes: usize, duration: Duration) -> Result<Figures> {
    let path = dir.join("bare");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
    let file_bytes = 64 << 20;
    if file.metadata()?.len() < file_bytes {
        file.write_all_at(&vec![0; 64 << 20], 0)?;
        file.sync_all()?;
    }
    let block = vec![0xA5; block_bytes];
    let mut latencies = Vec::new();
    let mut pos = 0;
    let start = Instant::now();
    while start.elapsed() < duration {
        if pos + block.len() as u64 > file_bytes {
            pos = 0;
        }
        let written = Instant::now();
        file.write_all_at(&block, pos)?;
        file.sync_data()?;
        latencies.push(written.elapsed());
        pos += block.len() as u64;
    }
    Ok(Figures { elapsed: start.elapsed(), latencies })
}
