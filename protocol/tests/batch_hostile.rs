//! No bytes, however wrong, make a reader panic or accept what it should not.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{decode, fixtures};
use levada_protocol::{
    batch::{
        Attributes, BatchError, BatchHeader, BatchIter, BatchProducer, ColumnsInfo, ColumnsPayload, Compression,
        HEADER_BYTES, Rows, seal, validate_envelope, validate_produced,
    },
    ids::{ProducerEpoch, ProducerId},
    limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX},
};
use proptest::{collection::vec, prelude::*, sample::select};

/// Reads the bytes in every way there is; answers whether the door lets them in.
fn read_everything(bytes: &[u8]) -> bool {
    let shared = Bytes::copy_from_slice(bytes);
    let records = Rows::open(&shared).map(|rows| {
        rows.iter()
            .inspect(|record| {
                if let Ok(record) = record {
                    assert_eq!(
                        record.headers.clone().count(),
                        record.headers.len(),
                        "all headers were seen to be sound"
                    );
                }
            })
            .take_while(Result::is_ok)
            .count()
    });
    for iter in [BatchIter::packed(bytes), BatchIter::adjacent(bytes)] {
        iter.for_each(drop);
    }
    let columns = ColumnsPayload::parse(&shared);
    let verdict = validate_produced(bytes, BATCH_BYTES_MAX);
    if let Ok(header) = &verdict {
        let readable = if header.is_columns() { columns.is_ok() } else { records == Ok(header.record_count as usize) };
        assert!(readable, "the door let in what no reader reads");
    }
    verdict.is_ok()
}

fn columns() -> Bytes {
    let info = ColumnsInfo {
        record_count: 3,
        base_timestamp_ms: 5,
        max_timestamp_ms: 9,
        producer: BatchProducer::NONE,
        transactional: false,
    };
    let body = Bytes::from_static(&[0xBB; 40]);
    ColumnsPayload { schema_id: 1, metadata: Bytes::from_static(&[0xAA; 70]), body }.build(&info).unwrap()
}

fn samples() -> impl Iterator<Item = Bytes> {
    fixtures().map(|(_, _, batch)| batch).chain([columns()])
}

#[test]
fn every_truncation_is_refused() {
    for batch in samples() {
        for length in 0..batch.len() {
            assert!(!read_everything(&batch[..length]));
            // The same with a length field and a CRC that agree with what is there.
            if let Some(rest) = length.checked_sub(12) {
                let mut shorter = batch[..length].to_vec();
                shorter[8..12].copy_from_slice(&u32::try_from(rest).unwrap().to_be_bytes());
                seal(&mut shorter);
                // A columns body has no end of its own: what is in it, the Arrow side knows.
                let may_be = shorter.get(16) == Some(&0x4C);
                assert!(!read_everything(&shorter) || may_be, "cut to {length} of {}", batch.len());
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for batch in samples() {
        for position in 0..batch.len() {
            for bit in 0..8 {
                let mut damaged = batch.to_vec();
                damaged[position] ^= 1 << bit;
                // Base offset and leader epoch are for the leader to set.
                let free = position < 8 || (12..16).contains(&position);
                assert!(!read_everything(&damaged) || free, "bit {bit} of byte {position}");
                seal(&mut damaged);
                read_everything(&damaged);
            }
        }
    }
}

#[test]
fn surplus_bytes_are_refused() {
    for batch in samples() {
        let longer = [&batch[..], b"x"].concat();
        assert_eq!(validate_envelope(&longer, BATCH_BYTES_MAX), Err(BatchError::Surplus(1)));
    }
}

/// A sound batch with a header that was changed and sealed.
fn with_header(change: impl FnOnce(&mut BatchHeader)) -> Result<BatchHeader, BatchError> {
    let mut batch = common::fixture("java", Compression::None).to_vec();
    let mut header = BatchHeader::parse(&batch).unwrap();
    change(&mut header);
    batch[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    seal(&mut batch);
    validate_produced(&batch, BATCH_BYTES_MAX)
}

#[test]
fn the_door_knows_what_a_producer_may_send() {
    let field = |result: Result<BatchHeader, BatchError>| match result.unwrap_err() {
        BatchError::Field { field, .. } => field,
        other => panic!("{other}"),
    };
    assert!(with_header(|_| {}).is_ok());
    assert!(with_header(|h| h.attributes = h.attributes.with_transactional(true)).is_ok());
    assert!(with_header(|h| h.producer_id = ProducerId(-1)).is_ok(), "epoch and sequence mean nothing then");

    let attributes = |bits| with_header(|h| h.attributes = Attributes::from_bits(bits).unwrap());
    for bit in [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        assert_eq!(attributes(1 << bit), Err(BatchError::Attributes(1 << bit)), "bit {bit}");
    }
    assert_eq!(field(with_header(|h| h.record_count = 4)), "record count");
    assert_eq!(field(with_header(|h| (h.record_count, h.last_offset_delta) = (0, 0))), "record count");
    assert_eq!(field(with_header(|h| h.last_offset_delta = 5)), "record count");
    assert_eq!(field(with_header(|h| (h.record_count, h.last_offset_delta) = (100, 99))), "record count", "no room");
    let many = u32::try_from(BATCH_RECORDS_MAX).unwrap() + 1;
    let too_many = |h: &mut BatchHeader| {
        (h.record_count, h.last_offset_delta) = (many, many - 1);
        h.attributes = h.attributes.with_compression(Compression::Zstd);
    };
    assert_eq!(field(with_header(too_many)), "record count", "compressed, and above the limit");
    assert!(matches!(
        with_header(|h| (h.record_count, h.last_offset_delta) = (6, 5)).unwrap_err(),
        BatchError::Record { number: 5, .. }
    ));
    assert!(matches!(
        with_header(|h| (h.record_count, h.last_offset_delta) = (4, 3)).unwrap_err(),
        BatchError::Surplus(_)
    ));

    assert_eq!(field(with_header(|h| h.producer_id = ProducerId(-2))), "producer id");
    assert_eq!(field(with_header(|h| h.producer_epoch = ProducerEpoch(-1))), "producer epoch");
    assert_eq!(field(with_header(|h| h.base_sequence = -1)), "base sequence");
    let transaction_of_nobody = |h: &mut BatchHeader| {
        h.attributes = h.attributes.with_transactional(true);
        h.producer_id = ProducerId(-1);
    };
    assert_eq!(field(with_header(transaction_of_nobody)), "producer id of a transaction");

    assert_eq!(field(with_header(|h| h.base_timestamp_ms = -2)), "base timestamp");
    assert_eq!(field(with_header(|h| h.base_timestamp_ms *= 1000)), "base timestamp", "microseconds");
    assert_eq!(field(with_header(|h| h.max_timestamp_ms -= 200)), "max timestamp", "below the base");
    assert_eq!(field(with_header(|h| h.max_timestamp_ms += 1)), "max timestamp", "no record has it");
    assert_eq!(field(with_header(|h| h.max_timestamp_ms -= 1)), "max timestamp", "a record is above it");
    assert!(matches!(
        validate_envelope(&common::fixture("java", Compression::None), 200),
        Err(BatchError::TooLarge { bytes: 278, max: 200 })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn noise(bytes in vec(any::<u8>(), 0..300)) {
        read_everything(&bytes);
    }

    #[test]
    fn noise_under_a_sound_header(
        payload in vec(any::<u8>(), 0..300),
        codec in select(&Compression::ALL[..]),
        columns: bool,
        record_count in 1..20_u32,
    ) {
        let mut header = BatchHeader::parse(&common::fixture("java", Compression::None)).unwrap();
        header.attributes = if columns { Attributes::default().with_columns(true) }
            else { Attributes::default().with_compression(codec) };
        header.magic = if columns { 0x4C } else { 2 };
        header.batch_length = 49 + u32::try_from(payload.len()).unwrap();
        (header.record_count, header.last_offset_delta) = (record_count, record_count - 1);
        let mut batch = header.to_bytes().to_vec();
        batch.extend_from_slice(&payload);
        seal(&mut batch);
        read_everything(&batch);
    }

    #[test]
    fn several_changed_bytes_with_a_crc_that_fits(
        (batch, changes) in select(samples().collect::<Vec<_>>()).prop_flat_map(|batch| {
            let positions = HEADER_BYTES..batch.len();
            (Just(batch), vec((positions, any::<u8>()), 1..6))
        }),
    ) {
        let mut changed = batch.to_vec();
        for (position, byte) in changes {
            changed[position] = byte;
        }
        seal(&mut changed);
        if read_everything(&changed) && changed[16] == 2 {
            prop_assert_eq!(decode_lossy(&changed), 5);
        }
    }
}

fn decode_lossy(batch: &[u8]) -> usize {
    Rows::open(&Bytes::copy_from_slice(batch)).unwrap().iter().map(Result::unwrap).count()
}

#[test]
fn the_samples_themselves_are_sound() {
    for (_, _, batch) in fixtures() {
        assert!(read_everything(&batch));
        assert_eq!(decode(&batch).unwrap().len(), 5);
    }
    assert!(read_everything(&columns()));
}
