//! What the decoders are made for, as the encoders write it: where fuzzers begin.

use bytes::Bytes;
use levada_protocol::ids::{
    ClusterId, GroupId, IncarnationId, LogIndex, Lsn, NodeId, Offset, PartitionId, Term, TopicId, TopicPartition,
};

use crate::{
    checkpoint::{Checkpoint, GroupRecord},
    entry::HardState,
    identity::DirIdentity,
    journal::{Doubt, JournalId},
    log::writer::{LogRecord, Seam, SegmentRecord},
    segment::{
        Mark,
        index::{IndexFrame, IndexPoint},
    },
    volumes::Owner,
};

/// For [`super::journal`].
#[must_use]
pub fn blocks() -> Vec<Vec<u8>> {
    crate::journal::fuzzing::seeds()
}

/// For [`super::segment`].
#[must_use]
pub fn segments() -> Vec<Vec<u8>> {
    let file = super::reading::sealed_file();
    vec![file[..64].to_vec(), file[..512].to_vec(), file]
}

/// For [`super::read_segment`].
#[must_use]
pub fn changes() -> Vec<Vec<u8>> {
    let one = [70, 0, 1, 2];
    let two = [130, 1, 0xFF, 0xFF];
    (0..4).flat_map(|how| [vec![how], [&[how], &one[..], &two].concat()]).collect()
}

/// For [`super::index`].
#[must_use]
pub fn indexes() -> Vec<Vec<u8>> {
    let mut first = IndexPoint::new(Offset(7), LogIndex(6), 64, 8);
    first.add(1_700_000_000_000, 22);
    let points = vec![first, IndexPoint::new(Offset(9), LogIndex(8), 128, 10)];
    let frame = |points| IndexFrame { previous: 64, next_offset: Offset(9), points }.encode();
    let mut directory = Vec::new();
    points.iter().for_each(|point| point.encode(&mut directory));
    vec![frame(Vec::new()), frame(points), directory]
}

fn group(born: Lsn) -> GroupRecord {
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
    GroupRecord {
        group: GroupId(9),
        topic_partition: TopicPartition { topic: TopicId::from_bytes([1; 16]), partition: PartitionId(4) },
        hard_state: HardState { term: Term(5), vote: 3, commit: LogIndex(15) },
        applied: LogIndex(15),
        born,
        log: LogRecord {
            log_start: Offset(21),
            start,
            term_before: Term(4),
            terms: vec![(LogIndex(11), Term(5)), (LogIndex(14), Term(8))],
            segments: vec![
                SegmentRecord { start, end, sealed: true },
                SegmentRecord { start: next, end: Mark { index: LogIndex(16), ..end }, sealed: false },
            ],
        },
        conf_state: Bytes::from_static(b"conf"),
        app_state: Bytes::from_static(b"application"),
    }
}

/// For [`super::checkpoint`].
#[must_use]
pub fn checkpoints() -> Vec<Vec<u8>> {
    let directory = IncarnationId::from_bytes([7; 16]);
    let of = |doubt, groups| Checkpoint {
        doubt,
        groups,
        lsn: Lsn(100),
        replay_from: Lsn(90),
        accounted: Lsn(95),
        directory,
    };
    let all = [
        Checkpoint::empty(directory),
        of(Doubt::Groups([GroupId(9)].into()), vec![group(Lsn(0))]),
        of(Doubt::All, vec![group(Lsn(77)), group(Lsn(0))]),
    ];
    let whole = all.iter().map(Checkpoint::encode);
    // The door puts the front and the checksum around what begins with the format.
    let inner = whole.clone().map(|whole| [&[whole[7] - 1], &whole[16..whole.len() - 4]].concat());
    inner.chain(whole.clone()).collect()
}

/// For [`super::owner`].
#[must_use]
pub fn owners() -> Vec<Vec<u8>> {
    vec![Owner { node: NodeId(2), incarnation: IncarnationId::from_bytes([3; 16]) }.encode(9)]
}

/// For [`super::identity`].
#[must_use]
pub fn identities() -> Vec<Vec<u8>> {
    let identity = DirIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node: NodeId(2),
        incarnation: IncarnationId::from_bytes([3; 16]),
    };
    vec![identity.encode(JournalId::from_bytes([4; 16]))]
}

/// For [`super::snapshot`].
#[must_use]
pub fn snapshots() -> Vec<Vec<u8>> {
    let encoded = |record: GroupRecord| {
        let mut out = Vec::new();
        record.encode_newest(&mut out);
        out
    };
    let record = group(Lsn(7));
    let no_segments = LogRecord { segments: Vec::new(), terms: Vec::new(), ..record.log.clone() };
    vec![encoded(GroupRecord { log: no_segments, applied: LogIndex(10), ..record.clone() }), encoded(record)]
}
