//! A store on a real disk, with a thread for each lane and readers beside them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, with threads and a deadline")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, BatchHeader, HEADER_BYTES, MAGIC_ROWS, seal, verify_crc},
    ids::{
        ClusterId, GroupId, IncarnationId, LogIndex, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Term,
        TopicId,
    },
};
use levada_storage_engine::{
    disk::{Disk, DiskError, Lane},
    driver::{Job, LaneDriver},
    entry::{Entry, EntryKind, HardState},
    identity::DirIdentity,
    journal::{Doubt, JournalConfig, JournalId},
    log::Log,
    std_disk::{StdDisk, StdDiskConfig},
    store::{GroupCheckpoint, GroupInit, Recovered, Store, StoreConfig, StoreEffect, StoreEvent},
};
use uuid::Uuid;

const GROUPS: u64 = 6;
const ENTRIES: u64 = 300;
const ROLL_EVERY: u64 = 64;
const PAYLOAD_BYTES: usize = 3_000;

const IDENTITY: DirIdentity = DirIdentity {
    cluster: ClusterId(Uuid::from_bytes([1; 16])),
    node: NodeId(1),
    incarnation: IncarnationId(Uuid::from_bytes([2; 16])),
};

fn config() -> StoreConfig {
    StoreConfig {
        journal: JournalConfig { file_bytes: 1 << 20, files_keep: 4, gather_bytes: 256 << 10 },
        checkpoint_bytes: 1 << 20,
        tail_keep_bytes: 64 << 10,
        ..StoreConfig::default()
    }
}

/// A batch of one record, different for every group and offset.
fn batch(group: u64, offset: u64) -> Bytes {
    let header = BatchHeader {
        base_offset: Offset(offset),
        batch_length: u32::try_from(HEADER_BYTES - 12 + PAYLOAD_BYTES).unwrap(),
        leader_epoch: 1,
        magic: MAGIC_ROWS,
        crc: 0,
        attributes: Attributes::default(),
        last_offset_delta: 0,
        base_timestamp_ms: 0,
        max_timestamp_ms: i64::try_from(offset).unwrap(),
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: -1,
        record_count: 1,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend((0..PAYLOAD_BYTES as u64).map(|at| (at * (group + 1) + offset).to_le_bytes()[0]));
    seal(&mut bytes);
    bytes.into()
}

struct Running {
    store: Store,
    lanes: [LaneDriver; 2],
    answers: Receiver<(u64, Result<(), DiskError>)>,
}

impl Running {
    fn open(root: &Path) -> (Self, Found) {
        let disk: Arc<dyn Disk> = Arc::new(StdDisk::open(root, StdDiskConfig::default()).unwrap());
        if DirIdentity::read(&*disk).unwrap().is_none() {
            IDENTITY.format(&*disk, JournalId::from_bytes([3; 16])).unwrap();
        }
        let Recovered { store, groups, doubt } = Store::open(Arc::clone(&disk), config(), &IDENTITY).unwrap();
        assert_eq!(doubt, Doubt::None);
        let (told, answers): (Sender<_>, _) = channel();
        let lane = |lane| {
            let told = told.clone();
            LaneDriver::start(lane, Arc::clone(&disk), 1024, move |token, result| {
                let _ = told.send((token, result));
            })
            .unwrap()
        };
        let lanes = [lane(Lane::Journal), lane(Lane::Segments)];
        let found = groups.into_iter().map(|g| (g.log, g.applied, g.app_state)).collect();
        (Self { store, lanes, answers }, found)
    }

    /// Hands out what is to be done, and takes answers for a while.
    fn turn(&mut self) -> Vec<StoreEvent> {
        let mut effects = Vec::new();
        self.store.poll(&mut effects);
        for StoreEffect::Disk { lane, token, ops } in effects {
            self.lanes[usize::from(lane == Lane::Segments)].submit(Job { token, ops }).unwrap();
        }
        let first = self.answers.recv_timeout(Duration::from_millis(5)).into_iter();
        let answers: Vec<_> = first.chain(self.answers.try_iter()).collect();
        answers.into_iter().flat_map(|(token, result)| self.store.on_disk(token, result).unwrap()).collect()
    }
}

type Found = Vec<(Log, LogIndex, Bytes)>;

/// Reads a group from the start up to the high watermark, over and over.
fn read_along(group: u64, log: &Log, high_watermark: &AtomicU64, stop: &AtomicBool) -> u64 {
    let mut read_bytes = 0;
    loop {
        let is_last = stop.load(Ordering::Acquire);
        let end = Offset(high_watermark.load(Ordering::Acquire));
        let mut offset = Offset(0);
        while offset < end {
            let read = log.read(offset, 64 << 10, end).unwrap();
            assert!(!read.batches.is_empty());
            for bytes in read.batches {
                verify_crc(&bytes).unwrap();
                assert_eq!(bytes, batch(group, offset.get()));
                read_bytes += bytes.len() as u64;
                offset = offset.plus(1);
            }
            assert_eq!(offset, read.next_offset);
        }
        if is_last {
            return read_bytes;
        }
    }
}

#[test]
fn what_is_acknowledged_is_read_along_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (mut running, found) = Running::open(directory.path());
    assert!(found.is_empty());
    let logs: Vec<Log> = (0..GROUPS)
        .map(|group| {
            let (topic, partition) = (TopicId(Uuid::from_bytes([3; 16])), PartitionId(u32::try_from(group).unwrap()));
            running.store.create_group(GroupInit { group: GroupId(group), topic, partition })
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let marks: Vec<Arc<AtomicU64>> = (0..GROUPS).map(|_| Arc::default()).collect();
    let readers: Vec<_> = (0..GROUPS)
        .zip(logs.iter().zip(&marks))
        .map(|(group, (log, mark))| {
            let (log, mark, stop) = (log.clone(), Arc::clone(mark), Arc::clone(&stop));
            thread::spawn(move || read_along(group, &log, &mark, &stop))
        })
        .collect();

    let started = Instant::now();
    let mut applied = vec![0; usize::try_from(GROUPS).unwrap()];
    let mut appended = 0;
    while applied.iter().any(|applied| *applied < ENTRIES) {
        assert!(started.elapsed() < Duration::from_secs(120), "stuck at {applied:?}");
        if appended < ENTRIES && appended < applied.iter().min().unwrap() + 40 {
            appended += 1;
            for group in 0..GROUPS {
                let entry = Entry {
                    index: LogIndex(appended),
                    term: Term(1),
                    kind: EntryKind::Batches,
                    payload: batch(group, appended - 1),
                };
                let hard_state = HardState { term: Term(1), vote: 1, commit: LogIndex(appended - 1) };
                running.store.append(GroupId(group), vec![entry], Some(hard_state)).unwrap();
            }
        }
        for event in running.turn() {
            let StoreEvent::Persisted { group, index, .. } = event else { continue };
            let at = usize::try_from(group.get()).unwrap();
            for index in applied[at] + 1..=index.get() {
                running.store.commit(group, LogIndex(index));
                if index % ROLL_EVERY == 0 {
                    running.store.roll(group, LogIndex(index));
                }
            }
            applied[at] = index.get();
            marks[at].store(applied[at], Ordering::Release);
        }
        if running.store.checkpoint_due() {
            let groups = (0..GROUPS).zip(&applied).map(|(group, applied)| GroupCheckpoint {
                group: GroupId(group),
                applied: LogIndex(*applied),
                conf_state: Bytes::new(),
                app_state: Bytes::from(applied.to_le_bytes().to_vec()),
            });
            running.store.begin_checkpoint(groups.collect());
        }
    }
    stop.store(true, Ordering::Release);
    let bytes_max = ENTRIES * (PAYLOAD_BYTES + HEADER_BYTES) as u64;
    for reader in readers {
        assert!(reader.join().unwrap() >= bytes_max);
    }
    drop(running);
    drop(logs);

    let (running, found) = Running::open(directory.path());
    assert_eq!(found.len() as u64, GROUPS);
    for (group, (log, applied, app_state)) in (0..GROUPS).zip(&found) {
        assert!(*applied > LogIndex(0), "there were checkpoints");
        assert_eq!(*app_state, applied.get().to_le_bytes().to_vec());
        assert_eq!(log.last_index(), LogIndex(ENTRIES));
        assert!(log.segments().len() > 1, "{:?}", log.segments());
        let (mark, stop) = (AtomicU64::new(ENTRIES), AtomicBool::new(true));
        assert_eq!(read_along(group, log, &mark, &stop), bytes_max);
        let half = i64::try_from(ENTRIES / 2).unwrap();
        assert_eq!(log.offset_for_time(half, Offset(ENTRIES)).unwrap(), Some(Offset(ENTRIES / 2)));
    }
    drop(running);
}
