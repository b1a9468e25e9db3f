//! The checkpoint: one table of where every group stands, replaced as a whole.
//!
//! It says what need not be replayed: entries up to `applied` are in segments, synced, and nothing of a group is needed
//! from journal blocks below `replay_from`. What the segments hold beyond counts as not written.
//!
//! ```text
//! file    0 magic "LVDACKP" and the format, 1 to 3 | 8 body length u64 | 16 body | crc u32 of all before; twice, see atomic_file.rs
//! body    directory (16) | lsn u64 | replay from u64 | doubt u8 (0 none, 1 groups, 2 all) | doubted u32
//!         doubted group u64 * doubted | accounted u64 (format 3) | groups u32 | group * groups
//! group   group u64 | topic (16) | partition u32 | term u64 | vote u64 | commit u64 | applied u64 | born u64 (from format 2)
//!         log start u64
//!         first segment continues: index u64, offset u64, crc u32, generation u32 | term before u64
//!         terms u32 | (first index u64, term u64) * terms | segments u32 | segment * segments
//!         conf state: length u32, bytes | application state: length u32, bytes
//! segment frames end u64 | next index u64 | next offset u64 | last crc u32 | checksum u32 | index frame u64
//!         max timestamp i64 | sealed u8
//! ```

#![deny(clippy::indexing_slicing)]

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes};
use levada_protocol::ids::{GroupId, IncarnationId, LogIndex, Lsn, Offset, PartitionId, Term, TopicId, TopicPartition};

use crate::{
    atomic_file,
    codec::{Decoder, to_usize},
    disk::{Disk, DiskOp, FileName},
    entry::HardState,
    error::{DamageCause, OpenError},
    journal::Doubt,
    log::writer::{LogRecord, Seam, SegmentRecord},
    planted::{self, Planted},
    segment::Mark,
};

const FILE: &str = "checkpoint";

const MAGIC: [u8; 7] = *b"LVDACKP";
/// Before groups could come back under their number.
const FORMAT_FIRST: u8 = 1;
/// With the block behind which a group was begun.
const FORMAT_BORN: u8 = 2;
/// With the block up to which damage is accounted for.
const FORMAT: u8 = 3;
const WHAT: &str = "the checkpoint";
const PREFIX_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// The least that a group, a run of a term and a segment take.
const GROUP_BYTES_MIN: usize = 100;
const TERM_BYTES: usize = 16;
const SEGMENT_BYTES: usize = 49;

/// Where every group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The data directory.
    pub(crate) directory: IncarnationId,
    /// The journal was durable up to this block; hard states up to there are in the records, and groups that have no
    /// record and were made before are gone.
    pub(crate) lsn: Lsn,
    /// The first block that a group needs.
    pub(crate) replay_from: Lsn,
    /// Groups that a replay found in doubt, and that were neither removed nor reclaimed since.
    pub(crate) doubt: Doubt,
    /// Of damage up to this block that may be about any group, `doubt` names all groups that it can be about; 0: of none.
    pub(crate) accounted: Lsn,
    pub(crate) groups: Vec<GroupRecord>,
}

/// Where a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupRecord {
    pub(crate) group: GroupId,
    pub(crate) topic_partition: TopicPartition,
    pub(crate) hard_state: HardState,
    /// The segments end with this entry; the states are as of it.
    pub(crate) applied: LogIndex,
    /// What journal blocks up to this one have of a group of this number is an earlier replica's.
    pub(crate) born: Lsn,
    pub(crate) log: LogRecord,
    pub(crate) conf_state: Bytes,
    pub(crate) app_state: Bytes,
}

impl Checkpoint {
    /// Of a data directory that has nothing.
    pub(crate) const fn empty(directory: IncarnationId) -> Self {
        let (lsn, replay_from, accounted) = (Lsn(0), Lsn(1), Lsn(0));
        Self { directory, lsn, replay_from, doubt: Doubt::None, accounted, groups: Vec::new() }
    }

    /// The checkpoint of a data directory.
    pub(crate) fn read(disk: &dyn Disk, directory: IncarnationId) -> Result<Self, OpenError> {
        let file = FileName::new(FILE);
        let damaged = |cause| OpenError::Damaged { file: file.clone(), cause };
        let checkpoint = atomic_file::read(disk, &file, Self::decode)?;
        let checkpoint = checkpoint.ok_or_else(|| damaged(DamageCause::Short(WHAT)))?;
        if checkpoint.directory != directory {
            let (expected, found) = (directory.to_string(), checkpoint.directory.to_string());
            return Err(damaged(DamageCause::Foreign { field: "the checkpoint's directory", expected, found }));
        }
        Ok(checkpoint)
    }

    /// What must be done so that the data directory has this checkpoint, durably.
    pub(crate) fn write(&self) -> Vec<DiskOp> {
        let mut ops = atomic_file::replace(&FileName::new(FILE), self.encode());
        ops.retain(|op| match op {
            DiskOp::Sync { .. } => !planted::is(Planted::CheckpointNotSynced),
            DiskOp::SyncDir { .. } => !planted::is(Planted::CheckpointNameNotSynced),
            _ => true,
        });
        ops
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // As long as nothing needs a later format, builds that know an earlier one can read it, too.
        let format = match self.accounted {
            Lsn(0) if self.groups.iter().all(|group| group.born == Lsn(0)) => FORMAT_FIRST,
            Lsn(0) => FORMAT_BORN,
            _ => FORMAT,
        };
        let mut out = Vec::new();
        out.put_slice(&MAGIC);
        out.put_u8(format);
        out.put_u64_le(0);
        out.put_slice(&self.directory.to_bytes());
        out.put_u64_le(self.lsn.get());
        out.put_u64_le(self.replay_from.get());
        encode_doubt(&self.doubt, &mut out);
        if format >= FORMAT {
            out.put_u64_le(self.accounted.get());
        }
        put_len(&mut out, self.groups.len());
        self.groups.iter().for_each(|group| group.encode(format, &mut out));
        let body = (out.len() - PREFIX_BYTES) as u64;
        if let Some(place) = out.get_mut(MAGIC.len() + 1..PREFIX_BYTES) {
            place.copy_from_slice(&body.to_le_bytes());
        }
        out.put_u32_le(crc32fast::hash(&out));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DamageCause> {
        let short = || DamageCause::Short(WHAT);
        let mut prefix = Decoder::new(bytes);
        if prefix.array() != Some(MAGIC) {
            return Err(DamageCause::Magic("checkpoint"));
        }
        let format = prefix.u8().ok_or_else(short)?;
        if !(FORMAT_FIRST..=FORMAT).contains(&format) {
            return Err(DamageCause::Version { what: WHAT, version: format });
        }
        let body = to_usize(prefix.u64().ok_or_else(short)?);
        let end = body.checked_add(PREFIX_BYTES + CRC_BYTES).ok_or_else(short)?;
        let (front, crc) = bytes.get(..end).and_then(<[u8]>::split_last_chunk).ok_or_else(short)?;
        let (stored, computed) = (u32::from_le_bytes(*crc), crc32fast::hash(front));
        if stored != computed {
            return Err(DamageCause::Checksum { what: WHAT, stored, computed });
        }
        let mut fields = Decoder::new(front.get(PREFIX_BYTES..).unwrap_or_default());
        Self::decode_body(format, &mut fields).filter(|_| fields.remaining() == 0).ok_or_else(short)
    }

    fn decode_body(format: u8, fields: &mut Decoder<'_>) -> Option<Self> {
        let directory = IncarnationId::from_bytes(fields.array()?);
        let (lsn, replay_from) = (Lsn(fields.u64()?), Lsn(fields.u64()?));
        let doubt = decode_doubt(fields)?;
        let accounted = if format >= FORMAT { Lsn(fields.u64()?) } else { Lsn(0) };
        let count = fields.count(GROUP_BYTES_MIN)?;
        let groups = (0..count).map(|_| GroupRecord::decode_in(format, fields)).collect::<Option<_>>()?;
        Some(Self { directory, lsn, replay_from, doubt, accounted, groups })
    }
}

impl GroupRecord {
    /// In the newest format.
    pub(crate) fn encode_newest(&self, out: &mut Vec<u8>) {
        self.encode(FORMAT, out);
    }

    fn encode(&self, format: u8, out: &mut Vec<u8>) {
        out.put_u64_le(self.group.get());
        out.put_slice(&self.topic_partition.topic.to_bytes());
        out.put_u32_le(self.topic_partition.partition.get());
        out.put_u64_le(self.hard_state.term.get());
        out.put_u64_le(self.hard_state.vote);
        out.put_u64_le(self.hard_state.commit.get());
        out.put_u64_le(self.applied.get());
        if format >= FORMAT_BORN {
            out.put_u64_le(self.born.get());
        }
        encode_log(&self.log, out);
        for state in [&self.conf_state, &self.app_state] {
            put_len(out, state.len());
            out.put_slice(state);
        }
    }

    /// In the newest format.
    pub(crate) fn decode(fields: &mut Decoder<'_>) -> Option<Self> {
        Self::decode_in(FORMAT, fields)
    }

    fn decode_in(format: u8, fields: &mut Decoder<'_>) -> Option<Self> {
        Some(Self {
            group: GroupId(fields.u64()?),
            topic_partition: TopicPartition {
                topic: TopicId::from_bytes(fields.array()?),
                partition: PartitionId(fields.u32()?),
            },
            hard_state: HardState { term: Term(fields.u64()?), vote: fields.u64()?, commit: LogIndex(fields.u64()?) },
            applied: LogIndex(fields.u64()?),
            born: if format >= FORMAT_BORN { Lsn(fields.u64()?) } else { Lsn(0) },
            log: decode_log(fields)?,
            conf_state: Bytes::copy_from_slice(fields.bytes()?),
            app_state: Bytes::copy_from_slice(fields.bytes()?),
        })
    }
}

fn encode_doubt(doubt: &Doubt, out: &mut Vec<u8>) {
    let none = BTreeSet::new();
    let (tag, groups) = match doubt {
        Doubt::None => (0, &none),
        Doubt::Groups(groups) => (1, groups),
        Doubt::All => (2, &none),
    };
    out.put_u8(tag);
    put_len(out, groups.len());
    groups.iter().for_each(|group| out.put_u64_le(group.get()));
}

fn decode_doubt(fields: &mut Decoder<'_>) -> Option<Doubt> {
    let tag = fields.u8()?;
    let count = fields.count(size_of::<u64>())?;
    let groups = (0..count).map(|_| fields.u64().map(GroupId)).collect::<Option<_>>()?;
    match tag {
        0 => Some(Doubt::None),
        1 => Some(Doubt::Groups(groups)),
        2 => Some(Doubt::All),
        _ => None,
    }
}

fn encode_log(log: &LogRecord, out: &mut Vec<u8>) {
    out.put_u64_le(log.log_start.get());
    out.put_u64_le(log.start.index.get());
    out.put_u64_le(log.start.offset.get());
    out.put_u32_le(log.start.previous_crc);
    out.put_u32_le(log.start.generation);
    out.put_u64_le(log.term_before.get());
    put_len(out, log.terms.len());
    for (first, term) in &log.terms {
        out.put_u64_le(first.get());
        out.put_u64_le(term.get());
    }
    put_len(out, log.segments.len());
    for SegmentRecord { end, sealed, .. } in &log.segments {
        out.put_u64_le(end.position);
        out.put_u64_le(end.index.get());
        out.put_u64_le(end.offset.get());
        out.put_u32_le(end.previous_crc);
        out.put_u32_le(end.checksum);
        out.put_u64_le(end.index_frame);
        out.put_i64_le(end.max_timestamp_ms);
        out.put_u8(u8::from(*sealed));
    }
}

fn decode_log(fields: &mut Decoder<'_>) -> Option<LogRecord> {
    let mut log = LogRecord {
        log_start: Offset(fields.u64()?),
        start: Seam {
            index: LogIndex(fields.u64()?),
            offset: Offset(fields.u64()?),
            previous_crc: fields.u32()?,
            generation: fields.u32()?,
        },
        term_before: Term(fields.u64()?),
        terms: Vec::new(),
        segments: Vec::new(),
    };
    let terms = fields.count(TERM_BYTES)?;
    log.terms = (0..terms).map(|_| Some((LogIndex(fields.u64()?), Term(fields.u64()?)))).collect::<Option<_>>()?;
    let segments = fields.count(SEGMENT_BYTES)?;
    // Each has a number of its own, and so will the next.
    u32::try_from(segments).ok()?.checked_add(1)?.checked_add(log.start.generation)?;
    for _ in 0..segments {
        // Segments follow each other, so the end of one says where the next starts.
        let start = log.end();
        let end = Mark {
            position: fields.u64()?,
            index: LogIndex(fields.u64()?),
            offset: Offset(fields.u64()?),
            previous_crc: fields.u32()?,
            checksum: fields.u32()?,
            index_frame: fields.u64()?,
            max_timestamp_ms: fields.i64()?,
        };
        log.segments.push(SegmentRecord { start, end, sealed: fields.u8()? != 0 });
    }
    Some(log)
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.put_u32_le(u32::try_from(len).expect("what a checkpoint holds of a group is bounded far below 4 GiB"));
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{sim_disk::SimDisk, testing::TOPIC_PARTITION};

    const DIRECTORY: IncarnationId = IncarnationId(Uuid::from_bytes([7; 16]));

    fn sample() -> Checkpoint {
        let start = Seam { index: LogIndex(11), offset: Offset(20), previous_crc: 0xAABB_CCDD, generation: 2 };
        let end = Mark {
            position: 6400,
            index: LogIndex(15),
            offset: Offset(40),
            previous_crc: 5,
            checksum: 6,
            index_frame: 640,
            max_timestamp_ms: -1,
        };
        let next = Seam { index: end.index, offset: end.offset, previous_crc: 5, generation: 3 };
        let log = LogRecord {
            log_start: Offset(21),
            start,
            term_before: Term(4),
            terms: vec![(LogIndex(11), Term(5))],
            segments: vec![
                SegmentRecord { start, end, sealed: true },
                SegmentRecord { start: next, end: Mark { index: LogIndex(16), ..end }, sealed: false },
            ],
        };
        let group = GroupRecord {
            group: GroupId(9),
            topic_partition: TOPIC_PARTITION,
            hard_state: HardState { term: Term(5), vote: 3, commit: LogIndex(15) },
            applied: LogIndex(15),
            born: Lsn(77),
            log,
            conf_state: Bytes::from_static(b"conf"),
            app_state: Bytes::from_static(b"application"),
        };
        Checkpoint {
            directory: DIRECTORY,
            lsn: Lsn(100),
            replay_from: Lsn(90),
            doubt: Doubt::Groups([GroupId(9)].into()),
            accounted: Lsn(0),
            groups: vec![group],
        }
    }

    #[test]
    fn each_format_has_what_it_must() {
        let born = sample();
        let first = GroupRecord { born: Lsn(0), ..born.groups[0].clone() };
        let first = Checkpoint { groups: vec![first], ..born.clone() };
        let accounted = Checkpoint { accounted: Lsn(95), ..born.clone() };
        for (format, checkpoint) in [(1, first), (2, born), (3, accounted)] {
            let bytes = checkpoint.encode();
            assert_eq!((bytes[7], Checkpoint::decode(&bytes).unwrap()), (format, checkpoint));
        }
    }

    fn store(checkpoint: &Checkpoint) -> SimDisk {
        let disk = SimDisk::new(1);
        checkpoint.write().iter().for_each(|op| disk.perform(op).unwrap());
        disk
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode();
        let expected = concat!(
            "4c564441434b5002 2e01000000000000",
            "07070707070707070707070707070707 6400000000000000 5a00000000000000",
            "01 01000000 0900000000000000 01000000",
            "0900000000000000 000102030405060708090a0b0c0d0e0f 04000000",
            "0500000000000000 0300000000000000 0f00000000000000 0f00000000000000 4d00000000000000",
            "1500000000000000",
            "0b00000000000000 1400000000000000 ddccbbaa 02000000 0400000000000000",
            "01000000 0b00000000000000 0500000000000000",
            "02000000",
            "0019000000000000 0f00000000000000 2800000000000000 05000000 06000000 8002000000000000",
            "ffffffffffffffff 01",
            "0019000000000000 1000000000000000 2800000000000000 05000000 06000000 8002000000000000",
            "ffffffffffffffff 00",
            "04000000 636f6e66 0b000000 6170706c69636174696f6e",
        )
        .replace(' ', "");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&hex[..expected.len()], expected);
        let end = expected.len() / 2;
        assert_eq!(bytes[end..end + 4], crc32fast::hash(&bytes[..end]).to_le_bytes());
        assert_eq!(bytes.len(), end + 4);
        assert_eq!(Checkpoint::read(&store(&sample()), DIRECTORY).unwrap(), sample());
    }

    #[test]
    fn the_first_format_is_read_and_written_where_it_is_enough() {
        let mut first = sample();
        first.groups.iter_mut().for_each(|group| group.born = Lsn(0));
        let bytes = first.encode();
        assert_eq!((bytes[7], bytes.len()), (FORMAT_FIRST, sample().encode().len() - 8));
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), first);
        let mut later = bytes;
        later[7] = 4;
        let refused = Checkpoint::decode(&later).unwrap_err();
        assert!(matches!(refused, DamageCause::Version { version: 4, .. }), "{refused}");
    }

    #[test]
    fn one_damaged_copy_is_survived_and_two_are_noticed() {
        let disk = store(&sample());
        let file = FileName::new(FILE);
        let len = sample().encode().len() as u64;
        for position in 0..len {
            let damaged = disk.fork();
            damaged.flip_bit(&file, position, u8::try_from(position % 8).unwrap());
            assert_eq!(Checkpoint::read(&damaged.fork(), DIRECTORY).unwrap(), sample());
            damaged.flip_bit(&file, 4096 + (position * 7) % len, 3);
            assert!(matches!(Checkpoint::read(&damaged, DIRECTORY), Err(OpenError::Damaged { .. })));
        }
        disk.make_unreadable(&file, 0, 512);
        assert_eq!(Checkpoint::read(&disk, DIRECTORY).unwrap(), sample());
    }

    #[test]
    fn a_checkpoint_that_is_cut_missing_or_of_another_directory_is_refused() {
        let good = sample().encode();
        for len in 0..good.len() {
            assert!(Checkpoint::decode(&good[..len]).is_err(), "cut to {len} bytes");
        }
        assert!(matches!(Checkpoint::read(&SimDisk::new(1), DIRECTORY), Err(OpenError::Damaged { .. })));
        let other = IncarnationId(Uuid::from_bytes([8; 16]));
        assert!(matches!(Checkpoint::read(&store(&sample()), other), Err(OpenError::Damaged { .. })));
    }
}
