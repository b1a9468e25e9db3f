//! Idempotence: what a partition remembers of the producers that wrote to it (KIP-98).
//!
//! For each producer the last five batches are kept, so a batch sent again is answered with the offset it already
//! has, one that does not follow its predecessor is refused, and an older epoch is fenced off. The state follows from
//! the log alone: applying the same batches in the same order gives the same state on every replica, whatever was
//! forgotten on the way included.

use std::collections::{BTreeMap, VecDeque};

use levada_protocol::{
    batch::header::BatchHeader,
    error::{Error, ErrorCode},
    ids::{LogIndex, Offset, ProducerEpoch, ProducerId},
    limits::{PRODUCER_BATCHES_REMEMBERED, PRODUCERS_PER_PARTITION_MAX},
    messages::metadata as wire,
};
use levada_storage_engine::planted::{self, Planted};

/// One batch a producer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    base_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    index: LogIndex,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    batches: VecDeque<Written>,
    last_timestamp_ms: i64,
    /// Position in `Producers::by_age`.
    age: u64,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new and in order.
    Append,
    /// It is in the log, at this offset, in the entry of this index.
    Duplicate {
        /// Its first record.
        base_offset: Offset,
        /// Its entry; [`LogIndex`] 0 when it is older than the last checkpoint, and so committed.
        index: LogIndex,
    },
}

/// All producers of one partition.
///
/// Invariants: `by_age` lists exactly the producers there are; at most [`PRODUCERS_PER_PARTITION_MAX`] of them; each
/// has 1 to [`PRODUCER_BATCHES_REMEMBERED`] batches in the order of their offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    producers: BTreeMap<ProducerId, Producer>,
    by_age: BTreeMap<u64, ProducerId>,
    next_age: u64,
}

impl Producers {
    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Judges a batch that wants to be appended behind all that was [recorded](Self::record).
    ///
    /// # Errors
    /// `ProducerFenced`, `OutOfOrderSequence`.
    pub fn check(&self, header: &BatchHeader) -> Result<Verdict, Error> {
        let id = header.producer_id;
        if id.get() < 0 {
            return Ok(Verdict::Append);
        }
        let expected = match self.producers.get(&id) {
            Some(known) if header.producer_epoch < known.epoch => {
                return Err(Error::new(
                    ErrorCode::ProducerFenced,
                    format!(
                        "producer {id} has written with epoch {}, this batch has epoch {}: a newer instance took over",
                        known.epoch, header.producer_epoch
                    ),
                ));
            }
            Some(known) if header.producer_epoch == known.epoch => {
                let last = last_sequence(header);
                if let Some(written) =
                    known.batches.iter().find(|w| w.base_sequence == header.base_sequence && w.last_sequence == last)
                {
                    return Ok(Verdict::Duplicate { base_offset: written.base_offset, index: written.index });
                }
                known.batches.back().map_or(0, |written| next_sequence(written.last_sequence))
            }
            // Unknown, or a new epoch: it must begin at the beginning, or an earlier batch of it got lost on the way.
            _ => 0,
        };
        if header.base_sequence != expected && !planted::is(Planted::SequenceUnchecked) {
            return Err(Error::new(
                ErrorCode::OutOfOrderSequence,
                format!(
                    "producer {id} epoch {} sent sequence {}, expected was {expected}: an earlier batch is missing",
                    header.producer_epoch, header.base_sequence
                ),
            ));
        }
        Ok(Verdict::Append)
    }

    /// Remembers a batch that is in the log.
    pub fn record(&mut self, header: &BatchHeader, base_offset: Offset, index: LogIndex) {
        let id = header.producer_id;
        if id.get() < 0 {
            return;
        }
        let age = self.next_age;
        self.next_age += 1;
        let producer = self.producers.entry(id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            batches: VecDeque::with_capacity(1),
            last_timestamp_ms: header.max_timestamp_ms,
            age,
        });
        self.by_age.remove(&producer.age);
        self.by_age.insert(age, id);
        producer.age = age;
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        let remembered = PRODUCER_BATCHES_REMEMBERED - usize::from(planted::is(Planted::WindowTooShort));
        if producer.batches.len() == remembered {
            producer.batches.pop_front();
        }
        producer.last_timestamp_ms = header.max_timestamp_ms;
        producer.batches.push_back(Written {
            base_sequence: header.base_sequence,
            last_sequence: last_sequence(header),
            base_offset,
            index,
        });
        if self.producers.len() > PRODUCERS_PER_PARTITION_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.producers.remove(&oldest);
        }
    }

    /// For a checkpoint: least recently heard first.
    #[must_use]
    pub fn to_wire(&self) -> Vec<wire::Producer> {
        let producers = self.by_age.values().filter_map(|id| Some((id, self.producers.get(id)?)));
        producers
            .map(|(id, producer)| wire::Producer {
                producer_id: id.get(),
                producer_epoch: i32::from(producer.epoch.get()),
                last_timestamp_ms: producer.last_timestamp_ms,
                batches: producer
                    .batches
                    .iter()
                    .map(|written| wire::ProducerBatch {
                        base_sequence: written.base_sequence,
                        last_sequence: written.last_sequence,
                        base_offset: written.base_offset.get(),
                    })
                    .collect(),
            })
            .collect()
    }

    /// From a checkpoint. Of what cannot be (a producer twice, more than are remembered) the latest counts.
    #[must_use]
    pub fn from_wire(producers: Vec<wire::Producer>) -> Self {
        let mut state = Self::default();
        let too_many = producers.len().saturating_sub(PRODUCERS_PER_PARTITION_MAX);
        for producer in producers.into_iter().skip(too_many) {
            let age = state.next_age;
            state.next_age += 1;
            let id = ProducerId(producer.producer_id);
            let batches = producer.batches.into_iter().map(|batch| Written {
                base_sequence: batch.base_sequence,
                last_sequence: batch.last_sequence,
                base_offset: Offset(batch.base_offset),
                index: LogIndex(0),
            });
            let mut batches: VecDeque<Written> = batches.collect();
            batches.drain(..batches.len().saturating_sub(PRODUCER_BATCHES_REMEMBERED));
            let producer = Producer {
                epoch: ProducerEpoch(i16::try_from(producer.producer_epoch).unwrap_or(i16::MAX)),
                last_timestamp_ms: producer.last_timestamp_ms,
                age,
                batches,
            };
            state.by_age.insert(age, id);
            if let Some(before) = state.producers.insert(id, producer) {
                state.by_age.remove(&before.age);
            }
        }
        debug_assert_eq!(state.by_age.len(), state.producers.len());
        state
    }
}

/// The sequence of a batch's last record. Sequences wrap from `i32::MAX` to 0.
fn last_sequence(header: &BatchHeader) -> i32 {
    let last = i64::from(header.base_sequence) + i64::from(header.last_offset_delta);
    i32::try_from(last % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

const fn next_sequence(sequence: i32) -> i32 {
    if sequence == i32::MAX { 0 } else { sequence + 1 }
}

#[cfg(test)]
mod tests {
    use levada_protocol::batch::{Attributes, header::MAGIC_ROWS};

    use super::*;

    fn batch(producer: i64, epoch: i16, sequence: i32, count: u32) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(0),
            batch_length: 100,
            leader_epoch: 0,
            magic: MAGIC_ROWS,
            crc: 0,
            attributes: Attributes::default(),
            last_offset_delta: count - 1,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: sequence,
            record_count: count,
        }
    }

    /// Appends as a leader would.
    fn append(producers: &mut Producers, at: &mut u64, header: &BatchHeader) -> Result<Verdict, ErrorCode> {
        let verdict = producers.check(header).map_err(|error| error.code)?;
        if verdict == Verdict::Append {
            producers.record(header, Offset(*at), LogIndex(*at));
            *at += u64::from(header.last_offset_delta) + 1;
        }
        Ok(verdict)
    }

    #[test]
    fn duplicates_gaps_and_old_epochs() {
        let (mut producers, mut at) = (Producers::default(), 0);
        let mut send = |header: BatchHeader| append(&mut producers, &mut at, &header);
        let duplicate = |offset| Ok(Verdict::Duplicate { base_offset: Offset(offset), index: LogIndex(offset) });
        assert_eq!(send(batch(1, 0, 3, 1)), Err(ErrorCode::OutOfOrderSequence), "an unknown producer begins at 0");
        assert_eq!(send(batch(1, 0, 0, 10)), Ok(Verdict::Append));
        assert_eq!(send(batch(1, 0, 10, 5)), Ok(Verdict::Append));
        assert_eq!(send(batch(1, 0, 0, 10)), duplicate(0));
        assert_eq!(send(batch(1, 0, 10, 5)), duplicate(10));
        assert_eq!(send(batch(1, 0, 10, 4)), Err(ErrorCode::OutOfOrderSequence), "another batch of the same sequence");
        assert_eq!(send(batch(1, 0, 16, 1)), Err(ErrorCode::OutOfOrderSequence), "a gap");
        assert_eq!(send(batch(1, 1, 4, 1)), Err(ErrorCode::OutOfOrderSequence), "a new epoch begins at 0");
        assert_eq!(send(batch(1, 1, 0, 1)), Ok(Verdict::Append));
        assert_eq!(send(batch(1, 0, 15, 1)), Err(ErrorCode::ProducerFenced));
        assert_eq!(send(batch(-1, -1, -1, 3)), Ok(Verdict::Append), "without idempotence anything goes");
    }

    #[test]
    fn five_batches_are_remembered_and_sequences_wrap() {
        let (mut producers, mut at) = (Producers::default(), 0);
        for sequence in 0..6 {
            append(&mut producers, &mut at, &batch(1, 0, sequence, 1)).unwrap();
        }
        assert!(matches!(producers.check(&batch(1, 0, 1, 1)), Ok(Verdict::Duplicate { .. })));
        assert_eq!(producers.check(&batch(1, 0, 0, 1)).unwrap_err().code, ErrorCode::OutOfOrderSequence);
        let near_end = batch(2, 0, i32::MAX - 1, 4);
        producers.record(&near_end, Offset(100), LogIndex(1));
        assert_eq!(producers.check(&batch(2, 0, 2, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn a_state_that_cannot_be_is_read_as_one_that_can() {
        let batch = |base_sequence| wire::ProducerBatch {
            base_sequence,
            last_sequence: base_sequence,
            base_offset: base_sequence.unsigned_abs().into(),
        };
        let producer = |producer_id, batches| wire::Producer { producer_id, batches, ..wire::Producer::default() };
        let twice = vec![producer(1, vec![batch(0)]), producer(2, vec![]), producer(1, (0..9).map(batch).collect())];
        let mut producers = Producers::from_wire(twice);
        assert_eq!(producers.to_wire(), [producer(2, vec![]), producer(1, (4..9).map(batch).collect())]);
        let mut at = 100;
        append(&mut producers, &mut at, &self::batch(1, 0, 9, 1)).unwrap();
        assert_eq!(
            producers.to_wire(),
            [
                producer(2, vec![]),
                producer(
                    1,
                    vec![batch(5), batch(6), batch(7), batch(8), wire::ProducerBatch { base_offset: 100, ..batch(9) }]
                )
            ]
        );
        let too_many = 0..=i64::try_from(PRODUCERS_PER_PARTITION_MAX).unwrap();
        let producers = Producers::from_wire(too_many.map(|id| producer(id, vec![batch(0)])).collect());
        assert_eq!(producers.len(), PRODUCERS_PER_PARTITION_MAX);
        assert_eq!(producers.to_wire().first().map(|first| first.producer_id), Some(1));
    }

    #[test]
    fn the_state_survives_a_checkpoint_and_stays_bounded() {
        let (mut producers, mut at) = (Producers::default(), 0);
        for id in 0..=i64::try_from(PRODUCERS_PER_PARTITION_MAX).unwrap() {
            append(&mut producers, &mut at, &batch(id, 0, 0, 1)).unwrap();
        }
        assert_eq!(producers.len(), PRODUCERS_PER_PARTITION_MAX);
        assert!(producers.check(&batch(0, 0, 1, 1)).is_err(), "the one that wrote least recently is forgotten");
        let back = Producers::from_wire(producers.to_wire());
        assert_eq!(back.to_wire(), producers.to_wire());
        assert_eq!(back.check(&batch(7, 0, 1, 1)), Ok(Verdict::Append));
        let again = Verdict::Duplicate { base_offset: Offset(7), index: LogIndex(0) };
        assert_eq!(back.check(&batch(7, 0, 0, 1)), Ok(again));
    }
}
