//! The producer without its I/O: records, answers and the time go in, effects come out.
//!
//! **Guarantees**, per record: exactly one [`Effect::Deliver`]; an acknowledged record is in the log once; records of
//! one partition stand in the log in the order in which they were appended here, whatever is retried. A record that
//! failed is absent, or its delivery says that it may be there.
//!
//! **How.** Every batch carries the producer's identity and a sequence number, and the broker takes a batch only if
//! its sequence follows the last one of that identity in that partition; one that it has seen among the last five it
//! acknowledges again. So a try whose answer got lost is repeated with the very same bytes, at most five batches are
//! in flight per partition, and a failure in the middle stops the partition until all answers are in; then it goes on
//! from the oldest batch that is not acknowledged. When a batch fails for good after it had a sequence number, that
//! number is missing or in doubt: the partition then takes a new identity (see `Partition::fail`).
//!
//! **Batching.** A batch is closed when it is full, or when it can be sent and has waited for `linger`. While five
//! are in flight the open one keeps filling: a busy broker gets larger batches, not more of them.

mod batch;
mod context;
mod partition;
mod topics;
mod verdict;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use levada_protocol::{
    batch::RowsBuilder,
    error::{Error, ErrorClass, ErrorCode},
    ids::{NodeId, Offset, PartitionId, TopicPartition},
    partitioner::partition_of_key,
    source::ProducerIdentity,
};

use self::{
    context::{Context, Identity},
    partition::Partition,
    topics::TopicState,
};
use super::record::Record;
use crate::{
    error::{CallError, DeliveryError},
    retry::Backoff,
    topology::Topic,
};

pub(crate) use self::{
    batch::{AttemptId, BatchId},
    context::Settings,
};

/// Time since the producer began.
pub(crate) type Time = Duration;

/// The least time between two questions about metadata.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);

/// What the core wants done.
#[derive(Debug)]
pub(crate) enum Effect<D> {
    /// Compress these records and bring them back with [`Core::on_sealed`].
    Seal {
        /// The batch they belong to.
        batch: BatchId,
        /// The records.
        rows: RowsBuilder,
    },
    /// Send these bytes, after those that were to be sent to this node before; answer with [`Core::on_answer`].
    Send {
        /// Names the try in its answer.
        attempt: AttemptId,
        /// To whom.
        node: NodeId,
        /// For which partition.
        partition: TopicPartition,
        /// One record batch.
        bytes: Bytes,
    },
    /// Tell the senders of a batch what became of it.
    Deliver {
        /// Whom.
        delivery: D,
        /// The partition.
        partition: PartitionId,
        /// How many records.
        records: u32,
        /// Their share of the buffer, free from now on.
        reserved: usize,
        /// The first record's offset, or why there is none.
        result: Result<Offset, DeliveryError>,
    },
    /// Ask for a producer identity; answer with [`Core::on_identity`].
    InitProducer,
    /// Ask for the metadata of these topics; answer with [`Core::on_metadata`].
    Refresh {
        /// Their names.
        topics: Vec<String>,
    },
}

/// A record that was taken.
#[derive(Debug)]
pub(crate) struct Appended<D> {
    /// Its batch's.
    pub(crate) delivery: D,
    /// Its position in the batch.
    pub(crate) index: u32,
}

/// See the module's description. `D` is what the shell attaches to a batch to tell its senders.
#[derive(Debug)]
pub(crate) struct Core<D> {
    cx: Context<D>,
    topics: Vec<TopicState>,
    by_name: BTreeMap<String, usize>,
    partitions: Vec<Partition<D>>,
    /// The topic of each.
    topic_of: Vec<usize>,
    /// When to look after which partition.
    timers: BTreeSet<(Time, usize)>,
    timer_of: Vec<Option<Time>>,
    /// Partitions to look after now.
    dirty: BTreeSet<usize>,
    /// All that is open was told to hurry since the last poll.
    hurried: bool,
    refreshing: bool,
    refresh_not_before: Time,
    /// When the driver looks next by itself.
    armed: Option<Time>,
}

impl<D: Clone + Default> Core<D> {
    pub(crate) fn new(settings: Settings, seed: u64) -> Self {
        Self {
            cx: Context::new(settings, seed),
            topics: Vec::new(),
            by_name: BTreeMap::new(),
            partitions: Vec::new(),
            topic_of: Vec::new(),
            timers: BTreeSet::new(),
            timer_of: Vec::new(),
            dirty: BTreeSet::new(),
            hurried: false,
            refreshing: false,
            refresh_not_before: Time::ZERO,
            armed: None,
        }
    }

    /// A topic that was added before.
    pub(crate) fn topic(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Takes a record, of which the sender has reserved `reserved` bytes of the buffer.
    ///
    /// # Errors
    /// If the record can be in no batch: nothing has happened then.
    pub(crate) fn append(
        &mut self,
        now: Time,
        topic: usize,
        record: &Record<'_>,
        now_ms: i64,
        reserved: usize,
    ) -> Result<Appended<D>, Error> {
        self.cx.now = now;
        let state = &self.topics[topic];
        let batch_bytes = self.cx.settings.batch_bytes.min(state.batch_bytes_max);
        let number = match (record.partition, record.key) {
            (Some(partition), _) if partition.get() >= state.partition_count() => {
                return Err(Error::new(
                    ErrorCode::UnknownPartition,
                    format!(
                        "topic {:?} has {} partitions; there is no {partition}",
                        state.name,
                        state.partition_count()
                    ),
                ));
            }
            (Some(partition), _) => partition.get(),
            (None, Some(key)) => partition_of_key(key, state.partition_count()).get(),
            (None, None) => state.sticky,
        };
        let is_sticky = record.partition.is_none() && record.key.is_none();
        let record = record.at(now_ms);
        let mut position = state.position(number);
        // A batch that is full moves the sticky partition on, and the record with it.
        for _ in 0..2 {
            if self.partitions[position].has_room(&record, batch_bytes) {
                break;
            }
            self.partitions[position].close_open(&mut self.cx);
            self.dirty.insert(position);
            self.after_close();
            if is_sticky {
                position = self.topics[topic].position(self.topics[topic].sticky);
            }
        }
        let batch_bytes_max = self.topics[topic].batch_bytes_max;
        let partition = &mut self.partitions[position];
        let appended = partition.append(&record, reserved, batch_bytes, batch_bytes_max, &mut self.cx)?;
        if appended.index == 0 {
            let linger = self.cx.settings.linger;
            if self.partitions[position].is_idle_enough(now) && !linger.is_zero() {
                self.set_timer(position, Some(now + linger), true);
            } else {
                self.dirty.insert(position);
            }
        }
        Ok(appended)
    }

    /// Sends what is open without waiting for more.
    pub(crate) fn hurry(&mut self) {
        if std::mem::replace(&mut self.hurried, true) {
            return;
        }
        for (position, partition) in self.partitions.iter_mut().enumerate() {
            if partition.open.is_some() {
                partition.hurry();
                self.dirty.insert(position);
            }
        }
    }

    /// The same; answers everybody who waits for an outcome now.
    pub(crate) fn flush(&mut self) -> Vec<D> {
        self.hurried = false;
        self.hurry();
        self.partitions.iter().flat_map(Partition::outstanding).collect()
    }

    /// Whether [`Core::poll`] should be called before the time that [`Core::next_deadline`] gave.
    pub(crate) fn wants_poll(&self) -> bool {
        let sooner = |time: Time| self.armed.is_none_or(|armed| time < armed);
        !self.dirty.is_empty()
            || !self.cx.effects.is_empty()
            || self.timers.first().is_some_and(|&(time, _)| sooner(time))
    }

    /// Does what is due, and hands out what is to be done.
    pub(crate) fn poll(&mut self, now: Time, effects: &mut Vec<Effect<D>>) {
        self.cx.now = now;
        self.hurried = false;
        while let Some(&(time, position)) = self.timers.first() {
            if time > now {
                break;
            }
            self.set_timer(position, None, false);
            self.dirty.insert(position);
        }
        while let Some(position) = self.dirty.pop_first() {
            let look = self.partitions[position].advance(&mut self.cx);
            self.set_timer(position, look, false);
            self.after_close();
        }
        self.note_denied();
        if let Identity::None(not_before) = self.cx.identity
            && self.cx.identity_wanted
            && not_before <= now
        {
            self.cx.identity = Identity::Requested;
            self.cx.effects.push(Effect::InitProducer);
        }
        if self.cx.refresh_wanted && !self.refreshing && self.refresh_not_before <= now {
            self.refreshing = true;
            self.cx.refresh_wanted = false;
            let topics = self.topics.iter().filter(|topic| !topic.gone).map(|topic| topic.name.clone()).collect();
            self.cx.effects.push(Effect::Refresh { topics });
        }
        effects.append(&mut self.cx.effects);
    }

    /// When to call [`Core::poll`] next if nothing else happens.
    pub(crate) fn next_deadline(&mut self) -> Option<Time> {
        let refresh = (self.cx.refresh_wanted && !self.refreshing).then_some(self.refresh_not_before);
        let identity = match self.cx.identity {
            Identity::None(not_before) if self.cx.identity_wanted => Some(not_before),
            _ => None,
        };
        self.armed = [self.timers.first().map(|&(time, _)| time), refresh, identity].into_iter().flatten().min();
        self.armed
    }

    /// Takes a compressed batch back.
    pub(crate) fn on_sealed(&mut self, now: Time, batch: BatchId, sealed: Result<Bytes, Error>) {
        self.cx.now = now;
        if let Some(position) = self.cx.sealing.remove(&batch) {
            self.partitions[position].on_sealed(batch, sealed, &mut self.cx);
            self.dirty.insert(position);
        }
    }

    /// Takes the answer to a try. That of a try which was given up is ignored.
    pub(crate) fn on_answer(&mut self, now: Time, attempt: AttemptId, answer: Result<Offset, CallError>) {
        self.cx.now = now;
        if let Some(position) = self.cx.attempts.remove(&attempt) {
            self.partitions[position].on_answer(attempt, answer, &mut self.cx);
            self.dirty.insert(position);
        }
    }

    /// Takes the answer to [`Effect::InitProducer`].
    pub(crate) fn on_identity(&mut self, now: Time, answer: Result<ProducerIdentity, Error>) {
        self.cx.now = now;
        match answer {
            Ok(identity) => {
                self.cx.identity = Identity::Current(identity);
                self.cx.identity_wanted = false;
                self.cx.identity_error = None;
            }
            Err(error) => {
                self.cx.identity = Identity::None(now + Backoff::ELECTION.pause(1, &mut self.cx.rng));
                if error.class() == ErrorClass::FixRequest {
                    self.abort(&error);
                }
                self.cx.identity_error = Some(error);
            }
        }
        self.wake_all();
    }

    /// Takes the answer to [`Effect::Refresh`].
    pub(crate) fn on_metadata(&mut self, now: Time, topics: &[impl AsRef<Topic>], unknown: &[String]) {
        self.cx.now = now;
        self.refreshing = false;
        self.refresh_not_before = now + REFRESH_PAUSE;
        for topic in topics {
            if let Some(&known) = self.by_name.get(&topic.as_ref().name) {
                self.update_topic(known, topic.as_ref());
            }
        }
        for name in unknown {
            // One node that has not heard of a topic proves nothing; with the word of the leader it does.
            if let Some(&known) = self.by_name.get(name)
                && self.topics[known].denied
            {
                self.remove_topic(known);
            }
        }
    }

    /// Fails everything that has no outcome.
    pub(crate) fn abort(&mut self, error: &Error) {
        for (position, partition) in self.partitions.iter_mut().enumerate() {
            partition.abort(error, &mut self.cx);
            self.dirty.insert(position);
        }
    }

    fn set_timer(&mut self, position: usize, time: Option<Time>, only_sooner: bool) {
        let present = self.timer_of[position];
        if only_sooner && present.is_some_and(|present| time.is_none_or(|time| present <= time)) {
            return;
        }
        if let Some(present) = present {
            self.timers.remove(&(present, position));
        }
        if let Some(time) = time {
            self.timers.insert((time, position));
        }
        self.timer_of[position] = time;
    }

    fn wake_all(&mut self) {
        let busy = |partition: &Partition<D>| partition.backlog() > 0 || partition.open.is_some();
        let positions = self.partitions.iter().enumerate().filter(|(_, partition)| busy(partition));
        self.dirty.extend(positions.map(|(position, _)| position));
    }
}
