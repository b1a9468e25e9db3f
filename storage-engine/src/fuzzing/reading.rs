//! Reading a segment whose file was changed.

use std::sync::OnceLock;

use bytes::Bytes;
use levada_protocol::{
    batch::{BatchIter, NewRecord, RowsBuilder, padded_bytes, stamp},
    ids::{GroupId, LogIndex, Offset, PartitionId, Term, TopicId, TopicPartition},
};

use super::segments::{rechain, seal_header};
use crate::{
    config::SegmentConfig,
    disk::{Disk as _, DiskOp, FileName},
    entry::{Entry, EntryKind},
    payload::Summary,
    segment::{DIRECTORY, Mark, format::SegmentHeader, reader::Segment, writer::SegmentWriter},
    sim_disk::SimDisk,
};

const CONFIG: SegmentConfig = SegmentConfig {
    index_interval_bytes: 64,
    write_bytes_min: 0,
    write_bytes_max: 4096,
    writeback_bytes: 2048,
    preallocate_bytes_min: 1024,
    preallocate_bytes_max: 4096,
};
const FIRST_INDEX: u64 = 5;
const FIRST_OFFSET: u64 = 100;

/// A segment as it was written.
struct Written {
    header: SegmentHeader,
    entries: Vec<Entry>,
    /// How far it went before it was sealed, and its file then.
    open: (Mark, Bytes),
    sealed: (Mark, Bytes),
}

/// A sound segment of which some bytes are changed. What is read of it is what was written; with the checksums put right
/// afterwards it may be anything, but ends. The first byte says which, and whether the segment is sealed; of the others,
/// each four are a position and what its two bytes become.
pub fn read_segment(bytes: &[u8]) {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    let written = WRITTEN.get_or_init(write);
    let Some((&how, changes)) = bytes.split_first() else { return };
    let (is_sealed, is_resealed) = (how & 1 != 0, how & 2 != 0);
    let (mut end, file) = if is_sealed { &written.sealed } else { &written.open }.clone();
    let mut file = file.to_vec();
    for change in changes.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (file.len() - 1);
        file[at..at + 2].copy_from_slice(&change[2..]);
    }
    let mut header = written.header;
    if is_resealed {
        file.truncate(usize::try_from(end.position).unwrap());
        header = seal_header(&mut file).unwrap();
        let (found, directory) = rechain(&mut file, &header);
        end = found;
        file.truncate(usize::try_from(end.position).unwrap());
        if is_sealed {
            file.extend(crate::segment::footer::encode(&header, &end, &directory));
        }
    }
    let disk = SimDisk::new(1);
    let segment = Segment::recovered(header, end, is_sealed, CONFIG.index_interval_bytes);
    for op in [
        DiskOp::CreateDir { dir: DIRECTORY.to_owned() },
        DiskOp::Create { file: segment.file().clone() },
        DiskOp::Write { file: segment.file().clone(), pos: 0, bufs: vec![file.into()] },
    ] {
        disk.perform(&op).unwrap();
    }
    let sound = (!is_resealed).then_some(written);
    read_all(&segment, &disk, sound);
}

/// Reads everything in every way.
fn read_all(segment: &Segment, disk: &SimDisk, written: Option<&Written>) {
    let end = segment.end();
    let mut offset = segment.header().base_offset;
    for _ in 0..100 {
        let Ok(read) = segment.read(disk, offset, 1000, end.offset) else { break };
        if let Some(written) = written {
            for batch in &read.batches {
                assert!(written.entries.iter().any(|entry| holds(entry, batch)), "what was never written is served");
            }
        }
        if read.next_offset <= offset {
            break;
        }
        offset = read.next_offset;
    }
    let mut index = segment.header().first_index;
    for _ in 0..100 {
        let Ok(entries) = segment.entries(disk, index, end.index, 1000) else { break };
        if let Some(written) = written {
            assert!(entries.iter().all(|entry| written.entries.contains(entry)), "what was never written is served");
        }
        let Some(last) = entries.last() else { break };
        index = last.index.next();
    }
    for time_ms in [i64::MIN, 0, 5_000, i64::MAX] {
        let _ = segment.offset_for_time(disk, time_ms, Offset(0), end.offset);
    }
}

fn holds(entry: &Entry, batch: &[u8]) -> bool {
    entry.kind == EntryKind::Batches && BatchIter::packed(&entry.payload).any(|own| own.unwrap().bytes == batch)
}

fn write() -> Written {
    let topic = TopicId::from_bytes(*b"a topic's number");
    let header = SegmentHeader {
        topic_partition: TopicPartition { topic, partition: PartitionId(4) },
        generation: 2,
        group: GroupId(9),
        first_index: LogIndex(FIRST_INDEX),
        base_offset: Offset(FIRST_OFFSET),
        previous_crc: 77,
    };
    let disk = SimDisk::new(1);
    disk.perform(&DiskOp::CreateDir { dir: DIRECTORY.to_owned() }).unwrap();
    let mut writer = SegmentWriter::create(header, CONFIG);
    let entries = entries();
    for entry in &entries {
        let summary = Summary::of(entry, writer.at().offset).unwrap();
        writer.push(entry, &summary);
    }
    let content = |file: &FileName| disk.read(file, 0, usize::MAX / 2).unwrap();
    writer.take().iter().for_each(|op| disk.perform(op).unwrap());
    let position = usize::try_from(writer.at().position).unwrap();
    let open = (*writer.at(), content(&header.file()).slice(..position));
    writer.seal().iter().for_each(|op| disk.perform(op).unwrap());
    let sealed = (*writer.at(), content(&header.file()));
    Written { header, entries, open, sealed }
}

/// The file of a sealed segment, for the seeds.
pub(super) fn sealed_file() -> Vec<u8> {
    write().sealed.1.to_vec()
}

fn entries() -> Vec<Entry> {
    let mut offset = FIRST_OFFSET;
    let mut batch = |records: u32| {
        let mut builder = RowsBuilder::new();
        for record in 0..records {
            let timestamp_ms = i64::try_from(offset).unwrap() * 50 + i64::from(record);
            builder.push(&NewRecord { timestamp_ms, value: Some(b"some value"), ..NewRecord::default() }).unwrap();
        }
        let mut batch = builder.finish(Default::default(), Default::default()).unwrap().to_vec();
        stamp(&mut batch, Offset(offset), 1).unwrap();
        offset += u64::from(records);
        batch
    };
    let entry = |index, kind, payload| Entry { index: LogIndex(index), term: Term(1), kind, payload };
    let mut made = vec![entry(FIRST_INDEX, EntryKind::Empty, Bytes::new())];
    for index in FIRST_INDEX + 1..FIRST_INDEX + 8 {
        made.push(match index % 3 {
            0 => entry(index, EntryKind::Command, Bytes::from_static(b"a command of some length")),
            1 => entry(index, EntryKind::Batches, batch(2).into()),
            _ => {
                let mut several = batch(1);
                several.resize(padded_bytes(several.len()), 0);
                several.extend(batch(3));
                entry(index, EntryKind::Batches, several.into())
            }
        });
    }
    made
}
