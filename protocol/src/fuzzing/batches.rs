//! Record batches.

use bytes::Bytes;

use crate::{
    batch::{
        Attributes, BatchHeader, BatchIter, BatchProducer, ColumnsInfo, ColumnsPayload, Compression, HEADER_BYTES,
        MAGIC_COLUMNS, MAGIC_ROWS, NO_LEADER_EPOCH, NewRecord, Rows, RowsBuilder, seal, stamp, validate_envelope,
        validate_records, verify_crc,
    },
    ids::{Offset, ProducerEpoch, ProducerId},
    limits::{BATCH_ALIGN, BATCH_BYTES_MAX},
};

/// A batch as a producer sends it, and several in one buffer.
pub fn batch(bytes: &[u8]) {
    several(bytes, BatchIter::packed(bytes), BATCH_ALIGN);
    several(bytes, BatchIter::adjacent(bytes), 1);
    one(&Bytes::copy_from_slice(bytes));
    if let Some(sealed) = sealed(bytes) {
        one(&sealed);
    }
}

/// The same bytes with the length and the checksum that they have.
fn sealed(bytes: &[u8]) -> Option<Bytes> {
    let mut sealed = bytes.to_vec();
    let length = u32::try_from(bytes.len()).ok()?.checked_sub(12)?;
    sealed.get_mut(8..12)?.copy_from_slice(&length.to_be_bytes());
    let magic = sealed.get_mut(16)?;
    if *magic != MAGIC_COLUMNS.cast_unsigned() {
        *magic = MAGIC_ROWS.cast_unsigned();
    }
    (sealed.len() >= HEADER_BYTES).then(|| {
        seal(&mut sealed);
        sealed.into()
    })
}

fn several(bytes: &[u8], batches: BatchIter<'_>, align: usize) {
    let mut end = 0;
    for batch in batches {
        let Ok(batch) = batch else { return };
        assert!(batch.position >= end && batch.position.is_multiple_of(align));
        end = batch.position + batch.bytes.len();
        assert_eq!(batch.bytes, &bytes[batch.position..end]);
        assert_eq!(batch.bytes.len(), batch.header.batch_bytes());
    }
}

fn one(batch: &Bytes) {
    let Ok(header) = BatchHeader::parse(batch) else { return };
    assert_eq!(header.to_bytes(), batch[..HEADER_BYTES]);
    assert!(header.next_offset() > header.base_offset && header.last_offset() >= header.base_offset);
    let _ = header.last_sequence();
    let sound = validate_envelope(batch, BATCH_BYTES_MAX).and_then(|header| validate_records(&header, batch));
    if header.is_columns() {
        columns(&header, batch, sound.is_ok());
    } else {
        rows(&header, batch, sound.is_ok());
    }
    if sound.is_ok() {
        let mut stamped = batch.to_vec();
        stamp(&mut stamped, Offset(7), 3).unwrap();
        verify_crc(&stamped).unwrap();
    }
}

fn columns(header: &BatchHeader, batch: &Bytes, is_sound: bool) {
    let payload = ColumnsPayload::parse(batch);
    assert!(payload.is_ok() || !is_sound);
    let Ok(payload) = payload else { return };
    let info = ColumnsInfo {
        record_count: header.record_count,
        base_timestamp_ms: header.base_timestamp_ms,
        max_timestamp_ms: header.max_timestamp_ms,
        producer: header.producer(),
        transactional: header.attributes.is_transactional(),
    };
    if let Ok(built) = payload.build(&info) {
        assert_eq!(ColumnsPayload::parse(&built).unwrap(), payload);
    }
}

fn rows(header: &BatchHeader, batch: &Bytes, is_sound: bool) {
    let rows = Rows::open(batch);
    assert!(rows.is_ok() || !is_sound);
    let Ok(rows) = rows else { return };
    let mut builder = RowsBuilder::new();
    let (mut count, mut follows, mut can_be_built) = (0, header.base_offset, true);
    for record in &rows {
        assert!(record.is_ok() || !is_sound);
        let Ok(record) = record else { return };
        assert!(record.offset >= follows && record.offset <= header.last_offset());
        (count, follows) = (count + 1, record.offset.plus(1));
        let headers: Vec<_> = record.headers.clone().collect();
        let names: Result<Vec<_>, _> = headers.iter().map(|(name, _)| std::str::from_utf8(name)).collect();
        let Ok(names) = names else {
            can_be_built = false;
            continue;
        };
        let headers: Vec<_> = names.into_iter().zip(headers.iter().map(|(_, value)| *value)).collect();
        let new =
            NewRecord { timestamp_ms: record.timestamp_ms, key: record.key, value: record.value, headers: &headers };
        can_be_built &= builder.push(&new).is_ok();
    }
    assert_eq!(count, header.record_count);
    if is_sound && can_be_built {
        let built = builder.finish(Attributes::default(), header.producer()).unwrap();
        let built = Rows::open(&built).unwrap();
        for (ours, theirs) in built.iter().zip(&rows) {
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!((ours.timestamp_ms, ours.key, ours.value), (theirs.timestamp_ms, theirs.key, theirs.value));
            assert!(ours.headers.eq(theirs.headers));
        }
    }
}

/// The payload of a batch, by the codec that the first byte names; with that byte's highest bit set, a value that is to
/// come back as it was.
pub fn compression(bytes: &[u8]) {
    let Some((&how, bytes)) = bytes.split_first() else { return };
    let codec = Compression::ALL[usize::from(how & 0x7F) % Compression::ALL.len()];
    let attributes = Attributes::default().with_compression(codec);
    if how >= 0x80 {
        let mut builder = RowsBuilder::new();
        builder.push(&NewRecord { value: Some(bytes), ..NewRecord::default() }).unwrap();
        let batch = builder.finish(attributes, BatchProducer::default()).unwrap();
        let rows = Rows::open(&batch).unwrap();
        assert_eq!(rows.iter().next().unwrap().unwrap().value, Some(bytes));
        return;
    }
    let header = BatchHeader {
        base_offset: Offset(0),
        batch_length: u32::try_from(HEADER_BYTES - 12 + bytes.len()).unwrap(),
        leader_epoch: NO_LEADER_EPOCH,
        magic: MAGIC_ROWS,
        crc: 0,
        attributes,
        last_offset_delta: 0,
        base_timestamp_ms: 0,
        max_timestamp_ms: 0,
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: -1,
        record_count: 1,
    };
    let mut batch = header.to_bytes().to_vec();
    batch.extend_from_slice(bytes);
    seal(&mut batch);
    one(&batch.into());
}
