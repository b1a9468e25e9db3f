//! The door check: what a batch must be before a leader stamps it.
//!
//! Two levels, so that a broker can choose by codec and load. The **envelope** ([`validate_envelope`]) is the header,
//! its consistency and the CRC: one pass over the bytes at the speed of a checksum, 20 to 60 GB/s a core from its
//! cache. The **records** ([`validate_records`]) are every length, varint, offset and timestamp. Without compression
//! that touches only the records' own few bytes (4 to 8 GB/s at records of 100 bytes, 30 to 70 at 1 KiB); with it
//! everything has to be decompressed (batches of log lines, GB/s as sent: lz4 0.6 to 1.9, snappy 0.4 to 0.8, zstd 0.1 to
//! 0.4, gzip 0.05 to 0.2). `cargo run --release -p levada-protocol --example door` measures it.
//!
//! A batch that passes both is readable by every reader. One that passes only the envelope is what its producer sent,
//! undamaged, but may turn out to be nonsense when it is read.

#![deny(clippy::indexing_slicing)]

use super::{
    Attributes, BatchError, BatchHeader, Compression, TimestampType, columns, compression,
    header::verify_crc,
    rows::{self, RECORD_BYTES_MIN, Records},
};
use crate::limits::{BATCH_RECORDS_MAX, RECORD_HEADERS_MAX, TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN};

/// Checks a produced batch in full: [`validate_envelope`], then [`validate_records`].
///
/// # Errors
/// As these two.
pub fn validate_produced(batch: &[u8], batch_bytes_max: usize) -> Result<BatchHeader, BatchError> {
    let header = validate_envelope(batch, batch_bytes_max)?;
    validate_records(&header, batch)?;
    Ok(header)
}

/// Checks that `batch` is exactly one batch of at most `batch_bytes_max` bytes, undamaged, with a header that a
/// producer may send.
///
/// # Errors
/// What is wrong: size, magic, CRC, attributes (control batches and append time are the log's own), record count and
/// offsets, producer and sequence, timestamps.
pub fn validate_envelope(batch: &[u8], batch_bytes_max: usize) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let needed = header.batch_bytes();
    if needed > batch_bytes_max {
        return Err(BatchError::TooLarge { bytes: needed, max: batch_bytes_max });
    }
    match batch.len() {
        available if available < needed => return Err(BatchError::Truncated { needed, available }),
        available if available > needed => return Err(BatchError::Surplus(available - needed)),
        _ => {}
    }
    verify_crc(batch)?;
    check_attributes(header.attributes)?;
    check_counts(&header)?;
    check_producer(&header)?;
    check_timestamps(&header)?;
    Ok(header)
}

/// Checks that the payload of a batch that passed [`validate_envelope`] is what the header says. Of columns it checks
/// the container; whether the Arrow message in it is sound and fits its schema, [`crate::codec::PayloadCodec`] does.
///
/// # Errors
/// [`BatchError::Record`] with the record's number, [`BatchError::Decompress`], [`BatchError::Unfolds`],
/// [`BatchError::Columns`]; [`BatchError::Field`] if the max timestamp is not the highest.
pub fn validate_records(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    if header.is_columns() {
        return columns::check(header, batch);
    }
    let payload = rows::payload(header, batch)?;
    match header.attributes.compression() {
        Compression::None => scan(header, payload),
        codec => scan(header, &compression::decompress(codec, payload)?),
    }
}

fn scan(header: &BatchHeader, records: &[u8]) -> Result<(), BatchError> {
    let mut highest_ms = i64::MIN;
    for (number, record) in (0..).zip(Records::new(header, records)) {
        let record = record?;
        if record.headers.len() > RECORD_HEADERS_MAX {
            return Err(BatchError::Record { number, fault: "it has too many headers" });
        }
        if record.timestamp_ms < TIMESTAMP_MS_MIN {
            return Err(BatchError::Record { number, fault: "its timestamp is before 1970" });
        }
        highest_ms = highest_ms.max(record.timestamp_ms);
    }
    // The time index is built from headers alone, so that they must not lie.
    if highest_ms != header.max_timestamp_ms {
        return Err(BatchError::Field { field: "max timestamp", value: header.max_timestamp_ms });
    }
    Ok(())
}

fn check_attributes(attributes: Attributes) -> Result<(), BatchError> {
    let own = attributes.is_control()
        || attributes.has_delete_horizon()
        || attributes.timestamp_type() == TimestampType::LogAppendTime;
    if own { Err(BatchError::Attributes(attributes.bits())) } else { Ok(()) }
}

fn check_counts(header: &BatchHeader) -> Result<(), BatchError> {
    let count = header.record_count;
    let wrong = Err(BatchError::Field { field: "record count", value: i64::from(count) });
    if count == 0 || count as usize > BATCH_RECORDS_MAX || count - 1 != header.last_offset_delta {
        return wrong;
    }
    let in_place = !header.is_columns() && header.attributes.compression() == Compression::None;
    if in_place && header.payload_bytes() / RECORD_BYTES_MIN < count as usize { wrong } else { Ok(()) }
}

/// Without a producer id, epoch and sequence mean nothing, and clients disagree on what to send then.
fn check_producer(header: &BatchHeader) -> Result<(), BatchError> {
    let field = |field, value| Err(BatchError::Field { field, value });
    let producer = header.producer();
    if producer.id.get() < -1 {
        return field("producer id", producer.id.get());
    }
    if !producer.is_some() {
        let transactional = header.attributes.is_transactional();
        return if transactional { field("producer id of a transaction", producer.id.get()) } else { Ok(()) };
    }
    if producer.epoch.get() < 0 {
        return field("producer epoch", i64::from(producer.epoch.get()));
    }
    if producer.base_sequence < 0 {
        return field("base sequence", i64::from(producer.base_sequence));
    }
    Ok(())
}

fn check_timestamps(header: &BatchHeader) -> Result<(), BatchError> {
    let range = TIMESTAMP_MS_MIN..=TIMESTAMP_MS_MAX;
    if !range.contains(&header.base_timestamp_ms) {
        return Err(BatchError::Field { field: "base timestamp", value: header.base_timestamp_ms });
    }
    if !range.contains(&header.max_timestamp_ms) || header.max_timestamp_ms < header.base_timestamp_ms {
        return Err(BatchError::Field { field: "max timestamp", value: header.max_timestamp_ms });
    }
    Ok(())
}
