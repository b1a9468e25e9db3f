//! An open-loop load generator.
//!
//! Every record has a time at which it is to be sent, fixed before the run by the rate alone. When the generator or the
//! cluster is late, later records are late too, and their latency counts from when they were *to be* sent: no
//! coordinated omission. Without a rate, or with a bound on records in flight, there is no such plan: then a latency
//! counts from the moment the record is handed to the producer.
//!
//! A thread for each client, as timers of the runtime are too coarse for small latencies.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use levada_client::{Producer, Record};
use tokio::runtime::Handle;

use super::{
    report::{histogram, micros},
    values::{Pool, Stamp},
};

/// What is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) topic: String,
    /// Records a second, over all clients; as many as it takes if not given.
    pub(super) records_per_s: Option<f64>,
    /// Records in flight, for each client; no bound but the producer's buffer if not given.
    pub(super) in_flight_max: Option<u64>,
    /// Not measured.
    pub(super) warmup: Duration,
    /// Measured.
    pub(super) duration: Duration,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Sent {
    /// Of records that were to be sent within the measured time, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// Acknowledged within the measured time.
    pub(super) acknowledged: u64,
    /// Acknowledged at all.
    pub(super) acknowledged_in_all: u64,
    pub(super) failed: u64,
    /// The first failure's words.
    pub(super) failure: Option<String>,
    /// The longest time within the measured time in which nothing was acknowledged.
    pub(super) longest_gap: Duration,
    /// How long the measured time was.
    pub(super) measured: Duration,
}

/// What all clients of one run share.
struct Run {
    load: Load,
    pool: Arc<Pool>,
    clients: u32,
    began: Instant,
    began_wall_ns: u64,
    outcome: Mutex<Outcome>,
}

struct Outcome {
    latencies: Histogram<u64>,
    acknowledged: u64,
    acknowledged_in_all: u64,
    failed: u64,
    failure: Option<String>,
    last_ack: Instant,
    longest_gap: Duration,
}

/// Watches a run from outside.
#[derive(Clone)]
pub(super) struct Watch(Arc<Run>);

impl Watch {
    /// Records acknowledged so far.
    pub(super) fn so_far(&self) -> u64 {
        self.0.outcome().acknowledged_in_all
    }
}

/// A run under way.
pub(super) struct Running {
    run: Arc<Run>,
    clients: Vec<std::thread::JoinHandle<Result<()>>>,
}

/// Starts sending, one thread for each producer.
pub(super) fn start(load: Load, pool: Arc<Pool>, producers: Vec<Producer>) -> Running {
    let now = Instant::now();
    let began_wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let outcome = Outcome {
        latencies: histogram(),
        acknowledged: 0,
        acknowledged_in_all: 0,
        failed: 0,
        failure: None,
        last_ack: now,
        longest_gap: Duration::ZERO,
    };
    let run = Arc::new(Run {
        load,
        pool,
        clients: u32::try_from(producers.len()).unwrap_or(u32::MAX),
        began: now,
        began_wall_ns: u64::try_from(began_wall.as_nanos()).unwrap_or(u64::MAX),
        outcome: Mutex::new(outcome),
    });
    let runtime = Handle::current();
    let clients = (0..).zip(producers).map(|(number, producer)| {
        let client = Client { number, producer, run: Arc::clone(&run), in_flight: Arc::default() };
        let runtime = runtime.clone();
        std::thread::spawn(move || client.send_all(&runtime))
    });
    Running { clients: clients.collect(), run }
}

impl Running {
    pub(super) fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.run))
    }

    /// Waits until all is sent and has its outcome.
    pub(super) async fn finish(self) -> Result<Sent> {
        let Self { run, clients } = self;
        let join = move || -> Result<()> {
            for client in clients {
                client.join().map_err(|_| anyhow::anyhow!("a client of the load failed"))??;
            }
            Ok(())
        };
        tokio::task::spawn_blocking(join).await.context("the load failed")??;
        let end = run.began.elapsed().min(run.load.warmup + run.load.duration);
        let mut outcome = run.outcome();
        let measured_began = run.began + run.load.warmup;
        let last_gap = (run.began + end).saturating_duration_since(outcome.last_ack.max(measured_began));
        Ok(Sent {
            latencies: std::mem::replace(&mut outcome.latencies, histogram()),
            acknowledged: outcome.acknowledged,
            acknowledged_in_all: outcome.acknowledged_in_all,
            failed: outcome.failed,
            failure: outcome.failure.take(),
            longest_gap: outcome.longest_gap.max(last_gap),
            measured: end.saturating_sub(run.load.warmup),
        })
    }
}

impl Run {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> Duration {
        self.load.warmup + self.load.duration
    }

    /// So many records were to be sent and never were: they count as failed, not as forgotten.
    fn given_up(&self, records: f64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, not negative")]
        let records = records.ceil() as u64;
        let mut outcome = self.outcome();
        outcome.failed += records;
        outcome.failure.get_or_insert_with(|| "the rate is more than this machine and cluster can do".to_owned());
    }

    /// A record that was to be sent at `intended` (since the start) has been acknowledged, or has failed.
    fn resolved(&self, intended: Duration, failure: Option<String>) {
        let now = Instant::now();
        let since_start = now.duration_since(self.began);
        let measured = |time: Duration| self.load.warmup <= time && time < self.end();
        let mut outcome = self.outcome();
        if let Some(failure) = failure {
            outcome.failed += 1;
            outcome.failure.get_or_insert(failure);
            return;
        }
        outcome.acknowledged_in_all += 1;
        if measured(intended) {
            outcome.latencies.saturating_record(micros(since_start.saturating_sub(intended)).max(1));
        }
        if measured(since_start) {
            outcome.acknowledged += 1;
            let gap = now.duration_since(outcome.last_ack.max(self.began + self.load.warmup));
            outcome.longest_gap = outcome.longest_gap.max(gap);
        }
        outcome.last_ack = now;
    }
}

/// One producer and its share of the load.
struct Client {
    number: u32,
    producer: Producer,
    run: Arc<Run>,
    in_flight: Arc<(Mutex<u64>, Condvar)>,
}

impl Client {
    fn send_all(self, runtime: &Handle) -> Result<()> {
        let run = Arc::clone(&self.run);
        // Clients take turns, so that together they send evenly.
        let interval = run.load.records_per_s.map(|rate| f64::from(run.clients) / rate);
        let offset = interval.map_or(0.0, |interval| interval * f64::from(self.number) / f64::from(run.clients));
        let mut value = Vec::new();
        let mut number = 0_u64;
        loop {
            let now = run.began.elapsed();
            let planned = interval.map(|interval| Duration::from_secs_f64(offset + interval * count(number)));
            let intended = planned.unwrap_or(now);
            if intended >= run.end() {
                break;
            }
            if now >= run.end() + GIVE_UP_AFTER {
                run.given_up(interval.map_or(0.0, |interval| (run.end() - intended).as_secs_f64() / interval));
                break;
            }
            if intended > now {
                std::thread::sleep(intended - now);
                continue;
            }
            self.wait_for_room();
            let intended = if run.load.in_flight_max.is_some() { run.began.elapsed() } else { intended };
            let intended_ns = run.began_wall_ns.saturating_add(u64::try_from(intended.as_nanos()).unwrap_or(u64::MAX));
            run.pool.write(Stamp { client: self.number, number, intended_ns }, &mut value);
            let told = self.teller(intended);
            let sent = self.producer.send_with_callback(&run.load.topic, Record::new(&value), told);
            runtime.block_on(sent).context("a record cannot be sent")?;
            number += 1;
        }
        // The outcome of every record was told by its own callback.
        let _ = runtime.block_on(self.producer.close());
        Ok(())
    }

    /// Waits until another record may be on its way.
    fn wait_for_room(&self) {
        let Some(max) = self.run.load.in_flight_max else { return };
        let (count, freed) = &*self.in_flight;
        let in_flight = count.lock().unwrap_or_else(PoisonError::into_inner);
        let mut in_flight =
            freed.wait_while(in_flight, |in_flight| *in_flight >= max).unwrap_or_else(PoisonError::into_inner);
        *in_flight += 1;
    }

    /// What the producer calls when the record's outcome is known.
    fn teller(
        &self,
        intended: Duration,
    ) -> impl FnOnce(Result<levada_client::Delivered, levada_client::DeliveryError>) + Send + 'static {
        let run = Arc::clone(&self.run);
        let in_flight = run.load.in_flight_max.map(|_| Arc::clone(&self.in_flight));
        move |outcome| {
            run.resolved(intended, outcome.err().map(|failure| failure.to_string()));
            if let Some(in_flight) = in_flight {
                let (count, freed) = &*in_flight;
                *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
                freed.notify_one();
            }
        }
    }
}

/// A generator that cannot keep up with its rate does not go on for ever.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

fn count(number: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "2^53 records take longer than any run")]
    let number = number as f64;
    number
}
