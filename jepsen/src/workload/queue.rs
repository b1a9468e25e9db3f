//! Producers and readers of logs.
//!
//! A **client** is a producer, as a program has one, and some processes that share it: so batches are filled, retried and numbered
//! as they are in production. After some time it crashes, with whatever it had under way, and another one takes its place.

use std::{sync::Arc, time::Duration};

use levada_checkers::history::{Index, Key, Op, Phase, Process};
use levada_client::{Admin, DeliveryError, Offset, PartitionId, Producer, ProducerConfig, Record, Written};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Orders, Stopped, TOPIC, Work,
    log::{PATIENCE, admin, config},
    records,
};
use crate::stage::Stage;

/// Processes that share a producer.
const CLIENT_PROCESSES: u32 = 32;
/// A producer lives about so long.
const CLIENT_LIVES: std::ops::Range<u64> = 15..45;
/// Readers a key.
const READERS_PER_KEY: u32 = 1;
/// How much a reader takes at once.
const READ_BYTES_MAX: u32 = 256 << 10;
/// How long a reader waits at the end of the log.
const READ_WAIT: Duration = Duration::from_millis(500);
/// How long whoever was refused waits before the next operation.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// How often the end of a log is asked for.
const END_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn begin(work: &mut Work, stage: &Arc<Stage>, orders: &Orders) {
    for number in 0..orders.clients.div_ceil(CLIENT_PROCESSES) {
        work.spawn(produce(Arc::clone(stage), *orders, number, work.stopped()));
    }
    for key in 0..orders.keys * READERS_PER_KEY {
        work.spawn(read(Arc::clone(stage), key % orders.keys, work.stopped()));
    }
    work.spawn(ask_ends(Arc::clone(stage), *orders, work.stopped()));
}

/// One client after the other.
async fn produce(stage: Arc<Stage>, orders: Orders, number: u32, mut stopped: Stopped) {
    let mut dice = StdRng::seed_from_u64(orders.seed ^ u64::from(number) << 32);
    while !stopped.is() {
        let Ok(producer) = producer(&stage).await else {
            sleep(REFUSED_PAUSE).await;
            continue;
        };
        let processes: Vec<Process> = (0..CLIENT_PROCESSES).map(|_| stage.recorder.process()).collect();
        let mut lanes = JoinSet::new();
        for &process in &processes {
            lanes.spawn(send(Arc::clone(&stage), orders, producer.clone(), process, stopped.clone()));
        }
        let lives = Duration::from_secs(dice.random_range(CLIENT_LIVES));
        tokio::select! {
            () = sleep(lives) => {
                lanes.shutdown().await;
                processes.iter().for_each(|&process| stage.recorder.retire(process, "the client crashed"));
            }
            () = stopped.wait() => while lanes.join_next().await.is_some() {},
        }
    }
}

async fn producer(stage: &Stage) -> anyhow::Result<Producer> {
    let mut settings = ProducerConfig::new(config(stage, "jepsen-producer")?);
    settings.delivery_timeout = PATIENCE;
    settings.client.request_timeout = PATIENCE / 2;
    Ok(Producer::with_config(settings).await?)
}

/// One process that sends.
async fn send(stage: Arc<Stage>, orders: Orders, producer: Producer, process: Process, stopped: Stopped) {
    let mut dice = StdRng::seed_from_u64(orders.seed.wrapping_add(u64::from(process)));
    let interval = match orders.rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs(1) * orders.clients / u32::try_from(rate).unwrap_or(u32::MAX),
    };
    let mut next = Instant::now() + interval.mul_f64(dice.random());
    for number in 0.. {
        sleep_until(next).await;
        // Who was held up does not catch up: that would be a load of its own.
        next = next.max(Instant::now() - interval) + interval;
        if stopped.is() {
            return;
        }
        let (key, value) = (dice.random_range(0..orders.keys), records::value(process, number));
        let sent = Op::Send { key, value, offset: None };
        let invocation = stage.recorder.invoke(process, None, sent.clone());
        match deliver(&producer, key, &records::encode(value)).await {
            Ok(offset) => {
                let op = Op::Send { key, value, offset: Some(offset.get()) };
                stage.recorder.ok(process, None, invocation, op);
            }
            Err(failed) => {
                let phase = if failed.written == Written::No { Phase::Fail } else { Phase::Info };
                stage.recorder.ended(process, invocation, phase, sent, failed.error.to_string());
                sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

async fn deliver(producer: &Producer, key: Key, value: &str) -> Result<Offset, DeliveryError> {
    let record = Record::new(value).with_partition(PartitionId(key));
    let taken = producer.send(TOPIC, record).await;
    let delivery = taken.map_err(|error| DeliveryError { error, written: Written::No })?;
    Ok(delivery.await?.offset)
}

/// One process that reads a log from its beginning, and then what comes.
async fn read(stage: Arc<Stage>, key: Key, stopped: Stopped) {
    let process = stage.recorder.process();
    let (mut from, mut asked) = (0, None);
    while !stopped.is() {
        let Some(admin) = again(&mut asked, &stage).await else { continue };
        let op = Op::Poll { key, from, records: Vec::new() };
        let invocation = stage.recorder.invoke(process, None, op.clone());
        match poll(admin, key, from).await {
            Ok(records) => {
                let is_empty = records.is_empty();
                let next = records.last().map_or(from, |(offset, _)| offset + 1);
                stage.recorder.ok(process, None, invocation, Op::Poll { key, from, records });
                from = next;
                if is_empty {
                    sleep(REFUSED_PAUSE).await;
                }
            }
            Err(error) => {
                failed(&stage, process, invocation, op, &error);
                asked = None;
                sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

/// Whom to ask: made anew after an error, as a program that was started again would.
pub(super) async fn again<'a>(asked: &'a mut Option<Admin>, stage: &Stage) -> Option<&'a Admin> {
    if asked.is_none() {
        match admin(stage, "jepsen-reader").await {
            Ok(admin) => *asked = Some(admin),
            Err(_) => sleep(REFUSED_PAUSE).await,
        }
    }
    asked.as_ref()
}

pub(super) async fn poll(admin: &Admin, key: Key, from: u64) -> anyhow::Result<Vec<(u64, u64)>> {
    let fetched = admin.fetch(TOPIC, PartitionId(key), Offset(from), READ_BYTES_MAX, READ_WAIT);
    let fetched = timeout(PATIENCE, fetched).await??;
    Ok(records::of_batches(&fetched.batches, from)?)
}

/// A read ended without what was asked for. That what was shown is damaged is no failure of a client.
pub(super) fn failed(stage: &Stage, process: Process, invocation: Index, op: Op, error: &anyhow::Error) {
    if let Some(damaged) = error.downcast_ref::<records::Damaged>() {
        stage.recorder.wrong("damaged", op.key(), Some(invocation), damaged.to_string());
    }
    stage.recorder.ended(process, invocation, Phase::Fail, op, format!("{error:#}"));
}

/// One process that asks how far logs reach.
async fn ask_ends(stage: Arc<Stage>, orders: Orders, stopped: Stopped) {
    let (process, mut dice, mut asked) = (stage.recorder.process(), StdRng::seed_from_u64(orders.seed), None);
    while !stopped.is() {
        let Some(admin) = again(&mut asked, &stage).await else { continue };
        let key = dice.random_range(0..orders.keys);
        let op = Op::End { key, offset: None };
        let invocation = stage.recorder.invoke(process, None, op.clone());
        match timeout(PATIENCE, admin.list_offsets(TOPIC, PartitionId(key), None)).await {
            Ok(Ok(offsets)) => {
                let op = Op::End { key, offset: Some(offsets.high_watermark.get()) };
                stage.recorder.ok(process, None, invocation, op);
            }
            Ok(Err(error)) => stage.recorder.ended(process, invocation, Phase::Fail, op, error.to_string()),
            Err(_) => stage.recorder.ended(process, invocation, Phase::Fail, op, "no answer".to_owned()),
        }
        sleep(END_INTERVAL).await;
    }
}
