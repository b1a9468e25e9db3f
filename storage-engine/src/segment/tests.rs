//! Segments on the simulated disk: what was written is read back, and what was damaged is not.

use std::sync::Arc;

use bytes::Bytes;
use levada_protocol::{
    batch::BatchIter,
    ids::{GroupId, LogIndex, Offset},
};

use super::{
    Mark,
    format::{HEADER_BYTES, SegmentHeader},
    reader::Segment,
    writer::SegmentWriter,
};
use crate::{
    config::SegmentConfig,
    disk::{Disk, DiskOp, FileName},
    entry::{Entry, EntryKind},
    error::DamageCause,
    payload::Summary,
    sim_disk::SimDisk,
    testing::{TOPIC_PARTITION, batch, batches, control},
};

const CONFIG: SegmentConfig = SegmentConfig {
    index_interval_bytes: 300,
    write_bytes_min: 0,
    write_bytes_max: 4096,
    writeback_bytes: 2048,
    preallocate_bytes_min: 1024,
    preallocate_bytes_max: 4096,
};
const FIRST_INDEX: u64 = 5;
const BASE_OFFSET: u64 = 100;

fn header() -> SegmentHeader {
    SegmentHeader {
        topic_partition: TOPIC_PARTITION,
        generation: 2,
        group: GroupId(9),
        first_index: LogIndex(FIRST_INDEX),
        base_offset: Offset(BASE_OFFSET),
        previous_crc: 77,
    }
}

/// Entries of many shapes: packed and single batches, large and small, and control entries between them.
fn entries(count: u64) -> Vec<Entry> {
    let mut offset = BASE_OFFSET;
    let mut made = Vec::new();
    for index in FIRST_INDEX..FIRST_INDEX + count {
        let mut next = |records: u32, bytes: usize| {
            offset += u64::from(records);
            batch(offset - u64::from(records), records, bytes)
        };
        made.push(match index % 5 {
            0 => control(index, 1, EntryKind::Empty, b""),
            1 => batches(index, 1, &[next(1, 10)]),
            2 => batches(index, 2, &[next(3, 40), next(2, 200), next(1, 3)]),
            3 => control(index, 2, EntryKind::Command, b"a command of some length, for it to count"),
            _ => batches(index, 3, &[next(7, 700)]),
        });
    }
    made
}

fn perform(disk: &SimDisk, ops: &[DiskOp]) {
    ops.iter().for_each(|op| disk.perform(op).unwrap());
}

fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.perform(&DiskOp::CreateDir { dir: "segments".into() }).unwrap();
    disk
}

/// Pushes entries, a few at a time.
fn write(disk: &SimDisk, writer: &mut SegmentWriter, entries: &[Entry]) {
    for some in entries.chunks(3) {
        for entry in some {
            let summary = Summary::of(entry, writer.at().offset).unwrap();
            writer.push(entry, &summary);
        }
        perform(disk, &writer.take());
        writer.publish(false);
    }
}

fn seal(disk: &SimDisk, writer: &mut SegmentWriter) {
    perform(disk, &writer.seal());
    writer.publish(true);
}

fn contents(disk: &SimDisk, file: &FileName) -> Bytes {
    disk.read(file, 0, usize::MAX / 2).unwrap()
}

/// Every batch with its offsets, as the entries have them.
fn expected_batches(entries: &[Entry]) -> Vec<(Offset, Offset, Bytes)> {
    let batches = entries.iter().filter(|entry| entry.kind == EntryKind::Batches).flat_map(|entry| {
        BatchIter::packed(&entry.payload).map(|batch| {
            let batch = batch.unwrap();
            (batch.header.base_offset, batch.header.next_offset(), entry.payload.slice_ref(batch.bytes))
        })
    });
    batches.collect()
}

/// Reads everything in every way and compares.
fn check(disk: &SimDisk, segment: &Segment, entries: &[Entry]) {
    let expected = expected_batches(entries);
    let end = segment.end();
    for offset in BASE_OFFSET..end.offset.get() {
        let at = expected.iter().position(|(_, next, _)| next.get() > offset).unwrap();
        let one = segment.read(disk, Offset(offset), 0, end.offset).unwrap();
        assert_eq!((one.batches, one.next_offset), (vec![expected[at].2.clone()], expected[at].1));
        let some = segment.read(disk, Offset(offset), 1500, end.offset).unwrap();
        let count = some.batches.len();
        assert!(some.batches.iter().eq(expected[at..at + count].iter().map(|(_, _, bytes)| bytes)));
        let bytes = |count: usize| expected[at..at + count].iter().map(|(_, _, b)| b.len()).sum::<usize>();
        assert!(count == 1 || bytes(count) <= 1500);
        assert!(at + count == expected.len() || bytes(count + 1) > 1500, "as much as fits");
    }
    for (base, next, _) in &expected {
        let before = Offset(next.get() - 1);
        assert!(segment.read(disk, *base, 1 << 20, before).unwrap().batches.is_empty(), "not committed as a whole");
    }
    for index in FIRST_INDEX..end.index.get() {
        let at = usize::try_from(index - FIRST_INDEX).unwrap();
        assert_eq!(segment.entries(disk, LogIndex(index), LogIndex(index + 1), 1 << 20).unwrap(), entries[at..=at]);
        assert_eq!(segment.entries(disk, LogIndex(index), LogIndex(index + 9), 0).unwrap(), entries[at..=at]);
        let many = segment.entries(disk, LogIndex(index), LogIndex(index + 9), 2000).unwrap();
        assert_eq!(many, entries[at..at + many.len()]);
    }
    let last = i64::try_from(end.offset.get()).unwrap() * 10;
    for timestamp_ms in (0..=last).step_by(5) {
        let expected = expected.iter().find(|(base, _, _)| i64::try_from(base.get()).unwrap() * 10 >= timestamp_ms);
        let found = segment.offset_for_time(disk, timestamp_ms, Offset(0), end.offset).unwrap();
        assert_eq!(found, expected.map(|(base, _, _)| *base), "{timestamp_ms} ms");
    }
}

#[test]
fn what_was_written_is_read_back() {
    let (disk, entries) = (disk(), entries(60));
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries);
    check(&disk, writer.segment(), &entries);
    let recovered = Segment::recovered(header(), *writer.at(), false, CONFIG.index_interval_bytes);
    check(&disk, &recovered, &entries);
    seal(&disk, &mut writer);
    check(&disk, writer.segment(), &entries);
    let recovered = Segment::recovered(header(), *writer.at(), true, CONFIG.index_interval_bytes);
    check(&disk, &recovered, &entries);
    let file = contents(&disk, recovered.file());
    let frames = &file[HEADER_BYTES..usize::try_from(writer.at().position).unwrap()];
    let covered = [&file[..HEADER_BYTES - 4], frames].concat();
    assert_eq!(crc32fast::hash(&covered), writer.at().checksum, "of the whole file but the header's own CRC");
}

#[test]
fn long_segments_keep_little_index_in_memory() {
    let (disk, entries) = (disk(), entries(1600));
    let config = SegmentConfig { index_interval_bytes: 64, ..CONFIG };
    let mut writer = SegmentWriter::create(header(), config);
    write(&disk, &mut writer, &entries);
    let index = writer.segment().index(&disk);
    assert_eq!((index.directory().len(), index.points().len()), (6, 1600 - 6 * 256));
    let recovered = Segment::recovered(header(), *writer.at(), false, 64);
    assert_eq!(recovered.index(&disk), index, "found again from the last index frame");
    seal(&disk, &mut writer);
    let sealed = Segment::recovered(header(), *writer.at(), true, 64);
    assert_eq!(sealed.index(&disk), writer.segment().index(&disk));
    let every = expected_batches(&entries);
    for (base, next, bytes) in every.iter().step_by(37) {
        for segment in [&recovered, &sealed] {
            let read = segment.read(&disk, *base, 0, Offset(u64::MAX)).unwrap();
            assert_eq!((read.next_offset, &read.batches[..]), (*next, &[bytes.clone()][..]));
            let timestamp_ms = i64::try_from(base.get()).unwrap() * 10;
            assert_eq!(segment.offset_for_time(&disk, timestamp_ms, Offset(0), Offset(u64::MAX)).unwrap(), Some(*base));
        }
    }
    for entry in entries.iter().step_by(41) {
        let read = sealed.entries(&disk, entry.index, entry.index.next(), 0).unwrap();
        assert_eq!(read, std::slice::from_ref(entry));
    }
}

#[test]
fn a_resumed_writer_writes_the_same_bytes() {
    let entries = entries(700);
    let config = SegmentConfig { index_interval_bytes: 64, ..CONFIG };
    let whole = disk();
    let mut writer = SegmentWriter::create(header(), config);
    write(&whole, &mut writer, &entries);
    seal(&whole, &mut writer);
    let end = *writer.at();
    let expected = contents(&whole, writer.segment().file());
    for cut in [0, 1, 255, 256, 257, 511, 512, 513, 699, 700] {
        let disk = disk();
        let mut writer = SegmentWriter::create(header(), config);
        write(&disk, &mut writer, &entries[..cut]);
        let mark = *writer.at();
        write(&disk, &mut writer, &entries[cut..(cut + 10).min(entries.len())]);
        perform(&disk, &writer.take());
        let segment = Arc::new(Segment::recovered(header(), mark, false, 64));
        let mut writer = SegmentWriter::resume(segment, &disk, config);
        write(&disk, &mut writer, &entries[cut..]);
        seal(&disk, &mut writer);
        assert_eq!(*writer.at(), end);
        assert!(contents(&disk, writer.segment().file()) == expected, "resumed behind {cut} entries");
    }
}

#[test]
fn space_is_reserved_and_writeback_paced() {
    let disk = disk();
    disk.record_trace(true);
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries(30));
    seal(&disk, &mut writer);
    let trace = disk.trace();
    let (mut reserved, mut written, mut written_back) = (0, 0, 0);
    for op in &trace {
        match op {
            DiskOp::Preallocate { len, .. } => reserved = *len,
            DiskOp::Write { pos, bufs, .. } => {
                assert_eq!(*pos, written, "written once, from front to back");
                written += bufs.iter().map(|buf| buf.len() as u64).sum::<u64>();
                assert!(reserved >= writer.at().position.min(written));
            }
            DiskOp::Writeback { pos, len, .. } => {
                assert_eq!((*pos, pos + len), (written_back, written));
                written_back = written;
            }
            _ => {}
        }
        assert!(written - written_back < CONFIG.writeback_bytes + 4096);
    }
    assert!(written_back > 0);
    let len = disk.len(writer.segment().file()).unwrap().unwrap();
    assert!(
        matches!(&trace[trace.len() - 2..], [DiskOp::Truncate { len: cut, .. }, DiskOp::Sync { .. }] if *cut == len)
    );
}

/// Damages a file in some way, and proves that whatever is read is right or an error. Counts reads that failed.
fn never_wrong(disk: &SimDisk, mark: Mark, sealed: bool, entries: &[Entry]) -> usize {
    let segment = Segment::recovered(header(), mark, sealed, CONFIG.index_interval_bytes);
    let failed = never_wrong_in(&segment, disk, mark, entries);
    // As somebody finds it who writes on, and has read little.
    let outlined = Segment::recovered(header(), mark, sealed, CONFIG.index_interval_bytes);
    outlined.outline(disk);
    let too = never_wrong_in(&outlined, disk, mark, entries);
    assert!(too > 0 || failed == 0, "noticed by who reads everything only");
    failed
}

fn never_wrong_in(segment: &Segment, disk: &SimDisk, mark: Mark, entries: &[Entry]) -> usize {
    let expected = expected_batches(entries);
    let mut failed = 0;
    for (base, _, _) in &expected {
        match segment.read(disk, *base, 1000, mark.offset) {
            Ok(read) => {
                let at = expected.iter().position(|(b, _, _)| b == base).unwrap();
                assert!(!read.batches.is_empty());
                assert!(read.batches.iter().zip(&expected[at..]).all(|(read, (_, _, bytes))| read == bytes));
                assert_eq!(read.next_offset, expected[at + read.batches.len() - 1].1);
            }
            Err(damage) => {
                assert!(damage.offsets.contains(base) || damage.offsets.start < *base, "{damage}");
                failed += 1;
            }
        }
        let timestamp_ms = i64::try_from(base.get()).unwrap() * 10;
        match segment.offset_for_time(disk, timestamp_ms, Offset(0), mark.offset) {
            Ok(found) => assert_eq!(found, Some(*base)),
            Err(_) => failed += 1,
        }
    }
    for entry in entries {
        match segment.entries(disk, entry.index, entry.index.next(), 1000) {
            Ok(read) => assert_eq!(read, std::slice::from_ref(entry)),
            Err(_) => failed += 1,
        }
    }
    failed
}

#[test]
fn no_flipped_bit_is_served() {
    let (disk, entries) = (disk(), entries(12));
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries);
    let active = disk.fork();
    let active_end = *writer.at();
    seal(&disk, &mut writer);
    let (file, end) = (writer.segment().file().clone(), *writer.at());
    assert_eq!(never_wrong(&disk, end, true, &entries), 0);
    for (disk, mark, sealed) in [(&active, active_end, false), (&disk, end, true)] {
        let len = disk.len(&file).unwrap().unwrap();
        for position in (u64::from(sealed)..len).step_by(5) {
            let damaged = disk.fork();
            damaged.flip_bit(&file, position, u8::try_from(position % 8).unwrap());
            let failed = never_wrong(&damaged, mark, sealed, &entries);
            let is_padding = contents(disk, &file)[usize::try_from(position).unwrap()] == 0;
            let is_frame = (64..end.index_frame).contains(&position);
            assert!(failed > 0 || !sealed || is_padding || !is_frame, "byte {position}: not noticed");
            // Neither header nor footer is needed to find an entry, nor are index frames.
            assert!(failed == 0 || is_frame, "byte {position} hides {failed} reads");
        }
    }
}

#[test]
fn unreadable_missing_and_short_files_are_damage() {
    let (disk, entries) = (disk(), entries(12));
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries);
    let (file, mark) = (writer.segment().file().clone(), *writer.at());
    let unreadable = disk.fork();
    unreadable.make_unreadable(&file, 0, mark.position);
    let short = disk.fork();
    short.perform(&DiskOp::Truncate { file: file.clone(), len: mark.position - 1 }).unwrap();
    let missing = disk.fork();
    missing.perform(&DiskOp::Remove { file: file.clone() }).unwrap();
    for disk in [&unreadable, &short, &missing] {
        assert!(never_wrong(disk, mark, false, &entries) > 0);
    }
    let segment = Arc::new(Segment::recovered(header(), mark, false, CONFIG.index_interval_bytes));
    let mut writer = SegmentWriter::resume(Arc::clone(&segment), &missing, CONFIG);
    let more = batches(mark.index.get(), 4, &[batch(mark.offset.get(), 1, 10)]);
    write(&missing, &mut writer, std::slice::from_ref(&more));
    let read = segment.read(&missing, mark.offset, 1000, Offset(u64::MAX)).unwrap();
    assert_eq!(read.batches, [more.payload], "the writer goes on, and what it writes can be read");
    let damage = segment.read(&missing, Offset(BASE_OFFSET), 1000, Offset(u64::MAX)).unwrap_err();
    assert_eq!((damage.cause.clone(), damage.offsets.start), (DamageCause::Magic("frame"), Offset(BASE_OFFSET)));
}

/// Where the frame of every entry starts, and the offset that is next there.
fn places(entries: &[Entry]) -> Vec<(u64, Offset)> {
    let step = |at: &mut (u64, Offset), entry: &Entry| {
        let next = (
            at.0 + super::format::frame_bytes(entry.payload.len() as u64),
            Summary::of(entry, at.1).unwrap().next_offset,
        );
        Some(std::mem::replace(at, next))
    };
    entries.iter().scan((64, Offset(BASE_OFFSET)), step).collect()
}

#[test]
fn a_bad_sector_hides_the_frames_on_it_and_no_frame_before() {
    let (disk, entries) = (disk(), entries(60));
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries);
    seal(&disk, &mut writer);
    let (file, end, places) = (writer.segment().file().clone(), *writer.at(), places(&entries));
    let recovered = Segment::recovered(header(), end, true, CONFIG.index_interval_bytes);
    recovered.index(&disk);
    for start in (512..end.index_frame).step_by(512) {
        let damaged = disk.fork();
        damaged.make_unreadable(&file, start, 1);
        for segment in [writer.segment(), &recovered] {
            let (mut offset, mut hidden) = (Offset(BASE_OFFSET), 0);
            while offset < end.offset {
                match segment.read(&damaged, offset, 1 << 20, end.offset) {
                    Ok(read) => offset = read.next_offset,
                    Err(damage) => {
                        let at = places.iter().position(|(position, _)| *position == damage.position).unwrap();
                        let frame_end = places.get(at + 1).map_or(end.index_frame, |(position, _)| *position);
                        assert!(damage.position < start + 512 && start < frame_end, "not on the sector: {damage}");
                        assert_eq!(damage.offsets.start, places[at].1);
                        assert!(damage.offsets.contains(&offset), "{damage}");
                        offset = damage.offsets.end;
                        hidden += 1;
                    }
                }
            }
            assert!((1..=4).contains(&hidden), "sector at {start}: {hidden} places");
        }
    }
}

#[test]
fn a_disk_that_cannot_reserve_ahead_still_takes_what_it_has_room_for() {
    let (disk, entries) = (disk(), entries(20));
    let mut writer = SegmentWriter::create(
        header(),
        SegmentConfig { preallocate_bytes_min: 1 << 20, preallocate_bytes_max: 1 << 20, ..CONFIG },
    );
    disk.set_capacity(Some(64 << 10));
    write(&disk, &mut writer, &entries);
    seal(&disk, &mut writer);
    check(&disk, writer.segment(), &entries);
}

/// Copies a file's bytes over another's.
fn copy(disk: &SimDisk, from: &FileName, to: &FileName, range: std::ops::Range<u64>, pos: u64) {
    let len = usize::try_from(range.end - range.start).unwrap();
    let bytes = disk.read(from, range.start, len).unwrap();
    disk.perform(&DiskOp::Write { file: to.clone(), pos, bufs: vec![bytes] }).unwrap();
}

#[test]
fn sound_bytes_of_another_place_or_time_are_found_out() {
    let (disk, entries) = (disk(), entries(12));
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries);
    let (file, mark) = (writer.segment().file().clone(), *writer.at());

    // A twin in every header, but for one field: its frames are sound and stand at the same positions.
    let other_partition =
        levada_protocol::ids::TopicPartition { partition: levada_protocol::ids::PartitionId(5), ..TOPIC_PARTITION };
    let twins = [
        ("a frame's partition", SegmentHeader { topic_partition: other_partition, group: GroupId(10), ..header() }),
        ("a frame's generation", SegmentHeader { generation: 1, group: GroupId(10), ..header() }),
        ("the CRC of the frame before", SegmentHeader { previous_crc: 78, group: GroupId(10), ..header() }),
    ];
    for (field, twin) in twins {
        let mut writer = SegmentWriter::create(twin, CONFIG);
        write(&disk, &mut writer, &entries);
        assert_eq!(writer.at().position, mark.position);
        let swapped = disk.fork();
        copy(&swapped, writer.segment().file(), &file, 0..mark.position, 0);
        let open = Segment::recovered(header(), mark, false, CONFIG.index_interval_bytes);
        let damage = open.read(&swapped, Offset(BASE_OFFSET), 1000, mark.offset).unwrap_err();
        assert!(matches!(damage.cause, DamageCause::Foreign { field: found, .. } if found == field), "{damage}");
        let misdirected = disk.fork();
        copy(&misdirected, writer.segment().file(), &file, 64..mark.position, 64);
        let damage = open.read(&misdirected, Offset(BASE_OFFSET), 1000, mark.offset).unwrap_err();
        assert!(matches!(damage.cause, DamageCause::Foreign { field: found, .. } if found == field), "{damage}");
        assert_eq!(damage.offsets.start, Offset(BASE_OFFSET));
    }

    // The sound footer of a twin.
    let twin = SegmentHeader { group: GroupId(10), generation: 1, ..header() };
    let mut twins_writer = SegmentWriter::create(twin, CONFIG);
    let sealed = disk.fork();
    write(&sealed, &mut twins_writer, &entries);
    seal(&sealed, &mut twins_writer);
    let own = Segment::recovered(header(), mark, false, CONFIG.index_interval_bytes);
    let mut writer_again = SegmentWriter::resume(Arc::new(own), &sealed, CONFIG);
    seal(&sealed, &mut writer_again);
    let end = twins_writer.at().position;
    let len = sealed.len(&file).unwrap().unwrap();
    copy(&sealed, twins_writer.segment().file(), &file, end..len, end);
    let open = Segment::recovered(header(), *writer_again.at(), true, CONFIG.index_interval_bytes);
    assert_eq!(open.index(&sealed).directory().len(), 1, "from the frames, not from the twin's footer");
    check(&sealed, &open, &entries);

    // A frame over another of the same size within the file, with the writer's index still in memory.
    let positions: Vec<u64> = entries
        .iter()
        .scan(64, |position, entry| {
            let at = *position;
            *position += super::format::frame_bytes(entry.payload.len() as u64);
            Some(at)
        })
        .collect();
    let first = entries.iter().position(|entry| entry.index.get() % 5 == 1).unwrap();
    let bytes = super::format::frame_bytes(entries[first].payload.len() as u64);
    copy(&disk, &file, &file, positions[first]..positions[first] + bytes, positions[first + 5]);
    let second = expected_batches(&entries[first + 5..])[0].0;
    let damage = writer.segment().read(&disk, second, 1000, mark.offset).unwrap_err();
    assert!(matches!(damage.cause, DamageCause::Foreign { field: "a frame's index", .. }), "{damage}");
    assert!(damage.offsets.contains(&second));
}

/// Who writes on after a restart reads no records. What the headers say is not believed for ever.
#[test]
fn an_index_made_of_outlines_is_that_of_the_entries_and_verified_before_it_is_written() {
    let (disk, entries) = (disk(), entries(9));
    let mut writer = SegmentWriter::create(header(), CONFIG);
    write(&disk, &mut writer, &entries);
    let (file, end) = (writer.segment().file().clone(), *writer.at());
    let recovered = || Segment::recovered(header(), end, false, CONFIG.index_interval_bytes);
    let index = recovered().index(&disk);
    assert!(!index.points().is_empty());

    let outlined = recovered();
    assert_eq!(outlined.outline(&disk).unwrap(), index);
    assert!(outlined.is_outlined());
    assert!(outlined.offset_for_time(&disk, 0, Offset(0), end.offset).unwrap().is_some());
    assert!(!outlined.is_outlined(), "a time was looked up");

    let resumed = SegmentWriter::resume(Arc::new(recovered()), &disk, CONFIG);
    resumed.verify(&disk, 0, false).unwrap();
    assert!(resumed.segment().is_outlined(), "nothing goes into an index frame yet");
    resumed.verify(&disk, 0, true).unwrap();
    assert!(!resumed.segment().is_outlined());

    // The last byte of a record: no header says anything of it.
    let damaged = disk.fork();
    let at = contents(&disk, &file).iter().rposition(|&byte| byte != 0).unwrap();
    damaged.flip_bit(&file, at as u64, 0);
    let outlined = recovered();
    assert_eq!(outlined.outline(&damaged).unwrap(), index);
    assert!(outlined.verify_outlined(&damaged).is_err());
    assert!(outlined.is_outlined());
}
