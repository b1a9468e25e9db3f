//! The worker around a node of its own, on disks that fail or hang.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Condvar, Mutex},
    time::Duration,
};

use bytes::Bytes;
use levada_protocol::{
    batch::{Attributes, BatchProducer, NewRecord, RowsBuilder},
    ids::{ClusterId, IncarnationId, TopicPartition},
    source::NewTopic,
};
use levada_storage_engine::{
    disk::{DiskError, DiskOp, DiskSpace, FileName},
    identity::DirIdentity,
    journal::JournalId,
    sim_disk::{Fault, SimDisk},
    store::StoreConfig,
};
use tokio::{runtime::Handle, time::sleep};

use super::*;
use crate::node::Watermarks;
use crate::{
    cluster::addresses::AddressBook,
    net::dial::Caller,
    node::{NodeConfig, ScrubConfig},
    runtime::{budget::Budget, clock, strangers::Strangers, tasks::Tasks},
};

/// A disk whose syncs wait while it is told to hang.
#[derive(Debug)]
struct Hanging {
    disk: SimDisk,
    hangs: Mutex<bool>,
    changed: Condvar,
}

impl Hanging {
    fn hang(&self, hangs: bool) {
        *self.hangs.lock().unwrap() = hangs;
        self.changed.notify_all();
    }
}

impl Disk for Hanging {
    fn perform(&self, op: &DiskOp) -> std::result::Result<(), DiskError> {
        if matches!(op, DiskOp::Sync { .. }) {
            drop(self.changed.wait_while(self.hangs.lock().unwrap(), |hangs| *hangs).unwrap());
        }
        self.disk.perform(op)
    }

    fn list(&self, dir: &str) -> std::result::Result<Vec<String>, DiskError> {
        self.disk.list(dir)
    }

    fn len(&self, file: &FileName) -> std::result::Result<Option<u64>, DiskError> {
        self.disk.len(file)
    }

    fn read(&self, file: &FileName, pos: u64, len: usize) -> std::result::Result<Bytes, DiskError> {
        self.disk.read(file, pos, len)
    }

    fn map(&self, file: &FileName, pos: u64, len: usize) -> std::result::Result<Bytes, DiskError> {
        self.disk.map(file, pos, len)
    }

    fn space(&self) -> std::result::Result<Option<DiskSpace>, DiskError> {
        self.disk.space()
    }
}

struct Fixture {
    disk: Arc<Hanging>,
    worker: Worker,
    place: TopicPartition,
}

/// A cluster of one, with a topic of one partition.
async fn fixture() -> Fixture {
    let hanging = Arc::new(Hanging { disk: SimDisk::new(1), hangs: Mutex::new(false), changed: Condvar::new() });
    let disk: Arc<dyn Disk> = Arc::clone(&hanging) as Arc<dyn Disk>;
    let (cluster, node) = (ClusterId::from_bytes([1; 16]), NodeId(1));
    let incarnation = IncarnationId::from_bytes([2; 16]);
    DirIdentity { cluster, node, incarnation }.format(&*disk, JournalId::from_bytes([9; 16])).unwrap();
    let mut store = StoreConfig::default();
    store.journal.files_keep = 2;
    let founders = BTreeSet::from([node]);
    let watermarks = Watermarks { reserve_bytes: 0, reserve_percent: 0 };
    let config = NodeConfig {
        cluster,
        node,
        incarnation,
        founders,
        default_replicas: 1,
        seed: 1,
        store,
        copy_bytes_per_s: 1,
        watermarks,
        slow_disk_ms: 0,
        journal_queue_ms: 20,
        metadata_log_bytes: 1 << 20,
        absent_ms: 1_000,
        member_loss: None,
        scrub: ScrubConfig { bytes_per_s: 0, interval_ms: 0 },
    };
    let core = Node::open(Arc::clone(&disk), config).unwrap();
    let book = Arc::new(AddressBook::new(core.view(), BTreeMap::new(), BTreeMap::new()));
    let caller = Caller { cluster: Some(cluster), node, incarnation, joined: None };
    let peers = Arc::new(Peers::new(caller, book, Tasks::new(Handle::current()), Strangers::new(None, [])));
    let worker = Worker::start(core, &disk, Clock::start(), peers).unwrap();
    let addresses = levada_protocol::error::NodeAddresses { node, ..Default::default() };
    let itself = crate::cluster::metadata::Node::new(addresses, incarnation, String::new());
    let register = Request::RegisterNode { node: Box::new(itself) };
    surely(&worker, register).await;
    let new = NewTopic { name: "t".into(), partitions: 1, replicas: 1, config: BTreeMap::new(), schema_json: None };
    let Answer::Topic(topic) = surely(&worker, Request::CreateTopic { new, dry_run: false, id: None }).await else {
        panic!()
    };
    let place = TopicPartition { topic: topic.id, partition: topic.partitions[0].partition };
    surely(&worker, Request::Bounds { partition: place }).await;
    Fixture { disk: hanging, worker, place }
}

fn soon() -> Instant {
    clock::instant() + Duration::from_secs(20)
}

/// Asks until there is a leader who answers.
async fn surely(worker: &Worker, request: Request) -> Answer {
    for _ in 0..1000 {
        match worker.ask(request.clone(), soon(), Charge::default()).await {
            Ok(answer) => return answer,
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{request:?}");
}

fn produce(place: TopicPartition) -> Request {
    let mut builder = RowsBuilder::new();
    builder.push(&NewRecord { timestamp_ms: 5, key: None, value: Some(b"value"), headers: &[] }).unwrap();
    let batch = builder.finish(Attributes::default(), BatchProducer::NONE).unwrap();
    Request::Produce { partition: place, batch }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_ends_the_worker_and_nobody_is_told_that_it_worked() {
    let Fixture { disk, worker, place } = fixture().await;
    surely(&worker, produce(place)).await;
    disk.disk.inject(Fault::fail("fdatasync").on("journal"));
    let error = worker.ask(produce(place), soon(), Charge::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::StorageFailed, "{error}");
    let mut state = worker.state();
    let failed = state.wait_for(|state| matches!(state, WorkerState::Failed(_))).await.unwrap().clone();
    let WorkerState::Failed(why) = failed else { panic!() };
    assert!(why.contains("fdatasync") && why.contains("start the node again"), "{why}");
    assert!(!worker.is_running());
    let late = worker.ask(produce(place), soon(), Charge::default()).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::OutcomeUnknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_timed_out_is_paid_for_until_the_core_lets_go() {
    let Fixture { disk, worker, place } = fixture().await;
    disk.hang(true);
    let budget = Budget::new(1000);
    let deadline = clock::instant() + Duration::from_millis(100);
    let error = worker.ask(produce(place), deadline, budget.take(700).await).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    assert_eq!(budget.held(), 700, "its batch still is in memory");
    disk.hang(false);
    drop(budget.take(1000).await);
    let Answer::Appended(next) = surely(&worker, produce(place)).await else { panic!() };
    assert_eq!(next.base_offset.get(), 1, "it had happened");
    worker.stop();
    let mut state = worker.state();
    state.wait_for(|state| *state == WorkerState::Stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_of_one_node_is_ready_at_once_and_refuses_new_work() {
    let Fixture { worker, place, .. } = fixture().await;
    worker.shutdown();
    let mut state = worker.state();
    state.wait_for(|state| *state == WorkerState::ReadyToStop).await.unwrap();
    let error = worker.ask(produce(place), soon(), Charge::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ShuttingDown);
    worker.stop();
    state.wait_for(|state| *state == WorkerState::Stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_round_ends_the_worker_whoever_does_it() {
    let Fixture { worker, place, .. } = fixture().await;
    let reply: Reply = Box::new(|_| panic!("on purpose"));
    let task = {
        let worker = worker.clone();
        Handle::current().spawn_blocking(move || {
            let bounds = Request::Bounds { partition: place };
            Handle::current().block_on(worker.submit(bounds, soon(), Charge::default(), reply));
        })
    };
    let mut state = worker.state();
    let failed = state.wait_for(|state| matches!(state, WorkerState::Failed(_))).await.unwrap().clone();
    let WorkerState::Failed(why) = failed else { panic!() };
    assert!(why.contains("panicked"), "{why}");
    drop(task.await);
    let late = worker.ask(produce(place), soon(), Charge::default()).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::OutcomeUnknown);
}

/// Many bring events at once and few do the rounds; nothing is left lying, and each gets its own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_brought_while_somebody_else_is_at_it_is_done() {
    let Fixture { worker, place, .. } = fixture().await;
    let mut askers = Vec::new();
    for _ in 0..8 {
        let worker = worker.clone();
        let ask = async move {
            let mut offsets = Vec::new();
            for _ in 0..100 {
                let Ok(Answer::Appended(appended)) = worker.ask(produce(place), soon(), Charge::default()).await else {
                    panic!("not appended")
                };
                offsets.push(appended.base_offset.get());
            }
            offsets
        };
        askers.push(Handle::current().spawn(ask));
    }
    let mut all = BTreeSet::new();
    for asker in askers {
        let offsets = asker.await.unwrap();
        assert!(offsets.is_sorted());
        all.extend(offsets);
    }
    assert!(all.into_iter().eq(0..800));
    worker.stop();
    let mut state = worker.state();
    state.wait_for(|state| *state == WorkerState::Stopped).await.unwrap();
}

/// Past some rounds in a millisecond the core's thread has to be woken up. Asleep, it would do them with its next tick, so
/// that this took many seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_tick() {
    let Fixture { worker, place, .. } = fixture().await;
    let begun = clock::instant();
    for _ in 0..3_000 {
        surely(&worker, Request::Bounds { partition: place }).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
